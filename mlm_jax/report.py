"""The run directory as one page: curves, figures, pictures with what was said about them.

`report.html` is made from what lies in the run directory, needs no network and holds no script.
Every text that comes from data or a model is escaped.
"""

import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mlm_jax.metrics import Figure
from mlm_jax.run import read_metrics, write
from mlm_jax.showing import details_section, section

Points = list[tuple[float, float]]
Figures = Mapping[str, Figure]

TITLES = {
    "caption/facts_precision": "facts told that are right",
    "caption/facts_recall": "facts of the picture that are told",
    "caption/facts_f1": "facts F1",
    "caption/wholly_right": "captions wholly right",
    "caption/invented": "invented objects per caption",
    "caption/in_order": "captions that tell every event, in order",
    "caption/exact": "captions equal to a reference",
    "vqa/accuracy": "answers right",
    "vqa/majority": "baseline: commonest answer to the kind of question",
    "vqa/question_only": "baseline: a reader of the question alone",
    "classes/accuracy": "classes right",
    "classes/accuracy@5": "right class among the likeliest five",
    "classes/macro_precision": "precision, the mean over classes",
    "classes/macro_recall": "recall, the mean over classes",
    "classes/macro_f1": "F1, the mean over classes",
    "classes/majority": "baseline: commonest class of training",
    "events/map": "mean average precision, over IoU 0.3 to 0.7",
    **{
        f"events/map@{at}": f"mean average precision at IoU {at}"
        for at in (0.3, 0.4, 0.5, 0.6, 0.7)
    },
    "probe/accuracy": "classes right by a linear probe of the features",
    "probe/untrained": "baseline: the probe of an untrained encoder",
    "probe/pixels": "baseline: the probe of pixels",
    "probe/majority": "baseline: commonest class of training",
    "drawn/passed": "pictures that show their prompt, and nothing else",
    "drawn/count": "as many objects, or events, as told",
    "drawn/attributes": "all that is told of each is right",
    "drawn/relations": "relations right",
    "drawn/order": "events in the order told",
    "drawn/spread": "distance of objects from their mean place over samples",
    "drawn/nearest": "nearest training picture, over that of real pictures",
    "prior/imagined": "cosine of the picture's vector and what is imagined",
    "prior/caption": "baseline: and the caption's own vector",
    "prior/another": "baseline: and what is imagined for another caption",
    "codes/psnr": "pictures after their way through the codes, dB",
    "codes/recognised": "objects still recognised after it",
    "codes/used": "codes that are used",
    "codes/perplexity": "codes, if all were used alike",
    "loss": "loss, nats per token",
    "perplexity": "perplexity per token",
}
TILES = (
    "caption/facts_f1", "caption/wholly_right", "caption/exact", "vqa/accuracy",
    "classes/accuracy", "events/map@0.5", "events/map", "probe/accuracy",
    "codes/recognised", "drawn/passed", "loss",
)  # fmt: skip
AMOUNTS = (
    "caption/invented",
    "loss",
    "perplexity",
    "codes/psnr",
    "codes/perplexity",
    "drawn/spread",
    "drawn/nearest",
)  # all others are shares
BLIND = ("vqa/question_only", "vqa/majority")


# --- on the screen ---


def print_figures(figures: Figures, title: str) -> None:
    """A table of the figures; plain, aligned lines where there is no terminal."""
    if not sys.stdout.isatty():
        print(title)
        for name, figure in figures.items():
            print(f"{name:<32} {number(figure.value):>8}   {interval(figure):<20} n {figure.n}")
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure")
    for column in ("value", "95 %", "n"):
        table.add_column(column, justify="right")
    for name, figure in figures.items():
        table.add_row(name, number(figure.value), interval(figure), f"{figure.n:,}")
    Console().print(table)


def print_examples(run: Path, split: str, count: int = 3) -> None:
    """The first `count` pictures of the report: what was said, and what is so."""
    for each in json.loads((run / saved_name("examples", split)).read_text())["shown"][:count]:
        print(f"\n{each['where']}")
        told = [("caption", each["caption"])] if "caption" in each else []
        for name, text in (*told, *((q["question"], q) for q in each["questions"][:2])):
            verdict = "right" if text["score"] == 1 else f"wrong: {text['references'][0]}"
            print(f"  {name}: {text['text']}  ({verdict})")


def number(value: float) -> str:
    """0.93417 -> 0.934, 1532.4 -> 1,532"""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def interval(figure: Figure) -> str:
    return f"{number(figure.low)} to {number(figure.high)}"


# --- as a page ---


