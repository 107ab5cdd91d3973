"""Generating: one compiled loop over a preallocated cache, from what was fused to words.

The first call of the decoder stores the keys and values of what was fused, once; every later call
brings one word a row. The loop ends as soon as every row has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.errors import require
from mlm_jax.fusion import Fused

Cache = Any
Params = Any
Model = Any  # a Linen module with `encode` and a `decoder`, which has a `length`
Rows = TypeVar("Rows", bound=tuple)


@dataclass(frozen=True)
class How:
    """How the next word is chosen.

    greedy: the likeliest. sample: at random, after dividing the logits by `temperature` (> 0),
    keeping the `top_k` likeliest words (0: all), then the fewest that together have `top_p` of the
    probability (arXiv:1904.09751, section 3.1). beam: the best of `beams` texts by
    log-probability / words^`alpha`, eos counted (1: the mean of its words, 0: the total).
    `guidance` w takes w * logits + (1 - w) * unconditional logits (arXiv:2306.17806, equation 7).
    """

    method: Literal["greedy", "sample", "beam"] = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 4
    alpha: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        fine = {
            "temperature": (self.temperature > 0, "over 0"),
            "top_k": (self.top_k >= 0, "at least 0 (0: all words)"),
            "top_p": (0 < self.top_p <= 1, "over 0 and at most 1"),
            "beams": (self.beams >= 1, "at least 1"),
            "alpha": (self.alpha >= 0, "at least 0"),
        }
        require(self, fine)


GREEDY = How()


class Written(NamedTuple):
    """Words up to and with eos, then pad; their float32 log-probabilities, 0 at pad.

    The probabilities are the model's own, before temperature, top-k and top-p. A text of all N
    words may have no eos.
    """

    ids: Int[Array, "*B N"]
    logprobs: Float[Array, "*B N"]

    @property
    def total(self) -> Float[Array, "*B"]:
        return self.logprobs.sum(-1)


class Prompt(NamedTuple):
    """Words that a text goes on from, each row filled up on the left; `mask` is False there."""

    ids: Int[Array, "B P"]
    mask: Bool[Array, "B P"]


@partial(jax.jit, static_argnames=("model", "bos", "eos", "pad", "length", "how", "least"))
def generate(
    model: Model,
    params: Params,
    fused: Fused,
    *,
    bos: int,
    eos: int,
    pad: int,
    length: int,
    how: How = GREEDY,
    key: Array | None = None,
    unconditional: Fused | None = None,
    prompt: Prompt | None = None,
    empty: Prompt | None = None,
    least: int = 0,
) -> Written:
    """A text of at most `length` words, eos counted, for each row of `fused`.

    It goes on from `prompt`, or else from bos, which are not part of it. `key` is needed to sample;
    `unconditional` is what was fused without the condition, to guide by, and `empty` what was said
    without it, where that is not the prompt. Words under `least` are not written: those of a text
    where codes of a picture follow.
    Raises: ValueError if the decoder has too few positions, or a part is missing.
    """
    require_parts(how, key, guided=unconditional is not None, least=least)
    if how.method == "beam":
        texts = beam_search(
            model, params, fused, bos=bos, eos=eos, pad=pad, length=length, how=how, prompt=prompt
        )
        return Written(texts.ids[:, 0], texts.logprobs[:, 0])
    prompt = prompt or only(bos, fused)
    rows = len(prompt.ids)
    both, given = fused, prompt
    if unconditional is not None:
        both, given = join(fused, unconditional), join(prompt, empty or prompt)

    def choose(logits: Array, at: Array, done: Array) -> tuple[Array, Array]:
        if unconditional is not None:
            logits = guide(logits, how.guidance)
        logits = logits.at[:, :least].set(-jnp.inf)
        word = next_word(logits, how, None if key is None else jax.random.fold_in(key, at))
        logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), word[:, None], axis=-1)[:, 0]
        return jnp.where(done, pad, word), jnp.where(done, 0, logprob)

    def advance(state: tuple) -> tuple:
        at, cache, word, done, ids, logprobs = state
        again = word if unconditional is None else jnp.concatenate([word, word])
        logits, cache = later(model, params, both, cache, again)
        word, logprob = choose(logits, at, done)
        ids, logprobs = ids.at[:, at].set(word), logprobs.at[:, at].set(logprob)
        return at + 1, cache, word, done | (word == eos), ids, logprobs

    def more(state: tuple) -> Bool[Array, ""]:
        return (state[0] < length) & ~state[3].all()

    logits, cache = first(model, params, both, given, length)
    at = jnp.zeros((), jnp.int32)
    word, logprob = choose(logits, at, jnp.zeros(rows, bool))
    ids = jnp.full((rows, length), pad, jnp.int32).at[:, 0].set(word)
    logprobs = jnp.zeros((rows, length), jnp.float32).at[:, 0].set(logprob)
    end = jax.lax.while_loop(more, advance, (at + 1, cache, word, word == eos, ids, logprobs))
    return Written(end[4], end[5])


def require_parts(how: How, key: Array | None, *, guided: bool, least: int) -> None:
    """Raises: ValueError if a part is missing, or would be passed over."""
    if (how.guidance != 1) != guided:
        raise ValueError(f"guidance {how.guidance} and `unconditional` go together")
    if how.method == "beam" and guided:
        raise ValueError("beams are not guided")
    if how.method == "beam" and least:
        raise ValueError(
            f"beams write words under {least} too: greedy or sample where codes follow"
        )
    if how.method == "sample" and key is None:
        raise ValueError("sampling needs a key")


def next_word(logits: Float[Array, "B V"], how: How, key: Array | None) -> Int[Array, "B"]:
    """The likeliest word of each row, or one that is drawn where there is a key."""
    if how.method == "greedy" or key is None:
        return logits.argmax(-1).astype(jnp.int32)
    kept = truncate(logits / how.temperature, how.top_k, how.top_p)
    return jax.random.categorical(key, kept).astype(jnp.int32)


# --- what the model is asked for ---


@partial(jax.jit, static_argnames="model")
def encode(model: Model, params: Params, batch: Mapping[str, Array]) -> Fused:
    return model.apply({"params": params}, batch, method="encode")


def decode(
    model: Model, ids: Int[Array, "B N"], fused: Fused, mask: Bool[Array, "B N"] | None = None
) -> Float[Array, "B N V"]:
    """What the decoder of a bound model says, for `apply(..., method=decode)`."""
    logits: Array = model.decoder(ids, fused, mask)
    return logits


def only(bos: int, fused: Fused) -> Prompt:
    """bos alone, for each row of `fused`. Raises: ValueError where nothing says how many."""
    if not jax.tree.leaves(fused):
        raise ValueError("nothing was fused: a prompt is needed, if only bos for each text")
    ids = jnp.full((len(jax.tree.leaves(fused)[0]), 1), bos, jnp.int32)
    return Prompt(ids, jnp.ones_like(ids, bool))


def first(
    model: Model, params: Params, fused: Fused, prompt: Prompt, length: int
) -> tuple[Float[Array, "B V"], Cache]:
    """Logits of the first word after the prompt, and a cache with room for `length` words more."""
    positions, given = model.decoder.length, prompt.ids.shape[1]
    if given + length - 1 > positions:
        words = f"{length} words to write" + (f" after {given}" if given > 1 else "")
        raise ValueError(f"{words}, but the decoder has {positions} positions")
    variables = {"params": params}
    logits, new = model.apply(
        variables, prompt.ids, fused, prompt.mask, method=decode, mutable=["cache"]
    )

    def widen(path: tuple, leaf: Array) -> Array:
        if not appended(path):
            return leaf
        room = [(0, 0)] * leaf.ndim
        room[-1 if path[-1].key == "real" else -3] = (0, length - 1)
        return jnp.pad(leaf, room)

    return logits[:, -1], jax.tree_util.tree_map_with_path(widen, new["cache"])


def later(
    model: Model, params: Params, fused: Fused, cache: Cache, word: Int[Array, "B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """Logits of the word after `word`."""
    variables = {"params": params, "cache": cache}
    logits, new = model.apply(variables, word[:, None], fused, method=decode, mutable=["cache"])
    return logits[:, 0], new["cache"]


def appended(path: tuple) -> bool:
    """Whether a leaf of the cache grows with the text: keys and values of self-attention do."""
    return any(k.key == "attention" for k in path) and path[-1].key in ("key", "value", "real")


# --- choosing ---


def truncate(logits: Float[Array, "B V"], top_k: int, top_p: float) -> Float[Array, "B V"]:
    """-inf at all but the `top_k` largest, then but the fewest that have `top_p` between them.

    Words as likely as the last that is kept are kept too.
    """
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return nucleus(logits, top_p) if top_p < 1 else logits


def nucleus(logits: Float[Array, "B V"], top_p: float | Float[Array, "B 1"]) -> Float[Array, "B V"]:
    """-inf at all but the fewest that have `top_p` between them (arXiv:1904.09751, 3.1)."""
    falling = -jnp.sort(-logits, axis=-1)
    share = jax.nn.softmax(falling, axis=-1)
    kept = jnp.cumsum(share, axis=-1) - share < top_p  # what stands before it is not enough
    least = jnp.where(kept, falling, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def guide(logits: Float[Array, "2B V"], weight: float) -> Float[Array, "B V"]:
    """Classifier-free guidance; the second half of the rows is unconditional."""
    with_it, without = jnp.split(logits, 2)
    return without + weight * (with_it - without)


def join(one: Rows, other: Rows) -> Rows:
    """The rows of both."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one, other)


