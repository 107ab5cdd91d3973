"""The script that asks more of NLVR: meanings against pictures read by eye, and against people."""

import json
import random
from pathlib import Path

import pytest

from experiments import nlvr_questions as asking
from experiments.configs import REAL
from experiments.nlvr_meaning import Box, meaning
from mlm_jax.config import UserError
from mlm_jax.data.rows import read_rows

TOWERS = [
    Box([[40, 80, 20, "square", "yellow"], [40, 59, 20, "square", "blue"]]),
    Box([[40, 80, 20, "square", "black"]]),
    Box([[40, 38, 20, "square", "blue"], [40, 59, 20, "square", "black"],
                [40, 80, 20, "square", "blue"]]),
]  # fmt: skip
SCATTER = [
    Box([[0, 30, 10, "circle", "yellow"], [50, 40, 30, "triangle", "black"]]),
    Box([[97, 96, 1, "square", "blue"]]),
    Box([[20, 10, 20, "circle", "black"], [60, 70, 30, "circle", "black"]]),
]


@pytest.mark.parametrize(
    ("expression", "picture", "truth"),
    [
        ("count(filter_obj(all_boxes, lambda x: x.is_tower())) == 3", TOWERS, True),
        ("exist(filter_obj(all_boxes, lambda x: x.is_tower()))", SCATTER, False),
        ("exist(filter_obj(all_items, lambda x: is_blue(x) and is_bottom(x)))", TOWERS, True),
        ("exist(filter_obj(all_items, lambda x: is_yellow(x) and is_top(x)))", TOWERS, False),
        ("exist(filter_obj(all_items, lambda x: is_second(x) and is_black(x)))", TOWERS, True),
        ("exist(filter_obj(all_items, lambda x: is_third(x) and is_black(x)))", TOWERS, False),
        ("count(filter_obj(all_items, lambda x: exist(get_above(x)))) == 3", TOWERS, True),
        ("exist(filter_obj(all_items, lambda x: is_yellow(x) and "
         "is_blue(unique(get_above(x)))))", TOWERS, True),
        ("exist(filter_obj(all_items, lambda x: is_blue(x) and "
         "exist(filter_color(get_touching(x), Color.BLUE))))", TOWERS, False),
        ("exist(filter_obj(all_items, lambda x: count(get_box_all_below(x)) == 2))", TOWERS, True),
        ("exist(filter_obj(all_boxes, lambda x: get_set_colors(x) == set([Color.BLACK])))",
         TOWERS, True),
        ("All(all_boxes, lambda x: exist(filter_color(x, Color.BLUE)))", TOWERS, False),
        ("exist(filter_obj(all_items, lambda x: is_touching_wall(x, Side.LEFT)))", SCATTER, True),
        ("exist(filter_obj(all_items, lambda x: is_touching_wall(x, Side.BOTTOM)))",
         SCATTER, True),
        ("exist(filter_obj(all_items, lambda x: is_touching_wall(x, Side.RIGHT)))",
         SCATTER, False),
        ("exist(filter_obj(all_items, lambda x: is_touching_corner(x)))", SCATTER, False),
        ("exist(filter_obj(all_items, lambda x: is_closely_touching_corner(x, Side.RIGHT)))",
         SCATTER, True),
        ("NOT(exist(filter_obj(all_items, lambda x: is_big(x) and is_circle(x))))",
         SCATTER, False),
        ("unique(all_boxes)", SCATTER, None),
    ],
)  # fmt: skip
def test_a_meaning_holds_of_a_picture_or_not(expression, picture, truth) -> None:
    holds = meaning(expression)
    assert holds is not None
    assert holds(picture) is truth


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').getcwd()",
        "().__class__",
        "all_boxes.clear()",
        "count.__self__",
        "[box for box in all_boxes]",
        "9 ** 9 ** 9",
        "exist(eval('1'))",
        "exist(",
    ],
)
def test_nothing_but_the_words_is_run(expression: str) -> None:
    assert meaning(expression) is None


def test_a_picture_is_described_box_by_box() -> None:
    assert asking.describe(TOWERS) == (
        "left tower yellow blue middle tower black right tower blue black blue"
    )
    assert asking.describe(SCATTER) == (
        "left black triangle yellow circle touching middle blue square "
        "right black circle touching black circle"
    )


@pytest.mark.parametrize("picture", [TOWERS, SCATTER])
def test_questions_of_a_picture_are_answered_from_its_boxes(picture) -> None:
    wanted = {
        "what color is the bottom block of the left tower": "yellow",
        "what color is the top block of the left tower": "blue",
        "what color is the second block of the right tower": "black",
        "what color is the third block of the left tower": "none",
        "how many blue blocks are in the right box": "2",
        "how many boxes have a blue block": "2",
    }
    if picture is SCATTER:
        wanted = {
            "how many black circles are in the right box": "2",
            "how many circles are touching the wall in the right box": "1",
            "how many items are there": "5",
            "how many boxes have a black item": "2",
            "how many yellow squares are in the left box": "0",
        }
    asked: dict[str, str] = {}
    for seed in range(100):
        some = asking.numbers(picture, 6, random.Random(seed))
        assert len(some) == 6
        assert all(asked.setdefault(text, answer) == answer for text, answer in some.items())
    assert {text: asked.get(text) for text in wanted} == wanted
    assert 6 < len(asking.numbers(picture, 1_000, random.Random(0))) < 1_000  # asked for too many


def test_a_sentence_is_asked_of_as_many_true_pictures_as_false() -> None:
    holds = meaning("exist(filter_obj(all_items, lambda x: is_yellow(x)))")
    assert holds is not None
    pictures = {f"{i}.png": TOWERS if i < 3 else SCATTER[1:] for i in range(20)}
    for n, expected in ((2, 2), (10, 3)):
        pairs = list(asking.pairs(holds, pictures, n, random.Random(0)))
        assert [truth for _, truth in pairs].count(True) == expected == len(pairs) / 2
        assert len({name for name, _ in pairs}) == len(pairs)
        assert all(truth == (pictures[name] is TOWERS) for name, truth in pairs)


def test_meanings_agree_with_people_and_the_set_is_written(tmp_path: Path) -> None:
    folder = Path(REAL) / "nlvr"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with pytest.raises(UserError, match="the set itself stands there"):
        asking.run([str(folder), "--out", str(folder)])
    dev = read_rows(folder / "dev.jsonl.gz", {"sentence", "label", "boxes"})
    truths = []
    for row in dev:
        holds = meaning(row.get("lf") or "")
        if holds is not None:
            truths.append(holds([Box(box) for box in row["boxes"]]) is row["label"])
    assert len(truths) > 0.95 * len(dev)
    assert sum(truths) / len(truths) > 0.995

    assert asking.run([str(folder), "--out", str(tmp_path), "--pictures", "2"]) == 0
    train = read_rows(tmp_path / "train.jsonl", {"image", "captions", "sentence", "label"})
    labels = [label for row in train for label in row["label"]]
    assert len(train) == 12_410
    assert labels.count("true") == labels.count("false") > 4_000
    written = [json.loads(line) for line in (tmp_path / "dev.jsonl").read_text().splitlines()]
    assert written == [{key: row[key] for key in ("image", "label", "sentence")} for row in dev]
