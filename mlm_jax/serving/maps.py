"""Where each word of an answer looked, as pictures; compiled once, for texts of the full length."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mlm_jax.explaining.asked import Asked, floats, require_multimodal
from mlm_jax.explaining.colours import over
from mlm_jax.explaining.methods import explain
from mlm_jax.explaining.page import flat, picture_of
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.serving.batching import Row
from mlm_jax.trained import Trained

METHOD = "attention"
TEXT = ("text", "text_mask")


def has_maps(trained: Trained) -> bool:
    """Whether it can be told where its words looked."""
    return isinstance(trained.config.model, Multimodal)


def maps_of(
    trained: Trained, row: Row, ids: Sequence[int]
) -> list[dict[str, UInt8[np.ndarray, "H W 3"]]]:
    """For each of the words `ids`, which were written of `row`, its maps by sense.

    Over the picture, some frames of the clip side by side, or the spectrogram of the sound.
    """
    model, length = require_multimodal(trained), trained.words["length"]
    written = np.full(length, trained.tokenizer.pad, np.int32)
    written[: len(ids)] = ids
    shown = {key: jnp.asarray(x)[None] for key, x in row.items() if key not in TEXT}
    asked = Asked(
        floats(model, trained.params, shown),
        jnp.asarray(row["text"])[None],
        jnp.asarray(row["text_mask"])[None],
        jnp.array([[trained.tokenizer.bos, *written]], jnp.int32),
        jnp.eye(length, dtype=jnp.float32)[None],
    )
    maps = explain(model, trained.params, asked, METHOD)
    pictures = {sense: picture_of(sense, dict(row), asked) for sense in maps}
    return [
        {sense: over(pictures[sense], flat(sense, own[0, i])) for sense, own in maps.items()}
        for i in range(len(ids))
    ]
