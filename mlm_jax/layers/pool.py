"""Many tokens to one vector."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.layers.attention import Attention
from mlm_jax.layers.tokens import Tokens
from mlm_jax.layers.transformer import MLP, Activation, Norm


class Pool(nn.Module):
    """The mean, first, last real token, or what one learned query reads ("attention").

    "map" adds to what is read an MLP of its norm (SigLIP's head; arXiv:2106.04560, appendix A.1);
    `ratio`, `activation` and `eps` are for it alone.
    """

    kind: Literal["mean", "first", "last", "attention", "map"] = "mean"
    heads: int = 4
    ratio: float = 4.0
    activation: Activation = "gelu_tanh"
    eps: float = 1e-6

    @nn.compact
    def __call__(self, tokens: Tokens) -> Float[Array, "B D"]:
        x, real = tokens
        if self.kind == "first":
            return x[:, 0]
        if self.kind == "last":
            place = jnp.maximum(real.sum(1) - 1, 0)
            return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]
        if self.kind == "mean":
            weight = real.astype(x.dtype)[..., None]
            return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
        query = self.param("query", nn.initializers.normal(0.02), (1, 1, x.shape[-1]))
        query = jnp.broadcast_to(query, (x.shape[0], 1, x.shape[-1]))
        read = Attention(self.heads, name="attention")(query, [tokens], cross=True)
        if self.kind == "map":
            normed = Norm(eps=self.eps, name="norm")(read)
            read = read + MLP(self.ratio, self.activation, name="mlp")(normed)
        return read[:, 0]
