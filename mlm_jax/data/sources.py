"""Sources: random access to the files and texts of any kind of data, by one name.

"world", "clips", "world/224px"     the embedded world, built below data.root on first use
"coco_captions", "voc/2007:5.0.0"   a set prepared by TFDS below data.root
"mine.jsonl", "mine/{split}.jsonl"  rows of a user's own, also .jsonl.gz
"mine/", "./clips"                  a folder with data.jsonl, or files with .txt captions
"""

import logging
from collections.abc import Collection, Iterator, Sequence

from mlm_jax.config import Data
from mlm_jax.data.own import is_own, open_own
from mlm_jax.data.prepared import open_prepared
from mlm_jax.data.records import BadRecord, DataError, Question, Record, Source
from mlm_jax.data.splits import parse
from mlm_jax.terminal import printable

__all__ = ["BadRecord", "DataError", "Question", "Record", "Source", "open_source", "read_source"]

log = logging.getLogger("mlm_jax.data")
NAMED = 5  # broken rows named in full; validate.py names all


def open_source(data: Data, split: str, needs: Collection[str] = ("image",)) -> Source:
    """Open a split; broken rows are left out and logged.

    `needs`: which of image, video and audio are read; the user's own rows need not have others.
    Raises DataError when nothing is usable or too many of the rows are broken (data.max_broken).
    """
    source = read_source(data, split, needs)
    for where, reason in list(source.broken.items())[:NAMED]:
        log.warning("broken row left out: %s: %s", where, reason)
    if len(source.broken) > NAMED:
        log.warning("and %d more broken rows of %s", len(source.broken) - NAMED, data.name)
    if not len(source):
        raise DataError(f"{data.name}: split {split!r} has no usable rows{_first(source)}")
    if data.too_many(len(source.broken), source.rows):
        raise DataError(
            f"{data.name}: {len(source.broken)} of {source.rows} rows that {split!r} is taken from "
            f"are broken, more than --data.max-broken {data.max_broken:g}{_first(source)}"
        )
    return source


def say_left_out(source: Source) -> None:
    """Print how many records have been left out so far, if any, and the first few with why."""
    count = len(source.broken)
    if count:
        print(f"{count:,} record{'s' if count > 1 else ''} left out:")
    for where, reason in list(source.broken.items())[:NAMED]:
        print(f"  {printable(where)}: {printable(reason)}")
    if count > NAMED:
        print(f"  and {count - NAMED:,} more; validate.py names them all")


def _first(source: Source) -> str:
    for where, reason in source.broken.items():
        return f"; the first: {where}: {reason}"
    return ""


def read_source(data: Data, split: str, needs: Collection[str] = ("image",)) -> Source:
    """Open a split without judging how much of it is broken; `broken` holds what was left out."""
    if is_own(data.name):
        parts = parse(split)
        opened: list[Source] = [open_own(data, part, needs) for part in parts]
        return opened[0] if len(parts) == 1 else Joined(opened, [part.name for part in parts])
    return open_prepared(data, split, needs)


class Joined:
    """Several sources one after the other: split "a+b". Parts of one of `names` share its rows."""

    def __init__(self, parts: Sequence[Source], names: Sequence[str]):
        self.parts = parts
        good = {n: part.rows - len(part.broken) for n, part in zip(names, parts, strict=True)}
        self.broken = {where: text for part in parts for where, text in part.broken.items()}
        self.rows = sum(good.values()) + len(self.broken)
        self.places = [(part, i) for part in parts for i in range(len(part))]
        self.classes = parts[0].classes

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:
        part, position = self.places[index]
        return part[position]

    def where(self, index: int) -> tuple[str, ...]:
        part, position = self.places[index]
        return part.where(position)

    def corpus(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.corpus()

    def labels(self, events: bool = False) -> Iterator[str]:
        for part in self.parts:
            yield from part.labels(events)