# --- beams ---


class Beams(NamedTuple):
    """Open texts by total, ended ones by score, both best first; -inf where there is none yet."""

    at: Int[Array, ""]
    cache: Cache
    open: Written
    total: Float[Array, "B K"]
    ended: Written
    score: Float[Array, "B K"]


@partial(jax.jit, static_argnames=("model", "bos", "eos", "pad", "length", "how"))
def beam_search(
    model: Model,
    params: Params,
    fused: Fused,
    *,
    bos: int,
    eos: int,
    pad: int,
    length: int,
    how: How,
    prompt: Prompt | None = None,
) -> Written:
    """The how.beams best texts of each row, best first: ids and logprobs (B, K, `length`).

    A text that fills `length` without eos counts as one. Ends when no open text can still come
    before the worst of the ended.
    """
    prompt, beams = prompt or only(bos, fused), how.beams
    rows = len(prompt.ids)
    fused, prompt = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), (fused, prompt))
    blank = Written(
        jnp.full((rows, beams, length), pad, jnp.int32),
        jnp.zeros((rows, beams, length), jnp.float32),
    )
    none = jnp.full((rows, beams), -jnp.inf, jnp.float32)

    def extend(state: Beams, logits: Array) -> Beams:
        """Each open text by each word: those by eos have ended, the best of the rest go on."""
        at = state.at
        step = jax.nn.log_softmax(logits).reshape(rows, beams, -1)
        total = state.total[:, :, None] + step
        texts = state.open
        ending = Written(
            texts.ids.at[:, :, at].set(eos), texts.logprobs.at[:, :, at].set(step[..., eos])
        )
        score = total[..., eos] / (at + 1).astype(jnp.float32) ** how.alpha
        ended, score = best(state.ended, state.score, ending, score)

        flat = total.at[:, :, eos].set(-jnp.inf).reshape(rows, -1)
        total, place = jax.lax.top_k(flat, beams)
        source, word = place // step.shape[-1], (place % step.shape[-1]).astype(jnp.int32)
        logprob = jnp.take_along_axis(step.reshape(rows, -1), place, axis=1)
        going = pick(texts, source)
        going = Written(going.ids.at[:, :, at].set(word), going.logprobs.at[:, :, at].set(logprob))
        return Beams(at + 1, reorder(state.cache, source), going, total, ended, score)

    def advance(state: Beams) -> Beams:
        word = jax.lax.dynamic_index_in_dim(state.open.ids, state.at - 1, axis=2, keepdims=False)
        logits, cache = later(model, params, fused, state.cache, word.reshape(-1))
        return extend(state._replace(cache=cache), logits)

    def more(state: Beams) -> Bool[Array, ""]:
        bound = state.total[:, 0] / length**how.alpha  # a total only falls
        return (state.at < length) & (bound > state.score[:, -1]).any()

    logits, cache = first(model, params, fused, prompt, length)
    start = none.at[:, 0].set(0)  # one text without words, the others are none
    state = extend(Beams(jnp.zeros((), jnp.int32), cache, blank, start, blank, none), logits)
    end = jax.lax.while_loop(more, advance, state)
    full = jnp.where(end.at == length, end.total / length**how.alpha, -jnp.inf)
    return best(end.ended, end.score, end.open, full)[0]


