"""ViT: an image encoder and a class (arXiv:2010.11929); DeiT's second head (arXiv:2012.12877)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Pool


class Vit(nn.Module):
    """Image encoder -> pool -> logits of `labels` classes, float32 (B, labels).

    Of no labels there is no head, and what was pooled is given as "pooled" (B, D).

    With `taught` a second head reads the distillation token, in "taught"; "logits" are then the
    mean of both (DeiT, section 4), and "own" those of the first.
    """

    image: ImageEncoder = field(default_factory=lambda: ImageEncoder(class_token=True))
    pool: Pool = field(default_factory=lambda: Pool("first"))
    labels: int = 10
    taught: bool = False

    def setup(self) -> None:
        if self.taught and not self.image.distillation_token:
            raise ValueError("taught: image.distillation_token is what the second head reads")
        if self.labels:
            self.head = nn.Dense(self.labels)
        if self.taught:
            self.taught_head = nn.Dense(self.labels)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        tokens = self.image(batch["image"], train=train)
        pooled = self.pool(tokens)
        if not self.labels:
            return {"pooled": pooled}
        own = self.head(pooled).astype(jnp.float32)
        if not self.taught:
            return {"logits": own}
        taught = self.taught_head(tokens.x[:, len(self.image.extra) - 1]).astype(jnp.float32)
        return {"logits": (own + taught) / 2, "own": own, "taught": taught}
