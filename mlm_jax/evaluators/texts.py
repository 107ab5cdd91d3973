"""Captions and answers of a trained run over a whole split, counted.

They are generated greedily. About the embedded world a caption is graded fact by fact; elsewhere
it is compared with the references. One picture is encoded once for a group of its questions; shapes
are fixed, so that each kind of batch is compiled once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mlm_jax import baselines
from mlm_jax.config import UserError
from mlm_jax.data import loader, sources
from mlm_jax.data.loader import CAPTION, Pair
from mlm_jax.data.records import BadRecord, Source
from mlm_jax.evaluators import Measured, at_once, matching
from mlm_jax.generate import decode, encode, generate, rank
from mlm_jax.metrics import (
    F1,
    Figure,
    Perplexity,
    Ratio,
    Statistic,
    agreement,
    bootstrap,
    normalise,
    place_of,
)
from mlm_jax.scorers import captions
from mlm_jax.showing import shown_as
from mlm_jax.trained import Trained
from mlm_jax.world import clip, scene
from mlm_jax.world.grade import CaptionGrade, grade_caption
from mlm_jax.world.watch import StoryGrade, grade_story

Batch = Mapping[str, np.ndarray]
Example = tuple[Pair, Batch]

TARGET_KEYS = ("target", "target_mask", "scored")
PICTURES = 256  # read at a time
ROWS = 256  # texts to a batch
GROUPS = (1, 2, 4, 8, 16)  # how many texts of a picture may share its encoding
RANKED = 16  # pictures to a batch of ranking
RECALLS = (1, 5, 10)
SHOWN, WRONG = 16, 8  # pictures in the report


def evaluate(
    trained: Trained, source: Source, limit: int | None, *, rank: bool = False
) -> Measured:
    """Figures of all captions and answers, with their counts. Raises: UserError.

    `rank` adds caption/recall@k: the place of the right caption among all distinct captions of
    the split, by log-probability.
    """
    count = max(1, len(source) if limit is None else min(limit, len(source)))
    chosen = {(i * count // SHOWN) * len(source) // count for i in range(SHOWN)}

    results: list[Result] = []
    shown: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    for chunk in chunks(trained, source, limit):
        if rank and not any(pair.kind == CAPTION for pair, _ in chunk):
            raise UserError("--rank: these pictures have no captions, only questions")
        scored = score(trained, chunk)
        results += scored
        for index, picture in grouped(scored):
            if index in chosen:
                shown.append(example(picture, chunk))
            elif len(wrong) < WRONG and picture[0].score < 1:
                wrong.append(example(picture, chunk))
    if not results:
        data = trained.config.data
        raise UserError(f"{data.name}: split {data.test!r} has no text that can be evaluated")
    add_baselines(trained, results)
    if rank:
        add_ranks(trained, results, chunks(trained, source, limit))

    counts = {picture: total(own) for picture, own in grouped(results)}
    columns = {name for each in counts.values() for name in each}
    figures = bootstrap([*counts.values()], statistics(columns)) | caption_scores(results)
    if matching.learnt(trained.config.model):
        figures |= matching.evaluate(trained, source, limit)
    return Measured(figures, {"shown": shown, "wrong": wrong}, counts)


# --- what the model writes ---


class Said(NamedTuple):
    """The model's text, and what each right one cost it: nats over that many tokens."""

    text: str
    nats: float
    tokens: int


class Judged(NamedTuple):
    ids: Int[Array, "R N"]
    nats: Float[Array, "R"]
    tokens: Int[Array, "R"]


@partial(jax.jit, static_argnames=("model", "bos", "eos", "pad", "length"))
def judge(model: nn.Module, params: Any, batch: Mapping[str, Array], **words: int) -> Judged:
    """The greedy text of each row; nats and number of the tokens that are scored."""
    fused = model.apply({"params": params}, batch, method="encode")
    logits = model.apply({"params": params}, batch["target"][:, :-1], fused, method=decode)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"][:, 1:])
    real = batch["scored"][:, 1:]
    written = generate(model, params, fused, **words)
    return Judged(written.ids, (nats * real.astype(nats.dtype)).sum(1), real.sum(1))


def say(trained: Trained, examples: Sequence[Example], texts: int) -> list[Said]:
    """What the model says to each example; `texts` of one picture share its encoding."""
    said: list[Said] = []
    for real, batch in batches(examples, texts, at_once(trained.config, ROWS)):
        out = judge(trained.config.model, trained.params, batch, **trained.words)
        ids, nats, tokens = (np.asarray(x)[real] for x in out)
        texts_ = map(trained.tokenizer.decode, ids)
        said += map(Said, texts_, nats.tolist(), tokens.tolist())
    return said


