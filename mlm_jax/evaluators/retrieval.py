"""Two vectors that meet: is the right caption, or picture, the nearest among a hundred?"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mlm_jax.choosing import cosines, told
from mlm_jax.config import UserError
from mlm_jax.data import loader
from mlm_jax.data.loader import CAPTION, Pair
from mlm_jax.data.records import BadRecord, Source
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.evaluators.matching import by_kind, hard_texts
from mlm_jax.metrics import Figure, Ratio, bootstrap, place_of
from mlm_jax.trained import Trained, unknown

GROUP = 100  # pictures among which the right one is sought, no two with the same caption
RECALLS = (1, 5, 10)
BATCH = 128


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """Recall@k of captions for pictures, and of pictures for captions.

    About the embedded world also `told_apart/hard`: the share of captions that are nearer to their
    picture than the same with one word changed, `told_apart/relation`, ... by its kind. Raises:
    UserError.
    """
    pairs, images, words = embed(trained, source, limit)
    texts = [pair.target for pair in pairs]
    groups = list(apart(texts))
    if not groups:
        name, count = trained.config.data.name, len(set(texts))
        raise UserError(f"{name}: {count} captions that differ, {GROUP} are needed")
    counts = []
    for places in groups:
        scores = images[places] @ words[places].T
        for name, table in (("captions", scores), ("pictures", scores.T)):
            for right, row in enumerate(table):
                place = place_of(row, [right])
                found = {f"{name} {k}": float(place < k) for k in RECALLS}
                counts.append({**found, name: 1.0})
    recalls = bootstrap(counts, {
        f"{name}/recall@{k}": Ratio(f"{name} {k}", name, name)
        for name in ("captions", "pictures") for k in RECALLS
    })  # fmt: skip
    return Measured(recalls | told_apart(trained, pairs, images, words))


def told_apart(
    trained: Trained,
    pairs: Sequence[Pair],
    images: Float[np.ndarray, "N D"],
    words: Float[np.ndarray, "N D"],
) -> dict[str, Figure]:
    """By the kind of the word that is changed; nothing where no scene is known.

    Captions that the run cannot read, of words that it never met, are left out.
    """
    wrong = [
        (at, kind, text)
        for at, pair in enumerate(pairs)
        for kind, text in hard_texts(pair, random.Random(at))
        if readable(trained, text)
    ]
    if not wrong:
        return {}
    right = cosines(images, words)
    places = [at for at, _, _ in wrong]
    other = cosines(images[places], told(trained, [text for _, _, text in wrong]))
    nearer = (right[places] > other).astype(float)
    scores = ((at, kind, score) for (at, kind, _), score in zip(wrong, nearer, strict=True))
    return by_kind("told_apart", scores, len(pairs))


def apart(texts: Sequence[str]) -> Iterator[list[int]]:
    """Whole groups of GROUP places with different texts, in order."""
    open_groups: list[dict[str, int]] = []
    for place, text in enumerate(texts):
        group = next((g for g in open_groups if text not in g), None)
        if group is None:
            open_groups.append(group := {})
        group[text] = place
        if len(group) == GROUP:
            open_groups.remove(group)
            yield list(group.values())


def readable(trained: Trained, text: str) -> bool:
    try:
        trained.tokenise("", text)
    except BadRecord:
        return False
    return not unknown(trained.tokenizer, text)


def embed(
    trained: Trained, source: Source, limit: int | None
) -> tuple[list[Pair], Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]:
    """A caption of each picture, and the vectors of pictures and captions."""
    config = trained.config
    pairs: list[Pair] = []
    found: list[list[np.ndarray]] = [[], []]
    rows = loader.eval_pairs(config.data, source, trained.tokenizer, trained.take, limit)
    captions = ((pair, batch) for pair, batch in rows if pair.kind == CAPTION)
    keys = (config.model.sense, "target", "target_mask")
    for part, real in loader.filled(captions, at_once(config, BATCH)):
        pairs += [pair for pair, _ in part[:real]]
        batch = {key: np.stack([arrays[key] for _, arrays in part]) for key in keys}
        for side, vectors in zip(found, both(config.model, trained.params, batch), strict=True):
            side.append(np.asarray(vectors)[:real])
    images, words = (np.concatenate(side or [np.zeros((0, 1))]) for side in found)
    return pairs, images, words


@partial(jax.jit, static_argnames="model")
def both(model: Any, params: Any, batch: dict[str, Array]) -> tuple[Array, Array]:
    out = model.apply({"params": params}, batch)
    return out["image"], out["text"]
