"""What a fresh process does, as JSON on its last line: ViT-B/16 from the start to training steps.

    python -m experiments.benchmarks.fresh ours|eager|compiled SETTING [REMAT] [CACHE]

Seconds since the process began at each stage, and bytes of memory; `starting` and `memory` ask for
it. Weights are random and of its own: what they compute is compared elsewhere. REMAT is none, dots
or full (of torch: none or full); CACHE is a folder of compiled programs.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.lean import stand_in
from experiments.benchmarks.setting import Setting, from_text, pin

ROWS = 8
STEPS = 2


class Clock:
    """Seconds since the process began, at each stage that was reached."""

    def __init__(self) -> None:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        self.began = time.monotonic() - (up - ticks / os.sysconf("SC_CLK_TCK"))
        self.at: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        self.at[stage] = round(time.monotonic() - self.began, 2)


def ours(setting: Setting, clock: Clock, remat: str, cache: str) -> dict[str, int]:
    import jax

    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from mlm_jax.train import cast, make_step, prepare

    clock.mark("imported")
    config = importlib.import_module(f"experiments.configs.vit_classifier_{setting.size}").config
    image = config.model.image
    image = replace(image, body=replace(image.body, remat=remat))
    config = replace(config, model=replace(config.model, image=image), precision=setting.precision)
    batch = jax.device_put(inputs(image.size[0], config.model.labels))
    _, tx, begin = prepare(config, batch)
    state = jax.block_until_ready(begin())
    clock.mark("initialised")

    @jax.jit
    def see(params: Any, image: Any) -> Any:
        half = cast(params, config.precision)
        return config.model.apply({"params": half}, {"image": image})["logits"]

    jax.block_until_ready(see(state.params, batch["image"]))
    clock.mark("first forward")
    step = make_step(config, tx).lower(state, batch).compile()
    before = watch()
    for _ in range(STEPS):
        state, _ = jax.block_until_ready(step(state, batch))
    clock.mark(f"{STEPS} steps")
    m: Any = step.memory_analysis()
    held = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    stats = jax.devices()[0].memory_stats() or {}
    device = {"device": int(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {}
    planned = {"planned": int(m.temp_size_in_bytes), "state": int(held)}
    return {**planned, **device, "resident": peak() - before}


def theirs(setting: Setting, clock: Clock, remat: str, kind: str) -> dict[str, int]:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    vit = transformers.ViTForImageClassification
    clock.mark("imported")
    torch.set_num_threads(setting.threads)
    device = "cuda" if setting.device == "gpu" else "cpu"
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = small if setting.size == "tiny" else {}
    model = vit(transformers.ViTConfig(num_labels=1000, **sizes)).to(device)
    if remat != "none":
        model.gradient_checkpointing_enable()
    x = {k: torch.tensor(v.astype(np.int64) if k == "label" else v.transpose(0, 3, 1, 2).copy())
         .to(device) for k, v in inputs(224, 1000).items()}  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    clock.mark("initialised")

    def half() -> Any:
        return torch.autocast(device, torch.bfloat16, enabled=setting.precision == "bfloat16")

    def loss(image: Any, label: Any) -> Any:
        logits = model(pixel_values=image).logits.float()
        return torch.nn.functional.cross_entropy(logits, label)

    wrap: Callable[[Any], Any] = torch.compile if kind == "compiled" else (lambda f: f)
    with torch.inference_mode(), half():
        wrap(model.eval())(pixel_values=x["image"])
    clock.mark("first forward")
    model.train()
    compute, before = wrap(loss), watch()
    for _ in range(STEPS):
        with half():
            value = compute(x["image"], x["label"])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        value.item()
    clock.mark(f"{STEPS} steps")
    gpu = {"device": int(torch.cuda.max_memory_allocated())} if device == "cuda" else {}
    return {**gpu, "resident": peak() - before}


def inputs(pixels: int, labels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(ROWS, pixels, pixels, 3)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, labels, ROWS, np.int32)}


# --- memory of this process ---


def status(name: str) -> int:
    """Bytes, by a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def watch() -> int:
    """Begin anew to look for the peak; the bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return status("VmRSS")


def peak() -> int:
    """The most bytes that were resident since `watch`."""
    return status("VmHWM")


def main(kind: str, setting: str, remat: str = "none", cache: str = "") -> None:
    clock, given = Clock(), from_text(setting)
    pin(given.threads)
    stand_in()
    if kind == "ours":
        memory = ours(given, clock, remat, cache)
    else:
        if cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        memory = theirs(given, clock, remat, kind)
    print(json.dumps({"seconds": clock.at, "bytes": memory}))


if __name__ == "__main__":
    main(*sys.argv[1:])
