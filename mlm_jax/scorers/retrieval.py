"""Recall at k from a table of similarities, with several captions of a picture."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mlm_jax.metrics import Figure, Ratio, Statistic, bootstrap, place_of

RECALLS = (1, 5, 10)
SIDES = ("captions", "pictures")


def score(
    similarity: Float[np.ndarray, "N M"],
    picture: Int[np.ndarray, " M"],
    recalls: Sequence[int] = RECALLS,
) -> dict[str, Figure]:
    """`picture` is that of each caption. Ties count against.

    captions/recall@k: for so many pictures one of its own captions is among the first k.
    pictures/recall@k: for so many captions the picture is; a picture is drawn with its captions.
    """
    own = [np.flatnonzero(picture == place) for place in range(len(similarity))]
    counts: list[dict[str, float]] = []
    by_caption = np.ascontiguousarray(similarity.T)
    for place, row in enumerate(similarity):
        found = {"captions": 1.0, "pictures": float(len(own[place]))}
        best = place_of(row, own[place])
        places = [place_of(by_caption[caption], [place]) for caption in own[place]]
        for k in recalls:
            found[f"captions {k}"] = float(best < k)
            found[f"pictures {k}"] = float(sum(each < k for each in places))
        counts.append(found)
    return bootstrap(counts, statistics(recalls))


def statistics(recalls: Sequence[int]) -> dict[str, Statistic]:
    """Named as those of a run of CLIP (`mlm_jax.evaluators.retrieval`)."""
    return {
        f"{side}/recall@{k}": Ratio(f"{side} {k}", side, side) for side in SIDES for k in recalls
    }
