"""How good maps are, on pictures of the embedded world, where it is known what a word speaks of.

pointing   whether the largest value of a map lies on an object that the word speaks of, or at
           most half a patch from it: maps of patches know no finer place
strict     the same at most STRICT of the side from it, the tolerance of arXiv:1608.00507
mass       the share of what is over 0 that lies inside the object
overlap    intersection over union of the object and as many of the largest pixels as it has
deletion   the probability of the word while the pixels of the largest values are blanked first, as
           the mean over the whole way (arXiv:1806.07421, section 3.2): low is good
insertion  the same while they are the first to be shown on a blank picture: high is good
random     rank correlation with the map of the same word by parameters that have learnt nothing
           (arXiv:1810.03292, section 3): near 0 where a map depends on what was learnt

Words are the sizes, colours and shapes that a caption of the model tells truly, of objects that can
be matched (see `spoken`). How the maps of a method are put together (all layers or one, one head,
with or without what the other words share) is chosen by pointing on every other PICTURES, and all
that is reported is of the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mlm_jax.config import UserError
from mlm_jax.data import loader, sources
from mlm_jax.explaining.asked import (
    Asked,
    Seen,
    Word,
    ask,
    asked_of,
    blank,
    require_multimodal,
    scores,
)
from mlm_jax.explaining.methods import METHODS, by_layer, explain, fresh
from mlm_jax.explaining.occlusion import blanked
from mlm_jax.explaining.spoken import Spoken, distance, mask, spoken
from mlm_jax.generate import Params
from mlm_jax.metrics import Figure, Ratio, Statistic, bootstrap
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.trained import Trained
from mlm_jax.world import scene

STRICT = 0.03  # of the side: 15 of 500 pixels
PICTURES = 16  # at a time
WAY = 9  # points of a curve, both ends counted
CURVES = 2  # words of a picture whose curves are drawn
RANDOM = 48  # pictures that are explained by random parameters too
STEPS = 8  # points of integrated gradients, of which a page has more
KINDS = ("size", "colour", "shape")


@dataclass(frozen=True)
class Measured:
    """Figures by "method/measure", what was chosen, and the mean curves of deleting, inserting.

    "chance" stands for a method that knows nothing, "centre" for the middle of the picture.
    """

    figures: dict[str, Figure]
    chosen: dict[str, str]
    tried: dict[str, dict[str, float]]
    curves: dict[str, dict[str, list[float]]]
    pictures: int
    words: int
    side: int
    tolerance: float
    """Of pointing, in pixels."""


class Case(NamedTuple):
    """A word that speaks of objects: its row in the batch, its place in the text, its pixels."""

    row: int
    place: int
    said: Spoken
    mask: Bool[np.ndarray, "H W"]
    away: Float[np.ndarray, "H W"]


class Batch(NamedTuple):
    asked: Asked
    cases: list[Case]
    rows: int


def measure(
    trained: Trained,
    pictures: int = 200,
    *,
    methods: Sequence[str] = tuple(METHODS),
    split: str = "test",
    seed: int = 0,
) -> Measured:
    """Raises: UserError for a run that sees no pictures of the embedded world, or too few."""
    model = require_multimodal(trained)
    refuse_no_pictures(trained)
    if pictures <= PICTURES:
        raise UserError(f"--pictures {pictures}: over {PICTURES}, as some choose, the others count")
    batches = list(read(trained, pictures, split))
    tuning, report = batches[::2], batches[1::2]
    if not all(any(batch.cases for batch in half) for half in (tuning, report)):
        raise UserError(
            f"--pictures {pictures}: too few captions of {trained.path} tell truly of an object"
        )
    tried = {method: tune(model, trained.params, tuning, method) for method in methods}
    chosen = {method: max(found, key=lambda name: found[name]) for method, found in tried.items()}
    return judge(trained, report, chosen, tried, seed)


def refuse_no_pictures(trained: Trained) -> None:
    """Raises: UserError for a run of clips or sounds, or of pictures that are not square."""
    needs = trained.take.needs
    if needs != ("image",):
        given = " ".join(f"--{sense} FILE" for sense in needs)
        raise UserError(
            f"{trained.path} takes {' and '.join(needs)}: maps are measured on pictures of the"
            " embedded world alone, where it is known what a word speaks of. Measure a run of"
            f" pictures (vit_tiny), or see the maps of one answer: {given} in place of --measure"
        )
    assert trained.take.image is not None
    height, width = trained.take.image.size
    if height != width:
        raise UserError(
            f"{trained.path} sees pictures of {height} x {width} pixels: maps are measured on"
            " square ones alone, where it is known which pixels an object covers. See the maps of"
            " one answer: --image FILE in place of --measure"
        )


# --- what is measured on ---


def read(trained: Trained, pictures: int, split: str) -> Iterator[Batch]:
    """Captions of so many pictures, evenly spread over the split, with what their words mean."""
    data = trained.config.data
    source = sources.open_source(data, data.test if split == "test" else split, trained.take.needs)
    examples = list(loader.eval_records(data, source, trained.take, limit=pictures))
    for _, record, arrays in examples:
        if set(arrays) != {"image"} or not record.truth or "objects" not in record.truth:
            raise UserError(
                f"{data.name}: {record.key} is no picture of the embedded world, where alone it is"
                " known what a word speaks of; without --measure any picture can be explained"
            )
    for start in range(0, len(examples), PICTURES):
        part = examples[start : start + PICTURES]
        truths = [scene.from_json(record.truth) for _, record, _ in part]
        shown = [dict(arrays) for _, _, arrays in part]
        filled = shown + [shown[-1]] * (PICTURES - len(shown))  # one shape, one program
        yield meant(trained, *ask(trained, filled), truths, len(shown[0]["image"]))


def meant(
    trained: Trained,
    asked: Asked,
    words: Sequence[Sequence[Word]],
    truths: Sequence[scene.Scene],
    side: int,
) -> Batch:
    """Only the words that speak of objects are left to be explained."""
    written = np.asarray(asked.target)[:, 1:]
    cases, left = [], []
    for row, (truth, own) in enumerate(zip(truths, words, strict=False)):
        at = {word.start: word for word in own}
        told = [
            each
            for each in spoken(trained.tokenizer.decode(written[row]), truth)
            if each.start in at
        ]
        left.append([at[each.start] for each in told])
        for place, each in enumerate(told):
            where = np.any([mask(thing, side) for thing in each.objects], axis=0)
            cases.append(Case(row, place, each, where, distance(where)))
    left += [[]] * (len(written) - len(truths))
    texts = {"text": asked.text, "text_mask": asked.text_mask}
    return Batch(asked_of(trained, asked.seen, texts, written, left), cases, len(truths))


# --- how maps are put together ---


def candidates(
    model: Multimodal, params: Params, asked: Asked, method: str
) -> dict[str, Float[np.ndarray, "B W H W"]]:
    """The maps of a method in each of the ways that they may be put together."""
    if method == "attention":
        layers = by_layer(model, params, asked)["image"]
        found = {"all layers and heads": layers.mean((2, 3))}
        for i in range(layers.shape[2]):
            found[f"layer {i + 1}"] = layers[:, :, i].mean(2)
            for j in range(layers.shape[3]):
                found[f"layer {i + 1}, head {j + 1}"] = layers[:, :, i, j]
    else:
        raw = explain(model, params, asked, method, steps=STEPS)["image"]
        if method not in ("gradient", "integrated"):
            found = {"as it is": raw}
        else:
            near = smooth(raw, model)
            found = {"each pixel": raw, "for and against": abs(raw)}
            found |= {"around each pixel": near, "for and against, around": smooth(abs(raw), model)}
        if method == "integrated":
            found = {f"{name}, of {STEPS} points": maps for name, maps in found.items()}
    real = np.asarray(asked.spans.sum(-1) > 0)
    own = {f"{name}, less the mean of the words": less(x, real) for name, x in found.items()}
    return found | (own if method in ("attention", "rollout", "relevance", "occlusion") else {})


def less(maps: np.ndarray, real: Bool[np.ndarray, "B W"]) -> np.ndarray:
    """What a word has more than the mean of the words of its text that are explained."""
    there = real[:, :, None, None]
    mean = (maps * there).sum(1, keepdims=True) / np.maximum(there.sum(1, keepdims=True), 1)
    return maps - mean


def smooth(maps: np.ndarray, model: Multimodal) -> np.ndarray:
    """The mean over a window as wide as a patch around each pixel."""
    assert model.image is not None
    patch = model.image.patch
    height, width = maps.shape[-2:]
    down, across = box(height, patch), box(width, patch)
    return np.einsum("ij,...jk,lk->...il", down, maps, across, optimize=True)


def box(size: int, window: int) -> Float[np.ndarray, "N N"]:
    apart = abs(np.arange(size)[:, None] - np.arange(size))
    near = (apart <= window // 2).astype(np.float32)
    return near / near.sum(1, keepdims=True)


def tune(
    model: Multimodal, params: Params, batches: Sequence[Batch], method: str
) -> dict[str, float]:
    """The pointing of each way to put the maps together."""
    hits: dict[str, list[bool]] = {}
    for batch in batches:
        for name, maps in candidates(model, params, batch.asked, method).items():
            hits.setdefault(name, []).extend(
                points(maps[case.row, case.place], case.away, tolerance(model))
                for case in batch.cases
            )
    return {name: float(np.mean(own)) for name, own in hits.items()}


# --- measures of one map ---


def tolerance(model: Multimodal) -> float:
    """Half a patch, in pixels."""
    assert model.image is not None
    return model.image.patch / 2


def points(
    values: Float[np.ndarray, "H W"], away: Float[np.ndarray, "H W"], tolerance: float
) -> bool:
    """Whether the largest value, the first among equals, is so near to the object."""
    return bool(away.flat[int(values.argmax())] <= tolerance)


def mass(values: Float[np.ndarray, "H W"], where: Bool[np.ndarray, "H W"]) -> float:
    """The share inside of what is over 0; the mask's share of the picture where nothing is."""
    above = np.maximum(values, 0)
    whole = float(above.sum())
    return float(above[where].sum()) / whole if whole > 0 else float(where.mean())


