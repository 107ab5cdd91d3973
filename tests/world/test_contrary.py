"""Captions that are wrong by one word."""

import numpy as np
import pytest

from mlm_jax.world import clip, language, scene, story
from mlm_jax.world.contrary import contraries, contrary
from mlm_jax.world.grade import grade_caption
from mlm_jax.world.watch import grade_story


def test_each_differs_by_one_word_is_false_and_could_have_been_said() -> None:
    kinds: set[str] = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = scene.sample(rng)
        (text,) = language.captions(truth, rng, 1)
        for kind, other in contraries(text, truth):
            pairs = zip(text.split(), other.split(), strict=True)
            assert sum(a != b for a, b in pairs) == 1
            assert not grade_caption(other, truth).wholly_right
            told = language.parse(other).objects
            assert not {(o.colour, o.shape) for o in told} & scene.HELD_OUT
            kinds.add(kind)
    assert kinds == {"colour", "shape", "size", "relation"}


def test_plural_stays_plural_and_relations_are_turned_round() -> None:
    rng = np.random.default_rng(3)
    truth = scene.sample(rng)
    found = dict.fromkeys(text for _, text in contraries("two small red circles above a", truth))
    assert "two small red squares above a" in found
    assert not any("red square " in text for text in found)


def test_one_is_of_the_relation_where_the_caption_tells_one() -> None:
    told = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = scene.sample(rng)
        (text,) = language.captions(truth, rng, 1)
        by_kind: dict[str, list[str]] = {}
        for kind, other in contraries(text, truth):
            by_kind.setdefault(kind, []).append(other)
        one, again = (contrary(text, truth, np.random.default_rng(7)) for _ in range(2))
        assert one == again
        assert one in by_kind.get("relation", [each for some in by_kind.values() for each in some])
        told += "relation" in by_kind
    assert 10 < told < 50
    assert contrary("describe the picture", truth, rng) == ""


def test_of_clips_a_word_or_a_direction_is_another() -> None:
    kinds: set[str] = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = clip.sample(rng)
        (text,) = story.captions(truth, rng, 1)
        for kind, other in contraries(text, truth):
            assert not grade_story(other, truth).wholly_right
            told = story.parse(other)
            assert len(told) == len(truth.events)
            differing = [
                tuple(
                    key for key, one, two in zip(act._fields, act, true, strict=True) if one != two
                )
                for act, true in zip(told, story.acts(truth), strict=True)
            ]
            what = "action" if kind == "direction" else kind
            assert {each for each in differing if each} == {(what,)}  # "it" is named just before
            assert not {act[:2] for act in told} & scene.HELD_OUT
            kinds.add(kind)
        by_text = {other: kind for kind, other in contraries(text, truth)}
        kind = by_text[contrary(text, truth, np.random.default_rng(7))]
        assert (kind == "direction") == ("moves" in text)
    assert kinds == {"colour", "shape", "action", "direction"}


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("a red circle grows", "a red circle turns"),  # which none would see
        ("a blue star turns", "a blue circle turns"),
        ("a red star grows, then a blue cross turns", "a blue star grows, then a blue cross turns"),
        ("a red square grows, then it blinks", "a red square grows, then it grows"),
        ("a red square grows, then it blinks", "a red square grows, then it appears"),
        ("a red square grows, then it blinks", "a red square vanishes, then it blinks"),
    ],
)  # fmt: skip
def test_nothing_is_said_of_clips_that_cannot_be(text: str, never: str) -> None:
    acts = story.parse(text)
    things = list(dict.fromkeys((act.colour, act.shape) for act in acts))
    objects = tuple(
        scene.Object(str(shape), str(colour), "small", 0.3, 0.3, 0.1, 1.0)
        for colour, shape in things
    )
    events = tuple(
        clip.Event(str(act.action), things.index(act[:2]), 1 + 6 * i, 5 + 6 * i)
        for i, act in enumerate(acts)
    )
    ground = scene.sample_background(np.random.default_rng(0))
    found = [other for _, other in contraries(text, clip.Clip(objects, ground, events, 16))]
    assert found
    assert never not in found
