"""Events: are they found, and how exactly in time? (mean average precision as ActivityNet has it)

The arithmetic is that of the ActivityNet evaluation (Caba Heilbron et al., CVPR 2015; its
`eval_detection`): of each class all predictions over all clips in the order of their scores, each
matched with the true event of its clip that it overlaps most and that is not taken, the area under
the interpolated precision, and the mean over the classes that occur.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mlm_jax.config import UserError
from mlm_jax.data import labels, loader
from mlm_jax.data.records import Source
from mlm_jax.detect import Span, detect, iou, spans
from mlm_jax.evaluators import Measured, at_once
from mlm_jax.evaluators.classes import BATCH, batches
from mlm_jax.metrics import Figure, figure_of, redrawn
from mlm_jax.showing import shown_as
from mlm_jax.trained import Trained

IOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
SHOWN, SURE = 12, 0.3  # clips in the report, and the score of what is shown


def evaluate(trained: Trained, source: Source, limit: int | None) -> Measured:
    """Mean average precision at each IoU, and the mean of these; the details hold some clips.

    Raises: UserError.
    """
    data, model = trained.config.data, trained.config.model
    classes = labels.load(trained.path / "classes.json")
    said: list[list[Span]] = []
    true: list[list[Span]] = []
    pictures: list[str] = []
    rows = loader.eval_labelled(data, source, trained.take_events(classes), None, limit)
    for batch, count in batches(rows, at_once(trained.config, BATCH)):
        score, span = (np.asarray(x) for x in detect(model, trained.params, batch))
        said += [spans(score[i, :, : len(classes)], span[i]) for i in range(count)]
        some = min(count, SHOWN - len(pictures))
        pictures += [shown_as({"video": batch["video"][i]}) for i in range(some)]
        true += [
            [
                Span(int(label), float(start), float(end), 1.0)
                for label, (start, end), real in zip(
                    batch["event"][i], batch["span"][i], batch["event_mask"][i], strict=True
                )
                if real
            ]
            for i in range(count)
        ]
    if not any(true):
        raise UserError(
            f"{data.name}: no events; accepted: a column of them in rows of your own"
            " (--data.fields.events; of prepared sets it is not read)"
        )
    clips = [
        {"image": picture, "said": by_label(classes, said[i]), "true": by_label(classes, true[i])}
        for i, picture in enumerate(pictures)
    ]
    return Measured(figures(said, true), {"clips": clips})


def figures(said: Sequence[Sequence[Span]], true: Sequence[Sequence[Span]]) -> dict[str, Figure]:
    """Of what was said and what is true of each clip, with intervals over clips."""
    times = np.concatenate([np.ones((1, len(true))), redrawn(len(true))])
    by_iou = {at: mean_precision(said, true, at, times) for at in IOUS}
    events = sum(map(len, true))
    found = {f"events/map@{at}": figure_of(values, events) for at, values in by_iou.items()}
    return found | {"events/map": figure_of(np.mean([*by_iou.values()], axis=0), events)}


def mean_precision(
    said: Sequence[Sequence[Span]],
    true: Sequence[Sequence[Span]],
    at: float,
    times: Float[np.ndarray, "S N"],
) -> Float[np.ndarray, "S"]:
    """The mean over classes, for each way in which clips are taken so many `times`."""
    names = sorted({span.label for clip in true for span in clip})
    total, there = np.zeros(len(times)), np.zeros(len(times))
    for label in names:
        events = np.array([sum(s.label == label for s in clip) for clip in true], float)
        clips, right = judged(said, true, label, at)
        count = times @ events
        total += np.where(count > 0, precision(times[:, clips], right, count), 0)
        there += count > 0
    return total / np.maximum(there, 1)


def judged(
    said: Sequence[Sequence[Span]], true: Sequence[Sequence[Span]], label: int, at: float
) -> tuple[Int[np.ndarray, "P"], Bool[np.ndarray, "P"]]:
    """The clip of each prediction of a class, the surest first, and whether it is right."""
    told = [(i, s) for i, clip in enumerate(said) for s in clip if s.label == label]
    told.sort(key=lambda each: -each[1].score)
    real = [np.array([s[1:3] for s in clip if s.label == label]).reshape(-1, 2) for clip in true]
    taken = [np.zeros(len(spans_), bool) for spans_ in real]
    right = np.zeros(len(told), bool)
    for place, (i, span) in enumerate(told):
        overlaps = np.where(taken[i], -1.0, iou(np.array(span[1:3]), real[i]))
        if len(overlaps) and overlaps.max() >= at:
            taken[i][overlaps.argmax()] = right[place] = True
    return np.array([i for i, _ in told], int), right


def precision(
    times: Float[np.ndarray, "S P"], right: Bool[np.ndarray, "P"], count: Float[np.ndarray, "S"]
) -> Float[np.ndarray, "S"]:
    """The area under the interpolated curve of precision over recall."""
    if not len(right):
        return np.zeros(len(times))
    hits, all_ = np.cumsum(times * right, axis=1), np.cumsum(times, axis=1)
    sure = np.divide(hits, all_, out=np.zeros_like(hits), where=all_ > 0)
    best = np.maximum.accumulate(sure[:, ::-1], axis=1)[:, ::-1]
    gained = np.diff(hits, axis=1, prepend=0)
    return (gained * best).sum(1) / np.maximum(count, 1)


def by_label(names: Sequence[str], found: Sequence[Span]) -> list[dict[str, object]]:
    """Events as rows for people: label, start, end, score; those that are surer than not."""
    return [s._asdict() | {"label": names[s.label]} for s in found if s.score >= SURE]
