"""What goes with a file is read back; a file is whole or not there, and none is lost."""

import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from mlm_jax import provenance
from mlm_jax.errors import UserError
from mlm_jax.provenance import SOURCE, facts_of, read, sheet, write_gif, write_mp4, write_png

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
FRAMES = [np.full((33, 48, 3), level, np.uint8) for level in (0, 80, 160)]
PROMPT = 'größe <b> & "a" 円 ' + "very " * 100


@pytest.fixture
def facts(tmp_path) -> dict:
    run = tmp_path / "dalle_tiny"
    run.mkdir()
    (run / "config.json").write_text("{}")
    return facts_of(run, PROMPT, seed=3, settings={"guidance": 3.0, "method": "sample"})


def write(path: Path, facts: dict) -> None:
    if path.suffix == ".png":
        write_png(path, PICTURE, facts)
    else:
        {".gif": write_gif, ".mp4": write_mp4}[path.suffix](path, FRAMES, 10, facts)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_facts_are_read_back(tmp_path, facts, suffix):
    path = tmp_path / f"a{suffix}"
    write(path, facts)
    assert read(path) == facts
    assert facts["run"] == "dalle_tiny"
    assert facts["config_sha256"][:8] == "44136fa3"
    assert facts["generated"] is True
    assert facts["digital_source_type"].endswith("trainedAlgorithmicMedia")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", "dalle_tiny"]


def test_a_png_says_it_where_others_look(tmp_path, facts):
    path = tmp_path / "a.png"
    write_png(path, PICTURE, facts)
    with Image.open(path) as image:
        assert (np.asarray(image) == PICTURE).all()
        tree = ET.fromstring(image.info["xmp"])
        assert image.info["Software"].startswith("mlm_jax ")
    texts = [element.text for element in tree.iter()]
    assert SOURCE in texts
    assert PROMPT in texts


def test_what_xml_cannot_say_is_left_out(facts):
    packet = provenance.xmp({**facts, "prompt": "a\x00\ud800<b>"})
    assert "a&lt;b&gt;" in packet
    ET.fromstring(packet)


def test_a_gif_plays(tmp_path, facts):
    path = tmp_path / "a.gif"
    write_gif(path, FRAMES, 8, facts)
    with Image.open(path) as image:
        assert image.n_frames == 3
        assert image.info["duration"] == 120
        image.seek(1)
        assert (np.asarray(image.convert("RGB")) == 80).all()


@pytest.mark.parametrize("suffix", [".png", ".gif", ".mp4"])
def test_no_file_is_overwritten(tmp_path, facts, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("mine")
    with pytest.raises(UserError, match="there already"):
        write(path, facts)
    assert path.read_text() == "mine"


def test_a_file_that_came_meanwhile_stays(tmp_path):
    path = tmp_path / "a.png"
    part = tmp_path / "part"
    part.write_text("new")
    path.write_text("mine")
    with pytest.raises(UserError, match="there already"):
        provenance.settle(part, path)
    assert path.read_text() == "mine"


def test_without_links_it_is_renamed(tmp_path, facts, monkeypatch):
    def refused(*paths: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    write_png(tmp_path / "a.png", PICTURE, facts)
    assert read(tmp_path / "a.png") == facts


def test_what_fails_leaves_nothing(tmp_path, facts):
    with pytest.raises(TypeError):
        write_png(tmp_path / "a.png", PICTURE.astype(float), facts)
    with pytest.raises(UserError, match="cannot be written"):
        write_png(tmp_path / "none" / "a.png", PICTURE, facts)
    assert [p.name for p in tmp_path.iterdir()] == ["dalle_tiny"]


def test_foreign_files_hold_no_facts(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    Image.fromarray(PICTURE).save(tmp_path / "a.gif", comment=b"hello")
    assert read(tmp_path / "a.png") == read(tmp_path / "a.gif") == {}
    (tmp_path / "b.png").write_text(json.dumps({}))
    for name in ("b.png", "none.png", "c.txt"):
        with pytest.raises(UserError):
            read(tmp_path / name)


def test_a_sheet_shows_every_picture_and_caption():
    captions = ["a red circle", "two small green squares are left of a large yellow star", "x" * 90]
    page = sheet([PICTURE] * 3, captions, columns=2)
    large = PICTURE.repeat(3, 0).repeat(3, 1)
    assert page.shape[1] == 8 + 2 * (144 + 8)
    tall = (page.shape[0] - 8) // 2
    for i in range(3):
        y, x = 8 + i // 2 * tall, 8 + i % 2 * 152
        assert (page[y : y + 144, x : x + 144] == large).all()
        assert page[y + 144 : y + tall - 8, x : x + 144].min() < 80
    assert (page[:, :6] == 255).all()
    assert (page[8 + tall :, 8 + 152 :] == 255).all()
