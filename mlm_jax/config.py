"""One experiment as a tree of frozen dataclasses; the command line is that tree."""

from dataclasses import dataclass, field
from typing import Literal

import flax.linen as nn

from mlm_jax.losses import Loss


@dataclass(frozen=True)
class Fields:
    """Names of the columns in the user's own data."""

    image: str = "image"
    captions: str = "captions"
    question: str = "question"
    answers: str = "answers"
    split: str = "split"


@dataclass(frozen=True)
class Data:
    name: str = "world"
    root: str = "data"
    images: tuple[str, ...] = ()
    fields: Fields = field(default_factory=Fields)
    train: str = "train"
    test: str = "test"
    texts: int = 2
    caption_share: float = 0.5
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    shift: int = 0
    text_length: int = 32
    target_length: int = 32
    tokenizer: str = "words"
    vocab: int = 512
    batch: int = 64
    threads: int = 4
    max_broken: float = 0.01


@dataclass(frozen=True)
class Optim:
    name: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    lr: float = 1e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    accumulate: int = 1
    ema: float = 0.0
    freeze: tuple[str, ...] = ()
    lr_scale: tuple[tuple[str, float], ...] = ()
    max_skipped: int = 10


@dataclass(frozen=True)
class Config:
    model: nn.Module
    loss: Loss
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    steps: int = 1000
    seed: int = 0
    log_every: int = 50
    eval_every: int = 0
    save_every: int = 500
    keep: int = 3
    eval_examples: int = 512
    precision: Literal["float32", "bfloat16"] = "float32"
    require: Literal["any", "gpu", "tpu"] = "any"
