"""Runs that name, that find events, that see and hear, and that draw, asked as the API asks."""

import asyncio
import base64
import io
import json
import wave
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from served import picture

from mlm_jax import drawing, provenance
from mlm_jax.config import Config, Data, UserError, senses
from mlm_jax.data import transforms
from mlm_jax.data.tokenizers import words
from mlm_jax.data.transforms import take_for
from mlm_jax.decoders import TextDecoder
from mlm_jax.decoders.codes import CodeEncoder, Quantiser
from mlm_jax.encoders import AudioEncoder, TextEncoder, VideoEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.explaining.asked import ask, asked_of, require_multimodal, words_of
from mlm_jax.explaining.colours import over
from mlm_jax.explaining.methods import explain
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Classes, Drawn, Spans
from mlm_jax.models.codes import Codes
from mlm_jax.models.dalle import Dalle
from mlm_jax.models.gpt import Gpt
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.video import Events, Video
from mlm_jax.serving import answering
from mlm_jax.serving.answering import Playground
from mlm_jax.serving.batching import Word
from mlm_jax.serving.requests import Ask, Draw, Limits, Refused
from mlm_jax.trained import Shown, Trained, look, tell, watch_for_events

BODY = Transformer(width=16, depth=1, block=Block(heads=2))
TEXTS = Data(text_length=8, target_length=8)
NAMES = ["moves", "grows", "turns"]


def eyes() -> VideoEncoder:
    return VideoEncoder(4, (32, 32), 16, body=replace(BODY), time=replace(BODY))


def ears() -> AudioEncoder:
    mel = LogMel(rate=8_000, window=512, hop=500, fft=512, mels=8)
    return AudioEncoder(8_000, mel, body=replace(BODY))


def drawn_run(folder: Path, model: Any, loss: Any, data: Data = TEXTS) -> Trained:
    """With parameters as training begins with them."""
    config = Config(model, loss, data)
    take = take_for(data, senses(config))
    batch: dict[str, Any] = {
        "text": np.zeros((1, 8), np.int32), "text_mask": np.ones((1, 8), bool),
        "target": np.zeros((1, 8), np.int32), "target_mask": np.ones((1, 8), bool),
    }  # fmt: skip
    if take.video:
        batch["video"] = np.zeros((1, 4, 32, 32, 3), np.uint8)
    if take.audio:
        batch["audio"] = np.zeros((1, 8_000), np.int16)
    if isinstance(model, Dalle):
        batch["image"] = np.zeros((1, 4, 4, 3), np.uint8)
    params = jax.jit(model.init)(jax.random.key(3), batch)["params"]
    (folder / "config.json").write_text("{}")
    (folder / "classes.json").write_text(json.dumps(NAMES))
    return Trained(folder, config, words(["it is red green blue moves what"]), params, 7)


def answer(playground: Playground, ask: Ask) -> dict[str, Any]:
    async def whole() -> Any:
        loop = asyncio.create_task(playground.batcher.run())
        async with aclosing(playground.say(ask)) as said:
            parts = [part async for part in said]
        loop.cancel()
        return parts[-1]

    return asyncio.run(whole())


@pytest.fixture(scope="module")
def clip() -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(8)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=250)
    return file.getvalue()


@pytest.fixture(scope="module")
def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8_000)
        out.writeframes((8_000 * np.sin(np.arange(6_000) / 5)).astype("<i2").tobytes())
    return file.getvalue()


def made(trained: Trained) -> Playground:
    playground = Playground(trained, Limits(), (1,))
    playground.warm_up(lambda what: None)
    return playground


