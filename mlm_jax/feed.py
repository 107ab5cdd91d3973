"""What a run reads: its batches, its tokenizer, its classes; of several processes each a share."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from mlm_jax import processes, sharding, stages
from mlm_jax.checks import check_labels, check_lengths, check_vocab
from mlm_jax.config import Config, Data, UserError, inline, senses
from mlm_jax.data import labels, loader, sources, tokenizers
from mlm_jax.data.labels import Labels
from mlm_jax.data.records import Source
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.data.transforms import Take, keep_preprocessor, take_for, with_kept
from mlm_jax.losses import Classes, Spans
from mlm_jax.run import Run
from mlm_jax.stop import Stop

Batch = loader.Batch


@dataclass(frozen=True)
class Feed:
    """What a run reads; tokenizer and names of classes are made once for it."""

    config: Config
    tokenizer: Tokenizer
    labels: Labels | None
    take: Take
    source: Source
    share: tuple[int, int]
    unit: int = 1
    """Pictures of a batch are a multiple of it."""

    def batches(self, start: int, stop: Stop) -> Iterator[Batch]:
        """Batches from number `start` on: of several processes, the rows that this one holds."""
        config = self.config
        stream = self._stream(config.data, self.source, config.seed, start)
        return in_step(stream, stop)

    def held_out(self) -> list[Batch]:
        """The same pictures of data.test each time: as many whole batches as make
        config.eval_examples, or all there are. Raises: UserError."""
        data = self.config.data
        source = sources.open_source(data, data.test, self.take.needs)
        count = min(self.config.eval_examples, len(source))
        batch = min(data.batch, count) // self.unit * self.unit
        if not batch:
            raise UserError(
                f"data.test {data.test!r} has {len(source)} pictures for {self.unit} devices:"
                " --eval-every 0, or more pictures"
            )
        data = replace(data.plain, batch=batch)
        stream = in_step(self._stream(data, source, 0, 0), Stop())
        return [next(stream) for _ in range(count // data.batch)]

    def _stream(self, data: Data, source: Source, seed: int, start: int) -> Iterator[Batch]:
        return loader.train_batches(
            data,
            source,
            self.tokenizer,
            take_for(data, senses(self.config), self.take.events),
            seed,
            start,
            self.labels,
            inline(self.config),
            self.share,
        )


def in_step(batches: Iterator[Batch], stop: Stop) -> Iterator[Batch]:
    """Batches of the lengths that those of all processes need, and the signal that one of them got.

    What is to be agreed on goes out one batch ahead, before the step that it would wait for.
    """
    if jax.process_count() == 1:
        yield from batches
        return

    def ahead() -> tuple[Batch, Any]:
        batch = next(batches)
        return batch, processes.most([*loader.longest(dict(batch)), stop.asked or 0])

    coming = ahead()
    while True:
        (batch, agreed), coming = coming, ahead()
        *lengths, signal = np.asarray(agreed).tolist()
        stop.agreed = signal or None
        yield loader.cut(dict(batch), lengths)


def open_feed(config: Config, run: Run, mesh: jax.sharding.Mesh) -> Feed:
    check_lengths(config)
    given = senses(config)
    for eyes in (given[key] for key in ("image", "video") if key in given):
        keep_preprocessor(config.data, eyes.size, run.path)
    config = replace(config, data=with_kept(config.data, run.path))
    source = sources.open_source(config.data, config.data.train, given)
    if run.tokenizer.exists():
        tokenizer = tokenizers.load(run.tokenizer)
    else:
        tokenizer = stages.tokenizer(config) or tokenizers.build(config.data, source)
        part = run.tokenizer.with_suffix(".part")
        tokenizer.save(part)
        part.replace(run.tokenizer)
    check_vocab(config, tokenizer.size)
    check_hidden(config, tokenizer)
    check_pad(config, tokenizer)
    known = open_labels(config, run, source)
    spans = isinstance(config.loss, Spans)
    take = take_for(config.data, given, known.classes if known and spans else ())
    return Feed(
        config,
        tokenizer,
        None if spans else known,
        take,
        source,
        sharding.share(mesh),
        sharding.rows_apart(mesh),
    )


def check_hidden(config: Config, tokenizer: Tokenizer) -> None:
    """Raises: UserError if BERT would hide words by another id, or what is no word."""
    model: Any = config.model
    if not (hasattr(model, "mask_id") and model.masked):
        return
    mask = tokenizer.inner.token_to_id("[MASK]")
    ends = {tokenizer.pad, tokenizer.bos, tokenizer.eos}
    if ends <= {*model.special} and model.mask_id not in ends and mask in (None, model.mask_id):
        return
    right = tokenizer.unk if mask is None else mask
    raise UserError(
        f"model.mask_id is {model.mask_id} and model.special {model.special}: for this tokenizer"
        f" --model.mask-id {right} --model.special {' '.join(map(str, sorted(ends)))}"
    )


def check_pad(config: Config, tokenizer: Tokenizer) -> None:
    """Raises: UserError if DALL-E would fill captions up with another id than a batch is."""
    pad = getattr(config.model, "pad_id", tokenizer.pad)
    if pad != tokenizer.pad:
        raise UserError(f"model.pad_id is {pad}: for this tokenizer --model.pad-id {tokenizer.pad}")


def open_labels(config: Config, run: Run, source: Source) -> Labels | None:
    """The classes of the training split, where the loss is of classes. Raises: UserError."""
    if not isinstance(config.loss, Classes | Spans):
        return None
    if not run.classes.exists():
        labels.save(run.classes, labels.classes_of(source, isinstance(config.loss, Spans)))
    known = labels.load(run.classes)
    check_labels(config, len(known))
    return Labels(known, getattr(config.model, "taught", False))
