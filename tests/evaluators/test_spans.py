"""Events in time: the loss, the list made of what is said at each time, and its precision."""

import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mlm_jax import trained as trained_
from mlm_jax.config import Config, Data
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import words
from mlm_jax.detect import Span, iou, spans
from mlm_jax.encoders import VideoEncoder
from mlm_jax.evaluators import spans as spans_
from mlm_jax.evaluators.spans import IOUS, figures, mean_precision
from mlm_jax.losses import Spans, overlap, wanted_spans
from mlm_jax.models.video import Events
from mlm_jax.trained import Trained


def random_clips(seed: int, clips: int = 12) -> tuple[list[list[Span]], list[list[Span]]]:
    """What was said and what is true: said is often near the truth, and sometimes anything."""
    rng = np.random.default_rng(seed)
    said: list[list[Span]] = []
    true: list[list[Span]] = []
    for _ in range(clips):
        own = [
            Span(int(rng.integers(3)), float(start), float(start + rng.uniform(0.1, 0.4)), 1.0)
            for start in rng.uniform(0, 0.6, rng.integers(4))
        ]
        near = [
            s._replace(
                start=s.start + rng.normal(0, 0.05),
                end=s.end + rng.normal(0, 0.05),
                score=float(rng.random()),
            )
            for s in own * 2
        ]
        free = [
            Span(int(rng.integers(3)), float(a), float(a + 0.2), float(rng.random()))
            for a in rng.uniform(0, 0.8, 3)
        ]
        true.append(own)
        said.append(near + free)
    return said, true


def literal(said: list[list[Span]], true: list[list[Span]], at: float) -> float:
    """The arithmetic of ActivityNet's evaluation, step by step, without arrays.

    Predictions by score; each looks at the true events of its clip from the most overlapped on;
    the first that is not taken is hit, and the search ends at the first below the threshold. The
    precision is made non-increasing from the right and summed over the steps of the recall.
    """
    result = []
    for label in sorted({s.label for clip in true for s in clip}):
        told = [(s, i) for i, clip in enumerate(said) for s in clip if s.label == label]
        told.sort(key=lambda each: each[0].score, reverse=True)
        total = sum(s.label == label for clip in true for s in clip)
        taken: set[tuple[int, int]] = set()
        hits = [0.0]
        precision, recall = [0.0], [0.0]
        for number, (s, i) in enumerate(told, 1):
            candidates = []
            for k, t in enumerate(true[i]):
                if t.label != label:
                    continue
                shared = max(0.0, min(s.end, t.end) - max(s.start, t.start))
                union = (s.end - s.start) + (t.end - t.start) - shared
                candidates.append((shared / union, k))
            hit = 0.0
            for share, k in sorted(candidates, reverse=True):
                if share < at:
                    break
                if (i, k) not in taken:
                    taken.add((i, k))
                    hit = 1.0
                    break
            hits.append(hits[-1] + hit)
            precision.append(hits[-1] / number)
            recall.append(hits[-1] / total)
        precision.append(0.0)
        recall.append(1.0)
        for k in range(len(precision) - 2, -1, -1):
            precision[k] = max(precision[k], precision[k + 1])
        steps = range(1, len(recall))
        result.append(sum((recall[k] - recall[k - 1]) * precision[k] for k in steps))
    return sum(result) / len(result)


@pytest.mark.parametrize("seed", range(20))
def test_precision_is_that_of_activitynet(seed: int) -> None:
    said, true = random_clips(seed)
    for at in IOUS:
        (mine,) = mean_precision(said, true, at, np.ones((1, len(true))))
        assert mine == pytest.approx(literal(said, true, at), abs=1e-12)


def test_clips_that_are_drawn_twice_count_twice() -> None:
    said, true = random_clips(3)
    times = np.array([[2.0, 0, 1] + [1] * 9])
    chosen = [i for i, n in enumerate(times[0]) for _ in range(int(n))]
    again = [[said[i] for i in chosen], [true[i] for i in chosen]]
    (mine,) = mean_precision(said, true, 0.5, times)
    assert mine == pytest.approx(literal(*again, 0.5), abs=0.02)  # equal scores tie otherwise


def test_figures_of_the_truth_itself_and_of_nothing() -> None:
    _, true = random_clips(0)
    whole = figures(true, true)
    assert {figure.value for figure in whole.values()} == {1.0}
    none = figures([[] for _ in true], true)
    assert {figure.value for figure in none.values()} == {0.0}
    assert whole["events/map"].n == sum(map(len, true))


