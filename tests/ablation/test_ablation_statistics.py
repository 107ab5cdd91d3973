"""Tests and intervals against scipy, published examples, brute force; how often they cry wolf."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mlm_jax.ablation import statistics as own
from mlm_jax.ablation.statistics import Spread
from mlm_jax.metrics import F1, Ratio

SEEDS = Path(__file__).with_name("seeds.npz")


# --- against scipy and by hand ---


def test_mean_by_hand():
    """1, 2, 3: the error is 1 / sqrt 3, and t of two degrees of freedom 4.3027."""
    found = own.mean([1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2.0, 3)
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - found.low == pytest.approx(found.high - 2)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert own.mean([0.5]) == own.Mean(0.5, None, None, 1)
    with pytest.raises(ValueError, match="at least one"):
        own.mean([])


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_paired_is_that_of_scipy(seeds):
    rng = np.random.default_rng(seeds)
    one, other = rng.normal(0.1, 1, seeds), rng.normal(0, 1, seeds)
    want = stats.ttest_rel(one, other)
    found = own.paired((one - other).tolist())
    assert found.p == pytest.approx(want.pvalue, rel=1e-9)
    interval = want.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert not found.by_picture


def test_what_cannot_be_tested_is_not():
    assert own.paired([0.3]).p is None
    assert own.paired([0.0, 0.0, 0.0]).p == 1
    same = own.paired([0.25, 0.25])
    assert (same.p, same.adjusted, same.found) == (None, None, False)
    assert own.corrected({"a": same}, 1)["a"].adjusted is None
    assert own.paired([0.7 - 0.6, 0.8 - 0.7]).p is None, "equal, but for rounding"
    assert own.paired([0.1, 0.1 + 1e-9]).p is not None


# --- Holm ---


def test_holm_of_a_published_example():
    """Four hypotheses of 0.01, 0.04, 0.03 and 0.005, of which the first and the last fall."""
    found = own.holm([0.01, 0.04, 0.03, 0.005], 4)
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_the_closed_test_of_bonferroni():
    """Adjusted p: the largest, over all sets that hold it, of size times smallest (Marcus 1976)."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        p = rng.uniform(0, 0.2, count)
        closed = [
            max(
                min(1.0, len(s) * min(p[j] for j in s))
                for n in range(1, count + 1)
                for s in itertools.combinations(range(count), n)
                if i in s
            )
            for i in range(count)
        ]
        assert own.holm(p.tolist(), count) == pytest.approx(closed)
    assert own.holm([], 0) == []
    assert own.holm([0.9, 0.8], 2) == [1.0, 1.0]


def test_correction_counts_what_was_planned():
    """Of four comparisons two can be tested: one has a single seed, one is not done."""
    tests = {name: own.paired([0.1, 0.12, 0.11 + add]) for name, add in (("a", 0.0), ("b", 0.3))}
    tests["c"] = own.paired([0.1])
    found = own.corrected(tests, 4)
    assert found["a"].adjusted == pytest.approx(4 * tests["a"].p)
    assert found["b"].adjusted == pytest.approx(max(4 * tests["a"].p, 3 * tests["b"].p))
    assert found["a"].visible == own.visible(tests["a"].spreads[0], 0.05 / 4)
    assert found["c"].adjusted is None
    assert found["a"].difference == tests["a"].difference
    with pytest.raises(ValueError, match="2 p values, but 1 comparisons"):
        own.corrected(tests, 1)


def test_comparisons_that_were_not_made_count_as_if_nothing_were_found():
    assert own.holm([0.01, 0.04], 5) == own.holm([0.01, 0.04, 1, 1, 1], 5)[:2]


# --- what can be seen ---


def test_power_of_a_published_table():
    """A difference of half its spread, in 34 pairs, is found 0.808 of the time (G*Power 3.1)."""
    assert own.found_share(0.5 * math.sqrt(34), 33) == pytest.approx(0.808, abs=5e-4)
    assert own.found_share(0.0, 4) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize(("freedom", "shift"), [(1, 3.0), (2, 4.0), (4, 3.5), (30, 1.0)])
