"""Captions that are wrong by one word."""

from collections.abc import Iterator, Mapping

import numpy as np

from mlm_jax.world.grade import grade_caption
from mlm_jax.world.language import PLURAL, SHAPE_OF, WORDS, parse
from mlm_jax.world.scene import COLOURS, HELD_OUT, SHAPES, SIZES, Scene

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def contraries(text: str, scene: Scene) -> Iterator[tuple[str, str]]:
    """("colour" | "shape" | "size" | "relation", caption) for each word that may be another.

    Each caption is false of the scene, and reads like a true one: it names no pair that is held
    out, and nothing twice that was named once, so that its words do not give it away.
    """
    return ((kind, other) for kind, other in changed(text) if misleads(other, text, scene))


def contrary(text: str, scene: Scene, rng: np.random.Generator) -> str:
    """One of `contraries`, of a relation where there is one; "" where there is none at all.

    What else is in a picture is told from wrong captions by those of other pictures already.
    """
    drawn = rng.permutation(np.array([*changed(text)], dtype=object).reshape(-1, 2))
    first = sorted(drawn.tolist(), key=lambda each: each[0] != "relation")
    return next((other for _, other in first if misleads(other, text, scene)), "")


def changed(text: str) -> Iterator[tuple[str, str]]:
    """(kind, the text with another word in the place of one), true or not."""
    for found in WORDS.finditer(text):
        for kind, words in others(found[0]).items():
            for word in words:
                yield kind, f"{text[: found.start()]}{word}{text[found.end() :]}"


def misleads(other: str, text: str, scene: Scene) -> bool:
    """Whether `other` is false of the scene, and could have been said as `text` was."""
    before, objects = set(parse(text).objects), set(parse(other).objects)
    held_out = any((o.colour, o.shape) in HELD_OUT for o in objects - before)
    strange = held_out or len(objects) != len(before)
    return not strange and not grade_caption(other, scene).wholly_right


def others(word: str) -> Mapping[str, tuple[str, ...]]:
    """What could stand in the place of a word, by kind."""
    kinds = {
        "colour": tuple(COLOURS),
        "size": tuple(SIZES),
        "shape": SHAPES if word in SHAPES else tuple(PLURAL.values()) * (word in SHAPE_OF),
    }
    found = {k: tuple(w for w in words if w != word) for k, words in kinds.items() if word in words}
    return found | ({"relation": (OPPOSITE[word],)} if word in OPPOSITE else {})
