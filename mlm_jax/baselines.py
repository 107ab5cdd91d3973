"""What can be answered without the picture: the commonest answer, and a reader of questions.

A model that sees has to beat both; where the second is strong, the questions give answers away.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mlm_jax.data.records import BadRecord, Source
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.metrics import commonest, normalise

Gram = tuple[int, ...]
QUESTIONS = 50_000
ANSWERS = 1_000
GRAMS = 4_000
HIDDEN = 64
STEPS = 1_000
BATCH = 256
RATE = 3e-3
HELD_OUT = 10  # one question in so many chooses the epoch


@dataclass(frozen=True)
class Asked:
    """A question of the training split with its commonest answer, normalised."""

    text: str
    answer: str
    kind: str


def asked(source: Source) -> list[Asked]:
    """Up to QUESTIONS questions, those of pictures spread evenly over the source."""
    found: list[Asked] = []
    strides = 64  # by turns, so that stopping early leaves no part of the source out
    for index in (i for start in range(strides) for i in range(start, len(source), strides)):
        try:
            questions = source[index].questions
        except BadRecord:
            continue
        for q in questions:
            found.append(Asked(q.text, normalise(commonest(q.answers)), q.kind))
        if len(found) >= QUESTIONS:
            break
    return found


@dataclass(frozen=True)
class Majority:
    """The commonest training answer to questions of the same kind, to all where that is unknown."""

    by_kind: dict[str, str]
    overall: str

    def __call__(self, kind: str) -> str:
        return self.by_kind.get(kind, self.overall)


def majority(questions: Sequence[Asked]) -> Majority:
    kinds = dict.fromkeys(q.kind for q in questions)
    by_kind = {k: commonest(q.answer for q in questions if q.kind == k) for k in kinds}
    return Majority(by_kind, commonest(q.answer for q in questions))


# --- the reader of questions ---


@dataclass(frozen=True)
class QuestionOnly:
    """Words and pairs of neighbours, each a vector; their sum, one hidden layer, answers."""

    tokenizer: Tokenizer
    grams: dict[Gram, int]
    answers: list[str]
    width: int
    params: Any

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The likeliest answer to each question; unknown words and pairs are passed over."""
        unique = list(dict.fromkeys(texts))
        rows = features(read(self.tokenizer, unique), unique, self.grams, self.width)
        best = np.concatenate([predict(self.params, part) for part in chunks(rows)])
        told = {text: self.answers[i] for text, i in zip(unique, best[: len(unique)], strict=True)}
        return [told[text] for text in texts]


def question_only(questions: Sequence[Asked], tokenizer: Tokenizer) -> QuestionOnly:
    """Trained with AdamW for STEPS; the epoch that does best on a held-out tenth is kept.

    The GRAMS commonest words and pairs and the ANSWERS commonest answers are known.
    """
    order = np.random.default_rng(0).permutation(len(questions))
    questions = [questions[i] for i in order]
    texts = [q.text for q in questions]
    known = read(tokenizer, texts)
    counts = Counter(gram for text in texts for gram in known[text])
    grams = {gram: i + 1 for i, (gram, _) in enumerate(counts.most_common(GRAMS))}  # 0: none
    answers = [a for a, _ in Counter(q.answer for q in questions).most_common(ANSWERS)]
    number = {answer: i for i, answer in enumerate(answers)}
    width = max(map(len, known.values()))
    wanted = np.array([number.get(q.answer, -1) for q in questions], np.int32)
    rows = features(known, texts, grams, width)[wanted >= 0]
    wanted = wanted[wanted >= 0]
    test = len(rows) // HELD_OUT
    train, held = (rows[test:], wanted[test:]), (rows[:test], wanted[:test])
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer
        params = fit(*train, *held, grams=len(grams), answers=len(answers))
    return QuestionOnly(tokenizer, grams, answers, width, params)


