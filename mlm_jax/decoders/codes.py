"""Pictures and clips as a small grid of whole numbers, and back (VQ-VAE, arXiv:1711.00937).

A convolutional encoder, a quantiser that says which of its codes each place is, and a convolutional
decoder. A clip has time as one more axis: frames are coded as pictures are, and `tube` of them,
mixed over time, share one grid.
"""

import math
from dataclasses import field
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mlm_jax.encoders.image import dtype_of
from mlm_jax.layers.convolutions import Residual, over_frames
from mlm_jax.layers.transformer import MLP, Norm

AVERAGES = ("uses_table", "sums_table")
DEAD = 0.03  # share of an even use below which a code of a learned codebook is given a new vector


class Quantised(NamedTuple):
    """`vectors` pass gradients straight through to what was quantised.

    `penalty` is what the quantiser adds to the loss. `renewed` are values of parameters that move
    by an average of their own and not by gradients.
    """

    vectors: Float[Array, "*B D"]
    codes: Int[Array, "*B"]
    penalty: Float[Array, ""]
    renewed: dict[str, Array]


class Quantiser(nn.Module):
    """Vectors to codes and back.

    "fsq": each axis is bounded and rounded to as many values as `levels` says; the codes are all
    their combinations and nothing is learned (arXiv:2309.15505, section 3.1). "vq": the nearest of
    `count` vectors, which follow the mean of what they stand for with `decay` (arXiv:1711.00937,
    appendix A.1), and a code that is hardly used gets a vector of the batch (arXiv:2005.00341,
    section 3.1); `weight` is that of the distance of what is quantised (equation 3). "gumbel": one
    of `count` vectors drawn by its probability at `temperature`, with the gradient of the soft
    choice (arXiv:1611.01144, section 2.2), and `weight` that of the distance of the probabilities
    from even ones (arXiv:2102.12092, section 2.1; there the soft choice itself is decoded, at a
    temperature that falls to 1/16).
    """

    kind: Literal["fsq", "vq", "gumbel"] = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)
    count: int = 512
    width: int = 32
    decay: float = 0.99
    weight: float = 0.25
    temperature: float = 1.0

    @property
    def size(self) -> int:
        """How many codes there are."""
        return math.prod(self.levels) if self.kind == "fsq" else self.count

    @property
    def axes(self) -> int:
        """How many numbers the vector of a code is."""
        return len(self.levels) if self.kind == "fsq" else self.width

    def setup(self) -> None:
        # vectors of length 1 an axis: as they come they would all be rounded to the middle
        self.norm = Norm()
        if self.kind == "fsq":
            if min(self.levels) < 3:  # of two values tanh reaches neither
                raise ValueError(f"levels {self.levels}: at least 3 on each axis")
            self.into = nn.Dense(len(self.levels))
            return
        self.into = nn.Dense(self.count if self.kind == "gumbel" else self.width)
        shape = (self.count, self.width)
        self.table = self.param("table", nn.initializers.normal(1.0), shape)
        if self.kind == "vq":
            even = nn.initializers.constant(1 / self.count)
            self.uses = self.param("uses_table", even, (self.count,))
            self.sums = self.param("sums_table", self._first_sums, shape)

    def _first_sums(self, key: Array, shape: tuple[int, int]) -> Array:
        return self.table / self.count

    def __call__(self, x: Float[Array, "*B D"], *, train: bool = False) -> Quantised:
        quantise = {"fsq": self._rounded, "vq": self._nearest, "gumbel": self._drawn}[self.kind]
        return quantise(self.into(self.norm(x)).astype(jnp.float32), train)

    def look_up(self, codes: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """The vectors that codes stand for."""
        if self.kind != "fsq":
            return jnp.take(self.table, codes, axis=0)
        digits = codes[..., None] // self._places() % jnp.array(self.levels)
        half = jnp.array([level // 2 for level in self.levels])
        return (digits - half) / half

    def normalised(self, vectors: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """With mean 0 and variance 1 an axis over all codes, each counted once."""
        table = self._table()
        return (vectors - table.mean(0)) / table.std(0)

    def nearest(self, x: Float[Array, "*B D"]) -> Int[Array, "*B"]:
        """The codes whose normalised vectors lie nearest."""
        table = self._table()
        if self.kind != "fsq":
            return nearest(x, self.normalised(table))
        # each axis by itself: all combinations would be too many to hold against each vector
        levels = jnp.array(self.levels)
        digits = jnp.round((x * table.std(0) + table.mean(0)) * (levels // 2)) + levels // 2
        return self._code(jnp.clip(digits, 0, levels - 1).astype(jnp.int32))

    def _table(self) -> Float[Array, "K D"]:
        return self.look_up(jnp.arange(self.size))

    def _code(self, digits: Int[Array, "*B D"]) -> Int[Array, "*B"]:
        return (digits * self._places()).sum(-1)

    def _places(self) -> Int[Array, "D"]:
        return jnp.array([math.prod(self.levels[:i]) for i in range(len(self.levels))])

    def _rounded(self, x: Float[Array, "*B D"], train: bool) -> Quantised:
        levels = jnp.array(self.levels, jnp.float32)
        reach = (levels - 1) * (1 - 1e-3) / 2
        middle = jnp.where(levels % 2 == 0, 0.5, 0.0)  # an even number has no value at 0
        bounded = jnp.tanh(x + jnp.arctanh(middle / reach)) * reach - middle
        rounded = straight(bounded, jnp.round(bounded))
        half = levels // 2
        digits = (jnp.round(bounded) + half).astype(jnp.int32)
        return Quantised(rounded / half, self._code(digits), jnp.zeros(()), {})

    def _nearest(self, x: Float[Array, "*B D"], train: bool) -> Quantised:
        table = jax.lax.stop_gradient(self.table.astype(jnp.float32))
        codes = nearest(x, table)
        vectors = jnp.take(table, codes, axis=0)
        penalty = self.weight * jnp.square(x - vectors).mean()
        renewed = self._renewed(jax.lax.stop_gradient(x), codes) if train else {}
        return Quantised(straight(x, vectors), codes, penalty, renewed)

    def _renewed(self, x: Float[Array, "*B D"], codes: Int[Array, "*B"]) -> dict[str, Array]:
        """Averages of the use of each code and of what it stood for, as shares of a batch."""
        rows, chosen = x.reshape(-1, self.width), codes.reshape(-1)
        seen = jnp.zeros(self.count).at[chosen].add(1 / len(rows))
        total = jnp.zeros((self.count, self.width)).at[chosen].add(rows / len(rows))
        uses, sums = (
            self.decay * old + (1 - self.decay) * new
            for old, new in ((self.uses, seen), (self.sums, total))
        )
        some = jax.random.choice(self.make_rng("mask"), rows, (self.count,))
        dead = uses < DEAD / self.count
        uses = jnp.where(dead, 1 / self.count, uses)
        sums = jnp.where(dead[:, None], some / self.count, sums)
        return {"uses_table": uses, "sums_table": sums, "table": sums / uses[:, None]}

    def _drawn(self, logits: Float[Array, "*B K"], train: bool) -> Quantised:
        share = jax.nn.softmax(logits)
        even = jnp.log(self.count) + (share * jax.nn.log_softmax(logits)).sum(-1).mean()
        if not train:
            codes = logits.argmax(-1).astype(jnp.int32)
            return Quantised(self.look_up(codes), codes, self.weight * even, {})
        noisy = logits + jax.random.gumbel(self.make_rng("mask"), logits.shape)
        soft = jax.nn.softmax(noisy / self.temperature)
        codes = noisy.argmax(-1).astype(jnp.int32)
        hard = jax.nn.one_hot(codes, self.count)
        return Quantised(straight(soft, hard) @ self.table, codes, self.weight * even, {})


def nearest(x: Float[Array, "*B D"], table: Float[Array, "K D"]) -> Int[Array, "*B"]:
    """The row of `table` with the least distance."""
    return (jnp.square(table).sum(-1) - 2 * x @ table.T).argmin(-1).astype(jnp.int32)


def straight(soft: Array, hard: Array) -> Array:
    """`hard`, with the gradient of `soft` (arXiv:1308.3432)."""
    return soft + jax.lax.stop_gradient(hard - soft)


class CodeEncoder(nn.Module):
    """uint8 pixels to vectors on a grid: for each of `factors` the picture shrinks that much.

    `widths` are channels before, between and after the factors. With `frames` it takes clips, and
    each `tube` of frames becomes one grid.

    Convolutions see "around" a place, so that its code tells of what lies beside it too. Where each
    sees its own "patch" alone (as arXiv:2110.04627, section 3.1, without attention), what looks
    alike has one code wherever it lies, which is easier to guess for what writes codes; an MLP then
    stands for each block, all of the last width.
    """

    size: tuple[int, int] = (48, 48)
    factors: tuple[int, ...] = (2, 2)
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    frames: int = 0
    tube: int = 1
    sees: Literal["around", "patch"] = "around"

    @property
    def takes(self) -> jax.ShapeDtypeStruct:
        """One picture, or one clip."""
        time = (self.frames,) if self.frames else ()
        return jax.ShapeDtypeStruct((*time, *self.size, 3), jnp.uint8)

    @property
    def grid(self) -> tuple[int, ...]:
        """Of codes: rows and columns, before them times of a clip. Raises: ValueError."""
        patch = math.prod(self.factors)
        if any(side % patch for side in self.size) or self.frames % self.tube:
            clip = f", {self.frames} frames into tubes of {self.tube}" if self.frames else ""
            raise ValueError(f"{self.size} pixels do not divide into patches of {patch}{clip}")
        if len(self.widths) != len(self.factors) + 1:
            raise ValueError(f"factors {self.factors} need one more width than {self.widths}")
        time = (self.frames // self.tube,) if self.frames else ()
        return (*time, *(side // patch for side in self.size))

    @nn.compact
    def __call__(self, pixels: UInt8[Array, "B *T H W 3"]) -> Float[Array, "B *t h w D"]:
        if pixels.shape[1:] != self.takes.shape:
            raise ValueError(f"pixels {pixels.shape[1:]}, the model takes {self.takes.shape}")
        grid = self.grid
        x = scaled(pixels).astype(dtype_of(self))
        rows = over_frames(x, self._around if self.sees == "around" else self._patches)
        if self.frames and self.tube > 1:
            window = (self.tube, 1, 1)
            rows = nn.Conv(self.widths[-1], window, strides=window, name="tubes")(rows)
        assert rows.shape[1:-1] == grid
        return rows

    def _patches(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        window = (math.prod(self.factors),) * 2
        x = nn.Conv(self.widths[-1], window, strides=window, name="conv_patch")(x)
        for i in range(self.blocks * len(self.factors)):
            x = x + MLP(name=f"mlp_{i}")(Norm(name=f"norm_{i}")(x))
        return x

    def _around(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
        x = nn.Conv(self.widths[0], (3, 3), name="conv_first")(x)
        for i, (factor, width) in enumerate(zip(self.factors, self.widths[1:], strict=True)):
            window = (2 * factor, 2 * factor)
            x = nn.Conv(width, window, strides=(factor, factor), name=f"conv_down_{i}")(x)
            for j in range(self.blocks):
                x = Residual(width, name=f"block_{i}_{j}")(x)
        return x


class CodeDecoder(nn.Module):
    """The way back: vectors on the grid to pixels, 0 black and 1 white, of any float value."""

    like: CodeEncoder = field(default_factory=CodeEncoder)

    @nn.compact
    def __call__(self, x: Float[Array, "B *t h w D"]) -> Float[Array, "B *T H W 3"]:
        like = self.like
        x = nn.Conv(like.widths[-1], (3, 3), name="conv_first")(x.astype(dtype_of(self)))
        if like.frames and like.tube > 1:
            x = nn.Dense(like.tube * like.widths[-1], name="tubes")(x)
            x = x.reshape(*x.shape[:-1], like.tube, like.widths[-1])
            x = jnp.moveaxis(x, -2, 2).reshape(len(x), like.frames, *x.shape[2:4], x.shape[-1])
        return over_frames(x, self._frame)

    def _frame(self, x: Float[Array, "B h w D"]) -> Float[Array, "B H W 3"]:
        like = self.like
        for i in reversed(range(len(like.factors))):
            for j in range(like.blocks):
                x = Residual(like.widths[i + 1], name=f"block_{i}_{j}")(x)
            x = jnp.repeat(jnp.repeat(x, like.factors[i], axis=1), like.factors[i], axis=2)
            x = nn.Conv(like.widths[i], (3, 3), name=f"conv_up_{i}")(x)
        x = nn.silu(nn.GroupNorm(num_groups=4, name="norm")(x))
        return nn.Conv(3, (3, 3), name="conv_last")(x).astype(jnp.float32) + 0.5


def scaled(pixels: Any) -> Float[Array, "*B 3"]:
    """From -1 to 1."""
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1
