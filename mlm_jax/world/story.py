"""What is said and asked about a clip, and reading it.

A caption tells the events in the order in which they begin, each with the colour and the shape of
its object, or "it" for the object just told. Only what acts is told.

A question is asked so that neither its words nor any one frame give its answer away: its answer is
what happens, when, how often, or after what. (Who does something may be guessed from those there.)
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mlm_jax.world.clip import KINDS as ACTIONS
from mlm_jax.world.clip import TURN, Clip
from mlm_jax.world.language import SHAPE_OF, Question, one
from mlm_jax.world.scene import COLOURS

KINDS = ("what", "which", "first", "next", "often", "when")
TIMES = ("early", "in the middle", "late")
OFTEN = ("never", "once", "twice", "three times")
AGAIN = tuple(a for a in ACTIONS if a.startswith("moves") or a in ("turns", "blinks"))
OTHERWISE = 0.45  # share of the clips in which it is asked how often what is not done twice is done
MIDDLE = 0.75  # share of what happens in the middle that is asked for the time


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
    if len(told) == 2 and dice.random() < 0.35:
        first, second = clauses
        return dice.choice((f"{second} after {first}", f"{first} before {second}"))
    for i in range(1, len(told)):
        if told[i][:2] == told[i - 1][:2] and dice.random() < 0.5:
            clauses[i] = f"it {told[i].action}"
    openings = ("", "we see that ", "first ") if len(told) > 1 else ("", "we see that ")
    return dice.choice(openings) + ", then ".join(clauses)


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


def the(act: Act) -> str:
    return f"the {act.colour} {act.shape}"


def event(act: Act) -> str:
    return f"{the(act)} {act.action}"


def what(clip: Clip, dice: random.Random) -> list[Question]:
    """What an object does that does one thing."""
    told = acts(clip)
    busy = Counter(act[:2] for act in told)
    return [
        Question("what", f"what does {the(act)} do?", str(act.action))
        for act in told
        if busy[act[:2]] == 1
    ]


def which(clip: Clip, dice: random.Random) -> list[Question]:
    """Which object does what is done once, where there is another object."""
    told = acts(clip) if len(clip.objects) > 1 else ()
    done = Counter(act.action for act in told)
    return [
        Question("which", f"which object {act.action}?", f"{act.colour} {act.shape}")
        for act in told
        if done[act.action] == 1
    ]


def first(clip: Clip, dice: random.Random) -> list[Question]:
    """What happens first, and last."""
    told = acts(clip)
    if len(told) < 2:
        return []
    ends = ("first", told[0]), ("last", told[-1])
    return [Question("first", f"what happens {word}?", event(act)) for word, act in ends]


def following(clip: Clip, dice: random.Random) -> list[Question]:
    """What happens just before or after something that happens once."""
    told = acts(clip)
    asked = []
    for earlier, later in pairwise(told):
        for word, known, wanted in (("after", earlier, later), ("before", later, earlier)):
            if told.count(known) == 1:
                text = f"what happens just {word} {event(known)}?"
                asked.append(Question("next", text, event(wanted)))
    return asked


def often(clip: Clip, dice: random.Random) -> list[Question]:
    """How often an object does what can be done again.

    Twice or more wherever it is so; never, or once, so much more seldom that no answer is common.
    """
    told = acts(clip)
    again = [act for act in dict.fromkeys(told) if act.action in AGAIN and told.count(act) > 1]
    if dice.random() < OTHERWISE:
        again += seldom(told, dice)
    return [
        Question(
            "often",
            f"how often does {the(act)} {str(act.action).replace('s', '', 1)}?",
            OFTEN[told.count(act)],
        )
        for act in again
    ]


def seldom(told: tuple[Act, ...], dice: random.Random) -> list[Act]:
    """Something that an object does once, or that it could do and does not: none or one."""
    if dice.random() < 0.6:
        options = [act for act in told if act.action in AGAIN and told.count(act) == 1]
    else:
        thing = dice.choice(told)
        able = [action for action in AGAIN if action != "turns" or thing.shape in TURN]
        options = [act for action in able if (act := thing._replace(action=action)) not in told]
    return [dice.choice(options)] if options else []


def when(clip: Clip, dice: random.Random) -> list[Question]:
    """In which third of the clip the middle lies of what happens once, where that is clear."""
    told = acts(clip)
    asked = []
    for act, (_, _, start, end, _) in zip(told, clip.events, strict=True):
        thirds = 1.5 * (start + end - 1) / clip.frames
        time = TIMES[min(int(thirds), 2)]
        clear = min(abs(thirds - 1), abs(thirds - 2)) > 0.15
        drawn = time != TIMES[1] or dice.random() < MIDDLE
        if clear and drawn and told.count(act) == 1:
            asked.append(Question("when", f"when is it that {event(act)}?", time))
    return asked


FORMS: dict[str, Callable[[Clip, random.Random], list[Question]]] = {
    "what": what,
    "which": which,
    "first": first,
    "next": following,
    "often": often,
    "when": when,
}


def questions(clip: Clip, rng: np.random.Generator, n: int) -> list[Question]:
    """Up to `n` different questions, the kinds in turn as far as the clip allows: two of each."""
    dice = random.Random(int(rng.integers(1 << 62)))
    asked = []
    for form in FORMS.values():
        options = form(clip, dice)
        asked.append(dice.sample(options, min(len(options), 2)))
    dice.shuffle(asked)
    turns = [kind[i] for i in range(2) for kind in asked if i < len(kind)]
    return turns[:n]
