"""Batches: a shuffled, endless, exactly resumable stream to train on, and every text once to test.

A broken record is replaced by the next good one. Which one is a pure function of the position in
the stream, so that a resumed run sees what an uninterrupted one would have seen.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any, TypeVar

import grain
import jax
import numpy as np

from mlm_jax.config import Data
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.labels import Labels
from mlm_jax.data.records import BadRecord, DataError, Record, Source
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.data.transforms import Pick, Take, Tokenise
from mlm_jax.terminal import printable

log = logging.getLogger("mlm_jax.data")
Batch = dict[str, Any]
Taking = Callable[[Record], Batch]
Row = TypeVar("Row")
CAPTION = "caption"  # the kind of a pair that asks for one
EPOCHS = 10**9  # without a number grain's length is the largest int, and batches of 1 overflow it
LENGTHS = (4, 8, *(n << i for i in range(3, 20) for n in (2, 3)))  # 4, 8, 16, 24, 32, 48, ...


@dataclass
class Account:
    """Keeps account of broken records until there are too many."""

    data: Data
    source: Source
    seen: set[int] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)

    def report(self, index: int, error: BadRecord) -> None:
        """Count and name a broken record once; raises DataError above data.max_broken."""
        with self.lock:
            if error.where in self.source.broken:
                return
            self.seen.add(index)
            self.source.broken[error.where] = f"{error.key}: {error.reason}"
            log.warning("broken record left out: %s", printable(error))
            if self.data.too_many(len(self.seen), len(self.source)):
                raise DataError(
                    f"{len(self.seen)} of {len(self.source)} records of {self.data.name} are "
                    f"broken, more than --data.max-broken {self.data.max_broken:g}; the last: "
                    f"{error}"
                )


@dataclass
class Example:
    """A position in the stream to the arrays of one record, with its texts and labels."""

    account: Account
    take: Take
    pick: Pick
    tokenise: Tokenise
    labels: Labels | None

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        """`index`: the number of the record."""
        count = len(self.account.source)
        for step in range(count):
            at = (index + step) % count
            try:
                return self.arrays(self.account.source[at], rng)
            except BadRecord as error:
                self.account.report(at, error)
        raise DataError(f"{self.account.data.name}: no usable record")

    def arrays(self, record: Record, rng: np.random.Generator) -> Batch:
        """What is seen and heard (1, ...), label (1,), text and target rows (texts, length), and
        those of `also`.
        """
        arrays: Batch = {}
        if self.labels is not None:
            arrays |= {key: number[None] for key, number in self.labels(record).items()}
        arrays |= {key: array[None] for key, array in self.take(record, rng).items()}
        groups = [
            stack([{key: row[None] for key, row in self.tokenise(*text).items()} for text in texts])
            for texts in self.pick(record, rng)
        ]
        for rows in groups[:1]:
            arrays |= rows
        for rows in groups[1:]:
            arrays["also"] = rows
        return arrays


def train_batches(
    data: Data,
    source: Source,
    tokenizer: Tokenizer,
    take: Take,
    seed: int,
    start: int = 0,
    labels: Labels | None = None,
    inline: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Endless shuffled batches of data.batch pictures; `start` batches are already consumed.

    `share` (i, n): of each batch the i-th of n equal parts alone, which is then not trimmed, since
    what the batch needs is known to all parts together.

    With `labels` batches have labels too, and a record without one is a broken one. `inline` is
    that of `Tokenise`.
    Rows are cut to what the batch needs (`trim`). The stream depends on the data, the seed and
    nothing else: not on data.threads, not on where it was resumed. Raises DataError when too many
    records are broken.
    """
    example = Example(
        account=Account(data, source),
        take=take,
        pick=Pick(data.captions, data.questions, data.contrary),
        tokenise=Tokenise(tokenizer, data.text_length, data.target_length, inline),
        labels=labels,
    )
    part, parts = share

    def whole(examples: Sequence[Batch]) -> Batch:
        return trim(stack(examples))

    stream = (
        grain.MapDataset.range(len(source))
        .seed(seed % 2**32)
        .shuffle()
        .repeat(EPOCHS)
        .random_map(example)
        .batch(data.batch // parts, batch_fn=stack if parts > 1 else whole)
    )
    return iter(stream[start * parts + part :: parts].to_iter_dataset(_options(data)))


def _options(data: Data) -> grain.ReadOptions:
    return grain.ReadOptions(data.threads, prefetch_buffer_size=max(1, 2 * data.threads))


def stack(batches: Sequence[Batch]) -> Batch:
    """One batch after the other, as one."""
    whole: Batch = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    return whole


def filled(rows: Iterable[Row], size: int) -> Iterator[tuple[list[Row], int]]:
    """So many rows at a time, the last of all again where there are no more; how many are real.

    0 1 2 by 2 -> (0 1, 2), (2 2, 1)
    """
    left = iter(rows)
    while part := list(islice(left, size)):
        yield part + part[-1:] * (size - len(part)), len(part)


def trim(batch: Batch) -> Batch:
    """Columns that are padding in every row left out, up to a length in LENGTHS.

    A step is compiled for each pair of lengths that occurs, so there must be few.
    """
    return cut(batch, longest(batch))


def longest(batch: Batch) -> list[int]:
    """Tokens of the longest row of text and target, and of those of `also`."""
    groups = [batch, batch["also"]] if "also" in batch else [batch]
    return [int(rows[f"{key}_mask"].sum(1).max()) for rows in groups for key in texts_of(rows)]


def cut(batch: Batch, lengths: Iterable[int]) -> Batch:
    """The first columns of text and target: as many as rows of such `lengths` (`longest`) need."""
    left = iter(lengths)
    for key in texts_of(batch):
        needed = next(left)
        length = next((n for n in LENGTHS if n >= needed), batch[key].shape[1])
        names = [key, f"{key}_mask", *(["scored"] if key == "target" and "scored" in batch else [])]
        batch = batch | {name: batch[name][:, :length] for name in names}
    return batch | {"also": cut(batch["also"], left)} if "also" in batch else batch


def texts_of(batch: Batch) -> list[str]:
    return [key for key in ("text", "target") if key in batch]


@dataclass(frozen=True)
class Pair:
    """One text to evaluate with all that is known about it.

    index: the record in the source.  kind: "caption", or the kind of the question.
    references: every caption of the picture, or every accepted answer.
    """

    index: int
    where: str
    question: str
    references: tuple[str, ...]
    kind: str
    truth: str = ""
    then: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> str:
        """The text that is scored: the commonest reference, the first among equals."""
        return Counter(self.references).most_common(1)[0][0]


def pairs_of(record: Record, index: int, data: Data) -> list[Pair]:
    """The caption prompt if a record has captions, then every question, in order.

    Of a kind that training has none of only where the record has no other, as `Pick` does it.
    """
    pairs = []
    if record.captions and (data.captions or not record.questions):
        pairs.append(
            Pair(index, record.key, CAPTION_PROMPT, record.captions, CAPTION, record.truth)
        )
    for asked in record.questions if data.questions or not record.captions else ():
        where = asked.where or record.key
        about = (asked.kind, record.truth, asked.then)
        pairs.append(Pair(index, where, asked.text, asked.answers, *about))
    return pairs


def eval_pairs(
    data: Data,
    source: Source,
    tokenizer: Tokenizer,
    take: Take,
    limit: int | None = None,
    inline: bool = False,
) -> Iterator[tuple[Pair, Batch]]:
    """Every record with its texts once, in order, as arrays of one row; broken ones left out.

    `limit`: at most that many pictures, evenly spread over the source.
    """
    account = Account(data, source)
    tokenise = Tokenise(tokenizer, data.text_length, data.target_length, inline)
    count = len(source) if limit is None else min(limit, len(source))

    def read(position: int) -> list[tuple[Pair, Batch]]:
        index = position * len(source) // count
        try:
            record = source[index]
            taken = take(record)
        except BadRecord as error:
            account.report(index, error)
            return []
        pairs = []
        for pair in pairs_of(record, index, data):
            try:
                texts = tokenise(pair.question, pair.target, pair.where, pair.then)
                pairs.append((pair, taken | texts))
            except BadRecord as error:
                account.report(index, error)
        return pairs

    for pairs in grain.MapDataset.range(count).map(read).to_iter_dataset(_options(data)):
        yield from pairs


def eval_records(
    data: Data, source: Source, take: Taking, labels: Labels | None = None, limit: int | None = None
) -> Iterator[tuple[int, Record, Batch]]:
    """The place of every record, in order, itself and its arrays, of one row; no broken ones.

    `limit`: at most that many pictures, evenly spread over the source.
    """
    account = Account(data, source)
    count = len(source) if limit is None else min(limit, len(source))

    def read(position: int) -> list[tuple[int, Record, Batch]]:
        index = position * len(source) // count
        try:
            record = source[index]
            return [(index, record, take(record) | (labels(record) if labels else {}))]
        except BadRecord as error:
            account.report(index, error)
            return []

    for rows in grain.MapDataset.range(count).map(read).to_iter_dataset(_options(data)):
        yield from rows


def eval_labelled(
    data: Data, source: Source, take: Taking, labels: Labels | None, limit: int | None = None
) -> Iterator[Batch]:
    """The arrays of `eval_records` alone, with their labels."""
    return (arrays for _, _, arrays in eval_records(data, source, take, labels, limit))
