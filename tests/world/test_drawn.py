"""Pictures against their prompts: true ones pass, and each kind of damage is told."""

import numpy as np
import pytest

from mlm_jax.world import clip, language, scene, story
from mlm_jax.world.drawn import (
    KINDS,
    PictureGrade,
    Place,
    figures,
    grade_clip,
    grade_picture,
    spread,
)
from mlm_jax.world.pairing import pairings
from mlm_jax.world.render import play, render
from mlm_jax.world.scene import COLOURS, SHAPES, Background, Object, Scene

STAR = Object("star", "blue", "large", 0.2, 0.5, 0.16)
CIRCLE = Object("circle", "red", "small", 0.8, 0.52, 0.1)
CROSS = Object("cross", "yellow", "small", 0.5, 0.2, 0.1)
GREY = Background("plain", (99, 99, 99), (99, 99, 99), 0.0, 0.2, 0)
TELLS = "a large blue star is left of a small red circle"


def draw(i: int) -> tuple[Scene, str]:
    truth = scene.sample(np.random.default_rng([21, i]), novel=i % 2 == 1)
    return truth, language.captions(truth, np.random.default_rng([22, i]), 1)[0]


def grade(*objects: Object, prompt: str = TELLS) -> PictureGrade:
    return grade_picture(render(Scene(objects, GREY)), prompt)


def passing(count: int) -> float:
    pairs = [draw(i) for i in range(count)]
    return float(np.mean([grade_picture(render(truth), text).passed for truth, text in pairs]))


def test_true_pictures_pass():
    assert passing(200) == 1


@pytest.mark.slow
def test_thousands_of_true_pictures_pass():
    assert passing(4_000) >= 0.995


def test_every_part_of_a_picture_that_is_right():
    right = grade(STAR, CIRCLE)
    assert right.passed
    assert right.kind == "two related"
    assert right.fates == ("large blue star", "small red circle")
    assert right.faults == ()
    assert right.places[0] == pytest.approx(Place(0.2, 0.5), abs=0.01)


@pytest.mark.parametrize(
    ("objects", "parts", "faults"),
    [
        ((STAR,), "attributes count relations", "no small red circle"),
        ((STAR, CIRCLE._replace(shape="square")), "attributes", "square instead of circle"),
        ((STAR._replace(colour="green"), CIRCLE), "attributes", "green instead of blue star"),
        ((STAR._replace(radius=0.1), CIRCLE), "attributes", "small instead of large star"),
        (
            (STAR._replace(x=0.8), CIRCLE._replace(x=0.2)),
            "relations",
            "large blue star is not left of small red circle",
        ),
        ((STAR, CIRCLE, CROSS), "count", "small yellow cross too many"),
        ((STAR, CIRCLE, CIRCLE._replace(y=0.1)), "count", "small red circle too many"),
    ],
)
def test_what_is_wrong_is_said(objects, parts, faults):
    found = grade(*objects)
    wrong = {name for name in ("count", "attributes", "relations") if not getattr(found, name)}
    assert wrong == set(parts.split())
    assert found.faults[0] == faults or faults in found.faults
    assert not found.passed


@pytest.mark.parametrize(
    ("prompt", "kind", "passed"),
    [
        ("a star", "one", False),
        ("a blue object and a circle", "two", True),
        ("two objects", "two", True),
        ("two objects: a blue star", "two", True),
        ("three objects", "three", False),
        ("a star, a star, a star and a star", "more", False),
        ("a small star and a small circle", "two", False),
    ],
)
def test_what_is_not_stated_is_free(prompt, kind, passed):
    found = grade(STAR, CIRCLE, prompt=prompt)
    assert (found.kind, found.passed) == (kind, passed)
    assert kind in KINDS


def damaged(truth: Scene, rng: np.random.Generator) -> dict[str, tuple[Object, ...]]:
    """The objects of a scene, with the first of them removed, changed or joined by another."""
    first, *rest = truth.objects
    colour = str(rng.choice([c for c in COLOURS if c != first.colour]))
    shape = str(rng.choice([s for s in SHAPES if s != first.shape]))
    size = first.radius * (0.64 if first.size == "large" else 1.5)
    more = first._replace(x=1 - first.x, y=1 - first.y)
    far = all(max(abs(o.x - more.x), abs(o.y - more.y)) > 0.36 for o in truth.objects)
    return {
        "removed": tuple(rest),
        "recoloured": (first._replace(colour=colour), *rest),
        "reshaped": (first._replace(shape=shape), *rest),
        "resized": (first._replace(radius=size), *rest),
        **({"joined": (*truth.objects, more)} if far else {}),
    }


def test_damage_is_noticed():
    for i in range(60):
        truth, text = draw(1_000 + i)
        for kind, objects in damaged(truth, np.random.default_rng(i)).items():
            picture = render(truth._replace(objects=objects))
            assert not grade_picture(picture, text).passed, (i, kind, text)


