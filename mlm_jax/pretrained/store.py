"""From a folder to a model with its parameters, and back."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from mlm_jax.config import SENSES, UserError, flat, suggest, to_json
from mlm_jax.encoders import AudioEncoder
from mlm_jax.paths import named, nested, unrolled
from mlm_jax.pretrained.audio_spectrogram import AUDIO_SPECTROGRAM
from mlm_jax.pretrained.bert import BERT
from mlm_jax.pretrained.blip import BLIP
from mlm_jax.pretrained.clip import CLIP
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.files import (
    CONFIG,
    GENERATION,
    INDEX,
    WEIGHTS,
    Folder,
    open_folder,
    read_json,
)
from mlm_jax.pretrained.gpt2 import GPT2
from mlm_jax.pretrained.names import Tensor, match, plan
from mlm_jax.pretrained.pixels import pixels_of
from mlm_jax.pretrained.settings import ACTIVATIONS, Settings, shown
from mlm_jax.pretrained.siglip import SIGLIP
from mlm_jax.pretrained.timesformer import TIMESFORMER
from mlm_jax.pretrained.videomae import VIDEOMAE
from mlm_jax.pretrained.vit import DEIT, VIT
from mlm_jax.pretrained.vit_gpt2 import VIT_GPT2
from mlm_jax.pretrained.vivit import VIVIT
from mlm_jax.pretrained.whisper import WHISPER

FAMILIES = (BERT, GPT2, VIT, DEIT, CLIP, SIGLIP, BLIP, VIT_GPT2,
            VIDEOMAE, VIVIT, TIMESFORMER, AUDIO_SPECTROGRAM, WHISPER)  # fmt: skip
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
SHARD = 5_000_000_000  # bytes to a file, as the reference cuts them


@dataclass(frozen=True)
class Pretrained:
    """`params`: nested dicts of numpy arrays, in the dtypes of the file.

    `config` is config.json as it was, `generation` generation_config.json; `idle` what no output
    depends on (see `Family`); `unused` names what the file has and the model has no place for,
    `unread` the fields of config.json that are not known here: see whether one of them would change
    what the model computes.
    """

    model: Any
    params: dict[str, Any]
    config: dict[str, Any]
    idle: dict[str, np.ndarray] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    generation: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> Pretrained:
    """A published checkpoint: the model that config.json describes and its parameters.

    Nothing is loaded unless everything fits. The arrays are the file itself, mapped into memory:
    it must stay as it is while they are used. Raises: UserError listing every problem.
    """
    folder = open_folder(Path(path))
    said = Path(path) / GENERATION
    generation = read_json(said) if said.is_file() else {}
    try:
        family, model, unread = described(folder)
        idle = family.idle(model)
        tensors, absent = names_on_disk(family, model)
        found, unused = match(tensors, folder.tensors, family.spelling, idle)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    params: dict[str, np.ndarray] = {}
    for tensor in tensors:
        params |= tensor.read(found[tensor.name].read())
    for bias in absent:
        kernel = params[bias.replace("/bias", "/kernel")]
        params[bias] = np.zeros(kernel.shape[1:], kernel.dtype)
    kept = {name: found[name].read() for name in idle if name in found}
    return Pretrained(
        model, nested(params), folder.config, kept, tuple(unused), tuple(unread), generation
    )


def model_of(folder: Folder) -> tuple[Family, nn.Module]:
    """The family and the module that config.json describes. Raises: UserError."""
    return described(folder)[:2]


def described(folder: Folder) -> tuple[Family, Any, list[str]]:
    """The same, and the fields of config.json that are not known here. Raises: UserError."""
    kind = folder.config.get("model_type")
    family = next((each for each in FAMILIES if each.kind == kind), None)
    if family is None:
        known = [each.kind for each in FAMILIES]
        raise UserError(f"{CONFIG}: model_type is {shown(kind)}{suggest(str(kind)[:80], known)}")
    settings = Settings(folder.config, "", tensors=len(folder.tensors))
    names = frozenset(folder.tensors)
    model = family.build(settings, architecture(family, folder), names)
    settings.settle()
    if family.pixels is not None:
        published = pixels_of(folder.path, family.pixels)
        sense = "image" if hasattr(model, "image") else "video"
        eyes = replace(getattr(model, sense), mean=published.mean, std=published.std)
        model = replace(model, **{sense: eyes})
    return family, family.complete(model, folder.path), settings.unread()


def architecture(family: Family, folder: Folder) -> str:
    """The published class: what config.json names, or else what the tensors show."""
    given = folder.config.get("architectures") or [None]
    if not isinstance(given, list):
        raise UserError(f"{CONFIG}: architectures is {shown(given)}: must be a list of one name")
    name = given[0]
    known = family.architectures
    if name is None:
        fit = (n for n, mark in known.items() if any(re.search(mark, t) for t in folder.tensors))
        return next(fit, list(known)[-1])
    if not isinstance(name, str) or name not in known:
        near = suggest(str(name)[:80], list(known))
        raise UserError(f"{CONFIG}: architectures is {shown(given)}{near}")
    return name


def names_on_disk(family: Family, model: Any) -> tuple[list[Tensor], list[str]]:
    """The tensors, and paths of the parameters that no file has.

    Raises: UserError where the sizes of the model do not go together.
    """
    shapes = parameter_shapes(model)
    absent = [path for path in shapes if family.absent and re.search(family.absent, path)]
    return plan(family.pairs(model), {p: s for p, s in shapes.items() if p not in absent}), absent


def parameter_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter, layers one by one; nothing is computed.

    Raises: UserError where the sizes of the model do not go together.
    """

    def parameters() -> dict[str, Any]:
        return unrolled(named(model.init(jax.random.key(0), example(model))["params"]))

    try:
        return {path: leaf.shape for path, leaf in jax.eval_shape(parameters).items()}
    except ValueError as error:
        raise UserError(f"{CONFIG}: {error}") from error