def pick(texts: Written, source: Int[Array, "B K"]) -> Written:
    """Text source[b, k] of row b, for each k."""
    return jax.tree.map(lambda x: jnp.take_along_axis(x, source[:, :, None], axis=1), texts)


def best(
    one: Written, score: Float[Array, "B K"], other: Written, score_2: Float[Array, "B K"]
) -> tuple[Written, Float[Array, "B K"]]:
    """The K best of both."""
    scores = jnp.concatenate([score, score_2], axis=1)
    texts = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), one, other)
    scores, source = jax.lax.top_k(scores, score.shape[1])
    return pick(texts, source), scores


def reorder(cache: Cache, source: Int[Array, "B K"]) -> Cache:
    """Give each beam the past of the text that it goes on with."""
    rows, beams = source.shape
    place = (jnp.arange(rows, dtype=jnp.int32)[:, None] * beams + source).reshape(-1)

    def one(path: tuple, leaf: Array) -> Array:
        name = path[-1].key
        if not appended(path) and name != "past":  # of `Neighbours`
            return leaf
        return jnp.take(leaf, place, axis={"real": -2, "past": -3}.get(name, -4))

    return jax.tree_util.tree_map_with_path(one, cache)


# --- a closed list ---


@partial(jax.jit, static_argnames=("model", "chunk"))
def rank(
    model: Model,
    params: Params,
    fused: Fused,
    target: Int[Array, "K M"],
    target_mask: Bool[Array, "K M"],
    *,
    chunk: int = 16,
) -> Float[Array, "B K"]:
    """Total log-probability, float32, of each of K texts (bos first) for each row of `fused`.

    `chunk` texts at a time; what was fused is not repeated for them.
    """
    rows = len(jax.tree.leaves(fused)[0])

    def one(text: tuple[Array, Array]) -> Float[Array, "B"]:
        ids, real = text
        given = jnp.broadcast_to(ids[:-1], (rows, len(ids) - 1))
        logits = model.apply({"params": params}, given, fused, method=decode)
        wanted = jnp.broadcast_to(ids[1:], given.shape)[:, :, None]
        logprob = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted, axis=-1)[:, :, 0]
        return jnp.where(real[1:], logprob, 0).sum(-1)

    return jax.lax.map(one, (target, target_mask), batch_size=chunk).T
