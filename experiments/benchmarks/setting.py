"""How a part is to be run, and the machine it runs on. Nothing here imports jax or torch early."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]
Size = Literal["base", "tiny"]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "grain", "pillow")
FLAGS = ("XLA_FLAGS", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE",
         "OMP_NUM_THREADS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """`threads` of each side, on as many cores; `repeats` where one takes under some seconds.

    `folder` is for what a part writes, and is thrown away. `size` "tiny" is for tests.
    """

    folder: Path
    precision: Precision = "float32"
    device: Literal["cpu", "gpu"] = "cpu"
    threads: int = 2
    repeats: int = 7
    size: Size = "base"


def pin(threads: int) -> None:
    """Run on the first `threads` cores that are allowed, before jax or torch count them."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    os.environ["OMP_NUM_THREADS"] = str(len(cores))


def machine() -> dict[str, Any]:
    """Processor, accelerator, versions and flags; imports jax."""
    import jax

    devices = jax.devices()
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": "gpu" if devices[0].platform in ("gpu", "cuda", "rocm") else "cpu",
        "accelerator": f"{len(devices)} x {devices[0].device_kind}"
        if devices[0].platform != "cpu"
        else "none",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
    }


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or "unknown")


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def load() -> float:
    """Processes that want to run, the mean over the last minute."""
    return os.getloadavg()[0]


def to_text(setting: Setting) -> str:
    """For the command line of another process."""
    return json.dumps({**asdict(setting), "folder": str(setting.folder)})


def from_text(text: str) -> Setting:
    values = json.loads(text)
    return Setting(**{**values, "folder": Path(values["folder"])})
