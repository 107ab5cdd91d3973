"""BLIP as it is published: BlipForConditionalGeneration, ...QuestionAnswering, ...Retrieval.

Where the published code and its port disagree this follows the port, whose files these are: the
question begins with [CLS], not with [ENC], and the eps of the image encoder is what the file says.
The port drops the mask of a padded question on its way to the decoder; here it is kept, as in the
published code.
"""

from typing import Any

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.models.blip import BlipAnswerer, BlipMatcher
from mlm_jax.models.captioner import Captioner
from mlm_jax.pretrained import bert, clip
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.names import GAMMA, Pair, Spelling, at, layers
from mlm_jax.pretrained.settings import Settings, Sizes

EYES = Sizes(eps=("layer_norm_eps", 1e-5))
# class default 8, published files 12: never guessed (huggingface/transformers#22625)
TEXT = Sizes(heads=("num_attention_heads", None))
QKV = ("attention/query", "attention/key", "attention/value")
EYE_BLOCK = [
    *(pair for pair in clip.BLOCK if "self_attn" not in pair.theirs),
    Pair(QKV, "self_attn.qkv"),
    Pair("attention/out", "self_attn.projection"),
]
CROSS = [
    Pair("cross/query", "crossattention.self.query"),
    Pair("cross/key", "crossattention.self.key"),
    Pair("cross/value", "crossattention.self.value"),
    Pair("cross/out", "crossattention.output.dense"),
    Pair("cross_norm", "crossattention.output.LayerNorm"),
]
TIED = {
    "text_decoder.cls.predictions.decoder.weight":
        "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}  # fmt: skip
ANSWER, MATCH, CAPTION = (
    f"BlipFor{name}"
    for name in ("QuestionAnswering", "ImageTextRetrieval", "ConditionalGeneration")
)

Blip = Captioner | BlipAnswerer | BlipMatcher


def build(settings: Settings, architecture: str, names: frozenset[str]) -> Blip:
    eyes, words = settings.part("vision_config"), settings.part("text_config")
    eyes.must(num_channels=3)
    words.must(tie_word_embeddings=True, is_decoder=True)  # otherwise the text reads no picture
    image = ImageEncoder(
        size=eyes.pixels("image_size", 384),
        patch=eyes.integer("patch_size", 16),
        class_token=True,
        body=eyes.transformer(EYES),
    )
    vocab = words.integer("vocab_size", 30_524)
    length = words.integer("max_position_embeddings", 512)

    def reader() -> TextEncoder:
        return TextEncoder(vocab, length, body=words.transformer(TEXT, order="post"))

    def writer() -> TextDecoder:
        return TextDecoder(vocab, length, "bert", words.transformer(TEXT, order="post"))

    if architecture == MATCH:
        return BlipMatcher(image, reader(), settings.integer("image_text_hidden_size", 256))
    if architecture == CAPTION:
        return Captioner(image, writer())
    answerer = BlipAnswerer(image, reader(), writer())
    if answerer.text.body.width != image.body.width:
        words.wrong.append(
            f"text_config.hidden_size is {answerer.text.body.width}: must be that of the picture,"
            f" {image.body.width}, as the decoder reads questions through layers of that width"
        )
    return answerer


def architecture(model: Blip) -> str:
    return {Captioner: CAPTION, BlipAnswerer: ANSWER, BlipMatcher: MATCH}[type(model)]


def text_of(model: Blip) -> TextEncoder | TextDecoder:
    return model.decoder if isinstance(model, Captioner) else model.text


def describe(model: Blip) -> dict[str, Any]:
    text = text_of(model)
    own = {"image_text_hidden_size": model.width} if isinstance(model, BlipMatcher) else {}
    return {
        **own,
        "vision_config": clip.describe_eyes(model.image, EYES, "blip_vision_model"),
        "text_config": {
            **TEXT.describe(text.body),
            "model_type": "blip_text_model",
            "vocab_size": text.vocab,
            "max_position_embeddings": text.length,
            "encoder_hidden_size": model.image.body.width,
            "is_decoder": True,  # of the encoder too: otherwise the published class reads nothing
            "tie_word_embeddings": True,
        },
    }


def pairs(model: Blip) -> list[Pair]:
    eyes = [
        Pair("class_token", "embeddings.class_embedding"),
        Pair("stem/patches", "embeddings.patch_embedding"),
        Pair("positions/table", "embeddings.position_embedding", flat=3),
        *layers("body", "encoder.layers", model.image.body.depth, EYE_BLOCK),
        Pair("body/norm", "post_layernorm"),
    ]
    found = at("image", "vision_model", eyes)
    if not isinstance(model, Captioner):
        found += at("text", "text_encoder", text_pairs(model.text))
    if not isinstance(model, BlipMatcher):
        found += at("decoder", "text_decoder.bert", text_pairs(model.decoder))
        found += at("decoder/to_words", "text_decoder.cls.predictions", bert.HEAD)
    if isinstance(model, BlipMatcher):
        heads = {"matches": "itm_head", "image_out": "vision_proj", "text_out": "text_proj"}
        found += [Pair(ours, theirs) for ours, theirs in heads.items()]
    return found


def text_pairs(text: TextEncoder | TextDecoder) -> list[Pair]:
    block = [*bert.BLOCK, *CROSS]
    return [*bert.WORDS, *layers("body", "encoder.layer", text.body.depth, block)]


BLIP = Family(
    "blip",
    (Captioner, BlipAnswerer, BlipMatcher),
    {MATCH: "^itm_head", ANSWER: r"^text_encoder\.", CAPTION: r"^text_decoder\."},
    build,
    architecture,
    describe,
    pairs,
    Spelling(GAMMA, tied=TIED),
    "Blip",
)
