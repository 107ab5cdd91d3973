"""Clips and sounds from the built set to the answer: trained, evaluated, asked, by small models."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import generate as command
from mlm_jax import config as configs
from mlm_jax import evaluate, train
from mlm_jax.command import cli
from mlm_jax.config import Config, Data, Optim, UserError
from mlm_jax.decoders import TextDecoder
from mlm_jax.encoders import AudioEncoder, TextEncoder, VideoEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.fusion import Fusion
from mlm_jax.layers import Block, Transformer
from mlm_jax.losses import Caption, Classes, Spans
from mlm_jax.models.multimodal import Multimodal
from mlm_jax.models.video import Events, Video
from mlm_jax.world import clip, examples

BODY = Transformer(width=16, depth=1, block=Block(heads=2))
OPTIM = Optim(lr=1e-3, warmup=1)


def eyes() -> VideoEncoder:
    return VideoEncoder(8, (32, 32), 16, body=replace(BODY), time=replace(BODY))


def ears() -> AudioEncoder:
    mel = LogMel(rate=8_000, window=512, hop=500, fft=512, mels=8)
    return AudioEncoder(16_000, mel, body=replace(BODY))


def reader() -> Multimodal:
    return Multimodal(
        image=None,
        text=TextEncoder(128, 24, body=replace(BODY)),
        fusion=Fusion(body=replace(BODY)),
        decoder=TextDecoder(128, 32, body=replace(BODY)),
        video=eyes(),
        audio=ears(),
    )


LABELS = {"captions": 0, "questions": 0, "batch": 4}
TEXTS = {"captions": 1, "questions": 2, "batch": 4, "text_length": 24, "target_length": 32}


def config(kind: str, root: Path) -> Config:
    shared = {"optim": OPTIM, "steps": 2, "eval_every": 2, "eval_examples": 8}
    if kind == "actions":
        data = Data("clips/one_tiny", str(root), **LABELS)
        return Config(Video(eyes(), labels=10), Classes(), data, **shared)
    if kind == "events":
        data = Data("clips/tiny", str(root), events=3, **LABELS)
        return Config(Events(eyes(), labels=10), Spans(), data, **shared)
    return Config(reader(), Caption(), Data("clips/tiny", str(root), **TEXTS), **shared)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def figures_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def files(root: Path) -> dict[str, Path]:
    """A clip of the test split as files of a user's own: a GIF, and a WAV."""
    soundfile = pytest.importorskip("soundfile")
    made = examples.example("test", 0, examples.Kind("clips", 48, 0, 16))
    frames = [Image.open(io.BytesIO(png)) for png in made["video"]]
    paths = {"video": root / "clip.gif", "audio": root / "clip.wav"}
    frames[0].save(paths["video"], save_all=True, append_images=frames[1:], duration=125)
    soundfile.write(paths["audio"], made["audio"], 8_000)
    return paths


def test_actions(root: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "actions"
    assert train.train(config("actions", root), run) == 0
    figures = evaluate.evaluate(run)
    assert figures["classes/accuracy"].n == 32
    confused = json.loads((run / "examples.json").read_text())["confusion"]
    assert confused["classes"] == list(clip.KINDS)
    counts = np.array(confused["counts"])
    assert counts.sum() == 32
    assert counts.trace() == round(32 * figures["classes/accuracy"].value)
    assert "taken for another" in (run / "report.html").read_text()
    capsys.readouterr()
    assert command.main(["--run", str(run), "--video", str(files["video"]), "--n", "10"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sorted(line.partition("  (")[0] for line in told) == sorted(clip.KINDS)
    with pytest.raises(UserError, match="it takes --video, and no --audio"):
        command.main(["--run", str(run), "--audio", str(files["audio"])])


def test_events(root: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "events"
    assert train.train(config("events", root), run) == 0
    figures = evaluate.evaluate(run)
    assert 0 <= figures["events/map@0.7"].value <= figures["events/map@0.3"].value <= 1
    clips = json.loads((run / "examples.json").read_text())["clips"]
    assert all(event["label"] in clip.KINDS for each in clips for event in each["true"])
    assert sum(len(each["true"]) for each in clips) >= len(clips)
    assert "Clips of test" in (run / "report.html").read_text()
    with pytest.raises(UserError, match="--views is for classes"):
        evaluate.evaluate(run, views=2)
    with pytest.raises(UserError, match="--rank is for captions"):
        evaluate.evaluate(run, rank=True)
    evaluate.evaluate(run, limit=3)  # fewer than are shown
    assert len(json.loads((run / "examples.json").read_text())["clips"]) == 3
    capsys.readouterr()
    assert command.main(["--run", str(run), "--video", str(files["video"])]) == 0
    assert all("s  " in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.slow
def test_stories(root: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Of what is seen and heard together."""
    run = root / "stories"
    assert train.train(config("stories", root), run) == 0
    figures = evaluate.evaluate(run, limit=16)
    assert {"caption/facts_f1", "caption/in_order", "vqa/accuracy/when"} <= {*figures}
    assert figures["caption/in_order"].n <= figures["caption/facts_f1"].n == 16
    capsys.readouterr()
    given = ["--run", str(run), "--video", str(files["video"]), "--audio", str(files["audio"])]
    assert command.main([*given, "--question", "what happens first?"]) == 0
    assert capsys.readouterr().out.strip()
    with pytest.raises(UserError, match="it takes --video and --audio"):
        command.main(given[:4])


def test_the_command_line_has_the_keys_of_what_is_read() -> None:
    given, _ = cli(["--config", "video_qa_tiny", "--model.video.frames", "8"])
    assert given.model.video.frames == 8
    assert given.model.image is None
    with pytest.raises(SystemExit):
        cli(["--config", "vit_tiny", "--model.video.frames", "8"])
    assert configs.from_json(configs.to_json(given)) == given
