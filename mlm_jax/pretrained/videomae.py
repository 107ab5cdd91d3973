"""VideoMAE as it is published: VideoMAEForVideoClassification.

A published attention has no bias of the key, and positions are computed. Where the mean of all
tokens is read the last norm stands behind it, with an eps that config.json does not say.
"""

from dataclasses import replace
from typing import Any

from mlm_jax.encoders import VideoEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.video import Video
from mlm_jax.pretrained import vit
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes

SIZES = Sizes()
MEAN_EPS = 1e-5
BLOCK = [
    *(pair for pair in vit.BLOCK if pair.ours not in ("attention/query", "attention/value")),
    Pair("attention/query/kernel", "attention.attention.query.weight"),
    Pair("attention/value/kernel", "attention.attention.value.weight"),
]
BIASES = [
    Pair("attention/query/bias", "attention.attention.q_bias"),
    Pair("attention/value/bias", "attention.attention.v_bias"),
]
MOST = 1 << 25
"""Numbers in the table of positions, of which the file says nothing; published models have 2^21."""
IN_MEMORY = (
    (r"attention\.query\.bias$", "attention.q_bias"),
    (r"attention\.value\.bias$", "attention.v_bias"),
)


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Video:
    settings.must(num_channels=3)
    mean = settings.flag("use_mean_pooling", True)
    bias = settings.flag("qkv_bias", settings.flag("qv_bias", True))  # the name of 4, and that of 5
    video = VideoEncoder(
        frames=settings.integer("num_frames", 16),
        size=settings.pixels("image_size", 224),
        patch=settings.square("patch_size", 16),
        tube=settings.integer("tubelet_size", 2),
        kind="joint",
        positions="sines",
        body=replace(settings.transformer(SIZES, qkv_bias=bias), last_norm=not mean),
    )
    height, width = video.size
    tubelets = video.frames * height * width // (video.tube * video.patch**2)
    if tubelets * video.body.width > MOST:
        settings.wrong.append(
            f"num_frames, image_size, patch_size and tubelet_size make {tubelets:,} tubelets: times"
            f" hidden_size, {video.body.width}, must be at most {MOST:,}"
        )
    pool = Pool("mean" if mean else "first")
    return Video(video, pool, MEAN_EPS if mean else 0.0, settings.labels())


def describe(model: Video) -> dict[str, Any]:
    video = model.video
    return {
        **describe_clip(video, SIZES),
        "patch_size": video.patch,
        "tubelet_size": video.tube,
        "qkv_bias": video.body.block.qkv_bias,
        "use_mean_pooling": not video.body.last_norm,
        "num_labels": model.labels,
    }


def describe_clip(video: VideoEncoder, sizes: Sizes) -> dict[str, Any]:
    """The fields that all families of video have."""
    height, width = video.size
    return {
        **sizes.describe(video.body),
        "image_size": height if height == width else [height, width],
        "num_channels": 3,
        "num_frames": video.frames,
    }


def pairs(model: Video) -> list[Pair]:
    body = model.video.body
    block = BLOCK + BIASES if body.block.qkv_bias else BLOCK
    norm = [Pair("body/norm", "layernorm")] if body.last_norm else []
    tower = [
        Pair("stem/tubelets", "embeddings.patch_embeddings.projection"),
        *layers("body", "encoder.layer", body.depth, block),
        *norm,
    ]
    found = at("video", "videomae", tower)
    if model.norm_eps:
        found.append(Pair("norm", "fc_norm"))
    return [*found, Pair("head", "classifier")]


VIDEOMAE = Family(
    "videomae",
    Video,
    {"VideoMAEForVideoClassification": ""},
    build,
    lambda model: "VideoMAEForVideoClassification",
    describe,
    pairs,
    Spelling(IN_MEMORY, ("videomae.",)),
    "VideoMAE",
    absent=r"/key/bias$",
)
