"""Measures against maps that are right, wrong and random; masks against what is rendered."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from asking import small, some_asked, start
from scipy.stats import spearmanr

from mlm_jax.config import Config, Data, UserError
from mlm_jax.data import tokenizers
from mlm_jax.data.records import Record
from mlm_jax.encoders import ImageEncoder, VideoEncoder
from mlm_jax.explaining import measures
from mlm_jax.explaining.asked import Asked, Word, asked_of, words_of
from mlm_jax.explaining.spoken import distance, mask, spoken
from mlm_jax.losses import Caption
from mlm_jax.models.multimodal import multimodal
from mlm_jax.trained import Trained
from mlm_jax.world import scene as scenes
from mlm_jax.world.language import captions
from mlm_jax.world.render import background, render
from mlm_jax.world.scene import COLOURS, Scene


def some_scene(seed: int, **kwargs: Any) -> Scene:
    return scenes.sample(np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize("size", [48, 96])
def test_masks_are_what_is_rendered(size: int) -> None:
    """An object alone on its background: pixels that changed by more than half."""
    for seed in range(20):
        truth = some_scene(seed)
        for thing in truth.objects:
            drawn = render(Scene((thing,), truth.background), size).astype(float)
            empty = background(truth.background, size)
            full = np.minimum(np.array(COLOURS[thing.colour]) * thing.shade, 255)
            change = ((drawn - empty) * (full - empty)).sum(-1) / ((full - empty) ** 2).sum(-1)
            own = mask(thing, size)
            sure = abs(change - 0.5) > 0.03  # levels are whole numbers
            np.testing.assert_array_equal(own[sure], (change > 0.5)[sure])
            assert sure.mean() > 0.98
            assert own.any()


def test_distance_by_brute_force() -> None:
    where = np.zeros((9, 7), bool)
    where[2, 3] = where[8, 0] = True
    away = distance(where)
    for y in range(9):
        for x in range(7):
            assert away[y, x] == pytest.approx(min(np.hypot(y - 2, x - 3), np.hypot(y - 8, x)))


# --- which word speaks of what ---


def test_spoken() -> None:
    truth = some_scene(0, objects=2)
    first, second = (
        each._replace(shape=shape, colour=colour, size=size)
        for each, (size, colour, shape) in zip(
            truth.objects, (("small", "red", "circle"), ("large", "blue", "star")), strict=True
        )
    )
    truth = truth._replace(objects=(first, second))
    text = "a small red circle and a large blue cross"
    told = [(each.word, each.kind, each.objects) for each in spoken(text, truth)]
    assert told == [
        ("small", "size", (first,)),
        ("red", "colour", (first,)),
        ("circle", "shape", (first,)),
        ("large", "size", (second,)),
        ("blue", "colour", (second,)),
    ]
    starts = [each.start for each in spoken(text, truth)]
    assert [text[at:].split()[0] for at in starts] == ["small", "red", "circle", "large", "blue"]


def test_spoken_of_many() -> None:
    """Two that look the same are spoken of by one phrase."""
    truth = some_scene(0, objects=3)
    alike = [each._replace(shape="star", colour="blue", size="small") for each in truth.objects[:2]]
    other = truth.objects[2]._replace(shape="cross", colour="pink", size="large")
    truth = truth._replace(objects=(*alike, other))
    told = {
        each.word: set(each.objects) for each in spoken("two small blue stars and a cross", truth)
    }
    assert told == {
        "small": set(alike), "blue": set(alike), "stars": set(alike), "cross": {other}
    }  # fmt: skip


def test_every_word_of_true_captions() -> None:
    """Of a true caption each size, colour and shape speaks of objects that are so."""
    for seed in range(30):
        truth = some_scene(seed)
        for text in captions(truth, np.random.default_rng(seed), 3):
            found = list(spoken(text, truth))
            objects = {thing for each in found for thing in each.objects}
            assert objects == set(truth.objects)
            for each in found:
                names = (each.word, each.word.rstrip("s"), each.word[:-2])
                assert all(getattr(thing, each.kind) in names for thing in each.objects)


def test_words_of_tokens() -> None:
    tokenizer = tokenizers.bpe(["a red circle, a star"], 262)
    text = "a red circle, a star"
    ids = np.array([*tokenizer.encode(text), tokenizer.eos, tokenizer.pad])
    words = words_of(tokenizer, ids)
    assert [word.text for word in words] == ["a", "red", "circle", ",", "a", "star"]
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    joined = [i for word in words for i in word.tokens]
    assert joined == list(range(len(ids) - 2))


# --- measures ---


def disc(centre: tuple[int, int], radius: float, size: int = 48) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def test_pointing_of_perfect_worst_and_random_maps() -> None:
    rng = np.random.default_rng(0)
    cases = [disc((int(y), int(x)), 6) for y, x in rng.integers(8, 40, (50, 2))]
    aways = [distance(case) for case in cases]
    for near in (0.0, 4.0):
        for case, away in zip(cases, aways, strict=True):
            assert measures.points(case.astype(float), away, near)
            assert not measures.points(away, away, near)
        area = np.mean([(away <= near).mean() for away in aways])
        random = np.mean(
            [measures.points(rng.random((48, 48)), away, near) for away in aways for _ in range(40)]
        )
        assert random == pytest.approx(area, abs=0.03)


def test_mass_and_overlap() -> None:
    rng = np.random.default_rng(1)
    case = disc((20, 20), 8)
    assert measures.mass(case.astype(float), case) == 1
    assert measures.mass(1.0 - case, case) == 0
    assert measures.mass(np.ones((48, 48)), case) == pytest.approx(case.mean())
    assert measures.mass(np.zeros((48, 48)), case) == pytest.approx(case.mean())
    assert measures.overlap(case.astype(float), case) == 1
    assert measures.overlap(1.0 - case, case) == 0
    some = np.mean([measures.overlap(rng.random((48, 48)), case) for _ in range(400)])
    assert some == pytest.approx(measures.by_chance(case.mean()), abs=0.005)


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.integers(0, 9, (2, 12, 12)).astype(float)
    assert measures.rank_correlation(one, other) == pytest.approx(
        spearmanr(one.ravel(), other.ravel()).statistic
    )
    assert measures.rank_correlation(one, one) == pytest.approx(1)
    assert measures.rank_correlation(one, -one) == pytest.approx(-1)
    assert measures.rank_correlation(one, np.ones_like(one)) == 0


def test_order_falls_and_shuffles_equals() -> None:
    values = np.array([[3.0, 1.0], [2.0, 1.0]])
    orders = {
        tuple(measures.order_of(values, np.random.default_rng(i)).ravel().tolist())
        for i in range(9)
    }
    assert orders == {(0, 2, 1, 3), (0, 3, 1, 2)}


def test_area() -> None:
    line = np.linspace(1, 0, 9)[:, None]
    np.testing.assert_allclose(measures.area(np.concatenate([line, line**0], axis=1)), [0.5, 1.0])


def test_chance_is_the_share_of_the_picture() -> None:
    truth = some_scene(4)
    text = captions(truth, np.random.default_rng(0), 1)[0]
    said = next(iter(spoken(text, truth)))
    where = np.any([mask(thing, 48) for thing in said.objects], axis=0)
    counts: dict[str, float] = {}
    case = measures.Case(0, 0, said, where, distance(where))
    measures.count_chance(counts, case, 0.0)
    assert counts["chance/pointing"] == pytest.approx(where.mean())
    assert counts["chance/mass"] == pytest.approx(where.mean())
    assert counts["centre/pointing"] == where[24, 24]
    measures.count(counts, "best", case, where.astype(np.float32), 4.0)
    assert counts["best/pointing"] == counts["best/mass"] == counts["best/overlap"] == 1


def test_a_way_to_put_maps_together_says_of_how_many_points_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Integrated gradients are measured with fewer than are shown."""
    maps = {"image": np.ones((2, 3, 16, 16), np.float32)}
    monkeypatch.setattr(measures, "explain", lambda *_, steps: maps)
    plain, pointed = (
        [*measures.candidates(small(), {}, some_asked(), method)]
        for method in ("gradient", "integrated")
    )
    assert pointed == [f"{name}, of {measures.STEPS} points" for name in plain]


