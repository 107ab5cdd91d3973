"""AST as it is published: ASTForAudioClassification."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlm_jax.encoders import AudioEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.audio import Audio
from mlm_jax.pretrained import vit
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at
from mlm_jax.pretrained.settings import Settings, Sizes
from mlm_jax.pretrained.sounds import ast_mel, heard, put_sounds

SIZES = Sizes()
PREFIX = "audio_spectrogram_transformer"


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Audio:
    mel, frames = (
        ast_mel(settings.integer("num_mel_bins", 128)),
        settings.integer("max_length", 1024),
    )
    audio = AudioEncoder(
        samples=mel.window + (frames - 1) * mel.hop,
        mel=mel,
        fill=frames,
        stem="patch",
        patch=settings.integer("patch_size", 16),
        stride=(settings.integer("frequency_stride", 10), settings.integer("time_stride", 10)),
        class_token=True,
        distillation_token=True,
        body=vit.body(settings, SIZES),
    )
    return Audio(audio, Pool("mean"), audio.body.block.eps, settings.labels())


def describe(model: Audio) -> dict[str, Any]:
    audio = model.audio
    return {
        **SIZES.describe(audio.body),
        "patch_size": audio.patch,
        "frequency_stride": audio.stride[0],
        "time_stride": audio.stride[1],
        "max_length": audio.frames,
        "num_mel_bins": audio.mel.mels,
        "qkv_bias": audio.body.block.qkv_bias,
        "num_labels": model.labels,
    }


def pairs(model: Audio) -> list[Pair]:
    head = [Pair("norm", "classifier.layernorm"), Pair("head", "classifier.dense")]
    return [*at("audio", PREFIX, vit.encoder_pairs(model.audio, stem="stem")), *head]


def complete(model: Audio, folder: Path) -> Audio:
    return replace(model, audio=heard(model.audio, folder))


AUDIO_SPECTROGRAM = Family(
    "audio-spectrogram-transformer",
    Audio,
    {"ASTForAudioClassification": ""},
    build,
    lambda model: "ASTForAudioClassification",
    describe,
    pairs,
    Spelling(vit.OLD, (f"{PREFIX}.",)),
    complete=complete,
    put=lambda model, folder: put_sounds(model.audio, folder),
)
