import gzip
import json
import logging
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlm_jax.config import Data, Fields
from mlm_jax.data import rows as reader
from mlm_jax.data.own import is_own
from mlm_jax.data.records import BadRecord, DataError
from mlm_jax.data.sources import open_source, read_source, say_left_out


def data(path: Path | str, **options) -> Data:
    return Data(name=str(path), **({"max_broken": 1.0} | options))


def texts(source) -> list[tuple]:
    records = [source[i] for i in range(len(source))]
    return [(r.captions, tuple((q.text, q.answers) for q in r.questions)) for r in records]


def test_values_may_be_text_list_number_or_boolean(own):
    path = own(
        [
            {"image": "0.png", "captions": "one"},
            {"image": "1.png", "captions": ["one", "two"]},
            {"image": "2.png", "question": "how many?", "answers": 3},
            {"image": "3.png", "question": "is it?", "answers": True},
            {"image": "4.png", "question": ["a?", "b?"], "answers": [["x", "y"], 0.5]},
            {"image": "5.png", "captions": " both ", "question": "is it?", "answers": ["no"]},
        ],
        pictures=6,
    )
    source = open_source(data(path), "train")
    assert source.broken == {}
    assert texts(source) == [
        (("one",), ()),
        (("one", "two"), ()),
        ((), (("how many?", ("3",)),)),
        ((), (("is it?", ("true",)),)),
        ((), (("a?", ("x", "y")), ("b?", ("0.5",)))),
        (("both",), (("is it?", ("no",)),)),
    ]
    assert source[1].image == encoded(picture(1))


def test_rows_that_share_a_picture_are_one_record_in_file_order(own):
    path = own(
        [
            {"image": "1.png", "question": "first?", "answers": "a", "kind": "count"},
            {"image": "0.png", "captions": "other"},
            {"image": "1.png", "captions": ["told"]},
            {"image": "1.png", "question": "last?", "answers": "b"},
        ],
        pictures=2,
    )
    source = open_source(data(path), "train")
    assert len(source) == 2
    record = source[0]
    assert record.key == f"{path}:1"
    assert source.where(0) == (f"{path}:1", f"{path}:3", f"{path}:4")
    assert [(q.text, q.kind, q.where) for q in record.questions] == [
        ("first?", "count", f"{path}:1"),
        ("last?", "", f"{path}:4"),
    ]
    assert (record.captions, record.caption_rows) == (("told",), (f"{path}:3",))


def test_slices_are_by_picture_and_parts_are_joined(own):
    rows = [{"image": f"{i}.png", "captions": f"{i} {k}"} for i in range(10) for k in "ab"]
    path = own(rows, pictures=10)

    def pictures(split: str) -> list[int]:
        source = open_source(data(path), split)
        return [int(source[i].captions[0].split()[0]) for i in range(len(source))]

    assert pictures("train[:30%]") == [0, 1, 2]
    assert pictures("train[30%:]") == [3, 4, 5, 6, 7, 8, 9]
    assert pictures("train[8:]+train[:1]") == [8, 9, 0]
    joined = open_source(data(path), "train[8:]+train[:1]")
    assert joined.where(2) == (f"{path}:1", f"{path}:2")
    assert list(joined.corpus())[1:3] == ["8 a", "8 b"]


def test_the_split_is_a_column(own):
    rows = [{"image": f"{i}.png", "captions": "x", "split": s} for i, s in enumerate("abab")]
    path = own([*rows, {"image": "4.png", "captions": "x"}], pictures=5)
    assert [s.key for s in open_source(data(path), "b")] == [f"{path}:2", f"{path}:4"]
    assert len(open_source(data(path), "all")) == 5
    with pytest.raises(DataError, match=r"no split 'train' in column 'split'.*\['a', 'b'\]"):
        open_source(data(path), "train")
    broken = open_source(data(path), "a").broken
    assert broken == {f"{path}:5": "split: missing; accepted: one of ['a', 'b']"}


def test_without_the_column_there_is_only_train(own):
    path = own([{"image": "0.png", "captions": "x"}], pictures=1)
    with pytest.raises(DataError, match=r"no split 'test'.*'split'.*train\[90%:\]"):
        open_source(data(path), "test")


