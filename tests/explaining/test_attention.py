"""Weights of attention: kept only when asked for, and followed back to the patches."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from asking import small, some_asked, start

from mlm_jax.explaining import attention
from mlm_jax.explaining.asked import Asked, logits, scores
from mlm_jax.fusion import Fusion
from mlm_jax.layers.attention import Attention
from mlm_jax.layers.tokens import every
from mlm_jax.models.multimodal import Multimodal


@pytest.fixture(scope="module")
def cross() -> tuple[Multimodal, Asked, Any]:
    model, asked = small(), some_asked()
    return model, asked, start(model, asked)


def test_off_is_the_same_program(
    cross: tuple[Multimodal, Asked, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text of the whole program, with the switch there and with a module that has none."""
    model, asked, params = cross

    def program(**kwargs: Any) -> str:
        def run(params: Any, batch: Any) -> Any:
            return model.apply({"params": params}, batch, **kwargs)

        return jax.jit(run).lower(params, asked.batch).as_text()

    off, on = program(), program(mutable=["attention"])
    with monkeypatch.context() as patch:

        def refuse(*_: Any) -> Any:
            raise AssertionError("the normal path reached what explains")

        patch.setattr(Attention, "_shown", refuse)
        patch.setattr(Attention, "is_mutable_collection", lambda self, name: False)
        without = program()
    assert off == without
    assert "tensor<2x4x5x8xf32>" in results(on)  # 5 words at 4 patches and 4 words
    assert results(off).count("tensor") == 1


def results(program: str) -> str:
    """What the main function of a lowered program gives."""
    return program.split("->")[1].split(") {\n")[0]


