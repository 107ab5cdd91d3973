"""What is measured of drawings, with pictures and clips of the world in the place of drawn ones."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import choosing
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data import sources
from mlm_jax.data.records import BadRecord
from mlm_jax.data.tokenizers import words
from mlm_jax.data.transforms import take_for
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.evaluators import drawings, inception
from mlm_jax.evaluators.pictures import fid, kid, r_precision
from mlm_jax.layers import Block, Pool, Transformer
from mlm_jax.losses import Contrastive
from mlm_jax.metrics import Figure
from mlm_jax.models.clip import Clip
from mlm_jax.models.painter import Canvas
from mlm_jax.trained import Trained


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data("world/tiny", root=str(tmp_path_factory.mktemp("data")))


CANVASES = {"image": Canvas(), "video": Canvas(frames=16)}


def stand_in(data: Data, sense: str = "image") -> Any:
    """As much of a trained run as is read."""
    config = SimpleNamespace(data=data, seed=0, model=SimpleNamespace(sense=sense, **CANVASES))
    take = take_for(data, {sense: CANVASES[sense]})
    return SimpleNamespace(config=config, take=take, path=Path("x"), learnt_from=data)


def drawn_by(data: Data, of: str, sense: str = "image") -> Any:
    """Draws the real picture, or clip, of a caption of split `of`."""
    source = sources.open_source(data, of, (sense,))
    take = take_for(data, {sense: CANVASES[sense]})
    real = {source[i].captions[0]: take(source[i])[sense] for i in range(len(source))}
    return lambda trained, prompts, *, how, seed: np.stack([real[text] for text in prompts])


def test_real_pictures_pass_and_are_as_new_as_real_ones(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawings, "draw", drawn_by(data, "test"))
    source = sources.open_source(data, "test", ("image",))
    figures, details, _ = drawings.evaluate(stand_in(data), source, None)
    assert figures["drawn/passed"].value == 1
    assert {name for name in figures if name.startswith("drawn/passed/")} >= {"drawn/passed/one"}
    assert figures["drawn/nearest"].value == pytest.approx(1)
    assert figures["drawn/spread"].value == pytest.approx(
        0, abs=1e-12
    )  # one picture again and again
    assert all(each["text"].endswith(": right") for each in details["drawn"])


def test_real_clips_pass_and_are_as_new_as_real_ones(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(data, name="clips/one_tiny")
    monkeypatch.setattr(drawings, "draw", drawn_by(data, "test", "video"))
    source = sources.open_source(data, "test", ("video",))
    figures = drawings.evaluate(stand_in(data, "video"), source, None).figures
    for part in ("passed", "motion", "attributes", "count"):
        assert figures[f"drawn/{part}"].value > 0.9
    assert figures["drawn/nearest"].value == pytest.approx(1, abs=0.1)
    assert figures["drawn/spread"].value == pytest.approx(0, abs=1e-12)

    monkeypatch.setattr(drawings, "draw", drawn_by(data, "train", "video"))
    known = sources.open_source(data, "train", ("video",))
    prompts = [known[i].captions[0] for i in range(8)]
    drawer = drawings.Drawer(stand_in(data, "video"))
    learnt = drawings.graded(drawer, source, prompts, drawer.draw(prompts))
    assert learnt.figures["drawn/nearest"].value == pytest.approx(0, abs=1e-3)


class Damaged:
    """A source of which the first record's picture is missing."""

    def __init__(self, whole: Any):
        self.whole = whole
        self.broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            raise BadRecord("data.jsonl:1", "image", "no such file")
        return self.whole[index]


def test_a_missing_picture_is_left_out_and_reported(data: Data) -> None:
    source: Any = Damaged(sources.open_source(data, "test", ("image",)))
    asked = drawings.asked_of(data, source, None)
    assert [each.key for each in asked] == [source[i].key for i in range(1, len(source))]
    assert source.broken == {"data.jsonl:1": "image: no such file"}