def write_report(run: Path) -> None:
    """Write report.html of the run directory from its metrics, evaluations and examples."""
    evaluations = {
        split_of(path, "evaluation"): load_figures(path)
        for path in sorted(run.glob("evaluation*.json"))
    }
    examples = {
        split_of(path, "examples"): json.loads(path.read_text())
        for path in sorted(run.glob("examples*.json"))
    }
    sections = [
        header(run, evaluations),
        figures_section(evaluations),
        curves_section(read_metrics(run)),
        *(pictures_section(split, each) for split, each in examples.items()),
        *(details_section(split, each) for split, each in examples.items()),
        settings_section(run),
    ]
    page = PAGE.format(title=escape(run.name), style=STYLE, body="\n".join(sections))
    write(run / "report.html", page)


def saved_name(stem: str, split: str) -> str:
    """test -> evaluation.json, novel -> evaluation_novel.json"""
    tail = "" if split == "test" else "_" + re.sub(r"[^\w.-]+", "_", split).strip("_")
    return f"{stem}{tail}.json"


def split_of(path: Path, stem: str) -> str:
    """evaluation.json -> test, evaluation_novel.json -> novel"""
    return path.stem.removeprefix(stem).removeprefix("_") or "test"


def load_figures(path: Path) -> dict[str, Figure]:
    return {name: Figure(**values) for name, values in json.loads(path.read_text()).items()}


def header(run: Path, evaluations: Mapping[str, Figures]) -> str:
    tiles = [
        f'<div class="tile"><b>{number(figures[name].value)}</b>'
        f"<span>{escape(TITLES[name])}, {escape(split)}</span></div>"
        for split, figures in evaluations.items()
        for name in TILES
        if name in figures
    ]
    steps = max((int(line["step"]) for line in read_metrics(run)), default=0)
    made = f"after {steps:,} steps, {time.strftime('%Y-%m-%d %H:%M %Z')}"
    return (
        f"<header><h1>{escape(run.name)}</h1><p>{escape(made)}</p>"
        f'<div class="tiles">{"".join(tiles)}</div></header>'
    )


# --- figures ---


def figures_section(evaluations: Mapping[str, Figures]) -> str:
    parts = []
    for split, figures in evaluations.items():
        kinds = [name for name in figures if name.startswith("vqa/accuracy/")]
        plain = [name for name in figures if name.count("/") < 2]
        parts.append(f"<h3>{escape(split)}</h3>{figure_table(figures, plain)}")
        if kinds:
            parts.append(kind_table(figures, kinds))
    note = (
        "<p>Each value with its 95 % interval: a bootstrap over pictures. "
        "The marks show it between 0 and 1.</p>"
    )
    return section("Figures", note, *parts) if parts else ""


