"""What is measured of a model: each file has `evaluate`, for its own kind.

`texts` measures captions and answers; `pictures` features, of whatever network.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlm_jax.config import Config
from mlm_jax.metrics import Figure


class Measured(NamedTuple):
    """Figures for evaluation.json, and what else the report shows (`mlm_jax.report`).

    `counts`: what the figures are made of, picture by picture, for comparisons of runs.
    """

    figures: dict[str, Figure]
    details: Mapping[str, Any] = {}
    counts: Mapping[int, Mapping[str, float]] = {}


SHOWN_KEYS = ("image", "video", "audio", "audio_length")
"""Arrays of a batch that are what is seen and heard."""


def at_once(config: Config, most: int) -> int:
    """How many rows are evaluated at a time: `most`, and no more than training held at a time."""
    return max(1, min(most, config.data.batch // config.optim.accumulate))
