"""Runs side by side: what differs in their configurations, figures, curves, what each said.

Where runs keep what was counted for each picture, the difference of two runs has a bootstrap over
the pictures that both were asked about. That tells these two runs apart, and no more: another seed
of either may lie elsewhere, which `ablate.py` is for.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mlm_jax.ablation import pictures
from mlm_jax.ablation.page import signed
from mlm_jax.config import UserError, flat, read_json
from mlm_jax.metrics import RESAMPLES, Figure, Statistic, figure_of, redrawn
from mlm_jax.pages import cell, correction, interval, page, section, table, verdict
from mlm_jax.pages.charts import SERIES, chart
from mlm_jax.report import AMOUNTS, CURVES, TITLES, load_figures, points, split_of
from mlm_jax.run import as_now, read_metrics

SHOWN = 12
"""Pictures that are shown, of those that all runs were shown."""
LONG = 300
Statistics = Callable[[set[str]], Mapping[str, Statistic]]


@dataclass(frozen=True)
class Side:
    """One run; what of it cannot be read is empty, and named in `missing`."""

    name: str
    path: Path
    config: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Figure]]
    """By split and name."""
    examples: Mapping[str, Mapping[str, Any]]
    """By split and where the picture is, what was said."""
    lines: Sequence[Mapping[str, Any]]
    counts: Mapping[str, pictures.Counts]
    """By split."""
    missing: tuple[str, ...]


# --- reading ---


def open_side(path: Path, name: str) -> Side:
    """What a run directory holds, as far as it does. Nothing is raised for what it does not."""
    missing: list[str] = []

    def tried(what: str, read: Callable[[], Any], empty: Any) -> Any:
        try:
            return read()
        except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            missing.append(f"{what} cannot be read: {short(error)}")
            return empty

    if not path.is_dir():
        return Side(name, path, {}, {}, {}, [], {}, ("there is no such folder",))
    config = tried("config.json", lambda: flat(as_now(read_json(path))), {})
    figures, counts = {}, {}
    for file in sorted(path.glob("evaluation*.json")):
        split = split_of(file, "evaluation")
        figures[split] = tried(file.name, partial(load_figures, file), {})
        kept = tried(f"counts of {split}", partial(pictures.load, path, split), None)
        if kept is not None:
            counts[split] = kept
    if not figures:
        missing.append("it was not evaluated: there is no evaluation.json (evaluate.py makes it)")
    examples = {
        split_of(file, "examples"): tried(file.name, partial(shown, file), {})
        for file in sorted(path.glob("examples*.json"))
    }
    lines = tried("metrics.jsonl", lambda: read_metrics(path), [])
    if not lines:
        missing.append("it has no metrics: nothing was learnt, or metrics.jsonl was deleted")
    return Side(name, path, config, figures, examples, lines, counts, tuple(missing))


def shown(path: Path) -> dict[str, Any]:
    """The pictures of examples.json by where they are."""
    tree = json.loads(path.read_text())
    return {
        str(each["where"]): each for each in [*tree["shown"], *tree["wrong"]] if "image" in each
    }


def short(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0][:LONG] or type(error).__name__


def names_of(paths: Sequence[Path]) -> list[str]:
    """Their last parts, or as much more as tells them apart: a/x, b/x."""
    whole = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        found = ["/".join(parts[-count:]) for parts in whole]
        if len(set(found)) == len(found):
            return found
    raise UserError("a run is given twice: compare it with others")


def sides(paths: Sequence[Path]) -> list[Side]:
    """Raises: UserError where fewer than two are given, one twice, or none can be read."""
    if len(paths) < 2:
        raise UserError("compare.py takes at least two run directories")
    found = [open_side(*each) for each in zip(paths, names_of(paths), strict=True)]
    if not any(side.config or side.figures or side.lines for side in found):
        listed = "\n".join(f"  {side.path}: {'; '.join(side.missing)}" for side in found)
        raise UserError(f"none of these is a run directory:\n{listed}")
    return found


# --- a difference over the same pictures ---


def difference(
    one: pictures.Counts, other: pictures.Counts, statistics: Statistics, *, seed: int = 0
) -> dict[str, Figure]:
    """`other` less `one` in every figure that both have, with a paired bootstrap by picture.

    Each draw takes the same pictures for both (Efron and Tibshirani 1993, chapter 8), so that what
    makes a picture hard for both does not count. Empty where under two pictures are shared, or
    they are of other data.
    """
    same = pictures.common([one, other])
    if same is None:
        return {}
    count = len(same[0].pictures)
    drawn = np.concatenate([np.ones((1, count)), redrawn(count, resamples=RESAMPLES, seed=seed)])
    found: list[dict[str, Float[np.ndarray, " S"]]] = []
    for each in same:
        sums = {name: drawn @ values for name, values in each.columns.items()}
        made = statistics({*each.columns})
        found.append({name: statistic(sums) for name, statistic in made.items()})
    first, second = found
    return {
        name: figure_of(second[name] - first[name], count)
        for name in first
        if name in second and np.isfinite(second[name][0] - first[name][0])
    }


# --- the page ---


def report(found: Sequence[Side], statistics: Statistics) -> str:
    return page(
        " and ".join(side.name for side in found),
        header(found),
        config_section(found),
        *(figures_section(found, split, statistics) for split in splits_of(found)),
        curves_section(found),
        *(examples_section(found, split) for split in splits_of(found)),
    )


def header(found: Sequence[Side]) -> str:
    lines = "".join(
        f"<p><b>{escape(side.name)}</b> {escape(str(side.path))}: {escape(state(side))}</p>"
        for side in found
    )
    return f"<header><h1>Runs side by side</h1>{lines}</header>"


def state(side: Side) -> str:
    steps = max((int(line["step"]) for line in side.lines), default=0)
    return "; ".join([f"{steps:,} steps", *side.missing])


def splits_of(found: Sequence[Side]) -> list[str]:
    """Those that a run has figures of."""
    return list(
        dict.fromkeys(k for side in found for k, figures in side.figures.items() if figures)
    )


def config_section(found: Sequence[Side]) -> str:
    """The keys that are not the same in all configurations that can be read."""
    known = [side for side in found if side.config]
    keys = dict.fromkeys(key for side in known for key in side.config)
    rows = [
        f"<tr><th scope=row>{escape(key)}</th>"
        + "".join(f"<td>{escape(str(side.config.get(key, '(absent)')))}</td>" for side in known)
        + "</tr>"
        for key in keys
        if len({json.dumps(side.config.get(key, "(absent)")) for side in known}) > 1
    ]
    if not rows:
        return section("What differs", "<p>Nothing in their configurations.</p>")
    return section("What differs", even_table(("key", *(side.name for side in known)), rows))


def figures_section(found: Sequence[Side], split: str, statistics: Statistics) -> str:
    known = [side for side in found if side.figures.get(split)]
    names = dict.fromkeys(name for side in known for name in side.figures[split])
    plain = [name for name in names if name.count("/") < 2]
    first = known[0]
    tried = {
        side.name: difference(first.counts[split], side.counts[split], statistics)
        for side in known[1:]
        if split in first.counts and split in side.counts
    }
    apart = {name: each for name, each in tried.items() if each}
    rows = [
        f"<tr><th scope=row>{escape(TITLES.get(name, name))}<small>{escape(name)}</small></th>"
        + "".join(cell(side.figures[split].get(name), name not in AMOUNTS) for side in known)
        + "".join(apart_cell(each.get(name)) for each in apart.values())
        + "</tr>"
        for name in plain
    ]
    said = notes(first.name, apart, tried, [s.name for s in known if split not in s.counts])
    columns = ("figure", *(side.name for side in known), *(f"{n} less {first.name}" for n in apart))
    text = escape(" ".join(said))
    return section(f"Figures, {split}", f"<p>{text}</p>", even_table(columns, rows))


def notes(
    first: str, apart: Collection[str], tried: Iterable[str], without: Sequence[str]
) -> Iterator[str]:
    """What is known of differences from `first`; `without` are runs that keep no counts."""
    yield "Each figure with its own 95 % bootstrap over pictures."
    if apart:
        yield (
            f"Differences from {first} have a bootstrap over the pictures that both were asked"
            " about: they tell these runs apart, not their configurations, of which other seeds may"
            " lie elsewhere."
        )
    if without:
        yield f"{listed(without)} {'keeps' if len(without) == 1 else 'keep'} no counts by picture."
    if others := [name for name in tried if name not in apart]:
        was = "was" if len(others) == 1 else "were"
        yield (
            f"{listed(others)} {was} not asked about the pictures of {first}, as far as is known,"
            " or for no figure that can be compared by picture."
        )
    if without or others:
        yield (
            "Where a difference has no interval of its own, runs differ if their intervals lie"
            " apart; where these overlap, they may all the same."
        )


def listed(names: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def even_table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """A table whose last column is like the others."""
    return f"<div class=plain>{table(columns, rows)}</div>"


def apart_cell(each: Figure | None) -> str:
    if each is None:
        return "<td></td>"
    clear = each.low > 0 or each.high < 0
    mark = " <small>apart</small>" if clear else ""
    return f"<td><b>{signed(each.value)}</b> <small>{interval(each)}</small>{mark}</td>"


def curves_section(found: Sequence[Side]) -> str:
    charts = []
    for curve in CURVES:
        for name in curve.names:
            series = {side.name: points(side.lines, name) for side in found}
            kept = [(side, line) for side, line in series.items() if line]
            for start in range(0, len(kept), SERIES):
                part = dict(kept[start : start + SERIES])
                title = curve.title if name == curve.names[0] else f"{curve.title} ({name})"
                charts.append(chart(title, part, log=curve.log))
    return section("Training", f"<div class=charts>{''.join(charts)}</div>") if charts else ""


def examples_section(found: Sequence[Side], split: str) -> str:
    """Pictures that at least two runs were shown, with what each said."""
    known = [side for side in found if side.examples.get(split)]
    places = dict.fromkeys(where for side in known for where in side.examples[split])
    shared = [p for p in places if sum(p in side.examples[split] for side in known) > 1]
    cards = "".join(card(known, split, where) for where in shared[:SHOWN])
    return section(f"Pictures of {split}", f"<div class=cards>{cards}</div>") if cards else ""


def card(known: Sequence[Side], split: str, where: str) -> str:
    there = [side for side in known if where in side.examples[split]]
    first = there[0].examples[split][where]
    said = "".join(
        f"<dt>{escape(side.name)}</dt>{told(side.examples[split][where])}" for side in there
    )
    return (
        f'<article><img src="data:image/png;base64,{escape(str(first["image"]))}"'
        f' alt="{escape(f"picture {where}")}"><div><dl>{said}</dl></div></article>'
    )


def told(each: Mapping[str, Any]) -> str:
    """The caption, and which questions were answered wrong."""
    lines = []
    if "caption" in each:
        lines.append(line(each["caption"], ""))
    asked = each.get("questions", [])
    lines += [line(question, f"{question['question']} ") for question in asked[:2]]
    return "".join(lines) or "<dd>(nothing)</dd>"


def line(text: Mapping[str, Any], before: str) -> str:
    right = escape(correction(text))
    truth = right and f" <small>{right}</small>"
    said = escape(str(text["text"])) or "(nothing)"
    return f"<dd>{verdict(text['score'])} {escape(before)}<b>{said}</b>{truth}</dd>"
