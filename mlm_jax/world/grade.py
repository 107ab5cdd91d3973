"""What is right and wrong: a picture read back into objects, a caption held against a scene.

`find` needs no learning. Backgrounds are nearly grey and objects are not, so that the chroma (a
colour without its grey part) of a pixel is that of the object times the coverage, whatever lies
behind. Pixels of one colour that touch make an object; each shape is drawn at its place, moved and
scaled until it fits best, and the best of the six is the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import dist

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from mlm_jax.world.language import Facts, Relation, Told, holds, noun, parse
from mlm_jax.world.pairing import Pairs, best_pairs
from mlm_jax.world.render import Plane, coverage, patch
from mlm_jax.world.scene import COLOURS, SHAPES, SIZES, Object, Scene

Area = tuple[slice, slice]

UNKNOWN = "unknown"
LARGEST = 96  # pixels: larger pictures are shrunk, which loses nothing that matters here
SEEN = 0.4  # coverage from which a pixel belongs to an object
SPECK = 0.006  # share of the picture below which coloured pixels are no object
BETWEEN = (SIZES["small"][1] + SIZES["large"][0]) / 2  # radius that divides small from large
STEPS = 4  # of Gauss-Newton


def chroma(levels: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
    return levels - levels.mean(-1, keepdims=True)


CHROMA = chroma(np.array(list(COLOURS.values()), np.float32))
STRENGTH = np.linalg.norm(CHROMA, axis=1)
DIRECTION = CHROMA / STRENGTH[:, None]


# ---- pictures


def find(picture: UInt8[np.ndarray, "H W 3"]) -> tuple[Object, ...]:
    """The objects in a square picture of 32 to 512 pixels, from left to right.

    The shape is "unknown" where something is there that fits none of the six.
    """
    side = len(picture)
    if not findable(picture.shape) or picture.dtype != np.uint8:
        raise ValueError(
            f"picture is {picture.dtype} {picture.shape}, must be uint8 (H, H, 3), H from 32 on"
        )
    if side > LARGEST:
        small = Image.fromarray(picture).resize((LARGEST, LARGEST), Image.Resampling.BOX)
        picture = np.asarray(small)
    colour = chroma(picture.astype(np.float32))
    projected = colour @ DIRECTION.T
    nearest = projected.argmax(-1)
    covered = np.take_along_axis(projected / STRENGTH, nearest[..., None], -1)[..., 0]
    parts = components(np.where(covered > SEEN, nearest, -1))
    found = []
    for part in range(parts.max() + 1):
        where = parts == part
        if where.sum() >= SPECK * where.size:
            i = int(np.bincount(nearest[where]).argmax())
            own = widen(widen(where)) & ~widen((parts >= 0) & ~where)
            own = own if (own & where).any() else where  # hemmed in, as in no real picture
            alpha = np.where(own, np.maximum(projected[..., i] / STRENGTH[i], 0), 0)
            found.append(identify(alpha, list(COLOURS)[i]))
    return tuple(sorted(found, key=lambda thing: thing.x))


def findable(shape: tuple[int, ...]) -> bool:
    """Whether pictures of this shape are read by `find`: square, and large enough."""
    return shape == (shape[0], shape[0], 3) and shape[0] >= 32


def recognised(picture: UInt8[np.ndarray, "H W 3"], scene: Scene) -> int:
    """How many objects of a scene `find` finds in a picture: what they are, where they are."""
    left = list(find(picture))
    found = len(left)
    for thing in scene.objects:
        same = [
            other
            for other in left
            if (other.shape, other.colour, other.size) == (thing.shape, thing.colour, thing.size)
            and dist((other.x, other.y), (thing.x, thing.y)) < thing.radius
        ]
        if same:
            left.remove(same[0])
    return found - len(left)


def components(kinds: Int[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """Number the patches of equal `kinds` that touch, corners included, from 0; -1 stays -1.

    The largest number spreads, row by row and column by column, until nothing changes.
    """
    height, width = kinds.shape
    numbers = np.where(kinds < 0, -1, np.arange(kinds.size).reshape(kinds.shape))
    shifts = ((0, 1), (1, 0), (1, 1), (1, -1))
    links = []
    for down, right in shifts:
        here = (slice(0, height - down), slice(max(-right, 0), width - max(right, 0)))
        there = (slice(down, height), slice(max(right, 0), width - max(-right, 0)))
        links.append((here, there, (kinds[here] == kinds[there]) & (kinds[here] >= 0)))
    while True:
        before = numbers.copy()
        for here, there, joined in links:
            larger = np.maximum(numbers[here], numbers[there])
            for side in (numbers[here], numbers[there]):
                np.maximum(side, larger, out=side, where=joined)
        if (numbers == before).all():
            break
    return np.unique(np.append(numbers, -1), return_inverse=True)[1][:-1].reshape(kinds.shape) - 1


def identify(alpha: Plane, colour: str) -> Object:
    """The object that best explains the coverage `alpha`, which is 0 where others are."""
    size = len(alpha)
    line = (np.arange(size) + 0.5) / size
    mass = alpha.sum()
    x, y = float(alpha.sum(0) @ line / mass), float(alpha.sum(1) @ line / mass)
    fits = []
    for shape in SHAPES:
        area, below = MOMENTS[shape]
        radius = float((mass / area) ** 0.5 / size)
        start = Object(shape, colour, "", x, y - below * radius, radius)
        fits.append(fit(alpha, start))
    misfit, thing = min(fits)
    if misfit > 0.12 + 0.5 / (thing.radius * size):  # an outline may be off by part of a pixel
        thing = thing._replace(shape=UNKNOWN)
    return thing._replace(size="small" if thing.radius < BETWEEN else "large")


def moments(shape: str) -> tuple[float, float]:
    """Of a shape of radius 1: its area, and how far below the centre its mass is."""
    thing, rows = Object(shape, "", "", 0.5, 0.5, 0.4), slice(0, 256)
    drawn = coverage(thing, 256, rows, rows)
    height = (np.arange(256) + 0.5) / 256 - 0.5
    return (
        float(drawn.sum() / (0.4 * 256) ** 2),
        float(drawn.sum(1) @ height / drawn.sum() / 0.4),
    )


MOMENTS = {shape: moments(shape) for shape in SHAPES}


def widen(where: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """`where` and the pixels next to it."""
    padded = np.pad(where, 1)
    upright = padded[:-2] | padded[1:-1] | padded[2:]
    return upright[:, :-2] | upright[:, 1:-1] | upright[:, 2:]


def fit(alpha: Plane, thing: Object) -> tuple[float, Object]:
    """Move, scale and shade an object until its coverage is `alpha`.

    Also the misfit: the difference that is left, as a share of the area of the object.
    """
    size = len(alpha)
    area = patch(thing, size, margin=3.0)
    target, step = alpha[area], 0.2 / size
    for _ in range(STEPS):
        drawn, shade = shaded(thing, target, size, area)
        moves = [
            coverage(thing._replace(**{key: getattr(thing, key) + step}), size, *area) - drawn
            for key in ("x", "y", "radius")
        ]
        slopes = np.stack(moves).reshape(3, -1) * shade
        normal = slopes @ slopes.T + 1e-4 * np.eye(3)
        change = np.linalg.solve(normal, slopes @ (target - shade * drawn).ravel()) * step
        dx, dy, wider = np.clip(change, -1 / size, 1 / size).tolist()
        radius = max(thing.radius + wider, 1 / size)
        thing = thing._replace(x=thing.x + dx, y=thing.y + dy, radius=radius)
    drawn, shade = shaded(thing, target, size, area)
    rest = abs(target - shade * drawn).sum() + alpha.sum() - target.sum()  # alpha >= 0
    return float(rest / max(shade * drawn.sum(), 1e-6)), thing._replace(shade=shade)


def shaded(thing: Object, target: Plane, size: int, area: Area) -> tuple[Plane, float]:
    """The coverage of an object, and the brightness with which it is nearest to the target."""
    drawn = coverage(thing, size, *area)
    return drawn, float((target * drawn).sum() / max((drawn * drawn).sum(), 1e-6))


# ---- captions


@dataclass(frozen=True)
class CaptionGrade:
    """What a caption got right of a scene, in counts that add up over captions.

    A fact is an attribute of an object: its shape, its colour, its size (three to an object). What
    a caption states beyond them, relations and the number of objects, counts among the facts that
    are `told`, and `right` when true, but is not `expected`.

    precision = right / told         of what the caption says, what is true
    recall = recalled / expected     of what is to be said of the objects, what it says
    F1                               their harmonic mean
    """

    told: int
    right: int
    expected: int
    recalled: int
    missed: tuple[str, ...]
    """What is there and was not told: "no large blue star", "size of the red star"."""
    invented: tuple[str, ...]
    """What was told and is not so: "small red cross", "star is green, not blue"."""
    invented_objects: int
    """Objects told that have no counterpart in the scene."""
    wholly_right: bool
    """Every object told once with all attributes, nothing else told, every statement true."""


def grade_caption(text: str, scene: Scene) -> CaptionGrade:
    """Hold any text against a scene.

    Each object told is matched with at most one true object, and each true one with at most one
    told: so that most attributes agree, then so that most relations are true. Two can be matched
    only if they share their colour or their shape; one without a match is invented, or missed.
    """
    facts = parse(text)
    matched = match(facts, scene)
    missed = [
        f"no {noun((thing.size, thing.colour, thing.shape))}"
        for thing in scene.objects
        if thing not in matched.values()
    ]
    invented = []
    recalled = 0
    for i, told in enumerate(facts.objects):
        if i in matched:
            recalled += agreement(told, matched[i])
            missed += untold(told, matched[i])
            invented += mistold(told, matched[i])
        else:
            invented.append(noun(told))
    false = [link for link in facts.relations if not is_true(link, matched)]
    for first, relation, second in false:
        invented.append(f"{noun(facts.objects[first])} {relation} {noun(facts.objects[second])}")
    claims = len(facts.relations) + (facts.number is not None)
    wrong_number = facts.number not in (None, len(scene.objects))
    if wrong_number:
        invented.append(f"{facts.number} objects instead of {len(scene.objects)}")
    attributes = sum(value is not None for told in facts.objects for value in told)
    return CaptionGrade(
        told=attributes + claims,
        right=recalled + claims - len(false) - wrong_number,
        expected=3 * len(scene.objects),
        recalled=recalled,
        missed=tuple(missed),
        invented=tuple(invented),
        invented_objects=len(facts.objects) - len(matched),
        wholly_right=not (missed or invented),
    )


def match(facts: Facts, scene: Scene) -> dict[int, Object]:
    """Place in `facts.objects` -> the true object that is meant."""

    def true(pairs: Pairs) -> dict[int, Object]:
        return {i: scene.objects[j] for i, j in pairs.items()}

    def score(pairs: Pairs) -> tuple[int, int]:
        matched = true(pairs)
        agreed = sum(agreement(facts.objects[i], thing) for i, thing in matched.items())
        return agreed, sum(is_true(link, matched) for link in facts.relations)

    def possible(i: int, j: int) -> bool:
        return alike(facts.objects[i], scene.objects[j])

    return true(best_pairs(len(facts.objects), len(scene.objects), possible, score))


def alike(told: Told, thing: Object) -> bool:
    return told.colour == thing.colour or told.shape == thing.shape


def agreement(told: Told, thing: Object) -> int:
    return sum(getattr(told, key) == getattr(thing, key) for key in Told._fields)


def untold(told: Told, thing: Object) -> list[str]:
    missing = [key for key in Told._fields if getattr(told, key) is None]
    return [f"{key} of the {noun((thing.size, thing.colour, thing.shape))}" for key in missing]


def mistold(told: Told, thing: Object) -> list[str]:
    pairs = [(getattr(told, key), getattr(thing, key)) for key in Told._fields]
    subject = told.shape or "object"
    return [f"{subject} is {true}, not {said}" for said, true in pairs if said not in (None, true)]


def is_true(link: Relation, matched: Mapping[int, Object]) -> bool:
    if link.first not in matched or link.second not in matched:
        return False
    return holds(matched[link.first], link.relation, matched[link.second])
