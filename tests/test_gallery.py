"""What was drawn, as files: marked, with their facts; what the command refuses."""

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from PIL import Image, ImageSequence

from experiments import generate
from mlm_jax import choosing, drawing, gallery, provenance, watermark
from mlm_jax import trained as trained_runs
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data.tokenizers import words
from mlm_jax.losses import Denoise
from mlm_jax.models.painter import Canvas, Painter
from mlm_jax.showing import as_picture
from mlm_jax.trained import Trained

PROMPTS = ["a red circle", "a red circle"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def pictures(count: int = 2, side: int = 48) -> np.ndarray:
    """Grey, with a red square."""
    drawn = np.full((count, side, side, 3), 128, np.uint8)
    drawn[:, 10:20, 10:20] = (200, 30, 30)
    return drawn


def moving() -> np.ndarray:
    """Two clips of three frames, none like the other: equal ones are one frame of a GIF."""
    return np.stack([[np.roll(pictures(1)[0], 4 * i, axis=1) for i in range(3)]] * 2)


def test_every_file_bears_the_mark_and_its_facts(run: Path) -> None:
    paths = gallery.hang(run / "out", run, PROMPTS, pictures(), seed=3, settings={"steps": 5})
    assert [path.name for path in paths] == ["000.png", "001.png", "sheet.png"]
    for number, path in enumerate(paths[:2]):
        assert watermark.marked(np.asarray(Image.open(path))).ours
        facts = provenance.read(path)
        assert (facts["prompt"], facts["seed"]) == ("a red circle", 3)
        assert facts["settings"] == {"steps": 5, "number": number, "marked": True}
    with Image.open(paths[2]) as sheet:
        assert sheet.width > 2 * 48
        assert watermark.marked(np.asarray(sheet)).ours
    assert provenance.read(paths[2])["settings"]["marked"] is True


def test_without_the_mark_the_pictures_are_as_drawn(run: Path) -> None:
    paths = gallery.hang(run / "out", run, PROMPTS, pictures(), seed=0, settings={}, mark=False)
    assert (np.asarray(Image.open(paths[0])) == pictures()[0]).all()
    assert provenance.read(paths[0])["settings"]["marked"] is False


def test_clips_become_gifs_of_marked_frames(run: Path) -> None:
    paths = gallery.hang(run / "out", run, PROMPTS, moving(), seed=0, settings={})
    assert [path.name for path in paths] == ["000.gif", "001.gif", "sheet.png"]
    assert provenance.read(paths[0])["prompt"] == "a red circle"
    with Image.open(paths[0]) as clip:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(clip)]
    assert np.shape(frames) == (3, 48, 48, 3)
    assert all(watermark.marked(frame).ours for frame in frames)


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, [0]), (3, [0, 1, 2]), (15, [0, 2, 4, 6, 8, 10, 12, 14])]
)
def test_of_a_clip_no_more_frames_are_shown_than_there_is_room_for(
    count: int, wanted: list[int]
) -> None:
    frames = np.stack([np.full((2, 2, 3), i, np.uint8) for i in range(count)])
    shown = as_picture({"video": frames})
    assert shown.shape == (2, 2 * len(wanted), 3)
    assert shown[0, ::2, 0].tolist() == wanted


def test_and_films_of_marked_frames_where_they_are_asked_for(run: Path) -> None:
    av = pytest.importorskip("av", reason="the extra `media` is not installed")
    paths = gallery.hang(run / "out", run, PROMPTS, moving(), seed=0, settings={}, films=True)
    names = ["000.gif", "000.mp4", "001.gif", "001.mp4", "sheet.png"]
    assert [path.name for path in paths] == names
    assert provenance.read(paths[1]) == provenance.read(paths[0])
    with av.open(str(paths[1])) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert np.shape(frames) == (3, 48, 48, 3)
    assert all(watermark.marked(frame).ours for frame in frames)


