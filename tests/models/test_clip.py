"""CLIP and SigLIP: losses by hand, the end of a text, what reaches what."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax import choosing
from mlm_jax.config import Config
from mlm_jax.data.tokenizers import words
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Block, Pool, Tokens, Transformer
from mlm_jax.losses import Contrastive
from mlm_jax.models.clip import Clip
from mlm_jax.models.matching import Matching
from mlm_jax.trained import Trained

BODY = Transformer(16, 1, Block(heads=2))
KEY = jax.random.key(0)


def clip(**fields: Any) -> Clip:
    image = ImageEncoder((8, 8), 4, class_token=True, body=replace(BODY))
    return Clip(image, TextEncoder(20, 6, causal=True, body=replace(BODY)), **fields)


def outputs(pictures: int, texts: int, bias: float = 0.0) -> dict[str, jax.Array]:
    one, two = jax.random.split(KEY)
    image = jax.random.normal(one, (pictures, 4))
    text = jax.random.normal(two, (texts, 4))
    unit = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    return {"image": unit[0], "text": unit[1], "scale": jnp.array(5.0), "bias": jnp.array(bias)}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("texts", [3, 6])
def test_the_softmax_loss_is_that_of_every_row_and_column(texts: int) -> None:
    out = outputs(3, texts)
    logits = 5.0 * np.asarray(out["image"] @ out["text"].T)
    nats, right = [], []
    for j in range(texts):
        column, own = logits[:, j], j // (texts // 3)
        right.append(column.argmax() == own)
        nats.append(np.log(np.exp(column).sum()) - column[own])
    for i in range(3):
        for place in range(texts // 3):
            row = logits[i, place :: texts // 3]
            nats.append(np.log(np.exp(row).sum()) - row[i])
    loss, metrics = Contrastive()(out, {})
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right))


@pytest.mark.usefixtures("strict")
def test_the_sigmoid_loss_asks_of_every_pair() -> None:
    out = outputs(3, 6, bias=-1.0)
    logits = 5.0 * np.asarray(out["image"] @ out["text"].T) - 1.0
    total = 0.0
    for i in range(3):
        for j in range(6):
            sign = 1 if j // 2 == i else -1
            total += np.log1p(np.exp(-sign * logits[i, j]))
    np.testing.assert_allclose(Contrastive("sigmoid")(out, {})[0], total / 3, rtol=1e-5)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("texts", [3, 6])
def test_a_picture_does_not_find_its_own_wrong_texts_either(texts: int) -> None:
    out = outputs(3, texts, bias=-1.0)
    out["wrong"] = jax.random.normal(jax.random.key(1), out["text"].shape)
    logits = 5.0 * np.asarray(out["image"] @ out["text"].T) - 1.0
    wrong = 5.0 * np.asarray(out["image"] @ out["wrong"].T) - 1.0
    (before, _), (loss, metrics) = (Contrastive()(o, {}) for o in (outputs(3, texts, -1.0), out))
    nats, nearer = [], []
    for i in range(3):
        for place in range(texts // 3):
            row = logits[i, place :: texts // 3]
            own = i * (texts // 3) + place
            nats.append(
                np.log(np.exp(row).sum() + np.exp(wrong[i, own])) - np.log(np.exp(row).sum())
            )
            nearer.append(row[i] > wrong[i, own])
    np.testing.assert_allclose(loss - before, np.mean(nats) / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["told_apart"], np.mean(nearer))

    (before, _), (loss, _) = (Contrastive("sigmoid")(o, {}) for o in (outputs(3, texts, -1.0), out))
    asked = sum(np.log1p(np.exp(wrong[j // (texts // 3), j])) for j in range(texts))
    np.testing.assert_allclose(loss - before, asked / 3, rtol=1e-4)


def test_right_pairs_cost_less_than_wrong_ones() -> None:
    out = outputs(4, 4)
    right = Contrastive()({**out, "text": out["image"]}, {})
    wrong = Contrastive()({**out, "text": out["image"][::-1]}, {})
    assert right[0] < wrong[0]
    assert right[1]["accuracy"] == 1
    assert wrong[1]["accuracy"] == 0


@pytest.mark.parametrize(
    ("end", "place"), [("word", [5, 3]), ("place", [5, 5]), ("largest", [1, 0]), ("id", [2, 1])]
)
def test_where_a_text_is_read(end: str, place: list[int]) -> None:
    model = clip(end=end, end_id=9)
    ids = jnp.array([[3, 19, 9, 4, 9, 5], [18, 9, 9, 7, 0, 0]])
    mask = jnp.array([[True] * 6, [True] * 4 + [False] * 2])
    batch = {"image": jnp.zeros((2, 8, 8, 3), jnp.uint8), "target": ids, "target_mask": mask}
    params = jax.jit(model.init)(KEY, batch)["params"]
    text = TextEncoder(20, 6, causal=True, body=replace(BODY))
    if end == "place":  # a text of full length, filled up with end_id
        ids, mask = jnp.where(mask, ids, 9), jnp.ones_like(mask)
    states = jax.jit(text.apply)({"params": params["text"]}, ids, mask).x
    want = jnp.stack([states[i, p] for i, p in enumerate(place)]) @ params["text_out"]["kernel"]
    found = jax.jit(model.apply)({"params": params}, batch)["text"]
    np.testing.assert_allclose(
        found, want / jnp.linalg.norm(want, axis=1, keepdims=True), atol=1e-6
    )


@pytest.mark.usefixtures("strict")
def test_siglip_has_a_bias_and_its_own_head() -> None:
    image = ImageEncoder((8, 8), 4, body=replace(BODY))
    model = Clip(
        image, TextEncoder(20, 6, body=replace(BODY)), Pool("map", 2), 16, "siglip", "place"
    )
    batch = {
        "image": jax.random.randint(KEY, (2, 8, 8, 3), 0, 256).astype(jnp.uint8),
        "target": jax.random.randint(KEY, (4, 6), 0, 20),
        "target_mask": jnp.ones((4, 6), bool),
    }
    params = jax.jit(model.init)(KEY, batch)["params"]
    assert params.keys() == {"image", "text", "pool", "text_out", "logit_scale", "logit_bias"}
    out = jax.jit(model.apply)({"params": params}, batch)
    assert float(out["bias"]) == -10
    np.testing.assert_allclose(out["scale"], 10, rtol=1e-6)

    def loss(params: Any) -> jax.Array:
        return Contrastive("sigmoid")(model.apply({"params": params}, batch), batch)[0]

    grads = jax.jit(jax.grad(loss))(params)
    still = [jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(grads)
             if not np.abs(g).max() > 0]  # fmt: skip
    assert all("key" in path and "bias" in path for path in still)  # softmax does not see it


def test_siglip_reads_the_same_place_however_a_batch_was_trimmed() -> None:
    model = Clip(
        ImageEncoder((8, 8), 4, body=replace(BODY)),
        TextEncoder(20, 6, body=replace(BODY)),
        Pool("map", 2),
        16,
        "siglip",
        "place",
    )
    ids, mask = jnp.array([[3, 4, 5, 0, 0, 0]]), jnp.array([[True] * 3 + [False] * 3])
    batch = {"image": jnp.zeros((1, 8, 8, 3), jnp.uint8), "target": ids, "target_mask": mask}
    params = jax.jit(model.init)(KEY, batch)["params"]
    whole = jax.jit(model.apply)({"params": params}, batch)["text"]
    short = {**batch, "target": ids[:, :4], "target_mask": mask[:, :4]}
    np.testing.assert_array_equal(jax.jit(model.apply)({"params": params}, short)["text"], whole)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(("kind", "most"), [("clip", 100.0), ("siglip", np.exp(5.0))])
def test_the_scale_is_at_most_a_hundred_in_training_and_comes_back(kind: Any, most: float) -> None:
    model = clip(kind=kind)
    over = {"logit_scale": jnp.array(5.0), "logit_bias": jnp.array(-10.0)}

    def scale(params: Any, train: bool) -> jax.Array:
        return model.apply({"params": params}, train=train, method="logits")["scale"]

    np.testing.assert_allclose(scale(over, True), most, rtol=1e-6)
    np.testing.assert_allclose(scale(over, False), np.exp(5.0), rtol=1e-6)  # as it was published
    up, down = (
        jax.grad(lambda p, s=s: s * scale(p, True))(over)["logit_scale"] for s in (-1.0, 1.0)
    )
    assert (up == 0) == (kind == "clip")  # what would raise it further is held back
    assert down > 0
    below = {**over, "logit_scale": jnp.array(4.0)}
    np.testing.assert_allclose(scale(below, True), np.exp(4.0), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(lambda p: -scale(p, True))(below)["logit_scale"], -np.exp(4.0), rtol=1e-6
    )


def test_the_scale_of_matching_is_at_most_a_hundred() -> None:
    head, tokens = Matching("hard", 4), Tokens(jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool))
    params = head.init(KEY, tokens, tokens, method="vectors")["params"]
    over = {**params, "logit_scale": jnp.array(5.0)}
    assert head.apply({"params": over}, tokens, tokens, method="vectors")["scale"] == 100


def test_clips_are_seen_frame_by_frame_in_order() -> None:
    model = toy.clip(4)
    batch = {
        "video": jax.random.randint(KEY, (3, 4, *toy.SIZE, 3), 0, 256, jnp.uint8),
        "target": jnp.ones((3, 6), jnp.int32),
        "target_mask": jnp.ones((3, 6), bool),
    }
    params = toy.stirred(model, batch)
    out = model.apply({"params": params}, batch)
    assert out["image"].shape == out["text"].shape == (3, 8)
    back = model.apply({"params": params}, batch | {"video": batch["video"][:, ::-1]})
    assert np.abs(out["image"] - back["image"]).max() > 1e-4
    trained = Trained(Path("x"), Config(model, Contrastive()), words(["a"]), params, 0)
    np.testing.assert_allclose(
        choosing.seen(trained, np.asarray(batch["video"])), out["image"], atol=1e-6
    )
    for eyes in ({"image": None, "video": None}, {"image": clip().image, "video": model.video}):
        with pytest.raises(ValueError, match="one of the two is None"):
            jax.eval_shape(model.clone(**eyes).init, KEY, batch)
