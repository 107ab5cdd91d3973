"""What lies beside the next place, read before the first block."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class Neighbours(nn.Module):
    """Adds to each word what linear maps of its own make of the words so many places `back`.

    Shifted tokens, after RWKV (arXiv:2305.13048), and by rows of a picture too (see `beside`), as
    the masked filters of a PixelCNN see (arXiv:1606.05328, section 2). Edges and textures go on by
    what is next to them, which attention need not then discover first. Before the beginning there
    are zeros; padding is read like words, so rows have none. Where the collection "cache" is
    mutable, the last words are kept.
    """

    back: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        rows, count, width = x.shape
        reach = max(self.back)
        past: Array = jnp.zeros((rows, reach, width), x.dtype)
        if self.has_variable("cache", "past"):
            past = self.get_variable("cache", "past")
        words = jnp.concatenate([past, x], axis=1)
        if self.is_mutable_collection("cache") and not self.is_initializing():
            self.put_variable("cache", "past", words[:, -reach:])
        for back in self.back:
            dense = nn.Dense(width, use_bias=False, name=f"back_{back}")
            x = x + dense(words[:, reach - back : reach - back + count])
        return x


def beside(grid: tuple[int, ...]) -> tuple[int, ...]:
    """How far back from each place on a `grid` those lie that are beside the next one.

    In its row the one but one before it (the one before is the place itself), of the row above
    three; of a clip its own place in the frame before, and the four around that. At an edge these
    are places of another row or frame, and of the first ones words of the text.
    """
    *time, height, width = grid
    backs = {1, width - 2, width - 1, width}
    if time:
        frame = height * width - 1
        backs |= {frame - width, frame - 1, frame, frame + 1, frame + width}
    return tuple(sorted(back for back in backs if back > 0))
