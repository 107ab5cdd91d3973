"""Text encoder: BERT."""

from dataclasses import field

import flax.linen as nn
from jaxtyping import Array, Bool, Int

from mlm_jax.layers import Norm, Positions, Tokens, Transformer


class TextEncoder(nn.Module):
    """BERT (arXiv:1810.04805): words and learned positions, normed, then a two-way transformer."""

    vocab: int = 512
    length: int = 32
    body: Transformer = field(default_factory=Transformer)

    @nn.compact
    def __call__(
        self, ids: Int[Array, "B N"], mask: Bool[Array, "B N"], *, train: bool = False
    ) -> Tokens:
        x = nn.Embed(self.vocab, self.body.width, name="words")(ids)
        x = Positions(self.length, name="positions")(x)
        x = Norm(self.body.block.norm, self.body.block.eps, name="norm")(x)
        x = nn.Dropout(self.body.block.dropout, deterministic=not train, name="dropout")(x)
        return self.body(Tokens(x, mask), train=train)
