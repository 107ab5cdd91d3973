"""GPT: a text decoder that reads nothing but its own words (GPT-2, Radford et al. 2019)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import flax.linen as nn

from mlm_jax.decoders import TextDecoder
from mlm_jax.fusion import Fused


class Gpt(nn.Module):
    """Logits over the next word at each of target[:, :-1], float32 (R, M - 1, V).

    "logits" for the texts of the batch itself, "also" for those of its `also`.
    """

    decoder: TextDecoder = field(default_factory=TextDecoder)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        groups = {"logits": batch, **({"also": batch["also"]} if "also" in batch else {})}
        return {
            name: self.decoder(rows["target"][:, :-1], Fused(), train=train)
            for name, rows in groups.items()
        }
