"""BERT: which words are hidden, and what is learned from them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Hidden
from mlm_jax.models.bert import Bert

BODY = Transformer(16, 1, Block(heads=2, order="post"))
BERT = Bert(TextEncoder(50, 40, types=2, body=replace(BODY)), pooler=True, labels=3)
KEY = jax.random.key(0)


def test_words_are_hidden_as_the_paper_says() -> None:
    """15 % of the real words; of these 80 % by the mask, 10 % by any word, 10 % as they are."""
    ids = jax.random.randint(KEY, (400, 40), 4, 50)
    mask = jnp.arange(40) < 36
    ids = ids.at[:, 0].set(1).at[:, 35].set(2)
    mask = jnp.broadcast_to(mask, ids.shape)
    shown, hidden = (np.asarray(x) for x in BERT.hide(jax.random.key(1), ids, mask))
    assert not hidden[:, [0, *range(35, 40)]].any()
    assert 0.14 < hidden[:, 1:35].mean() < 0.16
    assert (shown == ids)[~hidden].all()
    as_mask = shown[hidden] == BERT.mask_id
    same = shown[hidden] == np.asarray(ids)[hidden]
    assert 0.77 < as_mask.mean() < 0.83
    assert 0.08 < same.mean() < 0.13
    again, _ = BERT.hide(jax.random.key(1), ids, mask)
    np.testing.assert_array_equal(again, shown)


@pytest.mark.usefixtures("strict")
def test_outputs_and_loss() -> None:
    ids = jax.random.randint(KEY, (3, 8), 4, 50)
    mask = jnp.arange(8) < jnp.array([[8], [5], [3]])
    batch = {"target": ids, "target_mask": mask}
    params = jax.jit(BERT.init)(KEY, batch)["params"]
    out = jax.jit(partial(BERT.apply, train=True))(
        {"params": params}, batch, rngs={"mask": KEY, "dropout": KEY}
    )
    assert {k: v.shape for k, v in out.items()} == {
        "tokens": (3, 8, 16),
        "logits": (3, 8, 50),
        "pooled": (3, 16),
        "classes": (3, 3),
        "hidden": (3, 8),
    }
    hidden = jnp.zeros((3, 8), bool).at[0, 2].set(True).at[1, 1].set(True)
    loss, metrics = Hidden()({**out, "hidden": hidden}, batch)
    nats = -jax.nn.log_softmax(out["logits"])
    want = (nats[0, 2, ids[0, 2]] + nats[1, 1, ids[1, 1]]) / 2
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert metrics["weight"] == 2
    nothing, _ = Hidden()({**out, "hidden": hidden & False}, batch)
    assert nothing == 0


def test_types_and_padding_count() -> None:
    ids = jax.random.randint(KEY, (2, 6), 4, 50)
    mask = jnp.arange(6) < jnp.array([[6], [4]])
    params = jax.jit(BERT.init, static_argnames="method")(KEY, ids, mask, method="read")["params"]

    def read(ids: jax.Array, types: jax.Array | None = None) -> jax.Array:
        apply = jax.jit(partial(BERT.apply, method="read"))
        return apply({"params": params}, ids, mask, types)["tokens"]

    base = read(ids)
    assert np.abs(read(ids, jnp.ones_like(ids)) - base).max() > 1e-3
    other = read(ids.at[1, 5].set(7))
    np.testing.assert_array_equal(other[1, :4], base[1, :4])


def test_classes_need_the_pooler() -> None:
    ids = jnp.ones((1, 4), jnp.int32)
    batch = {"target": ids, "target_mask": ids > 0}
    with pytest.raises(ValueError, match="from the pooler"):
        replace(BERT, pooler=False).init(KEY, batch)
