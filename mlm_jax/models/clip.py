"""CLIP and SigLIP: a picture and a text as two vectors that meet (2103.00020, 2303.15343)."""

import math
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.encoders import ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.layers import Pool, Tokens
from mlm_jax.models.sense import sense_of

MOST = 100.0
"""The largest scale of logits in training, for its stability (2103.00020, section 2.5)."""


class Clip(nn.Module):
    """Image encoder, text encoder -> unit vectors, and how their products become logits.

    Clips are seen by `video`; one of it and `image` is None. What it sees is called a picture below
    either way.

    `kind` "clip" projects both sides to `width` without bias. "siglip" takes the picture as it was
    pooled, projects the text with a bias, and has a bias for the logits; `width` is then the
    width of the picture.

    The text is read at the `end`: its last real word; the last "place", which of a batch is that of
    a text of full length, filled up with `end_id` and without a mask; the largest id; or the first
    word that is `end_id`.
    """

    image: ImageEncoder | None = field(default_factory=lambda: ImageEncoder(class_token=True))
    text: TextEncoder = field(default_factory=lambda: TextEncoder(causal=True))
    pool: Pool = field(default_factory=lambda: Pool("first"))
    width: int = 128
    kind: Literal["clip", "siglip"] = "clip"
    end: Literal["word", "place", "largest", "id"] = "word"
    end_id: int = 2
    video: VideoEncoder | None = None

    @property
    def sense(self) -> str:
        """The key of a batch that is seen. Raises: ValueError."""
        return sense_of(self)

    @property
    def eyes(self) -> ImageEncoder | VideoEncoder:
        eyes: ImageEncoder | VideoEncoder = getattr(self, self.sense)
        return eyes

    def setup(self) -> None:
        siglip = self.kind == "siglip"
        if not siglip:
            self.image_out = nn.Dense(self.width, use_bias=False)
        self.text_out = nn.Dense(self.width, use_bias=siglip)
        scale = math.log(10) if siglip else math.log(1 / 0.07)  # where the papers start
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(scale), ())
        if siglip:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "image" (B, width), "text" (R, width) of the captions; "scale" and "bias" of logits.

        And "wrong" (R, width), of the captions of `also`, which are, where the batch has them.
        """
        also = batch.get("also")
        wrong = {"wrong": self.read_captions(also, train=train)} if also else {}
        return wrong | {
            "image": self.see(batch[self.sense], train=train),
            "text": self.read_captions(batch, train=train),
            **self.logits(train=train),
        }

    def see(self, shown: Array, *, train: bool = False) -> Float[Array, "B D"]:
        pooled = self.pool(self.eyes(shown, train=train))
        return unit(pooled if self.kind == "siglip" else self.image_out(pooled))

    def read_captions(
        self, batch: Mapping[str, Any], *, train: bool = False
    ) -> Float[Array, "R D"]:
        """As `read`, those of a batch, filled up where the end is a place."""
        ids, mask = batch["target"], batch["target_mask"]
        if self.end == "place":
            ids, mask = self._full(ids, mask)
        return self.read(ids, mask, train=train)

    def read(
        self, ids: Int[Array, "R N"], mask: Bool[Array, "R N"], *, train: bool = False
    ) -> Float[Array, "R D"]:
        tokens = self.text(ids, mask, train=train)
        return unit(self.text_out(self._at_end(ids, tokens)))

    def logits(self, *, train: bool = False) -> dict[str, Float[Array, ""]]:
        """Logits are scale * image @ text.T + bias; CLIP's scale is at most MOST in training."""
        siglip = self.kind == "siglip"
        bias = self.logit_bias if siglip else jnp.zeros(())
        scale, bias = (x.astype(jnp.float32) for x in (self.logit_scale, bias))
        scale = jnp.exp(scale)
        return {"scale": at_most(scale, MOST) if train and not siglip else scale, "bias": bias}

    def _full(
        self, ids: Int[Array, "R M"], mask: Bool[Array, "R M"]
    ) -> tuple[Int[Array, "R N"], Bool[Array, "R N"]]:
        room = [(0, 0), (0, self.text.length - ids.shape[1])]
        ids = jnp.pad(jnp.where(mask, ids, self.end_id), room, constant_values=self.end_id)
        return ids, jnp.ones_like(ids, bool)

    def _at_end(self, ids: Int[Array, "R N"], tokens: Tokens) -> Float[Array, "R D"]:
        place = {
            "word": lambda: jnp.maximum(tokens.mask.sum(1) - 1, 0),
            "place": lambda: jnp.full(len(ids), ids.shape[1] - 1),
            "largest": lambda: ids.argmax(1),
            "id": lambda: (ids == self.end_id).argmax(1),
        }[self.end]()
        return jnp.take_along_axis(tokens.x, place[:, None, None], axis=1)[:, 0]


def unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Of length 1, float32."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Float[Array, ""], most: float) -> Float[Array, ""]:
    """`x` or `most`; from there on only a gradient that leads down goes through.

    All of it would let `x` rise out of sight, and none would hold it there for ever.
    """
    return jnp.minimum(x, most)


def _forward(x: Float[Array, ""], most: float) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    return at_most(x, most), x >= most


def _backward(most: float, reached: Bool[Array, ""], g: Float[Array, ""]) -> tuple[Array]:
    return (jnp.where(reached, jnp.maximum(g, 0), g),)


at_most.defvjp(_forward, _backward)
