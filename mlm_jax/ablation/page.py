"""The page of an ablation, and its table as Markdown: what differs, and how that is known.

Names of variants, keys and what failed runs said are a user's text: all of it is escaped.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from mlm_jax.ablation.results import Compared, Ended, Results, Row, missing, step_seconds
from mlm_jax.ablation.statistics import LEVEL, Difference, Mean, foreseen, warning
from mlm_jax.metrics import Figure
from mlm_jax.pages import cell, interval, number, page, section, table
from mlm_jax.pages.charts import SERIES, Points, chart
from mlm_jax.report import AMOUNTS, TITLES, points

BUDGETS = {
    "steps": "the same number of steps",
    "examples": "the same number of examples, steps times batch",
    "flops": "the same number of FLOPs, by the compiled step",
    "time": "the same time, by a short measurement of a step",
}
DOWN = ("caption/invented", "loss", "perplexity", "test/loss")
"""Figures of which less is better."""
CURVES = {"loss": "training loss", "test/loss": "loss of the test split", "accuracy": "accuracy"}
COSTS = ("variant", "parameters", "that learn", "GFLOP a step", "ms a step", "steps", "in all")
Finding = tuple[str, str]


def report(results: Results) -> str:
    """The whole page."""
    plan = results.ready.plan
    return page(
        plan.name,
        header(results),
        *(compared_section(results, each) for each in results.compared),
        curves_section(results),
        costs_section(results),
        failed_section(results),
        tested_section(results),
        runs_section(results),
    )


def header(results: Results) -> str:
    ready = results.ready
    done = sum(run.done for run in results.runs)
    said = [
        f"{len(ready.plan.variants)} variants of {ready.plan.ablation.config},"
        f" {ready.order.seeds} seeds each, {BUDGETS[ready.plan.ablation.budget]}.",
        f"{done} of {len(results.runs)} runs are done"
        + (f", {len(failed)} failed." if (failed := results.failed()) else "."),
        warning(ready.order.seeds, ready.comparisons),
        *missing(results),
    ]
    lines = "".join(f"<p>{escape(each)}</p>" for each in said if each)
    return f"<header><h1>{escape(ready.plan.name)}</h1>{lines}</header>"


# --- figures ---


def compared_section(results: Results, each: Compared) -> str:
    base = results.ready.plan.baseline
    share = each.figure not in AMOUNTS
    rows = [compared_row(results, each, row, row.variant == base, share) for row in each.rows]
    name = TITLES.get(each.figure, each.figure)
    columns = (
        "variant",
        "mean of seeds",
        "less the baseline",
        "p",
        "could be seen",
        "finding",
        "seeds",
    )
    less = " Less is better." if each.figure in DOWN else ""
    note = (
        f"<p>{escape(each.figure)} on {escape(each.split)}. Means with the 95 % interval of"
        f" what other seeds would change; p is corrected over all variants (Holm).{less}</p>"
    )
    return section(f"{name[:1].upper()}{name[1:]}, {each.split}", note, table(columns, rows))


def compared_row(results: Results, each: Compared, row: Row, baseline: bool, share: bool) -> str:
    changed = results.ready.plan.by_name(row.variant).own
    keys = " ".join(f"{key} {value}" for key, value in changed.items())
    name = f"<th scope=row>{escape(row.variant)}<small>{escape(keys)}</small></th>"
    count = f"<td class=num>{len(row.values)} of {results.ready.order.seeds}</td>"
    if baseline:
        blank = "<td><small>the baseline</small></td><td></td><td></td><td></td>"
        return f"<tr>{name}{mean_cell(row, share)}{blank}{count}</tr>"
    mark, spoken = finding(each.figure, row.difference)
    return (
        f"<tr>{name}{mean_cell(row, share)}{difference_cell(row.difference)}"
        f"{tail_cells(row.difference)}<td><span class={mark}>{spoken}</span></td>{count}</tr>"
    )


def mean_cell(row: Row, share: bool) -> str:
    if row.mean is None:
        return f"<td><small>{why_none(row)}</small></td>"
    figure = bounded(row.mean, share)
    if figure is None:
        return f"<td><b>{number(row.mean.value)}</b> <small>one seed</small></td>"
    return cell(figure, share)


def bounded(mean: Mean, share: bool) -> Figure | None:
    """With its interval, which of a share is cut where shares end: a t interval knows no bounds.

    None where one seed has none.
    """
    if mean.low is None or mean.high is None:
        return None
    if share and 0 <= mean.value <= 1:
        return Figure(mean.value, max(mean.low, 0.0), min(mean.high, 1.0), mean.n)
    return Figure(mean.value, mean.low, mean.high, mean.n)


def why_none(row: Row) -> str:
    return "no such figure" if row.lacking else "no run is done"


def difference_cell(each: Difference | None) -> str:
    if each is None:
        return "<td><small>nothing to compare</small></td>"
    if each.low is None or each.high is None:
        return f"<td><b>{signed(each.difference)}</b></td>"
    return (
        f"<td><b>{signed(each.difference)}</b>"
        f" <small>{signed(each.low)} to {signed(each.high)}</small></td>"
    )


def tail_cells(each: Difference | None) -> str:
    p, seen = (each.adjusted, each.visible) if each else (None, None)
    shown = ("" if p is None else p_text(p), "" if seen is None else number(seen))
    return "".join(f"<td>{text}</td>" for text in shown)


def finding(figure: str, each: Difference | None) -> Finding:
    """What was found in words, and before it the class that it is shown in."""
    if each is None or each.adjusted is None:
        return "even", "not tested"
    if not each.found:
        return "even", "not told apart"
    better = (each.difference > 0) != (figure in DOWN)
    return ("right", "better") if better else ("wrong", "worse")


def signed(value: float) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{number(abs(value))}"


def p_text(p: float) -> str:
    return "under 0.001" if p < 0.001 else f"{p:.3f}"


# --- curves ---


def curves_section(results: Results) -> str:
    """The mean over seeds of each variant; beyond eight, the baseline stands in every chart."""
    charts = [
        chart(title, series, log=name.endswith("loss"))
        for name, title in CURVES.items()
        for series in in_parts(results, curves(results, name))
        if series
    ]
    note = "<p>The mean over the seeds that are done. Colours and dashes go by variant.</p>"
    if not charts:
        return ""
    return section("Training", note, f"<div class=charts>{''.join(charts)}</div>")


def curves(results: Results, name: str) -> dict[str, Points]:
    found = {
        each.name: averaged([points(run.lines, name) for run in results.of(each.name)])
        for each in results.ready.plan.variants
    }
    return {variant: line for variant, line in found.items() if line}


def averaged(lines: Sequence[Points]) -> Points:
    """The mean at each step that all of the lines have; empty ones do not count."""
    tables = [dict(line) for line in lines if line]
    if not tables:
        return []
    shared = sorted(set(tables[0]).intersection(*tables))
    return [(step, math.fsum(t[step] for t in tables) / len(tables)) for step in shared]


def in_parts(results: Results, series: Mapping[str, Points]) -> Iterator[dict[str, Points]]:
    base = results.ready.plan.baseline
    first = {base: series[base]} if base in series else {}
    others = [name for name in series if name != base]
    for part in split(others, SERIES - 1):
        yield first | {name: series[name] for name in part}


def split(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, max(len(names), 1), size):
        yield names[start : start + size]


# --- what it took ---


def costs_section(results: Results) -> str:
    rows = [
        f"<tr><th scope=row>{escape(name)}</th>"
        + "".join(f"<td>{text}</td>" for text in texts[:-1])
        + f"<td class=num>{texts[-1]}</td></tr>"
        for name, texts in cost_rows(results)
    ]
    note = (
        f"<p>Held equal: {escape(BUDGETS[results.ready.plan.ablation.budget])}. FLOPs are those"
        " of the step as it goes to the compiler; times are medians,"
        f" {results.ready.order.jobs} runs at once, without compiling.</p>"
    )
    return section("What each takes", note, table(COSTS, rows))


def cost_rows(results: Results) -> Iterator[tuple[str, list[str]]]:
    for each in results.ready.plan.variants:
        cost, steps = results.ready.costs[each.name], results.ready.steps[each.name]
        seconds = step_seconds(results.of(each.name))
        yield (
            each.name,
            [
                f"{cost.parameters:,}",
                f"{cost.trained:,}",
                f"{cost.flops / 1e9:,.3g}",
                "" if seconds is None else f"{1000 * seconds:,.0f}",
                f"{steps:,}",
                "" if seconds is None else duration(seconds * steps),
            ],
        )


def duration(seconds: float) -> str:
    """75 -> 1 min 15 s"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# --- what failed, and how it was tested ---


