"""One experiment as a tree of frozen dataclasses; the command line is that tree.

A model is its own configuration: a Linen module is a dataclass, so `Config.model` holds the module
itself, and its fields are keys like any other (`--model.fusion.kind gated`).
"""

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import flax.linen as nn
import tyro

from mlm_jax.errors import UserError as UserError
from mlm_jax.losses import Loss

PACKAGES = ("mlm_jax", "experiments")
"""Where the classes of a configuration may live: a saved run imports from nowhere else."""


@dataclass(frozen=True)
class Fields:
    """Names of the columns in the user's own data."""

    image: str = "image"
    """The name of a picture file, or its number in an .npz."""
    captions: str = "captions"
    question: str = "question"
    answers: str = "answers"
    messages: str = "messages"
    """A conversation: a list of {"role": "user" or "assistant", "content": text}."""
    label: str = "label"
    """The class of a picture, a clip or a sound: a text or a whole number."""
    video: str = "video"
    """The name of a video file, or a list of the names of pictures."""
    rate: str = "rate"
    """Of a list of pictures: how many there are to a second."""
    audio: str = "audio"
    """The name of a sound file, or of a video with sound."""
    events: str = "events"
    """What happens in a clip, and when: a list of [label, start, end], in seconds."""
    taught: str = "taught"
    """The class that a teacher gave it, where model.taught learns from one."""
    split: str = "split"


@dataclass(frozen=True)
class Data:
    """What is read, and how it becomes batches."""

    name: str = "world"
    """`world`, `clips`, `world/224px`, a prepared TFDS set, or a path: *.jsonl(.gz), a folder
    (one of your own that is called clips: `./clips`)."""
    root: str = "data"
    """The folder that holds prepared sets; the world is built there on first use."""
    images: tuple[str, ...] = ()
    """Where the files lie that rows name: folders, .zip, .npz; the folder of the rows if none."""
    fields: Fields = field(default_factory=Fields)
    train: str = "train"
    """Split to learn from, in TFDS syntax: train, train[:90%], a+b."""
    test: str = "test"
    """Split to validate on, in TFDS syntax."""
    captions: int = 2
    """Captions per picture in a step; 0 asks for none. A picture without any gives questions.
    With no questions either, pictures are read with their labels alone and need no text."""
    questions: int = 4
    """Questions per picture in a step; 0 asks none. A picture without any gives captions."""
    contrary: bool = False
    """Beside each caption of the embedded world one that is wrong by a word, of the relation, or of
    clips of the direction, where it tells one: a contrastive loss keeps it from the picture
    (2210.01936, section 4)."""
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    """How a picture of another shape becomes model.image.size."""
    preprocessor: str = ""
    """The folder of a published checkpoint, whose own rules count instead of `resize`."""
    shift: int = 0
    """Augmentation: shift by up to this many pixels."""
    speed: float = 0.0
    """Augmentation of sounds: up to this share faster or slower, and later where there is room."""
    tone: float = 0.0
    """Augmentation of sounds: decibels of each of four waves along the mel scale."""
    noise: float = 0.0
    """Augmentation of sounds: white noise, up to so much of the sound's own level."""
    events: int = 8
    """Most events of a clip, where the loss asks for them."""
    text_length: int = 32
    """Tokens of the question or prompt."""
    target_length: int = 32
    """Tokens of the caption or answer, bos and eos included."""
    tokenizer: str = "words"
    """`words`, `bpe`, the path of a tokenizer.json, or the folder of a published checkpoint."""
    vocab: int = 512
    """Tokens of a `bpe` tokenizer, at least 260; `words` has one for each word of the data."""
    batch: int = 64
    """Pictures per step."""
    threads: int = 4
    """Threads that decode; does not change the result."""
    max_broken: float = 0.01
    """Share of broken records above which reading stops; a single one does not stop it, however few
    there are, unless this is 0."""

    @property
    def texts(self) -> bool:
        """Whether texts are read; where none are, pictures are, with their labels."""
        return bool(self.captions or self.questions)

    def too_many(self, broken: int, rows: int) -> bool:
        """Whether reading stops at so many broken ones of so many."""
        least = 1 if self.max_broken > 0 else 0
        return broken > max(self.max_broken * rows, least)

    @property
    def plain(self) -> Self:
        """The same without augmentation."""
        return replace(self, shift=0, speed=0.0, tone=0.0, noise=0.0)


