"""From the start of a process to its first training steps, and memory with and without remat."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.fresh import ROWS, STEPS
from experiments.benchmarks.setting import Setting, to_text
from experiments.benchmarks.sides import Row
from experiments.benchmarks.timing import significant

REMATS = {"ours": ("none", "dots", "full"), "eager": ("none", "full")}


def fresh(kind: str, setting: Setting, remat: str = "none", cache: str = "") -> dict[str, Any]:
    """What `experiments.benchmarks.fresh` says of a process of its own. Raises: RuntimeError."""
    command = [sys.executable, "-m", "experiments.benchmarks.fresh", kind, to_text(setting)]
    done = subprocess.run(
        [*command, remat, cache], capture_output=True, text=True, check=False,
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{kind}, remat {remat}: {done.stderr.strip()[-500:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def start(setting: Setting) -> Iterator[Row]:
    """Seconds since the process began; "cold" with an empty folder of compiled programs."""
    what = f"ViT-B/16, batch {ROWS}: seconds from the start of a process, to its first"
    for kind in ("ours", "eager", "compiled"):
        cache = setting.folder / f"cache-{kind}"
        cache.mkdir()
        runs = {"cold": fresh(kind, setting, cache=str(cache))}
        if kind != "eager":
            runs["cached"] = fresh(kind, setting, cache=str(cache))
        yield {"what": f"{what} {STEPS} steps, {kind}", "stages": {
            name: run["seconds"] for name, run in runs.items()}}  # fmt: skip


def memory(setting: Setting) -> Iterator[Row]:
    """GiB of a training step: planned by the compiler beside the state, and seen beyond it."""
    for kind, remats in REMATS.items():
        for remat in remats:
            told = fresh(kind, setting, remat)
            gib = {name: significant(b / 2**30, 3) for name, b in told["bytes"].items()}
            what = f"ViT-B/16 train step, batch {ROWS}, {kind}, remat {remat}"
            yield {"what": what, "gib": gib}
