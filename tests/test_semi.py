"""Captions from few labels: the table, and every cell of it end to end."""

import json
from pathlib import Path

import pytest

from experiments import semi
from mlm_jax.config import UserError
from mlm_jax.data.rows import read_rows
from mlm_jax.evaluators.texts import Said

TINY = [
    "--config",
    "match_tiny:tiny",
    "--steps",
    "2",
    "--fractions",
    "50",
    "100",
    "--seeds",
    "0",
    "--unlabelled",
    "20",
    "--limit",
    "8",
]


def test_the_table_has_the_mean_and_spread_over_seeds() -> None:
    def row(f1: float, **pseudo: float) -> dict:
        figures = {"caption/facts_f1": f1, "caption/wholly_right": 0.5}
        return {"figures": figures, "pseudo": pseudo}

    text = semi.table(
        {"1-labelled": [row(0.5)], "1-filtered": [row(0.6, wholly_right=0.25), row(0.8)]}
    )
    assert "| 1 % | labelled | 0.500 | 0.500 |  | 1 |" in text
    assert "| 1 % | filtered | 0.700 ± 0.141 | 0.500 ± 0.000 | 0.250 | 2 |" in text


@pytest.mark.parametrize(
    ("given", "message"), [("--keep 0", "over 0"), ("--config vit_tiny", "learns no matching")]
)
def test_what_cannot_work_is_refused_before_any_run(
    tmp_path: Path, given: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        semi.main(["--out", str(tmp_path / "semi"), *given.split()])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_cell_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps write no caption: the teacher's words are put in its mouth, the rest is real."""
    said = Said("a small red circle", 0.0, 0)
    monkeypatch.setattr(semi, "say", lambda trained, asked, texts: [said] * len(asked))
    out = tmp_path / "semi"
    assert semi.main(["--out", str(out), *TINY]) == 0
    found = json.loads((out / "table.json").read_text())
    assert [*found] == ["50-labelled", "50-unfiltered", "50-filtered", "50-rounds", "100-labelled"]
    assert found["50-unfiltered"][0]["pseudo"]["captions"] == 20
    assert found["50-filtered"][0]["pseudo"]["captions"] == 10

    rows = read_rows(out / "50-filtered-0.jsonl", {"image", "captions", "split"})
    labelled = [row for row in rows if row["split"] == "labelled"]
    assert len(labelled) == 32
    assert all(row["image"] >= 32 for row in rows if row["split"] == "pseudo")
    student = json.loads((out / "50-filtered-0" / "config.json").read_text())["data"]
    assert student["train"] == "labelled+pseudo"
    assert student["tokenizer"] == str(out / "50-labelled-0" / "tokenizer.json")

    capsys.readouterr()
    assert semi.main(["--out", str(out), *TINY]) == 0
    assert "a new run" not in capsys.readouterr().out
