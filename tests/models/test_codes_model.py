"""An autoencoder through codes: what it gives, what it learns by, and that its codebook follows."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax import train as training
from mlm_jax.config import Config, Optim
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.losses import Rebuilt
from mlm_jax.models.codes import Codes
from mlm_jax.paths import named

KEY = jax.random.key(0)
EYES = CodeEncoder((8, 8), (2, 2), (4, 8, 8), blocks=0)
MODEL = Codes(EYES, None, Quantiser("vq", count=6, width=4, decay=0.9))
BATCH = {"image": jax.random.randint(KEY, (4, 8, 8, 3), 0, 256).astype(jnp.uint8)}


@pytest.fixture(scope="module")
def params() -> Any:
    return jax.jit(MODEL.init)(KEY, BATCH)["params"]


# --- what it gives ---


@pytest.mark.usefixtures("strict")
def test_outputs(params: Any) -> None:
    out = jax.jit(MODEL.apply)({"params": params}, BATCH)
    assert out["pixels"].shape == out["wanted"].shape == (4, 8, 8, 3)
    assert out["pixels"].dtype == out["wanted"].dtype == jnp.float32
    np.testing.assert_allclose(out["wanted"], np.asarray(BATCH["image"]) / 255, rtol=1e-6)
    assert out["codes"].shape == (4, 2, 2)
    counts = np.bincount(np.asarray(out["codes"]).reshape(-1), minlength=6)
    np.testing.assert_allclose(out["uses"], counts / 16, rtol=1e-6)
    assert out["renewed"] == {}


@pytest.mark.parametrize("sees", ["around", "patch"])
def test_it_computes_in_bfloat16_where_its_parameters_are(sees: Any) -> None:
    out, parts = toy.inside(replace(MODEL, image=replace(EYES, blocks=1, sees=sees)), BATCH)
    assert toy.floats(out) == {jnp.dtype("float32")}
    del parts["decoder"]["__call__"]  # pixels, float32
    for part in ("image", "decoder"):
        assert toy.floats(parts[part]) == {jnp.dtype("bfloat16")}


def test_codes_and_pixels_of_them_are_those_of_one_way_through(params: Any) -> None:
    @jax.jit
    def both(params: Any) -> Any:
        bound = partial(MODEL.apply, {"params": params})
        codes = bound(BATCH["image"], method="encode_codes")
        return bound(BATCH), codes, bound(codes, method="decode_codes")

    out, codes, pixels = both(params)
    np.testing.assert_array_equal(codes, out["codes"].reshape(4, 4))
    np.testing.assert_allclose(pixels, jnp.clip(out["pixels"], 0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["fsq", "vq", "gumbel"])
def test_clips_and_every_quantiser(kind: Any) -> None:
    quantiser = Quantiser(kind, (3, 4), count=5, width=4)
    model = Codes(None, replace(EYES, frames=4, tube=2), quantiser)
    clips = jnp.zeros((2, 4, 8, 8, 3), jnp.uint8)
    out, variables = jax.eval_shape(model.init_with_output, KEY, {"video": clips})
    assert out["pixels"].shape == clips.shape
    assert out["codes"].shape == (2, 2, 2, 2)
    assert out["uses"].shape == (quantiser.size,)
    codes = jax.eval_shape(partial(model.apply, method="encode_codes"), variables, clips)
    assert codes.shape == (2, 8)
    assert codes.dtype == jnp.int32
    pixels = jax.eval_shape(partial(model.apply, method="decode_codes"), variables, codes)
    assert pixels.shape == clips.shape


def test_codes_are_of_one_sense() -> None:
    assert MODEL.sense == "image"
    assert replace(MODEL, image=None, video=replace(EYES, frames=2)).sense == "video"
    for model in (Codes(None, None), Codes(EYES, replace(EYES, frames=2))):
        with pytest.raises(ValueError, match="one of the two is None"):
            jax.eval_shape(model.init, KEY, BATCH)


# --- what it learns by ---


def outputs(error: Any, uses: Any, penalty: float = 0.0) -> dict[str, Any]:
    wanted = jnp.full(error.shape, 0.5)
    return {
        "pixels": wanted + error,
        "wanted": wanted,
        "uses": jnp.asarray(uses),
        "penalty": jnp.asarray(penalty),
    }


def test_loss_is_the_error_of_pixels_and_the_penalty() -> None:
    error = jnp.full((2, 4, 4, 3), 0.1).at[:, ::2].set(-0.1)
    uses = jnp.array([0.25, 0.25, 0, 0.25, 0.25, 0, 0, 0])
    loss, metrics = Rebuilt()(outputs(error, uses, 0.5), {})
    assert float(loss) == pytest.approx(0.01 + 0.5, rel=1e-5)
    assert {k: float(v) for k, v in metrics.items()} == {
        "psnr": pytest.approx(20, abs=1e-3),
        "perplexity": pytest.approx(4, rel=1e-5),
        "used": 0.5,
    }
    uneven = [0.5, 0.25, 0.125, 0.125]
    perplexity = Rebuilt()(outputs(error, uneven), {})[1]["perplexity"]
    assert float(perplexity) == pytest.approx(2**1.75, rel=1e-5)


def test_errors_of_colour_count_besides_and_those_of_grey_do_not() -> None:
    uses = [1.0]
    grey = outputs(jnp.full((1, 2, 2, 3), 0.1), uses)
    assert float(Rebuilt(colour=7.0)(grey, {})[0]) == pytest.approx(0.01, rel=1e-4)
    red = outputs(jnp.zeros((1, 2, 2, 3)).at[..., 0].set(0.3), uses)
    spread = np.var([0.3, 0, 0])
    loss, metrics = Rebuilt(colour=7.0)(red, {})
    assert float(loss) == pytest.approx(0.03 + 7 * spread, rel=1e-4)
    assert float(metrics["psnr"]) == pytest.approx(-10 * np.log10(0.03), rel=1e-4)


# --- a codebook that follows ---


def config(accumulate: int) -> Config:
    optim = Optim("adamw", lr=0.01, warmup=0, schedule="constant", accumulate=accumulate)
    return Config(MODEL, Rebuilt(), optim=optim, steps=10)


def counted(params: Any, batch: Any, config: Config) -> dict[str, Any]:
    """Averages of the codebook after a batch, by hand, from codes and vectors of the model."""

    def vectors(model: Codes) -> Any:
        quantiser = model.quantiser
        return quantiser.into(quantiser.norm(model.eyes(batch["image"])))

    bound = {"params": jax.tree.map(jnp.asarray, params)}
    x = np.asarray(MODEL.apply(bound, method=vectors)).reshape(-1, 4)
    table = {
        name: np.asarray(leaf) for name, leaf in params["quantiser"].items() if "table" in name
    }
    codes = ((x[:, None] - table["table"]) ** 2).sum(-1).argmin(1)
    chosen = np.eye(6)[codes]
    uses = 0.9 * table["uses_table"] + 0.1 * chosen.mean(0)
    sums = 0.9 * table["sums_table"] + 0.1 * chosen.T @ x / len(x)
    return {"uses_table": uses, "sums_table": sums, "table": sums / uses[:, None]}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_codebook_moves_by_its_averages_and_the_rest_by_gradients(accumulate: int) -> None:
    """Of parts of a batch their mean: in the table, a quotient, that is but nearly the same."""
    whole = config(accumulate)
    _, tx, begin = training.prepare(whole, BATCH)
    step, state = training.make_step(whole, tx), begin()
    for number in range(3):
        batch = {"image": jnp.roll(BATCH["image"], number, axis=2)}
        before = jax.device_get(state.params)
        wanted = counted(before, batch, whole)
        state, metrics = step(state, batch)
        after = jax.device_get(state.params)
        assert bool(np.all(metrics["finite"]))
        for name, value in wanted.items():
            close = 0.05 if name == "table" and accumulate > 1 else 1e-4
            found = after["quantiser"][name]
            np.testing.assert_allclose(found, value, rtol=close, atol=close, err_msg=name)
        assert after["quantiser"]["uses_table"].sum() == pytest.approx(1, rel=1e-4)
        old, new = named(before), named(after)
        still = [path for path in old if np.array_equal(old[path], new[path])]
        assert not still
    opt = {path: leaf for path, leaf in named(state.opt).items() if "table" in path}
    assert opt
    assert not any(np.any(leaf) for leaf in opt.values()), "no gradient has reached the codebook"


def test_a_step_that_is_skipped_leaves_the_codebook_as_it_is() -> None:
    whole = config(1)
    _, tx, begin = training.prepare(whole, BATCH)
    state = begin()
    bad = jax.tree.map(jnp.copy, state.params)
    bad["image"]["conv_first"]["bias"] = bad["image"]["conv_first"]["bias"].at[0].set(jnp.nan)
    before = named(jax.device_get(bad))
    state, metrics = training.make_step(whole, tx)(state._replace(params=bad), BATCH)
    assert not np.all(metrics["finite"])
    after = named(jax.device_get(state.params))
    assert all(np.array_equal(before[path], after[path], equal_nan=True) for path in before)


def test_averages_are_not_rounded_in_bfloat16() -> None:
    whole = replace(config(1), precision="bfloat16")
    _, tx, begin = training.prepare(whole, BATCH)
    step, state = training.make_step(whole, tx), begin()
    for _ in range(20):
        state, _ = step(state, BATCH)
    assert state.params["quantiser"]["uses_table"].sum() == pytest.approx(1, rel=1e-4)
