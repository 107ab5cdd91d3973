import logging
from collections import Counter
from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pytest
from conftest import picture

from mlm_jax.config import Data
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.loader import eval_pairs, filled, train_batches, trim
from mlm_jax.data.records import DataError
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Decode, Shift, Take

SIZE = (12, 16)


def take(data: Data, size: tuple[int, int] | None) -> Take:
    return Take(size and Decode(size), shift=Shift(data.shift))


COUNT = 10


def rows() -> list[dict]:
    told = [{"image": f"{i}.png", "captions": [f"c{i}", f"d{i}"]} for i in range(COUNT)]
    asked = [{"image": f"{i}.png", "question": f"q{i}", "answers": f"a{i}"} for i in range(COUNT)]
    return told + asked


@pytest.fixture
def data(own) -> Data:
    path = own(rows(), pictures=COUNT)
    return Data(name=str(path), batch=4, text_length=4, target_length=5, max_broken=0.5, threads=2)


def stream(data: Data, count: int, seed: int = 0, start: int = 0, size=SIZE) -> list[dict]:
    source = open_source(data, "train")
    tokenizer = build(data, source)
    return list(
        islice(train_batches(data, source, tokenizer, take(data, size), seed, start), count)
    )


def same(one: list[dict], two: list[dict]) -> bool:
    return all(
        jax.tree.structure(a) == jax.tree.structure(b)
        and all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
        for a, b in zip(one, two, strict=True)
    )


def number(image: np.ndarray) -> int:
    (found,) = [i for i in range(COUNT) if (image == picture(i)).all()]
    return found


def test_batches_have_the_shapes_of_the_table(data):
    (batch,) = stream(replace(data, captions=3, questions=2), 1, size=(6, 8))
    (asked,) = stream(replace(data, captions=0, questions=2), 1, size=(6, 8))

    def texts(rows: int) -> dict:
        ids, mask = (np.dtype(np.int32), (rows, 4)), (np.dtype(bool), (rows, 4))
        return {"text": ids, "text_mask": mask, "target": ids, "target_mask": mask, "scored": mask}

    image = {"image": (np.dtype(np.uint8), (4, 6, 8, 3))}
    shapes = [jax.tree.map(lambda x: (x.dtype, x.shape), each) for each in (batch, asked)]
    assert shapes == [{**image, **texts(12), "also": texts(8)}, {**image, **texts(8)}]


def test_rows_of_texts_belong_to_their_picture(data):
    tokenizer = build(data, open_source(data, "train"))
    for batch in stream(replace(data, captions=3, questions=2), 20):
        for i, image in enumerate(batch["image"]):
            at = number(image)
            for row in range(3 * i, 3 * i + 3):
                assert tokenizer.decode(batch["text"][row]) == CAPTION_PROMPT
                assert tokenizer.decode(batch["target"][row]) in (f"c{at}", f"d{at}")
            for row in range(2 * i, 2 * i + 2):
                assert tokenizer.decode(batch["also"]["text"][row]) == f"q{at}"
                assert tokenizer.decode(batch["also"]["target"][row]) == f"a{at}"


def test_a_batch_may_be_one_picture(data):
    images = [number(batch["image"][0]) for batch in stream(replace(data, batch=1), 3 * COUNT)]
    assert sorted(Counter(images).values()) == [3] * COUNT


def test_columns_that_hold_only_padding_are_left_out():
    lengths, width = np.array([3, 5, 1]), 20
    mask = np.arange(width) < lengths[:, None]
    ids = np.where(mask, 7, 0)
    whole = {"text": ids, "text_mask": mask, "target": ids[:1], "target_mask": mask[:1]}
    cut = trim(whole | {"also": whole})
    assert cut["also"]["text"].shape == (3, 8)
    assert cut["text"].shape == cut["text_mask"].shape == (3, 8)
    assert cut["target"].shape == (1, 4)
    np.testing.assert_array_equal(cut["text_mask"].sum(1), lengths)
    full = {key: np.ones((1, 18), bool) for key in whole}
    assert trim(full)["text"].shape == (1, 18)


def test_the_last_rows_are_filled_up_with_the_last_of_all():
    assert [*filled(iter("abc"), 2)] == [(["a", "b"], 2), (["c", "c"], 1)]
    assert [*filled("ab", 2)] == [(["a", "b"], 2)]
    assert [*filled("", 2)] == []


