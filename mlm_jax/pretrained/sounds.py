"""Sounds as published feature extractors prepare them: what preprocessor_config.json says.

What it says goes into the fields of the audio encoder, which makes the spectrogram itself. Defaults
are those of the published classes (`feature_extraction_*.py` of transformers 5).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlm_jax.config import UserError
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.pretrained.files import listed, read_json
from mlm_jax.pretrained.pixels import PREPROCESSOR, PROCESSOR
from mlm_jax.pretrained.settings import Settings

RATE = 16_000
AUDIOSET = (-4.2677393, 4.5689974)
"""Mean and standard deviation of the logarithms over AudioSet (YuanGongND/ast)."""


def ast_mel(bands: int) -> LogMel:
    return LogMel("kaldi", RATE, window=400, hop=160, fft=512, mels=bands, low=20.0)


def whisper_mel(bands: int) -> LogMel:
    return LogMel("whisper", RATE, window=400, hop=160, fft=400, mels=bands)


def heard(encoder: AudioEncoder, folder: Path) -> AudioEncoder:
    """The encoder of a model with what the folder says of its sounds. Raises: UserError."""
    path, values = _find(folder)
    settings = Settings(values, "")
    settings.must(sampling_rate=RATE)
    if encoder.mel.recipe == "kaldi":
        encoder = _ast(encoder, settings)
    else:
        _whisper(encoder, settings)
    if settings.wrong:
        raise UserError(f"{path}:\n{listed(settings.wrong)}")
    return encoder


def put_sounds(encoder: AudioEncoder, folder: Path) -> None:
    """Write preprocessor_config.json, every field that matters."""
    tell = _tell_ast if encoder.mel.recipe == "kaldi" else _tell_whisper
    values = {"sampling_rate": encoder.mel.rate, "padding_value": 0.0,
              "return_attention_mask": False} | tell(encoder)  # fmt: skip
    (folder / PREPROCESSOR).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _find(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Nothing where the folder says nothing."""
    if (folder / PROCESSOR).is_file():
        nested = read_json(folder / PROCESSOR).get("feature_extractor")
        if isinstance(nested, dict):
            return folder / PROCESSOR, nested
    path = folder / PREPROCESSOR
    return path, read_json(path) if path.is_file() else {}


def _ast(encoder: AudioEncoder, settings: Settings) -> AudioEncoder:
    bands, frames = encoder.mel.mels, encoder.fill
    settings.must(
        num_mel_bins=bands, max_length=frames, feature_extractor_type="ASTFeatureExtractor"
    )
    mean = settings.real("mean", AUDIOSET[0], -1e6, 1e6)
    std = settings.real("std", AUDIOSET[1], 0, 1e6)
    if not settings.flag("do_normalize", True):
        return replace(encoder, mean=0.0, std=1.0)
    return replace(encoder, mean=mean, std=2 * std)


def _tell_ast(encoder: AudioEncoder) -> dict[str, Any]:
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "num_mel_bins": encoder.mel.mels,
        "max_length": encoder.fill,
        "do_normalize": True,
        "mean": encoder.mean,
        "std": encoder.std / 2,
    }


def _whisper(encoder: AudioEncoder, settings: Settings) -> None:
    """Nothing is left to say: there is one front end that fits the model."""
    settings.must(
        feature_extractor_type="WhisperFeatureExtractor",
        feature_size=encoder.mel.mels,
        chunk_length=encoder.samples / RATE,
        n_fft=encoder.mel.fft,
        hop_length=encoder.mel.hop,
        padding_value=0.0,
        dither=0.0,
    )


def _tell_whisper(encoder: AudioEncoder) -> dict[str, Any]:
    if encoder.samples % RATE:
        raise UserError(
            f"model.audio.samples is {encoder.samples}: the reference takes whole seconds,"
            f" {RATE} samples each"
        )
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": encoder.mel.mels,
        "chunk_length": encoder.samples // RATE,
        "n_fft": encoder.mel.fft,
        "hop_length": encoder.mel.hop,
        "dither": 0.0,
    }
