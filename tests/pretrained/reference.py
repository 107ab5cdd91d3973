"""The reference implementation: small random models of every class, their inputs and outputs.

Needs the extra `parity`. Golden files and live comparisons are made of the same cases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as T  # noqa: N812

Arrays = dict[str, np.ndarray]
VOCAB, PLACES = 61, 24
START, END, PAD = 1, 2, 0


@dataclass(frozen=True)
class Case:
    """`make` builds the model from drawn sizes; `run` gives what is compared."""

    make: Callable[[dict[str, Any]], Any]
    run: Callable[[Any, Arrays], Arrays]
    generate: Callable[[Any, Arrays], np.ndarray] | None = None


def draw(seed: int) -> dict[str, Any]:
    """Sizes of a model: odd numbers of heads, all activations, any epsilon."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([1, 2, 3, 5]))
    width = heads * int(rng.choice([4, 8, 12]))
    patch = int(rng.choice([4, 8]))
    acts = ["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]
    return {
        "heads": heads,
        "width": width,
        "hidden": int(rng.integers(1, 4) * 11 + width),
        "depth": int(rng.integers(1, 4)),
        "act": str(rng.choice(acts)),
        "eps": float(rng.choice([1e-12, 1e-6, 1e-5, 1e-3])),
        "patch": patch,
        "pixels": patch * int(rng.integers(2, 4)),
        "bias": bool(rng.integers(2)),
        "labels": int(rng.integers(2, 6)),
        "other": heads * int(rng.choice([4, 8, 12])),
        "end": int(rng.choice([2, VOCAB - 1])),
    }


def inputs(d: dict[str, Any], rows: int = 4, seed: int = 0) -> Arrays:
    """Texts of odd lengths with padding on the right; the last word of each is the end."""
    rng = np.random.default_rng(seed)
    count = 7
    lengths = rng.integers(3, count + 1, rows)
    lengths[0] = count
    mask = np.arange(count) < lengths[:, None]
    ids = rng.integers(3, VOCAB - 1, (rows, count))
    return {
        "ids": np.where(mask, ids, PAD).astype(np.int32),
        "mask": mask,
        "types": rng.integers(0, 2, (rows, count)).astype(np.int32),
        "pixels": rng.normal(size=(rows, d["pixels"], d["pixels"], 3)).astype(np.float32),
    }


def weigh(model: Any, seed: int, regime: str) -> Any:
    """Random weights. "default" are those of the class, in which much hides; "wide" shows it."""
    model = model.eval()
    if regime == "default":
        return model
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        scale = 0.3 if p.ndim >= 2 else 0.2
        norm = name.endswith("weight") and p.ndim == 1
        p.data = scale * noise + (1.0 if norm else 0.0)
    return model


def sizes(d: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": d["width"],
        "num_hidden_layers": d["depth"],
        "num_attention_heads": d["heads"],
        "intermediate_size": d["hidden"],
        "hidden_act": d["act"],
        "layer_norm_eps": d["eps"],
        **more,
    }


def words(d: dict[str, Any], **more: Any) -> dict[str, Any]:
    return sizes(d, vocab_size=VOCAB, max_position_embeddings=PLACES, **more)


def eyes(d: dict[str, Any], **more: Any) -> dict[str, Any]:
    return sizes(d, image_size=d["pixels"], patch_size=d["patch"], **more)


def gpt2(d: dict[str, Any], **more: Any) -> Any:
    return T.GPT2Config(
        vocab_size=VOCAB, n_positions=PLACES, n_embd=d["width"], n_layer=d["depth"],
        n_head=d["heads"], n_inner=d["hidden"], activation_function=d["act"],
        layer_norm_epsilon=d["eps"], bos_token_id=START, eos_token_id=END, pad_token_id=PAD, **more,
    )  # fmt: skip


def blip(d: dict[str, Any]) -> Any:
    text = words(d, bos_token_id=START, sep_token_id=END, eos_token_id=END, pad_token_id=PAD)
    return T.BlipConfig(
        text_config={**text, "encoder_hidden_size": d["width"]},
        vision_config=eyes({**d, "act": "gelu"}),
        image_text_hidden_size=12,
    )


def clip(d: dict[str, Any]) -> Any:
    text = words(d, eos_token_id=d["end"], bos_token_id=START, pad_token_id=PAD)
    vision = eyes({**d, "width": d["other"], "act": "quick_gelu"})
    return T.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)


