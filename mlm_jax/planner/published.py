"""Scaling that others measured, to hold `predict` against.

A row says how fast a device is in a larger run, as a share of how fast it is in the smallest one,
whose measured step gives the time of the computation. So what is held against the figures is the
network, its overlap and the loss, not the speed of kernels.

The default loss of `hardware` is chosen with these figures in view: rows test whether one number
does for all of them, not whether it could have been known before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mlm_jax.planner.hardware import Hardware, find
from mlm_jax.planner.predict import OVERLAP, Sent, Span, exchange, jitter

H100, A100, V5E = (find(name) for name in ("h100-nvlink-ib", "a100-80-nvlink", "tpu-v5e"))


@dataclass(frozen=True)
class Scaling:
    name: str
    source: str
    described: bool
    """Whether the source says what the network is, itself or by naming a machine."""
    hardware: Hardware
    sent: Callable[[Hardware, int], Sent]
    """By the number of devices."""
    base: tuple[int, float, float]
    """Devices, batch of each, seconds of the step that was measured."""
    larger: tuple[tuple[int, float, float], ...]
    """Devices, batch of each, speed of each as a share of that in the smallest run."""
    overlap: float = OVERLAP
    note: str = ""

    @property
    def work(self) -> float:
        """Seconds of computation in the smallest run, such that it takes what was measured."""
        devices, _, measured = self.base
        sent, low, high = self.sent(self.hardware, devices), 0.0, measured
        for _ in range(60):
            middle = (low + high) / 2
            enough = middle + sent.exposed(middle, self.overlap) < measured
            low, high = (middle, high) if enough else (low, middle)
        return high

    def predicted(self) -> Iterator[tuple[int, float, float]]:
        """(devices, speed of each by the planner, as published)."""
        first, batch, measured = self.base
        for devices, own, published in self.larger:
            work = self.work * own / batch
            taken = work + self.sent(self.hardware, devices).exposed(work, self.overlap)
            lost = jitter(self.hardware, devices) / jitter(self.hardware, first)
            yield devices, (own / taken) / (batch / measured) * lost, published


# --- what is sent ---


def everywhere(hardware: Hardware, devices: int) -> Span:
    """One group of all devices, which fill their nodes."""
    return Span(devices, max(1, devices // hardware.per_node), 1)


def copies(parameters: float, width: int = 2) -> Callable[[Hardware, int], Sent]:
    """Gradients of `width` bytes summed over all devices."""

    def sent(hardware: Hardware, devices: int) -> Sent:
        where = everywhere(hardware, devices)
        return Sent(summed=max(exchange("all-reduce", width * parameters, where, hardware)))

    return sent


def shards(parameters: float, width: int = 2, gathers: int = 2) -> Callable[[Hardware, int], Sent]:
    """bfloat16 weights gathered `gathers` times, gradients of `width` bytes scattered."""
    size = (2 * gathers + width) * parameters

    def sent(hardware: Hardware, devices: int) -> Sent:
        return Sent(
            shared=max(exchange("all-gather", size, everywhere(hardware, devices), hardware))
        )

    return sent


def shards_and_copies(parameters: float, width: int = 2) -> Callable[[Hardware, int], Sent]:
    """Shards in a node; of each shard's gradients the sum over nodes."""

    def sent(hardware: Hardware, devices: int) -> Sent:
        inside = shards(parameters, width)(hardware, hardware.per_node)
        nodes = devices // hardware.per_node
        own = width * parameters / hardware.per_node
        between = exchange("all-reduce", own, Span(nodes, nodes, hardware.per_node), hardware)
        return replace(inside, summed=max(between) if nodes > 1 else 0.0)

    return sent


def tensor_and_shards(hardware: Hardware, devices: int) -> Sent:
    """KempnerForge 7B: layers over the 4 devices of a node, shards over nodes, two micro-batches.

    Of 4 x 4,096 tokens of width 4,096 in bfloat16 each of 32 layers makes 6 sums, 2 on each of the
    ways there, there again (all is computed again) and back.
    """
    nodes = devices // hardware.per_node
    tokens = 4 * 4096 * 4096 * 2
    inside = exchange("all-reduce", tokens, Span(hardware.per_node, 1, 1), hardware)
    own = (2 + 2 + 4) * 8.03e9 / hardware.per_node
    between = exchange("all-gather", own, Span(nodes, nodes, hardware.per_node), hardware)
    return Sent(waited=2 * 6 * 32 * max(inside), shared=2 * max(between))


# --- figures ---

MPT = "mosaicml/llm-foundry scripts/train/benchmarking/README.md"
NEMO = "NVIDIA NeMo framework user guide, CLIP performance (DGX SuperPOD)"
ROSETTA = "NVIDIA/JAX-Toolbox"