def test_power_is_that_of_the_noncentral_t(freedom, shift):
    edge = stats.t.isf(0.025, freedom)
    want = stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift)
    assert own.found_share(shift, freedom) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_visible_difference_is_found_in_80_of_100(seeds):
    """By drawing ablations that have it."""
    seen = own.visible(Spread(1 / math.sqrt(seeds), seeds - 1))
    drawn = np.random.default_rng(1).normal(seen, 1, (20_000, seeds))
    assert (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(
        0.8, abs=0.01
    )


@pytest.mark.parametrize(("freedom", "level"), [(1, 0.05 / 50), (2, 0.05 / 7), (math.inf, 0.05)])
def test_visible_of_few_seeds_and_many_variants_is_a_number(freedom, level):
    found = own.visible(Spread(1.0, freedom), level)
    assert math.isfinite(found)
    assert own.found_share(found, freedom, level) == pytest.approx(0.8, abs=0.001)
    if freedom == math.inf:
        assert found == pytest.approx(1.95996 + 0.84162, abs=1e-3)


def test_more_seeds_and_fewer_variants_show_more():
    assert own.foreseen(1, 3) is None
    found = [own.foreseen(seeds, 6) for seeds in (2, 3, 5, 10)]
    assert found == sorted(found, reverse=True)
    assert own.foreseen(5, 1) < own.foreseen(5, 6)
    assert own.foreseen(5, 1, 0.01) == pytest.approx(own.foreseen(5, 1) / 100)


def test_few_seeds_are_warned_of():
    assert "one seed" in own.warning(1, 1)
    assert "3 seeds, 6 held" in own.warning(3, 6)
    assert f"{own.foreseen(3, 6):.1f} times" in own.warning(3, 6)
    assert own.warning(10, 2) == ""


def test_the_outlook_says_what_any_number_of_seeds_can_show():
    assert f"{own.foreseen(5, 6):.1f} times the spread" in own.outlook(5, 6)
    assert own.warning(3, 6).startswith(own.outlook(3, 6))
    assert own.warning(1, 1) == own.outlook(1, 1)


# --- pictures ---


def test_shares_are_the_pictures_own_values_where_the_figure_is_their_mean():
    right = np.array([3.0, 0, 4, 1])
    found = own.shares(Ratio("right", "asked", "asked"), {"right": right, "asked": np.full(4, 4.0)})
    np.testing.assert_allclose(found, right / 4)


def test_shares_of_f1_by_leaving_each_picture_out():
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(1, 6, 50).astype(float) for name in ("told", "expected")}
    columns["right"] = np.minimum(columns["told"], rng.integers(0, 6, 50))
    columns["recalled"] = np.minimum(columns["expected"], rng.integers(0, 6, 50))
    columns["captions"] = np.ones(50)

    def f1(keep: np.ndarray) -> float:
        sums = {name: values[keep].sum() for name, values in columns.items()}
        precision, recall = sums["right"] / sums["told"], sums["recalled"] / sums["expected"]
        return 2 * precision * recall / (precision + recall)

    whole = f1(np.ones(50, bool))
    want = [50 * whole - 49 * f1(np.arange(50) != i) for i in range(50)]
    found = own.shares(F1("captions"), columns)
    np.testing.assert_allclose(found, want, rtol=1e-9)
    assert found.mean() == pytest.approx(whole, abs=5e-3)


def test_variance_of_seeds_and_pictures_by_hand():
    """Two seeds, three pictures. Rows differ by 2, columns by 1, cells by nothing: all is added.

    0 1 2      means of rows 1 and 3, of columns 1, 2, 3
    2 3 4      2 / 2 of seeds, 1 / 3 of pictures; freedom 1 * (4 / 3)^2
    """
    found = own.by_both([1.0, 3.0], np.array([[0.0, 1, 2], [2, 3, 4]]))
    assert found.error == pytest.approx(math.sqrt(1 + 1 / 3))
    assert found.freedom == pytest.approx(16 / 9)


