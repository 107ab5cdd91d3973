"""Video and audio: encoders, the models over them, and the multimodal model that reads both."""

from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import AudioEncoder, ImageEncoder, TextEncoder, VideoEncoder
from mlm_jax.encoders.audio import LogMel, centred
from mlm_jax.encoders.video import Kind, with_neighbours
from mlm_jax.fusion import Fusion
from mlm_jax.fusion import Kind as FusionKind
from mlm_jax.layers import Block, Transformer, TubeletStem
from mlm_jax.losses import Masked
from mlm_jax.models.audio import Audio
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.video import Events, Video
from mlm_jax.models.video_mae import VideoMae, tubelets

BODY = Transformer(width=16, depth=1, block=Block(heads=2))
KEY = jax.random.key(0)


def eyes(kind: Kind = "factorised", **fields: Any) -> VideoEncoder:
    own = {"positions": "apart", "class_token": kind == "divided"} | fields
    return VideoEncoder(4, (8, 8), 4, kind=kind, body=replace(BODY), time=replace(BODY), **own)


def ears(**fields: Any) -> AudioEncoder:
    mel = LogMel(rate=1_000, window=64, hop=32, fft=64, mels=8)
    return AudioEncoder(256, mel, body=replace(BODY), **fields)


def clip(seed: int = 0, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 4, 8, 8, 3), np.uint8)


def tokens(encoder: VideoEncoder, video: np.ndarray) -> np.ndarray:
    params = encoder.init(KEY, jnp.asarray(video))
    read: Any = encoder.apply(params, jnp.asarray(video))
    assert bool(read.mask.all())
    return np.asarray(read.x)


@pytest.mark.parametrize(
    ("kind", "fields", "count"),
    [
        ("pooled", {}, 4),
        ("factorised", {}, 4),
        ("factorised", {"tube": 2}, 2),
        ("factorised", {"stem": "conv", "class_token": True}, 4),
        ("joint", {}, 16),
        ("joint", {"tube": 2, "positions": "sines"}, 8),
        ("joint", {"tube": 2, "positions": "table", "class_token": True}, 9),
        ("divided", {}, 17),
    ],
)
def test_how_many_tokens_a_clip_becomes(kind: Kind, fields: dict[str, Any], count: int) -> None:
    encoder = eyes(kind, **fields)
    shapes: Any = jax.eval_shape(
        lambda video: encoder.apply(encoder.init(KEY, video), video), jnp.asarray(clip())
    )
    assert shapes.x.shape == (2, count, 16)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_frames_meet_in_every_kind_but_pooled(kind: Kind) -> None:
    video = clip()
    other = video.copy()
    other[:, 3] = 255 - other[:, 3]
    one, two = (tokens(eyes(kind), each) for each in (video, other))
    first = slice(0, 1) if kind in ("pooled", "factorised") else slice(1, 2)
    same = np.allclose(one[:, first], two[:, first], atol=1e-6)
    assert same == (kind == "pooled")
    assert not np.allclose(one[:, -1], two[:, -1], atol=1e-3)


def test_what_an_encoder_would_ignore_is_refused() -> None:
    for kind in ("pooled", "factorised", "divided"):
        with pytest.raises(ValueError, match=f"place_again: of kind joint, not {kind}"):
            jax.eval_shape(eyes(kind, place_again=True).init, KEY, clip())
    with pytest.raises(ValueError, match=r"around 1: of stem conv"):
        jax.eval_shape(eyes("joint", around=1).init, KEY, clip())
    sound = np.zeros((1, 256), np.int16)
    for stem in ("conv", "conv2d"):
        with pytest.raises(ValueError, match=f"class_token: of stem patch, not {stem}"):
            jax.eval_shape(ears(stem=stem, patch=8, class_token=True).init, KEY, sound)
    for window, fft in ((400, 256), (400, 511)):
        mel = LogMel(rate=8_000, window=window, hop=80, fft=fft, mels=8)
        with pytest.raises(ValueError, match=f"mel.window {window} and mel.fft {fft}"):
            jax.eval_shape(mel, np.zeros((1, 4_000), np.float32))


