"""Detecting: what a model of events says at each time, to a list of events with scores."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mlm_jax.losses import middles

LEAST = 0.02  # score
MOST = 100  # events of a clip
OVERLAP = 0.5  # IoU from which the lower of two of a class is the same event


class Span(NamedTuple):
    """An event of class number `label` from `start` to `end`, as shares of the clip."""

    label: int
    start: float
    end: float
    score: float


@partial(jax.jit, static_argnames="model")
def detect(
    model: Any, params: Any, batch: dict[str, Array]
) -> tuple[Float[Array, "B T C"], Float[Array, "B T C 2"]]:
    """At each time, of each class, its probability and its span within the clip."""
    outputs = model.apply({"params": params}, batch)
    reach = outputs["reach"]
    middle = middles(reach.shape[1])[:, None]
    span = jnp.stack([middle - reach[..., 0], middle + reach[..., 1]], axis=-1)
    return jax.nn.sigmoid(outputs["present"]), jnp.clip(span, 0, 1)


def spans(
    score: Float[np.ndarray, "T C"], span: Float[np.ndarray, "T C 2"], most: int = MOST
) -> list[Span]:
    """The events of a clip, the surest first; of each class those that overlap once."""
    found: list[Span] = []
    for label in range(score.shape[1]):
        kept = np.flatnonzero(score[:, label] > LEAST)
        order = kept[np.argsort(-score[kept, label], kind="stable")]
        chosen: list[int] = []
        for at in order.tolist():
            others = span[chosen, label]
            if not len(others) or iou(span[at, label], others).max() < OVERLAP:
                chosen.append(at)
        for at in chosen:
            start, end = span[at, label].tolist()
            found.append(Span(label, start, end, float(score[at, label])))
    return sorted(found, key=lambda each: -each.score)[:most]


def iou(one: Float[np.ndarray, "2"], many: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N"]:
    """Of a span with each of many; 0 where both are empty."""
    shared = np.minimum(one[1], many[:, 1]) - np.maximum(one[0], many[:, 0])
    shared = np.maximum(shared, 0)
    either = (one[1] - one[0]) + (many[:, 1] - many[:, 0]) - shared
    return np.divide(shared, either, out=np.zeros(len(many)), where=either > 0)