def figure_table(figures: Figures, names: Iterable[str]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(TITLES.get(name, name))}<small>{escape(name)}</small></th>'
        f"{cell(figures[name], name not in AMOUNTS)}<td class=num>{figures[name].n:,}</td></tr>"
        for name in names
    ]
    head = "<tr><th scope=col>figure</th><th scope=col>value</th><th scope=col>n</th></tr>"
    return (
        f"<div class=wide><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def kind_table(figures: Figures, names: Iterable[str]) -> str:
    """Accuracy by kind of question beside the baselines."""
    rows = []
    for name in names:
        kind = name.removeprefix("vqa/accuracy/")
        blind = "".join(cell(figures.get(f"{base}/{kind}")) for base in BLIND)
        rows.append(
            f'<tr><th scope="row">{escape(kind)}</th>{cell(figures[name])}{blind}'
            f"<td class=num>{figures[name].n:,}</td></tr>"
        )
    columns = ("question", "answers right", "question alone", "commonest answer", "n")
    head = "".join(f"<th scope=col>{escape(c)}</th>" for c in columns)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class=wide><table>{body}</table></div>"


def cell(figure: Figure | None, share: bool = True) -> str:
    """A value, its interval, and of a share a mark where they lie between 0 and 1."""
    if figure is None:
        return "<td></td>"
    text = f"<b>{number(figure.value)}</b> <small>{interval(figure)}</small>"
    if not share or not 0 <= figure.low <= figure.high <= 1:
        return f"<td>{text}</td>"
    low, high, value = (100 * x for x in (figure.low, figure.high, figure.value))
    return (
        f'<td>{text}<svg class=mark viewBox="0 0 100 6" preserveAspectRatio=none aria-hidden=true>'
        f'<rect class=track width=100 height=2 y=2 /><rect class=range x="{low:.2f}" '
        f'width="{max(high - low, 0.5):.2f}" height=6 y=0 />'
        f'<rect class=value x="{max(value - 0.4, 0):.2f}" width=0.8 height=6 y=0 /></svg></td>'
    )


# --- curves ---


@dataclass(frozen=True)
class Curve:
    """One chart: its lines are metrics by name. A log axis falls back where values reach 0."""

    title: str
    names: tuple[str, ...]
    log: bool = False


CURVES = (
    Curve("loss, nats per token", ("loss", "test/loss"), log=True),
    Curve("accuracy of the next token", ("accuracy", "test/accuracy")),
    Curve("learning rate", ("lr",)),
    Curve("pictures per second", ("pictures_per_second",)),
)
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 230, 52, 30, 10, 12
POINTS = 400


def curves_section(lines: Sequence[Mapping[str, Any]]) -> str:
    charts = []
    for curve in CURVES:
        series = {name: points(lines, name) for name in curve.names}
        series = {name: each for name, each in series.items() if each}
        if series:
            charts.append(chart(curve, series))
    return section("Training", f"<div class=charts>{''.join(charts)}</div>") if charts else ""


def points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(step, value), at most POINTS of them, evenly spread and with the last."""
    found = [
        (float(x["step"]), float(x[name])) for x in lines if math.isfinite(x.get(name, math.nan))
    ]
    stride = -(-len(found) // POINTS) or 1
    return found[::-stride][::-1]


def chart(curve: Curve, series: Mapping[str, Points]) -> str:
    """An SVG with axes; colours by style sheet, so that it follows light and dark."""
    xs = [x for each in series.values() for x, _ in each]
    ys = [y for each in series.values() for _, y in each]
    log = curve.log and min(ys) > 0
    x_ticks = ticks(min(0.0, *xs), max(xs))
    y_ticks = log_ticks(min(ys), max(ys)) if log else ticks(min(0.0, *ys), max(ys))
    across, up = (
        scale(x_ticks, False, LEFT, WIDTH - RIGHT),
        scale(y_ticks, log, HEIGHT - BOTTOM, TOP),
    )
    grid = [
        f'<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        f'<text class=y x={LEFT - 6} y="{up(y) + 4:.1f}">{short(y)}</text>'
        for y in y_ticks
    ]
    grid += [
        f'<text class=x x="{across(x):.1f}" y={HEIGHT - 10}>{short(x)}</text>' for x in x_ticks
    ]
    lines, legend = [], []
    for i, (name, each) in enumerate(series.items()):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in each)
        lines.append(f'<polyline class="line s{i}" points="{path}"/>')
        x, y = each[-1]
        lines.append(f'<circle class="dot s{i}" cx="{across(x):.1f}" cy="{up(y):.1f}" r=2.5 />')
        legend.append(f'<span class="key s{i}">{escape(name)} <b>{short(y)}</b></span>')
    spoken = ", ".join(f"{name} ends at {short(each[-1][1])}" for name, each in series.items())
    label = escape(f"{curve.title} by step: {spoken}")
    return (
        f"<figure><figcaption>{escape(curve.title)}{''.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{label}">'
        f"{''.join(grid)}{''.join(lines)}</svg></figure>"
    )


def scale(marks: Sequence[float], log: bool, start: float, end: float) -> Any:
    """Values between the first and last mark to places between `start` and `end`."""
    bend = math.log10 if log else float
    low, high = bend(marks[0]), bend(marks[-1])
    return lambda value: start + (end - start) * (bend(value) - low) / (high - low)


def ticks(low: float, high: float) -> list[float]:
    """About five multiples of 1, 2 or 5 times a power of ten that enclose both."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / 5 * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten and their 2 and 5 folds that enclose both; powers alone over three decades."""
    wide = high / low > 1000
    marks = [
        m * 10.0**p
        for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in ((1,) if wide else (1, 2, 5))
    ]
    below = [m for m in marks if m <= low * (1 + 1e-9)]
    above = [m for m in marks if m >= high * (1 - 1e-9) and m > below[-1]]
    return [m for m in marks if below[-1] <= m <= above[0]]


def short(value: float) -> str:
    """1500 -> 1.5k, 0.00042 -> 4.2e-4"""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value / 1000:.4g}k"
    if abs(value) < 0.001:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:.3g}"


# --- pictures ---


def pictures_section(split: str, examples: Mapping[str, Any]) -> str:
    """`examples`: {"shown": [...], "wrong": [...]}, see mlm_jax.evaluate.example."""
    notes = {
        "shown": "Taken evenly from the whole split, not chosen.",
        "wrong": "Others that went wrong, the first that were met.",
    }
    parts = []
    for name, note in notes.items():
        if examples[name]:
            cards = "".join(card(each) for each in examples[name])
            parts.append(f"<p>{note}</p><div class=cards>{cards}</div>")
    return section(f"Pictures of {split}", *parts)


def card(shown: Mapping[str, Any]) -> str:
    caption = shown.get("caption")
    known = f": {caption['references'][0]}" if caption else ""
    image = (
        f'<img src="data:image/png;base64,{escape(shown["image"])}" '
        f'alt="{escape("picture " + shown["where"] + known)}">'
    )
    asked = "".join(question(each) for each in shown["questions"][:4])
    asked = f"<dl>{asked}</dl>" if asked else ""
    return f"<article>{image}<div>{told(caption) if caption else ''}{asked}</div></article>"


