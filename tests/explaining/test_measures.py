"""Measures against maps that are right, wrong and random; masks against what is rendered."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from mlm_jax.data import tokenizers
from mlm_jax.explaining import measures
from mlm_jax.explaining.asked import words_of
from mlm_jax.explaining.spoken import distance, mask, spoken
from mlm_jax.world import scene as scenes
from mlm_jax.world.language import captions
from mlm_jax.world.render import background, render
from mlm_jax.world.scene import COLOURS, Scene


def some_scene(seed: int, **kwargs: Any) -> Scene:
    return scenes.sample(np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize("size", [48, 96])
def test_masks_are_what_is_rendered(size: int) -> None:
    """An object alone on its background: pixels that changed by more than half."""
    for seed in range(20):
        truth = some_scene(seed)
        for thing in truth.objects:
            drawn = render(Scene((thing,), truth.background), size).astype(float)
            empty = background(truth.background, size)
            full = np.minimum(np.array(COLOURS[thing.colour]) * thing.shade, 255)
            change = ((drawn - empty) * (full - empty)).sum(-1) / ((full - empty) ** 2).sum(-1)
            own = mask(thing, size)
            sure = abs(change - 0.5) > 0.03  # levels are whole numbers
            np.testing.assert_array_equal(own[sure], (change > 0.5)[sure])
            assert sure.mean() > 0.98
            assert own.any()


def test_distance_by_brute_force() -> None:
    where = np.zeros((9, 7), bool)
    where[2, 3] = where[8, 0] = True
    away = distance(where)
    for y in range(9):
        for x in range(7):
            assert away[y, x] == pytest.approx(min(np.hypot(y - 2, x - 3), np.hypot(y - 8, x)))


# --- which word speaks of what ---


def test_spoken() -> None:
    truth = some_scene(0, objects=2)
    first, second = (
        each._replace(shape=shape, colour=colour, size=size)
        for each, (size, colour, shape) in zip(
            truth.objects, (("small", "red", "circle"), ("large", "blue", "star")), strict=True
        )
    )
    truth = truth._replace(objects=(first, second))
    text = "a small red circle and a large blue cross"
    told = [(each.word, each.kind, each.objects) for each in spoken(text, truth)]
    assert told == [
        ("small", "size", (first,)),
        ("red", "colour", (first,)),
        ("circle", "shape", (first,)),
        ("large", "size", (second,)),
        ("blue", "colour", (second,)),
    ]
    starts = [each.start for each in spoken(text, truth)]
    assert [text[at:].split()[0] for at in starts] == ["small", "red", "circle", "large", "blue"]


def test_spoken_of_many() -> None:
    """Two that look the same are spoken of by one phrase."""
    truth = some_scene(0, objects=3)
    alike = [each._replace(shape="star", colour="blue", size="small") for each in truth.objects[:2]]
    other = truth.objects[2]._replace(shape="cross", colour="pink", size="large")
    truth = truth._replace(objects=(*alike, other))
    told = {
        each.word: set(each.objects) for each in spoken("two small blue stars and a cross", truth)
    }
    assert told == {
        "small": set(alike), "blue": set(alike), "stars": set(alike), "cross": {other}
    }  # fmt: skip


def test_every_word_of_true_captions() -> None:
    """Of a true caption each size, colour and shape speaks of objects that are so."""
    for seed in range(30):
        truth = some_scene(seed)
        for text in captions(truth, np.random.default_rng(seed), 3):
            found = list(spoken(text, truth))
            objects = {thing for each in found for thing in each.objects}
            assert objects == set(truth.objects)
            for each in found:
                names = (each.word, each.word.rstrip("s"), each.word[:-2])
                assert all(getattr(thing, each.kind) in names for thing in each.objects)


def test_words_of_tokens() -> None:
    tokenizer = tokenizers.bpe(["a red circle, a star"], 262)
    text = "a red circle, a star"
    ids = np.array([*tokenizer.encode(text), tokenizer.eos, tokenizer.pad])
    words = words_of(tokenizer, ids)
    assert [word.text for word in words] == ["a", "red", "circle", ",", "a", "star"]
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    joined = [i for word in words for i in word.tokens]
    assert joined == list(range(len(ids) - 2))


# --- measures ---


def disc(centre: tuple[int, int], radius: float, size: int = 48) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def test_pointing_of_perfect_worst_and_random_maps() -> None:
    rng = np.random.default_rng(0)
    cases = [disc((int(y), int(x)), 6) for y, x in rng.integers(8, 40, (50, 2))]
    aways = [distance(case) for case in cases]
    for near in (0.0, 4.0):
        for case, away in zip(cases, aways, strict=True):
            assert measures.points(case.astype(float), away, near)
            assert not measures.points(away, away, near)
        area = np.mean([(away <= near).mean() for away in aways])
        random = np.mean(
            [measures.points(rng.random((48, 48)), away, near) for away in aways for _ in range(40)]
        )
        assert random == pytest.approx(area, abs=0.03)


def test_mass_and_overlap() -> None:
    rng = np.random.default_rng(1)
    case = disc((20, 20), 8)
    assert measures.mass(case.astype(float), case) == 1
    assert measures.mass(1.0 - case, case) == 0
    assert measures.mass(np.ones((48, 48)), case) == pytest.approx(case.mean())
    assert measures.mass(np.zeros((48, 48)), case) == pytest.approx(case.mean())
    assert measures.overlap(case.astype(float), case) == 1
    assert measures.overlap(1.0 - case, case) == 0
    some = np.mean([measures.overlap(rng.random((48, 48)), case) for _ in range(400)])
    assert some == pytest.approx(measures.by_chance(case.mean()), abs=0.005)


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.integers(0, 9, (2, 12, 12)).astype(float)
    assert measures.rank_correlation(one, other) == pytest.approx(
        spearmanr(one.ravel(), other.ravel()).statistic
    )
    assert measures.rank_correlation(one, one) == pytest.approx(1)
    assert measures.rank_correlation(one, -one) == pytest.approx(-1)
    assert measures.rank_correlation(one, np.ones_like(one)) == 0


def test_order_falls_and_shuffles_equals() -> None:
    values = np.array([[3.0, 1.0], [2.0, 1.0]])
    orders = {
        tuple(measures.order_of(values, np.random.default_rng(i)).ravel().tolist())
        for i in range(9)
    }
    assert orders == {(0, 2, 1, 3), (0, 3, 1, 2)}


def test_area() -> None:
    line = np.linspace(1, 0, 9)[:, None]
    np.testing.assert_allclose(measures.area(np.concatenate([line, line**0], axis=1)), [0.5, 1.0])


def test_chance_is_the_share_of_the_picture() -> None:
    truth = some_scene(4)
    text = captions(truth, np.random.default_rng(0), 1)[0]
    said = next(iter(spoken(text, truth)))
    where = np.any([mask(thing, 48) for thing in said.objects], axis=0)
    counts: dict[str, float] = {}
    case = measures.Case(0, 0, said, where, distance(where))
    measures.count_chance(counts, case, 0.0)
    assert counts["chance/pointing"] == pytest.approx(where.mean())
    assert counts["chance/mass"] == pytest.approx(where.mean())
    assert counts["centre/pointing"] == where[24, 24]
    measures.count(counts, "best", case, where.astype(np.float32), 4.0)
    assert counts["best/pointing"] == counts["best/mass"] == counts["best/overlap"] == 1
