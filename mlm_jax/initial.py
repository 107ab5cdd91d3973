"""First parameters from elsewhere: a published checkpoint, or a run, whole or in parts.

Parameters are matched by path: `text/body/block_0/mlp/up/kernel` of a BERT is that of the text
encoder of `vit_base`. What nothing matches stays as it was drawn from the seed.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlm_jax import checkpoint, pretrained
from mlm_jax.config import Init, UserError, flat, read, to_json
from mlm_jax.data import labels, tokenizers
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.encoders import AudioEncoder, ImageEncoder, VideoEncoder
from mlm_jax.paths import matches, named, nested, require_matches, rolled, unrolled
from mlm_jax.pretrained.files import CONFIG, read_json

Leaves = dict[str, Any]
Senses = ImageEncoder | VideoEncoder | AudioEncoder
FREE = (
    "type", "size", "length", "vocab", "words", "depth", "dropout", "layers", "remat", "labels",
    "opening",
)  # fmt: skip
"""Fields that may differ without a change of what a parameter means."""
TIMES = ("video/times", "video/time_positions/table", "video/times_again/table")
TABLES = ("positions/table", "positions_again/table", *TIMES)
SEES = "video/stem/conv_0/kernel"
WORDS = "words/table/embedding"
HEADS = {
    f"{head}/{name}": axis
    for head, axis in {
        "head": -1,
        "taught_head": -1,
        "classes": -1,
        "present": -1,
        "reach": -2,
    }.items()
    for name in ("kernel", "bias")
}
"""By what has something for each class: along which of its axes."""
MARKS = ("pad", "bos", "eos", "unk")
KNOWN = 0.2
"""Where a smaller share of the words is known, the one has words and the other pieces of them."""


@dataclass(frozen=True)
class Listing:
    """What became of every parameter: lines for the user, and the paths behind them."""

    matched: tuple[str, ...]
    resized: tuple[str, ...]
    by_word: tuple[str, ...]
    known: str
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    differs: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        for title in ("matched", "resized", "by_word", "fresh", "unused"):
            paths = getattr(self, title)
            if paths:
                known = f": {self.known}" if title == "by_word" else ""
                yield f"  {title.replace('_', ' '):<8} {len(paths):>5}  {summary(paths)}{known}"
        yield from (f"  WARNING: {line}" for line in self.differs)


def summary(paths: Sequence[str], most: int = 8) -> str:
    """The parts that the paths lie in, with how many of each."""
    counts: dict[str, int] = {}
    for path in paths:
        part = "/".join(path.split("/")[:2])
        counts[part] = counts.get(part, 0) + 1
    told = [f"{part} ({n})" if n > 1 else part for part, n in counts.items()]
    return ", ".join(told[:most]) + (f" and {len(told) - most} more" if len(told) > most else "")


def start_from(
    init: Init,
    model: nn.Module,
    params: Any,
    tokenizer: Tokenizer | None = None,
    classes: Sequence[str] = (),
) -> tuple[Any, Listing]:
    """`params` of `model` with what init.path has in their place, and what was done.

    Where `tokenizer` has other words than that beside init.path, the vectors of words that both
    have are found by their spelling, and those of other words stay as they were drawn. Where
    init.path names all of the data's `classes`, its rows of classes are put in their order. Raises:
    UserError if the path is none, nothing matches, or shapes do not fit: all at once.
    """
    theirs, source, left = open_source(Path(init.path))
    have, want = unrolled(named(source)), unrolled(named(params))
    pairs = dict(chosen(init, want, have))
    if not pairs:
        raise UserError(
            f"--init.path {init.path}: no parameter of this model is there;"
            f" it has {summary(list(have))}, the model {summary(list(want))}."
            " --init.take ours=theirs reads one part for another"
        )
    spelled = [path for path in pairs if by_vocabulary(path, want)]
    both = vocabularies(Path(init.path), tokenizer) if spelled else None
    heads = [path for path in pairs if path in HEADS and classes]
    order = order_of(classes, classes_at(Path(init.path))) if heads else []
    fitting = Fitting(model, theirs, both, spelled, order)
    fitted = {p: fitting.take(p, other, have[other], want[p]) for p, other in pairs.items()}
    if wrong := [each for each in fitted.values() if isinstance(each, str)]:
        listed = "\n".join(f"  {each}" for each in wrong)
        raise UserError(f"--init.path {init.path}: shapes do not fit:\n{listed}")
    taken = {path: each for path, each in fitted.items() if isinstance(each, Taken)}

    def those(how: str) -> tuple[str, ...]:
        return tuple(path for path, each in taken.items() if each.how == how)

    listing = Listing(
        matched=those("matched"),
        resized=those("resized"),
        by_word=those("by word"),
        known=f"{len(both.ids)} of {both.words} words" if both else "",
        fresh=tuple(path for path in want if path not in taken),
        unused=(*(path for path in have if path not in pairs.values()), *left),
        differs=(
            *differences(model, theirs, pairs),
            *([] if order else unknown_order(init, heads)),
        ),
    )
    found = {path: each.array for path, each in taken.items()}
    return nested(rolled({**want, **found}, named(params))), listing


class Taken(NamedTuple):
    """A parameter as ours has it, and how it came to fit."""

    array: Any
    how: Literal["matched", "resized", "by word"]


@dataclass(frozen=True)
class Fitting:
    """How parameters of the model `theirs` become those of `ours`.

    `words` are of the two vocabularies, by which the parameters `spelled` are found, and `order`
    that of our classes among theirs; none where all is as it is there.
    """

    ours: nn.Module
    theirs: nn.Module
    words: "Vocabularies | None"
    spelled: Collection[str]
    order: Sequence[int]

    def take(self, path: str, other: str, array: Any, like: Any) -> Taken | str:
        """`array`, which is `other` there, in the place of `like`; or why it does not fit."""
        words = self.words if path in self.spelled else None
        if words and not (words.alike and array.shape == like.shape):
            return self._by_word(words, path, array, like)
        eyes = eyes_of(path, self.ours), eyes_of(other, self.theirs)
        places = lattice(path, eyes[0]), lattice(other, eyes[1])
        how: Literal["matched", "resized"] = "matched"
        if array.shape != like.shape or not same_places(*places):
            there = told(array.shape, eyes[1])
            array = fit(path, array, like.shape, *places, row=all(map(in_a_row, eyes)))
            if array is None:
                return f"{path} is {told(like.shape, eyes[0])}, there {there}{hint(path)}"
            how = "resized"
        if path in HEADS:
            array = in_order(np.asarray(array), self.order, HEADS[path])
        return Taken(np.asarray(array, like.dtype), how)

    def _by_word(self, words: "Vocabularies", path: str, array: Any, like: Any) -> Taken | str:
        ends = getattr(self.theirs, "words", len(array)), getattr(self.ours, "words", len(like))
        rows = words.translated(array, like, *ends)
        if rows is None:
            few = f"{len(words.ids)} of {words.words} words are known there"
            return f"{path} is {like.shape}, there {array.shape}; {few}{hint(path)}"
        return Taken(rows, "by word")


def open_source(path: Path) -> tuple[nn.Module, Any, tuple[str, ...]]:
    """Model and parameters of a run, or of a published checkpoint with what it has besides."""
    if (path / "checkpoints").is_dir():
        return read(path).model, checkpoint.restore_params(path)[1], ()
    if not path.exists():
        raise UserError(f"--init.path {path}: neither a run, trained before, nor a checkpoint")
    loaded = pretrained.load(path)
    return loaded.model, loaded.params, loaded.unused


def chosen(init: Init, want: Leaves, have: Leaves) -> Iterator[tuple[str, str]]:
    """Path of ours -> path of theirs, of what is to be taken and is there. Raises: UserError."""
    takes = [tuple(take.split("=", 1)) if "=" in take else (take, take) for take in init.take]
    require_matches([ours for ours, _ in takes], want, "--init.take")
    require_matches([theirs for _, theirs in takes], have, f"--init.take from {init.path}")
    require_matches(init.skip, want, "--init.skip")
    for path in want:
        if any(matches(path, skip) for skip in init.skip):
            continue
        for ours, theirs in takes or [("*", "*")]:
            other = path if ours == theirs else f"{theirs}{path.removeprefix(ours)}"
            if matches(path, ours) and other in have:
                yield path, other
                break


def hint(path: str) -> str:
    skip = f"--init.skip {path.rpartition('/')[0]} leaves it fresh"
    if path.endswith(WORDS):
        return (
            f": another vocabulary; take its tokenizer.json (--data.tokenizer) and size, or {skip}"
        )
    return f"; {skip}"


# --- other classes ---


def classes_at(path: Path) -> tuple[str, ...]:
    """Their names by a run, or by config.json of a checkpoint; () where it tells none."""
    if (path / "checkpoints").is_dir():
        file = path / "classes.json"
        return labels.load(file) if file.exists() else ()
    names = read_json(path / CONFIG).get("id2label") or {}
    return tuple(str(names[str(number)]) for number in range(len(names)))


def order_of(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """The place of each of ours in theirs, then of those that ours lacks; [] if ours has others.

    ("cat", "dog") of ("dog", "owl", "cat") -> 2, 0, 1
    """
    if not {*ours} <= {*theirs}:
        return []
    places = [theirs.index(name) for name in ours]
    return places + [place for place in range(len(theirs)) if place not in places]


def in_order(array: np.ndarray, order: Sequence[int], axis: int) -> np.ndarray:
    """What is of no class, where a head has more places than there are names, stays behind."""
    rest = range(len(order), array.shape[axis])
    return np.take(array, [*order, *rest], axis)


def unknown_order(init: Init, heads: Sequence[str]) -> Iterator[str]:
    for head in dict.fromkeys(path.partition("/")[0] for path in heads):
        yield (
            f"{head}: {init.path} does not name the classes of the data, so which row is of which"
            f" is unknown (--init.skip {head} leaves it fresh)"
        )


# --- other words ---


@dataclass(frozen=True)
class Vocabularies:
    """`ids`: of the words of ours that theirs has too, ours -> theirs; `words` that ours has."""

    ids: Mapping[int, int]
    words: int

    @property
    def alike(self) -> bool:
        """Whether rows by words can be taken as they are."""
        return len(self.ids) == self.words and all(a == b for a, b in self.ids.items())

    def translated(
        self,
        array: Float[Array | np.ndarray, "V *D"],
        like: Float[Array, "W *D"],
        there: int,
        here: int,
    ) -> Float[Array, "W *D"] | None:
        """`like` with the rows of `array` that mean the same.

        Words have the ids under `there` and `here`; behind them are codes of pictures, in one
        order. None where these or the widths differ, or where too few words are known.
        """
        alike = (len(array) - there, *array.shape[1:]) == (len(like) - here, *like.shape[1:])
        if not alike or len(self.ids) < KNOWN * self.words:
            return None
        both = [(a, b) for a, b in self.ids.items() if a < here and b < there]
        both += [*zip(range(here, len(like)), range(there, len(array)), strict=True)]
        ours, theirs = (list(each) for each in zip(*both, strict=True))
        return (
            jnp.asarray(like)
            .at[jnp.array(ours)]
            .set(jnp.asarray(np.asarray(array)[theirs], like.dtype))
        )


def vocabularies(path: Path, ours: Tokenizer | None) -> Vocabularies | None:
    """Of a run that begins, and of the run or checkpoint that it begins with; None if unknown."""
    file = path / "tokenizer.json"
    if ours is None or not file.exists():
        return None
    theirs = tokenizers.load(file)
    known, wanted = (each.inner.get_vocab(with_added_tokens=True) for each in (theirs, ours))
    marks = {getattr(ours, mark): getattr(theirs, mark) for mark in MARKS}
    ids = {wanted[word]: known[word] for word in wanted.keys() & known.keys()}
    return Vocabularies(ids | marks, len(wanted))


def by_vocabulary(path: str, paths: Collection[str]) -> bool:
    """Whether its rows are words: their vectors, and the bias of `WordHead`."""
    parent, _, name = path.rpartition("/")
    return path.endswith(WORDS) or (name == "bias" and f"{parent}/transform/kernel" in paths)


# --- other sizes ---


class Lattice(NamedTuple):
    """Rows of a table: `extra` tokens, then places on a grid; how each axis is resampled."""

    extra: tuple[str, ...]
    grid: tuple[int, ...]
    kernels: tuple["Kernel", ...]


def eyes_of(path: str, model: Any) -> Senses | None:
    """The encoder of whose places `path` is the table; None where it is a text's."""
    if not path.endswith(TABLES):
        return None
    top = path.partition("/")[0]
    part = getattr(model, "image" if top == "positions" else top, None)  # those of MAE's decoder
    return part if isinstance(part, Senses) else None


