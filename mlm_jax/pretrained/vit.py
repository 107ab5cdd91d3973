"""ViT and DeiT as they are published: classification, DeiT with its teacher's head as well.

ViTModel and DeiTModel have no head, and a pooler that nothing here reads.
"""

from typing import Any

from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Pool, Transformer
from mlm_jax.models.vit import Vit
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.pixels import Family as PixelFamily
from mlm_jax.pretrained.settings import Settings, Sizes

SIZES = Sizes()
BLOCK = [
    Pair("attention_norm", "layernorm_before"),
    Pair("attention/query", "attention.attention.query"),
    Pair("attention/key", "attention.attention.key"),
    Pair("attention/value", "attention.attention.value"),
    Pair("attention/out", "attention.output.dense"),
    Pair("mlp_norm", "layernorm_after"),
    Pair("mlp/up", "intermediate.dense"),
    Pair("mlp/down", "output.dense"),
]
OLD = (
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"(layer\.\d+)\.attention\.q_proj\.", r"\1.attention.attention.query."),
    (r"(layer\.\d+)\.attention\.k_proj\.", r"\1.attention.attention.key."),
    (r"(layer\.\d+)\.attention\.v_proj\.", r"\1.attention.attention.value."),
    (r"(layer\.\d+)\.attention\.o_proj\.", r"\1.attention.output.dense."),
    (r"(layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)
TAUGHT = "DeiTForImageClassificationWithTeacher"


def encoder(settings: Settings, distilled: bool = False) -> ImageEncoder:
    settings.must(num_channels=3)
    return ImageEncoder(
        size=settings.pixels("image_size", 224),
        patch=settings.integer("patch_size", 16),
        class_token=True,
        distillation_token=distilled,
        body=body(settings),
    )


def body(settings: Settings, sizes: Sizes = SIZES) -> Transformer:
    """Of any encoder with the fields of ViT's."""
    found = settings.transformer(sizes, qkv_bias=settings.flag("qkv_bias", True))
    settings.must(head_dim=found.width // found.block.heads)
    return found


def describe_encoder(image: ImageEncoder) -> dict[str, Any]:
    height, width = image.size
    return {
        **SIZES.describe(image.body),
        "image_size": height if height == width else [height, width],
        "patch_size": image.patch,
        "num_channels": 3,
        "qkv_bias": image.body.block.qkv_bias,
    }


def encoder_pairs(encoder: Any, stem: str = "stem/patches") -> list[Pair]:
    """Of any encoder that is published like ViT's; `stem` is where it makes tokens."""
    first = [Pair("class_token", "embeddings.cls_token")]
    if getattr(encoder, "distillation_token", False):
        first.append(Pair("distillation_token", "embeddings.distillation_token"))
    return [
        *first,
        Pair("positions/table", "embeddings.position_embeddings", flat=3),
        Pair(stem, "embeddings.patch_embeddings.projection"),
        *layers("body", "encoder.layer", encoder.body.depth, BLOCK),
        Pair("body/norm", "layernorm"),
    ]


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Vit:
    distilled = architecture.startswith("DeiT")
    return Vit(
        encoder(settings, distilled),
        Pool("first"),
        0 if architecture.endswith("Model") else settings.labels(),
        taught=architecture == TAUGHT,
    )


def describe(model: Vit) -> dict[str, Any]:
    labels = {"num_labels": model.labels} if model.labels else {}
    return {**describe_encoder(model.image), **labels}


def architecture(model: Vit) -> str:
    if model.taught:
        return TAUGHT
    kind = "DeiT" if model.image.distillation_token else "ViT"
    return f"{kind}ForImageClassification" if model.labels else f"{kind}Model"


def pairs(model: Vit) -> list[Pair]:
    prefix = "deit" if model.image.distillation_token else "vit"
    found = at("image", prefix if model.labels else "", encoder_pairs(model.image))
    if not model.labels:
        return found
    if model.taught:
        heads = [Pair("head", "cls_classifier"), Pair("taught_head", "distillation_classifier")]
        return [*found, *heads]
    return [*found, Pair("head", "classifier")]


def idle(model: Vit) -> dict[str, tuple[int, ...]]:
    return {} if model.labels else pooler(model.image)


def pooler(image: ImageEncoder, prefix: str = "pooler.dense") -> dict[str, tuple[int, ...]]:
    width = image.body.width
    return {f"{prefix}.weight": (width, width), f"{prefix}.bias": (width,)}


def family(kind: str, pixels: PixelFamily, architectures: dict[str, str]) -> Family:
    spelling = Spelling(OLD, (f"{kind}.",), ignored=(r"(^|\.)pooler\.dense\.", r"mask_token$"))
    return Family(
        kind, Vit, architectures, build, architecture, describe, pairs, spelling, pixels, idle
    )


VIT = family("vit", "ViT", {"ViTForImageClassification": "^classifier", "ViTModel": ""})
DEIT = family(
    "deit",
    "DeiT",
    {
        TAUGHT: "^distillation_classifier",
        "DeiTForImageClassification": "^classifier",
        "DeiTModel": "",
    },
)
