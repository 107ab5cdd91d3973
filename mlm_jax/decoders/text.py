"""Text decoder: GPT, reading what was fused."""

from dataclasses import field

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlm_jax.fusion import Fused
from mlm_jax.layers import Positions, Tokens, Transformer, concatenate, prefix_mask
from mlm_jax.layers.tokens import every


class TextDecoder(nn.Module):
    """Autoregressive transformer over words (GPT-2), output matrix tied to the word vectors.

    `fused.prefix` stands before the words and looks at all of itself; the words look at it and
    back at themselves. `fused.memory` and `fused.gated` are read inside the blocks.
    Where the collection "cache" is mutable, the first call may bring many words and each later
    one brings the next word alone (see `Attention`).
    """

    vocab: int = 512
    length: int = 32
    body: Transformer = field(default_factory=Transformer)

    @nn.compact
    def __call__(
        self, ids: Int[Array, "B N"], fused: Fused, *, train: bool = False
    ) -> Float[Array, "B N V"]:
        words = nn.Embed(self.vocab, self.body.width, name="words")
        cached = self.is_mutable_collection("cache") and not self.is_initializing()
        later = cached and self.has_variable("cache", "index")
        start = self.get_variable("cache", "index") if later else jnp.zeros((), jnp.int32)
        if cached:
            self.put_variable("cache", "index", start + ids.shape[1])
        x = Positions(self.length, name="positions")(words(ids), start)
        x = nn.Dropout(self.body.block.dropout, deterministic=not train, name="dropout")(x)
        tokens, prefix = every(x), 0
        if fused.prefix is not None and not later:
            first = nn.Dense(self.body.width, name="prefix")(fused.prefix.x)
            tokens = concatenate(Tokens(first, fused.prefix.mask), tokens)
            prefix = first.shape[1]
        mask = None if later else prefix_mask(prefix, tokens.x.shape[1])
        out = self.body(tokens, mask, memory=fused.memory, gated=fused.gated, train=train)
        return words.attend(out.x[:, prefix:]).astype(jnp.float32)
