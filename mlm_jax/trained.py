"""A trained run, asked: captions, answers, conversations, texts that go on."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mlm_jax.checkpoint import restore_params
from mlm_jax.config import SENSES, Config, Data, Fields, UserError, inline, read, senses
from mlm_jax.data import CAPTION_PROMPT, labels, tokenizers
from mlm_jax.data.loader import trim
from mlm_jax.data.pictures import MAX_BYTES
from mlm_jax.data.records import BadRecord, Record
from mlm_jax.data.rows import parse_chat
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.data.transforms import Take, Tokenise, take_for, with_kept
from mlm_jax.detect import detect, spans
from mlm_jax.fusion import Fused
from mlm_jax.generate import (
    GREEDY,
    How,
    Params,
    Prompt,
    Written,
    beam_search,
    encode,
    generate,
    rank,
)


class Trained(NamedTuple):
    """What a run directory holds to generate with; the moving average where it keeps one."""

    path: Path
    config: Config
    tokenizer: Tokenizer
    params: Params
    step: int
    own: Data | None = None
    """The run's own data, where config.data are others that it is measured on."""

    @property
    def learnt_from(self) -> Data:
        return self.config.data if self.own is None else self.own

    @property
    def words(self) -> dict[str, int]:
        """The special words and the longest text, as `generate` takes them."""
        t = self.tokenizer
        length = self.config.data.target_length - 1
        return {"bos": t.bos, "eos": t.eos, "pad": t.pad, "length": length}

    @property
    def take(self) -> Take:
        """What of a record is seen and heard, and how it becomes arrays."""
        return take_for(self.config.data, senses(self.config))

    def take_events(self, classes: tuple[str, ...]) -> Take:
        """The same with the events of clips, of these classes."""
        return take_for(self.config.data, senses(self.config), classes)

    @property
    def tokenise(self) -> Tokenise:
        data = self.config.data
        return Tokenise(self.tokenizer, data.text_length, data.target_length, inline(self.config))


def open_trained(run: Path) -> Trained:
    """Raises: UserError if `run` is no run directory or holds no whole checkpoint."""
    config = read(run)
    config = replace(config, data=with_kept(config.data, run))
    step, params = restore_params(run)
    tokenizer = tokenizers.load(run / "tokenizer.json")
    return Trained(run, config, tokenizer, jax.device_put(params), step)


def require_writer(trained: Trained) -> None:
    """Raises: UserError where the model does not write."""
    if not hasattr(getattr(trained.config.model, "decoder", None), "vocab"):
        name = type(trained.config.model).__name__
        raise UserError(f"{trained.path} is a {name}, which writes nothing: see evaluate.py")


def require_given(trained: Trained, given: Collection[str]) -> None:
    """Raises: UserError where the model takes others of image, video and audio."""
    name = type(trained.config.model).__name__
    wanted = trained.take.needs
    if {*given} != {*wanted}:
        takes = " and ".join(f"--{key}" for key in wanted) or "a --prompt"
        refused = [f"--{key}" for key in given if key not in wanted]
        no_more = f", and no {' or '.join(refused)}" if refused else ""
        raise UserError(f"{trained.path} is a {name}: it takes {takes}{no_more}")


Shown = dict[str, np.ndarray]
"""What is seen and heard, as arrays without the axis of the batch."""


def look(trained: Trained, files: Mapping[str, Path]) -> Shown:
    """Files by "image", "video" and "audio", as the run saw its own. Raises: BadRecord, OSError."""
    require_given(trained, files)
    return trained.take(record_of(files))


def record_of(files: Mapping[str, Path]) -> Record:
    given: dict[str, Any] = dict(files)
    for key, path in files.items():
        if not path.is_file():
            raise UserError(f"--{key} {path}: no such file")
        if key == "image":
            if path.stat().st_size > MAX_BYTES:
                raise BadRecord(str(path), key, f"over {MAX_BYTES >> 20} MiB, the most accepted")
            given[key] = path.read_bytes()
    return Record(", ".join(map(str, files.values())), **given)


class Happened(NamedTuple):
    """An event, in seconds."""

    label: str
    start: float
    end: float
    score: float


def watch_for_events(trained: Trained, files: Mapping[str, Path]) -> list[Happened]:
    """What happens in a clip, and when, the surest first. Raises: BadRecord, UserError."""
    require_given(trained, files)
    watch = trained.take.video
    assert watch is not None
    frames, seconds = watch(record_of(files))
    return happening(trained, frames, seconds)


def happening(
    trained: Trained, frames: UInt8[np.ndarray, "T H W 3"], seconds: float
) -> list[Happened]:
    """What happens in a clip as long as `seconds`, and when, the surest first."""
    score, span = detect(trained.config.model, trained.params, {"video": frames[None]})
    names = labels.load(trained.path / "classes.json")
    return [
        Happened(names[each.label], each.start * seconds, each.end * seconds, each.score)
        for each in spans(np.asarray(score)[0, :, : len(names)], np.asarray(span)[0])
    ]


def classify(trained: Trained, shown: Shown) -> list["Told"]:
    """Names of classes with their probabilities, the likeliest first."""
    batch = {key: jnp.asarray(array)[None] for key, array in shown.items()}
    outputs: Any = trained.config.model.apply({"params": trained.params}, batch)
    share = np.asarray(jax.nn.softmax(outputs["logits"][0]))
    names = labels.load(trained.path / "classes.json")
    order = np.argsort(-share[: len(names)], kind="stable")
    return [Told(names[i], float(share[i])) for i in order]