@dataclass(frozen=True)
class Optim:
    """How parameters move. A pattern is a prefix (image/body) or a glob (*/bias) of their paths."""

    name: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    lr: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after the warmup; cosine and linear end at 0."""
    warmup: int = 100
    """Steps of linear rise, at most half of the run."""
    weight_decay: float = 0.05
    """Decoupled, times the learning rate; on kernels only (optim.decays)."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 = off."""
    b1: float = 0.9
    b2: float = 0.999
    accumulate: int = 1
    """Parts in which a batch is computed, one after another."""
    ema: float = 0.0
    """Decay of the average of the parameters, which is what is evaluated; 0 = off."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are."""
    lr_scale: tuple[tuple[str, float], ...] = ()
    """Pattern and factor on the learning rate; the last pattern that matches counts."""
    max_skipped: int = 10
    """Steps with a non-finite loss or gradient in a row at which training stops."""


@dataclass(frozen=True)
class Mesh:
    """Devices: their product is all there are. The result does not depend on it."""

    data: int = 0
    """Copies of the model, each with its share of the batch; 0: what the other two leave."""
    fsdp: int = 1
    """Devices that share the batch and the parameters."""
    tensor: int = 1
    """Devices that share each layer: its heads, its MLP."""


@dataclass(frozen=True)
class Init:
    """Where the first parameters come from; what is not found there is drawn from the seed."""

    path: str = ""
    """A published checkpoint (a folder) or a run directory; empty: none."""
    take: tuple[str, ...] = ()
    """Only these: patterns of paths, such as image; `text=decoder` reads theirs for ours."""
    skip: tuple[str, ...] = ()
    """Not these: patterns of paths that stay fresh, such as head."""


@dataclass(frozen=True)
class Stage:
    """An earlier run, whose model becomes a part of this one's and is held still."""

    run: str = ""
    """Its run directory; empty: that part is held still as it is drawn from the seed."""


@dataclass(frozen=True)
class Config:
    """One experiment."""

    model: nn.Module
    loss: Loss
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    init: Init = field(default_factory=Init)
    codes: Stage = field(default_factory=Stage)
    clip: Stage = field(default_factory=Stage)
    prior: Stage = field(default_factory=Stage)
    base: Stage = field(default_factory=Stage)
    mesh: Mesh = field(default_factory=Mesh)
    steps: int = 1000
    seed: int = 0
    """Initial parameters, order of the data, dropout."""
    log_every: int = 50
    """Steps per line of metrics.jsonl."""
    eval_every: int = 0
    """Steps between validations; 0 = never."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 3
    """Checkpoints that are kept: the newest."""
    keep_best: int = 0
    """Checkpoints that are kept besides: those of the lowest test/loss, the best of which is what
    is evaluated and generated by."""
    eval_examples: int = 512
    """Pictures of data.test per validation."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward and backward pass; parameters, optimiser and loss stay float32."""
    require: Literal["any", "gpu", "tpu"] = "any"
    """Refuse to run on anything else."""


# --- from a file or the command line ---


def folder() -> Path:
    """`experiments/configs` beside the package, or else under the working directory."""
    beside = Path(__file__).resolve().parents[1] / "experiments" / "configs"
    return beside if beside.is_dir() else Path.cwd() / "experiments" / "configs"


def names() -> dict[str, str]:
    """Name of every experiment -> first line of its docstring, read without importing it."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        for path in sorted(folder().glob("*.py"))
        if path.stem != "__init__"
    }


def load(name: str) -> Config:
    """The experiment `vit_tiny` (experiments/configs/vit_tiny.py), `vit_tiny:tiny` or `own/one.py`.

    What follows the colon is the attribute that is taken, `config` by default.
    Raises: UserError if there is no such experiment or attribute, or one module sits in two fields.
    """
    name, _, attribute = name.partition(":")
    module = module_of(name)
    config = getattr(module, attribute or "config", None)
    if not isinstance(config, Config):
        have = sorted(k for k, v in vars(module).items() if isinstance(v, Config))
        raise UserError(
            f"{module.__file__} has no Config called `{attribute or 'config'}`"
            f" (it has: {', '.join(have) or 'none'})"
        )
    refuse_shared(config)
    return config


def refuse_shared(tree: Any, path: str = "config", seen: dict[int, str] | None = None) -> None:
    """Raise if one Linen instance sits in two fields: it would share its parameters silently."""
    seen = {} if seen is None else seen
    if isinstance(tree, nn.Module) and seen.setdefault(id(tree), path) != path:
        raise UserError(f"{path} is {seen[id(tree)]} again: build it twice, or share in a model")
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for name, value in parts(tree).items():
            refuse_shared(value, f"{path}.{name}", seen)
    elif isinstance(tree, tuple | list):
        for i, value in enumerate(tree):
            refuse_shared(value, f"{path}[{i}]", seen)


def module_of(name: str) -> ModuleType:
    root = str(folder().parents[1])
    if root not in sys.path:
        sys.path.append(root)
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--config: there is no file {path}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    if name not in names():
        raise UserError(f"--config: no experiment `{name}`{suggest(name, names())}")
    return importlib.import_module(f"experiments.configs.{name}")


def suggest(word: str, known: Sequence[str] | dict[str, str]) -> str:
    """` in ...; did you mean ...?` for an error message."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are: {', '.join(known) or 'none'}"


