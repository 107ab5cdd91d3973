"""DALL-E 2: the prior and the vectors it learns, painting by vectors, the way between two."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mlm_jax import drawing
from mlm_jax.choosing import ranked
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data.loader import CAPTION, Pair
from mlm_jax.data.tokenizers import words
from mlm_jax.decoders.denoiser import DiffusionTransformer
from mlm_jax.decoders.diffusion import How
from mlm_jax.drawing import Drawing, changed, draw, morph
from mlm_jax.encoders import TextEncoder
from mlm_jax.evaluators import prior as measured
from mlm_jax.losses import Denoise
from mlm_jax.models.clip import unit
from mlm_jax.models.painter import Canvas, Painter
from mlm_jax.models.prior import DiffusionPrior, PriorNet
from mlm_jax.models.unclip import Unclip, between
from mlm_jax.trained import Trained

KEY = jax.random.key(0)


PRIOR = DiffusionPrior(
    toy.clip(),
    net=PriorNet(toy.body()),
)
PAINTER = Painter(
    Canvas((8, 8)),
    text=TextEncoder(20, 6, body=toy.body()),
    net=DiffusionTransformer(4, toy.body()),
    embedding=8,
    silent=0.5,
    self_conditioned=True,
)
MODEL = Unclip(PRIOR, PAINTER)


def make_batch(rows: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows_of = {
        "image": rng.integers(0, 256, (rows, 8, 8, 3)).astype(np.uint8),
        "target": rng.integers(3, 20, (rows, 6)).astype(np.int32),
        "target_mask": np.ones((rows, 6), bool),
    }
    return jax.tree.map(jnp.asarray, rows_of)


@pytest.fixture(scope="module")
def params() -> Any:
    return toy.stirred(MODEL, make_batch())


def test_the_prior_is_asked_for_the_vector_of_the_picture(params: Any) -> None:
    batch = make_batch()
    said: Any = PRIOR.apply({"params": params["prior"]}, batch)
    seen: Any = PRIOR.apply({"params": params["prior"]}, batch["image"], method="see")
    np.testing.assert_allclose(said["wanted"], np.asarray(seen) * 8**0.5, rtol=1e-5)
    np.testing.assert_allclose(np.square(said["wanted"]).mean(-1), 1, rtol=1e-5)  # of variance 1


def test_clip_gets_no_gradient(params: Any) -> None:
    batch = make_batch()

    def loss(params: Any) -> Any:
        said: Any = MODEL.apply({"params": params}, batch, train=True, rngs={"mask": KEY})
        return Denoise()(said, batch)[0]

    grads = jax.jit(jax.grad(loss))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["prior"]))
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads["painter"]["net"]))


def test_a_prior_learns_the_vectors_of_few_captions(params: Any) -> None:
    """Each caption then brings the vector of its own picture, not of another."""
    import optax

    batch, tx = make_batch(), optax.adam(3e-3)
    clip = params["prior"]["clip"]

    @jax.jit
    def step(net: Any, state: Any, key: Any) -> Any:
        def loss(net: Any) -> Any:
            said: Any = PRIOR.apply(
                {"params": {"clip": clip, "net": net}}, batch, train=True, rngs={"mask": key}
            )
            return jnp.square(said["predicted"] - said["wanted"]).mean()

        updates, state = tx.update(jax.grad(loss)(net), state)
        return optax.apply_updates(net, updates), state

    net = params["prior"]["net"]
    state = tx.init(net)
    for i in range(300):
        net, state = step(net, state, jax.random.fold_in(KEY, i))
    bound = {"params": {"clip": clip, "net": net}}
    imagined: Any = PRIOR.apply(bound, batch, How(steps=10), KEY, method="imagine")
    real: Any = PRIOR.apply(bound, batch["image"], method="see")
    cosines = np.asarray(imagined) @ np.asarray(real).T
    assert (cosines.argmax(1) == np.arange(4)).all(), cosines
    np.testing.assert_allclose(np.linalg.norm(imagined, axis=1), 1, rtol=1e-5)


def test_another_vector_paints_another_picture_and_no_words_are_needed(params: Any) -> None:
    vectors = unit(jax.random.normal(KEY, (2, 8)))
    noise = jnp.broadcast_to(jax.random.normal(KEY, (8, 8, 3)), (2, 8, 8, 3))
    paint = partial(PAINTER.apply, {"params": params["painter"]}, method="paint")
    one: Any = paint(noise, {"embedding": vectors}, How(steps=2, guidance=2.0), KEY)
    assert np.abs(one[0] - one[1]).max() > 1e-3
    told = {key: make_batch(2)[key] for key in ("target", "target_mask")}
    other: Any = paint(noise, {"embedding": vectors, **told}, How(steps=2, guidance=2.0), KEY)
    assert np.abs(one - other).max() > 1e-4


def test_silent_rows_are_told_the_vector_alone(params: Any) -> None:
    quiet = PAINTER.clone(silent=1.0, dropped=0.0)
    batch = make_batch() | {"embedding": unit(jax.random.normal(KEY, (4, 8)))}
    said = jax.jit(partial(quiet.apply, {"params": params["painter"]}, train=True))
    one: Any = said(batch, rngs={"mask": KEY})
    other: Any = said({**batch, "target": batch["target"][::-1]}, rngs={"mask": KEY})
    np.testing.assert_array_equal(one["predicted"], other["predicted"])
    other = said({**batch, "embedding": batch["embedding"][::-1]}, rngs={"mask": KEY})
    assert np.abs(one["predicted"] - other["predicted"]).max() > 1e-4


def test_the_way_between_two_vectors_is_the_arc() -> None:
    """A quarter of a turn: angles grow evenly."""
    one, other = jnp.array([[1.0, 0, 0]]), jnp.array([[0, 1.0, 0]])
    share = jnp.linspace(0, 1, 5)
    way = between(jnp.repeat(one, 5, 0), jnp.repeat(other, 5, 0), share)
    angle = np.arctan2(way[:, 1], way[:, 0])
    np.testing.assert_allclose(angle, np.pi / 2 * np.asarray(share), atol=1e-6)
    np.testing.assert_allclose(between(one, one, jnp.array([0.3])), one, atol=1e-6)


def test_what_does_not_fit_is_said() -> None:
    batch = make_batch()
    with pytest.raises(ValueError, match="CLIP sees pictures of"):
        jax.eval_shape(MODEL.clone(painter=PAINTER.clone(image=Canvas((16, 16)))).init, KEY, batch)
    with pytest.raises(ValueError, match=r"painter\.embedding is 4"):
        jax.eval_shape(MODEL.clone(painter=PAINTER.clone(embedding=4)).init, KEY, batch)
    films = PAINTER.clone(image=None, video=Canvas((8, 8), 2))
    with pytest.raises(ValueError, match=r"painter\.video: CLIP's vectors are of pictures"):
        jax.eval_shape(MODEL.clone(painter=films).init, KEY, batch)
    with pytest.raises(ValueError, match=r"painter\.enlarges is 2"):
        jax.eval_shape(MODEL.clone(painter=PAINTER.clone(enlarges=2)).init, KEY, batch)


# --- as it is drawn with ---

HOW = Drawing(paint=How(steps=2, guidance=2.0), prior=How(steps=2))


@pytest.fixture(scope="module")
def trained(params: Any) -> Trained:
    config = Config(MODEL, Denoise(), Data(captions=1, questions=0, target_length=6))
    return Trained(Path("run"), config, words(["it is red green blue"]), params, 1)


def test_the_same_seed_draws_the_same_and_a_picture_is_varied(trained: Trained) -> None:
    prompts = ["it is red", "it is blue"]
    drawn = draw(trained, prompts, how=HOW)
    assert drawn.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(drawn, draw(trained, prompts, how=HOW))
    assert (drawn != draw(trained, prompts, how=HOW, seed=1)).any()
    begun = np.asarray(make_batch(2)["image"])
    varied = draw(trained, ["", ""], how=HOW, begun=begun)
    assert varied.shape == (2, 8, 8, 3)
    assert (varied != draw(trained, ["", ""], how=HOW, begun=begun[::-1])).any()
    with pytest.raises(UserError, match="varies a picture without a word"):
        draw(trained, prompts, how=HOW, begun=begun)


def test_pictures_of_a_few_prompts_are_the_first_of_more(trained: Trained) -> None:
    """To rounding, though fewer are painted at a time; with noise that comes in on the way."""
    how = replace(HOW, paint=How("ddpm", steps=2, guidance=2.0))
    texts = ["it is red", "it is blue", "it is green"]
    few, many = (draw(trained, each, how=how, seed=3) for each in (texts, [*texts, *texts, *texts]))
    assert np.abs(few.astype(int) - many[:3]).max() <= 1
    assert (few != many[3:6]).any()


def test_the_way_begins_and_ends_where_it_should(trained: Trained) -> None:
    picture = np.asarray(make_batch(1)["image"][0])
    way, other = (morph(trained, "it is red", end, 3, how=HOW) for end in ("it is blue", picture))
    np.testing.assert_array_equal(way[0], other[0])
    assert (way[-1] != other[-1]).any()
    back = morph(trained, "it is blue", "it is red", 3, how=HOW)
    assert np.abs(back[::-1].astype(int) - way).max() <= 1  # but for rounding


def test_a_picture_is_changed_by_the_difference_of_two_texts(trained: Trained) -> None:
    """Section 3.3: from the picture itself, turned towards the unit difference of the texts."""
    picture = np.asarray(make_batch(1)["image"][0])
    how = replace(HOW, paint=How("ddim", steps=60))
    made = changed(trained, "it is red", "it is blue", 3, picture=picture, how=how)
    assert made.shape == (3, 8, 8, 3)
    assert np.abs(made[0].astype(int) - picture).max() <= 16, "the picture, but for its steps"
    halfway, end = np.abs(made[1:].astype(int) - made[0]).max((1, 2, 3))
    assert 0 < halfway < end
    rows = [trained.tokenise("", text, "") for text in ("it is red", "it is blue")]
    batch = {key: jnp.stack([row[key] for row in rows]) for key in ("target", "target_mask")}
    prior = {"params": trained.params["prior"]}
    red, blue = np.asarray(PRIOR.apply(prior, batch, method="read"))
    (seen,) = np.asarray(PRIOR.apply(prior, jnp.asarray(picture[None]), method="see"))
    far = (blue - red) / np.linalg.norm(blue - red)
    angle = np.arccos(seen @ far)
    turned = (np.sin(angle / 2) * seen + np.sin(angle / 2) * far) / np.sin(angle)
    paint = partial(PAINTER.apply, {"params": trained.params["painter"]})
    told = [{"embedding": jnp.asarray(vector[None])} for vector in (seen, turned)]
    noise = paint(jnp.asarray(picture[None]), told[0], how.paint, method="unpaint")
    expected = paint(noise, told[1], how.paint, found=True, method="paint")
    np.testing.assert_allclose(made[2], np.asarray(expected)[0] * 255, atol=1.01)
    with pytest.raises(UserError, match="--to 'it is red' says no more than --prompt"):
        changed(trained, "it is red", "it is red", 3, picture=picture, how=how)
    with pytest.raises(UserError, match="--to 'it is a cow': run has never seen"):
        changed(trained, "it is red", "it is a cow", 3, picture=picture, how=how)
    noisy = replace(HOW, paint=How("ddpm", steps=3))
    with pytest.raises(UserError, match="--sampler ddpm brings in noise"):
        changed(trained, "it is red", "it is blue", 3, picture=picture, how=noisy)
    cut = replace(HOW, paint=How("ddim", steps=3, threshold=0.9))
    with pytest.raises(UserError, match=r"threshold 0\.9: no way leads back"):
        changed(trained, "it is red", "it is blue", 3, picture=picture, how=cut)
    with pytest.raises(UserError, match="--sampler ddpm brings in noise"):
        morph(trained, "it is red", "it is blue", 3, how=noisy)


@pytest.mark.parametrize(
    ("paint", "end", "told"),
    [
        (How("ddpm"), "it is blue", "--sampler ddpm brings in .*: another sampler with --to$"),
        (How("ddim", eta=0.5), "it is blue", r"--eta 0\.5 brings in noise .*: --eta 0 with --to$"),
        (How("ddim", eta=0.5), np.zeros((8, 8, 3), np.uint8), "--eta 0 with --to-image$"),
    ],
)
def test_noise_on_the_way_is_named_by_its_option(paint: How, end: Any, told: str) -> None:
    run = Trained(Path("run"), Config(MODEL, Denoise()), words(["it is red blue"]), {}, 1)
    with pytest.raises(UserError, match=told):
        morph(run, end, end, 3, how=Drawing(paint=paint))


def test_more_on_the_way_than_memory_holds_are_refused(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing.memory, "free", lambda: 1000)
    with pytest.raises(
        UserError, match=r"7 pictures, drawn at a time, .* fewer in all \(--n, .*--limit"
    ):
        morph(trained, "it is red", "it is blue", 7, how=HOW)


def test_pictures_are_ranked_by_their_cosine_with_the_prompt(trained: Trained) -> None:
    clip = trained._replace(
        config=replace(trained.config, model=PRIOR.clip), params=trained.params["prior"]["clip"]
    )
    pictures = np.asarray(make_batch(3)["image"])
    scores = ranked(clip, ["it is red"] * 3, pictures)
    row = {key: array[None] for key, array in clip.tokenise("", "it is red", "").items()}
    seen: Any = PRIOR.clip.apply({"params": clip.params}, jnp.asarray(pictures), method="see")
    read: Any = PRIOR.clip.apply(
        {"params": clip.params}, jnp.asarray(row["target"]), jnp.asarray(row["target_mask"]),
        method="read",
    )  # fmt: skip
    np.testing.assert_allclose(scores, np.asarray(seen) @ np.asarray(read)[0], atol=1e-5)
    with pytest.raises(UserError, match="no Clip that could rank"):
        ranked(trained, ["it is red"] * 3, pictures)
    twice = pictures.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(ranked(clip, ["it is red"] * 3, twice), scores, atol=0.1)
    with pytest.raises(UserError, match="no vectors to go between"):
        morph(clip, "it is red", "it is blue", 2)


def test_the_prior_is_measured_beside_the_captions_own_vectors(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = jax.tree.map(np.asarray, make_batch())
    rows = [
        (Pair(i, str(i), "", ("a",), CAPTION), {key: array[i] for key, array in batch.items()})
        for i in range(4)
    ]
    monkeypatch.setattr(measured.loader, "eval_pairs", lambda *_: iter(rows))
    prior = trained._replace(
        config=replace(trained.config, model=PRIOR), params=trained.params["prior"]
    )
    figures = measured.evaluate(prior, None, None).figures
    bound = partial(PRIOR.apply, {"params": prior.params})
    seen: Any = bound(make_batch()["image"], method="see")
    read: Any = bound(make_batch(), method="read")
    own = float(np.mean(np.sum(np.asarray(seen) * np.asarray(read), axis=1)))
    assert figures["prior/caption"].value == pytest.approx(own, abs=1e-5)
    key = jax.random.fold_in(jax.random.key(prior.config.seed), 0)
    imagined = np.asarray(bound(make_batch(), Drawing().prior, key, method="imagine"))
    for name, said in (("imagined", imagined), ("another", imagined[[1, 2, 3, 0]])):
        wanted = float(np.mean(np.sum(np.asarray(seen) * said, axis=1)))
        assert figures[f"prior/{name}"].value == pytest.approx(wanted, abs=1e-5)
        assert figures[f"prior/{name}"].n == 4
    # of no more at a time than in training the last caption is alone
    data = replace(prior.config.data, batch=3)
    prior = prior._replace(config=replace(prior.config, data=data))
    monkeypatch.setattr(measured.loader, "eval_pairs", lambda *_: iter(rows))
    figures = measured.evaluate(prior, None, None).figures
    assert (figures["prior/imagined"].n, figures["prior/another"].n) == (4, 3)
    three = imagined[:3]
    wanted = float(np.mean(np.sum(np.asarray(seen)[:3] * three[[1, 2, 0]], axis=1)))
    assert figures["prior/another"].value == pytest.approx(wanted, abs=1e-5)
    monkeypatch.setattr(measured.loader, "eval_pairs", lambda *_: iter(rows[:1]))
    assert {*measured.evaluate(prior, None, None).figures} == {"prior/imagined", "prior/caption"}