def test_a_mirrored_relation_is_noticed():
    """Left and right, above and below: the picture turned by half."""
    told = 0
    for i in range(100):
        truth, text = draw(2_000 + i)
        if language.parse(text).relations:
            told += 1
            turned = tuple(o._replace(x=1 - o.x, y=1 - o.y) for o in truth.objects)
            found = grade_picture(render(truth._replace(objects=turned)), text)
            assert found.count
            assert not found.relations, text
    assert told > 30


def test_anything_can_be_graded():
    rng = np.random.default_rng(0)
    blotches = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    long = ", ".join(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)
    assert not grade_picture(blotches, long).passed
    with pytest.raises(ValueError, match="no object of the world"):
        grade_picture(blotches, "the weather in spring")


def test_pairings():
    assert list(pairings([[0], [0, 1]])) == [{0: 0, 1: 1}, {0: 0}, {1: 0}, {1: 1}, {}]


# ---- many


def test_shares_by_kind():
    right, wrong = grade(STAR, CIRCLE), grade(STAR)
    alone = grade(STAR, prompt="a blue star")
    found = figures([right, wrong, alone, alone])
    values = {name: (figure.value, figure.n) for name, figure in found.items()}
    assert values == {
        "drawn/passed": (0.75, 4),
        "drawn/passed/one": (1.0, 2),
        "drawn/passed/two related": (0.5, 2),
        "drawn/count": (0.75, 4),
        "drawn/attributes": (0.75, 4),
        "drawn/relations": (0.5, 2),
    }
    assert found["drawn/passed"].low < 0.75 < found["drawn/passed"].high


def test_spread():
    near = [grade(STAR._replace(x=x), CIRCLE) for x in (0.2, 0.3)]
    assert spread(near) == pytest.approx(np.sqrt(0.005 / 2), abs=0.003)
    assert spread([near[0], near[0]]) == 0
    assert np.isnan(spread([near[0], grade(STAR)]))


# ---- clips


def tell(i: int) -> tuple[clip.Clip, str]:
    shown = clip.sample(np.random.default_rng([23, i]))
    return shown, story.captions(shown, np.random.default_rng([24, i]), 1)[0]


def test_true_clips_pass():
    for i in range(40):
        shown, text = tell(i)
        assert grade_clip(play(shown), text).passed, (i, text)


def test_a_clip_run_backwards_fails():
    """Where one thing happens that is another when it is seen from its end."""
    for i in range(40):
        shown, text = tell(i)
        told = story.acts(shown)
        if len(told) == 1 and told[0].action not in ("turns", "blinks"):
            assert not grade_clip(play(shown)[::-1], text).passed, (i, text)


def test_events_in_another_order_are_told():
    for i in range(60):
        shown, _ = tell(i)
        told = story.acts(shown)
        if len(told) == 2 and told[0] != told[1]:
            swapped = ", then ".join(story.clause(act) for act in reversed(told))
            found = grade_clip(play(shown), swapped)
            assert found.count
            assert not found.passed
            return
    raise AssertionError("no clip of two events was drawn")


def test_where_nothing_happens_nothing_is_in_order():
    shown = next(shown for shown, _ in map(tell, range(60)) if len(story.acts(shown)) == 2)
    told = ", then ".join(map(story.clause, story.acts(shown)))
    still = grade_clip(np.repeat(play(shown)[:1], len(play(shown)), axis=0), told)
    assert (still.count, still.order) == (False, False)
    assert "in another order" not in still.faults
    assert figures([still])["drawn/order"].value == 0


def test_what_happens_is_told_apart_from_what_it_happens_to():
    shown, text = next(
        (shown, text) for shown, text in map(tell, range(60)) if len(story.acts(shown)) == 1
    )
    (act,) = story.acts(shown)
    other = "grows" if act.action != "grows" else "shrinks"
    pictures = play(shown)
    right, deed = (grade_clip(pictures, said) for said in (text, text.replace(act.action, other)))
    assert (right.attributes, right.motion) == (True, True)
    assert (deed.attributes, deed.motion) == (True, False)
    strange = "star" if act.shape != "star" else "cross"
    thing = grade_clip(pictures, text.replace(act.shape, strange))
    assert (thing.attributes, thing.motion) == (False, True)
    found = figures([right, deed, thing])
    assert found["drawn/motion"].value == pytest.approx(2 / 3)
    assert found["drawn/attributes"].value == pytest.approx(2 / 3)


def test_spread_of_clips():
    shown, text = next(
        (shown, text) for shown, text in map(tell, range(60)) if len(story.acts(shown)) == 1
    )
    pictures = play(shown)
    assert spread([grade_clip(pictures, text)] * 2) == 0
    moved = np.roll(pictures, 6, axis=2)
    assert spread([grade_clip(each, text) for each in (pictures, moved)]) > 0.05


def test_a_prompt_without_events_is_refused():
    with pytest.raises(ValueError, match="nothing that happens"):
        grade_clip(play(tell(0)[0]), "hello")