def test_without_an_effect_of_pictures_it_is_the_paired_test():
    rng = np.random.default_rng(3)
    cells = rng.normal(0, 1, (4, 300))
    cells -= cells.mean(0)  # all pictures alike: what is left is noise
    cells += np.array([0.1, 0.3, 0.2, 0.5])[:, None]
    found = own.paired(cells.mean(1).tolist(), cells)
    want = own.paired(cells.mean(1).tolist())
    assert found.p == pytest.approx(want.p)
    assert found.by_picture


def test_no_more_is_found_with_pictures_than_by_seeds():
    """Two seeds that agree by chance, and pictures that vary: freedom would be had for nothing."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        cells = rng.normal(0.05, 1, 200) + rng.normal(0, 0.3, (2, 200))
        differences = cells.mean(1).tolist()
        whole, alone = own.paired(differences, cells), own.paired(differences)
        assert whole.p >= alone.p
        assert whole.high - whole.low >= alone.high - alone.low


def test_pictures_must_be_of_the_same_seeds():
    with pytest.raises(ValueError, match="2 seeds, but pictures of 3"):
        own.paired([0.1, 0.2], np.zeros((3, 5)))


# --- false alarms ---


def answers(rng: np.random.Generator, seeds: int, *, apart: float = 0.0) -> np.ndarray:
    """Shares of questions right, (2 variants, seeds, pictures), of two variants that are as good.

    Pictures differ in how hard they are, most of all; seeds by a little, and in which pictures they
    find hard. `apart`: how much the two variants differ in that, without being better on average.
    """
    pictures, questions = 150, 8
    hard = rng.normal(1.5, 1.5, pictures)
    order = rng.normal(0, 0.1, seeds)[:, None]  # what runs of the same seed share
    logit = hard + order + rng.normal(0, 0.2, (2, seeds, 1))
    logit = logit + rng.normal(0, 0.8, (2, seeds, pictures))
    logit = logit + rng.normal(0, apart, (2, 1, pictures))
    return rng.binomial(questions, 1 / (1 + np.exp(-logit))) / questions


def alarms(rng: np.random.Generator, seeds: int, times: int, *, by_picture: bool, **how) -> float:
    """Share of comparisons of equals that are called different at 5 %."""
    found = 0
    for _ in range(times):
        one, other = answers(rng, seeds, **how)
        cells = one - other
        test = own.paired(cells.mean(1).tolist(), cells if by_picture else None)
        found += test.p is not None and test.p < 0.05
    return found / times


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("by_picture", [False, True])
def test_false_alarms_of_equal_variants(seeds, by_picture):
    found = alarms(np.random.default_rng(seeds), seeds, 1000, by_picture=by_picture)
    assert 0.02 <= found <= 0.08


def test_other_pictures_need_the_pictures_in_the_test():
    """Variants that are as good over all pictures, but not on the same ones.

    Seeds alone call the pictures that were drawn a difference, far more often than they say.
    """
    rng = np.random.default_rng(0)
    assert alarms(rng, 5, 300, by_picture=False, apart=2.0) > 0.15
    assert 0.02 <= alarms(rng, 5, 300, by_picture=True, apart=2.0) <= 0.08


def test_a_bootstrap_of_pictures_alone_cries_wolf():
    """Why it is not the test: one seed of each variant, and the pictures of both drawn anew."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(300):
        cells = np.subtract(*answers(rng, 1))[0]
        error = cells.std(ddof=1) / math.sqrt(len(cells))
        found += abs(cells.mean()) / error > 1.96
    assert found / 300 > 0.08


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("by_picture", [False, True])
def test_false_alarms_of_real_predictions(seeds, by_picture):
    """40 seeds of one classifier (seeds_make.py): any two handfuls of them are the same variant."""
    kept = np.load(SEEDS)
    right = np.unpackbits(kept["right"], axis=1)[:, : int(kept["count"])].astype(float)
    rng, found, times = np.random.default_rng(seeds), 0, 3000
    for _ in range(times):
        chosen = rng.choice(len(right), 2 * seeds, replace=False)
        cells = right[chosen[:seeds]] - right[chosen[seeds:]]
        test = own.paired(cells.mean(1).tolist(), cells if by_picture else None)
        found += test.p is not None and test.p < 0.05
    assert 0.02 <= found / times <= 0.08
