"""What is measured of models that do not caption: each file has `evaluate`, for its own kind.

Captions and answers are measured in `mlm_jax.evaluate`; `pictures` measures features, of whatever
network.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlm_jax.metrics import Figure


class Measured(NamedTuple):
    """Figures for evaluation.json, and what else the report shows (`mlm_jax.report`)."""

    figures: dict[str, Figure]
    details: Mapping[str, Any] = {}
