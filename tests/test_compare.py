"""Runs side by side: whole ones, and those that were deleted half-way, of which none is a crash."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_report import EVIL, parsed

from experiments import compare
from mlm_jax.ablation import comparison, pictures
from mlm_jax.ablation.kinds import statistics
from mlm_jax.config import UserError, load, to_json
from mlm_jax.evaluators import classes


def example(where: str, said: str, score: float) -> dict:
    caption = {"text": said, "score": score, "references": ["a red star"]}
    caption |= {"missed": [], "invented": []}
    asked = [{"question": "how many?", "text": said, "score": score, "references": ["two"]}]
    return {"image": "QUJD", "where": where, "caption": caption, "questions": asked}


def written(run: Path, value: float, said: str, seed: int, name: str = "vit_tiny") -> Path:
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(to_json(load(name)) | {"seed": seed}))
    lines = [{"step": s, "time": s, "loss": value / s} for s in range(1, 5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50}
    (run / "evaluation.json").write_text(json.dumps({"vqa/accuracy": figure}))
    shown = [example("world test 1", said, value), example(f"world test {seed + 7}", said, 0.0)]
    (run / "examples.json").write_text(json.dumps({"shown": shown, "wrong": []}))
    return run


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [written(tmp_path / "a" / "run", 0.5, "a blue star", 0),
            written(tmp_path / "b" / "run", 0.7, EVIL, 1)]  # fmt: skip


def counted(run: Path, right: np.ndarray, first: int = 0, source=("world", "test")) -> None:
    rows = [{"accuracy": float(r), "asked": 4.0, "nats": 1.0, "tokens": 2.0, "texts": 4.0}
            for r in right]  # fmt: skip
    pictures.save(run, "test", range(first, first + len(right)), rows, source)


def test_page_has_both_and_no_markup_of_theirs(two):
    text = comparison.report(comparison.sides(two), statistics)
    seen = parsed(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in seen.tags}
    assert not re.search(r"https?://", text)
    said = "".join(seen.text)
    assert EVIL in said
    assert "a blue star" in said
    assert {"a/run", "b/run", "seed"} <= {*seen.text}, "names, and the key that differs"
    assert "optim.lr" not in seen.text, "what is the same in both is not shown"
    cards = [attributes["alt"] for tag, attributes in seen.tags if tag == "img"]
    assert cards == ["picture world test 1"], "the picture that both were shown"
    assert "a/run and b/run keep no counts by picture" in said
    assert len(re.findall(r'<polyline class="line s\d"', text)) == 2


def test_an_answer_that_few_people_gave_is_not_wrong():
    people = ["crimson", *["red"] * 3, *(f"other {i}" for i in range(6))]
    said = comparison.line({"text": "red", "score": 0.9, "references": people}, "which? ")
    wanted = ["≈", " which? ", "red", " ", "as 3 of 10 people say, the commonest: red"]
    assert parsed(said).text == wanted


def test_paired_difference_is_that_of_the_pictures(two):
    """Against a plain bootstrap of differences, which a mean over as many questions each is."""
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 4, 80)
    better = np.minimum(hard + rng.integers(0, 2, 80), 4)
    counted(two[0], hard)
    counted(two[1], better)
    one, other = (side.counts["test"] for side in comparison.sides(two))
    found = comparison.difference(one, other, statistics)["vqa/accuracy"]
    apart = (better - hard) / 4
    drawn = rng.choice(apart, (4000, 80)).mean(1)
    assert found.value == pytest.approx(apart.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.01)
    each = np.sqrt((hard.var() + better.var()) / 80) / 4
    assert found.high - found.low < 0.6 * 2 * 1.96 * each, "narrower than of two independent runs"
    said = "".join(parsed(comparison.report(comparison.sides(two), statistics)).text)
    assert "b/run less a/run" in said
    assert f"+{apart.mean():.3f}" in said


def test_only_shared_pictures_are_compared(two):
    counted(two[0], np.array([1, 2, 3, 4]))
    counted(two[1], np.array([3, 4, 0, 0]), first=2)
    one, other = (side.counts["test"] for side in comparison.sides(two))
    found = comparison.difference(one, other, statistics)["vqa/accuracy"]
    assert (found.value, found.n) == (0.0, 2)
    counted(two[1], np.array([3, 4]), first=50)
    assert comparison.difference(one, pictures.load(two[1], "test"), statistics) == {}


@pytest.mark.parametrize("other", [("shapes", "test"), ("world", "test[:2]"), None])
def test_rows_of_other_data_or_of_another_split_are_not_the_same_pictures(two, other):
    """Nor are those of which it is not known: files of before have no source."""
    counted(two[0], np.array([1, 2, 3, 4]))
    counted(two[1], np.array([1, 2, 3, 3]), source=other)
    if other is None:
        tree = json.loads((two[1] / "counts.json").read_text())
        (two[1] / "counts.json").write_text(
            json.dumps({k: tree[k] for k in ("pictures", "columns")})
        )
    found = comparison.sides(two)
    one, same = (side.counts["test"] for side in found)
    assert comparison.difference(one, same, statistics) == {}
    said = "".join(parsed(comparison.report(found, statistics)).text)
    assert "b/run was not asked about the pictures of a/run" in said
    assert "b/run less a/run" not in said


def test_the_run_that_keeps_no_counts_is_named(two, tmp_path):
    third = written(tmp_path / "c", 0.6, "x", 2)
    counted(two[0], np.array([1, 2, 3, 4]))
    counted(third, np.array([1, 2, 4, 4]))
    said = "".join(parsed(comparison.report(comparison.sides([*two, third]), statistics)).text)
    assert "c less a/run" in said.replace("c/c", "c")
    assert "b/run keeps no counts by picture" in said
    assert "These runs" not in said


def test_classifiers_are_compared_by_picture(two):
    """Macro F1 is of all classes at once: it is made anew of each draw."""
    label = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    for run, said in ((two[0], label), (two[1], np.where(label == 2, 0, label))):
        rows = [classes.judged(np.array([s]), r, 0, 3) for s, r in zip(said, label, strict=True)]
        pictures.save(run, "test", range(8), rows, ("shapes", "val"))
    one, other = (side.counts["test"] for side in comparison.sides(two))
    found = comparison.difference(one, other, statistics)
    assert found["classes/accuracy"].value == pytest.approx(-2 / 8)
    assert found["classes/macro_f1"].value == pytest.approx((2 * 3 / 8 + 1 + 0) / 3 - 1)


def test_a_damaged_evaluation_of_a_split_that_no_other_run_has(two, tmp_path, capsys):
    (two[1] / "evaluation_novel.json").write_text("{")
    out = tmp_path / "page.html"
    assert compare.main([*map(str, two), "--out", str(out)]) == 0
    assert "evaluation_novel.json" in capsys.readouterr().err
    assert "a/run" in "".join(parsed(out.read_text()).text)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: (run / "config.json").unlink(), "no config.json"),
        (lambda run: (run / "config.json").write_text("{"), "config.json"),
        (lambda run: (run / "evaluation.json").unlink(), "not evaluated"),
        (lambda run: (run / "evaluation.json").write_text('{"loss": {"value"'), "evaluation.json"),
        (lambda run: (run / "evaluation.json").write_text('{"loss": 3}'), "evaluation.json"),
        (lambda run: (run / "examples.json").write_text("[]"), "examples.json"),
        (lambda run: (run / "counts.json").write_text("{}"), "counts of test"),
        (lambda run: (run / "metrics.jsonl").unlink(), "no metrics"),
        (shutil.rmtree, "no such folder"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_and_the_rest_is_shown(two, harm, said, tmp_path, capsys):
    harm(two[1])
    out = tmp_path / "page.html"
    assert compare.main([*map(str, two), "--out", str(out)]) == 0
    assert said in capsys.readouterr().err
    shown = "".join(parsed(out.read_text()).text)
    assert said in shown
    assert "a/run" in shown


def test_what_cannot_be_compared_is_refused(two, tmp_path):
    (tmp_path / "x").mkdir()
    for given, said in (
        (two[:1], "at least two"),
        ([two[0], two[0]], "given twice"),
        ([tmp_path / "x", tmp_path / "y"], "none of these"),
    ):
        with pytest.raises(UserError, match=said):
            comparison.sides(given)
    with pytest.raises(UserError, match="no folder"):
        compare.main([*map(str, two), "--out", str(tmp_path / "none" / "page.html")])


def test_runs_of_two_kinds(tmp_path):
    """Keys that one model does not have are absent, not an error."""
    runs = [written(tmp_path / "a", 0.5, "x", 0),
            written(tmp_path / "b", 0.6, "y", 0, "vit_classifier_tiny")]  # fmt: skip
    said = parsed(comparison.report(comparison.sides(runs), statistics)).text
    assert "(absent)" in said
    assert "model.fusion.kind" in said
