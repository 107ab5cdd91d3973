"""Clip -> sound: what acts is heard while it acts, its colour as pitch and its shape as timbre.

What happens is how the tone changes: moving right or left steps to a higher or lower note, moving
up or down glides there; growing swells, shrinking fades; turning wavers; what blinks is faint while
it is gone; what appears has a hiss before its tone, and what vanishes one behind it.
"""

from collections.abc import Callable
from math import pi

import numpy as np
from jaxtyping import Float, Int16

from mlm_jax.world.clip import RATE, Clip, Event, beat
from mlm_jax.world.scene import COLOURS, SHAPES

SAMPLES = 8_000  # a second
LOWEST = 200.0  # Hz; the pitch of the first colour
STEP = 2 ** (3 / 12)  # between the pitches of two colours: a minor third
INTERVAL = 2 ** (1 / 12)  # from a tone to the one it goes to: less than that, so none is another's
LEVEL = 0.15  # of full scale, of one tone: three at once stay below 1
HISS = 0.3  # share of an event that is noise
NOISE = 0.002  # behind everything

Line = Float[np.ndarray, " S"]

# name -> strength of the harmonics 1, 2, 3, ...
TIMBRE: dict[str, tuple[float, ...]] = {
    "circle": (1.0,),
    "square": (1.0, 0.0, 0.8, 0.0, 0.6),
    "triangle": (1.0, 0.8),
    "diamond": (0.3, 1.0),
    "star": (0.5, 0.5, 0.5, 0.5, 0.5),
    "cross": (1.0, 0.0, 0.0, 0.9),
}
PITCH = {colour: LOWEST * STEP**i for i, colour in enumerate(COLOURS)}
assert tuple(TIMBRE) == SHAPES


def glide(by: float) -> Callable[[Line], Line]:
    return lambda at: INTERVAL ** (by * at)


def step(by: float) -> Callable[[Line], Line]:
    return lambda at: INTERVAL ** (by * (at >= 0.5))


# kind -> how the pitch goes with the time of the event, 0 to 1
BEND: dict[str, Callable[[Line], Line]] = {
    "moves up": glide(2),
    "moves down": glide(-2),
    "moves right": step(1),
    "moves left": step(-1),
    "turns": lambda at: INTERVAL ** (0.7 * np.sin(2 * pi * 4 * at)),
}


def loudness(event: Event, at: Line, frames: int) -> Line:
    """How loud the tone is with the time of the event, 0 to 1."""
    if event.kind == "grows":
        return 0.1 + 0.9 * at
    if event.kind == "shrinks":
        return 1 - 0.9 * at
    if event.kind == "appears":
        return (at >= HISS).astype(np.float64)
    if event.kind == "vanishes":
        return (at < 1 - HISS).astype(np.float64)
    if event.kind == "blinks":
        frame = at * (event.end - event.start)
        return np.where(frame // beat(frames) % 2 == 0, 0.2, 1.0)
    return np.ones_like(at)


def sound(clip: Clip, rng: np.random.Generator) -> Int16[np.ndarray, " S"]:
    """The sound of a clip, one channel of SAMPLES a second; `rng` draws the noise."""
    wave = NOISE * rng.standard_normal(round(clip.frames / RATE * SAMPLES))
    for event in clip.events:
        start, end = (round(frame / RATE * SAMPLES) for frame in (event.start, event.end))
        wave[start:end] += tone(clip, event, end - start, rng)
    return (32767 * np.clip(wave, -1, 1)).round().astype(np.int16)


def tone(clip: Clip, event: Event, count: int, rng: np.random.Generator) -> Line:
    thing = clip.objects[event.object]
    at = np.arange(count) / count
    pitch = PITCH[thing.colour] * BEND.get(event.kind, np.ones_like)(at)
    phase = 2 * pi * np.cumsum(pitch) / SAMPLES
    harmonics = TIMBRE[thing.shape]
    heard = sum(level * np.sin(n * phase) for n, level in enumerate(harmonics, 1))
    loud = loudness(event, at, clip.frames)
    wave = heard / np.linalg.norm(harmonics) * smooth(loud)
    if event.kind in ("appears", "vanishes"):
        wave = wave + 0.5 * smooth(1 - loud) * rng.standard_normal(count)
    edge = np.minimum(np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.005 * SAMPLES), 1)
    return LEVEL * wave * edge


def smooth(loud: Line) -> Line:
    """Over 5 ms, so that a change does not click."""
    width = round(0.005 * SAMPLES)
    padded = np.pad(loud, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), "same")[width // 2 :][: len(loud)]
