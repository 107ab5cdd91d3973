"""FLOPs in closed form: matrix products only, 2 for each multiply-add, training 3 times forward.

Norms, softmax, activations, embeddings' lookups and the optimiser are not counted, nor is what is
computed again. Attention is counted in full; `halved` counts causal self-attention by half, as
half of its scores are masked. MFU = FLOPs of a step / seconds of a step / peak FLOP/s.
"""

import math
from typing import Any, NamedTuple

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Transformer
from mlm_jax.models.bert import Bert
from mlm_jax.models.blip import BlipAnswerer
from mlm_jax.models.captioner import Captioner
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.vit import Vit
from mlm_jax.planner import hardware

# dense bfloat16, FLOP/s, by what the name of a device contains (vendor's data sheets)
SXM = {"H200": "h200-nvlink-ib", "H100": "h100-nvlink-ib"}
PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H200 NVL": 835e12, "A100": 312e12,
    **{name: hardware.find(row).bf16 for name, row in SXM.items()},
}  # fmt: skip


class Flops(NamedTuple):
    """Of one forward pass."""

    full: float
    halved: float

    def plus(self, other: "Flops | float") -> "Flops":
        full, halved = other if isinstance(other, Flops) else (other, other)
        return Flops(self.full + full, self.halved + halved)


def peak(device: str) -> float | None:
    """FLOP/s of a device by its name; None where it is not known."""
    return next((flops for name, flops in PEAKS.items() if name in device), None)


def transformer(body: Transformer, n: int, memory: int = 0, *, causal: bool = False) -> Flops:
    """One row of `n` tokens that reads `memory` tokens in each block."""
    d, depth, block = body.width, body.depth, body.block
    kv = d // block.groups
    matrices = 3 if block.activation == "swiglu" else 2
    attention = 2 * n * d * (2 * d + 2 * kv)
    mlp = 2 * n * d * round(d * block.ratio) * matrices
    scores = 4 * n * n * d
    cross = 2 * n * d * 2 * d + 2 * memory * d * 2 * kv + 4 * n * memory * d if memory else 0
    full = depth * (attention + mlp + scores + cross)
    return Flops(full, full - depth * scores / 2 if causal else full)


def image(encoder: ImageEncoder) -> Flops:
    """One picture."""
    n, d = image_tokens(encoder), encoder.body.width
    again = 2.0 * n * d * d if encoder.place_again else 0.0
    return transformer(encoder.body, n).plus(stem(encoder) + again)


def stem(encoder: ImageEncoder) -> float:
    """One product a patch, or 3 x 3 convolutions that halve, then 1 x 1 (`layers.embed`)."""
    rows, columns = encoder.grid
    patch, d = encoder.patch, encoder.body.width
    if encoder.stem == "patch":
        return 2.0 * rows * columns * patch**2 * 3 * d
    halvings, channels, total = round(math.log2(patch)), 3, 0.0
    for i in range(halvings):
        wider, side = max(d >> (halvings - 1 - i), 16), patch >> (i + 1)
        total += 2.0 * rows * columns * side**2 * 9 * channels * wider
        channels = wider
    return total + 2.0 * rows * columns * channels * d


def image_tokens(encoder: ImageEncoder) -> int:
    rows, columns = encoder.grid
    return rows * columns + len(encoder.extra)


def text(encoder: TextEncoder, n: int, memory: int = 0) -> Flops:
    return transformer(encoder.body, n, memory, causal=encoder.causal)


def words(decoder: TextDecoder | TextEncoder, n: int, *, layer: bool) -> float:
    """From `n` vectors to logits; with a `layer` before, as BERT has it."""
    d = decoder.body.width
    return 2.0 * n * d * decoder.vocab + (2.0 * n * d * d if layer else 0.0)


def decoder(writer: TextDecoder, n: int, memory: int = 0) -> Flops:
    states = transformer(writer.body, n, memory, causal=True)
    return states.plus(words(writer, n, layer=writer.head == "bert"))


def fusion(fused: Fusion, pictured: int, n: int) -> Flops:
    """A text of `n` tokens that reads `pictured` tokens of a picture, by cross-attention."""
    if fused.kind != "cross_attention" or fused.both_ways:
        raise ValueError("only cross-attention, one way, is counted")
    return transformer(fused.body, n, pictured)


def forward(model: Any, *, read: int = 0, written: int = 0, predicted: int | None = None) -> Flops:
    """One example: a text of `read` tokens, `written` tokens that the decoder is given.

    `predicted`: at how many places BERT says words, at all of them by default.
    """
    if isinstance(model, Vit):
        return image(model.image).plus(2.0 * model.image.body.width * model.labels)
    if isinstance(model, Bert):
        d, places = model.text.body.width, read if predicted is None else predicted
        head = words(model.text, places, layer=True) if model.masked else 0.0
        return text(model.text, read).plus(head + (2.0 * d * d if model.pooler else 0.0))
    if isinstance(model, Clip) and model.image is not None:
        widths = model.image.body.width + model.text.body.width
        return image(model.image).plus(text(model.text, read)).plus(2.0 * widths * model.width)
    if isinstance(model, Gpt):
        return decoder(model.decoder, written)
    if isinstance(model, Captioner):
        return image(model.image).plus(decoder(model.decoder, written, image_tokens(model.image)))
    if isinstance(model, BlipAnswerer):
        asked = text(model.text, read, image_tokens(model.image))
        return image(model.image).plus(asked).plus(decoder(model.decoder, written, read))
    if isinstance(model, Multimodal) and model.image is not None:
        seen = image_tokens(model.image)
        fused = text(model.text, read).plus(fusion(model.fusion, seen, read))
        writes = decoder(model.decoder, written, seen + read)
        return image(model.image).plus(fused).plus(writes)
    raise ValueError(f"the FLOPs of a {type(model).__name__} are not counted")
