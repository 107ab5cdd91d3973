"""The multimodal model: image encoder + text encoder -> fusion -> text decoder."""

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fused, Fusion
from mlm_jax.layers import Tokens, Transformer, transformer
from mlm_jax.layers.tokens import for_rows


class Multimodal(nn.Module):
    """Captions and answers from one set of parameters: the text says what is wanted.

    A picture is encoded once for all of its texts; rows of text are then pictures times texts
    (see `mlm_jax.data` for them and for `also`).
    """

    image: ImageEncoder = field(default_factory=ImageEncoder)
    text: TextEncoder = field(default_factory=TextEncoder)
    fusion: Fusion = field(default_factory=Fusion)
    decoder: TextDecoder = field(default_factory=TextDecoder)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Array]:
        """Logits over the next word at each of target[:, :-1], float32 (R, M - 1, V).

        "logits" for the texts of the batch itself, "also" for those of its `also`.
        """
        image = self.image(batch["image"], train=train)

        def logits(rows: Mapping[str, Any]) -> Float[Array, "R M V"]:
            fused = self._fuse(image, rows, train)
            return self.decode(rows["target"][:, :-1], fused, train=train)

        outputs = {"logits": logits(batch)}
        return outputs | {"also": logits(batch["also"])} if "also" in batch else outputs

    def encode(self, batch: Mapping[str, Any], *, train: bool = False) -> Fused:
        """What the decoder reads for each row of text; all parts have these rows."""
        fused = self._fuse(self.image(batch["image"], train=train), batch, train)
        return for_rows(len(batch["text"]), fused)

    def _fuse(self, image: Tokens, rows: Mapping[str, Any], train: bool) -> Fused:
        text = self.text(rows["text"], rows["text_mask"], train=train)
        return self.fusion(image, text, train=train)

    def decode(
        self,
        ids: Int[Array, "B N"],
        fused: Fused,
        mask: Bool[Array, "B N"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B N V"]:
        return self.decoder(ids, fused, mask, train=train)


def multimodal(
    size: str,
    *,
    patch: int,
    pixels: int,
    vocab: int,
    text_length: int = 32,
    target_length: int = 32,
    stem: Literal["patch", "conv"] = "patch",
    text_depth: int | None = None,
    fusion_depth: int | None = None,
    decoder_depth: int | None = None,
    image_rotary: float = 0.0,
    decoder_rotary: float = 0.0,
    **block: Any,
) -> Multimodal:
    """A row of SIZES for all four parts: ViT, BERT (post-norm), cross-attention, GPT.

    Depths are those of the row where none is given. The bases of rotary positions are for ViT and
    GPT, 0 for none: a few times the places they span. `block` are other fields of Block, for all.
    """

    def body(depth: int | None = None, **own: Any) -> Transformer:
        whole = transformer(size, **block, **own)
        return whole if depth is None else replace(whole, depth=depth)

    return Multimodal(
        image=ImageEncoder(
            (pixels, pixels), patch, stem, place_again=True, body=body(rotary=image_rotary)
        ),
        text=TextEncoder(vocab, text_length, body=body(text_depth, order="post", eps=1e-12)),
        fusion=Fusion(body=body(fusion_depth)),
        decoder=TextDecoder(vocab, target_length, body=body(decoder_depth, rotary=decoder_rotary)),
    )
