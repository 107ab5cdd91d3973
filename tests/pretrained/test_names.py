"""The spellings that published files have: each leads to the same parameters as the published one.

A case renames, adds or removes tensors of a golden folder.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlm_jax.config import UserError
from mlm_jax.paths import named
from mlm_jax.pretrained import Pretrained, load
from mlm_jax.pretrained.files import CONFIG, WEIGHTS

GOLDEN = Path(__file__).with_name("golden")
Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays], Arrays]
MODEL, MASKED, PRETRAINING, LABELS = (
    f"Bert{name}"
    for name in ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")
)
GPT, VIT, CLIP, SIGLIP = "GPT2LMHeadModel", "ViTForImageClassification", "CLIPModel", "SiglipModel"
DEIT = "DeiTForImageClassificationWithTeacher"
CAPTION, MATCH = "BlipForConditionalGeneration", "BlipForImageTextRetrieval"
CAPTIONER = "VisionEncoderDecoderModel"
ONE = np.ones(1, np.float32)


def rename(*rules: tuple[str, str]) -> Change:
    def change(arrays: Arrays) -> Arrays:
        found = {}
        for name, array in arrays.items():
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
            found[name] = array
        return found

    return change


def add(*names: str) -> Change:
    return lambda arrays: arrays | dict.fromkeys(names, ONE)


def copy(**pairs: str) -> Change:
    """copy -> source, with `__` for dots."""
    names = {new.replace("__", "."): old.replace("__", ".") for new, old in pairs.items()}
    return lambda arrays: arrays | {new: arrays[old].copy() for new, old in names.items()}


def move(old: str, new: str) -> Change:
    return rename((f"^{re.escape(old)}$", new))


GAMMA = rename((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"))
IN_MEMORY = rename(
    (r"encoder\.layer\.(\d+)\.attention\.attention\.query", r"layers.\1.attention.q_proj"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.key", r"layers.\1.attention.k_proj"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.value", r"layers.\1.attention.v_proj"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"layers.\1.attention.o_proj"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"layers.\1.mlp.fc1"),
    (r"encoder\.layer\.(\d+)\.output\.dense", r"layers.\1.mlp.fc2"),
    (r"encoder\.layer\.(\d+)\.", r"layers.\1."),
)
BERT_WORDS = "bert.embeddings.word_embeddings.weight"
HEAD = "cls.predictions"

# golden folder, change, what is then not used
SPELLINGS: dict[str, tuple[str, Change, set[str]]] = {
    "a prefix more": (MODEL, rename((r"^", "bert.")), set()),
    "a prefix less": (LABELS, rename((r"^bert\.", "")), set()),
    "a prefix less with a head": (MASKED, rename((r"^bert\.", "")), set()),
    "a prefix less in GPT-2": (GPT, rename((r"^transformer\.", "")), set()),
    "a prefix less in ViT": (VIT, rename((r"^vit\.", "")), set()),
    "a prefix less in DeiT": (DEIT, rename((r"^deit\.", "")), set()),
    "gamma and beta": (PRETRAINING, GAMMA, set()),
    "gamma and beta in BLIP": (CAPTION, GAMMA, set()),
    "names in memory of ViT": (VIT, IN_MEMORY, set()),
    "names in memory of DeiT": (DEIT, IN_MEMORY, set()),
    "names in memory of a captioner's eye": (CAPTIONER, IN_MEMORY, set()),
    "names in memory, and no prefix": (
        VIT, lambda a: rename((r"^vit\.", ""))(IN_MEMORY(a)), set(),
    ),
    "positions as a buffer": (
        MODEL, add("embeddings.position_ids"), {"embeddings.position_ids"},
    ),
    "types as a buffer": (
        MASKED, add("bert.embeddings.token_type_ids"), {"bert.embeddings.token_type_ids"},
    ),
    "buffers of CLIP": (
        CLIP,
        add("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
        {"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"},
    ),
    "the buffer of SigLIP": (
        SIGLIP, add("vision_model.embeddings.position_ids"),
        {"vision_model.embeddings.position_ids"},
    ),
    "the triangle of GPT-2": (
        GPT, add("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"),
        {"transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"},
    ),
    "the triangle without a prefix": (
        GPT, lambda a: add("h.1.attn.bias")(rename((r"^transformer\.", ""))(a)), {"h.1.attn.bias"},
    ),
    "the triangle of cross-attention": (
        CAPTIONER, add("decoder.transformer.h.0.crossattention.bias"),
        {"decoder.transformer.h.0.crossattention.bias"},
    ),
    "copies that are tied": (
        MASKED,
        copy(cls__predictions__decoder__weight=BERT_WORDS,
             cls__predictions__decoder__bias=f"{HEAD}.bias"),
        set(),
    ),
    "the tied head of GPT-2": (GPT, copy(lm_head__weight="transformer.wte.weight"), set()),
    "the tied head without a prefix": (
        GPT, lambda a: rename((r"^transformer\.", ""))(
            copy(lm_head__weight="transformer.wte.weight")(a)),
        set(),
    ),
    "the tied head of a captioner": (
        CAPTIONER, copy(decoder__lm_head__weight="decoder.transformer.wte.weight"), set(),
    ),
    "the tied head of BLIP": (
        CAPTION,
        copy(text_decoder__cls__predictions__decoder__weight=f"text_decoder.{BERT_WORDS}"), set(),
    ),
    "the words in their copy alone": (MASKED, move(BERT_WORDS, f"{HEAD}.decoder.weight"), set()),
    "the bias in its copy alone": (MASKED, move(f"{HEAD}.bias", f"{HEAD}.decoder.bias"), set()),
    "the bias of BLIP in its copy alone": (
        CAPTION, move(f"text_decoder.{HEAD}.bias", f"text_decoder.{HEAD}.decoder.bias"), set(),
    ),
    "heads that the model does not have": (
        MODEL, add("cls.seq_relationship.weight", f"{HEAD}.bias"),
        {"cls.seq_relationship.weight", f"{HEAD}.bias"},
    ),
    "a pooler that the model does not have": (
        MASKED, add("bert.pooler.dense.weight", "cls.seq_relationship.bias"),
        {"bert.pooler.dense.weight", "cls.seq_relationship.bias"},
    ),
    "a pooler in ViT": (VIT, add("vit.pooler.dense.weight"), {"vit.pooler.dense.weight"}),
    "a mask in ViT": (VIT, add("vit.embeddings.mask_token"), {"vit.embeddings.mask_token"}),
}  # fmt: skip


def read(name: str, change: Change, folder: Path) -> Pretrained:
    shutil.copy(GOLDEN / name / CONFIG, folder / CONFIG)
    changed = change(load_file(GOLDEN / name / WEIGHTS))
    save_file(changed, folder / WEIGHTS, {"format": "pt"})
    return load(folder)


@cache
def golden(name: str) -> Pretrained:
    return load(GOLDEN / name)


@pytest.mark.parametrize("which", SPELLINGS)
def test_every_spelling_is_the_same_model(which: str, tmp_path: Path) -> None:
    name, change, unused = SPELLINGS[which]
    found, wanted = read(name, change, tmp_path), golden(name)
    assert found.model == wanted.model
    assert set(found.unused) == unused
    ours, theirs = named(found.params), named(wanted.params)
    assert ours.keys() == theirs.keys()
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in ours)


def test_a_gpt2_without_its_head_is_the_same(tmp_path: Path) -> None:
    config = json.loads((GOLDEN / GPT / CONFIG).read_text()) | {"architectures": ["GPT2Model"]}
    arrays = rename((r"^transformer\.", ""))(load_file(GOLDEN / GPT / WEIGHTS))
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save_file(arrays, tmp_path / WEIGHTS, {"format": "pt"})
    found = load(tmp_path)
    assert found.model == golden(GPT).model
    assert named(found.params).keys() == named(golden(GPT).params).keys()


def turned(name: str) -> Change:
    return lambda arrays: arrays | {name: np.ascontiguousarray(arrays[name].T)}


def other(copy: str, source: str) -> Change:
    return lambda arrays: arrays | {copy: arrays[source] + 1}


UP = "encoder.layer.1.intermediate.dense.weight"
REFUSED: dict[str, tuple[str, Change, list[str]]] = {
    "a name misspelt": (
        MODEL, rename(("intermediate", "intermediat")),
        [f"{UP} (40, 24) is missing",
         f"encoder.layer.1.intermediat.dense.weight (40, 24) is unknown; perhaps {UP}"],
    ),
    "a layer too many": (
        GPT, add("transformer.h.2.ln_1.weight"), ["transformer.h.2.ln_1.weight (1,) is unknown"],
    ),
    "a wrong shape": (MODEL, turned(UP), [f"{UP} is (24, 40), wanted is (40, 24)"]),
    "half a tower": (
        CLIP, lambda a: {k: v for k, v in a.items() if not k.startswith("text_model.encoder")},
        ["32 tensors", "text_model.encoder.layers.0.self_attn.q_proj.weight (24, 24) is missing"],
    ),
    "a bias of the triangle's name elsewhere": (
        VIT, add("vit.encoder.bias"), ["vit.encoder.bias (1,) is unknown"],
    ),
    "two spellings of one tensor": (
        LABELS,
        lambda a: a | {"bert.embeddings.LayerNorm.gamma": a["bert.embeddings.LayerNorm.weight"]},
        ["bert.embeddings.LayerNorm.gamma and bert.embeddings.LayerNorm.weight are all"],
    ),
    "a copy that differs": (
        GPT, other("lm_head.weight", "transformer.wte.weight"),
        ["lm_head.weight differs from transformer.wte.weight, to which it is tied"],
    ),
    "a bias that differs": (
        MASKED, other(f"{HEAD}.decoder.bias", f"{HEAD}.bias"),
        [f"{HEAD}.decoder.bias differs from {HEAD}.bias"],
    ),
    "everything at once": (
        MATCH,
        lambda a: rename(("itm_head.bias", "itm_haed.bias"))(turned("vision_proj.weight")(a)),
        ["3 tensors", "itm_head.bias (2,) is missing", "; perhaps itm_head.bias",
         "vision_proj.weight is (24, 12), wanted is (12, 24)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_what_does_not_fit_is_named(which: str, tmp_path: Path) -> None:
    name, change, told = REFUSED[which]
    with pytest.raises(UserError) as caught:
        read(name, change, tmp_path)
    assert [part for part in told if part not in str(caught.value)] == []
