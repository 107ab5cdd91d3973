"""Text alone: does BERT find hidden words, does GPT write what could have been written?"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from mlm_jax.config import UserError, inline
from mlm_jax.data import loader, sources
from mlm_jax.data.loader import CAPTION
from mlm_jax.data.records import Source
from mlm_jax.data.transforms import Take
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.fusion import Fused
from mlm_jax.generate import How, Prompt, generate
from mlm_jax.metrics import Perplexity, Ratio, Statistic, bootstrap
from mlm_jax.trained import Trained
from mlm_jax.world.language import WORDS, kind_of

Batch = dict[str, Any]
BATCH = 256
WRITTEN = 1_000  # texts that GPT writes
KNOWN = 10_000  # training pictures of which the captions are known to the baselines


# --- BERT ---


def fill(trained: Trained, source: Source, limit: int | None) -> Measured:
    """Every word of the captions hidden, one at a time.

    Beside the model: the commonest word, and the commonest between the same two neighbours, or
    after the same one, in the training captions.
    """
    model = trained.config.model
    known = Neighbours()
    for _, batch in captions(trained, train_source(trained), KNOWN):
        known.read(batch["target"][batch["target_mask"]].tolist())
    counts = []
    told = [batch for _, batch in captions(trained, source, limit)]
    if not told:
        raise UserError(f"{trained.config.data.name} has no captions")
    for batch in batches(told, at_once(trained.config, BATCH)):
        ids, mask = batch["target"], batch["target_mask"]
        places = range(ids.shape[1])
        found = [hidden_word(model, trained.params, ids, mask, at) for at in places]
        guesses = np.stack([np.asarray(guess) for guess in found], axis=1)
        counts += [
            filled(known, row[real].tolist(), guess[real].tolist(), model.special)
            for row, guess, real in zip(ids, guesses, mask, strict=True)
            if real.any()
        ]
    names = {"accuracy": "model", "accuracy of the commonest word": "commonest",
             "accuracy by the neighbours": "neighbours"}  # fmt: skip
    return Measured(
        bootstrap(counts, {n: Ratio(column, "words", "words") for n, column in names.items()})
    )


def filled(
    known: "Neighbours", row: list[int], guesses: list[int], special: Sequence[int]
) -> dict[str, float]:
    """How many words there are, and how many each of three would have found."""
    told = dict.fromkeys(("words", "model", "commonest", "neighbours"), 0.0)
    for at in range(1, len(row) - 1):
        if row[at] in special:
            continue
        told["words"] += 1
        told["model"] += guesses[at] == row[at]
        told["commonest"] += known.guess(None, None) == row[at]
        told["neighbours"] += known.guess(row[at - 1], row[at + 1]) == row[at]
    return told


@partial(jax.jit, static_argnames="model")
def hidden_word(model: Any, params: Any, ids: Array, mask: Array, at: Array) -> Array:
    """The likeliest word at place `at`, when it is hidden."""
    shown = jnp.asarray(ids).at[:, at].set(model.mask_id)
    out = model.apply({"params": params}, shown, jnp.asarray(mask), method="read")
    return jnp.take(out["logits"], at, axis=1).argmax(-1)


class Neighbours:
    """Counts of a word by what stands on both sides of it."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int | None, int | None], Counter[int]] = {}
        self.best: dict[tuple[int | None, int | None], int] = {}

    def read(self, row: Sequence[int]) -> None:
        for left, word, right in zip(row, row[1:], row[2:], strict=False):
            for key in ((left, right), (left, None), (None, None)):
                self.counts.setdefault(key, Counter())[word] += 1

    def guess(self, left: int | None, right: int | None) -> int:
        key = next(k for k in ((left, right), (left, None), (None, None)) if k in self.counts)
        if key not in self.best:
            self.best[key] = self.counts[key].most_common(1)[0][0]
        return self.best[key]


# --- GPT ---


def write(trained: Trained, source: Source, limit: int | None) -> Measured:
    """What is written, how surprising the captions of the split are, and its answers, if any.

    `in form`: the share of WRITTEN sampled texts whose form, words of a kind taken as one, occurs
    in the training captions; `new`: the share of texts that do not. The baseline writes each word
    after the two before it as often as they stood so in training. `answers/exact`: the share of
    answers of which the likeliest words are all right, after a conversation that was.
    """
    texts = list(texts_of(trained, source, limit))
    told = [batch for pair, batch in texts if pair.kind == CAPTION]
    answers = [batch for pair, batch in texts if pair.kind != CAPTION]
    counts = surprise(trained, told or answers)
    figures: dict[str, Statistic] = {"perplexity": Perplexity("texts")}
    if told:
        counts += compared(trained)
        figures |= {
            f"{title}/{what}": Ratio(f"{name} {column}", f"{name} texts", f"{name} texts")
            for title, name in (("written", "written"), ("chain of three words", "chain"))
            for what, column in (("in form", "form"), ("new", "new"))
        }
    if answers:
        counts += exact(trained, answers)
        figures["answers/exact"] = Ratio("exact", "answers", "answers")
    return Measured(bootstrap(counts, figures))


