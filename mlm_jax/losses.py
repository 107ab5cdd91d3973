"""Losses: small frozen dataclasses `(outputs, batch) -> (scalar, metrics)`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Outputs = Mapping[str, Any]
Batch = Mapping[str, Any]
Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class Loss(Protocol):
    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]: ...


@dataclass(frozen=True)
class Caption:
    """Next-token cross-entropy in nats, the mean over the real tokens of `target` after the first.

    Captions and answers are one language to it: the tokens of the batch and of its `also` count
    alike. `smoothing` is in [0, 1). Metrics: `accuracy`, the share of tokens that the largest logit
    names, and `weight`, the number of tokens, by which the parts of an accumulated batch count.
    """

    smoothing: float = 0.0

    def __call__(self, outputs: Outputs, batch: Batch) -> tuple[Float[Array, ""], Metrics]:
        sums = self._sums(outputs["logits"], batch)
        if "also" in batch:
            sums = jax.tree.map(jnp.add, sums, self._sums(outputs["also"], batch["also"]))
        nats, right, tokens = sums
        tokens = jnp.maximum(tokens, 1)
        return nats / tokens, {"accuracy": right / tokens, "weight": tokens}

    def _sums(
        self, logits: Float[Array, "R M V"], rows: Batch
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Nats, tokens that are right, tokens."""
        target = rows["target"][:, 1:]
        real = jnp.asarray(rows["target_mask"][:, 1:], logits.dtype)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        if self.smoothing > 0:
            even = optax.softmax_cross_entropy(logits, jnp.ones_like(logits) / logits.shape[-1])
            nats = (1 - self.smoothing) * nats + self.smoothing * even
        right = (logits.argmax(-1) == target).astype(logits.dtype)
        return (nats * real).sum(), (right * real).sum(), real.sum()