def test_every_picture_occurs_once_an_epoch_in_another_order(data):
    images = [number(image) for batch in stream(data, 15) for image in batch["image"]]
    epochs = [images[i : i + COUNT] for i in range(0, 60, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


@pytest.mark.parametrize("start", [1, 3, 14])
def test_a_resumed_stream_is_the_uninterrupted_one(data, start):
    data = replace(data, shift=2)
    whole = stream(data, 16)
    assert same(stream(data, 16 - start, start=start), whole[start:])


@pytest.mark.parametrize("threads", [0, 1, 7])
def test_threads_do_not_change_the_stream(data, threads):
    data = replace(data, shift=2)
    assert same(stream(replace(data, threads=threads), 8), stream(data, 8))


def test_the_seed_changes_the_stream(data):
    assert not same(stream(data, 3, seed=0), stream(data, 3, seed=1))
    assert len(stream(data, 1, seed=2**40)) == 1


@pytest.fixture
def damaged(data, tmp_path) -> Data:
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "4.png").unlink()
    return data


def test_a_broken_record_is_replaced_by_the_next_good_one(damaged):
    images = [number(image) for batch in stream(damaged, 15) for image in batch["image"]]
    expected = {i: 18 if i == 5 else 6 for i in range(COUNT) if i not in (3, 4)}
    assert Counter(images) == expected


def test_a_stream_with_broken_records_resumes_exactly(damaged):
    assert same(stream(damaged, 6, start=4), stream(replace(damaged, threads=0), 10)[4:])


def test_broken_records_are_counted_and_named_once(damaged, caplog):
    source = open_source(damaged, "train")
    tokenizer = build(damaged, source)
    with caplog.at_level(logging.WARNING, "mlm_jax.data"):
        list(islice(train_batches(damaged, source, tokenizer, take(damaged, SIZE), 0), 20))
    assert sorted(source.broken) == [f"{damaged.name}:4", f"{damaged.name}:5"]
    assert "not a readable picture" in source.broken[f"{damaged.name}:4"]
    assert "'4.png' is not in" in source.broken[f"{damaged.name}:5"]
    assert len(caplog.records) == 2


def test_too_many_broken_records_end_the_stream(damaged):
    assert len(stream(replace(damaged, max_broken=0.2), 10)) == 10
    with pytest.raises(
        DataError, match=r"2 of 10 records.*--data.max-broken 0.19; the last: .*:[45]:"
    ):
        stream(replace(damaged, max_broken=0.19), 10)


def test_nothing_usable_ends_the_stream(own):
    path = own([{"image": "0.png", "captions": "x"}])
    with pytest.raises(DataError, match="no usable record"):
        stream(Data(name=str(path), batch=2, max_broken=1.0), 1)


def test_a_text_that_is_too_long_is_a_broken_record(own):
    lines = [{"image": "0.png", "captions": "one"}, {"image": "1.png", "captions": "one " * 9}]
    path = own(lines, pictures=2)
    data = Data(name=str(path), batch=2, target_length=5, max_broken=0.5)
    source = open_source(data, "train")
    batch = next(train_batches(data, source, build(data, source), take(data, SIZE), 0))
    assert [number(image) for image in batch["image"]] == [0, 0]
    assert list(source.broken) == [f"{path}:2"]
    assert "--data.target-length 5 accepts 3" in source.broken[f"{path}:2"]


def pairs(data: Data, limit: int | None = None):
    source = open_source(data, "train")
    return list(eval_pairs(data, source, build(data, source), take(data, SIZE), limit))


def test_evaluation_meets_every_text_once_in_order(data):
    found = [(pair.index, pair.question, pair.references, pair.kind) for pair, _ in pairs(data)]
    expected = []
    for i in range(COUNT):
        expected.append((i, CAPTION_PROMPT, (f"c{i}", f"d{i}"), "caption"))
        expected.append((i, f"q{i}", (f"a{i}",), ""))
    assert found == expected


def test_evaluation_skips_broken_records_and_counts_them(damaged):
    assert {pair.index for pair, _ in pairs(damaged)} == set(range(COUNT)) - {3, 4}
    with pytest.raises(DataError, match="max-broken"):
        pairs(replace(damaged, max_broken=0.1))


def test_a_limit_spreads_over_the_source(data):
    assert [pair.index for pair, _ in pairs(data, 5)] == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert len(pairs(data, 1000)) == 2 * COUNT


def test_the_commonest_answer_is_the_target(own):
    line = {"image": "0.png", "question": "q", "answers": ["a", "b", "b", "c"]}
    data = Data(name=str(own([line], pictures=1)))
    tokenizer = build(data, open_source(data, "train"))
    ((pair, arrays),) = pairs(data)
    assert pair.references == ("a", "b", "b", "c")
    assert pair.target == tokenizer.decode(arrays["target"]) == "b"


def test_evaluation_pairs_hold_what_they_say(data):
    tokenizer = build(data, open_source(data, "train"))
    for pair, arrays in pairs(data):
        assert number(arrays["image"]) == pair.index
        assert tokenizer.decode(arrays["text"]) == pair.question
        assert tokenizer.decode(arrays["target"]) == pair.target


def test_evaluation_decodes_as_training_does(data):
    assert all(
        (arrays["image"] == Decode(SIZE)(picture(pair.index))).all() for pair, arrays in pairs(data)
    )