def example(model: Any) -> dict[str, Any]:
    """The smallest batch that the model takes; of a sound its spectrogram, not to be computed."""
    ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    batch = {"target": ids, "target_mask": mask, "text": ids, "text_mask": mask}
    for key in SENSES:
        encoder = getattr(model, key, None)
        if isinstance(encoder, AudioEncoder):
            batch[key] = jnp.zeros((1, encoder.frames, encoder.mel.mels))
        elif encoder is not None:
            batch[key] = jnp.zeros((1, *encoder.takes.shape), encoder.takes.dtype)
    return batch


# --- writing ---


def save(
    path: Path,
    model: Any,
    params: Any,
    *,
    config: Mapping[str, Any] = {},
    idle: Mapping[str, np.ndarray] = {},
    generation: Mapping[str, Any] = {},
    shard: int = SHARD,
    beside: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write the model as a published checkpoint, with published names, in the dtypes of `params`.

    `config` are further fields of config.json, `idle` and `generation` as `load` gave them; what
    the model says of the words that it does not write replaces that in `generation`. A file has at
    most `shard` bytes, or one tensor. The folder appears whole or not at all, with what `beside`
    writes into it (tokenizer, image processor).
    Raises: UserError where no family can express the model, or `path` exists.
    """
    path = Path(path)
    family = family_of(model)
    leaves = unrolled(named(params))
    tensors, _ = names_on_disk(family, model)
    check_shapes(leaves, parameter_shapes(model))
    if path.exists():
        raise UserError(f"{path} exists: give a folder that does not, or remove it first")
    part = path.with_name(f"{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    first = np.asarray(next(iter(leaves.values())))
    own = family.describe(model)
    fields = {**config, **merged(config, own)}
    for key in own:
        fields.pop(f"{key}_dict", None)  # which would be read in its place
    if "num_labels" in fields:  # which the names of the classes say, where they are of this head
        same = len(fields.get("id2label") or ()) == fields["num_labels"]
        for key in ("num_labels",) if same else ("id2label", "label2id"):
            fields.pop(key, None)
    fields |= {"model_type": family.kind, "architectures": [family.architecture(model)]}
    fields["torch_dtype"] = fields["dtype"] = str(first.dtype)
    (part / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    if generation:
        left_out = {key: own[key] for key in SUPPRESSED if key in own}
        text = json.dumps({**generation, **left_out}, indent=2) + "\n"
        (part / GENERATION).write_text(text, encoding="utf-8")
    write_shards(part, shards(tensors, leaves, idles(family, model, idle, first.dtype), shard))
    family.put(model, part)
    beside(part)
    part.rename(path)


def family_of(model: Any) -> Family:
    """Raises: UserError saying why each family that has such a model cannot express this one."""
    wrong = []
    for family in FAMILIES:
        if isinstance(model, family.module):
            differs = misfits(family, model)
            if not differs:
                return family
            wrong.append(f"{family.kind}: {'; '.join(differs)}")
    why = "\n".join(f"  {w}" for w in wrong) or "  its class is not one of theirs"
    raise UserError(f"no published family can express this {type(model).__name__}:\n{why}")


# what may differ without another result: training, pixels and sounds (told apart), ids of words;
# ratios are compared by the shapes that come of them
FREE = ("dropout", "layers", "remat", "pieces", "mean", "std", "samples", "mask_id", "special",
        "ratio")  # fmt: skip


def misfits(family: Family, model: Any) -> list[str]:
    """What would be another model if config.json were read back: what it cannot say of this one."""
    kind = family.architecture(model)
    if kind not in family.architectures:
        return [f"{kind} is not of this family"]
    settings = Settings(family.describe(model), "")
    names = frozenset(pair.theirs for pair in family.pairs(model))
    other = family.build(settings, kind, names)
    wrong = settings.wrong + unlike(flat(to_json(model)), flat(to_json(other)))
    if wrong or model == other:
        return wrong
    return unlike(parameter_shapes(model), parameter_shapes(other))


def unlike(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} is {here.get(key)!r}, there {there.get(key)!r}"
        for key in dict.fromkeys([*here, *there])
        if key.rpartition(".")[2] not in FREE and here.get(key) != there.get(key)
    ]


def check_shapes(leaves: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [f"{p} is missing" for p in shapes if p not in leaves]
    wrong += [f"{p} is unknown" for p in leaves if p not in shapes]
    wrong += [
        f"{p} is {leaves[p].shape}, not {shape}"
        for p, shape in shapes.items()
        if p in leaves and leaves[p].shape != shape
    ]
    if wrong:
        raise UserError("these are not parameters of this model:\n  " + "\n  ".join(wrong))


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new fields; nested objects keep what only the old has, functions their old name."""

    def one(before: Any, value: Any) -> Any:
        if isinstance(before, dict) and isinstance(value, dict):
            return {**before, **merged(before, value)}
        same = isinstance(value, str) and ACTIVATIONS.get(value)
        return before if same and ACTIVATIONS.get(before) == same else value

    return {key: one(old.get(key), value) for key, value in new.items()}


def idles(
    family: Family, model: Any, given: Mapping[str, np.ndarray], dtype: np.dtype
) -> dict[str, np.ndarray]:
    return {
        name: np.array(given.get(name, np.zeros(shape, dtype)), order="C", copy=None)
        for name, shape in family.idle(model).items()
    }


def shards(
    tensors: list[Tensor], leaves: Mapping[str, Any], idle: Mapping[str, np.ndarray], most: int
) -> Iterator[dict[str, np.ndarray]]:
    """The tensors, contiguous, in groups of at most `most` bytes."""
    group: dict[str, np.ndarray] = dict(idle)
    for tensor in tensors:
        array = tensor.write(leaves)
        if group and sum(a.nbytes for a in group.values()) + array.nbytes > most:
            yield group
            group = {}
        group[tensor.name] = array
    yield group


def write_shards(folder: Path, groups: Iterator[dict[str, np.ndarray]]) -> None:
    places: dict[str, int] = {}
    total = count = 0
    for count, group in enumerate(groups, 1):
        save_file(group, folder / f"{count}.part", {"format": "pt"})
        places |= dict.fromkeys(group, count)
        total += sum(array.nbytes for array in group.values())
    if count == 1:
        (folder / "1.part").rename(folder / WEIGHTS)
        return
    files = {n: f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)}
    for n, file in files.items():
        (folder / f"{n}.part").rename(folder / file)
    index = {"metadata": {"total_size": total},
             "weight_map": {name: files[n] for name, n in sorted(places.items())}}  # fmt: skip
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
