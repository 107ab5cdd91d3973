"""A decoder that reads a picture: ViT-GPT2, and BLIP's captioner."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder
from mlm_jax.fusion import Fused
from mlm_jax.layers import Tokens


class Captioner(nn.Module):
    """Image encoder -> text decoder, by cross-attention in every block (arXiv:2201.12086, 3.1).

    `bridge` projects the picture to the width of the decoder first, where they differ.
    """

    image: ImageEncoder = field(default_factory=ImageEncoder)
    decoder: TextDecoder = field(default_factory=TextDecoder)
    bridge: bool = False

    def setup(self) -> None:
        if self.bridge:
            self.across = nn.Dense(self.decoder.body.width)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        """Logits over the next word at each of target[:, :-1], float32 (R, M - 1, V)."""
        fused = self.encode(batch, train=train)
        return {"logits": self.decoder(batch["target"][:, :-1], fused, train=train)}

    def encode(self, batch: Mapping[str, Any], *, train: bool = False) -> Fused:
        image = self.image(batch["image"], train=train)
        if self.bridge:
            image = Tokens(self.across(image.x), image.mask)
        return Fused(memory=(image,))
