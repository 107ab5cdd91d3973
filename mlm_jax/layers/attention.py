"""The one attention of the project: self, cross, grouped, rotary, cached."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax import sharding
from mlm_jax.layers.norms import RMSNorm
from mlm_jax.layers.tokens import Causal, Tokens, for_rows

PIECE = ContextVar("PIECE", default=256)
"""Rows of a causal text that attend at a time on a CPU."""

MANY = ContextVar("MANY", default=2**19)
"""Weights, over all heads, from which on a picture attends by itself on a CPU."""


@contextmanager
def in_one_piece() -> Iterator[None]:
    """As other hardware attends, for those who plan for it on a CPU."""
    before = {size: size.set(sys.maxsize) for size in (PIECE, MANY)}
    try:
        yield
    finally:
        for size, token in before.items():
            size.reset(token)


class Attention(nn.Module):
    """Multi-head attention of `x` over all tokens of `sources` (arXiv:1706.03762, section 3.2).

    A source may have fewer rows than `x`, one for several in a row: one picture for its texts. Its
    keys and values are then computed once for them.

    `groups` query heads share one key and value head (arXiv:2305.13245). `rotary` is the base of
    the rotary positions (arXiv:2104.09864; 10,000 there); 0 leaves them out. `qk_norm` brings the
    queries and keys of each head to one length, times a learned scale, which bounds the scores
    (arXiv:2302.05442, section 2). Without `qkv_bias` only the projection at the end has a bias.

    Where the collection "cache" is mutable, keys and values are kept there. The first call stores
    those of `sources`; every later call brings one token, which self-attention appends at `index`
    (the caller has made room, see `mlm_jax.generate`) and cross-attention looks from, at what it
    stored: `sources` are then not read again.

    Where the collection "attention" is mutable, the weights are kept there, float32 (B, H, N, M),
    for `mlm_jax.explaining`; what the collection "nudge" holds is first added to them, so that
    the gradient by a nudge of zeros is that by the weights. Otherwise neither is ever computed.
    """

    heads: int = 4
    groups: int = 1
    bias: bool = True
    qkv_bias: bool = True
    rotary: float = 0.0
    qk_norm: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        sources: Sequence[Tokens],
        causal: Causal | None = None,
        *,
        places: Float[Array, "N axes"] | None = None,
        cross: bool = False,
    ) -> Float[Array, "B N D"]:
        """`causal` says which look at which; padding of a source is never looked at.

        `places` are those of the tokens for rotary positions, where they are not 0, 1, 2, ...
        """
        width = x.shape[-1]
        if width % self.heads or self.heads % self.groups:
            raise ValueError(
                f"width {width}, heads {self.heads}, groups {self.groups}: "
                "heads must divide the width, and groups the heads"
            )
        head = width // self.heads

        def project(name: str, heads: int) -> Callable[[Array], Array]:
            return nn.DenseGeneral((heads, head), use_bias=self.bias and self.qkv_bias, name=name)

        cached = self.is_mutable_collection("cache") and not self.is_initializing()
        later = cached and self.has_variable("cache", "key")
        start = self.get_variable("cache", "index") if later else jnp.zeros((), jnp.int32)
        if places is None:
            places = (start + jnp.arange(x.shape[1])).astype(jnp.float32)[:, None]

        def direct(name: str, heads: int) -> Callable[[Array], Array]:
            """To queries or keys."""
            dense = project(name, heads)
            norm = RMSNorm(name=f"{name}_norm") if self.qk_norm else lambda y: y

            def directed(inputs: Array) -> Array:
                y = norm(dense(inputs))
                return rotate(y, places, self.rotary) if self.rotary else y

            return directed

        query = direct("query", self.heads)(x)
        if cross and later:
            key: Array = self.get_variable("cache", "key")
            value: Array = self.get_variable("cache", "value")
            real: Array = self.get_variable("cache", "real")
        else:
            kv_heads = self.heads // self.groups
            to_key, to_value = direct("key", kv_heads), project("value", kv_heads)
            key = spread(len(x), [to_key(source.x) for source in sources])
            value = spread(len(x), [to_value(source.x) for source in sources])
            real = spread(len(x), [source.mask for source in sources])
            if cached:
                key, value, real = self._remember(key, value, real, start)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            read = self._shown(query, key, value, looks_of(real, causal, range(x.shape[1])))
        else:
            read = attend(query, key, value, real, causal)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=self.bias, name="out")(read)

    def _shown(
        self,
        query: Float[Array, "B N H K"],
        key: Float[Array, "B M G K"],
        value: Float[Array, "B M G K"],
        looks: Bool[Array, "B #H #N M"],
    ) -> Float[Array, "B N H K"]:
        """What `attend` gives, by weights that are kept, and moved by a nudge."""
        query, key, value = by_heads(query, key, value)
        weights, total = weigh(query, key, looks)
        weights /= total
        if self.has_variable("nudge", "weights"):
            weights = weights + self.get_variable("nudge", "weights")
        self.put_variable("attention", "weights", weights)
        return mix(weights, value)

    def _remember(
        self, key: Array, value: Array, real: Array, start: Int[Array, ""]
    ) -> tuple[Array, Array, Array]:
        """Store or append, and give back all that is known so far."""
        new = {"key": key, "value": value, "real": real}
        if self.has_variable("cache", "key"):
            for name, part in new.items():
                whole: Array = self.get_variable("cache", name)
                new[name] = jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=1)
        for name, whole in new.items():
            self.put_variable("cache", name, whole)
        self.put_variable("cache", "index", start + key.shape[1])
        return new["key"], new["value"], new["real"]


def attend(
    query: Float[Array, "B N H K"],
    key: Float[Array, "B M G K"],
    value: Float[Array, "B M G K"],
    real: Bool[Array, "B M"],
    causal: Causal | None = None,
) -> Float[Array, "B N H K"]:
    """softmax(query key / sqrt(K)) value, of those looked at; G groups share keys and values.

    On a CPU heads are put before tokens, so that each product is one of plain matrices: on one
    thread, of 512 tokens, the forward pass of a prototype took a third of the time of XLA's order.
    Of a causal text PIECE rows are taken at a time, and nothing is computed that none looks at.
    Pictures, or texts, whose weights are MANY are taken one after another, and their weights are
    computed anew for the gradient, so that they stay in the cache (as arXiv:2205.14135, section
    3.1): 576 tokens take 0.5 to 0.65 times as long, and 0.25 to 0.4 times forward; 1,163 of a
    causal text 0.8 and 0.55 times.
    """
    if jax.default_backend() != "cpu":
        looks = looks_of(real, causal, range(query.shape[1]))
        return jax.nn.dot_product_attention(query, key, value, mask=looks)
    query, key, value = by_heads(query, key, value)
    many = math.prod(query.shape[1:3]) * key.shape[2] >= MANY.get()
    if many and sharding.on_one_device():
        return one_by_one(query, key, value, real, causal)
    return in_pieces(query, key, value, real, causal)


def in_pieces(
    query: Float[Array, "B H N K"],
    key: Float[Array, "B H M K"],
    value: Float[Array, "B H M K"],
    real: Bool[Array, "B M"],
    causal: Causal | None,
) -> Float[Array, "B N H K"]:
    """What `read_by` gives, of a causal text PIECE rows at a time."""
    count = query.shape[2]

    def read(rows: range) -> Float[Array, "B n H K"]:
        looks = looks_of(real, causal, rows)
        seen = looks.shape[-1]
        queries = query[:, :, rows.start : rows.stop]
        return read_by(queries, key[:, :, :seen], value[:, :, :seen], looks)

    step = PIECE.get() if causal else count
    pieces = (range(start, min(start + step, count)) for start in range(0, count, step))
    return jnp.concatenate([read(rows) for rows in pieces], axis=1)


def one_by_one(
    query: Float[Array, "B H N K"],
    key: Float[Array, "B H M K"],
    value: Float[Array, "B H M K"],
    real: Bool[Array, "B M"],
    causal: Causal | None,
) -> Float[Array, "B N H K"]:
    """What `in_pieces` gives, of one row of the batch after another."""

    @jax.checkpoint
    def one(row: tuple[Array, Array, Array, Array]) -> Float[Array, "N H K"]:
        query, key, value, real = (part[None] for part in row)
        return in_pieces(query, key, value, real, causal)[0]

    return jax.lax.map(one, (query, key, value, real))


def read_by(
    query: Float[Array, "B H N K"],
    key: Float[Array, "B H M K"],
    value: Float[Array, "B H M K"],
    looks: Bool[Array, "B #H #N M"],
) -> Float[Array, "B N H K"]:
    """What `attend` gives, of heads that are before tokens."""
    weights, total = weigh(query, key, looks)
    return (mix(weights, value) / total.swapaxes(1, 2)).astype(value.dtype)


def looks_of(
    real: Bool[Array, "B M"], causal: Causal | None, rows: range
) -> Bool[Array, "B 1 n m"]:
    """What `rows` look at, as far as any of them looks."""
    if causal is None:
        return real[:, None, None]
    looks = causal.looks(rows)
    return looks & real[:, None, None, : looks.shape[1]]


def by_heads(
    query: Float[Array, "B N H K"], key: Float[Array, "B M G K"], value: Float[Array, "B M G K"]
) -> tuple[Float[Array, "B H N K"], Float[Array, "B H M K"], Float[Array, "B H M K"]]:
    """Heads before tokens, keys and values repeated for the heads of their group."""
    heads, groups = query.shape[2], key.shape[2]
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    if groups != heads:
        key, value = (jnp.repeat(x, heads // groups, axis=1) for x in (key, value))
    return query, key, value


def weigh(
    query: Float[Array, "B H N K"], key: Float[Array, "B H M K"], looks: Bool[Array, "B #H #N M"]
) -> tuple[Float[Array, "B H N M"], Float[Array, "B H N 1"]]:
    """How much each token reads of each, at most 1, and how much in all; in float32.

    To divide what is read by the latter, rather than each weight, takes a seventh off the time of
    576 tokens, forward and backward.
    """
    scores = jnp.einsum("bhnk,bhmk->bhnm", query * query.shape[-1] ** -0.5, key)
    scores = jnp.where(looks, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min / 2)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    return weights, weights.sum(-1, keepdims=True)


def mix(
    weights: Float[Array, "B H N M"], value: Float[Array, "B H M K"]
) -> Float[Array, "B N H K"]:
    read = jnp.einsum("bhnm,bhmk->bhnk", weights.astype(value.dtype), value)
    return read.swapaxes(1, 2)


def spread(rows: int, parts: Sequence[Array]) -> Array:
    """Parts (B, N, ...) one after the other along N, those of fewer rows repeated."""
    return jnp.concatenate([for_rows(rows, part) for part in parts], axis=1)


def rotate(
    x: Float[Array, "B N H K"], places: Float[Array, "N axes"], base: float
) -> Float[Array, "B N H K"]:
    """Turn pair (i, i + K/2) of a token by its place / base^(2i/K).

    Where places have several axes each has its own part of the pairs (arXiv:2403.13298, 3.2).
    """
    axes, half = places.shape[1], x.shape[-1] // 2
    if x.shape[-1] % (2 * axes):
        width = f"head width {x.shape[-1]} must be a multiple of {2 * axes}"
        raise ValueError(f"rotary positions turn pairs: {width}")
    frequency = base ** -(jnp.arange(half // axes, dtype=jnp.float32) / (half // axes))
    angle = (places[:, :, None] * frequency).reshape(1, -1, 1, half)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
