"""GPT-2 as it is published: GPT2LMHeadModel, and GPT2Model, whose head is tied all the same."""

from typing import Any

from mlm_jax.decoders import TextDecoder
from mlm_jax.models.gpt import Gpt
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes

SIZES = Sizes(
    width=("n_embd", 768),
    depth=("n_layer", 12),
    heads=("n_head", 12),
    hidden=("n_inner", 0),
    activation=("activation_function", "gelu_new"),
    eps=("layer_norm_epsilon", 1e-5),
)
QKV = ("attention/query", "attention/key", "attention/value")
BLOCK = [
    Pair("attention_norm", "ln_1"),
    Pair(QKV, "attn.c_attn", straight=True),
    Pair("attention/out", "attn.c_proj", straight=True),
    Pair("mlp_norm", "ln_2"),
    Pair("mlp/up", "mlp.c_fc", straight=True),
    Pair("mlp/down", "mlp.c_proj", straight=True),
]
CROSS = [
    Pair("cross_norm", "ln_cross_attn"),
    Pair("cross/query", "crossattention.q_attn", straight=True),
    Pair(("cross/key", "cross/value"), "crossattention.c_attn", straight=True),
    Pair("cross/out", "crossattention.c_proj", straight=True),
]


def decoder(settings: Settings, reads: bool) -> TextDecoder:
    """`reads`: whether its blocks have cross-attention."""
    settings.must(
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        reorder_and_upcast_attn=False,
        add_cross_attention=reads,
        tie_word_embeddings=True,
    )
    return TextDecoder(
        vocab=settings.integer("vocab_size", 50_257),
        length=settings.integer("n_positions", 1024),
        body=settings.transformer(SIZES),
    )


def describe_decoder(decoder: TextDecoder, reads: bool) -> dict[str, Any]:
    return {
        **SIZES.describe(decoder.body),
        "vocab_size": decoder.vocab,
        "n_positions": decoder.length,
        "add_cross_attention": reads,
        "tie_word_embeddings": True,
    }


def decoder_pairs(decoder: TextDecoder, reads: bool) -> list[Pair]:
    block = [*BLOCK, *CROSS] if reads else BLOCK
    return [
        Pair("words/table", "wte"),
        Pair("words/positions", "wpe"),
        *layers("body", "h", decoder.body.depth, block),
        Pair("body/norm", "ln_f"),
    ]


GPT2 = Family(
    "gpt2",
    Gpt,
    {"GPT2LMHeadModel": "", "GPT2Model": ""},
    lambda settings, architecture, names: Gpt(decoder(settings, reads=False)),
    lambda model: "GPT2LMHeadModel",
    lambda model: describe_decoder(model.decoder, reads=False),
    lambda model: at("decoder", "transformer", decoder_pairs(model.decoder, reads=False)),
    Spelling(
        prefixes=("transformer.",),
        tied={"lm_head.weight": "transformer.wte.weight"},
    ),
)
