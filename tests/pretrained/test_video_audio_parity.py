"""Live against the reference, over drawn sizes; needs the extra `parity`."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.paths import named
from mlm_jax.pretrained import load, save
from mlm_jax.pretrained.sounds import put_sounds

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import ours_video_audio as ours  # noqa: E402
import reference_video_audio as reference  # noqa: E402
from reference import VOCAB, weigh  # noqa: E402
from test_parity import OLD_PYTHON, SEEDS  # noqa: E402

NAMES = list(reference.CASES)
VIDEOMAE, VIVIT, TIMESFORMER, AST, WHISPER = NAMES
RATE = reference.RATE
IDS = {"decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def make(name: str, seed: int, regime: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(seed)
    drawn = reference.draw(seed * len(NAMES) + NAMES.index(name))
    model = weigh(reference.CASES[name].make(drawn), seed, regime)
    model.save_pretrained(folder)
    return model, drawn


@pytest.mark.parametrize("regime", ["default", "wide"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_reference(
    name: str, seed: int, regime: str, tmp_path: Path
) -> None:
    model, drawn = make(name, seed, regime, tmp_path / "model")
    given = reference.inputs(drawn, name, seed=seed)
    with torch.no_grad():
        wanted = reference.CASES[name].run(model, given)["logits"]
    read = load(tmp_path / "model")
    assert not read.unread
    found = ours.run(read.model, read.params, given)["logits"]
    assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_loads_in_the_reference(name: str, dtype: str, tmp_path: Path) -> None:
    """Nothing missing, unexpected or of another shape; every tensor bit for bit; in shards too."""
    model, _ = make(name, 3, "wide", tmp_path / "model")
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "cast")
    read = load(tmp_path / "cast")
    for shard in (20_000, 5_000_000_000):
        out = tmp_path / f"out{shard}"
        save(out, read.model, read.params, config=read.config, shard=shard)
        before, after = named(read.params), named(load(out).params)
        assert before.keys() == after.keys()
        assert all(before[k].dtype == after[k].dtype for k in before)
        assert all(before[k].tobytes() == after[k].tobytes() for k in before)
        there, info = type(model).from_pretrained(out, output_loading_info=True, dtype=dtype)
        assert not any(info.values()), info
        state = model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in there.state_dict().items())


@pytest.mark.skipif(not OLD_PYTHON, reason="MLM_JAX_TRANSFORMERS_4: a Python with transformers 4")
def test_what_is_written_loads_in_transformers_4(tmp_path: Path) -> None:
    for name in NAMES:
        make(name, 3, "wide", tmp_path / "model")
        read = load(tmp_path / "model")
        save(tmp_path / "out" / name, read.model, read.params, config=read.config)
    script = Path(__file__).with_name("loads_in_4.py")
    done = subprocess.run(
        [str(OLD_PYTHON), script, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == set(NAMES)
    assert not any(any(problems.values()) for problems in told.values()), told


# --- Whisper writes ---


def test_fifty_texts_are_those_of_the_reference(tmp_path: Path) -> None:
    """And so when the words that it wrote most are suppressed."""
    model, drawn = make(WHISPER, 5, "wide", tmp_path)
    given = reference.inputs(drawn, WHISPER, rows=50, seed=5)
    with torch.no_grad():
        wanted = reference.generate_whisper(model, given)
    read = load(tmp_path)
    np.testing.assert_array_equal(ours.write(read.model, read.params, given, tmp_path), wanted)
    most, first = (
        np.bincount(ids, minlength=VOCAB).argmax() for ids in (wanted.ravel(), wanted[:, 0])
    )
    said = {"suppress_tokens": [int(most)], "begin_suppress_tokens": [int(first)]}
    (tmp_path / "generation_config.json").write_text(json.dumps(IDS | said))
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        others = reference.generate_whisper(model, given)
    quiet = load(tmp_path).model
    np.testing.assert_array_equal(ours.write(quiet, read.params, given, tmp_path), others)
    assert (others != wanted).any(1).mean() > 0.5


LANGUAGES = {
    "lang_to_id": {"<|en|>": 40, "<|de|>": 41},
    "task_to_id": {"transcribe": 45, "translate": 46},
    "is_multilingual": True,
    "no_timestamps_token_id": 60,
}
# what generation_config.json says, what is asked for, and the ids with which a text then begins
STARTS: dict[str, tuple[dict[str, Any], dict[str, str], tuple[int, ...]]] = {
    "alone": ({}, {}, (1,)),
    "forced": ({"forced_decoder_ids": [[1, 9], [2, 11]]}, {}, (1, 9, 11)),
    "suppressed": ({"suppress_tokens": [12, 13, 14], "begin_suppress_tokens": [3]}, {}, (1,)),
    "a language": (LANGUAGES, {"language": "de"}, (1, 41, 45, 60)),
    "a language and a task": (
        LANGUAGES, {"language": "en", "task": "translate"}, (1, 40, 46, 60),
    ),
    "a language that is said": (LANGUAGES | {"language": "en"}, {}, (1, 40, 45, 60)),
    "forced, which a language overrules": (
        LANGUAGES | {"forced_decoder_ids": [[1, 9], [2, 45]]}, {"language": "de"}, (1, 41, 45, 60),
    ),
    "forced, without times": (
        LANGUAGES | {"forced_decoder_ids": [[1, 41], [2, 46]]}, {}, (1, 41, 46, 60),
    ),
    "no times, of one language": ({"no_timestamps_token_id": 60}, {}, (1, 60)),
    "filled up with the end, as published": ({"pad_token_id": 2}, {}, (1,)),
}  # fmt: skip


@pytest.mark.parametrize("which", STARTS)
def test_texts_begin_as_the_folder_says(which: str, tmp_path: Path) -> None:
    said, asked, start = STARTS[which]
    _, drawn = make(WHISPER, 6, "wide", tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(IDS | said))
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path)
    given = reference.inputs(drawn, WHISPER, rows=6, seed=6)
    with torch.no_grad():
        wanted = model.generate(
            reference.heard(given), max_new_tokens=12, do_sample=False, num_beams=1, **asked
        )
    read = load(tmp_path)
    assert ours.script(tmp_path, **asked).start == start
    found = ours.write(read.model, read.params, given, tmp_path, **asked)
    ended = np.where(reference.filled(wanted, 12) == 2, 0, reference.filled(wanted, 12))
    np.testing.assert_array_equal(np.where(found == 2, 0, found), ended)


# --- from sounds on ---


def test_whisper_writes_the_same_of_a_sound(tmp_path: Path) -> None:
    """From samples to ids, with the feature extractor of the folder."""
    drawn = reference.draw(4) | {"mels": 40}
    torch.manual_seed(4)
    model = weigh(reference.whisper(drawn), 4, "wide")
    model.save_pretrained(tmp_path)
    theirs = transformers.WhisperFeatureExtractor(feature_size=40, chunk_length=1)
    theirs.save_pretrained(tmp_path)
    wave = reference.sounds(8, RATE, 0)
    features = theirs([w / 32768 for w in wave], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        wanted = model.generate(
            features.input_features, max_new_tokens=12, do_sample=False, num_beams=1
        )
    read = load(tmp_path)
    found = ours.write(read.model, read.params, {"audio": wave}, tmp_path)
    np.testing.assert_array_equal(found, reference.filled(wanted, 12))
    assert len({*map(bytes, found)}) > 1


@pytest.mark.parametrize("plain", [False, True])
def test_ast_hears_the_same_in_a_sound(plain: bool, tmp_path: Path) -> None:
    """From samples to logits, of sounds shorter than the spectrogram and longer."""
    drawn = reference.draw(2) | {"mels": 24, "frames": 60, "patch": 8, "strides": [5, 3]}
    torch.manual_seed(2)
    model = weigh(reference.spectrogram(drawn), 2, "wide")
    model.save_pretrained(tmp_path)
    theirs = transformers.ASTFeatureExtractor(
        num_mel_bins=24, max_length=60, mean=-3.5, std=2.5, do_normalize=not plain
    )
    theirs.save_pretrained(tmp_path)
    read = load(tmp_path)
    samples = read.model.audio.samples
    assert samples == 400 + 59 * 160
    wave, lengths = (
        reference.sounds(4, 2 * samples, 1),
        np.array([samples // 2, 399, 5000, 2 * samples]),
    )
    heard = [w[:n] / 32768 for w, n in zip(wave, lengths, strict=True) if n > 400]
    features = theirs(heard, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        wanted = model(features["input_values"]).logits.numpy()
    kept = np.arange(samples) < lengths[:, None]
    batch = {
        "audio": jnp.asarray(np.where(kept, wave[:, :samples], 0).astype(np.int16)),
        "audio_length": jnp.asarray(np.minimum(lengths, samples)),
    }
    logits = np.asarray(ours.apply(read.model, read.params, batch)["logits"])[lengths > 400]
    assert np.abs(logits - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_what_is_written_of_sounds_is_read_by_the_reference(tmp_path: Path) -> None:
    make(AST, 1, "wide", tmp_path / "model")
    audio = load(tmp_path / "model").model.audio
    put_sounds(replace(audio, mean=-1.5, std=3.0), tmp_path)
    theirs = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.ASTFeatureExtractor)
    told = (theirs.mean, 2 * theirs.std, theirs.max_length, theirs.num_mel_bins)
    assert told == (-1.5, 3.0, audio.fill, audio.mel.mels)
    put_sounds(
        load(Path(__file__).parent / "golden" / "video_audio" / WHISPER).model.audio, tmp_path
    )
    theirs = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.WhisperFeatureExtractor)
    assert (theirs.n_samples, theirs.feature_size, theirs.hop_length) == (RATE, 8, 160)
