"""Forward passes and training steps of whole models, from the same random weights."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import flops, reference
from experiments.benchmarks.reference import torch, transformers
from experiments.benchmarks.setting import Setting, Size
from experiments.benchmarks.sides import Arrays, Row, Side, compare, of_jax, rates
from experiments.benchmarks.timing import significant
from mlm_jax import losses
from mlm_jax.config import Config, Optim
from mlm_jax.models.bert import Bert
from mlm_jax.models.blip import BlipAnswerer
from mlm_jax.models.multimodal import multimodal
from mlm_jax.train import cast, make_step, prepare

LR = 1e-4


@dataclass(frozen=True)
class Sizes:
    """Of a tower of a model, and of what goes into it."""

    tower: dict[str, int]
    narrow: dict[str, int]
    pixels: int
    words: int
    tokens: int


SIZES: dict[Size, Sizes] = {
    "base": Sizes(
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072},
        {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
         "intermediate_size": 2048},
        224, 30_522, 77),
    "tiny": Sizes(
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 64},
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32},
        64, 128, 16),
}  # fmt: skip


class Shown(nn.Module):
    """A BERT whose hidden words are chosen by the batch, so that two can hide the same."""

    bert: Bert = field(default_factory=Bert)

    def __call__(self, batch: Mapping[str, Any], *, train: bool = False) -> dict[str, Any]:
        read = self.bert.read(batch["shown"], batch["target_mask"], train=train)
        return {**read, "hidden": batch["hidden"]}


@dataclass(frozen=True)
class Case:
    """One model, asked the same on both sides.

    `inputs` are what both get. `see` and `theirs` give the outputs that are compared. `loss` and
    `their_loss` are of a training step, whose batch is `batch(inputs)`; `whole` puts what was read
    into the model that is trained, if that is another.
    """

    title: str
    build: Callable[[Sizes], Any]
    inputs: Callable[[np.random.Generator, Sizes, int], Arrays]
    see: Callable[[Any, Any, dict[str, Any]], dict[str, Any]]
    theirs: Callable[[Any, dict[str, Any]], dict[str, Any]]
    loss: losses.Loss
    their_loss: Callable[[Any, dict[str, Any]], Any]
    batch: Callable[[Arrays], dict[str, np.ndarray]]
    counted: Callable[[Any, Arrays], flops.Flops]
    whole: Callable[[Any, Any], tuple[Any, Any]] = lambda model, params: (model, params)


# --- ViT ---


def build_vit(s: Sizes) -> Any:
    config = transformers.ViTConfig(**s.tower, image_size=s.pixels, patch_size=16, num_labels=1000)
    return transformers.ViTForImageClassification(config)


def vit_inputs(rng: np.random.Generator, s: Sizes, rows: int) -> Arrays:
    label = rng.integers(0, 1000, rows, np.int32)
    return {"image": pictures(rng, s, rows), "label": label}


VIT = Case(
    "ViT-B/16",
    build_vit,
    vit_inputs,
    lambda model, params, x: {
        "logits": model.apply({"params": params}, {"image": x["image"]})["logits"]
    },
    lambda model, x: {"logits": model(pixel_values=x["image"]).logits},
    losses.Classes(),
    lambda model, x: torch.nn.functional.cross_entropy(
        model(pixel_values=x["image"]).logits.float(), x["label"]
    ),
    dict,
    lambda model, x: flops.forward(model),
)


# --- BERT ---


def build_bert(s: Sizes, kind: str) -> Any:
    config = transformers.BertConfig(
        **s.tower, vocab_size=s.words, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return getattr(transformers, kind)(config)


def bert_inputs(rng: np.random.Generator, s: Sizes, rows: int, length: int) -> Arrays:
    target = rng.integers(4, s.words, (rows, length), np.int32)
    hidden = rng.random((rows, length)) < 0.15
    return {"target": target, "shown": np.where(hidden, 3, target), "hidden": hidden}


def see_bert(model: Any, params: Any, x: dict[str, Any]) -> dict[str, Any]:
    mask = jnp.ones(x["shown"].shape, bool)
    out = model.apply({"params": params}, x["shown"], mask, method="read")
    return {"tokens": out["tokens"], "pooled": out["pooled"]}


def their_bert(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    out = model(input_ids=x["shown"])
    return {"tokens": out.last_hidden_state, "pooled": out.pooler_output}


def their_bert_loss(model: Any, x: dict[str, Any]) -> Any:
    labels = torch.where(x["hidden"] == 1, x["target"], -100)
    return model(input_ids=x["shown"], labels=labels).loss


def bert(length: int, kind: str) -> Case:
    """BertModel for a forward pass, BertForMaskedLM (logits at every place) for a step."""
    return Case(
        f"BERT-base {length} tokens",
        lambda s: build_bert(s, kind),
        lambda rng, s, rows: bert_inputs(rng, s, rows, length),
        see_bert,
        their_bert,
        losses.Hidden(),
        their_bert_loss,
        lambda x: {**x, "target_mask": np.ones(x["target"].shape, bool)},
        lambda model, x: flops.forward(getattr(model, "bert", model), read=length),
        lambda model, params: (Shown(model), {"bert": params}),
    )


# --- CLIP ---


def build_clip(s: Sizes) -> Any:
    text = {**s.narrow, "vocab_size": s.words, "max_position_embeddings": s.tokens,
            "eos_token_id": s.words - 1, "bos_token_id": 0, "pad_token_id": 1}  # fmt: skip
    eyes = {**s.tower, "image_size": s.pixels, "patch_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config=eyes, projection_dim=512)
    return transformers.CLIPModel(config)


def clip_inputs(rng: np.random.Generator, s: Sizes, rows: int) -> Arrays:
    target = rng.integers(2, s.words - 1, (rows, s.tokens), np.int32)
    target[:, -1] = s.words - 1
    return {"image": pictures(rng, s, rows), "target": target}


def see_clip(model: Any, params: Any, x: dict[str, Any]) -> dict[str, Any]:
    mask = jnp.ones(x["target"].shape, bool)
    out = model.apply({"params": params}, {**x, "target_mask": mask})
    return {"image": out["image"], "text": out["text"]}


def their_clip(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    out = model(input_ids=x["target"], pixel_values=x["image"])
    return {"image": out.image_embeds, "text": out.text_embeds}


CLIP = Case(
    "CLIP B/32",
    build_clip,
    clip_inputs,
    see_clip,
    their_clip,
    losses.Contrastive(),
    lambda model, x: model(input_ids=x["target"], pixel_values=x["image"], return_loss=True).loss,
    lambda x: {**x, "target_mask": np.ones(x["target"].shape, bool)},
    lambda model, x: flops.forward(model, read=x["target"].shape[1]),
)


# --- BLIP, and the multimodal model ---


def build_blip(s: Sizes) -> Any:
    text = {**s.tower, "vocab_size": s.words, "max_position_embeddings": 512,
            "encoder_hidden_size": s.tower["hidden_size"], "bos_token_id": 0, "sep_token_id": 2,
            "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    eyes = {**s.tower, "image_size": s.pixels, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=eyes)
    return transformers.BlipForQuestionAnswering(config)


def blip_inputs(rng: np.random.Generator, s: Sizes, rows: int) -> Arrays:
    """Questions and answers of 32 tokens."""
    text, target = (rng.integers(3, s.words, (rows, 32), np.int32) for _ in range(2))
    return {"image": pictures(rng, s, rows), "text": text, "target": target}


def blip_batch(x: Mapping[str, Any]) -> dict[str, Any]:
    masks = {f"{k}_mask": np.ones(x[k].shape, bool) for k in ("text", "target")}
    return {**x, **masks}


def their_blip(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    """Piece by piece: the class itself gives no logits."""
    seen = model.vision_model(pixel_values=x["image"]).last_hidden_state
    asked = model.text_encoder(input_ids=x["text"], encoder_hidden_states=seen)
    given = x["target"][:, :-1]
    states = asked.last_hidden_state
    out = model.text_decoder(input_ids=given, encoder_hidden_states=states, return_dict=True)
    return {"logits": out.logits}


def their_blip_loss(model: Any, x: dict[str, Any]) -> Any:
    logits = their_blip(model, x)["logits"].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x["target"][:, 1:].flatten())


def see_logits(model: Any, params: Any, x: dict[str, Any]) -> dict[str, Any]:
    return {"logits": model.apply({"params": params}, blip_batch(x))["logits"]}


def count_writer(model: Any, x: Arrays) -> flops.Flops:
    return flops.forward(model, read=x["text"].shape[1], written=x["target"].shape[1] - 1)


BLIP = Case(
    "BLIP-base answers, 224 px",
    build_blip,
    blip_inputs,
    see_logits,
    their_blip,
    losses.Caption(),
    their_blip_loss,
    blip_batch,
    count_writer,
)


def pictures(rng: np.random.Generator, s: Sizes, rows: int) -> np.ndarray:
    return rng.normal(size=(rows, s.pixels, s.pixels, 3)).astype(np.float32)


# --- forward ---


def forward(case: Case, rows: int, setting: Setting) -> Iterator[Row]:
    reference.prepare(setting)
    sizes = SIZES[setting.size]
    theirs = case.build(sizes)
    model, params = reference.ours(theirs, setting.folder / "model", setting.precision)
    inputs = case.inputs(np.random.default_rng(0), sizes, rows)
    given = on_device(inputs, setting.precision)
    see = jax.jit(functools.partial(case.see, model))
    mine = of_jax("ours", lambda: see(params, given))
    placed = reference.placed(theirs, setting)
    x = reference.tensors(inputs, setting, setting.precision)
    row = {"what": f"{case.title}, forward, batch {rows}", "model": size_of(params)}
    row = compare(row, mine, reference.ways(case.theirs, placed, x, setting=setting), setting)
    yield counted(rates(row, rows, "examples/s"), case.counted(model, inputs), rows, 1)


def on_device(inputs: Mapping[str, np.ndarray], precision: str) -> dict[str, Any]:
    """As jax arrays, pictures in `precision`."""
    return {
        k: jnp.asarray(v, precision if v.dtype == np.float32 else v.dtype)
        for k, v in inputs.items()
    }


def size_of(params: Any) -> str:
    return f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.1f} M parameters"


def counted(
    row: Row, each: flops.Flops, rows: int, passes: int, others: flops.Flops | None = None
) -> Row:
    """With FLOPs by the formula and FLOP/s of all sides; `passes` 3 in training.

    `others`: of one example of another model on the other sides.
    """
    times = passes * rows
    whole = {
        name: times * (each if name == "ours" else others or each).full for name in row["seconds"]
    }
    theirs = {} if others is None else {"their_gflops": significant(times * others.full / 1e9)}
    return {
        **row,
        **theirs,
        "gflops": significant(times * each.full / 1e9),
        "gflops_halved": significant(times * each.halved / 1e9),
        "gflops_per_second": {
            name: significant(whole[name] / s["median"] / 1e9) for name, s in row["seconds"].items()
        },
    }


# --- a training step ---


def step(case: Case, rows: int, setting: Setting) -> Iterator[Row]:
    """Forward, backward, clip, AdamW: `mlm_jax.train.make_step` against torch's own way."""
    reference.prepare(setting)
    sizes = SIZES[setting.size]
    theirs = case.build(sizes)
    read, params = reference.ours(theirs, setting.folder / "model")
    model, params = case.whole(read, params)
    inputs = case.inputs(np.random.default_rng(0), sizes, rows)
    row = {"what": f"{case.title}, train step, batch {rows}", "model": size_of(params)}
    mine = our_step(model, case.loss, case.batch(inputs), setting, params)
    x = reference.tensors(inputs, setting, "float32")
    others = reference.trainer(theirs, case.their_loss, x, LR, setting)
    row = compare(row, mine, others, setting, bound=1e-3 if setting.precision == "float32" else 0.1)
    yield counted(rates(row, rows, "examples/s"), case.counted(model, inputs), rows, 3)


