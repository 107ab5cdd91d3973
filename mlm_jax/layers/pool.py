"""Many tokens to one vector."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.layers.attention import Attention
from mlm_jax.layers.tokens import Tokens


class Pool(nn.Module):
    """The mean, first, last real token, or what one learned query reads ("attention")."""

    kind: Literal["mean", "first", "last", "attention"] = "mean"
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: Tokens) -> Float[Array, "B D"]:
        x, real = tokens
        if self.kind == "first":
            return x[:, 0]
        if self.kind == "last":
            place = jnp.maximum(real.sum(1) - 1, 0)
            return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
        if self.kind == "attention":
            query = self.param("query", nn.initializers.normal(0.02), (1, 1, x.shape[-1]))
            query = jnp.broadcast_to(query, (x.shape[0], 1, x.shape[-1]))
            return Attention(self.heads, name="attention")(query, [tokens], cross=True)[:, 0]
        weight = real.astype(x.dtype)[..., None]
        return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
