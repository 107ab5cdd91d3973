"""Sets prepared by TFDS below data.root, the embedded world among them, read without TensorFlow."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mlm_jax.config import SENSES, Data, Fields
from mlm_jax.data.records import (
    BadRecord,
    DataError,
    Event,
    Question,
    Record,
    Sounding,
    Source,
    texts_of,
)
from mlm_jax.data.rows import parse_captions, parse_label, parse_questions
from mlm_jax.data.splits import parse
from mlm_jax.world import clip, scene
from mlm_jax.world.sound import SAMPLES

TRUTH = {"world": "scene", "clips": "clip"}
WORLD_CORPUS = 2_000  # records of the world that hold all of its words many times over


def open_prepared(data: Data, split: str, needs: Collection[str] = ("image",)) -> Source:
    """Open a split of the world (built when missing) or of a prepared set; raises DataError."""
    kind = data.name.partition("/")[0]
    if kind in TRUTH:
        from mlm_jax.world.builder import prepare

        builder: Any = prepare(data.root, data.name)
        fields = Fields(question="questions/question", answers="questions/answer")
        return _open(builder, data, split, fields, needs, TRUTH[kind])
    builder = tfds.builder_from_directory(str(_directory(Path(data.root), data.name)))
    return _open(builder, data, split, data.fields, needs)


def _directory(root: Path, name: str) -> Path:
    """Where "set/config:version" was prepared: the newest version when none is given."""
    base, _, version = name.partition(":")
    inside = re.fullmatch(r"\w[\w/.-]*", base) and ".." not in base
    found = [path for path in _prepared(root) if inside and path.is_relative_to(root / base)]
    found = [path for path in found if not version or path.name == version]
    configs = sorted({path.parent for path in found})
    if not configs:
        there = sorted({str(path.parent.relative_to(root)) for path in _prepared(root)})
        raise DataError(
            f"data {name!r}: neither a file, a folder nor a set prepared below {root} "
            f"(there: {', '.join(there) or 'none'}). Prepare it with tfds.builder"
            f'("{base}", data_dir="{root}").download_and_prepare(file_format="array_record"), '
            'or name your own files: --data.name "mine/{split}.jsonl"'
        )
    if len(configs) > 1:
        several = [str(path.relative_to(root)) for path in configs]
        raise DataError(f"data {name!r} has several configs; accepted: {several}")
    return max(found, key=_version)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.name))


def _prepared(root: Path) -> list[Path]:
    """The folders of finished versions, such as root/set/config/1.0.0."""
    folders = [info.parent for info in root.glob("*/**/dataset_info.json")]
    return [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]


def _open(
    builder: Any,
    data: Data,
    split: str,
    fields: Fields,
    needs: Collection[str],
    truth: str = "",
) -> Source:
    name, features = data.name, builder.info.features
    media = {key: getattr(fields, key) for key in SENSES if key in needs}
    for key, column in media.items():
        if column not in features:
            raise DataError(
                f"{name}: no feature {column!r} but {sorted(features)} (--data.fields.{key})"
            )
    texts, labels = (
        (fields.captions, fields.question, fields.answers),
        (fields.label, fields.taught),
    )
    columns = {path.partition("/")[0] for path in (texts if data.texts else labels)}
    if data.texts and not columns & set(features):
        raise DataError(
            f"{name}: none of the features {sorted(columns)} but {sorted(features)} "
            "(--data.fields.captions, or question and answers)"
        )
    kept = {
        key: feature
        for key, feature in features.items()
        if key in {*media.values(), truth, fields.rate, "kind"} | columns
    }
    raw = _raw(builder, name, split)
    return Prepared(f"{name} {split}", raw, kept, fields, media, data.texts, truth)


def _raw(builder: Any, name: str, split: str) -> Any:
    """The serialised records of a split; raises DataError."""
    known = sorted(builder.info.splits)
    for part in parse(split):
        if part.name not in (*known, "all"):
            raise DataError(f"{name}: no split {part.name!r}; accepted: {known}")
    try:
        return builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except ValueError as error:
        raise DataError(f"{name}: split {split!r} selects no records ({error})") from error
    except NotImplementedError as error:
        raise DataError(
            f"{name}: prepared as {builder.info.file_format}, which has no random access; prepare "
            'it again with file_format="array_record"'
        ) from error


class Encoded(tfds.decode.SkipDecoding):
    """Leaves pictures as files, those of a clip as well, which TFDS does not foresee."""

    def decode_batch_example_np(self, serialized: Any) -> Any:
        return serialized


@dataclass
class Prepared:
    """Records of a TFDS set; only the named features are parsed, pictures stay encoded.

    `media`: image, video and audio, as far as they are read, and the features that they are.
    """

    name: str
    raw: Any  # serialised records by index; reading a damaged one raises
    features: Mapping[str, Any]
    fields: Fields
    media: Mapping[str, str]
    read_texts: bool = True  # or else labels
    truth: str = ""
    broken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = len(self.raw)
        rest = {k: v for k, v in self.features.items() if k not in self.media.values()}
        self.parser = tfds.features.FeaturesDict(dict(self.features))
        aside = (self.truth, "kind") if self.read_texts else ()
        self.rest_parser = tfds.features.FeaturesDict(
            {key: value for key, value in rest.items() if key not in aside}
        )
        self.names = {key: _names(value) for key, value in rest.items()}
        known = {"scene": scene.CLASSES, "clip": clip.KINDS}
        self.classes = known.get(self.truth) or _classes(rest.get(self.fields.label))

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> Record:
        if index >= len(self):
            raise IndexError(index)
        pictures = [column for key, column in self.media.items() if key != "audio"]
        decoders = dict.fromkeys(pictures, Encoded())
        values = self._parse(index, self.parser, decoders)
        return self._record(values, index)

    def where(self, index: int) -> tuple[str, ...]:
        return (f"{self.name}:{index}",)

    def corpus(self) -> Iterator[str]:
        count = min(len(self), WORLD_CORPUS) if self.truth else len(self)
        for index in (position * len(self) // count for position in range(count)):
            try:
                captions, questions = self._texts(self._parse(index, self.rest_parser, None), index)
            except BadRecord:
                continue
            yield from texts_of(captions, questions)

    def labels(self, events: bool = False) -> Iterator[str]:
        """The events of the world alone are read: the names of all their kinds."""
        if events:
            yield from clip.KINDS if self.truth == TRUTH["clips"] else ()
            return
        for index in range(len(self)):
            try:
                label, _ = self._labels(self._parse(index, self.rest_parser, None), index)
            except BadRecord:
                continue
            if label:
                yield label

    def _parse(self, index: int, parser: Any, decoders: Any) -> dict[str, Any]:
        try:
            return parser.deserialize_example_np(self.raw[index], decoders=decoders)
        except Exception as error:  # a damaged record raises almost anything
            raise BadRecord(
                self.where(index)[0], "record", f"cannot be parsed ({error})"
            ) from error

    def _record(self, values: dict[str, Any], index: int) -> Record:
        (where,) = self.where(index)
        truth = values[self.truth].decode() if self.truth else ""
        record = Record(where, **self._media(values), truth=truth)
        if not self.read_texts:
            label, taught = self._labels(values, index)
            return replace(record, label=label, taught=taught, events=self._events(values))
        captions, questions = self._texts(values, index)
        return replace(
            record,
            captions=captions,
            questions=questions,
            caption_rows=(where,) * len(captions),
        )

    def _media(self, values: dict[str, Any]) -> dict[str, Any]:
        found = {key: values[column] for key, column in self.media.items()}
        if "video" in found:
            rate = clip.RATE if self.truth else values.get(self.fields.rate, 0.0)
            found |= {"video": tuple(found["video"]), "rate": float(rate)}
        if "audio" in found:
            sampled = getattr(self.features[self.media["audio"]], "_sample_rate", None)
            found["audio"] = Sounding(found["audio"], SAMPLES if self.truth else sampled or 0)
        return found

    def _events(self, values: dict[str, Any]) -> tuple[Event, ...]:
        """Those of a clip of the world, in seconds."""
        if self.truth != TRUTH["clips"]:
            return ()
        told = clip.from_json(values[self.truth].decode()).events
        return tuple(Event(e.kind, e.start / clip.RATE, e.end / clip.RATE) for e in told)

    def _texts(
        self, values: dict[str, Any], index: int
    ) -> tuple[tuple[str, ...], tuple[Question, ...]]:
        (where,) = self.where(index)
        named = self._named(values)
        captions = parse_captions(named, where, self.fields)
        questions = parse_questions(named, where, self.fields)
        if not captions and not questions:
            raise BadRecord(where, self.fields.captions, "no text; accepted: at least one")
        return captions, questions

    def _labels(self, values: dict[str, Any], index: int) -> tuple[str, str]:
        """The class, and that by a teacher; of the world, the name of its one object or event."""
        if self.truth:
            text = values[self.truth].decode()
            if self.truth == TRUTH["clips"]:
                return clip.name(clip.from_json(text)), ""
            return scene.name(scene.from_json(text)), ""
        (where,) = self.where(index)
        named = self._named(values)
        label, taught = (
            parse_label(named, where, key) for key in (self.fields.label, self.fields.taught)
        )
        return label, taught

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        return {key: name(values[key]) for key, name in self.names.items() if key in values}


def _classes(feature: Any) -> tuple[str, ...]:
    return tuple(feature.names) if isinstance(feature, tfds.features.ClassLabel) else ()


def _names(feature: Any) -> Callable[[Any], Any]:
    """How the values of a feature become text: the name of a class, all else as it is."""
    inner = getattr(feature, "feature", None)
    if isinstance(feature, tfds.features.ClassLabel):
        return lambda value: feature.int2str(int(value))
    if isinstance(inner, tfds.features.ClassLabel):
        return lambda values: [inner.int2str(int(value)) for value in values]
    return _plain


def _plain(value: Any) -> Any:
    """Arrays of TFDS as lists, all the way down."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