@pytest.mark.parametrize("kind", ["factorised", "joint", "divided"])
def test_the_order_of_frames_matters(kind: Kind) -> None:
    video = clip()
    one, two = (tokens(eyes(kind), each).mean(1) for each in (video, video[:, ::-1].copy()))
    assert not np.allclose(one, two, atol=1e-4)


def test_a_tubelet_stem_is_a_convolution_over_space_and_time() -> None:
    video = jnp.asarray(clip(), jnp.float32)
    stem = TubeletStem(5, 2, 4)
    params = stem.init(KEY, video)
    kernel = params["params"]["tubelets"]["kernel"]
    wanted = jax.lax.conv_general_dilated(
        video, kernel, (2, 4, 4), "VALID", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    np.testing.assert_allclose(stem.apply(params, video), wanted, rtol=1e-4, atol=1e-3)


def test_a_stem_sees_the_frames_before_and_after() -> None:
    video = jnp.asarray(clip(), jnp.float32)
    seen = np.asarray(with_neighbours(video, 1))
    assert seen.shape == (2, 4, 8, 8, 9)
    for time in range(4):
        own = [seen[:, time, ..., 3 * i : 3 * i + 3] for i in range(3)]
        wanted = [time, max(time - 1, 0), min(time + 1, 3)]
        for part, at in zip(own, wanted, strict=True):
            np.testing.assert_array_equal(part, video[:, at])
    one, two = (tokens(eyes("pooled", stem="conv", around=n), clip()) for n in (0, 1))
    assert one.shape == two.shape


def test_places_and_times_are_told_again() -> None:
    encoder = eyes("joint", place_again=True)
    video = jnp.asarray(clip())
    params: Any = encoder.init(KEY, video)["params"]
    blank = params | {"out": jax.tree.map(jnp.zeros_like, params["out"])}
    read: Any = encoder.apply({"params": blank}, video)
    x = np.asarray(read.x).reshape(2, 4, 4, 16)
    space = np.asarray(params["positions_again"]["table"])
    time = np.asarray(params["times_again"]["table"])
    np.testing.assert_allclose(x, (time[:, None] + space[None])[None].repeat(2, 0), atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [{"remat": "full"}, {"layers": "scanned"}, {"last_norm": False}, {"rotary": 100.0},
     {"order": "post"}],
)  # fmt: skip
def test_divided_blocks_leave_nothing_of_their_body_out(changed: dict[str, Any]) -> None:
    own = eyes("divided").body
    if changed.keys() & {"rotary", "order"}:
        changed = {"block": replace(own.block, **changed)}
    encoder = replace(eyes("divided"), body=replace(own, **changed))
    with pytest.raises(ValueError, match="kind divided: rotary, order"):
        encoder.init(KEY, jnp.asarray(clip()))


@pytest.mark.parametrize(
    ("encoder", "wrong"),
    [
        (eyes(tube=3), "do not divide into tubelets"),
        (eyes(stem="conv", tube=2), "sees single frames"),
        (eyes("divided", class_token=False), "a class token"),
        (eyes(positions="sines"), "they are apart"),
        (eyes("joint", positions="table", place_again=True), "positions apart"),
        (replace(eyes("joint"), frames=8), "the model takes 8"),
    ],
)
def test_what_cannot_be_is_said(encoder: VideoEncoder, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        encoder.init(KEY, jnp.asarray(clip()))


def test_heads_give_logits_of_classes() -> None:
    batch = {"video": jnp.asarray(clip()), "audio": jnp.zeros((2, 256), jnp.int16)}
    for model in (Video(eyes(), labels=3, norm_eps=1e-5), Audio(ears(), labels=3)):
        out: Any = model.apply(model.init(KEY, batch), batch)
        assert out["logits"].shape == (2, 3)
        assert out["logits"].dtype == jnp.float32
    model = Events(eyes("divided"), labels=3)
    found: Any = model.apply(model.init(KEY, batch), batch)
    assert found["present"].shape == (2, 4, 3)
    assert found["reach"].shape == (2, 4, 3, 2)
    assert bool((found["reach"] >= 0).all())


# --- several senses at once ---

SENSES: dict[str, Any] = {
    "image": lambda: ImageEncoder((8, 8), 4, body=replace(BODY)),
    "video": eyes,
    "audio": ears,
}


QUICK = ("cross_attention", "prefix")


@pytest.mark.parametrize(
    "kind",
    [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in get_args(FusionKind)],
)
def test_every_sense_reaches_the_decoder_through_every_fusion(kind: FusionKind) -> None:
    model = Multimodal(
        text=TextEncoder(12, 6, body=replace(BODY)),
        fusion=Fusion(kind, latents=2, body=replace(BODY)),
        decoder=TextDecoder(12, 6, body=replace(BODY)),
        **{key: make() for key, make in SENSES.items()},
    )
    rng = np.random.default_rng(1)
    ids = jnp.asarray(rng.integers(4, 12, (4, 5)), jnp.int32)
    batch: dict[str, Any] = {
        "text": ids, "text_mask": ids > 0, "target": ids, "target_mask": ids > 0,
        "video": jnp.asarray(clip()), "image": jnp.asarray(clip()[:, 0]),
        "audio": jnp.asarray(rng.integers(-9_000, 9_000, (2, 256)), jnp.int16),
    }  # fmt: skip
    params = jax.jit(model.init)(KEY, batch)["params"]
    # the gates of "gated" are shut at first
    params = jax.tree.map(lambda x: x + 0.3 if x.ndim == 0 else x, params)
    read = jax.jit(lambda batch: model.apply({"params": params}, batch)["logits"])
    logits = read(batch)
    for key in SENSES:
        other = batch | {key: batch[key] // 2}
        assert not np.allclose(read(other), logits, atol=1e-5), key


@pytest.mark.parametrize("given", [("video",), ("audio",), ("video", "audio")])
def test_parameters_are_there_for_what_is_read(given: tuple[str, ...]) -> None:
    model = Multimodal(**{key: SENSES[key]() if key in given else None for key in SENSES})
    ids = jnp.ones((2, 4), jnp.int32)
    texts = {"text": ids, "text_mask": ids > 0, "target": ids, "target_mask": ids > 0}
    shown = {"video": jnp.asarray(clip()), "audio": jnp.zeros((2, 256), jnp.int16)}
    shapes = jax.eval_shape(model.init, KEY, texts | {key: shown[key] for key in given})
    assert {*given} == {*shapes["params"]} & {*SENSES}


def test_widths_that_differ_are_said() -> None:
    wide = Transformer(width=32, depth=1, block=Block(heads=2))
    model = Multimodal(image=None, video=eyes(), audio=replace(ears(), body=wide))
    batch = {"video": jnp.asarray(clip()), "audio": jnp.zeros((2, 256), jnp.int16)}
    with pytest.raises(ValueError, match=r"\[16, 32\]: must be one"):
        model.init(KEY, batch, method="look")


# --- hidden tubes ---


def test_what_is_hidden_is_hidden_at_all_times_and_never_seen() -> None:
    model = VideoMae(eyes("joint", tube=2, positions="sines"), replace(BODY), 0.5, "plain")
    video = clip()
    params = model.init(KEY, {"video": jnp.asarray(video)})
    out: Any = model.apply(params, {"video": jnp.asarray(video)})
    hidden = np.asarray(out["hidden"]).reshape(2, 2, 4)
    assert (hidden[:, 0] == hidden[:, 1]).all()
    assert (hidden.sum(-1) == 2).all()
    place = np.repeat(np.repeat(hidden[:, 0].reshape(2, 2, 2), 4, 1), 4, 2)
    other = np.where(place[:, None, :, :, None], 255 - video, video)
    again: Any = model.apply(params, {"video": jnp.asarray(other)})
    np.testing.assert_array_equal(again["pixels"], out["pixels"])
    assert not np.array_equal(again["wanted"], out["wanted"])
    loss, _ = Masked()(out, {})
    error = np.square(np.asarray(out["pixels"]) - np.asarray(out["wanted"])).mean(-1)
    np.testing.assert_allclose(loss, error[np.asarray(out["hidden"])].mean(), rtol=1e-5)


def test_tubelets_by_hand() -> None:
    video = jnp.asarray(clip(), jnp.float32)
    parts = np.asarray(tubelets(video, 2, 4))
    assert parts.shape == (2, 8, 96)
    for time in range(2):
        for row in range(2):
            for column in range(2):
                own = video[:, 2 * time : 2 * time + 2, 4 * row : 4 * row + 4]
                own = own[:, :, :, 4 * column : 4 * column + 4]
                place = 4 * time + 2 * row + column
                np.testing.assert_array_equal(parts[:, place], own.reshape(2, -1))


def test_each_colour_of_a_tubelet_is_standardised_by_itself() -> None:
    model = VideoMae(eyes("joint", tube=2, positions="sines"), replace(BODY), 0.5)
    video = clip() // np.array([1, 2, 4], np.uint8)
    out: Any = jax.jit(model.init_with_output)(KEY, {"video": jnp.asarray(video)})[0]
    cubes = video[0].reshape(2, 2, 2, 4, 2, 4, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    for row, cube in enumerate(cubes.reshape(8, -1, 3) / 255):
        colours = [(x - x.mean()) / (np.sqrt(x.var(ddof=1)) + 1e-6) for x in cube.T]
        wanted = np.stack(colours, axis=1).reshape(-1)
        np.testing.assert_allclose(out["wanted"][0, row], wanted, atol=1e-4)


def test_one_loudness_whatever_the_level() -> None:
    encoder = ears(loudness=0.1)
    wave = jnp.asarray(np.random.default_rng(0).normal(0, 0.2, (2, 256)), jnp.float32)
    params = encoder.init(KEY, wave)
    loud, faint = (encoder.apply(params, wave * by, jnp.array([256, 256])).x for by in (1, 0.1))
    np.testing.assert_allclose(loud, faint, atol=1e-4)
    silent: Any = encoder.apply(params, 0 * wave)
    assert bool(jnp.isfinite(silent.x).all())


def test_a_microphone_is_not_heard() -> None:
    """What adds the same to a band at all times changes nothing; what is loud comes to 0."""
    encoder = ears(centred=True)
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 1, (2, encoder.frames, 8)).astype(np.float32)
    other = sound + rng.normal(0, 2, (2, 1, 8)).astype(np.float32)
    params = encoder.init(KEY, jnp.asarray(sound))
    read, again = (np.asarray(encoder.apply(params, jnp.asarray(x)).x) for x in (sound, other))
    np.testing.assert_allclose(read, again, atol=1e-4)
    quiet = np.full((1, 9, 8), -20.0, np.float32)
    quiet[0, 3] = np.arange(8)
    np.testing.assert_allclose(centred(jnp.asarray(quiet))[0, 3], 0, atol=1e-4)


def test_a_spectrogram_read_as_a_picture() -> None:
    """A token for 4 frames: what comes 4 frames later is told a token later, and pitches are."""
    encoder = replace(ears(stem="conv2d", patch=4), samples=1_024, body=replace(BODY, depth=0))
    knock = np.random.default_rng(0).normal(0, 1, (3, 4))
    sound = np.zeros((3, 33, 8), np.float32)
    sound[0, 12:15, :4] = sound[1, 16:19, :4] = sound[2, 12:15, 4:] = knock
    params: Any = encoder.init(KEY, jnp.asarray(sound))["params"]
    anywhere = params | {"positions": jax.tree.map(jnp.zeros_like, params["positions"])}
    heard: Any = encoder.apply({"params": anywhere}, jnp.asarray(sound))
    low, later, high = np.asarray(heard.x)
    assert low.shape == (9, 16)
    np.testing.assert_allclose(low[1:7], later[2:8], atol=1e-4)
    assert np.abs(low[1:7] - high[1:7]).max() > 0.1
