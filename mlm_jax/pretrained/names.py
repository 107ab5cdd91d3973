"""Name maps: one list of pairs a family, read in both directions.

A pair says which module of ours is which module on disk: `Pair("mlp/up", "intermediate.dense")`
stands for kernel and weight, bias and bias. How a kernel lies on disk follows from its axes here:
Linear (out, in), a convolution (O, I, *window). Of several modules of ours the tensor on disk has
one after the other along its output (GPT-2's c_attn).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from mlm_jax.config import UserError
from mlm_jax.pretrained.files import FLOATS, Stored, listed

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "table": "weight",
          "bias": "bias"}  # fmt: skip


class Pair(NamedTuple):
    """`ours`: paths of modules, or of single parameters; `theirs`: the name of a module or tensor.

    `flat`: axes of the tensor on disk, where ours has more or fewer of length 1 in front.
    `straight`: the weight lies (in, out), as in GPT-2's Conv1D.
    `window`: axes of the window of a convolution on disk. A kernel here, (*window, I, O), tells it,
    but where it has three axes, as those of attention have, or a first of length 1 not on disk.
    """

    ours: str | tuple[str, ...]
    theirs: str
    flat: int | None = None
    straight: bool = False
    window: int | None = None


def at(ours: str, theirs: str, pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs with `ours` and `theirs` put before their names; "" puts nothing."""

    def before(prefix: str, mark: str, name: str) -> str:
        return f"{prefix}{mark}{name}" if prefix and name else prefix or name

    def one(pair: Pair) -> Pair:
        own = pair.ours if isinstance(pair.ours, tuple) else (pair.ours,)
        names = tuple(before(ours, "/", name) for name in own)
        return pair._replace(ours=names, theirs=before(theirs, ".", pair.theirs))

    return [one(pair) for pair in pairs]


