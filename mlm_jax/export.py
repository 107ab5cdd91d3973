"""A trained run as a published checkpoint: weights, config.json, tokenizer, image processor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import processors

from mlm_jax import optim, pretrained
from mlm_jax.config import Config, UserError, senses
from mlm_jax.data import labels
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.losses import Classes
from mlm_jax.models.bert import Bert
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.pretrained.family import Family
from mlm_jax.pretrained.pixels import Pixels, load_pixels, save_pixels
from mlm_jax.pretrained.store import family_of
from mlm_jax.pretrained.vocabulary import save_tokenizer
from mlm_jax.trained import Trained, open_trained

INPUTS: dict[str, tuple[str, ...]] = {
    "bert": ("input_ids", "token_type_ids", "attention_mask"),
    "siglip": ("input_ids",),
}
"""What a model takes of a text, where that is not its words and their mask."""


def export(run: Path, out: Path) -> tuple[str, int]:
    """Write the run's parameters, averaged where it keeps an average; the class and their number.

    Raises: UserError where no published family can express the model, or `out` exists.
    """
    trained = open_trained(run)
    model = trained.config.model
    family = family_of(model)
    pixels = published_pixels(trained.config, family)
    tokenizer = trained.tokenizer
    reads = hasattr(model, "text") or hasattr(model, "decoder")
    names = special(tokenizer, model) if reads else {}

    def beside(folder: Path) -> None:
        if pixels is not None:
            save_pixels(pixels, folder)
        if reads:
            put_ends(tokenizer, after=not isinstance(model, Gpt))
            most = trained.config.data.target_length
            length = model.text.length if fills(model) else most
            inputs = INPUTS.get(family.kind, ("input_ids", "attention_mask"))
            save_tokenizer(tokenizer.inner, folder, special=names, length=length, inputs=inputs)

    fields = token_ids(trained, family.kind) | class_names(trained)
    pretrained.save(out, model, trained.params, config=fields, beside=beside)
    return family.architecture(model), optim.count(trained.params)


def token_ids(trained: Trained, kind: str) -> dict[str, Any]:
    """The ids that the reference generates with, where its class looks for them."""
    tokenizer = trained.tokenizer
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos,
           "pad_token_id": tokenizer.pad}  # fmt: skip
    if kind in ("vision-encoder-decoder", "whisper"):
        return {**ids, "decoder_start_token_id": tokenizer.bos}
    if kind == "blip":
        return {"text_config": {**ids, "sep_token_id": tokenizer.eos}}
    if kind in ("clip", "siglip"):
        return {"text_config": ids}
    return ids if kind in ("bert", "gpt2") else {}


def class_names(trained: Trained) -> dict[str, Any]:
    """The names of the classes by their numbers, and back; LABEL_9 where the run has none."""
    file = trained.path / "classes.json"
    if not isinstance(trained.config.loss, Classes) or not file.exists():
        return {}
    names = labels.load(file)
    model: Any = trained.config.model
    every = [*names, *(f"LABEL_{i}" for i in range(len(names), model.labels))]
    return {
        "id2label": {str(i): name for i, name in enumerate(every)},
        "label2id": {name: i for i, name in enumerate(every)},
    }


def special(tokenizer: Tokenizer, model: Any) -> dict[str, str]:
    """Texts of the special tokens by the reference's names."""
    ids = {"pad": tokenizer.pad, "bos": tokenizer.bos, "eos": tokenizer.eos, "unk": tokenizer.unk}
    if isinstance(model, Bert):
        ids |= {"cls": tokenizer.bos, "sep": tokenizer.eos, "mask": model.mask_id}
    if fills(model):
        ids["pad"] = model.end_id
    return {name: str(tokenizer.inner.id_to_token(index)) for name, index in ids.items()}


def fills(model: Any) -> bool:
    """Whether it fills texts up to their full length itself (SigLIP)."""
    return isinstance(model, Clip) and model.end == "place"


def put_ends(tokenizer: Tokenizer, after: bool) -> None:
    """bos before every text, and eos `after` it, in the place of what the tokenizer puts itself.

    A prompt that GPT is to go on from must not have ended.
    """
    inner, there = tokenizer.inner, tokenizer.inner.post_processor
    if [tokenizer.before, tokenizer.after] == [[tokenizer.bos], [tokenizer.eos] * after]:
        return
    begin, end = (str(inner.id_to_token(i)) for i in (tokenizer.bos, tokenizer.eos))
    ends = processors.TemplateProcessing(
        single=[begin, "$A", *([end] if after else [])],
        special_tokens=[(begin, tokenizer.bos), (end, tokenizer.eos)],
    )
    trims = isinstance(there, processors.ByteLevel)
    inner.post_processor = processors.Sequence([there, ends]) if trims else ends


def published_pixels(config: Config, family: Family) -> Pixels | None:
    """The image processor of the run; None where it reads no pictures. Raises: UserError."""
    if family.pixels is None:
        return None
    (eyes,) = (e for sense, e in senses(config).items() if sense != "audio")
    if config.data.preprocessor:
        published = load_pixels(config.data.preprocessor)
        return replace(published, mean=eyes.mean, std=eyes.std)  # the model's own count
    bicubic = Image.Resampling.BICUBIC
    if config.data.resize == "stretch":
        return Pixels(family.pixels, eyes.size, bicubic, None, eyes.mean, eyes.std)
    edge, other = eyes.size
    if config.data.resize == "crop" and edge == other:  # alike but for parts of a pixel
        return Pixels(family.pixels, edge, bicubic, eyes.size, eyes.mean, eyes.std)
    raise UserError(
        f"data.resize is {config.data.resize!r}, to {edge} x {other} pixels: only 'stretch', 'crop'"
        " to a square, or the data.preprocessor of a published checkpoint, can be told to the"
        " reference"
    )
