"""Runs that build on runs: a model that was trained before becomes a part of the next, held still.

What is taken is stored with the new run, config and parameters, so that it stands alone: the
earlier run may be gone afterwards.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlm_jax.checkpoint import restore_params
from mlm_jax.config import Config, UserError, read
from mlm_jax.data import tokenizers
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.run import begun

STAGES = ("codes", "clip", "prior")
"""Keys of `Config` that name a run, and the fields of the model that it becomes."""


def resolve(config: Config, path: Path) -> Config:
    """`config` with the models of its stages in their places; `path` is the run itself.

    A run that has begun has them already. Raises: UserError where a stage is no run, or its
    model is of another kind.
    """
    saved = read(path) if (path / "config.json").exists() and begun(path) else None
    for name in STAGES:
        run = getattr(config, name).run
        if not run:
            continue
        part = getattr(config.model, name, None)
        if part is None:
            raise UserError(f"--{name}.run {run}: a {type(config.model).__name__} has no {name}")
        model = getattr(saved.model, name) if saved else model_of(name, run, type(part))
        freeze = tuple(dict.fromkeys((*config.optim.freeze, name)))
        config = replace(
            config,
            model=config.model.clone(**{name: model}, parent=None),
            optim=replace(config.optim, freeze=freeze),
        )
    return config


def model_of(name: str, run: str, kind: type) -> Any:
    """The model of a stage. Raises: UserError."""
    try:
        model = read(Path(run)).model
    except UserError as error:
        raise UserError(f"--{name}.run: {error}; it is trained before this one") from error
    if not isinstance(model, kind):
        raise UserError(f"--{name}.run {run} is a {type(model).__name__}, no {kind.__name__}")
    return model


def parameters(config: Config) -> dict[str, Any]:
    """Parameters of the stages, by the field that they are of. Raises: UserError."""
    runs = {name: getattr(config, name).run for name in STAGES}
    return {name: restore_params(Path(run))[1] for name, run in runs.items() if run}


def tokenizer(config: Config) -> Tokenizer | None:
    """That of the stages that read words, whose ids a run has to share. Raises: UserError."""
    files = [Path(getattr(config, name).run) / "tokenizer.json" for name in ("clip", "prior")]
    found = [file for file in files if file.parent != Path() and file.exists()]
    return tokenizers.load(found[0]) if found else None