def failed_section(results: Results) -> str:
    parts = [
        f"<h3>{escape(run.variant)}, seed {run.seed}: code {run.status.code}</h3>"
        f"<pre>{escape(chr(10).join(run.status.tail))}</pre>"
        for run in results.failed()
    ]
    note = "<p>Their last lines. They are kept as they are; the same command tries them again.</p>"
    return section("Runs that failed", note, *parts) if parts else ""


def tested_section(results: Results) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in how_tested(results))
    return section("How it was tested", lines)


def how_tested(results: Results) -> list[str]:
    ready = results.ready
    tested = [
        row.difference
        for each in results.compared
        for row in each.rows
        if row.difference is not None and row.difference.p is not None
    ]
    comparisons = ready.comparisons
    said = [
        f"Each variant is held against {ready.plan.baseline}, seed by seed: runs with the same"
        " seed read the same data in the same order, and all are asked about the same pictures."
        " What is replicated is the seed, so the test is a t test of the differences by seed.",
        *over_pictures(tested),
        f"p values are corrected by Holm's procedure over {comparisons}"
        f" {'comparison' if comparisons == 1 else 'comparisons'} of one figure on one split, also"
        " those that are still to be made or whose runs failed; figures and splits are not"
        f" corrected for each other. Better or worse means a corrected p under {LEVEL:g}.",
        "What could be seen is the smallest true difference that 80 of 100 such ablations would"
        " have found, by the spread that was met: of variants that are not told apart, smaller"
        " differences than this are not ruled out.",
    ]
    smallest = foreseen(ready.order.seeds, comparisons)
    if smallest is not None:
        said.append(
            f"With {ready.order.seeds} seeds that is about {smallest:.1f} times the standard"
            " deviation of a figure from seed to seed."
        )
    return said


