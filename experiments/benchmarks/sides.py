"""Two sides of a comparison: what each is, that they agree, and how long they take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.setting import Setting
from experiments.benchmarks.timing import compared, in_turns, seconds, significant, summary

Row = dict[str, Any]
Arrays = dict[str, np.ndarray]
CLOSE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest difference of outputs that is accepted, times the largest output where that is over 1."""


class DisagreementError(Exception):
    """Two sides that should compute the same do not: their times mean nothing."""


@dataclass(frozen=True)
class Side:
    """`call` computes, and returns when the result is there; `read` gives it as arrays."""

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], Arrays]


def of_jax(name: str, compute: Callable[[], Any]) -> Side:
    """`compute` gives a dict of jax arrays."""
    return Side(name, lambda: jax.block_until_ready(compute()), to_arrays)


def to_arrays(tree: Mapping[str, Any]) -> Arrays:
    return {name: np.asarray(value, np.float32) for name, value in tree.items()}


def difference(one: Arrays, other: Arrays) -> float:
    """The largest, over all outputs; infinite where one has not what the other has."""
    if one.keys() != other.keys():
        return float("inf")
    each = [np.abs(one[k] - other[k]).max() if one[k].shape == other[k].shape else np.inf
            for k in one]  # fmt: skip
    return float(max(each))


def agreed(one: Arrays, other: Arrays, bound: float) -> tuple[float, bool]:
    """The largest difference, and whether it is accepted."""
    found = difference(one, other)
    largest = max(float(np.abs(value).max()) for value in other.values())
    return found, found <= bound * max(1.0, largest)


def compare(
    row: Row, ours: Side, others: Sequence[Side], setting: Setting, bound: float | None = None
) -> Row:
    """`row` with the times of both sides, after two calls of each that gave the same.

    Two calls, because a training step shows its update in the second. The first of them is that
    which compiles. What torch cannot compile is left out and named in `impossible`. `bound` is the
    largest difference that is accepted (see `CLOSE`); infinite where nothing can be compared.
    Raises: DisagreementError.
    """
    bound = CLOSE[setting.precision] if bound is None else bound
    row = {**row, "precision": setting.precision, "first": {}, "difference": {}, "impossible": {}}
    once: dict[str, float] = {}
    wanted = twice(ours, row, once)
    calls = {ours.name: ours.call}
    for side in others:
        try:
            found = twice(side, row, once)
        except Exception as error:  # torch.compile lets through whatever its compilers raise
            if side.name == "eager":
                raise
            row["impossible"][side.name] = f"{type(error).__name__}: {str(error)[:300]}"
            continue
        largest = [agreed(a, b, bound) for a, b in zip(found, wanted, strict=True)]
        if not np.isinf(bound):
            row["difference"][side.name] = significant(max(d for d, _ in largest), 2)
        if not all(fine for _, fine in largest):
            raise DisagreementError(f"{row['what']}: {side.name} differs by {row['difference']}")
        calls[side.name] = side.call
    print(f"{row['what']}: largest difference {row['difference'] or 'not compared'}", flush=True)
    taken = in_turns(calls, once, setting.repeats)
    row["seconds"] = {name: summary(each.wall) for name, each in taken.items()}
    row["processor_seconds"] = {n: summary(each.processor) for n, each in taken.items()}
    walls = {name: each.wall for name, each in taken.items()}
    return row | compared(walls.pop(ours.name), walls) | {"processor_ratio": worked(row)}


def exact(row: Row, ours: Side, others: Sequence[Side], setting: Setting) -> Row:
    """Ids must be equal in float32; in bfloat16 the row says which share of them is."""
    bound = 0.0 if setting.precision == "float32" else np.inf
    first, wanted = ours.read(ours.call())["ids"], others[0].read(others[0].call())["ids"]
    same = float((first == wanted).mean()) if first.shape == wanted.shape else 0.0
    if setting.precision == "float32" and same < 1:
        raise DisagreementError(f"{row['what']}: {same:.3f} of the words are the same")
    row |= {"same_words": same, "different_words": len(np.unique(wanted))}
    return compare(row, ours, others, setting, bound)


def worked(row: Row) -> float:
    """Our seconds of the processor over the fewest of the other side's ways, by medians."""
    each = {name: s["median"] for name, s in row["processor_seconds"].items()}
    return significant(each.pop("ours") / min(each.values()), 3)


def twice(side: Side, row: Row, once: dict[str, float]) -> list[Arrays]:
    """What the first two calls give; the seconds of the first go into the row."""
    results: list[Any] = []

    def call() -> None:
        results.append(side.call())

    row["first"][side.name] = significant(seconds(call))
    once[side.name] = seconds(call)
    return [side.read(result) for result in results]


def rates(row: Row, count: float, unit: str) -> Row:
    """With `count` things a second for each side, and how many times the best other's rate."""
    each = {name: significant(count / s["median"]) for name, s in row["seconds"].items()}
    return row | {"rate": each, "unit": unit, "times": significant(1 / row["ratio"], 3)}
