"""A text and the codes of its picture as one text: what is seen of it, and what is learned."""

from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.config import Config, Data, UserError
from mlm_jax.data.tokenizers import words
from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.decoders.text import grid_of_text
from mlm_jax.feed import check_pad
from mlm_jax.fusion import Fused
from mlm_jax.layers import Block, Tokens, Transformer
from mlm_jax.losses import Drawn
from mlm_jax.models.codes import Codes
from mlm_jax.models.dalle import Dalle

KEY = jax.random.key(0)
WORDS, LENGTH, PLACES, COUNT = 9, 5, 4, 2
BODY = Transformer(16, 1, Block(heads=2, ratio=1.0))
CODES = Codes(
    CodeEncoder((4, 4), (2,), (4, 4), blocks=0), None, Quantiser("vq", count=COUNT, width=4)
)
MODEL = Dalle(
    CODES, TextDecoder(WORDS + COUNT, LENGTH + PLACES, body=BODY), words=WORDS, length=LENGTH
)
BATCH = {
    "image": jax.random.randint(KEY, (2, 4, 4, 3), 0, 256).astype(jnp.uint8),
    "target": jnp.array([[1, 5, 6, 2], [1, 7, 2, 0]]),
    "target_mask": jnp.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool),
}


class Fixed(Codes):
    """Codes that are told in the place of pixels: "image" (B, 1, N, 1) holds them."""

    def encode_codes(self, shown: Any) -> Any:
        return shown[:, 0, :, 0].astype(jnp.int32)


FIXED = replace(MODEL, codes=Fixed(CODES.image, None, CODES.quantiser))


def held(codes: Any) -> jax.Array:
    return jnp.asarray(codes, jnp.uint8)[:, None, :, None]


@pytest.fixture(scope="module")
def params() -> Any:
    """Far from the initial values, so that each word that is seen matters."""
    shapes = jax.eval_shape(MODEL.init, KEY, BATCH)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def said(params: Any) -> Any:
    """Logits of given codes, in evaluation."""
    see = jax.jit(FIXED.apply)

    def one(codes: Any, target: Any = BATCH["target"]) -> Any:
        return see({"params": params}, BATCH | {"image": held(codes), "target": target})

    return one


@pytest.mark.usefixtures("strict")
def test_outputs_and_the_parts_it_is_made_of(params: Any) -> None:
    assert {*params} == {"codes", "decoder"}
    assert {*params["codes"]} == {"image", "quantiser", "decoder"}
    out = jax.jit(MODEL.apply)({"params": params}, BATCH)
    assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
        "words": ((2, 3, WORDS), np.float32),
        "codes": ((2, PLACES, COUNT), np.float32),
        "wanted": ((2, PLACES), np.int32),
        "weight": ((2, PLACES), np.float32),
    }
    assert (out["weight"] == 1).all()
    coded = CODES.apply({"params": params["codes"]}, BATCH["image"], method="encode_codes")
    np.testing.assert_array_equal(out["wanted"], coded)


def test_texts_that_are_not_so_many_for_each_picture_are_refused() -> None:
    three = {name: jnp.concatenate([x, x[:1]]) for name, x in BATCH.items() if name != "image"}
    with pytest.raises(ValueError, match="3 rows of text for 2 pictures"):
        jax.eval_shape(MODEL.init, KEY, {**BATCH, **three})