def over_pictures(tested: Sequence[Difference]) -> list[str]:
    """Whether what was found holds for other test pictures; nothing where nothing was tested."""
    if not tested:
        return []
    if not all(each.by_picture for each in tested):
        return [
            "Not all runs keep counts by picture: intervals and tests of those without say what"
            " other seeds would change, about these very test pictures and no others."
        ]
    return [
        "Runs keep what was counted for each picture: what pictures contribute to a difference is"
        " added to its variance (Obuchowski and Rockette 1995; Hillis 2007), so that intervals and"
        " tests hold for other test pictures as well. The wider of this interval and that of seeds"
        " alone is shown."
    ]


def runs_section(results: Results) -> str:
    names = [(each.split, each.figure) for each in results.compared]
    rows = [
        f"<tr><th scope=row>{escape(run.variant)}<small>seed {run.seed}</small></th>"
        + "".join(cell(run.figures.get(split, {}).get(figure)) for split, figure in names)
        + f"<td class=num>{escape(state_of(run))}</td></tr>"
        for run in results.runs
    ]
    columns = ("run", *(f"{figure}, {split}" for split, figure in names), "")
    note = "<p>Each run by itself; intervals are bootstraps over its test pictures.</p>"
    return section("Every run", note, table(columns, rows))


def state_of(run: Ended) -> str:
    if run.failed:
        return "failed"
    return "done" if run.done else "not done"


# --- as text ---


def as_markdown(results: Results) -> str:
    """The tables that a paper or an issue takes."""
    ready = results.ready
    parts = [f"# {in_cell(ready.plan.name)}"]
    for each in results.compared:
        parts.append(f"## {in_cell(each.figure)}, {in_cell(each.split)}")
        head = ["variant", "mean of seeds", "less the baseline", "p (Holm)", "could be seen", ""]
        rows = [
            (
                in_cell(row.variant),
                mean_text(row, each.figure not in AMOUNTS),
                *difference_texts(row.difference, row.variant == ready.plan.baseline),
                ""
                if row.variant == ready.plan.baseline
                else finding(each.figure, row.difference)[1],
            )
            for row in each.rows
        ]
        parts.append(markdown_table(head, rows))
    head = list(COSTS)
    parts += ["## What each takes"]
    parts += [markdown_table(head, [(in_cell(n), *texts) for n, texts in cost_rows(results)])]
    for run in results.failed():
        parts.append(f"## Failed: {in_cell(run.variant)}, seed {run.seed}")
        parts.append("\n".join(f"    {line}" for line in run.status.tail))
    parts += ["## How it was tested", *how_tested(results)]
    return "\n\n".join(parts) + "\n"


def mean_text(row: Row, share: bool) -> str:
    if row.mean is None:
        return why_none(row)
    figure = bounded(row.mean, share)
    return f"{number(row.mean.value)} ({'one seed' if figure is None else interval(figure)})"


def difference_texts(each: Difference | None, baseline: bool) -> tuple[str, str, str]:
    if baseline:
        return "the baseline", "", ""
    if each is None:
        return "nothing to compare", "", ""
    text = signed(each.difference)
    if each.low is not None and each.high is not None:
        text += f" ({signed(each.low)} to {signed(each.high)})"
    p = "" if each.adjusted is None else p_text(each.adjusted)
    return text, p, "" if each.visible is None else number(each.visible)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def in_cell(text: str) -> str:
    """What a user named, where Markdown would read it as its own."""
    plain = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*{}[]<>#|!" else c for c in plain)
