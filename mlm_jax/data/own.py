"""A user's own data: rows of a JSONL, or a folder of files with captions beside them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.config import SENSES, Data, Fields
from mlm_jax.data.pictures import Arrays, Place, find, find_file, open_place
from mlm_jax.data.records import BadRecord, DataError, Event, Question, Record, texts_of
from mlm_jax.data.rows import (
    SUFFIXES,
    column,
    packed,
    parse_captions,
    parse_chat,
    parse_events,
    parse_label,
    parse_questions,
    parse_rate,
    read_files,
    read_jsonl,
    read_pairs,
)
from mlm_jax.data.splits import Part

Row = tuple[int | str, dict[str, Any]]  # the number of a line or the name of a file
Names = tuple[str, ...]  # one, or those of the frames of a clip


def names_rows(name: str) -> bool:
    """Whether a name can only be that of the user's own rows."""
    return name.endswith((".jsonl", ".jsonl.gz")) or "{split}" in name


def is_own(name: str) -> bool:
    """Whether a name is a path of the user's own rather than a set below data.root.

    Raises: DataError for one that is both the embedded world and a folder of files.
    """
    if names_rows(name):
        return True
    kind, _, config = name.partition("/")
    if kind not in ("world", "clips"):
        return Path(name).is_dir()
    if not _holds_files(Path(name)):
        return False
    if not config:
        raise DataError(
            f"data {name!r} is the embedded world and a folder of files here: ./{name} is the"
            f" folder, and {name}/48px the world"
        )
    from mlm_jax.world.builder import BUILDERS

    return config not in [each.name for each in BUILDERS[kind].BUILDER_CONFIGS]


def _holds_files(folder: Path) -> bool:
    suffixes = (".jsonl", ".jsonl.gz", *(suffix for kind in SUFFIXES.values() for suffix in kind))
    files = folder.iterdir() if folder.is_dir() else ()
    return any(file.name.lower().endswith(suffixes) for file in files)


@dataclass
class Entry:
    """The rows that share a picture, clip or sound, in file order."""

    files: dict[str, Names]
    where: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    caption_rows: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    label: str = ""
    taught: str = ""
    rate: float = 0.0
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Shots:
    """The pictures of a clip, of which each is read when it is asked for."""

    places: Sequence[Place]
    names: Names
    where: str

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        return find(self.places, self.names[index], self.where)


def is_film(name: str) -> bool:
    """A GIF is a picture as well, unless a clip is asked for."""
    return name.lower().endswith(SUFFIXES["video"])


@dataclass
class Rows:
    """Records of a user's own rows: texts in memory, files read when asked for."""

    entries: Sequence[Entry]
    places: Sequence[Place]
    rows: int
    broken: dict[str, str]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        return Record(
            key=entry.where[0],
            captions=tuple(entry.captions),
            questions=tuple(entry.questions),
            caption_rows=tuple(entry.caption_rows),
            label=entry.label,
            taught=entry.taught,
            rate=entry.rate,
            events=entry.events,
            **{key: self._read(key, names, entry.where[0]) for key, names in entry.files.items()},
        )

    def _read(self, key: str, names: Names, where: str) -> Any:
        """Pictures, and what is in an archive, as bytes; else where it lies."""
        if key == "image":
            return find(self.places, names[0], where)
        still = names[0].lower().endswith(SUFFIXES["image"]) and not is_film(names[0])
        if key == "video" and (len(names) > 1 or still):
            return Shots(self.places, names, where)
        return find_file(self.places, names[0], where, key)

    def where(self, index: int) -> tuple[str, ...]:
        return tuple(self.entries[index].where)

    def corpus(self) -> Iterator[str]:
        for entry in self.entries:
            yield from texts_of(tuple(entry.captions), tuple(entry.questions))

    def labels(self, events: bool = False) -> Iterator[str]:
        for entry in self.entries:
            if events:
                yield from (event.label for event in entry.events)
            elif entry.label:
                yield entry.label


def open_own(data: Data, part: Part, needs: Collection[str] = ("image",)) -> Rows:
    """Open one term of a split; broken rows are left out and named. Raises DataError.

    Rows must name a file for each of `needs`, and no other is looked for.
    """
    path = _file(data.name, part)
    broken: dict[str, str] = {}
    places = [open_place(Path(name.replace("{split}", part.name))) for name in data.images]
    fields = Fields() if path.is_dir() else data.fields
    kinds = tuple(key for key in SENSES if key in needs)
    rows: list[Row] = list(_rows(path, data.texts, kinds, broken))
    if "{split}" not in data.name:
        rows = _of_split(rows, path, part, fields.split, broken)
    total = len(rows) + len(broken)
    folder = path if path.is_dir() else path.parent
    add = _add_texts if data.texts else _add_labels
    entries = _group(rows, path, fields, places, broken, add, kinds)
    chosen = [entries[i] for i in part.select(len(entries))]
    return Rows(chosen, places or [open_place(folder)], total, broken)


def tells_splits(data: Data) -> bool:
    """Whether the name of the user's own rows, or a column of them, tells of which split they are.

    Raises: DataError.
    """
    if "{split}" in data.name:
        return True
    path = _file(data.name, Part("all"))
    rows = () if path.is_dir() else read_jsonl(path, {})
    return any(column(values, data.fields.split) is not None for _, values in rows)


def _rows(path: Path, texts: bool, kinds: tuple[str, ...], broken: dict[str, str]) -> Iterator[Row]:
    if not path.is_dir():
        return read_jsonl(path, broken)
    kinds = kinds or ("image",)
    return read_pairs(path, kinds, broken) if texts else read_files(path, kinds)


