"""Text decoder: GPT, reading what was fused."""

import math
from dataclasses import field
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.fusion import Fused
from mlm_jax.layers import Causal, Tokens, Transformer, WordHead, Words, concatenate
from mlm_jax.layers.embed import grid_places
from mlm_jax.layers.neighbours import Neighbours, beside
from mlm_jax.layers.tokens import every
from mlm_jax.layers.words import Unsaid, word_norm


class TextDecoder(nn.Module):
    """Autoregressive transformer over words (GPT-2), output matrix tied to the word vectors.

    `fused.prefix` stands before the words and looks at all of itself; the words look at it and
    back at themselves. `fused.memory` and `fused.gated` are read inside the blocks.
    Where the last of its places are those of a picture on a `grid` (height, width), or of a clip on
    one with frames before, they begin as such (see `Positions`), and rotary positions are turned by
    row and column (see `grid_of_text`);
    all rows are then of one length, without a prefix. With `neighbours` each place also reads those
    beside the next one (see `Neighbours`), and with `levels` codes share vectors (see `Words`).
    `head` "bert" has BERT's layers before the output matrix (BLIP's decoder, arXiv:2201.12086).
    With `pieces` training leaves the logits to the loss, that many words of a row at a time.
    Where the collection "cache" is mutable, the first call may bring many words and each later
    one brings the next word alone (see `Attention`).
    """

    vocab: int = 512
    length: int = 32
    head: Literal["tied", "bert"] = "tied"
    body: Transformer = field(default_factory=Transformer)
    pieces: int = 0
    grid: tuple[int, ...] | None = None
    neighbours: bool = False
    levels: tuple[int, ...] = ()

    def setup(self) -> None:
        block = self.body.block
        self.words = Words(
            self.vocab,
            self.length,
            self.body.width,
            levels=self.levels,
            grid=self.grid,
            **word_norm(block),
        )
        if self.neighbours:
            if self.grid is None:
                raise ValueError("neighbours lie on a grid: decoder.grid, or no neighbours")
            self.beside = Neighbours(beside(self.grid))
        self.prefix = nn.Dense(self.body.width)
        if self.head == "bert":
            if self.pieces:
                raise ValueError(f"pieces {self.pieces}: of a tied head alone")
            self.to_words = WordHead(self.vocab, block.activation, block.norm, block.eps)

    def __call__(
        self,
        ids: Int[Array, "B N"],
        fused: Fused,
        mask: Bool[Array, "B N"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B N V"] | Unsaid:
        """`mask` is False at padding, on either side: places count the real words only."""
        x = self.states(ids, fused, mask, train=train)
        if train and self.pieces:
            return self.words.unsaid(x, self.pieces)
        attend = self.words.attend
        logits = attend(x) if self.head == "tied" else self.to_words(x, attend)
        return logits.astype(jnp.float32)

    def states(
        self,
        ids: Int[Array, "B N"],
        fused: Fused,
        mask: Bool[Array, "B N"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B N D"]:
        """What the logits of each word are made of."""
        cached = self.is_mutable_collection("cache") and not self.is_initializing()
        later = cached and self.has_variable("cache", "place")
        places: Int[Array, "R N"]
        if later:
            places = self.get_variable("cache", "place")
        elif mask is None:
            places = jnp.arange(ids.shape[1])[None]
        else:
            places = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        if cached:
            self.put_variable("cache", "place", places[:, -1:] + 1)
        x = self.words(ids, places=places, train=train)
        if self.neighbours:
            x = self.beside(x)
        tokens, prefix = every(x) if mask is None else Tokens(x, mask), 0
        if fused.prefix is not None and not later:
            first = self.prefix(fused.prefix.x)
            tokens = concatenate(Tokens(first, fused.prefix.mask), tokens)
            prefix = first.shape[1]
        looks = None if later else Causal(prefix)
        out = self.body(
            tokens,
            looks,
            memory=fused.memory,
            gated=fused.gated,
            places=self._turned(places[0], prefix),
            train=train,
        )
        return out.x[:, prefix:]

    def _turned(self, places: Int[Array, "N"], prefix: int) -> Float[Array, "M axes"] | None:
        """What rotary positions turn by, where it is not the number of the token.

        A prefix lies backwards from the words, so that the padding at its end is farthest from them
        and moves nothing that is read.
        """
        if not self.body.block.rotary or (self.grid is None and not prefix):
            return None
        if self.grid is None:
            back, on = jnp.arange(prefix)[::-1], prefix + jnp.arange(len(places))
            return jnp.concatenate([back, on]).astype(jnp.float32)[:, None]
        if prefix:
            raise ValueError("a prefix has no place on a grid: rotary 0, or no grid")
        return jnp.take(grid_of_text(self.length, self.grid), places, axis=0, mode="clip")


def grid_of_text(length: int, grid: tuple[int, ...]) -> Float[Array, "N 2"]:
    """Column and row of the places of a picture, from 0; the words before it lie on the diagonal.

    Of a clip they are the same in every frame: what a code finds there is what was there before.

    Two words before two by two codes are (-2, -2), (-1, -1), (0, 0), (1, 0), (0, 1), (1, 1), as in
    M-RoPE (Qwen2-VL, arXiv:2409.12191, section 2.1), which puts the picture before the words.
    """
    *time, height, width = grid
    picture = jnp.tile(grid_places(height, width), (math.prod(time), 1))
    before = jnp.arange(len(picture) - length, 0, dtype=picture.dtype)[:, None]
    return jnp.concatenate([jnp.repeat(before, 2, axis=1), picture])
