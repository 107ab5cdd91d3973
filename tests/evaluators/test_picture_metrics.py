"""Distances of sets of pictures equal their definitions, computed another way."""

from math import comb

import numpy as np
import pytest
from scipy.linalg import sqrtm  # jax depends on scipy

from mlm_jax.evaluators.pictures import (
    clip_score,
    fid,
    frechet,
    kid,
    nearest,
    normal,
    r_precision,
)


def features(seed: int, count: int, width: int = 24, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, width)) @ rng.standard_normal((width, width))
    return (mixed + shift).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("width", [1, 8, 64])
def test_fid_is_that_of_the_root_of_the_matrix(width):
    one, two = features(0, 300, width), features(1, 400, width, shift=0.5)
    (m, s), (n, t) = normal(one), normal(two)
    assert s == pytest.approx(np.cov(one.T.astype(float)).reshape(width, width))
    root = sqrtm(s @ t)
    wanted = ((m - n) ** 2).sum() + np.trace(s + t - 2 * np.real(root))
    assert fid(one, two) == pytest.approx(wanted, rel=1e-6)
    assert fid(two, one) == pytest.approx(wanted, rel=1e-6)


def test_fid_of_what_is_known():
    one = features(0, 200)
    assert fid(one, one) == pytest.approx(0, abs=1e-3)
    assert fid(one, one + 2) == pytest.approx(4 * one.shape[1], rel=1e-5)
    assert fid(features(0, 5), features(1, 6)) > 0  # fewer pictures than features
    zero, eye = np.zeros(3), np.eye(3)
    assert frechet(zero, 4 * eye, zero, 9 * eye) == pytest.approx(3)


def by_pairs(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xs = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    ys = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xs + ys - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_is_its_definition():
    one, two = features(0, 20, 4), features(1, 30, 4, shift=1.0)
    found = kid(one, two)
    assert found.value == pytest.approx(by_pairs(one, two), rel=1e-5)
    assert found.low < found.value < found.high
    assert found.n == 20


def test_kid_of_the_fewest():
    found = kid(features(0, 2, 4), features(1, 2, 4))  # redrawn ones are often the same twice
    assert found.low <= found.high


def test_kid_has_no_bias():
    rng = np.random.default_rng(0)
    drawn = [kid(*rng.standard_normal((2, 30, 8)), resamples=50) for _ in range(200)]
    values = np.array([figure.value for figure in drawn])
    assert abs(values.mean()) < 3 * values.std() / 200**0.5
    assert np.mean([figure.low < 0 < figure.high for figure in drawn]) > 0.85


def test_clip_score_is_its_definition():
    images, texts = unit(features(0, 50)), unit(features(1, 50))
    found = clip_score(images, texts)
    cosines = [max(float(a @ b), 0.0) for a, b in zip(images, texts, strict=True)]
    assert found.value == pytest.approx(2.5 * np.mean(cosines), rel=1e-5)
    assert found.low < found.value < found.high
    assert clip_score(images, images).value == pytest.approx(2.5)
    assert clip_score(images, -images).value == 0


def test_r_precision_is_its_definition():
    """Of `better` texts among the others, none is drawn with a chance that can be counted."""
    texts = unit(features(0, 200))
    images = unit(texts + 0.25 * unit(features(1, 200)) + 0.4 * texts[::-1])
    cosines = images @ texts.T
    better = [sum(cosines[i] >= cosines[i, i]) - 1 for i in range(200)]
    assert r_precision(images, texts, others=500).value == np.mean([b == 0 for b in better])
    for others in (1, 20, 99):
        chances = [comb(199 - b, others) / comb(199, others) for b in better]
        found = [r_precision(images, texts, others=others, seed=s).value for s in range(20)]
        spread = np.sqrt(sum(c * (1 - c) for c in chances) / 20) / 200
        assert np.mean(found) == pytest.approx(np.mean(chances), abs=4 * spread + 1e-9)


def test_r_precision_of_what_is_known():
    texts = unit(features(0, 300))
    assert r_precision(texts, texts).value == 1
    constant = np.repeat(texts[:1], 300, axis=0)
    assert r_precision(constant, texts, others=300).value == pytest.approx(1 / 300)
    with pytest.raises(ValueError, match="all texts are the same"):
        r_precision(texts, constant)


def test_r_precision_does_not_draw_the_same_text_again():
    texts = np.repeat(unit(features(0, 3)), 2, axis=0)
    assert r_precision(texts, texts, others=5).value == 1


def test_the_nearest_picture_by_every_pair():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 256, (2_100, 6, 8, 3)).astype(np.uint8)
    asked = rng.integers(0, 256, (30, 6, 8, 3)).astype(np.uint8)
    asked[:3] = training[[3, 1_500, 2_099]]
    row, distance = nearest(asked, training)
    assert row[:3].tolist() == [3, 1_500, 2_099]
    for i, picture in enumerate(asked.astype(float)):
        apart = ((picture - training) ** 2).mean((1, 2, 3))
        assert row[i] == apart.argmin()
        assert distance[i] == pytest.approx(apart.min(), abs=1e-9)


def test_one_level_of_one_pixel_counts():
    picture = np.full((48, 48, 3), 250, np.uint8)
    training = np.repeat(picture[None], 3, axis=0)
    training[0, 0, 0, 0] -= 1
    training[1, 5:7, 0, 0] -= 1
    row, distance = nearest(picture[None], training[:2])
    assert row == [0]
    assert distance == [1 / picture.size]
    assert nearest(picture[None], training) == (2, 0)
