"""Text encoder: BERT, and the text side of CLIP."""

from collections.abc import Sequence
from dataclasses import field

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.layers import Causal, Tokens, Transformer, Words
from mlm_jax.layers.words import word_norm


class TextEncoder(nn.Module):
    """Words and learned positions, then a transformer (BERT, arXiv:1810.04805).

    `types` are the segments that a token may belong to (2 in BERT). `causal` lets a word look back
    only (CLIP, arXiv:2103.00020, section 2.4).
    """

    vocab: int = 512
    length: int = 32
    types: int = 0
    causal: bool = False
    body: Transformer = field(default_factory=Transformer)

    def setup(self) -> None:
        self.words = Words(
            self.vocab, self.length, self.body.width, self.types, **word_norm(self.body.block)
        )

    def __call__(
        self,
        ids: Int[Array, "B N"],
        mask: Bool[Array, "B N"],
        *,
        types: Int[Array, "B N"] | None = None,
        memory: Sequence[Tokens] = (),
        train: bool = False,
    ) -> Tokens:
        """`memory` is read by cross-attention in every block (BLIP, arXiv:2201.12086)."""
        x = self.words(ids, types=types, train=train)
        looks = Causal() if self.causal else None
        return self.body(Tokens(x, mask), looks, memory=memory, train=train)

    def attend(self, x: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Logits by the vectors of the words."""
        return self.words.attend(x)
