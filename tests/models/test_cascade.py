"""An upsampler behind a model that draws: what it learns, and what is drawn."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax.config import Config, Data, UserError
from mlm_jax.data.tokenizers import words
from mlm_jax.decoders.codes import CodeEncoder
from mlm_jax.decoders.denoiser import DiffusionTransformer
from mlm_jax.decoders.diffusion import How
from mlm_jax.drawing import DRAWERS, Drawing, by_enlarging, by_painting, draw
from mlm_jax.encoders import TextEncoder
from mlm_jax.losses import Denoise
from mlm_jax.models.cascade import Cascade
from mlm_jax.models.codes import Codes
from mlm_jax.models.painter import Canvas, Painter
from mlm_jax.trained import Trained

KEY = jax.random.key(0)
HOW = Drawing(paint=How("ddim", steps=2, guidance=2.0))


def painter(side: int, **more: Any) -> Painter:
    net = DiffusionTransformer(4, toy.body())
    return Painter(Canvas((side, side)), net=net, **more)


BASE = painter(8, text=TextEncoder(20, 6, body=toy.body()))
MODEL = Cascade(BASE, painter(16, text=None, enlarges=2))
BATCH = {
    "image": jax.random.randint(KEY, (4, 16, 16, 3), 0, 256).astype(jnp.uint8),
    "target": jax.random.randint(KEY, (4, 6), 3, 20),
    "target_mask": jnp.ones((4, 6), bool),
}


@pytest.fixture(scope="module")
def params() -> Any:
    return toy.stirred(MODEL, BATCH)


def test_the_upsampler_learns_and_the_base_does_not(params: Any) -> None:
    def loss(params: Any) -> Any:
        said: Any = MODEL.apply({"params": params}, BATCH, train=True, rngs={"mask": KEY})
        return Denoise()(said, BATCH)[0]

    grads = jax.jit(jax.grad(loss))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["base"]))
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["upsampler"]["net"]))


def test_what_the_base_draws_is_enlarged(params: Any, tmp_path: Path) -> None:
    texts = ["it is red", "it is blue"]
    config = Config(MODEL, Denoise(), data=Data(target_length=6))
    trained = Trained(tmp_path, config, words(texts), params, 0)
    large = draw(trained, texts, how=HOW, seed=3)
    assert (large.shape, large.dtype) == ((2, 16, 16, 3), np.uint8)
    assert (draw(trained, texts, how=HOW, seed=3) == large).all()

    rows = [trained.tokenise("", text, "") for text in texts]
    told = {key: jnp.stack([row[key] for row in rows]) for key in ("target", "target_mask")}
    below, first, later = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), 3)
    small = by_painting(BASE, params["base"], told, HOW, below, None)
    noise = jax.random.normal(first, (2, 16, 16, 3))
    plain = How("ddim", steps=2)
    made = MODEL.upsampler.apply(
        {"params": params["upsampler"]}, noise, {"small": small}, plain, later, method="paint"
    )
    np.testing.assert_allclose(large, np.asarray(made) * 255, atol=0.51)

    with pytest.raises(UserError, match="draws from words alone"):
        draw(trained, texts, how=HOW, begun=np.asarray(BATCH["image"])[:2])


def test_pictures_are_reduced_to_the_mean_of_their_squares() -> None:
    reduced: Any = MODEL.apply({}, BATCH["image"], method="reduced")
    wanted = np.asarray(BATCH["image"], float).reshape(4, 8, 2, 8, 2, 3).mean((2, 4))
    assert reduced.dtype == np.uint8
    np.testing.assert_allclose(reduced, wanted, atol=0.51)


class Given(Painter):
    """Draws what it is given."""


def test_a_picture_to_begin_with_is_reduced_for_the_base(
    params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DRAWERS, Given, lambda *given: given[-1])
    seen: list[Any] = []
    monkeypatch.setattr(
        Cascade, "enlarge", lambda self, small, noise, how, key: seen.append(small) or noise
    )
    model = MODEL.clone(base=Given(Canvas((8, 8))))
    shown = np.asarray(BATCH["image"])[:2]
    with jax.disable_jit():
        by_enlarging(model, {**params, "base": {}}, {}, HOW, KEY, BATCH["image"][:2])
    wanted = shown.reshape(2, 8, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(seen[0], wanted, atol=0.51)


@pytest.mark.parametrize(("codes", "below"), [(None, 0.9), (Codes(CodeEncoder((8, 8))), 0.0)])
def test_a_threshold_is_of_pixels_and_not_of_the_codes_of_a_base(
    codes: Codes | None, below: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setitem(DRAWERS, Given, lambda *given: seen.append(given[3].paint) or given[-1])
    monkeypatch.setattr(
        Cascade, "enlarge", lambda self, small, noise, how, key: seen.append(how) or noise
    )
    how = Drawing(paint=How("ddim", steps=2, threshold=0.9))
    model = MODEL.clone(base=Given(Canvas((8, 8)), codes=codes))
    with jax.disable_jit():
        by_enlarging(model, {"base": {}}, {}, how, KEY, BATCH["image"][:2])
    assert [each.threshold for each in seen] == [below, 0.9]


@pytest.mark.parametrize(
    ("upsampler", "said"),
    [
        (painter(16, text=None), "enlarged 1 times are not"),
        (painter(32, text=None, enlarges=2), r"draws \(8, 8, 3\).* not the \(32, 32, 3\)"),
        (painter(16, enlarges=2), "told the smaller picture alone: text None"),
        (
            Painter(None, Canvas((16, 16), 2), text=None, enlarges=2),
            "the base is a Painter: it draws no video",
        ),
    ],
)
def test_an_upsampler_must_fit_the_base(upsampler: Painter, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(MODEL.clone(upsampler=upsampler).init, KEY, BATCH)


@pytest.mark.parametrize(
    "base", [Codes(CodeEncoder((8, 8))), painter(8, text=None, enlarges=2), toy.clip()]
)
def test_a_base_draws_from_words(base: Any) -> None:
    with pytest.raises(ValueError, match=rf"a {type(base).__name__}: it draws no image from words"):
        jax.eval_shape(MODEL.clone(base=base).init, KEY, BATCH)


def test_a_base_is_built_by_captions() -> None:
    with pytest.raises(ValueError, match=r"data.captions is 0"):
        jax.eval_shape(MODEL.init, KEY, {"image": BATCH["image"]})
