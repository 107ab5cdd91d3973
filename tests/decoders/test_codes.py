"""Codes against lists of all of them, plain loops and closed forms."""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders.codes import DEAD, CodeDecoder, CodeEncoder, Quantiser, straight

KEY = jax.random.key(0)
LEVELS = (4, 3, 5)
SHAPE = (8, 4)


class Bare(Quantiser):
    """Quantises what it is given as it is: no norm, no layer before."""

    def bare(self, x: Any, train: bool) -> Any:
        return {"fsq": self._rounded, "vq": self._nearest, "gumbel": self._drawn}[self.kind](
            x, train
        )


FSQ = Bare("fsq", LEVELS)
VQ = Bare("vq", count=6, width=3, decay=0.8)
GUMBEL = Bare("gumbel", count=6, width=3)


def quantise(model: Bare, params: Any, x: Any, train: bool = False, seed: int = 0) -> Any:
    params, x = jax.tree.map(jnp.asarray, (params, x))
    rngs = {"mask": jax.random.key(seed)}
    return model.apply({"params": params}, x, train, method="bare", rngs=rngs)


def look_up(model: Bare, params: Any, codes: Any) -> Any:
    params = jax.tree.map(jnp.asarray, params)
    return model.apply({"params": params}, jnp.asarray(codes), method="look_up")


def codebook(seed: int = 0) -> dict[str, Any]:
    """A table of VQ with sums that belong to it, all codes in use."""
    table = np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32)
    return {"table": table, "uses_table": np.full(6, 1 / 6, np.float32), "sums_table": table / 6}


