"""An invisible mark in pictures that were generated, and whether a picture bears it.

A pattern is added to the brightness of a picture: noise of the frequencies that JPEG leaves alone
and in which pictures hold little, on a grid of GRID cells across the shorter side, repeated beyond.
Adding is spread spectrum (Cox et al., IEEE Trans. Image Processing 6(12), 1997). Of PATTERNS
patterns and their negatives, at every offset, the one is taken that the picture resembles most
already, so that the picture helps instead of hindering (informed embedding; Miller et al., same
journal, 13(6), 2004). Where the picture itself is rough more is added, which does not show there.
Colours without their grey part, which is what `mlm_jax.world.grade` reads, stay as they are.

The mark is looked for at every offset and, as a crop shows fewer cells, at several scales. How high
the best match must be, the picture says itself: DECOYS patterns that nothing was ever marked with
are looked for in the same way, and the chance that one of ours matches as well as it does follows
from the extreme value (Gumbel) distribution of theirs.

Whoever knows the key can find the mark, and take it away: one that must not be removed needs a key
of its own, and even that yields to who redraws the picture. It says "made here" of what is honest.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, UInt8
from PIL import Image

GRID = 48  # cells across the shorter side
SHOWN = (48, 47, 46, 45, 44, 43)  # cells that a picture may still show: a tenth may be cut off
BAND = (6.0, 16.0)  # waves across the grid
PATTERNS, DECOYS = 8, 128
STRENGTH = 3.0  # root mean square where the picture is smooth, in levels of 255: 38.7 dB
ROUGH = 20.0  # levels from the median around at which twice as much is added,
MOST = 3.0  # and so many times as much at most
WINDOW = 5  # cells of the median that takes a picture's own shapes away
LIMIT = 8.0  # levels; what is left beyond them is an edge
RARE = 1e-4  # chance, as computed, below which a picture counts as marked
KEY = 0x6D6C6D

Plane = Float[np.ndarray, "H W"]


class Found(NamedTuple):
    """What was found of the mark."""

    ours: bool
    chance: float
    """That an unmarked picture matches as well."""
    score: float
    """The match, in standard deviations above the mean of the decoys."""


def mark(
    picture: UInt8[np.ndarray, "H W 3"], *, key: int = KEY, strength: float = STRENGTH
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mark of `key`; at least 48 pixels on a side. Raises: ValueError."""
    height, width = in_range(picture).shape[:2]
    side = min(height, width)
    fits = correlations(flattened(cells(square(picture), GRID)), key)[:PATTERNS]
    which, down, right = np.unravel_index(abs(fits).argmax(), fits.shape)
    sign = -1 if fits[which, down, right] < 0 else 1
    tile = resized(sign * np.roll(patterns(key)[which], (down, right), (0, 1)), side)
    across = np.tile(tile, (-(-height // side), -(-width // side)))[:height, :width]
    added = strength * room(brightness(picture)) * across
    return np.clip(np.rint(picture + added[..., None]), 0, 255).astype(np.uint8)


def marked(picture: UInt8[np.ndarray, "H W 3"], *, key: int = KEY) -> Found:
    """Whether the picture bears the mark of `key`. Raises: ValueError."""
    rest = flattened(cells(square(in_range(picture, 40)), GRID))
    peaks = np.max([matches(resized(rest, shown), key) for shown in SHOWN], axis=0)
    ours, decoys = peaks[:PATTERNS].max(), peaks[PATTERNS:]
    score = float((ours - decoys.mean()) / max(decoys.std(), 1e-6))
    # of the largest of PATTERNS values: 1 - F^PATTERNS, where F = exp(-beyond)
    beyond = np.exp(-np.pi / 6**0.5 * score - np.euler_gamma)
    chance = float(-np.expm1(-PATTERNS * beyond))
    return Found(chance < RARE, chance, score)


def in_range(picture: np.ndarray, least: int = GRID) -> np.ndarray:
    if picture.dtype != np.uint8 or picture.shape[2:] != (3,) or min(picture.shape[:2]) < least:
        raise ValueError(
            f"picture is {picture.dtype} {picture.shape}, must be uint8 (H, W, 3) from {least} on"
        )
    return picture


@cache
def patterns(key: int) -> Float[np.ndarray, "P H W"]:
    """PATTERNS to mark with and DECOYS, of mean 0 and root mean square 1, on the grid."""
    noise = np.random.default_rng(key).standard_normal((PATTERNS + DECOYS, GRID, GRID))
    waves = np.fft.fftfreq(GRID) * GRID
    radius = np.hypot(waves[:, None], waves)
    band = (radius >= BAND[0]) & (radius <= BAND[1])
    made = np.fft.ifft2(np.fft.fft2(noise) * band).real
    made = np.clip(made / made.std((1, 2), keepdims=True), -1.6, 1.6)  # no spots that are seen
    return (made / np.sqrt((made**2).mean((1, 2), keepdims=True))).astype(np.float32)


@cache
def spectra(key: int) -> Complex[np.ndarray, "P H F"]:
    return np.fft.rfft2(patterns(key))


def matches(rest: Plane, key: int) -> Float[np.ndarray, " P"]:
    """How well each pattern, or its negative, fits at the best of all offsets."""
    return abs(correlations(rest, key)).max((1, 2)) / np.sqrt((rest**2).sum() + 1e-6)


def correlations(rest: Plane, key: int) -> Float[np.ndarray, "P H W"]:
    """Of the plane with each pattern, at every offset."""
    padded = np.zeros((GRID, GRID), np.float32)
    padded[: len(rest), : len(rest)] = rest
    return np.fft.irfft2(np.fft.rfft2(padded) * np.conj(spectra(key)), s=padded.shape)


def square(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "N N 3"]:
    side = min(picture.shape[:2])
    return picture[:side, :side]


def brightness(picture: UInt8[np.ndarray, "H W 3"]) -> Plane:
    """ITU-R BT.601."""
    return picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def cells(picture: UInt8[np.ndarray, "N N 3"], count: int) -> Plane:
    """The brightness of a square picture, on `count` cells a side."""
    return resized(brightness(picture), count)


def resized(plane: Plane, side: int) -> Plane:
    """A square plane with `side` cells a side; a cell is a mean where it holds many."""
    if len(plane) == side:
        return plane
    how = Image.Resampling.BOX if len(plane) > 2 * side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(plane).resize((side, side), how))


def flattened(plane: Plane) -> Plane:
    """What a plane has besides its own shapes: its difference from the median around, limited."""
    return np.clip(plane - medians(plane), -LIMIT, LIMIT)


def room(plane: Plane) -> Plane:
    """How many times as much can be added as where all is smooth; an edge alone gives no room."""
    rough = medians(abs(plane - medians(plane)))
    return np.minimum(1 + rough / ROUGH, MOST)


def medians(plane: Plane) -> Plane:
    padded = np.pad(plane, WINDOW // 2, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW))
    return np.median(around, axis=(2, 3))
