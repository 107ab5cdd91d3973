"""BERT as it is published: BertModel, BertForMaskedLM, BertForPreTraining, ...Classification."""

from typing import Any

from mlm_jax.encoders import TextEncoder
from mlm_jax.models.bert import Bert
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import GAMMA, Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes

SIZES = Sizes()
BLOCK = [
    Pair("attention/query", "attention.self.query"),
    Pair("attention/key", "attention.self.key"),
    Pair("attention/value", "attention.self.value"),
    Pair("attention/out", "attention.output.dense"),
    Pair("attention_norm", "attention.output.LayerNorm"),
    Pair("mlp/up", "intermediate.dense"),
    Pair("mlp/down", "output.dense"),
    Pair("mlp_norm", "output.LayerNorm"),
]
WORDS = [
    Pair("words/table", "embeddings.word_embeddings"),
    Pair("words/positions", "embeddings.position_embeddings"),
    Pair("words/normed", "embeddings.LayerNorm"),
]
SEGMENTS = Pair("words/segments", "embeddings.token_type_embeddings")
HEAD = [
    Pair("transform", "transform.dense"),
    Pair("norm", "transform.LayerNorm"),
    Pair("bias", "bias"),
]
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Bert:
    settings.must(is_decoder=False, add_cross_attention=False, tie_word_embeddings=True,
                  position_embedding_type="absolute")  # fmt: skip
    text = TextEncoder(
        vocab=settings.integer("vocab_size", 30_522),
        length=settings.integer("max_position_embeddings", 512),
        types=settings.integer("type_vocab_size", 2),
        body=settings.transformer(SIZES, order="post"),
    )
    pooler = architecture in ("BertForPreTraining", "BertForSequenceClassification") or (
        architecture == "BertModel" and any("pooler." in name for name in names)
    )
    labels = {"BertForPreTraining": 2, "BertForSequenceClassification": settings.labels()}
    masked = architecture in ("BertForMaskedLM", "BertForPreTraining")
    return Bert(
        text,
        masked,
        pooler,
        labels.get(architecture, 0),
        mask_id=min(103, text.vocab - 1),
        special=(0, 101, 102),
    )


def architecture(model: Bert) -> str:
    if model.masked:
        return "BertForPreTraining" if model.pooler else "BertForMaskedLM"
    return "BertForSequenceClassification" if model.labels else "BertModel"


def describe(model: Bert) -> dict[str, Any]:
    text = model.text
    labels = {"num_labels": model.labels} if architecture(model).endswith("Classification") else {}
    return {
        **SIZES.describe(text.body),
        **labels,
        "vocab_size": text.vocab,
        "max_position_embeddings": text.length,
        "type_vocab_size": text.types,
        "tie_word_embeddings": True,
    }


def pairs(model: Bert) -> list[Pair]:
    inner = [*WORDS, SEGMENTS, *layers("body", "encoder.layer", model.text.body.depth, BLOCK)]
    kind = architecture(model)
    prefix = "" if kind == "BertModel" else "bert"
    found = at("text", prefix, inner)
    if model.pooler:
        found += at("", prefix, [Pair("pool", "pooler.dense")])
    if model.masked:
        found += at("head", "cls.predictions", HEAD)
    if model.labels:
        name = "cls.seq_relationship" if kind == "BertForPreTraining" else "classifier"
        found.append(Pair("classes", name))
    return found


BERT = Family(
    "bert",
    Bert,
    {
        "BertForPreTraining": r"^cls\.seq_relationship",
        "BertForMaskedLM": r"^cls\.predictions",
        "BertForSequenceClassification": r"^classifier",
        "BertModel": "",
    },
    build,
    architecture,
    describe,
    pairs,
    Spelling(GAMMA, ("bert.",), TIED, (r"^bert\.pooler\.", r"^pooler\.", r"^cls\.")),
)