def lattice(path: str, eyes: Senses | None) -> Lattice | None:
    """None where places are those of a text, or of a sound by convolutions."""
    if isinstance(eyes, VideoEncoder):
        return clip_lattice(path, eyes)
    if isinstance(eyes, ImageEncoder) or (isinstance(eyes, AudioEncoder) and eyes.stem == "patch"):
        return Lattice(eyes.extra, eyes.grid, (cubic, cubic))
    return None


def clip_lattice(path: str, eyes: VideoEncoder) -> Lattice:
    """Nearest where attention is divided, as TimeSformer is brought to other clips.

    Else space bicubic, as of pictures, and time linear: no more than two neighbours in time mix.
    """
    divided = eyes.kind == "divided"
    space, time = (nearest, nearest) if divided else (cubic, linear)
    times, *places = eyes.grid
    if path.endswith(TIMES):
        return Lattice((), (times,), (time,))
    together = eyes.positions == "table"
    first = eyes.class_token and (together or eyes.kind != "joint")
    extra = ("class_token",) * first
    if together:
        return Lattice(extra, eyes.grid, (time, space, space))
    return Lattice(extra, tuple(places), (space, space))  # times have a table of their own


def same_places(ours: Lattice | None, theirs: Lattice | None) -> bool:
    """Not of 2 x 8 patches and of 4 x 4, whose tables have one shape."""
    return ours is None or theirs is None or ours[:2] == theirs[:2]