def batches(
    examples: Sequence[Example], texts: int, rows: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Batches of `rows` rows, `texts` of them to a picture, and which rows are real, in order.

    The others are copies that fill up a picture's rows or the last batch. All batches have the
    lengths of the longest texts among `examples`; of few examples they are a power of two smaller.
    """
    groups = [
        places[i : i + texts]
        for places in by_picture(examples)
        for i in range(0, len(places), texts)
    ]
    whole = stack_texts(examples) if examples else {}
    size = min(max(1, rows // texts), 1 << (len(groups) - 1).bit_length())
    for start in range(0, len(groups), size):
        part = groups[start : start + size]
        real = [i < len(group) for group in part for i in range(texts)]
        real += [False] * (size * texts - len(real))
        part += [part[-1]] * (size - len(part))
        places = [group[min(i, len(group) - 1)] for group in part for i in range(texts)]
        texts_of = {key: value[places] for key, value in whole.items()}
        yield np.array(real), texts_of | stack_shown([examples[group[0]] for group in part])


def stack_texts(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    keys = ("text", "text_mask", *TARGET_KEYS)
    return loader.trim({key: np.stack([arrays[key] for _, arrays in examples]) for key in keys})


def stack_shown(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """What is seen and heard."""
    keys = matching.seen_in(examples[0][1])
    return {key: np.stack([arrays[key] for _, arrays in examples]) for key in keys}


def by_picture(examples: Sequence[Example]) -> list[list[int]]:
    """The places of each picture's examples, which stand together."""
    own = groupby(range(len(examples)), key=lambda place: examples[place][0].index)
    return [list(places) for _, places in own]


def cheapest(examples: Sequence[Example], rows: int) -> int:
    """How many questions should share a picture, at most `rows`, if it costs what one costs."""
    sizes = [len(places) for places in by_picture(examples)]
    fit = [texts for texts in GROUPS if texts <= rows]
    return min(fit, key=lambda texts: sum(-(-size // texts) * (1 + texts) for size in sizes))


def chunks(trained: Trained, source: Source, limit: int | None) -> Iterator[list[Example]]:
    """All examples of PICTURES pictures at a time."""
    data = trained.config.data
    examples = loader.eval_pairs(data, source, trained.tokenizer, trained.take, limit)
    pictures = (list(own) for _, own in groupby(examples, key=lambda each: each[0].index))
    while chunk := list(islice(pictures, PICTURES)):
        yield list(chain.from_iterable(chunk))


# --- how good it is ---


class Result(NamedTuple):
    """`score` is 1 for a right text; `counts` are columns of the bootstrap (see `statistics`)."""

    pair: Pair
    text: str
    score: float
    counts: dict[str, float]
    missed: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()


def score(trained: Trained, examples: list[Example]) -> list[Result]:
    """Captions, then questions, of each picture in the order of the pictures."""
    captions = [e for e in examples if e[0].kind == CAPTION]
    questions = [e for e in examples if e[0].kind != CAPTION]
    shared = cheapest(questions, at_once(trained.config, ROWS))
    said = say(trained, captions, 1) + say(trained, questions, shared)
    pairs = [pair for pair, _ in captions + questions]
    results = [result(pair, each) for pair, each in zip(pairs, said, strict=True)]
    return sorted(results, key=lambda each: each.pair.index)


def result(pair: Pair, said: Said) -> Result:
    counts = {"nats": said.nats, "tokens": said.tokens, "texts": 1}
    if pair.kind != CAPTION:
        right = agreement(said.text, pair.references)
        counts |= answered("accuracy", pair.kind, right) | answered("asked", pair.kind, 1)
        return Result(pair, said.text, right, counts)
    if not pair.truth:
        exact = float(normalise(said.text) in map(normalise, pair.references))
        counts |= {"captions": 1, "exact": exact}
        return Result(pair, said.text, exact, counts)
    grade = graded(said.text, pair.truth)
    whole = float(grade.wholly_right)
    counts |= {"captions": 1, "whole": whole, "invented_objects": grade.invented_objects}
    counts |= {name: getattr(grade, name) for name in FACTS}
    if isinstance(grade, StoryGrade) and grade.expected > 3:
        counts |= {"stories": 1, "in_order": float(grade.in_order)}
    return Result(pair, said.text, whole, counts, tuple(grade.missed), tuple(grade.invented))


def graded(text: str, truth: str) -> CaptionGrade | StoryGrade:
    """A caption held against the JSON of a scene or a clip."""
    if '"events"' in truth:
        return grade_story(text, clip.from_json(truth))
    return grade_caption(text, scene.from_json(truth))


FACTS = ("told", "right", "expected", "recalled")


def answered(name: str, kind: str, value: float) -> dict[str, float]:
    """A column over all questions, and one over those of its kind where it has one."""
    return {name: value, f"{name}/{kind}": value} if kind else {name: value}


def add_baselines(trained: Trained, results: Sequence[Result]) -> None:
    """Count what the two baselines would have answered, learnt from the training split."""
    questions = [each for each in results if each.pair.kind != CAPTION]
    if not questions:
        return
    data = trained.learnt_from
    known = baselines.asked(sources.open_source(data, data.train, ()))
    if not known:
        return
    commonest = baselines.majority(known)
    reader = baselines.question_only(known, trained.tokenizer)
    blind = reader([each.pair.question for each in questions])
    for each, answer in zip(questions, blind, strict=True):
        pair = each.pair
        told = {"majority": commonest(pair.kind), "question_only": answer}
        for name, text in told.items():
            each.counts.update(answered(name, pair.kind, agreement(text, pair.references)))


def add_ranks(trained: Trained, results: Sequence[Result], again: Iterable[list[Example]]) -> None:
    """Count whether a right caption is among the k likeliest of all captions of the split."""
    told = {each.pair.index: each for each in results if each.pair.kind == CAPTION}
    rows = dict(tokenised(trained, {t for each in told.values() for t in each.pair.references}))
    number = {text: place for place, text in enumerate(rows)}
    target, mask = (
        np.stack([row[key] for row in rows.values()]) for key in ("target", "target_mask")
    )
    cut = int(mask.sum(1).max())
    model, params = trained.config.model, trained.params
    for part in parts(again):
        whole = part + [part[-1]] * (RANKED - len(part))
        batch = stack_texts(whole) | stack_shown(whole)
        asked = {key: array for key, array in batch.items() if key not in TARGET_KEYS}
        fused = encode(model, params, asked)
        scores = np.asarray(rank(model, params, fused, target[:, :cut], mask[:, :cut]))
        for (pair, _), row in zip(part, scores, strict=False):
            own = [number[text] for text in pair.references if text in number]
            place = place_of(row, own)
            told[pair.index].counts.update({f"among {k}": float(place < k) for k in RECALLS})


def tokenised(trained: Trained, texts: Iterable[str]) -> Iterator[tuple[str, Batch]]:
    """In the order of the alphabet, but for those that are too long for the run."""
    for text in sorted(texts):
        with suppress(BadRecord):
            yield text, trained.tokenise("", text)


def parts(again: Iterable[list[Example]]) -> Iterator[list[Example]]:
    """RANKED captions at a time, the last ones fewer."""
    captions = (each for chunk in again for each in chunk if each[0].kind == CAPTION)
    while part := list(islice(captions, RANKED)):
        yield part


def grouped(results: Sequence[Result]) -> Iterator[tuple[int, list[Result]]]:
    """Results by picture."""
    for index, own in groupby(results, key=lambda each: each.pair.index):
        yield index, list(own)


def total(results: Iterable[Result]) -> dict[str, float]:
    """The counts of one picture: the sum over its texts."""
    counts: dict[str, float] = {}
    for each in results:
        for name, value in each.counts.items():
            counts[name] = counts.get(name, 0.0) + value
    return counts


def caption_scores(results: Iterable[Result]) -> dict[str, Figure]:
    """Those of the COCO scorer (and METEOR's exact part), of captions that no program grades."""
    told = [each for each in results if each.pair.kind == CAPTION and not each.pair.truth]
    if not told:
        return {}
    references = {str(each.pair.index): each.pair.references for each in told}
    scores = captions.score({str(each.pair.index): each.text for each in told}, references)
    return {f"caption/{name}": figure for name, figure in scores.figures.items()}


def statistics(columns: set[str]) -> dict[str, Statistic]:
    """The figures that can be made of what was counted, by name."""
    found: dict[str, Statistic] = {}
    if "told" in columns:
        found["caption/facts_precision"] = Ratio("right", "told", "captions", empty=0.0)
        found["caption/facts_recall"] = Ratio("recalled", "expected", "captions")
        found["caption/facts_f1"] = F1("captions")
        found["caption/wholly_right"] = Ratio("whole", "captions", "captions")
        found["caption/invented"] = Ratio("invented_objects", "captions", "captions")
        if "stories" in columns:
            found["caption/in_order"] = Ratio("in_order", "stories", "stories")
    elif "exact" in columns:
        found["caption/exact"] = Ratio("exact", "captions", "captions")
    for k in RECALLS:
        if f"among {k}" in columns:
            found[f"caption/recall@{k}"] = Ratio(f"among {k}", "captions", "captions")
    for name in ("accuracy", "majority", "question_only"):
        for column in sorted(columns):
            if column.partition("/")[0] == name:
                asked = f"asked{column.removeprefix(name)}"
                found[f"vqa/{column}"] = Ratio(column, asked, asked)
    found["loss"] = Ratio("nats", "tokens", "texts")
    found["perplexity"] = Perplexity("texts")
    return found


# --- what is shown ---


def example(picture: Sequence[Result], chunk: Sequence[Example]) -> dict[str, Any]:
    """One picture for the report: what was said, what is right, what is wrong with it."""
    index = picture[0].pair.index
    seen = next(arrays for pair, arrays in chunk if pair.index == index)
    shown: dict[str, Any] = {
        "image": shown_as(seen),
        "where": picture[0].pair.where,
        "questions": [],
    }
    for each in picture:
        told = {"text": each.text, "score": each.score, "references": list(each.pair.references)}
        if each.pair.kind == CAPTION:
            shown |= {"caption": told | {"missed": each.missed, "invented": each.invented}}
        else:
            shown["questions"].append({"question": each.pair.question} | told)
    return shown
