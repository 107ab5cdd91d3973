"""Runs that build on runs: a model that was trained before becomes a part of the next, held still.

What is taken is stored with the new run, config and parameters, so that it stands alone: the
earlier run may be gone afterwards.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jax
import numpy as np

from mlm_jax.checkpoint import restore_params
from mlm_jax.config import Config, UserError, parts, read
from mlm_jax.data import tokenizers
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.run import begun

STAGES = ("codes", "clip", "prior", "base")
"""Keys of `Config` that name a run, and fields of the model, or of its painter, that it becomes."""


def place_of(model: Any, name: str) -> tuple[str, ...]:
    """The fields that lead to a stage; () where the model has none of that name."""
    own = parts(model)
    if own.get(name) is not None:
        return (name,)
    inner = own.get("painter")
    return () if inner is None or parts(inner).get(name) is None else ("painter", name)


def put(model: Any, place: Sequence[str], part: Any) -> Any:
    """`model` with another module at `place`."""
    first, *rest = place
    if rest:
        part = put(getattr(model, first), rest, part)
    return model.clone(**{first: part}, parent=None)


def put_params(params: dict[str, Any], place: Sequence[str], part: Any) -> dict[str, Any]:
    """The same with parameters."""
    first, *rest = place
    if rest:
        part = put_params(params[first], rest, part)
    return {**params, first: part}


def resolve(config: Config, path: Path) -> Config:
    """`config` with the models of its stages in their places, all held still; `path` is the run.

    A run that has begun has them already. A stage that no run is named for learns nothing either,
    of which a new run warns. Raises: UserError where a stage is no run, or its model is of another
    kind.
    """
    saved = read(path) if (path / "config.json").exists() and begun(path) else None
    for name in STAGES:
        run, place = getattr(config, name).run, place_of(config.model, name)
        if run and not place:
            raise UserError(f"--{name}.run {run}: a {type(config.model).__name__} has no {name}")
        if run:
            kinds = kinds_of(reduce(getattr, place[:-1], config.model), name)
            model = reduce(getattr, place, saved.model) if saved else model_of(name, run, kinds)
            config = replace(config, model=put(config.model, place, model))
        elif place and not saved and not config.init.path:  # what comes from there is listed
            print(
                f"WARNING: model.{'.'.join(place)} is drawn from the seed and learns nothing:"
                f" --{name}.run names a run that has learnt it",
                file=sys.stderr,
            )
        if place and (not saved or "/".join(place) in saved.optim.freeze):
            freeze = tuple(dict.fromkeys((*config.optim.freeze, "/".join(place))))
            config = replace(config, optim=replace(config.optim, freeze=freeze))
    return config


def kinds_of(owner: Any, name: str) -> tuple[type, ...]:
    """What a field may hold: one kind of prior may stand where the config has another."""
    hint = get_type_hints(type(owner))[name]
    return get_args(hint) or (hint,)


def model_of(name: str, run: str, kinds: tuple[type, ...]) -> Any:
    """The model of a stage. Raises: UserError."""
    try:
        model = read(Path(run)).model
    except UserError as error:
        raise UserError(f"--{name}.run: {error}; it is trained before this one") from error
    if not isinstance(model, kinds):
        kind = type(model).__name__
        raise UserError(f"--{name}.run {run} is a {kind}, no {kinds[0].__name__}")
    return model


def with_stages(config: Config, params: dict[str, Any]) -> dict[str, Any]:
    """`params` with those of the stages in their places. Raises: UserError."""
    for name in STAGES:
        if run := getattr(config, name).run:
            _, part = restore_params(Path(run))
            # held by no device, as the others may lie on many
            part = jax.tree.map(np.asarray, part)
            params = put_params(params, place_of(config.model, name), part)
    return params


def tokenizer(config: Config) -> Tokenizer | None:
    """That of the stages that read words, whose ids a run has to share. Raises: UserError."""
    files = [
        Path(getattr(config, name).run) / "tokenizer.json" for name in ("clip", "prior", "base")
    ]
    found = [file for file in files if file.parent != Path() and file.exists()]
    return tokenizers.load(found[0]) if found else None
