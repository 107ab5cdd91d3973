"""What convolutional nets are made of; each frame of a clip is a picture to them."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.layers.transformer import Modulation


class Residual(nn.Module):
    """Two 3 x 3 convolutions behind GroupNorm and SiLU, and what came in (arXiv:1603.05027).

    GroupNorm (arXiv:1803.08494), so that a picture does not depend on its batch. A `condition`
    scales and shifts behind the second of them (arXiv:2105.05233, section 3).
    """

    width: int
    groups: int = 4

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], condition: Float[Array, "R E"] | None = None
    ) -> Float[Array, "B H W D"]:
        y = x
        for i in range(2):
            y = nn.GroupNorm(num_groups=self.groups, name=f"norm_{i}")(y)
            if i == 1 and condition is not None:
                shift, scale = Modulation(2, name="modulation")(y, condition)
                y = y * (1 + scale) + shift
            y = nn.silu(y)
            y = nn.Conv(self.width, (3, 3), name=f"conv_{i}")(y)
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1), name="across")(x)
        return x + y


def over_frames(x: Array, fn: Callable[[Array], Array]) -> Array:
    """`fn` of pictures (B, H, W, C), or of each frame of clips (B, T, H, W, C)."""
    if x.ndim == 4:
        return fn(x)
    each = fn(x.reshape(-1, *x.shape[2:]))
    return jnp.reshape(each, (*x.shape[:2], *each.shape[1:]))
