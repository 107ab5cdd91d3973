"""ViViT as it is published: VivitForVideoClassification, with joint attention over all tubelets."""

from typing import Any

from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.video import Video
from mlm_jax.pretrained import vit
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at
from mlm_jax.pretrained.settings import Settings, Sizes
from mlm_jax.pretrained.videomae import describe_clip

SIZES = Sizes(activation=("hidden_act", "gelu_fast"), eps=("layer_norm_eps", 1e-6))
TUBELET = [2, 16, 16]


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Video:
    settings.must(num_channels=3)
    tube, patch = tubelet(settings)
    video = VideoEncoder(
        frames=settings.integer("num_frames", 32),
        size=settings.pixels("image_size", 224),
        patch=patch,
        tube=tube,
        kind="joint",
        positions="table",
        class_token=True,
        body=vit.body(settings, SIZES),
    )
    return Video(video, Pool("first"), labels=settings.labels())


def tubelet(settings: Settings) -> tuple[int, int]:
    """Frames, and pixels on a side."""
    value = settings.get("tubelet_size", TUBELET)
    whole = isinstance(value, list) and len(value) == 3 and all(type(v) is int for v in value)
    if not whole or min(value) < 1 or value[1] != value[2]:
        settings.refuse("tubelet_size", "must be three whole numbers over 0, the last two equal")
        return 2, 16
    return value[0], value[1]


def describe(model: Video) -> dict[str, Any]:
    video = model.video
    return {
        **describe_clip(video, SIZES),
        "tubelet_size": [video.tube, video.patch, video.patch],
        "qkv_bias": video.body.block.qkv_bias,
        "num_labels": model.labels,
    }


def pairs(model: Video) -> list[Pair]:
    tower = vit.encoder_pairs(model.video, stem="stem/tubelets")
    return [*at("video", "vivit", tower), Pair("head", "classifier")]


VIVIT = Family(
    "vivit",
    Video,
    {"VivitForVideoClassification": ""},
    build,
    lambda model: "VivitForVideoClassification",
    describe,
    pairs,
    Spelling(vit.OLD, ("vivit.",), ignored=(r"(^|\.)pooler\.dense\.",)),
    "Vivit",
)
