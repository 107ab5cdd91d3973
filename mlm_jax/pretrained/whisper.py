"""Whisper as it is published: WhisperForConditionalGeneration.

What it never writes stands in generation_config.json, or in config.json where a folder has none;
with what it begins, see `script`. A published attention has no bias of the key.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlm_jax.config import UserError
from mlm_jax.encoders import AudioEncoder
from mlm_jax.models.whisper import Scribe, Whisper
from mlm_jax.pretrained import clip
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.files import GENERATION, listed, read_json
from mlm_jax.pretrained.names import Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes
from mlm_jax.pretrained.sounds import heard, put_sounds, whisper_mel


def sizes(side: str) -> Sizes:
    return Sizes(
        width=("d_model", 384),
        depth=(f"{side}_layers", 4),
        heads=(f"{side}_attention_heads", 6),
        hidden=(f"{side}_ffn_dim", 1536),
        activation=("activation_function", "gelu"),
        eps=("", 1e-5),
    )


EARS, HAND = sizes("encoder"), sizes("decoder")
BLOCK = [
    *(pair for pair in clip.BLOCK if "norm" not in pair.theirs and "mlp" not in pair.theirs),
    Pair("attention_norm", "self_attn_layer_norm"),
    Pair("mlp_norm", "final_layer_norm"),
    Pair("mlp/up", "fc1"),
    Pair("mlp/down", "fc2"),
]
CROSS = [
    Pair("cross_norm", "encoder_attn_layer_norm"),
    *(Pair(f"cross/{n}", f"encoder_attn.{n[0]}_proj") for n in ("query", "key", "value")),
    Pair("cross/out", "encoder_attn.out_proj"),
]
NO_BLANK = [220, 50_256]
"""Not first by the published class: a space, the end."""


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Whisper:
    settings.must(scale_embedding=False, tie_word_embeddings=True)
    mel = whisper_mel(settings.integer("num_mel_bins", 80))
    audio = AudioEncoder(
        samples=2 * settings.integer("max_source_positions", 1500) * mel.hop,
        mel=mel,
        stem="conv",
        body=settings.transformer(EARS),
    )
    settings.must(num_hidden_layers=audio.body.depth)  # which is another name of encoder_layers
    decoder = Scribe(
        vocab=settings.integer("vocab_size", 51_865),
        length=settings.integer("max_target_positions", 448),
        body=settings.transformer(HAND),
    )
    return Whisper(audio, suppressing(decoder, settings, NO_BLANK))


def suppressing(decoder: Scribe, settings: Settings, first: list[int]) -> Scribe:
    """The decoder with the words that it does not write; `first` is where nothing is said."""
    never = ids(settings, "suppress_tokens", [])
    return replace(decoder, never=never, not_first=ids(settings, "begin_suppress_tokens", first))


def ids(settings: Settings, key: str, default: list[int]) -> tuple[int, ...]:
    settings.seen.add(key)
    value = settings.values.get(key, default) or []
    if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
        settings.refuse(key, "must be a list of ids")
        return ()
    return tuple(value)


def describe(model: Whisper) -> dict[str, Any]:
    audio, decoder = model.audio, model.decoder
    return {
        **EARS.describe(audio.body),
        **HAND.describe(decoder.body),
        "num_mel_bins": audio.mel.mels,
        "max_source_positions": -(-audio.frames // 2),
        "vocab_size": decoder.vocab,
        "max_target_positions": decoder.length,
        "suppress_tokens": list(decoder.never) or None,
        "begin_suppress_tokens": list(decoder.not_first) or None,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
    }


def pairs(model: Whisper) -> list[Pair]:
    ears = [
        Pair("stem_0", "conv1", window=1),
        Pair("stem_1", "conv2", window=1),
        Pair("positions", "embed_positions"),
        *layers("body", "layers", model.audio.body.depth, BLOCK),
        Pair("body/norm", "layer_norm"),
    ]
    hand = [
        Pair("words/table", "embed_tokens"),
        Pair("words/positions", "embed_positions"),
        *layers("body", "layers", model.decoder.body.depth, [*BLOCK, *CROSS]),
        Pair("body/norm", "layer_norm"),
    ]
    return [*at("audio", "model.encoder", ears), *at("decoder", "model.decoder", hand)]


def complete(model: Whisper, folder: Path) -> Whisper:
    decoder, path = model.decoder, folder / GENERATION
    if path.is_file():
        settings = Settings(read_json(path), "")
        decoder = suppressing(decoder, settings, [])
        if settings.wrong:
            raise UserError(f"{path}:\n{listed(settings.wrong)}")
    return replace(model, audio=heard(model.audio, folder), decoder=decoder)


WHISPER = Family(
    "whisper",
    Whisper,
    {"WhisperForConditionalGeneration": ""},
    build,
    lambda model: "WhisperForConditionalGeneration",
    describe,
    pairs,
    Spelling(
        prefixes=("model.",),
        tied={"proj_out.weight": "model.decoder.embed_tokens.weight"},
    ),
    absent=r"/key/bias$",
    complete=complete,
    put=lambda model, folder: put_sounds(model.audio, folder),
)
