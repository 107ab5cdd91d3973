"""Labels: the names of the classes, in the order of their numbers, and those of a record."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlm_jax.data.records import BadRecord, DataError, Record, Source

DIGITS = 4_300  # of a whole number, the most that Python reads


@dataclass(frozen=True)
class Labels:
    """A record's label as its number among `classes`, and with `taught` that of its teacher."""

    classes: tuple[str, ...]
    taught: bool = False

    def __call__(self, record: Record) -> dict[str, np.ndarray]:
        """label, and taught, int32 (). Raises: BadRecord for a label that is missing or unknown."""
        found = {"label": self._number(record.label, record.key)}
        if self.taught:
            found["taught"] = self._number(record.taught or record.label, record.key)
        return found

    def _number(self, label: str, where: str) -> np.ndarray:
        if label not in self._numbers:
            known = f"one of the {len(self.classes)} classes of the training split"
            raise BadRecord(where, "label", f"{label!r}; accepted: {known}")
        return np.array(self._numbers[label], np.int32)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}


def classes_of(source: Source, events: bool = False) -> tuple[str, ...]:
    """The names that the data tell, or else those that occur, in order. Raises: DataError.

    Those of the records, or of the `events` in them.
    """
    found = {*source.labels(events)} if events or not source.classes else {*source.classes}
    if not found and events:
        raise DataError("the data have no events; accepted: a column of them, which is named by"
                        " --data.fields.events (of prepared sets it is not read)")  # fmt: skip
    if not found:
        raise DataError("the data have no labels; accepted: a column of them, which is named by"
                        " --data.fields.label")  # fmt: skip
    return source.classes if found <= {*source.classes} else tuple(ordered(found))


def ordered(names: Iterable[str]) -> list[str]:
    """By the alphabet; whole numbers before, by their value."""
    return sorted(names, key=lambda name: (0, int(name), name) if is_number(name) else (1, 0, name))


def is_number(name: str) -> bool:
    """Of so many digits as Python reads."""
    return name.isascii() and name.removeprefix("-").isdigit() and len(name) <= DIGITS


def save(path: Path, classes: tuple[str, ...]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(classes, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    part.replace(path)


def load(path: Path) -> tuple[str, ...]:
    """Raises: DataError."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no names of classes ({error})") from error
    return tuple(names)
