"""Nets that say of noisy pictures, or clips, what diffusion asks them.

Both are called alike: `net(x, t, vector, text)` gives rows like `x` with `out` channels. `t` (B,)
are times from 0 to 1; `vector` (B, E) and `text` are conditions, None where there is none. Text is
read by cross-attention, and its mean goes with the time. Of a clip (B, T, H, W, C) frames are
pictures that look at each other over time.
"""

from dataclasses import field
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.layers import Block, PatchStem, Pool, Tokens, Transformer
from mlm_jax.layers.convolutions import Residual
from mlm_jax.layers.embed import grid_places, picture_of, sine_cosine, sines, timesteps
from mlm_jax.layers.tokens import every
from mlm_jax.layers.transformer import settings


class Condition(nn.Module):
    """What is asked for, as one vector a row: the time, and what else is given, summed.

    The time's sines go through two layers (arXiv:2006.11239, appendix B).
    """

    width: int

    @nn.compact
    def __call__(
        self,
        t: Float[Array, "B"],
        vector: Float[Array, "B E"] | None,
        text: Tokens | None,
        dtype: jnp.dtype,
    ) -> Float[Array, "B D"]:
        y = nn.Dense(self.width, name="up")(timesteps(t, self.width).astype(dtype))
        y = nn.Dense(self.width, name="down")(nn.silu(y))
        if vector is not None:
            y = y + nn.Dense(self.width, name="vector")(vector.astype(dtype))
        if text is not None:
            y = y + nn.Dense(self.width, name="text")(Pool("mean")(text).astype(dtype))
        return y


# --- convolutions ---


