"""Accelerators and the fabric between them: specifications, and the share of them that is reached.

Rates are those of the vendor's data sheet. What a program gets of them is in the constants below.
"""

from dataclasses import dataclass, replace

from mlm_jax.config import UserError, suggest

COMPUTE = 0.8
"""Of the peak: a large product on one H200 reached 788 of 989 TFLOP/s, on random data (measured
2026). Smaller ones reach less."""
TRAFFIC = 0.9
"""Of the memory's bandwidth: 4.3 of 4.8 TB/s on one H200 (measured 2026)."""
NETWORK = 0.8
"""Of links and network cards: 360 of 450 GB/s in a node (jax-ml/scaling-book, gpus.md: hard to pass
370 even at 10 GB, 150 at 58 MB), and taken to hold between nodes."""
ROOM = 0.9
"""Of the memory: the rest is the runtime's, and fragments (XLA_PYTHON_CLIENT_MEM_FRACTION=0.90)."""


@dataclass(frozen=True)
class Hardware:
    """Devices in nodes. Rates per device and second, of one direction where there are two."""

    name: str
    bf16: float
    """FLOP/s of dense bfloat16 products."""
    fp32: float
    """FLOP/s of float32 products as JAX runs them by default: TF32 on a GPU, bf16 on a TPU."""
    memory: float
    """Bytes."""
    traffic: float
    """Bytes/s between the memory and the device."""
    per_node: int
    """Devices that a fast network joins: a node of GPUs, a pod of TPUs."""
    link: float
    """Bytes/s that a device sends inside its node."""
    egress: float
    """Bytes/s that a node sends to others."""
    loss: float
    """Share of the speed that is lost with every doubling of the nodes: jitter and the fabric."""
    source: str

    def peak(self, precision: str) -> float:
        return self.bf16 if precision == "bfloat16" else self.fp32


GPU_LOSS = "loss 1.5 %: 1 to 2 in llm-foundry's MPT-1B and NeMo's CLIP (planner/published.py)"
H100 = Hardware(
    "h100-nvlink-ib", bf16=989e12, fp32=494e12, memory=80e9, traffic=3.35e12, per_node=8,
    link=450e9, egress=400e9, loss=0.015,
    source="NVIDIA H100 SXM data sheet; DGX H100: 8 ConnectX-7 of 400 Gb/s. " + GPU_LOSS,
)  # fmt: skip
TABLE = (
    H100,
    replace(
        H100, name="h200-nvlink-ib", memory=141e9, traffic=4.8e12,
        source="NVIDIA H200 SXM data sheet; DGX H200: 8 ConnectX-7 of 400 Gb/s. " + GPU_LOSS,
    ),
    Hardware(
        "a100-80-nvlink", bf16=312e12, fp32=156e12, memory=80e9, traffic=2.039e12, per_node=8,
        link=300e9, egress=200e9, loss=0.015,
        source="NVIDIA A100 80GB SXM data sheet; DGX A100: 8 ConnectX-6 of 200 Gb/s. " + GPU_LOSS,
    ),
    Hardware(
        "tpu-v5e", bf16=197e12, fp32=197e12, memory=16e9, traffic=8.1e11, per_node=256,
        link=1e11, egress=8e11, loss=0.02,
        source="jax-ml/scaling-book, tpus.md: a ring over one axis of a pod of 16 x 16, 25 GB/s for"
        " each host of 8 to other pods; loss 2 %: MaxText 16B on 1 to 32 pods (published.py)",
    ),
    replace(
        H100, name="h100-ethernet", egress=12.5e9,
        source="H100 nodes behind one card of 100 Gb/s for all 8: what is rented without a fabric",
    ),
)  # fmt: skip


def find(name: str) -> Hardware:
    """Raises: UserError with names that are near."""
    rows = {row.name: row for row in TABLE}
    if name not in rows:
        raise UserError(f"--hardware: no row `{name}`{suggest(name, list(rows))}")
    return rows[name]
