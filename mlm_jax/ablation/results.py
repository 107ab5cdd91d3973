"""What the runs of an ablation came to: figures by seed, tests against the baseline, files."""

import csv
import io
import itertools
import json
import math
import statistics as middles
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.ablation import pictures
from mlm_jax.ablation import statistics as tests
from mlm_jax.ablation.runner import Ready, Status, Work
from mlm_jax.ablation.statistics import Difference, Mean
from mlm_jax.config import UserError, suggest
from mlm_jax.metrics import Figure, Statistic
from mlm_jax.report import load_figures, saved_name
from mlm_jax.run import read_metrics

Statistics = Callable[[set[str]], Mapping[str, Statistic]]
"""Columns that were counted -> the figures that can be made of them (`kinds.statistics`)."""


@dataclass(frozen=True)
class Ended:
    """One run: figures by split and name, as far as it was evaluated, and lines of its metrics."""

    work: Work
    status: Status
    figures: Mapping[str, Mapping[str, Figure]]
    lines: Sequence[Mapping[str, Any]]

    @property
    def variant(self) -> str:
        return self.work.variant.name

    @property
    def seed(self) -> int:
        return self.work.seed

    @property
    def done(self) -> bool:
        return {*self.work.ready.plan.ablation.splits} <= {*self.figures}

    @property
    def failed(self) -> bool:
        """Not where what failed is no longer asked for."""
        return self.status.code != 0 and not self.done


@dataclass(frozen=True)
class Row:
    """A variant in one table; `mean` and `difference` are None where there is nothing to say."""

    variant: str
    values: Mapping[int, float]
    """By seed."""
    mean: Mean | None
    difference: Difference | None
    """None of the baseline too."""
    lacking: tuple[str, ...] = ()
    """Figures that its runs have on this split where none has this one."""


@dataclass(frozen=True)
class Compared:
    """One figure on one split, by variant, the baseline among them."""

    split: str
    figure: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Results:
    ready: Ready
    runs: tuple[Ended, ...]
    compared: tuple[Compared, ...]

    def failed(self) -> list[Ended]:
        return [run for run in self.runs if run.failed]

    def of(self, variant: str) -> list[Ended]:
        return [run for run in self.runs if run.variant == variant]


def gather(ready: Ready, statistics: Statistics) -> Results:
    """What is there by now, of all runs that are done."""
    runs, kept = tuple(map(look_at, ready.works())), Kept()
    ablation = ready.plan.ablation
    return Results(
        ready,
        runs,
        tuple(
            compare(ready, runs, Shares(runs, split, figure, statistics, kept))
            for split in ablation.splits
            for figure in ablation.figures
        ),
    )


def look_at(work: Work) -> Ended:
    status, figures = work.status(), {}
    for split in work.ready.plan.ablation.splits:
        if split in status.evaluated and work.measured(split):
            try:
                figures[split] = load_figures(work.evaluation(split))
            except (OSError, ValueError, TypeError, AttributeError):
                continue  # deleted by hand: as if it had not been made
    return Ended(work, status, figures, read_metrics(work.run))


def compare(ready: Ready, runs: Sequence[Ended], by_picture: "Shares") -> Compared:
    """One figure on one split: those of `by_picture`."""
    split, figure = by_picture.split, by_picture.figure
    names = [each.name for each in ready.plan.variants]
    values: dict[str, dict[int, float]] = {name: {} for name in names}
    for run in runs:
        found = run.figures.get(split, {}).get(figure)
        if found is not None:
            values[run.variant][run.seed] = found.value
    others = [name for name in names if name != ready.plan.baseline]
    raw = {}
    for name in others:
        shared = sorted(values[name].keys() & values[ready.plan.baseline].keys())
        if shared:
            base = values[ready.plan.baseline]
            differences = [values[name][seed] - base[seed] for seed in shared]
            apart = by_picture.differences(name, ready.plan.baseline, shared)
            raw[name] = tests.paired(differences, apart)
    corrected = tests.corrected(raw, ready.comparisons)
    rows = [
        Row(
            name,
            values[name],
            tests.mean(list(values[name].values())) if values[name] else None,
            corrected.get(name),
            () if values[name] else there(runs, name, split),
        )
        for name in names
    ]
    return Compared(split, figure, tuple(rows))


def there(runs: Sequence[Ended], variant: str, split: str) -> tuple[str, ...]:
    """The figures that runs of a variant have on a split."""
    own = [run.figures.get(split, {}) for run in runs if run.variant == variant]
    return tuple(dict.fromkeys(name for figures in own for name in figures))


