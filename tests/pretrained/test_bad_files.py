"""Folders that are damaged, incomplete, hostile or not what they say: refused with what is wrong.

Every case changes a folder that is read without complaint; each must end in a UserError whose
message names the place and the reason, within moments.
"""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

from mlm_jax.config import UserError
from mlm_jax.encoders.audio import LogMel
from mlm_jax.pretrained import load, save
from mlm_jax.pretrained.files import CONFIG, INDEX, MSGPACK, WEIGHTS

GOLDEN = Path(__file__).with_name("golden")
SHARD = "a.safetensors"
BIAS, NORM = "pooler.dense.bias", "embeddings.LayerNorm.bias"
Change = Callable[[Path], Any]


def refused(folder: Path, source: str, change: Change) -> str:
    """The message for a changed copy, no longer than a long terminal."""
    shutil.copytree(GOLDEN / source, folder, dirs_exist_ok=True)
    change(folder)
    with pytest.raises(UserError) as caught:
        load(folder)
    assert len(str(caught.value)) < 200_000
    return str(caught.value)


# --- the weights ---


def put(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def cut(count: int) -> Change:
    return lambda folder: put(WEIGHTS, (folder / WEIGHTS).read_bytes()[:count])(folder)


def packed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """`change` alters the header, or gives other text for it."""

    def alter(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        start = 8 + struct.unpack("<Q", content[:8])[0]
        whole = json.loads(content[8:start])
        other = change(whole)
        put(WEIGHTS, packed(other if isinstance(other, bytes) else whole, content[start:]))(folder)

    return alter


def twice(whole: dict[str, Any]) -> bytes:
    return json.dumps(whole)[:-1].encode() + f', "{BIAS}": {json.dumps(whole[NORM])}}}'.encode()


def of(name: str, **fields: Any) -> Change:
    return header(lambda whole: whole[name].update(fields))


def overlap(whole: dict[str, Any]) -> None:
    whole[BIAS]["data_offsets"] = whole[NORM]["data_offsets"]


def arrays(change: Callable[[dict[str, np.ndarray]], dict[str, Any]]) -> Change:
    def alter(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        save_file({**found, **change(found)}, folder / WEIGHTS)

    return alter


def replaced(name: str, by: Callable[[Path], Any]) -> Change:
    def alter(folder: Path) -> None:
        (folder / name).unlink()
        by(folder / name)

    return alter


FILES: dict[str, tuple[Change, str]] = {
    "empty": (put(WEIGHTS, b""), "does not fit in 0 bytes"),
    "cut off in the header": (cut(200), "does not fit in 200 bytes"),
    "cut off in the data": (cut(-100), "not downloaded whole"),
    "more than it says": (lambda f: put(WEIGHTS, (f / WEIGHTS).read_bytes() + b"0")(f), "damaged"),
    "header larger than the file": (put(WEIGHTS, struct.pack("<Q", 1 << 60)), "does not fit"),
    "huge header": (put(WEIGHTS, packed(b"{" + b" " * (9 << 20) + b"}")), "accepted are 8,388,608"),
    "header of lists": (put(WEIGHTS, packed(b"[" * 1_000_000)), "nested too deeply"),
    "header of nothing": (put(WEIGHTS, packed({})), "only 0 tensors"),
    "a name twice": (header(twice), f"'{BIAS}' stands twice"),
    "offsets that overlap": (header(overlap), "invalid offset"),
    "a hole in the data": (header(lambda whole: whole.pop(BIAS) and None), "invalid offset"),
    "another size of dtype": (of(BIAS, dtype="F16"), "invalid shape"),
    "an unknown dtype": (of(BIAS, dtype="X7"), "unknown variant `X7`"),
    "integers for numbers": (of(BIAS, dtype="I32"), f"{BIAS} is of dtype int32, wanted is one of"),
    "a huge shape": (of(BIAS, shape=[2**40, 2**40]), "overflow"),
    "a shape below zero": (of(BIAS, shape=[-24]), "-24"),
    "a name of control characters": (
        header(lambda whole: whole.update({"\x1b[2J": whole.pop(BIAS)})), r"'\x1b[2J'",
    ),
    "a folder for a file": (replaced(WEIGHTS, Path.mkdir), "no file"),
    "a link to nowhere": (replaced(WEIGHTS, lambda p: p.symlink_to("nowhere")), "no file"),
    "a link to itself": (replaced(WEIGHTS, lambda p: p.symlink_to(p.name)), "no file"),
    "an endless device": (replaced(WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "no file"),
    "compressed": (put(WEIGHTS, gzip.compress(b"x")), "unpack it first"),
    "a pointer of Git LFS": (put(WEIGHTS, b"version https://git-lfs.github.com"), "git lfs pull"),
    "a page of the web": (put(WEIGHTS, b"<!DOCTYPE html><html>"), "download it again"),
    "pickled under another name": (put(WEIGHTS, b"\x80\x04K\x01."), "pickled"),
    "nothing of a tensor": (arrays(lambda a: {BIAS: a[BIAS][:0]}), f"{BIAS} is (0,), wanted is"),
    "an unknown tensor": (arrays(lambda a: {"strange": a[BIAS]}), "strange (24,) is unknown"),
    "two prefixes": (
        arrays(lambda a: {f"bert.{BIAS}": a[BIAS]}), f"bert.{BIAS} and {BIAS} are all {BIAS}",
    ),
    "five thousand unknown tensors": (
        arrays(lambda a: {f"encoder.layer.{n}.qury": a[BIAS] for n in range(5000)}),
        "... and 4,000 more",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", FILES)
def test_damaged_weights_are_refused(which: str, tmp_path: Path) -> None:
    change, why = FILES[which]
    assert why in refused(tmp_path, "BertModel", change)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "tf_model.h5"])
def test_pickled_files_are_refused_with_the_way_to_convert_them(name: str, tmp_path: Path) -> None:
    told = refused(tmp_path, "BertModel", lambda f: (f / WEIGHTS).rename(f / name))
    assert f"{name} is not opened: pickled files can run any code. Convert it once" in told


def test_all_that_a_folder_lacks_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json is missing(.|\n)*has no model.safetensors"):
        load(tmp_path)


# --- the index of shards ---


def sharded(**changes: Any) -> Change:
    """One shard; `changes` of what its index says of some tensors."""

    def alter(folder: Path) -> None:
        names = dict.fromkeys(load_file(folder / WEIGHTS), SHARD)
        (folder / WEIGHTS).rename(folder / SHARD)
        text = json.dumps({"weight_map": {**names, **changes}})
        (folder / INDEX).write_text(text)

    return alter


def and_then(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


INDICES: dict[str, tuple[Change, str]] = {
    "another folder": (sharded(**{BIAS: "../b.safetensors"}), "'../b.safetensors', which is no"),
    "anywhere": (sharded(**{BIAS: "/etc/passwd"}), "'/etc/passwd', which is no safetensors file"),
    "a missing file": (sharded(**{BIAS: "b.safetensors"}), "b.safetensors is missing"),
    "a name that cannot be": (sharded(**{BIAS: "\0.safetensors"}), "is missing"),
    "a tensor too many": (sharded(more=SHARD), "promises 'more', which no file has"),
    "a number": (sharded(more=5), "no `weight_map`"),
    "a shard cut off": (
        and_then(sharded(), lambda f: put(SHARD, (f / SHARD).read_bytes()[:99])(f)), SHARD,
    ),
    "a tensor twice": (
        and_then(
            sharded(more="b.safetensors"),
            lambda f: save_file({"more": np.ones(1), BIAS: np.ones(1)}, f / "b.safetensors"),
        ),
        f"{BIAS} is in more than one file",
    ),
    "besides whole weights": (
        and_then(sharded(), lambda f: shutil.copy(f / SHARD, f / WEIGHTS)), "remove what is out of",
    ),
    "no map": (and_then(sharded(), put(INDEX, b"{}")), "no `weight_map`"),
}  # fmt: skip


@pytest.mark.parametrize("which", INDICES)
def test_an_index_that_lies_is_refused(which: str, tmp_path: Path) -> None:
    change, why = INDICES[which]
    assert why in refused(tmp_path, "BertModel", change)


def test_an_index_may_be_true(tmp_path: Path) -> None:
    """And its files links, as in the cache of the hub; their offsets need not be even."""
    shutil.copytree(GOLDEN / "BertModel", tmp_path / "in")
    sharded()(tmp_path / "in")
    content = (tmp_path / "in" / SHARD).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    text = content[8 : 8 + length].rstrip() + b" "
    blob = tmp_path / "blob"
    blob.write_bytes(packed(text + b" " * (len(text) % 2 == 0), content[8 + length :]))
    replaced(SHARD, lambda p: p.symlink_to(blob))(tmp_path / "in")
    pool = load(tmp_path / "in").params["pool"]["bias"]
    np.testing.assert_array_equal(pool, load(GOLDEN / "BertModel").params["pool"]["bias"])


# --- config.json ---


def config(part: str = "", **fields: Any) -> Change:
    def alter(folder: Path) -> None:
        whole = json.loads((folder / CONFIG).read_text())
        (whole[part] if part else whole).update(fields)
        (folder / CONFIG).write_text(json.dumps(whole))

    return alter


BERT, VIT, CLIP, SIGLIP = "BertModel", "ViTForImageClassification", "CLIPModel", "SiglipModel"
BLIP, CAPTIONER, GPT = (
    "BlipForConditionalGeneration",
    "VisionEncoderDecoderModel",
    "GPT2LMHeadModel",
)
VIDEO, FRAMES, AUDIO, WHISPER = (
    f"video_audio/{name}"
    for name in (
        "VideoMAEForVideoClassification",
        "TimesformerForVideoClassification",
        "ASTForAudioClassification",
        "WhisperForConditionalGeneration",
    )
)
HUGE: Any = 10**9
NAMES = json.dumps({f"n{i}": 0 for i in range(300_000)})[:-1].encode()
CONFIGS: list[tuple[str, Change, str]] = [
    (BERT, put(CONFIG, b""), "is damaged"),
    (BERT, put(CONFIG, b"\xff"), "is damaged"),
    (BERT, put(CONFIG, b"[]"), "a list, not an object"),
    (BERT, put(CONFIG, b'{"a":' * 100_000), "nested too deeply"),
    (BERT, put(CONFIG, b'{"a": 1, "a": 2}'), "'a' stands twice"),
    (BERT, put(CONFIG, NAMES + b', "n299999": 0}'), "'n299999' stands twice"),
    (BERT, put(CONFIG, b" " * (5 << 20)), "over 4 MiB"),
    (BERT, put(CONFIG, b'{"a": ' + b"9" * 9999 + b"}"), "is damaged"),
    (BERT, replaced(CONFIG, lambda p: p.symlink_to("/dev/zero")), "no file"),
    (BERT, config(hidden_size=HUGE), "hidden_size is 1000000000: must be from 1 to 1,048,576"),
    (BERT, config(num_hidden_layers=HUGE), "num_hidden_layers is 1000000000"),
    (BERT, config(num_hidden_layers=200), "the file has only 39 tensors"),
    (BERT, config(num_hidden_layers=-1, vocab_size=0), "vocab_size is 0: must be from 1"),
    (BERT, config(num_attention_heads=True), "num_attention_heads is true: must be a whole number"),
    (BERT, config(num_attention_heads=5), "num_attention_heads is 5: must divide hidden_size"),
    (BERT, config(hidden_size=float("nan")), "hidden_size is NaN: must be a whole number"),
    (BERT, config(hidden_size=[24]), "hidden_size is [24]"),
    (BERT, config(hidden_size=10**400), "must be from 1"),
    (BERT, config(layer_norm_eps=float("nan")), "layer_norm_eps is NaN: must be over 0"),
    (BERT, config(layer_norm_eps="1e-5"), 'layer_norm_eps is "1e-5": must be a number'),
    (BERT, config(hidden_act="mish"), 'hidden_act is "mish": must be one of gelu,'),
    (BERT, config(hidden_act={"a": 1}), "must be a name"),
    (BERT, config(architectures="BertModel"), "must be a list of one name"),
    (BERT, config(architectures=[["BertModel"]]), "architectures is"),
    (BERT, config(architectures=["BertForTokenClassification"]), "did you mean"),
    (BERT, config(architectures=["BertForMaskedLM"]), "cls.predictions.bias (61,) is missing"),
    (BERT, config(model_type="gpt2", architectures=None), "transformer.wte.weight (61, 768) is"),
    (BERT, config(model_type="roberta"), 'model_type is "roberta"'),
    (BERT, config(model_type=["bert"]), "model_type is"),
    (BERT, config(position_embedding_type="relative_key"), 'only "absolute" is supported'),
    (BERT, config(pruned_heads={"0": [1]}), "pruned_heads is"),
    (BERT, config(quantization_config={"bits": 4}), "quantization_config is"),
    (BERT, config(is_decoder=True), "is_decoder is true: only false is supported"),
    (VIT, config(id2label=["a"]), "id2label is"),
    (VIT, config(id2label={"0": "a", "7": "b", "x": "c"}), "must name 0 to 2"),
    (VIT, config(num_labels=5), "id2label has 3 names"),
    (VIT, config(image_size=HUGE), "image_size is 1000000000"),
    (VIT, config(image_size=[1 << 20, 1 << 20]), "vit.embeddings.position_embeddings is"),
    (VIT, config(image_size=3), "image size (3, 3) is less than one patch of 4"),
    (VIT, config(patch_size=-1), "patch_size is -1"),
    (VIT, config(num_channels=1), "only 3 is supported"),
    (CLIP, config(vision_config=[]), "vision_config is []: must be an object"),
    (CLIP, config(text_config_dict={"hidden_size": 8}), "(61, 24), wanted is (49408, 8)"),
    (CLIP, config(vision_config_dict=[]), "vision_config_dict is []: must be an object"),
    (CLIP, config(text_config_dict={"hidden_size": 0}), "text_config_dict.hidden_size is 0: must"),
    (CLIP, config("text_config", eos_token_id=True), "eos_token_id is true: must be one id"),
    (CLIP, config("vision_config", num_hidden_layers=HUGE), "vision_config.num_hidden_layers"),
    (SIGLIP, config("text_config", pad_token_id=61), "pad_token_id is 61: must be from 0 to 60"),
    (BLIP, config("text_config", is_decoder=False), "only true is supported"),
    (BLIP, config("text_config", num_attention_heads=None), "num_attention_heads is missing"),
    (GPT, config(scale_attn_weights=False), "only true is supported"),
    (GPT, config(reorder_and_upcast_attn=True), "only false is supported"),
    (CAPTIONER, config("decoder", cross_attention_hidden_size=8), "only null is supported"),
    (CAPTIONER, config("encoder", model_type="deit"), 'encoder.model_type is "deit"'),
    (VIDEO, config(image_size=1 << 20), "make 137,438,953,472 tubelets: times hidden_size"),
    (VIDEO, config(num_frames=1 << 20), "must be at most 33,554,432"),
    (FRAMES, config(num_frames=1 << 20), "timesformer.embeddings.time_embeddings is"),
    (AUDIO, config(max_length=1 << 20), "embeddings.position_embeddings is"),
    (AUDIO, config(num_mel_bins=1 << 20), "embeddings.position_embeddings is"),
    (WHISPER, config(max_source_positions=1 << 20), "model.encoder.embed_positions.weight is"),
    (WHISPER, config(num_mel_bins=1 << 20), "model.encoder.conv1.weight is"),
    (CAPTIONER, arrays(lambda a: {"encoder.pooler.dense.bias": np.ones(2, np.float32)}),
     "encoder.pooler.dense.bias is (2,), wanted is (36,)"),
    (VIT, put("preprocessor_config.json", b'{"image_mean": NaN}'), "image_mean is NaN"),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(CONFIGS)), ids=[why for _, _, why in CONFIGS])
def test_a_config_that_cannot_be_is_refused(at: int, tmp_path: Path) -> None:
    source, change, why = CONFIGS[at]
    assert why in refused(tmp_path, source, change)


@pytest.mark.parametrize("name", [AUDIO, WHISPER])
def test_no_sound_is_computed_to_find_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables are as large as config.json says."""
    monkeypatch.delattr(LogMel, "__call__")
    assert load(GOLDEN / name).params


def test_every_wrong_field_is_named(tmp_path: Path) -> None:
    told = refused(
        tmp_path, CLIP,
        and_then(config("vision_config", hidden_act=1), config("text_config", vocab_size="x")),
    )  # fmt: skip
    assert "vision_config.hidden_act is 1" in told
    assert 'text_config.vocab_size is "x"' in told


def test_unknown_fields_are_told_and_harmless_ones_are_not(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / CLIP, tmp_path, dirs_exist_ok=True)
    config(use_cache=True, rope_theta=1.0, hidden_dropout=0.5, num_beams=4)(tmp_path)
    config("text_config", chunk_size_feed_forward=2, sliding_window=3)(tmp_path)
    config(**{"dropout" * 100_000 + "!": 1})(tmp_path)
    told = {"rope_theta", "text_config.sliding_window", ("dropout" * 99)[:300]}
    assert set(load(tmp_path).unread) == told


@pytest.mark.parametrize("name", [CLIP, BLIP, SIGLIP])
def test_the_old_names_of_the_parts_count_for_clip_alone(name: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / name, tmp_path / "in")
    own = json.loads((tmp_path / "in" / CONFIG).read_text())["text_config"]
    old = {**own, "layer_norm_eps": 0.25}
    config(text_config_dict=old if name == CLIP else {"hidden_size": 8})(tmp_path / "in")
    read = load(tmp_path / "in")
    assert not read.unread
    words = getattr(read.model, "text", None) or read.model.decoder
    assert (words.body.block.eps == 0.25) == (name == CLIP)
    save(tmp_path / "out", read.model, read.params, config=read.config)
    assert load(tmp_path / "out").model == read.model
    assert "text_config_dict" not in json.loads((tmp_path / "out" / CONFIG).read_text())


@pytest.mark.parametrize("name", [BERT, VIT, CLIP, BLIP, CAPTIONER, GPT, SIGLIP])
def test_the_reference_writes_no_field_that_is_unknown(name: str) -> None:
    assert not load(GOLDEN / name).unread


# --- msgpack, as the Flax classes of old wrote it ---


def array(shape: list[int], dtype: str, data: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def nest(leaf: Any) -> bytes:
    return msgpack_serialize({"a": {"kernel": leaf}})


OLD: list[tuple[bytes, str]] = [
    (b"", "is damaged"),
    (b"\xc1" * 50, "is damaged"),
    (msgpack.packb(5), "holds a int, not parameters"),
    (msgpack.packb([1, 2]), "is damaged"),
    (b"\xdf\xff\xff\xff\xff", "exceeds max_map_len"),
    (b"\xc6\xff\xff\xff\xff", "incomplete input"),
    (b"\x91" * 100_000, "is damaged"),
    (b"\x81\xa1a" * 100_000 + b"\xc0", "is damaged"),
    (b"\x81\xa1a" * 900 + b"\xc0", "a name that cannot be right"),
    (gzip.compress(b"x" * 1000), "is damaged"),
    (nest(np.ones((2, 2), np.float32)) + b"x", "is damaged"),
    (msgpack.packb({"a": msgpack.ExtType(77, b"x")}), "unknown kind 77"),
    (msgpack.packb({"a": array([2**40], "float32", b"1234")}), "cannot reshape"),
    (msgpack.packb({"a": array([1], "O", b"12345678")}), "OBJECT"),
    (msgpack.packb({"a": None}), "a is no array but a NoneType"),
    (msgpack_serialize({"a.b": {"c": np.ones(1)}, "a": {"b.c": np.ones(1)}}), "a.b.c stands there"),
]


@pytest.mark.parametrize("at", range(len(OLD)))
def test_a_msgpack_that_is_none_is_refused(at: int, tmp_path: Path) -> None:
    content, why = OLD[at]
    remove = replaced(WEIGHTS, lambda p: None)
    assert why in refused(tmp_path, BERT, and_then(remove, put(MSGPACK, content)))


def test_a_msgpack_of_another_family_is_refused(tmp_path: Path) -> None:
    names = {f"layer_{n}": {"kernel": np.ones((2, 3), np.float32)} for n in range(9)}
    told = refused(
        tmp_path, BERT,
        and_then(replaced(WEIGHTS, lambda p: None), put(MSGPACK, msgpack_serialize(names))),
    )  # fmt: skip
    assert "pooler.dense.bias (24,) is missing" not in told  # without it there is no pooler
    assert "embeddings.word_embeddings.weight (61, 24) is missing" in told
    assert "layer_8.weight (3, 2) is unknown" in told
