"""TimeSformer as it is published: TimesformerForVideoClassification, of divided attention."""

from typing import Any

from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.video import Video
from mlm_jax.pretrained import vit
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes
from mlm_jax.pretrained.videomae import describe_clip

SIZES = Sizes(eps=("layer_norm_eps", 1e-6))
QKV = ("query", "key", "value")
BLOCK = [
    *(pair for pair in vit.BLOCK if "attention.attention" not in pair.theirs),
    Pair(tuple(f"attention/{n}" for n in QKV), "attention.attention.qkv"),
    Pair("time_norm", "temporal_layernorm"),
    Pair(tuple(f"time/{n}" for n in QKV), "temporal_attention.attention.qkv"),
    Pair("time/out", "temporal_attention.output.dense"),
    Pair("time_out", "temporal_dense"),
]


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Video:
    settings.must(num_channels=3, attention_type="divided_space_time")
    edge = settings.integer("image_size", 224)  # the reference takes squares alone
    video = VideoEncoder(
        frames=settings.integer("num_frames", 8),
        size=(edge, edge),
        patch=settings.integer("patch_size", 16),
        kind="divided",
        class_token=True,
        body=vit.body(settings, SIZES),
    )
    return Video(video, Pool("first"), labels=settings.labels())


def describe(model: Video) -> dict[str, Any]:
    video = model.video
    return {
        **describe_clip(video, SIZES),
        "patch_size": video.patch,
        "qkv_bias": video.body.block.qkv_bias,
        "attention_type": "divided_space_time",
        "num_labels": model.labels,
    }


def pairs(model: Video) -> list[Pair]:
    tower = [
        Pair("class_token", "embeddings.cls_token"),
        Pair("positions/table", "embeddings.position_embeddings", flat=3),
        Pair("times", "embeddings.time_embeddings", flat=3),
        Pair("stem/tubelets", "embeddings.patch_embeddings.projection", window=2),
        *layers("", "encoder.layer", model.video.body.depth, BLOCK),
        Pair("norm", "layernorm"),
    ]
    return [*at("video", "timesformer", tower), Pair("head", "classifier")]


TIMESFORMER = Family(
    "timesformer",
    Video,
    {"TimesformerForVideoClassification": ""},
    build,
    lambda model: "TimesformerForVideoClassification",
    describe,
    pairs,
    Spelling(prefixes=("timesformer.",)),
    "Timesformer",
)
