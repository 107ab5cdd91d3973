"""Whisper: what it does not write, with what it begins, and its tokenizer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ours_video_audio as ours
import pytest
import soundfile
import tokenizers as hf
from test_golden import GOLDEN as FOLDER
from test_golden import inputs_and_outputs
from test_preprocess import GOLDEN, TEXTS, hard_texts, write

from mlm_jax.config import UserError
from mlm_jax.generate import How, encode, generate
from mlm_jax.models.whisper import Whisper
from mlm_jax.pretrained import load, save
from mlm_jax.pretrained.languages import CODES
from mlm_jax.pretrained.script import Script, script
from mlm_jax.pretrained.transcribe import transcribe
from mlm_jax.pretrained.vocabulary import load_tokenizer, save_tokenizer, special_names

NAME = "video_audio/WhisperForConditionalGeneration"


def test_the_words_are_those_of_the_reference() -> None:
    read, (given, wanted) = load(FOLDER / NAME), inputs_and_outputs(NAME)
    found = ours.write(read.model, read.params, given, FOLDER / NAME)
    np.testing.assert_array_equal(found, wanted["written"])


@pytest.mark.parametrize("method", ["sample", "beam"])
def test_suppressed_words_are_never_written(method: Any) -> None:
    read, (given, _) = load(FOLDER / NAME), inputs_and_outputs(NAME)
    fused = encode(read.model, read.params, {"audio": jnp.asarray(given["audio"])})
    how = How(method, temperature=3.0, beams=3)
    key = jax.random.key(0)
    ids = generate(
        read.model, read.params, fused, bos=1, eos=2, pad=0, length=30, how=how, key=key
    ).ids
    assert not np.isin(ids, [5, 6, 7]).any()
    assert not np.isin(ids[:, 0], [8, 2]).any()


def test_what_is_learned_from_may_have_them() -> None:
    """Without a cache nothing is left out: not from losses, nor where texts are ranked."""
    read, (given, _) = load(FOLDER / NAME), inputs_and_outputs(NAME)
    logits = ours.run(read.model, read.params, given)["logits"]
    assert np.isfinite(logits).all()
    batch = {"audio": jnp.zeros((1, 16_000)), "target": jnp.zeros((1, 3), int)}
    params = Whisper().init(jax.random.key(0), batch)["params"]
    assert "key" in params["decoder"]["body"]["block_0"]["cross"]


# --- with what a text begins ---

MANY = {"decoder_start_token_id": 1, "eos_token_id": [2], "pad_token_id": 0,
        "lang_to_id": {"<|en|>": 4, "<|de|>": 5}, "task_to_id": {"transcribe": 6, "translate": 7},
        "no_timestamps_token_id": 9}  # fmt: skip


def test_texts_begin_as_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {}, "generation_config.json": MANY})
    assert script(tmp_path, language="de") == Script((1, 5, 6, 9), 2, 0)
    assert script(tmp_path, language="German") == script(tmp_path, language="DE")
    assert script(tmp_path, language="german") == script(tmp_path, language="de")
    assert script(tmp_path, language="<|en|>", task="translate").start == (1, 4, 7, 9)
    prompt = script(tmp_path, language="en").prompt(2)
    assert prompt.ids.tolist() == [[1, 4, 6, 9], [1, 4, 6, 9]]
    assert prompt.mask.all()


def test_old_folders_say_it_in_config_json(tmp_path: Path) -> None:
    old = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
           "forced_decoder_ids": [[1, 8]]}  # fmt: skip
    write(tmp_path, {"config.json": old})
    assert script(tmp_path) == Script((1, 8), 2, 2)
    write(tmp_path, {"generation_config.json": MANY})
    assert script(tmp_path).start == (1, 8, 9)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "no language": ({}, {}, "the language is to be given, one of en, de"),
    "a language to be heard": ({"forced_decoder_ids": [[1, None], [2, 6]]}, {}, "to be given"),
    "an unknown language": ({}, {"language": "fr"}, r"<\|fr\|> is none of this checkpoint"),
    "an unknown task": ({}, {"language": "en", "task": "sing"}, "task sing is none"),
    "no start": ({"decoder_start_token_id": None}, {"language": "en"}, "decoder_start_token_id"),
    "two ends": ({"eos_token_id": [2, 3]}, {"language": "en"}, "eos_token_id .* must be one id"),
    "odd places": ({"forced_decoder_ids": [[2, 4]]}, {}, r"must be \[1, id\], \[2, id\]"),
    "odd ids": ({"forced_decoder_ids": 3}, {}, r"must be \[1, id\], \[2, id\]"),
    "an odd table": ({"lang_to_id": {"<|en|>": "4"}}, {}, "lang_to_id .* names to ids"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_left_open_or_wrong_is_named(which: str, tmp_path: Path) -> None:
    changed, asked, told = REFUSED[which]
    write(tmp_path, {"config.json": {}, "generation_config.json": MANY | changed})
    with pytest.raises(UserError, match=told):
        script(tmp_path, **asked)


# --- from a sound file to a text ---


@pytest.fixture
def speech(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A multilingual checkpoint whose words are w0, w1, ..., a file, and its samples."""
    folder, file = tmp_path / "whisper", tmp_path / "speech.wav"
    shutil.copytree(FOLDER / NAME, folder)
    write(folder, {"generation_config.json": MANY | {"suppress_tokens": [5, 6, 7]}})
    spelled = {f"w{i}": i for i in range(61)}
    save_tokenizer(hf.Tokenizer(hf.models.WordLevel(spelled, "w0")), folder, special={})
    wave = np.random.default_rng(0).integers(-9000, 9000, 12_000).astype(np.int16)
    soundfile.write(file, wave, 16_000)
    return folder, file, wave


