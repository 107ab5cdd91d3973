"""Rows of a user's own data: the values of a row as text, and the files that hold rows."""

import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_jax.config import Fields
from mlm_jax.data.containers import SOUND_SUFFIXES, VIDEO_SUFFIXES
from mlm_jax.data.pictures import SUFFIXES as PICTURES
from mlm_jax.data.records import BadRecord, DataError, Event, Question

SUFFIXES = {"image": PICTURES, "video": VIDEO_SUFFIXES, "audio": SOUND_SUFFIXES + VIDEO_SUFFIXES}
MAX_LINE = 64 << 20
_NUMBERS = (bool, int, float)
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_jsonl(path: Path, broken: dict[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, object), rows counted from 1; rows that are no JSON object go to `broken`.

    Blank lines are skipped. Raises DataError when the file itself cannot be read.
    """
    for row, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            broken[f"{path}:{row}"] = f"row: invalid UTF-8 at byte {error.start}; accepted: UTF-8"
        except (ValueError, RecursionError) as error:  # of a number of 5,000 digits the former
            broken[f"{path}:{row}"] = f"row: invalid JSON ({error}); accepted: one object a line"
        else:
            if isinstance(value, dict):
                yield row, value
            else:
                broken[f"{path}:{row}"] = f"row: a JSON {_type(value)}; accepted: one object a line"


def packed(path: Path) -> Path:
    """`path`, or `path`.gz where only that exists."""
    other = path.with_name(f"{path.name}.gz")
    return other if other.exists() and not path.exists() else path


def read_rows(path: Path, keys: set[str]) -> list[dict[str, Any]]:
    """All rows of a file, or of its .gz. Raises: DataError naming a row without one of `keys`."""
    path = packed(path)
    broken: dict[str, str] = {}
    rows = list(read_jsonl(path, broken))
    broken |= {f"{path}:{n}": f"no {sorted(keys - set(r))}" for n, r in rows if keys - set(r)}
    if broken:
        where, why = next(iter(broken.items()))
        raise DataError(f"{where}: {why}")
    return [row for _, row in rows]


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for row, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE:
                    raise DataError(f"{path}:{row}: over {MAX_LINE:,} bytes, the most accepted")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _type(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return {list: "list", dict: "object", str: "string", type(None): "null"}.get(
        type(value), "number"
    )


def read_pairs(
    folder: Path, kinds: Sequence[str], broken: dict[str, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, {kind, "captions"}) for every file of `kinds` with a .txt of its name, by name.

    Every line of the .txt is a caption; the name of the file stands for the row.
    """
    for name, row in read_files(folder, kinds):
        text = (folder / name).with_suffix(".txt")
        try:
            captions = text.read_bytes().decode("utf-8").splitlines()
        except FileNotFoundError:
            broken[f"{folder}:{name}"] = (
                f"captions: {text.name} is missing; accepted: a text file with a caption a line"
            )
        except UnicodeDecodeError as error:
            broken[f"{folder}:{name}"] = (
                f"captions: {text.name} has invalid UTF-8 at byte {error.start}; accepted: UTF-8"
            )
        else:
            lines = [line for line in captions if line.strip()]
            yield name, {**row, "captions": lines or ""}


def read_files(folder: Path, kinds: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, {kind}) for every file of a kind ("image", "video", "audio"), by name.

    Of several kinds every file is all of them: a video with its own sound.
    """
    names = sorted(file.name for file in folder.iterdir())
    for name in names:
        if all(Path(name).suffix.lower() in SUFFIXES[kind] for kind in kinds):
            yield name, dict.fromkeys(kinds, name)


def column(row: Mapping[str, Any], path: str) -> Any:
    """The value at "a" or "a/b" (through lists too); None where it is missing."""
    value: Any = row
    for part in path.split("/"):
        if isinstance(value, list):
            value = [item.get(part) if isinstance(item, Mapping) else None for item in value]
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def parse_captions(row: Mapping[str, Any], where: str, fields: Fields) -> tuple[str, ...]:
    """The captions of a row, () when it has none; raises BadRecord."""
    value = column(row, fields.captions)
    if value is None or value == []:
        return ()
    return _texts(value, where, fields.captions)


def parse_questions(row: Mapping[str, Any], where: str, fields: Fields) -> tuple[Question, ...]:
    """The questions of a row with their answers, () when it has none; raises BadRecord.

    A text with the answer or answers to it, or a list of texts with a list of the same length. The
    kind is taken from "kind" beside the question.
    """
    asked = column(row, fields.question)
    if asked is None or asked == []:
        return ()
    answers = column(row, fields.answers)
    parent, _, _ = fields.question.rpartition("/")
    kinds = column(row, f"{parent}/kind" if parent else "kind")
    if not isinstance(asked, list):
        asked, answers, kinds = [asked], [answers], [kinds]
    if not isinstance(answers, list) or len(answers) != len(asked):
        raise BadRecord(
            where,
            fields.answers,
            f"{len(asked)} questions need a list of {len(asked)} answers{_similar(row, fields)}",
        )
    if not isinstance(kinds, list) or len(kinds) != len(asked):
        kinds = [kinds] * len(asked)
    return tuple(
        _question(*each, where, fields, row) for each in zip(asked, answers, kinds, strict=True)
    )


def parse_chat(row: Mapping[str, Any], where: str, fields: Fields) -> tuple[Question, ...]:
    """The conversation of a row as its first question, () when it has none; raises BadRecord.

    User and assistant take turns, the user first; a "system" message before is part of what the
    user says first.
    """
    messages = column(row, fields.messages)
    if messages is None or messages == []:
        return ()
    key = fields.messages
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        raise BadRecord(where, key, 'no list of messages; accepted: {"role": ..., "content": ...}')
    texts = [_text(message.get("content"), where, f"{key}/content") for message in messages]
    roles = [message.get("role") for message in messages]
    if roles[0] == "system" and len(texts) > 1:
        texts, roles = [f"{texts[0]} {texts[1]}", *texts[2:]], roles[1:]
    turns = ["user", "assistant"] * (len(roles) // 2)
    if roles != turns or not turns:
        raise BadRecord(
            where, key, f"the roles are {roles}; accepted: user, assistant, user, assistant, ..."
        )
    asked, answered = texts[::2], texts[1::2]
    then = tuple(zip(asked[1:], answered[1:], strict=True))
    return (Question(asked[0], (answered[0],), "chat", where, then),)


def parse_label(row: Mapping[str, Any], where: str, key: str) -> str:
    """The class in column `key`, "" when there is none; raises BadRecord."""
    value = column(row, key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | bytes | int):
        raise BadRecord(where, key, f"a JSON {_type(value)}; accepted: a text or a whole number")
    return _text(value, where, key)


def parse_events(row: Mapping[str, Any], where: str, key: str) -> tuple[Event, ...]:
    """The events of a row, () when it has none; raises BadRecord.

    Each is [label, start, end] or {"label": ..., "start": ..., "end": ...}, in seconds.
    """
    value = column(row, key)
    if value is None:
        return ()
    accepted = "accepted: a list of [label, start, end], in seconds"
    if not isinstance(value, list):
        raise BadRecord(where, key, f"a JSON {_type(value)}; {accepted}")
    events = []
    for one in value:
        parts = [one.get(part) for part in Event._fields] if isinstance(one, Mapping) else one
        if not isinstance(parts, list) or len(parts) != 3:
            raise BadRecord(where, key, f"an event is {one!r}; {accepted}")
        label, *times = parts
        if not all(_is_number(time) for time in times):
            raise BadRecord(where, key, f"the times of {label!r} are {times}; {accepted}")
        start, end = map(float, times)
        if not 0 <= start < end:
            times_ = f"{label!r} begins at {start} and ends at {end}"
            raise BadRecord(where, key, f"{times_}; accepted: 0 <= start < end, in seconds")
        events.append(Event(_text(label, where, key), start, end))
    return tuple(events)


def parse_rate(row: Mapping[str, Any], where: str, key: str) -> float:
    """Pictures a second, 0 where a row does not say; raises BadRecord."""
    value = column(row, key)
    if value is None:
        return 0.0
    if not _is_number(value) or not value > 0:
        raise BadRecord(where, key, f"{value!r}; accepted: pictures a second, over 0")
    return float(value)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _question(
    text: Any, answers: Any, kind: Any, where: str, fields: Fields, row: Mapping[str, Any]
) -> Question:
    asked = _text(text, where, fields.question)
    if answers is None:
        raise BadRecord(
            where,
            fields.answers,
            f"the question {asked!r} has no answers; accepted: a text or a list of texts"
            + _similar(row, fields),
        )
    return Question(
        asked,
        _texts(answers, where, fields.answers),
        "" if kind is None else _text(kind, where, "kind"),
        where,
    )


def _similar(row: Mapping[str, Any], fields: Fields) -> str:
    """Name the column that was probably meant: "answer" for "answers"."""
    if fields.answers not in row and "answer" in row:
        return " (the row has 'answer': use --data.fields.answers answer)"
    return ""


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise BadRecord(where, key, "an empty list; accepted: a text or a list of texts")
    return tuple(_text(item, where, key) for item in values)


def _text(value: Any, where: str, key: str) -> str:
    """Text of a value: bytes are UTF-8, booleans "true" and "false", numbers as JSON has them."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRecord(
                where, key, f"invalid UTF-8 at byte {error.start}; accepted: UTF-8"
            ) from error
    elif isinstance(value, _NUMBERS):
        value = json.dumps(value)
    if not isinstance(value, str):
        raise BadRecord(where, key, f"a JSON {_type(value)}; accepted: a text or a list of texts")
    text = value.strip()
    if not text:
        raise BadRecord(where, key, "an empty text; accepted: at least one word")
    if not text.isascii() and _SURROGATE.search(text):
        raise BadRecord(where, key, "half a surrogate pair; accepted: text that UTF-8 can hold")
    return text
