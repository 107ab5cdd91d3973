"""Tokens, the one currency between encoders, fusions and decoders; and masks over them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Tokens(NamedTuple):
    """Vectors and which of them are real; `mask` is False at padding."""

    x: Float[Array, "B N D"]
    mask: Bool[Array, "B N"]

    def for_rows(self, rows: int) -> "Tokens":
        """Each row repeated as often as makes `rows`: a picture for each of its texts."""
        return Tokens(repeat_to(rows, self.x), repeat_to(rows, self.mask))


def repeat_to(rows: int, x: Array) -> Array:
    """(B, ...) to (rows, ...), each row of `x` repeated rows / B times."""
    return x if len(x) == rows else jnp.repeat(x, rows // len(x), axis=0)


def every(x: Float[Array, "B N D"]) -> Tokens:
    """Tokens without padding."""
    return Tokens(x, jnp.ones(x.shape[:2], bool))


def concatenate(*parts: Tokens) -> Tokens:
    """The parts one after the other along N; they share B and D."""
    return Tokens(
        jnp.concatenate([part.x for part in parts], axis=1),
        jnp.concatenate([part.mask for part in parts], axis=1),
    )


def causal_mask(length: int) -> Bool[Array, "N N"]:
    """Row looks at column: itself and all before it.

    causal_mask(3) -> 100 / 110 / 111
    """
    return prefix_mask(0, length)


def prefix_mask(prefix: int, length: int) -> Bool[Array, "N N"]:
    """Row looks at column: the prefix at all of itself, the rest at everything before it.

    prefix_mask(2, 4) -> 1100 / 1100 / 1110 / 1111
    """
    row, column = jnp.arange(length)[:, None], jnp.arange(length)
    return (column <= row) | (column < prefix)
