"""Fusions: how a picture and a text come together before the decoder writes. One key, seven kinds.

concat           pooled picture, pooled text -> one vector              (the baseline)
joint            both sequences, one self-attention over both            (VisualBERT 1908.03557)
cross_attention  text reads the picture                                 (BLIP 2201.12086)
gated            the decoder reads the picture through gates            (Flamingo 2204.14198)
resampler        learned queries compress the picture first             (Flamingo, BLIP-2)
bottleneck       the two exchange through a few tokens only             (MBT 2107.00135)
prefix           both stand before the decoder's words                  (LLaVA 2304.08485)
"""

from dataclasses import field
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mlm_jax.layers import Block, Pool, Tokens, Transformer, concatenate
from mlm_jax.layers.tokens import every, for_rows
from mlm_jax.layers.transformer import settings

Kind = Literal["concat", "joint", "cross_attention", "gated", "resampler", "bottleneck", "prefix"]


class Fused(NamedTuple):
    """What the decoder reads: beside its words, through gates, or before them.

    Of `memory` and `gated` each part may have fewer rows than there are texts (see `Attention`).
    """

    memory: tuple[Tokens, ...] = ()
    gated: tuple[Tokens, ...] = ()
    prefix: Tokens | None = None


class Fusion(nn.Module):
    """Picture and text tokens, of any widths, to what the decoder reads.

    Of any other width than `body.width` they are first projected. There may be several rows of text
    in a row for each picture; what needs the picture alone is done once.

    `body` is the transformer of the kinds that have one (joint, cross_attention, resampler,
    bottleneck); `latents` is the number of learned queries of the resampler and of tokens in the
    bottleneck; `both_ways` lets the picture read the text as well in cross_attention.
    """

    kind: Kind = "cross_attention"
    latents: int = 8
    both_ways: bool = False
    body: Transformer = field(default_factory=lambda: Transformer(depth=2))

    @nn.compact
    def __call__(self, image: Tokens, text: Tokens, *, train: bool = False) -> Fused:
        image, text = self._project("image_in", image), self._project("text_in", text)
        return getattr(self, f"_{self.kind}")(image, text, train)

    def _project(self, name: str, tokens: Tokens) -> Tokens:
        if tokens.x.shape[-1] == self.body.width:
            return tokens
        return Tokens(nn.Dense(self.body.width, name=name)(tokens.x), tokens.mask)

    def _concat(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        pooled = [
            for_rows(len(text.x), Pool(name="image_pool")(image)),
            Pool(name="text_pool")(text),
        ]
        one = nn.Dense(self.body.width, name="out")(nn.gelu(jnp.concatenate(pooled, axis=-1)))
        return Fused(memory=(every(one[:, None]),))

    def _joint(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        both = concatenate(for_rows(len(text.x), image), text)
        return Fused(memory=(self.body(both, train=train),))

    def _cross_attention(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        reader = self.body(text, memory=[image], train=train)
        if self.both_ways:
            body = Transformer(**settings(self.body), name="image_body")
            image = body(for_rows(len(text.x), image), memory=[text], train=train)
        return Fused(memory=(image, reader))

    def _gated(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        return Fused(gated=(image,), prefix=text)

    def _resampler(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        queries = self.body(self._latents(image), memory=[image], train=train)
        return Fused(memory=(queries, text))

    def _bottleneck(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        """Each block of each side sees its own tokens and the shared few; these are averaged."""
        image = for_rows(len(text.x), image)
        shared = self._latents(image)
        few = self.latents
        for i in range(self.body.depth):
            sides = []
            for name, side in (("image", image), ("text", text)):
                block = Block(**settings(self.body.block), name=f"{name}_{i}")
                sides.append(block(concatenate(shared, side), train=train))
            image, text = (Tokens(side.x[:, few:], side.mask[:, few:]) for side in sides)
            shared = every((sides[0].x[:, :few] + sides[1].x[:, :few]) / 2)
        return Fused(memory=(shared, text))

    def _prefix(self, image: Tokens, text: Tokens, train: bool) -> Fused:
        return Fused(prefix=concatenate(for_rows(len(text.x), image), text))

    def _latents(self, like: Tokens) -> Tokens:
        shape: tuple[int, ...] = (1, self.latents, self.body.width)
        latents: Float[Array, "1 N D"] = self.param("latents", nn.initializers.normal(0.5), shape)
        return every(jnp.broadcast_to(latents, (len(like.x), *shape[1:])))
