"""Which word of a caption speaks of which object of the embedded world, and where that one is."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mlm_jax.world.grade import match
from mlm_jax.world.language import SHAPE_OF, WORDS, parse
from mlm_jax.world.render import coverage, patch
from mlm_jax.world.scene import COLOURS, SIZES, Object, Scene

HALF = 0.5  # of a pixel: covered by more of it, it belongs to the object


class Spoken(NamedTuple):
    """A word from `start` on, its kind (size, colour, shape), and the objects it truly tells of."""

    word: str
    start: int
    kind: str
    objects: tuple[Object, ...]


def spoken(text: str, scene: Scene) -> Iterator[Spoken]:
    """The attributes and shapes of a caption that are true of the objects that are meant.

    What is meant is what `grade.match` finds; "two red circles" speak of both. A text up to a word
    tells as many objects as that up to the word before, unless the word begins a new one.
    """
    told = parse(text)
    meant = match(told, scene)
    own = range(0)
    for found in WORDS.finditer(text.lower()):
        before, after = (len(parse(text[:end]).objects) for end in found.span())
        own = range(before, after) if after > before else own
        for key, value in meanings(found[0]):
            objects = [meant[i] for i in own if i in meant and getattr(meant[i], key) == value]
            if objects:
                yield Spoken(found[0], found.start(), key, tuple(objects))


def meanings(word: str) -> list[tuple[str, str]]:
    """("colour", "red") and so on; none for words that tell nothing of an object."""
    found = [("size", word)] * (word in SIZES) + [("colour", word)] * (word in COLOURS)
    return found + ([("shape", SHAPE_OF[word])] if word in SHAPE_OF else [])


def mask(thing: Object, size: int) -> Bool[np.ndarray, "H W"]:
    """The pixels of a picture of that size that an object covers by more than half."""
    where = np.zeros((size, size), bool)
    rows, columns = patch(thing, size)
    where[rows, columns] = coverage(thing, size, rows, columns) > HALF
    return where


def distance(where: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Of each pixel to the nearest of a mask, in pixels; 0 inside."""
    height, width = where.shape
    y, x = np.nonzero(where)
    down = (np.arange(height)[:, None] - y).astype(np.float32) ** 2  # H P
    across = (np.arange(width)[:, None] - x).astype(np.float32) ** 2
    return np.sqrt((down[:, None] + across).min(-1))
