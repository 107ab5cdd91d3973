"""MAE: an image encoder that learns from patches that were hidden (arXiv:2111.06377)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Positions, Transformer
from mlm_jax.layers.embed import patches
from mlm_jax.layers.tokens import every


class Mae(nn.Module):
    """The pixels of hidden patches from those that are seen.

        picture -> patches -> some hidden -> image encoder, of the rest alone
                -> decoder, with a learned token in each hidden place -> pixels of every patch

    The encoder works on a quarter of the patches, so that it may be large; the decoder is small and
    is thrown away after training (section 3).

    `target` "standardised": of a patch it paints what is left of its pixels less their mean, over
    their standard deviation; of photographs that gave better features (table 1d). "plain": the
    pixels, from 0 to 1. In the embedded world most patches are of a flat background, whose grain
    then counts for as much as the object: a linear probe of the features of mae_tiny was right for
    0.205 of 2,000 pictures after 1,200 steps, with plain pixels for 0.281.
    """

    image: ImageEncoder = field(default_factory=lambda: ImageEncoder(class_token=True))
    decoder: Transformer = field(default_factory=Transformer)
    hidden: float = 0.75
    target: Literal["standardised", "plain"] = "standardised"

    @nn.compact
    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "pixels" and what was "wanted" (B, N, patch * patch * 3), and which are "hidden" (B, N).

        Evaluation always hides the same patches.
        """
        self.image.require_whole()
        picture, patch = batch["image"], self.image.patch
        key = self.make_rng("mask") if train else jax.random.key(0)
        keep, hidden = self.hide(key, len(picture))
        seen = self.image(picture, keep=keep, train=train).x
        seen = nn.Dense(self.decoder.width, name="across")(seen)
        extra = len(self.image.extra)
        blank = self.param("mask_token", nn.initializers.normal(0.02), (self.decoder.width,))
        grid = put(seen[:, extra:], keep, jnp.broadcast_to(blank, (*hidden.shape, len(blank))))
        x = jnp.concatenate([seen[:, :extra], grid], axis=1)
        x = Positions(x.shape[1], self.image.grid, name="positions")(x)
        x = self.decoder(every(x), train=train).x[:, extra:]
        pixels = nn.Dense(3 * patch**2, name="pixels")(x).astype(jnp.float32)
        wanted = patches(picture.astype(jnp.float32) / 255, patch)
        if self.target == "standardised":
            wanted = standardised(wanted)
        return {"pixels": pixels, "wanted": wanted, "hidden": hidden}

    def hide(self, key: Array, count: int) -> tuple[Int[Array, "B K"], Bool[Array, "B N"]]:
        """For each of `count` pictures the patches that are seen, in order, and which are not."""
        rows, columns = self.image.grid
        number = rows * columns
        shown = number - round(self.hidden * number)
        if not 0 < shown < number:
            raise ValueError(f"{self.hidden} of {number} patches hidden: some, and not all")
        order = jax.random.uniform(key, (count, number)).argsort(axis=1)
        keep = jnp.sort(order[:, :shown], axis=1)
        hidden = put(jnp.zeros(keep.shape, bool), keep, jnp.ones(order.shape, bool))
        return keep, hidden


def put(
    some: Float[Array, "B K *D"] | Bool[Array, "B K"],
    places: Int[Array, "B K"],
    whole: Float[Array, "B N *D"] | Bool[Array, "B N"],
) -> Float[Array, "B N *D"] | Bool[Array, "B N"]:
    """`whole` with `some` at `places` of each row."""
    return jax.vmap(lambda one, at, all_: all_.at[at].set(one))(some, places, whole)


def standardised(parts: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    """Each patch less its mean, over its standard deviation; one of a single tone becomes 0."""
    centred = parts - parts.mean(-1, keepdims=True)
    return centred / jnp.sqrt(parts.var(-1, ddof=1, keepdims=True) + 1e-6)
