"""The painter: what it is told, what it learns from, and that it paints by it."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.decoders.denoiser import DiffusionTransformer
from mlm_jax.decoders.diffusion import How, Schedule, split
from mlm_jax.encoders import TextEncoder
from mlm_jax.layers import Block, Tokens, Transformer
from mlm_jax.losses import Denoise
from mlm_jax.models.codes import Codes
from mlm_jax.models.painter import Canvas, Painter, Told, enlarged, from_pixels, smaller

KEY = jax.random.key(0)


def small(**changes: Any) -> Painter:
    painter = Painter(
        Canvas((8, 8)),
        text=TextEncoder(20, 5, body=Transformer(8, 1, Block(heads=2, ratio=1.0))),
        net=DiffusionTransformer(4, Transformer(16, 1, Block(heads=2, ratio=1.0))),
    )
    return replace(painter, **changes)


PLAIN = small()
UP = small(embedding=6, enlarges=2)
BATCH = {
    "image": jax.random.randint(KEY, (2, 8, 8, 3), 0, 256).astype(jnp.uint8),
    "target": jnp.array([[1, 5, 6, 2, 0], [1, 7, 2, 0, 0]]),
    "target_mask": jnp.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool),
    "embedding": jax.random.normal(KEY, (2, 6)),
    "small": jax.random.randint(KEY, (2, 4, 4, 3), 0, 256).astype(jnp.uint8),
}
NOISE = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))


def drawn(model: Painter, batch: dict = BATCH) -> Any:
    """Parameters as they are not at the start: the net then says something."""
    shapes = jax.eval_shape(model.init, KEY, batch)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype) for x in leaves])


@pytest.fixture(scope="module")
def params() -> Any:
    return drawn(PLAIN)


@pytest.fixture(scope="module")
def up_params() -> Any:
    return drawn(UP)


@pytest.mark.usefixtures("strict")
def test_outputs_and_loss(params: Any) -> None:
    out = jax.jit(PLAIN.apply)({"params": params}, BATCH)
    assert {k: (v.shape, v.dtype) for k, v in out.items()} == {
        "predicted": ((2, 8, 8, 3), np.float32),
        "wanted": ((2, 8, 8, 3), np.float32),
        "weight": ((2, 8, 8), np.float32),
        "logsnr": ((2,), np.float32),
    }
    error = np.square(np.asarray(out["predicted"] - out["wanted"])).mean((1, 2, 3))
    low = np.asarray(out["logsnr"]) > 0
    assert low.sum() == 1, "times are evenly spread over a batch"
    loss, metrics = Denoise()(out | {"weight": jnp.array([1.0, 3.0])}, BATCH)
    assert float(loss) == pytest.approx((error[0] + 3 * error[1]) / 2, rel=1e-5)
    assert float(metrics["low_noise"]) == pytest.approx(error[low].mean(), rel=1e-5)
    assert float(metrics["high_noise"]) == pytest.approx(error[~low].mean(), rel=1e-5)


def test_what_is_wanted_gives_the_picture_back(params: Any) -> None:
    """From the noisy picture, as the net got it, and what it should have said of it."""
    seen = []

    class Spy(DiffusionTransformer):
        def __call__(self, x: Any, t: Any, *rest: Any, **how: Any) -> Any:
            seen.append((x, t))
            return super().__call__(x, t, *rest, **how)

    spy = small(net=Spy(4, Transformer(16, 1, Block(heads=2, ratio=1.0))))
    out = spy.apply({"params": params}, BATCH)
    (x, t), schedule = seen[0], PLAIN.schedule
    clean, _ = split("v", out["wanted"], x, *schedule.at(t, x))
    np.testing.assert_allclose(clean, from_pixels(BATCH["image"]), atol=1e-3)


def test_every_second_row_is_told_what_the_net_takes_to_be_clean() -> None:
    """What it says of the same noisy picture, and nothing else, behind the noisy channels."""
    seen = []

    class Spy(DiffusionTransformer):
        def __call__(self, x: Any, t: Any, *rest: Any, **how: Any) -> Any:
            said = super().__call__(x, t, *rest, **how)
            seen.append((x, t, said))
            return said

    net = Spy(4, Transformer(16, 1, Block(heads=2, ratio=1.0)))
    spy = small(net=net, self_conditioned=True)
    spy.apply({"params": drawn(small(self_conditioned=True))}, BATCH)
    (first, t, said), (x, _, _) = seen
    noisy, nothing = jnp.split(first, 2, axis=-1)
    assert not nothing.any()
    clean, _ = split("v", said, noisy, *PLAIN.schedule.at(t, noisy))
    np.testing.assert_array_equal(x[:1, ..., :3], noisy)
    np.testing.assert_allclose(x[:1, ..., 3:], clean, rtol=1e-5)
    assert not x[1:, ..., 3:].any()


def test_no_gradient_goes_through_what_it_takes_to_be_clean() -> None:
    model = small(self_conditioned=True)
    params, told, t = drawn(model), Told(), jnp.array([0.3, 0.6])

    def loss(params: Any) -> jax.Array:
        guess = model.apply({"params": params}, told, NOISE, t, False, method="_guess")
        return jnp.square(guess).sum()

    assert float(loss(params)) > 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(jax.grad(loss)(params)))


def test_evaluation_is_the_same_each_time_and_training_draws(params: Any) -> None:
    see = jax.jit(partial(PLAIN.apply, {"params": params}), static_argnames="train")
    np.testing.assert_array_equal(see(BATCH)["wanted"], see(BATCH)["wanted"])
    one, two = (see(BATCH, train=True, rngs={"mask": jax.random.key(i)}) for i in (1, 2))
    assert not np.allclose(one["wanted"], two["wanted"])


def test_several_captions_of_a_picture_each_have_their_noise(params: Any) -> None:
    rows = {k: jnp.repeat(BATCH[k], 2, axis=0) for k in ("target", "target_mask")}
    out = PLAIN.apply({"params": params}, BATCH | rows)
    assert out["predicted"].shape == (4, 8, 8, 3)
    assert len(np.unique(np.asarray(out["logsnr"]))) == 4


def test_rows_that_are_dropped_are_told_nothing(up_params: Any) -> None:
    """Of text and embedding; all of them with dropped 1, and none in evaluation."""
    other = BATCH | {"target": BATCH["target"][::-1], "embedding": -BATCH["embedding"]}

    def said(batch: dict, dropped: float, train: bool) -> Any:
        model = replace(UP, dropped=dropped)
        rngs = {"mask": KEY, "dropout": KEY}
        return model.apply({"params": up_params}, batch, train=train, rngs=rngs)["predicted"]

    np.testing.assert_allclose(said(BATCH, 1.0, True), said(other, 1.0, True), atol=1e-5)
    assert not np.allclose(said(BATCH, 0.0, True), said(other, 0.0, True), atol=1e-3)
    assert not np.allclose(said(BATCH, 1.0, False), said(other, 1.0, False), atol=1e-3)

    def free(told: Told) -> Told:
        drop = jnp.array([True, False])
        return UP.apply({"params": up_params}, told, drop, drop, method="_without")

    told = Told(Tokens(jnp.ones((2, 3, 8)), jnp.ones((2, 3), bool)), jnp.ones((2, 6)))
    half = free(told)
    np.testing.assert_array_equal(half.text.mask, [[1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(half.text.x[0, 0], up_params["no_text_token"])
    np.testing.assert_array_equal(half.vector[0], up_params["no_embedding_token"])
    np.testing.assert_array_equal(half.vector[1], told.vector[1])


@pytest.mark.parametrize("name", ["target", "embedding", "small"])
def test_painting_reads_all_that_is_told(up_params: Any, name: str) -> None:
    how = How("ddim", 3, guidance=2.0)
    paint = jax.jit(
        lambda batch: UP.apply({"params": up_params}, NOISE, batch, how, method="paint")
    )
    one, two = paint(BATCH), paint(BATCH | {name: BATCH[name][::-1]})
    assert one.shape == (2, 8, 8, 3)
    assert one.min() >= 0
    assert one.max() <= 1
    assert not np.allclose(one, two, atol=1e-3)


def test_guidance_1_is_told_0_is_not_and_2_goes_on(params: Any) -> None:
    """One step from noise: what is clean is then a straight line through both."""

    def clean(guidance: float, batch: dict) -> Any:
        def said(model: Painter) -> Any:
            net = model._told_net(model.tell(batch), guidance)
            return net(NOISE, jnp.full(2, 0.5), jnp.zeros_like(NOISE))

        return PLAIN.apply({"params": params}, method=said)

    other = BATCH | {"target": BATCH["target"][::-1]}
    none, one, two = (clean(g, BATCH) for g in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(two, 2 * one - none, atol=1e-4)
    np.testing.assert_array_equal(none, clean(0.0, other))
    assert not np.allclose(one, clean(1.0, other), atol=1e-3)


def test_painted_pixels_go_back_to_their_noise_and_are_painted_again() -> None:
    """At the start the net says v = 0: the picture is noise turned down, which clips nothing."""
    params = jax.jit(PLAIN.init)(KEY, BATCH)["params"]
    how = How("heun", 20)
    pixels = BATCH["image"] / 255.0
    noise = PLAIN.apply({"params": params}, pixels, BATCH, how, method="unpaint")
    again = PLAIN.apply({"params": params}, noise, BATCH, how, method="paint")
    np.testing.assert_allclose(again, pixels, atol=5e-3)


def test_without_text_nothing_guides() -> None:
    model = small(text=None)
    params = drawn(model)
    paint = partial(model.apply, {"params": params}, NOISE, {}, method="paint")
    assert paint(How(steps=1)).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match=r"2.0: nothing is told .* \(--guidance 1\)"):
        paint(How(steps=1, guidance=2.0))


def test_clips_and_other_schedules() -> None:
    clip = {**BATCH, "video": jnp.zeros((2, 3, 8, 8, 3), jnp.uint8)}
    model = small(image=None, video=Canvas((8, 8), 3), schedule=Schedule("flow"), predicts="flow")
    out, _ = jax.eval_shape(model.init_with_output, KEY, clip)
    assert out["predicted"].shape == (2, 3, 8, 8, 3)
    assert model.canvas.takes.shape == (3, 8, 8, 3)
    with pytest.raises(ValueError, match="one of the two is None"):
        _ = small(video=Canvas((8, 8), 3)).sense
    with pytest.raises(ValueError, match=r"pixels \(8, 8, 3\), it paints \(16, 16, 3\)"):
        jax.eval_shape(small(image=Canvas((16, 16))).init, KEY, BATCH)


def test_the_usual_painter_is_a_unet_and_paints_in_bfloat16_as_well() -> None:
    batch = {**BATCH, "image": jnp.zeros((2, 48, 48, 3), jnp.uint8)}
    model = Painter()
    params = jax.eval_shape(model.init, KEY, batch)["params"]
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    noise = jnp.zeros((2, 48, 48, 3))
    shape = jax.eval_shape(
        lambda params: model.apply({"params": params}, noise, batch, How(), method="paint"), half
    )
    assert shape.shape == noise.shape
    assert shape.dtype == jnp.float32


def test_rows_are_weighed_as_asked(params: Any) -> None:
    out = replace(PLAIN, weigh="min_snr").apply({"params": params}, BATCH)
    snr = np.exp(np.asarray(out["logsnr"]))
    expected = np.broadcast_to((np.minimum(snr, 5) / (snr + 1))[:, None, None], (2, 8, 8))
    np.testing.assert_allclose(out["weight"], expected, rtol=1e-4)


def test_what_has_colours_weighs_more(latent_params: Any) -> None:
    """Two codes in a row and column, each of 4 x 4 pixels; the loss is of these places."""
    red, faint = np.array([255, 0, 0]), np.array([200, 149, 149])  # of chroma 1 and 0.2
    picture = np.full((2, 8, 8, 3), 90, np.uint8)
    picture[0, :4, :4], picture[0, :2, 4:], picture[0, 4:, 4:] = red, red, faint
    batch = BATCH | {"image": jnp.asarray(picture)}
    out = replace(LATENT, vivid=3.0).apply({"params": latent_params}, batch)
    expected = np.array([[[4, 2.5], [1, 1.6]], [[1, 1], [1, 1]]])
    np.testing.assert_allclose(out["weight"], expected, atol=1e-3)
    error = np.square(np.asarray(out["predicted"] - out["wanted"])).mean(-1)
    loss, metrics = Denoise()(out, batch)
    assert float(loss) == pytest.approx((expected * error).mean(), rel=1e-4)
    even = Denoise()(LATENT.apply({"params": latent_params}, batch), batch)
    assert float(even[0]) == pytest.approx(error.mean(), rel=1e-4)
    np.testing.assert_allclose(jax.tree.leaves(even[1]), jax.tree.leaves(metrics), rtol=1e-5)


def test_of_clips_each_frame_has_the_weight_of_its_own_colours() -> None:
    clips = small(image=None, video=Canvas((8, 8), 2), vivid=1.0)
    shown = np.full((2, 2, 8, 8, 3), 90, np.uint8)
    shown[:, 1] = [0, 255, 0]
    batch = BATCH | {"video": jnp.asarray(shown)}
    weight = clips.apply({"params": drawn(clips, batch)}, batch)["weight"]
    np.testing.assert_allclose(weight[:, 0], np.ones((2, 8, 8)), atol=1e-5)
    np.testing.assert_allclose(weight[:, 1], np.full((2, 8, 8), 2.0), atol=1e-5)


def test_pictures_are_made_smaller_by_means_and_larger_again() -> None:
    x = jnp.arange(32, dtype=jnp.float32).reshape(1, 4, 4, 2)
    less = smaller(x, 2)
    np.testing.assert_allclose(less[0, 0, 1], x[0, :2, 2:].mean((0, 1)))
    flat = jnp.full((1, 3, 2, 2, 3), 0.4)
    np.testing.assert_allclose(enlarged(flat, 4), jnp.full((1, 3, 8, 8, 3), 0.4), rtol=1e-6)
    assert float(from_pixels(jnp.array([[[0, 255, 51]]], jnp.uint8))[0, 0, 2]) == pytest.approx(
        -0.6
    )
    assert float(from_pixels(jnp.array([[[0.0, 1.0, 0.2]]]))[0, 0, 2]) == pytest.approx(-0.6)


CODES = Codes(CodeEncoder((8, 8), (4,), (4, 8), blocks=0), None, Quantiser("fsq", (3, 5)))
LATENT = small(codes=CODES, net=DiffusionTransformer(1, PLAIN.net.body, out=2))


@pytest.fixture(scope="module")
def latent_params() -> Any:
    return drawn(LATENT)


def test_of_codes_their_vectors_are_what_is_clean(latent_params: Any) -> None:
    out = jax.jit(LATENT.apply)({"params": latent_params}, BATCH)
    assert out["predicted"].shape == out["wanted"].shape == (2, 2, 2, 2)
    coder = {"params": latent_params["codes"]}
    codes = np.asarray(CODES.apply(coder, BATCH["image"], method="encode_codes")).reshape(2, 2, 2)
    levels = [np.arange(3) - 1.0, (np.arange(5) - 2.0) / 2]  # FSQ: evenly spread from -1 to 1
    shares = [level / level.std() for level in levels]
    vectors = np.stack([shares[0][codes % 3], shares[1][codes // 3]], axis=-1)
    alpha = np.sqrt(1 / (1 + np.exp(-np.asarray(out["logsnr"]))))[:, None, None, None]
    noise = jax.random.normal(jax.random.split(jax.random.key(0), 6)[4], vectors.shape)
    wanted = alpha * np.asarray(noise) - np.sqrt(1 - alpha**2) * vectors
    np.testing.assert_allclose(out["wanted"], wanted, atol=1e-5)


def test_what_is_painted_is_the_picture_of_the_nearest_codes(latent_params: Any) -> None:
    """A net that says 0 of v shrinks noise by the cosine of each step's angle."""
    silent = jax.tree.map(jnp.zeros_like, latent_params["net"])
    noise = jax.random.normal(KEY, (2, *LATENT.noise))
    painted = LATENT.apply(
        {"params": latent_params | {"net": silent}}, noise, BATCH, How(steps=3), method="paint"
    )
    vectors = np.asarray(noise) * np.cos(np.pi / 6) ** 3 * np.sqrt([2 / 3, 1 / 2])
    digits = np.stack([vectors[..., 0] + 1, vectors[..., 1] * 2 + 2], -1).round()
    first, second = np.moveaxis(digits.clip(0, [2, 4]).astype(int), -1, 0)
    coder = {"params": latent_params["codes"]}
    codes = jnp.asarray((first + 3 * second).reshape(2, 4))
    expected = CODES.apply(coder, codes, method="decode_codes")
    np.testing.assert_allclose(painted, expected, atol=1e-5)


