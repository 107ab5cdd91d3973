"""The optimiser: shape of the rate, who decays, who is frozen, and that each of them descends."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm_jax import optim
from mlm_jax.config import Optim, UserError
from mlm_jax.paths import matches, named, nest


@pytest.fixture(autouse=True, scope="module")
def _optax_promotes() -> Iterator[None]:
    """optax raises floats to integer powers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


PARAMS = {
    "image": {
        "stem": {"conv": {"kernel": jnp.full((3, 3, 2, 4), 0.5)}},
        "body": {
            "query": {"kernel": jnp.full((4, 2, 2), 0.5), "bias": jnp.full((2, 2), 0.5)},
            "out": {"kernel": jnp.full((2, 2, 4), 0.5)},
            "norm": {"scale": jnp.full((4,), 0.5)},
        },
    },
    "text": {
        "words": {"embedding": jnp.full((6, 4), 0.5)},
        "positions": {"table": jnp.full((5, 4), 0.5)},
        "up": {"kernel": jnp.full((4, 8), 0.5), "bias": jnp.full((8,), 0.5)},
    },
}


def moved(settings: Optim, grads: Any = None, steps: int = 3) -> dict[str, np.ndarray]:
    """Change of each parameter after some updates."""
    tx = optim.build(settings, 100, PARAMS)
    params, state = PARAMS, tx.init(PARAMS)
    grads = jax.tree.map(jnp.ones_like, PARAMS) if grads is None else grads
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return {path: np.asarray(leaf) - 0.5 for path, leaf in named(params).items()}


def test_paths() -> None:
    assert next(iter(named(PARAMS))) == "image/body/norm/scale"
    assert named(nest(PARAMS)).keys() == named(PARAMS).keys()
    assert matches("image/body/norm/scale", "image/body")
    assert not matches("image/body/norm/scale", "image/bod")
    assert matches("image/body/norm/scale", "*/scale")
    assert matches("image/body/norm/scale", "image/*/norm")


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
def test_schedule(shape: Any) -> None:
    rate = optim.schedule(Optim(lr=1.0, schedule=shape, warmup=10), 100)
    assert float(rate(0)) == pytest.approx(1 / 11)
    assert float(rate(10)) == pytest.approx(1.0)
    assert np.all(np.diff([float(rate(i)) for i in range(11)]) > 0)
    assert float(rate(55)) == pytest.approx({"constant": 1.0}.get(shape, 0.5), abs=1e-6)
    assert float(rate(100)) == pytest.approx({"constant": 1.0}.get(shape, 0.0), abs=1e-6)


def test_short_runs_reach_the_peak() -> None:
    rate = optim.schedule(Optim(lr=1.0, warmup=100), 10)
    assert float(rate(5)) == pytest.approx(1.0)
    assert optim.schedule(Optim(lr=1.0, warmup=100), 1)(0) == pytest.approx(1.0)


def test_only_kernels_decay() -> None:
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    change = moved(Optim(weight_decay=0.1, lr=0.1, warmup=0), zero)
    for path, value in change.items():
        assert np.all(value < 0) if path.endswith("kernel") else np.all(value == 0), path


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_each_descends(name: Any) -> None:
    """The distance of every parameter from its goal shrinks."""
    lr = 0.1 if name == "muon" else 0.02  # its updates have a fifth of the size for a matrix
    settings = Optim(name=name, lr=lr, weight_decay=0.0, warmup=0, schedule="constant")
    tx = optim.build(settings, 100, PARAMS)
    goal = jax.tree.map(lambda p: p + jax.random.normal(jax.random.key(p.size), p.shape), PARAMS)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        grads = jax.tree.map(jnp.subtract, params, goal)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(40):
        params, state = step(params, state)

    def distance(params: Any) -> dict[str, Any]:
        return named(jax.tree.map(lambda p, g: float(jnp.sum((p - g) ** 2)), params, goal))

    far, near = distance(PARAMS), distance(params)
    assert all(near[path] < 0.7 * far[path] for path in far), near


def test_muon_takes_kernels_as_matrices() -> None:
    axes = named(optim.muon_dimensions(PARAMS))
    assert axes["image/body/query/kernel/reduction_axis"] == -3
    assert axes["text/up/kernel/reduction_axis"] == -2
    assert axes["image/stem/conv/kernel/reduction_axis/0"] == -4
    assert not any(p.startswith(("text/words", "text/positions")) for p in axes)
    change = moved(Optim(name="muon", lr=0.1, weight_decay=0.0, warmup=0), steps=1)
    # All-ones gradients have one singular value: the update of a 4 by 4 matrix stays of rank 1.
    assert np.linalg.matrix_rank(change["image/body/query/kernel"].reshape(4, 4)) == 1


def test_frozen_does_not_move_and_has_no_state() -> None:
    settings = Optim(freeze=("image/body", "*/positions"), weight_decay=0.5, lr=0.1)
    change = moved(settings)
    for path, value in change.items():
        still = path.startswith("image/body") or "positions" in path
        assert np.all(value == 0) if still else np.all(value != 0), path
    kept = named(optim.build(settings, 100, PARAMS).init(PARAMS))
    assert any("text/up/kernel" in path for path in kept)
    assert not any("image/body" in path or "positions" in path for path in kept)


def test_frozen_gradients_do_not_count_in_the_norm() -> None:
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    huge = {**grads, "image": jax.tree.map(lambda g: g * 1e6, grads["image"])}
    # lion sees signs only; adam at its first step too: compare the clipped gradient itself
    settings = Optim(freeze=("image",), clip=1.0, b1=0.0)
    tx = optim.build(settings, 100, PARAMS)
    _, state = tx.update(huge, tx.init(PARAMS), PARAMS)
    first = next(v for p, v in named(state).items() if p.endswith("mu/text/up/kernel"))
    count = sum(leaf.size for leaf in jax.tree.leaves(PARAMS["text"]))
    np.testing.assert_allclose(first, 1 / np.sqrt(count), rtol=1e-5)


def test_patterns_without_a_match_are_named() -> None:
    with pytest.raises(
        UserError, match=r"optim\.freeze: no parameter matches `image/bdy`.*image/body"
    ):
        optim.build(Optim(freeze=("image/bdy",)), 10, PARAMS)
    with pytest.raises(
        UserError, match=r"optim\.lr_scale: no parameter matches `zzz`.*image, text"
    ):
        optim.build(Optim(lr_scale=(("zzz", 0.1),)), 10, PARAMS)
    with pytest.raises(UserError, match="no parameter to train"):
        optim.build(Optim(freeze=("*",)), 10, PARAMS)


def test_factors_by_path() -> None:
    halves = (("image", 0.5), ("image/body", 0.25))
    scaled = moved(Optim(lr=0.1, weight_decay=0.1, lr_scale=halves), steps=1)
    plain = moved(Optim(lr=0.1, weight_decay=0.1), steps=1)
    for path, value in scaled.items():
        factor = 0.25 if path.startswith("image/body") else 0.5 if path.startswith("image") else 1
        np.testing.assert_allclose(value, factor * plain[path], rtol=1e-3)


def test_clip_zero_is_off() -> None:
    grads = jax.tree.map(lambda p: 1e3 * jnp.ones_like(p), PARAMS)
    tx = optim.build(Optim(clip=0.0, b1=0.0), 100, PARAMS)
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    assert max(float(jnp.max(v)) for p, v in named(state).items() if "/mu/" in p) == 1e3
