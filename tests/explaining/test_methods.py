"""Gradients and occlusion against closed forms; every kind of fusion and sense."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from asking import small, some_asked, start

from mlm_jax.encoders import AudioEncoder, ImageEncoder, VideoEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.explaining import attention, gradients, occlusion
from mlm_jax.explaining.asked import Asked, blank, scores
from mlm_jax.explaining.methods import METHODS, enlarge, explain, fresh, stretch
from mlm_jax.fusion import Kind
from mlm_jax.layers import ConvStem, PatchStem, Transformer
from mlm_jax.models.matching import Matching

SUM = jax.jit(scores, static_argnums=0)


def moved(params: Any) -> Any:
    """Gates that open, positions and norms that are not at their start."""
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape, x.dtype), params)


def few(kinds: Sequence[str], *fast: str) -> list[Any]:
    """All `kinds`; those not `fast` only in `make test-all`, as each takes a compilation."""
    return [pytest.param(kind, marks=[] if kind in fast else pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", few(get_args(Kind), "cross_attention", "bottleneck"))
def test_every_fusion(kind: Kind) -> None:
    """Finite maps of the right shape, and integrated gradients that are complete."""
    model, asked = small(kind), some_asked()
    params = moved(start(model, asked))
    for method in METHODS:
        maps = explain(model, params, asked, method)["image"]
        assert maps.shape == (2, 3, 16, 16), method
        assert np.isfinite(maps).all(), method
        assert abs(maps).max() > 0, method
    weights = attention.recorded(model, params, asked)
    by_head = attention.looks(model, weights, asked.spans)
    assert by_head.shape == (2, 3, 2, 4, 4)
    assert (by_head >= 0).all()
    assert (by_head.sum(-1) <= 1 + 1e-5).all()

    base = blank(asked.seen)
    apart = SUM(model, params, asked)[0] - SUM(model, params, asked._replace(seen=base))[0]
    parts = gradients.integrated(model, params, asked, base)["image"]
    assert float(abs(apart).max()) > 1e-3
    np.testing.assert_allclose(parts.sum((2, 3, 4)), apart, atol=2e-4)


def test_concat_is_the_same_for_all_words() -> None:
    model, asked = small("concat"), some_asked()
    params = moved(start(model, asked))
    maps = explain(model, params, asked, "attention")["image"]
    np.testing.assert_allclose(maps, maps[:, :1, :1, :1].repeat(3, 1).repeat(16, 2).repeat(16, 3))
    other = explain(model, params, asked, "occlusion")["image"]
    assert abs(other[:, 0] - other[:, 1]).max() > 1e-4


def test_word_is_the_sum_of_its_tokens() -> None:
    """Gradients of a word of two tokens are those of both."""
    model, asked = small(), some_asked()
    params = start(model, asked)
    whole = gradients.gradients(model, params, asked)["image"]
    apart = asked._replace(spans=jnp.broadcast_to(jnp.eye(5), (2, 5, 5)))
    single = gradients.gradients(model, params, apart)["image"]
    np.testing.assert_allclose(whole[:, 1], single[:, 1] + single[:, 2], atol=1e-5)
    np.testing.assert_allclose(whole[:, 2], single[:, 3], atol=1e-5)


def test_a_word_does_not_hang_on_other_pictures() -> None:
    model, asked = small(), some_asked()
    params = start(model, asked)
    both = explain(model, params, asked, "gradient")["image"]
    alone = explain(model, params, jax.tree.map(lambda x: x[1:], asked), "gradient")["image"]
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


def test_a_fresh_model_is_one_that_training_begins_with() -> None:
    """Also where matching is learnt, whose targets have a mask that nothing explained reads."""
    model, asked = replace(small(), matching=Matching("hard")), some_asked()
    batch = {**asked.batch, "target_mask": asked.target > 0}

    def both() -> tuple[Any, Any]:
        whole = model.init(jax.random.key(3), batch)["params"]
        return fresh(model, asked, 3), {name: whole[name] for name in whole if name != "matching"}

    found, wanted = jax.eval_shape(both)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, wanted)
    one, other = jax.jit(lambda: [jax.tree.leaves(each["decoder"])[-1] for each in both()])()
    assert float(one.std()) > 0
    np.testing.assert_array_equal(one, other)


# --- closed forms ---


@pytest.mark.parametrize("power", [1, 2, 3])
def test_integrated_of_powers(power: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of words that are sums of w x^p, from 0: w x^p, exactly, by Gauss with enough points."""

    def told(model: Any, params: Any, asked: Asked, nudge: Any = None) -> Any:
        del nudge
        return jnp.einsum("whdc,bhdc->bw", params, asked.seen["image"] ** model), {}

    monkeypatch.setattr(gradients, "scores", told)
    asked = some_asked()
    weights = np.random.default_rng(3).normal(size=(3, 16, 16, 3)).astype(np.float32)
    base = {"image": jnp.zeros_like(asked.seen["image"])}
    found = gradients.integrated(power, weights, asked, base, steps=4)["image"]  # type: ignore[arg-type]
    wanted = weights[None] * np.asarray(asked.seen["image"])[:, None] ** power
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_windows_cover_everything() -> None:
    windows = occlusion.boxes((7, 9), (3, 4), (2, 3))
    covered = sum(np.asarray(occlusion.inside(windows, start, (7, 9))) for start in windows.starts)
    assert covered.min() >= 1
    assert {tuple(map(int, start)) for start in windows.starts} == {
        (down, across) for down in (0, 2, 4) for across in (0, 3, 5)
    }


