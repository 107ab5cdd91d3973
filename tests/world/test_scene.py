"""Scenes: what may occur in which split, where things are, and what is written down."""

from math import hypot

import numpy as np
import pytest

from mlm_jax.world import scene
from mlm_jax.world.scene import COLOURS, HELD_OUT, SEEN, SHAPES, SIZES


def scenes(count: int, *, novel: bool = False) -> list[scene.Scene]:
    return [scene.sample(np.random.default_rng([5, i]), novel=novel) for i in range(count)]


def test_held_out_pairs_are_in_novel_only():
    pairs = [{(o.colour, o.shape) for o in drawn.objects} for drawn in scenes(2_000)]
    assert not any(pair & HELD_OUT for pair in pairs)
    assert set.union(*pairs) == set(SEEN)
    assert {colour for colour, _ in SEEN} == set(COLOURS)
    assert {shape for _, shape in SEEN} == set(SHAPES)
    novel = [{(o.colour, o.shape) for o in drawn.objects} for drawn in scenes(500, novel=True)]
    assert all(pair & HELD_OUT for pair in novel)
    assert set.union(*novel) >= HELD_OUT


def test_objects_lie_inside_and_apart():
    counts = np.zeros(4)
    for drawn in scenes(1_000):
        counts[len(drawn.objects)] += 1
        for i, a in enumerate(drawn.objects):
            low, high = SIZES[a.size]
            assert low <= a.radius <= high
            assert min(a.x, a.y, 1 - a.x, 1 - a.y) > a.radius
            for b in drawn.objects[:i]:
                assert hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + 2 / 48
    assert counts[0] == 0
    assert (counts[1:] > 100).all()


def test_backgrounds_are_of_every_kind_and_nearly_grey():
    drawn = [each.background for each in scenes(1_000)]
    assert {tones.kind for tones in drawn} == set(scene.BACKGROUNDS)
    tones = np.array([[each.first, each.second] for each in drawn])
    assert np.ptp(tones, axis=-1).max() <= 8
    assert min(np.ptp(colour) for colour in COLOURS.values()) >= 125
    assert tones.min() >= 0
    assert tones.max() <= 255


def test_json_is_exact_and_a_seed_is_a_scene():
    for first, again in zip(scenes(200), scenes(200), strict=True):
        assert first == again
        assert scene.from_json(scene.to_json(first)) == first


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"objects":[[1]],"background":[]}', "null"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="not the JSON of a scene"):
        scene.from_json(text)
