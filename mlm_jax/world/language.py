"""What is said and asked about a scene, in fewer than a hundred lower-case words; and reading it.

A caption tells every object with its size, colour and shape; objects that look the same are one
phrase ("two small red circles"). Relations go by the larger offset of the two axes and are told,
and asked, only where that one is clear.

A question is asked so that its words do not give its answer away: the form is chosen first, then
the answer by a coin, and a form is used only in a scene where either answer is possible.
"""

import random
import re
from collections.abc import Callable, Container, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from mlm_jax.world.scene import COLOURS, HELD_OUT, SHAPES, SIZES, Object, Scene

KINDS = ("existence", "count", "attribute", "comparison", "relation")
NUMBERS = ("zero", "one", "two", "three")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
ATTRIBUTES = ("size", "colour", "shape")
PLURAL = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}

# Attributes of an object, or of a set of objects: (size, colour, shape), None where left open
Name = tuple[str | None, str | None, str | None]


class Told(NamedTuple):
    """An object as a text tells it."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None


class Relation(NamedTuple):
    """`first` is left of (right of, above, below) `second`; places in `Facts.objects`."""

    first: int
    relation: str
    second: int


class Facts(NamedTuple):
    """`number` is the number of objects that a text claims in so many words, if it does."""

    objects: tuple[Told, ...]
    relations: tuple[Relation, ...] = ()
    number: int | None = None


class Question(NamedTuple):
    kind: str
    text: str
    answer: str


# ---- relations


def holds(first: Object, relation: str, second: Object) -> bool:
    """True by the centres, by more than 2 pixels at 48, whatever the other axis says."""
    dx, dy = second.x - first.x, second.y - first.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation] > 0.045


def clear(first: Object, second: Object) -> str | None:
    """The relation that nobody would dispute: one offset is 1.3 times the other or more."""
    dx, dy = second.x - first.x, second.y - first.y
    if max(abs(dx), abs(dy)) < 1.3 * min(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def facts(scene: Scene) -> Facts:
    """All that a caption could truly say: objects in order, clear relations, the count."""
    relations = (
        Relation(i, relation, j)
        for i, j in permutations(range(len(scene.objects)), 2)
        if (relation := clear(scene.objects[i], scene.objects[j]))
    )
    told = tuple(Told(o.size, o.colour, o.shape) for o in scene.objects)
    return Facts(told, tuple(relations), len(told))


# ---- phrases


def noun(name: Name, *, many: bool = False) -> str:
    """("small", None, "star") -> "small star", "small stars"."""
    size, colour, shape = name
    head = PLURAL.get(shape or "", "objects") if many else shape or "object"
    return " ".join([word for word in (size, colour) if word] + [head])


def one(name: Name) -> str:
    words = noun(name)
    return ("an " if words[0] in "aeiou" else "a ") + words


def listing(phrases: list[str]) -> str:
    """[a, b, c] -> "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)


class Group(NamedTuple):
    """Objects that look the same, and the words for them."""

    objects: list[Object]
    phrase: str
    verb: str


def groups(scene: Scene) -> list[Group]:
    alike: dict[Name, list[Object]] = {}
    for thing in scene.objects:
        alike.setdefault((thing.size, thing.colour, thing.shape), []).append(thing)
    return [
        Group(objects, one(name), "is")
        if len(objects) == 1
        else Group(objects, f"{NUMBERS[len(objects)]} {noun(name, many=True)}", "are")
        for name, objects in alike.items()
    ]


# ---- captions


def captions(scene: Scene, rng: np.random.Generator, n: int) -> list[str]:
    """`n` different true captions (fewer only where n > 4, and a scene has no more)."""
    dice = random.Random(int(rng.integers(1 << 62)))
    parts = groups(scene)
    texts: dict[str, None] = {}
    for _ in range(12 * n):
        dice.shuffle(parts)
        texts[caption(parts, len(scene.objects), dice)] = None
        if len(texts) == n:
            break
    return list(texts)


def caption(parts: list[Group], count: int, dice: random.Random) -> str:
    if dice.random() < 0.9:
        placed = (caption_by_place(order, dice) for order in permutations(parts))
        if text := next(filter(None, placed), None):
            return text
    told = listing([part.phrase for part in parts])
    number = f"{NUMBERS[count]} object{'s' * (count > 1)}"
    shown = [f"{opening} {told}" for opening in openings(parts[0])]
    return dice.choice([told, *shown, f"{number}: {told}"])


def openings(first: Group) -> tuple[str, ...]:
    """What may stand before the first of what is told."""
    return f"there {first.verb}", "the picture shows", "we see"