def override(config: Config, argv: Sequence[str], title: str = "") -> Config:
    """`config` with the keys given in `argv` (`--optim.lr 3e-4`) put in place of its own."""
    # A protocol has no fields to show: give the loss its concrete type for the command line.
    typed = type("Config", (Config,), {"__annotations__": {"loss": type(config.loss)}})
    given = tyro.cli(
        dataclass(frozen=True)(typed),
        prog=title or None,
        description=Config.__doc__,
        args=list(argv),
        default=typed(**parts(config)),
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )
    return Config(**parts(given))


def parts(node: Any) -> dict[str, Any]:
    """Fields of a dataclass; of a Linen module only its own, without parent and name."""
    hidden = ("parent", "name") if isinstance(node, nn.Module) else ()
    return {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name not in hidden}


# --- to a file and back ---


def to_json(node: Any, path: str = "config") -> Any:
    """The whole tree as JSON values; a dataclass becomes its fields, and its class path as "type".

    Raises: UserError for a value that cannot be written, or a class that `from_json` would refuse.
    """
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        kind = f"{type(node).__module__}.{type(node).__qualname__}"
        if kind.partition(".")[0] not in PACKAGES:
            raise UserError(f"{path} is a {kind}: put its class into {' or '.join(PACKAGES)}")
        return {"type": kind} | {k: to_json(v, f"{path}.{k}") for k, v in parts(node).items()}
    if isinstance(node, tuple):
        return [to_json(v, f"{path}[{i}]") for i, v in enumerate(node)]
    if node is None or isinstance(node, str | bool | int | float):
        return node
    raise UserError(f"{path}: a {type(node).__name__} cannot be saved in a configuration")


def from_json(node: Any) -> Any:
    """What `to_json` wrote, built again. Only dataclasses of PACKAGES are imported.

    Raises: UserError for any other class, and for a field that its class does not have.
    """
    if isinstance(node, list):
        return tuple(from_json(v) for v in node)
    if not isinstance(node, dict):
        return node
    cls = class_of(str(node.get("type")))
    values = {k: from_json(v) for k, v in node.items() if k != "type"}
    unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise UserError(f"{node['type']} has no field {', '.join(unknown)}: saved by other code?")
    return cls(**values)


def class_of(kind: str) -> Any:
    module, _, name = kind.rpartition(".")
    if module.partition(".")[0] not in PACKAGES:
        raise UserError(f"a configuration may only name classes of {PACKAGES}, not `{kind}`")
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"the configuration names `{kind}`: {error}") from error
    own = isinstance(cls, type) and cls.__module__.partition(".")[0] in PACKAGES
    if not own or not dataclasses.is_dataclass(cls):
        raise UserError(f"the configuration names `{kind}`, which is no dataclass of this project")
    return cls


def read(run: Path) -> Config:
    """The configuration of a run directory. Raises: UserError."""
    config = from_json(read_json(run))
    if not isinstance(config, Config):
        raise UserError(f"{run / 'config.json'} holds no configuration")
    return config


def read_json(run: Path) -> Any:
    path = run / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{run} is no run directory: it has no config.json") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}; lists are values."""
    if not isinstance(node, dict):
        return {path: node}
    inner = ((f"{path}.{k}" if path else k, v) for k, v in node.items())
    return {key: leaf for k, v in inner for key, leaf in flat(v, k).items()}


# --- what the model takes ---

SENSES = ("image", "video", "audio")


def senses(config: Config) -> dict[str, Any]:
    """What the model takes of a record besides texts, each with the encoder that reads it."""
    found = {key: getattr(config.model, key, None) for key in SENSES}
    return {key: encoder for key, encoder in found.items() if encoder is not None}


def inline(config: Config) -> bool:
    """Whether questions stand among what is written: in a decoder that reads nothing else."""
    return (
        hasattr(config.model, "decoder")
        and not hasattr(config.model, "text")
        and not senses(config)
    )
