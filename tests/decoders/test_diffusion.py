"""Diffusion against closed forms: of Gaussian data the best denoiser is known."""

from dataclasses import replace
from functools import partial
from statistics import NormalDist
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders.diffusion import (
    How,
    Predicts,
    Schedule,
    alone,
    guided,
    invert,
    min_snr,
    sample,
    split,
    thresholded,
    wanted,
)
from mlm_jax.errors import UserError
from mlm_jax.layers import Block, Transformer
from mlm_jax.layers.embed import timesteps
from mlm_jax.layers.tokens import every

KEY = jax.random.key(0)
MEAN, STD = 0.5, 0.5
SCHEDULES = (Schedule("cosine"), Schedule("linear"), Schedule("flow"))
SHIFTED = Schedule("cosine", shift=2.0)
DISCRETE = (Schedule("cosine", 1_000), Schedule("linear", 1_000))


def wide(params: Any) -> Any:
    """Parameters far from their initial values, so that nothing hides behind a zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return tree.unflatten([x + 0.2 * jax.random.normal(k, x.shape) for x, k in pairs])


def gaussian(schedule: Schedule, predicts: Predicts, mean: float = MEAN) -> Any:
    """What the best net says where the data are N(mean, STD^2)."""

    def net(x: jax.Array, t: jax.Array, _: jax.Array) -> jax.Array:
        alpha, sigma = schedule.at(t, x)
        off = (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
        return wanted(predicts, mean + alpha * STD**2 * off, sigma * off, alpha, sigma)

    return net


def noise(rows: int = 20_001) -> jax.Array:
    """N(0, 1) by its quantiles: mean and deviation are right, and one row is the middle."""
    quantile = np.vectorize(NormalDist().inv_cdf)
    return jnp.asarray(quantile((np.arange(rows) + 0.5) / rows), jnp.float32)[:, None]


NOISE = noise()
FEW = NOISE[20::40]


# --- schedules ---


@pytest.mark.parametrize("schedule", [*SCHEDULES, *DISCRETE])
def test_schedules_begin_clean_end_in_noise_and_never_turn(schedule: Schedule) -> None:
    t = jnp.linspace(0, 1, 201)
    logsnr, alpha, sigma = schedule.logsnr(t), schedule.alpha(t), schedule.sigma(t)
    assert (jnp.diff(logsnr) < 0).all()
    assert alpha[0] == pytest.approx(1, abs=1e-4)
    assert sigma[0] == pytest.approx(0, abs=1e-4)
    assert logsnr[0] == pytest.approx(20, abs=0.01)
    assert -20.01 <= logsnr[-1] <= -10
    assert sigma[-1] == pytest.approx(1, abs=1e-4)
    power = 1 if schedule.kind == "flow" else 2
    np.testing.assert_allclose(alpha**power + sigma**power, 1, rtol=1e-5)
    np.testing.assert_allclose(2 * jnp.log(alpha / sigma), logsnr, atol=1e-3)


def test_schedules_are_as_published() -> None:
    t = jnp.linspace(0.02, 0.98, 49)
    np.testing.assert_allclose(Schedule("cosine").alpha(t), np.cos(np.pi / 2 * t), atol=1e-4)
    np.testing.assert_allclose(Schedule("flow").alpha(t), 1 - t, atol=1e-4)
    log = -(t**2) / 4 * (20 - 0.1) - t / 2 * 0.1  # equation 33 of 2011.13456
    np.testing.assert_allclose(Schedule("linear").alpha(t), np.exp(log), atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "linear", "flow"])
def test_a_shift_brings_in_so_many_times_as_much_noise(kind: Any) -> None:
    t = jnp.linspace(0.01, 0.99, 9)
    plain, shifted = Schedule(kind), Schedule(kind, shift=3.0)
    ratio = shifted.sigma(t) / shifted.alpha(t)
    np.testing.assert_allclose(ratio, 3 * plain.sigma(t) / plain.alpha(t), rtol=1e-4)
    with pytest.raises(UserError, match=r"schedule.shift is 0.0: over 0"):
        Schedule(kind, shift=0.0)
    with pytest.raises(UserError, match=r"schedule.shift is 2.0: .* 1 where there are steps"):
        Schedule("cosine", 10, shift=2.0)


def test_discrete_schedules_are_those_of_ddpm() -> None:
    linear, cosine = (Schedule(kind, 1_000) for kind in ("linear", "cosine"))
    betas = np.linspace(1e-4, 0.02, 1_000)
    np.testing.assert_allclose(linear.betas(), betas, rtol=1e-6)
    t = np.arange(1, 1_001) / 1_000
    kept = np.sqrt(np.cumprod(1 - betas))
    np.testing.assert_allclose(linear.alpha(jnp.asarray(t)), kept, rtol=1e-4)
    f = np.cos((np.arange(1_001) / 1_000 + 0.008) / 1.008 * np.pi / 2) ** 2
    squares = np.asarray(cosine.alpha(jnp.asarray(t))) ** 2
    np.testing.assert_allclose(squares[:990], (f / f[0])[1:991], rtol=1e-3)
    assert cosine.betas()[-1] == 0.999
    assert cosine.betas().max() == 0.999


def test_times_to_learn_from_are_even_and_those_to_sample_fall() -> None:
    for schedule in (Schedule(), Schedule("linear", 10)):
        t = np.asarray(schedule.draw(KEY, 1_000))
        assert (t >= 0).all()
        assert (t <= 1).all()
        np.testing.assert_allclose(np.histogram(t, 10, (1e-4, 1 + 1e-4))[0], 100, atol=1)
        times = np.asarray(schedule.times(5, "v"))
        np.testing.assert_allclose(times, [1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-6)
    with pytest.raises(UserError, match="11 steps to sample, of a schedule of 10"):
        Schedule("linear", 10).times(11, "v")
    with pytest.raises(UserError, match="1000 steps to sample, of a schedule of 996"):
        Schedule("cosine", 1_000).times(1_000, "noise")
    with pytest.raises(UserError, match="0 for a flow"):
        Schedule("flow", 10)


# --- what is predicted ---


@pytest.mark.parametrize("schedule", [*SCHEDULES, SHIFTED])
@pytest.mark.parametrize("predicts", get_args(Predicts))
def test_what_is_predicted_gives_clean_and_noise_back(predicts: Any, schedule: Schedule) -> None:
    clean, dirt = jax.random.normal(KEY, (2, 9, 4, 3))
    t = jnp.linspace(0.1, 0.9, 9)
    alpha, sigma = schedule.at(t, clean)
    x = alpha * clean + sigma * dirt
    said = wanted(predicts, clean, dirt, alpha, sigma)
    for one, other in zip(split(predicts, said, x, alpha, sigma), (clean, dirt), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)
    off = split(predicts, said + 0.01, x, alpha, sigma)[0] - clean
    counted = min_snr(predicts, schedule.alpha(t), schedule.sigma(t)) * 0.01**2
    wished = jnp.minimum(jnp.exp(schedule.logsnr(t)), 5) * jnp.square(off).mean((1, 2))
    np.testing.assert_allclose(counted, wished, rtol=0.02)


def test_v_and_flow_are_these() -> None:
    half = jnp.float32(0.5)
    assert wanted("v", jnp.float32(2), jnp.float32(3), half, 2 * half) == -0.5
    assert wanted("flow", jnp.float32(2), jnp.float32(3), half, half) == 1


# --- samplers ---

DETERMINISTIC = (How("ddim", 400), How("dpm++2m", 50), How("heun", 60))
RANDOM = (How("ddpm", 700), How("ddim", 400, eta=0.5))


def test_deterministic_samplers_give_the_distribution_of_the_data() -> None:
    """Of rows at the quantiles of the noise, which are then those of the data."""
    for schedule in (*SCHEDULES, SHIFTED, *DISCRETE):
        net = gaussian(schedule, "v")
        for how in DETERMINISTIC:
            x = jax.jit(partial(sample, net, schedule, how=how, predicts="v"))(FEW)
            assert float(x.mean()) == pytest.approx(MEAN, rel=0.01), (how, schedule)
            assert float(x.std() / FEW.std()) == pytest.approx(STD, rel=0.01), (how, schedule)


def test_random_samplers_give_the_distribution_of_the_data() -> None:
    for schedule in (Schedule("cosine"), Schedule("flow"), Schedule("cosine", 1_000)):
        net = gaussian(schedule, "v")
        for how in RANDOM:
            x = jax.jit(partial(sample, net, schedule, how=how, predicts="v", key=KEY))(NOISE)
            assert float(x.mean()) == pytest.approx(MEAN, rel=0.01), (how, schedule)
            assert float(x.std()) == pytest.approx(STD, rel=0.01), (how, schedule)


@pytest.mark.parametrize("predicts", get_args(Predicts))
def test_samples_do_not_depend_on_what_is_predicted(predicts: Any) -> None:
    schedule = Schedule("flow")
    how = How("heun", 8)
    x = sample(gaussian(schedule, predicts), schedule, FEW, how, predicts=predicts)
    y = sample(gaussian(schedule, "v"), schedule, FEW, how, predicts="v")
    np.testing.assert_allclose(x, y, atol=4e-3)  # predicting noise it begins a little later


@pytest.mark.parametrize("predicts", get_args(Predicts))
@pytest.mark.parametrize("schedule", [*SCHEDULES, *DISCRETE])
def test_a_net_that_errs_a_little_samples_what_is_a_little_off(
    predicts: Any, schedule: Schedule
) -> None:
    exact = gaussian(schedule, predicts)

    def errs(x: jax.Array, t: jax.Array, guess: jax.Array) -> jax.Array:
        return exact(x, t, guess) + 0.02 * jnp.sin(50 * x + 100 * t[:, None])

    for how in (How("dpm++2m", 30), How("heun", 30), How("ddim", 30)):
        x = sample(errs, schedule, FEW, how, predicts=predicts)
        y = sample(exact, schedule, FEW, how, predicts=predicts)
        assert float(jnp.abs(x - y).mean()) < 0.1


def test_second_order_samplers_need_fewer_steps() -> None:
    """Every row should end at MEAN + STD of its noise: the largest error, by steps."""
    schedule, off = Schedule("flow"), {}
    for name, steps in (("ddim", 20), ("ddim", 40), ("dpm++2m", 20), ("heun", 10), ("heun", 20)):
        net = gaussian(schedule, "v")
        x = sample(net, schedule, FEW, How(name, steps), predicts="v")
        off[name, steps] = float(jnp.abs(x - MEAN - STD * FEW).max())
    assert off["ddim", 20] / off["ddim", 40] == pytest.approx(2, rel=0.1)
    assert off["heun", 10] / off["heun", 20] > 3.5
    assert max(off["heun", 10], off["dpm++2m", 20]) < off["ddim", 20] / 3


def test_a_step_of_ddpm_is_that_of_the_paper() -> None:
    """Equation 7 of 2006.11239, of all the steps of a short schedule."""
    schedule = Schedule("linear", 20)
    beta = schedule.betas()
    kept = np.cumprod(1 - beta)
    before = np.concatenate([[1.0], kept[:-1]])
    x = np.asarray(NOISE[::2_000], np.float64)
    for i, n in enumerate(reversed(range(20))):
        off = (x - np.sqrt(kept[n]) * MEAN) / (kept[n] * STD**2 + 1 - kept[n])
        clean = MEAN + np.sqrt(kept[n]) * STD**2 * off
        mean = np.sqrt(before[n]) * beta[n] / (1 - kept[n]) * clean
        mean = mean + np.sqrt(1 - beta[n]) * (1 - before[n]) / (1 - kept[n]) * x
        new = np.asarray(jax.random.normal(jax.random.fold_in(KEY, i), x.shape))
        x = mean + np.sqrt((1 - before[n]) / (1 - kept[n]) * beta[n]) * new
    net = gaussian(schedule, "v")
    ours = sample(net, schedule, NOISE[::2_000], How("ddpm", 20), predicts="v", key=KEY)
    np.testing.assert_allclose(ours, x, atol=1e-3)


@pytest.mark.parametrize(("how", "most"), [(How("ddim", 300), 0.03), (How("heun", 100), 0.002)])
def test_inverted_noise_gives_the_data_again(how: How, most: float) -> None:
    schedule = Schedule()
    net = gaussian(schedule, "v")
    data = MEAN + STD * FEW
    found = jax.jit(partial(invert, net, schedule, how=how, predicts="v"))(data)
    np.testing.assert_allclose(found, FEW, atol=most)
    again = jax.jit(partial(sample, net, schedule, how=how, predicts="v"))(found)
    np.testing.assert_allclose(again, data, atol=most)

    def led(x: jax.Array, t: jax.Array, guess: jax.Array) -> jax.Array:
        return net(x, t, guess) + guess

    same = jax.jit(partial(invert, led, schedule, how=how, predicts="v"))(data)
    np.testing.assert_allclose(same, found, atol=1e-6)
    with pytest.raises(ValueError, match="without noise and thresholding"):
        invert(net, schedule, data, How("ddpm"), predicts="v")


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(UserError, match="steps is 0: at least 1"):
        How(steps=0)
    with pytest.raises(UserError, match=r"eta is 0.5: of ddim alone, not of heun"):
        How("heun", eta=0.5)
    with pytest.raises(ValueError, match="needs a key"):
        sample(gaussian(Schedule(), "v"), Schedule(), NOISE, How("ddpm"), predicts="v")


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++2m", "heun"])
@pytest.mark.parametrize("weight", [None, 2.0])
def test_a_net_is_told_what_was_clean_a_step_before(name: Any, weight: float | None) -> None:
    """One that adds 1 to it has counted the steps, guided or not."""

    def count(x: jax.Array, t: jax.Array, guess: jax.Array) -> jax.Array:
        return guess + 1

    net = count if weight is None else guided(count, weight)
    x = sample(net, Schedule(), FEW, How(name, 5), predicts="clean", key=KEY)
    np.testing.assert_allclose(x, np.full(x.shape, 5.0), atol=1e-2)
    x = sample(alone(net), Schedule(), FEW, How(name, 5), predicts="clean", key=KEY)
    np.testing.assert_allclose(x, np.ones(x.shape), atol=1e-2)


# --- guidance ---


@pytest.mark.parametrize(("weight", "mean"), [(0.0, -0.5), (1.0, 0.5), (2.0, 1.5)])
def test_guidance_goes_from_without_to_with_and_beyond(weight: float, mean: float) -> None:
    """Both are Gaussians of one deviation, so that guided means lie on a line through both."""
    schedule = Schedule()
    own, free = gaussian(schedule, "v", 0.5), gaussian(schedule, "v", -0.5)

    def both(x: jax.Array, t: jax.Array, guess: jax.Array) -> jax.Array:
        half = len(x) // 2
        sides = own(x[:half], t[:half], guess), free(x[half:], t[half:], guess)
        return jnp.concatenate(sides)

    net = guided(both, weight)
    x = sample(net, schedule, FEW, How("dpm++2m", 30), predicts="v")
    assert float(x.mean()) == pytest.approx(mean, rel=0.01)
    assert float(x.std() / FEW.std()) == pytest.approx(STD, rel=0.01)


def test_thresholds_bring_pixels_into_range() -> None:
    clean = jnp.concatenate([jnp.linspace(-3, 3, 101)[None], jnp.linspace(-0.5, 0.5, 101)[None]])
    out = thresholded(clean, 0.8)
    assert jnp.abs(out).max() == 1
    np.testing.assert_allclose(out[0, 50:90], clean[0, 50:90] / 2.4, atol=1e-5)
    np.testing.assert_array_equal(out[1], clean[1])
    schedule = Schedule()
    how = How("ddim", 50, threshold=0.9)
    x = sample(gaussian(schedule, "v", 3.0), schedule, FEW, how, predicts="v")
    assert jnp.abs(x).max() <= 1 + 1e-3


# --- times and conditions ---


def test_times_become_sines_of_places() -> None:
    t = np.array([0.0, 0.004, 1.0])
    found = timesteps(jnp.asarray(t, jnp.float32), 8)
    angle = 1_000 * t[:, None] / 10_000 ** (np.arange(4) / 4)
    np.testing.assert_allclose(found, np.concatenate([np.sin(angle), np.cos(angle)], 1), atol=1e-3)
    with pytest.raises(ValueError, match="a multiple of 2"):
        timesteps(jnp.zeros(1), 7)


def test_a_block_at_no_shift_no_scale_and_open_gates_is_the_plain_one() -> None:
    x, asked = every(jax.random.normal(KEY, (2, 3, 8))), jax.random.normal(KEY, (2, 5))
    words = every(jax.random.normal(KEY, (2, 4, 12)))
    block = Block(heads=2)
    plain = jax.jit(block.init)(KEY, x, None, (words,))["params"]

    @jax.jit
    def run(params: Any, asked: jax.Array | None) -> jax.Array:
        return block.apply({"params": params}, x, None, (words,), condition=asked).x

    made = jax.jit(block.init)(KEY, x, None, (words,), condition=asked)["params"]
    np.testing.assert_array_equal(run(made, asked), x.x)
    names = [name for name in made if name.endswith("_modulation")]
    assert len(names) == 3
    opened = {
        "dense": {"kernel": jnp.zeros((5, 24)), "bias": jnp.repeat(jnp.array([0.0, 0, 1]), 8)}
    }
    same = {**plain, **dict.fromkeys(names, opened)}
    np.testing.assert_allclose(run(same, asked), run(plain, None), atol=1e-5)
    with pytest.raises(ValueError, match="order pre, not post"):
        Block(heads=2, order="post").init(KEY, x, condition=asked)


def test_conditioned_layers_scanned_and_rematerialised_equal_unrolled_ones() -> None:
    x, asked = every(jax.random.normal(KEY, (4, 3, 8))), jax.random.normal(KEY, (2, 5))
    plain = Transformer(8, 2, Block(heads=2))
    params = wide(jax.jit(plain.init)(KEY, x, condition=asked)["params"])
    rest = {name: part for name, part in params.items() if not name.startswith("block_")}
    stacked = jax.tree.map(lambda *a: jnp.stack(a), params["block_0"], params["block_1"])

    def grads(model: Transformer, params: dict) -> Any:
        def loss(asked: jax.Array) -> jax.Array:
            return (model.apply({"params": params}, x, condition=asked).x ** 2).sum()

        return jax.jit(jax.grad(loss))(asked)

    expected = grads(plain, params)
    assert jnp.abs(expected).min() > 1e-3
    scanned = replace(plain, layers="scanned", remat="full")
    np.testing.assert_allclose(grads(scanned, rest | {"blocks": stacked}), expected, rtol=1e-3)
    np.testing.assert_allclose(grads(replace(plain, remat="dots"), params), expected, rtol=1e-3)
