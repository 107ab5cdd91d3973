"""What a published family is to us: one value of `Family` in a file of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_jax.pretrained import pixels as processors
from mlm_jax.pretrained.names import Pair, Spelling
from mlm_jax.pretrained.settings import Settings

Model = Any  # the module of a family, which its own file knows


@dataclass(frozen=True)
class Family:
    """`kind` is the model_type of config.json; `module` our class, or classes, of model.

    `architectures`: published class -> pattern of a tensor that only it has, the most telling
    first. `build` makes the model from config.json, the class and the names of the tensors;
    `architecture` and `describe` go back: the class and the fields of config.json. A model that
    these would build another way is not of the family. `idle` are tensors that no output depends
    on, with their shapes: the published class has them, we keep what was read, or write zeros.
    `absent` is a pattern of the biases that no output depends on and only our module has: zeros.
    `pixels` is the class of the processor of pictures or frames, where there are any. `complete`
    gives the model with what other files of the folder say of it, `put` writes those files.
    """

    kind: str
    module: type | tuple[type, ...]
    architectures: Mapping[str, str]
    build: Callable[[Settings, str, frozenset[str]], Model]
    architecture: Callable[[Model], str]
    describe: Callable[[Model], dict[str, Any]]
    pairs: Callable[[Model], list[Pair]]
    spelling: Spelling = field(default_factory=Spelling)
    pixels: processors.Family | None = None
    idle: Callable[[Model], dict[str, tuple[int, ...]]] = lambda model: {}
    absent: str | None = None
    complete: Callable[[Model, Path], Model] = lambda model, folder: model
    put: Callable[[Model, Path], None] = lambda model, folder: None
