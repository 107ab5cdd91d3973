"""Does a text tell a picture? The head, and whom to hold against whom (ALBEF, BLIP).

Each picture of a batch is held against a text of another, and each text against another picture
(arXiv:2107.07651, section 3.2; arXiv:2201.12086, section 3.2).
"""

import math
from dataclasses import field
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.layers import Pool, Tokens
from mlm_jax.models.clip import MOST, at_most, unit


class Matching(nn.Module):
    """Two projections, by which pictures and texts find each other, and a yes or no to a pair.

    `negatives` says how wrong partners are chosen: "off" learns no matching and has no parameters;
    "random" takes any, "hard" takes the alike more often, in proportion to the softmax of their
    similarity. `width` is that of the projections.
    """

    negatives: Literal["off", "random", "hard"] = "off"
    width: int = 64
    pool: Pool = field(default_factory=lambda: Pool("mean"))

    def setup(self) -> None:
        self.image_out = nn.Dense(self.width, use_bias=False)
        self.text_out = nn.Dense(self.width, use_bias=False)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ()
        )
        self.matches = nn.Dense(1)

    def vectors(self, image: Tokens, text: Tokens) -> dict[str, Array]:
        """What `losses.Contrastive` reads: "image" (B, width), "text" (R, width), "scale", "bias".

        Neither has seen the other.
        """
        scale = jnp.exp(self.logit_scale.astype(jnp.float32))
        return {
            "image": unit(self.image_out(self.pool(image))),
            "text": unit(self.text_out(self.pool(text))),
            "scale": at_most(scale, MOST),
            "bias": jnp.zeros(()),
        }

    def logit(self, state: Float[Array, "R D"]) -> Float[Array, "R"]:
        """Of yes, float32."""
        return self.matches(state)[:, 0].astype(jnp.float32)


class Others(NamedTuple):
    """A wrong text for the picture of each row, and a wrong picture for the text of each.

    Numbers of rows and of pictures; False where the batch has none.
    """

    text: Int[Array, "R"]
    has_text: Bool[Array, "R"]
    image: Int[Array, "R"]
    has_image: Bool[Array, "R"]


def choose_others(key: Array, logits: Float[Array, "B R"], own: Bool[Array, "B R"]) -> Others:
    """Drawn in proportion to the softmax of `logits` over the pairs that are not `own`.

    No gradient goes through the choice.
    """
    pictures, rows = logits.shape
    wrong = jnp.where(own, -jnp.inf, logits)
    which, what = jax.random.split(key)
    texts = jnp.repeat(wrong, rows // pictures, axis=0)
    return Others(
        text=jax.random.categorical(which, texts, axis=1).astype(jnp.int32),
        has_text=~jnp.repeat(own.all(1), rows // pictures),
        image=jax.random.categorical(what, wrong, axis=0).astype(jnp.int32),
        has_image=~own.all(0),
    )


def own_texts(
    ids: Int[Array, "R M"], mask: Bool[Array, "R M"], pictures: int
) -> Bool[Array, "B R"]:
    """Whether a text is one of a picture's own, or reads the same as one of them.

    Rows belong to pictures in order. Two pictures, of which the second has the text of the first:

    own_texts([[5], [5], [6], [5]], all real, 2) -> 1101 / 1111
    """
    words = jnp.where(mask, ids, -1)
    same = (words[:, None] == words[None]).all(-1)  # R R
    return same.reshape(pictures, -1, len(ids)).any(1)