def caption_by_place(parts: Sequence[Group], dice: random.Random) -> str | None:
    """A caption that relates the first group to the second, and may be to the third."""
    if len(parts) == 1:
        return None
    first, second, *rest = parts
    relation = between(first, second)
    if relation is None:
        return None
    place = f"{relation} {second.phrase}"
    text = f"{first.phrase} {first.verb} {place}"
    shown = dice.choice([text, f"{dice.choice(openings(first))} {first.phrase} {place}"])
    if not rest:
        return shown
    further = between(first, rest[0])
    options = [
        f"{shown}, and there {rest[0].verb} {rest[0].phrase}",
        f"there {rest[0].verb} {rest[0].phrase}, and {text}",
    ]
    if further:
        options.append(f"{shown} and {further} {rest[0].phrase}")
    return dice.choice(options)


def between(first: Group, second: Group) -> str | None:
    """The clear relation that all the pairs share."""
    relations = {clear(a, b) for a in first.objects for b in second.objects}
    return relations.pop() if len(relations) == 1 else None


# ---- reading

WORDS = re.compile(r"[a-z]+")
BEGIN = {"a": 1, "an": 1, "the": 1, **{word: i for i, word in enumerate(NUMBERS)}}
SHAPE_OF = {**{shape: shape for shape in SHAPES}, **{PLURAL[shape]: shape for shape in SHAPES}}
RELATION_OF = {relation.split()[0]: relation for relation in RELATIONS}


class Reader:
    """What has been read so far: whole objects, and the attributes of one that is being told."""

    def __init__(self) -> None:
        self.objects: list[Told] = []
        self.relations: list[Relation] = []
        self.claimed: int | None = None
        self.pending: dict[str, str] = {}
        self.number = 1
        self.last: range | None = None  # the objects told by the last phrase
        self.subject: range | None = None  # the ones that the last relation was said of
        self.open: list[tuple[range, str]] = []  # relations whose second side is still to come

    def attribute(self, key: str, value: str) -> None:
        if key in self.pending:  # the words go on to the next object without saying so
            self.finish()
        self.pending[key] = value

    def begin(self, number: int) -> None:
        self.finish()
        self.number = number

    def noun(self, shape: str | None) -> None:
        if shape is None and not self.pending:
            self.claimed = self.number
            return
        if shape is not None:
            self.attribute("shape", shape)
        self.finish()

    def finish(self) -> None:
        """Take down the object that is being told, if one is."""
        if not self.pending:
            return
        start = len(self.objects)
        self.objects += [Told(**self.pending)] * self.number
        self.last = range(start, len(self.objects))
        self.relations += [
            Relation(i, relation, j)
            for side, relation in self.open
            for i in side
            for j in self.last
        ]
        self.pending, self.number, self.open = {}, 1, []

    def relation(self, relation: str, *, again: bool) -> None:
        """`again`: "a is left of b and above c" says both of a."""
        self.finish()
        if not (again and self.subject):
            self.subject = self.last
        if self.subject is not None:
            self.open = [(self.subject, relation)]


def parse(text: str) -> Facts:
    """What a caption states. Any text can be read: words that mean nothing here are passed over,
    and attributes without a noun count as an object whose shape is not told."""
    reader, before = Reader(), ""
    for word in WORDS.findall(text.lower()):
        if word in BEGIN:
            reader.begin(BEGIN[word])
        elif word in SIZES:
            reader.attribute("size", word)
        elif word in COLOURS:
            reader.attribute("colour", word)
        elif word in SHAPE_OF:
            reader.noun(SHAPE_OF[word])
        elif word in ("object", "objects"):
            reader.noun(None)
        elif word in RELATION_OF:
            reader.relation(RELATION_OF[word], again=before == "and")
        before = word
    reader.finish()
    return Facts(tuple(reader.objects), tuple(reader.relations), reader.claimed)


# ---- questions


def kind_of(word: str) -> str:
    """What a word tells about an object, in brackets; any other word is itself."""
    kinds: dict[str, Container[str]] = {"colour": COLOURS, "size": SIZES, "relation": RELATION_OF}
    if word in SHAPE_OF:
        return "<shape>" if word in SHAPES else "<shapes>"
    return next((f"<{kind}>" for kind, words in kinds.items() if word in words), word)


def reduce(thing: Object, keep: tuple[bool, bool, bool]) -> Name:
    return (
        thing.size if keep[0] else None,
        thing.colour if keep[1] else None,
        thing.shape if keep[2] else None,
    )


