"""Files of captions, answers and objects as people have them, and what is wrong with them.

Ids become text: 42 of one file is "42" of another. All of `read` raises UserError, which says what
is wrong, where, and what would be right.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mlm_jax.errors import UserError
from mlm_jax.scorers.ngrams import ORDER, Frequencies
from mlm_jax.scorers.objects import Question
from mlm_jax.scorers.vqa import Asked
from mlm_jax.terminal import printable

LARGEST = 2 << 30  # bytes of a file, unpacked: the largest of VQA have 0.4 GB
LONGEST = 10_000  # characters of a text
FEW = 5  # ids that a message names

CAPTIONS = (
    'accepted: {"annotations": [{"image_id": 1, "caption": "..."}]}, the list alone,'
    ' {"1": ["..."]}, or one {"image_id": 1, "caption": "..."} a line'
)


FREQUENCIES = (
    'accepted: {"documents": 5000, "frequencies": {"a dog": 120}}: of how many pictures, a whole'
    f" number, and of how many of them each 1 to {ORDER} words are told, in small letters with one"
    " space between them"
)


def few(names: Collection[str]) -> str:
    """`7, 8, 9, 10, 11, ...`"""
    shown = [printable(name[:40]) for name, _ in zip(names, range(FEW), strict=False)]
    return ", ".join(shown) + (", ..." if len(names) > FEW else "")


# --- JSON ---


def read(path: Path) -> Any:
    """What a .json file holds, or a list of what the lines of a .jsonl file do; either as .gz.

    A key that an object has twice is a mistake.
    """
    text = _text(path)
    if ".jsonl" in path.suffixes:
        lines = enumerate(text.split("\n"), 1)
        return [_parsed(line, path, number) for number, line in lines if line.strip()]
    return _parsed(text, path, 1)


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error
    if len(data) > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST >> 20:,} MiB: give it in parts")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: invalid UTF-8 at byte {error.start}; save it as UTF-8"
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _parsed(text: str, path: Path, first: int) -> Any:
    """`first` is the line of the file that `text` begins at."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
            raise UserError(f"{path}: in one object more than once: {few(twice)}")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        line, column = first + error.lineno - 1, error.colno
        hint = "; of a file with an object a line the name ends in .jsonl" * (
            error.msg == "Extra data"
        )
        raise UserError(
            f"{path}:{line}: invalid JSON at column {column} ({error.msg}){hint}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: invalid JSON ({error})") from error


# --- captions ---


def read_references(path: Path) -> dict[str, list[str]]:
    """All captions of each picture, in the order of the file."""
    return _references(read(path), path)


def read_common(path: Path) -> dict[str, list[str]] | Frequencies:
    """What tells how common words are: captions as references are, or a table."""
    tree = read(path)
    if isinstance(tree, dict) and {"documents", "frequencies"} & tree.keys():
        return _frequencies(tree, path)
    return _references(tree, path)


def _frequencies(tree: Mapping[str, Any], path: Path) -> Frequencies:
    documents: Any = tree.get("documents")
    table: Any = tree.get("frequencies")
    if not _is_count(documents, 2**53):
        shown = printable(repr(documents)[:40])
        raise UserError(f"{path}: documents is {shown}; {FREQUENCIES}")
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path}: frequencies has no words; {FREQUENCIES}")
    for words, count in table.items():
        if not 1 <= len(words.split()) <= ORDER or words != " ".join(words.lower().split()):
            raise UserError(f"{path}: {printable(repr(words[:40]))}; {FREQUENCIES}")
        if not _is_count(count, documents):
            raise UserError(
                f"{path}: {printable(words[:40])} is in {printable(repr(count)[:40])} of"
                f" {documents:,} documents; {FREQUENCIES}"
            )
    return Frequencies(documents, table)