def test_a_file_for_each_split_packed_or_not(own, tmp_path):
    own([{"image": "0.png", "captions": "plain"}], pictures=1, name="train.jsonl")
    with gzip.open(tmp_path / "test.jsonl.gz", "wb") as file:
        file.write(json.dumps({"image": "0.png", "captions": "packed"}).encode())
    name = tmp_path / "{split}.jsonl"
    for split, caption in [("train", "plain"), ("test", "packed")]:
        assert open_source(data(name), split)[0].captions == (caption,)
    with pytest.raises(DataError, match=r"val.jsonl: no such file; in that folder: test.jsonl.gz"):
        open_source(data(name), "val")


def test_a_damaged_packed_file_is_named(tmp_path):
    packed = gzip.compress(b'{"image": "0.png", "captions": "packed"}\n' * 1000)
    (tmp_path / "mine.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"mine\.jsonl\.gz: cannot be read"):
        open_source(data(tmp_path / "mine.jsonl.gz"), "train")


def test_columns_have_names_of_the_users_own(own):
    rows = [{"file": "0.png", "sentence": "is it?", "label": False, "meta": {"name": "it"}}]
    fields = Fields("file", "meta/name", "sentence", "label")
    source = open_source(data(own(rows, pictures=1), fields=fields), "train")
    assert texts(source) == [(("it",), (("is it?", ("false",)),))]


def test_nested_questions(own):
    asked = [{"q": "a?", "a": ["x"], "kind": "k"}, {"q": "b?", "a": "y"}]
    path = own([{"image": "0.png", "asked": asked}], pictures=1)
    fields = Fields(question="asked/q", answers="asked/a")
    (record,) = open_source(data(path, fields=fields), "train")
    assert [(q.text, q.answers, q.kind) for q in record.questions] == [
        ("a?", ("x",), "k"),
        ("b?", ("y",), ""),
    ]


def test_pictures_in_a_zip_of_the_split(own, tmp_path):
    own([{"image": "a.png", "captions": "x"}], name="train.jsonl")
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("a.png", b"packed")
    images = (str(tmp_path / "{split}.zip"),)
    assert (
        open_source(data(tmp_path / "{split}.jsonl", images=images), "train")[0].image == b"packed"
    )


def test_rows_without_a_picture_belong_to_the_rows_of_an_npz(own, tmp_path):
    images = np.stack([picture(i) for i in range(3)])
    np.savez(tmp_path / "train.npz", images=images)
    path = own([{"captions": str(i)} for i in range(4)], name="train.jsonl")
    source = read_source(data(path, images=(str(tmp_path / "{split}.npz"),)), "train")
    for i in range(3):
        assert (source[i].image == images[i]).all()
        assert source[i].captions == (str(i),)
    with pytest.raises(BadRecord, match=r"train.jsonl:4: image: '3' is not in .*train.npz"):
        source[3]


def test_a_folder_with_data_jsonl(own, tmp_path):
    own([{"image": "0.png", "captions": "x"}], pictures=1, name="data.jsonl")
    assert open_source(data(tmp_path), "train")[0].image == encoded(picture(0))


def test_a_folder_of_pictures_with_captions_beside_them(tmp_path):
    for name in ("b.png", "a.JPG", "c.png", "d.png", "e.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "a.txt").write_text("first\n\n second \n")
    (tmp_path / "b.txt").write_text("only")
    (tmp_path / "d.txt").write_bytes(b"caf\xe9")
    (tmp_path / "e.txt").write_text(" \n")
    source = open_source(data(tmp_path), "train")
    assert [(r.image, r.captions) for r in source] == [
        (b"a.JPG", ("first", "second")),
        (b"b.png", ("only",)),
    ]
    assert source.broken == {
        f"{tmp_path}:c.png": "captions: c.txt is missing; "
        "accepted: a text file with a caption a line",
        f"{tmp_path}:d.png": "captions: d.txt has invalid UTF-8 at byte 3; accepted: UTF-8",
        f"{tmp_path}:e.png": "captions: an empty text; accepted: at least one word",
    }


GOOD = {"image": "0.png", "captions": "x"}
BROKEN = [
    (
        b'{"image": "0.png", "captions": "caf\xe9"}',
        "row: invalid UTF-8 at byte 35; accepted: UTF-8",
    ),
    (b'{"image": "0.png", ', "row: invalid JSON (.*); accepted: one object a line"),
    (b"1" * 5_000, "row: invalid JSON (.*); accepted: one object a line"),
    (b"[1, 2]", "row: a JSON list; accepted: one object a line"),
    (b"[" * 100_000, "row: invalid JSON (.*); accepted: one object a line"),
    ({"captions": "x"}, "image: missing; accepted: the name of a picture file"),
    ({"image": "", "captions": "x"}, "image: missing; accepted: the name of a picture file"),
    ({"image": ["0.png"], "captions": "x"}, "image: missing; accepted: the name of a picture file"),
    (
        {"image": "0.png"},
        r"captions: no text, only \['image'\]; accepted: 'captions', 'question'.*, or 'messages'.*",
    ),
    ({"image": "0.png", "captions": ""}, "captions: an empty text; accepted: at least one word"),
    ({"image": "0.png", "captions": ["a", " \t"]}, "captions: an empty text; accepted: .*"),
    ({"image": "0.png", "captions": []}, r"captions: no text, only \['captions', 'image'\]; .*"),
    ({"image": "0.png", "captions": [{}]}, "captions: a JSON object; accepted: a text or a list.*"),
    ({"image": "0.png", "captions": "\ud800"}, "captions: half a surrogate pair; accepted: .*"),
    (
        {"image": "0.png", "question": "a?"},
        "answers: the question 'a\\?' has no answers; accepted.*",
    ),
    ({"image": "0.png", "question": "a?", "answers": []}, "answers: an empty list; accepted: .*"),
    ({"image": "0.png", "question": "a?", "answers": ""}, "answers: an empty text; accepted: .*"),
    (
        {"image": "0.png", "question": "a?", "answers": ["b", None]},
        "answers: a JSON null; accepted.*",
    ),
    ({"image": "0.png", "question": "", "answers": "b"}, "question: an empty text; accepted: .*"),
    (
        {"image": "0.png", "question": ["a?", "b?"], "answers": ["b"]},
        "answers: 2 questions need .*",
    ),
    (
        {"image": "0.png", "question": "a?", "answer": "b"},
        "answers: the question 'a\\?' has no answers; .*use --data.fields.answers answer.*",
    ),
]


@pytest.mark.parametrize(("row", "reason"), BROKEN)
def test_a_broken_row_is_left_out_and_named(own, caplog, row, reason):
    path = own([GOOD, row, {"image": "1.png", "captions": "y"}], pictures=2)
    with caplog.at_level(logging.WARNING):
        source = open_source(data(path), "train")
    assert [record.captions for record in source] == [("x",), ("y",)]
    assert list(source.broken) == [f"{path}:2"]
    assert re.fullmatch(reason, source.broken[f"{path}:2"])
    assert f"{path}:2: " in caplog.text
    assert source.rows == 3


def test_too_many_broken_rows_stop_the_run(own):
    path = own([*[{"image": f"{i}.png", "captions": "x"} for i in range(98)], b"{", b"{"])
    assert len(open_source(data(path, max_broken=0.02), "train")) == 98
    with pytest.raises(
        DataError, match=r"2 of 100 rows.*--data.max-broken 0.019; the first: .*:99"
    ):
        open_source(data(path, max_broken=0.019), "train")


def test_one_broken_row_of_a_few_does_not_stop_the_run(own):
    path = own([*[{"image": f"{i}.png", "captions": "x"} for i in range(9)], b"{"])
    assert len(open_source(data(path, max_broken=0.01), "train")) == 9
    path = own([*[{"image": f"{i}.png", "captions": "x"} for i in range(8)], b"{", b"{"])
    with pytest.raises(DataError, match=r"2 of 10 rows"):
        open_source(data(path, max_broken=0.01), "train")


def test_what_was_left_out_is_told(own, capsys):
    path = own([{"image": "0.png", "captions": "x"}, *[b"{"] * 7])
    say_left_out(open_source(data(path), "train"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 records left out:"
    assert lines[1].startswith(f"  {path}:2: row: invalid JSON")
    assert len(lines) == 7
    assert lines[-1] == "  and 2 more; validate.py names them all"
    say_left_out(open_source(data(own([{"image": "0.png", "captions": "x"}])), "train"))
    assert not capsys.readouterr().out


def test_broken_rows_are_held_against_those_of_the_split(own):
    rows = [{"image": f"{i}.png", "captions": "x", "split": "ab"[i < 2]} for i in range(100)]
    path = own([*rows, {"image": "1.png", "captions": "", "split": "b"}])
    assert len(open_source(data(path, max_broken=0), "a")) == 98
    with pytest.raises(DataError, match=r"1 of 3 rows .*'b'.*--data.max-broken 0; the first: "):
        open_source(data(path, max_broken=0), "b")
    assert open_source(data(path), "a+b").rows == open_source(data(path), "all").rows == 101


def test_a_row_counts_once_in_however_many_parts_of_a_split(own):
    path = own([*[{"image": f"{i}.png", "captions": "x"} for i in range(98)], b"{", b"{"])
    halves = "train[:50%]+train[50%:]"
    assert open_source(data(path), halves).rows == 100
    with pytest.raises(DataError, match=r"2 of 100 rows .*--data.max-broken 0.019"):
        open_source(data(path, max_broken=0.019), halves)


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_without_an_end_is_not_read(own, tmp_path, monkeypatch, packed):
    monkeypatch.setattr(reader, "MAX_LINE", 100)
    path = own([GOOD, b'{"image": "0.png", "captions": "%s"}' % (b"x" * 100)])
    if packed:
        path = tmp_path / "mine.jsonl.gz"
        path.write_bytes(gzip.compress((tmp_path / "mine.jsonl").read_bytes()))
    with pytest.raises(DataError, match=rf"{path}:2: over 100 bytes"):
        open_source(data(path), "train")
    assert len(list(reader.read_jsonl(own([GOOD, b" " * 99, GOOD]), {}))) == 2


@pytest.mark.parametrize("lines", [[], [b""], [b"{"], [{"image": "0.png"}]])
def test_a_set_without_usable_rows_is_refused(own, lines):
    path = own(lines)
    with pytest.raises(DataError, match="has no usable rows"):
        open_source(data(path), "train")


def test_what_is_missing_is_named(own, tmp_path):
    path = own([GOOD])
    with pytest.raises(BadRecord, match=rf"{path}:1: image: '0.png' is not in {tmp_path}"):
        open_source(data(path), "train")[0]
    with pytest.raises(DataError, match=r"a\.zip: pictures are to be found here.*missing"):
        open_source(data(path, images=(str(tmp_path / "a.zip"),)), "train")
    with pytest.raises(DataError, match=r"no\.jsonl: no such file; in that folder: mine.jsonl"):
        open_source(data(tmp_path / "no.jsonl"), "train")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
rows = st.dictionaries(
    st.sampled_from(["image", "captions", "question", "answers", "kind", "split"]), json_values
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(rows.map(json.dumps).map(str.encode) | st.binary(max_size=30), max_size=5))
def test_any_file_gives_records_or_reasons(tmp_path, lines):
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    source = read_source(data(path), "all")
    for i in range(len(source)):
        with pytest.raises(BadRecord, match="image"):
            source[i]
    filled = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    assert source.rows == filled
    assert sum(len(source.where(i)) for i in range(len(source))) + len(source.broken) == filled
    assert all(text.strip() for text in source.corpus())


def test_a_folder_that_is_called_as_the_world_is_not_taken_for_it(own, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    folder.mkdir()
    row = {"image": "0.png", "captions": "mine"}
    for name in ("train", "test"):
        own([row], name=f"clips/{name}.jsonl")
    (folder / "0.png").write_bytes(encoded(picture(0)))
    (folder / "0.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for name in ("clips/train.jsonl", "clips/{split}.jsonl", "./clips"):
        assert texts(open_source(data(name), "train")) == [(("mine",), ())], name
    with pytest.raises(DataError, match=r"'clips' is .*: \./clips is the folder, and clips/48px"):
        open_source(data("clips"), "train")
    (folder / "mine").mkdir()
    (folder / "48px").mkdir()
    for name in ("mine", "48px"):
        (folder / name / "0.png").write_bytes(b"")
    assert is_own("clips/mine")
    assert not is_own("clips/48px"), "a set of that name is in the embedded world"
    assert not is_own("world"), "no such folder"
