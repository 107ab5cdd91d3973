"""SigLIP, and SigLIP 2 of fixed resolution, as they are published: SiglipModel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.clip import Clip
from mlm_jax.pretrained.clip import BLOCK, describe_eyes, pictured, text_pairs
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.files import CONFIG, read_json
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes
from mlm_jax.pretrained.vocabulary import WHOLE, load_tokenizer, stated_names

SIZES = Sizes(activation=("hidden_act", "gelu_pytorch_tanh"), eps=("layer_norm_eps", 1e-6))
QKV = ("query", "key", "value")


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Clip:
    eyes, words = settings.part("vision_config"), settings.part("text_config")
    eyes.must(num_channels=3, vision_use_head=True)
    body, text = eyes.transformer(SIZES), words.transformer(SIZES)
    width = words.integer("projection_size", text.width)
    if width != body.width:
        words.wrong.append(
            f"text_config.projection_size is {width}: must be that of the picture, {body.width}"
        )
    vocab = words.integer("vocab_size", 32_000)
    return Clip(
        image=ImageEncoder(
            size=eyes.pixels("image_size", 224), patch=eyes.integer("patch_size", 16), body=body
        ),
        text=TextEncoder(
            vocab=vocab,
            length=words.integer("max_position_embeddings", 64),
            body=text,
        ),
        pool=map_of(body.block),
        width=width,
        kind="siglip",
        end="place",
        end_id=words.integer("pad_token_id", 1, low=0, high=vocab - 1),
    )


def map_of(block: Any) -> Pool:
    """The head that reads the picture, of the same kind as its blocks."""
    return Pool("map", block.heads, block.ratio, block.activation, block.eps)


def describe(model: Clip) -> dict[str, Any]:
    return {
        "vision_config": describe_eyes(pictured(model), SIZES, "siglip_vision_model")
        | {"vision_use_head": True},
        "text_config": {
            **SIZES.describe(model.text.body),
            "model_type": "siglip_text_model",
            "vocab_size": model.text.vocab,
            "max_position_embeddings": model.text.length,
            "projection_size": model.width,
            "pad_token_id": model.end_id,
        },
    }


def complete(model: Clip, folder: Path) -> Clip:
    """Where config.json leaves it to the class, texts are filled up as the tokenizer does it.

    SigLIP 2 has the class of SigLIP, and another token for it.
    """
    words = read_json(folder / CONFIG).get("text_config") or {}
    if words.get("pad_token_id") is not None or not (folder / WHOLE).is_file():
        return model
    pad = load_tokenizer(folder).token_to_id(stated_names(folder).get("pad", ""))
    return model if pad is None else replace(model, end_id=pad)


def pairs(model: Clip) -> list[Pair]:
    eyes = [
        Pair("stem/patches", "embeddings.patch_embedding"),
        Pair("positions", "embeddings.position_embedding"),
        *layers("body", "encoder.layers", pictured(model).body.depth, BLOCK),
        Pair("body/norm", "post_layernorm"),
    ]
    head = [
        Pair("query", "probe"),
        Pair(tuple(f"attention/{n}/kernel" for n in QKV), "attention.in_proj_weight"),
        Pair(tuple(f"attention/{n}/bias" for n in QKV), "attention.in_proj_bias"),
        Pair("attention/out", "attention.out_proj"),
        Pair("norm", "layernorm"),
        Pair("mlp/up", "mlp.fc1"),
        Pair("mlp/down", "mlp.fc2"),
    ]
    return [
        *at("image", "vision_model", eyes),
        *at("pool", "vision_model.head", head),
        *at("text", "text_model", text_pairs(model.text)),
        Pair("text_out", "text_model.head"),
        Pair("logit_scale", "logit_scale", flat=1),
        Pair("logit_bias", "logit_bias", flat=1),
    ]


SIGLIP = Family(
    "siglip",
    Clip,
    {"SiglipModel": ""},
    build,
    lambda model: "SiglipModel",
    describe,
    pairs,
    Spelling(),
    "Siglip",
    complete=complete,
)
