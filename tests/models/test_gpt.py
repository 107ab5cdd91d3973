"""GPT: what a word sees, and writing on from prompts of different lengths."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders import TextDecoder
from mlm_jax.fusion import Fused
from mlm_jax.generate import How, Prompt, decode, generate
from mlm_jax.layers import Block, Transformer
from mlm_jax.models.gpt import Gpt

BODY = Transformer(16, 2, Block(heads=2))
KEY = jax.random.key(0)
WORDS = {"bos": 1, "eos": 2, "pad": 0, "length": 6}


def gpt(rotary: float = 0.0) -> tuple[Gpt, dict]:
    block = Block(heads=2, rotary=rotary)
    model = Gpt(TextDecoder(30, 16, body=replace(BODY, block=block)))
    params = jax.jit(model.init)(KEY, {"target": jnp.ones((1, 4), jnp.int32)})["params"]
    return model, jax.tree.map(lambda x: x * 6, params)  # far from uniform


def test_a_word_sees_those_before_it_only() -> None:
    model, params = gpt()
    ids = jax.random.randint(KEY, (1, 8), 3, 30)
    apply = jax.jit(model.apply)
    base = apply({"params": params}, {"target": ids})["logits"]
    other = apply({"params": params}, {"target": ids.at[0, 4].set(0)})["logits"]
    np.testing.assert_array_equal(base[:, :4], other[:, :4])
    assert np.abs(base[:, 4] - other[:, 4]).max() > 1e-3


@pytest.mark.parametrize(("method", "rotary"), [("greedy", 0.0), ("beam", 100.0)])
def test_a_prompt_filled_up_on_the_left_is_as_good_as_alone(method: str, rotary: float) -> None:
    model, params = gpt(rotary)
    rows = [[5, 6, 7, 8, 9], [11, 12], [20]]
    how = How(method, beams=3)  # type: ignore[arg-type]
    ids = jnp.array([[0] * (5 - len(row)) + row for row in rows])
    mask = jnp.array([[False] * (5 - len(row)) + [True] * len(row) for row in rows])
    together = generate(model, params, Fused(), **WORDS, how=how, prompt=Prompt(ids, mask))
    for i, row in enumerate(rows):
        prompt = Prompt(jnp.array([row]), jnp.ones((1, len(row)), bool))
        alone = generate(model, params, Fused(), **WORDS, how=how, prompt=prompt)
        np.testing.assert_array_equal(together.ids[i], alone.ids[0])
        np.testing.assert_allclose(together.logprobs[i], alone.logprobs[0], atol=1e-4)


def test_writing_on_is_choosing_the_likeliest_word_again_and_again() -> None:
    model, params = gpt()
    row = [5, 6, 7]
    say = jax.jit(partial(model.apply, method=decode))
    prompt = Prompt(jnp.array([row]), jnp.ones((1, 3), bool))
    written = generate(model, params, Fused(), **WORDS, prompt=prompt).ids[0].tolist()
    for word in written:
        given = jnp.array([row + [0] * (9 - len(row))])  # one length: compiled once
        logits = say({"params": params}, given, Fused())
        assert word == int(logits[0, len(row) - 1].argmax())
        row.append(word)
        if word == WORDS["eos"]:
            break


def test_too_long_a_prompt_is_refused() -> None:
    model, params = gpt()
    prompt = Prompt(jnp.ones((1, 12), jnp.int32), jnp.ones((1, 12), bool))
    with pytest.raises(ValueError, match="6 words to write after 12, but the decoder has 16"):
        generate(model, params, Fused(), **WORDS, prompt=prompt)
