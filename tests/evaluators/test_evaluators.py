"""Groups of a hundred, neighbours, chains and forms; figures of models without training."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy

from mlm_jax import evaluate, train
from mlm_jax.config import UserError
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.loader import CAPTION, Pair
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import words
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import ImageEncoder, TextEncoder
from mlm_jax.evaluators import probe, retrieval, texts
from mlm_jax.evaluators.words import Chain, Neighbours, filled, form
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Contrastive, Hidden
from mlm_jax.models.bert import Bert
from mlm_jax.models.clip import Clip
from mlm_jax.models.gpt import Gpt
from mlm_jax.trained import Trained
from mlm_jax.world import language, scene


def body(**block: Any) -> Transformer:
    return Transformer(16, 1, Block(heads=2, **block))


def test_groups_have_no_text_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "GROUP", 3)
    texts = ["a", "a", "b", "c", "c", "b", "d", "a"]
    groups = list(retrieval.apart(texts))
    assert groups == [[0, 2, 3], [1, 4, 5]]
    for group in groups:
        assert len({texts[place] for place in group}) == 3


def test_captions_are_told_from_those_with_a_word_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one that sees all but which side something is on."""

    def vectors(texts: list[str]) -> np.ndarray:
        blind = [re.sub("left|right|above|below", "beside", text) for text in texts]
        drawn = [np.random.default_rng([*text.encode()]).normal(size=8) for text in blind]
        return np.stack([each / np.linalg.norm(each) for each in drawn])

    rng, pairs = np.random.default_rng(0), []
    for at in range(40):
        truth = scene.sample(rng)
        text = language.captions(truth, rng, 1)
        pairs.append(Pair(at, f"{at}", CAPTION_PROMPT, text, CAPTION, scene.to_json(truth)))
    images = vectors([pair.target for pair in pairs])
    monkeypatch.setattr(retrieval, "told", lambda _, texts: vectors(texts))
    trained: Any = None
    found = retrieval.told_apart(trained, pairs, images, images)
    share = {kind: figure.value for kind, figure in found.items()}
    assert share.pop("told_apart/relation") == 0
    assert 0.5 < share.pop("told_apart/hard") < 1
    assert share == dict.fromkeys(("told_apart/colour", "told_apart/shape", "told_apart/size"), 1)
    assert not retrieval.told_apart(trained, [replace(p, truth="") for p in pairs], images, images)


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
            texts.evaluate(trained, source, limit)
        with pytest.raises(UserError, match="nothing with a label"):
            probe.read(trained, source, ("a",), limit)


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
