"""MAE: patches and back, what is hidden, and that only the hidden patches are learned from."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.encoders import ImageEncoder
from mlm_jax.layers import Block, Transformer
from mlm_jax.layers.embed import patches, picture_of
from mlm_jax.losses import Masked
from mlm_jax.models.mae import Mae, standardised

BODY = Transformer(16, 1, Block(heads=2))
MAE = Mae(ImageEncoder((16, 24), 4, class_token=True, body=BODY), Transformer(8, 1, Block(heads=2)))
KEY = jax.random.key(0)
BATCH = {"image": jax.random.randint(KEY, (3, 16, 24, 3), 0, 256).astype(jnp.uint8)}


@pytest.fixture(scope="module")
def params() -> dict:
    return jax.jit(MAE.init)(KEY, BATCH)["params"]


def test_patches_are_cut_row_by_row_and_put_together_again() -> None:
    picture = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype(np.float32)
    parts = np.asarray(patches(jnp.asarray(picture), 2))
    assert parts.shape == (2, 12, 12)
    for b, row, column in np.ndindex(2, 3, 4):
        cut = picture[b, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(parts[b, 4 * row + column], cut.reshape(-1))
    np.testing.assert_array_equal(picture_of(jnp.asarray(parts), (3, 4), 2), picture)


def test_a_standardised_patch_has_mean_0_and_deviation_1() -> None:
    parts = np.random.default_rng(0).normal(3, 2, (2, 5, 12)).astype(np.float32)
    parts[0, 0] = 0.5
    out = np.asarray(standardised(jnp.asarray(parts)))
    assert not out[0, 0].any()
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(out[1].std(-1, ddof=1), 1, rtol=1e-5)


def test_three_quarters_are_hidden_each_patch_as_often_as_any_other() -> None:
    keep, hidden = MAE.hide(KEY, 2_000)
    assert keep.shape == (2_000, 6)
    assert hidden.shape == (2_000, 24)
    assert (hidden.sum(1) == 18).all()
    assert not jnp.take_along_axis(hidden, keep, axis=1).any()
    assert (jnp.diff(keep, axis=1) > 0).all()
    np.testing.assert_allclose(hidden.mean(0), 0.75, atol=0.04)
    with pytest.raises(ValueError, match="0 of 24 patches hidden: some, and not all"):
        replace(MAE, hidden=0.0).hide(KEY, 2)


@pytest.mark.usefixtures("strict")
def test_outputs_and_loss(params: dict) -> None:
    out = MAE.apply({"params": params}, BATCH, train=True, rngs={"mask": KEY})
    assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
        "pixels": ((3, 24, 48), np.float32),
        "wanted": ((3, 24, 48), np.float32),
        "hidden": ((3, 24), bool),
    }
    pixels, wanted, hidden = (np.asarray(out[k]) for k in ("pixels", "wanted", "hidden"))
    errors = [
        ((pixels[at] - wanted[at]) ** 2).mean() for at in zip(*np.nonzero(hidden), strict=True)
    ]
    loss, _ = Masked()(out, BATCH)
    np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-5)
    other = {**out, "pixels": jnp.where(out["hidden"][:, :, None], out["pixels"], 99.0)}
    assert Masked()(other, BATCH)[0] == loss, "what is painted where it was seen does not count"


def test_evaluation_hides_the_same_and_training_draws(params: dict) -> None:
    def hidden(**how: object) -> np.ndarray:
        return np.asarray(MAE.apply({"params": params}, BATCH, **how)["hidden"])

    np.testing.assert_array_equal(hidden(), hidden())
    one, two = (hidden(train=True, rngs={"mask": jax.random.key(i)}) for i in (1, 2))
    assert (one != two).any()


def test_hidden_pixels_are_not_seen(params: dict) -> None:
    out = jax.jit(MAE.apply)({"params": params}, BATCH)
    whole = jnp.repeat(out["hidden"][:, :, None], 48, axis=2)
    blot = picture_of(whole.astype(jnp.float32), MAE.image.grid, 4) == 1
    other = {"image": jnp.where(blot, 0, BATCH["image"]).astype(jnp.uint8)}
    np.testing.assert_allclose(
        jax.jit(MAE.apply)({"params": params}, other)["pixels"], out["pixels"], atol=1e-6
    )
    dark = {"image": jnp.where(blot, BATCH["image"], 0).astype(jnp.uint8)}
    assert not np.allclose(
        jax.jit(MAE.apply)({"params": params}, dark)["pixels"], out["pixels"], atol=1e-3
    )
