"""Video encoder: a transformer over space and time, in one of four ways, by one key.

pooled      each frame on its own, its patches to one vector            (frames as pictures)
factorised  the same, then a transformer over time                      (ViViT 2103.15691, model 2)
joint       one attention over all tubelets                             (ViViT model 1, VideoMAE)
divided     in each block over time, then over space                    (TimeSformer 2102.05095)
"""

from dataclasses import field
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mlm_jax.encoders.image import Colour, normalised
from mlm_jax.layers import ConvStem, Norm, Pool, Positions, Tokens, Transformer, TubeletStem
from mlm_jax.layers.attention import Attention
from mlm_jax.layers.embed import sines
from mlm_jax.layers.tokens import every
from mlm_jax.layers.transformer import MLP, Block

Kind = Literal["pooled", "factorised", "joint", "divided"]


class VideoEncoder(nn.Module):
    """`frames` pictures of `size` (height, width) pixels to Tokens, in the order of time.

    A tubelet is `patch` pixels on a side and `tube` frames long; the convolutional stem looks at
    single frames, with `around` frames before and after each as further channels, so that a token
    knows how what it shows is moving. Of "pooled" and "factorised" there is a token a tubelet of
    time, of the others one a tubelet, time first, behind the class token where there is one.

    `positions`: a "table" with a row for each tubelet; tables of space and of time "apart"; or
    "sines" of the number of the tubelet, which are not learned (VideoMAE, arXiv:2203.12602).
    `body` is over space, or both; `time` of "factorised" alone. `place_again` adds what "joint" has
    of positions "apart" to what comes out as well, as `ImageEncoder` does it.
    """

    frames: int = 16
    size: tuple[int, int] = (48, 48)
    patch: int = 16
    tube: int = 1
    kind: Kind = "factorised"
    stem: Literal["patch", "conv"] = "patch"
    around: int = 0
    positions: Literal["table", "apart", "sines"] = "apart"
    class_token: bool = False
    place_again: bool = False
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    body: Transformer = field(default_factory=Transformer)
    time: Transformer = field(default_factory=Transformer)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubelets in time, rows and columns. Raises: ValueError."""
        whole, part = (self.frames, *self.size), (self.tube, self.patch, self.patch)
        if any(a % b for a, b in zip(whole, part, strict=True)):
            raise ValueError(f"frames and pixels {whole} do not divide into tubelets of {part}")
        times, rows, columns = (a // b for a, b in zip(whole, part, strict=True))
        return times, rows, columns

    @property
    def takes(self) -> jax.ShapeDtypeStruct:
        """One clip."""
        return jax.ShapeDtypeStruct((self.frames, *self.size, 3), jnp.uint8)

    @property
    def extra(self) -> tuple[str, ...]:
        """Learned tokens before the others."""
        return ("class_token",) * (self.class_token and self.kind in ("joint", "divided"))

    @nn.compact
    def __call__(
        self,
        video: UInt8[Array, "B T height width 3"] | Float[Array, "B T height width 3"],
        *,
        keep: Int[Array, "B K"] | None = None,
        train: bool = False,
    ) -> Tokens:
        """Pixels of a floating dtype are taken as normalised already.

        Of the tubelets only those in `keep` go into the blocks, where it is given (VideoMAE): of
        "joint" alone.
        """
        if video.shape[1:4] != (self.frames, *self.size):
            raise ValueError(
                f"clips of {video.shape[1]} frames of {video.shape[2:4]} pixels,"
                f" the model takes {self.frames} of {self.size}"
            )
        if self.kind != "joint" and (keep is not None or self.place_again):
            what = "place_again" if self.place_again else "tubelets are left out"
            raise ValueError(f"{what}: of kind joint, not {self.kind}")
        if self.around and self.stem == "patch":
            raise ValueError(f"around {self.around}: of stem conv, patches see their own frames")
        x = self._stem(normalised(self, video, self.mean, self.std))
        if self.kind in ("pooled", "factorised"):
            return self._frames(x, train)
        if self.kind == "divided":
            return self._divided(x, train)
        return self._joint(x, keep, train)

    def _stem(self, video: Float[Array, "B T height width 3"]) -> Float[Array, "B t N D"]:
        width, (times, rows, columns) = self.body.width, self.grid
        if self.stem == "patch":
            x = TubeletStem(width, self.tube, self.patch, name="stem")(video)
        else:
            if self.tube > 1:
                raise ValueError(f"tube {self.tube}: a convolutional stem sees single frames")
            seen = with_neighbours(video, self.around)
            x = ConvStem(width, self.patch, name="stem")(seen.reshape(-1, *seen.shape[2:]))
        return x.reshape(len(video), times, rows * columns, width)

    def _frames(self, x: Float[Array, "B t N D"], train: bool) -> Tokens:
        count, times, places, width = x.shape
        if self.positions != "apart":
            raise ValueError(f"positions {self.positions}: of kind {self.kind} they are apart")
        alone = every(self._in_space(x.reshape(count * times, places, width)))
        tokens = self.body(alone, train=train)
        one = Pool("first" if self.class_token else "mean")(tokens).reshape(count, times, width)
        if self.kind == "pooled":
            return every(one)
        one = Positions(times, name="time_positions")(one)
        return self.time(every(one), train=train)

    def _joint(
        self, x: Float[Array, "B t N D"], keep: Int[Array, "B K"] | None, train: bool
    ) -> Tokens:
        count, times, places, width = x.shape
        if self.positions == "apart":
            x = x + self._times(times, width)[:, None]
            x = self._in_space(x.reshape(count * times, places, width), class_token=False)
        x = x.reshape(count, times * places, width)
        if self.positions == "sines":
            x = x + jnp.asarray(sines(times * places, width), x.dtype)
        if self.class_token:
            x = jnp.concatenate([self._class_token(x), x], axis=1)
        if self.positions == "table":
            x = Positions(x.shape[1], name="positions")(x)
        if keep is not None:
            extra = len(self.extra)
            kept = jnp.take_along_axis(x[:, extra:], keep[:, :, None], axis=1)
            x = jnp.concatenate([x[:, :extra], kept], axis=1)
        tokens = self.body(every(x), train=train)
        if not self.place_again:
            return tokens
        if keep is not None or self.extra or self.positions != "apart":
            raise ValueError("place_again: positions apart, no class token, and nothing left out")
        x = nn.Dense(width, name="out")(tokens.x).reshape(count * times, places, width)
        x = Positions(places, self.grid[1:], rms=1.0, name="positions_again")(x)
        x = x.reshape(count, times, places, width).swapaxes(1, 2).reshape(-1, times, width)
        x = Positions(times, (1, times), rms=1.0, name="times_again")(x)
        x = x.reshape(count, places, times, width).swapaxes(1, 2)
        return every(x.reshape(count, times * places, width))

    def _divided(self, x: Float[Array, "B t N D"], train: bool) -> Tokens:
        """The class token has a position in space and none in time."""
        count, times, places, width = x.shape
        if self.positions != "apart" or not self.class_token:
            raise ValueError("kind divided: positions apart, and a class token")
        body, plain = self.body, (0.0, "pre", "none", "unrolled", True)
        found = (body.block.rotary, body.block.order, body.remat, body.layers, body.last_norm)
        if found != plain:
            raise ValueError(
                "kind divided: rotary, order, remat, layers and last_norm of the body are"
                f" {plain}, not {found}"
            )
        whole = self._in_space(x.reshape(count * times, places, width))
        first = whole.reshape(count, times, places + 1, width)[:, 0, :1]
        x = whole[:, 1:].reshape(count, times, places, width) + self._times(times, width)[:, None]
        for i in range(self.body.depth):
            first, x = Divided(self.body.block, name=f"block_{i}")(first, x, train)
        x = jnp.concatenate([first, x.reshape(count, times * places, width)], axis=1)
        return every(Norm(self.body.block.norm, self.body.block.eps, name="norm")(x))

    def _in_space(
        self, x: Float[Array, "F N D"], class_token: bool = True
    ) -> Float[Array, "F M D"]:
        """Frames with the places of their patches, and behind the class token."""
        if self.class_token and class_token:
            x = jnp.concatenate([self._class_token(x), x], axis=1)
        return Positions(x.shape[1], self.grid[1:], name="positions")(x)

    def _class_token(self, like: Float[Array, "F N D"]) -> Float[Array, "F 1 D"]:
        first: Array = self.param(
            "class_token", nn.initializers.zeros_init(), (1, 1, like.shape[-1])
        )
        return jnp.broadcast_to(first, (len(like), 1, like.shape[-1]))

    def _times(self, times: int, width: int) -> Float[Array, "t D"]:
        table: Array = self.param("times", nn.initializers.normal(0.02), (times, width))
        return table


def with_neighbours(
    video: Float[Array, "B T height width C"], around: int
) -> Float[Array, "B T height width D"]:
    """Each frame with those before and after it behind its own channels; the ends are repeated."""
    if not around:
        return video
    edge = ((0, 0), (around, around), (0, 0), (0, 0), (0, 0))
    padded, frames = jnp.pad(video, edge, mode="edge"), video.shape[1]
    shifts = sorted(range(2 * around + 1), key=lambda shift: abs(shift - around))
    return jnp.concatenate([padded[:, shift : shift + frames] for shift in shifts], axis=-1)


class Divided(nn.Module):
    """A block like `block` that attends over time, then over space, then its MLP (section 3).

    Over time each place looks at itself in all frames, without the class token; over space each
    frame at itself and a copy of the class token, which then becomes the mean of its copies.
    """

    block: Block

    @nn.compact
    def __call__(
        self, first: Float[Array, "B 1 D"], x: Float[Array, "B t N D"], train: bool
    ) -> tuple[Float[Array, "B 1 D"], Float[Array, "B t N D"]]:
        own, (count, times, places, width) = self.block, x.shape

        def norm(name: str, x: Array) -> Array:
            return Norm(own.norm, own.eps, own.bias, name=f"{name}_norm")(x)

        def attend(name: str, x: Array) -> Array:
            heads = (own.heads, own.groups, own.bias, own.qkv_bias)
            attention = Attention(*heads, qk_norm=own.qk_norm, name=name)
            return drop(name, attention(x, [every(x)]))

        def drop(name: str, x: Array) -> Array:
            return nn.Dropout(own.dropout, deterministic=not train, name=f"{name}_dropout")(x)

        along = norm("time", x).swapaxes(1, 2).reshape(-1, times, width)
        seen = nn.Dense(width, name="time_out")(attend("time", along))
        x = x + seen.reshape(count, places, times, width).swapaxes(1, 2)

        copies = jnp.broadcast_to(first[:, None], (count, times, 1, width))
        across = norm("attention", jnp.concatenate([copies, x], axis=2))
        seen = attend("attention", across.reshape(-1, places + 1, width))
        seen = seen.reshape(count, times, places + 1, width)
        first, x = first + seen[:, :, 0].mean(1, keepdims=True), x + seen[:, :, 1:]

        whole = jnp.concatenate([first, x.reshape(count, -1, width)], axis=1)
        mlp = MLP(own.ratio, own.activation, own.bias, name="mlp")
        whole = whole + drop("mlp", mlp(norm("mlp", whole)))
        return whole[:, :1], whole[:, 1:].reshape(x.shape)
