"""BLIP's retrieval: what it reads."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.checks import check
from mlm_jax.config import Config, Data, UserError
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Contrastive
from mlm_jax.models.blip import BlipMatcher

BODY = Transformer(16, 1, Block(heads=2))
KEY = jax.random.key(0)


def matcher() -> BlipMatcher:
    image = ImageEncoder((8, 8), 4, class_token=True, body=replace(BODY))
    return BlipMatcher(image, TextEncoder(20, 8, body=replace(BODY)), 12)


def test_it_is_captions_that_are_matched() -> None:
    """As in training, where the text of a batch asks for one and is the same everywhere."""
    one, two = jax.random.randint(KEY, (2, 4, 6), 4, 20)
    real = jnp.ones((4, 6), bool)
    picture = jax.random.randint(KEY, (2, 8, 8, 3), 0, 256).astype(jnp.uint8)
    batch = {"image": picture, "text": one, "text_mask": real, "target": one, "target_mask": real}
    params = jax.jit(matcher().init)(KEY, batch)["params"]
    read = jax.jit(lambda batch: matcher().apply({"params": params}, batch))
    out = read(batch)
    assert {k: v.shape for k, v in out.items()} == {
        "match": (4, 2), "image": (2, 12), "text": (4, 12)
    }  # fmt: skip
    np.testing.assert_array_equal(read({**batch, "text": two})["match"], out["match"])
    for key in ("match", "text"):
        assert np.abs(read({**batch, "target": two})[key] - out[key]).max() > 1e-3


def test_captions_must_fit() -> None:
    data = Data(captions=1, questions=0, text_length=32, target_length=9)
    with pytest.raises(UserError, match=r"data.target_length 9 is over the 8 positions of model"):
        check(Config(matcher(), Contrastive(), data))
    check(Config(matcher(), Contrastive(), replace(data, target_length=8)))
