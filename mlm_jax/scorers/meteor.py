"""The exact part of METEOR 1.5 (Denkowski and Lavie, 2014): no stems, synonyms or paraphrases.

Its figures are not METEOR's, and not to be put beside them. They are what the program gives with
`-m exact -w 1.0 -p "0.85 0.2 0.6 0.5"`: its own parameters for English, but with function words
weighed as all others (0.5), as its list of them is not here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlm_jax.metrics import Sums, divide

ALPHA, BETA, GAMMA = 0.85, 0.2, 0.6
BEAM = 40  # the program's


class Match(NamedTuple):
    """Words of a candidate and of a reference, how many of them are the same, in how many runs.

    The same text is no run at all, and is not punished.
    """

    told: int
    wanted: int
    right: int
    runs: int

    @property
    def score(self) -> float:
        """Section 2 of the paper."""
        if not self.right:
            return 0.0
        mean = harmonic(self.right, self.told, self.wanted)
        return mean * (1 - GAMMA * (self.runs / self.right) ** BETA)


def harmonic(right: int, told: int, wanted: int) -> float:
    """Of precision and recall, of which recall counts more."""
    precision, recall = right / told, right / wanted
    return precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)


@dataclass(frozen=True)
class MeteorExact:
    """Of the sums over a corpus of "told", "wanted", "right" and "runs", each under `meteor `."""

    n: str = "captions"

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        told, wanted, right, runs = (sums[f"meteor {name}"] for name in Match._fields)
        precision, recall = divide(right, told, 0.0), divide(right, wanted, 0.0)
        mean = divide(precision * recall, ALPHA * precision + (1 - ALPHA) * recall, 0.0)
        pieces = divide(runs, right, 0.0)
        return mean * (1 - GAMMA * pieces**BETA)


def best_match(candidate: str, references: Sequence[str]) -> Match:
    """That with the reference that gives the best score."""
    words = candidate.split()
    told = Counter(words)
    split = [reference.split() for reference in references]
    bounds = [upper(told, len(words), other) for other in split]
    best: Match | None = None
    for bound, other in sorted(zip(bounds, split, strict=True), key=lambda pair: -pair[0].score):
        if best is not None and bound.score <= best.score:
            break
        nothing = not bound.right or words == other
        match = bound._replace(runs=0 if nothing else fewest_runs(words, other))
        if best is None or match.score > best.score:
            best = match
    assert best is not None  # there is a reference
    return best


def upper(told: Counter[str], length: int, other: Sequence[str]) -> Match:
    """As if all that is right stood in one run, or none if it is all, which bounds the score."""
    right = sum(min(times, told[word]) for word, times in Counter(other).items() if word in told)
    return Match(length, len(other), right, int(0 < right < max(length, len(other))))


def fewest_runs(words: Sequence[str], other: Sequence[str]) -> int:
    """How many runs of neighbours as many words as possible can be matched in.

    From the left, with the BEAM best ways so far: the place that the last word took (none: -2) and
    those taken in all, as bits.
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(other):
        places.setdefault(word, []).append(place)
    left = Counter(word for word in words if word in places)
    matched = {word: min(times, len(places[word])) for word, times in left.items()}
    ways = {(-2, 0): 0}
    for word in words:
        found = []
        mine = places.get(word, [])
        bits = sum(1 << at for at in mine)
        left[word] -= 1
        for (last, taken), runs in ways.items():
            for at in mine:
                if not taken >> at & 1:
                    found.append(((at, taken | 1 << at), runs + (at != last + 1)))
            if (taken & bits).bit_count() + left[word] >= matched.get(word, 0) or not mine:
                found.append(((-2, taken), runs))
        ways = fewest(found)
        if len(ways) > BEAM:
            ways = dict(sorted(ways.items(), key=lambda way: way[1])[:BEAM])
    return min(ways.values())


def fewest(ways: Iterable[tuple[tuple[int, int], int]]) -> dict[tuple[int, int], int]:
    """The fewest runs for each way of having got there."""
    found: dict[tuple[int, int], int] = {}
    for way, runs in ways:
        if runs < found.get(way, runs + 1):
            found[way] = runs
    return found