def test_a_folder_in_use_and_pictures_too_small_for_the_mark(run: Path) -> None:
    with pytest.raises(UserError, match="in use"):
        gallery.hang(run, run, PROMPTS, pictures(), seed=0, settings={})
    with pytest.raises(UserError, match="--no-watermark"):
        gallery.hang(run / "out", run, PROMPTS, pictures(side=32), seed=0, settings={})
    assert not (run / "out").exists()


# --- the command ---

DRAW = ["--prompt", "a circle", "--out", "x"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--out", "x"], "--out needs --prompt or --image"),
        *(
            (["--prompt", "a circle", *given], f"{given[0]} needs --out")
            for given in (
                ["--clip", "runs/clip"],
                ["--to", "a star"],
                ["--threshold", "0.9"],
                ["--to-image", "x.png"],
                ["--guidance", "1"],
                ["--sampler", "dpm++2m"],
                ["--steps", "30"],
                ["--told", "prior"],
                ["--blocked", "list.txt"],
                ["--no-watermark"],
            )
        ),
        ([*DRAW, "--among", "32"], "--among needs --clip"),
        ([*DRAW, "--method", "greedy"], "--out reads no --method"),
        ([*DRAW, "--beams", "4"], "--out reads no --beams"),
        ([*DRAW, "--image", "x.png", "--question", "what?"], "--out reads no --question"),
        ([*DRAW, "--to", "b", "--n", "2", "--video", "x.mp4"], "--to reads no --video"),
        ([*DRAW, "--to", "b", "--n", "2", "--clip", "clip"], "--to reads no --clip"),
        ([*DRAW, "--to", "b"], "--n is 1: at least 2"),
        (["--out", "x", "--to-image", "x.png"], "--out needs --prompt or --image"),
        ([*DRAW, "--image", "x.png", "--to-image", "x.png"], "--to-image reads no --prompt"),
        ([*DRAW, "--image", "x.png", "--to", "b", "--seed", "1"], "--to reads no --seed"),
        ([*DRAW, "--told", "text", "--image", "x.png"], "--told reads no --image"),
        ([*DRAW, "--image", "x.png", "--video", "x.mp4"], "an --image or with a --video, not with"),
        *(
            ([*DRAW, "--clip", "clip", *given], told)
            for given, told in (
                (["--among", "0"], "--among is 0: at least 2"),
                (["--among", "4", "--n", "4"], "--among is 4: at least 5"),
                (["--n", "32"], "--among is 32: at least 33"),
            )
        ),
        ([*DRAW, "--n", "0"], "--n is 0: at least 1"),
        (["--prompt", "a", "--image", "x.png"], "takes no --image"),
        (["--answers", "a", "b"], "--answers needs --image or --video or --audio"),
        (["--messages", "x.json", "--prompt", "a"], "--messages reads no --prompt"),
    ],
)
def test_what_would_be_passed_over_is_refused(given: list[str], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        generate.main(["--run", "nowhere", *given])


def run_of(name: str, model: Any) -> Trained:
    """As much of a run as can be read before anything is drawn."""
    data = Data(captions=1, questions=0, target_length=6)
    return Trained(Path(name), Config(model, Denoise(), data), words(["a red circle"]), {}, 0)


def painter(side: int, **more: Any) -> Painter:
    return Painter(Canvas((side, side)), **more)


RUNS = {
    "painter": run_of("painter", painter(48)),
    "small": run_of("small", painter(16)),
    "films": run_of("films", Painter(None, Canvas((48, 48), 4))),
    "clip": run_of("clip", toy.clip()),
    "watcher": run_of("watcher", toy.clip(4)),
    "long": run_of("long", toy.clip(6)),
}


@pytest.fixture
def command(run: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with such runs, where what is drawn is grey; and what was asked to be drawn."""
    asked: list[Any] = []

    def draw(trained: Trained, prompts: Any, **how: Any) -> Any:
        asked.append(how)
        drawn = pictures(len(prompts))
        return drawn[:, None].repeat(4, axis=1) if trained.path.name == "films" else drawn

    monkeypatch.setattr(drawing, "draw", draw)
    monkeypatch.setattr(trained_runs, "open_trained", lambda path: RUNS[path.name])
    (run / "films").mkdir()
    (run / "painter").mkdir()
    for name in ("films", "painter"):
        (run / name / "config.json").write_text("{}")

    def ask(name: str, *given: str) -> list[Any]:
        path = run / name
        generate.main(["--run", str(path), "--out", str(run / "out"), "--prompt", *given])
        return asked

    ask.asked = asked  # type: ignore[attr-defined]
    return ask


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["small", "a circle"], r"pictures of \(16, 16\) are too small.* --no-watermark"),
        (["painter", "a circle", "--clip", "painter"], "painter is a Painter, no Clip"),
        (["painter", "a star", "--clip", "clip"], "clip has never seen: star"),
        (
            ["films", "a circle", "--clip", "clip"],
            "clip sees pictures, and these are clips",
        ),
        (["films", "a circle", "--clip", "long"], "long sees clips of 6 frames, .* clips of 4"),
        (["painter", "a circle", "--clip", "watcher"], "watcher sees clips .* are pictures"),
        (["clip", "a circle"], "a Clip draws nothing"),
        (["painter", "a circle", "--told", "text"], "--told: a Painter does not read it"),
        (["films", "a circle", "--top-p", "0.5"], "--top-p: a Painter does not read it"),
        (["painter", "a CSAM"], "--prompt: the prompt says"),
        (["painter", "a circle", "--to", "CSAM", "--n", "2"], "--to: the prompt says"),
        (
            ["painter", "", "--image", "x.png", "--clip", "clip"],
            "--clip ranks by a --prompt, and a",
        ),
    ],
)
def test_what_can_be_refused_is_before_anything_is_drawn(
    command: Any, given: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        command(*given)
    assert not command.asked


def test_clips_are_written_as_films_too_where_they_can_be(command: Any, run: Path) -> None:
    if not provenance.can_film():
        pytest.skip("the extra `media` is not installed")
    command("films", "a circle", "--steps", "7", "--guidance", "1.5")
    assert {path.name for path in (run / "out").iterdir()} == {"000.gif", "000.mp4", "sheet.png"}
    (how,) = (each["how"] for each in command.asked)
    assert how.paint == replace(drawing.Drawing().paint, steps=7, guidance=1.5)
    settings = provenance.read(run / "out" / "000.gif")["settings"]
    assert settings["paint"]["steps"] == 7
    assert settings.keys() == {"step", "paint", "number", "marked"}


def test_what_is_begun_is_named_in_what_is_made_of_it(command: Any, run: Path) -> None:
    file = run / "first.png"
    Image.fromarray(pictures(1)[0]).save(file)
    (begun,) = (each["begun"] for each in command("films", "a circle", "--image", str(file)))
    np.testing.assert_array_equal(begun, pictures(1))
    settings = provenance.read(run / "out" / "000.gif")["settings"]
    assert settings["image"] == {
        "file": "first.png",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_and_are_gifs_alone_where_they_cannot(
    command: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "can_film", lambda: False)
    command("films", "a circle")
    assert {path.name for path in (run / "out").iterdir()} == {"000.gif", "sheet.png"}


def test_the_nearest_of_many_are_kept(
    command: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "told", lambda clip, prompts: np.ones((len(prompts), 2)))
    monkeypatch.setattr(choosing, "ranked", lambda clip, prompts, drawn: np.arange(len(drawn)))
    command("films", "a circle", "--clip", "watcher", "--among", "3", "--n", "1")
    assert (run / "out" / "000.gif").exists()
    shutil.rmtree(run / "out")
    command("painter", "a circle", "--clip", "clip", "--among", "5", "--n", "2")
    assert len([*(run / "out").iterdir()]) == 3
    assert provenance.read(run / "out" / "000.png")["settings"]["among"] == 5
