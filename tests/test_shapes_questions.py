"""The script that asks more of SHAPES: answers against a grid read by eye, and against the set."""

import json
import random
from pathlib import Path

import pytest

from experiments import shapes_questions as asking
from experiments.configs import REAL
from mlm_jax.config import UserError

GRID = [
    "rc", "__", "gs",
    "bt", "rs", "__",
    "__", "gc", "rs",
]  # fmt: skip


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("is a red shape a circle", "yes"),
        ("is a blue shape a circle", "no"),
        ("is a circle above a triangle", "yes"),
        ("is a triangle above a circle", "no"),
        ("is a triangle left of a square", "yes"),
        ("is a triangle right of a square", "no"),
        ("is a circle left of above a green shape", "no"),
        ("is a blue shape left of above a green shape", "yes"),
        ("is a red shape right of below a square", "yes"),
        ("is a green shape below below a square", "no"),
    ],
)
def test_answers_are_those_of_the_grid(question: str, answer: str) -> None:
    assert asking.answer(question, GRID) == answer


def test_what_stands_beside_is_asked_of_single_things_only() -> None:
    asked = dict(asking.besides(GRID))
    assert asked["what is right of the blue triangle"] == "red square"
    assert asked["what is right of the red circle"] == "nothing"
    assert asked["what is left of the green circle"] == "nothing"
    assert "what is left of the blue triangle" not in asked  # the edge
    assert not any("red square" in text for text in asked)  # there are two


def test_answers_are_half_yes_and_no_question_comes_twice() -> None:
    by_length = [[text for n, text in asking.grammar() if n == length] for length in range(3)]
    assert [len(texts) for texts in by_length] == [36, 36 * 4, 36 * 16]
    own = ("is a red shape a circle", "yes")
    for seed in range(50):
        asked = asking.ask(own, GRID, by_length, 8, random.Random(seed))
        answers = [answer for _, answer in asked]
        assert asked[0] == own
        assert answers[1:].count("yes") == answers.count("no") == 4
        assert len({text for text, _ in asked}) == len(asked) == 17


def test_recorded_answers_are_reproduced_and_val_is_held_out(tmp_path: Path) -> None:
    folder = Path(REAL) / "shapes"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    splits = {split: asking.read(folder, split) for split in (*asking.TRAIN, asking.VAL)}
    with pytest.raises(UserError, match="the set itself stands there"):
        asking.run([str(folder), "--out", str(folder)])
    for rows in splits.values():
        assert all(asking.answer(r["question"], asking.cells(r)) == r["answer"] for r in rows)
    assert asking.run([str(folder), "--out", str(tmp_path), "--questions", "2"]) == 0
    val = [{"question": [r["question"]], "answer": [r["answer"]]} for r in splits["val"]]
    written = {
        split: [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        for split in splits
    }
    assert written["val"] == val
    train = [row for split in asking.TRAIN for row in written[split]]
    asked = {text for row in train for text in row["question"]}
    assert asked.isdisjoint(row["question"] for row in splits["val"])
    assert len(asked) > 600


def test_a_broken_row_is_named_and_not_left_out(tmp_path: Path) -> None:
    """Row n is of picture n: without one, all that follow would be asked of another picture."""
    good = '{"question": "is a circle red", "answer": "no", "grid": "__________________"}'
    for bad, why in (
        ("{", "invalid JSON"),
        ('{"question": "?", "answer": "no"}', "no \\['grid'\\]"),
    ):
        (tmp_path / "val.jsonl").write_text(f"{good}\n{bad}\n{good}\n")
        with pytest.raises(UserError, match=f"val.jsonl:2.*{why}"):
            asking.read(tmp_path, "val")