SUBSETS = tuple((bool(i & 4), bool(i & 2), bool(i & 1)) for i in range(8))
NONE, BY_SHAPE, BY_COLOUR, BY_SIZE = SUBSETS[0], SUBSETS[1], SUBSETS[2], SUBSETS[4]
VALUES = (tuple(SIZES), tuple(COLOURS), SHAPES)


class Asker:
    """One scene, and what may be asked about it."""

    def __init__(self, scene: Scene, dice: random.Random) -> None:
        self.objects, self.dice = scene.objects, dice
        self.novel = any((o.colour, o.shape) in HELD_OUT for o in scene.objects)
        self.handles: list[list[Name]] = [[] for _ in scene.objects]
        self.numbers: dict[Name, int] = {}
        for keep in SUBSETS:
            names = [reduce(thing, keep) for thing in scene.objects]
            for name, handles in zip(names, self.handles, strict=True):
                self.numbers[name] = names.count(name)
                if self.numbers[name] == 1:
                    handles.append(name)

    def number(self, name: Name) -> int:
        """How many objects the words fit."""
        return self.numbers.get(name, 0)

    def allowed(self, name: Name) -> bool:
        return self.novel or (name[1], name[2]) not in HELD_OUT

    def coin(self) -> bool:
        return self.dice.random() < 0.5

    def handle(self, i: int, hidden: int | None = None) -> Name | None:
        """Words that fit object `i` alone, without its attribute number `hidden`."""
        names = [name for name in self.handles[i] if hidden is None or name[hidden] is None]
        return self.dice.choice(names) if names else None

    def absent(self, keep: tuple[bool, bool, bool]) -> Name | None:
        """Words that fit no object: those of one object, with one attribute changed."""
        for _ in range(8):
            name = list(reduce(self.dice.choice(self.objects), keep))
            i = self.dice.choice([i for i in range(3) if keep[i]])
            name[i] = self.dice.choice(VALUES[i])
            changed: Name = (name[0], name[1], name[2])
            if self.allowed(changed) and not self.number(changed):
                return changed
        return None


def existence(ask: Asker) -> Question | None:
    keep = ask.dice.choice([k for k in SUBSETS if k not in (NONE, BY_SIZE)])
    there = ask.coin()
    name = reduce(ask.dice.choice(ask.objects), keep) if there else ask.absent(keep)
    if name is None:
        return None
    text = ask.dice.choice(
        (
            f"is there {one(name)}?",
            f"are there any {noun(name, many=True)}?",
            f"does the picture show {one(name)}?",
            f"can you see {one(name)}?",
        )
    )
    return Question("existence", text, "yes" if there else "no")


def count(ask: Asker) -> Question | None:
    keep = ask.dice.choice(SUBSETS[:-1])
    names = [reduce(thing, keep) for thing in ask.objects]
    if keep != NONE:
        names += [name for name in [ask.absent(keep)] if name]
    by_number: dict[int, list[Name]] = {}
    for name in names:
        by_number.setdefault(ask.number(name), []).append(name)
    number = ask.dice.choice(list(by_number))
    things = noun(ask.dice.choice(by_number[number]), many=True)
    text = ask.dice.choice(
        (
            f"how many {things} are there?",
            f"how many {things} can you see?",
            f"what number of {things} does the picture show?",
        )
    )
    return Question("count", text, NUMBERS[number])


def attribute(ask: Asker) -> Question | None:
    options: list[tuple[int, Name]] = []
    for hidden in ask.dice.sample(range(3), 3):
        named = [(i, ask.handle(i, hidden)) for i in range(len(ask.objects))]
        options = [(i, name) for i, name in named if name]
        if options:
            break
    else:
        return None
    i, name = ask.dice.choice(options)
    thing, asked = noun(name), ATTRIBUTES[hidden]
    forms = [f"what {asked} is the {thing}?", f"what {asked} does the {thing} have?"]
    if asked == "size":
        forms.append(f"is the {thing} small or large?")
    thing_is = (ask.objects[i].size, ask.objects[i].colour, ask.objects[i].shape)
    return Question("attribute", ask.dice.choice(forms), thing_is[hidden])


def more(ask: Asker) -> Question | None:
    """More, or fewer, of these than of those: asked both ways round."""
    keep = (BY_COLOUR, BY_SHAPE)
    names = {reduce(thing, k) for thing in ask.objects for k in keep}
    names |= {name for name in map(ask.absent, keep) if name}
    ordered = sorted(names, key=noun)
    pairs = [(a, b) for a, b in permutations(ordered, 2) if ask.number(a) > ask.number(b)]
    if not pairs:
        return None
    many, few = (noun(name, many=True) for name in ask.dice.choice(pairs))
    true = ask.coin()
    if ask.coin():
        text = f"are there more {many if true else few} than {few if true else many}?"
    else:
        text = f"are there fewer {few if true else many} than {many if true else few}?"
    return Question("comparison", text, "yes" if true else "no")