def _is_count(value: Any, most: int) -> bool:
    """Whether it is a whole number from 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 1 <= value <= most and value % 1 == 0


def _references(tree: Any, path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for where, name, caption in _captions(tree, path):
        found.setdefault(name, []).append(_string(caption, where, "caption"))
    if not found:
        raise UserError(f"{path}: no captions; {CAPTIONS}")
    return found


def read_candidates(path: Path) -> dict[str, str]:
    """The caption of each picture; a second one is a mistake."""
    found: dict[str, str] = {}
    twice: dict[str, None] = {}
    for where, name, caption in _captions(read(path), path):
        if name in found:
            twice[name] = None
        found[name] = _string(caption, where, "caption")
    if twice:
        raise UserError(f"{path}: {len(twice):,} pictures have more than one caption: {few(twice)}")
    if not found:
        raise UserError(f"{path}: no captions; {CAPTIONS}")
    return found


def _captions(tree: Any, path: Path) -> Iterator[tuple[str, str, Any]]:
    """Place in the file, picture and caption."""
    if isinstance(tree, dict) and "annotations" in tree:
        tree = tree["annotations"]
    if isinstance(tree, dict) and not _is_row(tree):
        tree = [tree]
    rows = tree if isinstance(tree, list) else [tree]
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: {type(row).__name__} {printable(str(row)[:40])}; {CAPTIONS}")
        if _is_row(row):
            yield from _of_row(row, where)
        else:
            for name, texts in row.items():
                if not isinstance(texts, str | list):
                    shown = printable(name[:40])
                    raise UserError(f"{where}: {shown} is no text and no list of texts; {CAPTIONS}")
                for text in texts if isinstance(texts, list) else [texts]:
                    yield f"{where}: {printable(name[:40])}", name, text


def _is_row(tree: Mapping[str, Any]) -> bool:
    return bool({"image_id", "caption", "captions"} & tree.keys())


def _of_row(row: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, Any]]:
    name = _id(row, where, "image_id")
    if "captions" not in row:
        _needed(row, where, "caption")
        yield where, name, row["caption"]
    elif isinstance(row["captions"], list):
        yield from ((where, name, text) for text in row["captions"])
    else:
        raise UserError(f"{where}: captions is no list of texts")


def matching(
    asked: Mapping[str, object], given: Mapping[str, object], *, subset: bool, what: str = "picture"
) -> None:
    """Raises: UserError unless the same are in both; `subset` allows `given` to have fewer."""
    unknown = [name for name in given if name not in asked]
    absent = [] if subset else [name for name in asked if name not in given]
    parts = []
    if unknown:
        parts.append(
            f"{len(unknown):,} of {len(given):,} candidates are of no {what} of the references:"
            f" {few(unknown)}"
        )
    if absent:
        parts.append(f"{len(absent):,} of {len(asked):,} {what}s have no candidate: {few(absent)}")
    if not parts:
        return
    hint = "; --subset scores those that have one" * bool(absent and not unknown)
    raise UserError("; ".join(parts) + hint)


# --- answers ---


def read_asked(path: Path) -> dict[str, Asked]:
    """Annotations of the VQA challenge by question."""
    found: dict[str, Asked] = {}
    for where, row in _rows(path, "annotations"):
        name = _new(_id(row, where, "question_id"), found, where)
        answers = _needed(row, where, "answers")
        if not isinstance(answers, list) or not answers:
            raise UserError(f'{where}: answers is no list such as [{{"answer": "yes"}}]')
        texts = (each.get("answer") if isinstance(each, dict) else each for each in answers)
        kinds = [
            f"{kind}/{row[f'{kind}_type']}"
            for kind in ("answer", "question")
            if f"{kind}_type" in row
        ]
        picture = _id(row, where, "image_id") if "image_id" in row else name
        found[name] = Asked(
            picture, tuple(_string(text, where, "answer") for text in texts), tuple(kinds)
        )
    return found


def read_answers(path: Path) -> dict[str, str]:
    """Results of the VQA challenge, or answers to POPE's questions; rows without id are counted."""
    found: dict[str, str] = {}
    for number, (where, row) in enumerate(_rows(path, "results"), 1):
        name = _new(_id({"question_id": number} | row, where, "question_id"), found, where)
        key = "text" if "answer" not in row and "text" in row else "answer"
        found[name] = _string(_needed(row, where, key), where, key)
    return found


def read_questions(path: Path) -> dict[str, Question]:
    """Questions of POPE."""
    found: dict[str, Question] = {}
    for number, (where, row) in enumerate(_rows(path, "questions"), 1):
        name = _new(_id({"question_id": number} | row, where, "question_id"), found, where)
        label = _needed(row, where, "label")
        if label not in ("yes", "no"):
            raise UserError(f"{where}: label is {printable(repr(label)[:40])}; accepted: yes, no")
        text = _string(row.get("text", ""), where, "text")
        picture = _id(row, where, "image") if "image" in row else name
        found[name] = Question(picture, text, label == "yes")
    return found


# --- objects ---