# --- all of it ---


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    """A model that writes a true caption of a picture, or nothing; its parameters may be drawn."""
    rng = np.random.default_rng(0)

    def writes(tells: Sequence[bool], drawn: bool = False) -> Trained:
        truths = [some_scene(seed) for seed in range(len(tells))]
        texts = [
            captions(truth, rng, 1)[0] if told else ""
            for truth, told in zip(truths, tells, strict=True)
        ]
        tokenizer = tokenizers.words(texts)
        model = multimodal("tiny", patch=8, pixels=32, vocab=tokenizer.size, image_depth=1,
                           text_depth=1, fusion_depth=1, decoder_depth=1)  # fmt: skip
        records = [
            (i, Record(f"world {i}", truth=scenes.to_json(truth)), {"image": render(truth, 32)})
            for i, truth in enumerate(truths)
        ]
        monkeypatch.setattr(measures.sources, "open_source", lambda *_: None)
        monkeypatch.setattr(
            measures.loader, "eval_records", lambda *_, limit: iter(records[:limit])
        )
        rest = iter(texts)

        def ask(trained: Trained, pictures: list[Any]) -> tuple[Asked, list[list[Word]]]:
            written = np.full((len(pictures), 60), tokenizer.pad)
            for row in written:
                ids = [*tokenizer.encode(next(rest, "")), tokenizer.eos]
                row[: len(ids)] = ids
            images = jnp.asarray(np.stack([each["image"] for each in pictures]))
            words = [words_of(tokenizer, ids) for ids in written]
            text = {"text": jnp.ones((len(pictures), 4), jnp.int32)}
            text["text_mask"] = text["text"] > 0
            seen = {"image": images / 255.0 - 0.5}
            return asked_of(trained, seen, text, written, words), words

        monkeypatch.setattr(measures, "ask", ask)
        config = Config(model, Caption())
        trained = Trained(Path("run"), config, tokenizer, None, 0)
        if not drawn:
            return trained
        asked, _ = ask(trained, [records[0][1]])
        rest = iter(texts)
        return trained._replace(params=start(model, asked))

    return writes