def test_flash_path_untouched(
    cross: tuple[Multimodal, Asked, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `attend` is another kernel, it alone is called, with the switch off."""
    model, asked, params = cross
    called = []
    monkeypatch.setattr(
        "mlm_jax.layers.attention.attend",
        lambda query, key, value, real, causal: called.append(1) or jnp.zeros_like(query),
    )
    model.apply({"params": params}, asked.batch)
    assert len(called) == 2 + 1 + 2 + 4
    called.clear()
    model.apply({"params": params}, asked.batch, mutable=["attention"])
    assert not called


def test_nothing_is_kept_at_the_start(cross: tuple[Multimodal, Asked, Any]) -> None:
    model, asked, _ = cross
    assert set(jax.eval_shape(lambda: model.init(jax.random.key(0), asked.batch))) == {"params"}


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
@pytest.mark.parametrize("groups", [1, 2])
def test_on_gives_the_same_logits(layers: str, groups: int) -> None:
    model, asked = small(layers=layers), some_asked()
    block = replace(model.decoder.body.block, groups=groups)
    model = replace(
        model, decoder=replace(model.decoder, body=replace(model.decoder.body, block=block))
    )
    params = start(model, asked)
    plain = model.apply({"params": params}, asked.batch)["logits"]
    shown, kept = model.apply({"params": params}, asked.batch, method=logits, mutable=["attention"])
    np.testing.assert_allclose(shown, plain, atol=1e-5)
    weights = attention.apart(kept["attention"])
    for leaf in jax.tree.leaves(weights):
        np.testing.assert_allclose(leaf.sum(-1), 1, atol=1e-5)
        assert leaf.shape[:2] == (2, 4)
    assert set(weights["decoder"]["body"]) == {"block_0", "block_1"}
    assert attention.looks(model, weights, asked.spans).shape == (2, 3, 2, 4, 4)


def test_scanned_gradients() -> None:
    """A nudge reaches scanned blocks as well."""
    model, asked = small(layers="scanned"), some_asked()
    params = start(model, asked)
    _, weights = scores(model, params, asked, {})
    still = jax.tree.map(jnp.zeros_like, weights)
    slope = jax.grad(lambda nudge: scores(model, params, asked, nudge)[0].sum())(still)
    cross = slope["decoder"]["body"]["blocks"]["cross"]["weights"]
    assert cross.shape == (2, 2, 4, 5, 8)
    assert (abs(cross).max(axis=(1, 2, 3, 4)) > 0).all()


def test_gradient_by_weights_is_a_finite_difference(cross: tuple[Multimodal, Asked, Any]) -> None:
    model, asked, params = cross
    _, weights = scores(model, params, asked, {})
    still = jax.tree.map(jnp.zeros_like, weights)

    @jax.jit
    def told(nudge: Any) -> Any:
        return scores(model, params, asked, nudge)[0][0, 2]

    slope = jax.grad(told)(still)

    def moved(by: float) -> float:
        part = still["image"]["body"]["block_0"]["attention"]["weights"].at[0, 1, 2, 3].set(by)
        return float(told(with_part(still, part)))

    difference = (moved(0.1) - moved(-0.1)) / 0.2
    own = float(slope["image"]["body"]["block_0"]["attention"]["weights"][0, 1, 2, 3])
    assert own == pytest.approx(difference, rel=0.02)


def with_part(tree: Any, part: Any) -> Any:
    new = jax.tree.map(lambda x: x, tree)
    new["image"]["body"]["block_0"]["attention"]["weights"] = part
    return new


def test_known_weights() -> None:
    """One head whose keys and queries are the tokens: softmax of the products, by hand."""
    module = Attention(heads=1, bias=False)
    x = jnp.array([[[2.0, 0.0], [0.0, 1.0]]])
    eye = jnp.eye(2)
    kernel = {"kernel": eye[:, None]}
    params = {"query": kernel, "key": kernel, "value": kernel, "out": {"kernel": eye[None]}}
    read, kept = module.apply({"params": params}, x, [every(x)], mutable=["attention"])
    scores_by_hand = np.array([[4.0, 0.0], [0.0, 1.0]]) / 2**0.5
    hand = np.exp(scores_by_hand) / np.exp(scores_by_hand).sum(-1, keepdims=True)
    np.testing.assert_allclose(kept["attention"]["weights"][0, 0], hand, rtol=1e-5)
    np.testing.assert_allclose(read[0], hand @ np.asarray(x[0]), rtol=1e-5)


# --- flows ---


def made(depth: int, tokens: int, others: int = 0, seed: int = 0) -> Any:
    """Blocks of random rows that sum to 1, without heads."""
    rng = np.random.default_rng(seed)

    def weights(columns: int) -> Any:
        raw = rng.random((1, tokens, columns))
        return {"weights": jnp.asarray(raw / raw.sum(-1, keepdims=True), jnp.float32)}

    blocks = {}
    for i in range(depth):
        blocks[f"block_{i}"] = {"attention": weights(tokens)}
        if others:
            blocks[f"block_{i}"]["cross"] = weights(others)
    return blocks


def test_rollout_is_a_product_of_matrices() -> None:
    """Of self-attention: that of (A + 1) / 2 over the layers, the last on the left."""
    blocks = made(3, 5)
    product = np.eye(5)
    for i in range(3):
        product = (
            (np.asarray(blocks[f"block_{i}"]["attention"]["weights"][0]) + np.eye(5)) / 2 @ product
        )
    flow = attention.through(blocks, attention.identity(1, 5), attention.rolled)
    np.testing.assert_allclose(flow[0], product, atol=1e-6)
    np.testing.assert_allclose(flow.sum(-1), 1, atol=1e-6)


def test_cross_rollout_is_a_product_of_whole_matrices() -> None:
    """One matrix over words and patches for each attention; words are rows of their product."""
    words, patches = 4, 6
    blocks = made(2, words, patches, seed=1)
    whole = np.eye(words + patches)
    for i in range(2):
        for name, columns in (("attention", slice(0, words)), ("cross", slice(words, None))):
            step = np.eye(words + patches)
            step[:words] /= 2
            step[:words, columns] += np.asarray(blocks[f"block_{i}"][name]["weights"][0]) / 2
            whole = step @ whole
    own = attention.through(
        blocks, jnp.zeros((1, words, patches)), attention.rolled,
        memory=attention.identity(1, patches),
    )  # fmt: skip
    np.testing.assert_allclose(own[0], whole[:words, words:], atol=1e-6)


def test_whole_rollout_by_brute_force(cross: tuple[Multimodal, Asked, Any]) -> None:
    """Encoder, fusion and decoder of the cross-attention kind, as one loop over numpy matrices."""
    model, asked, params = cross
    weights = attention.recorded(model, params, asked)
    mean = jax.tree.map(lambda x: np.asarray(x.mean(1)), weights)
    for row in range(2):
        image = np.eye(4)
        for i in range(2):
            image = (
                image + mean["image"]["body"][f"block_{i}"]["attention"]["weights"][row] @ image
            ) / 2
        block = mean["fusion"]["body"]["block_0"]
        reader = np.zeros((4, 4))
        reader = (reader + block["attention"]["weights"][row] @ reader) / 2
        reader = (reader + block["cross"]["weights"][row] @ image) / 2
        memory, words = np.concatenate([image, reader]), np.zeros((5, 4))
        for i in range(2):
            block = mean["decoder"]["body"][f"block_{i}"]
            words = (words + block["attention"]["weights"][row] @ words) / 2
            words = (words + block["cross"]["weights"][row] @ memory) / 2
        wanted = [words[0], words[[1, 2]].mean(0), words[3]]
        np.testing.assert_allclose(
            attention.rollout(model, weights, asked.spans)[row], wanted, atol=1e-6
        )


def test_concat_knows_no_places_apart() -> None:
    """Of one vector the map is even, the same for every word."""
    image = attention.identity(1, 4)
    read = attention.fused(Fusion("concat"), {}, image, 3, attention.kept)
    np.testing.assert_allclose(read.memory, np.full((1, 1, 4), 1 / 8))


def test_divided_rows_sum_to_one() -> None:
    """Each frame at itself over space, each place at itself over time: nothing is lost."""
    rng = np.random.default_rng(0)

    def shares(*shape: int) -> Any:
        raw = rng.random(shape)
        return {"weights": jnp.asarray(raw / raw.sum(-1, keepdims=True), jnp.float32)}

    times, places = 3, 4
    weights = {"block_0": {"time": shares(places, times, times), "attention": shares(times, 5, 5)}}
    cells = attention.Cells("video", 1, (times, 2, 2), 8, 3.5)
    flow = attention.divided(cells, weights, attention.rolled)
    assert flow.shape == (1, 1 + times * places, times * places)
    # what is missing is what came from the class token
    assert float(flow[0, 1:].sum(-1).max()) <= 1
    only_time = {
        "block_0": weights["block_0"]
        | {"attention": {"weights": jnp.eye(5)[None].repeat(times, 0)}}
    }
    flow = attention.divided(cells, only_time, attention.rolled)[0, 1:]
    by_time = flow.reshape(times, places, times, places)
    along = np.asarray(weights["block_0"]["time"]["weights"])
    for t in range(times):
        for p in range(places):
            wanted = np.zeros((times, places))
            wanted[:, p] = (along[p, t] + np.eye(times)[t]) / 2
            np.testing.assert_allclose(by_time[t, p], wanted, atol=1e-6)