def test_a_run_that_names(tmp_path, clip):
    pytest.importorskip("av", reason="the extra `media` is not installed")
    playground = made(drawn_run(tmp_path, Video(eyes(), labels=3), Classes()))
    whole = answer(playground, Ask({"video": clip}))
    shares = [each["probability"] for each in whole["classes"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert {each["text"] for each in whole["classes"]} == {*NAMES}
    assert whole["answer"] == whole["classes"][0]["text"]
    assert not playground.asks
    with pytest.raises(Refused, match="reads none"):
        answer(playground, Ask({"video": clip}, question="what?"))


def test_a_run_that_finds_events(tmp_path, clip):
    pytest.importorskip("av", reason="the extra `media` is not installed")
    trained = drawn_run(tmp_path, Events(eyes(), labels=3), Spans(), replace(TEXTS, events=3))
    (tmp_path / "clip.gif").write_bytes(clip)
    wanted = watch_for_events(trained, {"video": tmp_path / "clip.gif"})
    whole = answer(made(trained), Ask({"video": clip}))
    assert wanted
    assert [(each["text"], each["start"]) for each in whole["events"]] == [
        (each.label, pytest.approx(each.start)) for each in wanted[:20]
    ]
    assert max(each["end"] for each in whole["events"]) <= 2.0 + 1e-6  # seconds


def test_a_clip_is_decoded_once(tmp_path, clip, monkeypatch):
    pytest.importorskip("av", reason="the extra `media` is not installed")
    trained = drawn_run(tmp_path, Events(eyes(), labels=3), Spans(), replace(TEXTS, events=3))
    decoded: list[int] = []
    read = transforms.read_frames
    monkeypatch.setattr(transforms, "read_frames", lambda *a: decoded.append(1) or read(*a))
    row, seconds = Playground(trained, Limits(), (1,)).row_of(Ask({"video": clip}))
    assert (row["video"].shape, seconds) == ((4, 32, 32, 3), pytest.approx(2.0))
    assert decoded == [1]


@pytest.mark.parametrize(("frames", "pixels"), [(7, 1 << 30), (8, 7 * 32 * 32)])
def test_a_clip_of_too_many_frames_is_not_decoded(tmp_path, clip, monkeypatch, frames, pixels):
    """Where nobody waits for it any more, the thread that decodes it is lost to all others."""
    pytest.importorskip("av", reason="the extra `media` is not installed")
    trained = drawn_run(tmp_path, Video(eyes(), labels=3), Classes())
    assert "video" in Playground(trained, Limits(frames=8), (1,)).row_of(Ask({"video": clip}))[0]
    monkeypatch.setattr(answering, "PIXELS", pixels)
    monkeypatch.setattr(transforms, "read_frames", None)
    with pytest.raises(Refused, match="video: over 7 frames"):
        Playground(trained, Limits(frames=frames), (1,)).row_of(Ask({"video": clip}))


def test_a_run_that_sees_and_hears(tmp_path, clip, sound):
    pytest.importorskip("av", reason="the extra `media` is not installed")
    model = Multimodal(
        image=None,
        text=TextEncoder(64, 8, body=replace(BODY)),
        fusion=Fusion(body=replace(BODY)),
        decoder=TextDecoder(64, 8, body=replace(BODY)),
        video=eyes(),
        audio=ears(),
    )
    trained = drawn_run(tmp_path, model, Caption())
    (tmp_path / "clip.gif").write_bytes(clip)
    (tmp_path / "sound.wav").write_bytes(sound)
    shown = look(trained, {"video": tmp_path / "clip.gif", "audio": tmp_path / "sound.wav"})
    playground = made(trained)
    whole = answer(playground, Ask({"video": clip, "audio": sound}, question="what is it"))
    assert whole["answer"] == tell(trained, shown, "what is it")[0].text
    assert not playground.scenes
    assert playground.maps
    with pytest.raises(Refused, match="video and audio"):
        answer(playground, Ask({"video": clip}))
    same_maps_as_explained(
        playground, Ask({"video": clip, "audio": sound}, question="what is it"), shown
    )


def same_maps_as_explained(playground: Playground, wanted: Ask, shown: Shown) -> None:
    """Of words that the run was made to say: frames side by side, and low tones below."""
    trained = playground.trained
    row, _ = playground.row_of(wanted)
    said = [Word(each, 0.0) for each in trained.tokenizer.encode("it is red")]
    found = playground.looked(row, said)
    written = np.array([[each.id for each in said]])
    asked, _ = ask(trained, [shown], wanted.question)
    words = words_of(trained.tokenizer, written[0])
    texts = {"text": asked.text, "text_mask": asked.text_mask}
    asked = asked_of(trained, asked.seen, texts, written, [words])
    maps = explain(require_multimodal(trained), trained.params, asked, "attention")
    mel = np.asarray(asked.seen["audio"][0]).T[::-1]
    grey = np.repeat(255 * (mel - mel.min())[..., None] / np.ptp(mel), 3, axis=-1)
    assert len(found) == len(words) == 3
    for place, coded in enumerate(found):
        video = over(
            np.concatenate([*shown["video"]], 1), np.concatenate([*maps["video"][0, place]], 1)
        )
        audio = over(grey.astype(np.uint8), maps["audio"][0, place].T[::-1])
        for wanted_pixels, drawn in ((video, coded.pop("video")), (audio, coded.pop("audio"))):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn))))
            assert abs(pixels.astype(int) - wanted_pixels).max() <= 2
        assert not coded


