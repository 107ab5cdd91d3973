"""Whisper: an audio encoder, and a decoder that writes what is said (arXiv:2212.04356)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.fusion import Fused
from mlm_jax.layers.words import Unsaid


class Scribe(TextDecoder):
    """A text decoder that, as it writes, has words that it `never` writes, or `not_first`.

    Those of brackets and music, and a space or the end right after the prompt (section 4.5). What
    is given to it to learn from may have them.
    """

    never: tuple[int, ...] = ()
    not_first: tuple[int, ...] = ()

    def __call__(
        self,
        ids: Int[Array, "B N"],
        fused: Fused,
        mask: Bool[Array, "B N"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B N V"] | Unsaid:
        writes = self.is_mutable_collection("cache") and not self.is_initializing()
        begins = writes and not self.has_variable("cache", "place")
        logits = super().__call__(ids, fused, mask, train=train)
        left_out = (self.never if writes else ()) + (self.not_first if begins else ())
        if not left_out or isinstance(logits, Unsaid):
            return logits
        least = jnp.finfo(logits.dtype).min / 2  # no infinity: guidance takes differences
        return logits.at[..., jnp.array(left_out)].set(least)


class Whisper(nn.Module):
    """Audio encoder -> text decoder, by cross-attention in every block (section 2.2)."""

    audio: AudioEncoder = field(default_factory=lambda: AudioEncoder(mel=LogMel("whisper")))
    decoder: Scribe = field(default_factory=Scribe)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        """Logits over the next word at each of target[:, :-1], float32 (R, M - 1, V)."""
        fused = self.encode(batch, train=train)
        return {"logits": self.decoder(batch["target"][:, :-1], fused, train=train)}

    def encode(self, batch: Mapping[str, Any], *, train: bool = False) -> Fused:
        heard = self.audio(batch["audio"], batch.get("audio_length"), train=train)
        return Fused(memory=(heard,))
