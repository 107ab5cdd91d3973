"""Which of the things told is which of those that are there."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

TOLD = 8  # things of a text that are matched; a longer text has lost its way already
THERE = 5  # and of those that are there; the world has three, what was drawn may have more

Pairs = dict[int, int]


def best_pairs(
    told: int,
    there: int,
    possible: Callable[[int, int], bool],
    score: Callable[[Pairs], tuple[int, int]],
) -> Pairs:
    """Number of a thing told -> of one that is there: the pairing with the highest score.

    Each is taken at most once, and only where it is `possible`. The first TOLD and THERE are tried
    in every way; those beyond are left without a match.
    """
    options = [
        [j for j in range(min(there, THERE)) if possible(i, j)] for i in range(min(told, TOLD))
    ]
    return max(pairings(options), key=score)


def pairings(options: Sequence[Sequence[int]], taken: tuple[int, ...] = ()) -> Iterator[Pairs]:
    """Every way to give each row one of its options, or none, each of them to one row.

    [[0], [0, 1]] -> {0: 0, 1: 1}, {0: 0}, {1: 0}, {1: 1}, {}
    """
    if len(taken) == len(options):
        yield {i: j for i, j in enumerate(taken) if j >= 0}
        return
    for j in [*(j for j in options[len(taken)] if j not in taken), -1]:
        yield from pairings(options, (*taken, j))


def rising(pairs: Pairs) -> tuple[bool, ...]:
    """For each pair and the next, whether what is told later also comes later."""
    return tuple(a < b for a, b in pairwise(pairs[i] for i in sorted(pairs)))
