"""Small random models of clips and sounds written by the reference, and what it computes with them.

As test_golden and test_names, whose cases these are beside.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ours_video_audio as ours
import pytest
import test_golden
import test_names
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file
from test_golden import GOLDEN, inputs_and_outputs, lose, swap, turn
from test_names import add, copy, move, rename

from mlm_jax.config import UserError
from mlm_jax.encoders import AudioEncoder, VideoEncoder
from mlm_jax.layers import Pool
from mlm_jax.models.audio import Audio
from mlm_jax.models.video import Video
from mlm_jax.paths import named, nested
from mlm_jax.pretrained import Pretrained, load, save
from mlm_jax.pretrained.files import CONFIG, WEIGHTS
from mlm_jax.pretrained.store import family_of

FOLDER = "video_audio"
VIDEOMAE, VIVIT, TIMESFORMER = (
    f"{name}ForVideoClassification" for name in ("VideoMAE", "Vivit", "Timesformer")
)
AST, WHISPER = "ASTForAudioClassification", "WhisperForConditionalGeneration"
NAMES = (VIDEOMAE, VIVIT, TIMESFORMER, AST, WHISPER)
BOUND = 2e-5
"""Of the largest logit."""


@cache
def golden(name: str) -> Pretrained:
    return load(GOLDEN / FOLDER / name)


def difference(name: str, params: Any, model: Any) -> float:
    given, wanted = inputs_and_outputs(f"{FOLDER}/{name}")
    found = ours.run(model, params, given)["logits"]
    assert found.shape == wanted["logits"].shape
    return float(np.abs(found - wanted["logits"]).max() / np.abs(wanted["logits"]).max())


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_reference(name: str) -> None:
    read = golden(name)
    assert not read.unused
    assert not read.unread
    assert difference(name, read.params, read.model) < BOUND


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name: str, tmp_path: Path) -> None:
    test_golden.test_what_is_written_is_what_was_read(f"{FOLDER}/{name}", tmp_path)


def test_fields_that_no_output_of_these_shows() -> None:
    """Where a wrong one would pass at this bound."""
    assert golden(VIDEOMAE).model.norm_eps == 1e-5
    assert golden(VIDEOMAE).model.video.body.block.eps == 1e-5  # that of config.json here
    for name in (VIVIT, TIMESFORMER):
        assert golden(name).model.video.body.block.eps == 1e-5
    assert golden(AST).model.norm_eps == golden(AST).model.audio.body.block.eps == 1e-5
    assert golden(WHISPER).model.decoder.body.block.eps == 1e-5
    assert golden(WHISPER).model.decoder.never == (5, 6, 7)
    assert golden(WHISPER).model.decoder.not_first == (8, 2)


@pytest.mark.parametrize("name", [VIDEOMAE, WHISPER])
def test_a_bias_of_the_key_is_read_as_zeros_and_never_written(name: str) -> None:
    read = golden(name)
    biases = [leaf for path, leaf in named(read.params).items() if path.endswith("key/bias")]
    assert len(biases) == {VIDEOMAE: 2, WHISPER: 4}[name]
    assert not any(np.any(bias) for bias in biases)
    leaves = {
        path: leaf + 1 if path.endswith("key/bias") else leaf
        for path, leaf in named(read.params).items()
    }
    assert difference(name, nested(leaves), read.model) < BOUND  # softmax is blind to it


def test_weights_of_the_flax_class_are_read(tmp_path: Path) -> None:
    """Of Whisper, the one of these that had one: convolutions lie (k, I, O)."""
    leaves = {}
    for key, array in load_file(GOLDEN / FOLDER / WHISPER / WEIGHTS).items():
        path = key.replace(".", "/").removesuffix("weight")
        if key.endswith("weight"):
            table = "embed" in key
            path += "scale" if array.ndim == 1 else "embedding" if table else "kernel"
            array = array if table else np.ascontiguousarray(array.T)
        leaves[path] = array
    shutil.copy(GOLDEN / FOLDER / WHISPER / CONFIG, tmp_path / CONFIG)
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(nested(leaves)))
    found, wanted = named(load(tmp_path).params), named(golden(WHISPER).params)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[path], wanted[path]) for path in wanted)


# --- what would be seen ---


def reverse(part: str, axis: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(leaves: dict[str, np.ndarray]) -> None:
        for path in [p for p in leaves if part in p]:
            leaves[path] = np.flip(leaves[path], axis)

    return change


SABOTAGE: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], None]]] = {
    "frames of a tubelet reversed": (VIDEOMAE, reverse("tubelets/kernel", 0)),
    "height and width of a tubelet swapped": (VIVIT, turn("tubelets/kernel", 0, 2, 1, 3, 4)),
    "height and width of a patch swapped": (TIMESFORMER, turn("tubelets/kernel", 0, 2, 1, 3, 4)),
    "biases of query and value swapped": (VIDEOMAE, swap("query/bias", "value/bias")),
    "the norm of the mean lost": (VIDEOMAE, lose("norm/norm/bias")),
    "the class token lost": (VIVIT, lose("class_token")),
    "positions of tubelets reversed": (VIVIT, reverse("positions/table", 0)),
    "time and space swapped": (TIMESFORMER, swap("time", "attention")),
    "parts of a fused tensor swapped": (TIMESFORMER, swap("time/query", "time/value")),
    "places in time lost": (TIMESFORMER, lose("video/times")),
    "the layer behind time lost": (TIMESFORMER, lose("time_out/kernel")),
    "bands and frames of a patch swapped": (AST, turn("stem/kernel", 1, 0, 2, 3)),
    "the distillation token lost": (AST, lose("distillation_token")),
    "a convolution reversed": (WHISPER, reverse("stem_1/kernel", 0)),
    "key and value of the cross-attention swapped": (WHISPER, swap("cross/key", "cross/value")),
    "places of sounds lost": (WHISPER, lose("audio/positions")),
}


def whole(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[dict], None]:
    """Paths with a slash on either side, as `swap` looks for them."""

    def outer(leaves: dict[str, np.ndarray]) -> None:
        slashed = {f"/{path}/": leaf for path, leaf in leaves.items()}
        change(slashed)
        leaves |= {path.strip("/"): leaf for path, leaf in slashed.items()}

    return outer


@pytest.mark.parametrize("which", SABOTAGE)
def test_a_wrong_map_would_be_seen(which: str) -> None:
    name, change = SABOTAGE[which]
    leaves = dict(named(golden(name).params))
    whole(change)(leaves)
    assert difference(name, nested(leaves), golden(name).model) > 50 * BOUND


def block(model: Any, part: str, **fields: Any) -> Any:
    encoder = getattr(model, part)
    body = replace(encoder.body, block=replace(encoder.body.block, **fields))
    return replace(model, **{part: replace(encoder, body=body)})


WRONG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "the first token for the mean": (VIDEOMAE, lambda m: replace(m, pool=Pool("first"))),
    "another GELU": (VIVIT, lambda m: block(m, "video", activation="gelu_tanh")),
    "the first of two tokens": (AST, lambda m: replace(m, pool=Pool("first"))),
    "another GELU in the decoder": (
        WHISPER, lambda m: block(m, "decoder", activation="quick_gelu")
    ),
    "another GELU after the convolutions": (
        WHISPER, lambda m: replace(m, audio=replace(m.audio, activation="quick_gelu"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_another_model_would_be_seen(which: str) -> None:
    name, change = WRONG[which]
    assert difference(name, golden(name).params, change(golden(name).model)) > 5 * BOUND


# --- spellings ---

Q, V = (rename((rf"attention\.{n[0]}_bias$", f"attention.{n}.bias")) for n in ("query", "value"))
SPELLINGS: dict[str, tuple[str, test_names.Change, set[str]]] = {
    "names in memory of VideoMAE": (VIDEOMAE, lambda a: Q(V(a)), set()),
    "a prefix less in VideoMAE": (VIDEOMAE, rename((r"^videomae\.", "")), set()),
    "names in memory of ViViT": (VIVIT, test_names.IN_MEMORY, set()),
    "names in memory of ViViT, and no prefix": (
        VIVIT, lambda a: rename((r"^vivit\.", ""))(test_names.IN_MEMORY(a)), set(),
    ),
    "a pooler in ViViT": (VIVIT, add("vivit.pooler.dense.weight"), {"vivit.pooler.dense.weight"}),
    "a prefix less in TimeSformer": (TIMESFORMER, rename((r"^timesformer\.", "")), set()),
    "names in memory of AST": (AST, test_names.IN_MEMORY, set()),
    "a prefix less in AST": (AST, rename((r"^audio_spectrogram_transformer\.", "")), set()),
    "a prefix less in Whisper": (WHISPER, rename((r"^model\.", "")), set()),
    "the tied head of Whisper": (
        WHISPER, copy(proj_out__weight="model.decoder.embed_tokens.weight"), set(),
    ),
    "the words of Whisper in their copy alone": (
        WHISPER, move("model.decoder.embed_tokens.weight", "proj_out.weight"), set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", SPELLINGS)
def test_every_spelling_is_the_same_model(which: str, tmp_path: Path) -> None:
    name, change, unused = SPELLINGS[which]
    found, wanted = test_names.read(f"{FOLDER}/{name}", change, tmp_path), golden(name)
    assert found.model == wanted.model
    assert set(found.unused) == unused
    here, there = named(found.params), named(wanted.params)
    assert here.keys() == there.keys()
    assert all(here[path].tobytes() == there[path].tobytes() for path in here)


KEY = "model.decoder.layers.0.self_attn.k_proj.bias"
UNKNOWN: dict[str, tuple[str, test_names.Change, str]] = {
    "a bias of the key": (WHISPER, add(KEY), rf"{KEY} \(1,\) is unknown"),
    "a head that differs": (
        WHISPER,
        test_names.other("proj_out.weight", "model.decoder.embed_tokens.weight"),
        "proj_out.weight differs from model.decoder.embed_tokens.weight",
    ),
    "a tubelet of two axes": (
        TIMESFORMER,
        lambda a: a | {(k := "timesformer.embeddings.patch_embeddings.projection.weight"):
                       a[k][:, :, None].copy()},
        r"is \(24, 3, 1, 4, 4\), wanted is \(24, 3, 4, 4\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", UNKNOWN)
def test_what_does_not_fit_is_named(which: str, tmp_path: Path) -> None:
    name, change, told = UNKNOWN[which]
    with pytest.raises(UserError, match=told):
        test_names.read(f"{FOLDER}/{name}", change, tmp_path)


# --- config.json ---


def configured(name: str, folder: Path, **fields: Any) -> Pretrained:
    """The golden model with other fields; ... takes one away."""
    config = json.loads((GOLDEN / FOLDER / name / CONFIG).read_text()) | fields
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / CONFIG).write_text(json.dumps(kept))
    shutil.copy(GOLDEN / FOLDER / name / WEIGHTS, folder / WEIGHTS)
    return load(folder)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "tubelets of no whole number": (VIDEOMAE, {"num_frames": 5}, r"do not divide into tubelets"),
    "an oblong patch": (VIDEOMAE, {"patch_size": [4, 2]}, r"patch_size is \[4, 2\]: .* square"),
    "one channel": (VIVIT, {"num_channels": 1}, "num_channels is 1: only 3"),
    "an oblong tubelet": (VIVIT, {"tubelet_size": [2, 4, 2]}, "the last two equal"),
    "a tubelet of a number": (VIVIT, {"tubelet_size": 2}, "must be three whole numbers"),
    "another width of heads": (VIVIT, {"head_dim": 16}, "head_dim is 16: only 8"),
    "attention over space alone": (
        TIMESFORMER, {"attention_type": "space_only"},
        'attention_type is "space_only": only "divided_space_time"',
    ),
    "joint attention": (
        TIMESFORMER, {"attention_type": "joint_space_time"},
        'attention_type is "joint_space_time": only "divided_space_time"',
    ),
    "an oblong clip": (TIMESFORMER, {"image_size": [8, 12]}, "image_size .* whole number"),
    "a scale of the words": (WHISPER, {"scale_embedding": True}, "scale_embedding is true"),
    "a head of its own": (WHISPER, {"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    "two numbers of layers": (WHISPER, {"num_hidden_layers": 3}, "num_hidden_layers is 3: only 2"),
    "suppressed words": (WHISPER, {"suppress_tokens": [-1]}, "suppress_tokens is .* list of ids"),
    "fewer frames": (AST, {"max_length": 12}, r"position_embeddings is \(1, 12, 24\), wanted"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_a_field_that_changes_the_mathematics_is_refused(which: str, tmp_path: Path) -> None:
    name, fields, told = REFUSED[which]
    with pytest.raises(UserError, match=told):
        configured(name, tmp_path, **fields)


USED: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any], Any]] = {
    "the old name of a bias": (
        VIDEOMAE, {"qv_bias": ..., "qkv_bias": True}, lambda m: m.video.body.block.qkv_bias, True,
    ),
    "an eps": (AST, {"layer_norm_eps": 1e-3}, lambda m: (m.norm_eps, m.audio.body.block.eps),
               (1e-3, 1e-3)),
    "an activation": (WHISPER, {"activation_function": "relu"},
                      lambda m: (m.audio.body.block.activation, m.audio.activation),
                      ("relu", "gelu")),
    "what the class says where a file does not": (
        WHISPER, {"begin_suppress_tokens": ...}, lambda m: m.decoder.not_first, (220, 50_256),
    ),
    "nothing": (WHISPER, {"begin_suppress_tokens": None}, lambda m: m.decoder.not_first, ()),
}  # fmt: skip


@pytest.mark.parametrize("which", USED)
def test_a_field_is_used(which: str, tmp_path: Path) -> None:
    name, fields, look, wanted = USED[which]
    assert look(configured(name, tmp_path, **fields).model) == wanted


# --- what other files say ---


def told(name: str, folder: Path, **files: dict[str, Any]) -> Any:
    """The golden model with files beside it, names without .json."""
    for file, values in files.items():
        (folder / f"{file}.json").write_text(json.dumps(values))
    return configured(name, folder).model


def test_what_frames_and_sounds_are_less_and_over(tmp_path: Path) -> None:
    frames = {"image_processor_type": "VideoMAEImageProcessor", "image_mean": 0.25, "image_std": 2}
    eyes = told(VIDEOMAE, tmp_path, preprocessor_config=frames).video
    assert (eyes.mean, eyes.std) == ((0.25,) * 3, (2.0,) * 3)
    sounds = {"num_mel_bins": 8, "max_length": 21, "mean": -3.0, "std": 2.0}
    ears = told(AST, tmp_path, preprocessor_config=sounds).audio
    assert (ears.mean, ears.std) == (-3.0, 4.0)
    with pytest.raises(UserError, match="num_mel_bins is 9: only 8"):
        told(AST, tmp_path, preprocessor_config=sounds | {"num_mel_bins": 9})


def test_words_that_the_generation_leaves_out(tmp_path: Path) -> None:
    said = {"suppress_tokens": [9], "eos_token_id": 2}
    decoder = told(WHISPER, tmp_path, generation_config=said).decoder
    assert (decoder.never, decoder.not_first) == ((9,), ())
    with pytest.raises(UserError, match=r"suppress_tokens is \[null\]: must be a list of ids"):
        told(WHISPER, tmp_path, generation_config={"suppress_tokens": [None]})


@pytest.mark.parametrize("name", [AST, WHISPER])
def test_what_is_written_says_what_sounds_are(name: str, tmp_path: Path) -> None:
    read = golden(name)
    model = replace(read.model, audio=replace(read.model.audio, mean=-1.0, std=3.0))
    if name == WHISPER:
        model = read.model
    save(tmp_path / "out", model, read.params, config=read.config)
    assert load(tmp_path / "out").model == model


# --- models of our own ---


def test_a_model_finds_its_family() -> None:
    for name in NAMES:
        assert name in family_of(golden(name).model).architectures


OTHERS: dict[str, Callable[[], Any]] = {
    "frames as pictures": lambda: Video(VideoEncoder(kind="pooled", frames=4)),
    "an encoder of two stages": lambda: Video(VideoEncoder(frames=4)),
    "a mean with the last norm": lambda: replace(golden(VIDEOMAE).model, norm_eps=0.0),
    "a convolution for a stem": lambda: Audio(AudioEncoder()),
    "a spectrogram that is not filled up": lambda: replace(
        golden(AST).model, audio=replace(golden(AST).model.audio, fill=0)
    ),
    "an eps of its own": lambda: block(golden(WHISPER).model, "decoder", eps=1e-6),
}


@pytest.mark.parametrize("which", OTHERS)
def test_a_model_that_would_be_read_back_as_another_is_refused(which: str) -> None:
    with pytest.raises(UserError, match="no published family can express this"):
        family_of(OTHERS[which]())


def test_sounds_of_any_length_are_of_the_family() -> None:
    model = golden(AST).model
    assert family_of(replace(model, audio=replace(model.audio, samples=16_000)))
