"""The graders: right about true renders and captions, and not blind to damage."""

from itertools import pairwise

import numpy as np
import pytest

from mlm_jax.world.grade import find, grade_caption
from mlm_jax.world.language import captions
from mlm_jax.world.render import render
from mlm_jax.world.scene import Scene, sample

Name = tuple[str, str, str]


def scenes(count: int, seed: int = 0, *, novel: bool = False) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample(rng, novel=novel) for _ in range(count)]


def names(things) -> list[Name]:
    return sorted((o.size, o.colour, o.shape) for o in things)


def wrong(true: list[Name], found: list[Name]) -> int:
    """Objects of a scene that were not found as they are, and found ones that are not there."""
    missed = list(true)
    for name in found:
        if name in missed:
            missed.remove(name)
    return max(len(missed), len(found) - len(true) + len(missed))


@pytest.mark.parametrize(("size", "count"), [(48, 150), (96, 40)])
def test_true_renders_are_read_right(size: int, count: int) -> None:
    total = sum(
        wrong(names(scene.objects), names(find(render(scene, size)))) for scene in scenes(count)
    )
    assert total == 0


@pytest.mark.slow
def test_true_renders_are_read_right_by_the_thousand() -> None:
    seen = [scene for novel in (False, True) for scene in scenes(1500, 1, novel=novel)]
    total = sum(len(scene.objects) for scene in seen)
    bad = sum(wrong(names(scene.objects), names(find(render(scene)))) for scene in seen)
    assert bad / total < 0.005


def test_damage_is_noticed() -> None:
    """An object erased, recoloured or replaced is no longer found as it was."""
    for scene in scenes(40, 2):
        thing, *rest = scene.objects
        true = names(scene.objects)
        changed = {
            "erased": tuple(rest),
            "recoloured": (
                thing._replace(colour="red" if thing.colour != "red" else "blue"), *rest
            ),
            "reshaped": (
                thing._replace(shape="cross" if thing.shape != "cross" else "circle"), *rest
            ),
        }  # fmt: skip
        for how, objects in changed.items():
            assert names(find(render(scene._replace(objects=objects)))) != true, how


def test_no_object_is_found_on_a_bare_background() -> None:
    for scene in scenes(40, 3):
        assert find(render(scene._replace(objects=()))) == ()


def test_true_captions_are_wholly_right() -> None:
    rng = np.random.default_rng(4)
    for scene in scenes(200, 4):
        for text in captions(scene, rng, 4):
            grade = grade_caption(text, scene)
            assert grade.wholly_right, (text, grade)
            assert grade.right == grade.told
            assert grade.recalled == grade.expected == 3 * len(scene.objects)
            assert not grade.missed
            assert not grade.invented


def test_captions_of_other_scenes_are_marked_down() -> None:
    rng = np.random.default_rng(5)
    some = scenes(200, 5)
    for scene, other in pairwise(some):
        if names(scene.objects) == names(other.objects):
            continue
        grade = grade_caption(captions(other, rng, 1)[0], scene)
        assert not grade.wholly_right
        assert grade.right <= grade.told
        assert grade.missed or grade.invented


def test_one_word_changed_costs_one_fact() -> None:
    scene = next(scene for scene in scenes(50, 6) if len(scene.objects) == 1)
    thing = scene.objects[0]
    other = "red" if thing.colour != "red" else "blue"
    grade = grade_caption(f"a {thing.size} {other} {thing.shape}", scene)
    assert (grade.told, grade.right, grade.expected, grade.recalled) == (3, 2, 3, 2)
    assert not grade.wholly_right


@pytest.mark.parametrize("text", ["", "and and", "a a a red", "left of", "two", "🙂 <b>"])
def test_any_text_can_be_graded(text: str) -> None:
    for scene in scenes(3, 7):
        grade = grade_caption(text, scene)
        assert not grade.wholly_right
        assert grade.recalled <= grade.expected
