"""All caption scores of a set, each with its interval, and those of each picture."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlm_jax.metrics import Figure, Ratio, Statistic, bootstrap
from mlm_jax.scorers.meteor import MeteorExact, best_match
from mlm_jax.scorers.ngrams import (
    ORDER,
    Bleu,
    Corpus,
    Frequencies,
    Rarity,
    bleu,
    bleu_counts,
    cider,
    corpus,
    rarity,
    rarity_by,
)
from mlm_jax.scorers.ptb import tokenise
from mlm_jax.scorers.rouge import rouge_l

References = Mapping[str, Sequence[str]]
MEANS = ("ROUGE_L", "CIDEr-D", "CIDEr")
STATISTICS: dict[str, Statistic] = {
    **{f"Bleu_{n}": Bleu(n) for n in range(1, ORDER + 1)},
    **{name: Ratio(name, "captions", "captions") for name in MEANS},
    "METEOR_exact": MeteorExact(),
}
"""Named as the COCO scorer names them; what it calls CIDEr is CIDEr-D."""


class Scores(NamedTuple):
    """`per_picture`: score by name, in the order of the candidates."""

    figures: dict[str, Figure]
    per_picture: dict[str, Float[np.ndarray, " N"]]


def score(
    candidates: Mapping[str, str],
    references: References,
    others: References | Frequencies | None = None,
) -> Scores:
    """Of raw captions by picture; every picture of `candidates` has references.

    `others`: captions of other pictures, or a table of theirs, of which CIDEr learns how common
    words are, instead of from the references themselves.
    """
    told = tokenise(list(candidates.values()))
    wanted = tokenised({name: references[name] for name in candidates})
    common = others if isinstance(others, Frequencies) else tokenised(others or {})
    return score_words(told, wanted, common)


def tokenised(captions: References) -> list[list[str]]:
    """Each picture's, in one go: what stands next may matter (`ptb.tokenise`)."""
    words = iter(tokenise([caption for own in captions.values() for caption in own]))
    return [[next(words) for _ in own] for own in captions.values()]


def score_words(
    told: Sequence[str],
    wanted: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]] | Frequencies = (),
) -> Scores:
    """Of words with spaces between them."""
    if isinstance(others, Frequencies):
        texts = corpus(told, wanted)
        known = rarity_by(others, texts)
    else:
        texts = corpus(told, wanted, others)
        known = rarity(texts)
    columns = counted(texts, known)
    columns["ROUGE_L"] = np.array([rouge_l(*pair) for pair in zip(told, wanted, strict=True)])
    matches = [best_match(*pair) for pair in zip(told, wanted, strict=True)]
    for name in ("told", "wanted", "right", "runs"):
        columns[f"meteor {name}"] = np.array([getattr(match, name) for match in matches], float)
    columns["captions"] = np.ones(len(told))
    per_picture = {f"Bleu_{n}": bleu(columns, n) for n in range(1, ORDER + 1)}
    per_picture |= {name: columns[name] for name in MEANS}
    per_picture["METEOR_exact"] = np.array([match.score for match in matches])
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    pictures = [dict(zip(columns, row, strict=True)) for row in rows]
    return Scores(bootstrap(pictures, STATISTICS), per_picture)


def counted(texts: Corpus, known: Rarity) -> dict[str, Float[np.ndarray, " N"]]:
    return bleu_counts(texts) | {
        "CIDEr-D": cider(texts, known),
        "CIDEr": cider(texts, known, clipped=False),
    }