def unknown(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of `text` that the run has no id for."""
    encoding = tokenizer.inner.encode(text, add_special_tokens=False)
    places = zip(encoding.ids, encoding.offsets, strict=True)
    words = [text[slice(*place)].strip() for index, place in places if index == tokenizer.unk]
    return list(dict.fromkeys(word for word in words if any(map(str.isalnum, word))))


class Told(NamedTuple):
    text: str
    probability: float


def tell(
    trained: Trained,
    shown: Shown,
    question: str = "",
    *,
    how: How = GREEDY,
    count: int = 1,
    seed: int = 0,
    answers: Sequence[str] = (),
) -> list[Told]:
    """Captions of what is shown, or answers to a question about it, each with its probability.

    `shown`: as `look` gives it. `count` samples, or the best `count` beams;
    greedy knows one. With `answers`, all of these, likeliest first, among which the probability is
    shared out. Raises: BadRecord for a text that is too long, UserError where none is read.
    """
    require_writer(trained)
    model = trained.config.model
    if question and not hasattr(model, "text"):
        raise UserError(f"{trained.path} is a {type(model).__name__}, which reads no questions")
    row = trained.tokenise(question or CAPTION_PROMPT, "", "--question" if question else "prompt")
    batch = trim({key: value[None] for key, value in (shown | row).items()})
    asked = {key: batch[key] for key in (*shown, "text", "text_mask")}
    fused = encode(model, trained.params, asked)
    if answers:
        rows = [trained.tokenise("", answer, "--answers") for answer in answers]
        target, mask = (np.stack([row[key] for row in rows]) for key in ("target", "target_mask"))
        total = rank(model, trained.params, fused, target, mask)
        share = np.asarray(jax.nn.softmax(total, axis=-1))[0]
        return [Told(answers[i], float(share[i])) for i in np.argsort(-share, kind="stable")]
    return write(trained, fused, how=how, count=count, seed=seed)


def go_on(
    trained: Trained, text: str, *, how: How = GREEDY, count: int = 1, seed: int = 0
) -> list[Told]:
    """What a model of text alone writes after `text`, which may be empty, in texts as of `tell`."""
    require_writer(trained)
    require_given(trained, ())
    tokenizer = trained.tokenizer
    ids = jnp.array([[tokenizer.bos, *tokenizer.encode(text)]], jnp.int32)
    room = trained.config.model.decoder.length - ids.shape[1] + 1
    if room < 1:
        most = trained.config.model.decoder.length - 1
        raise BadRecord("--prompt", "text", f"{ids.shape[1] - 1} tokens; accepted are {most}")
    prompt = Prompt(ids, jnp.ones_like(ids, bool))
    return write(trained, Fused(), how=how, count=count, seed=seed, prompt=prompt, room=room)


def chat(
    trained: Trained,
    messages: Sequence[Mapping[str, Any]],
    shown: Shown | None = None,
    *,
    how: How = GREEDY,
    count: int = 1,
    seed: int = 0,
) -> list[Told]:
    """The next answer of a conversation, in texts as of `tell`; the last message is the user's.

    `messages` are those of a row of a user's own data (see `Fields.messages`). Raises: BadRecord.
    """
    shown = shown or {}
    require_writer(trained)
    require_given(trained, [key for key in SENSES if key in shown])
    if not isinstance(messages, list | tuple):
        raise BadRecord("--messages", "messages", "no list; accepted: a list of messages")
    unanswered = [*messages, {"role": "assistant", "content": "..."}]
    (asked,) = parse_chat({"messages": unanswered}, "--messages", Fields())
    turns = [(asked.text, asked.answers[0]), *asked.then]
    texts = [text for turn in turns for text in turn][:-1]
    tokenizer, alone = trained.tokenizer, inline(trained.config)
    ids: list[int] = []
    for place, text in enumerate(texts if alone else texts[1:], not alone):
        ids += [tokenizer.bos, *tokenizer.encode(text), *([tokenizer.eos] if place % 2 else [])]
    whole = jnp.array([[*ids, tokenizer.bos]], jnp.int32)
    room = trained.config.model.decoder.length - whole.shape[1] + 1
    if room < 1:
        most = trained.config.model.decoder.length
        raise BadRecord("--messages", "text", f"{whole.shape[1]} tokens; accepted are {most}")
    fused = Fused()
    if shown:
        row = trained.tokenise(asked.text, "", "--messages")
        rows = shown | {key: row[key] for key in ("text", "text_mask")}
        batch = {key: array[None] for key, array in rows.items()}
        fused = encode(trained.config.model, trained.params, batch)
    prompt = Prompt(whole, jnp.ones_like(whole, bool))
    return write(trained, fused, how=how, count=count, seed=seed, prompt=prompt, room=room)


def write(
    trained: Trained,
    fused: Fused,
    *,
    how: How,
    count: int,
    seed: int,
    prompt: Prompt | None = None,
    room: int | None = None,
) -> list[Told]:
    """`count` samples, or the best `count` beams; greedy knows one. At most `room` words."""
    model, tokenizer = trained.config.model, trained.tokenizer
    words = trained.words if room is None else {**trained.words, "length": room}
    if how.method == "beam":
        how = replace(how, beams=max(how.beams, count))
        texts = beam_search(model, trained.params, fused, **words, how=how, prompt=prompt)
        texts = Written(texts.ids[0, :count], texts.logprobs[0, :count])
    else:
        times = count if how.method == "sample" else 1
        fused, prompt = jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), (fused, prompt))
        key = jax.random.key(seed)
        texts = generate(model, trained.params, fused, **words, how=how, key=key, prompt=prompt)
    ids, total = np.asarray(texts.ids), np.asarray(texts.total)
    return [Told(tokenizer.decode(i), math.exp(t)) for i, t in zip(ids, total, strict=True)]
