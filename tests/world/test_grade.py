"""The graders: right on true renders, and not to be deceived by damaged pictures and texts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mlm_jax.world import language, scene
from mlm_jax.world.grade import CaptionGrade, find, grade_caption
from mlm_jax.world.render import render
from mlm_jax.world.scene import COLOURS, SHAPES, Background, Object, Scene


def draw(i: int) -> Scene:
    return scene.sample(np.random.default_rng([11, i]), novel=i % 2 == 1)


def wrong(truth: Scene, size: int) -> int:
    """Objects that were not found as they are, and found ones that are not there."""
    found = find(render(truth, size))
    near = [
        [o for o in found if abs(o.x - thing.x) < 0.5 / 32 and abs(o.y - thing.y) < 0.5 / 32]
        for thing in truth.objects
    ]
    right = sum(
        len(each) == 1
        and each[0][:3] == thing[:3]
        and each[0].radius == pytest.approx(thing.radius, abs=0.5 / 32)
        for each, thing in zip(near, truth.objects, strict=True)
    )
    return max(len(truth.objects), len(found)) - right


@pytest.mark.parametrize("size", [32, 48, 75, 96, 224, 512])
def test_true_pictures_are_read_back(size):
    assert sum(wrong(draw(i), size) for i in range(60)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "count"), [(48, 4_000), (32, 2_000), (64, 1_000), (224, 500)])
def test_thousands_of_true_pictures_are_read_back(size, count):
    scenes = [draw(1_000 + i) for i in range(count)]
    objects = sum(len(truth.objects) for truth in scenes)
    assert sum(wrong(truth, size) for truth in scenes) <= 0.001 * objects


# ---- damage


def agree(picture: np.ndarray, truth: Scene) -> bool:
    wanted = sorted(tuple(thing[:3]) for thing in truth.objects)
    return sorted(tuple(thing[:3]) for thing in find(picture)) == wanted


def damaged(thing: Object, rng: np.random.Generator) -> dict[str, Object | None]:
    """An object, wrong in one way; None where it is erased."""

    def other(values: tuple, value: str) -> str:
        return str(rng.choice([each for each in values if each != value]))

    large = thing.size == "large"
    return {
        "shape": thing._replace(shape=other(SHAPES, thing.shape)),
        "colour": thing._replace(colour=other(tuple(COLOURS), thing.colour)),
        "size": thing._replace(radius=thing.radius * (0.64 if large else 1.5)),
        "erased": None,
    }


@pytest.mark.parametrize("size", [48, 96])
@pytest.mark.parametrize("kind", ["shape", "colour", "size", "erased"])
def test_a_wrong_object_is_noticed(kind, size):
    for i in range(40):
        truth, rng = draw(100 + i), np.random.default_rng(i)
        first, *rest = truth.objects
        changed = damaged(first, rng)[kind]
        objects = (*rest, *([changed] if changed else []))
        picture = render(truth._replace(objects=objects), size)
        assert agree(render(truth, size), truth)
        assert not agree(picture, truth)


@pytest.mark.parametrize("size", [48, 96])
def test_a_spoilt_object_is_noticed(size):
    """A quarter painted over in grey or another colour, a half cut off, and a blot next to it."""
    for i in range(40):
        truth = draw(200 + i)
        thing = truth.objects[0]
        reach = thing.radius * size
        y, x = round(thing.y * size), round(thing.x * size)
        half = slice(max(round(y - 1.3 * reach), 0), y)
        span = slice(max(round(x - 1.3 * reach), 0), round(x + 1.3 * reach))
        core = (slice(round(y - reach / 2), round(y + reach / 2) + 1),) * 2
        core = (core[0], slice(round(x - reach / 2), round(x + reach / 2) + 1))
        colour = "cyan" if thing.colour == "red" else "red"
        for area, paint in ((core, (90, 90, 90)), ((half, span), (90, 90, 90)), (core, colour)):
            picture = render(truth, size).copy()
            picture[area] = COLOURS[paint] if isinstance(paint, str) else paint
            assert not agree(picture, truth), (i, area, paint)


def test_an_added_object_is_noticed():
    more = Object("star", "green", "small", 0.5, 0.5, 0.1)
    for i in range(60):
        truth = draw(300 + i)
        if all(max(abs(o.x - 0.5), abs(o.y - 0.5)) > 0.32 for o in truth.objects):
            assert not agree(render(truth._replace(objects=(*truth.objects, more)), 48), truth)


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 4), (48, 40, 3), (16, 16, 3)])
def test_only_square_colour_pictures_are_read(shape):
    with pytest.raises(ValueError, match="must be uint8"):
        find(np.zeros(shape, np.uint8))


def test_nothing_is_found_on_a_bare_background():
    for i in range(60):
        assert find(render(draw(i)._replace(objects=()))) == ()


def test_any_picture_can_be_read():
    rng = np.random.default_rng(0)
    assert find(np.zeros((48, 48, 3), np.uint8)) == ()
    find(rng.integers(0, 256, (48, 48, 3)).astype(np.uint8))
    find(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1))


# ---- captions

STAR = Object("star", "blue", "large", 0.2, 0.5, 0.16)
CIRCLE = Object("circle", "red", "small", 0.8, 0.52, 0.1)
TWIN = Object("circle", "red", "small", 0.22, 0.1, 0.1)
GREY = Background("plain", (99, 99, 99), (99, 99, 99), 0.0, 0.2, 0)
TWO = Scene((STAR, CIRCLE), GREY)
THREE = Scene((STAR, CIRCLE, TWIN), GREY)
PERFECT = CaptionGrade(6, 6, 6, 6, (), (), 0, True)


@pytest.mark.parametrize(
    ("text", "truth", "grade"),
    [
        ("a large blue star and a small red circle", TWO, PERFECT),
        (
            "two objects: a small red circle and a large blue star",
            TWO,
            replace(PERFECT, told=7, right=7),
        ),
        (
            "a large blue star is left of a small red circle",
            TWO,
            replace(PERFECT, told=7, right=7),
        ),
        (
            "a large blue star is right of a small red circle",
            TWO,
            CaptionGrade(7, 6, 6, 6, (), ("large blue star right of small red circle",), 0, False),
        ),
        (
            "a large green star",
            TWO,
            CaptionGrade(
                3, 2, 6, 2, ("no small red circle",), ("star is blue, not green",), 0, False
            ),
        ),
        (
            "a large star and a small red circle",
            TWO,
            CaptionGrade(5, 5, 6, 5, ("colour of the large blue star",), (), 0, False),
        ),
        (
            "a large blue star, a small red circle and a small green cross",
            TWO,
            CaptionGrade(9, 6, 6, 6, (), ("small green cross",), 1, False),
        ),
        (
            "two large blue stars and a small red circle",
            TWO,
            CaptionGrade(9, 6, 6, 6, (), ("large blue star",), 1, False),
        ),
        (
            "three objects: a large blue star and a small red circle",
            TWO,
            CaptionGrade(7, 6, 6, 6, (), ("3 objects instead of 2",), 0, False),
        ),
        (
            "",
            TWO,
            CaptionGrade(0, 0, 6, 0, ("no large blue star", "no small red circle"), (), 0, False),
        ),
        (
            "two small red circles and a large blue star",
            THREE,
            CaptionGrade(9, 9, 9, 9, (), (), 0, True),
        ),
        (  # of the two circles, the one for which it is true
            "a small red circle is above a large blue star, and there is a small red circle",
            THREE,
            CaptionGrade(10, 10, 9, 9, (), (), 0, True),
        ),
        (
            "two small red circles are above a large blue star",
            THREE,
            CaptionGrade(11, 10, 9, 9, (), ("small red circle above large blue star",), 0, False),
        ),
    ],
)
def test_captions_are_graded(text, truth, grade):
    assert grade_caption(text, truth) == grade


def test_true_captions_are_wholly_right_and_changed_ones_are_not():
    for i in range(300):
        rng = np.random.default_rng([12, i])
        truth = scene.sample(rng)
        for text in language.captions(truth, rng, 4):
            grade = grade_caption(text, truth)
            assert grade.wholly_right, text
            assert grade.right == grade.told
            assert grade.recalled == grade.expected == 3 * len(truth.objects)
            colour = truth.objects[0].colour
            other = "green" if colour == "red" else "red"
            changed = grade_caption(text.replace(colour, other), truth)
            assert not changed.wholly_right
            assert changed.right < changed.told
            assert changed.invented
            doubled = grade_caption(f"{text} and {text}", truth)
            assert doubled.invented_objects == len(truth.objects)
            assert not doubled.wholly_right


def test_captions_of_other_scenes_are_marked_down():
    rng = np.random.default_rng(5)
    for scene_told, truth in pairwise(draw(i) for i in range(200)):
        alike = language.facts(scene_told).objects == language.facts(truth).objects
        grade = grade_caption(language.captions(scene_told, rng, 1)[0], truth)
        assert alike or not grade.wholly_right
        assert alike or grade.missed or grade.invented
        assert grade.right <= grade.told


@pytest.mark.parametrize("text", ["", "and and", "a a a red", "left of", "two", "🙂 <b>"])
def test_any_text_can_be_graded(text):
    for i in range(3):
        grade = grade_caption(text, draw(i))
        assert not grade.wholly_right
        assert grade.recalled <= grade.expected


def test_endless_texts_are_graded():
    grade = grade_caption("a small red circle is above " * 200, TWO)
    assert grade.invented_objects == 199
