"""What a word loses where a window of what is seen is blanked (arXiv:1311.2901, section 4.2)."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlm_jax.encoders import AudioEncoder, ImageEncoder, VideoEncoder
from mlm_jax.explaining.asked import Asked, Seen, scores, senses_of
from mlm_jax.generate import Params
from mlm_jax.models.multimodal import Multimodal

ROWS = 128  # rows of a batch of blanked inputs
TIMES, BANDS = 8, 10  # a window is such a part of a clip's time, and of either side of a sound


class Windows(NamedTuple):
    """Boxes of `size` on the axes of one sense (channels left out), each at one of `starts`."""

    size: tuple[int, ...]
    starts: Int[Array, "P axes"]


def windows_of(model: Multimodal) -> dict[str, Windows]:
    """By sense: as large as a patch, moved by half of it; a clip's one after the other in time."""
    return {key: _windows(encoder) for key, encoder in senses_of(model)}


def _windows(encoder: ImageEncoder | VideoEncoder | AudioEncoder) -> Windows:
    if isinstance(encoder, ImageEncoder):
        patch = min(encoder.patch, *encoder.size)
        return boxes(encoder.size, (patch, patch), (max(1, patch // 2),) * 2)
    if isinstance(encoder, VideoEncoder):
        patch, long = encoder.patch, max(encoder.tube, encoder.frames // TIMES)
        half = max(1, patch // 2)
        whole: tuple[int, ...] = (encoder.frames, *encoder.size)
        return boxes(whole, (long, patch, patch), (long, half, half))
    whole = (encoder.frames, encoder.mel.mels)
    size = tuple(max(1, n // BANDS) for n in whole)
    return boxes(whole, size, tuple(max(1, n // 2) for n in size))


def boxes(whole: tuple[int, ...], size: tuple[int, ...], step: tuple[int, ...]) -> Windows:
    """All boxes every `step` on each axis, and those at the far ends."""
    axes = [
        sorted({*range(0, n - part + 1, by), n - part})
        for n, part, by in zip(whole, size, step, strict=True)
    ]
    return Windows(size, jnp.asarray(list(product(*axes)), jnp.int32))


def inside(windows: Windows, start: Int[Array, "axes"], shape: tuple[int, ...]) -> Array:
    """Whether each place of `shape` lies in the box at `start`."""
    where = jnp.ones(shape, bool)
    for axis, (length, size) in enumerate(zip(shape, windows.size, strict=True)):
        line = jnp.arange(length)
        within = (line >= start[axis]) & (line < start[axis] + size)
        where = where & within.reshape(-1, *[1] * (len(shape) - axis - 1))
    return where


def occlusion(model: Multimodal, params: Params, asked: Asked, base: Seen) -> dict[str, Array]:
    """By sense (B, W, ...), without channels: how much log-probability a word loses there.

    At each place it is the mean over the windows that cover it.
    """
    return {
        key: _occluded(model, params, asked, base, key, windows.size, windows.starts)
        for key, windows in windows_of(model).items()
    }


@partial(jax.jit, static_argnames=("model", "sense", "size"))
def _occluded(
    model: Multimodal,
    params: Params,
    asked: Asked,
    base: Seen,
    sense: str,
    size: tuple[int, ...],
    starts: Int[Array, "P axes"],
) -> Array:
    def told(x: Array) -> Float[Array, "B W"]:
        return scores(model, params, asked._replace(seen={**asked.seen, sense: x}))[0]

    return lost(told, asked.seen[sense], base[sense], Windows(size, starts))


def lost(
    told: Callable[[Array], Float[Array, "B W"]], x: Array, base: Array, windows: Windows
) -> Array:
    """How much less is `told` of x (B, ...) where windows of it are those of `base`: (B, W, ...).

    The mean over the windows that cover a place.
    """
    shape = x.shape[1 : 1 + len(windows.size)]
    before = told(x)

    def loss(start: Array) -> Float[Array, "B W"]:
        where = inside(windows, start, shape)[None]
        return before - told(jnp.where(over(where, x), base, x))

    change = jax.lax.map(loss, windows.starts, batch_size=max(1, ROWS // len(x)))
    covers = jax.vmap(lambda start: inside(windows, start, shape))(windows.starts)
    covers = covers.astype(change.dtype)
    return jnp.einsum("pbw,p...->bw...", change, covers) / jnp.maximum(covers.sum(0), 1)


def blanked(asked: Asked, base: Seen, where: Mapping[str, Array]) -> Asked:
    """What is asked about, with `base` in its place where `where` (B or 1, ...) is True."""
    seen = dict(asked.seen)
    for key, hidden in where.items():
        seen[key] = jnp.where(over(hidden, seen[key]), base[key], seen[key])
    return asked._replace(seen=seen)


def over(where: Array, x: Array) -> Array:
    """The same over the channels of x, where it has any."""
    return where.reshape(*where.shape, *[1] * (x.ndim - where.ndim))
