"""What is counted of a picture, or clip, after its way through codes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlm_jax.config import Data, Optim
from mlm_jax.data import sources
from mlm_jax.data.transforms import take_for
from mlm_jax.evaluators import codes
from mlm_jax.evaluators.codes import compared
from mlm_jax.models.painter import Canvas
from mlm_jax.world import clip, scene
from mlm_jax.world.render import play, render


def test_objects_of_a_picture_are_recognised_or_not() -> None:
    drawn = scene.sample(np.random.default_rng(0))
    picture, truth = render(drawn, 48), scene.to_json(drawn)
    same = compared(picture, picture, truth)
    assert same["recognised"] == same["objects"] == len(drawn.objects)
    grey = compared(picture, np.full_like(picture, 128), truth)
    assert (grey["recognised"], grey["objects"]) == (0, len(drawn.objects))
    error = np.square(picture.astype(float) - 128).mean()
    assert grey["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert compared(picture, picture, "").keys() == {"pictures", "psnr"}
    for small in (picture[:16, :16], picture[:40]):  # nothing is found there, and PSNR is measured
        assert compared(small, small, truth).keys() == {"pictures", "psnr"}


def test_events_of_a_clip_are_recognised_or_not() -> None:
    drawn = clip.sample(np.random.default_rng(0))
    frames, truth = play(drawn, 48), clip.to_json(drawn)
    same = compared(frames, frames, truth)
    assert same["recognised"] == same["events"] == len(drawn.events)
    still = compared(frames, frames[:1].repeat(len(frames), 0), truth)
    assert (still["recognised"], still["events"]) == (0, len(drawn.events))
    nothing = compared(frames[:1].repeat(16, 0), frames, truth)
    assert nothing["events"] == 0, "what is not seen before is not expected after"
    assert compared(frames[:, :16, :16], frames[:, :16, :16], truth).keys() == {"pictures", "psnr"}


def test_no_more_pictures_are_held_at_a_time_than_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data("world/tiny", root=str(tmp_path), batch=3)
    seen: list[int] = []

    def through(model: Any, params: Any, shown: np.ndarray) -> Any:
        seen.append(len(shown))
        return shown, np.zeros((len(shown), 5), int)

    monkeypatch.setattr(codes, "through", through)
    model = SimpleNamespace(sense="image", quantiser=SimpleNamespace(size=4))
    config = SimpleNamespace(data=data, optim=Optim(), model=model)
    take = take_for(data, {"image": Canvas()})
    run: Any = SimpleNamespace(config=config, take=take, params={})
    source = sources.open_source(data, "test", ("image",))
    figures = codes.evaluate(run, source, 7).figures
    assert seen == [3, 3, 3]
    assert figures["codes/psnr"].n == 7
    assert figures["codes/used"].n == 7 * 5