def compared(trained: Trained) -> list[dict[str, float]]:
    """Texts of the model and of the baseline, held against the training captions."""
    tokenizer = trained.tokenizer
    known = captions(trained, train_source(trained), KNOWN)
    told = [text for pair, _ in known for text in pair.references]
    forms, verbatim = {form(text) for text in told}, set(told)
    chain = Chain(map(tokenizer.encode, told), tokenizer.bos, tokenizer.eos)
    rng = np.random.default_rng(0)
    chained = [tokenizer.decode(chain.write(rng, trained.words["length"])) for _ in range(WRITTEN)]
    counts = []
    for name, texts in (("written", sample(trained, WRITTEN)), ("chain", chained)):
        for text in texts:
            row = {"form": form(text) in forms, "new": text not in verbatim, "texts": True}
            counts.append({f"{name} {key}": float(value) for key, value in row.items()})
    return counts


class Chain:
    """Each word after the two before it, as often as they stood so."""

    def __init__(self, texts: Iterable[Sequence[int]], bos: int, eos: int) -> None:
        self.bos, self.eos = bos, eos
        self.after: dict[tuple[int, int], list[int]] = {}
        for text in texts:
            row = [bos, bos, *text, eos]
            for one, two, word in zip(row, row[1:], row[2:], strict=False):
                self.after.setdefault((one, two), []).append(word)

    def write(self, rng: np.random.Generator, length: int) -> list[int]:
        row = [self.bos, self.bos]
        while row[-1] != self.eos and len(row) < length + 2:
            choices = self.after[row[-2], row[-1]]
            row.append(choices[rng.integers(len(choices))])
        return row[2:]


def form(text: str) -> tuple[str, ...]:
    """The words of a text, with colours, shapes, sizes and relations of the world as their kind."""
    return tuple(kind_of(word) for word in WORDS.findall(text.lower()))


def sample(trained: Trained, count: int) -> list[str]:
    size, texts = at_once(trained.config, BATCH), []
    prompt = jnp.full((size, 1), trained.tokenizer.bos, jnp.int32)
    for start in range(0, count, size):
        written = generate(
            trained.config.model,
            trained.params,
            Fused(),
            **trained.words,
            how=How("sample"),
            key=jax.random.fold_in(jax.random.key(0), start),
            prompt=Prompt(prompt, jnp.ones_like(prompt, bool)),
        )
        texts += [trained.tokenizer.decode(ids) for ids in np.asarray(written.ids)]
    return texts[:count]


def surprise(trained: Trained, texts: list[Batch]) -> list[dict[str, float]]:
    """Nats and tokens of each text."""
    return [
        {"nats": float(n[real[1:]].sum()), "tokens": float(real[1:].sum()), "texts": 1.0}
        for n, _, real in judged(trained, texts)
    ]


def exact(trained: Trained, texts: list[Batch]) -> list[dict[str, float]]:
    """How many answers each conversation has, and how many are right word by word."""
    counts = []
    for _, right, scored in judged(trained, texts):
        begins = np.flatnonzero(scored & ~np.roll(scored, 1))
        answers = [right[start - 1 :][: streak(scored[start:])].all() for start in begins]
        counts.append({"exact": float(sum(answers)), "answers": float(len(answers))})
    return counts


def streak(flags: np.ndarray) -> int:
    """How many are True from the start on."""
    return int(np.argmin(flags)) if not flags.all() else len(flags)


def judged(
    trained: Trained, texts: list[Batch]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Nats and rightness of target[1:], and what of target is scored, of each text."""
    for batch in batches(texts, at_once(trained.config, BATCH)):
        nats, right = compare(trained.config.model, trained.params, batch["target"])
        for row in zip(np.asarray(nats), np.asarray(right), batch["scored"], strict=True):
            if row[2].any():
                yield row


@partial(jax.jit, static_argnames="model")
def compare(model: Any, params: Any, ids: Array) -> tuple[Array, Array]:
    logits = model.apply({"params": params}, {"target": ids})["logits"]
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
    return nats, logits.argmax(-1) == ids[:, 1:]


# --- captions of a split ---


def train_source(trained: Trained) -> Source:
    data = trained.learnt_from
    return sources.open_source(data, data.train, ())


def texts_of(
    trained: Trained, source: Source, limit: int | None
) -> Iterator[tuple[loader.Pair, Batch]]:
    """Every text with its arrays; no picture is read. Raises: UserError where there is none."""
    config = trained.config
    rows = loader.eval_pairs(config.data, source, trained.tokenizer, Take(), limit, inline(config))
    none = True
    for row in rows:
        none = False
        yield row
    if none:
        raise UserError(f"{config.data.name} has no texts")


def captions(
    trained: Trained, source: Source, limit: int | None
) -> Iterator[tuple[loader.Pair, Batch]]:
    """Of each picture one caption, with its arrays."""
    return (row for row in texts_of(trained, source, limit) if row[0].kind == CAPTION)


def batches(texts: list[Batch], size: int) -> Iterator[Batch]:
    """`size` rows at a time, of the longest text; the last filled up with none."""
    keys = ("target", "target_mask", "scored")
    whole = {key: np.stack([text[key] for text in texts]) for key in keys}
    longest = int(whole["target_mask"].sum(1).max())
    for start in range(0, len(texts), size):
        part = {key: array[start : start + size, :longest] for key, array in whole.items()}
        room = [(0, size - len(part["target"])), (0, 0)]
        yield {key: np.pad(array, room) for key, array in part.items()}
