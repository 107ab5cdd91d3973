import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlm_jax.config import UserError
from mlm_jax.data import validate

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "validate.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MLM_JAX_CACHE": ""},
    )


@pytest.fixture
def mine(own, tmp_path) -> Path:
    """Eleven rows, of which all but two are broken."""
    path = own(
        [
            {"image": "0.png", "captions": "a red circle"},
            {"image": "1.png", "captions": "good"},
            b"{not json",
            b'{"image": "1.png", "captions": "caf\xe9"}',
            {"image": "2.png", "question": "is the picture missing?", "answers": "yes"},
            {"image": "2.png", "question": "is it still?", "answers": "yes"},
            {"image": "3.png", "captions": "truncated"},
            {"image": "0.png", "captions": "word " * 40},
            {"image": "0.png", "question": "how many?", "answers": []},
            {"image": "0.png", "question": "long? " * 33, "answers": "yes"},
            {"image": "../0.png", "captions": "outside"},
        ],
        pictures=2,
    )
    (tmp_path / "3.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    return path


def test_every_broken_row_is_named_once(mine, capsys):
    assert validate.main(["--data.name", str(mine)]) == 1
    *lines, totals = capsys.readouterr().out.splitlines()
    broken = {}
    for line in lines:
        assert line.startswith(f"{mine}:")
        row, reason = line.removeprefix(f"{mine}:").split(": ", 1)
        assert int(row) not in broken
        broken[int(row)] = reason
    starts = {
        3: "row: invalid JSON",
        4: "row: invalid UTF-8",
        5: "image: '2.png' is not in",
        6: "image: '2.png' is not in",
        7: "image: not a readable picture",
        8: "text: 'word word",
        9: "answers: an empty list",
        10: "text: 'long? long?",
        11: "image: '../0.png' leaves its folder",
    }
    assert broken.keys() == starts.keys()
    assert all(broken[row].startswith(starts[row]) for row in starts)
    assert totals == f"{mine}: 11 rows, 5 pictures, 9 rows broken"


def test_a_good_set_is_good(own, capsys):
    rows = [{"image": f"{i}.png", "captions": "x", "split": "ab"[i]} for i in range(2)]
    assert validate.main(["--data.name", str(own(rows, pictures=2))]) == 0
    assert capsys.readouterr().out.endswith(": 2 rows, 2 pictures, 0 rows broken\n")


def test_each_file_of_the_splits_is_read(own, tmp_path, capsys):
    own([{"image": "0.png", "captions": "x"}], pictures=1, name="a.jsonl")
    own([{"image": "0.png", "captions": ""}], name="b.jsonl")
    name = str(tmp_path / "{split}.jsonl")
    splits = ["--data.train", "a[:50%]", "--data.test", "a[50%:]+b"]
    assert validate.main(["--data.name", name, *splits]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{name} (a): 1 rows, 1 pictures, 0 rows broken"
    assert lines[1].startswith(f"{tmp_path / 'b.jsonl'}:1: captions: an empty text")
    assert lines[-1] == f"{name} (b): no usable rows"


def test_a_missing_file_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl: no such file"):
        validate.main(["--data.name", str(tmp_path / "no.jsonl")])


def test_the_command(mine, tmp_path):
    bad = run("--data.name", str(mine))
    assert bad.returncode == 1
    assert bad.stdout.count("\n") == 10
    assert bad.stderr == ""
    missing = run("--data.name", str(tmp_path / "no.jsonl"))
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert missing.stderr.startswith("error: ")
    assert missing.stderr.count("\n") == 1
    assert "Traceback" not in missing.stderr