def read_objects(path: Path) -> dict[str, list[str]]:
    """The objects of each picture: COCO's instances, {"1": ["dog"]}, rows of image, objects."""
    tree = read(path)
    if isinstance(tree, dict) and "categories" in tree:
        return _instances(tree, path)
    if isinstance(tree, dict) and "objects" not in tree:
        tree = [{"image": name, "objects": own} for name, own in tree.items()]
    found: dict[str, list[str]] = {}
    for number, row in enumerate(tree if isinstance(tree, list) else [tree], 1):
        where = f"{path}: row {number}"
        own = _needed(row, where, "objects")
        if not isinstance(own, list):
            raise UserError(f"{where}: objects is no list of names")
        name = _new(_id(row, where, "image"), found, where)
        found[name] = [_string(each, where, "objects") for each in own]
    return found


def _instances(tree: Mapping[str, Any], path: Path) -> dict[str, list[str]]:
    names = {
        _id(row, where, "id"): _string(_needed(row, where, "name"), where, "name")
        for where, row in _listed(tree, path, "categories")
    }
    found: dict[str, list[str]] = {}
    for where, row in _listed(tree, path, "annotations"):
        kind = _id(row, where, "category_id")
        if kind not in names:
            raise UserError(f"{where}: category_id {printable(kind)} is not in categories")
        found.setdefault(_id(row, where, "image_id"), []).append(names[kind])
    return found


# --- similarities ---


def read_similarity(path: Path) -> Float[np.ndarray, "N M"]:
    """A .npy file with a row for each picture and a column for each caption."""
    table = _array(path)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.floating):
        raise UserError(
            f"{path}: {table.dtype} of shape {table.shape}; accepted: floats, (pictures, captions)"
        )
    bad = int(np.isnan(table).sum())
    if bad or not table.size:
        raise UserError(f"{path}: {bad:,} of {table.size:,} similarities are not numbers")
    return table


def read_owners(path: Path | None, similarity: Float[np.ndarray, "N M"]) -> Int[np.ndarray, " M"]:
    """The picture of each caption: a .npy or .json of numbers from 0. By itself: as many captions
    for each picture, one picture after another."""
    pictures, captions = similarity.shape
    if path is None:
        if captions % pictures:
            raise UserError(
                f"{captions:,} captions are not as many for each of {pictures:,} pictures:"
                " say in --references which picture each is of"
            )
        return np.repeat(np.arange(pictures), captions // pictures)
    owners = _array(path) if path.suffix == ".npy" else _listed_owners(path)
    if owners.shape != (captions,) or not np.issubdtype(owners.dtype, np.integer):
        raise UserError(
            f"{path}: {owners.dtype} of shape {owners.shape}; accepted: {captions:,} whole numbers,"
            " the picture of each caption"
        )
    without = sorted(set(range(pictures)) - set(owners.tolist()))
    if without or owners.min() < 0 or owners.max() >= pictures:
        raise UserError(
            f"{path}: pictures are numbered from 0 to {pictures - 1:,}, each with a caption;"
            f" here {owners.min()} to {owners.max()}, and {len(without):,} without one"
        )
    return owners.astype(int)


def _listed_owners(path: Path) -> np.ndarray:
    try:
        return np.array(read(path))
    except ValueError as error:  # lists of several lengths
        raise UserError(f"{path}: no list of whole numbers") from error


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path}: an .npz holds several tables; accepted: one, as .npy")
        return array
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: no .npy file of numbers ({_reason(error)})") from error


# --- rows ---


def _rows(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a list, of the list under `key`, or of a .jsonl file."""
    tree = read(path)
    yield from _listed(tree if isinstance(tree, dict) else {key: tree}, path, key)


def _listed(tree: Mapping[str, Any], path: Path, key: str) -> Iterable[tuple[str, dict[str, Any]]]:
    rows = _needed(tree, str(path), key)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: {key} is no list, or an empty one")
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        if not isinstance(row, dict):
            raise UserError(f"{where} is {printable(str(row)[:40])}; accepted: an object")
        yield where, row


def _needed(row: Any, where: str, key: str) -> Any:
    if not isinstance(row, dict) or key not in row:
        keys = few(list(row)) if isinstance(row, dict) else "no object"
        raise UserError(f"{where} has no {key} (it has: {keys or 'nothing'})")
    return row[key]


def _id(row: Any, where: str, key: str) -> str:
    value = _needed(row, where, key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UserError(f"{where}: {key} is {printable(repr(value)[:40])}; accepted: 42, a text")
    return str(value)


def _new(name: str, found: Mapping[str, object], where: str) -> str:
    if name in found:
        raise UserError(f"{where}: {printable(name[:40])} is there twice")
    return name


def _string(value: Any, where: str, key: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} is {printable(repr(value)[:40])}; accepted: a text")
    if len(value) > LONGEST:
        raise UserError(f"{where}: {key} has {len(value):,} characters; accepted: {LONGEST:,}")
    return value
