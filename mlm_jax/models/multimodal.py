"""The multimodal model: encoders of what is seen, heard and asked -> fusion -> text decoder."""

from collections.abc import Mapping
from dataclasses import field, replace
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import AudioEncoder, ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.fusion import Fused, Fusion
from mlm_jax.layers import Tokens, Transformer, concatenate, transformer
from mlm_jax.layers.tokens import for_rows
from mlm_jax.models.matching import Matching, choose_others, own_texts


class Multimodal(nn.Module):
    """Captions and answers from one set of parameters: the text says what is wanted.

    What it is about is a picture, a clip, a sound, or several of them, one after the other: the
    encoders that are there say which; they share a width. Wherever a picture is spoken of below
    and in `Fusion`, it stands for all of these. A picture is encoded once for all of its texts;
    rows of text are then pictures times texts (see `mlm_jax.data` for them and for `also`).

    Where `matching` is on, the targets of the batch itself are held against its pictures as well,
    right ones and wrong ones (arXiv:2201.12086, section 3.2): the text is then asked about as a
    question is, and the state of the decoder at its first word says yes or no. So every kind of
    fusion can, and what the captions are written by learns from it.
    """

    image: ImageEncoder | None = field(default_factory=ImageEncoder)
    text: TextEncoder = field(default_factory=TextEncoder)
    fusion: Fusion = field(default_factory=Fusion)
    decoder: TextDecoder = field(default_factory=TextDecoder)
    matching: Matching = field(default_factory=Matching)
    video: VideoEncoder | None = None
    audio: AudioEncoder | None = None

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        """Logits over the next word at each of target[:, :-1], float32 (R, M - 1, V).

        "logits" for the texts of the batch itself, "also" for those of its `also`. With matching
        also what `_matched` gives.
        """
        image = self.look(batch, train=train)

        def logits(rows: Mapping[str, Any]) -> Any:
            fused = self._fuse(image, rows, train)
            return self.decoder(rows["target"][:, :-1], fused, train=train)

        outputs = {"logits": logits(batch)}
        if "also" in batch:
            outputs["also"] = logits(batch["also"])
        if self.matching.negatives != "off":
            outputs |= self._matched(image, batch, train)
        return outputs

    def encode(self, batch: Mapping[str, Any], *, train: bool = False) -> Fused:
        """What the decoder reads for each row of text; all parts have these rows."""
        fused = self._fuse(self.look(batch, train=train), batch, train)
        return for_rows(len(batch["text"]), fused)

    def look(self, batch: Mapping[str, Any], *, train: bool = False) -> Tokens:
        """What is seen and heard. Raises: ValueError where nothing is, or widths differ."""
        seen = []
        if self.image is not None:
            seen.append(self.image(batch["image"], train=train))
        if self.video is not None:
            seen.append(self.video(batch["video"], train=train))
        if self.audio is not None:
            seen.append(self.audio(batch["audio"], batch.get("audio_length"), train=train))
        widths = {tokens.x.shape[-1] for tokens in seen}
        if len(widths) != 1:
            raise ValueError(f"widths of what is seen and heard {sorted(widths)}: must be one")
        return concatenate(*seen)

    def match(self, batch: Mapping[str, Any]) -> Float[Array, "R"]:
        """The probability that each target of the batch tells its picture. Raises: ValueError."""
        if self.matching.negatives == "off":
            raise ValueError("the model has learnt no matching: --model.matching.negatives hard")
        image = for_rows(len(batch["target"]), self.look(batch))
        text = self.text(batch["target"], batch["target_mask"])
        return nn.sigmoid(self._match(image, text, batch["target"][:, :1], False))

    def _matched(self, image: Tokens, rows: Mapping[str, Any], train: bool) -> dict[str, Array]:
        """ "match" (3R): logits of R own pairs, R wrong texts and R wrong pictures; "match_real"
        (3R): False where the batch has no wrong one. "image", "text", "scale" and "bias" are those
        of `Clip`.
        """
        ids, mask = rows["target"], rows["target_mask"]
        text = self.text(ids, mask, train=train)
        outputs = self.matching.vectors(image, text)
        own = own_texts(ids, mask, len(image.x))
        alike = outputs["scale"] * outputs["image"] @ outputs["text"].T
        if self.matching.negatives == "random":
            alike = jnp.zeros_like(alike)
        key = self.make_rng("mask") if train else jax.random.key(0)
        others = choose_others(key, alike, own)

        row = jnp.arange(len(ids))
        picture = row // (len(ids) // len(image.x))
        pictures = jnp.concatenate([picture, picture, others.image])
        texts = jnp.concatenate([row, others.text, row])
        image, text = (
            jax.tree.map(partial(jnp.take, indices=at, axis=0), tokens)
            for tokens, at in ((image, pictures), (text, texts))
        )
        first = jnp.take(ids[:, :1], texts, axis=0)
        real = jnp.concatenate([jnp.ones_like(others.has_text), others.has_text, others.has_image])
        return outputs | {"match": self._match(image, text, first, train), "match_real": real}

    def _match(
        self, image: Tokens, text: Tokens, first: Int[Array, "R 1"], train: bool
    ) -> Float[Array, "R"]:
        """Logits of yes, for as many pictures as texts; `first` is the first word of any target."""
        fused = self.fusion(image, text, train=train)
        return self.matching.logit(self.decoder.states(first, fused, train=train)[:, 0])

    def _fuse(self, image: Tokens, rows: Mapping[str, Any], train: bool) -> Fused:
        text = self.text(rows["text"], rows["text_mask"], train=train)
        return self.fusion(image, text, train=train)


def multimodal(
    size: str,
    *,
    patch: int,
    pixels: int | tuple[int, int],
    vocab: int,
    text_length: int = 32,
    text_types: int = 0,
    target_length: int = 32,
    stem: Literal["patch", "conv"] = "patch",
    image_depth: int | None = None,
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
            (pixels, pixels) if isinstance(pixels, int) else pixels,
            patch,
            stem,
            place_again=True,
            body=body(image_depth, rotary=image_rotary),
        ),
        text=TextEncoder(
            vocab, text_length, text_types, body=body(text_depth, order="post", eps=1e-12)
        ),
        fusion=Fusion(body=body(fusion_depth)),
        decoder=TextDecoder(vocab, target_length, body=body(decoder_depth, rotary=decoder_rotary)),
    )
