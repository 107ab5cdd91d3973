"""The run directory as one page: curves, figures, pictures with what was said about them.

`report.html` is made from what lies in the run directory, needs no network and holds no script.
Every text that comes from data or a model is escaped.
"""

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlm_jax.metrics import Figure
from mlm_jax.pages import cell, correction, interval, number, page, section, table, verdict
from mlm_jax.pages.charts import Points, chart
from mlm_jax.run import read_metrics, write
from mlm_jax.showing import details_section
from mlm_jax.terminal import printable

Figures = Mapping[str, Figure]

CHANGED = {
    "hard": "word",
    **{k: k for k in ("colour", "shape", "size", "relation", "action", "direction")},
}
TITLES = {
    "caption/facts_precision": "facts told that are right",
    "caption/facts_recall": "facts of the picture that are told",
    "caption/facts_f1": "facts F1",
    "caption/wholly_right": "captions wholly right",
    "caption/invented": "invented objects per caption",
    "caption/in_order": "captions that tell every event, in order",
    "caption/exact": "captions equal to a reference",
    **{f"caption/Bleu_{n}": f"BLEU-{n}" for n in range(1, 5)},
    "caption/ROUGE_L": "ROUGE-L",
    "caption/CIDEr-D": "CIDEr-D, which the COCO scorer calls CIDEr",
    "caption/CIDEr": "CIDEr, unclipped",
    "caption/METEOR_exact": "METEOR of equal words alone",
    "vqa/accuracy": "answers right",
    "vqa/majority": "baseline: commonest answer to the kind of question",
    "vqa/question_only": "baseline: a reader of the question alone",
    "classes/accuracy": "classes right",
    "classes/accuracy@5": "right class among the likeliest five",
    "classes/views": "looks at each, whose probabilities were averaged",
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
    "drawn/motion": "what happens is what is told",
    "drawn/order": "events in the order told",
    "drawn/among": "pictures drawn for each caption, of which CLIP kept one",
    "drawn/spread": "distance of objects from their mean place over samples",
    "drawn/nearest": "nearest training picture, over that of real pictures",
    "features/fid": "Fréchet distance to real pictures, by their features",
    "features/kid": "kernel distance to real pictures, by their features",
    "features/clip_score": "CLIP score of pictures and captions, 0 to 2.5",
    "features/clip_score_real": "baseline: that of the real pictures",
    "features/r_precision": "pictures nearer to their caption than to 99 others",
    **{
        f"{one}s/recall@{k}": f"the right {one} among the nearest {k}"
        for one in ("caption", "picture")
        for k in (1, 5, 10)
    },
    **{
        f"told_apart/{kind}": f"captions nearer than with another {changed}"
        for kind, changed in CHANGED.items()
    },
    "match/random": "yes to the caption, no to one of another picture",
    **{
        f"match/{kind}": f"yes to the caption, no with another {changed}"
        for kind, changed in CHANGED.items()
    },
    "prior/imagined": "cosine of the picture's vector and what is imagined",
    "prior/caption": "baseline: and the caption's own vector",
    "prior/another": "baseline: and what is imagined for another caption",
    "codes/psnr": "pictures after their way through the codes, dB",
    "codes/recognised": "objects, or events, still recognised after it",
    "codes/used": "codes that are used",
    "codes/perplexity": "codes, if all were used alike",
    "loss": "loss, nats per token",
    "perplexity": "perplexity per token",
}
TILES = (
    "caption/facts_f1", "caption/wholly_right", "caption/exact", "vqa/accuracy",
    "classes/accuracy", "events/map@0.5", "events/map", "probe/accuracy",
    "codes/recognised", "drawn/passed", "captions/recall@1", "match/hard", "loss",
)  # fmt: skip
AMOUNTS = (
    "classes/views",
    "caption/invented",
    "caption/CIDEr-D",
    "caption/CIDEr",
    "loss",
    "perplexity",
    "codes/psnr",
    "codes/perplexity",
    "drawn/among",
    "drawn/spread",
    "drawn/nearest",
    "features/fid",
    "features/kid",
    "features/clip_score",
    "features/clip_score_real",
)  # all others are shares
BLIND = ("vqa/question_only", "vqa/majority")


# --- on the screen ---


def print_figures(figures: Figures, title: str) -> None:
    """A table of the figures; plain, aligned lines where there is no terminal."""
    rows = [(printable(name), number(x.value), interval(x), x.n) for name, x in figures.items()]
    if not sys.stdout.isatty():
        print(title)
        for name, value, between, n in rows:
            print(f"{name:<32} {value:>8}   {between:<20} n {n}")
        return
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("figure")
    for column in ("value", "95 %", "n"):
        shown.add_column(column, justify="right")
    for name, value, between, n in rows:
        shown.add_row(Text(name), value, between, f"{n:,}")
    Console().print(shown)