def fit(
    path: str,
    array: np.ndarray,
    shape: Sequence[int],
    ours: Lattice | None,
    theirs: Lattice | None,
    row: bool,
) -> np.ndarray | None:
    """The array in another shape where that has a meaning, or None.

    Places on a lattice are resampled to another; of those in a `row`, of a text or of a sound that
    lies in time alone, the first are taken. A stem that sees frames `around` its own begins blind
    to them: their channels lie behind those of its own frame.
    """
    if path.endswith(SEES) and array.ndim == 4 and array.shape[2] < shape[2]:
        padded = np.pad(array, [(0, 0), (0, 0), (0, shape[2] - array.shape[2]), (0, 0)])
        return padded if padded.shape == tuple(shape) else None
    if not path.endswith(TABLES) or array.shape[1:] != tuple(shape[1:]):
        return None
    if ours and theirs and len(ours.grid) == len(theirs.grid):
        if not set(ours.extra) <= set(theirs.extra):
            return None
        rows = [array[theirs.extra.index(name)] for name in ours.extra]
        grid = array[len(theirs.extra) :].reshape(*theirs.grid, -1)
        resampled = resample(grid, ours.grid, ours.kernels)
        return np.concatenate([*(row[None] for row in rows), resampled])
    return array[: shape[0]] if row and shape[0] < array.shape[0] else None


