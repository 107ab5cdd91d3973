"""Tokens, the one currency between encoders, fusions and decoders; and which look at which."""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Tree = TypeVar("Tree")


class Tokens(NamedTuple):
    """Vectors and which of them are real; `mask` is False at padding."""

    x: Float[Array, "B N D"]
    mask: Bool[Array, "B N"]


def for_rows(rows: int, tree: Tree) -> Tree:
    """Arrays (B, ...), or a tree of them, as (rows, ...): each row repeated rows / B times.

    A picture for each of its texts. Raises: ValueError where B does not divide `rows`.
    """

    def repeat(x: Array) -> Array:
        times, rest = divmod(rows, len(x))
        if rest or not times:
            raise ValueError(f"{rows} rows of text for {len(x)} pictures: must be a multiple")
        return x if times == 1 else jnp.repeat(x, times, axis=0)

    return jax.tree.map(repeat, tree)


def every(x: Float[Array, "B N D"]) -> Tokens:
    """Tokens without padding."""
    return Tokens(x, jnp.ones(x.shape[:2], bool))


def concatenate(*parts: Tokens) -> Tokens:
    """The parts one after the other along N; they share B and D."""
    return Tokens(
        jnp.concatenate([part.x for part in parts], axis=1),
        jnp.concatenate([part.mask for part in parts], axis=1),
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class Causal:
    """Who looks at whom: the first `prefix` tokens at all of themselves, the rest at all before."""

    prefix: int = 0

    def looks(self, rows: range) -> Bool[Array, "N M"]:
        """Row looks at column, up to the last column that any of `rows` looks at.

        Causal(2).looks(range(4)) -> 1100 / 1100 / 1110 / 1111
        """
        row = jnp.arange(rows.start, rows.stop)[:, None]
        column = jnp.arange(max(rows.stop, self.prefix))
        return (column <= row) | (column < self.prefix)
