"""The reference implementation of what sees clips and hears sounds, as `reference` has the others.

Needs the extra `parity`. Sounds are spectrograms here: how they are computed has tests of its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import transformers as T  # noqa: N812
from reference import END, PAD, START, VOCAB, Arrays, Case, filled, real, sizes, tensor
from reference import draw as draw_sizes
from transformers import audio_utils as audio

SECOND, RATE = 100, 16_000  # frames of a spectrogram, samples


def draw(seed: int) -> dict[str, Any]:
    """Sizes of a model, with those of clips and sounds."""
    rng = np.random.default_rng(seed)
    drawn = draw_sizes(seed)
    return drawn | {
        "tube": int(rng.integers(1, 4)),
        "times": int(rng.integers(2, 4)),
        "mean": bool(rng.integers(2)),
        "wide": drawn["patch"] * int(rng.integers(1, 4)),
        "mels": drawn["patch"] + int(rng.integers(1, 9)),
        "frames": drawn["patch"] + int(rng.integers(4, 17)),
        "strides": rng.integers(2, drawn["patch"] + 1, 2).tolist(),
        "other_heads": int(rng.choice([h for h in (1, 2, 3, 5) if drawn["width"] % h == 0])),
        "other_depth": int(rng.integers(1, 4)),
        "other_hidden": int(rng.integers(20, 50)),
    }


def inputs(d: dict[str, Any], name: str, rows: int = 3, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=(rows, *shape)).astype(np.float32)

    if name.startswith("AST"):
        return {"audio": noise(d["frames"], d["mels"])}
    if name.startswith("Whisper"):
        ids = rng.integers(3, VOCAB, (rows, 7)).astype(np.int32)
        return {"audio": noise(SECOND, d["mels"]), "ids": ids, "mask": np.ones(ids.shape, bool)}
    tube = 1 if name.startswith("Timesformer") else d["tube"]
    wide = d["pixels"] if name.startswith("Timesformer") else d["wide"]
    return {"video": noise(tube * d["times"], d["pixels"], wide, 3)}


def clips(d: dict[str, Any], **more: Any) -> dict[str, Any]:
    size = [d["pixels"], d["wide"]]
    frames = d["tube"] * d["times"]
    return sizes(d, num_frames=frames, image_size=size, num_labels=d["labels"]) | more


def videomae(d: dict[str, Any]) -> Any:
    own = {"patch_size": d["patch"], "tubelet_size": d["tube"], "qkv_bias": d["bias"]}
    config = T.VideoMAEConfig(**clips(d, **own, use_mean_pooling=d["mean"]))
    return T.VideoMAEForVideoClassification(config)


def vivit(d: dict[str, Any]) -> Any:
    own = {"tubelet_size": [d["tube"], d["patch"], d["patch"]], "qkv_bias": d["bias"]}
    return T.VivitForVideoClassification(T.VivitConfig(**clips(d, **own)))


def timesformer(d: dict[str, Any]) -> Any:
    own = {"patch_size": d["patch"], "image_size": d["pixels"], "num_frames": d["times"]}
    config = T.TimesformerConfig(**clips(d, **own, qkv_bias=d["bias"]))
    return T.TimesformerForVideoClassification(config)


def spectrogram(d: dict[str, Any]) -> Any:
    config = T.ASTConfig(
        **sizes(d, num_labels=d["labels"], qkv_bias=d["bias"], patch_size=d["patch"]),
        frequency_stride=d["strides"][0],
        time_stride=d["strides"][1],
        max_length=d["frames"],
        num_mel_bins=d["mels"],
    )
    return T.ASTForAudioClassification(config)


def whisper(d: dict[str, Any]) -> Any:
    config = T.WhisperConfig(
        vocab_size=VOCAB, num_mel_bins=d["mels"], d_model=d["width"],
        encoder_layers=d["depth"], encoder_attention_heads=d["heads"],
        encoder_ffn_dim=d["hidden"], decoder_layers=d["other_depth"],
        decoder_attention_heads=d["other_heads"], decoder_ffn_dim=d["other_hidden"],
        activation_function=d["act"], max_source_positions=SECOND // 2,
        max_target_positions=40, decoder_start_token_id=START, bos_token_id=START,
        eos_token_id=END, pad_token_id=PAD, suppress_tokens=[5, 6, 7],
        begin_suppress_tokens=[8, END],
    )  # fmt: skip
    return T.WhisperForConditionalGeneration(config)


def run_video(model: Any, x: Arrays) -> Arrays:
    frames = tensor(x["video"].transpose(0, 1, 4, 2, 3).copy())
    return {"logits": model(frames).logits.numpy()}


def run_audio(model: Any, x: Arrays) -> Arrays:
    return {"logits": model(tensor(x["audio"])).logits.numpy()}


def heard(x: Arrays) -> Any:
    return tensor(x["audio"].transpose(0, 2, 1).copy())


def run_whisper(model: Any, x: Arrays) -> Arrays:
    out = model(input_features=heard(x), decoder_input_ids=tensor(x["ids"]))
    return {"logits": real(x, out.logits)}


def generate_whisper(model: Any, x: Arrays) -> np.ndarray:
    out = model.generate(heard(x), max_new_tokens=12, do_sample=False, num_beams=1)
    return filled(out, 12)


CASES: dict[str, Case] = {
    "VideoMAEForVideoClassification": Case(videomae, run_video),
    "VivitForVideoClassification": Case(vivit, run_video),
    "TimesformerForVideoClassification": Case(timesformer, run_video),
    "ASTForAudioClassification": Case(spectrogram, run_audio),
    "WhisperForConditionalGeneration": Case(whisper, run_whisper, generate_whisper),
}


# --- sounds ---


def sounds(rows: int, samples: int, seed: int) -> np.ndarray:
    """Tones that slide, with noise, as int16; then silence, of another length in each."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    low, slope = rng.uniform(100, 900, (2, rows, 1))
    wave = 0.4 * np.sin(2 * np.pi * (low + slope * time) * time)
    wave += 0.05 * rng.normal(size=wave.shape)
    wave[np.arange(samples) > samples * rng.uniform(0.4, 1, (rows, 1))] = 0
    return (wave * 32767).astype(np.int16)


def plain(wave: np.ndarray, bands: int = 20, fft: int = 512) -> np.ndarray:
    """librosa's `feature.melspectrogram`, by other means: F M."""
    filters = audio.mel_filter_bank(1 + fft // 2, bands, 0.0, RATE / 2, RATE, "slaney", "slaney")
    return audio.spectrogram(
        wave, audio.window_function(fft), fft, 160, fft, power=2.0, pad_mode="constant",
        mel_filters=filters, mel_floor=1e-6, log_mel="log",
    ).T  # fmt: skip


def whispers(wave: np.ndarray, bands: int = 20) -> np.ndarray:
    """The definition in numpy, in float64."""
    extractor = T.WhisperFeatureExtractor(feature_size=bands, chunk_length=1)
    return extractor._np_extract_fbank_features(wave[None], "cpu")[0].T


def kaldis(wave: np.ndarray, bands: int = 24) -> np.ndarray:
    """That without torchaudio, which is not installed here: numpy, in float64."""
    frames = 1 + (len(wave) - 400) // 160
    extractor = T.ASTFeatureExtractor(num_mel_bins=bands, max_length=frames, do_normalize=False)
    return extractor(wave, sampling_rate=RATE)["input_values"][0]


RECIPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": plain,
    "whisper": whispers,
    "kaldi": kaldis,
}