@pytest.mark.slow
def test_what_is_reported_is_of_other_pictures_than_what_was_tuned_on(
    shown: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """52 pictures in batches of 16; of the last four nothing is told."""
    judged, tuned = [], []
    tune, count_chance = measures.tune, measures.count_chance
    monkeypatch.setattr(
        measures, "tune", lambda m, p, b, how: tuned.extend(b) or tune(m, p, b, how)
    )
    monkeypatch.setattr(
        measures,
        "count_chance",
        lambda own, case, near: judged.append(case) or count_chance(own, case, near),
    )
    found = measures.measure(
        shown([True] * 48 + [False] * 4, drawn=True), 52, methods=("attention",)
    )
    assert found.pictures == 20
    assert found.words == len(judged) > 20
    assert not {id(case) for batch in tuned for case in batch.cases} & {id(c) for c in judged}
    tried = found.tried["attention"]
    assert found.chosen == {"attention": max(tried, key=lambda name: tried[name])}
    wanted = np.mean([(case.away <= found.tolerance).mean() for case in judged])
    assert found.figures["chance/pointing"].value == pytest.approx(wanted)
    assert found.figures.keys() >= {f"attention/{what}" for what in (
        "pointing", "strict", "mass", "overlap", "deletion", "insertion", "random"
    )}  # fmt: skip
    assert found.curves.keys() == {"deletion", "insertion"}


def test_a_run_of_clips_is_told_that_pictures_are_measured() -> None:
    """Before any clip is read: there is no such data."""
    eye = VideoEncoder(4, (32, 32), 16)
    model = replace(small(), image=None, video=eye)
    config = Config(model, Caption(), Data("nowhere.jsonl"))
    trained = Trained(Path("run"), config, tokenizers.words(["a"]), None, 0)
    said = r"run takes video: .* pictures of the embedded world alone.*vit_tiny.*--video FILE"
    with pytest.raises(UserError, match=said):
        measures.measure(trained)


def test_a_run_of_oblong_pictures_is_told_that_square_ones_are_measured() -> None:
    """Before any is read: what an object covers is known of square ones alone."""
    model = replace(small(), image=ImageEncoder((32, 48), 16))
    config = Config(model, Caption(), Data("nowhere.jsonl"))
    trained = Trained(Path("run"), config, tokenizers.words(["a"]), None, 0)
    with pytest.raises(UserError, match=r"run sees pictures of 32 x 48 pixels: .* square ones"):
        measures.measure(trained)


@pytest.mark.parametrize(
    ("tells", "said"),
    [
        ([True] * 16, "--pictures 16: over 16"),
        ([True] * 16 + [False], "--pictures 17: too few"),
        ([False] * 16 + [True], "--pictures 17: too few"),
    ],
)
def test_too_few_to_choose_on_some_and_report_of_others(
    shown: Callable[..., Trained], tells: list[bool], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        measures.measure(shown(tells), len(tells), methods=("attention",))
