"""Evaluating: what a trained run has learnt, measured over a whole split, with intervals."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlm_jax.ablation import pictures
from mlm_jax.config import UserError
from mlm_jax.data import sources
from mlm_jax.data.own import is_own, tells_splits
from mlm_jax.data.records import Source
from mlm_jax.evaluators import (
    Measured,
    classes,
    codes,
    drawings,
    inception,
    prior,
    probe,
    retrieval,
    spans,
    texts,
    words,
)
from mlm_jax.losses import Classes, Rebuilt, Spans
from mlm_jax.metrics import Figure
from mlm_jax.models.bert import Bert
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.clip import Clip
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.mae import Mae
from mlm_jax.models.painter import Painter
from mlm_jax.models.prior import AutoregressivePrior, DiffusionPrior
from mlm_jax.models.unclip import Unclip
from mlm_jax.models.video_mae import VideoMae
from mlm_jax.report import saved_name, write_report
from mlm_jax.run import write
from mlm_jax.trained import Trained, open_trained

Evaluate = Callable[[Trained, Source, int | None], Measured]


def evaluate(
    run: Path,
    split: str = "test",
    *,
    limit: int | None = None,
    name: str = "",
    images: tuple[str, ...] = (),
    rank: bool = False,
    views: int = 1,
    features: Path | None = None,
    clip: Path | None = None,
    among: int = 1,
    guidance: float | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    told: str | None = None,
) -> dict[str, Figure]:
    """Evaluate a run, write evaluation.json and the report into it, and give back the figures.

    `split` "test" is the run's own data.test; any other is a split of its data, in TFDS syntax.
    `name` is another data set (data.name), with the places of its files in `images`, of which
    "test" is then a split like any other, or all of it where its rows tell no split; baselines are
    still those of what the run learnt from, and the files are called after `name` (`called`).
    `limit`: that many pictures, evenly spread. `rank` adds caption/recall@k: the place of the
    right caption among all distinct captions of the split, by log-probability. `views`: how many
    of each picture, clip or sound are looked at to tell its class (`classes.evaluate`). `features`
    is a run of CLIP, or a file of Inception-v3, by whose vectors drawn pictures are measured, and
    `clip` a run of CLIP that keeps one
    `among` so many drawn for each caption (`drawings.evaluate`). `guidance`, `sampler`, `steps` and
    `told` say how they are drawn (`Drawing`). Raises: UserError.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least 1")
    trained = open_trained(run)
    own = data = trained.config.data
    if name:
        data = replace(data, name=name, images=images)
        data = replace(data, test="all" if is_own(name) and not tells_splits(data) else "test")
    data = replace(data, test=data.test if split == "test" else split)
    trained = trained._replace(config=replace(trained.config, data=data), own=own)
    source = sources.open_source(data, data.test, trained.take.needs)
    further: dict[str, Any] = {
        "rank": rank,
        "views": views,
        "features": features,
        "clip": clip,
        "among": among,
        "guidance": guidance,
        "sampler": sampler,
        "steps": steps,
        "told": told,
    }
    further = {key: value for key, value in further.items() if value != FURTHER[key][1]}
    measured = measure_of(trained, further)(trained, source, limit)
    asked = as_options(further if limit is None else {"limit": limit, **further})
    measured = measured._replace(details={"asked": asked, **measured.details})
    save(trained.path, called(split, name), measured, (data.name, data.test))
    write_report(run)
    sources.say_left_out(source)
    return measured.figures


def called(split: str, name: str = "") -> str:
    """What files and report call a split: one of other data by their name as well."""
    if not name:
        return split
    return f"data {name}" if split == "test" else f"{split} of {name}"


def measure_of(trained: Trained, further: Mapping[str, Any]) -> Evaluate:
    """Raises: UserError for what its model is not asked."""
    config = trained.config
    found = EVALUATORS.get(type(config.loss)) or EVALUATORS.get(type(config.model), texts.evaluate)
    given: dict[str, Any] = {}
    for name, value in further.items():
        asked, _, what = FURTHER[name]
        if found is not asked:
            raise UserError(f"--{name} is for {what}: this run is trained for something else")
        if name == "features" and value.is_file():
            given[name] = inception.load(value)
        else:
            given[name] = open_trained(value) if isinstance(value, Path) else value
    return partial(found, **given)


EVALUATORS: dict[type, Evaluate] = {
    Clip: retrieval.evaluate,
    Bert: words.fill,
    Gpt: words.write,
    Classes: classes.evaluate,
    Spans: spans.evaluate,
    Rebuilt: codes.evaluate,
    Dalle: drawings.evaluate,
    Painter: drawings.evaluate,
    Unclip: drawings.evaluate,
    Cascade: drawings.evaluate,
    DiffusionPrior: prior.evaluate,
    AutoregressivePrior: prior.evaluate,
    Mae: probe.evaluate,
    VideoMae: probe.evaluate,
}
"""By the loss, or else the model: what is measured instead of captions and answers."""

FURTHER: dict[str, tuple[Evaluate, Any, str]] = {
    "rank": (texts.evaluate, False, "captions"),
    "views": (classes.evaluate, 1, "classes"),
    **dict.fromkeys(
        ("features", "clip", "guidance", "sampler", "steps", "told"),
        (drawings.evaluate, None, "pictures that are drawn"),
    ),
    "among": (drawings.evaluate, 1, "pictures that are drawn"),
}
"""What only some are asked: by which evaluator, what stands for not asked, and for what it is."""


def as_options(given: Mapping[str, Any]) -> str:
    """As they are typed behind `evaluate.py`."""
    words: list[str] = []
    for name, value in given.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def save(run: Path, split: str, measured: Measured, source: pictures.Source) -> None:
    """evaluation.json, examples.json, counts.json; of another split evaluation_novel.json, ..."""
    examples = {"shown": [], "wrong": [], **measured.details}
    try:
        write(run / saved_name("evaluation", split), as_json(measured.figures))
        write(run / saved_name("examples", split), json.dumps(examples))
        if counts := measured.counts:
            pictures.save(run, split, [*counts], [*counts.values()], source)
    except OSError as error:
        raise UserError(f"cannot write to {run}: {error.strerror}") from error


def as_json(figures: Mapping[str, Figure]) -> str:
    """One flat object: name -> {value, low, high, n}."""
    tree = {name: asdict(figure) for name, figure in figures.items()}
    return json.dumps(tree, indent=2, allow_nan=False) + "\n"