def test_codes_of_pictures_code_a_clip_frame_by_frame(latent_params: Any) -> None:
    clips = replace(LATENT, image=None, video=Canvas((8, 8), 3))
    assert clips.noise == (3, *LATENT.noise)
    shown = jax.random.randint(KEY, (2, 3, 8, 8, 3), 0, 256).astype(jnp.uint8)
    batch = {**BATCH, "video": shown}
    shapes = jax.eval_shape(clips.init, KEY, batch)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, latent_params)

    def way_back(model: Painter, pixels: Any, rows: slice) -> Any:
        """All noise, and nothing told but that: the net says 0."""
        silent = jax.tree.map(jnp.zeros_like, latent_params["net"])
        told = {key: BATCH[key][rows] for key in ("target", "target_mask")}
        bound = {"params": latent_params | {"net": silent}}
        noise = model.apply(bound, pixels, told, How("ddim", steps=2), method="unpaint")
        return model.apply(bound, noise, told, How("ddim", steps=2), method="paint")

    made = np.asarray(way_back(clips, shown, slice(0, 2)))
    for i in range(3):
        np.testing.assert_allclose(
            made[:, i], way_back(LATENT, shown[:, i], slice(0, 2)), atol=1e-5
        )


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++2m", "heun"])
def test_the_first_frame_of_a_clip_may_be_given(latent_params: Any, sampler: Any) -> None:
    clips = replace(LATENT, image=None, video=Canvas((8, 8), 3))
    first = jax.random.randint(KEY, (2, 8, 8, 3), 0, 256).astype(jnp.uint8)
    noise = jax.random.normal(jax.random.key(1), (2, *clips.noise))

    @jax.jit
    def paint(first: Any) -> Any:
        how, bound = How(sampler, steps=3, guidance=2.0), {"params": latent_params}
        return clips.apply(bound, noise, BATCH, how, KEY, first, method="paint")

    made = np.asarray(paint(first))
    coder = {"params": latent_params["codes"]}
    codes = CODES.apply(coder, first, method="encode_codes")
    known = CODES.apply(coder, codes, method="decode_codes")
    np.testing.assert_allclose(made[:, 0], known, atol=1e-4)


