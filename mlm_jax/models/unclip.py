"""DALL-E 2: from a caption to CLIP's vector of a picture, and on to the picture (2204.06125)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.models.clip import unit
from mlm_jax.models.painter import Painter
from mlm_jax.models.prior import DiffusionPrior, Prior


class Unclip(nn.Module):
    """A painter that is told CLIP's vector of the picture, and a prior that guesses it.

    The prior, its CLIP included, is an earlier run, held still.
    """

    prior: Prior = field(default_factory=DiffusionPrior)
    painter: Painter = field(default_factory=lambda: Painter(text=None, embedding=128))

    @property
    def image(self) -> Any:
        return self.painter.image

    @property
    def sense(self) -> str:
        return self.painter.sense

    @property
    def words(self) -> int:
        return self.prior.words

    def setup(self) -> None:
        eyes, canvas = self.prior.image.size, self.painter.canvas.size
        if eyes != canvas:
            raise ValueError(f"CLIP sees pictures of {eyes}, the painter paints {canvas}")
        width, embedding = self.prior.clip.width, self.painter.embedding
        if width != embedding:
            raise ValueError(f"CLIP's vectors are {width} wide, painter.embedding is {embedding}")
        if self.sense == "video":
            raise ValueError("painter.video: CLIP's vectors are of pictures, it must be None")
        if self.painter.enlarges > 1:
            raise ValueError(f"painter.enlarges is {self.painter.enlarges}: there is no small one")

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """What `Painter` gives."""
        if self.is_initializing():
            self.prior(batch)
        told = {**batch, "embedding": self.prior.see(batch["image"])}
        said: dict[str, Array] = self.painter(told, train=train)
        return said


def between(
    one: Float[Array, "#B E"], other: Float[Array, "#B E"], share: Float[Array, "B"]
) -> Float[Array, "B E"]:
    """Unit vectors on the shortest way from one to the other, `share` of it gone (section 3.2)."""
    angle = jnp.arccos(jnp.clip((one * other).sum(-1), -1, 1))[:, None]
    left, right = jnp.sin((1 - share[:, None]) * angle), jnp.sin(share[:, None] * angle)
    straight = (1 - share[:, None]) * one + share[:, None] * other
    turned = (left * one + right * other) / jnp.maximum(jnp.sin(angle), 1e-6)
    return unit(jnp.where(angle < 1e-3, straight, turned))