def siglip(d: dict[str, Any]) -> Any:
    other = {**d, "width": d["other"]}
    return T.SiglipConfig(
        text_config=words(d, projection_size=d["other"]), vision_config=eyes(other)
    )


def captioner(d: dict[str, Any]) -> Any:
    eye = T.ViTModel(T.ViTConfig(**eyes({**d, "width": d["other"]})))
    writer = T.GPT2LMHeadModel(gpt2(d, add_cross_attention=True, is_decoder=True))
    model = T.VisionEncoderDecoderModel(encoder=eye, decoder=writer)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = START
    model.config.pad_token_id = model.generation_config.pad_token_id = PAD
    return model


# --- running ---


def tensor(x: np.ndarray) -> Any:
    return torch.tensor(x.astype(np.int64) if x.dtype in (bool, np.int32) else x)


def pixels(x: Arrays) -> Any:
    return tensor(x["pixels"].transpose(0, 3, 1, 2).copy())


def text(x: Arrays) -> dict[str, Any]:
    return {"input_ids": tensor(x["ids"]), "attention_mask": tensor(x["mask"])}


def real(x: Arrays, values: Any) -> np.ndarray:
    """Those at real words, one after the other."""
    return values.numpy()[x["mask"]]


def run_bert(model: Any, x: Arrays) -> Arrays:
    out = model(**text(x), token_type_ids=tensor(x["types"]))
    found = {}
    if isinstance(model, T.BertForMaskedLM):
        found["logits"] = real(x, out.logits)
    elif isinstance(model, T.BertForPreTraining):
        found["logits"] = real(x, out.prediction_logits)
        found["classes"] = out.seq_relationship_logits.numpy()
    elif isinstance(model, T.BertModel):
        found["tokens"] = real(x, out.last_hidden_state)
        found["pooled"] = out.pooler_output.numpy()
    else:
        found["classes"] = out.logits.numpy()
    return found


def run_pair(model: Any, x: Arrays) -> Arrays:
    mask = {} if isinstance(model, T.SiglipModel) else {"attention_mask": tensor(x["mask"])}
    out = model(input_ids=tensor(x["ids"]), pixel_values=pixels(x), **mask)
    return {"logits": out.logits_per_image.numpy()}


def run_matcher(model: Any, x: Arrays) -> Arrays:
    given = {"pixel_values": pixels(x), **text(x)}
    alone = model(**given, use_itm_head=False).itm_score
    return {"match": model(**given).itm_score.numpy(), "cosine": alone.numpy()}


def run_answerer(model: Any, x: Arrays) -> Arrays:
    """One at a time and without padding: the port loses the mask on the way to the decoder."""
    found = []
    for ids, mask, image in zip(x["ids"], x["mask"], pixels(x), strict=True):
        asked = tensor(ids[mask])[None]
        seen = model.vision_model(pixel_values=image[None])[0]
        read = model.text_encoder(input_ids=asked, encoder_hidden_states=seen, return_dict=False)
        out = model.text_decoder(input_ids=asked, encoder_hidden_states=read[0], return_dict=True)
        found.append(out.logits[0].numpy())
    return {"logits": np.concatenate(found)}


def generate_gpt2(model: Any, x: Arrays) -> np.ndarray:
    """After prompts that are filled up on the left."""
    ids, mask = x["ids"][:, ::-1].copy(), x["mask"][:, ::-1].copy()
    out = model.generate(
        tensor(ids), attention_mask=tensor(mask), max_new_tokens=12, do_sample=False
    )
    return filled(out[:, ids.shape[1] :], 12)


def generate_captioner(model: Any, x: Arrays) -> np.ndarray:
    out = model.generate(pixels(x), max_new_tokens=12, do_sample=False, num_beams=1)
    return filled(out[:, 1:], 12)


