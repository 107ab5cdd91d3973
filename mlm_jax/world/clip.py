"""Clips: one to three coloured objects that do something, each event with its frames.

A clip is what a scene is, in time: the objects as they are at first, the background, and the events
in the order in which they begin. Places and radii are in units of the side of the picture, times in
frames. Everything is drawn so that a clip played backwards is as likely as the clip: what a middle
frame shows tells nothing about which of two opposite things (left or right, grows or shrinks,
appears or vanishes) is going on.
"""

import json
import random
from itertools import pairwise
from math import pi
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlm_jax.world.scene import (
    COLOURS,
    GAP,
    HELD_OUT,
    REACH,
    SHAPES,
    Background,
    Object,
    sample_background,
)

KINDS = (
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "grows",
    "shrinks",
    "turns",
    "blinks",
    "appears",
    "vanishes",
)
RATE = 8.0  # frames a second
FRAMES = (8, 64)  # fewest and most
# how far each turns, to look as before; a circle always does, a triangle only after a whole turn
TURN = {"square": pi, "diamond": pi, "star": 4 / 5 * pi, "cross": pi}
WAY = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}
DISTANCE = (0.28, 0.4)
GROWTH = 1.6  # ratio of the radii before and after
RADIUS = (0.085, 0.1)  # of a small object; GROWTH times as much of a large one
OBJECTS = (0.2, 0.4, 0.4)  # share of the clips with one, two, three objects
EVENTS = (0.25, 0.4, 0.35)  # share of the clips with one, two, three events
AGAIN = 0.35  # chance that an event is an earlier one once more: something to count


class Event(NamedTuple):
    """What an object (its place in `Clip.objects`) does in the frames `start` to `end` - 1.

    The first of them already differs from the frame before, and the last from the one before it.
    `by` is the distance of a move; of a turn 1 (clockwise) or -1.
    """

    kind: str
    object: int
    start: int
    end: int
    by: float = 0.0


class Clip(NamedTuple):
    objects: tuple[Object, ...]
    background: Background
    events: tuple[Event, ...]
    frames: int


class Track(NamedTuple):
    """An object over the frames: how far it has moved, radius (1 at first), how many turns it has
    made, and how visible it is, 0 to 1."""

    x: Float[np.ndarray, " F"]
    y: Float[np.ndarray, " F"]
    radius: Float[np.ndarray, " F"]
    turns: Float[np.ndarray, " F"]
    opacity: Float[np.ndarray, " F"]


def track(events: tuple[Event, ...], which: int, frames: int) -> Track:
    """What the events make of object `which`."""
    time = np.arange(frames)
    x, y, turns = (np.zeros(frames) for _ in range(3))
    radius, opacity = np.ones(frames), np.ones(frames)
    for event in events:
        if event.object != which:
            continue
        done = np.clip((time - event.start + 1) / (event.end - event.start), 0, 1)
        if event.kind in WAY:
            right, down = WAY[event.kind]
            x, y = x + right * event.by * done, y + down * event.by * done
        elif event.kind == "grows":
            radius = radius * GROWTH**done
        elif event.kind == "shrinks":
            radius = radius / GROWTH**done
        elif event.kind == "turns":
            turns = turns + event.by * done
        elif event.kind == "appears":
            opacity = opacity * done
        elif event.kind == "vanishes":
            opacity = opacity * (1 - done)
        elif event.kind == "blinks":
            hidden = (time - event.start) // beat(frames) % 2 == 0
            during = (time >= event.start) & (time < event.end)
            opacity = np.where(during & hidden, 0.0, opacity)
    return Track(x, y, radius, turns, opacity)


