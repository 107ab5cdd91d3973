"""ViT-GPT2 as it is published: VisionEncoderDecoderModel of a ViT and a GPT-2."""

from typing import Any

from mlm_jax.models.captioner import Captioner
from mlm_jax.pretrained import gpt2, vit
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import Pair, Spelling, at
from mlm_jax.pretrained.settings import Settings

TIED = {"decoder.lm_head.weight": "decoder.transformer.wte.weight"}


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Captioner:
    eyes, words = settings.part("encoder"), settings.part("decoder")
    eyes.must(model_type="vit")
    words.must(model_type="gpt2")
    image, decoder = vit.encoder(eyes), gpt2.decoder(words, reads=True)
    return Captioner(image, decoder, bridge=image.body.width != decoder.body.width)


def describe(model: Captioner) -> dict[str, Any]:
    return {
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "encoder": {"model_type": "vit", **vit.describe_encoder(model.image)},
        "decoder": {
            "model_type": "gpt2",
            "is_decoder": True,
            **gpt2.describe_decoder(model.decoder, reads=True),
        },
    }


def pairs(model: Captioner) -> list[Pair]:
    bridge = [Pair("across", "enc_to_dec_proj")] if model.bridge else []
    return [
        *at("image", "encoder", vit.encoder_pairs(model.image)),
        *at("decoder", "decoder.transformer", gpt2.decoder_pairs(model.decoder, reads=True)),
        *bridge,
    ]


def idle(model: Captioner) -> dict[str, tuple[int, ...]]:
    return vit.pooler(model.image, "encoder.pooler.dense")


VIT_GPT2 = Family(
    "vision-encoder-decoder",
    Captioner,
    {"VisionEncoderDecoderModel": ""},
    build,
    lambda model: "VisionEncoderDecoderModel",
    describe,
    pairs,
    Spelling(vit.OLD, tied=TIED),
    "ViT",
    idle,
)
