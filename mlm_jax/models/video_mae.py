"""VideoMAE: a video encoder that learns from tubes that were hidden (arXiv:2203.12602)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Transformer
from mlm_jax.layers.embed import sines
from mlm_jax.layers.tokens import every
from mlm_jax.models.mae import put


class VideoMae(nn.Module):
    """The pixels of hidden tubelets from those that are seen; see `Mae`, of which this is in time.

    What is hidden at one time is hidden at all (tube masking, section 3.3): of what hardly moves a
    tubelet could otherwise be copied from the next. So most can be hidden, 0.9 in the paper.
    `target` "standardised": of a tubelet each colour by itself, less its mean, over its standard
    deviation. "plain": the pixels, from 0 to 1.
    """

    video: VideoEncoder = field(default_factory=lambda: VideoEncoder(kind="joint"))
    decoder: Transformer = field(default_factory=Transformer)
    hidden: float = 0.9
    target: Literal["standardised", "plain"] = "standardised"

    @nn.compact
    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """ "pixels" and what was "wanted" (B, N, tube * patch * patch * 3), and which are "hidden"
        (B, N). Evaluation always hides the same tubes.
        """
        video = batch["video"]
        key = self.make_rng("mask") if train else jax.random.key(0)
        keep, hidden = self.hide(key, len(video))
        seen = self.video(video, keep=keep, train=train).x
        seen = nn.Dense(self.decoder.width, use_bias=False, name="across")(seen)
        blank = self.param("mask_token", nn.initializers.normal(0.02), (self.decoder.width,))
        extra = len(self.video.extra)
        x = put(seen[:, extra:], keep, jnp.broadcast_to(blank, (*hidden.shape, len(blank))))
        x = x + jnp.asarray(sines(x.shape[1], x.shape[2]), x.dtype)
        x = self.decoder(every(x), train=train).x
        wanted = tubelets(video.astype(jnp.float32) / 255, self.video.tube, self.video.patch)
        pixels = nn.Dense(wanted.shape[-1], name="pixels")(x).astype(jnp.float32)
        if self.target == "standardised":
            wanted = standardised(wanted, video.shape[-1])
        return {"pixels": pixels, "wanted": wanted, "hidden": hidden}

    def hide(self, key: Array, count: int) -> tuple[Int[Array, "B K"], Bool[Array, "B N"]]:
        """For each of `count` clips the tubelets that are seen, in order, and which are not."""
        times, rows, columns = self.video.grid
        places = rows * columns
        shown = places - round(self.hidden * places)
        if not 0 < shown < places:
            raise ValueError(f"{self.hidden} of {places} places hidden: some, and not all")
        order = jax.random.uniform(key, (count, places)).argsort(axis=1)
        seen = jnp.zeros((count, places), bool).at[jnp.arange(count)[:, None], order[:, :shown]]
        hidden = jnp.tile(~seen.set(True), (1, times))
        keep = jnp.argsort(hidden, axis=1, stable=True)[:, : shown * times]
        return keep.astype(jnp.int32), hidden


def tubelets(
    video: Float[Array, "B T height width C"], tube: int, patch: int
) -> Float[Array, "B N D"]:
    """Its tubelets, time first, each by frame, row, column and channel."""
    count, frames, height, width, channels = video.shape
    parts = video.reshape(
        count, frames // tube, tube, height // patch, patch, width // patch, patch, channels
    )
    grid = parts.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return grid.reshape(count, -1, tube * patch * patch * channels)


def standardised(parts: Float[Array, "B N D"], channels: int) -> Float[Array, "B N D"]:
    """Each channel of a tubelet less its mean, over its standard deviation."""
    pixels = parts.reshape(*parts.shape[:2], -1, channels)
    centred = pixels - pixels.mean(2, keepdims=True)
    return (centred / (pixels.std(2, ddof=1, keepdims=True) + 1e-6)).reshape(parts.shape)