def read(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, list[Gram]]:
    """Text -> its words and pairs of neighbours: (0, word) the first and (word, 0) the last."""
    found: dict[str, list[Gram]] = {}
    for text in texts:
        if text not in found:
            ids = tokenizer.encode(text)
            pairs = zip([0, *ids], [*ids, 0], strict=True)
            found[text] = list(dict.fromkeys([*((i,) for i in ids), *pairs]))
    return found


def features(
    known: dict[str, list[Gram]], texts: Sequence[str], grams: dict[Gram, int], width: int
) -> Int[np.ndarray, "Q L"]:
    """Numbers of the known words and pairs of each text, 0 beyond."""
    table = np.zeros((len(texts), width), np.int32)
    for row, text in enumerate(texts):
        numbers = [grams[gram] for gram in known[text] if gram in grams][:width]
        table[row, : len(numbers)] = numbers
    return table


def logits(params: Any, rows: Int[Array, "Q L"]) -> Float[Array, "Q A"]:
    """A matrix product over which words there are is faster than gathering, and has a gradient."""
    there = jnp.zeros((len(rows), len(params["words"])), jnp.float32)
    there = there.at[jnp.arange(len(rows))[:, None], rows].set(1.0).at[:, 0].set(0.0)
    return jax.nn.relu(there @ params["words"] + params["bias"]) @ params["out"] + params["prior"]


def chunks(rows: Int[np.ndarray, "Q L"]) -> list[Int[np.ndarray, "256 L"]]:
    """The rows BATCH at a time, the last ones filled up with zeros."""
    whole = np.pad(rows, ((0, -len(rows) % BATCH), (0, 0)))
    return list(whole.reshape(-1, BATCH, rows.shape[1]))


@jax.jit
def predict(params: Any, rows: Int[Array, "Q L"]) -> Int[Array, "Q"]:
    return logits(params, rows).argmax(-1)


@partial(jax.jit, static_argnames=("grams", "answers"))
def fit(
    rows: Int[Array, "Q L"],
    wanted: Int[Array, "Q"],
    test_rows: Int[Array, "T L"],
    test_wanted: Int[Array, "T"],
    *,
    grams: int,
    answers: int,
) -> Any:
    """Parameters after the epoch that was right most often on the test rows."""
    size = min(BATCH, len(rows))
    steps = len(rows) // size
    epochs = -(-STEPS // steps)
    tx = optax.adamw(optax.cosine_decay_schedule(RATE, epochs * steps), weight_decay=1e-2)
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "words": 0.1 * jax.random.normal(keys[0], (grams + 1, HIDDEN), jnp.float32),
        "bias": jnp.zeros(HIDDEN, jnp.float32),
        "out": 0.1 * jax.random.normal(keys[1], (HIDDEN, answers), jnp.float32),
        "prior": jnp.zeros(answers, jnp.float32),
    }

    def loss(params: Any, part: Array, right: Array) -> Array:
        nats = optax.softmax_cross_entropy_with_integer_labels(logits(params, part), right)
        return nats.mean()

    def step(state: tuple, places: Array) -> tuple[tuple, None]:
        params, opt = state
        grads = jax.grad(loss)(params, rows[places], wanted[places])
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), None

    def epoch(state: tuple, key: Array) -> tuple[tuple, None]:
        params, opt, kept, most = state
        order = jax.random.permutation(key, len(rows))[: steps * size].reshape(steps, size)
        (params, opt), _ = jax.lax.scan(step, (params, opt), order)
        right = (logits(params, test_rows).argmax(-1) == test_wanted).sum()
        kept = jax.tree.map(lambda new, old: jnp.where(right >= most, new, old), params, kept)
        return (params, opt, kept, jnp.maximum(most, right)), None

    none = jnp.array(-1, jnp.int32)
    start = (params, tx.init(params), params, none)
    end, _ = jax.lax.scan(epoch, start, jax.random.split(jax.random.key(1), epochs))
    return end[2]