def test_the_other_frames_heed_the_first() -> None:
    clips = small(image=None, video=Canvas((8, 8), 3))
    first = jax.random.randint(KEY, (2, 8, 8, 3), 0, 256).astype(jnp.uint8)
    params = drawn(clips, {**BATCH, "video": jnp.stack([first] * 3, axis=1)})
    noise = jax.random.normal(KEY, (2, *clips.noise))
    one, other = (
        clips.apply({"params": params}, noise, BATCH, How(steps=2), None, each, method="paint")
        for each in (first, 255 - first)
    )
    np.testing.assert_allclose(one[:, 0] * 255, first, atol=0.05)
    assert (np.abs(np.asarray(other - one))[:, 1:].max((1, 2, 3, 4)) > 1e-4).all()


def test_codes_get_no_gradient(latent_params: Any) -> None:
    def loss(params: Any) -> Any:
        return Denoise()(LATENT.apply({"params": params}, BATCH), BATCH)[0]

    found = jax.jit(jax.grad(loss))(latent_params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["codes"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(found["net"]))


def test_codes_that_do_not_fit_are_refused(latent_params: Any) -> None:
    def build(**changes: Any) -> None:
        jax.eval_shape(replace(LATENT, **changes).init, KEY, BATCH)

    with pytest.raises(ValueError, match=r"net.out is 3, what it denoises has 2 axes"):
        build(net=PLAIN.net)
    with pytest.raises(ValueError, match=r"codes of image \(8, 8, 3\), it paints .* \(16, 8, 3\)"):
        build(image=Canvas((16, 8)))
    with pytest.raises(ValueError, match="enlarges 2: of pixels"):
        build(enlarges=2)
    bound, noise = {"params": latent_params}, jnp.zeros((2, *LATENT.noise))
    with pytest.raises(ValueError, match=r"threshold 0.9: of pixels"):
        LATENT.apply(bound, noise, BATCH, How(threshold=0.9), method="paint")
