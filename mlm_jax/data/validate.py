"""Validation: every row and every file is read, and every broken row is named.

python experiments/validate.py --data.name mine.jsonl [--data.images pictures.zip ...]
python experiments/validate.py --config NAME [--data.train ... --data.test ...]
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import grain
import tyro

from mlm_jax.config import Config, Data, inline, load, senses
from mlm_jax.data.labels import Labels, classes_of
from mlm_jax.data.own import is_own
from mlm_jax.data.pictures import from_array, open_picture
from mlm_jax.data.records import BadRecord, Record, Source
from mlm_jax.data.sources import read_source
from mlm_jax.data.splits import parse
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Take, Text, Tokenise, take_for
from mlm_jax.losses import Classes, Spans
from mlm_jax.terminal import printable

WORDS = {"image": "pictures", "video": "clips", "audio": "sounds"}


@dataclass(frozen=True)
class Arguments:
    """Read every row and picture of a data set and name the broken ones."""

    data: Data = field(default_factory=Data)


def main(argv: Sequence[str]) -> int:
    """Print a line for every broken row, then totals; 1 when a row is broken, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="validate.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="NAME")
    own, rest = parser.parse_known_args(argv)
    default = Arguments(load(own.config).data if own.config else Data())
    if not rest and not own.config:
        rest = ["--help"]
    data = tyro.cli(
        Arguments,
        prog="validate.py",
        args=rest,
        default=default,
        config=(tyro.conf.FlagConversionOff,),
    ).data
    config = replace(load(own.config), data=data) if own.config else None
    return max([validate(data, split, config) for split in splits(data)])


def splits(data: Data) -> list[str]:
    """The names of whole splits that hold all rows: "all" for a file that is one."""
    if is_own(data.name) and "{split}" not in data.name:
        return ["all"]
    parts = parse(data.train) + parse(data.test)
    return list(dict.fromkeys(part.name for part in parts))


def validate(data: Data, split: str, config: Config | None = None) -> int:
    """Check one split; 1 when something is broken or nothing is usable.

    With a `config` as its model reads them: one of text alone needs no pictures, and what is not
    among the classes of the training split is broken.
    """
    take = None if config is None else take_for(data, senses(config))
    needs = ("image",) if take is None else take.needs
    source = read_source(data, split, needs)
    broken = set(source.broken)
    for where, reason in source.broken.items():
        print(printable(f"{where}: {reason}"))
    known: Labels | None = None
    if config is not None and len(source):
        take, known = with_classes(config)
    alone = config is not None and inline(config)
    tokenise = Tokenise(build(data, source), data.text_length, data.target_length, alone)
    checked = grain.MapDataset.range(len(source)).map(
        lambda i: problems(source, i, tokenise, take, known)
    )
    options = grain.ReadOptions(data.threads, prefetch_buffer_size=max(1, 64 * data.threads))
    for errors in checked.to_iter_dataset(options):
        for error in errors:
            if error.where not in broken:
                print(printable(error))
            broken.add(error.where)
    name = f"{data.name} ({split})" if split != "all" else data.name
    what = WORDS[needs[0]] if needs else "texts"
    print(f"{name}: {source.rows:,} rows, {len(source):,} {what}, {len(broken):,} rows broken")
    if not len(source):
        print(f"{name}: no usable rows")
    return int(bool(broken) or not len(source))


def with_classes(config: Config) -> tuple[Take, Labels | None]:
    """What is taken, events or a label with it, by the classes of the training split."""
    take = take_for(config.data, senses(config))
    if not isinstance(config.loss, Classes | Spans):
        return take, None
    spans = isinstance(config.loss, Spans)
    classes = classes_of(read_source(config.data, config.data.train, take.needs), spans)
    if spans:
        return take_for(config.data, senses(config), classes), None
    return take, Labels(classes, getattr(config.model, "taught", False))


def problems(
    source: Source,
    index: int,
    tokenise: Tokenise,
    take: Take | None = None,
    known: Labels | None = None,
) -> list[BadRecord]:
    """What is wrong with a record: once for each of its rows when a file or its label is."""
    try:
        record = source[index]
        if take is None:
            check_picture(record)
        else:
            take(record)
        if known is not None:
            known(record)
    except BadRecord as error:
        return [BadRecord(where, error.key, error.reason) for where in source.where(index)]
    return list(text_problems(record, tokenise))


def check_picture(record: Record) -> None:
    """Decode the picture in full; raises BadRecord."""
    if isinstance(record.image, bytes):
        open_picture(record.image, record.key)
    else:
        from_array(record.image, record.key)


def text_problems(record: Record, tokenise: Tokenise) -> Iterator[BadRecord]:
    """Texts that have more tokens than fit."""
    rows = zip(record.captions, record.caption_rows, strict=True)
    texts = [Text("", caption, where) for caption, where in rows]
    for asked in record.questions:
        texts += [Text(asked.text, each, asked.where, asked.then) for each in asked.answers]
    for text in texts:
        try:
            tokenise(*text)
        except BadRecord as error:
            yield error
