"""A trained run as a published checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy
from tokenizers import Tokenizer, processors

from experiments.configs import video_base
from mlm_jax import train
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data import tokenizers
from mlm_jax.data.transforms import decode_for
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.export import export, put_ends
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Contrastive, Hidden
from mlm_jax.models.bert import Bert
from mlm_jax.models.blip import BlipAnswerer
from mlm_jax.models.captioner import Captioner
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.vit import Vit
from mlm_jax.paths import named
from mlm_jax.pretrained import load, siglip
from mlm_jax.pretrained.pixels import load_pixels
from mlm_jax.pretrained.store import example, family_of
from mlm_jax.trained import Trained, open_trained

BODY = Transformer(16, 1, Block(heads=2))
MODELS = {
    "BertForMaskedLM": (
        Bert(TextEncoder(32, 8, types=2, body=replace(BODY, block=Block(2, order="post")))),
        Hidden(),
    ),
    "GPT2LMHeadModel": (Gpt(TextDecoder(32, 8, body=replace(BODY))), Caption()),
    "VisionEncoderDecoderModel": (
        Captioner(
            ImageEncoder(toy.SIZE, 4, class_token=True, body=replace(BODY)),
            TextDecoder(32, 8, body=replace(BODY, layers="scanned")),
        ),
        Caption(),
    ),
    "CLIPModel": (
        Clip(
            ImageEncoder(
                toy.SIZE, 4, patch_bias=False, class_token=True, pre_norm=True, body=replace(BODY)
            ),
            TextEncoder(32, 8, causal=True, body=replace(BODY)),
            width=8,
            end="largest",
        ),
        Contrastive(),
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "CLIPModel" else []) for n in MODELS],
)
def test_a_run_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    model, loss = MODELS[name]
    data = toy.write_pictures(tmp_path / "data")
    config = toy.config(data, model=model, loss=loss, steps=2, save_every=2, eval_every=0)
    assert train.train(config, tmp_path / "run") == 0
    kind, count = export(tmp_path / "run", tmp_path / "out")
    assert kind == name
    trained, read = open_trained(tmp_path / "run"), load(tmp_path / "out")
    assert not read.unused
    assert sum(leaf.size for leaf in named(read.params).values()) == count
    if name != "VisionEncoderDecoderModel":  # whose layers were scanned
        want = named(trained.params)
        assert all(np.array_equal(leaf, want[path]) for path, leaf in named(read.params).items())
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    inner = trained.tokenizer.encode("it is red")
    end = [] if name == "GPT2LMHeadModel" else [trained.tokenizer.eos]
    assert tokenizer.encode("it is red").ids == [
        trained.tokenizer.bos,
        *inner,
        *end,
    ]
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == "[BOS]"
    types = ["token_type_ids"] if name == "BertForMaskedLM" else []
    assert settings["model_input_names"] == ["input_ids", *types, "attention_mask"]
    if hasattr(model, "image"):
        pixels = load_pixels(tmp_path / "out")
        assert pixels.size == toy.SIZE
        assert pixels.mean == model.image.mean
    with pytest.raises(UserError, match="exists"):
        export(tmp_path / "run", tmp_path / "out")


def test_a_clip_classifier_is_written_with_its_crop_and_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = video_base.tiny.model
    params = jax.jit(model.init)(jax.random.key(0), example(model))["params"]
    (tmp_path / "classes.json").write_text('["fall", "sit"]')
    run = Trained(tmp_path, video_base.tiny, tokenizers.words([]), params, 1)
    monkeypatch.setattr("mlm_jax.export.open_trained", lambda path: run)
    kind, _ = export(tmp_path, tmp_path / "out")
    assert kind == "VideoMAEForVideoClassification"
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [*settings["id2label"].values()][:3] == ["fall", "sit", "LABEL_2"]
    assert settings["label2id"]["sit"] == 1
    assert load(tmp_path / "out").model.labels == len(settings["id2label"]) == 10
    written = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (written["size"], written["do_center_crop"]) == ({"shortest_edge": 48}, True)
    wide = np.add.outer(np.arange(96), np.arange(160)).astype(np.uint8)[..., None].repeat(3, -1)
    ours = decode_for(video_base.tiny.data, (48, 48))(wide).astype(int)
    assert np.abs(load_pixels(tmp_path / "out")(wide) - ours).max() <= 1
    oblong = replace(model, video=replace(model.video, size=(48, 32)))
    run = run._replace(config=replace(video_base.tiny, model=oblong))
    with pytest.raises(UserError, match="'crop', to 48 x 32 pixels: only"):
        export(tmp_path, tmp_path / "oblong")


def test_a_siglip_is_written_with_how_its_texts_are_filled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, own = TextEncoder(32, 8, body=replace(BODY)), tokenizers.words(["it is red"])
    eyes, pool = ImageEncoder(toy.SIZE, 4, body=replace(BODY)), siglip.map_of(BODY.block)
    model = Clip(eyes, texts, pool, 16, "siglip", end="place", end_id=own.eos)
    params = jax.jit(model.init)(jax.random.key(0), example(model))["params"]
    config = Config(model=model, loss=Contrastive(), data=Data(target_length=6))
    run = Trained(tmp_path, config, own, params, 1)
    monkeypatch.setattr("mlm_jax.export.open_trained", lambda path: run)
    assert export(tmp_path, tmp_path / "out")[0] == "SiglipModel"
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["pad_token"] == settings["eos_token"] == "[EOS]"
    assert settings["model_max_length"] == 8
    assert settings["model_input_names"] == ["input_ids"]
    assert load(tmp_path / "out").model.end_id == own.eos


def test_what_no_family_can_express_is_named() -> None:
    block = Block(2, order="post", qk_norm=True)
    model = Bert(TextEncoder(32, 8, body=replace(BODY, block=block)))
    with pytest.raises(UserError, match=r"bert: .*text.types is 0.*qk_norm is True, there False"):
        family_of(model)


POST = Block(2, order="post", eps=1e-12)
EYES = ImageEncoder(toy.SIZE, 4, class_token=True, body=replace(BODY))


def post(depth: int = 1) -> Transformer:
    return replace(BODY, depth=depth, block=replace(POST))


WRONG = {
    "a pooling head of another ratio": Clip(
        ImageEncoder(toy.SIZE, 4, body=replace(BODY)),
        TextEncoder(32, 8, body=replace(BODY)),
        replace(siglip.map_of(BODY.block), ratio=2.0),
        width=16,
        kind="siglip",
        end="place",
    ),
    "a pooler without its head": Bert(TextEncoder(32, 8, 2, body=post()), pooler=True),
    "five classes of next sentence": Bert(
        TextEncoder(32, 8, 2, body=post()), pooler=True, labels=5
    ),
    "an end that means the largest id": replace(MODELS["CLIPModel"][0], end="id", end_id=2),
    "two heads and one token": Vit(replace(EYES), taught=True),
    "parts of different depth": BlipAnswerer(
        replace(EYES), TextEncoder(32, 8, body=post(2)), TextDecoder(32, 8, "bert", post())
    ),
    "an activation of ours": Gpt(
        TextDecoder(32, 8, body=replace(BODY, block=Block(2, activation="swiglu")))
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_model_that_would_be_read_back_as_another_is_refused(which: str) -> None:
    with pytest.raises(UserError, match="no published family can express this"):
        family_of(WRONG[which])


@pytest.mark.parametrize("name", MODELS)
def test_a_family_is_found_by_what_it_would_read_back(name: str) -> None:
    model = MODELS[name][0]
    assert name in family_of(model).architectures


ENDS: dict[str, Any] = {
    "no processor": None,
    "nothing": processors.ByteLevel(),
    "one": processors.TemplateProcessing("$A [EOS]", special_tokens=[("[EOS]", 2)]),
    "both": processors.BertProcessing(("[EOS]", 2), ("[BOS]", 1)),
}


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("own", ENDS)
def test_a_text_has_the_ends_that_it_had_in_training(own: str, after: bool) -> None:
    inner = tokenizers.words(["red"]).inner
    if ENDS[own] is not None:
        inner.post_processor = ENDS[own]
    put_ends(tokenizers.Tokenizer(inner), after)
    assert inner.encode("red").ids == ([1, 4, 2] if after else [1, 4])
    assert ("ByteLevel" in inner.to_str()) == (own == "nothing")


def test_a_folder_is_whole_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss = MODELS["GPT2LMHeadModel"]
    data = toy.write_pictures(tmp_path / "data")
    config = toy.config(data, model=model, loss=loss, steps=1, eval_every=0)
    train.train(config, tmp_path / "run")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("mlm_jax.export.save_tokenizer", full)
        with pytest.raises(OSError, match="no space"):
            export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(tmp_path / "run", tmp_path / "out")


def test_bert_hides_by_the_ids_of_its_tokenizer(tmp_path: Path) -> None:
    model, loss = MODELS["BertForMaskedLM"]
    data = toy.write_pictures(tmp_path / "data")
    wrong = replace(model, mask_id=1)
    config = toy.config(data, model=wrong, loss=loss, steps=1, eval_every=0)
    with pytest.raises(UserError, match=r"--model.mask-id 3 --model.special 0 1 2"):
        train.train(config, tmp_path / "run")
