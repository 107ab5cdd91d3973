"""How near the vectors that a prior imagines are to those that CLIP has of the real pictures."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from mlm_jax.config import UserError
from mlm_jax.data import loader
from mlm_jax.data.loader import CAPTION
from mlm_jax.data.records import Source
from mlm_jax.drawing import Drawing
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.metrics import Ratio, bootstrap
from mlm_jax.trained import Trained

BATCH = 64


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """Cosines with the picture's vector: of what is imagined; beside it of the caption's own vector
    and of what is imagined for the next caption, if the batch has another. Raises: UserError."""
    pairs = loader.eval_pairs(trained.config.data, source, trained.tokenizer, trained.take, limit)
    rows = (arrays for pair, arrays in pairs if pair.kind == CAPTION)
    counts: list[dict[str, float]] = []
    for part, count in loader.filled(rows, at_once(trained.config, BATCH)):
        batch = {
            key: np.stack([row[key] for row in part]) for key in ("image", "target", "target_mask")
        }
        seed = jax.random.fold_in(jax.random.key(trained.config.seed), len(counts))
        vectors = compared(trained.config.model, trained.params, batch, seed)
        real, own, said = (np.asarray(each)[:count] for each in vectors)
        found = {"imagined": said, "caption": own}
        if count > 1:
            found["another"] = np.roll(said, -1, axis=0)
        columns = {name: (real * each).sum(-1) for name, each in found.items()}
        columns |= {f"{name} rows": np.ones(count) for name in found}
        counts += [{name: float(c[i]) for name, c in columns.items()} for i in range(count)]
    if not counts:
        raise UserError(f"{trained.config.data.name} has no captions")
    names = [name for name in ("imagined", "caption", "another") if name in counts[0]]
    ratios = {f"prior/{name}": Ratio(name, f"{name} rows", f"{name} rows") for name in names}
    return Measured(bootstrap(counts, ratios))


@partial(jax.jit, static_argnames="model")
def compared(model: Any, params: Any, batch: Any, key: Array) -> tuple[Array, Array, Array]:
    """Unit vectors of the pictures, of the captions, and imagined."""
    bound = partial(model.apply, {"params": params})
    return (
        bound(batch["image"], method="see"),
        bound(batch, method="read"),
        bound(batch, Drawing().prior, key, method="imagine"),
    )
