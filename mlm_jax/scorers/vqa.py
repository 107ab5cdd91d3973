"""VQA accuracy of whole files: the challenge's annotations and results."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mlm_jax.metrics import Figure, Ratio, Statistic, bootstrap
from mlm_jax.scorers.answers import accuracy


class Asked(NamedTuple):
    """A question of a picture, what people answered, and what kinds of it there are."""

    picture: str
    answers: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    """Such as `answer/number` and `question/how many`."""


class Scores(NamedTuple):
    figures: dict[str, Figure]
    per_question: dict[str, float]


def score(answers: Mapping[str, str], asked: Mapping[str, Asked]) -> Scores:
    """Accuracy of all questions and of each kind; pictures are drawn again, with their questions.

    Every question of `answers` is in `asked`.
    """
    found = {name: accuracy(answer, asked[name].answers) for name, answer in answers.items()}
    pictures: dict[str, dict[str, float]] = {}
    for name, value in found.items():
        counts = pictures.setdefault(asked[name].picture, {})
        for kind in ("", *(f"/{kind}" for kind in asked[name].kinds)):
            counts[f"right{kind}"] = counts.get(f"right{kind}", 0.0) + value
            counts[f"asked{kind}"] = counts.get(f"asked{kind}", 0.0) + 1
    return Scores(bootstrap(list(pictures.values()), statistics(pictures.values())), found)


def statistics(pictures: Iterable[Mapping[str, Any]]) -> dict[str, Statistic]:
    columns = sorted({name for counts in pictures for name in counts if name.startswith("asked")})
    return {
        f"vqa/accuracy{name.removeprefix('asked')}": Ratio(
            name.replace("asked", "right", 1), name, name
        )
        for name in columns
    }