def test_no_gradient_reaches_the_codes(params: Any) -> None:
    @jax.jit
    @jax.grad
    def slopes(params: Any) -> Any:
        return Drawn()(MODEL.apply({"params": params}, BATCH), BATCH)[0]

    found = slopes(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["codes"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(found["decoder"]["body"]["block_0"]["mlp"]))


def test_nothing_ahead_is_seen(said: Any) -> None:
    base = said([[0, 1, 0, 1], [1, 1, 0, 0]])
    for place in range(PLACES):
        codes = np.array([[0, 1, 0, 1], [1, 1, 0, 0]])
        codes[:, place] = 1 - codes[:, place]
        other = said(codes)
        np.testing.assert_allclose(other["words"], base["words"], atol=1e-5)
        before, after = slice(place + 1), slice(place + 1, None)
        np.testing.assert_allclose(other["codes"][:, before], base["codes"][:, before], atol=1e-5)
        if place + 1 < PLACES:
            moved = np.abs(other["codes"][:, after] - base["codes"][:, after])
            assert moved.max((1, 2)).min() > 1e-3
    for place in range(1, 4):
        target = BATCH["target"].at[:, place].set(8)
        other = said([[0, 1, 0, 1], [1, 1, 0, 0]], target)
        np.testing.assert_allclose(other["words"][:, :place], base["words"][:, :place], atol=1e-5)
        assert np.abs(other["codes"] - base["codes"]).max((1, 2)).min() > 1e-3


def test_each_logit_is_that_of_the_next_place(params: Any, said: Any) -> None:
    """Against the decoder by itself, reading the whole of each text."""
    codes = jnp.array([[0, 1, 1, 0], [1, 0, 0, 1]])
    out = said(codes)
    ids = jnp.concatenate([jnp.pad(BATCH["target"], [(0, 0), (0, 1)]), WORDS + codes], axis=1)
    whole = MODEL.decoder.apply({"params": params["decoder"]}, ids, Fused())
    np.testing.assert_allclose(out["words"], whole[:, :3, :WORDS], atol=1e-5)
    np.testing.assert_allclose(out["codes"], whole[:, LENGTH - 1 : -1, WORDS:], atol=1e-5)


def test_probabilities_of_all_pictures_sum_to_one(said: Any) -> None:
    """By the chain rule, from the logits of every one of the 16 pictures of two codes."""
    every = np.array(list(product(range(COUNT), repeat=PLACES)))
    for row in range(2):
        target = jnp.repeat(BATCH["target"][row : row + 1], len(every), axis=0)
        out = said(every, target)
        log = jax.nn.log_softmax(out["codes"])
        each = np.take_along_axis(np.asarray(log), every[:, :, None], axis=2)[:, :, 0].sum(1)
        assert np.exp(each).sum() == pytest.approx(1, rel=1e-4)
        assert np.exp(each).max() > 2 / len(every), "the model has a preference"


def test_hidden_captions_tell_nothing_but_that_one_begins(params: Any) -> None:
    np.testing.assert_array_equal(
        MODEL.hidden(jnp.array([[1, 5, 6, 2], [3, 7, 2, 0]])), [[1, 0, 0, 0], [3, 0, 0, 0]]
    )
    other = BATCH | {"target": BATCH["target"][::-1]}

    def codes(batch: dict, dropped: float, train: bool) -> Any:
        model = replace(MODEL, dropped=dropped)
        rngs = {"mask": KEY, "dropout": KEY}
        return model.apply({"params": params}, batch, train=train, rngs=rngs)["codes"]

    np.testing.assert_allclose(codes(BATCH, 1.0, True), codes(other, 1.0, True), atol=1e-5)
    assert not np.allclose(codes(BATCH, 0.0, True), codes(other, 0.0, True), atol=1e-3)
    assert not np.allclose(codes(BATCH, 1.0, False), codes(other, 1.0, False), atol=1e-3)


def test_that_share_of_captions_is_hidden_that_is_asked_for(params: Any) -> None:
    seen: list[Any] = []

    class Spy(TextDecoder):
        def __call__(self, ids: Any, *rest: Any, **how: Any) -> Any:
            seen.append(ids)
            return super().__call__(ids, *rest, **how)

    rows = 2_000
    spy = replace(FIXED, decoder=Spy(WORDS + COUNT, LENGTH + PLACES, body=BODY), dropped=0.3)
    batch = {"image": held(np.zeros((rows, PLACES))), "target": jnp.full((rows, 3), 4)}
    spy.apply({"params": params}, batch, train=True, rngs={"mask": KEY, "dropout": KEY})
    hidden = np.asarray(seen[0])[:, 1] == MODEL.pad_id
    assert hidden.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(np.asarray(seen[0])[:, 2] == MODEL.pad_id, hidden)


def test_captions_are_filled_up() -> None:
    found = replace(MODEL, pad_id=3).filled(jnp.array([[1, 5, 2]]))
    np.testing.assert_array_equal(found, [[1, 5, 2, 3, 3]])
    with pytest.raises(ValueError, match=r"captions of 6 tokens, model.length is 5"):
        MODEL.filled(jnp.zeros((1, 6), jnp.int32))


def test_captions_are_filled_up_with_the_pad_of_the_tokenizer_alone() -> None:
    tokenizer, data = words(["it is red"]), Data(captions=1, questions=0)
    check_pad(Config(replace(MODEL, pad_id=tokenizer.pad), Drawn(), data), tokenizer)
    other = Config(replace(MODEL, pad_id=3), Drawn(), data)
    with pytest.raises(UserError, match=rf"pad_id is 3: .* --model.pad-id {tokenizer.pad}"):
        check_pad(other, tokenizer)


def test_several_captions_of_a_picture_have_its_codes(params: Any) -> None:
    rows = {name: jnp.repeat(BATCH[name], 2, axis=0) for name in ("target", "target_mask")}
    out = MODEL.apply({"params": params}, BATCH | rows)
    one = MODEL.apply({"params": params}, BATCH)
    np.testing.assert_array_equal(out["wanted"], jnp.repeat(one["wanted"], 2, axis=0))
    np.testing.assert_allclose(out["codes"], jnp.repeat(one["codes"], 2, axis=0), atol=1e-5)


@pytest.mark.parametrize("vocab", [WORDS + COUNT - 1, WORDS + COUNT + 1])
def test_a_decoder_of_other_words_is_refused(vocab: int) -> None:
    """One with more could write what is neither a word nor a code."""
    model = replace(MODEL, decoder=TextDecoder(vocab, LENGTH + PLACES, body=BODY))
    with pytest.raises(ValueError, match=f"9 words and 2 codes: .* is {vocab}, and must be 11"):
        jax.eval_shape(model.init, KEY, BATCH)


def test_a_decoder_whose_codes_have_other_values_is_refused() -> None:
    codes = replace(CODES, quantiser=Quantiser("fsq", (3, 4)))
    decoder = replace(MODEL.decoder, vocab=WORDS + 12, levels=(4, 3))
    model = replace(MODEL, codes=codes, decoder=decoder)
    with pytest.raises(ValueError, match=r"decoder.levels \(4, 3\): the codes have \(3, 4\)"):
        jax.eval_shape(model.init, KEY, BATCH)
    jax.eval_shape(replace(model, decoder=replace(decoder, levels=(3, 4))).init, KEY, BATCH)


def test_a_decoder_that_leaves_logits_to_the_loss_is_refused() -> None:
    model = replace(MODEL, decoder=replace(MODEL.decoder, pieces=4))
    with pytest.raises(ValueError, match=r"decoder.pieces 4: of losses.Caption alone"):
        jax.eval_shape(model.init, KEY, BATCH)


def test_a_decoder_with_too_few_places_is_refused() -> None:
    model = replace(MODEL, decoder=TextDecoder(WORDS + COUNT, LENGTH + PLACES - 2, body=BODY))
    with pytest.raises(ValueError, match="8 tokens, but positions for 7"):
        jax.eval_shape(model.init, KEY, BATCH)


def test_clips() -> None:
    eyes = CodeEncoder((4, 4), (2,), (4, 4), blocks=0, frames=2)
    model = replace(
        MODEL,
        codes=Codes(None, eyes, CODES.quantiser),
        decoder=TextDecoder(WORDS + COUNT, LENGTH + 2 * PLACES, body=BODY),
    )
    batch = BATCH | {"video": jnp.zeros((2, 2, 4, 4, 3), jnp.uint8)}
    assert model.image is None
    assert model.video is not None
    out, _ = jax.eval_shape(model.init_with_output, KEY, batch)
    assert out["codes"].shape == (2, 2 * PLACES, COUNT)


def test_clips_by_codes_of_pictures() -> None:
    """Frame after frame, each as a picture by itself."""
    decoder = TextDecoder(WORDS + COUNT, LENGTH + 3 * PLACES, grid=(3, 2, 2), body=BODY)
    model = replace(MODEL, frames=3, decoder=decoder)
    clips = jax.random.randint(KEY, (2, 3, 4, 4, 3), 0, 256).astype(jnp.uint8)
    batch = {**BATCH, "video": clips}
    out, variables = jax.jit(model.init_with_output)(KEY, batch)
    assert model.image is None
    assert (model.sense, model.video.frames, model.video.size) == ("video", 3, (4, 4))
    coder = {"params": variables["params"]["codes"]}
    frames = [CODES.apply(coder, clips[:, t], method="encode_codes") for t in range(3)]
    np.testing.assert_array_equal(out["wanted"], jnp.concatenate(frames, axis=1))
    pixels = model.apply(variables, out["wanted"], method="decode_codes")
    assert pixels.shape == clips.shape
    last = CODES.apply(coder, frames[2], method="decode_codes")
    np.testing.assert_allclose(pixels[:, 2], last, atol=1e-5)
    early = jax.jit(replace(model, opening=0.25).apply)(variables, batch)
    np.testing.assert_array_equal(early["weight"], [[0.25] * 4 + [1] * 8] * 2)
    with pytest.raises(ValueError, match=r"opening 0.25: of frame after frame alone, must be 1"):
        jax.eval_shape(replace(MODEL, opening=0.25).init, KEY, BATCH)
    coded = Codes(None, replace(CODES.image, frames=3), CODES.quantiser)
    with pytest.raises(ValueError, match="frames 3: of codes of pictures"):
        jax.eval_shape(replace(model, codes=coded).init, KEY, batch)
    wrong = replace(model, decoder=replace(decoder, grid=(2, 2)))
    with pytest.raises(ValueError, match=r"the codes lie on \(3, 2, 2\) after 5 words"):
        jax.eval_shape(wrong.init, KEY, batch)


def test_words_lie_on_the_diagonal_before_the_picture() -> None:
    columns_rows = [(-2, -2), (-1, -1), (0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    np.testing.assert_array_equal(grid_of_text(8, (2, 3)), columns_rows)
    again = columns_rows + columns_rows[2:]
    np.testing.assert_array_equal(grid_of_text(14, (2, 2, 3)), again)


def test_rotary_positions_turn_by_row_and_column() -> None:
    body = Transformer(8, 1, Block(heads=1, ratio=1.0, rotary=10.0))
    narrow, wide = (TextDecoder(4, 4, grid=grid, body=body) for grid in ((2, 2), (1, 4)))
    ids = jnp.array([[1, 2, 3, 0]])
    params = narrow.init(KEY, ids, Fused())["params"]
    params["words"]["positions"]["table"] = jnp.zeros((4, 8))

    def said(model: TextDecoder) -> Any:
        return model.apply({"params": params}, ids, Fused())[0]

    assert np.allclose(said(narrow)[:2], said(wide)[:2], atol=1e-6), "the first row is the same"
    assert np.abs(said(narrow)[2:] - said(wide)[2:]).max() > 1e-4


def test_a_prefix_has_no_place_on_a_grid() -> None:
    body = Transformer(8, 1, Block(heads=1, ratio=1.0, rotary=10.0))
    seen = Fused(prefix=Tokens(jnp.zeros((1, 2, 8)), jnp.ones((1, 2), bool)))
    with pytest.raises(ValueError, match="a prefix has no place on a grid"):
        TextDecoder(4, 4, grid=(2, 2), body=body).init(KEY, jnp.zeros((1, 4), int), seen)


def test_loss_weighs_words_and_codes() -> None:
    rng = np.random.default_rng(0)
    words, codes = rng.normal(size=(2, 3, WORDS)), rng.normal(size=(2, PLACES, COUNT))
    wanted = np.array([[0, 1, 1, 0], [1, 0, 0, 1]])
    weight = np.array([[1, 1, 0.5, 0.5], [1, 1, 0.5, 0.5]])
    outputs = {"words": jnp.asarray(words), "codes": jnp.asarray(codes)}
    outputs |= {"wanted": wanted, "weight": weight}
    nats = np.log(np.exp(words).sum(-1)) - np.take_along_axis(
        words, np.asarray(BATCH["target"])[:, 1:, None], 2
    ).squeeze(-1)
    real = np.array([[1, 1, 1], [1, 1, 0]])
    of_words = ((nats * real).sum(1) / [3, 2]).mean()
    of_codes = np.log(np.exp(codes).sum(-1)) - np.take_along_axis(
        codes, wanted[..., None], 2
    ).squeeze(-1)
    weighed = np.average(of_codes, weights=weight)
    for share in (0.125, 0.0, 1.0):
        loss, metrics = Drawn(share)(outputs, BATCH)
        assert float(loss) == pytest.approx(share * of_words + (1 - share) * weighed, rel=1e-4)
        assert float(metrics["words"]) == pytest.approx(of_words, rel=1e-4)
        assert float(metrics["codes"]) == pytest.approx(of_codes.mean(), rel=1e-4)
