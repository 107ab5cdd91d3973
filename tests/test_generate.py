"""The cache, the choice of words, beams and ranking, against slow, plain versions of the same."""

import itertools
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import generate as command
from mlm_jax import trained as trained_runs
from mlm_jax.config import Config, UserError
from mlm_jax.data import tokenizers
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fusion
from mlm_jax.generate import How, beam_search, decode, encode, generate, rank, truncate
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Classes, Spans
from mlm_jax.models.clip import Clip
from mlm_jax.models.mae import Mae
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.trained import Happened, Told, Trained, require_writer

PAD, BOS, EOS, VOCAB, LENGTH = 0, 1, 2, 6, 4
WORDS = {"bos": BOS, "eos": EOS, "pad": PAD, "length": LENGTH}


def body(**kw):
    return Transformer(width=16, depth=1, block=Block(heads=2), **kw)


def build(kind="cross_attention", vocab=VOCAB, length=8, depth=1, layers="unrolled", rotary=0.0):
    decoder = Transformer(
        16, depth, Block(heads=2, rotary=rotary, qk_norm=rotary > 0), layers=layers
    )
    return Multimodal(
        image=ImageEncoder(size=(8, 8), patch=4, body=body()),
        text=TextEncoder(vocab=vocab, length=4, body=body()),
        fusion=Fusion(kind=kind, latents=2, body=body()),
        decoder=TextDecoder(vocab=vocab, length=length, body=decoder),
    )


def example(rows=3, vocab=VOCAB):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (rows, 8, 8, 3), np.uint8),
        "text": rng.integers(3, vocab, (rows, 4), np.int32),
        "text_mask": np.arange(4) < rng.integers(1, 5, (rows, 1)),
        "target": rng.integers(3, vocab, (rows, 5), np.int32),
    }