def overlap(values: Float[np.ndarray, "H W"], where: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union with as many pixels, those of the largest values."""
    size = int(where.sum())
    chosen = np.zeros(where.size, bool)
    chosen[np.argsort(-values, axis=None, kind="stable")[:size]] = True
    both = int((chosen & where.ravel()).sum())
    return both / (2 * size - both)


def by_chance(share: float) -> float:
    """The overlap to be expected of any pixels, as many as the mask has."""
    return share / (2 - share)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's, ties at their mean rank; 0 where a map is the same everywhere."""
    a, b = (ranks(each.ravel()) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else 0.0


def ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(times)
    return (last - (times - 1) / 2)[place].astype(np.float64)


def order_of(values: Float[np.ndarray, "H W"], rng: np.random.Generator) -> np.ndarray:
    """The place of each pixel in the falling order of values, equals in any order."""
    shuffled = rng.permutation(values.size)
    falling = shuffled[np.argsort(-values.ravel()[shuffled], kind="stable")]
    place = np.empty(values.size, np.int64)
    place[falling] = np.arange(values.size)
    return place.reshape(values.shape)


@partial(jax.jit, static_argnames=("model", "steps"))
def curves(
    model: Multimodal,
    params: Params,
    asked: Asked,
    base: Seen,
    order: Array,
    which: Array,
    *,
    steps: int = WAY,
) -> tuple[Array, Array]:
    """The probability of word `which` (B,) of each row, with 0 to all of its pixels deleted, and
    inserted, in `order` (B, H, W): both (steps, B)."""
    share = jnp.linspace(0, 1, steps)
    gone = order[None] < share[:, None, None, None] * order[0].size

    def told(hidden: Array) -> Array:
        said, _ = scores(model, params, blanked(asked, base, {"image": hidden}))
        return jnp.exp(jnp.take_along_axis(said, which[:, None], axis=1)[:, 0])

    return jax.lax.map(told, gone), jax.lax.map(told, ~gone)


def area(curve: Float[np.ndarray, "steps B"]) -> Float[np.ndarray, " B"]:
    """The mean over the way, by trapezia."""
    return ((curve[1:] + curve[:-1]) / 2).mean(0)


# --- all of them ---


def judge(
    trained: Trained,
    batches: Sequence[Batch],
    chosen: Mapping[str, str],
    tried: dict[str, dict[str, float]],
    seed: int,
) -> Measured:
    """All measures of the chosen maps, each with its interval by picture."""
    model: Any = trained.config.model
    rng, near = np.random.default_rng(seed), tolerance(model)
    counts: list[dict[str, float]] = []
    ways: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        some = drawn(batch, rng)
        own = [dict[str, float]() for _ in range(batch.rows)]
        counts += own
        if not batch.cases:
            continue
        for case in batch.cases:
            count_chance(own[case.row], case, near)
        maps = {m: candidates(model, trained.params, batch.asked, m)[chosen[m]] for m in chosen}
        for method, values in maps.items():
            for case in batch.cases:
                count(own[case.row], method, case, values[case.row, case.place], near)
        anything = rng.random((*batch.asked.spans.shape[:2], *batch.cases[0].mask.shape))
        for method, values in {**maps, "chance": anything}.items():
            found = walk(model, trained.params, batch.asked, values, some, rng)
            for name, curve in zip(("deletion", "insertion"), found, strict=True):
                ways.setdefault(f"{method}/{name}", []).append(curve)
                for case, value in zip(some, area(curve).tolist(), strict=True):
                    add(own[case.row], f"{method}/{name}", value)
        for case in some:
            add(own[case.row], "curves", 1)
        if len(counts) - batch.rows < RANDOM:
            blind = fresh(model, batch.asked, seed)
            for method, values in maps.items():
                other = candidates(model, blind, batch.asked, method)[chosen[method]]
                for case in batch.cases:
                    here = case.row, case.place
                    add(
                        own[case.row],
                        f"{method}/random",
                        rank_correlation(values[here], other[here]),
                    )
            for case in batch.cases:
                add(own[case.row], "randomised", 1)
    columns = {name for each in counts for name in each}
    mean: dict[str, dict[str, list[float]]] = {}
    for name, parts in ways.items():
        method, way = name.split("/")
        mean.setdefault(way, {})[method] = np.concatenate(parts, axis=1).mean(1).tolist()
    words = round(sum(each.get("words", 0) for each in counts))
    side = batches[0].asked.seen["image"].shape[1]
    figures = bootstrap(counts, statistics(columns))
    return Measured(figures, dict(chosen), tried, mean, len(counts), words, side, near)


def add(counts: dict[str, float], name: str, value: float) -> None:
    counts[name] = counts.get(name, 0.0) + float(value)


def count(
    counts: dict[str, float],
    method: str,
    case: Case,
    values: Float[np.ndarray, "H W"],
    near: float,
) -> None:
    hit = points(values, case.away, near)
    add(counts, f"{method}/pointing", hit)
    add(counts, f"{method}/{case.said.kind}", hit)
    add(counts, f"{method}/strict", points(values, case.away, STRICT * len(values)))
    add(counts, f"{method}/mass", mass(values, case.mask))
    add(counts, f"{method}/overlap", overlap(values, case.mask))


def count_chance(counts: dict[str, float], case: Case, near: float) -> None:
    """What any pixel would reach, and the one in the middle."""
    share, size = float(case.mask.mean()), len(case.mask)
    add(counts, "words", 1)
    add(counts, case.said.kind, 1)
    any_pixel = float((case.away <= near).mean())
    add(counts, "chance/pointing", any_pixel)
    add(counts, f"chance/{case.said.kind}", any_pixel)
    add(counts, "chance/strict", float((case.away <= STRICT * size).mean()))
    add(counts, "chance/mass", share)
    add(counts, "chance/overlap", by_chance(share))
    middle = float(case.away[size // 2, size // 2])
    add(counts, "centre/pointing", middle <= near)
    add(counts, f"centre/{case.said.kind}", middle <= near)
    add(counts, "centre/strict", middle <= STRICT * size)


def drawn(batch: Batch, rng: np.random.Generator) -> list[Case]:
    """CURVES words of each picture."""
    found = []
    for row in range(batch.rows):
        own = [case for case in batch.cases if case.row == row]
        found += [own[i] for i in rng.permutation(len(own))[:CURVES]]
    return found


def walk(
    model: Multimodal,
    params: Params,
    asked: Asked,
    maps: Float[np.ndarray, "B W H W"],
    some: Sequence[Case],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Curves of these words by their maps; batches are filled up to one shape."""
    filled = [*some, *[some[-1]] * (len(asked.target) * CURVES - len(some))]
    at = np.array([case.row for case in filled])
    rows: Asked = jax.tree.map(lambda x: jnp.take(x, at, axis=0), asked)
    order = np.stack([order_of(maps[case.row, case.place], rng) for case in filled])
    which = jnp.asarray([case.place for case in filled])
    both = curves(model, params, rows, blank(rows.seen), jnp.asarray(order), which)
    deleted, inserted = (np.asarray(curve)[:, : len(some)] for curve in both)
    return deleted, inserted


def statistics(columns: set[str]) -> dict[str, Statistic]:
    over = {"deletion": "curves", "insertion": "curves", "random": "randomised"}
    over |= {kind: kind for kind in KINDS}
    found: dict[str, Statistic] = {}
    for name in sorted(columns):
        method, _, what = name.partition("/")
        if what and method:
            below = over.get(what, "words")
            found[name] = Ratio(name, below, below)
    return found
