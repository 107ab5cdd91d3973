"""Split names in the syntax of TFDS: "train", "train[:90%]", "train[100:200]", "a+b"."""

import re
from dataclasses import dataclass

from mlm_jax.data.records import DataError

_TERM = re.compile(r"([\w.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


@dataclass(frozen=True)
class Part:
    """One term of a split: a name and the bounds as they were written, "" where left out."""

    name: str
    start: str = ""
    stop: str = ""

    def select(self, count: int) -> range:
        """The positions that this part takes out of `count`; percentages round to the nearest."""
        return range(count)[_bound(self.start, count) : _bound(self.stop, count)]


def parse(split: str) -> tuple[Part, ...]:
    """ "a[:90%]+b" -> (Part("a", "", "90%"), Part("b")); raises DataError on anything else."""
    return tuple(_part(term, split) for term in split.split("+"))


def _part(term: str, split: str) -> Part:
    match = _TERM.fullmatch(term.strip())
    if match is None:
        raise DataError(
            f"split {split!r}: cannot read {term!r}; "
            'accepted: "train", "train[:90%]", "train[100:200]", "a+b"'
        )
    part = Part(match[1], match[2] or "", match[3] or "")
    for bound in (part.start, part.stop):
        if bound.endswith("%") and abs(int(bound[:-1])) > 100:
            raise DataError(f"split {split!r}: {bound} is more than the whole; at most 100%")
    return part


def _bound(text: str, count: int) -> int | None:
    if not text:
        return None
    if text.endswith("%"):
        return round(int(text[:-1]) * count / 100)
    return int(text)