def beat(frames: int) -> int:
    """Frames for which something that blinks is gone, and back, in a clip of so many."""
    return max(1, frames // 16)


# ---- drawing lots


def sample(
    rng: np.random.Generator, *, novel: bool = False, objects: int = 0, frames: int = 16
) -> Clip:
    """A clip without held-out pairs, or (`novel`) one in which an object that acts is held out.

    `objects`: how many there are, each of which then acts once; 0 draws it, and what they do.
    Raises: ValueError for a number of frames out of range.
    """
    if not FRAMES[0] <= frames <= FRAMES[1]:
        raise ValueError(f"{frames} frames: from {FRAMES[0]} to {FRAMES[1]}")
    count = objects or int(rng.choice(3, p=OBJECTS)) + 1
    number = objects or min(int(rng.choice(3, p=EVENTS)) + 1, count * most(frames))
    dice = random.Random(int(rng.integers(1 << 62)))  # quicker than numpy, one number at a time
    while True:
        events = sample_events(dice, count, number, frames, each=bool(objects))
        if events is None:
            continue
        radii = [
            round(dice.uniform(*RADIUS) * GROWTH ** large(dice, events, i), 4) for i in range(count)
        ]
        places = sample_places(rng, events, radii, frames)
        if places is not None:
            break
    made = (
        Object(shape, colour, "small" if radius <= RADIUS[1] else "large", x, y, radius, shade)
        for (colour, shape), (x, y), radius, shade in zip(
            sample_names(dice, events, count, novel),
            places,
            radii,
            rng.uniform(0.92, 1.04, count).round(3).tolist(),
            strict=True,
        )
    )
    return Clip(tuple(made), sample_background(rng), events, frames)


def most(frames: int) -> int:
    """Events that one object has room for."""
    return (frames - 1 + beat(frames)) // (shortest(frames) + beat(frames))


def shortest(frames: int) -> int:
    return max(3, 3 * frames // 16)


def large(dice: random.Random, events: tuple[Event, ...], which: int) -> bool:
    """Whether an object is large at first: one that shrinks before it grows is."""
    changes = [e.kind for e in events if e.object == which and e.kind in ("grows", "shrinks")]
    return changes[0] == "shrinks" if changes else dice.random() < 0.5


def sample_events(
    dice: random.Random, objects: int, number: int, frames: int, each: bool
) -> tuple[Event, ...] | None:
    """`number` events in the order of their times, or None: what was drawn cannot be.

    With `each` every object has one. The times are drawn apart from what happens then, so that
    any order is as likely as its reverse.
    """
    things = range(objects)
    whose = dice.sample(things, number) if each else dice.choices(things, k=number)
    deeds = [(dice.choice(KINDS), which) for which in whose]
    for i in range(1, number):
        if not each and dice.random() < AGAIN:
            deeds[i] = dice.choice(deeds[:i])
    events = []
    for kind, which in deeds:
        length = sample_length(dice, kind, frames)
        start = dice.randint(1, frames - length)
        events.append(Event(kind, which, start, start + length, sample_by(dice, kind)))
    events.sort(key=lambda event: event.start)
    return tuple(events) if possible(events, frames) else None


def sample_length(dice: random.Random, kind: str, frames: int) -> int:
    """Frames of an event: a fifth to a third of the clip."""
    length = dice.randint(shortest(frames), max(3, 6 * frames // 16))
    if kind == "blinks":  # gone at least twice, and back after each
        times = max(2, (length + beat(frames)) // (2 * beat(frames)))
        return (2 * times - 1) * beat(frames) + 1
    return length


def sample_by(dice: random.Random, kind: str) -> float:
    if kind == "turns":
        return dice.choice((1.0, -1.0))
    return round(dice.uniform(*DISTANCE), 4) if kind in WAY else 0.0


def possible(events: list[Event], frames: int) -> bool:
    """Whether all begin and end one after the other, and what each object does can follow."""
    apart = max(1, frames // 8)
    for one, two in pairwise(events):
        if two.start - one.start < apart or two.end - one.end < apart:
            return False
    for which in {event.object for event in events}:
        own = [event for event in events if event.object == which]
        if any(two.start - one.end < beat(frames) for one, two in pairwise(own)):
            return False
        if not in_turn([event.kind for event in own]):
            return False
    return True


def in_turn(kinds: list[str]) -> bool:
    """Whether one object can do all this, one after the other."""
    sizes = [kind for kind in kinds if kind in ("grows", "shrinks")]
    again = any(one == two for one, two in pairwise(sizes))
    return not again and "appears" not in kinds[1:] and "vanishes" not in kinds[:-1]


def sample_places(
    rng: np.random.Generator, events: tuple[Event, ...], radii: list[float], frames: int
) -> list[tuple[float, float]] | None:
    """Centres at first, so that all stay inside and apart in every frame; None if none is found."""
    tracks = [track(events, i, frames) for i in range(len(radii))]
    way = np.stack([np.stack([t.x, t.y], axis=-1) for t in tracks])  # O F 2
    reach = REACH * np.stack([t.radius * r for t, r in zip(tracks, radii, strict=True)])  # O F
    low = (reach[..., None] + GAP / 2 - way).max(1)  # O 2
    high = (1 - reach[..., None] - GAP / 2 - way).min(1)
    if (low >= high).any():
        return None
    starts = (low + (high - low) * rng.random((64, len(radii), 2))).round(4)
    fits = np.ones(len(starts), bool)
    for j in range(len(radii)):
        for i in range(j):
            apart = starts[:, i, None] + way[i] - starts[:, j, None] - way[j]
            needed = reach[i] + reach[j] + GAP
            fits &= (np.hypot(apart[..., 0], apart[..., 1]) > needed).all(1)
    if not fits.any():
        return None
    return [(x, y) for x, y in starts[fits.argmax()].tolist()]


def sample_names(
    dice: random.Random, events: tuple[Event, ...], count: int, novel: bool
) -> list[tuple[str, str]]:
    """(colour, shape) of each object, all of different colours."""
    acting = {event.object for event in events}
    turning = {event.object for event in events if event.kind == "turns"}
    while True:
        colours = dice.sample(tuple(COLOURS), count)
        names = [
            (colour, dice.choice(tuple(TURN) if i in turning else SHAPES))
            for i, colour in enumerate(colours)
        ]
        held_out = {i for i, name in enumerate(names) if name in HELD_OUT}
        if bool(held_out & acting) if novel else not held_out:
            return names


# ---- written down


def name(clip: Clip) -> str:
    """What happens in a clip of one event, one of KINDS; "" for others."""
    return clip.events[0].kind if len(clip.events) == 1 else ""


def to_json(clip: Clip) -> str:
    return json.dumps(clip._asdict(), separators=(",", ":"))


def from_json(text: str) -> Clip:
    """The clip that `to_json` wrote; ValueError if `text` is something else."""
    try:
        tree = json.loads(text)
        objects = tuple(Object(*values) for values in tree["objects"])
        kind, first, second, *rest = tree["background"]
        events = tuple(Event(*values) for values in tree["events"])
        ground = Background(kind, tuple(first), tuple(second), *rest)
        return Clip(objects, ground, events, int(tree["frames"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not the JSON of a clip ({error}): {text[:80]!r}") from error
