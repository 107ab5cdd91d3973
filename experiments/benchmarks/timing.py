"""Seconds, taken in turns, and what is said of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], object]
SHORTEST = 0.2  # seconds: a repeat is as many calls as take this long


def seconds(call: Call, times: int = 1) -> float:
    """Of one call, the mean over `times`; a call returns when its result is there."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def rounds(length: float, wanted: int) -> int:
    """How many rounds of `length` seconds: `wanted`, fewer (at least 3) where one takes over 40."""
    return wanted if length < 40 else max(3, min(wanted, round(280 / length)))


class Taken(NamedTuple):
    """Seconds of one call at each repeat, on the wall and of the processor.

    Those of the processor, over all threads of this process, do not grow by other work beside it;
    where there are several threads they hold the time that one waits for another awake.
    """

    wall: list[float]
    processor: list[float]


def in_turns(calls: Mapping[str, Call], once: Mapping[str, float], wanted: int) -> dict[str, Taken]:
    """A B C, C B A, A B C, ...; `once`: about how long a call takes, already warm."""
    times = {name: max(1, math.ceil(SHORTEST / once[name])) for name in calls}
    taken = {name: Taken([], []) for name in calls}
    for turn in range(rounds(sum(once[n] * times[n] for n in calls), wanted)):
        for name in list(calls)[:: -1 if turn % 2 else 1]:
            before = time.process_time()
            taken[name].wall.append(seconds(calls[name], times[name]))
            taken[name].processor.append((time.process_time() - before) / times[name])
    return taken


def summary(taken: Sequence[float]) -> dict[str, Any]:
    """Seconds: median and minimum; spread: the quartiles' distance over the median."""
    low, middle, high = np.percentile(taken, [25, 50, 75])
    return {
        "median": significant(float(middle)),
        "minimum": significant(min(taken)),
        "spread": significant(float((high - low) / middle), 2),
        "repeats": len(taken),
    }


def compared(ours: Sequence[float], others: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """`ours` against the best of the others by median: below 1 is faster.

    ratio: of the medians; ratio_of_minima; by_round: least and largest of the rounds' own ratios.
    """
    best = min(others, key=lambda name: float(np.median(others[name])))
    theirs = others[best]
    each = np.asarray(ours) / np.asarray(theirs)
    return {
        "best": best,
        "ratio": significant(float(np.median(ours) / np.median(theirs)), 3),
        "ratio_of_minima": significant(min(ours) / min(theirs), 3),
        "by_round": [significant(float(each.min()), 3), significant(float(each.max()), 3)],
    }


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
