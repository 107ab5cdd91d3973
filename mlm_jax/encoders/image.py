"""Image encoder: a ViT, on plain patches or behind a convolutional stem."""

from dataclasses import field
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mlm_jax.layers import ConvStem, Norm, PatchStem, Positions, Tokens, Transformer, concatenate
from mlm_jax.layers.embed import grid_places
from mlm_jax.layers.tokens import every

Colour = tuple[float, float, float]


class ImageEncoder(nn.Module):
    """ViT (arXiv:2010.11929): pixels to one token a patch, in row-major order.

    `size` is (height, width) in pixels; the model takes pictures of this size alone. Pixels are
    brought to [0, 1], less `mean`, over `std`. `class_token` puts one learned token first, and
    `distillation_token` one more behind it (DeiT, arXiv:2012.12877). `pre_norm` is a norm before
    the blocks (CLIP).

    `place_again` adds positions to what comes out as well, as strong as a norm leaves it. The
    residual stream outgrows those that go in, and readers that must say which of two things is on
    the left do not find them. A projection before lets training say how strong the rest is: with
    it 0.72 of the embedded world's questions were answered after 12,800 pictures, without 0.61.
    """

    size: tuple[int, int] = (48, 48)
    patch: int = 8
    stem: Literal["patch", "conv"] = "patch"
    patch_bias: bool = True
    class_token: bool = False
    distillation_token: bool = False
    pre_norm: bool = False
    place_again: bool = False
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    body: Transformer = field(default_factory=Transformer)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches; what is left at the far edges is not seen.

        Of the convolutional stem nothing may be left. Raises: ValueError.
        """
        if self.stem == "conv":
            self.require_whole()
        rows, columns = (edge // self.patch for edge in self.size)
        if not rows or not columns:
            raise ValueError(f"image size {self.size} is less than one patch of {self.patch}")
        return rows, columns

    def require_whole(self) -> None:
        """Raises: ValueError where patches do not cover the picture."""
        if any(edge % self.patch for edge in self.size):
            raise ValueError(f"image size {self.size} does not divide into patches of {self.patch}")

    @property
    def takes(self) -> jax.ShapeDtypeStruct:
        """One picture."""
        return jax.ShapeDtypeStruct((*self.size, 3), jnp.uint8)

    @property
    def extra(self) -> tuple[str, ...]:
        """Learned tokens before those of the patches."""
        there = {"class_token": self.class_token, "distillation_token": self.distillation_token}
        return tuple(name for name, has in there.items() if has)

    @nn.compact
    def __call__(
        self,
        image: UInt8[Array, "B height width 3"] | Float[Array, "B height width 3"],
        *,
        keep: Int[Array, "B K"] | None = None,
        train: bool = False,
    ) -> Tokens:
        """Pixels of a floating dtype are taken as normalised already.

        Of the patches only those in `keep` go into the blocks, where it is given (MAE).
        """
        if image.shape[1:3] != self.size:
            raise ValueError(f"pictures of {image.shape[1:3]} pixels, the model takes {self.size}")
        x = self._stem()(normalised(self, image, self.mean, self.std))
        tokens = every(x.reshape(len(x), -1, self.body.width))
        for name in reversed(self.extra):
            first = self.param(name, nn.initializers.zeros_init(), (1, 1, x.shape[-1]))
            first = jnp.broadcast_to(first, (len(x), 1, x.shape[-1]))
            tokens = concatenate(every(first), tokens)
        place = partial(Positions, tokens.x.shape[1], self.grid)
        x = place(name="positions")(tokens.x)
        if keep is not None:
            if self.body.block.rotary or self.place_again:
                raise ValueError("patches are left out: not with rotary or place_again")
            extra = len(self.extra)
            kept = jnp.take_along_axis(x[:, extra:], keep[:, :, None], axis=1)
            x = jnp.concatenate([x[:, :extra], kept], axis=1)
        if self.pre_norm:
            x = Norm(self.body.block.norm, self.body.block.eps, name="pre_norm")(x)
        places = self._places() if keep is None else None
        tokens = self.body(every(x), places=places, train=train)
        if self.place_again:
            x = nn.Dense(self.body.width, name="out")(tokens.x)
            tokens = Tokens(place(rms=1.0, name="positions_again")(x), tokens.mask)
        return tokens

    def _stem(self) -> nn.Module:
        if self.stem == "conv":
            return ConvStem(self.body.width, self.patch, name="stem")
        return PatchStem(self.body.width, self.patch, self.patch_bias, name="stem")

    def _places(self) -> Float[Array, "N 2"]:
        """Column and row of each token, from 1; learned tokens stand at 0, 0."""
        return jnp.concatenate([jnp.zeros((len(self.extra), 2)), 1.0 + grid_places(*self.grid)])


def normalised(
    encoder: nn.Module,
    pixels: UInt8[Array, "*B 3"] | Float[Array, "*B 3"],
    mean: Colour,
    std: Colour,
) -> Float[Array, "*B 3"]:
    """Pixels in the dtype the encoder's parameters are in, so that bfloat16 stays bfloat16.

    Those of a floating dtype are taken as normalised already.
    """
    if pixels.dtype == jnp.uint8:
        centre, spread = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)
        pixels = (pixels.astype(jnp.float32) / 255 - centre) / spread
    return pixels.astype(dtype_of(encoder))


def dtype_of(module: nn.Module) -> jnp.dtype:
    """That which a bound module computes in: its parameters' own, float32 while they are made."""
    if module.is_initializing():
        return jnp.dtype(jnp.float32)
    return jax.tree.leaves(module.variables["params"])[0].dtype
