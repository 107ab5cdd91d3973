"""A card says what the run directory holds, and "not measured" where it holds nothing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import card as command
from experiments.configs import dalle_tiny, gpt_tiny, painter_tiny
from mlm_jax import drawing
from mlm_jax.card import DRAW, NONE, STAGES, SYNTHETIC, card, evaluated
from mlm_jax.checkpoint import WATCHED, seal
from mlm_jax.config import Config, Data, Stage, UserError, to_json
from mlm_jax.data.own import is_own

EVIL = "# <b>a</b> | [x](y)\n\n## *b* `c`"
CONFIG = replace(gpt_tiny.config, data=Data("mine.jsonl", batch=4), steps=12)
FIGURE = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 1_234}


def make_run(folder: Path, config: Config) -> Path:
    """A run directory of which only the configuration was written."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    return folder


@pytest.fixture
def bare(tmp_path) -> Path:
    return make_run(tmp_path / "words", CONFIG)


@pytest.fixture
def trained(bare) -> Path:
    """The same with all that training and evaluating leave, written by hand."""
    for step, width in ((8, 5), (12, 4), (100, 0)):
        info = bare / "checkpoints" / str(step) / "info"
        info.mkdir(parents=True)
        arrays = {"params/a": ["float32", [3, width], 1], "params/b": ["float32", [], 1]}
        whole = {"arrays": {**arrays, "opt/a": ["float32", [3, width], 1]}}
        (info / "metadata").write_text(json.dumps(whole) if width else "cut sho")
    lines = [{"step": 6, "loss": 2.0, "test/loss": 2.5}, {"step": 12, "loss": 1.25}]
    (bare / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = {"time": "2026-01-02", "python": "3.11", "versions": {"jax": "0.10"}}
    start |= {"git": {"commit": "abc", "changed": True}, "command": ["train.py", EVIL]}
    (bare / "run.json").write_text(json.dumps([{}, start]))
    figures = {"caption/facts_f1": FIGURE, EVIL: FIGURE}
    (bare / "evaluation.json").write_text(json.dumps(figures))
    (bare / "evaluation_novel.json").write_text(json.dumps(figures))
    (bare / "examples_novel.json").write_text(json.dumps({"asked": "--guidance 2.0"}))
    return bare


def test_a_run_that_holds_nothing(bare):
    text = card(bare)
    lines = text.splitlines()
    assert lines[0] == "# `words`"
    assert "- Class: `mlm_jax.models.gpt.Gpt`" in lines
    assert "- Set: `mine.jsonl`" in lines
    for line in ("Parameters", "Last loss", "Last test/loss", "Spread over seeds"):
        assert f"- {line}: {NONE}" in lines
    assert "- Checkpoint: none" in lines
    assert "- Steps: 0 of 12, 4 examples each" in lines
    assert f"{NONE.capitalize()}." in lines
    assert "by rule" not in text


def test_what_was_trained_and_scored(trained):
    lines = card(trained).splitlines()
    assert "- Parameters: 13" in lines
    assert "- Checkpoint: step 12" in lines
    assert "- Steps: 12 of 12, 4 examples each" in lines
    assert "- Last loss: 1.25" in lines
    assert "- Last test/loss: 2.5" in lines
    assert "- Last started 2026-01-02, Python 3.11: jax 0.10" in lines
    assert "- Source: commit abc, with changes" in lines
    row = "| facts F1 (`caption/facts_f1`) | 0.500 | 0.250 to 0.750 | 1,234 |"
    assert lines.count(row) == 2
    assert "- Figures hold for: `test`, `novel`" in lines
    assert "Split `test`" in lines
    assert "Split `novel`, asked with `--guidance 2.0`" in lines


def test_the_newest_checkpoint_that_can_be_read(trained):
    step, shapes = evaluated(trained)
    assert step == 12
    assert shapes == {"params/a": [3, 4], "params/b": []}


def test_the_checkpoint_that_figures_are_of_is_the_best_where_the_best_is_kept(trained):
    (trained / "config.json").write_text(json.dumps(to_json(replace(CONFIG, keep_best=1))))
    for step, loss in ((8, 0.5), (12, 0.75)):
        info = trained / "checkpoints" / str(step) / "info" / "metadata"
        info.write_text(json.dumps(seal(json.loads(info.read_text()) | {WATCHED: loss})))
    assert "- Checkpoint: step 8" in card(trained).splitlines()


def test_names_are_shown_as_text(trained):
    config = replace(CONFIG, data=Data(EVIL, images=(EVIL,), tokenizer=EVIL))
    (trained / "config.json").write_text(json.dumps(to_json(config)))
    text = card(trained)
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert text.count("<b>a</b>") >= 6
    assert not set("<[*`") & set(outside)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# `words`",
        *(f"## {title}" for title in re.findall(r"^## (.*)$", outside, re.MULTILINE)),
    ]
    assert len(re.findall(r"^#", text, re.MULTILINE)) == 8
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5}


@pytest.mark.parametrize("config", [dalle_tiny.config, painter_tiny.config])
def test_what_draws(tmp_path, config):
    text = card(make_run(tmp_path / "run", replace(config, codes=Stage("runs/codes|x"))))
    assert "an invisible mark" in text
    assert "made by rule" in text
    assert "- Its part `codes`, held still: from `runs/codes/x`" in text


def test_what_does_not_draw(bare):
    assert "draws no pictures" in card(bare)


def test_what_is_named_is_there():
    assert {kind.__name__ for kind in drawing.DRAWERS} == {*DRAW}
    assert not any(map(is_own, SYNTHETIC))
    fields = Config.__dataclass_fields__
    assert set(STAGES) == {name for name, each in fields.items() if each.type in (Stage, "Stage")}


def test_the_command_writes_it_and_prints_where(bare, capsys):
    assert command.main(["--run", str(bare)]) == 0
    assert capsys.readouterr().out.strip() == str(bare / "card.md")
    assert (bare / "card.md").read_text() == card(bare)


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="is no run directory"):
        command.main(["--run", str(tmp_path)])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        card(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
