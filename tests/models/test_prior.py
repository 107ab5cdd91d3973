"""The prior that writes vectors as codes, one axis after the other."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from scipy.stats import norm  # jax depends on scipy

from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.diffusion import How
from mlm_jax.losses import Coded
from mlm_jax.models.prior import AutoregressivePrior, DiffusionPrior, Prior, PriorNet, PriorWriter

KEY = jax.random.key(0)
AXES, CODES = 8, 16


PRIOR = AutoregressivePrior(
    toy.clip(),
    net=PriorWriter(TextDecoder(CODES + 1, AXES, body=toy.body())),
)
BATCH = {
    "image": jax.random.randint(KEY, (4, 8, 8, 3), 0, 256).astype(jnp.uint8),
    "target": jax.random.randint(KEY, (4, 6), 3, 20),
    "target_mask": jnp.ones((4, 6), bool),
}


@pytest.fixture(scope="module")
def params() -> Any:
    return toy.stirred(PRIOR, BATCH, 0.1)


@pytest.fixture(scope="module")
def learnt(params: Any) -> Any:
    """What it is after it has seen four pictures with their captions often."""
    tx = optax.adam(1e-2)
    own = {key: params[key] for key in ("net", "told")}

    @jax.jit
    def step(own: Any, state: Any, key: Any) -> Any:
        def loss(own: Any) -> Any:
            whole = {**own, "clip": params["clip"]}
            said: Any = PRIOR.apply({"params": whole}, BATCH, train=True, rngs={"mask": key})
            return Coded()(said, BATCH)[0]

        updates, state = tx.update(jax.grad(loss)(own), state)
        return optax.apply_updates(own, updates), state

    state = tx.init(own)
    for i in range(400):
        own, state = step(own, state, jax.random.fold_in(KEY, i))
    return {**own, "clip": params["clip"]}


def test_codes_are_equal_shares_of_a_normal_distribution() -> None:
    x = np.random.default_rng(0).normal(size=(5000, AXES)).astype(np.float32)
    codes = np.asarray(PRIOR.apply({}, jnp.asarray(x), method="encode_codes"))
    edges = norm.ppf(np.arange(1, CODES) / CODES)
    np.testing.assert_array_equal(codes, np.searchsorted(edges, x))
    assert abs(np.bincount(codes.reshape(-1)) / x.size * CODES - 1).max() < 0.1
    back = np.asarray(PRIOR.apply({}, jnp.asarray(codes), method="decode_codes"))
    np.testing.assert_array_equal(np.searchsorted(edges, back), codes)
    far = jnp.asarray([[-9.0, 9.0] * 4])
    ends = np.asarray(PRIOR.apply({}, far, method="encode_codes"))
    np.testing.assert_array_equal(ends, [[0, CODES - 1] * 4])


def test_an_axis_is_guessed_from_those_before_it_and_the_caption(params: Any) -> None:
    apply = jax.jit(PRIOR.apply)
    said = np.asarray(apply({"params": params}, BATCH)["codes"])
    assert said.shape == (4, AXES, CODES)
    words = {**BATCH, "target": BATCH["target"].at[:, 3].add(1)}
    assert (abs(apply({"params": params}, words)["codes"] - said).max((1, 2)) > 1e-4).all()
    wanted = np.asarray(apply({"params": params}, BATCH)["wanted"])
    other = {**BATCH, "image": BATCH["image"][::-1]}
    changed = apply({"params": params}, other)
    for row in range(4):
        first = np.flatnonzero(np.asarray(changed["wanted"])[row] != wanted[row])[0]
        moved = abs(np.asarray(changed["codes"])[row] - said[row]).max(-1)
        assert (moved[: first + 1] < 1e-5).all(), "what follows is not seen"
        assert (moved[first + 1 :] > 1e-6).any()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_each_caption_brings_the_vector_of_its_picture(learnt: Any, guidance: float) -> None:
    bound = {"params": learnt}
    imagined: Any = PRIOR.apply(bound, BATCH, How(guidance=guidance), KEY, method="imagine")
    real: Any = PRIOR.apply(bound, BATCH["image"], method="see")
    cosines = np.asarray(imagined) @ np.asarray(real).T
    assert (cosines.argmax(1) == np.arange(4)).all(), cosines
    assert cosines.diagonal().min() > 0.95, "but for the width of a code"
    np.testing.assert_allclose(np.linalg.norm(imagined, axis=1), 1, rtol=1e-5)


def test_clip_gets_no_gradient(params: Any) -> None:
    def loss(params: Any) -> Any:
        return Coded()(PRIOR.apply({"params": params}, BATCH), BATCH)[0]

    grads = jax.jit(jax.grad(loss))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["clip"]))
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["net"]))


@pytest.mark.parametrize(
    ("prior", "said"),
    [(PRIOR, "codes"), (DiffusionPrior(toy.clip(), net=PriorNet(toy.body())), "predicted")],
)
def test_of_a_hidden_caption_not_even_the_length_is_told(prior: Prior, said: str) -> None:
    hidden = prior.clone(dropped=1.0)
    bound = partial(hidden.apply, {"params": toy.stirred(hidden, BATCH, 0.1)}, train=True)
    short = {**BATCH, "target_mask": BATCH["target_mask"].at[:, 3:].set(False)}
    one, other = (jax.jit(bound)(batch, rngs={"mask": KEY}) for batch in (BATCH, short))
    np.testing.assert_allclose(one[said], other[said], atol=1e-6)
    told: Any = jax.jit(prior.apply)({"params": toy.stirred(prior, BATCH, 0.1)}, BATCH)
    less: Any = jax.jit(prior.apply)({"params": toy.stirred(prior, BATCH, 0.1)}, short)
    assert np.abs(told[said] - less[said]).max() > 1e-3, "of one that is not it is"


@pytest.mark.parametrize("prior", [PRIOR, DiffusionPrior(toy.clip(), net=PriorNet(toy.body()))])
def test_it_computes_in_bfloat16_where_its_parameters_are(prior: Prior) -> None:
    out, parts = toy.inside(prior, BATCH)
    assert toy.floats(out) == {jnp.dtype("float32")}
    net = parts["net"]
    inner = (
        (parts["told"], net["decoder"]["body"]) if prior is PRIOR else (net["told"], net["body"])
    )
    assert toy.floats(inner) == {jnp.dtype("bfloat16")}


def test_a_decoder_that_is_too_short_is_refused() -> None:
    short = PRIOR.clone(net=PriorWriter(TextDecoder(CODES + 1, AXES - 1, body=toy.body())))
    with pytest.raises(ValueError, match=r"8 axes, net.decoder.length is 7"):
        jax.eval_shape(short.init, KEY, BATCH)


def test_a_decoder_that_leaves_logits_to_the_loss_is_refused() -> None:
    left = PRIOR.clone(net=PriorWriter(PRIOR.net.decoder.clone(pieces=4)))
    with pytest.raises(ValueError, match=r"net.decoder.pieces 4: of losses.Caption alone"):
        jax.eval_shape(left.init, KEY, BATCH)
