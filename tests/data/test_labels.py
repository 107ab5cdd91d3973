"""Labels: read where pictures are read alone, in the order of the classes, once for a run."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import encoded, picture

from mlm_jax.config import Data, Fields
from mlm_jax.data import labels
from mlm_jax.data.labels import Labels, classes_of, ordered
from mlm_jax.data.loader import eval_labelled, train_batches
from mlm_jax.data.records import DataError
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Decode, Take
from mlm_jax.world import scene

TAKE = Take(Decode((12, 16)))


def data(path: Path, **keys) -> Data:
    given = {"captions": 0, "questions": 0, "batch": 2, "max_broken": 0.5, "threads": 1}
    return Data(name=str(path), **{**given, **keys})


def rows(*values: object) -> list[dict]:
    return [{"image": f"{i}.png", "label": value} for i, value in enumerate(values)]


def test_texts_and_whole_numbers_are_classes_in_order(own: Callable) -> None:
    source = open_source(data(own(rows("b", 10, " a ", 9, "b"), 5)), "train")
    assert [record.label for record in source] == ["b", "10", "a", "9", "b"]
    assert classes_of(source) == ("9", "10", "a", "b")
    assert not source[0].captions


def test_the_order_is_that_of_the_names_alone() -> None:
    names = ["b", "1", "01", "-1", "001", "9" * 5_000, "a", "1" * 4_000]
    right = ["-1", "001", "01", "1", "1" * 4_000, "9" * 5_000, "a", "b"]
    assert ordered(names) == ordered(names[::-1]) == right


def test_batches_have_pictures_and_labels_alone(own: Callable) -> None:
    known = data(own(rows("cat", "dog", "cat", "owl"), 4))
    source = open_source(known, "train")
    names = Labels(classes_of(source))
    stream = train_batches(known, source, build(known, source), TAKE, 0, labels=names)
    seen = list(islice(stream, 4))
    assert all(set(batch) == {"image", "label"} for batch in seen)
    assert seen[0]["label"].dtype == np.int32
    for batch in seen:
        for image, label in zip(batch["image"], batch["label"], strict=True):
            (at,) = [i for i in range(4) if (image == picture(i)).all()]
            assert names.classes[label] == ("cat", "dog", "cat", "owl")[at]
    found = list(eval_labelled(known, source, TAKE, names))
    assert [int(each["label"]) for each in found] == [0, 1, 0, 2]
    assert len(list(eval_labelled(known, source, TAKE, names, limit=2))) == 2


def test_the_teacher_says_otherwise_where_it_says_anything(own: Callable) -> None:
    lines = rows("cat", "dog")
    lines[1]["taught"] = "cat"
    source = open_source(data(own(lines, 2)), "train")
    found = [Labels(("cat", "dog"), taught=True)(record) for record in source]
    assert [(int(x["label"]), int(x["taught"])) for x in found] == [(0, 0), (1, 0)]


def test_no_label_is_needed_where_none_is_asked_for(own: Callable) -> None:
    known = data(own([{"image": "0.png"}, {"image": "1.png"}], 2))
    source = open_source(known, "train")
    batch = next(train_batches(known, source, build(known, source), TAKE, 0))
    assert set(batch) == {"image"}
    with pytest.raises(DataError, match=r"no labels.*--data\.fields\.label"):
        classes_of(source)


def test_a_folder_of_pictures_without_texts(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    source = open_source(data(tmp_path), "train")
    assert [record.image for record in source] == [encoded(picture(0))]


def test_with_texts_a_label_is_not_looked_at(own: Callable) -> None:
    path = own([{"image": "0.png", "captions": "x", "label": ["odd"]}], 1)
    assert open_source(data(path, captions=1), "train")[0].label == ""


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.5, "label: a JSON number; accepted: a text or a whole number"),
        (True, "label: a JSON boolean; accepted: a text or a whole number"),
        (["a"], "label: a JSON list; accepted: a text or a whole number"),
        ("", "label: an empty text; accepted: at least one word"),
    ],
)
def test_what_is_no_label_is_a_broken_row(own: Callable, value: object, reason: str) -> None:
    path = own(rows("a", value), 2)
    source = open_source(data(path), "train")
    assert source.broken == {f"{path}:2": reason}


def test_a_picture_has_one_class(own: Callable) -> None:
    path = own([*rows("a"), *rows("b"), *rows("a")], 1)
    source = open_source(data(path), "train")
    assert len(source) == 1
    assert "'b', but 'a'" in source.broken[f"{path}:2"]


def test_a_class_that_training_had_not_is_a_broken_record(own: Callable) -> None:
    known = data(own(rows("a", "zebra"), 2))
    source = open_source(known, "train")
    found = list(eval_labelled(known, source, TAKE, Labels(("a",))))
    assert len(found) == 1
    reason = "label: 'zebra'; accepted: one of the 1 classes of the training split"
    assert source.broken == {f"{known.name}:2": reason}


def test_names_are_written_and_read_back(tmp_path: Path) -> None:
    labels.save(tmp_path / "classes.json", ("ä", "b"))
    assert labels.load(tmp_path / "classes.json") == ("ä", "b")
    (tmp_path / "classes.json").write_text("[")
    with pytest.raises(DataError, match=re.escape("classes.json: no names of classes")):
        labels.load(tmp_path / "classes.json")


class Animals(tfds.core.GeneratorBasedBuilder):
    """Pictures with names of classes, and the same as texts and as numbers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(12, 16, 3)),
            "label": tfds.features.ClassLabel(names=["zebra", "cat", "dog"]),
            "name": tfds.features.Text(),
            "count": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _: object) -> dict:
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            name = ("dog", "cat")[i % 2]
            png = io.BytesIO(encoded(picture(i)))
            yield i, {"image": png, "label": name, "name": name, "count": 10 - i}


@pytest.mark.parametrize(
    ("field", "classes", "first"),
    [
        ("label", ("zebra", "cat", "dog"), {"dog", "cat"}),
        ("name", ("cat", "dog"), {"dog", "cat"}),
        ("count", ("7", "8", "9", "10"), {"7", "8", "9", "10"}),
    ],
)
def test_a_set_of_tfds(tmp_path: Path, field: str, classes: tuple, first: set) -> None:
    Animals(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    known = Data("animals", str(tmp_path), fields=Fields(label=field), captions=0, questions=0)
    source = open_source(known, "train")
    assert classes_of(source) == classes
    with pytest.raises(DataError, match=r"no events.*prepared"):
        classes_of(source, events=True)
    assert {record.label for record in source} == set(source.labels()) == first


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("world")
    return Data("world/one_tiny", str(root), captions=0, questions=0, batch=8)


def test_the_world_of_one_object_is_named_by_it(world: Data) -> None:
    told = replace(world, captions=1)
    for split in ("train", "novel"):
        source, texts = open_source(world, split), open_source(told, split)
        assert classes_of(source) == scene.CLASSES
        assert len(scene.CLASSES) == 48
        for record, other in zip(source, texts, strict=True):
            (only,) = scene.from_json(other.truth).objects
            assert record.label == f"{only.colour} {only.shape}"
            assert ((only.colour, only.shape) in scene.HELD_OUT) == (split == "novel")


def test_a_scene_of_several_objects_has_no_name() -> None:
    several = scene.sample(np.random.default_rng(0), objects=2)
    assert len(several.objects) == 2
    assert scene.name(several) == ""
