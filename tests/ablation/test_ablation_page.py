"""Results, page and tables of an ablation whose runs are written by hand: no training."""

import csv
import dataclasses
import io
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mlm_jax.ablation import page, pictures, results, runner
from mlm_jax.ablation import plan as plans
from mlm_jax.ablation.ablate import foresee
from mlm_jax.ablation.costs import Cost, steps
from mlm_jax.ablation.plan import Ablation, Plan, Variant
from mlm_jax.ablation.runner import Order, Ready, Status
from mlm_jax.ablation.statistics import foreseen
from mlm_jax.config import UserError
from mlm_jax.evaluators.texts import statistics
from mlm_jax.pages import charts
from mlm_jax.run import write

sys.path.append(str(Path(__file__).parents[1]))
from test_report import luminance, parsed

EVIL = '<script>alert("1")</script>&|*'
BASE = {0: 0.50, 1: 0.52, 2: 0.51}
OTHER = {0: 0.60, 1: 0.63, 2: 0.61}


def planned(count: int = 2) -> Plan:
    names = ["base", EVIL, *(f"more {i}" for i in range(count - 2))]
    variants = tuple(Variant(name, {"data.shift": i}) for i, name in enumerate(names))
    return plans.make("mine", Ablation("vit_tiny", variants, ("vqa/accuracy",)))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned()


def ready(plan: Plan, out: Path, seeds: int = 3) -> Ready:
    costs = {each.name: Cost(1234, 1000, 2.5e9) for each in plan.variants}
    return Ready(plan, Order(out, seeds), costs, dict.fromkeys(costs, 10))


