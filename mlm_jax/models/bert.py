"""BERT: a text encoder that learns from words that were hidden (arXiv:1810.04805)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import WordHead

SHARE, AS_MASK, AS_RANDOM = 0.15, 0.8, 0.1  # section 3.1: chosen; of these hidden, replaced


class Bert(nn.Module):
    """Text encoder -> the hidden words, and with `pooler` one vector, of which `labels` classes.

    `mask_id` stands for a hidden word; words of `special` ids are never hidden.
    """

    text: TextEncoder = field(default_factory=TextEncoder)
    masked: bool = True
    pooler: bool = False
    labels: int = 0
    mask_id: int = 3
    special: tuple[int, ...] = (0, 1, 2)

    def setup(self) -> None:
        block = self.text.body.block
        if self.masked:
            self.head = WordHead(self.text.vocab, block.activation, block.norm, block.eps)
        if self.pooler:
            self.pool = nn.Dense(self.text.body.width)
        if self.labels:
            if not self.pooler:
                raise ValueError(f"labels {self.labels}: they are read from the pooler")
            self.classes = nn.Dense(self.labels)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """Of the captions of a batch: "logits" (R, M, V), and "hidden", where a word was.

        Without `masked` none is hidden, and "logits" (R, labels) are those of the classes.
        """
        ids, mask = batch["target"], batch["target_mask"]
        if not self.masked:
            outputs = self.read(ids, mask, train=train)
            return {**outputs, "logits": outputs["classes"]} if self.labels else outputs
        key = self.make_rng("mask") if train else jax.random.key(0)
        shown, hidden = self.hide(key, ids, mask)
        return {**self.read(shown, mask, train=train), "hidden": hidden}

    def read(
        self,
        ids: Int[Array, "B N"],
        mask: Bool[Array, "B N"],
        types: Int[Array, "B N"] | None = None,
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """ "tokens" (B, N, D); "logits" (B, N, V), "pooled" (B, D), "classes" (B, labels)."""
        tokens = self.text(ids, mask, types=types, train=train)
        outputs = {"tokens": tokens.x}
        if self.masked:
            outputs["logits"] = self.head(tokens.x, self.text.attend).astype(jnp.float32)
        if self.pooler:
            outputs["pooled"] = nn.tanh(self.pool(tokens.x[:, 0]))
        if self.labels:
            outputs["classes"] = self.classes(outputs["pooled"]).astype(jnp.float32)
        return outputs

    def hide(
        self, key: Array, ids: Int[Array, "B N"], mask: Bool[Array, "B N"]
    ) -> tuple[Int[Array, "B N"], Bool[Array, "B N"]]:
        """The words as they are shown, and which of them are to be found (section 3.1)."""
        which, how, other = jax.random.split(key, 3)
        words = mask & ~jnp.isin(ids, jnp.array(self.special))
        hidden = words & (jax.random.uniform(which, ids.shape) < SHARE)
        draw = jax.random.uniform(how, ids.shape)
        random = jax.random.randint(other, ids.shape, 0, self.text.vocab, ids.dtype)
        instead = jnp.where(draw < AS_MASK + AS_RANDOM, random, ids)
        instead = jnp.where(draw < AS_MASK, self.mask_id, instead)
        return jnp.where(hidden, instead, ids), hidden
