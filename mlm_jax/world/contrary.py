"""Captions that are wrong by one word."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from mlm_jax.world import clip, scene, story
from mlm_jax.world.clip import KINDS as ACTIONS
from mlm_jax.world.clip import TURN, Clip, in_turn
from mlm_jax.world.grade import grade_caption
from mlm_jax.world.language import PLURAL, SHAPE_OF, Told, parse
from mlm_jax.world.scene import COLOURS, HELD_OUT, SHAPES, SIZES, Scene
from mlm_jax.world.story import WAYS, Act
from mlm_jax.world.watch import grade_story

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
MOVES = tuple(f"moves {way}" for way in sorted(WAYS))
PHRASES = re.compile(r"moves [a-z]+|[a-z]+")
"""Words, and two that together say what is done: left is not what it is in "left of"."""


def truth_of(text: str) -> Scene | Clip:
    """What the truth of a record says. Raises: ValueError."""
    return clip.from_json(text) if '"events"' in text else scene.from_json(text)


def holds(text: str, truth: Scene | Clip) -> bool:
    """Whether all that a caption says is so; of a clip also whether it says all that happens."""
    grade = grade_story(text, truth) if isinstance(truth, Clip) else grade_caption(text, truth)
    return grade.wholly_right


def contraries(text: str, truth: Scene | Clip) -> Iterator[tuple[str, str]]:
    """(kind, caption) for each word that may be another, of the kinds "colour", "shape", "size",
    "relation", and of clips "action" and "direction".

    Each caption is false of the scene, or clip, and reads like a true one: it names no pair that is
    held out, and nothing twice that was named once, so that its words do not give it away.
    """
    return ((kind, other) for kind, other in changed(text) if misleads(other, text, truth))


def contrary(text: str, truth: Scene | Clip, rng: np.random.Generator) -> str:
    """One of `contraries`, of a relation or a direction where one is told; "" where there is none
    at all.

    What else is in a picture is told from wrong captions by those of other pictures already.
    """
    drawn = rng.permutation(np.array([*changed(text)], dtype=object).reshape(-1, 2))
    first = sorted(drawn.tolist(), key=lambda each: each[0] not in ("relation", "direction"))
    return next((other for _, other in first if misleads(other, text, truth)), "")


def changed(text: str) -> Iterator[tuple[str, str]]:
    """(kind, the text with another word in the place of one), true or not."""
    for found in PHRASES.finditer(text):
        for kind, words in others(found[0]).items():
            for word in words:
                yield kind, f"{text[: found.start()]}{word}{text[found.end() :]}"


def misleads(other: str, text: str, truth: Scene | Clip) -> bool:
    """Whether `other` is false of the truth, and could have been said as `text` was."""
    before: Collection[Told | Act]
    now: Collection[Told | Act]
    if isinstance(truth, Clip):
        before, now = story.parse(text), (acts := story.parse(other))
        strange = not can_be(acts)
    else:
        before, now = (set(parse(each).objects) for each in (text, other))
        strange = len(now) != len(before)
    held_out = pairs_of(now) - pairs_of(before) & HELD_OUT
    return not strange and not held_out and not holds(other, truth)


def pairs_of(told: Collection[Told | Act]) -> set[tuple[str | None, str | None]]:
    return {(each.colour, each.shape) for each in told}


def can_be(told: Sequence[Act]) -> bool:
    """Whether there is a clip in which just this happens: objects have colours of their own."""
    things = pairs_of(told)
    if len({colour for colour, _ in things}) != len(things):
        return False
    done = [[str(act.action) for act in told if act[:2] == thing] for thing in things]
    turning = {act.shape for act in told if act.action == "turns"}
    return turning <= set(TURN) and all(in_turn(kinds) for kinds in done)


def others(word: str) -> Mapping[str, tuple[str, ...]]:
    """What could stand in the place of a word, by kind."""
    kinds = {
        "colour": tuple(COLOURS),
        "size": tuple(SIZES),
        "shape": SHAPES if word in SHAPES else tuple(PLURAL.values()) * (word in SHAPE_OF),
        "action": tuple(action for action in ACTIONS if action not in MOVES),
        "direction": MOVES,
    }
    found = {k: tuple(w for w in words if w != word) for k, words in kinds.items() if word in words}
    return found | ({"relation": (OPPOSITE[word],)} if word in OPPOSITE else {})
