"""Groups of a hundred, neighbours, chains and forms; figures of models without training."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax import evaluate, train
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data import loader
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import words
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.evaluators import matching, probe, retrieval
from mlm_jax.evaluators.words import Chain, Neighbours, batches, filled, form
from mlm_jax.layers import Block, Pool, Transformer
from mlm_jax.losses import Caption, Contrastive, Hidden
from mlm_jax.models.bert import Bert
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.matching import Matching
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.report import TITLES
from mlm_jax.trained import Trained
from mlm_jax.world import language, scene
from mlm_jax.world.grade import grade_caption


def body(**block: Any) -> Transformer:
    return Transformer(16, 1, Block(heads=2, **block))


def test_groups_have_no_text_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "GROUP", 3)
    texts = ["a", "a", "b", "c", "c", "b", "d", "a"]
    groups = list(retrieval.apart(texts))
    assert groups == [[0, 2, 3], [1, 4, 5]]
    for group in groups:
        assert len({texts[place] for place in group}) == 3


def watcher(tmp_path: Path, name: str, model: Any) -> tuple[Trained, Any]:
    """A model that has learnt nothing, and the test split of the world that it reads."""
    sense, eyes = next((k, e) for k in ("image", "video") if (e := getattr(model, k)) is not None)
    data = Data(name, str(tmp_path), captions=1, questions=0, target_length=24)
    source = open_source(data, "test", (sense,))
    tokenizer = words(open_source(data, "train", (sense,)).corpus())
    ids = np.ones((1, 24), np.int32)
    shown = np.zeros((1, *eyes.takes.shape), np.uint8)
    texts = dict.fromkeys(("text", "target"), ids) | dict.fromkeys(
        ("text_mask", "target_mask"), ids > 0
    )
    batch = {sense: shown, **texts}
    params = toy.stirred(model, jax.tree.map(jnp.asarray, batch))
    return Trained(Path("x"), Config(model, Contrastive(), data), tokenizer, params, 0), source


def clip_of(eyes: dict[str, Any]) -> Clip:
    text = TextEncoder(128, 24, causal=True, body=body())
    return Clip(**{"image": None} | eyes, text=text, pool=Pool("mean"), width=8)


def test_captions_are_told_from_those_with_a_word_changed(tmp_path: Path) -> None:
    """By one picture, one caption and one wrong one at a time."""
    model = clip_of({"image": ImageEncoder((48, 48), 16, body=body())})
    trained, source = watcher(tmp_path, "world/tiny", model)
    pairs, images, texts = retrieval.embed(trained, source, 12)
    found = retrieval.told_apart(trained, pairs, images, texts)

    def told(text: str) -> np.ndarray:
        row = {k: jnp.asarray(rows[None]) for k, rows in trained.tokenise("", text).items()}
        vector = model.apply({"params": trained.params}, row, method="read_captions")
        return np.asarray(vector)[0]

    scores: dict[str, list[bool]] = {}
    for at, pair in enumerate(pairs):
        for kind, text in matching.hard_texts(pair, random.Random(at)):
            assert not grade_caption(text, scene.from_json(pair.truth)).wholly_right
            nearer = images[at] @ told(pair.target) > images[at] @ told(text)
            scores.setdefault(kind, []).append(bool(nearer))
    assert set(scores) == {"colour", "shape", "size", "relation"}
    for kind, each in scores.items():
        assert found[f"told_apart/{kind}"].value == pytest.approx(np.mean(each))
    assert 0 < found["told_apart/hard"].value < 1
    assert found.keys() <= TITLES.keys()

    few = trained._replace(tokenizer=words([pair.target for pair in pairs[:2]]))
    left = retrieval.told_apart(few, pairs, images, texts)  # words it never met are left out
    assert left["told_apart/hard"].n < found["told_apart/hard"].n


def test_clips_are_found_by_their_captions(tmp_path: Path) -> None:
    eyes = VideoEncoder(4, (48, 48), 16, body=body(), time=body())
    trained, source = watcher(tmp_path, "clips/one_tiny", clip_of({"video": eyes}))
    pairs, videos, texts = retrieval.embed(trained, source, 5)
    assert videos.shape == texts.shape == (5, 8)
    assert len({pair.index for pair in pairs}) == 5
    assert np.unique(videos, axis=0).shape == (5, 8)
    figures = retrieval.told_apart(trained, pairs, videos, texts)
    kinds = ("action", "colour", "direction", "hard", "shape")
    assert {*figures} == {f"told_apart/{kind}" for kind in kinds}
    assert figures.keys() <= TITLES.keys()


def test_a_word_is_guessed_from_its_neighbours() -> None:
    known = Neighbours()
    for row in ([1, 4, 5, 6, 2], [1, 4, 5, 6, 2], [1, 4, 7, 8, 2], [1, 5, 5, 5, 2]):
        known.read(row)
    assert known.guess(4, 6) == 5
    assert known.guess(4, 8) == 7
    assert known.guess(4, 99) == 5  # after 4, whatever follows
    assert known.guess(None, None) == 5
    assert known.guess(98, 99) == 5
    told = filled(known, [1, 4, 7, 8, 2], [0, 4, 9, 8, 0], special=(0, 1, 2))
    assert told == {"words": 3, "model": 2, "commonest": 0, "neighbours": 3}


def test_texts_are_read_so_many_at_a_time() -> None:
    texts = [
        {"target": np.full(8, i), "target_mask": np.arange(8) < 3 + i, "scored": np.arange(8) < 2}
        for i in range(5)
    ]
    parts = [*batches(texts, 2)]
    assert [part["target"].shape for part in parts] == [(2, 7)] * 3
    assert not parts[-1]["target_mask"][1].any(), "filled up with none"


def test_a_chain_writes_what_stood_so() -> None:
    chain = Chain([[4, 5, 6], [4, 5, 7]], bos=1, eos=2)
    rng = np.random.default_rng(0)
    written = {tuple(chain.write(rng, 10)) for _ in range(50)}
    assert written == {(4, 5, 6, 2), (4, 5, 7, 2)}
    assert len(chain.write(rng, 2)) == 2


def test_the_form_of_a_caption_forgets_which_things_it_tells() -> None:
    one = form("a small red circle is left of a blue star")
    assert one == form("a large green square is left of a purple cross")
    assert one != form("a small red circle is a blue star")
    assert one != form("a red small circle is left of a blue star")
    rng = np.random.default_rng(0)
    told = {form(text) for _ in range(50) for text in language.captions(scene.sample(rng), rng, 4)}
    names = {word for each in told for word in each}
    assert not names & {"red", "circle", "small", "left", "circles"}


def test_of_no_pictures_nothing_is_measured(tmp_path: Path) -> None:
    config = toy.config(toy.write_pictures(tmp_path / "data"))
    trained = Trained(tmp_path, config, words([]), {}, 1)
    source = open_source(config.data, "test")
    for limit in (0, -1):
        with pytest.raises(UserError, match=f"--limit {limit}: at least 1"):
            evaluate.evaluate(tmp_path, limit=limit)
        with pytest.raises(UserError, match="nothing with a label"):
            probe.read(trained, source, ("a",), limit)


def test_of_a_clip_too_it_is_asked_whether_a_text_tells_it(tmp_path: Path) -> None:
    model = Multimodal(
        None,
        TextEncoder(128, 24, body=body()),
        decoder=TextDecoder(128, 24, body=body()),
        matching=Matching("hard", 8),
        video=VideoEncoder(4, (48, 48), 16, body=body(), time=body()),
    )
    trained, source = watcher(tmp_path, "clips/one_tiny", model)
    found = matching.evaluate(trained, source, 6)
    assert found["match/random"].n == 6

    def asked(video: np.ndarray, text: str) -> float:
        row = trained.tokenise("", text)
        batch = {"video": video, **{k: row[k] for k in ("target", "target_mask")}}
        one = {key: jnp.asarray(array[None]) for key, array in batch.items()}
        return float(matching.match(trained.config.model, trained.params, one)[0])

    rows = loader.eval_records(trained.config.data, source, trained.take, limit=3)
    clips = [arrays for _, _, arrays in rows]
    texts_ = ["a red star turns", "a blue circle grows", "a red star turns"]
    for batch in (1, 2):  # as many at a time as training held
        few = trained._replace(
            config=replace(trained.config, data=replace(trained.config.data, batch=batch))
        )
        said = matching.probabilities(few, clips, texts_)
        wanted = [asked(arrays["video"], text) for arrays, text in zip(clips, texts_, strict=True)]
        np.testing.assert_allclose(said, wanted, rtol=1e-4)


MODELS = {
    "bert": (Bert(TextEncoder(32, 8, body=body(order="post"))), Hidden()),
    "gpt": (Gpt(TextDecoder(32, 8, body=body())), Caption()),
    "clip": (
        Clip(
            ImageEncoder(toy.SIZE, 4, class_token=True, body=body()),
            TextEncoder(32, 8, causal=True, body=body()),
        ),
        Contrastive(),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_run_is_evaluated_by_what_its_model_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "GROUP", 3)
    model, loss = MODELS[name]
    data = toy.write_pictures(tmp_path / "data")
    config = toy.config(data, model=model, loss=loss, steps=150, save_every=150, eval_every=0)
    assert train.train(config, tmp_path / "run") == 0
    figures = evaluate.evaluate(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
    value = {key: figure.value for key, figure in figures.items()}
    if name == "bert":  # "it is red": two words of three are always the same
        assert value["accuracy"] >= 0.6
        assert value["accuracy by the neighbours"] >= 0.6
    elif name == "gpt":
        assert value["perplexity"] < 3
        assert value["chain of three words/in form"] == 1
        assert value["chain of three words/new"] == 0
    else:
        assert value["captions/recall@1"] == 1
        assert value["pictures/recall@5"] == 1
        monkeypatch.setattr(retrieval, "GROUP", 100)
        with pytest.raises(UserError, match="3 captions that differ, 100 are needed"):
            evaluate.evaluate(tmp_path / "run")