def generate_blip(model: Any, x: Arrays) -> np.ndarray:
    """After the first three words; the class puts its start in the place of the first."""
    ids = np.c_[x["ids"][:, :3], np.full(len(x["ids"]), END, np.int32)]
    out = model.generate(
        pixels(x), tensor(ids), attention_mask=tensor(np.ones_like(ids)),
        max_new_tokens=12, do_sample=False, num_beams=1,
    )  # fmt: skip
    return filled(out[:, 3:], 12)


def generate_answers(model: Any, x: Arrays) -> np.ndarray:
    rows = []
    for ids, mask, image in zip(x["ids"], x["mask"], pixels(x), strict=True):
        asked = tensor(ids[mask])[None]
        out = model.generate(
            asked, image[None], attention_mask=torch.ones_like(asked),
            max_new_tokens=12, do_sample=False, num_beams=1,
        )  # fmt: skip
        rows.append(filled(out[:, 1:], 12))
    return np.concatenate(rows)


def filled(ids: Any, length: int) -> np.ndarray:
    """Rows of `length`, padded."""
    whole = np.full((len(ids), length), PAD, np.int32)
    whole[:, : ids.shape[1]] = ids.numpy()
    return whole


def berts(cls: Any, **more: Any) -> Case:
    def make(d: dict[str, Any]) -> Any:
        labels = {"num_labels": d["labels"]} if cls is T.BertForSequenceClassification else {}
        return cls(T.BertConfig(**words(d, **more, **labels)))

    return Case(make, run_bert)


def vits(cls: Any, config: Any) -> Case:
    return Case(
        lambda d: cls(config(**eyes(d, num_labels=d["labels"], qkv_bias=d["bias"]))),
        lambda model, x: {"logits": model(pixels(x)).logits.numpy()},
    )


def headless(cls: Any, config: Any) -> Case:
    return Case(
        lambda d: cls(config(**eyes(d, qkv_bias=d["bias"]))),
        lambda model, x: {"pooled": model(pixels(x)).last_hidden_state[:, 0].numpy()},
    )


def run_gpt2(model: Any, x: Arrays) -> Arrays:
    return {"logits": real(x, model(**text(x)).logits)}


def run_captioner(model: Any, x: Arrays) -> Arrays:
    given = {"decoder_input_ids": tensor(x["ids"]), "decoder_attention_mask": tensor(x["mask"])}
    return {"logits": real(x, model(pixel_values=pixels(x), **given).logits)}


def run_blip(model: Any, x: Arrays) -> Arrays:
    return {"logits": real(x, model(pixel_values=pixels(x), **text(x)).logits)}


CASES: dict[str, Case] = {
    "BertModel": berts(T.BertModel),
    "BertForMaskedLM": berts(T.BertForMaskedLM),
    "BertForPreTraining": berts(T.BertForPreTraining),
    "BertForSequenceClassification": berts(T.BertForSequenceClassification),
    "GPT2LMHeadModel": Case(lambda d: T.GPT2LMHeadModel(gpt2(d)), run_gpt2, generate_gpt2),
    "ViTForImageClassification": vits(T.ViTForImageClassification, T.ViTConfig),
    "DeiTForImageClassification": vits(T.DeiTForImageClassification, T.DeiTConfig),
    "DeiTForImageClassificationWithTeacher": vits(
        T.DeiTForImageClassificationWithTeacher, T.DeiTConfig
    ),
    "CLIPModel": Case(lambda d: T.CLIPModel(clip(d)), run_pair),
    "SiglipModel": Case(lambda d: T.SiglipModel(siglip(d)), run_pair),
    "BlipForConditionalGeneration": Case(
        lambda d: T.BlipForConditionalGeneration(blip(d)), run_blip, generate_blip
    ),
    "BlipForQuestionAnswering": Case(
        lambda d: T.BlipForQuestionAnswering(blip(d)), run_answerer, generate_answers
    ),
    "BlipForImageTextRetrieval": Case(lambda d: T.BlipForImageTextRetrieval(blip(d)), run_matcher),
    "VisionEncoderDecoderModel": Case(captioner, run_captioner, generate_captioner),
    "ViTModel": headless(T.ViTModel, T.ViTConfig),
    "DeiTModel": headless(T.DeiTModel, T.DeiTConfig),
}