def missing(results: Results) -> list[str]:
    """What no run has that was evaluated, such as a figure whose name is mistyped."""
    lines = []
    for each in results.compared:
        lacking = dict.fromkeys(name for row in each.rows for name in row.lacking)
        if lacking and not any(row.values for row in each.rows):
            lines.append(
                f"no figure {each.figure} on {each.split}{suggest(each.figure, [*lacking])}"
            )
    return lines


class Kept(dict[Path, pictures.Counts | None]):
    """Counts by file, so that each is read once for all figures."""

    def of(self, run: Path, split: str) -> pictures.Counts | None:
        place = run / saved_name("counts", split)
        if place not in self:
            try:
                self[place] = pictures.load(run, split)
            except UserError:
                self[place] = None  # a damaged file: the figures are there all the same
        return self[place]


class Shares:
    """What each test picture contributes to a figure, by run, where runs keep their counts."""

    def __init__(
        self,
        runs: Sequence[Ended],
        split: str,
        figure: str,
        statistics: Statistics,
        kept: Kept,
    ):
        self.split, self.figure, self.statistics, self.kept = split, figure, statistics, kept
        self.places = {(run.variant, run.seed): run.work.run for run in runs}

    def counts(self, variant: str, seed: int) -> pictures.Counts | None:
        return self.kept.of(self.places[variant, seed], self.split)

    def differences(self, variant: str, base: str, seeds: Sequence[int]) -> np.ndarray | None:
        """Seeds by pictures; None where one of the runs keeps no counts of this figure."""
        if len(seeds) < 2:
            return None
        kept = [self.counts(name, seed) for name in (variant, base) for seed in seeds]
        there = [each for each in kept if each is not None]
        same = pictures.common(there) if len(there) == len(kept) else None
        if same is None:
            return None
        found = [self.statistics({*each.columns}).get(self.figure) for each in same]
        made = [
            tests.shares(statistic, each.columns)
            for statistic, each in zip(found, same, strict=True)
            if statistic is not None
        ]
        if len(made) < len(same):
            return None
        apart = np.stack(made[: len(seeds)]) - np.stack(made[len(seeds) :])
        return apart if np.isfinite(apart).all() else None


def spreads(results: Results) -> dict[str, float]:
    """Standard deviation from seed to seed of each figure, pooled over variants and splits."""
    found: dict[str, list[list[float]]] = {}
    for each in results.compared:
        several = [[*row.values.values()] for row in each.rows if len(row.values) > 1]
        found.setdefault(each.figure, []).extend(several)
    return {
        figure: math.sqrt(
            sum(float(np.var(seeds, ddof=1)) * (len(seeds) - 1) for seeds in groups)
            / sum(len(seeds) - 1 for seeds in groups)
        )
        for figure, groups in found.items()
        if groups
    }


# --- what it cost ---


def step_seconds(runs: Sequence[Ended]) -> float | None:
    """The median over runs of the median between two lines of metrics, so that a kill is none."""
    found = []
    for run in runs:
        places = [(float(x["step"]), float(x["time"])) for x in run.lines if "loss" in x]
        steps = [(b - a, t - s) for (a, s), (b, t) in itertools.pairwise(places) if b > a]
        if steps:
            found.append(middles.median(seconds / count for count, seconds in steps))
    return middles.median(found) if found else None


# --- files ---


def as_json(results: Results) -> str:
    """All that the page shows, as numbers."""
    ready = results.ready
    tree = {
        "ablation": ready.plan.name,
        "baseline": ready.plan.baseline,
        "budget": ready.plan.ablation.budget,
        "seeds": ready.order.seeds,
        "variants": {
            each.name: {
                "overrides": dict(each.own),
                "steps": ready.steps[each.name],
                **asdict(ready.costs[each.name]),
                "step_seconds": step_seconds(results.of(each.name)),
            }
            for each in ready.plan.variants
        },
        "compared": [asdict(each) for each in results.compared],
        "failed": [
            {"variant": run.variant, "seed": run.seed, "code": run.status.code}
            | {"tail": run.status.tail}
            for run in results.failed()
        ],
    }
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def as_csv(results: Results) -> str:
    """A line for each run, split and figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("variant", "seed", "split", "figure", "value", "low", "high", "n"))
    for run in results.runs:
        for split, figures in run.figures.items():
            for name, figure in figures.items():
                numbers = (figure.value, figure.low, figure.high, figure.n)
                writer.writerow((run.variant, run.seed, split, name, *numbers))
    return text.getvalue()
