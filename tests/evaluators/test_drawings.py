"""What is measured of drawings, with pictures and clips of the world in the place of drawn ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlm_jax.config import Data
from mlm_jax.data import sources
from mlm_jax.data.transforms import take_for
from mlm_jax.evaluators import drawings
from mlm_jax.models.painter import Canvas


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data("world/tiny", root=str(tmp_path_factory.mktemp("data")))


def stand_in(data: Data) -> Any:
    """As much of a trained run as is read."""
    config = SimpleNamespace(data=data, seed=0, model=SimpleNamespace(sense="image"))
    return SimpleNamespace(config=config, take=take_for(data, {"image": Canvas()}), path=Path("x"))


def drawn_by(data: Data, of: str) -> Any:
    """Draws the real picture of a caption of split `of`."""
    source = sources.open_source(data, of, ("image",))
    take = take_for(data, {"image": Canvas()})
    real = {source[i].captions[0]: take(source[i])["image"] for i in range(len(source))}
    return lambda trained, prompts, *, seed: np.stack([real[text] for text in prompts])


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


def test_remembered_pictures_are_seen_as_such(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    train = sources.open_source(data, "train", ("image",))
    take = take_for(data, {"image": Canvas()})
    known = np.stack([take(train[i])["image"] for i in range(len(train))])
    monkeypatch.setattr(
        drawings,
        "draw",
        lambda trained, prompts, *, seed: np.resize(known, (len(prompts), 48, 48, 3)),
    )
    source = sources.open_source(data, "test", ("image",))
    figures = drawings.evaluate(stand_in(data), source, None).figures
    assert figures["drawn/nearest"].value == pytest.approx(0, abs=1e-3)


def test_pictures_of_another_prompt_fail(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    right = drawn_by(data, "test")
    monkeypatch.setattr(
        drawings, "draw", lambda trained, prompts, *, seed: right(trained, prompts, seed=seed)[::-1]
    )
    source = sources.open_source(data, "test", ("image",))
    figures, details, _ = drawings.evaluate(stand_in(data), source, None)
    assert figures["drawn/passed"].value < 0.2
    assert "instead of" in details["drawn"][0]["text"] or "no " in details["drawn"][0]["text"]