def our_step(
    model: Any, loss: losses.Loss, batch: Mapping[str, np.ndarray], setting: Setting, params: Any
) -> Side:
    """Steps from `params`, which they use up, or from the model's own where they are None."""
    optim = Optim(lr=LR, schedule="constant", warmup=0, weight_decay=0.01, clip=1.0)
    config = Config(model, loss, optim=optim, precision=setting.precision)
    given = {k: jnp.asarray(v) for k, v in batch.items()}
    _, tx, begin = prepare(config, given)
    compiled = make_step(config, tx)
    state = begin()
    if params is not None:
        state = state._replace(params=params)
    held = [state]

    def compute() -> dict[str, Any]:
        held[0], metrics = compiled(held[0], given)
        jax.block_until_ready(held[0])
        return {"loss": metrics["loss"]}

    return of_jax("ours", compute)


def against_blip(rows: int, setting: Setting) -> Iterator[Row]:
    """The multimodal model against BLIP: two designs, so no outputs are compared."""
    reference.prepare(setting)
    sizes = SIZES[setting.size]
    theirs = build_blip(sizes)
    model = multimodal(
        setting.size, patch=16, pixels=sizes.pixels, vocab=sizes.words, text_length=512,
        target_length=512, fusion_depth=6 if setting.size == "base" else 1,
    )  # fmt: skip
    inputs = blip_inputs(np.random.default_rng(0), sizes, rows)
    each, there = count_writer(model, inputs), count_writer(answerer(theirs, setting), inputs)
    batch = {k: jnp.asarray(v) for k, v in blip_batch(inputs).items()}
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    more: Row = {
        "model": f"{size_of(params)}, BLIP {sum(p.numel() for p in theirs.parameters()) / 1e6:.1f}",
        "remark": "two designs: their outputs are not comparable",
    }

    placed = reference.placed(theirs, setting)
    x = reference.tensors(inputs, setting, setting.precision)
    see = jax.jit(functools.partial(see_logits, model))
    half = cast(params, setting.precision)
    given = on_device(inputs, setting.precision)
    row = {"what": f"multimodal base against BLIP-base, forward, batch {rows}", **more}
    sides = reference.ways(their_blip, placed, x, setting=setting)
    row = compare(row, of_jax("ours", lambda: see(half, given)), sides, setting, np.inf)
    yield counted(rates(row, rows, "examples/s"), each, rows, 1, there)

    mine = our_step(model, losses.Caption(), blip_batch(inputs), setting, None)
    x = reference.tensors(inputs, setting, "float32")
    others = reference.trainer(theirs, their_blip_loss, x, LR, setting)
    row = {"what": f"multimodal base against BLIP-base, train step, batch {rows}", **more}
    row = compare(row, mine, others, setting, np.inf)
    yield counted(rates(row, rows, "examples/s"), each, rows, 3, there)


def answerer(theirs: Any, setting: Setting) -> BlipAnswerer:
    """BLIP's shape as a model of this project, to count its FLOPs."""
    model, _ = reference.ours(theirs, setting.folder / "blip")
    assert isinstance(model, BlipAnswerer)
    return model
