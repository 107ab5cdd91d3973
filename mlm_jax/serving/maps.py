"""Where each word of an answer looked, as pictures; compiled once, for texts of the full length."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mlm_jax.explaining.asked import Asked, floats, require_multimodal
from mlm_jax.explaining.colours import over
from mlm_jax.explaining.methods import explain
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.serving.batching import Row
from mlm_jax.trained import Trained

METHOD = "attention"


def has_maps(trained: Trained) -> bool:
    """Whether there is one picture to lay them over."""
    return isinstance(trained.config.model, Multimodal) and trained.take.needs == ("image",)


def maps_of(trained: Trained, row: Row, ids: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """For each of the words `ids`, which were written of `row`, its map over the picture."""
    model, length = require_multimodal(trained), trained.words["length"]
    written = np.full(length, trained.tokenizer.pad, np.int32)
    written[: len(ids)] = ids
    asked = Asked(
        floats(model, trained.params, {"image": jnp.asarray(row["image"])[None]}),
        jnp.asarray(row["text"])[None],
        jnp.asarray(row["text_mask"])[None],
        jnp.array([[trained.tokenizer.bos, *written]], jnp.int32),
        jnp.eye(length, dtype=jnp.float32)[None],
    )
    maps = explain(model, trained.params, asked, METHOD)["image"][0]
    return [over(row["image"], each) for each in maps[: len(ids)]]
