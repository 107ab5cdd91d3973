"""What a source yields: one record per picture, with all the texts that belong to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mlm_jax.config import UserError
from mlm_jax.data import CAPTION_PROMPT


class DataError(UserError, ValueError):
    """A user's mistake about data: the message says where, what, and what would be accepted."""


class BadRecord(DataError):  # noqa: N818
    """One record that cannot be used."""

    def __init__(self, where: str, key: str, reason: str):
        """`where` is "file:row", `key` the column or part, `reason` ends with what is accepted."""
        super().__init__(f"{where}: {key}: {reason}")
        self.where, self.key, self.reason = where, key, reason


@dataclass(frozen=True)
class Question:
    """A question, every accepted answer in the order of the source, its kind and its row.

    then: what was asked and answered next, where the question begins a conversation.
    """

    text: str
    answers: tuple[str, ...]
    kind: str = ""
    where: str = ""
    then: tuple[tuple[str, str], ...] = ()


class Sounding(NamedTuple):
    """Samples (S,) or (S, channels) of any dtype, so many a second."""

    samples: np.ndarray
    rate: float


class Event(NamedTuple):
    """What happens from `start` to `end`, in seconds."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Record:
    """A picture, clip or sound and its texts; where none are read (`Data.texts`), its label.

    A text of a user's own that stands for itself may have a label as well.

    key: "file:row" of the first row.  image: an encoded file, or uint8 (H, W, 3).  video: an
    encoded file or where it lies, or pictures, of which there are `rate` a second.  audio: an
    encoded file or where it lies, or samples.  events: what happens in the clip.
    truth: the scene of the embedded world as JSON, "" elsewhere.
    caption_rows: "file:row" of every caption.  label: its class by name, and taught: that which a
    teacher gave it; "" where there is none.
    """

    key: str
    image: bytes | np.ndarray = b""
    captions: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    truth: str = ""
    caption_rows: tuple[str, ...] = ()
    label: str = ""
    taught: str = ""
    video: bytes | Path | tuple[bytes | np.ndarray, ...] = b""
    rate: float = 0.0
    audio: bytes | Path | Sounding = b""
    events: tuple[Event, ...] = ()


@runtime_checkable
class Source(Protocol):
    """Random access to records. `broken` maps "file:row" to a reason and grows while reading.

    `classes` are the names of all labels where the data tell them, in their order; () elsewhere.
    """

    broken: dict[str, str]
    rows: int
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of pictures; `rows` counts the rows they were gathered from, broken ones too."""

    def __getitem__(self, index: int) -> Record:
        """The record of a picture; raises BadRecord."""

    def where(self, index: int) -> tuple[str, ...]:
        """The rows of a record for messages, each "file:row"; the first is Record.key."""

    def corpus(self) -> Iterator[str]:
        """Every caption, question and answer, without reading pictures."""

    def labels(self, events: bool = False) -> Iterator[str]:
        """The label of every record that has one, or those of its events, without its files."""


def texts_of(captions: tuple[str, ...], questions: tuple[Question, ...]) -> Iterator[str]:
    """All texts of one record; the caption prompt stands for the question of a caption."""
    if captions:
        yield CAPTION_PROMPT
    yield from captions
    for question in questions:
        yield question.text
        yield from question.answers
        for turn in question.then:
            yield from turn
