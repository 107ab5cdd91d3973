"""Encoders, fusions, the decoder and the multimodal model."""

from dataclasses import replace
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm_jax.config import load
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fused, Fusion, Kind
from mlm_jax.layers import Block, Tokens, Transformer, transformer
from mlm_jax.layers.tokens import every
from mlm_jax.losses import Caption
from mlm_jax.models.mae import Mae
from mlm_jax.models.multimodal import Multimodal, multimodal
from mlm_jax.pretrained.store import example

KEY = jax.random.key(0)
KINDS = get_args(Kind)
BODY = Transformer(16, 1, Block(heads=2))


def small(kind: str, body: Transformer = BODY, width: int = 24) -> Multimodal:
    """One block everywhere; the image is `width` wide, the rest 16."""
    return Multimodal(
        image=ImageEncoder((16, 16), 8, body=Transformer(width, 1, Block(heads=2))),
        text=TextEncoder(20, 6, body=replace(BODY)),
        fusion=Fusion(kind, latents=3, body=replace(body)),
        decoder=TextDecoder(20, 8, body=replace(body)),
    )


def make_batch(pictures: int = 2, texts: int = 2, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    rows = pictures * texts
    lengths = rng.integers(1, 7, rows)
    arrays = {
        "image": rng.integers(0, 256, (pictures, 16, 16, 3), dtype=np.uint8),
        "text": rng.integers(4, 20, (rows, 6)).astype(np.int32),
        "text_mask": np.arange(6) < lengths[:, None],
        "target": rng.integers(4, 20, (rows, 8)).astype(np.int32),
        "target_mask": np.arange(8) < rng.integers(3, 9, (rows, 1)),
    }
    return jax.tree.map(jnp.asarray, arrays)


def opened(params: Any) -> Any:
    """Gates opened, so that a gated fusion shows what it reads."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.ones_like(x) if path[-1].key.endswith("_gate") else x, params
    )


@pytest.fixture(scope="module", params=KINDS)
def fused_model(request: pytest.FixtureRequest) -> tuple[Multimodal, Any]:
    model = small(request.param)
    return model, opened(jax.jit(model.init)(KEY, make_batch())["params"])


@partial(jax.jit, static_argnums=0)
def forward(model: Multimodal, params: Any, batch: dict) -> dict:
    return model.apply({"params": params}, batch)


def logits(model: Multimodal, params: Any, batch: dict) -> np.ndarray:
    return np.asarray(forward(model, params, batch)["logits"])


@pytest.mark.usefixtures("strict")
def test_every_fusion_reads_the_picture_and_the_text(fused_model: tuple[Multimodal, Any]) -> None:
    model, params = fused_model
    batch = make_batch()
    base = logits(model, params, batch)
    assert base.shape == (4, 7, 20)
    assert base.dtype == np.float32
    dark = {**batch, "image": jnp.zeros_like(batch["image"])}
    other = {**batch, "text": batch["text"][::-1]}
    assert not np.allclose(base, logits(model, params, dark), atol=1e-3)
    assert not np.allclose(base, logits(model, params, other), atol=1e-3)


def test_padding_of_the_text_is_never_read(fused_model: tuple[Multimodal, Any]) -> None:
    model, params = fused_model
    batch = make_batch()
    noise = jnp.where(batch["text_mask"], batch["text"], 7)
    a, b = logits(model, params, batch), logits(model, params, {**batch, "text": noise})
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["gated", "prefix"])
def test_more_padding_turns_nothing(kind: str) -> None:
    """What stands before the words is as far from them in a batch with a longer text."""
    model = small(kind)
    block = replace(model.decoder.body.block, rotary=100.0)
    model = model.clone(decoder=model.decoder.clone(body=replace(model.decoder.body, block=block)))
    batch = make_batch()
    batch |= {"text_mask": batch["text_mask"] & (jnp.arange(6) < 4)}
    params = opened(jax.jit(model.init)(KEY, batch)["params"])
    narrow = batch | {name: batch[name][:, :4] for name in ("text", "text_mask")}
    a, b = logits(model, params, narrow), logits(model, params, batch)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_decoder_sees_the_past_only(fused_model: tuple[Multimodal, Any]) -> None:
    model, params = fused_model
    batch = make_batch()
    target = batch["target"].at[:, 4].set(3)
    a, b = logits(model, params, batch), logits(model, params, {**batch, "target": target})
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)
    assert not np.allclose(a[:, 4:], b[:, 4:], atol=1e-3)


@pytest.mark.parametrize(
    "fused_model",
    [pytest.param(kind, marks=[pytest.mark.slow] if kind in KINDS[2:] else []) for kind in KINDS],
    indirect=True,
)
def test_texts_of_one_picture_equal_one_picture_each(fused_model: tuple[Multimodal, Any]) -> None:
    model, params = fused_model
    batch = make_batch(pictures=2, texts=3)
    rows = {key: value[::-1] for key, value in batch.items() if key != "image"}
    together = forward(model, params, batch | {"also": rows})
    image = {"image": jnp.repeat(batch["image"], 3, axis=0)}
    for name, texts in (("logits", batch), ("also", rows)):
        apart = logits(model, params, {**texts, **image})
        np.testing.assert_allclose(together[name], apart, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_every_fusion_learns_what_a_blind_model_cannot(kind: str, width: int) -> None:
    """The answer is whether the picture is bright, which no text tells: blind means log 2."""
    model = small(kind, width=width)
    rng = np.random.default_rng(0)

    def batch(blind: bool) -> dict[str, jax.Array]:
        bright = rng.random(32) < 0.5
        image = rng.integers(0, 80, (32, 16, 16, 3), dtype=np.uint8)
        image[bright] += 150
        rows = make_batch(32, 1)
        rows["target"] = rows["target"].at[:, 1].set(jnp.where(bright, 4, 5))
        rows["target_mask"] = jnp.tile(jnp.arange(8) < 2, (32, 1))
        return {**rows, "image": jnp.asarray(np.zeros_like(image) if blind else image)}

    final = {}
    for blind in (False, True):
        params = model.init(KEY, batch(blind))["params"]
        tx = optax.adam(3e-3)
        state = tx.init(params)

        @jax.jit
        def step(params: Any, state: Any, rows: dict, tx: Any = tx) -> Any:
            def loss(params: Any) -> jax.Array:
                return Caption()(model.apply({"params": params}, rows), rows)[0]

            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, value

        losses = []
        for _ in range(100):
            params, state, value = step(params, state, batch(blind))
            losses.append(float(value))
        final[blind] = np.mean(losses[-20:])
    assert final[False] < 0.1
    assert final[True] > 0.6


def test_bottleneck_and_resampler_pass_a_few_tokens_only() -> None:
    batch = make_batch()
    for kind, parts in (("bottleneck", [3, 6]), ("resampler", [3, 6]), ("concat", [1])):
        model = small(kind)
        shapes = jax.eval_shape(lambda m=model: m.init_with_output(KEY, batch, method="encode")[0])
        assert [part.x.shape for part in shapes.memory] == [(4, count, 16) for count in parts]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("cross_attention", [2, 4]), ("resampler", [2, 4]), ("gated", [2, 4]), ("joint", [4])],
)
def test_what_needs_the_picture_alone_is_done_once_for_its_texts(kind: str, rows: list) -> None:
    image, text = every(jnp.ones((2, 4, 16))), every(jnp.ones((4, 6, 16)))
    fusion = small(kind).fusion
    fused, _ = jax.eval_shape(lambda: fusion.init_with_output(KEY, image, text))
    assert [len(part.x) for part in jax.tree.leaves(fused, is_leaf=is_tokens)] == rows


def is_tokens(tree: Any) -> bool:
    return isinstance(tree, Tokens)


def test_both_ways_changes_what_is_known_of_the_picture() -> None:
    batch = make_batch()
    for both, same in ((False, True), (True, False)):
        model = small("cross_attention")
        model = replace(model, fusion=replace(model.fusion, both_ways=both))
        params = jax.jit(model.init)(KEY, batch)
        encode = jax.jit(partial(model.apply, method="encode"))
        other = {**batch, "text": batch["text"][::-1]}
        a, b = (encode(params, x).memory[0].x for x in (batch, other))
        assert np.allclose(a, b) is same


def test_published_sizes() -> None:
    """Parameters of ViT-B/16 (timm, no head), BERT-base (no pooler, no types), GPT-2 small."""

    def count(module: Any, *inputs: Any) -> int:
        shapes = jax.eval_shape(lambda: module.init(KEY, *inputs))["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    vit = ImageEncoder((224, 224), 16, class_token=True, body=transformer("base"))
    assert count(vit, jnp.zeros((1, 224, 224, 3), jnp.uint8)) == 85_798_656
    bert = TextEncoder(30_522, 512, body=transformer("base", order="post", eps=1e-12))
    ids = jnp.zeros((1, 4), jnp.int32)
    assert count(bert, ids, jnp.ones((1, 4), bool)) == 108_891_648 - 2 * 768
    gpt = TextDecoder(50_257, 1024, body=transformer("base"))
    assert count(gpt, ids, Fused()) == 124_439_808


def test_the_builder_makes_base_and_large() -> None:
    for size, width in (("base", 768), ("large", 1024)):
        model = multimodal(size, patch=16, pixels=224, vocab=30_522)
        out = jax.eval_shape(
            lambda m=model: m.init_with_output(
                KEY, {**make_batch(1, 2), "image": jnp.zeros((1, 224, 224, 3), jnp.uint8)}
            )[0]
        )
        assert model.image.body.width == width
        assert out["logits"].shape == (2, 7, 30_522)


@pytest.mark.slow
def test_bfloat16_parameters_compute_in_bfloat16_and_give_float32_logits() -> None:
    model, batch = small("cross_attention"), make_batch()
    params = model.init(KEY, batch)["params"]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    fused = model.apply({"params": half}, batch, method="encode")
    assert fused.memory[0].x.dtype == jnp.bfloat16
    out = logits(model, half, batch)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, logits(model, params, batch), atol=0.1)


def test_positions_are_told_to_the_readers_of_a_picture_as_well() -> None:
    """What comes out is a projection of what came before, plus the vector of each place."""
    image = jax.random.randint(KEY, (2, 16, 16, 3), 0, 256).astype(jnp.uint8)
    encoder = ImageEncoder((16, 16), 8, class_token=True, place_again=True, body=replace(BODY))
    params = encoder.init(KEY, image)["params"]
    again = params["positions_again"]["table"]
    assert again.shape == (5, 16)
    assert jnp.sqrt((again[1:] ** 2).mean()) == pytest.approx(1.0, abs=0.1)
    rest = {name: part for name, part in params.items() if name not in ("positions_again", "out")}
    before = replace(encoder, place_again=False).apply({"params": rest}, image)
    after = encoder.apply({"params": params}, image)
    projected = before.x @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(after.x, projected + again, atol=1e-5)


def test_rotary_positions_of_a_picture_are_its_rows_and_columns() -> None:
    """Without learned positions only they tell a picture from one with its patches exchanged."""
    image = jax.random.randint(KEY, (1, 16, 24, 3), 0, 256).astype(jnp.uint8)
    left, middle, right = jnp.split(image, 3, axis=2)
    exchanged = jnp.concatenate([middle, left, right], axis=2)
    for rotary in (0.0, 10.0):
        block = Block(heads=2, rotary=rotary)
        encoder = ImageEncoder((16, 24), 8, class_token=True, body=Transformer(16, 1, block))
        params = encoder.init(KEY, image)["params"]
        params["positions"]["table"] *= 0

        def seen(image: jax.Array, encoder: ImageEncoder = encoder, params: Any = params) -> Any:
            return encoder.apply({"params": params}, image).x[:, 1:].mean(1)

        assert np.allclose(seen(image), seen(exchanged), atol=1e-5) == (not rotary)
    assert not encoder._places()[0].any()
    np.testing.assert_array_equal(encoder._places()[1:4], [[1, 1], [2, 1], [3, 1]])


def test_pictures_of_another_size_and_odd_patches_are_refused() -> None:
    encoder = ImageEncoder((16, 16), 8, body=replace(BODY))
    with pytest.raises(ValueError, match=r"pictures of \(8, 16\) pixels, the model takes \(16, 16"):
        encoder.init(KEY, jnp.zeros((1, 8, 16, 3), jnp.uint8))
    with pytest.raises(ValueError, match="is less than one patch of 17"):
        replace(encoder, patch=17).init(KEY, jnp.zeros((1, 16, 16, 3), jnp.uint8))
    odd = replace(encoder, size=(16, 12))
    with pytest.raises(ValueError, match="does not divide into patches of 8"):
        replace(odd, stem="conv").init(KEY, jnp.zeros((1, 16, 12, 3), jnp.uint8))
    with pytest.raises(ValueError, match="does not divide into patches of 8"):
        Mae(odd, replace(BODY)).init(KEY, {"image": jnp.zeros((1, 16, 12, 3), jnp.uint8)})


def test_what_is_left_beside_whole_patches_is_not_seen() -> None:
    """As the reference cuts 384 pixels into 27 patches of 14."""
    whole = ImageEncoder((16, 8), 8, class_token=True, body=replace(BODY))
    image = jax.random.randint(KEY, (1, 19, 15, 3), 0, 256).astype(jnp.uint8)
    params = whole.init(KEY, image[:, :16, :8])
    seen = replace(whole, size=(19, 15)).apply(params, image)
    np.testing.assert_allclose(seen.x, whole.apply(params, image[:, :16, :8]).x, atol=1e-6)


@pytest.mark.usefixtures("strict")
def test_caption_loss_equals_a_sum_by_hand() -> None:
    batch = make_batch()
    out = np.random.default_rng(0).normal(size=(4, 7, 20)).astype(np.float32)
    chance = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
    nats, even, right, count = 0.0, 0.0, 0, 0
    target = np.asarray(batch["target"])
    for row, place in zip(*np.nonzero(batch["target_mask"][:, 1:]), strict=True):
        word = target[row, place + 1]
        nats -= np.log(chance[row, place, word])
        even -= np.log(chance[row, place]).mean()
        right += int(out[row, place].argmax() == word)
        count += 1
    loss, metrics = Caption()({"logits": jnp.asarray(out)}, batch)
    assert float(loss) == pytest.approx(nats / count, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(right / count)
    both = {"logits": jnp.asarray(out), "also": jnp.asarray(out[:2])}
    part = jax.tree.map(lambda x: x[:2], batch)
    more, metrics = Caption()(both, batch | {"also": part})
    apart, alone = Caption()({"logits": both["also"]}, part)
    assert float(metrics["weight"]) == count + float(alone["weight"])
    total = nats + float(apart) * float(alone["weight"])
    assert float(more) == pytest.approx(total / float(metrics["weight"]), rel=1e-5)
    smooth, _ = Caption(smoothing=0.1)({"logits": jnp.asarray(out)}, batch)
    assert float(smooth) == pytest.approx((0.9 * nats + 0.1 * even) / count, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vit_classifier_base", 86_567_656),  # timm, vit_base_patch16_224
        ("mae_base", 111_907_840),  # ViTMAEForPreTraining, with its fixed positions
        ("bert_base", 109_514_298),  # BertForMaskedLM
        ("gpt_small", 124_439_808),  # GPT2LMHeadModel
        ("clip_base", 151_277_313),  # CLIPModel, ViT-B/32
    ],
)
def test_experiments_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    config = load(name)
    shapes = jax.eval_shape(config.model.init, KEY, example(config.model))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