def rows(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


# --- fsq ---


def test_fsq_codes_are_all_combinations_of_even_values() -> None:
    codes = jnp.arange(FSQ.size)
    found = np.asarray(look_up(FSQ, {}, codes))
    axes = [(np.arange(level) - level // 2) / (level // 2) for level in LEVELS]
    wanted = [vector[::-1] for vector in product(*axes[::-1])]  # the first axis turns fastest
    assert len({tuple(row) for row in found.tolist()}) == FSQ.size == 60
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_fsq_vectors_become_codes_and_the_same_vectors() -> None:
    x = 3 * rows(4_000)
    out = quantise(FSQ, {}, x)
    np.testing.assert_allclose(out.vectors, look_up(FSQ, {}, out.codes), atol=1e-6)
    assert [len(np.unique(np.asarray(out.vectors)[:, i].round(4))) for i in range(3)] == [*LEVELS]
    assert len(np.unique(out.codes)) == FSQ.size
    assert out.penalty == 0
    assert out.renewed == {}


@pytest.mark.parametrize("level", [3, 4, 5, 8])
def test_fsq_turns_at_the_middles_between_its_values(level: int) -> None:
    """Each axis is monotonous, 0 stays 0, and even far away there are no further values."""
    model = Bare("fsq", (level,))
    x = np.linspace(-20, 20, 4_001, dtype=np.float32)[:, None]
    codes = np.asarray(quantise(model, {}, x).codes)
    assert (np.diff(codes) >= 0).all()
    assert (codes.min(), codes.max()) == (0, level - 1)
    assert codes[2_000] == level // 2
    at = np.flatnonzero(np.diff(codes))
    reach = (level - 1) * (1 - 1e-3) / 2
    shift = 0.5 if level % 2 == 0 else 0.0
    edges = np.arctanh((np.arange(1, level) - level // 2 - 0.5 + shift) / reach)
    np.testing.assert_allclose(x[at, 0], edges - np.arctanh(shift / reach), atol=0.02)


def test_fsq_gradient_is_that_of_what_was_rounded() -> None:
    x = rows(5)
    found = jax.grad(lambda x: quantise(FSQ, {}, x).vectors.sum())(x)
    levels = np.array(LEVELS)
    reach, half = (levels - 1) * (1 - 1e-3) / 2, levels // 2
    shift = np.arctanh(np.where(levels % 2 == 0, 0.5, 0.0) / reach)
    np.testing.assert_allclose(found, (1 - np.tanh(x + shift) ** 2) * reach / half, rtol=1e-4)


def test_fsq_refuses_axes_of_fewer_than_three_values() -> None:
    with pytest.raises(ValueError, match=r"levels \(8, 2\): at least 3 on each axis"):
        Quantiser("fsq", (8, 2)).init(KEY, jnp.ones(SHAPE))


# --- vq ---


@pytest.mark.parametrize("quantiser", [Bare("fsq", (8, 5, 3)), VQ], ids=["fsq", "vq"])
def test_of_normalised_vectors_the_nearest_code_is_found(quantiser: Bare) -> None:
    params = codebook() if quantiser.kind == "vq" else {}

    def call(method: str, x: Any) -> np.ndarray:
        given = jax.tree.map(jnp.asarray, params)
        return np.asarray(quantiser.apply({"params": given}, jnp.asarray(x), method=method))

    table = call("normalised", call("look_up", np.arange(quantiser.size)))
    np.testing.assert_allclose(table.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(table.std(0), 1, atol=1e-5)
    x = 2 * rows(500)
    far = ((x[:, None] - table) ** 2).sum(-1)
    np.testing.assert_array_equal(call("nearest", x), far.argmin(1))


def test_vq_takes_the_nearest_vector() -> None:
    params, x = codebook(), rows(50)
    out = quantise(VQ, params, x.reshape(5, 10, 3))
    far = ((x[:, None] - params["table"]) ** 2).sum(-1)
    np.testing.assert_array_equal(out.codes.reshape(-1), far.argmin(1))
    np.testing.assert_allclose(
        out.vectors.reshape(-1, 3), params["table"][far.argmin(1)], atol=1e-6
    )
    assert float(out.penalty) == pytest.approx(0.25 * far.min(1).mean() / 3, rel=1e-5)
    looked_up = look_up(VQ, params, out.codes)
    np.testing.assert_array_equal(looked_up, params["table"][out.codes])
    assert out.renewed == {}


def test_vq_gradients_pass_straight_through_and_never_reach_the_table() -> None:
    params, x, ahead = codebook(), rows(4), rows(4, seed=2)

    def loss(params: Any, x: Any, penalty: float) -> Any:
        out = quantise(VQ, params, x, train=True)
        return (out.vectors * ahead).sum() + penalty * out.penalty

    table, through = jax.grad(loss, (0, 1))(params, x, 0.0)
    np.testing.assert_allclose(through, ahead, rtol=1e-6)
    near = params["table"][np.asarray(quantise(VQ, params, x).codes)]
    table, through = jax.grad(loss, (0, 1))(params, x, 1.0)
    np.testing.assert_allclose(through, ahead + 0.25 * 2 * (x - near) / x.size, rtol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(table))


def test_vq_follows_the_means_of_what_it_stands_for() -> None:
    """Equations 6 to 8 of appendix A.1: counts and sums of the batches, kept with a decay."""
    params = codebook()
    table = params["table"].astype(np.float64)
    count, total = np.full(6, 10.0), 10.0 * table
    for seed in range(4):
        x = np.concatenate([rows(54, seed), params["table"]])  # no code is left unused
        code = ((x[:, None] - table) ** 2).sum(-1).argmin(1)
        for i in range(6):
            count[i] = 0.8 * count[i] + 0.2 * (code == i).sum()
            total[i] = 0.8 * total[i] + 0.2 * x[code == i].sum(0)
            table[i] = total[i] / count[i]
        params = dict(quantise(VQ, params, x, train=True).renewed)
        np.testing.assert_allclose(params["table"], table, rtol=1e-4)
        np.testing.assert_allclose(params["uses_table"] * 60, count, rtol=1e-4)
        np.testing.assert_allclose(params["sums_table"] * 60, total, rtol=1e-4, atol=1e-4)
    assert params["uses_table"].sum() == pytest.approx(1, rel=1e-5)


def test_vq_gives_codes_that_are_dead_a_vector_of_the_batch() -> None:
    params, x = codebook(), rows(20)
    params["table"][2] = params["sums_table"][2] = 100.0
    params["uses_table"][2] = 1.01 * DEAD / 6 / 0.8
    alive = quantise(VQ, params, x, train=True).renewed
    assert not (np.abs(x - alive["table"][2]).max(1) < 1e-5).any()
    params["uses_table"][2] = 0.99 * DEAD / 6 / 0.8
    given = quantise(VQ, params, x, train=True).renewed
    assert (np.abs(x - given["table"][2]).max(1) < 1e-5).sum() == 1
    assert given["uses_table"][2] == pytest.approx(1 / 6)
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(given["table"][others, :], alive["table"][others, :])


def test_vq_is_made_with_sums_that_are_those_of_its_table() -> None:
    model = Quantiser("vq", count=5, width=4)
    params = model.init({"params": KEY}, jnp.ones(SHAPE))["params"]
    np.testing.assert_allclose(params["sums_table"] / params["uses_table"][:, None],
                               params["table"], rtol=1e-5)  # fmt: skip


# --- gumbel ---


def test_gumbel_penalty_is_the_distance_from_even_probabilities() -> None:
    params = {"table": codebook()["table"]}
    even = quantise(GUMBEL, params, jnp.full((3, 6), 2.0))
    assert float(even.penalty) == pytest.approx(0, abs=1e-6)
    sure = quantise(GUMBEL, params, 100 * jnp.eye(6))
    assert float(sure.penalty) == pytest.approx(0.25 * np.log(6), rel=1e-5)
    share = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    some = quantise(GUMBEL, params, jnp.log(share)[None])
    assert float(some.penalty) == pytest.approx(0.25 * (share * np.log(6 * share)).sum(), rel=1e-4)


def test_gumbel_draws_by_probability_in_training_and_else_takes_the_likeliest() -> None:
    params, count = {"table": codebook()["table"]}, 20_000
    logits = jnp.log(jnp.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]))
    out = quantise(GUMBEL, params, jnp.tile(logits, (count, 1)), train=True)
    seen = np.bincount(out.codes, minlength=6)
    wanted = count * np.exp(logits)
    assert ((seen - wanted) ** 2 / wanted).sum() < 20.5  # 1 in 1,000, of five degrees of freedom
    np.testing.assert_allclose(out.vectors, params["table"][out.codes], atol=1e-5)
    fixed = quantise(GUMBEL, params, jnp.stack([logits, logits[::-1]]))
    np.testing.assert_array_equal(fixed.codes, [0, 5])
    np.testing.assert_array_equal(fixed.vectors, params["table"][[0, 5]])


def test_gumbel_gradient_is_that_of_the_soft_choice() -> None:
    table, logits, ahead = codebook()["table"], jnp.zeros((1, 6)), rows(1)
    model = replace(GUMBEL, temperature=0.5)

    def said(logits: Any, table: Any) -> Any:
        return (quantise(model, {"table": table}, logits, train=True).vectors * ahead).sum()

    by_logits, by_table = jax.grad(said, (0, 1))(logits, table)
    code = int(quantise(model, {"table": table}, logits, train=True).codes[0])
    np.testing.assert_allclose(by_table, np.eye(6)[:, code : code + 1] * ahead, atol=1e-5)

    def soft(logits: Any, seed: Any) -> Any:
        """The noise that was drawn is not known: it is found by the codes it leads to."""
        noise = jax.random.gumbel(seed, logits.shape)
        return jax.nn.softmax((logits + noise) / 0.5) @ table

    seen: list[Any] = []

    class Spy(Bare):
        def make_rng(self, name: str = "params") -> Any:
            seen.append(super().make_rng(name))
            return seen[-1]

    quantise(Spy(**{k: getattr(model, k) for k in ("kind", "count", "width", "temperature")}),
             {"table": table}, logits, train=True)  # fmt: skip
    wished = jax.grad(lambda x: (soft(x, seen[0]) * ahead).sum())(logits)
    assert jnp.abs(wished).max() > 1e-3
    np.testing.assert_allclose(by_logits, wished, rtol=1e-4, atol=1e-6)


# --- all of them ---


def test_straight_is_the_second_with_the_gradient_of_the_first() -> None:
    value, slope = jax.value_and_grad(lambda x: straight(x**2, jnp.round(x)))(1.6)
    assert value == pytest.approx(2)
    assert slope == pytest.approx(3.2)


@pytest.mark.parametrize("kind", ["fsq", "vq", "gumbel"])
def test_every_quantiser_has_as_many_codes_as_it_says(kind: Any) -> None:
    model = Quantiser(kind, LEVELS, count=7, width=5)
    x = jax.random.normal(KEY, (40, *SHAPE))
    out, params = model.init_with_output({"params": KEY, "mask": KEY}, x)
    assert out.codes.shape == (40, 8)
    assert out.vectors.shape == (40, 8, 3 if kind == "fsq" else 5)
    assert 0 <= out.codes.min() <= out.codes.max() < model.size
    same = model.apply(params, out.codes, method="look_up")
    np.testing.assert_allclose(out.vectors, same, atol=1e-5)


# --- the nets ---

EYES = CodeEncoder((8, 12), (2, 2), (8, 8, 16))
CLIP = replace(EYES, frames=4, tube=2)


@pytest.mark.parametrize(
    ("eyes", "grid"),
    [
        (EYES, (2, 3)),
        (CLIP, (2, 2, 3)),
        (replace(CLIP, tube=1), (4, 2, 3)),
        (replace(EYES, factors=(4,), widths=(8, 16)), (2, 3)),
        (replace(EYES, blocks=0), (2, 3)),
        (replace(EYES, sees="patch"), (2, 3)),
        (replace(CLIP, sees="patch"), (2, 2, 3)),
    ],
)
def test_pixels_become_a_grid_and_pixels_again(eyes: CodeEncoder, grid: tuple[int, ...]) -> None:
    assert eyes.grid == grid
    pixels = jnp.zeros((2, *eyes.takes.shape), jnp.uint8)
    seen, _ = jax.eval_shape(eyes.init_with_output, KEY, pixels)
    assert seen.shape == (2, *grid, 16)
    decoder = CodeDecoder(eyes.clone())
    back, _ = jax.eval_shape(decoder.init_with_output, KEY, jnp.zeros((2, *grid, 5)))
    assert back.shape == pixels.shape
    assert back.dtype == jnp.float32


@pytest.fixture(scope="module")
def clip_params() -> Any:
    shapes = jax.eval_shape(CLIP.init, KEY, jnp.zeros((1, 4, 8, 12, 3), jnp.uint8))
    return noisy(shapes)


def noisy(shapes: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes)


def test_a_tube_of_a_clip_sees_its_own_frames_alone(clip_params: Any) -> None:
    clip = jax.random.randint(KEY, (1, 4, 8, 12, 3), 0, 256).astype(jnp.uint8)
    see = jax.jit(partial(CLIP.apply, clip_params))
    one, other = see(clip), see(clip.at[:, 3].set(0))
    np.testing.assert_allclose(one[:, 0], other[:, 0], atol=1e-5)
    assert not np.allclose(one[:, 1], other[:, 1], atol=1e-3)


@pytest.mark.parametrize(("sees", "moved"), [("patch", 1), ("around", 6)])
def test_what_else_is_there_moves_a_place_only_where_it_sees_around(sees: Any, moved: int) -> None:
    eyes = replace(EYES, sees=sees)
    picture = jax.random.randint(KEY, (1, 8, 12, 3), 0, 256).astype(jnp.uint8)
    see = jax.jit(partial(eyes.apply, noisy(jax.eval_shape(eyes.init, KEY, picture))))
    one, other = see(picture), see(picture.at[:, 4:, 4:8].set(0))
    differs = abs(one - other).max(-1)[0] > 1e-3
    assert differs[1, 1]
    assert differs.sum() == moved


def test_patches_that_are_alike_have_one_vector() -> None:
    eyes = replace(EYES, sees="patch")
    patch = jax.random.randint(KEY, (4, 4, 3), 0, 256).astype(jnp.uint8)
    picture = jnp.tile(patch, (2, 3, 1))[None]
    vectors = jax.jit(eyes.apply)(noisy(jax.eval_shape(eyes.init, KEY, picture)), picture)
    np.testing.assert_allclose(
        vectors, jnp.broadcast_to(vectors[:, :1, :1], vectors.shape), atol=1e-4
    )
    assert vectors.std() > 0.1


def test_frames_come_back_in_their_order() -> None:
    """What one time of the grid holds becomes the frames of its tube alone, each its own."""
    decoder = CodeDecoder(CLIP.clone())
    x = jax.random.normal(KEY, (1, 2, 2, 3, 5))
    params = noisy(jax.eval_shape(decoder.init, KEY, x))
    show = jax.jit(partial(decoder.apply, params))
    one, other = show(x), show(x.at[:, 0].set(0))
    same = [bool(np.allclose(one[:, i], other[:, i], atol=1e-5)) for i in range(4)]
    assert same == [False, False, True, True]
    assert not np.allclose(one[:, 2], one[:, 3], atol=1e-3)


def test_frames_without_tubes_are_pictures() -> None:
    each = replace(CLIP, tube=1)
    clip = jax.random.randint(KEY, (1, 4, 8, 12, 3), 0, 256).astype(jnp.uint8)
    params = noisy(jax.eval_shape(each.init, KEY, clip))
    np.testing.assert_allclose(
        jax.jit(each.apply)(params, clip)[0], jax.jit(EYES.apply)(params, clip[0]), atol=1e-4
    )


@pytest.mark.parametrize(
    ("eyes", "message"),
    [
        (replace(EYES, size=(8, 10)), r"\(8, 10\) pixels do not divide into patches of 4"),
        (replace(CLIP, frames=5), "5 frames into tubes of 2"),
        (replace(EYES, widths=(8, 8)), r"factors \(2, 2\) need one more width than \(8, 8\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(eyes: CodeEncoder, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = eyes.grid
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(eyes.init, KEY, jnp.zeros((1, *eyes.takes.shape), jnp.uint8))


def test_pixels_of_another_size_are_named() -> None:
    with pytest.raises(ValueError, match=r"pixels \(8, 8, 3\), the model takes \(8, 12, 3\)"):
        jax.eval_shape(EYES.init, KEY, jnp.zeros((1, 8, 8, 3), jnp.uint8))


@pytest.mark.parametrize("model", [FSQ, VQ, GUMBEL], ids=lambda model: model.kind)
def test_normalised_vectors_are_even_over_all_codes_and_found_again(model: Bare) -> None:
    params = {} if model.kind == "fsq" else jax.tree.map(jnp.asarray, codebook())
    vectors = look_up(model, params, jnp.arange(model.size))
    found = model.apply({"params": params}, vectors, method="normalised")
    np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(found, axis=0), 1, rtol=1e-5)
    assert found.shape == (model.size, model.axes)
    near = jnp.asarray(found) + 0.05
    again = model.apply({"params": params}, near, method="nearest")
    np.testing.assert_array_equal(again, np.arange(model.size))
