"""Pictures and texts: is the right text told from a wrong one?"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mlm_jax.data import loader
from mlm_jax.data.loader import CAPTION, Pair
from mlm_jax.data.records import Source
from mlm_jax.evaluators import SHOWN_KEYS, at_once
from mlm_jax.metrics import Figure, Ratio, bootstrap
from mlm_jax.trained import Trained
from mlm_jax.world.contrary import contraries, holds, truth_of

BATCH = 256
TRIED = 10  # captions of other pictures, for one that is false of this


def evaluate(trained: Trained, source: Source, limit: int | None) -> dict[str, Figure]:
    """Share of yes to the right caption and no to a wrong one, half each: 0.5 for a guess.

    `match/random`: the wrong one is that of another picture. About the embedded world also
    `match/hard`: the right one with one word changed, `match/colour`, ... by its kind.
    """
    config = trained.config
    rows = loader.eval_pairs(config.data, source, trained.tokenizer, trained.take, limit)
    told = [(pair, seen_in(batch)) for pair, batch in rows if pair.kind == CAPTION]
    if not told:
        return {}
    pairs, shown = [pair for pair, _ in told], [seen for _, seen in told]
    wrong = [(at, *each) for at in range(len(pairs)) for each in wrong_texts(pairs, at)]
    right = probabilities(trained, shown, [pair.target for pair in pairs])
    other = probabilities(
        trained, [shown[at] for at, _, _ in wrong], [text for _, _, text in wrong]
    )

    scores = [
        (at, kind, judged(float(right[at]), float(probability)))
        for (at, kind, _), probability in zip(wrong, other, strict=True)
    ]
    return by_kind("match", scores, len(pairs))


def by_kind(
    name: str, scores: Iterable[tuple[int, str, float]], pictures: int
) -> dict[str, Figure]:
    """`name/kind`, the mean of (picture, kind, score), and `name/hard` of all but the random."""
    counts: list[dict[str, float]] = [{} for _ in range(pictures)]
    for at, kind, score in scores:
        for each in (kind,) if kind == "random" else (kind, "hard"):
            count = counts[at]
            count[each] = count.get(each, 0.0) + score
            count[f"{each} pairs"] = count.get(f"{each} pairs", 0.0) + 1
    kinds = sorted({kind for count in counts for kind in count if not kind.endswith(" pairs")})
    return bootstrap(counts, {f"{name}/{k}": Ratio(k, f"{k} pairs", f"{k} pairs") for k in kinds})


def judged(right: float, wrong: float) -> float:
    """Half for yes to the right text, half for no to the wrong one, by their probabilities."""
    return ((1.0 if right > 0.5 else 0.0) + (1.0 if wrong <= 0.5 else 0.0)) / 2


def learnt(model: Any) -> bool:
    """Whether a model has a matching head."""
    return getattr(getattr(model, "matching", None), "negatives", "off") != "off"


def wrong_texts(pairs: Sequence[Pair], at: int) -> Iterator[tuple[str, str]]:
    """(kind, text) of what is held against picture `at`: one of each kind, the same each time."""
    pair, dice = pairs[at], random.Random(at)
    truth = truth_of(pair.truth) if pair.truth else None
    for other in dice.sample(pairs, min(TRIED, len(pairs))):
        true = truth is not None and holds(other.target, truth)
        if other.target not in pair.references and not true:
            yield "random", other.target
            break
    yield from hard_texts(pair, dice)


def hard_texts(pair: Pair, dice: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, its caption with a word of that kind changed); none but of the world."""
    if not pair.truth:
        return
    found: dict[str, list[str]] = {}
    for kind, text in contraries(pair.target, truth_of(pair.truth)):
        found.setdefault(kind, []).append(text)
    yield from ((kind, dice.choice(texts)) for kind, texts in found.items())


def seen_in(row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is seen and heard, of the arrays of a row."""
    return {key: row[key] for key in SHOWN_KEYS if key in row}


def probabilities(
    trained: Trained, shown: Sequence[Mapping[str, np.ndarray]], texts: Sequence[str]
) -> Float[np.ndarray, "N"]:
    """That each text tells what is `shown` in its place, arrays of the run's own sizes.

    Raises: BadRecord for a text that is too long; ValueError if the run has learnt no matching.
    """
    size, found = at_once(trained.config, BATCH), []
    for start in range(0, len(texts), size):
        part = np.minimum(np.arange(start, start + size), len(texts) - 1)
        rows = [{**shown[at], **trained.tokenise("", texts[at])} for at in part]
        keys = (*seen_in(rows[0]), "target", "target_mask")
        batch = {key: np.stack([row[key] for row in rows]) for key in keys}
        found.append(np.asarray(match(trained.config.model, trained.params, batch)))
    return np.concatenate(found)[: len(texts)]


@partial(jax.jit, static_argnames="model")
def match(model: Any, params: Any, batch: dict[str, Array]) -> Array:
    return model.apply({"params": params}, batch, method="match")
