"""Audio: what is heard (an audio encoder and a head)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from mlm_jax.encoders import AudioEncoder
from mlm_jax.layers import Norm, Pool
from mlm_jax.layers.tokens import every


class Audio(nn.Module):
    """Audio encoder -> pool -> logits of `labels` classes, float32 (B, labels).

    `pool` reads the learned tokens where there are any, and else all. `norm_eps` is that of a norm
    before the head (AST); 0: none.
    """

    audio: AudioEncoder = field(default_factory=AudioEncoder)
    pool: Pool = field(default_factory=lambda: Pool("mean"))
    norm_eps: float = 0.0
    labels: int = 10

    @nn.compact
    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        tokens = self.audio(batch["audio"], batch.get("audio_length"), train=train)
        extra = len(self.audio.extra)
        pooled = self.pool(every(tokens.x[:, :extra]) if extra else tokens)
        if self.norm_eps:
            pooled = Norm(eps=self.norm_eps, name="norm")(pooled)
        return {"logits": nn.Dense(self.labels, name="head")(pooled).astype(jnp.float32)}
