"""DALL-E 2: from a caption to CLIP's vector of a picture, and on to the picture (2204.06125)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mlm_jax.decoders.diffusion import How, Schedule, guided, sample
from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Tokens, Transformer
from mlm_jax.layers.embed import timesteps
from mlm_jax.layers.tokens import for_rows
from mlm_jax.models.clip import Clip, unit
from mlm_jax.models.painter import Painter


class PriorNet(nn.Module):
    """What a noisy vector was, by the caption: words, text vector, time, noisy vector and a place
    for the answer are the tokens of one transformer (section 2.2), which all look at each other."""

    body: Transformer = field(default_factory=Transformer)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "R E"],
        t: Float[Array, "R"],
        words: Tokens,
        text: Float[Array, "R E"],
        hidden: Bool[Array, "R"],
        *,
        train: bool = False,
    ) -> Float[Array, "R E"]:
        """Rows that are `hidden` are told nothing."""
        width = self.body.width
        near = nn.initializers.normal(0.02)
        nothing = self.param("nothing_token", near, (width,))
        asked = self.param("asked_token", near, (width,))

        def single(name: str, y: Array) -> Array:
            return nn.Dense(width, name=name)(y)[:, None]

        told = jnp.concatenate(
            [nn.Dense(width, name="words")(words.x), single("text", text)], axis=1
        )
        told = jnp.where(hidden[:, None, None], nothing.astype(told.dtype), told)
        rest = jnp.concatenate(
            [
                single("time", timesteps(t, width).astype(x.dtype)),
                single("noisy", x),
                jnp.broadcast_to(asked.astype(told.dtype), (len(x), 1, width)),
            ],
            axis=1,
        )
        mask = jnp.concatenate([words.mask, jnp.ones((len(x), 4), bool)], axis=1)
        read = self.body(Tokens(jnp.concatenate([told, rest], axis=1), mask), train=train)
        return nn.Dense(x.shape[-1], name="out")(read.x[:, -1])


class Prior(nn.Module):
    """A caption -> the vector that `clip`, which is held still, would have of its picture.

    The vector is diffused with variance 1 an axis, and what was clean is predicted (section 2.2).
    In training a share `dropped` of the captions is hidden (arXiv:2207.12598).
    """

    clip: Clip = field(default_factory=Clip)
    net: PriorNet = field(default_factory=PriorNet)
    schedule: Schedule = field(default_factory=Schedule)
    dropped: float = 0.1

    @property
    def image(self) -> ImageEncoder:
        return self.clip.image

    @property
    def words(self) -> int:
        """Most words of a tokenizer: as many as CLIP knows."""
        return self.clip.text.vocab

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "predicted" and "wanted" (R, E), and of each row (R,) the "weight" and "logsnr"."""
        if self.is_initializing():
            self.clip(batch)
        rows = len(batch["target"])
        clean = for_rows(rows, self.see(batch["image"])) * self._scale
        key = self.make_rng("mask") if train else jax.random.key(0)
        keys = jax.random.split(key, 3)
        t = self.schedule.draw(keys[0], rows)
        alpha, sigma = self.schedule.at(t, clean)
        noisy = alpha * clean + sigma * jax.random.normal(keys[1], clean.shape)
        hidden = jnp.zeros(rows, bool)
        if train and self.dropped:
            hidden = jax.random.uniform(keys[2], (rows,)) < self.dropped
        return {
            "predicted": self.net(noisy, t, *self._told(batch), hidden, train=train),
            "wanted": clean,
            "weight": jnp.ones(rows),
            "logsnr": self.schedule.logsnr(t),
        }

    @property
    def _scale(self) -> float:
        return float(self.clip.width) ** 0.5

    def see(self, image: Array) -> Float[Array, "B E"]:
        return jax.lax.stop_gradient(self.clip.see(image))

    def _told(self, batch: Mapping[str, Any]) -> tuple[Tokens, Float[Array, "R E"]]:
        words = self.clip.text(batch["target"], batch["target_mask"])
        told = words, self.read(batch) * self._scale
        return jax.lax.stop_gradient(told)

    def read(self, batch: Mapping[str, Any]) -> Float[Array, "R E"]:
        """CLIP's vector of each caption: what a painter is told where there is no prior."""
        return self.clip.read(batch["target"], batch["target_mask"])

    def imagine(self, batch: Mapping[str, Any], how: How, key: Array) -> Float[Array, "R E"]:
        """Unit vectors of pictures that the captions might belong to."""
        words, text = self._told(batch)
        rows = len(text)
        module, variables = self.net.unbind()

        def ask(x: Array, t: Array) -> Array:
            both = len(x) // rows
            told = jax.tree.map(lambda y: jnp.concatenate([y] * both), (words, text))
            hidden = jnp.arange(len(x)) >= rows
            said: Any = module.apply(variables, x, t, *told, hidden)
            return said

        net = ask if how.guidance == 1 else guided(ask, how.guidance)
        first, later = jax.random.split(key)
        noise = jax.random.normal(first, text.shape)
        return unit(sample(net, self.schedule, noise, how, predicts="clean", key=later))


class Unclip(nn.Module):
    """A painter that is told CLIP's vector of the picture, and a prior that guesses it.

    The prior, its CLIP included, is an earlier run, held still.
    """

    prior: Prior = field(default_factory=Prior)
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
