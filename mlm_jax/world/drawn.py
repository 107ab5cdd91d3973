"""Does a picture, or a clip, show what its prompt tells? The graders of the world, turned round.

A picture passes when what `find` sees in it is what the prompt states, neither more nor less: as
many objects, every attribute that is stated, every relation. A clip passes when what `watch` sees
happens in it is what the prompt tells, in its order.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from mlm_jax.metrics import Figure, Ratio, bootstrap
from mlm_jax.world import story
from mlm_jax.world.grade import UNKNOWN, find
from mlm_jax.world.language import (
    BEGIN,
    RELATION_OF,
    SHAPE_OF,
    Facts,
    Relation,
    Told,
    holds,
    noun,
    parse,
)
from mlm_jax.world.scene import COLOURS, SIZES, Object
from mlm_jax.world.story import Act
from mlm_jax.world.watch import phrase, watch

KINDS = ("one", "two", "three", "more", "relation")
MATCHED = 5  # objects of a prompt, and of a picture, that are matched; the world has three
PARTS = ("count", "attributes")
FILLERS = frozenset(
    ["there", "is", "are", "the", "picture", "shows", "we", "see", "and", "of", "object", "objects"]
)
KNOWN = {*FILLERS, *BEGIN, *SIZES, *COLOURS, *SHAPE_OF, *" ".join(RELATION_OF.values()).split()}

Pairs = dict[int, int]


class Place(NamedTuple):
    """The centre of an object, in shares of the side."""

    x: float
    y: float


@dataclass(frozen=True)
class PictureGrade:
    """What a picture shows of its prompt."""

    kind: str
    """ "relation" where one is stated, else the number of objects told; one of KINDS."""
    count: bool
    """As many objects as are told."""
    attributes: bool
    """Every object told is there, with all that is stated of it."""
    relations: bool
    """Every relation stated is true; so it is where none is."""
    related: bool
    """Whether any is stated."""
    fates: tuple[str, ...]
    """Of each object told: "large blue star", "no large blue star", "square instead of circle"."""
    faults: tuple[str, ...]
    """What is wrong: of the fates, of the relations, and "red circle too many"."""
    places: tuple[Place | None, ...]
    """Where each object told is; None where it is not."""

    @property
    def passed(self) -> bool:
        return self.count and self.attributes and self.relations


@dataclass(frozen=True)
class ClipGrade:
    """What a clip shows of its prompt."""

    count: bool
    """As many events as are told."""
    attributes: bool
    """Every event told happens, to the object that is told."""
    order: bool
    """Those that happen do so in the order told."""
    fates: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.count and self.attributes and self.order


# ---- prompts


def unknown_words(prompt: str) -> tuple[str, ...]:
    """The words, and numbers in figures, that captions of the world do not have, each once."""
    words = re.findall(r"\w+", prompt.lower())
    return tuple(dict.fromkeys(word for word in words if word not in KNOWN))


def kind_of(facts: Facts) -> str:
    number = {1: "one", 2: "two", 3: "three"}.get(expected(facts), "more")
    return "relation" if facts.relations else number


def expected(facts: Facts) -> int:
    """How many objects are told: in so many words, or one by one."""
    return len(facts.objects) if facts.number is None else facts.number


# ---- pictures


def grade_picture(picture: UInt8[np.ndarray, "H W 3"], prompt: str) -> PictureGrade:
    """Hold a square picture against a prompt. Raises: ValueError if it tells no object."""
    facts = parse(prompt)
    if not facts.objects and facts.number is None:
        raise ValueError(f"{prompt!r} tells of no object of the world")
    found = find(picture)
    pairs = best_pairs(
        len(facts.objects),
        len(found),
        lambda i, j: alike(facts.objects[i], found[j]),
        lambda pairs: (
            sum(agreement(facts.objects[i], found[j]) for i, j in pairs.items()),
            sum(true(link, pairs, found) for link in facts.relations),
        ),
    )
    fates = [
        fate(told, found[pairs[i]] if i in pairs else None) for i, told in enumerate(facts.objects)
    ]
    wrong = [text for text, right in fates if not right]
    false = [
        f"{noun(facts.objects[link.first])} is not {link.relation}"
        f" {noun(facts.objects[link.second])}"
        for link in facts.relations
        if not true(link, pairs, found)
    ]
    count = len(found) == expected(facts)
    return PictureGrade(
        kind=kind_of(facts),
        count=count,
        attributes=not wrong,
        relations=not false,
        related=bool(facts.relations),
        fates=tuple(text for text, _ in fates),
        faults=(*wrong, *false, *miscounted(facts, pairs, found)),
        places=tuple(
            Place(found[pairs[i]].x, found[pairs[i]].y) if i in pairs else None
            for i in range(len(facts.objects))
        ),
    )


def best_pairs(
    rows: int,
    columns: int,
    possible: Callable[[int, int], bool],
    score: Callable[[Pairs], tuple[int, int]],
) -> Pairs:
    """Row -> column of the pairing with the highest score, each taken at most once.

    The first MATCHED of both are tried in every way, those beyond are left without a match.
    """
    options = [
        [j for j in range(min(columns, MATCHED)) if possible(i, j)]
        for i in range(min(rows, MATCHED))
    ]
    return max(pairings(options), key=score)


def pairings(options: Sequence[Sequence[int]], taken: tuple[int, ...] = ()) -> Iterator[Pairs]:
    """Every way to give each row one of its options, or none, each of them to one row.

    [[0], [0, 1]] -> {0: 0, 1: 1}, {0: 0}, {1: 0}, {1: 1}, {}
    """
    if len(taken) == len(options):
        yield {i: j for i, j in enumerate(taken) if j >= 0}
        return
    for j in [*(j for j in options[len(taken)] if j not in taken), -1]:
        yield from pairings(options, (*taken, j))


def alike(told: Told, thing: Object) -> bool:
    """Whether the one can be meant by the other: colour or shape agree, or all that is stated."""
    stated = sum(value is not None for value in told)
    named = thing.colour == told.colour or thing.shape == told.shape
    return named or agreement(told, thing) == stated


def agreement(told: Told, thing: Object) -> int:
    return sum(getattr(told, key) == getattr(thing, key) for key in Told._fields)


def true(link: Relation, pairs: Pairs, found: Sequence[Object]) -> bool:
    first, second = pairs.get(link.first), pairs.get(link.second)
    if first is None or second is None:
        return False
    return holds(found[first], link.relation, found[second])


def fate(told: Told, thing: Object | None) -> tuple[str, bool]:
    """What became of an object told, and whether it is as it should be."""
    if thing is None:
        return f"no {noun(told)}", False
    if thing.shape == UNKNOWN:
        return f"{thing.colour} thing without a shape instead of {noun(told)}", False
    said = {key: getattr(told, key) for key in Told._fields}
    wrong = [key for key, value in said.items() if value not in (None, getattr(thing, key))]
    if not wrong:
        return noun(told), True
    shown, meant = (
        " ".join(str(getattr(each, key)) for key in wrong) for each in (thing, told)
    )  # fmt: skip
    whole = "" if told.shape is None or "shape" in wrong else f" {told.shape}"
    return f"{shown} instead of {meant}{whole}", False


def miscounted(facts: Facts, pairs: Pairs, found: Sequence[Object]) -> list[str]:
    """The objects that are too many, or what number of them there is instead of the one told."""
    if len(found) <= expected(facts):
        few = facts.number is not None and len(found) < facts.number
        return [f"{len(found)} objects instead of {facts.number}"] if few else []
    extra = [found[j] for j in range(len(found)) if j not in pairs.values()]
    return [
        f"{noun((thing.size, thing.colour, thing.shape))} too many"
        for thing in extra[: len(found) - expected(facts)]
    ]


# ---- clips


def grade_clip(frames: UInt8[np.ndarray, "T H W 3"], prompt: str) -> ClipGrade:
    """Hold a square clip against a prompt. Raises: ValueError if it tells of nothing."""
    told = story.parse(prompt)
    if not told:
        raise ValueError(f"{prompt!r} tells of nothing that happens in clips of the world")
    seen = [one.act for one in watch(frames)]
    pairs = best_pairs(
        len(told),
        len(seen),
        lambda i, j: agreeing(told[i], seen[j]) >= min(2, stated(told[i])),
        lambda pairs: (
            sum(agreeing(told[i], seen[j]) for i, j in pairs.items()),
            sum(a < b for a, b in neighbours(pairs)),
        ),
    )
    fates = [event_fate(act, seen[pairs[i]] if i in pairs else None) for i, act in enumerate(told)]
    extra = [f"{phrase(act)}, untold" for j, act in enumerate(seen) if j not in pairs.values()]
    order = all(a < b for a, b in neighbours(pairs))
    wrong = [text for text, right in fates if not right]
    return ClipGrade(
        count=len(seen) == len(told),
        attributes=not wrong,
        order=order,
        fates=tuple(text for text, _ in fates),
        faults=(*wrong, *extra, *([] if order else ["in another order"])),
    )


def stated(act: Act) -> int:
    return sum(value is not None for value in act)


def agreeing(told: Act, seen: Act) -> int:
    return sum(a is not None and a == b for a, b in zip(told, seen, strict=True))


def neighbours(pairs: Pairs) -> list[tuple[int, int]]:
    columns = [pairs[i] for i in sorted(pairs)]
    return list(pairwise(columns))


def event_fate(told: Act, seen: Act | None) -> tuple[str, bool]:
    if seen is None:
        return f"no {phrase(told)}", False
    if agreeing(told, seen) < stated(told):
        return f"{phrase(seen)} instead of {phrase(told)}", False
    return phrase(told), True


# ---- many


def figures(grades: Sequence[PictureGrade]) -> dict[str, Figure]:
    """Shares with their intervals: passed, by kind too, and of each part.

    `drawn/relations` is over the prompts that state one.
    """
    rows: list[dict[str, float]] = []
    for grade in grades:
        row: dict[str, Any] = {name: getattr(grade, name) for name in ("passed", *PARTS)}
        row |= {"told": True, grade.kind: True, f"passed {grade.kind}": grade.passed}
        row |= {"related": grade.related, "relations": grade.relations and grade.related}
        rows.append({name: float(value) for name, value in row.items()})
    kinds = [kind for kind in KINDS if any(grade.kind == kind for grade in grades)]
    shares = {"drawn/passed": Ratio("passed", "told", "told")}
    shares |= {f"drawn/passed/{kind}": Ratio(f"passed {kind}", kind, kind) for kind in kinds}
    shares |= {f"drawn/{part}": Ratio(part, "told", "told") for part in PARTS}
    if any(grade.related for grade in grades):
        shares["drawn/relations"] = Ratio("relations", "related", "related")
    return bootstrap(rows, shares)


def spread(grades: Sequence[PictureGrade]) -> float:
    """How far objects lie from their mean place, over pictures of one prompt that pass.

    The root of the mean squared distance, in sides of the picture; nan below two pictures. In true
    pictures of one small object it is 0.32, and 0 where all are drawn at one place.
    """
    places = np.array([grade.places for grade in grades if grade.passed])
    if len(places) < 2 or not places.size:
        return float("nan")
    return float(np.sqrt(places.var(axis=0, ddof=1).sum(-1).mean()))
