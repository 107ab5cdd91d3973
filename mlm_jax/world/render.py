"""Scene -> picture and clip -> pictures, anti-aliased at any resolution, in numpy.

A shape is a signed distance: negative inside, in radii, for points given relative to the object's
centre. Its coverage of a pixel is the distance in pixels, cut off half a pixel on either side of
the outline. Only the patch around an object is computed.
"""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, cos, floor, hypot, pi, sin

import numpy as np
from jaxtyping import Float, UInt8

from mlm_jax.world.clip import TURN, Clip, track
from mlm_jax.world.scene import COLOURS, REACH, Background, Object, Scene

Row = Float[np.ndarray, "1 W"]
Column = Float[np.ndarray, "H 1"]
Plane = Float[np.ndarray, "H W"]


def circle(x: Row, y: Column) -> Plane:
    return np.hypot(x, y) - 0.97


def square(x: Row, y: Column) -> Plane:
    return np.maximum(abs(x), abs(y)) - 0.82


def triangle(x: Row, y: Column) -> Plane:
    """Apex (0, -0.95), base from (-1, 0.8) to (1, 0.8)."""
    return np.maximum((1.75 * abs(x) - (y + 0.95)) / hypot(1.75, 1), y - 0.8)


def diamond(x: Row, y: Column) -> Plane:
    return (abs(x) + abs(y) - 1.05) * 0.5**0.5


def star(x: Row, y: Column) -> Plane:
    """A pentagram: the points that lie outside at most one of the five lines of its edges."""
    inner = 1.08 * cos(2 * pi / 5)
    lines = [x * sin(2 * pi * k / 5) - y * cos(2 * pi * k / 5) for k in range(5)]
    return np.sort(np.stack(lines), axis=0)[-2] - inner


def cross(x: Row, y: Column) -> Plane:
    x, y = abs(x), abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.33)


DISTANCE: dict[str, Callable[[Row, Column], Plane]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "diamond": diamond,
    "star": star,
    "cross": cross,
}


def render(scene: Scene, size: int = 48) -> UInt8[np.ndarray, "H W 3"]:
    """A square picture, `size` pixels (32 to 512) on a side."""
    picture = background(scene.background, in_range(size))
    for thing in scene.objects:
        paint(picture, thing)
    return (picture + 0.5).astype(np.uint8)


def play(clip: Clip, size: int = 48) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a clip, `size` pixels (32 to 512) on a side."""
    pictures = np.repeat(background(clip.background, in_range(size))[None], clip.frames, axis=0)
    for which, thing in enumerate(clip.objects):
        moves = track(clip.events, which, clip.frames)
        for picture, x, y, radius, turns, opacity in zip(pictures, *moves, strict=True):
            if opacity:
                there = thing._replace(
                    x=thing.x + float(x), y=thing.y + float(y), radius=thing.radius * float(radius)
                )
                paint(picture, there, float(turns) * TURN.get(thing.shape, 0.0), float(opacity))
    return (pictures + 0.5).astype(np.uint8)


def in_range(size: int) -> int:
    if not 32 <= size <= 512:
        raise ValueError(f"size is {size}, must be 32 to 512 pixels")
    return size


def paint(
    picture: Float[np.ndarray, "H W 3"], thing: Object, angle: float = 0.0, opacity: float = 1.0
) -> None:
    """Blend an object into the picture (levels 0 to 255), in place; `angle` in radians."""
    rows, columns = patch(thing, len(picture), turned=bool(angle))
    alpha = opacity * coverage(thing, len(picture), rows, columns, angle)[..., None]
    colour = np.minimum(np.array(COLOURS[thing.colour], np.float32) * thing.shade, 255)
    picture[rows, columns] += alpha * (colour - picture[rows, columns])


def patch(
    thing: Object, size: int, margin: float = 1.0, turned: bool = False
) -> tuple[slice, slice]:
    """Rows and columns of the picture that an object can touch, and `margin` pixels around."""
    reach = (REACH if turned else 1.1) * thing.radius * size + margin

    def span(centre: float) -> slice:
        low, high = floor(centre * size - reach), ceil(centre * size + reach)
        return slice(min(max(low, 0), size), min(max(high, 0), size))

    return span(thing.y), span(thing.x)


def coverage(thing: Object, size: int, rows: slice, columns: slice, angle: float = 0.0) -> Plane:
    """How much of each pixel of a patch the object covers, 0 to 1."""
    scale = thing.radius * size
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + (0.5 - thing.y * size)) / scale
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + (0.5 - thing.x * size)) / scale
    across, down = x[None], y[:, None]
    if angle:
        across, down = (
            across * cos(angle) + down * sin(angle),
            down * cos(angle) - across * sin(angle),
        )
    distance = DISTANCE[thing.shape](across, down) * scale
    return np.minimum(np.maximum(0.5 - distance, 0), 1)


def background(tones: Background, size: int) -> Float[np.ndarray, "H W 3"]:
    """`first` where the pattern is 0, `second` where it is 1; levels 0 to 255."""
    first = np.array(tones.first, np.float32)
    if tones.kind == "plain":
        return np.broadcast_to(first, (size, size, 3)).copy()
    second = np.array(tones.second, np.float32)
    return first + PATTERN[tones.kind](tones, size)[..., None] * (second - first)


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Row, Column]:
    """x and y of the pixels' centres, from -0.5 to 0.5."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return line[None], line[:, None]


def gradient(tones: Background, size: int) -> Plane:
    x, y = grid(size)
    return 0.5 + 0.7 * (x * cos(tones.angle) + y * sin(tones.angle))


def wave(position: np.ndarray, period: float, size: int) -> np.ndarray:
    """0 and 1 in turn, with flanks one pixel wide."""
    phase = abs((position / period) % 2 - 1) - 0.5  # a triangle wave from -0.5 to 0.5
    return np.minimum(np.maximum(0.5 + phase * period * size, 0), 1)


def stripes(tones: Background, size: int) -> Plane:
    x, y = grid(size)
    return wave(x * cos(tones.angle) + y * sin(tones.angle), tones.period, size)


def checks(tones: Background, size: int) -> Plane:
    x, y = (wave(side + tones.angle, tones.period, size) for side in grid(size))
    return x + y - 2 * x * y


def noise(tones: Background, size: int) -> Plane:
    """Random levels on a grid of 17 x 17 points, interpolated."""
    levels = np.random.default_rng(tones.seed).random((17, 17), np.float32)
    across = spread(size)
    return across @ levels @ across.T


@lru_cache(maxsize=8)
def spread(size: int) -> Float[np.ndarray, "N 17"]:
    """Weights that interpolate 17 points to `size` pixels."""
    position = (np.arange(size, dtype=np.float32)[:, None] + 0.5) * 16 / size
    return np.maximum(1 - abs(position - np.arange(17, dtype=np.float32)), 0)


PATTERN: dict[str, Callable[[Background, int], Plane]] = {
    "gradient": gradient,
    "stripes": stripes,
    "checks": checks,
    "noise": noise,
}
