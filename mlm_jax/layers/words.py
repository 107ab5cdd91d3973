"""From words to vectors and back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlm_jax.layers.embed import Positions
from mlm_jax.layers.transformer import ACTIVATIONS, Activation, Block, Norm
from mlm_jax.sharding import gather, spread

Tree = TypeVar("Tree")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unsaid:
    """Logits of words that were not computed yet: `states` times the words' own vectors.

    Those of a long text over a large vocabulary are the largest array of a training step; a loss
    can take them a few words of each row at a time (`pieces`) and keep none.
    """

    states: Float[Array, "B N D"]
    table: Float[Array, "V D"]
    words: int = field(metadata={"static": True})

    def pieces(self, fn: Callable[..., Tree], *others: Array) -> Tree:
        """`fn(logits, *others)` of all words of a row, in float32, `words` at a time.

        `others` (B, N) come in the same pieces. The results (B, n) are joined to (B, N). Backwards
        the logits of a piece are computed once more (arXiv:1604.06174).
        """
        rows, length = self.states.shape[:2]
        count = -(-length // self.words)

        def cut(x: Array) -> Array:
            room = [(0, 0), (0, count * self.words - length), *[(0, 0)] * (x.ndim - 2)]
            apart = jnp.pad(x, room).reshape(rows, count, self.words, *x.shape[2:])
            return apart.swapaxes(0, 1)

        @jax.checkpoint
        def piece(states: Array, others: tuple[Array, ...]) -> Tree:
            logits = spread(states @ self.table.T, last="tensor")
            return fn(logits.astype(jnp.float32), *others)

        def join(x: Array) -> Array:
            return x.swapaxes(0, 1).reshape(rows, -1)[:, :length]

        results = jax.lax.map(
            lambda cuts: piece(*cuts), (cut(self.states), tuple(map(cut, others)))
        )
        return jax.tree.map(join, results)


class Words(nn.Module):
    """A vector for each word, its place and, with `types`, its segment: summed.

    `grid` is that of `Positions`. With `levels` the last words are the codes of a quantiser that
    has so many values on each axis: the vector of a code is then the sum of its own and of one for
    its value on each axis, so that codes learn from those that are nearly the same.
    """

    vocab: int
    length: int
    width: int
    types: int = 0
    levels: tuple[int, ...] = ()
    grid: tuple[int, ...] | None = None
    norm: Literal["none", "layer", "rms"] = "none"
    eps: float = 1e-6
    dropout: float = 0.0

    def setup(self) -> None:
        self.table = nn.Embed(self.vocab, self.width)
        if self.levels:
            self.values = nn.Embed(sum(self.levels), self.width)
        self.positions = Positions(self.length, self.grid)
        if self.types:
            self.segments = nn.Embed(self.types, self.width)
        if self.norm != "none":
            self.normed = Norm(self.norm, self.eps)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        ids: Int[Array, "B N"],
        *,
        types: Int[Array, "B N"] | None = None,
        places: Int[Array, "R N"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B N D"]:
        """`types` are 0 where not given; `places` are those of `Positions`."""
        x = self.positions(look_up(self.vectors(), ids), places)
        if self.types:
            x = x + look_up(
                self.segments.embedding, jnp.zeros_like(ids) if types is None else types
            )
        if self.norm != "none":
            x = self.normed(x)
        return self.drop(x, deterministic=not train)

    def vectors(self) -> Float[Array, "V D"]:
        """Of all words, without their places."""
        own = self.table.embedding
        if not self.levels:
            return own
        parts = jnp.split(self.values.embedding, np.cumsum(self.levels)[:-1])
        codes: Array = jnp.zeros(self.width, own.dtype)
        for axis, part in enumerate(parts):  # the first changes fastest
            codes = codes + part.reshape(-1, *[1] * axis, self.width)
        codes = codes.reshape(-1, self.width)
        return own.at[-len(codes) :].add(codes)

    def unsaid(self, x: Float[Array, "B N D"], words: int) -> Unsaid:
        """The same logits, to be computed `words` at a time."""
        return Unsaid(x, gather(self.vectors()), words)

    def attend(self, x: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Logits by the same vectors: the output matrix is tied to the input's."""
        return spread(x @ self.vectors().T, last="tensor")


def look_up(table: Float[Array, "V D"], ids: Int[Array, "B N"]) -> Float[Array, "B N D"]:
    """The vectors of `ids`; a table that lies in parts is brought together first, not they."""
    return spread(jnp.take(gather(table), ids, axis=0))


def word_norm(block: Block) -> dict[str, Any]:
    """Fields of `Words` before blocks like `block`: those that norm last expect a norm before."""
    norm = block.norm if block.order == "post" else "none"
    return {"norm": norm, "eps": block.eps, "dropout": block.dropout}


class WordHead(nn.Module):
    """BERT's way from vectors to words: a layer, a norm, the words' own vectors, a bias.

    arXiv:1810.04805, section 3.1 names the task; the layers are those of its published code.
    """

    vocab: int
    activation: Activation = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    eps: float = 1e-12

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], attend: Callable[[Array], Array]
    ) -> Float[Array, "B N V"]:
        """`attend` is that of the words."""
        x = nn.Dense(x.shape[-1], name="transform")(x)
        x = Norm(self.norm, self.eps, name="norm")(ACTIVATIONS[self.activation](x))
        return attend(x) + self.param("bias", nn.initializers.zeros_init(), (self.vocab,))
