"""What is right and wrong in time: a clip read back into events, a caption held against a clip.

`watch` needs no learning. The objects of a clip have different colours, so that each is followed by
its colour alone: where what is seen of it changes from one frame to the next, something happens,
and how it was before and after says what.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mlm_jax.world.clip import Clip, beat
from mlm_jax.world.grade import DIRECTION, LARGEST, STRENGTH, UNKNOWN, chroma, findable, identify
from mlm_jax.world.pairing import Pairs, best_pairs, rising
from mlm_jax.world.render import Plane
from mlm_jax.world.scene import COLOURS
from mlm_jax.world.story import Act, acts, parse

FAINT = 0.12  # share of a colour in a pixel below which it may be the background's
CHANGED = 0.02  # share of an object's area that must differ for it to have changed
RISE = 0.015  # and of its colour, as it appears
THERE = 0.006  # share of the picture from which coloured pixels are an object
SHORTEST = 3  # frames of a turn: what is shorter is a flicker
MOVED = 0.08  # of the side of the picture
GREW = 1.3  # ratio of the areas

Planes = Float[np.ndarray, "T H W"]


class Seen(NamedTuple):
    """An event as it was seen: what of whom, in the frames `start` to `end` - 1."""

    act: Act
    start: int
    end: int


# ---- clips


def watch(frames: UInt8[np.ndarray, "T H W 3"]) -> tuple[Seen, ...]:
    """The events of a square clip, by their first frame. Raises: ValueError."""
    if not watchable(frames.shape) or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}, "
            "must be uint8 (T, H, H, 3), T from 2 on and H from 32 on"
        )
    levels = np.stack([shrunk(frame) for frame in frames]).astype(np.float32)
    projected = chroma(levels) @ DIRECTION.T
    nearest = projected.argmax(-1)
    seen = []
    for i, colour in enumerate(COLOURS):
        tint = projected[..., i] / STRENGTH[i]
        seen += happened(colour, tint, np.where((nearest == i) & (tint > FAINT), tint, 0))
    return tuple(sorted(seen, key=lambda one: (one.start, one.end)))


def watchable(shape: tuple[int, ...]) -> bool:
    """Whether clips of this shape are read by `watch`: square, and large and long enough."""
    return shape[0] > 1 and findable(shape[1:])


def recognised(frames: UInt8[np.ndarray, "T H W 3"], clip: Clip) -> int:
    """How many events of a clip `watch` sees: what happens, and to whom."""
    seen = Counter(one.act for one in watch(frames))
    return (seen & Counter(acts(clip))).total()


def shrunk(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    if len(frame) <= LARGEST:
        return frame
    return np.asarray(Image.fromarray(frame).resize((LARGEST, LARGEST), Image.Resampling.BOX))


def happened(colour: str, tint: Planes, covered: Planes) -> list[Seen]:
    """What the object of a colour does.

    `tint` is the share of its colour in each pixel, the background's included, and `covered` the
    same where it is certain that the object is there.
    """
    area = covered.sum((1, 2))
    if area.max() < THERE * covered[0].size:
        return []
    seen = []
    noise = float(np.median(abs(np.diff(tint, axis=0))))  # 0 where nothing was added to a clip
    for start, end in changes(covered, area, noise):
        before, after = covered[start - 1], covered[end - 1]
        there, still = (plane.sum() > 0.1 * area.max() for plane in (before, after))
        if there and still:
            gone = area[start:end].min() < 0.1 * area.max()
            action = "blinks" if gone else changed(before, after)
            shape = one_of({identify(plane, colour).shape for plane in (before, after)})
        elif there or still:
            action, rest = ("vanishes", before) if there else ("appears", after)
            start, end = faint(tint[:, rest > 0.5 * rest.max()].mean(1), start, end)
            shape = identify(rest, colour).shape
        else:
            continue
        if action != "turns" or end - start >= SHORTEST:
            seen.append(Seen(Act(colour, shape, action), start, end))
    return seen


def one_of(shapes: set[str]) -> str:
    return shapes.pop() if len(shapes) == 1 else UNKNOWN


def changes(covered: Planes, area: Float[np.ndarray, " T"], noise: float) -> list[tuple[int, int]]:
    """First and last frame, and one, of what happens: frames that differ from the one before.

    Two that are farther apart than a beat belong to different events.
    """
    scale = np.maximum(np.maximum(area[1:], area[:-1]), 0.25 * area.max())
    differs = abs(np.diff(covered, axis=0)).sum((1, 2)) > (CHANGED + 2 * noise) * scale
    spans: list[tuple[int, int]] = []
    for frame in (np.flatnonzero(differs) + 1).tolist():
        if spans and frame < spans[-1][1] + beat(len(covered)):
            spans[-1] = (spans[-1][0], frame + 1)
        else:
            spans.append((frame, frame + 1))
    return spans


def faint(tint: Float[np.ndarray, " T"], start: int, end: int) -> tuple[int, int]:
    """The span with the frames in which an object is too faint to be certain of."""
    while start > 1 and tint[start - 1] - tint[start - 2] > RISE:
        start -= 1
    while end < len(tint) and tint[end - 1] - tint[end] > RISE:
        end += 1
    return start, end


def changed(before: Plane, after: Plane) -> str:
    """What an object does that is there before and after."""
    ratio = after.sum() / before.sum()
    if max(ratio, 1 / ratio) > GREW:
        return "grows" if ratio > 1 else "shrinks"
    right, down = centre(after) - centre(before)
    if max(abs(right), abs(down)) < MOVED:
        return "turns"
    if abs(right) > abs(down):
        return "moves right" if right > 0 else "moves left"
    return "moves down" if down > 0 else "moves up"


def centre(plane: Plane) -> Float[np.ndarray, "2"]:
    """Column and row of the middle of what is there, as shares of the side."""
    line = (np.arange(len(plane)) + 0.5) / len(plane)
    return np.array([plane.sum(0) @ line, plane.sum(1) @ line]) / plane.sum()


# ---- captions


@dataclass(frozen=True)
class StoryGrade:
    """What a caption got right of a clip, in counts that add up over captions.

    A fact is the colour or the shape of the object of an event, or what it does: three to an event.

    precision = right / told         of what the caption says, what is true
    recall = recalled / expected     of what is to be said of the events, what it says
    F1                               their harmonic mean
    """

    told: int
    right: int
    expected: int
    recalled: int
    missed: tuple[str, ...]
    """What happens and was not told: "red circle turns", "colour of: red circle turns"."""
    invented: tuple[str, ...]
    """What was told and is not so: "red star turns", "red star turns, not blue star turns"."""
    invented_objects: int
    """Events told that have no counterpart in the clip."""
    in_order: bool
    """Every event told, and in the order in which they begin."""
    wholly_right: bool


def grade_story(text: str, clip: Clip) -> StoryGrade:
    """Hold any text against a clip.

    Each event told is matched with at most one true one, so that most facts agree, and of equal
    matches the one that is most in order.
    """
    told, true = parse(text), acts(clip)
    matched = match(told, true)
    order = [matched[i] for i in range(len(told)) if i in matched]
    right = sum(agreement(told[i], true[j]) for i, j in matched.items())
    missed = [phrase(true[j]) for j in range(len(true)) if j not in matched.values()]
    for i, j in matched.items():
        missed += [f"{key} of: {phrase(true[j])}" for key in untold(told[i])]
    invented = [
        phrase(act) if i not in matched else f"{phrase(act)}, not {phrase(true[matched[i]])}"
        for i, act in enumerate(told)
        if i not in matched or wrong(act, true[matched[i]])
    ]
    in_order = order == list(range(len(true)))
    whole = in_order and right == 3 * len(true) and len(told) == len(true)
    return StoryGrade(
        told=sum(value is not None for act in told for value in act),
        right=right,
        expected=3 * len(true),
        recalled=right,
        missed=tuple(missed),
        invented=tuple(invented),
        invented_objects=len(told) - len(matched),
        in_order=in_order,
        wholly_right=whole,
    )


def match(told: tuple[Act, ...], true: tuple[Act, ...]) -> Pairs:
    """Place of an event as told -> that of the true one that is meant, of which two facts agree."""
    return best_pairs(
        len(told),
        len(true),
        lambda i, j: agreement(told[i], true[j]) >= 2,
        lambda pairs: (
            sum(agreement(told[i], true[j]) for i, j in pairs.items()),
            sum(rising(pairs)),
        ),
    )


def agreement(told: Act, true: Act) -> int:
    """How many of the facts told are so."""
    return sum(a is not None and a == b for a, b in zip(told, true, strict=True))


def untold(told: Act) -> list[str]:
    return [key for key, value in told._asdict().items() if value is None]


def wrong(told: Act, true: Act) -> bool:
    return any(a not in (None, b) for a, b in zip(told, true, strict=True))


def phrase(act: Act) -> str:
    named = " ".join(word for word in act[:2] if word)
    return f"{named or 'something'} {act.action or 'is there'}"
