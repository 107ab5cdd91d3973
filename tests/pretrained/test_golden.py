"""Small random models written by the reference, and what it computes with them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ours
import pytest
from flax.serialization import msgpack_serialize
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mlm_jax.config import flat
from mlm_jax.models.clip import Clip
from mlm_jax.paths import named, nested
from mlm_jax.pretrained import load, save
from mlm_jax.pretrained.files import CONFIG, open_folder
from mlm_jax.pretrained.vocabulary import save_tokenizer

GOLDEN = Path(__file__).with_name("golden")
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))
BOUND = 2e-5


def inputs_and_outputs(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    whole = dict(np.load(GOLDEN / name / "expected.npz"))
    outputs = {k.removeprefix("out_"): whole.pop(k) for k in list(whole) if k.startswith("out_")}
    return whole, outputs


def difference(name: str, params: Any, model: Any) -> float:
    given, wanted = inputs_and_outputs(name)
    wanted.pop("written", None)
    found = ours.run(model, params, given)
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[k] - wanted[k]).max()) for k in wanted)


def test_there_is_one_of_every_class() -> None:
    assert len(NAMES) == 16


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_the_reference(name: str) -> None:
    read = load(GOLDEN / name)
    assert not read.unused
    assert difference(name, read.params, read.model) < BOUND
    given, wanted = inputs_and_outputs(name)
    if "written" in wanted:
        written = ours.write(read.model, read.params, given)
        np.testing.assert_array_equal(written, wanted["written"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name: str, tmp_path: Path) -> None:
    read = load(GOLDEN / name)
    save(tmp_path / "out", read.model, read.params, config=read.config, idle=read.idle)
    before, after = open_folder(GOLDEN / name), open_folder(tmp_path / "out")
    assert before.tensors.keys() == after.tensors.keys()
    for key, stored in before.tensors.items():
        assert (stored.shape, stored.dtype) == (after.tensors[key].shape, after.tensors[key].dtype)
        assert stored.read().tobytes() == after.tensors[key].read().tobytes()
    again = load(tmp_path / "out")
    assert again.model == read.model
    old, new = flat(before.config), flat(after.config)
    assert {k for k, v in old.items() if new.get(k) != v} <= {
        "text_config.projection_dim",  # CLIPModel reads that of the whole alone
        "vision_config.projection_dim",
    }


@pytest.mark.parametrize("names", [{"0": "cat", "1": "dog", "2": "owl"}, None])
def test_names_of_other_classes_do_not_go_with_a_new_head(names: Any, tmp_path: Path) -> None:
    read = load(GOLDEN / "ViTForImageClassification")
    model = replace(read.model, labels=5)
    head = {"kernel": np.zeros((24, 5), np.float32), "bias": np.zeros(5, np.float32)}
    config = read.config | {"id2label": names, "label2id": {}}
    save(tmp_path / "out", model, read.params | {"head": head}, config=config)
    again = load(tmp_path / "out")
    assert again.model == model
    assert not {"id2label", "label2id"} & again.config.keys()


def test_how_it_generates_stays_where_the_model_says_nothing_of_it(tmp_path: Path) -> None:
    read, told = load(GOLDEN / "GPT2LMHeadModel"), {"suppress_tokens": [5], "max_length": 9}
    save(tmp_path / "out", read.model, read.params, config=read.config, generation=told)
    assert load(tmp_path / "out").generation == told


def swap(*names: str) -> Callable[[dict[str, np.ndarray]], None]:
    """Exchange two modules of every block whose paths end so."""

    def change(leaves: dict[str, np.ndarray]) -> None:
        one, two = names
        for path in [p for p in leaves if f"/{one}/" in p]:
            twin = path.replace(f"/{one}/", f"/{two}/")
            leaves[path], leaves[twin] = leaves[twin], leaves[path]

    return change


def turn(part: str, *axes: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(leaves: dict[str, np.ndarray]) -> None:
        for path in [p for p in leaves if part in p]:
            leaves[path] = leaves[path].transpose(axes)

    return change


def lose(part: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(leaves: dict[str, np.ndarray]) -> None:
        for path in [p for p in leaves if part in p]:
            leaves[path] = np.zeros_like(leaves[path])

    return change


SABOTAGE = {
    "query and key swapped": ("BertModel", swap("query", "key")),
    "key and value of the cross-attention swapped": (
        "VisionEncoderDecoderModel", swap("cross/key", "cross/value"),
    ),
    "parts of a fused tensor swapped": (
        "GPT2LMHeadModel", swap("attention/key", "attention/value"),
    ),
    "a transpose forgotten": ("BertForMaskedLM", turn("transform/kernel", 1, 0)),
    "height and width of a patch swapped": (
        "ViTForImageClassification", turn("stem/patches/kernel", 1, 0, 2, 3),
    ),
    "the bias of the query lost": ("CLIPModel", lose("attention/query/bias")),
    "segments lost": ("BertModel", lose("segments")),
    "the norm of the embeddings lost": ("BlipForConditionalGeneration", lose("normed/norm/bias")),
    "a head lost": ("DeiTForImageClassificationWithTeacher", lose("taught_head")),
    "the pooling head swapped": ("SiglipModel", swap("attention/query", "attention/key")),
}  # fmt: skip


@pytest.mark.parametrize("which", SABOTAGE)
def test_a_wrong_map_would_be_seen(which: str) -> None:
    name, change = SABOTAGE[which]
    read = load(GOLDEN / name)
    leaves = named(read.params)
    change(leaves)
    assert difference(name, nested(leaves), read.model) > 100 * BOUND


@pytest.mark.parametrize("name", ["BertForMaskedLM", "ViTForImageClassification", "CLIPModel"])
def test_weights_of_the_flax_classes_are_read(name: str, tmp_path: Path) -> None:
    """Flax names: kernel, scale, embedding; kernels (in, out), convolutions (h, w, I, O)."""
    folder = open_folder(GOLDEN / name)
    (tmp_path / CONFIG).write_text((GOLDEN / name / CONFIG).read_text())
    leaves: dict[str, np.ndarray] = {}
    for key, stored in folder.tensors.items():
        array, module = stored.read(), key.rpartition(".")[0]
        if key.endswith("weight") and "embedding" in module and array.ndim == 2:
            key = f"{module}.embedding"
        elif key.endswith("weight") and array.ndim == 1:
            key = f"{module}.scale"
        elif key.endswith("weight"):
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            key = f"{module}.kernel"
        leaves[key.replace(".", "/")] = np.ascontiguousarray(array) if array.ndim else array
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(nested(leaves)))
    read = load(tmp_path)
    assert difference(name, read.params, read.model) < BOUND


def test_a_text_of_siglip_is_filled_up_as_config_or_tokenizer_say(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "SiglipModel", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / CONFIG).read_text())

    def end_id(pad: int | None) -> int:
        config["text_config"]["pad_token_id"] = pad
        (tmp_path / CONFIG).write_text(json.dumps(config))
        model: Clip = load(tmp_path).model
        return model.end_id

    assert [end_id(0), end_id(None)] == [0, 1]
    save_tokenizer(Tokenizer(WordLevel({"<pad>": 0}, "<pad>")), tmp_path, special={"pad": "<pad>"})
    assert [end_id(None), end_id(5)] == [0, 5]
