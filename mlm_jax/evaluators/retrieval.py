"""Two vectors that meet: is the right caption, or picture, the nearest among a hundred?"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from mlm_jax.config import UserError
from mlm_jax.data import loader
from mlm_jax.data.loader import CAPTION
from mlm_jax.data.records import Source
from mlm_jax.evaluators import Measured
from mlm_jax.metrics import Ratio, bootstrap, place_of
from mlm_jax.trained import Trained

GROUP = 100  # pictures among which the right one is sought, no two with the same caption
RECALLS = (1, 5, 10)
BATCH = 128


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """Recall@k of captions for pictures, and of pictures for captions. Raises: UserError."""
    texts, images, words = embed(trained, source, limit)
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
    return Measured(bootstrap(counts, {
        f"{name}/recall@{k}": Ratio(f"{name} {k}", name, name)
        for name in ("captions", "pictures") for k in RECALLS
    }))  # fmt: skip


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


def embed(
    trained: Trained, source: Source, limit: int | None
) -> tuple[list[str], Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]:
    """A caption of each picture, and the vectors of pictures and captions."""
    config = trained.config
    texts: list[str] = []
    found: list[list[np.ndarray]] = [[], []]
    rows = loader.eval_pairs(config.data, source, trained.tokenizer, trained.take, limit)
    told = ((pair, batch) for pair, batch in rows if pair.kind == CAPTION)
    for pairs, batch, real in full(told):
        texts += [pair.target for pair in pairs]
        for side, vectors in zip(found, both(config.model, trained.params, batch), strict=True):
            side.append(np.asarray(vectors)[:real])
    images, words = (np.concatenate(side or [np.zeros((0, 1))]) for side in found)
    return texts, images, words


def full(rows: Any) -> Iterator[tuple[list[loader.Pair], dict[str, np.ndarray], int]]:
    """Batches of BATCH rows, the last filled up with copies; how many are real."""
    while part := list(islice(rows, BATCH)):
        whole = part + [part[-1]] * (BATCH - len(part))
        keys = ("image", "target", "target_mask")
        batch = {key: np.stack([arrays[key] for _, arrays in whole]) for key in keys}
        yield [pair for pair, _ in part], batch, len(part)


@partial(jax.jit, static_argnames="model")
def both(model: Any, params: Any, batch: dict[str, Array]) -> tuple[Array, Array]:
    out = model.apply({"params": params}, batch)
    return out["image"], out["text"]
