"""The embedded world through the path of every other prepared set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlm_jax.config import Data
from mlm_jax.data.loader import eval_pairs, train_batches
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Decode, Take, Watch
from mlm_jax.world import clip, scene, story
from mlm_jax.world.grade import grade_caption
from mlm_jax.world.watch import grade_story

TAKE = Take(Decode((48, 48)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root: Path = tmp_path_factory.mktemp("world")
    return Data(name="world/tiny", root=str(root), batch=8)


def test_records_carry_the_truth_and_the_kinds(data):
    source = open_source(data, "train")
    assert len(source) == 64
    for i in (0, 63):
        record = source[i]
        assert scene.from_json(record.truth).objects
        assert record.captions
        assert record.questions
        assert all(asked.kind and len(asked.answers) == 1 for asked in record.questions)


def test_wrong_captions_stand_beside_right_ones(data):
    source = open_source(data, data.train)
    tokenizer = build(data, source)
    told = replace(data, batch=64, captions=2, questions=0, contrary=True)  # the whole split
    batch = next(train_batches(told, source, tokenizer, TAKE, 0))
    numbers = {TAKE(source[i])["image"].tobytes(): i for i in range(64)}
    for row in range(128):
        truth = scene.from_json(source[numbers[batch["image"][row // 2].tobytes()]].truth)
        right, wrong = (tokenizer.decode(rows["target"][row]) for rows in (batch, batch["also"]))
        assert grade_caption(right, truth).wholly_right
        assert not grade_caption(wrong, truth).wholly_right
        assert sum(a != b for a, b in zip(right.split(), wrong.split(), strict=True)) == 1


def test_wrong_captions_of_clips_stand_beside_right_ones(tmp_path: Path) -> None:
    data = Data("clips/one_tiny", root=str(tmp_path), batch=8, captions=1, questions=0)
    source = open_source(data, data.train, frozenset({"video"}))
    tokenizer = build(data, source)
    take = Take(video=Watch(8, Decode((48, 48))))
    batch = next(train_batches(replace(data, contrary=True), source, tokenizer, take, 0))
    truths = {
        take(record)["video"].tobytes(): clip.from_json(record.truth)
        for record in map(source.__getitem__, range(len(source)))
    }
    for row, shown in enumerate(batch["video"]):
        right, wrong = (tokenizer.decode(rows["target"][row]) for rows in (batch, batch["also"]))
        truth = truths[shown.tobytes()]
        assert grade_story(right, truth).wholly_right
        assert not grade_story(wrong, truth).wholly_right
        assert len(story.parse(wrong)) == 1


def test_it_trains_and_evaluates(data):
    source = open_source(data, data.train)
    tokenizer = build(data, source)
    batch = next(train_batches(data, source, tokenizer, TAKE, 0))
    assert batch["image"].shape == (8, 48, 48, 3)
    for rows, texts in ((batch, data.captions), (batch["also"], data.questions)):
        assert len(rows["text"]) == 8 * texts
        assert not np.isin(tokenizer.unk, rows["text"])
    assert len(open_source(data, "novel")) == 32
    test = open_source(data, data.test)
    pairs = [pair for pair, _ in eval_pairs(data, test, tokenizer, TAKE)]
    assert [pair.kind for pair in pairs].count("caption") == len(test)
    assert all(scene.from_json(pair.truth).objects for pair in pairs)
    assert not test.broken