def told(caption: Mapping[str, Any]) -> str:
    right = caption["score"] >= 1
    lines = [f"<p class=said>{verdict(right)} {escape(caption['text']) or '(nothing)'}</p>"]
    for name in ("missed", "invented"):
        if caption[name]:
            lines.append(f"<p class=fault><b>{name}</b> {escape('; '.join(caption[name]))}</p>")
    lines.append(f"<p class=truth><b>truth</b> {escape(caption['references'][0])}</p>")
    return "".join(lines)


def question(asked: Mapping[str, Any]) -> str:
    right = asked["score"] >= 1
    correct = "" if right else f" <small>right: {escape(asked['references'][0])}</small>"
    said = escape(asked["text"]) or "(nothing)"
    return f"<dt>{escape(asked['question'])}</dt><dd>{verdict(right)} {said}{correct}</dd>"


def verdict(right: bool) -> str:
    """A mark that is read aloud too."""
    name, mark = ("right", "✓") if right else ("wrong", "✗")
    return f'<span class={name} role=img aria-label="{name}">{mark}</span>'


# --- settings ---


def settings_section(run: Path) -> str:
    parts = []
    for name in ("config.json", "run.json"):
        file = run / name
        if file.exists():
            parts.append(
                f"<details><summary>{name}</summary><pre>{escape(file.read_text())}</pre></details>"
            )
    return section("Settings", *parts)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """
:root {
  --page: #fafaf8; --card: #ffffff; --ink: #1c1d20; --soft: #5d6068; --rule: #e3e3de;
  --one: #2459c4; --two: #b4450a; --good: #14743a; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131417; --card: #1d1f24; --ink: #e9e9e6; --soft: #a3a6ae; --rule: #34373e;
    --one: #8ab0ff; --two: #ffab73; --good: #6fd393; --bad: #ff8f86;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 48px 0 8px; }
h3 { font-size: 1rem; margin: 24px 0 4px; }
p { margin: 4px 0 12px; color: var(--soft); max-width: 70ch; }
small { color: var(--soft); font-size: .8rem; font-weight: 400; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile, figure, article { background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; margin-bottom: 16px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 16px 8px 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
thead th { color: var(--soft); font-size: .85rem; font-weight: 600; }
tbody th { font-weight: 500; min-width: 150px; }
tbody th small { display: block; }
td { min-width: 110px; }
td small { white-space: nowrap; }
.num { min-width: 0; text-align: right; padding-right: 0; }
thead th:last-child { text-align: right; padding-right: 0; }
.mark { display: block; width: 100%; max-width: 220px; height: 6px; margin-top: 4px; }
.track { fill: var(--rule); }
.range { fill: var(--one); opacity: .45; }
.value { fill: var(--one); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 16px; }
figure { margin: 0; padding: 12px; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 16px; font-weight: 600; font-size: .9rem; }
.key { font-weight: 400; color: var(--soft); }
.key::before { content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 6px;
  vertical-align: middle; background: var(--one); }
.key.s1::before { background: var(--two); }
figure svg { display: block; width: 100%; height: auto; }
figure text { fill: var(--soft); font-size: 12px; }
text.y { text-anchor: end; }
text.x { text-anchor: middle; }
.grid { stroke: var(--rule); }
.line { fill: none; stroke: var(--one); stroke-width: 1.8; stroke-linejoin: round; }
.line.s1 { stroke: var(--two); }
.dot { fill: var(--one); }
.dot.s1 { fill: var(--two); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr));
  gap: 16px; margin-bottom: 24px; }
article { overflow: hidden; overflow-wrap: anywhere; }
article img { display: block; width: 100%; image-rendering: pixelated; background: var(--rule); }
article div { padding: 12px; font-size: .9rem; }
@media (max-width: 560px) { article { display: grid; grid-template-columns: 2fr 3fr; } }
article p { margin: 0 0 6px; }
.said { color: var(--ink); font-weight: 600; }
.fault b { color: var(--bad); }
.right { color: var(--good); font-weight: 700; }
.wrong { color: var(--bad); font-weight: 700; }
dl { margin: 8px 0 0; border-top: 1px solid var(--rule); padding-top: 6px; }
dt { color: var(--soft); }
dd { margin: 0 0 6px; }
.lanes { list-style: none; margin: 0 0 8px; padding: 0; }
.lanes i { display: block; height: 6px; border-radius: 3px; background: var(--good); }
.lanes.said i { background: var(--one); }
.confusion td, .confusion th { min-width: 0; padding: 4px 6px; font-size: .8rem; }
.confusion td { background: color-mix(in srgb, var(--one) calc(var(--share) * 60%), transparent); }
summary { cursor: pointer; padding: 6px 0; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 12px;
  overflow-x: auto; font-size: .8rem; }
"""