def in_a_row(eyes: Senses | None) -> bool:
    return eyes is None or (isinstance(eyes, AudioEncoder) and eyes.stem == "conv")


def told(shape: Sequence[int], eyes: Senses | None) -> str:
    """A shape, and what its rows are where they are places of a picture."""
    if not isinstance(eyes, ImageEncoder):
        return str(shape)
    rows, columns = eyes.grid
    return f"{shape} ({', '.join([*eyes.extra, f'{rows} x {columns} patches'])})"


Kernel = Callable[[int, int], Float[np.ndarray, "size count"]]
"""The matrix that brings `count` samples to `size`."""


def resample(
    grid: Float[np.ndarray, "*grid D"], size: Sequence[int], kernels: Sequence[Kernel]
) -> Float[np.ndarray, "N D"]:
    """Each axis by its kernel, edges repeated, no antialiasing."""
    wide = np.asarray(grid, np.float64)
    for axis, (many, kernel) in enumerate(zip(size, kernels, strict=True)):
        matrix = kernel(grid.shape[axis], many)
        wide = np.moveaxis(np.tensordot(matrix, wide, (1, axis)), 0, axis)
    return wide.reshape(-1, grid.shape[-1]).astype(grid.dtype)


def nearest(count: int, size: int) -> Float[np.ndarray, "size count"]:
    return np.eye(count)[np.arange(size) * count // size]


def linear(count: int, size: int) -> Float[np.ndarray, "size count"]:
    centre = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    return np.maximum(1 - np.abs(centre[:, None] - np.arange(count)), 0)


def cubic(count: int, size: int) -> Float[np.ndarray, "size count"]:
    """Keys 1981, equation 4, with a = -0.75.

    This is how the published models are brought to another size of picture; `jax.image.resize` has
    a = -0.5 and smooths as it shrinks.
    """
    a = -0.75
    centre = (np.arange(size) + 0.5) * count / size - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((size, count))
    for tap in range(-1, 3):
        x = np.abs(centre - first - tap)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        weight = np.where(x <= 1, near, far)
        np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, count - 1)), weight)
    return matrix


