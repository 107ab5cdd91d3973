"""The page: escaped, one alt text a picture, no script; colours even to the eye; bad input."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import explain
from mlm_jax.config import UserError
from mlm_jax.explaining.asked import Word
from mlm_jax.explaining.colours import SCALE, over
from mlm_jax.explaining.measures import Measured
from mlm_jax.explaining.page import Explained, measures_page, page_of, place_of, sheet
from mlm_jax.metrics import Figure

SCRIPT = Path(__file__).parents[2] / "experiments" / "explain.py"


class Read(HTMLParser):
    """Tags that are open, pictures, places that can be linked to, and links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.alts: list[str | None] = []
        self.ids: list[str | None] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.alts.append(named.get("alt"))
            assert (named["src"] or "").startswith("data:image/png;base64,")
        if "id" in named:
            self.ids.append(named["id"])
        if tag == "a":
            self.links.append(named["href"])


def found(**changes: Any) -> Explained:
    rng = np.random.default_rng(0)
    words = [Word("<b>a</b>", 0, 8, range(1)), Word("star", 9, 13, range(1, 2))]
    whole = {
        "run": "runs/<i>x</i>",
        "question": "<script>alert(1)</script>",
        "text": "<b>a</b> star",
        "words": words,
        "probabilities": [0.5, 0.25],
        "pictures": {"image": rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)},
        "maps": {
            "attention": {"image": rng.random((2, 16, 16), np.float32)},
            "occlusion": {"image": rng.normal(size=(2, 16, 16)).astype(np.float32)},
        },
        "layers": {"image": rng.random((2, 2, 3, 16, 16), np.float32)},
    }
    return Explained(**(whole | changes))


def test_page_escapes_and_names_every_picture() -> None:
    text = page_of(found())
    assert "<script" not in text
    assert "<b>a</b>" not in text
    assert "<i>x</i>" not in text
    page = Read()
    page.feed(text)
    assert len(page.alts) == 1 + 1 + 2 * (2 + 1)  # picture, legend; a word's methods and heads
    assert all(page.alts)
    assert len(set(page.alts)) == len(page.alts)
    assert page.links == [f"#{place}" for place in page.ids]
    assert page.tags.count("details") == page.tags.count("summary") == 2
    assert not re.search(r"\bon\w+=", text.split("</style>")[1].replace("content=", ""))


def seen_and_heard() -> Explained:
    rng = np.random.default_rng(0)
    return found(
        pictures={
            "video": rng.integers(0, 256, (16, 4 * 16, 3)).astype(np.uint8),
            "audio": rng.integers(0, 256, (10, 30, 3)).astype(np.uint8),
        },
        maps={
            "attention": {
                "video": rng.random((2, 4, 16, 16), np.float32),
                "audio": rng.random((2, 30, 10), np.float32),
            }
        },
        layers={
            "video": rng.random((2, 2, 3, 4, 16, 16), np.float32),
            "audio": rng.random((2, 2, 3, 30, 10), np.float32),
        },
    )


def test_page_of_clips_and_sounds() -> None:
    page = Read()
    page.feed(page_of(seen_and_heard()))
    assert len(page.alts) == 2 + 1 + 2 * (2 + 2)
    assert any("frame" in (alt or "") for alt in page.alts)


def test_places_are_told() -> None:
    values = np.zeros((9, 9))
    assert place_of("image", values) == "nowhere"
    values[0, 8] = 1
    assert place_of("image", values) == "upper right"
    clip = np.zeros((4, 9, 9))
    clip[2, 8, 4] = 1
    assert place_of("video", clip) == "frame 3 of 4, lower middle"


def test_colours_are_even() -> None:
    """Steps of one length in Oklab, from dark to light; computed here from sRGB."""
    level = SCALE.astype(float) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    points = np.cbrt(linear @ cones.T) @ lab.T
    apart = np.linalg.norm(np.diff(points[::16], axis=0), axis=1)
    assert apart.max() / apart.min() < 1.15
    assert (np.diff(points[:, 0][::8]) > 0).all()


def test_overlay() -> None:
    """Nothing is the darkest colour over the picture, whatever the scale of the map."""
    picture = np.full((4, 4, 3), 100, np.uint8)
    values = np.zeros((4, 4), np.float32)
    np.testing.assert_array_equal(over(picture, values), over(picture, -np.ones_like(values)))
    values[1, 2] = 3e-7
    drawn = over(picture, values)
    assert drawn.sum(-1).argmax() == 6
    np.testing.assert_array_equal(drawn, over(picture, values * 1e6))
    tiles = sheet(np.ones((2, 3, 100, 100), np.float32), np.zeros((100, 100, 3), np.uint8))
    assert tiles.shape == (2 * 27, 3 * 27, 3)


def measured() -> Measured:
    figure = Figure(0.5, 0.4, 0.6, 10)
    return Measured(
        {"attention/pointing": figure, "chance/pointing": figure, "attention/random": figure},
        {"attention": "layer <1>"},
        {"attention": {"layer <1>": 0.5, "all": 0.4}},
        {"deletion": {"attention": [1.0, 0.5, 0.0], "chance": [1.0, 0.9, 0.0]}},
        10, 20, 48, 4.0,
    )  # fmt: skip


def test_measures_page() -> None:
    page = measures_page(measured(), Path("runs/vit"))
    assert "layer &lt;1&gt;" in page
    assert "layer <1>" not in page
    assert page.count("<b>0.500</b>") == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--measure", "--image", "x.png"], "no --image with --measure"),
        (["--measure", "--audio", "x.wav"], "no --audio with --measure"),
        (["--measure", "--question", "why?"], "no --question with --measure"),
        (["--measure", "--times", "3"], "no --times with --measure"),
        (["--image", "x.png", "--pictures", "100"], "--pictures is for --measure alone"),
        (["--image", "x.png", "--json", "f.json"], "--json is for --measure alone"),
        (["--pictures", "100"], "--pictures is for --measure alone"),
    ],
)
def test_what_would_not_be_read_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        explain.main(["--run", "nowhere", *given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "nothing to explain"),
        (["--image", "x.png", "--out", "nowhere/at/all.html"], "there is no folder"),
        (["--image", "x.png"], "is no run directory"),
    ],
)
def test_bad_input(given: list[str], message: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--run", str(tmp_path), *given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 2
    assert message in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