def test_a_sound_file_is_transcribed(speech: tuple[Path, Path, np.ndarray]) -> None:
    folder, file, wave = speech
    read = load(folder)
    for asked in ({"language": "de"}, {"language": "en", "task": "translate"}):
        heard = transcribe(folder, file, **asked)
        given = {"audio": np.pad(wave, (0, 4000))[None]}
        wanted = ours.write(read.model, read.params, given, folder, **asked)[0]
        assert [*heard.ids, *[0] * 12][:12] == wanted.tolist()
        assert heard.text == " ".join(f"w{i}" for i in heard.ids)
        assert heard.ids


def test_what_cannot_be_transcribed_is_told(speech: tuple[Path, Path, np.ndarray]) -> None:
    folder, file, wave = speech
    with pytest.raises(UserError, match="language is to be given, one of en, de"):
        transcribe(folder, file)
    soundfile.write(file, np.tile(wave, 2), 16_000)
    with pytest.raises(UserError, match=r"speech.wav is longer than the 1 seconds"):
        transcribe(folder, file, language="de")
    with pytest.raises(UserError, match="transcribe takes a Whisper"):
        transcribe(FOLDER / "BertForMaskedLM", file)


def test_how_it_generates_goes_with_it(
    speech: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    read = load(speech[0])
    assert read.generation == MANY | {"suppress_tokens": [5, 6, 7]}
    quiet = replace(read.model, decoder=replace(read.model.decoder, never=(9,)))
    for name, model in (("same", read.model), ("quiet", quiet)):
        save(tmp_path / name, model, read.params, config=read.config, generation=read.generation)
        again = load(tmp_path / name)
        assert again.model == model
        assert script(tmp_path / name, language="de") == script(speech[0], language="de")
        assert {**again.generation, "suppress_tokens": 0, "begin_suppress_tokens": 0} == {
            **read.generation, "suppress_tokens": 0, "begin_suppress_tokens": 0,
        }  # fmt: skip


# --- its tokenizer ---

ADDED = ["<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>", "<|translate|>", "<|transcribe|>",
         "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
VOCABULARY = GOLDEN["vocabularies"]["gpt2"]
COUNT = len(json.loads(VOCABULARY["vocab.json"]))
START, GERMAN, TRANSCRIBE, NO_TIMES = (
    COUNT + ADDED.index(f"<|{name}|>")
    for name in ("startoftranscript", "de", "transcribe", "notimestamps")
)


def published(folder: Path, **settings: Any) -> Path:
    """The older files, as the slow class wrote them."""
    said = {"tokenizer_class": "WhisperTokenizer", "additional_special_tokens": ADDED} | settings
    added = {text: COUNT + i for i, text in enumerate(ADDED)}
    return write(folder, VOCABULARY | {"added_tokens.json": added, "tokenizer_config.json": said})


def test_the_start_stands_before_a_text_and_the_end_after_it(tmp_path: Path) -> None:
    inner = load_tokenizer(published(tmp_path))
    end = inner.token_to_id("<|endoftext|>")
    bare = inner.encode("hello there", add_special_tokens=False).ids
    assert inner.encode("hello there").ids == [START, NO_TIMES, *bare, end]
    assert inner.decode(inner.encode("hello there").ids) == "hello there"
    inner = load_tokenizer(published(tmp_path, language="German", task="transcribe"))
    assert inner.encode("").ids == [START, GERMAN, TRANSCRIBE, NO_TIMES, end]
    inner = load_tokenizer(published(tmp_path, predict_timestamps=True))
    assert inner.encode("").ids == [START, end]
    assert special_names(tmp_path) == dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
    with pytest.raises(UserError, match=r"no <\|fr\|> among"):
        load_tokenizer(published(tmp_path, language="fr"))


@pytest.mark.parity
def test_languages_are_those_of_the_reference() -> None:
    theirs = pytest.importorskip("transformers.models.whisper.tokenization_whisper")
    assert theirs.TO_LANGUAGE_CODE == CODES


@pytest.mark.parity
@pytest.mark.parametrize("settings", [{}, {"language": "de", "task": "transcribe"}])
def test_live_ids(settings: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    inner = load_tokenizer(published(tmp_path, **settings))
    own = transformers.WhisperTokenizer.from_pretrained(tmp_path)
    for text in TEXTS + hard_texts(200):
        ids = inner.encode(text).ids
        assert ids == own(text)["input_ids"], text
        assert inner.decode(ids) == own.decode(ids, skip_special_tokens=True), text
