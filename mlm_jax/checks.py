"""What cannot work is refused before any work is done."""

from collections.abc import Iterator, Sequence
from typing import Any

from mlm_jax.config import Config, flat, inline, parts
from mlm_jax.errors import UserError
from mlm_jax.losses import CaptionMatch, Classes, Contrastive, Masked, Spans


def check(config: Config) -> None:
    """Raises: UserError naming every bad key."""
    wrong = [*out_of_range(config), *contradictions(config), *unmatched(config)]
    if wrong:
        raise UserError("this configuration cannot work:\n" + "\n".join(f"  {w}" for w in wrong))


def out_of_range(config: Config) -> Iterator[str]:
    if not config.init.path and (config.init.take or config.init.skip):
        yield "init.take and init.skip say what of init.path is read, which is empty"
    values = flat(
        {
            **parts(config),
            "optim": parts(config.optim),
            "data": parts(config.data),
            "mesh": parts(config.mesh),
        }
    )
    at_least = {1: ("steps", "log_every", "save_every", "keep", "eval_examples", "data.batch",
                    "data.text_length", "data.vocab", "optim.accumulate", "optim.max_skipped",
                    "mesh.fsdp", "mesh.tensor"),
                2: ("data.target_length",),
                0: ("seed", "eval_every", "keep_best", "data.captions", "data.questions",
                    "data.threads", "data.shift", "data.speed", "data.tone", "data.noise",
                    "mesh.data", "optim.lr", "optim.warmup", "optim.weight_decay",
                    "optim.clip")}  # fmt: skip
    for low, keys in at_least.items():
        yield from (f"{k} is {values[k]}: at least {low}" for k in keys if not values[k] >= low)
    if config.keep_best and (not config.eval_every or config.save_every % config.eval_every):
        yield f"keep_best: eval_every {config.eval_every} must divide save_every, to know the best"
    for key in ("optim.b1", "optim.b2", "optim.ema"):
        if not 0 <= values[key] < 1:
            yield f"{key} is {values[key]}: at least 0 and under 1"
    if not 0 <= config.data.max_broken <= 1:
        yield f"data.max_broken is {config.data.max_broken}: from 0 to 1"
    for pattern, factor in config.optim.lr_scale:
        if not factor > 0:
            yield f"optim.lr_scale {pattern} is {factor}: over 0 (optim.freeze holds still)"


def contradictions(config: Config) -> Iterator[str]:
    data, model = config.data, config.model
    readers = (getattr(model, part, None) for part in ("text", "decoder"))
    reads = hasattr(model, "words") or any(hasattr(each, "vocab") for each in readers)
    if reads and not data.texts:
        yield "data.captions and data.questions are both 0: nothing would be learned"
    if data.texts and isinstance(config.loss, Classes | Masked | Spans) and not reads:
        yield "the loss reads no texts: data.captions and data.questions must be 0"
    if reads and isinstance(config.loss, Classes) and data.captions != 1:
        yield f"data.captions is {data.captions}: one text has one class, so it must be 1"
    asks = hasattr(model, "decoder") and (hasattr(model, "text") or inline(config))
    if reads and not asks and (data.questions or not data.captions):
        yield "the model learns from captions alone: data.questions must be 0, data.captions not"
    if data.contrary and not (isinstance(config.loss, Contrastive) and data.captions):
        yield "data.contrary: only losses.Contrastive learns from wrong captions, beside right ones"
    if data.contrary and data.name.partition("/")[0] not in ("world", "clips"):
        yield f"data.contrary: what is wrong of {data.name} is not known, so it must be False"
    parts = config.optim.accumulate
    if parts > 1 and isinstance(config.loss, Contrastive | CaptionMatch):
        yield f"optim.accumulate {parts}: a contrastive loss compares the whole batch"
    if parts > 1 and getattr(getattr(model, "quantiser", None), "kind", "") == "vq":
        yield f"optim.accumulate {parts}: the codebook of vq is renewed by the whole batch"
    if data.batch % max(parts, 1):
        yield f"data.batch {data.batch} is not divisible by optim.accumulate {parts}"
    text: Any = getattr(model, "text", None)
    decoder: Any = getattr(model, "decoder", None)
    if decoder is not None and data.text_length > getattr(text, "length", data.text_length):
        yield (
            f"data.text_length {data.text_length} is over the {text.length} positions of"
            " model.text.length"
        )
    yield from too_long(config, [k for k in ("clip", "prior", "base") if getattr(config, k).run])
    if data.target_length - 1 > getattr(decoder, "length", data.target_length):
        yield (
            f"data.target_length {data.target_length} needs {data.target_length - 1} positions,"
            f" but model.decoder.length is {decoder.length}"
        )


def too_long(config: Config, later: Sequence[str] = ()) -> Iterator[str]:
    """Captions over what reads them, but for the stages that come `later`.

    Rows are cut to what a batch needs, so that training alone would not tell.
    """
    length = config.data.target_length
    for key, room in rooms(config.model, "model", later):
        if length > room:
            yield f"data.target_length {length} is over the {room} positions of {key}"


def rooms(model: Any, path: str, later: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """The keys that say how many tokens of a caption are read, with their values."""
    if hasattr(model, "length"):
        yield f"{path}.length", model.length
    text: Any = getattr(model, "text", None)
    # where nothing is written, the text encoder reads what would have been
    if hasattr(text, "length") and not hasattr(model, "decoder"):
        yield f"{path}.text.length", text.length
    for part in ("clip", "prior", "painter", "base"):
        if part not in later and (inner := getattr(model, part, None)) is not None:
            yield from rooms(inner, f"{path}.{part}")


def unmatched(config: Config) -> Iterator[str]:
    """Contradictions about image-text matching."""
    data, model = config.data, config.model
    kind = getattr(getattr(model, "matching", None), "negatives", "off")
    told = isinstance(config.loss, CaptionMatch)
    if told != (kind != "off"):
        needs = "losses.CaptionMatch" if kind != "off" else "model.matching.negatives hard"
        yield f"the loss is {type(config.loss).__name__} and matching is {kind}: {needs} is needed"
    if told and not data.captions:
        yield "data.captions is 0: matching learns from captions"
    positions = getattr(getattr(model, "text", None), "length", data.target_length)
    if told and data.target_length > positions:
        yield (
            f"data.target_length {data.target_length} is over the {positions} positions of"
            " model.text.length, which reads captions to match them"
        )


def check_lengths(config: Config) -> None:
    """Raises: UserError if captions are over what reads them, of a stage too."""
    if wrong := [*too_long(config)]:
        raise UserError("; ".join(wrong))


def check_labels(config: Config, count: int) -> None:
    """Raises: UserError if there are more classes than the model has."""
    labels = getattr(config.model, "labels", count)
    if count > labels:
        raise UserError(f"the training split has {count} classes, but model.labels is {labels}")


def check_vocab(config: Config, size: int) -> None:
    """Raises: UserError if the tokenizer knows more tokens than the model."""
    words = getattr(config.model, "words", size)
    if size > words:
        raise UserError(f"the tokenizer has {size} tokens, but model.words is {words}")
    for part in ("text", "decoder", "painter.text"):
        reader: Any = config.model
        for name in part.split("."):
            reader = getattr(reader, name, None)
        vocab = getattr(reader, "vocab", size)
        if size > vocab:
            raise UserError(f"the tokenizer has {size} tokens, but model.{part}.vocab is {vocab}")
