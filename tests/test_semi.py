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
    ("given", "message"),
    [
        ("--keep 0", "over 0"),
        ("--config vit_tiny", "learns no matching"),
        ("--config CLIPS", "its captions are not graded"),
    ],
)
def test_what_cannot_work_is_refused_before_any_run(
    tmp_path: Path, given: str, message: str
) -> None:
    own = tmp_path / "clips.py"
    own.write_text(
        "from dataclasses import replace\nfrom experiments.configs.match_tiny import config as c\n"
        'config = replace(c, data=replace(c.data, name="clips/one_tiny"))\n'
    )
    given = given.replace("CLIPS", str(own))
    with pytest.raises(UserError, match=message):
        semi.main(["--out", str(tmp_path / "semi"), *given.split()])
    assert [*tmp_path.iterdir()] == [own]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("--steps 3", "steps is 2, not 3"),
        ("--keep 0.4", "keep is 0.5, not 0.4"),
        ("--unlabelled 21", "unlabelled is 20, not 21"),
        ("--limit 9", "limit is 8, not 9"),
        ("--config match_tiny", "config is match_tiny:tiny, not match_tiny"),
    ],
)
def test_a_cell_of_other_settings_is_refused(tmp_path: Path, changed: str, told: str) -> None:
    out = tmp_path / "semi"
    settings = {"config": "match_tiny:tiny", "unlabelled": 20, "keep": 0.5, "steps": 2, "limit": 8}
    done = {"seed": 0, "figures": dict.fromkeys(semi.FIGURES, 0.5), "pseudo": {}}
    for name in (
        "50-labelled-0",
        "50-unfiltered-0",
        "50-filtered-0",
        "50-rounds-0",
        "100-labelled-0",
    ):
        (out / name).mkdir(parents=True)
        whole = done | {"settings": settings}
        (out / name / "cell.json").write_text(json.dumps(whole))
    assert semi.main(["--out", str(out), *TINY]) == 0
    name, value = changed.split()
    with pytest.raises(UserError, match=rf"50-labelled-0.cell\.json.*{told}.*--out"):
        semi.main(["--out", str(out), *TINY, name, value])
    (out / "50-labelled-0" / "cell.json").write_text(json.dumps(done))
    with pytest.raises(UserError, match="config is unknown, not match_tiny:tiny"):
        semi.main(["--out", str(out), *TINY])


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