def same(ask: Asker) -> Question | None:
    """Whether two objects share an attribute, where some two do and some two do not."""
    hidden = ask.dice.randrange(3)
    pairs: dict[bool, list[tuple[Name, Name]]] = {True: [], False: []}
    for i, j in permutations(range(len(ask.objects)), 2):
        first, second = ask.handle(i, hidden), ask.handle(j, hidden)
        if first and second:
            a, b = ask.objects[i], ask.objects[j]
            alike = (a.size == b.size, a.colour == b.colour, a.shape == b.shape)[hidden]
            pairs[alike].append((first, second))
    if not (pairs[True] and pairs[False]):
        return None
    true, asked = ask.coin(), ATTRIBUTES[hidden]
    first_name, second_name = ask.dice.choice(pairs[true])
    x, y = noun(first_name), noun(second_name)
    text = ask.dice.choice(
        (
            f"is the {x} the same {asked} as the {y}?",
            f"do the {x} and the {y} have the same {asked}?",
        )
    )
    return Question("comparison", text, "yes" if true else "no")


def larger(ask: Asker) -> Question | None:
    pairs = [
        (i, j)
        for i, j in permutations(range(len(ask.objects)), 2)
        if ask.objects[i].size == "large" and ask.objects[j].size == "small"
    ]
    if not pairs:
        return None
    big, small = (ask.handle(i, 0) for i in ask.dice.choice(pairs))
    if big is None or small is None:
        return None
    true, word = ask.coin(), ask.dice.choice(("larger", "smaller"))
    first, second = (big, small) if true == (word == "larger") else (small, big)
    text = f"is the {noun(first)} {word} than the {noun(second)}?"
    return Question("comparison", text, "yes" if true else "no")


def place(ask: Asker) -> Question | None:
    """Whether a clear relation holds, or its opposite."""
    pairs = [
        (i, relation, j)
        for i, j in permutations(range(len(ask.objects)), 2)
        if (relation := clear(ask.objects[i], ask.objects[j])) and ask.handles[i] and ask.handles[j]
    ]
    if not pairs:
        return None
    i, relation, j = ask.dice.choice(pairs)
    first, second = (noun(ask.dice.choice(ask.handles[k])) for k in (i, j))
    true = ask.coin()
    text = f"is the {first} {relation if true else OPPOSITE[relation]} the {second}?"
    return Question("relation", text, "yes" if true else "no")


def at_place(ask: Asker) -> Question | None:
    """What the only object on that side of another is like."""
    found = []
    for j in [j for j, names in enumerate(ask.handles) if names]:
        for relation in RELATIONS:
            side = [o for o in ask.objects if holds(o, relation, ask.objects[j])]
            if len(side) == 1 and clear(side[0], ask.objects[j]) == relation:
                found.append((side[0], relation, j))
    if not found:
        return None
    thing, relation, j = ask.dice.choice(found)
    landmark = noun(ask.dice.choice(ask.handles[j]))
    hidden = ask.dice.randrange(3)
    asked = ATTRIBUTES[hidden]
    subject = "" if asked == "shape" else "the object "
    text = f"what {asked} is {subject}{relation} the {landmark}?"
    return Question("relation", text, (thing.size, thing.colour, thing.shape)[hidden])


FORMS: dict[str, tuple[Callable[[Asker], Question | None], ...]] = {
    "existence": (existence,),
    "count": (count,),
    "attribute": (attribute,),
    "comparison": (more, same, larger),
    "relation": (place, at_place),
}


def questions(scene: Scene, rng: np.random.Generator, n: int) -> list[Question]:
    """Up to `n` different questions, the kinds in turn as far as the scene allows."""
    dice = random.Random(int(rng.integers(1 << 62)))
    ask = Asker(scene, dice)
    kinds = list(KINDS)
    dice.shuffle(kinds)
    asked: dict[str, Question] = {}
    for _ in range(3 * n):
        for kind in kinds:
            forms = FORMS[kind]
            tries = (form(ask) for form in dice.sample(forms, len(forms)))
            question = next((q for q in tries if q is not None), None)
            if question is not None:
                asked.setdefault(question.text, question)
            if len(asked) == n:
                return list(asked.values())
    return list(asked.values())
