"""Sets prepared by TFDS, written here by a builder as small as one can be."""

import shutil
import subprocess
import sys
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import encoded, picture

from mlm_jax.config import Data, Fields
from mlm_jax.data.loader import train_batches
from mlm_jax.data.records import BadRecord, DataError, Question
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Decode, Take

COUNT = 20
FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
    "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
    "questions": tfds.features.Sequence(
        {
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "kind": tfds.features.Text(),
        }
    ),
    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=["cat", "dog"])),
    "name": tfds.features.Text(),
    "count": np.int64,
    "raw": tfds.features.Tensor(shape=(2, 3, 3), dtype=np.uint8),
}


def example(i: int) -> dict[str, Any]:
    return {
        "image": BytesIO(encoded(picture(i))),
        "captions": [{"text": f"c{i} {k}", "id": k} for k in range(i % 3)],
        "questions": [
            {"question": f"q{i} {k} é?", "answer": f"a{i}", "kind": "count"}
            for k in range(1 + i % 2)
        ],
        "label": i % 2,
        "labels": [0, 1],
        "name": f"name{i}" if i != 7 else "",
        "count": i,
        "raw": picture(i, 2, 3),
    }


class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(FEATURES), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(COUNT), "test": self._generate_examples(4)}

    def _generate_examples(self, count: int) -> Any:
        for i in range(count):
            yield i, example(i)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
    (folder / "tiny" / "1.3.0.incompleteX").mkdir()
    info = (folder / "tiny" / "1.2.0" / "dataset_info.json").read_text()
    (folder / "tiny" / "1.3.0.incompleteX" / "dataset_info.json").write_text(info)
    return folder


ASKED = Fields(captions="captions/text", question="questions/question", answers="questions/answer")


def data(root: Path, name: str = "tiny", fields: Fields = ASKED) -> Data:
    return Data(name=name, root=str(root), fields=fields, batch=4, max_broken=0.5)


def test_records_are_what_was_written(root):
    source = open_source(data(root), "train")
    assert len(source) == source.rows == COUNT
    for i in range(COUNT):
        record = source[i]
        assert record.key == f"tiny train:{i}"
        assert record.image == encoded(picture(i))
        assert record.captions == tuple(f"c{i} {k}" for k in range(i % 3))
        assert record.questions == tuple(
            Question(f"q{i} {k} é?", (f"a{i}",), "count", record.key) for k in range(1 + i % 2)
        )


def test_slices_and_sums_are_those_of_tfds(root):
    source = open_source(data(root), "train[50%:60%]+test[:1]")
    assert [record.questions[0].answers[0] for record in source] == ["a10", "a11", "a0"]


@pytest.mark.parametrize("name", ["tiny", "tiny:1.2.0"])
def test_the_finished_version_is_found(root, name):
    assert len(open_source(data(root, name), "test")) == 4


@pytest.mark.parametrize(
    ("fields", "captions"),
    [
        (Fields(captions="label"), ("dog",)),
        (Fields(captions="labels"), ("cat", "dog")),
        (Fields(captions="name"), ("name3",)),
        (Fields(captions="count"), ("3",)),
    ],
)
def test_any_feature_with_text_in_it_can_be_the_caption(root, fields, captions):
    record = open_source(data(root, fields=fields), "train")[3]
    assert (record.captions, record.questions) == (captions, ())


def test_one_question_of_plain_features(root):
    record = open_source(
        data(root, fields=Fields(captions="", question="name", answers="label")), "train"
    )[4]
    assert record.questions == (Question("name4", ("cat",), "", "tiny train:4"),)


def test_pictures_may_be_plain_arrays(root):
    record = open_source(data(root, fields=Fields(image="raw", captions="label")), "train")[4]
    assert (record.image == picture(4, 2, 3)).all()


def test_an_empty_text_is_a_broken_record(root):
    source = open_source(data(root, fields=Fields(captions="name")), "train")
    with pytest.raises(BadRecord, match="tiny train:7: name: an empty text; accepted"):
        source[7]


def test_the_stream_reads_it(root):
    source = open_source(data(root), "train")
    tokenizer = build(data(root), source)
    assert tokenizer.unk not in tokenizer.encode("q5 1 é?")
    batches = list(
        islice(train_batches(data(root), source, tokenizer, Take(Decode((12, 16))), 0), 5)
    )
    seen = {image.tobytes() for batch in batches for image in batch["image"]}
    assert seen == {picture(i).tobytes() for i in range(COUNT)}


@pytest.mark.parametrize(
    ("name", "split", "fields", "reason"),
    [
        ("coco", "train", ASKED, r"'coco': neither.*there: tiny.*tfds.builder\(\"coco\".*"),
        ("tiny:9.9.9", "train", ASKED, "neither a file, a folder nor a set prepared"),
        ("../tiny", "train", ASKED, "neither a file"),
        ("/etc", "train", ASKED, "no usable rows"),
        ("tiny", "trian", ASKED, r"no split 'trian'; accepted: \['test', 'train'\]"),
        ("tiny", "train[:x]", ASKED, "cannot read"),
        ("tiny", "train[20:]", ASKED, "selects no records"),
        ("tiny", "train", Fields(image="img"), r"no feature 'img' but \['captions'"),
        ("tiny", "train", Fields(captions="cap"), r"none of the features \['answers', 'cap'"),
    ],
)
def test_mistakes_are_named(root, name, split, fields, reason):
    with pytest.raises(DataError, match=reason):
        open_source(data(root, name, fields), split)


def test_a_format_without_random_access_is_refused(root, tmp_path):
    (tmp_path / "tiny" / "1.2.0").mkdir(parents=True)
    for file in (root / "tiny" / "1.2.0").iterdir():
        text = file.read_bytes().replace(b"array_record", b"tfrecord")
        (tmp_path / "tiny" / "1.2.0" / file.name).write_bytes(text)
    with pytest.raises(DataError, match=r'prepare it again with file_format="array_record"'):
        open_source(data(tmp_path), "train")


def test_a_damaged_record_is_skipped_and_named(root, tmp_path):
    shutil.copytree(root / "tiny", tmp_path / "tiny")
    (shard,) = (tmp_path / "tiny" / "1.2.0").glob("*train*")
    content = bytearray(shard.read_bytes())
    content[6000] ^= 255
    shard.write_bytes(content)
    source = open_source(data(tmp_path), "train")
    tokenizer = build(data(tmp_path), source)
    list(islice(train_batches(data(tmp_path), source, tokenizer, Take(Decode((12, 16))), 0), 5))
    ((where, reason),) = source.broken.items()
    assert where.startswith("tiny train:")
    assert reason.startswith("record: cannot be parsed (Corrupted")


def test_tensorflow_is_not_imported(root):
    code = (
        "import sys; from mlm_jax.config import Data, Fields; from mlm_jax.data import loader\n"
        "from mlm_jax.data.sources import open_source\n"
        f"data = Data(name='tiny', root={str(root)!r}, fields=Fields(captions='label'))\n"
        "assert open_source(data, 'train')[1].captions == ('dog',)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
