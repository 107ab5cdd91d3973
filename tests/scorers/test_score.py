"""experiments/score.py as it is used, and what it says of files that are wrong."""

import gzip
import json
import sys
from collections import Counter

import numpy as np
import pytest

from experiments import score
from mlm_jax import command
from mlm_jax.errors import UserError
from mlm_jax.scorers import captions

REFERENCES = {
    "images": [{"id": 1}, {"id": 2}, {"id": 3}],
    "annotations": [
        {"image_id": 1, "id": 1, "caption": "A dog on a mat."},
        {"image_id": 1, "id": 2, "caption": "The dog is lying on a mat."},
        {"image_id": 2, "id": 3, "caption": "Two men with hats."},
        {"image_id": 3, "id": 4, "caption": "The sea, and a boat."},
    ],
}
CANDIDATES = [
    {"image_id": 1, "caption": "a dog on a mat"},
    {"image_id": 2, "caption": "a man with a hat"},
    {"image_id": 3, "caption": ""},
]


@pytest.fixture
def files(tmp_path):
    """Writes a file of that name: text, bytes, or what is put as JSON."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def lines(rows):
    return "\n\n".join(json.dumps(row) for row in rows)


def coco(references, candidates, *more):
    return score.main(
        ["--metric", "coco", "--references", references, "--candidates", candidates, *more]
    )


def wrong(references, candidates, *more):
    """The message of the mistake."""
    with pytest.raises(UserError) as error:
        coco(references, candidates, *more)
    return str(error.value)


# --- captions ---


def test_captions(files, tmp_path, capsys):
    out, each = tmp_path / "out.json", tmp_path / "each.jsonl"
    given = files("r.json", REFERENCES), files("c.json", CANDIDATES)
    assert coco(*given, "--json", str(out), "--per-image", str(each)) == 0
    figures = json.loads(out.read_text())
    assert figures["Bleu_1"]["n"] == 3
    assert figures["CIDEr-D"]["low"] < figures["CIDEr-D"]["value"] < figures["CIDEr-D"]["high"]
    rows = [json.loads(line) for line in each.read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["1", "2", "3"]
    mean = np.mean([row["ROUGE_L"] for row in rows])
    assert figures["ROUGE_L"]["value"] == pytest.approx(mean)
    assert rows[2]["Bleu_1"] == 0, "an empty caption is scored"
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in figures)


def test_the_same_captions_in_every_form(files, tmp_path):
    references = {"1": ["A dog.", "The dog."], "2": ["Two men."]}
    candidates = {"1": "a dog", "2": "men"}
    told = [{"image_id": k, "caption": t} for k, own in references.items() for t in own]
    said = [{"image_id": int(k), "caption": t} for k, t in candidates.items()]
    whole = [{"image_id": int(k), "captions": own} for k, own in references.items()]
    forms = [
        ("r1.json", references, "c1.json", candidates),
        ("r2.json", told, "c2.json", {"annotations": said}),
        ("r3.jsonl", lines({k: own} for k, own in references.items()), "c3.jsonl", lines(said)),
        ("r4.jsonl.gz", gzip.compress(lines(whole).encode()),
         "c4.json.gz", gzip.compress(json.dumps({k: [t] for k, t in candidates.items()}).encode())),
    ]  # fmt: skip
    found = []
    for r, told, c, wanted in forms:
        out = tmp_path / "out.json"
        coco(files(r, told), files(c, wanted), "--json", str(out))
        found.append(out.read_text())
    assert found == found[:1] * 4


def test_words_are_weighed_by_other_captions(files, tmp_path):
    given = files("r.json", REFERENCES), files("c.json", CANDIDATES)
    others = files("o.json", {str(i): ["a dog on a mat"] for i in range(9)} | {"9": ["the sea"]})
    values = []
    for more in ((), ("--df", "corpus"), ("--df", others)):
        coco(*given, *more, "--json", str(tmp_path / "out.json"))
        values.append(json.loads((tmp_path / "out.json").read_text())["CIDEr-D"]["value"])
    assert values[0] == values[1] != values[2]


def test_a_table_of_document_frequencies_scores_like_its_captions(files, tmp_path):
    """What is not in the table counts as in one document."""
    given = files("r.json", REFERENCES), files("c.json", CANDIDATES)
    others = {str(i): ["a dog on a mat", "A man with hats."] for i in range(9)} | {"9": ["the sea"]}
    seen: Counter[str] = Counter()
    for own in captions.tokenised(others):
        words = [caption.split() for caption in own]
        seen.update({" ".join(w[i:j]) for w in words for i in range(len(w))
                     for j in range(i + 1, min(i + 4, len(w)) + 1)})  # fmt: skip
    table = {"documents": len(others), "frequencies": seen}
    found = []
    for name, common in (("o.json", others), ("t.json", table)):
        outs = tmp_path / "out.json", tmp_path / "out.jsonl"
        df = files(name, common)
        coco(*given, "--df", df, "--json", str(outs[0]), "--per-image", str(outs[1]))
        found.append([out.read_text() for out in outs])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"frequencies": {"a": 1}}, "documents is None"),
        ({"documents": 0, "frequencies": {"a": 1}}, "documents is 0"),
        ({"documents": 2.5, "frequencies": {"a": 1}}, "documents is 2.5"),
        ({"documents": True, "frequencies": {"a": 1}}, "documents is True"),
        ({"documents": 3}, "no words"),
        ({"documents": 3, "frequencies": [["a", 1]]}, "no words"),
        ({"documents": 3, "frequencies": {"a": 4}}, "a is in 4 of 3 documents"),
        ({"documents": 3, "frequencies": {"a": "1"}}, "a is in '1' of 3 documents"),
        ({"documents": 3, "frequencies": {"a": float("nan")}}, "a is in nan of 3"),
        ({"documents": 3, "frequencies": {"A dog": 1}}, "'A dog'"),
        ({"documents": 3, "frequencies": {"a  dog": 1}}, "'a  dog'"),
        ({"documents": 3, "frequencies": {"": 1}}, "''"),
        ({"documents": 3, "frequencies": {"a b c d e": 1}}, "'a b c d e'"),
    ],
)
def test_tables_of_frequencies_that_are_none(files, table, told):
    given = files("r.json", REFERENCES), files("c.json", CANDIDATES)
    message = wrong(*given, "--df", files("t.json", table))
    assert told in message
    assert 'accepted: {"documents": 5000' in message


def test_ids_that_do_not_match(files):
    r = files("r.json", {str(i): ["a dog"] for i in range(10)})
    message = wrong(r, files("c.json", {str(i): "a dog" for i in range(5, 12)}))
    assert "2 of 7 candidates are of no picture of the references: 10, 11" in message
    assert "5 of 10 pictures have no candidate: 0, 1, 2, 3, 4" in message
    message = wrong(r, files("c.json", {"1": "a dog", "2": "a dog"}))
    assert "8 of 10 pictures have no candidate: 0, 3, 4, 5, 6, ...; --subset" in message
    assert coco(r, files("c.json", {"1": "a dog", "2": "a dog"}), "--subset") == 0


def test_two_candidates_of_a_picture(files):
    r = files("r.json", {"1": ["a dog"]})
    rows = [{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}]
    message = wrong(r, files("c.json", rows))
    assert "1 pictures have more than one caption: 1" in message
    assert "more than once: 1" in wrong(r, files("c.json", '{"1": "a", "1": "b"}'))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.json", b'[\n{"1": "caf\xe9"}]', "c.json:2: invalid UTF-8 at byte 12; save it as UTF-8"),
        ("c.json", '[\n{"image_id": 1,\n "caption": }]', "c.json:3: invalid JSON at column 13"),
        ("c.jsonl", '{"1": "a"}\n{"2": a}', "c.jsonl:2: invalid JSON"),
        ("c.json", '{"1": "a"}\n{"2": "a"}', "the name ends in .jsonl"),
        ("c.json", "[" * 100_000, "invalid JSON"),
        ("c.json", [{"image_id": 1}], "row 1 has no caption (it has: image_id)"),
        ("c.json", [{"caption": "a"}], "row 1 has no image_id (it has: caption)"),
        ("c.json", [{"image_id": 1, "caption": None}], "row 1: caption is None"),
        ("c.json", [{"image_id": [1], "caption": "a"}], "image_id is [1]"),
        ("c.json", ["a dog"], "row 1: str a dog; accepted"),
        ("c.json", {"1": 5}, "1 is no text and no list of texts"),
        ("c.json", [], "no captions; accepted"),
        ("c.json", {"1": "a" * 20_000}, "caption has 20,000 characters; accepted: 10,000"),
        ("c.json.gz", b"no gzip", "cannot be read"),
    ],
)  # fmt: skip
def test_broken_files(files, name, content, told):
    assert told in wrong(files("r.json", {"1": ["a dog"]}), files(name, content))


def test_files_that_are_not_there(files, tmp_path):
    r = files("r.json", {"1": ["a dog"]})
    assert "none.json: cannot be read (No such file" in wrong(r, str(tmp_path / "none.json"))
    assert "there is no folder" in wrong(r, r, "--json", str(tmp_path / "none" / "out.json"))
    with pytest.raises(UserError, match="--metric coco needs --references FILE"):
        score.main(["--metric", "coco", "--candidates", r])


def test_markup_and_control_characters_are_shown_as_text(files, capsys):
    nasty = "\x1b[2J\x07<b>dog</b> [red]mat[/red]\u202e\ud800\n"
    r = files("r.json", {"1\x1b": [nasty], "2": ["a"]})
    assert coco(r, files("c.json", {"1\x1b": nasty, "2": nasty})) == 0
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e", "\ud800"} & set(shown)
    assert "\\x1b[2J\\x07<b>dog</b> [red]mat[/red]\\u202e\\ud800\\n" in shown
    message = wrong(r, files("c.json", {"9\x1b": "a"}))
    assert "9\\x1b" in message
    assert "\x1b" not in message


def test_a_mistake_is_a_message_and_exit_code_2(files, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["score.py", "--metric", "vqa"])
    monkeypatch.setenv("MLM_JAX_CACHE", "")
    assert command.main(score.main) == 2
    assert capsys.readouterr().err == "error: --metric vqa needs --references FILE\n"


# --- the others ---


def test_vqa(files, tmp_path, capsys):
    people = [{"answer": "two", "answer_id": i} for i in range(6)]
    people += [{"answer": "3", "answer_id": i} for i in range(6, 10)]
    row = {"question_type": "how many", "answer_type": "number", "answers": people}
    annotations = [{"question_id": q, "image_id": q // 2, **row} for q in range(4)]
    results = [
        {"question_id": q, "answer": a} for q, a in enumerate(["2", "Three.", "four", "the two"])
    ]
    out, each = tmp_path / "out.json", tmp_path / "each.jsonl"
    argv = ["--metric", "vqa", "--references", files("a.json", {"annotations": annotations})]
    given = ["--candidates", files("r.json", results)]
    assert score.main([*argv, *given, "--json", str(out), "--per-image", str(each)]) == 0
    figures = json.loads(out.read_text())
    assert figures["vqa/accuracy"]["value"] == 0.75
    assert figures["vqa/accuracy/question/how many"]["n"] == 4
    assert [json.loads(line)["accuracy"] for line in each.open()] == [1, 1, 0, 1]
    assert "how many" not in capsys.readouterr().out
    with pytest.raises(UserError, match="1 of 4 questions have no candidate: 3"):
        score.main([*argv, "--candidates", files("r.json", results[:3])])
    with pytest.raises(UserError, match="row 5: 0 is there twice"):
        score.main([*argv, "--candidates", files("r.json", [*results, results[0]])])
    broken = files("b.json", {"annotations": [{"question_id": 1}]})
    with pytest.raises(UserError, match=r"row 1 has no answers \(it has: question_id\)"):
        score.main(["--metric", "vqa", "--references", broken, *given])


def test_retrieval(files, tmp_path, capsys):
    table = tmp_path / "s.npy"
    np.save(table, np.eye(4).repeat(2, 1))
    argv = ["--metric", "retrieval", "--candidates", str(table), "--json", str(tmp_path / "o.json")]
    assert score.main(argv) == 0
    assert "4 pictures, 8 captions" in capsys.readouterr().out
    owners = files("o2.json", [3, 3, 0, 0, 1, 1, 2, 2])
    assert json.loads((tmp_path / "o.json").read_text())["pictures/recall@1"]["value"] == 1
    assert score.main([*argv, "--references", owners]) == 0
    assert json.loads((tmp_path / "o.json").read_text())["pictures/recall@1"]["value"] == 0


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (np.zeros((3, 4, 5)), "accepted: floats"),
        (np.zeros((3, 7)), "7 captions are not as many for each of 3 pictures"),
        (np.array([[1.0, np.nan]]), "1 of 2 similarities are not numbers"),
        (np.array([["a"]]), "accepted: floats"),
        (np.array([[None, {}]], dtype=object), "no .npy file of numbers"),
    ],
)
def test_tables_that_are_none(tmp_path, table, told):
    np.save(tmp_path / "s.npy", table, allow_pickle=True)
    with pytest.raises(UserError, match=told):
        score.main(["--metric", "retrieval", "--candidates", str(tmp_path / "s.npy")])


def test_owners_that_are_none(files, tmp_path):
    np.save(tmp_path / "s.npy", np.zeros((2, 3)))
    argv = ["--metric", "retrieval", "--candidates", str(tmp_path / "s.npy"), "--references"]
    with pytest.raises(UserError, match="accepted: 3 whole numbers"):
        score.main([*argv, files("o.json", [0, 1])])
    with pytest.raises(UserError, match="0 to 1, each with a caption; here 0 to 0, and 1 without"):
        score.main([*argv, files("o.json", [0, 0, 0])])
    with pytest.raises(UserError, match=r"o\.json: no list of whole numbers"):
        score.main([*argv, files("o.json", [0, [0, 1], 1])])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("coco --absent random --seed 3", "--absent, --seed"),
        ("vqa --df x.json", "--df"),
        ("retrieval --subset --per-image x.jsonl", "--subset, --per-image"),
        ("pope --out x.jsonl", "--out"),
        ("pope --objects x.json --candidates y.json", "--candidates"),
        ("coco --objects x.json", "--objects"),
    ],
)
def test_what_is_not_read_is_refused(given, said):
    metric, *more = given.split()
    with pytest.raises(UserError, match=f"{metric}.* {said}$"):
        score.main(["--metric", metric, *more])


def test_pope_from_objects_to_figures(files, tmp_path, capsys):
    names = ["dog", "cat", "cup", "hat", "owl"]
    there = [{"image_id": p, "category_id": (p + i) % 5} for p in range(6) for i in range(4)]
    instances = {
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": there,
    }
    out = tmp_path / "questions.jsonl"
    argv = ["--metric", "pope", "--objects", files("i.json", instances), "--out", str(out)]
    assert score.main([*argv, "--absent", "popular"]) == 0
    rows = [json.loads(line) for line in out.open()]
    assert len(rows) == 12, "each lacks one, so one of each is asked"
    assert [row["label"] for row in rows[:2]] == ["yes", "no"]
    answers = files("a.jsonl", "\n".join(json.dumps({"answer": "Yes, it is."}) for _ in rows))
    figures = tmp_path / "o.json"
    argv = ["--metric", "pope", "--references", str(out), "--candidates", answers]
    assert score.main([*argv, "--json", str(figures)]) == 0
    value = {name: each["value"] for name, each in json.loads(figures.read_text()).items()}
    assert (value["pope/accuracy"], value["pope/recall"], value["pope/yes"]) == (0.5, 1, 1)
    assert "pope/f1" in capsys.readouterr().out
    few = files("few.json", {"1": ["dog"], "2": ["cat"]})
    with pytest.raises(UserError, match="no picture has more than 3 kinds"):
        score.main(["--metric", "pope", "--objects", few, "--out", str(out)])
    rows[0]["label"] = "maybe"
    maybe = files("q.json", rows)
    with pytest.raises(UserError, match="label is 'maybe'; accepted: yes, no"):
        score.main(["--metric", "pope", "--references", maybe, "--candidates", answers])
