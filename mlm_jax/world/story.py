"""What is said and asked about a clip, and reading it.

A caption tells the events in the order in which they begin, each with the colour and the shape of
its object, or "it" for the object just told. Only what acts is told.

A question is asked so that neither its words nor any one frame give its answer away: its answer is
what happens, when, how often, or after what.
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlm_jax.world.clip import KINDS as ACTIONS
from mlm_jax.world.clip import Clip
from mlm_jax.world.language import SHAPE_OF, Question, one
from mlm_jax.world.scene import COLOURS

KINDS = ("what", "which", "first", "next", "often", "when")
TIMES = ("early", "in the middle", "late")
OFTEN = ("never", "once", "twice", "three times")


class Act(NamedTuple):
    """One event as a text tells it: None where it does not say."""

    colour: str | None = None
    shape: str | None = None
    action: str | None = None


def acts(clip: Clip) -> tuple[Act, ...]:
    """The events of a clip as they are to be told, in order."""
    return tuple(
        Act(clip.objects[e.object].colour, clip.objects[e.object].shape, e.kind)
        for e in clip.events
    )


# ---- captions


def captions(clip: Clip, rng: np.random.Generator, n: int) -> list[str]:
    """Up to `n` different true captions: as many as the number of events allows."""
    dice = random.Random(int(rng.integers(1 << 62)))
    told = acts(clip)
    texts: dict[str, None] = {}
    for _ in range(12 * n):
        texts[caption(told, dice)] = None
        if len(texts) == n:
            break
    return list(texts)


def caption(told: tuple[Act, ...], dice: random.Random) -> str:
    clauses = [clause(act) for act in told]
    if len(told) == 1:
        return dice.choice((clauses[0], f"we see that {clauses[0]}"))
    if len(told) == 2 and dice.random() < 0.35:
        first, second = clauses
        return dice.choice((f"{second} after {first}", f"{first} before {second}"))
    for i in range(1, len(told)):
        if told[i][:2] == told[i - 1][:2] and dice.random() < 0.5:
            clauses[i] = f"it {told[i].action}"
    start = dice.choice(("", "first "))
    return start + ", then ".join(clauses)


def clause(act: Act) -> str:
    return f"{one((None, act.colour, act.shape))} {act.action}"


# ---- reading

WORDS = re.compile(r"[a-z]+")
VERBS = {action.split()[0] for action in ACTIONS}
WAYS = {action.split()[1] for action in ACTIONS if " " in action}


def parse(text: str) -> tuple[Act, ...]:
    """The events that a caption states, in the order in which it says they happen.

    Any text can be read: words that mean nothing here are passed over.
    """
    done: list[Act] = []
    colour = shape = last = None
    turned = False  # what follows "after" came before
    moving = False
    for word in WORDS.findall(text.lower()):
        if moving and word in WAYS:
            done[-1] = done[-1]._replace(action=f"moves {word}")
        moving = False
        if word in COLOURS:
            colour = word
        elif word in SHAPE_OF:
            shape = SHAPE_OF[word]
        elif word == "it" and last is not None:
            colour, shape = last.colour, last.shape
        elif word == "after":
            turned = True
        elif word in VERBS:
            last = Act(colour, shape, word if word in ACTIONS else None)
            done.append(last)
            colour = shape = None
            moving = word == "moves"
    if colour or shape:
        done.append(Act(colour, shape))
    return tuple(reversed(done)) if turned else tuple(done)


# ---- questions


class Asker:
    """One clip, and what may be asked about it."""

    def __init__(self, clip: Clip, dice: random.Random) -> None:
        self.clip, self.dice, self.acts = clip, dice, acts(clip)
        self.times = Counter(self.acts)
        self.actions = Counter(act.action for act in self.acts)
        self.busy = Counter(act[:2] for act in self.acts)

    def lone(self) -> list[int]:
        """Places of events like which there is no other."""
        return [i for i, act in enumerate(self.acts) if self.times[act] == 1]


def the(act: Act) -> str:
    return f"the {act.colour} {act.shape}"


def what(ask: Asker) -> Question | None:
    """What an object does that does one thing."""
    options = [act for act in ask.acts if ask.busy[act[:2]] == 1]
    if not options:
        return None
    act = ask.dice.choice(options)
    return Question("what", f"what does {the(act)} do?", str(act.action))


def which(ask: Asker) -> Question | None:
    """Which object does what only one does, where there is another."""
    options = [act for act in ask.acts if ask.actions[act.action] == 1]
    if not options or len(ask.clip.objects) < 2:
        return None
    act = ask.dice.choice(options)
    return Question("which", f"which object {act.action}?", f"{act.colour} {act.shape}")


def first(ask: Asker) -> Question | None:
    """What happens first, or last."""
    if len(ask.acts) < 2:
        return None
    place, word = ask.dice.choice(((0, "first"), (-1, "last")))
    act = ask.acts[place]
    return Question("first", f"what happens {word}?", f"{the(act)} {act.action}")


def following(ask: Asker) -> Question | None:
    """What happens just before or after something else."""
    lone = ask.lone()
    pairs = [(i, j) for i in lone for j in (i - 1, i + 1) if 0 <= j < len(ask.acts)]
    if not pairs:
        return None
    i, j = ask.dice.choice(pairs)
    word = "after" if j > i else "before"
    text = f"what happens just {word} {the(ask.acts[i])} {ask.acts[i].action}?"
    return Question("next", text, f"{the(ask.acts[j])} {ask.acts[j].action}")


def often(ask: Asker) -> Question | None:
    """How often an object does something, or something is done at all."""
    act = ask.dice.choice(ask.acts)
    wanted = ask.dice.randrange(3)  # a number first, so that none is the commonest
    if wanted == 0:
        absent = [action for action in ACTIONS if not ask.times[act._replace(action=action)]]
        act = act._replace(action=ask.dice.choice(absent))
    found = ask.times[act]
    if found != wanted and wanted < 2:
        return None
    if wanted == 2 and found < 2:
        return None
    stem = str(act.action).replace("moves", "move").removesuffix("s")
    stem = "vanish" if act.action == "vanishes" else stem
    return Question("often", f"how often does {the(act)} {stem}?", OFTEN[found])


def when(ask: Asker) -> Question | None:
    """In which third of the clip the middle of an event lies, where that is clear."""
    options = []
    for i in ask.lone():
        event = ask.clip.events[i]
        middle = 3 * (event.start + event.end) / 2 / ask.clip.frames
        if min(abs(middle - 1), abs(middle - 2)) > 0.15:
            options.append((ask.acts[i], TIMES[min(int(middle), 2)]))
    if not options:
        return None
    act, time = ask.dice.choice(options)
    return Question("when", f"when is it that {the(act)} {act.action}?", time)


FORMS: dict[str, Callable[[Asker], Question | None]] = {
    "what": what,
    "which": which,
    "first": first,
    "next": following,
    "often": often,
    "when": when,
}


def questions(clip: Clip, rng: np.random.Generator, n: int) -> list[Question]:
    """Up to `n` different questions, the kinds in turn as far as the clip allows."""
    dice = random.Random(int(rng.integers(1 << 62)))
    ask = Asker(clip, dice)
    kinds = list(KINDS)
    dice.shuffle(kinds)
    asked: dict[str, Question] = {}
    for _ in range(3 * n):
        for kind in kinds:
            question = FORMS[kind](ask)
            if question is not None:
                asked.setdefault(question.text, question)
            if len(asked) == n:
                return list(asked.values())
    return list(asked.values())