def print_examples(run: Path, split: str, count: int = 3) -> None:
    """The first `count` pictures of the report: what was said, and what is so."""
    for each in json.loads((run / saved_name("examples", split)).read_text())["shown"][:count]:
        print(f"\n{printable(each['where'])}")
        told = [("caption", each["caption"])] if "caption" in each else []
        for name, text in (*told, *((q["question"], q) for q in each["questions"][:2])):
            wrong = "" if text["score"] > 0 else "wrong, "
            print(printable(f"  {name}: {text['text']}  ({wrong}{correction(text) or 'right'})"))


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
    asked = {split: load_asked(run, split) or "" for split in evaluations}
    sections = [
        header(run, evaluations),
        figures_section(evaluations, asked),
        curves_section(read_metrics(run)),
        *(pictures_section(split, each) for split, each in examples.items()),
        *(details_section(split, each) for split, each in examples.items()),
        settings_section(run),
    ]
    write(run / "report.html", page(run.name, *sections))


def saved_name(stem: str, split: str) -> str:
    """test -> evaluation.json, novel -> evaluation_novel.json, test[:9] -> ..._test%5B%3A9%5D.json

    Another for each split, which `split_of` reads back.
    """
    return f"{stem}.json" if split == "test" else f"{stem}_{quote(split, safe='+')}.json"


def split_of(path: Path, stem: str) -> str:
    """evaluation.json -> test, evaluation_novel.json -> novel"""
    return unquote(path.stem.removeprefix(stem).removeprefix("_")) or "test"


def load_figures(path: Path) -> dict[str, Figure]:
    return {name: Figure(**values) for name, values in json.loads(path.read_text()).items()}


def load_asked(run: Path, split: str) -> str | None:
    """With what options of `evaluate.py` a split was measured; None where it is not known."""
    file = run / saved_name("examples", split)
    return json.loads(file.read_text()).get("asked") if file.exists() else None


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


def figures_section(evaluations: Mapping[str, Figures], asked: Mapping[str, str]) -> str:
    """`asked`: by the split, with what options of `evaluate.py`."""
    parts = []
    for split, figures in evaluations.items():
        kinds = [name for name in figures if name.startswith("vqa/accuracy/")]
        plain = [name for name in figures if name.count("/") < 2]
        options = f" <small>{escape(asked[split])}</small>" if asked[split] else ""
        parts.append(f"<h3>{escape(split)}{options}</h3>{figure_table(figures, plain)}")
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
    return table(("figure", "value", "n"), rows)


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
    return table(columns, rows)


# --- curves ---


@dataclass(frozen=True)
class Curve:
    """One chart: its lines are metrics by name."""

    title: str
    names: tuple[str, ...]
    log: bool = False


CURVES = (
    Curve("loss", ("loss", "test/loss"), log=True),
    Curve("accuracy", ("accuracy", "test/accuracy")),
    Curve("learning rate", ("lr",)),
    Curve("pictures per second", ("pictures_per_second",)),
)
POINTS = 400


def curves_section(lines: Sequence[Mapping[str, Any]]) -> str:
    charts = []
    for curve in CURVES:
        series = {name: points(lines, name) for name in curve.names}
        series = {name: each for name, each in series.items() if each}
        if series:
            charts.append(chart(curve.title, series, log=curve.log))
    return section("Training", f"<div class=charts>{''.join(charts)}</div>") if charts else ""


def points(lines: Sequence[Mapping[str, Any]], name: str) -> Points:
    """(step, value), at most POINTS of them, evenly spread and with the last."""
    found = [
        (float(x["step"]), float(x[name])) for x in lines if math.isfinite(x.get(name, math.nan))
    ]
    stride = -(-len(found) // POINTS) or 1
    return found[::-stride][::-1]


# --- pictures ---


def pictures_section(split: str, examples: Mapping[str, Any]) -> str:
    """`examples`: {"shown": [...], "wrong": [...]}, see mlm_jax.evaluators.texts.example."""
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
    said = escape(caption["text"]) or "(nothing)"
    lines = [f"<p class=said>{verdict(caption['score'])} {said}</p>"]
    for name in ("missed", "invented"):
        if caption[name]:
            lines.append(f"<p class=fault><b>{name}</b> {escape('; '.join(caption[name]))}</p>")
    lines.append(f"<p class=truth><b>truth</b> {escape(caption['references'][0])}</p>")
    return "".join(lines)


def question(asked: Mapping[str, Any]) -> str:
    right = escape(correction(asked))
    correct = right and f" <small>{right}</small>"
    said = f"{verdict(asked['score'])} {escape(asked['text']) or '(nothing)'}"
    return f"<dt>{escape(asked['question'])}</dt><dd>{said}{correct}</dd>"


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
