"""Classes: how often a model of pictures, clips, sounds or texts names the right one."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal
from zlib import crc32

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from mlm_jax.config import Data, UserError
from mlm_jax.data import labels, loader, sources
from mlm_jax.data.labels import Labels
from mlm_jax.data.records import BadRecord, Record, Source
from mlm_jax.data.transforms import Take
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.metrics import Figure, Ratio, Statistic, Sums, bootstrap, divide
from mlm_jax.trained import Trained

BATCH = 128
AMONG = 5
FEW = 100
OF_ALL = ("pictures", "right", "among", "common")
"""Columns that are not of a class."""


@dataclass(frozen=True)
class Views:
    """What is taken of a record `count` times: (V, ...), the first as it is, the same each time."""

    take: Take
    count: int

    def __call__(self, record: Record) -> dict[str, np.ndarray]:
        rngs = np.random.default_rng(crc32(record.key.encode())).spawn(self.count - 1)
        views = [self.take(record, rng) for rng in (None, *rngs)]
        return {key: np.stack([view[key] for view in views]) for key in views[0]}


def evaluate(trained: Trained, source: Source, limit: int | None, views: int = 1) -> Measured:
    """Accuracy, top-5, macro precision, recall and F1, and the accuracy of the commonest class.

    The details hold which class was taken for which; the counts are by picture, and by class where
    these are at most FEW. A class is as likely as it is on average over
    `views` of a record: as it is, and varied as in training. Raises: UserError.
    """
    data, model = trained.config.data, trained.config.model
    classes = labels.load(trained.path / "classes.json")
    take = trained.take
    if views < 1:
        raise UserError(f"--views {views}: at least 1")
    if views > 1 and (not take or data == data.plain):
        raise UserError(
            f"--views {views}: all would be alike; varied is what is seen or heard, where"
            " data.shift, speed, tone or noise is not 0"
        )
    learnt = trained.learnt_from
    common = commonest_class(sources.open_source(learnt, learnt.train, take.needs), classes)
    places: list[int] = []
    counts: list[dict[str, float]] = []
    confused = np.zeros((len(classes), len(classes)), int)
    if take:
        rows = labelled(data, source, Views(take, views), Labels(classes), limit)
    else:
        rows = labelled_texts(trained, source, Labels(classes), limit)
    for batch, count in batches(rows, max(1, at_once(trained.config, BATCH) // views)):
        right = batch.pop("label")[:count].tolist()
        places += batch.pop("place")[:count].tolist()
        best = np.asarray(likeliest(model, trained.params, batch, len(classes)))
        counts += [
            judged(row, label, common, len(classes))
            for row, label in zip(best, right, strict=False)
        ]
        np.add.at(confused, (right, best[:count, 0]), 1)
    if not counts:
        raise UserError(f"{data.name}: nothing with a label")
    figures = bootstrap(counts, statistics({name for each in counts for name in each}))
    if views > 1:
        figures["classes/views"] = Figure(views, views, views, len(counts))
    details = {"confusion": {"classes": classes, "counts": confused.tolist()}}
    return Measured(figures, details, kept(places, counts, len(classes)))


def labelled(
    data: Data, source: Source, take: Views, known: Labels, limit: int | None
) -> Iterator[loader.Batch]:
    """The arrays of every record with a label, which is among them, and its place in the split."""
    for place, _, arrays in loader.eval_records(data, source, take, known, limit):
        yield {**arrays, "place": np.array(place)}


def labelled_texts(
    trained: Trained, source: Source, known: Labels, limit: int | None
) -> Iterator[loader.Batch]:
    """Every text with its label once, as arrays (1, ...) of one; those without one are left out."""
    data = trained.config.data
    account = loader.Account(data, source)
    for pair, row in loader.eval_pairs(data, source, trained.tokenizer, Take(), limit):
        try:
            label = known(source[pair.index])
        except BadRecord as error:
            account.report(pair.index, error)
            continue
        texts = {key: row[key][None] for key in ("target", "target_mask")}
        yield {**texts, **label, "place": np.array(pair.index)}


def kept(
    places: Sequence[int], counts: Sequence[Mapping[str, float]], classes: int
) -> dict[int, Mapping[str, float]]:
    """Counts by place, of few classes those of each class too; none where a place is met twice."""
    if len(set(places)) < len(places):
        return {}
    if classes > FEW:  # three columns for each of so many would be most of a run directory
        counts = [{k: v for k, v in each.items() if k in OF_ALL} for each in counts]
    return dict(zip(places, counts, strict=True))


def judged(best: Int[np.ndarray, "K"], label: int, common: int, classes: int) -> dict[str, float]:
    """What is counted for a picture: `best` are the likeliest classes, the first first."""
    said = int(best[0])
    among = {"among": float(label in best[:AMONG])} if classes > AMONG else {}
    return {
        "pictures": 1.0, "right": float(said == label), "common": float(label == common), **among,
        f"said {said}": 1.0, f"is {label}": 1.0, f"both {label}": float(said == label),
    }  # fmt: skip


def statistics(columns: set[str]) -> dict[str, Statistic]:
    """The figures that can be made of what was counted, by name."""
    found: dict[str, Statistic] = {"classes/accuracy": Ratio("right", "pictures", "pictures")}
    if "among" in columns:
        found[f"classes/accuracy@{AMONG}"] = Ratio("among", "pictures", "pictures")
    met = {int(name.split()[1]) for name in columns if name.startswith(("said ", "is "))}
    if met:
        found |= {f"classes/macro_{kind}": Macro(tuple(sorted(met)), kind) for kind in KINDS}
    found["classes/majority"] = Ratio("common", "pictures", "pictures")
    return found


Kind = Literal["precision", "recall", "f1"]
KINDS: tuple[Kind, ...] = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Macro:
    """The mean over `classes` of both / said, both / is, or 2 * both / (said + is).

    Of a class that is never said the precision is 0. Those that nothing is or is said of are left
    out. Reads the columns "said c", "is c" and "both c" of each class c.
    """

    classes: tuple[int, ...]
    kind: Kind
    n: str = "pictures"

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        none = np.zeros_like(sums[self.n])
        total, there = none, none
        for c in self.classes:
            said, real = sums.get(f"said {c}", none), sums.get(f"is {c}", none)
            over = {"precision": said, "recall": real, "f1": (said + real) / 2}[self.kind]
            total = total + divide(sums.get(f"both {c}", none), over, 0.0)
            there = there + (said + real > 0)
        return divide(total, there)


def commonest_class(train: Source, classes: tuple[str, ...]) -> int:
    """Raises: UserError."""
    counted = Counter(train.labels())
    if not counted:
        raise UserError("the training split has no labels")
    return classes.index(counted.most_common(1)[0][0])


def batches(rows: Iterable[loader.Batch], size: int) -> Iterator[tuple[loader.Batch, int]]:
    """`size` rows as one, the last filled up with copies to the size of the first, and how many
    are real.
    """
    rows, first = iter(rows), 0
    while part := list(islice(rows, size)):
        first = first or len(part)
        whole = part + [part[-1]] * (first - len(part))
        batch = {key: np.stack([row[key] for row in whole]) for key in part[0]}
        yield batch, len(part)


@partial(jax.jit, static_argnames=("model", "classes"))
def likeliest(
    model: Any, params: Any, batch: Mapping[str, Array], classes: int
) -> Int[Array, "B K"]:
    """The AMONG likeliest of so many classes, or all where there are fewer, the first first.

    On average over the views of each row: arrays of `batch` are (B, V, ...). The model may have
    outputs for further classes, which are none.
    """
    rows, views = next(iter(batch.values())).shape[:2]
    seen = {key: array.reshape(-1, *array.shape[2:]) for key, array in batch.items()}
    logits = model.apply({"params": params}, seen)["logits"][:, :classes]
    # Logarithms: of a sure model all other probabilities are 0, and the next four are lost.
    each = jax.nn.log_softmax(logits).reshape(rows, views, -1)
    return jax.lax.top_k(jax.nn.logsumexp(each, axis=1), min(AMONG, classes))[1]
