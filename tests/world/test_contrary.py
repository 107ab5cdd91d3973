"""Captions that are wrong by one word."""

import numpy as np

from mlm_jax.world import language, scene
from mlm_jax.world.contrary import contraries
from mlm_jax.world.grade import grade_caption


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