def finish(work: runner.Work, value: float) -> None:
    work.run.mkdir(parents=True)
    figure = {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 100}
    write(work.evaluation("test"), json.dumps({"vqa/accuracy": figure}))
    lines = [{"step": s, "time": 2.0 * s, "loss": 4 / s + value} for s in range(1, 11)]
    (work.run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (work.run / "config.json").write_text("{}")
    work.remember(Status(10, 5.0, {"test": 1.0}))


def finished(plan: Plan, out: Path) -> Ready:
    whole = ready(plan, out)
    for work in whole.works():
        finish(work, (BASE if work.variant.name == "base" else OTHER)[work.seed])
    return whole


@pytest.fixture
def done(plan: Plan, tmp_path: Path) -> Ready:
    return finished(plan, tmp_path)


def test_results_are_those_of_scipy(done):
    (found,) = results.gather(done, statistics).compared
    base, other = found.rows
    want = stats.ttest_rel([*OTHER.values()], [*BASE.values()])
    assert base.difference is None
    assert other.difference.difference == pytest.approx(np.mean([0.1, 0.11, 0.1]))
    assert other.difference.p == other.difference.adjusted == pytest.approx(want.pvalue)
    assert base.mean.value == pytest.approx(0.51)


def test_seeds_that_one_side_lacks_do_not_count(done):
    """A failed run: its variant is compared over the others, and its last lines are shown."""
    lost = done.works()[-1]
    lost.remember(Status(10, code=3, tail=("first", EVIL)))
    found = results.gather(done, statistics)
    other = found.compared[0].rows[1]
    assert (other.mean.n, other.difference.n) == (2, 2)
    assert [each.work for each in found.failed()] == [lost]
    text = page.report(found)
    assert "code 3" in text
    assert EVIL not in text
    assert EVIL in "".join(parsed(text).text)
    assert f"    {EVIL}" in page.as_markdown(found)


def test_p_is_corrected_over_all_that_the_folder_holds(done):
    """Five more variants that were planned before, or with --only are left out now."""
    more = {f"more {i}": 10 for i in range(5)}
    found = results.gather(dataclasses.replace(done, steps={**done.steps, **more}), statistics)
    other = found.compared[0].rows[1].difference
    assert other.adjusted == pytest.approx(6 * other.p)
    assert "over 6 comparisons" in page.as_markdown(found)


def test_p_of_the_first_that_is_done_is_corrected_over_those_to_come(tmp_path):
    whole = ready(planned(4), tmp_path)
    for work in whole.works():
        if work.variant.name in ("base", EVIL):
            finish(work, (BASE if work.variant.name == "base" else OTHER)[work.seed])
    other = results.gather(whole, statistics).compared[0].rows[1].difference
    assert other.adjusted == pytest.approx(3 * other.p)


def test_a_figure_that_no_evaluation_has_is_named_with_those_that_there_are(done):
    mistyped = dataclasses.replace(done.plan.ablation, figures=("vqa/acuracy", "vqa/accuracy"))
    whole = dataclasses.replace(done, plan=dataclasses.replace(done.plan, ablation=mistyped))
    found = results.gather(whole, statistics)
    said = "no figure vqa/acuracy on test; did you mean vqa/accuracy?"
    assert results.missing(found) == [said]
    for text in ("".join(parsed(page.report(found)).text), page.as_markdown(found)):
        assert "no such figure" in text
        assert "no run is done" not in text
    assert said in "".join(parsed(page.report(found)).text)


def test_what_was_evaluated_counts_where_another_split_failed(done):
    """It is not done, and the figures of the first split are shown all the same."""
    splits = dataclasses.replace(done.plan.ablation, splits=("test", "tset"))
    whole = dataclasses.replace(done, plan=dataclasses.replace(done.plan, ablation=splits))
    for work in whole.works():
        work.remember(Status(10, 5.0, {"test": 1.0}, code=2, tail=("no split tset",)))
    found = results.gather(whole, statistics)
    assert [row.mean.n for row in found.compared[0].rows] == [3, 3]
    assert len(found.failed()) == 6
    assert "0 of 6 runs are done, 6 failed" in page.report(found)
    assert results.missing(found) == []


def test_a_split_that_failed_and_is_no_longer_asked_for_is_no_failure(done):
    for work in done.works():
        work.remember(Status(10, 5.0, {"test": 1.0}, code=2, tail=("no split tset",)))
    found = results.gather(done, statistics)
    assert "6 of 6 runs are done." in page.report(found)
    assert found.failed() == []
    assert runner.run_all(done, lambda _: None, lambda: None) == 0, "nothing is left to run"


def test_page_holds_no_script_and_all_text(done):
    text = page.report(results.gather(done, statistics))
    seen = parsed(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in seen.tags}
    assert not re.search(r"https?://", text)
    assert EVIL in seen.text
    assert {"better"} <= {*seen.text}
    assert "+0.103" in seen.text
    assert 'class="line s1"' in text


def test_worse_where_less_is_better():
    lower = results.Difference(-0.1, -0.2, -0.05, 0.01, 3, adjusted=0.01)
    assert page.finding("loss", lower)[1] == "better"
    assert page.finding("vqa/accuracy", lower)[1] == "worse"
    assert page.finding("loss", dataclasses.replace(lower, adjusted=0.2))[1] == "not told apart"
    assert page.finding("loss", None)[1] == "not tested"


def test_files(done):
    found = results.gather(done, statistics)
    rows = list(csv.DictReader(io.StringIO(results.as_csv(found))))
    assert len(rows) == 6
    assert {(row["variant"], row["seed"]): float(row["value"]) for row in rows}[EVIL, "1"] == 0.63
    tree = json.loads(results.as_json(found))
    assert tree["variants"]["base"]["step_seconds"] == 2.0
    assert tree["compared"][0]["rows"][1]["difference"]["n"] == 3
    table = page.as_markdown(found)
    assert {line.count("|") - line.count("\\|") for line in table.splitlines() if "|" in line} <= {
        7,
        8,
    }


@pytest.mark.parametrize(("share", "high"), [(True, "1.000"), (False, "1.010")])
def test_the_interval_of_a_share_ends_where_shares_do_in_every_file(share, high):
    row = results.Row("a", {}, results.Mean(0.98, 0.95, 1.01, 3), None)
    assert page.mean_text(row, share) == f"0.980 (0.950 to {high})"
    assert f"0.950 to {high}</small>" in page.mean_cell(row, share)


def test_nothing_done_yet_is_a_page_too(plan, tmp_path):
    found = results.gather(ready(plan, tmp_path), statistics)
    parsed(page.report(found))
    assert "no run is done" in page.as_markdown(found)
    assert "by picture" not in page.as_markdown(found)


def test_many_variants_are_drawn_in_parts_with_the_baseline_in_each(tmp_path):
    whole = ready(planned(charts.SERIES + 3), tmp_path, seeds=1)
    for work in whole.works():
        finish(work, 0.5)
    found = results.gather(whole, statistics)
    parts = list(page.in_parts(found, page.curves(found, "loss")))
    assert [len(each) for each in parts] == [charts.SERIES, 4]
    assert all(next(iter(each)) == "base" for each in parts)
    assert {name for each in parts for name in each} == {v.name for v in whole.plan.variants}


def test_curves_are_means_over_the_steps_that_all_have():
    assert page.averaged([[(1, 2.0), (2, 4.0)], [(2, 6.0), (3, 1.0)], []]) == [(2, 5.0)]
    assert page.averaged([[]]) == []


def test_eight_lines_are_told_apart_on_both_grounds():
    """3 : 1 for what is drawn (WCAG 2.2, 1.4.11), and no two of one colour or one dash."""
    style = page.page("a")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    rules = [re.search(rf"\.s{i} \{{(.*?)\}}", style) for i in range(1, charts.SERIES)]
    lines = [dict(re.findall(r"--(\w+): ([^;]+);", each[1])) for each in rules]
    names = ["one", *(each["line"].removeprefix("var(--").removesuffix(")") for each in lines)]
    assert len({*names}) == len({each["dash"] for each in lines}) + 1 == charts.SERIES
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        assert len({colours[name] for name in names}) == charts.SERIES
        for name, ground in itertools.product(names, ("page", "card")):
            both = sorted(luminance(colours[each]) for each in (name, ground))
            assert (both[1] + 0.05) / (both[0] + 0.05) >= 3, (name, ground)


def test_spread_is_pooled_over_variants(done):
    found = results.spreads(results.gather(done, statistics))
    both = (np.var([*BASE.values()], ddof=1) + np.var([*OTHER.values()], ddof=1)) / 2
    assert found == {"vqa/accuracy": pytest.approx(np.sqrt(both))}


@pytest.mark.parametrize(("seeds", "large"), [(1, True), (3, True), (5, False), (20, False)])
def test_what_can_be_seen_is_always_said_before_it_runs(tmp_path, seeds, large):
    """Also with the default of 5 seeds and 6 comparisons."""
    lines = [*foresee(ready(planned(7), tmp_path, seeds))]
    assert [line.startswith("warning: ") for line in lines[7:]] == [large]
    said = f"{foreseen(seeds, 6):.1f} times the spread" if seeds > 1 else "one seed"
    assert said in lines[-1]


def test_where_the_spread_is_known_it_is_said_in_the_unit_of_the_figure(done):
    lines = [*foresee(done)]
    spread = results.spreads(results.gather(done, statistics))["vqa/accuracy"]
    assert lines[-1].startswith(f"vqa/accuracy: differences from {foreseen(3, 1, spread):.3g} on")


# --- pictures ---


def test_counts_by_picture_widen_the_interval_where_pictures_differ(done):
    """Both variants are as good, on other pictures: by seeds alone the interval is too short."""
    rng = np.random.default_rng(0)
    apart = rng.integers(-3, 4, 60)
    for work in done.works():
        sign = 1 if work.variant.name == "base" else -1
        right = 5 + sign * apart + rng.integers(-1, 2, 60)
        counts = [{"accuracy": float(r), "asked": 10.0} for r in right]
        pictures.save(work.run, "test", range(60), counts)
    (found,) = results.gather(done, statistics).compared
    test = found.rows[1].difference
    alone = results.tests.paired([OTHER[i] - BASE[i] for i in range(3)])
    assert test.by_picture
    assert "Runs keep what was counted" in page.as_markdown(results.gather(done, statistics))
    assert test.high - test.low > 2 * (alone.high - alone.low)
    pictures.save(done.works()[0].run, "test", range(60, 120), counts)
    without = results.gather(done, statistics)
    assert not without.compared[0].rows[1].difference.by_picture, "no picture is shared"
    assert "Not all runs keep counts" in page.as_markdown(without)


def test_a_variant_of_one_seed_says_nothing_of_the_counts_of_others(tmp_path):
    whole = ready(planned(3), tmp_path)
    rng = np.random.default_rng(0)
    for work in whole.works():
        if work.variant.name == "more 0" and work.seed:
            continue
        finish(work, 0.5 + 0.1 * (work.variant.name == EVIL) + 0.01 * work.seed * rng.random())
        counts = [{"accuracy": float(right), "asked": 10.0} for right in rng.integers(0, 9, 60)]
        pictures.save(work.run, "test", range(60), counts)
    found = results.gather(whole, statistics)
    assert [row.difference and row.difference.by_picture for row in found.compared[0].rows] == [
        None, True, False,
    ]  # fmt: skip
    assert "Runs keep what was counted" in page.as_markdown(found)


def test_counts_are_read_as_written_and_damage_is_named(tmp_path):
    pictures.save(tmp_path, "novel", [4, 2], [{"a": 1.0}, {"b": 2.0}])
    found = pictures.load(tmp_path, "novel")
    assert found.pictures == (4, 2)
    np.testing.assert_array_equal(found.columns["b"], [0, 2])
    np.testing.assert_array_equal(found.of([2]).columns["b"], [2])
    assert pictures.load(tmp_path, "test") is None
    for text in ("{", "[]", '{"pictures": [1], "columns": {"a": [1, 2]}}',
                 '{"pictures": [1, 1], "columns": {"a": [1, 2]}}'):  # fmt: skip
        (tmp_path / "counts.json").write_text(text)
        with pytest.raises(UserError, match="damaged"):
            pictures.load(tmp_path, "test")


# --- budgets ---


@pytest.mark.parametrize(
    ("budget", "want"), [("steps", 1000), ("examples", 500), ("flops", 250), ("time", 333)]
)
def test_steps_of_equal_budgets(budget, want):
    """Twice the batch, four times the FLOPs, three times as long a step."""
    variants = (Variant("base"), Variant("large", {"data.batch": 64}))
    ablation = Ablation("vit_tiny", variants, ("loss",), budget=budget)
    plan = plans.make("mine", ablation, {"steps": 1000})
    costs = {"base": Cost(1, 1, 1e9), "large": Cost(1, 1, 4e9)}
    assert steps(plan, costs, {"base": 0.1, "large": 0.3}) == {"base": 1000, "large": want}
