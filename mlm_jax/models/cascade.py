"""Large pictures: a model that draws small ones, and an upsampler (arXiv:2106.15282)."""

import sys
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mlm_jax.decoders.diffusion import How
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.painter import Canvas, Painter, smaller
from mlm_jax.models.unclip import Unclip


class Cascade(nn.Module):
    """`base`, an earlier run held still, draws; `upsampler`, which is trained, enlarges.

    The base is any model that draws, such as DALL-E 2, with its own stages (arXiv:2204.06125,
    section 2.1: upsamplers see no caption, but the smaller picture alone).
    """

    base: nn.Module = field(default_factory=Unclip)
    upsampler: Painter = field(
        default_factory=lambda: Painter(Canvas((96, 96)), text=None, enlarges=2)
    )

    @property
    def image(self) -> Any:
        return self.upsampler.image

    @property
    def video(self) -> Any:
        return self.upsampler.video

    @property
    def sense(self) -> str:
        return self.upsampler.sense

    @property
    def words(self) -> int:
        """Most words of a tokenizer: as many as the base knows; any number where it reads none."""
        text = getattr(self.base, "text", None)
        words: int = getattr(self.base, "words", sys.maxsize) if text is None else text.vocab
        return words

    def setup(self) -> None:
        """Raises: ValueError."""
        if self.upsampler.text is not None or self.upsampler.embedding:
            raise ValueError("the upsampler is told the smaller picture alone: text None")
        eyes: Any = getattr(self.base, self.sense, None)
        draws = isinstance(self.base, (Dalle, Painter, Unclip, Cascade))
        if eyes is None or not draws or getattr(self.base, "enlarges", 1) > 1:
            kind = type(self.base).__name__
            raise ValueError(f"the base is a {kind}: it draws no {self.sense} from words")
        *time, height, width, _ = eyes.takes.shape
        factor, large = self.upsampler.enlarges, self.upsampler.canvas.takes.shape
        if factor == 1 or (*time, factor * height, factor * width, 3) != large:
            raise ValueError(
                f"the base draws {eyes.takes.shape}, which enlarged {factor} times are not the"
                f" {large} of the upsampler"
            )

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """What `Painter` gives."""
        if self.is_initializing():
            if "target" not in batch:
                raise ValueError("data.captions is 0: the base is built by captions")
            self.base({**batch, self.sense: self.reduced(batch[self.sense])})
        said: dict[str, Array] = self.upsampler(batch, train=train)
        return said

    def reduced(self, pixels: UInt8[Array, "B *T H W 3"]) -> UInt8[Array, "B *T h w 3"]:
        """As small as the base draws."""
        small = smaller(jnp.asarray(pixels, jnp.float32), self.upsampler.enlarges)
        return small.round().astype(jnp.uint8)

    def enlarge(
        self,
        small: UInt8[Array, "B *T h w 3"],
        noise: Float[Array, "B *T H W 3"],
        how: How,
        key: Array,
    ) -> Float[Array, "B *T H W 3"]:
        """Pixels from 0 to 1 (see `Painter.paint`)."""
        return self.upsampler.paint(noise, {"small": small}, how, key)