def layers(ours: str, theirs: str, depth: int, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of a block for each block; `ours` may be empty."""
    blocks = [at(f"block_{n}", f"{theirs}.{n}", pairs) for n in range(depth)]
    return [pair for block in blocks for pair in at(ours, "", block)]


class Tensor(NamedTuple):
    """One tensor on disk, and the parameters it becomes."""

    name: str
    shape: tuple[int, ...]
    paths: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]
    """Shapes of the parameters."""
    straight: bool
    window: int
    """Axes of the window of a convolution; 0 where it is none."""

    def read(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters, as views of `array` where that is possible."""
        pieces = [array]
        if len(self.paths) > 1:
            outputs = [_matrix(p, s)[-1] for p, s in zip(self.paths, self.parts, strict=True)]
            pieces = np.split(array, np.cumsum(outputs)[:-1], self._axis(array.ndim))
        turned = [self._turn(path, piece) for path, piece in zip(self.paths, pieces, strict=True)]
        shaped = [a.reshape(shape) for a, shape in zip(turned, self.parts, strict=True)]
        return dict(zip(self.paths, shaped, strict=True))

    def write(self, params: Mapping[str, Any]) -> np.ndarray:
        """The tensor, contiguous, as it lies on disk; not copied where it lies so already."""
        pieces = []
        for path, shape in zip(self.paths, self.parts, strict=True):
            array = np.asarray(params[path])
            if self.window:
                pieces.append(np.moveaxis(array, (-1, -2), (0, 1)))
            elif path.endswith("/kernel") and not self.straight:
                pieces.append(array.reshape(_matrix(path, shape)).T)
            else:
                pieces.append(array.reshape(_matrix(path, shape)))
        whole = (
            pieces[0] if len(pieces) == 1 else np.concatenate(pieces, self._axis(pieces[0].ndim))
        )
        return np.array(whole.reshape(self.shape), order="C", copy=None)

    def _axis(self, ndim: int) -> int:
        """That of the output."""
        return ndim - 1 if self.straight or ndim < 2 else 0

    def _turn(self, path: str, piece: np.ndarray) -> np.ndarray:
        if not path.endswith("/kernel"):
            return piece
        if self.window:
            return np.moveaxis(piece, (0, 1), (-1, -2))
        return piece if self.straight else piece.T


def _matrix(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A parameter without its axis of heads: (in, out) of a kernel, (out,) of a bias."""
    module, _, leaf = path.rpartition("/")
    if leaf == "kernel" and len(shape) == 3:
        inner = 2 if module.endswith("out") else 1
        return int(np.prod(shape[:inner])), int(np.prod(shape[inner:]))
    if leaf == "bias":
        return (int(np.prod(shape)),)
    return shape


def plan(pairs: Sequence[Pair], shapes: Mapping[str, tuple[int, ...]]) -> list[Tensor]:
    """The tensors on disk of a model with parameters of these shapes.

    Raises: ValueError if a parameter has no name on disk, or two: the map is wrong.
    """
    found = [tensor for pair in pairs for tensor in _expand(pair, shapes)]
    covered = [path for tensor in found for path in tensor.paths]
    names = [tensor.name for tensor in found]
    lost = sorted(shapes.keys() - set(covered))
    if lost or len(set(covered)) < len(covered) or len(set(names)) < len(names):
        raise ValueError(f"names on disk: none for {lost}, or one twice")
    return found


def _expand(pair: Pair, shapes: Mapping[str, tuple[int, ...]]) -> Iterable[Tensor]:
    ours = pair.ours if isinstance(pair.ours, tuple) else (pair.ours,)
    if ours[0] in shapes:
        yield _tensor(pair, pair.theirs, ours, shapes)
        return
    inside = [path for path in shapes if path.startswith(f"{ours[0]}/")]
    if not inside:
        raise ValueError(f"the map names {ours[0]}, which the model does not have")
    for path in inside:
        rest = path.removeprefix(ours[0])
        paths = tuple(f"{name}{rest}" for name in ours)
        yield _tensor(pair, f"{pair.theirs}.{LEAVES[path.rpartition('/')[2]]}", paths, shapes)


def _tensor(
    pair: Pair, name: str, paths: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> Tensor:
    parts = tuple(shapes[path] for path in paths)
    kernel, axes = paths[0].endswith("/kernel"), len(parts[0])
    window = (pair.window or (axes - 2 if axes > 3 else 0)) if kernel else 0
    shape: tuple[int, ...]
    if window:
        *sides, inner, outer = parts[0]
        shape = (outer, inner, *sides[-window:])
    else:
        shape = _matrix(paths[0], parts[0])
        if len(paths) > 1:
            outputs = (_matrix(p, s)[-1] for p, s in zip(paths, parts, strict=True))
            shape = (*shape[:-1], sum(outputs))
        if kernel and not pair.straight:
            shape = shape[::-1]
    if pair.flat is not None:
        whole = list(shape)
        while whole and whole[0] == 1:
            whole.pop(0)
        shape = (*[1] * (pair.flat - len(whole)), *whole)
    return Tensor(name, shape, paths, parts, pair.straight, window)


# --- names as they are found ---


class Spelling(NamedTuple):
    """How the names of a family vary from file to file.

    `old`: pattern -> replacement, from other spellings to the published one. `prefixes` come and
    go. `tied` tensors are copies of others. `ignored` patterns are no parameters, or belong to
    heads that the model does not have.
    """

    old: tuple[tuple[str, str], ...] = ()
    prefixes: tuple[str, ...] = ()
    tied: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()


GAMMA = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
BUFFERS = (r"(^|\.)position_ids$", r"(^|\.)token_type_ids$", r"\.attn\.(masked_)?bias$",
           r"\.crossattention\.(masked_)?bias$")  # fmt: skip


MAX_FORMS = 50  # unknown names that are compared with the missing ones, without their numbers


class Match(NamedTuple):
    """Names wanted -> tensors found, idle ones too; `unused` have no place in the model."""

    found: dict[str, Stored]
    unused: list[str]


def match(
    wanted: Sequence[Tensor],
    stored: Mapping[str, Stored],
    spelling: Spelling,
    idle: Mapping[str, tuple[int, ...]] = {},
) -> Match:
    """Which tensor is which; those of `idle` may be missing.

    Raises: UserError listing every name, shape and dtype that does not fit.
    """
    shapes = {tensor.name: tensor.shape for tensor in wanted}
    known = shapes.keys() | spelling.tied.keys() | idle.keys()
    places: dict[str, list[str]] = {}
    unused, strange = [], []
    for name in stored:
        canonical = spell(name, known, spelling)
        if canonical is not None:
            places.setdefault(canonical, []).append(name)
        elif any(re.search(p, name) for p in (*BUFFERS, *spelling.ignored)):
            unused.append(name)
        else:
            strange.append(name)
    wrong = [f"{' and '.join(n)} are all {name}" for name, n in places.items() if len(n) > 1]
    found = {name: stored[n[0]] for name, n in places.items()}
    for copy, source in spelling.tied.items():
        if copy not in found:
            continue
        twin = found.pop(copy)
        if source not in found:
            found[source] = twin
        elif not _equal(twin, found[source]):
            wrong.append(f"{copy} differs from {source}, to which it is tied here")
    missing = [name for name in shapes if name not in found]
    wrong += [f"{name} {shapes[name]} is missing" for name in missing]
    for name, tensor in found.items():
        shape = shapes.get(name, idle.get(name))
        if tensor.shape != shape:
            wrong.append(f"{name} is {tensor.shape}, wanted is {shape}")
        if tensor.dtype not in FLOATS:
            wrong.append(f"{name} is of dtype {tensor.dtype}, wanted is one of {', '.join(FLOATS)}")
    near = _nearest(strange, missing)
    wrong += [f"{name} {stored[name].shape} is unknown{near.get(name, '')}" for name in strange]
    if wrong:
        count = f"{len(wrong)} tensors do" if len(wrong) > 1 else "1 tensor does"
        raise UserError(f"{count} not fit:\n{listed(wrong)}")
    return Match(found, unused)


def spell(name: str, known: Any, spelling: Spelling) -> str | None:
    """The published name among `known`, or None."""
    for pattern, replacement in spelling.old:
        name = re.sub(pattern, replacement, name)
    bare = [name.removeprefix(prefix) for prefix in spelling.prefixes]
    more = [f"{prefix}{each}" for prefix in spelling.prefixes for each in (name, *bare)]
    return next((each for each in (name, *bare, *more) if each in known), None)


def _nearest(strange: Sequence[str], missing: Sequence[str]) -> dict[str, str]:
    """What each name was perhaps to be. Layers are alike: compared are names without numbers."""
    lacking = set(missing)
    forms = {re.sub(r"\d+", "#", name) for name in lacking}
    near: dict[str, list[str]] = {}
    found = {}
    for name in strange:
        form = re.sub(r"\d+", "#", name)
        if form not in near and len(near) < MAX_FORMS:
            near[form] = get_close_matches(form, sorted(forms), n=1, cutoff=0.6)
        numbers = re.findall(r"\d+", name)
        for other in near.get(form, ()):
            if other.count("#") == len(numbers):
                whole = other.replace("#", "{}").format(*numbers)
                if whole in lacking:
                    found[name] = f"; perhaps {whole}"
    return found


def _equal(one: Stored, other: Stored) -> bool:
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and one.dtype in FLOATS
        and bool(np.array_equal(one.read(), other.read()))
    )
