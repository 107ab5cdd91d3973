"""BLIP: one text transformer that reads pictures, as encoder and as decoder (arXiv:2201.12086).

Its captioner is `mlm_jax.models.captioner.Captioner` with BERT's blocks for a decoder.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fused
from mlm_jax.models.clip import unit


class BlipAnswerer(nn.Module):
    """The question reads the picture, and the decoder reads the question (figure 5)."""

    image: ImageEncoder = field(default_factory=ImageEncoder)
    text: TextEncoder = field(default_factory=TextEncoder)
    decoder: TextDecoder = field(default_factory=TextDecoder)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        """Logits over the next word at each of target[:, :-1], float32 (R, M - 1, V)."""
        fused = self.encode(batch, train=train)
        return {"logits": self.decoder(batch["target"][:, :-1], fused, train=train)}

    def encode(self, batch: Mapping[str, Any], *, train: bool = False) -> Fused:
        image = self.image(batch["image"], train=train)
        return Fused(
            memory=(self.text(batch["text"], batch["text_mask"], memory=(image,), train=train),)
        )


class BlipMatcher(nn.Module):
    """Does a caption tell the picture? By a look at it, or as two vectors (section 3.2).

    "match" (R, 2): logits of no and yes, float32. "image" (B, width) and "text" (R, width): unit
    vectors; the text has not seen the picture.
    """

    image: ImageEncoder = field(default_factory=ImageEncoder)
    text: TextEncoder = field(default_factory=TextEncoder)
    width: int = 256

    def setup(self) -> None:
        self.matches = nn.Dense(2)
        self.image_out, self.text_out = nn.Dense(self.width), nn.Dense(self.width)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        image = self.image(batch["image"], train=train)
        ids, mask = batch["target"], batch["target_mask"]
        seeing = self.text(ids, mask, memory=(image,), train=train)
        alone = self.text(ids, mask, train=train)
        return {
            "match": self.matches(seeing.x[:, 0]).astype(jnp.float32),
            "image": unit(self.image_out(image.x[:, 0])),
            "text": unit(self.text_out(alone.x[:, 0])),
        }
