"""Does a picture, or a clip, show what its prompt tells? The graders of the world, turned round.

A picture passes when what `find` sees in it is what the prompt states, neither more nor less: as
many objects, every attribute that is stated, every relation. A clip passes when what `watch` sees
happens in it is what the prompt tells, in its order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from mlm_jax.metrics import Figure, Ratio, bootstrap
from mlm_jax.world import grade, story, watch
from mlm_jax.world.grade import UNKNOWN, agreement, find, is_true
from mlm_jax.world.language import Facts, Told, noun, parse
from mlm_jax.world.pairing import Pairs, best_pairs, rising
from mlm_jax.world.scene import Object
from mlm_jax.world.story import Act

NUMBERS = ("one", "two", "three", "more")
KINDS = (*NUMBERS, *(f"{number} related" for number in NUMBERS))


class Place(NamedTuple):
    """The centre of an object, in shares of the side."""

    x: float
    y: float


@dataclass(frozen=True)
class PictureGrade:
    """What a picture shows of its prompt."""

    kind: str
    """The number of objects told, and "related" where a relation is stated; one of KINDS."""
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

    kind: str
    """The number of events told; one of NUMBERS."""
    count: bool
    """As many events as are told."""
    attributes: bool
    """Something happens to every object told, with all that is stated of it."""
    motion: bool
    """Every event told happens, whatever it happens to."""
    order: bool
    """Those that happen do so in the order told."""
    fates: tuple[str, ...]
    faults: tuple[str, ...]
    places: tuple[Place | None, ...]
    """Where the first object to be seen is, in the frame in which it is."""

    @property
    def passed(self) -> bool:
        return self.count and self.attributes and self.motion and self.order


# ---- prompts


def kind_of(facts: Facts) -> str:
    return number_of(expected(facts)) + (" related" if facts.relations else "")


def number_of(things: int) -> str:
    return NUMBERS[min(max(things, 1), len(NUMBERS)) - 1]


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

    def things(pairs: Pairs) -> dict[int, Object]:
        return {i: found[j] for i, j in pairs.items()}

    pairs = best_pairs(
        len(facts.objects),
        len(found),
        lambda i, j: alike(facts.objects[i], found[j]),
        lambda pairs: (
            sum(agreement(facts.objects[i], found[j]) for i, j in pairs.items()),
            sum(is_true(link, things(pairs)) for link in facts.relations),
        ),
    )
    matched = things(pairs)
    fates = [fate(told, matched.get(i)) for i, told in enumerate(facts.objects)]
    wrong = [text for text, right in fates if not right]
    false = [
        f"{noun(facts.objects[link.first])} is not {link.relation}"
        f" {noun(facts.objects[link.second])}"
        for link in facts.relations
        if not is_true(link, matched)
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
            Place(matched[i].x, matched[i].y) if i in matched else None
            for i in range(len(facts.objects))
        ),
    )


def alike(told: Told, thing: Object) -> bool:
    """Whether the one can be meant by the other: colour or shape agree, or all that is stated."""
    return grade.alike(told, thing) or agreement(told, thing) == stated(told)


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
    seen = [one.act for one in watch.watch(frames)]
    pairs = best_pairs(
        len(told),
        len(seen),
        lambda i, j: watch.agreement(told[i], seen[j]) >= min(2, stated(told[i])),
        lambda pairs: (
            sum(watch.agreement(told[i], seen[j]) for i, j in pairs.items()),
            sum(rising(pairs)),
        ),
    )
    met = [(act, seen[pairs[i]] if i in pairs else None) for i, act in enumerate(told)]
    fates = [event_fate(*each) for each in met]
    extra = [
        f"{watch.phrase(act)}, untold" for j, act in enumerate(seen) if j not in pairs.values()
    ]
    swapped = not all(rising(pairs))
    wrong = [text for text, right in fates if not right]
    return ClipGrade(
        kind=number_of(len(told)),
        count=len(seen) == len(told),
        attributes=all(agrees(act._replace(action=None), one) for act, one in met),
        motion=all(agrees(Act(action=act.action), one) for act, one in met),
        order=len(pairs) == len(told) and not swapped,
        fates=tuple(text for text, _ in fates),
        faults=(*wrong, *extra, *(["in another order"] if swapped else [])),
        places=(first_place(frames),),
    )


def first_place(frames: UInt8[np.ndarray, "T H W 3"]) -> Place | None:
    found = next(filter(None, map(find, frames)), None)
    return Place(found[0].x, found[0].y) if found else None


def agrees(told: Act, seen: Act | None) -> bool:
    """Whether all that is stated is so."""
    return seen is not None and watch.agreement(told, seen) == stated(told)


def stated(told: Act | Told) -> int:
    return sum(value is not None for value in told)


def event_fate(told: Act, seen: Act | None) -> tuple[str, bool]:
    if seen is None:
        return f"no {watch.phrase(told)}", False
    if not agrees(told, seen):
        return f"{watch.phrase(seen)} instead of {watch.phrase(told)}", False
    return watch.phrase(told), True


# ---- many


def figures(grades: Sequence[PictureGrade] | Sequence[ClipGrade]) -> dict[str, Figure]:
    """Shares with their intervals: passed, by kind too, and of each part.

    `drawn/relations` is over the prompts that state one, `drawn/motion` over those of clips,
    `drawn/order` over those of several events.
    """
    rows: list[dict[str, float]] = []
    for each in grades:
        row: dict[str, Any] = {part: getattr(each, part) for part in ("count", "attributes")}
        row |= {"passed": each.passed, "told": True}
        row |= {each.kind: True, f"passed {each.kind}": each.passed}
        if isinstance(each, PictureGrade):
            row |= {"related": each.related, "relations": each.relations and each.related}
        else:
            several = each.kind != "one"
            row |= {"moving": True, "motion": each.motion}
            row |= {"several": several, "order": each.order and several}
        rows.append({name: float(value) for name, value in row.items()})
    counted = {name for row in rows for name, value in row.items() if value}
    kinds = [kind for kind in KINDS if kind in counted]
    shares = {"drawn/passed": Ratio("passed", "told", "told")}
    shares |= {f"drawn/passed/{kind}": Ratio(f"passed {kind}", kind, kind) for kind in kinds}
    shares |= {f"drawn/{part}": Ratio(part, "told", "told") for part in ("count", "attributes")}
    if "related" in counted:
        shares["drawn/relations"] = Ratio("relations", "related", "related")
    if "moving" in counted:
        shares["drawn/motion"] = Ratio("motion", "moving", "moving")
    if "several" in counted:
        shares["drawn/order"] = Ratio("order", "several", "several")
    return bootstrap(rows, shares)


def spread(grades: Sequence[PictureGrade] | Sequence[ClipGrade]) -> float:
    """How far objects lie from their mean place, over pictures, or clips, of a prompt that pass.

    The root of the mean squared distance, in sides of the picture; nan below two of them. In true
    pictures of one small object it is 0.32, and 0 where all are drawn at one place.
    """
    places = np.array([each.places for each in grades if each.passed and all(each.places)])
    if len(places) < 2 or not places.size:
        return float("nan")
    return float(np.sqrt(places.var(axis=0, ddof=1).sum(-1).mean()))
