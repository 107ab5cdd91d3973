"""Places beside each other on a grid, and codes that share vectors, against slow, plain ones."""

import itertools
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders import TextDecoder
from mlm_jax.fusion import Fused
from mlm_jax.generate import How, Prompt, beam_search, generate
from mlm_jax.layers import Block, Transformer
from mlm_jax.layers.neighbours import Neighbours, beside
from mlm_jax.layers.words import Words

GRID, TEXT, WORDS, LEVELS, CODES = (3, 3), 2, 2, (3, 4), 12
DECODER = TextDecoder(
    WORDS + CODES,
    TEXT + 9,
    grid=GRID,
    neighbours=True,
    levels=LEVELS,
    body=Transformer(16, 1, Block(heads=2, rotary=10.0)),
)


class Writer(nn.Module):
    """A model that is its decoder and no more."""

    decoder: TextDecoder

    def __call__(self, ids: Any) -> Any:
        return self.decoder(ids, Fused())


WRITER = Writer(DECODER)


def far_from_the_start(model: nn.Module, *shown: Any) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), *shown)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def ids() -> Any:
    return jax.random.randint(jax.random.key(1), (3, TEXT + 9), 0, WORDS + CODES)


@pytest.fixture(scope="module")
def params(ids: Any) -> Any:
    return far_from_the_start(WRITER, ids)


@pytest.fixture(scope="module")
def whole(params: Any) -> Any:
    see = jax.jit(WRITER.apply)
    return lambda ids: see({"params": params}, ids)


@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 5)])
def test_beside_are_the_places_that_touch_the_next_one(grid: tuple[int, ...]) -> None:
    """Of a place that lies at no edge, from the coordinates of every place before it."""
    places = list(itertools.product(*map(range, grid)))
    following = (*(1 for _ in grid[:-2]), 2, 2)
    at = places.index(following)
    touching = set()
    for i, place in enumerate(places[:at]):
        away = np.subtract(following, place)
        same_frame = not away[:-2].any()
        row, column = away[-2:]
        if same_frame and (max(abs(row), abs(column)) == 1 or (row, column) == (0, 2)):
            touching.add(at - 1 - i)
        if not same_frame and abs(row) + abs(column) <= 1:
            touching.add(at - 1 - i)
    assert {*beside(grid)} == touching - {0}  # 0 back is the place itself, which is read anyway


def test_narrow_grids_name_no_place_ahead() -> None:
    assert beside((4, 1)) == (1,)
    assert beside((4, 2)) == (1, 2)


def test_each_word_reads_those_so_far_back() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    model = Neighbours((1, 4))
    params = far_from_the_start(model, x)
    found = model.apply({"params": params}, x)
    wanted = np.array(x)
    for place, (name, back) in itertools.product(range(6), {"back_1": 1, "back_4": 4}.items()):
        if place >= back:
            wanted[:, place] += np.asarray(x[:, place - back] @ params[name]["kernel"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_nothing_ahead_is_seen(ids: Any, whole: Any) -> None:
    base = whole(ids)
    for place in range(TEXT + 9):
        other = whole(ids.at[:, place].set((ids[:, place] + 1) % (WORDS + CODES)))
        np.testing.assert_allclose(other[:, :place], base[:, :place], atol=1e-5)
        assert np.abs(other[:, place:] - base[:, place:]).max((1, 2)).min() > 1e-3


@pytest.mark.parametrize("given", [1, TEXT, TEXT + 7])
def test_words_one_by_one_are_as_all_at_once(ids: Any, params: Any, whole: Any, given: int) -> None:
    """The log-probabilities of what was sampled after a prompt shorter and longer than is read."""
    prompt = Prompt(ids[:, :given], jnp.ones((3, given), bool))
    asked = {"bos": -1, "eos": -1, "pad": -1, "length": TEXT + 9 - given}
    texts = generate(
        WRITER,
        params,
        Fused(),
        **asked,
        how=How("sample"),
        key=jax.random.key(2),
        prompt=prompt,
    )
    log = jax.nn.log_softmax(whole(jnp.concatenate([prompt.ids, texts.ids], axis=1)))
    log = np.asarray(log)[:, given - 1 : -1]
    wanted = np.take_along_axis(log, np.asarray(texts.ids)[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(texts.logprobs, wanted, atol=1e-4)


def test_beams_keep_their_own_neighbours(ids: Any, params: Any, whole: Any) -> None:
    prompt = Prompt(ids[:, :TEXT], jnp.ones((3, TEXT), bool))
    asked = {"bos": -1, "eos": WORDS + CODES, "pad": -1, "length": 6}  # eos is no word: none ends
    how = How("beam", beams=4)
    found = beam_search(WRITER, params, Fused(), **asked, how=how, prompt=prompt)
    for beam in range(4):
        text = found.ids[:, beam]
        log = np.asarray(jax.nn.log_softmax(whole(jnp.concatenate([prompt.ids, text], axis=1))))
        wanted = np.take_along_axis(log[:, TEXT - 1 : -1], np.asarray(text)[..., None], axis=2)
        np.testing.assert_allclose(found.logprobs[:, beam], wanted[..., 0], atol=1e-4)


def test_neighbours_need_a_grid(ids: Any) -> None:
    with pytest.raises(ValueError, match="neighbours lie on a grid"):
        jax.eval_shape(Writer(replace(DECODER, grid=None)).init, jax.random.key(0), ids)


def test_a_code_is_the_sum_of_its_own_vector_and_of_those_of_its_values() -> None:
    words = Words(WORDS + CODES, 4, 8, levels=LEVELS)
    params = far_from_the_start(words, jnp.zeros((1, 4), jnp.int32))
    own, values = (np.asarray(params[name]["embedding"]) for name in ("table", "values"))
    wanted = own.copy()
    for second, first in itertools.product(range(LEVELS[1]), range(LEVELS[0])):
        wanted[WORDS + second * LEVELS[0] + first] += values[first] + values[LEVELS[0] + second]
    np.testing.assert_allclose(words.apply({"params": params}, method="vectors"), wanted, atol=1e-6)
    x = jax.random.normal(jax.random.key(3), (1, 4, 8))
    logits = words.apply({"params": params}, x, method="attend")
    np.testing.assert_allclose(logits, x @ wanted.T, atol=1e-5)
    ids = jnp.array([[0, WORDS, WORDS + 5, WORDS + CODES - 1]])
    read = words.apply({"params": params}, ids)
    np.testing.assert_allclose(
        read, wanted[np.asarray(ids)] + params["positions"]["table"], atol=1e-5
    )