def test_occlusion_of_a_straight_line() -> None:
    """A window loses the weights x (pixels - blank) in it; a pixel the mean of its windows."""
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(2, 6, 6, 3)), rng.normal(size=(3, 6, 6, 3))
    base = np.full_like(x, 0.25)
    windows = occlusion.boxes((6, 6), (2, 2), (1, 1))
    found = occlusion.lost(
        lambda x: jnp.einsum("whdc,bhdc->bw", weights.astype(np.float32), x),
        jnp.asarray(x, jnp.float32),
        jnp.asarray(base, jnp.float32),
        windows,
    )
    parts = np.einsum("whdc,bhdc->bwhd", weights, x - base)
    wanted, times = np.zeros_like(parts), np.zeros((6, 6))
    for down in range(5):
        for across in range(5):
            box = (slice(down, down + 2), slice(across, across + 2))
            wanted[(..., *box)] += parts[(..., *box)].sum((2, 3), keepdims=True)
            times[box] += 1
    np.testing.assert_allclose(found, wanted / times, atol=1e-4)


def test_blank_keeps_the_mean() -> None:
    seen = some_asked().seen
    nothing = blank(seen)["image"]
    np.testing.assert_allclose(nothing.mean((1, 2)), seen["image"].mean((1, 2)), atol=1e-5)
    assert float(nothing.std((1, 2)).max()) < 1e-5


def test_enlarged_keeps_centres() -> None:
    """A pixel at the centre of a cell has the value of the cell; between two it is between."""
    weights = stretch(3, 9, 3, 1.0)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[[1, 4, 7]], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(weights[[2, 3]], [[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0]], atol=1e-6)
    cells = attention.Cells("image", 0, (1, 2, 3), (3, 3), 1.0)
    big = enlarge(np.arange(6, dtype=np.float32), cells, (6, 9, 3))
    assert big.shape == (6, 9)
    assert np.unravel_index(big.argmax(), big.shape)[0] >= 4


@pytest.mark.parametrize("stem", ["conv", "patch"])
def test_middles_are_where_a_cell_looks(stem: Any) -> None:
    """The pixels that a cell hangs on lie evenly around its middle, but for norms over all."""
    own = ConvStem(16, 8) if stem == "conv" else PatchStem(16, 8)
    pixels = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    params = own.init(jax.random.key(1), pixels)

    def without_norm(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        return args[0] if isinstance(context.module, nn.GroupNorm) else call(*args, **kwargs)

    def one(pixels: Any) -> Any:
        with nn.intercept_methods(without_norm):
            return abs(own.apply(params, pixels)[0, 2, 2]).sum()

    near = abs(jax.grad(one)(pixels)).sum((0, 3)) > 0
    rows, columns = (np.flatnonzero(near.any(axis)) for axis in (1, 0))
    (step, across), first = attention.middles(ImageEncoder((32, 32), 8, stem))
    assert step == across
    assert (rows[0] + rows[-1]) / 2 == (columns[0] + columns[-1]) / 2 == first + 2 * step


# --- clips and sounds ---


def heard(model: Any, seen: dict[str, Any]) -> tuple[Any, Asked]:
    asked = some_asked()._replace(seen=seen)
    return moved(start(model, asked)), asked


BODY = Transformer(128, 1)


@pytest.mark.parametrize("kind", few(["pooled", "factorised", "joint", "divided"], "divided"))
def test_clips(kind: Any) -> None:
    """A map for each frame."""
    video = VideoEncoder(
        4, (16, 16), 8, 2, kind, class_token=kind == "divided", body=BODY, time=Transformer(128, 1)
    )
    model = replace(small(), image=None, video=video)
    clip = jax.random.normal(jax.random.key(2), (2, 4, 16, 16, 3))
    params, asked = heard(model, {"video": clip})
    for method in ("attention", "rollout", "relevance", "gradient"):
        maps = explain(model, params, asked, method)["video"]
        assert maps.shape == (2, 3, 4, 16, 16), method
        assert np.isfinite(maps).all()
        assert abs(maps).max() > 0


@pytest.mark.parametrize("stem", few(["patch", "conv", "conv2d"], "conv2d"))
def test_sounds(stem: Any) -> None:
    """A map over time and bands."""
    mel = LogMel(rate=2000, window=64, hop=32, fft=64, mels=16, high=900.0)
    audio = AudioEncoder(1024, mel, stem=stem, patch=8, stride=(4, 6), body=BODY)
    model = replace(small(), image=None, audio=audio)
    sound = jax.random.normal(jax.random.key(2), (2, audio.frames, 16))
    params, asked = heard(model, {"audio": sound})
    for method in ("attention", "rollout", "relevance", "gradient", "occlusion"):
        maps = explain(model, params, asked, method)["audio"]
        assert maps.shape == (2, 3, audio.frames, 16), method
        assert np.isfinite(maps).all()
        assert abs(maps).max() > 0


def test_picture_and_sound_at_once() -> None:
    mel = LogMel(rate=2000, window=64, hop=32, fft=64, mels=16, high=900.0)
    audio = AudioEncoder(1024, mel, stem="conv", body=BODY)
    model = replace(small(), audio=audio)
    sound = jax.random.normal(jax.random.key(2), (2, audio.frames, 16))
    params, asked = heard(model, {**some_asked().seen, "audio": sound})
    maps = explain(model, params, asked, "attention")
    assert {key: each.shape[2:] for key, each in maps.items()} == {
        "image": (16, 16),
        "audio": (audio.frames, 16),
    }
    weights = attention.recorded(model, params, asked)
    cells = attention.looks(model, weights, asked.spans)
    assert cells.shape[-1] == 4 + (audio.frames + 1) // 2
