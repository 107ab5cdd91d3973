"""MFU of training on one accelerator, through the project's own step with its real optimiser."""

import importlib
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import flops
from experiments.benchmarks.page import FORMULA
from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import Row
from experiments.benchmarks.timing import seconds, significant, summary
from mlm_jax.config import Config
from mlm_jax.models.bert import Bert
from mlm_jax.train import make_step, prepare

STEPS = 10  # steps to a repeat: nothing waits in between


@dataclass(frozen=True)
class Trained:
    """An experiment by the name of its file, at so many rows; tokens it reads and is given."""

    title: str
    config: str
    rows: int
    read: int = 0
    written: int = 0
    patch: int = 0


VIT = Trained("ViT-B/16", "vit_classifier_base", 512)
CLIP = Trained("CLIP B/16", "clip_base", 512, read=77, patch=16)
BERT = Trained("BERT-base 512", "bert_base", 128, read=512)
GPT = Trained("GPT-2 1024", "gpt_small", 32, written=1_024)
MULTIMODAL = Trained("multimodal base", "vit_base", 256, read=32, written=31)


def halving(model: Trained, setting: Setting) -> Row:
    """The row of a model at its batch, or at the largest half of it that fits."""
    rows = model.rows
    while True:
        try:
            return measure(model, rows, setting)
        except Exception as error:  # the runtime's own class moved between versions of jax
            if not out_of_memory(error) or rows == 1:
                raise
        rows //= 2


def out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def configured(model: Trained, precision: Any) -> Config:
    config: Config = importlib.import_module(f"experiments.configs.{model.config}").config
    if model.patch:
        own: Any = config.model
        config = replace(config, model=replace(own, image=replace(own.image, patch=model.patch)))
    return replace(config, precision=precision)


def measure(model: Trained, rows: int, setting: Setting) -> Row:
    config = configured(model, setting.precision)
    batch = jax.device_put(batch_of(config, model, rows))
    _, tx, begin = prepare(config, batch)
    held, step = [begin()], make_step(config, tx)

    def several(times: int) -> None:
        for _ in range(times):
            held[0], _ = step(held[0], batch)
        jax.block_until_ready(held[0])

    first = seconds(lambda: several(1))
    several(STEPS)
    taken = [seconds(lambda: several(STEPS)) / STEPS for _ in range(setting.repeats)]
    row: Row = {
        "what": f"MFU of {model.title}, train step, batch {rows}",
        "precision": setting.precision,
        "optimiser": config.optim.name,
        "first": {"ours": significant(first)},
        "seconds": {"ours": summary(taken)},
        "formula": FORMULA,
    }
    each = flops.forward(config.model, read=model.read, written=model.written)
    return row | utilised(each, rows, float(np.median(taken)), jax.devices()[0].device_kind)


def utilised(each: flops.Flops, rows: int, taken: float, device: str) -> Row:
    """FLOP/s, and the share of the peak where that is known; `each` of one example forward."""
    full, halved = (3 * rows * f / taken for f in each)
    peak = flops.peak(device)
    share = {"peak_tflops": peak / 1e12, "mfu": significant(full / peak, 3),
             "mfu_halved": significant(halved / peak, 3)} if peak else {}  # fmt: skip
    return {
        "examples_per_second": significant(rows / taken),
        "tflops_per_second": significant(full / 1e12),
        **share,
    }


def batch_of(config: Config, model: Trained, rows: int) -> dict[str, np.ndarray]:
    """Random pixels of uint8, random words, none of them padding."""
    rng, given = np.random.default_rng(0), {}
    own: Any = config.model
    if hasattr(own, "image"):
        given["image"] = rng.integers(0, 256, (rows, *own.image.size, 3), np.uint8)
    if hasattr(own, "labels") and not isinstance(own, Bert):
        given["label"] = rng.integers(0, own.labels, rows, np.int32)
    decoder = getattr(own, "decoder", None)
    words = getattr(decoder or getattr(own, "text", None), "vocab", 0)
    lengths = {"text": model.read, "target": model.written + 1} if decoder else {}
    for name, length in (lengths or {"target": model.read}).items():
        if length:
            given[name] = rng.integers(4, words, (rows, length), np.int32)
            given[f"{name}_mask"] = np.ones((rows, length), bool)
    return given
