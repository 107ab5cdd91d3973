"""The set on the disk: the same whoever builds it, whole or not there at all."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mlm_jax.world import builder, examples, scene
from mlm_jax.world.builder import prepare
from mlm_jax.world.examples import Kind
from mlm_jax.world.render import render

VERSION = str(builder.World.VERSION)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("world")
    prepare(folder, "world/tiny")
    return folder


def test_splits_are_read_back_as_they_were_made(root):
    built = prepare(root, "world/tiny")
    by_folder = tfds.builder_from_directory(str(root / "world" / "tiny" / VERSION))
    for split, count in {"train": 64, "validation": 32, "test": 32, "novel": 32}.items():
        read, again = built.as_data_source(split), by_folder.as_data_source(split)
        assert len(read) == len(again) == count
        for i in (0, 17, count - 1):
            made, row = examples.example(split, i, Kind()), read[i]
            truth = scene.from_json(row["scene"].decode())
            assert row["scene"] == again[i]["scene"] == made["scene"].encode()
            assert (row["image"] == render(truth)).all()
            assert [text.decode() for text in row["captions"]] == made["captions"]
            for key in ("kind", "question", "answer"):
                texts = [text.decode() for text in row["questions"][key]]
                assert texts == [asked[key] for asked in made["questions"]]
    assert len(built.as_data_source("train[:90%]")) == 58
    assert "tensorflow" not in sys.modules


def test_splits_share_no_picture(root):
    built = prepare(root, "world/tiny")
    seen = [row["scene"] for split in built.info.splits for row in built.as_data_source(split)]
    assert len(set(seen)) == len(seen) == 160


def test_the_number_of_processes_changes_nothing():
    alone, several = (
        list(examples.examples("novel", 230, Kind(size=32), processes=processes))
        for processes in (1, 3)
    )
    assert alone == several
    assert len(alone) == 230


def test_other_sizes_are_other_configs(monkeypatch, tmp_path):
    config = next(each for each in builder.World.BUILDER_CONFIGS if each.name == "96px")
    monkeypatch.setattr(config, "train", 6)
    monkeypatch.setattr(config, "rest", 2)
    built = prepare(tmp_path, "world/96px")
    assert built.as_data_source("train")[5]["image"].shape == (96, 96, 3)


def test_a_built_set_is_reused(root, monkeypatch):
    monkeypatch.setattr(builder, "build", lambda *_: pytest.fail("built again"))
    assert len(prepare(str(root), "world/tiny").as_data_source("test")) == 32


def test_a_new_version_is_built_beside_the_old(root, monkeypatch):
    monkeypatch.setattr(builder.World, "VERSION", tfds.core.Version("9.0.0"))
    prepare(root, "world/tiny")
    found = {path.name for path in (root / "world" / "tiny").glob("*.*.*")}
    assert found == {VERSION, "9.0.0"}


KILLED = """
import os, signal, sys
from mlm_jax.world import builder
def some(*arguments, **options):
    for i, example in enumerate(make(*arguments, **options)):
        if i == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        yield example
make, builder.examples = builder.examples, some
builder.prepare(sys.argv[1], "world/tiny")
"""


def test_a_killed_build_is_never_read_and_leaves_nothing(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -9
    folder = tmp_path / "world" / "tiny"
    assert list(folder.glob("incomplete.*"))
    assert not (folder / VERSION).exists()
    assert len(prepare(tmp_path, "world/tiny").as_data_source("train")) == 64
    assert {path.name for path in folder.iterdir()} == {VERSION, ".lock"}


def test_of_two_builds_at_once_one_waits(tmp_path):
    command = [sys.executable, "-m", "mlm_jax.world.builder", str(tmp_path), "world/tiny"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [each.communicate()[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], told
    assert sum("building world/tiny: 160 of 160" in text for text in told) == 1
    assert len(prepare(tmp_path, "world/tiny").as_data_source("train")) == 64


def test_mistakes_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=re.escape("no world/48; did you mean world/48px?")):
        prepare(tmp_path, "world/48")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot build world/tiny below .*file.*--data\.root"):
        prepare(tmp_path / "file", "world/tiny")
    usage = builder.shutil.disk_usage(tmp_path)._replace(free=1 << 19)
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="0 MiB are free"):
        prepare(tmp_path, "world/tiny")
    assert not (tmp_path / "world" / "tiny" / VERSION).exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("write(): No space left on ...")]
)
def test_a_disk_that_fills_up_is_explained(tmp_path, monkeypatch, error):
    def full(*_, **__):
        yield examples.example("train", 0, Kind())
        raise error

    monkeypatch.setattr(builder, "examples", full)
    with pytest.raises(OSError, match=r"cannot build world/tiny below .*: No space left"):
        prepare(tmp_path, "world/tiny")
    assert [path.name for path in (tmp_path / "world" / "tiny").iterdir()] == [".lock"]


def test_an_interrupted_build_gives_the_terminal_back(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        yield examples.example("train", 0, Kind())
        raise KeyboardInterrupt

    bars = []
    monkeypatch.setattr(builder, "examples", interrupted)
    monkeypatch.setattr(builder.Progress, "stop", lambda bar: bars.append(bar))
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, "world/tiny")
    assert len(bars) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["ROOT", "clip/48px"], "error: no set 'clip'; there are: world, clips"),
        (["ROOT", "world/48"], "error: no world/48; did you mean world/48px? There are: 48px"),
        ([], "python -m mlm_jax.world.builder ROOT"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, argv, said):
    assert builder.main([str(tmp_path) if each == "ROOT" else each for each in argv]) == 2
    shown = capsys.readouterr()
    assert said in shown.out + shown.err


def test_a_worker_that_dies_is_noticed(monkeypatch):
    monkeypatch.setattr(examples.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended early"):
        list(examples.examples("train", 500, Kind(), processes=2))


def test_examples_are_numbered_by_split_and_index():
    truths = [examples.example(split, 3, Kind(size=32))["scene"] for split in examples.SPLITS]
    assert len(set(truths)) == len(truths)
    rng = np.random.default_rng([0, 3])
    assert truths[0] == scene.to_json(scene.sample(rng))
