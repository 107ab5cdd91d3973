"""Captions that are wrong by one word."""

import numpy as np

from mlm_jax.world import language, scene
from mlm_jax.world.contrary import contraries, contrary
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