def _file(name: str, part: Part) -> Path:
    """The file of a split: {split} filled in, .gz when only that exists, data.jsonl of a folder."""
    path = Path(name.replace("{split}", part.name))
    if path.is_dir():
        path = path / "data.jsonl" if (path / "data.jsonl").exists() else path
    path = packed(path)
    if not path.exists():
        raise DataError(f"{path}: no such file{_beside(path)}")
    return path


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})"
    names = sorted(file.name for file in path.parent.iterdir() if ".jsonl" in file.name)
    return f"; in that folder: {', '.join(names) or 'no .jsonl'}"


def _of_split(
    rows: list[Row], path: Path, part: Part, key: str, broken: dict[str, str]
) -> list[Row]:
    """The rows of a split by their own column; without such a column the file is "train"."""
    if part.name == "all":
        return rows
    named = {row: column(values, key) for row, values in rows}
    names = sorted({str(name) for name in named.values() if name is not None})
    if not names:
        if part.name == "train":
            return rows
        raise DataError(
            f"{path}: no split {part.name!r}, as the rows have no column {key!r}; accepted: slices "
            'of "train", such as "train[:90%]" to train on and "train[90%:]" to test on'
        )
    if part.name not in names:
        raise DataError(f"{path}: no split {part.name!r} in column {key!r}; accepted: {names}")
    for row, name in named.items():
        if name is None:
            broken[f"{path}:{row}"] = f"{key}: missing; accepted: one of {names}"
    return [(row, values) for row, values in rows if str(named[row]) == part.name]


def _group(
    rows: list[Row],
    path: Path,
    fields: Fields,
    places: Sequence[Place],
    broken: dict[str, str],
    add: Callable[[Entry, dict[str, Any], str, Fields], None],
    kinds: tuple[str, ...],
) -> list[Entry]:
    """Gather rows by what they name, in the order in which that first occurs.

    Where no `kinds` are needed by all that they name; a row that names none stands for itself.
    """
    numbered = any(isinstance(place, Arrays) for place in places)
    entries: dict[tuple[Names, ...], Entry] = {}
    for row, values in rows:
        where = f"{path}:{row}"
        try:
            number = row - 1 if numbered and isinstance(row, int) else None
            named = [key for key in SENSES if column(values, getattr(fields, key)) is not None]
            files = {
                key: _names(values, where, key, getattr(fields, key), number)
                for key in kinds or named
            }
            key = tuple(files.values()) or ((where,),)
            entry = entries.get(key, Entry(files if kinds else {}))
            add(entry, values, where, fields)
        except BadRecord as error:
            broken[where] = f"{error.key}: {error.reason}"
            continue
        entry.where.append(where)
        entries[key] = entry
    return list(entries.values())


def _add_texts(entry: Entry, values: dict[str, Any], where: str, fields: Fields) -> None:
    """What a row tells and asks about the picture; raises BadRecord, having added nothing."""
    captions = parse_captions(values, where, fields)
    questions = parse_questions(values, where, fields) + parse_chat(values, where, fields)
    if not captions and not questions:
        raise BadRecord(where, fields.captions, _wanted(values, fields))
    rate, label = parse_rate(values, where, fields.rate), _class_of(values, where, fields)
    entry.label = label if not entry.where or label == entry.label else ""
    entry.captions.extend(captions)
    entry.caption_rows.extend([where] * len(captions))
    entry.questions.extend(questions)
    entry.rate = rate or entry.rate


def _class_of(values: dict[str, Any], where: str, fields: Fields) -> str:
    """The class of a text; "" where the column holds something else, which few readers ask for."""
    try:
        return parse_label(values, where, fields.label)
    except BadRecord:
        return ""


def _add_labels(entry: Entry, values: dict[str, Any], where: str, fields: Fields) -> None:
    """The class that a row gives, if it gives one; raises BadRecord, having added nothing."""
    label = parse_label(values, where, fields.label)
    taught = parse_label(values, where, fields.taught)
    events = parse_events(values, where, fields.events)
    rate = parse_rate(values, where, fields.rate)
    if label and entry.label not in ("", label):
        other = f"{label!r}, but {entry.label!r} in {entry.where[0]}"
        raise BadRecord(where, fields.label, f"{other}; accepted: one class for a picture")
    entry.label, entry.taught = label or entry.label, taught or entry.taught
    entry.events += events
    entry.rate = rate or entry.rate


def _wanted(values: dict[str, Any], fields: Fields) -> str:
    return (
        f"no text, only {sorted(values)}; accepted: {fields.captions!r}, {fields.question!r} "
        f"with {fields.answers!r}, or {fields.messages!r} (names are set by --data.fields.*)"
    )


ACCEPTED = {
    "image": "the name of a picture file",
    "video": "the name of a video file, or a list of those of the pictures of a clip",
    "audio": "the name of a sound file",
}


def _names(values: dict[str, Any], where: str, kind: str, key: str, number: int | None) -> Names:
    value = column(values, key)
    if value is None and number is not None:
        return (str(number),)
    if isinstance(value, int) and not isinstance(value, bool):
        return (str(value),)
    names = value if kind == "video" and isinstance(value, list) and value else [value]
    if not all(isinstance(name, str) and name for name in names):
        raise BadRecord(where, key, f"missing; accepted: {ACCEPTED[kind]}")
    return tuple(names)
