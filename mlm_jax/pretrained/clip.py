"""CLIP as it is published: CLIPModel."""

from typing import Any

from mlm_jax.config import UserError
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.clip import Clip
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes

EYES = Sizes(activation=("hidden_act", "quick_gelu"), eps=("layer_norm_eps", 1e-5))
TEXT = Sizes(
    width=("hidden_size", 512),
    heads=("num_attention_heads", 8),
    hidden=("intermediate_size", 2048),
    activation=("hidden_act", "quick_gelu"),
    eps=("layer_norm_eps", 1e-5),
)
BLOCK = [
    Pair("attention_norm", "layer_norm1"),
    Pair("attention/query", "self_attn.q_proj"),
    Pair("attention/key", "self_attn.k_proj"),
    Pair("attention/value", "self_attn.v_proj"),
    Pair("attention/out", "self_attn.out_proj"),
    Pair("mlp_norm", "layer_norm2"),
    Pair("mlp/up", "mlp.fc1"),
    Pair("mlp/down", "mlp.fc2"),
]
LARGEST = 2  # files from before the id of the end was right: their text is read at its largest id


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Clip:
    # the reference prefers the old names, and has class defaults for what they leave out
    eyes, words = (settings.part(name, f"{name}_dict") for name in ("vision_config", "text_config"))
    eyes.must(num_channels=3)
    end = words.get("eos_token_id", 49_407)
    if type(end) is not int or not 0 <= end < 1 << 20:
        words.refuse("eos_token_id", "must be one id")
        end = LARGEST
    return Clip(
        image=ImageEncoder(
            size=eyes.pixels("image_size", 224),
            patch=eyes.integer("patch_size", 32),
            patch_bias=False,
            class_token=True,
            pre_norm=True,
            body=eyes.transformer(EYES),
        ),
        text=TextEncoder(
            vocab=words.integer("vocab_size", 49_408),
            length=words.integer("max_position_embeddings", 77),
            causal=True,
            body=words.transformer(TEXT),
        ),
        pool=Pool("first"),
        width=settings.integer("projection_dim", 512),
        end="largest" if end == LARGEST else "id",
        end_id=end,
    )


def describe(model: Clip) -> dict[str, Any]:
    return {
        "projection_dim": model.width,
        "vision_config": describe_eyes(pictured(model), EYES, "clip_vision_model")
        | {"projection_dim": model.width},
        "text_config": {
            **TEXT.describe(model.text.body),
            "model_type": "clip_text_model",
            "vocab_size": model.text.vocab,
            "max_position_embeddings": model.text.length,
            "projection_dim": model.width,
            "eos_token_id": LARGEST if model.end == "largest" else model.end_id,
        },
    }


def pictured(model: Clip) -> ImageEncoder:
    """Raises: UserError for one that sees clips."""
    if model.image is None:
        raise UserError("a CLIP of clips: no published class is one")
    return model.image


def describe_eyes(image: ImageEncoder, sizes: Sizes, kind: str) -> dict[str, Any]:
    height, width = image.size
    return {
        **sizes.describe(image.body),
        "model_type": kind,
        "image_size": height if height == width else [height, width],
        "patch_size": image.patch,
        "num_channels": 3,
    }


def pairs(model: Clip) -> list[Pair]:
    eyes = [
        Pair("class_token", "embeddings.class_embedding", flat=1),
        Pair("stem/patches", "embeddings.patch_embedding"),
        Pair("positions", "embeddings.position_embedding"),
        Pair("pre_norm", "pre_layrnorm"),
        *layers("body", "encoder.layers", pictured(model).body.depth, BLOCK),
        Pair("body/norm", "post_layernorm"),
    ]
    return [
        *at("image", "vision_model", eyes),
        *at("text", "text_model", text_pairs(model.text)),
        Pair("image_out", "visual_projection"),
        Pair("text_out", "text_projection"),
        Pair("logit_scale", "logit_scale"),
    ]


def text_pairs(text: TextEncoder) -> list[Pair]:
    return [
        Pair("words/table", "embeddings.token_embedding"),
        Pair("words/positions", "embeddings.position_embedding"),
        *layers("body", "encoder.layers", text.body.depth, BLOCK),
        Pair("body/norm", "final_layer_norm"),
    ]


CLIP = Family(
    "clip",
    Clip,
    {"CLIPModel": ""},
    build,
    lambda model: "CLIPModel",
    describe,
    pairs,
    Spelling(),
    "CLIP",
)