FIGURES = (
    Scaling(
        "MPT-1B, H100", MPT, False, H100, shards(1.316e9, width=4),
        base=(8, 14, 14 * 2048 / 45_455),
        larger=((64, 20, 44_402 / 45_455), (128, 12, 44_123 / 45_455), (256, 12, 42_555 / 45_455),
                (512, 12, 39_837 / 45_455)),
        note="network not named, taken for 8 x 400 Gb/s; from 128 on weights are gathered once",
    ),
    Scaling(
        "MPT-125M, A100", "mosaicml/examples examples/llm/throughput/README.md", False, A100,
        shards(1.253e8),
        base=(8, 64, 64 * 2048 / 140_438),
        larger=((16, 32, 133_689 / 140_438), (32, 32, 131_438 / 140_438),
                (64, 32, 130_026 / 140_438)),
        note="network not named, taken for 8 x 200 Gb/s; 8 devices accumulate two parts",
    ),
    Scaling(
        "NeMo CLIP g/14, H100", NEMO, True, H100, copies(1.37e9),
        base=(8, 64, 64 * 8 / 935),
        larger=((16, 64, 1795 / 2 / 935), (32, 64, 3502 / 4 / 935), (64, 64, 6771 / 8 / 935),
                (128, 64, 13_829 / 16 / 935)),
        note="batch not printed, taken for 64 a device",
    ),
    Scaling(
        "NeMo CLIP g/14, A100", NEMO, True, A100, copies(1.37e9),
        base=(8, 64, 64 * 8 / 559),
        larger=((16, 64, 1115 / 2 / 559), (32, 64, 2190 / 4 / 559), (64, 64, 4407 / 8 / 559),
                (128, 64, 8633 / 16 / 559)),
        note="batch not printed, taken for 64 a device",
    ),
    Scaling(
        "BERT-large 512, A100",
        "NVIDIA/DeepLearningExamples PyTorch/LanguageModeling/BERT (DGX A100)", True, A100,
        copies(3.36e8),
        base=(8, 16, 16 * 8 / 1657),
        larger=((256, 16, 49_663 / 32 / 1657),),
        note="batch taken for 16 a device and no accumulation, which sends most",
    ),
    Scaling(
        "torchtitan Llama 3.1 8B, H100",
        "pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md", True, H100,
        shards(8.03e9, width=4),
        base=(8, 2, 2 * 8192 / 6667),
        larger=((128, 2, 6514 / 6667),),
        note="400 Gb/s for each GPU",
    ),
    Scaling(
        "MaxText 16B, pods of v5e",
        "AI-Hypercomputer/maxtext MaxText/configs/v5e: README.md, 16b.sh", True, V5E,
        shards_and_copies(16e9, width=4),
        base=(256, 6, 6 * 2048 * 6 * 16e9 / 120e12),
        larger=((512, 6, 59.37 / 61.10), (1024, 6, 59.14 / 61.10), (2048, 6, 58.27 / 61.10),
                (4096, 6, 56.56 / 61.10), (8192, 6, 54.65 / 61.10)),
        note="step of one pod from 120 TFLOP/s, 6 FLOPs for a parameter and token",
    ),
    Scaling(
        "Imagen 2B, A100", f"{ROSETTA} rosetta/rosetta/projects/imagen/README.md", False, A100,
        copies(2e9, width=4),
        base=(8, 16, 16 / 27.4),
        larger=((32, 16, 24.8 / 27.4), (128, 16, 22.9 / 27.4)),
        overlap=0.0,
        note="network not named, taken for 8 x 200 Gb/s; JAX of 2023 hid nothing by default",
    ),
    Scaling(
        "MaxText Llama 2 7B, H100", f"{ROSETTA} docs/frameworks/maxtext (history)", False,
        replace(H100, egress=125e9, loss=0.0), shards_and_copies(6.74e9, width=4),
        base=(8, 4, 1.456),
        larger=((16, 4, 0.858), (32, 4, 0.827), (64, 4, 0.831), (128, 4, 0.762)),
        overlap=0.0,
        note="network not named: 125 GB/s, float32 gradients, no overlap and no loss fit it",
    ),
    Scaling(
        "KempnerForge 7B, layers over 4 H200",
        "KempnerInstitute/KempnerForge benchmarks/mfu_scaling/mfu_scaling_2026-04-05.md", False,
        replace(find("h200-nvlink-ib"), per_node=4, egress=200e9), tensor_and_shards,
        base=(4, 1, 32_768 / 25_135),
        larger=((8, 1, 44_299 / 2 / 25_135), (16, 1, 82_988 / 4 / 25_135),
                (32, 1, 155_917 / 8 / 25_135)),
        note="InfiniBand of a rate not given, taken for 4 x 400 Gb/s; the 53 % of linear that the"
        " source prints is against one device: layers over 4 of one node are at 60 % already",
    ),
)  # fmt: skip


def table() -> str:
    """Every row: the planner's figure, the published one, how far apart."""
    lines = [f"{'':<38}{'devices':>8}{'planner':>9}{'published':>11}{'off by':>8}"]
    for figure in FIGURES:
        named = "" if figure.described else "  (network not described)"
        lines.append(f"{figure.name}{named}\n  {figure.source}; {figure.note}")
        for devices, ours, theirs in figure.predicted():
            numbers = f"{ours:>9.1%}{theirs:>11.1%}{ours / theirs - 1:>+8.1%}"
            lines.append(f"{'':<38}{devices:>8}{numbers}")
    return "\n".join(lines)