@pytest.fixture
def drawer(tmp_path, monkeypatch) -> Playground:
    """DALL-E of four codes."""
    monkeypatch.setattr(drawing, "BATCH", 4)
    eye = CodeEncoder((4, 4), (2,), (4, 4), blocks=0)
    body = Transformer(16, 1, Block(heads=2, ratio=1.0, rotary=10.0))
    model = Dalle(
        Codes(eye, None, Quantiser("vq", count=7, width=4)),
        TextDecoder(16 + 7, 8 + 4, grid=(2, 2), body=body),
        words=16,
        length=8,
    )
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("green\n")
    trained = drawn_run(tmp_path, model, Drawn())
    return Playground(trained, Limits(), (1,), blocked)


def test_a_run_that_draws(drawer, tmp_path):
    drawer.warm_up(lambda what: None)
    told = asyncio.run(drawer.draw(Draw("it is red", 3, seed=5)))
    wanted = drawing.draw(drawer.trained, ["it is red"] * 3, seed=5)
    assert told["type"] == "image/png"
    assert told["marked"] is False, "of 8 pixels there is no mark"
    files = [base64.b64decode(each, validate=True) for each in told["pictures"]]
    for file, pixels in zip(files, wanted, strict=True):
        np.testing.assert_array_equal(Image.open(io.BytesIO(file)), pixels)
    path = tmp_path / "drawn.png"
    path.write_bytes(files[0])
    facts = provenance.read(path)
    assert (facts["prompt"], facts["seed"], facts["generated"]) == ("it is red", 5, True)
    assert facts["settings"]["codes"]["guidance"] == drawing.Drawing().codes.guidance


@pytest.mark.parametrize(
    ("prompt", "why"),
    [("it is GREEN", "list"), ("a zebra", "never seen a, zebra"), ("red " * 9, "accepts")],
)
def test_prompts_that_are_refused(drawer, prompt, why):
    with pytest.raises(Refused, match=why):
        asyncio.run(drawer.draw(Draw(prompt)))


def test_a_run_that_draws_is_asked_nothing(drawer):
    with pytest.raises(Refused, match="draws"):
        answer(drawer, Ask({"image": picture()}))


def test_a_run_of_text_alone_is_not_served(tmp_path):
    model = Gpt(TextDecoder(64, 8, body=replace(BODY)))
    config = Config(model, Caption(), TEXTS)
    trained = Trained(tmp_path, config, words(["it is"]), {}, 1)
    with pytest.raises(UserError, match="Gpt: served are"):
        Playground(trained, Limits(), (1,))