def initialised(model, batch):
    """Parameters far from their start, so that texts differ between rows and have an end."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.array(rng.normal(0, 0.5, x.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def tiny():
    model, batch = build(), example()
    params = initialised(model, batch)
    fused = encode(model, params, {k: batch[k] for k in ("image", "text", "text_mask")})
    uncached = jax.jit(lambda ids: model.apply({"params": params}, ids, fused, method=decode))
    return model, params, fused, uncached


def all_logprobs(uncached, rows, length):
    """{words: (rows,) total} of every text of up to `length` words: it ends in eos or is full."""
    totals = {}
    every = itertools.product(range(VOCAB), repeat=length)
    for words in every:
        ids = np.full((rows, length + 1), BOS, np.int32)
        ids[:, 1:] = words
        logprob = np.asarray(jax.nn.log_softmax(uncached(ids[:, :-1])))
        stop = words.index(EOS) + 1 if EOS in words else length
        total = sum(logprob[:, i, words[i]] for i in range(stop))
        totals[words[:stop]] = total
    return totals


def unpadded(ids, logprobs):
    ids = [int(i) for i in ids]
    stop = ids.index(EOS) + 1 if EOS in ids else len(ids)
    assert not np.asarray(logprobs)[stop:].any()
    assert all(i == PAD for i in ids[stop:])
    return tuple(ids[:stop])


def test_greedy_is_argmax_without_cache(tiny):
    model, params, fused, uncached = tiny
    written = generate(model, params, fused, **WORDS)
    ids, done = np.full((3, 1), BOS, np.int32), np.zeros(3, bool)
    for i in range(LENGTH):
        logits = np.asarray(uncached(np.pad(ids, ((0, 0), (0, LENGTH - 1 - i)))))[:, i]
        word = np.where(done, PAD, logits.argmax(-1))
        logprob = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[range(3), word]
        np.testing.assert_array_equal(written.ids[:, i], word)
        np.testing.assert_allclose(written.logprobs[:, i], np.where(done, 0, logprob), atol=1e-4)
        done |= word == EOS
        ids = np.concatenate([ids, word[:, None].astype(np.int32)], axis=1)
    assert written.logprobs.dtype == jnp.float32
    np.testing.assert_allclose(written.total, written.logprobs.sum(-1))


CASES = [("cross_attention", 1, "unrolled", 0.0), ("gated", 2, "scanned", 0.0)]
CASES += [("prefix", 2, "unrolled", 1e4)]


@pytest.mark.parametrize(("kind", "depth", "layers", "rotary"), CASES)
def test_cached_logits_are_those_without_cache(kind, depth, layers, rotary):
    """The log-probabilities of a sampled text, step by step and all at once."""
    model, batch = build(kind, 11, 8, depth, layers, rotary), example(vocab=11)
    params = initialised(model, batch)
    fused = encode(model, params, {k: batch[k] for k in ("image", "text", "text_mask")})
    how, key = How("sample", temperature=2.0), jax.random.key(3)
    words = {**WORDS, "eos": 11, "length": 8}  # 11 is no word: no text ends
    written = generate(model, params, fused, **words, how=how, key=key)
    before = jnp.concatenate([jnp.full((3, 1), BOS, jnp.int32), written.ids[:, :-1]], axis=1)
    logits = jax.jit(partial(model.apply, method=decode))({"params": params}, before, fused)
    whole = jax.nn.log_softmax(logits)
    whole = np.take_along_axis(np.asarray(whole), np.asarray(written.ids)[:, :, None], axis=-1)
    np.testing.assert_allclose(written.logprobs, whole[:, :, 0], atol=1e-4)
    assert len(set(map(tuple, written.ids.tolist()))) == 3


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_many_beams_are_a_search_of_everything(tiny, alpha):
    model, params, fused, uncached = tiny
    length, beams = 3, VOCAB**2
    how = How("beam", beams=beams, alpha=alpha)
    found = beam_search(model, params, fused, **{**WORDS, "length": length}, how=how)
    totals = all_logprobs(uncached, 3, length)
    for row in range(3):
        scored = {words: t[row] / len(words) ** alpha for words, t in totals.items()}
        wanted = sorted(scored, key=scored.get, reverse=True)[:beams]
        texts = [unpadded(*each) for each in zip(found.ids[row], found.logprobs[row], strict=True)]
        np.testing.assert_allclose(
            [scored[t] for t in texts], [scored[w] for w in wanted], atol=1e-4
        )
        assert len(set(texts)) == beams
        np.testing.assert_allclose(found.total[row], [totals[t][row] for t in texts], atol=1e-4)


def test_one_beam_of_total_is_greedy(tiny):
    model, params, fused, _ = tiny
    how = How("beam", beams=1, alpha=0.0)
    greedy, beam = (
        generate(model, params, fused, **WORDS),
        generate(model, params, fused, **WORDS, how=how),
    )
    for row in range(3):
        if greedy.total[row] >= beam.total[row]:  # a beam may end earlier with a better total
            np.testing.assert_array_equal(greedy.ids[row], beam.ids[row])
    assert (beam.total >= greedy.total - 1e-4).all()


def test_beams_reorder_their_past(tiny):
    """Log-probabilities that were carried along are those of the texts that came out."""
    model, params, fused, uncached = tiny
    found = beam_search(model, params, fused, **WORDS, how=How("beam", beams=3))
    for k in range(3):
        ids = np.asarray(found.ids[:, k])
        before = np.concatenate([np.full((3, 1), BOS, np.int32), ids[:, :-1]], axis=1)
        whole = np.asarray(jax.nn.log_softmax(uncached(before)))
        for row in range(3):
            text = unpadded(ids[row], found.logprobs[row, k])
            wanted = [whole[row, i, word] for i, word in enumerate(text)]
            np.testing.assert_allclose(found.logprobs[row, k, : len(text)], wanted, atol=1e-4)


def nucleus(logits, top_k, top_p):
    """One row, by the book."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    order = order[:top_k] if top_k else order
    share = np.exp([logits[i] for i in order])
    share /= share.sum()
    kept, total = [], 0.0
    for index, probability in zip(order, share, strict=True):
        kept.append(index)
        total += probability
        if total >= top_p:
            break
    return set(kept)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.7), (5, 0.4), (99, 0.9)])
def test_truncate_keeps_what_the_definition_keeps(top_k, top_p):
    logits = np.random.default_rng(1).normal(0, 2, (20, 12)).astype(np.float32)
    kept = np.asarray(truncate(jnp.array(logits), top_k, top_p))
    for row, after in zip(logits, kept, strict=True):
        wanted = nucleus(row, top_k, top_p)
        assert set(np.flatnonzero(np.isfinite(after)).tolist()) == wanted
        np.testing.assert_array_equal(after[list(wanted)], row[list(wanted)])


def test_samples_follow_the_probabilities(tiny):
    model, params, fused, uncached = tiny
    many = jax.tree.map(lambda x: jnp.repeat(x[:1], 4000, axis=0), fused)
    how = How("sample", temperature=0.7, top_k=4)
    short = {**WORDS, "length": 1}
    written = generate(model, params, many, **short, how=how, key=jax.random.key(0))
    logits = np.asarray(uncached(np.full((3, 4), BOS, np.int32)))[0, 0]
    wanted = np.exp(logits / 0.7)
    wanted[np.argsort(-logits)[4:]] = 0
    wanted /= wanted.sum()
    share = np.bincount(np.asarray(written.ids[:, 0]), minlength=VOCAB) / 4000
    np.testing.assert_allclose(share, wanted, atol=0.03)
    again = generate(model, params, many, **short, how=how, key=jax.random.key(0))
    np.testing.assert_array_equal(written.ids, again.ids)
    other = generate(model, params, many, **short, how=how, key=jax.random.key(1))
    assert (written.ids != other.ids).any()


