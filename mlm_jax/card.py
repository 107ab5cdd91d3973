"""A model card (arXiv:1810.03993): what a run is, learnt from and scored, from its directory alone.

Nothing is stated that the run does not hold: where it holds nothing the card says "not measured".
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_jax.checkpoint import preferred
from mlm_jax.config import read_json
from mlm_jax.data.own import names_rows
from mlm_jax.metrics import Figure
from mlm_jax.pages import interval, number
from mlm_jax.provenance import SOURCE
from mlm_jax.report import TITLES, load_asked, load_figures, split_of
from mlm_jax.run import read_metrics, write
from mlm_jax.stages import STAGES

NONE = "not measured"
SYNTHETIC = {
    "world": "pictures of coloured shapes",
    "clips": "clips of coloured shapes that move, with their sounds",
}
DRAW = ("Dalle", "Painter", "Unclip", "Cascade")
"""The models that `mlm_jax.drawing` takes."""

Config = Mapping[str, Any]


def write_card(run: Path) -> Path:
    """Write card.md into the run directory. Raises: UserError if it is no run directory."""
    write(run / "card.md", card(run))
    return run / "card.md"


def card(run: Path) -> str:
    """The card as Markdown. Raises: UserError if `run` is no run directory."""
    config = read_json(run)
    parts = {
        "The model": model_lines(run, config),
        "Data": data_lines(config),
        "Training": training_lines(run, config),
        "Figures": figure_lines(run),
        "Intended use": use_lines(config),
        "Limits": limit_lines(run, config),
        "Marks of what is generated": mark_lines(config),
    }
    body = (f"## {title}\n\n" + "\n".join(lines) for title, lines in parts.items())
    return "\n\n".join([f"# {literal(run.resolve().name)}", *body]) + "\n"


# ---- sections


def model_lines(run: Path, config: Config) -> Iterator[str]:
    step, arrays = evaluated(run)
    yield f"- Class: {literal(config['model']['type'])}"
    yield f"- Loss: {literal(config['loss']['type'])}"
    count = sum(math.prod(shape) for shape in arrays.values())
    yield f"- Parameters: {f'{count:,}' if arrays else NONE}"
    yield f"- Checkpoint: {f'step {step:,}' if arrays else 'none'}"
    start = config.get("init", {}).get("path")
    yield f"- First parameters: {f'from {literal(start)}' if start else 'drawn from the seed'}"
    for name in STAGES:
        if held := config.get(name, {}).get("run"):
            yield f"- Its part `{name}`, held still: from {literal(held)}"


def evaluated(run: Path) -> tuple[int, dict[str, Sequence[int]]]:
    """Step of the checkpoint that figures are of, and the shapes of its parameters.

    It is the first of `checkpoint.preferred` that says what it holds.
    """
    for step in preferred(run):
        info = run / "checkpoints" / str(step) / "info" / "metadata"
        try:
            arrays = json.loads(info.read_text())["arrays"]
        except (OSError, ValueError, KeyError):
            continue
        shapes = {name: form[1] for name, form in arrays.items()}
        return step, {n: s for n, s in shapes.items() if n.startswith("params/")}
    return 0, {}


def data_lines(config: Config) -> Iterator[str]:
    data = config["data"]
    yield f"- Set: {literal(data['name'])}{synthetic(data['name'])}"
    yield f"- Learnt from the split {literal(data['train'])}, tested on {literal(data['test'])}"
    if data.get("images"):
        yield f"- Files from: {', '.join(map(literal, data['images']))}"
    yield f"- Tokenizer: {literal(data['tokenizer'])}"


def synthetic(name: str) -> str:
    """What is said of the sets that the library makes."""
    what = None if names_rows(name) else SYNTHETIC.get(name.partition("/")[0])
    return f": {what}, made by rule; no person, and no one's work, is in it" if what else ""


def training_lines(run: Path, config: Config) -> Iterator[str]:
    lines = read_metrics(run)
    done = max((int(line["step"]) for line in lines), default=0)
    optim = config["optim"]
    yield f"- Steps: {done:,} of {config['steps']:,}, {config['data']['batch']} examples each"
    yield f"- Optimiser: {optim['name']}, learning rate {optim['lr']:g}, {optim['schedule']}"
    yield f"- Seed: {config['seed']}; precision: {config['precision']}"
    for name in ("loss", "test/loss"):
        last = next((line[name] for line in reversed(lines) if name in line), None)
        yield f"- Last {name}: {NONE if last is None else f'{last:.4g}'}"
    for start in read_starts(run)[-1:]:
        versions = start.get("versions", {})
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield f"- Last started {start.get('time')}, Python {start.get('python')}: {named}"
        commit = start.get("git", {}).get("commit")
        changed = ", with changes" if start.get("git", {}).get("changed") else ""
        yield f"- Source: {f'commit {commit}{changed}' if commit else 'no commit known'}"
        yield f"- Command: {literal(' '.join(start.get('command', ())))}"


def read_starts(run: Path) -> list[dict[str, Any]]:
    try:
        starts = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):
        return []
    return starts if isinstance(starts, list) else []


def figure_lines(run: Path) -> Iterator[str]:
    files = sorted(run.glob("evaluation*.json"))
    if not files:
        yield NONE.capitalize() + "."
        return
    yield f"By {literal(f'python experiments/evaluate.py --run {run.name}')}, beside which"
    yield "`--split` names a split; 95 % intervals by bootstrap over examples."
    for path in files:
        split = split_of(path, "evaluation")
        asked = load_asked(run, split)
        yield f"\nSplit {literal(split)}{f', asked with {literal(asked)}' if asked else ''}\n"
        yield "| figure | value | 95 % | n |"
        yield "|---|---|---|---|"
        yield from (row(name, figure) for name, figure in load_figures(path).items())


def row(name: str, figure: Figure) -> str:
    title = f"{TITLES[name]} ({literal(name)})" if name in TITLES else literal(name)
    return f"| {title} | {number(figure.value)} | {interval(figure)} | {figure.n:,} |"


def use_lines(config: Config) -> Iterator[str]:
    name = config["data"]["name"]
    if synthetic(name):
        yield "Research and teaching: its data are made by rule, and so is all that it knows."
    else:
        yield f"Data like {literal(name)}. The run does not say what else it was meant for."


def limit_lines(run: Path, config: Config) -> Iterator[str]:
    tested = [split_of(path, "evaluation") for path in sorted(run.glob("evaluation*.json"))]
    yield f"- Figures hold for: {', '.join(map(literal, tested)) or 'nothing: ' + NONE}"
    yield f"- On data other than {literal(config['data']['name'])}: {NONE}"
    yield f"- Spread over seeds: {NONE}"
    yield f"- Harm, bias, and behaviour on prompts meant to mislead: {NONE}"


def mark_lines(config: Config) -> Iterator[str]:
    """What files of a model that draws are given."""
    if config["model"]["type"].rpartition(".")[2] not in DRAW:
        yield "The model draws no pictures. Its texts are not marked."
        return
    yield "`experiments/generate.py` gives"
    yield ""
    yield "- the picture an invisible mark (`mlm_jax.watermark`), unless told `--no-watermark`"
    yield f"- the file software, run, prompt, seed, settings, and {literal(SOURCE)}"
    yield "  (`mlm_jax.provenance`)"
    yield "- no picture to prompts with words of a list (`mlm_jax.prompts`)"


def literal(value: Any) -> str:
    """As code, whatever it holds: on one line, and no mark of Markdown in it counts."""
    text = " ".join(str(value).replace("`", "'").replace("|", "/").split())
    return f"`{text}`" if text else "(empty)"
