"""What was drawn, as files: marked, with their facts; what the command refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import generate
from mlm_jax import gallery, provenance, watermark
from mlm_jax.config import UserError

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


def test_without_the_mark_the_pictures_are_as_drawn(run: Path) -> None:
    paths = gallery.hang(run / "out", run, PROMPTS, pictures(), seed=0, settings={}, mark=False)
    assert (np.asarray(Image.open(paths[0])) == pictures()[0]).all()
    assert provenance.read(paths[0])["settings"]["marked"] is False


def test_clips_become_gifs_of_marked_frames(run: Path) -> None:
    clips = np.stack([pictures(3)] * 2)
    paths = gallery.hang(run / "out", run, PROMPTS, clips, seed=0, settings={})
    assert [path.name for path in paths] == ["000.gif", "001.gif", "sheet.png"]
    with Image.open(paths[0]) as clip:
        assert provenance.read(paths[0])["prompt"] == "a red circle"
        assert np.asarray(clip.convert("RGB")).shape == (48, 48, 3)


def test_a_folder_in_use_and_pictures_too_small_for_the_mark(run: Path) -> None:
    with pytest.raises(UserError, match="in use"):
        gallery.hang(run, run, PROMPTS, pictures(), seed=0, settings={})
    with pytest.raises(UserError, match="--no-watermark"):
        gallery.hang(run / "out", run, PROMPTS, pictures(side=32), seed=0, settings={})
    assert not (run / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--out", "x"], "--prompt says what"),
        (["--prompt", "a circle", "--clip", "runs/clip"], "into --out"),
        (["--prompt", "a circle", "--to", "a star"], "into --out"),
        (["--prompt", "a", "--to", "b", "--video", "x.mp4", "--out", "x"], "or a --video"),
    ],
)
def test_what_would_be_passed_over_is_refused(given: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        generate.main(["--run", "nowhere", *given])
