"""The real sets of the shared folder open with the counts of their README, and train."""

from pathlib import Path

import pytest

from mlm_jax.config import Data, Fields
from mlm_jax.data.loader import eval_pairs, train_batches
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Decode, Take


def easy_vqa(shared: Path) -> Data:
    folder = shared / "easy_vqa"
    return Data(
        name=f"{folder}/{{split}}.jsonl",
        images=(f"{folder}/images_{{split}}.zip",),
        fields=Fields(answers="answer"),
        train="train[:90%]",
        test="train[90%:]",
    )


def shapes(shared: Path) -> Data:
    folder = shared / "shapes"
    return Data(
        name=f"{folder}/{{split}}.jsonl",
        images=(f"{folder}/{{split}}.npz",),
        fields=Fields(answers="answer"),
        train="train_small+train_large_regen",
        test="val",
    )


def nlvr(shared: Path) -> Data:
    folder = shared / "nlvr"
    return Data(
        name=f"{folder}/{{split}}.jsonl",
        images=(f"{folder}/images_train.zip", f"{folder}/images_dev.zip"),
        fields=Fields(question="sentence", answers="label"),
        train="train_presented+train_lf_pairs",
        test="dev",
    )


def emoji(shared: Path) -> Data:
    folder = shared / "emoji"
    return Data(
        name=f"{folder}/emoji.jsonl",
        images=(f"{folder}/images_72.zip",),
        fields=Fields(captions="name"),
        test="val",
    )


def counts(data: Data, split: str) -> tuple[int, int, int]:
    """Pictures, captions, questions."""
    source = open_source(data, split)
    assert source.broken == {}
    prompts = list(source.corpus())
    records = [source[i] for i in range(len(source))]
    captions = sum(len(record.captions) for record in records)
    questions = sum(len(record.questions) for record in records)
    told = sum(bool(record.captions) for record in records)
    answers = sum(len(asked.answers) for record in records for asked in record.questions)
    assert len(prompts) == told + captions + questions + answers
    return len(source), captions, questions


def test_easy_vqa(shared):
    data = easy_vqa(shared)
    train, test = counts(data, data.train), counts(data, data.test)
    assert (train[0], test[0], train[2] + test[2]) == (3600, 400, 38_575)
    answers = (shared / "easy_vqa" / "answers.txt").read_text().split()
    source = open_source(data, data.test)
    assert {a for r in source for q in r.questions for a in q.answers} == set(answers)


def test_shapes(shared):
    data = shapes(shared)
    assert counts(data, data.train) == (14_208, 0, 14_208)
    assert counts(data, data.test) == (1024, 0, 1024)
    asked = [
        {q.text for r in open_source(data, s) for q in r.questions} for s in (data.train, "val")
    ]
    assert not asked[0] & asked[1]


def test_nlvr(shared):
    data = nlvr(shared)
    assert counts(data, "train_presented")[2] == 3523
    assert counts(data, "train_lf_pairs")[2] == 22_034
    assert counts(data, data.test) == (989, 0, 989)
    answers = [r.questions[0].answers[0] for r in open_source(data, data.test)]
    assert set(answers) == {"true", "false"}
    assert round(100 * answers.count("true") / len(answers), 2) == 55.31


def test_emoji(shared):
    data = emoji(shared)
    train, val = counts(data, data.train), counts(data, data.test)
    assert train[0] == train[1]
    assert counts(data, "all") == (train[0] + val[0], train[1] + val[1], 0)
    names = [record.captions[0] for record in open_source(data, "all")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("make", [easy_vqa, shapes, nlvr, emoji])
def test_they_train_and_evaluate_with_no_change_but_the_config(shared, make):
    data = make(shared)
    source = open_source(data, data.train)
    tokenizer = build(data, source)
    batch = next(train_batches(data, source, tokenizer, Take(Decode((32, 48))), 0))
    assert batch["image"].shape == (64, 32, 48, 3)
    assert batch["image"].std() > 10
    assert not (batch["text"] == tokenizer.unk).any()
    assert not source.broken
    test = open_source(data, data.test)
    rows = sum(1 for _ in eval_pairs(data, test, tokenizer, Take(Decode((32, 48))), 100))
    assert rows >= 100
    assert not test.broken