def test_remembered_pictures_are_seen_as_such(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    train = sources.open_source(data, "train", ("image",))
    take = take_for(data, {"image": Canvas()})
    known = np.stack([take(train[i])["image"] for i in range(len(train))])
    monkeypatch.setattr(
        drawings,
        "draw",
        lambda trained, prompts, *, how, seed: np.resize(known, (len(prompts), 48, 48, 3)),
    )
    source = sources.open_source(data, "test", ("image",))
    figures = drawings.evaluate(stand_in(data), source, None).figures
    assert figures["drawn/nearest"].value == pytest.approx(0, abs=1e-3)


def test_of_pictures_that_were_learnt_from_it_is_not_said_how_new_they_are(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their own nearest is themselves: there is no distance to hold any against."""
    monkeypatch.setattr(drawings, "draw", drawn_by(data, "train"))
    source = sources.open_source(data, "train", ("image",))
    figures = drawings.evaluate(stand_in(data), source, 8).figures
    assert figures["drawn/passed"].value == 1
    assert "drawn/nearest" not in figures


@pytest.mark.parametrize("size", [(24, 24), (48, 40)])
def test_pictures_that_are_not_graded_are_measured_by_features_alone(
    size: tuple[int, int], data: Data, clip: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing else measures them it is said before they are drawn."""
    source = sources.open_source(data, "test", ("image",))
    run: Any = SimpleNamespace(**vars(stand_in(data)), tokenizer=clip.tokenizer)
    run.config.model.image = Canvas(size)
    run.take, run.tokenise = take_for(data, {"image": Canvas(size)}), clip.tokenise
    asked: list[Any] = []

    def grey(trained: Any, prompts: Any, *, how: Any, seed: int) -> np.ndarray:
        asked.append(prompts)
        return np.full((len(prompts), *size, 3), 128, np.uint8)

    monkeypatch.setattr(drawings, "draw", grey)
    with pytest.raises(UserError, match=r"x draws \(\d+, \d+, 3\): only what is square, of 32"):
        drawings.evaluate(run, source, None)
    assert not asked
    monkeypatch.setattr(
        inception.Inception,
        "see",
        lambda self, shown: shown[:, ::16, ::16].reshape(len(shown), -1).astype(float),
    )
    net = inception.Inception(Path("inception.safetensors"), {})
    figures = drawings.evaluate(run, source, None, features=net).figures
    assert figures.keys() == {"features/fid", "features/kid"}


def test_pictures_of_another_prompt_fail(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    right = drawn_by(data, "test")
    monkeypatch.setattr(
        drawings,
        "draw",
        lambda trained, prompts, *, how, seed: right(trained, prompts, how=how, seed=seed)[::-1],
    )
    source = sources.open_source(data, "test", ("image",))
    figures, details, _ = drawings.evaluate(stand_in(data), source, None)
    assert figures["drawn/passed"].value < 0.2
    assert "instead of" in details["drawn"][0]["text"] or "no " in details["drawn"][0]["text"]


@pytest.fixture(scope="module")
def clip(data: Data) -> Trained:
    """A run of CLIP that has learnt nothing: its vectors are features like others."""
    body = Transformer(16, 1, Block(heads=2, ratio=1.0))
    model = Clip(
        ImageEncoder((24, 24), 8, body=body),
        TextEncoder(128, 24, causal=True, body=body),
        pool=Pool("mean"),
        width=8,
    )
    batch = {
        "image": jnp.zeros((1, 24, 24, 3), jnp.uint8),
        "target": jnp.ones((1, 24), jnp.int32),
        "target_mask": jnp.ones((1, 24), bool),
    }
    params = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    source = sources.open_source(data, "test", ("image",))
    tokenizer = words([text for record in source for text in record.captions])
    config = Config(model, Contrastive(), data=Data(target_length=24))
    return Trained(Path("clip"), config, tokenizer, params, 0)


def test_pictures_are_measured_by_the_vectors_of_clip(
    data: Data, clip: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.open_source(data, "test", ("image",))

    def measured(draw: Any) -> dict[str, Figure]:
        monkeypatch.setattr(drawings, "draw", draw)
        run = SimpleNamespace(**vars(stand_in(data)), tokenizer=clip.tokenizer)
        run.tokenise = clip.tokenise
        return drawings.evaluate(run, source, None, features=clip).figures

    real = drawn_by(data, "test")
    same = measured(real)
    assert same["features/fid"].value == pytest.approx(0, abs=1e-6)
    assert same["features/kid"].value < 1e-6
    assert same["features/clip_score"] == same["features/clip_score_real"]
    assert same["drawn/passed"].value == 1, "they are graded as well"

    def noise(trained: Any, prompts: Any, *, how: Any, seed: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        return rng.integers(0, 256, (len(prompts), 48, 48, 3)).astype(np.uint8)

    far = measured(noise)
    texts = [source[i].captions[0] for i in range(len(source))]
    told, scale = choosing.told(clip, texts), 8**0.5
    made, seen = (
        choosing.seen(clip, draw(None, texts, how=None, seed=0)) for draw in (noise, real)
    )
    assert far["features/fid"].value == pytest.approx(fid(scale * made, scale * seen), rel=1e-5)
    assert far["features/fid"].value > 1e-2
    assert far["features/kid"].value == pytest.approx(
        kid(scale * made, scale * seen).value, rel=1e-5
    )
    assert far["features/kid"].low > same["features/kid"].high
    assert far["features/r_precision"] == r_precision(made, told)
    wanted = 2.5 * np.maximum((made * told).sum(1), 0).mean()
    assert far["features/clip_score"].value == pytest.approx(wanted, rel=1e-5)
    assert far["features/clip_score_real"] == same["features/clip_score_real"]


def test_by_inception_only_pictures_are_compared(
    data: Data, clip: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        inception.Inception,
        "see",
        lambda self, shown: shown[:, ::16, ::16].reshape(len(shown), -1).astype(float),
    )
    net = inception.Inception(Path("inception.safetensors"), {})
    monkeypatch.setattr(drawings, "draw", drawn_by(data, "test"))
    run: Any = SimpleNamespace(**vars(stand_in(data)), tokenizer=clip.tokenizer)
    run.tokenise = clip.tokenise
    source = sources.open_source(data, "test", ("image",))
    figures = drawings.evaluate(run, source, None, features=net).figures
    assert {name for name in figures if "features" in name} == {"features/fid", "features/kid"}
    assert figures["features/fid"].value == pytest.approx(0, abs=1e-3)
    assert figures["drawn/passed"].value == 1


def test_what_features_cannot_measure_is_left_out_and_told(
    data: Data, clip: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Any = SimpleNamespace(**vars(stand_in(data)), tokenizer=clip.tokenizer)
    run.tokenise = clip.tokenise
    source = sources.open_source(data, "test", ("image",))
    strange = [replace(source[i], captions=("a quux",)) for i in range(2)]
    kept, pictures = drawings.comparable([run, clip], [*strange, source[2], source[3]])
    assert [record.key for record in kept] == [source[2].key, source[3].key]
    assert pictures.shape == (2, 48, 48, 3)
    assert "2 of 4 captions left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="at least two pictures"):
        drawings.evaluate(run, source, 1, features=clip)
    run.config.model.sense = "video"
    with pytest.raises(UserError, match="clip sees pictures, and these are clips of 16 frames"):
        drawings.evaluate(run, source, 1, features=clip)
    with pytest.raises(UserError, match="clip sees pictures, and these are clips of 16 frames"):
        drawings.evaluate(run, source, 1, clip=clip, among=2)


def test_the_nearest_of_several_counts(
    data: Data, clip: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of noise, the real picture and noise again, a perfect judge keeps the real picture."""
    source = sources.open_source(data, "test", ("image",))
    real, run = drawn_by(data, "test"), stand_in(data)
    seeds = []

    def draws(trained: Any, prompts: Any, *, how: Any, seed: int) -> np.ndarray:
        seeds.append(seed)
        right = real(trained, prompts, how=how, seed=seed)
        turn = np.arange(len(prompts)) % 3 == seed
        return np.where(turn[:, None, None, None], right, np.uint8(seed))

    def judge(clip: Any, pictures: np.ndarray) -> np.ndarray:
        scene = pictures.reshape(len(pictures), -1).std(1) > 0
        return np.stack([scene, ~scene], 1).astype(np.float32)

    monkeypatch.setattr(choosing, "draw", draws)
    monkeypatch.setattr(choosing, "seen", judge)
    monkeypatch.setattr(choosing, "told", lambda clip, prompts: np.array([[1.0, 0.0]]))
    monkeypatch.setattr(drawings, "draw", real)  # of the spread
    figures = drawings.evaluate(run, source, None, clip=clip, among=3).figures
    assert seeds == [0, 1, 2]
    assert figures["drawn/passed"].value == 1
    assert figures["drawn/among"].value == 3
    few = drawings.evaluate(run, source, None, clip=clip, among=2).figures["drawn/passed"]
    assert few.value == pytest.approx(2 / 3, abs=1 / few.n)


def test_prompts_are_read_as_the_captions_of_a_batch(data: Data, clip: Trained) -> None:
    """Where the text is read at its last place (SigLIP) it is first filled up to full length."""
    model = clip.config.model.clone(end="place", end_id=1)
    placed = clip._replace(config=replace(clip.config, model=model))
    source = sources.open_source(data, "test", ("image",))
    prompts = [source[i].captions[0] for i in range(3)]
    rows = [clip.tokenise("", each, "") for each in prompts]
    batch = {key: np.stack([row[key] for row in rows])[:, :20] for key in rows[0]}
    batch["image"] = np.zeros((3, 24, 24, 3), np.uint8)
    wanted = jax.jit(model.apply)({"params": clip.params}, batch)["text"]
    np.testing.assert_allclose(choosing.told(placed, prompts), wanted, atol=1e-5)
    assert np.abs(choosing.told(clip, prompts) - wanted).max() > 1e-3


@pytest.mark.parametrize(("clip_given", "among"), [(True, 1), (False, 2), (True, 0)])
def test_one_of_one_and_several_without_a_judge_are_refused(
    data: Data, clip: Trained, clip_given: bool, among: int
) -> None:
    source = sources.open_source(data, "test", ("image",))
    with pytest.raises(UserError, match=f"--among {among}: pictures, at least 2"):
        drawings.evaluate(stand_in(data), source, 1, clip=clip if clip_given else None, among=among)
