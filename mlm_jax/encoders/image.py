"""Image encoder: a ViT, on plain patches or behind a convolutional stem."""

from dataclasses import field
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mlm_jax.layers import ConvStem, PatchStem, Positions, Tokens, Transformer, concatenate
from mlm_jax.layers.embed import grid_places
from mlm_jax.layers.tokens import every


class ImageEncoder(nn.Module):
    """ViT (arXiv:2010.11929): pixels to one token a patch, in row-major order.

    `size` is (height, width) in pixels; the model takes pictures of this size alone. Pixels are
    brought to [-1, 1]. `class_token` puts one learned token first.

    `place_again` adds positions to what comes out as well, as strong as a norm leaves it. The
    residual stream outgrows those that go in, and readers that must say which of two things is on
    the left do not find them. A projection before lets training say how strong the rest is: with
    it 0.72 of the embedded world's questions were answered after 12,800 pictures, without 0.61.
    """

    size: tuple[int, int] = (48, 48)
    patch: int = 8
    stem: Literal["patch", "conv"] = "patch"
    class_token: bool = False
    place_again: bool = False
    body: Transformer = field(default_factory=Transformer)

    @nn.compact
    def __call__(self, image: UInt8[Array, "B height width 3"], *, train: bool = False) -> Tokens:
        height, width = self.size
        if height % self.patch or width % self.patch:
            raise ValueError(f"image size {self.size} does not divide into patches of {self.patch}")
        if image.shape[1:3] != self.size:
            raise ValueError(f"pictures of {image.shape[1:3]} pixels, the model takes {self.size}")
        make = {"patch": PatchStem, "conv": ConvStem}[self.stem]
        x = make(self.body.width, self.patch, name="stem")(self._normalise(image))
        tokens = every(x.reshape(len(x), -1, self.body.width))
        if self.class_token:
            first = self.param("class_token", nn.initializers.zeros_init(), (1, 1, x.shape[-1]))
            first = jnp.broadcast_to(first, (len(x), 1, x.shape[-1]))
            tokens = concatenate(every(first), tokens)
        grid = (height // self.patch, width // self.patch)
        place = partial(Positions, tokens.x.shape[1], grid)
        tokens = Tokens(place(name="positions")(tokens.x), tokens.mask)
        tokens = self.body(tokens, places=self._places(grid), train=train)
        if self.place_again:
            x = nn.Dense(self.body.width, name="out")(tokens.x)
            tokens = Tokens(place(rms=1.0, name="positions_again")(x), tokens.mask)
        return tokens

    def _places(self, grid: tuple[int, int]) -> Float[Array, "N 2"]:
        """Column and row of each token, from 1; the class token stands at 0, 0."""
        class_token = jnp.zeros((int(self.class_token), 2))
        return jnp.concatenate([class_token, 1.0 + grid_places(*grid)])

    def _normalise(self, image: UInt8[Array, "B height width 3"]) -> Float[Array, "..."]:
        """Pixels in the dtype the parameters are in, so that bfloat16 stays bfloat16."""
        dtype = jnp.float32
        if not self.is_initializing():
            dtype = self.variables["params"]["positions"]["table"].dtype
        return (image.astype(jnp.float32) / 127.5 - 1).astype(dtype)
