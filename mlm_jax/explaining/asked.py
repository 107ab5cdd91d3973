"""What is explained: what was seen, as floats that have gradients, and the words that were written.

Shapes have, besides those of `mlm_jax.layers`: W words that are explained, S the tokens of a text
that the decoder wrote (without bos).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlm_jax.config import SENSES, UserError
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.loader import LENGTHS
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.encoders import AudioEncoder, ImageEncoder, VideoEncoder
from mlm_jax.encoders.image import normalised
from mlm_jax.generate import Params, encode, generate
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.trained import Shown, Trained

Seen = Mapping[str, Array]
"""By sense: pictures (B, H, W, 3) and clips (B, T, H, W, 3), normalised, sounds as spectrograms
(B, F, M); each as its encoder takes floats."""


class Asked(NamedTuple):
    """Pictures, each with one text; `spans` is 1 where a token belongs to a word, else 0."""

    seen: Seen
    text: Int[Array, "B N"]
    text_mask: Bool[Array, "B N"]
    target: Int[Array, "B M"]
    spans: Float[Array, "B W S"]

    @property
    def batch(self) -> dict[str, Array]:
        """As the model takes it."""
        rows = {"text": self.text, "text_mask": self.text_mask, "target": self.target}
        return {**self.seen, **rows}


class Word(NamedTuple):
    """A word of a text: `start` to `end` are its letters, `tokens` the ones that spell it."""

    text: str
    start: int
    end: int
    tokens: range


def require_multimodal(trained: Trained) -> Multimodal:
    """The model of a run that captions or answers. Raises: UserError for any other."""
    model = trained.config.model
    if not isinstance(model, Multimodal):
        name = type(model).__name__
        raise UserError(
            f"{trained.path} is a {name}, whose words cannot be explained: a Multimodal run can,"
            " which captions what it sees (vit_tiny, video_qa_tiny)"
        )
    return model


# --- what is seen ---


@partial(jax.jit, static_argnames="model")
def floats(model: Multimodal, params: Params, shown: Mapping[str, Array]) -> dict[str, Array]:
    """What is seen and heard, (B, ...), as floats that the encoders take as they are."""
    seen: Any = model.apply({"params": params}, shown, method=_floats)
    return dict(seen)


def _floats(model: Multimodal, shown: Mapping[str, Array]) -> dict[str, Array]:
    seen = {}
    for key in ("image", "video"):
        eye: ImageEncoder | VideoEncoder | None = getattr(model, key)
        if eye is not None:
            seen[key] = normalised(eye, shown[key], eye.mean, eye.std)
    if model.audio is not None:
        seen["audio"] = model.audio._spectrogram(shown["audio"], shown.get("audio_length"))
    return seen


def blank(seen: Seen) -> dict[str, Array]:
    """Nothing to be seen: each picture or clip in its own mean colour, each sound in the lowest
    level of its spectrogram."""
    return {key: _blank(key, x) for key, x in seen.items()}


def _blank(key: str, x: Array) -> Array:
    axes = tuple(range(1, x.ndim))
    if key == "audio":
        return jnp.broadcast_to(x.min(axes, keepdims=True), x.shape)
    return jnp.broadcast_to(x.mean(axes[:-1], keepdims=True), x.shape)


# --- what is written ---


def ask(
    trained: Trained, shown: Sequence[Shown], question: str = ""
) -> tuple[Asked, list[list[Word]]]:
    """What the run writes of each thing that is shown, ready to be explained word by word.

    Raises: UserError for a run that is no Multimodal, BadRecord for a question that is too long.
    """
    model = require_multimodal(trained)
    batch = {name: jnp.asarray(np.stack([each[name] for each in shown])) for name in shown[0]}
    row = trained.tokenise(question or CAPTION_PROMPT, "", "--question" if question else "prompt")
    texts = {
        name: jnp.asarray(np.stack([row[name]] * len(shown))) for name in ("text", "text_mask")
    }
    fused = encode(model, trained.params, batch | texts)
    ids = generate(model, trained.params, fused, **trained.words).ids
    written = np.asarray(ids)
    words = [words_of(trained.tokenizer, each) for each in written]
    seen = floats(model, trained.params, batch)
    return asked_of(trained, seen, texts, written, words), words


def asked_of(
    trained: Trained,
    seen: Seen,
    texts: Mapping[str, Array],
    written: Int[np.ndarray, "B S"],
    words: Sequence[Sequence[Word]],
) -> Asked:
    """`words` of `written`, which need not be all of them; rows of fewer are filled with none.

    Texts and their words are cut to a length of few, so that few programs are compiled.
    """
    longest = int((written != trained.tokenizer.pad).sum(1).max())
    length = min(next((n for n in LENGTHS if n >= longest), longest), written.shape[1])
    count = max(map(len, words))
    count = next((n for n in LENGTHS if n >= count), count)
    spans = np.zeros((len(written), count, length), np.float32)
    for row, own in zip(spans, words, strict=True):
        for span, word in zip(row, own, strict=False):
            span[word.tokens] = 1
    bos = np.full((len(written), 1), trained.tokenizer.bos, np.int32)
    target = np.concatenate([bos, written[:, :length]], axis=1)
    return Asked(seen, texts["text"], texts["text_mask"], jnp.asarray(target), jnp.asarray(spans))


def words_of(tokenizer: Tokenizer, ids: Int[np.ndarray, " S"]) -> list[Word]:
    """The words of a text up to eos: letters and digits, or a mark by itself."""
    text, words, end = tokenizer.decode(ids), list[Word](), 0
    for place in range(len(ids)):
        if ids[place] in (tokenizer.eos, tokenizer.pad):
            break
        told = tokenizer.decode(ids[: place + 1])
        start, end = end, len(told) if text.startswith(told) else end  # half a letter is none yet
        piece = text[start:end]
        new = not words or not piece[:1].isalnum() or not words[-1].text[-1:].isalnum()
        if new and piece:
            begin = start + len(piece) - len(piece.lstrip())
            words.append(Word(text[begin:end], begin, end, range(place, place + 1)))
        elif words:
            last = words[-1]
            tokens = range(last.tokens.start, place + 1)
            words[-1] = Word(text[last.start : end], last.start, end, tokens)
    return words


# --- what is asked of the model ---


def logits(model: Multimodal, batch: Mapping[str, Array]) -> Float[Array, "B S V"]:
    """Of a bound model, what it says at each place of the targets, for `apply(..., method=)`."""
    said: Any = model.decoder(batch["target"][:, :-1], model.encode(batch))
    return said


def scores(
    model: Multimodal, params: Params, asked: Asked, nudge: Any = None
) -> tuple[Float[Array, "B W"], Any]:
    """The log-probability of each word after those before it; with a `nudge`, the weights too.

    `nudge` is what is added to the weights of all attentions (see `Attention`), in a tree like
    theirs; {} adds nothing.
    """
    said: Any
    weights: Any = {}
    if nudge is None:
        said = model.apply({"params": params}, asked.batch, method=logits)
    else:
        variables = {"params": params, "nudge": nudge}
        said, kept = model.apply(variables, asked.batch, method=logits, mutable=["attention"])
        weights = kept["attention"]
    told = jax.nn.log_softmax(said)
    told = jnp.take_along_axis(told, asked.target[:, 1:, None], axis=-1)[..., 0]
    return jnp.einsum("bws,bs->bw", asked.spans, told), weights


def senses_of(model: Multimodal) -> list[tuple[str, ImageEncoder | VideoEncoder | AudioEncoder]]:
    """Those that the model has, in the order in which it lines up their tokens."""
    return [(key, getattr(model, key)) for key in SENSES if getattr(model, key) is not None]
