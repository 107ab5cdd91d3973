"""Counting and intervals: what was counted for each picture to figures with what is known of them.

Everything that is counted is first summed by picture, and pictures are what the bootstrap draws
again: texts about one picture are not independent of each other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from mlm_jax.scorers.answers import accuracy

Sums = Mapping[str, Float[np.ndarray, " S"]]
RESAMPLES = 1000
PEOPLE = 10  # who answer a question of the VQA challenge


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval, from `n` captions, questions or texts."""

    value: float
    low: float
    high: float
    n: int


@runtime_checkable
class Statistic(Protocol):
    """Sums of columns, each (S,), to S values; nan where it is not defined. `n` names a column."""

    @property
    def n(self) -> str: ...

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]: ...


@dataclass(frozen=True)
class Ratio:
    """top / bottom: a micro-average, as both are sums over all pictures."""

    top: str
    bottom: str
    n: str
    empty: float = np.nan
    """The value where bottom is 0."""

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        return divide(sums[self.top], sums[self.bottom], self.empty)


@dataclass(frozen=True)
class F1:
    """The harmonic mean of right / told (precision) and recalled / expected (recall)."""

    n: str

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        precision = divide(sums["right"], sums["told"], 0.0)
        recall = divide(sums["recalled"], sums["expected"], 0.0)
        return divide(2 * precision * recall, precision + recall, 0.0)


@dataclass(frozen=True)
class Perplexity:
    """exp of nats / tokens."""

    n: str

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        return np.exp(divide(sums["nats"], sums["tokens"]))


def divide(top: np.ndarray, bottom: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """`empty` where there is nothing to divide by."""
    return np.divide(top, bottom, out=np.full(np.shape(top), empty), where=bottom != 0)


def bootstrap(
    pictures: Sequence[Mapping[str, float]],
    statistics: Mapping[str, Statistic],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Each statistic of all pictures, between the 2.5 and 97.5 percentiles over redrawn ones.

    `pictures`: what was counted for each, by column; what is missing is 0. The percentile interval
    of Efron (1979): it has no width where all pictures agree, however few they are.
    """
    names = sorted({name for counts in pictures for name in counts})
    place = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(pictures), len(names)))
    for row, counts in zip(table, pictures, strict=True):
        for name, value in counts.items():
            row[place[name]] = value
    drawn = redrawn(len(pictures), resamples=resamples, seed=seed) @ table
    whole = dict(zip(names, table.sum(0)[:, None], strict=True))
    again = dict(zip(names, drawn.T, strict=True))
    return {name: _figure(each, whole, again) for name, each in statistics.items()}


def redrawn(count: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Float[np.ndarray, "S N"]:
    """How often each of `count` pictures is drawn, in each of the resamples."""
    rng = np.random.default_rng(seed)
    times = np.empty((resamples, count))
    for row in times:
        row[:] = np.bincount(rng.integers(0, count, count), minlength=count)
    return times


def _figure(statistic: Statistic, whole: Sums, again: Sums) -> Figure:
    values = np.concatenate([statistic(whole), statistic(again)])
    return figure_of(values, round(float(whole[statistic.n][0])))


def figure_of(values: Float[np.ndarray, " S"], n: int) -> Figure:
    """The first value, between the percentiles of the others, which are of redrawn pictures."""
    low, high = np.percentile(values[1:][~np.isnan(values[1:])], (2.5, 97.5)).tolist()
    return Figure(float(values[0]), low, high, n)


# --- answers ---


def normalise(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def agreement(answer: str, references: Sequence[str]) -> float:
    """1 if `answer` is one of the accepted ones, else 0, texts being compared normalised.

    With exactly ten, which is how the VQA challenge asks people, it is the challenge's accuracy,
    with the challenge's own way to compare (`scorers.answers`).
    """
    if len(references) == PEOPLE:
        return accuracy(answer, references)
    return float(any(normalise(reference) == normalise(answer) for reference in references))


def place_of(scores: Float[np.ndarray, " K"], right: Iterable[int]) -> int:
    """How many candidates score above the best of the right ones; ties count as above.

    0 is the first place. Counting ties against keeps a model that tells nothing apart at the end.
    """
    right = list(right)
    others = np.delete(scores, right)
    return int((others >= scores[right].max()).sum())


def commonest(values: Iterable[str]) -> str:
    """The most frequent, the first among equals."""
    return Counter(values).most_common(1)[0][0]
