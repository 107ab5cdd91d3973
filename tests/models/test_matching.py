"""Image-text matching: who is held against whom, the head, and what is learnt from it."""

from functools import cache
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.evaluators.matching import judged
from mlm_jax.fusion import Fusion, Kind
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, CaptionMatch, Contrastive, Match
from mlm_jax.models.matching import Matching, choose_others, own_texts
from mlm_jax.models.multimodal import Multimodal

KEY = jax.random.key(0)


def body() -> Transformer:
    return Transformer(16, 1, Block(heads=2))


def small(negatives: Any = "hard", kind: Any = "cross_attention") -> Multimodal:
    return Multimodal(
        image=ImageEncoder((16, 16), 8, body=body()),
        text=TextEncoder(20, 8, body=body()),
        fusion=Fusion(kind, latents=3, body=body()),
        decoder=TextDecoder(20, 8, body=body()),
        matching=Matching(negatives, 8),
    )


def make_batch(pictures: int = 3, texts: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = pictures * texts
    return {
        "image": jnp.asarray(rng.integers(0, 256, (pictures, 16, 16, 3), np.uint8)),
        "text": jnp.ones((rows, 4), jnp.int32),
        "text_mask": jnp.ones((rows, 4), bool),
        "target": jnp.asarray(rng.integers(4, 20, (rows, 8)), jnp.int32).at[:, 0].set(1),
        "target_mask": jnp.asarray(np.arange(8) < rng.integers(4, 9, (rows, 1))),
        "scored": jnp.asarray(np.arange(8) < 4)[None].repeat(rows, 0),
    }


@cache
def initial() -> Any:
    return jax.jit(small().init)(KEY, make_batch())["params"]


@jax.jit
def forward(params: Any, batch: Any) -> tuple[Any, Any]:
    """What training sees, and what is asked."""
    variables = {"params": params}
    return small().apply(variables, batch), small().apply(variables, batch, method="match")


def test_own_texts_are_those_that_read_the_same() -> None:
    """Two pictures of two texts each; text 3 reads like text 0 but for its padding."""
    ids = jnp.array([[5, 6, 0], [5, 7, 0], [8, 6, 7], [5, 6, 9]], jnp.int32)
    mask = jnp.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], bool)
    own = np.asarray(own_texts(ids, mask, 2)).astype(int)
    assert own.tolist() == [[1, 1, 0, 1], [1, 0, 1, 1]]


def test_others_are_never_own_and_a_batch_without_any_says_so() -> None:
    own = jnp.array([[1, 1, 0, 1], [1, 0, 1, 1]], bool)
    for seed in range(20):
        others = choose_others(jax.random.key(seed), jnp.zeros((2, 4)), own)
        assert others.text.tolist() == [2, 2, 1, 1]  # the only wrong text of each picture
        assert others.has_text.all()
        assert others.has_image.tolist() == [False, True, True, False]
        assert others.image[1:3].tolist() == [1, 0]


def test_hard_negatives_follow_similarity() -> None:
    """Of 1,000 draws as many as the softmax over the wrong ones says, both ways."""
    logits = jnp.array([[9.0, 2.0, 0.0], [2.0, 9.0, 1.0], [0.0, 1.0, 9.0]])
    own = jnp.eye(3, dtype=bool)
    keys = jax.random.split(KEY, 1000)
    others = jax.vmap(lambda key: choose_others(key, logits, own))(keys)
    expected = float(jax.nn.sigmoid(2.0))  # picture 0: text 1 at 2.0 or text 2 at 0.0
    assert np.mean(others.text[:, 0] == 1) == pytest.approx(expected, abs=0.03)
    assert np.mean(others.image[:, 0] == 1) == pytest.approx(expected, abs=0.03)
    assert np.mean(others.text[:, 1] == 0) == pytest.approx(float(jax.nn.sigmoid(1.0)), abs=0.05)


def test_the_loss_by_hand() -> None:
    """Two own pairs, one wrong text that counts and one that does not, two wrong pictures."""
    logits = jnp.array([2.0, -1.0, 0.5, 7.0, -3.0, 1.0])
    real = jnp.array([1, 1, 1, 0, 1, 1], bool)
    loss, metrics = Match()({"match": logits, "match_real": real}, {})
    nats = np.log1p(np.exp([-2.0, 1.0, 0.5, -3.0, 1.0]))
    assert float(loss) == pytest.approx(nats.mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((1 / 2 + 1 / 3) / 2)


@pytest.mark.usefixtures("strict")
def test_the_three_losses_are_summed_and_parameters_are_there_only_when_on() -> None:
    batch, params = make_batch(), initial()
    out, _ = forward(params, batch)
    assert out["match"].shape == out["match_real"].shape == (18,)
    assert out["image"].shape == (3, 8)
    assert out["text"].shape == (6, 8)
    total, metrics = CaptionMatch()(out, batch)
    parts = [term(out, batch)[0] for term in (Caption(), Contrastive(), Match())]
    assert float(total) == pytest.approx(float(sum(parts)), rel=1e-5)
    assert {"accuracy", "weight", "match_accuracy", "contrastive_loss"} <= metrics.keys()

    off = jax.eval_shape(small("off").init, KEY, batch)["params"]
    assert "matching" not in off
    same = jax.tree.map(lambda x: x.shape, {k: v for k, v in params.items() if k != "matching"})
    assert jax.tree.map(lambda x: x.shape, off) == same
    plain = jax.eval_shape(small("off").apply, {"params": off}, batch)
    assert plain.keys() == {"logits"}


def test_gradients_of_matching_reach_the_picture_and_the_decoder() -> None:
    batch = make_batch()

    @jax.jit
    @jax.grad
    def gradient(params: Any) -> Any:
        rngs = {"mask": KEY, "dropout": KEY}
        out = small().apply({"params": params}, batch, train=True, rngs=rngs)
        return Match()(out, batch)[0]

    found = gradient(initial())
    for part in ("image", "text", "fusion", "decoder"):
        assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(found[part])) > 1e-6, part
    assert not jnp.any(found["matching"]["image_out"]["kernel"])  # the choice has no gradient


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_fusion_gives_a_probability_for_each_row(kind: str) -> None:
    model, batch = small(kind=kind), make_batch()
    shapes = jax.eval_shape(lambda: model.init_with_output(KEY, batch, method="match")[0])
    assert shapes.shape == (6,)
    assert shapes.dtype == jnp.float32


def test_what_is_asked_is_what_was_trained() -> None:
    """`match` of the right pairs is the first third of what training holds against the labels."""
    batch, params = make_batch(), initial()
    out, asked = forward(params, batch)
    np.testing.assert_allclose(asked, jax.nn.sigmoid(out["match"][:6]), atol=1e-5)
    dark = {**batch, "image": jnp.zeros_like(batch["image"])}
    assert not np.allclose(asked, forward(params, dark)[1], atol=1e-5)
    with pytest.raises(ValueError, match="no matching"):
        small("off").apply({"params": params}, batch, method="match")


@pytest.mark.parametrize(
    ("right", "wrong", "score"), [(0.9, 0.1, 1), (0.9, 0.8, 0.5), (0.2, 0.1, 0.5), (0.2, 0.8, 0)]
)
def test_a_pair_of_pairs_is_judged_by_halves(right: float, wrong: float, score: float) -> None:
    assert judged(right, wrong) == score
