"""A small model of each fusion, and a batch that is asked about."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.explaining.asked import Asked
from mlm_jax.fusion import Kind
from mlm_jax.models.multimodal import Multimodal, multimodal


def small(kind: Kind = "cross_attention", **body: Any) -> Multimodal:
    model = multimodal(
        "tiny", patch=8, pixels=16, vocab=16, image_depth=2, text_depth=1, fusion_depth=1,
        decoder_depth=2,
    )  # fmt: skip
    model = replace(model, fusion=replace(model.fusion, kind=kind, latents=3))
    decoder = replace(model.decoder, body=replace(model.decoder.body, **body))
    return replace(model, decoder=decoder)


def some_asked(seed: int = 0, rows: int = 2) -> Asked:
    rng = np.random.default_rng(seed)
    words = np.eye(5, dtype=np.float32)[[0, 1, 3]]
    words[1, 2] = 1  # of two tokens
    return Asked(
        {"image": jnp.asarray(rng.normal(size=(rows, 16, 16, 3)), jnp.float32)},
        jnp.asarray(rng.integers(4, 16, (rows, 4)), jnp.int32),
        jnp.asarray(np.arange(4) < np.array([[4], [2]])[:rows]),
        jnp.asarray(rng.integers(4, 16, (rows, 6)), jnp.int32),
        jnp.asarray(np.stack([words] * rows)),
    )


def start(model: Multimodal, asked: Asked) -> Any:
    return jax.jit(model.init)(jax.random.key(0), asked.batch)["params"]