def test_rank_is_the_total_of_each_text(tiny):
    model, params, fused, uncached = tiny
    totals = all_logprobs(uncached, 3, 3)
    texts = [words for words in totals if words[-1] == EOS]
    target = np.full((len(texts), LENGTH), PAD, np.int32)
    mask = np.zeros_like(target, bool)
    for row, words in enumerate(texts):
        target[row, : len(words) + 1] = (BOS, *words)
        mask[row, : len(words) + 1] = True
    found = rank(model, params, fused, target, mask, chunk=8)
    np.testing.assert_allclose(found.T, np.array([totals[t] for t in texts]), atol=1e-4)


def test_guidance_mixes_logits(tiny):
    model, params, fused, uncached = tiny
    other = jax.tree.map(lambda x: x[::-1], fused)
    short = {**WORDS, "length": 1}
    how = How(guidance=3.0)
    written = generate(model, params, fused, **short, how=how, unconditional=other)
    logits = np.asarray(uncached(np.full((3, 4), BOS, np.int32)))[:, 0]
    mixed = np.asarray(jax.nn.log_softmax(logits[::-1] + 3 * (logits - logits[::-1])))
    np.testing.assert_array_equal(written.ids[:, 0], mixed.argmax(-1))
    np.testing.assert_allclose(written.logprobs[:, 0], mixed.max(-1), atol=1e-3)


def test_guided_steps_read_both_caches(tiny):
    """Guided by itself, a text is what it is without guidance."""
    model, params, fused, _ = tiny
    plain = generate(model, params, fused, **WORDS)
    how = How(guidance=2.5)
    guided = generate(model, params, fused, **WORDS, how=how, unconditional=fused)
    np.testing.assert_array_equal(plain.ids, guided.ids)
    np.testing.assert_allclose(plain.logprobs, guided.logprobs, atol=1e-4)


def test_what_cannot_be_is_refused(tiny):
    model, params, fused, _ = tiny
    with pytest.raises(ValueError, match="9 words to write, but the decoder has 8 positions"):
        generate(model, params, fused, **{**WORDS, "length": 9})
    with pytest.raises(ValueError, match="needs a key"):
        generate(model, params, fused, **WORDS, how=How("sample"))
    with pytest.raises(ValueError, match="beams write words under 3 too: greedy or sample"):
        generate(model, params, fused, **WORDS, how=How("beam"), least=3)
    with pytest.raises(ValueError, match="go together"):
        generate(model, params, fused, **WORDS, how=How(guidance=2.0))
    for bad in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_k": -1}, {"beams": 0}, {"alpha": -1.0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            How(**bad)
    with pytest.raises(UserError, match="nan"):
        How(temperature=math.nan)


@pytest.mark.parametrize("kind", ["mae", "clip"])
def test_a_model_that_writes_nothing_says_so(kind, tmp_path):
    model = {"mae": Mae(), "clip": Clip()}[kind]
    run = Trained(tmp_path, Config(model, Caption()), None, {}, 1)
    with pytest.raises(UserError, match="which writes nothing"):
        require_writer(run)


def test_n_counts_classes_and_events_and_what_only_texts_have_is_refused(monkeypatch, capsys):
    few = {"classify": Told("red", 0.1), "watch_for_events": Happened("fall", 0.0, 1.0, 0.5)}
    for name, each in few.items():
        monkeypatch.setattr(trained_runs, name, lambda *_, each=each: [each] * 12)
    monkeypatch.setattr(trained_runs, "look", lambda *_: {})
    for loss, default in ((Classes(), 5), (Spans(), 10)):
        run = Trained(Path("run"), Config(None, loss), tokenizers.words([]), {}, 0)
        monkeypatch.setattr(trained_runs, "open_trained", lambda _, run=run: run)
        given = ["--run", "run", "--video", "clip.mp4"]
        for more, lines in (([], default), (["--n", "1"], 1), (["--n", "7"], 7)):
            assert command.main([*given, *more]) == 0
            assert len(capsys.readouterr().out.splitlines()) == lines
        options = {"--question": "what?", "--answers": "yes", "--messages": "a.json",
                   "--method": "sample", "--beams": "3", "--temperature": "0.5", "--top-k": "4",
                   "--top-p": "0.9", "--seed": "1"}  # fmt: skip
        for option, value in options.items():
            with pytest.raises(UserError, match=f"{option} is for a model that writes"):
                command.main([*given, option, value])