class UNet(nn.Module):
    """Residual blocks at resolutions that halve, and back up with what was there on the way down.

    arXiv:2006.11239, appendix B; the condition scales and shifts in every block (arXiv:2105.05233,
    section 3). `widths` are the channels of each resolution, and `attends` says at which of them,
    0 the finest, each residual block is followed by one like `block`, which reads the text as well;
    there is one in the middle too. Of clips it is followed by one over time (arXiv:2204.03458,
    section 3), whose gates are shut at the start: a net of pictures goes on as one of clips.
    """

    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 2
    attends: tuple[int, ...] = (1, 2)
    block: Block = field(default_factory=Block)
    groups: int = 4
    out: int = 3

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *T H W C"],
        t: Float[Array, "B"],
        vector: Float[Array, "B E"] | None = None,
        text: Tokens | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B *T H W D"]:
        shape, levels = x.shape, range(len(self.widths))
        if any(side % 2 ** levels[-1] for side in shape[-3:-1]):
            raise ValueError(f"{shape[-3:-1]} pixels do not halve {levels[-1]} times")
        asked = Condition(4 * self.widths[0], name="condition")(t, vector, text, x.dtype)
        times = shape[1] if x.ndim == 5 else 0
        stage = partial(self._stage, asked=asked, text=text, times=times, train=train)
        conv = partial(nn.Conv, kernel_size=(3, 3))

        x = conv(self.widths[0], name="conv_first")(x.reshape(-1, *shape[-3:]))
        kept = [x]
        for level in levels:
            for i in range(self.blocks):
                x = stage(f"down_{level}_{i}", x, level)
                kept.append(x)
            if level != levels[-1]:
                x = conv(self.widths[level], strides=(2, 2), name=f"halve_{level}")(x)
                kept.append(x)
        x = stage("middle_0", x, levels[-1], attends=True)
        x = stage("middle_1", x, levels[-1], attends=False)
        for level in reversed(levels):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, kept.pop()], axis=-1)
                x = stage(f"up_{level}_{i}", x, level)
            if level:
                x = conv(self.widths[level], name=f"double_{level}")(doubled(x))
        x = nn.silu(nn.GroupNorm(num_groups=self.groups, name="norm")(x))
        x = conv(self.out, kernel_init=nn.initializers.zeros_init(), name="last")(x)
        return x.reshape(*shape[:-1], self.out)

    def _stage(
        self,
        name: str,
        x: Float[Array, "F H W C"],
        level: int,
        attends: bool | None = None,
        *,
        asked: Float[Array, "B E"],
        text: Tokens | None,
        times: int,
        train: bool,
    ) -> Float[Array, "F H W D"]:
        x = Residual(self.widths[level], self.groups, name=name)(x, asked)
        if not (level in self.attends if attends is None else attends):
            return x
        rows, shape = len(x), x.shape
        places = x.reshape(rows, -1, shape[-1])
        memory = () if text is None else (text,)
        like = settings(self.block)
        block = Block(**like, name=f"{name}_attends")
        places = block(every(places), None, memory, (), None, train).x
        if times:
            over_time = Block(**like | {"rotary": 10_000.0}, name=f"{name}_time")
            along = every(along_time(places, times))
            seen = over_time(along, None, (), (), None, train, asked)
            places = along_space(seen.x, rows // times)
        return places.reshape(shape)


def doubled(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Each pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def along_time(x: Float[Array, "F N D"], times: int) -> Float[Array, "P T D"]:
    """Frames of clips to the times of each of their places."""
    places, width = x.shape[1:]
    return x.reshape(-1, times, places, width).swapaxes(1, 2).reshape(-1, times, width)


def along_space(x: Float[Array, "P T D"], clips: int) -> Float[Array, "F N D"]:
    """The reverse."""
    times, width = x.shape[1:]
    return x.reshape(clips, -1, times, width).swapaxes(1, 2).reshape(clips * times, -1, width)


# --- patches ---


class DiffusionTransformer(nn.Module):
    """Patches through a transformer whose norms the condition scales, shifts and gates.

    DiT (arXiv:2212.09748, section 3.2, adaLN-zero), with text read by cross-attention in every
    block (arXiv:2310.00426, section 2.3). Of a clip with `over_time` "joint" all patches of all
    frames are one row of tokens; "divided" has after each block within frames one for each place
    over time (arXiv:2401.03048, section 3.2, variant 1). Rotary positions are turned by row and
    column within frames.
    """

    patch: int = 4
    body: Transformer = field(default_factory=Transformer)
    over_time: Literal["joint", "divided"] = "joint"
    out: int = 3

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *T H W C"],
        t: Float[Array, "B"],
        vector: Float[Array, "B E"] | None = None,
        text: Tokens | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B *T H W D"]:
        shape, width, patch = x.shape, self.body.width, self.patch
        if any(side % patch for side in shape[-3:-1]):
            raise ValueError(f"{shape[-3:-1]} pixels do not divide into patches of {patch}")
        asked = Condition(width, name="condition")(t, vector, text, x.dtype)
        memory = () if text is None else (text,)
        x = PatchStem(width, patch, name="stem")(x.reshape(-1, *shape[-3:]))
        rows, columns = x.shape[1:3]
        x = x.reshape(len(x), -1, width) + sine_cosine(rows, columns, width).astype(x.dtype)
        if len(shape) == 5:
            when = jnp.asarray(sines(shape[1], width), x.dtype)
            x = (x.reshape(*shape[:2], -1, width) + when[:, None]).reshape(x.shape)
        places = grid_places(rows, columns)
        if len(shape) == 4 or self.over_time == "joint":
            tokens = every(x.reshape(shape[0], -1, width))
            places = jnp.tile(places, (tokens.x.shape[1] // len(places), 1))
            x = self.body(tokens, places=places, memory=memory, condition=asked, train=train).x
        else:
            x = self._divided(x, shape[1], places, memory, asked, train)
        zero = nn.initializers.zeros_init()
        x = nn.Dense(patch**2 * self.out, kernel_init=zero, name="pixels")(x)
        x = x.reshape(-1, rows * columns, x.shape[-1])
        pictures = picture_of(x, (rows, columns), patch)
        return pictures.reshape(*shape[:-1], self.out)

    def _divided(
        self,
        x: Float[Array, "F N D"],
        times: int,
        places: Float[Array, "N 2"],
        memory: tuple[Tokens, ...],
        asked: Float[Array, "B D"],
        train: bool,
    ) -> Float[Array, "F N D"]:
        body, clips = self.body, len(x) // times
        for i in range(body.depth):
            last = body.last_norm and i == body.depth - 1
            space = body.clone(depth=1, last_norm=False, name=f"space_{i}", parent=self)
            time = body.clone(depth=1, last_norm=last, name=f"time_{i}", parent=self)
            x = space(every(x), places=places, memory=memory, condition=asked, train=train).x
            x = time(every(along_time(x, times)), condition=asked, train=train).x
            x = along_space(x, clips)
        return x
