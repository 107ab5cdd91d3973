"""DALL-E: a text, then the codes of its picture, written by one decoder (arXiv:2102.12092)."""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.codes import CodeEncoder
from mlm_jax.fusion import Fused
from mlm_jax.layers.tokens import for_rows
from mlm_jax.models.codes import Codes
from mlm_jax.models.painter import Canvas


class Dalle(nn.Module):
    """A caption of `length` tokens and the codes of its picture, or clip, as one text.

    Clips are coded by codes of clips, or with `frames` by those of pictures, frame after frame
    (VideoGPT's order, arXiv:2104.10157, section 3.2). Those of the first frame count `opening`
    times as much as others: who has learned pictures before knows them, and what is left of them to
    guess, much more than how frames go on, is noise in what is learned of those.

    The ids of words are under `words`, those of codes begin there. A shorter caption is filled up
    with `pad_id`, which is a word like any other (section 2.1), so that each place of the picture
    has one place in the text. In training a share `dropped` of the captions is hidden, all but
    their bos, for guidance without a classifier (arXiv:2207.12598, algorithm 1).
    """

    codes: Codes = field(default_factory=Codes)
    decoder: TextDecoder = field(default_factory=lambda: TextDecoder(1128, 168))
    words: int = 128
    length: int = 24
    frames: int = 0
    opening: float = 1.0
    pad_id: int = 0
    dropped: float = 0.1

    @property
    def image(self) -> CodeEncoder | None:
        return None if self.frames else self.codes.image

    @property
    def video(self) -> Canvas | CodeEncoder | None:
        return Canvas(self.codes.eyes.size, self.frames) if self.frames else self.codes.video

    @property
    def sense(self) -> str:
        return "video" if self.frames else self.codes.sense

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of codes, of clips frames before them."""
        return (self.frames, *self.codes.eyes.grid) if self.frames else self.codes.eyes.grid

    def setup(self) -> None:
        need = self.words + self.codes.quantiser.size
        if self.decoder.vocab != need:  # what is over would be written, and is no code
            raise ValueError(
                f"{self.words} words and {self.codes.quantiser.size} codes: decoder.vocab is"
                f" {self.decoder.vocab}, and must be {need}"
            )
        if self.decoder.pieces:
            raise ValueError(
                f"decoder.pieces {self.decoder.pieces}: of losses.Caption alone, must be 0"
            )
        quantiser = self.codes.quantiser
        levels = quantiser.levels if quantiser.kind == "fsq" else ()
        if self.decoder.levels not in ((), levels):
            raise ValueError(
                f"decoder.levels {self.decoder.levels}: the codes have {levels}, and nothing but"
                " these or () fits"
            )
        if self.frames and self.codes.sense == "video":
            raise ValueError(f"frames {self.frames}: of codes of pictures; its codes are of clips")
        if self.opening != 1 and not self.frames:
            raise ValueError(f"opening {self.opening}: of frame after frame alone, must be 1")
        grid = self.grid
        exact = self.length + math.prod(grid)
        if self.decoder.grid and (self.decoder.grid, self.decoder.length) != (grid, exact):
            raise ValueError(
                f"decoder.grid is {self.decoder.grid}, and its length {self.decoder.length}: the"
                f" codes lie on {grid} after {self.length} words, which makes {exact}"
            )

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        """ "words" (R, M - 1, words), "codes" (R, N, K): logits, float32, of the words after the
        first and of the codes; the codes that are "wanted" (R, N), and the "weight" of each."""
        codes = jax.lax.stop_gradient(self.codes.encode_codes(batch[self.sense]))
        if self.is_initializing():
            self.decode_codes(codes)  # their decoder has parameters too
        text = self.filled(batch["target"])
        if train and self.dropped:
            hide = jax.random.uniform(self.make_rng("mask"), (len(text), 1)) < self.dropped
            text = jnp.where(hide, self.hidden(text), text)
        codes = for_rows(len(text), codes)
        ids = jnp.concatenate([text, self.words + codes], axis=1)
        logits: Any = self.decoder(ids[:, :-1], Fused(), train=train)
        last = self.length - 1
        picked = slice(self.words, self.words + self.codes.quantiser.size)
        return {
            "words": logits[:, : batch["target"].shape[1] - 1, : self.words],
            "codes": logits[:, last:, picked],
            "wanted": codes,
            "weight": jnp.broadcast_to(self.weights(), codes.shape),
        }

    def weights(self) -> Float[Array, "N"]:
        """How much each code counts in training."""
        opening = math.prod(self.codes.eyes.grid) if self.frames else 0
        return jnp.where(jnp.arange(math.prod(self.grid)) < opening, self.opening, 1.0)

    def filled(self, ids: Int[Array, "R M"]) -> Int[Array, "R length"]:
        """Captions filled up. Raises: ValueError."""
        room = self.length - ids.shape[1]
        if room < 0:
            raise ValueError(f"captions of {ids.shape[1]} tokens, model.length is {self.length}")
        return jnp.pad(ids, [(0, 0), (0, room)], constant_values=self.pad_id)

    def decode_codes(self, codes: Int[Array, "R N"]) -> Float[Array, "R *T H W 3"]:
        """Pixels from 0 to 1."""
        vectors = self.codes.quantiser.look_up(codes.reshape(-1, *self.grid))
        return self.codes.decode_vectors(vectors)

    def hidden(self, ids: Int[Array, "R N"]) -> Int[Array, "R N"]:
        """bos alone."""
        return jnp.where(jnp.arange(ids.shape[1]) > 0, self.pad_id, ids)