def test_of_a_class_those_that_overlap_are_one_event() -> None:
    score = np.zeros((6, 2))
    span = np.zeros((6, 2, 2))
    said = [(0, 0, 0.9, 0.0, 0.4), (1, 0, 0.8, 0.05, 0.45), (4, 0, 0.7, 0.6, 0.9),
            (1, 1, 0.6, 0.0, 0.4), (5, 1, 0.001, 0.5, 0.9)]  # fmt: skip
    for at, label, sure, start, end in said:
        score[at, label], span[at, label] = sure, (start, end)
    found = spans(score, span)
    assert [(s.label, s.score) for s in found] == [(0, 0.9), (0, 0.7), (1, 0.6)]
    assert len(spans(score, span, most=2)) == 2


def test_a_model_may_have_more_labels_than_there_are_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of the others is no event."""
    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "clip.gif")
    row = {"video": ["0.png", "1.png"], "rate": 1, "events": [["fall", 0, 1]]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    (tmp_path / "classes.json").write_text('["fall"]')
    data = Data(str(tmp_path), captions=0, questions=0)
    config = Config(Events(VideoEncoder(frames=2, size=(8, 8), patch=4), labels=3), Spans(), data)
    trained = Trained(tmp_path, config, words([]), {}, 1)
    score, span = np.array([[[0.5, 0.9, 0.9]]]), np.full((1, 1, 3, 2), [0.0, 0.5])

    def said(model: Any, params: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = len(batch["video"])
        return score.repeat(rows, 0), span.repeat(rows, 0)

    monkeypatch.setattr(spans_, "detect", said)
    monkeypatch.setattr(trained_, "detect", said)
    measured = spans_.evaluate(trained, open_source(data, "train", ["video"]), None)
    assert measured.figures["events/map"].value == 1
    (clip,) = measured.details["clips"]
    assert [each["label"] for each in clip["said"]] == ["fall"]
    told = trained_.watch_for_events(trained, {"video": tmp_path / "clip.gif"})
    assert [each.label for each in told] == ["fall"]


def test_iou_by_hand() -> None:
    many = np.array([[0.0, 1.0], [0.5, 1.5], [2.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(iou(np.array([0.0, 1.0]), many), [1, 1 / 3, 0, 0])
    shared, apart = overlap(jnp.tile(jnp.array([0.0, 1.0]), (4, 1)), jnp.asarray(many, jnp.float32))
    np.testing.assert_allclose(shared, [1, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(apart, [0, (0.5 / 1.5) ** 2, (2 / 3) ** 2, 0.25], atol=1e-6)


BATCH = {
    "event": np.array([[0, 1, 0], [1, 0, 0]], np.int32),
    "span": np.array(
        [[[0, 0.5], [0.25, 0.75], [0.25, 0.5]], [[0.5, 1], [0, 0], [0, 0]]], np.float32
    ),
    "event_mask": np.array([[True, True, True], [True, False, False]]),
}


def test_at_each_time_the_shortest_event_of_a_class_is_wanted() -> None:
    present, span = wanted_spans(BATCH, 4, 2)
    middle = (np.arange(4) + 0.5) / 4
    for row, at, label in itertools.product(range(2), range(4), range(2)):
        own = [
            tuple(s)
            for e, s, real in zip(*(BATCH[k][row] for k in BATCH), strict=True)
            if real and e == label and s[0] <= middle[at] < s[1]
        ]
        assert present[row, at, label] == bool(own)
        want = min(own, key=lambda s: s[1] - s[0]) if own else (0, 0)
        np.testing.assert_allclose(span[row, at, label], want)


def test_an_event_shorter_than_a_time_step_is_wanted_at_the_nearest() -> None:
    """0.3 of a step, before the middle of the second of four, and at the very end."""
    spans = np.array([[[1.1, 1.4], [3.7, 4.0]]], np.float32) / 4
    batch = {"event": np.zeros((1, 2), int), "span": spans, "event_mask": np.ones((1, 2), bool)}
    present, span = wanted_spans(batch, 4, 1)
    assert present[0, :, 0].tolist() == [False, True, False, True]
    np.testing.assert_allclose(span[0, [1, 3], 0], spans[0])


def test_the_loss_is_least_where_all_is_right_and_its_gradient_is_finite() -> None:
    present, span = wanted_spans(BATCH, 4, 2)
    middle = ((np.arange(4) + 0.5) / 4)[:, None]
    reach = np.abs(np.stack([middle - span[..., 0], span[..., 1] - middle], -1))
    right = {"present": jnp.where(present, 9.0, -9.0), "reach": jnp.asarray(reach, jnp.float32)}
    loss, metrics = Spans()(right, BATCH)
    assert loss < 1e-3
    assert metrics["iou"] == pytest.approx(1, abs=1e-4)
    assert metrics["weight"] == present.sum()
    for key, change in (("present", -1.0), ("reach", 1.3)):
        worse, _ = Spans()(right | {key: change * right[key]}, BATCH)
        assert worse > loss + 0.1
    empty = BATCH | {"event_mask": np.zeros((2, 3), bool)}
    grads = jax.grad(lambda o: Spans()(o, empty)[0])(right)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