# --- other mathematics ---


def same_rows(one: Sequence[int] | None, other: Sequence[int] | None) -> bool:
    """Of two grids, with times or without."""
    return bool(one and other and one[-2:] == other[-2:])


def differences(ours: Any, theirs: Any, pairs: Mapping[str, str]) -> Iterator[str]:
    """Fields with which the parameters that were matched mean something else.

    Those of the parts they lie in, and of the model itself where both are of one class.
    """
    tops = {(p.partition("/")[0], q.partition("/")[0]) for p, q in pairs.items()}
    compared = [(f"model.{own}", getattr(ours, own, None), getattr(theirs, other, None))
                for own, other in sorted(tops)]  # fmt: skip
    if type(ours) is type(theirs):
        compared = [("model", ours, theirs)]
    for place, one, two in compared:
        if not isinstance(one, nn.Module) or not isinstance(two, nn.Module):
            continue
        mine, there = flat(to_json(one)), flat(to_json(two))
        for key in mine:
            if key == "frames" or (key.endswith("grid") and same_rows(mine[key], there.get(key))):
                continue  # a DALL-E of clips begins as one of pictures
            if key in there and key.rpartition(".")[2] not in FREE and mine[key] != there[key]:
                value = re.sub(r"[\[\],]", "", str(there[key]))
                yield (
                    f"{place}.{key} is {mine[key]}, the checkpoint was made with {there[key]}"
                    f" (--{place}.{key.replace('_', '-')} {value})"
                )
