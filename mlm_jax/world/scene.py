"""Scenes: one to three coloured objects on a background, sampled and written down exactly.

Places and radii are in units of the side of the picture: x from 0 (left) to 1 (right), y from 0
(top) to 1 (bottom). All numbers are rounded when they are drawn, so that a scene and its JSON are
the same scene.
"""

import json
from math import dist
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLOURS = {
    "red": (220, 35, 35),
    "green": (40, 165, 50),
    "blue": (45, 75, 225),
    "yellow": (235, 215, 35),
    "purple": (135, 50, 195),
    "orange": (245, 130, 25),
    "pink": (250, 115, 195),
    "cyan": (40, 200, 215),
}
SIZES = {"small": (0.095, 0.11), "large": (0.15, 0.17)}  # from radius, to radius
BACKGROUNDS = ("plain", "gradient", "stripes", "checks", "noise")

# (colour, shape) pairs that are seen, and named, in the split `novel` only
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("green", "cross"),
        ("blue", "triangle"),
        ("yellow", "circle"),
        ("purple", "square"),
        ("orange", "diamond"),
        ("pink", "cross"),
        ("cyan", "square"),
    }
)
CLASSES = tuple(f"{c} {s}" for c in COLOURS for s in SHAPES)  # names of a scene of one object
SEEN = tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT)

OBJECTS = (0.2, 0.35, 0.45)  # share of the scenes with one, two, three objects
COPY = 0.35  # chance that an attribute is taken from an earlier object: pairs to count and compare
GAP = 0.045  # between two objects: 2 pixels at 48
REACH = 1.17  # radii from the centre to the farthest point of any shape (a square's corner)


class Object(NamedTuple):
    """`radius` is half the width; `shade` multiplies the colour's brightness."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    shade: float = 1.0


class Background(NamedTuple):
    """Greyish tones `first` and `second`, mixed by a pattern that render draws."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    angle: float
    period: float
    seed: int


class Scene(NamedTuple):
    objects: tuple[Object, ...]
    background: Background


def sample(rng: np.random.Generator, *, novel: bool = False, objects: int = 0) -> Scene:
    """A scene without held-out pairs, or (`novel`) one in which at least one object is held out.

    `objects`: how many it has; 0 draws it.
    """
    u = float(rng.random())
    count = objects or 1 + (u > OBJECTS[0]) + (u > OBJECTS[0] + OBJECTS[1])
    names = sample_names(rng, count, novel)
    radii = [round(float(rng.uniform(*SIZES[size])), 4) for size, _, _ in names]
    shades = rng.uniform(0.92, 1.04, count).round(3).tolist()
    places = sample_places(rng, radii)
    made = (
        Object(shape, colour, size, x, y, radius, shade)
        for (size, colour, shape), (x, y), radius, shade in zip(
            names, places, radii, shades, strict=True
        )
    )
    return Scene(tuple(made), sample_background(rng))


def sample_names(rng: np.random.Generator, count: int, novel: bool) -> list[tuple[str, str, str]]:
    """(size, colour, shape) of each object. Each attribute is copied on its own: a shared colour
    says nothing about a shared shape."""
    sizes, colours = tuple(SIZES), tuple(COLOURS)
    while True:
        names: list[tuple[str, str, str]] = []
        for fresh, copied, source in rng.random((count, 3, 3)).transpose(0, 2, 1).tolist():
            values = [
                options[int(u * len(options))]
                for options, u in zip((sizes, colours, SHAPES), fresh, strict=True)
            ]
            for i in range(3):
                if names and copied[i] < COPY:
                    values[i] = names[int(source[i] * len(names))][i]
            names.append((values[0], values[1], values[2]))
        if any(name[1:] in HELD_OUT for name in names) == novel:
            return names


def sample_places(rng: np.random.Generator, radii: list[float]) -> list[tuple[float, float]]:
    """Centres, inside the picture, that keep GAP between the objects."""
    inside = [(r + GAP / 2, 1 - 2 * r - GAP) for r in radii]  # lowest value, and range
    pairs = [
        (i, j, REACH * (radii[i] + radii[j]) + GAP) for j in range(len(radii)) for i in range(j)
    ]
    while True:
        for layout in rng.random((32, len(radii), 2)).tolist():
            places = [
                (round(low + width * u, 4), round(low + width * v, 4))
                for (u, v), (low, width) in zip(layout, inside, strict=True)
            ]
            if all(dist(places[i], places[j]) > apart for i, j, apart in pairs):
                return places


def sample_background(rng: np.random.Generator) -> Background:
    """Two near-grey tones of similar brightness: at most 8 levels between the channels' tints."""
    u = rng.random(12).tolist()
    kind = BACKGROUNDS[int(u[0] * len(BACKGROUNDS))]
    level = 15 + 225 * u[1]
    step = (20 + 40 * u[2]) * (-1 if level > 127 else 1)
    first = [int(level + 8 * v) for v in u[3:6]]
    second = [int(level + step + 8 * v) for v in u[6:9]]
    return Background(
        kind,
        (first[0], first[1], first[2]),
        (second[0], second[1], second[2]),
        round(6.2832 * u[9], 4),
        round(0.12 + 0.2 * u[10], 4),
        int(u[11] * 2**31),
    )


def name(scene: Scene) -> str:
    """ "red circle" for a scene of one object, "" for others; one of CLASSES."""
    if len(scene.objects) != 1:
        return ""
    (only,) = scene.objects
    return f"{only.colour} {only.shape}"


def to_json(scene: Scene) -> str:
    tree = {"objects": scene.objects, "background": scene.background}
    return json.dumps(tree, separators=(",", ":"))


def from_json(text: str) -> Scene:
    """The scene that `to_json` wrote; ValueError if `text` is something else."""
    try:
        tree = json.loads(text)
        objects = tuple(Object(*values) for values in tree["objects"])
        kind, first, second, *rest = tree["background"]
        return Scene(objects, Background(kind, tuple(first), tuple(second), *rest))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not the JSON of a scene ({error}): {text[:80]!r}") from error
