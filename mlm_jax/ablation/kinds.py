"""Which figures can be made again of what a run has counted by picture, by its kind."""

from mlm_jax.evaluators import classes, texts
from mlm_jax.metrics import Statistic


def statistics(columns: set[str]) -> dict[str, Statistic]:
    """By name; `columns` are those that were counted."""
    return (classes if "common" in columns else texts).statistics(columns)
