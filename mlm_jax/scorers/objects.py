"""POPE: does a model say that there is what is not? (arXiv:2305.10355, section 5)"""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from mlm_jax.metrics import Figure, Ratio, Statistic, Sums, bootstrap, divide

Absent = Literal["random", "popular", "adversarial"]
ABSENT: tuple[Absent, ...] = get_args(Absent)
EACH = 3  # objects that are there, and as many that are not: the paper's 6 questions of a picture
PRESENT = 3  # pictures with more objects than that are asked about


class Question(NamedTuple):
    picture: str
    text: str
    label: bool
    """Whether it is there."""


# --- what is asked ---


def questions(
    pictures: Mapping[str, Collection[str]], absent: Absent, *, each: int = EACH, seed: int = 0
) -> list[Question]:
    """For each picture with more than PRESENT objects, `each` that are there and as many not.

    Those that are there are drawn. Of the others `random` draws, `popular` takes what is in most
    pictures, `adversarial` what is most often in pictures together with what is there. Where a
    picture lacks fewer than `each`, so many fewer of both are asked.
    """
    rng = random.Random(seed)
    popular = Counter(name for own in pictures.values() for name in sorted(set(own)))
    together = seen_together(pictures)
    found: list[Question] = []
    for picture, own in pictures.items():
        there = sorted(set(own))
        missing = sorted(popular.keys() - set(there))
        many = min(each, len(there), len(missing))
        if len(there) <= PRESENT:
            continue
        if absent == "random":
            not_there = rng.sample(missing, many)
        else:
            near: Counter[str] = Counter()
            for name in there if absent == "adversarial" else ():
                near.update(together[name])
            rank = near if absent == "adversarial" else popular
            not_there = sorted(missing, key=lambda name: -rank[name])[:many]
        for yes, no in zip(rng.sample(there, many), not_there, strict=True):
            found += [Question(picture, asked(yes), True), Question(picture, asked(no), False)]
    return found


def seen_together(pictures: Mapping[str, Collection[str]]) -> dict[str, Counter[str]]:
    """For each object, in how many pictures each other one is beside it."""
    found: dict[str, Counter[str]] = {}
    for own in pictures.values():
        names = set(own)
        for name in names:
            found.setdefault(name, Counter()).update(names - {name})
    return found


def asked(name: str) -> str:
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return f"Is there {article} {name} in the image?"


# --- what is answered ---


def said_yes(answer: str) -> bool:
    """Yes, unless its first sentence has the word no or not: as the paper's program reads it.

    Words end at blanks there, not where a line ends.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


@dataclass(frozen=True)
class F1:
    """The harmonic mean of precision and recall of yes."""

    n: str = "asked"

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        return divide(2 * sums["both"], sums["said"] + sums["there"], 0.0)


STATISTICS: dict[str, Statistic] = {
    "pope/accuracy": Ratio("right", "asked", "asked"),
    "pope/precision": Ratio("both", "said", "asked", empty=0.0),
    "pope/recall": Ratio("both", "there", "asked", empty=0.0),
    "pope/f1": F1(),
    "pope/yes": Ratio("said", "asked", "asked"),
}
"""`yes` is the share of questions that are answered so; half of them should be."""


def score(answers: Mapping[str, str], asked: Mapping[str, Question]) -> dict[str, Figure]:
    """Every question of `answers` is in `asked`; pictures are drawn with all their questions."""
    pictures: dict[str, Counter[str]] = {}
    for name, answer in answers.items():
        question = asked[name]
        pictures.setdefault(question.picture, Counter()).update(counted(question.label, answer))
    return bootstrap([dict(counts) for counts in pictures.values()], STATISTICS)


def counted(there: bool, answer: str) -> dict[str, int]:
    said = said_yes(answer)
    return {
        "asked": 1, "said": said, "there": there, "both": said and there, "right": said == there
    }  # fmt: skip


def as_rows(found: list[Question]) -> Iterator[dict[str, str | int]]:
    """As the paper's files have them."""
    for number, question in enumerate(found, 1):
        label = "yes" if question.label else "no"
        yield {
            "question_id": number, "image": question.picture, "text": question.text, "label": label
        }  # fmt: skip
