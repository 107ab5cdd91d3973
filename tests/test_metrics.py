"""Counting and intervals, against closed forms and counting out."""

import itertools
import math

import numpy as np
import pytest

from mlm_jax.metrics import (
    F1,
    Figure,
    Perplexity,
    Ratio,
    agreement,
    bootstrap,
    commonest,
    normalise,
    place_of,
)

SHARE = {"share": Ratio("right", "asked", "asked")}


def test_ratio_is_of_sums_not_a_mean_of_ratios():
    pictures = [{"right": 1, "asked": 1}, {"right": 0, "asked": 3}]
    assert bootstrap(pictures, SHARE)["share"].value == 0.25
    assert bootstrap(pictures, SHARE)["share"].n == 4


def test_interval_of_a_share_is_that_of_the_binomial():
    """One question a picture: the percentile interval is about p ± 1.96 sqrt(p (1 - p) / n)."""
    n, p = 2000, 0.3
    pictures = [{"right": float(i < n * p), "asked": 1} for i in range(n)]
    found = bootstrap(pictures, SHARE)["share"]
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert found.value == pytest.approx(p)
    assert found.low == pytest.approx(p - half, abs=0.1 * half)
    assert found.high == pytest.approx(p + half, abs=0.1 * half)


def test_texts_of_one_picture_are_drawn_together():
    """Ten equal answers to a picture tell no more than one: the interval is sqrt(10) wider."""
    n = 200
    one = [{"right": float(i % 2), "asked": 1} for i in range(n)]
    ten = [{"right": 10.0 * (i % 2), "asked": 10} for i in range(n)]
    alone = [{"right": float(i % 2), "asked": 1} for i in range(10 * n)]
    first, second, third = (bootstrap(p, SHARE)["share"] for p in (one, ten, alone))
    assert (first.low, first.high) == (second.low, second.high)
    width = (second.high - second.low) / (third.high - third.low)
    assert width == pytest.approx(math.sqrt(10), rel=0.1)


def test_interval_is_that_of_all_resamples():
    """Three pictures have 27 equally likely resamples: all of them, counted out."""
    pictures = [{"right": 1.0, "asked": 2}, {"right": 5, "asked": 5}, {"right": 0, "asked": 4}]
    every = sorted(
        sum(p["right"] for p in drawn) / sum(p["asked"] for p in drawn)
        for drawn in itertools.product(pictures, repeat=3)
    )
    found = bootstrap(pictures, SHARE, resamples=20_000)["share"]
    assert (found.low, found.high) == pytest.approx((every[0], every[-1]))


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(0)
    pictures = [{"right": float(x), "asked": 1} for x in rng.random(50)]
    assert bootstrap(pictures, SHARE) == bootstrap(pictures, SHARE)
    assert bootstrap(pictures, SHARE) != bootstrap(pictures, SHARE, seed=1)


def test_f1_and_perplexity():
    pictures = [{"right": 3.0, "told": 4, "recalled": 3, "expected": 6, "captions": 1}]
    pictures += [{"nats": 6.0, "tokens": 3, "captions": 1}]
    wanted = {"f1": F1("captions"), "perplexity": Perplexity("captions")}
    found = bootstrap(pictures, wanted)
    assert found["f1"].value == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert found["perplexity"].value == pytest.approx(math.exp(2))


def test_nothing_told_is_no_precision():
    nothing = [{"right": 0.0, "told": 0, "recalled": 0, "expected": 3, "captions": 1}]
    precision = Ratio("right", "told", "captions", empty=0.0)
    found = bootstrap(nothing, {"f1": F1("captions"), "precision": precision})
    assert found == {"f1": Figure(0, 0, 0, 1), "precision": Figure(0, 0, 0, 1)}


def test_a_rare_kind_that_a_resample_lacks_does_not_spoil_its_interval():
    pictures = [{"right": 1.0, "asked": 1}] + [{}] * 9
    assert bootstrap(pictures, SHARE)["share"] == Figure(1, 1, 1, 1)


def test_answers_are_compared_normalised():
    assert normalise("  Two\n RED ") == "two red"
    assert agreement("Red ", ["blue", " red"]) == 1
    assert agreement("red", ["blue", "reddish"]) == 0


@pytest.mark.parametrize(("alike", "wanted"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)])
def test_ten_human_answers(alike, wanted):
    """The mean of min(1, matches / 3) over the ten sets of nine, as the challenge words it."""
    references = ["yes"] * alike + [f"other {i}" for i in range(10 - alike)]
    nines = itertools.combinations(references, 9)
    assert agreement("yes", references) == pytest.approx(wanted)
    assert wanted == pytest.approx(np.mean([min(1, nine.count("yes") / 3) for nine in nines]))


def test_place_among_candidates():
    scores = np.array([0.1, 0.9, 0.5, 0.5])
    assert [place_of(scores, [i]) for i in range(4)] == [3, 0, 2, 2]
    assert place_of(scores, [0, 1]) == 0
    assert place_of(np.zeros(5), [2]) == 4, "a model that tells nothing apart is last"


def test_commonest_is_the_first_among_equals():
    assert commonest(["b", "a", "a", "b"]) == "b"
