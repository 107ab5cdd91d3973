"""Spectrograms against the reference: a golden file, and live; and what folders say of sounds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.config import UserError
from mlm_jax.encoders import AudioEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.pretrained.sounds import ast_mel, heard, put_sounds, whisper_mel

GOLDEN: dict[str, np.ndarray] = dict(np.load(Path(__file__).parent / "golden" / "sounds.npz"))
RATE = 16_000
RECIPES = {
    "plain": LogMel("plain", window=512, fft=512, mels=20),
    "whisper": whisper_mel(20),
    "kaldi": ast_mel(24),
}
SCALE = {"plain": 1.0, "whisper": 1.0, "kaldi": 2 * 4.5689974}
"""What a difference is divided by before the model sees it."""


def difference(mel: LogMel, wave: np.ndarray, wanted: np.ndarray) -> float:
    found = np.asarray(jax.jit(mel)(jnp.asarray(wave[None], jnp.float32)))[0]
    assert found.shape == wanted.shape == (mel.frames(len(wave)), mel.mels)
    return float(np.abs(found - wanted).max()) / SCALE[mel.recipe]


@pytest.mark.parametrize("recipe", RECIPES)
def test_spectrograms_are_those_of_the_reference(recipe: str) -> None:
    assert difference(RECIPES[recipe], GOLDEN["wave"] / 32768, GOLDEN[recipe]) < 5e-5


@pytest.mark.parametrize(
    ("recipe", "broken"),
    [
        ("plain", {"low": 20.0}),
        ("whisper", {"high": 7600.0}),
        ("kaldi", {"low": 0.0}),
        ("kaldi", {"fft": 1024}),
    ],
)
def test_another_front_end_is_noticed(recipe: str, broken: dict[str, Any]) -> None:
    mel = replace(RECIPES[recipe], **broken)
    assert difference(mel, GOLDEN["wave"] / 32768, GOLDEN[recipe]) > 1e-2


def waves() -> dict[str, np.ndarray]:
    import reference_video_audio as reference

    time, rng = np.arange(2 * RATE) / RATE, np.random.default_rng(0)
    speech = reference.sounds(1, 2 * RATE, seed=3)[0] / 32768
    return {
        "speech": speech,
        "quiet": speech * 1e-3,
        "silence": np.zeros_like(speech),
        "noise": rng.uniform(-1, 1, speech.shape),
        "square": np.sign(np.sin(2 * np.pi * 440 * time)) * 0.9,
        "a tone": 0.9 * np.sin(2 * np.pi * 440 * time),
        "a shift": 0.5 + 0.1 * np.sin(2 * np.pi * 440 * time),
    }


# beside a tone float32 rounds off what is in the other bands, in the reference's torchaudio as well
LOOSE = {"a tone": 5e-4, "a shift": 5e-4}


@pytest.mark.parity
@pytest.mark.parametrize("bands", [40, 80, 128])
def test_live_spectrograms(bands: int) -> None:
    pytest.importorskip("transformers")
    import reference_video_audio as reference

    mels = {"plain": LogMel(window=512, fft=512, mels=bands), "whisper": whisper_mel(bands),
            "kaldi": ast_mel(bands)}  # fmt: skip
    for name, wave in waves().items():
        wave = wave.astype(np.float32)
        for recipe, mel in mels.items():
            wanted = reference.RECIPES[recipe](wave, bands)
            assert difference(mel, wave, wanted) < LOOSE.get(name, 1e-4), (name, recipe)


# --- what a folder says ---

AST = AudioEncoder(mel=ast_mel(128), fill=1024, stem="patch")
WHISPER = AudioEncoder(samples=30 * RATE, mel=whisper_mel(80))
PUBLISHED_AST = {"feature_extractor_type": "ASTFeatureExtractor", "feature_size": 1,
                 "max_length": 1024, "mean": -4.2677393, "num_mel_bins": 128,
                 "padding_side": "right", "padding_value": 0.0, "sampling_rate": 16000,
                 "std": 4.5689974, "do_normalize": True}  # fmt: skip
PUBLISHED_WHISPER = {"chunk_length": 30, "feature_extractor_type": "WhisperFeatureExtractor",
                     "feature_size": 80, "hop_length": 160, "n_fft": 400, "n_samples": 480000,
                     "nb_max_frames": 3000, "padding_side": "right", "padding_value": 0.0,
                     "processor_class": "WhisperProcessor", "sampling_rate": 16000,
                     "return_attention_mask": False, "mel_filters": [[0.0]]}  # fmt: skip


def say(folder: Path, values: dict[str, Any], nested: bool = False) -> Path:
    name, whole = "preprocessor_config.json", values
    if nested:
        name, whole = "processor_config.json", {"feature_extractor": values}
    (folder / name).write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_published_is_read(nested: bool, tmp_path: Path) -> None:
    found = heard(AST, say(tmp_path, PUBLISHED_AST, nested))
    assert found == replace(AST, mean=-4.2677393, std=2 * 4.5689974)
    assert heard(WHISPER, say(tmp_path, PUBLISHED_WHISPER, nested)) == WHISPER


def test_where_nothing_is_said_the_class_counts(tmp_path: Path) -> None:
    assert heard(AST, tmp_path) == replace(AST, mean=-4.2677393, std=2 * 4.5689974)
    assert heard(WHISPER, tmp_path) == WHISPER


def test_without_a_mean_the_logarithms_stay(tmp_path: Path) -> None:
    found = heard(AST, say(tmp_path, PUBLISHED_AST | {"do_normalize": False}))
    assert (found.mean, found.std) == (0.0, 1.0)


@pytest.mark.parametrize("encoder", [replace(AST, mean=-3.0, std=4.0), WHISPER])
def test_what_is_written_is_read(encoder: AudioEncoder, tmp_path: Path) -> None:
    put_sounds(encoder, tmp_path)
    assert heard(encoder, tmp_path) == encoder


REFUSED = {
    "another rate": (AST, PUBLISHED_AST | {"sampling_rate": 8000}, "sampling_rate is 8000"),
    "other bands": (AST, PUBLISHED_AST | {"num_mel_bins": 64}, "num_mel_bins is 64: only 128"),
    "other frames": (AST, PUBLISHED_AST | {"max_length": 512}, "max_length is 512: only 1024"),
    "no spread": (AST, PUBLISHED_AST | {"std": 0}, "std is 0: must be over 0"),
    "another class": (AST, PUBLISHED_WHISPER, 'feature_extractor_type is "Whisper'),
    "other bands of Whisper": (WHISPER, PUBLISHED_WHISPER | {"feature_size": 128}, "only 80"),
    "another length": (WHISPER, PUBLISHED_WHISPER | {"chunk_length": 15}, "chunk_length is 15"),
    "another window": (WHISPER, PUBLISHED_WHISPER | {"n_fft": 512}, "n_fft is 512: only 400"),
    "another hop": (WHISPER, PUBLISHED_WHISPER | {"hop_length": 320}, "hop_length is 320"),
    "dither": (WHISPER, PUBLISHED_WHISPER | {"dither": 1e-4}, "dither is 0.0001: only 0.0"),
    "noise for silence": (WHISPER, PUBLISHED_WHISPER | {"padding_value": 1.0}, "padding_value is"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_what_would_sound_otherwise_is_refused(which: str, tmp_path: Path) -> None:
    encoder, values, told = REFUSED[which]
    with pytest.raises(UserError, match=told):
        heard(encoder, say(tmp_path, values))


def test_seconds_that_are_not_whole_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whole seconds"):
        put_sounds(replace(WHISPER, samples=24_000), tmp_path)
