"""A user's own clips and sounds: from rows and folders to batches; what is broken is named."""

import io
import logging
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import encoded, picture
from test_clip_files import film, marked, number, tone

from mlm_jax import sharding
from mlm_jax.config import Config, Data, UserError
from mlm_jax.data import containers, loader, validate
from mlm_jax.data.labels import Labels, classes_of, load
from mlm_jax.data.listening import Listen
from mlm_jax.data.own import Shots
from mlm_jax.data.records import DataError, Event, Record
from mlm_jax.data.sources import open_source, read_source
from mlm_jax.data.tokenizers import build
from mlm_jax.data.transforms import Decode, Take, Watch, take_for
from mlm_jax.encoders import AudioEncoder, VideoEncoder
from mlm_jax.encoders.audio import LogMel
from mlm_jax.feed import open_feed
from mlm_jax.losses import Classes, Spans
from mlm_jax.models.audio import Audio
from mlm_jax.models.video import Events, Video
from mlm_jax.run import open_run

EYES = VideoEncoder(frames=4, size=(48, 64), patch=16)
EARS = AudioEncoder(samples=1_000, mel=LogMel(rate=8_000, window=256, hop=80, fft=256, mels=8))
BOTH = ("video", "audio")
LABELLED = {"captions": 0, "questions": 0, "batch": 2, "max_broken": 1.0}


def data(path: Path, **options) -> Data:
    return Data(str(path), **(LABELLED | options))


def batches(data: Data, take: Take, labels: Labels | None = None):
    source = open_source(data, data.train, take.needs)
    return source, loader.train_batches(data, source, build(data, source), take, 0, labels=labels)


def sound(path: Path, samples: int = 600, rate: int = 8_000) -> None:
    soundfile.write(path, tone(samples, rate), rate)


def test_rows_name_a_video_its_pictures_or_a_sound(own, tmp_path):
    film(tmp_path / "a.mp4")
    with zipfile.ZipFile(tmp_path / "frames.zip", "w") as archive:
        for i in range(10):
            archive.writestr(f"b/{i}.png", encoded(marked(i)))
        archive.write(film(tmp_path / "c.webm", "libvpx-vp9"), "c.webm")
    (tmp_path / "c.webm").unlink()
    sound(tmp_path / "a.wav")
    path = own(
        [
            {"video": "a.mp4", "audio": "a.wav", "label": "x", "events": [["up", 0.5, 1]]},
            {"video": [f"b/{i}.png" for i in range(10)], "rate": 5, "audio": "a.wav", "label": 3},
            {"video": "c.webm", "audio": "a.wav", "label": "x"},
            {"video": "a.mp4", "audio": "a.wav", "events": [{"label": 7, "start": 1, "end": 2}]},
        ]
    )
    source = open_source(data(path, images=(str(tmp_path), f"{tmp_path}/frames.zip")), "all", BOTH)
    assert source.broken == {}
    first, second, third = source
    assert first.events == (Event("up", 0.5, 1), Event("7", 1, 2))
    assert (first.video, first.audio) == (tmp_path / "a.mp4", tmp_path / "a.wav")
    assert (second.label, second.rate, len(second.video)) == ("3", 5, 10)
    assert isinstance(third.video, bytes)
    assert sorted(source.labels()) == ["3", "x", "x"]
    assert list(source.labels(events=True)) == ["up", "7"]
    watch = Watch(5, Decode((48, 64)))
    for record, shown in zip(source, ([5, 15, 25, 35, 45], [1, 3, 5, 7, 9]) * 2, strict=False):
        frames, seconds = watch(record)
        assert [number(frame) for frame in frames] == shown
        assert seconds == 2


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"captions": "x"}, {"captions": "y", "rate": -1}),
        ({"events": [["up", 0, 1]]}, {"label": "cat", "events": 5}),
        ({"label": "dog"}, {"events": [["up", 0, 1]], "rate": -1}),
    ],
)
def test_of_a_broken_row_nothing_is_used(own, good, bad):
    path = own([{"video": "a.mp4", **good}, {"video": "a.mp4", **bad}])
    texts = {"captions": 1} if "captions" in good else {}
    source = read_source(data(path, **texts), "train", ())
    assert [*source.broken] == [f"{path}:2"]
    (record,) = source
    assert record.captions == tuple(filter(None, [good.get("captions")]))
    assert record.label == good.get("label", "")
    assert len(record.events) == len(good.get("events", ()))


def test_the_classes_are_of_the_records_or_of_their_events(own):
    both = {"video": "a.mp4", "label": "Fall", "events": [["Sitting", 0, 1]]}
    source = read_source(data(own([both, {"video": "b.mp4", "label": "ADL"}])), "train", ["video"])
    assert classes_of(source) == classes_of(source, events=False) == ("ADL", "Fall")
    assert classes_of(source, events=True) == ("Sitting",)
    for row, events, field in (
        ({"label": "Fall"}, True, "events"),
        ({"events": [["up", 0, 1]]}, False, "label"),
    ):
        source = read_source(data(own([{"video": "a.mp4", **row}])), "train", ["video"])
        with pytest.raises(DataError, match=rf"have no .*--data\.fields\.{field}"):
            classes_of(source, events=events)


def test_a_run_takes_the_classes_that_its_loss_asks_for(own, tmp_path):
    events = Config(Events(EYES, labels=2), Spans(), data(tmp_path))
    classes = Config(Video(EYES, labels=2), Classes(), data(tmp_path))
    row = {"video": "a.mp4", "label": "Fall", "events": [["Sitting", 0, 1]]}

    def known(config: Config, row: dict, run: str) -> tuple[str, ...]:
        config = replace(config, data=data(own([row])))
        with open_run(tmp_path / run, config) as opened:
            open_feed(config, opened, sharding.make_mesh(config.mesh))
        return load(tmp_path / run / "classes.json")

    assert known(events, row, "a") == ("Sitting",)
    assert known(classes, row, "b") == ("Fall",)
    with pytest.raises(DataError, match=r"no events.*--data\.fields\.events"):
        known(events, {"video": "a.mp4", "label": "Fall"}, "c")


def test_where_no_file_is_read_rows_of_one_still_belong_together(own):
    for kind in ("image", "video", "audio"):
        asked = [{kind: f"{i // 2}.x", "question": "a?", "answers": str(i)} for i in range(6)]
        told = Data(str(own(asked)), max_broken=1.0)
        parts = [read_source(told, "train[:60%]", needs) for needs in ((), (kind,))]
        assert parts[0].entries[0].files == {}
        assert [part.where(0) for part in parts] == [parts[1].where(0)] * 2
        assert [len(part) for part in parts] == [2, 2]


def test_a_gif_is_a_clip_and_another_picture_one_frame(own, tmp_path):
    film(tmp_path / "a.gif", "gif", pixels="rgb8", times=[0, 0.1, 0.2])
    (tmp_path / "b.png").write_bytes(encoded(marked(9)))
    source = open_source(data(own([{"video": "a.gif"}, {"video": "b.png"}])), "train", ["video"])
    watch = Watch(3, Decode((48, 64)))
    assert [[number(frame) for frame in watch(record).frames] for record in source] == [
        [0, 1, 2],
        [9, 9, 9],
    ]


def test_of_many_pictures_those_that_are_shown_are_read(own, tmp_path):
    names = [f"{i}.png" for i in range(1_000)]
    for i in (125, 375, 625, 875):
        (tmp_path / names[i]).write_bytes(encoded(picture(i, 48, 64)))
    source = open_source(data(own([{"video": names, "rate": 10}])), "train", ["video"])
    assert isinstance(source[0].video, Shots)
    frames, seconds = Watch(4, Decode((48, 64)))(source[0])
    assert (frames[2] == picture(625, 48, 64)).all()
    assert seconds == 100


def test_a_folder_of_clips_with_captions_beside_them(tmp_path):
    film(tmp_path / "b.MP4", sound=tone(16_000, 16_000)[None])
    film(tmp_path / "a.webm", "libvpx-vp9")
    film(tmp_path / "c.mkv")
    sound(tmp_path / "d.wav")
    (tmp_path / "a.txt").write_text("first\nsecond\n")
    for name in "bd":
        (tmp_path / f"{name}.txt").write_text("only")

    def told(*needs: str) -> list[tuple]:
        source = open_source(Data(str(tmp_path), max_broken=1.0), "train", needs)
        missing = "captions: c.txt is missing; accepted: a text file with a caption a line"
        assert source.broken == {f"{tmp_path}:c.mkv": missing}
        return [(record.key.rpartition(":")[2], record.captions) for record in source]

    film_a, film_b, sound_d = ("a.webm", ("first", "second")), ("b.MP4", ("only",)), ("d.wav",)
    assert told("video") == [film_a, film_b]
    assert told("audio") == [film_a, film_b, (*sound_d, ("only",))]
    assert told("video", "audio") == [film_a, film_b]
    record = open_source(Data(str(tmp_path), max_broken=1.0), "train", BOTH)[1]
    arrays = take_for(Data(), {"video": EYES, "audio": EARS})(record)
    assert arrays["video"].shape == (4, 48, 64, 3)
    assert arrays["audio_length"] == 1_000


def test_batches_have_what_the_table_says(own, tmp_path):
    for i in range(4):
        film(tmp_path / f"{i}.mp4", times=[j / 10 for j in range(10 + i)])
        sound(tmp_path / f"{i}.wav", 600 + 200 * i)
    rows = [
        {"video": f"{i}.mp4", "audio": f"{i}.wav", "events": [["up", 0.1, 0.5], ["down", 0, 1]][:i]}
        for i in range(4)
    ]
    path = own(rows)
    source = open_source(data(path), "train", BOTH)
    assert classes_of(source, events=True) == ("down", "up")
    take = take_for(data(path, events=3), {"video": EYES, "audio": EARS}, ("down", "up"))
    _, stream = batches(data(path, batch=4), take)
    batch = next(stream)
    kinds = {key: (array.dtype.name, array.shape) for key, array in batch.items()}
    assert kinds == {
        "video": ("uint8", (4, 4, 48, 64, 3)),
        "audio": ("int16", (4, 1_000)),
        "audio_length": ("int32", (4,)),
        "event": ("int32", (4, 3)),
        "span": ("float32", (4, 3, 2)),
        "event_mask": ("bool", (4, 3)),
    }
    order = np.argsort(batch["audio_length"])
    assert batch["audio_length"][order].tolist() == [600, 800, 1_000, 1_000]
    for place, length in enumerate(batch["audio_length"]):
        assert batch["audio"][place, :length].any()
        assert not batch["audio"][place, length:].any()
    assert sorted(batch["event_mask"].sum(1).tolist()) == [0, 1, 2, 2]
    row = int(order[1])
    assert batch["event"][row].tolist() == [1, 0, 0]
    assert batch["span"][row, 0].tolist() == pytest.approx([0.1 / 1.04, 0.5 / 1.04], abs=1e-5)
    (tmp_path / "again").mkdir()
    _, again = batches(data(path, batch=4, threads=0), take)
    assert all((next(again)[key] == batch[key]).all() for key in ("video",))


VIDEO_ROWS = [
    ({"video": "good.mp4", "events": [["up", 0, 1]]}, None),
    ({"video": "text.mp4", "events": []}, "video: cannot be read (Invalid data"),
    ({"video": "cut.mp4", "events": []}, "video: the file ends at "),
    ({"video": "none.mp4", "events": []}, "video: 'none.mp4' is not in "),
    ({"video": "sound.wav", "events": []}, "video: the file has no video in it; accepted: MP4"),
    ({"video": 1.5, "events": []}, "video: missing; accepted: the name of a video file"),
    ({"video": [], "events": []}, "video: missing; accepted: the name of a video file"),
    ({"video": "../good.mp4"}, "video: '../good.mp4' leaves its folder"),
    ({"video": ["0.png", "9.png"], "rate": 5}, "image: '9.png' is not in "),
    ({"video": ["0.png", "1.png"], "events": [["up", 0, 1]]}, "rate: missing; accepted: pictures"),
    ({"video": ["0.png", "2.png"], "rate": 0}, "rate: 0; accepted: pictures a second, over 0"),
    ({"video": "a.mp4", "events": [["up", 1.0, 0.5]]}, "events: 'up' begins at 1.0 and ends at 0."),
    ({"video": "b.mp4", "events": [["up", 0.5, 9.5]]}, "events: 'up' from 0.5 to 9.5; accepted: "),
    ({"video": "c.mp4", "events": [["up", -1, 1]]}, "events: 'up' begins at -1.0 and ends at 1.0"),
    ({"video": "d.mp4", "events": [["new", 0, 1]]}, "events: 'new'; accepted: one of the 1 class"),
    ({"video": "e.mp4", "events": "up"}, "events: a JSON string; accepted: a list of [label, sta"),
    ({"video": "f.mp4", "events": [["up", "0", 1]]}, "events: the times of 'up' are ['0', 1]; acc"),
    ({"video": "g.mp4", "events": [["up", 0, 1]] * 9}, "events: 9 events; --data.events 8 accepts"),
    ({"video": "h.mp4", "events": [["up", 0]]}, "events: an event is ['up', 0]; accepted: a list"),
    ({"video": "i.mp4", "events": [["up", 0, float("inf")]]}, "events: the times of 'up' are [0, "),
    ({"video": "j.mp4", "events": [["up", 0, 10**400]]}, "events: the times of 'up' are [0, 1000"),
    ({"video": ["0.png", "3.png"], "rate": 10**400}, "rate: 1000"),
    ({"video": "k.mp4", "events": [["up", 2.01, 2.04]]}, "events: 'up' from 2.01 to 2.04; accept"),
]


@pytest.fixture
def clips_that_are_broken(own, tmp_path) -> Path:
    good = film(tmp_path / "good.mp4", container={"movflags": "faststart"}).read_bytes()
    for name in "abcdefghijk":
        (tmp_path / f"{name}.mp4").write_bytes(good)
    (tmp_path / "cut.mp4").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.mp4").write_text("text" * 999)
    sound(tmp_path / "sound.wav")
    new = ["new" if "new" in str(row) else "train" for row, _ in VIDEO_ROWS]
    rows = [row | {"split": split} for (row, _), split in zip(VIDEO_ROWS, new, strict=True)]
    return own(rows, pictures=2)


def test_broken_clips_are_skipped_counted_and_named(clips_that_are_broken, caplog):
    path = clips_that_are_broken
    with caplog.at_level(logging.WARNING):
        source, stream = batches(data(path), take_for(data(path), {"video": EYES}, ("up",)))
        for _ in range(20):
            batch = next(stream)
            assert (batch["event_mask"].sum(1) == 1).all()
    expected = {
        f"{path}:{row}": reason
        for row, (values, reason) in enumerate(VIDEO_ROWS, 1)
        if reason is not None and "new" not in str(values)
    }
    assert source.broken.keys() == expected.keys()
    for where, reason in expected.items():
        assert source.broken[where].startswith(reason)
    for name in ("text.mp4", "cut.mp4"):
        row = next(i for i, (values, _) in enumerate(VIDEO_ROWS, 1) if values["video"] == name)
        assert f"broken record left out: {path}:{row}: video: " in caplog.text


def test_too_many_broken_clips_stop_the_run(own, tmp_path):
    film(tmp_path / "good.mp4")
    for name in ("bad.mp4", "worse.mp4"):
        (tmp_path / name).write_text("text")
    path = own([{"video": name} for name in ("good.mp4", "bad.mp4", "worse.mp4")])
    _, stream = batches(data(path, max_broken=0.4), take_for(data(path), {"video": EYES}))
    with pytest.raises(DataError, match=r"2 of 3 records of .* more than --data.max-broken 0.4"):
        [next(stream) for _ in range(4)]


@pytest.mark.parametrize("module", ["av", "soundfile"])
def test_without_the_extra_training_stops_with_what_to_install(own, tmp_path, monkeypatch, module):
    film(tmp_path / "good.mp4")
    sound(tmp_path / "good.wav")
    key, senses = {"av": ("video", EYES), "soundfile": ("audio", EARS)}[module]
    path = own([{"video": "good.mp4", "audio": "good.wav"}] * 2)
    monkeypatch.delitem(containers.sys.modules, module)
    _, stream = batches(data(path), take_for(data(path), {key: senses}))
    with pytest.raises(UserError, match=rf"{path}:1: needs {module}, which pip install") as caught:
        next(stream)
    assert not isinstance(caught.value, DataError)


def named(path: Path, config: Config, capsys) -> dict[int, str]:
    """The reason by row, as validate.py prints them."""
    assert validate.validate(config.data, "all", config) == 1
    *lines, totals = capsys.readouterr().out.splitlines()
    reasons = dict(line.removeprefix(f"{path}:").split(": ", 1) for line in lines)
    assert len(reasons) == len(lines)
    assert f"{len(lines):,} rows broken" in totals
    return {int(row): reason for row, reason in reasons.items()}


def test_validation_names_every_clip_that_is_broken(clips_that_are_broken, capsys):
    path = clips_that_are_broken
    config = Config(Events(EYES, labels=1), Spans(), data(path))
    reasons = named(path, config, capsys)
    expected = {row: why for row, (_, why) in enumerate(VIDEO_ROWS, 1) if why is not None}
    assert reasons.keys() == expected.keys()
    for row, reason in expected.items():
        assert reasons[row].startswith(reason)


def test_validation_names_every_sound_and_label_that_is_broken(own, tmp_path, capsys):
    sound(tmp_path / "good.wav")
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("text" * 99)
    sound(tmp_path / "slow.wav", rate=500)
    wave = tone(600, 8_000)
    wave[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", wave, 8_000, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8_000)
    film(tmp_path / "silent.mp4")
    rows = [
        ({"audio": "good.wav", "label": "a"}, None),
        ({"audio": "cut.wav", "label": "a"}, "audio: the file ends at 0.0"),
        ({"audio": "text.wav", "label": "a"}, "audio: cannot be read"),
        ({"audio": "slow.wav", "label": "a"}, "audio: 500 samples a second; accepted: 1000 to"),
        ({"audio": "nan.wav", "label": "a"}, "audio: samples that are no numbers"),
        ({"audio": "empty.wav", "label": "a"}, "audio: no samples; accepted: at least one"),
        ({"audio": "silent.mp4", "label": "a"}, "audio: the file has no sound in it"),
        ({"audio": "1.wav"}, "audio: '1.wav' is not in "),
    ]
    for name in ("2", "3"):
        sound(tmp_path / f"{name}.wav")
    rows += [
        ({"audio": "2.wav"}, "label: ''; accepted: one of the 1 classes of the training split"),
        ({"audio": "3.wav", "label": "b", "split": "test"}, "label: 'b'; accepted: one of the 1"),
    ]
    path = own([{"split": "train"} | row for row, _ in rows])
    config = Config(Audio(EARS, labels=1), Classes(), data(path))
    reasons = named(path, config, capsys)
    assert reasons.keys() == {i for i, (_, why) in enumerate(rows, 1) if why}
    for i, (_, why) in enumerate(rows, 1):
        assert why is None or reasons[i].startswith(why)


def test_in_evaluation_too_what_is_broken_is_left_out(clips_that_are_broken, caplog):
    path = clips_that_are_broken
    watched = data(path, test="all")
    source = read_source(watched, "all", ["video"])
    take = take_for(watched, {"video": EYES}, ("up",))
    with caplog.at_level(logging.WARNING):
        rows = list(loader.eval_labelled(watched, source, take, None))
    assert [row["event"][0] for row in rows] == [0]
    assert "'new'; accepted: one of the 1 classes" in caplog.text


def test_silence_follows_what_is_shorter():
    file = io.BytesIO()
    soundfile.write(file, np.full(100, 0.5), 8_000, format="WAV")
    heard = Listen(300, 8_000)(Record("here", audio=file.getvalue()))
    assert heard["audio"].tolist() == [16_384] * 100 + [0] * 200
    assert heard["audio_length"] == 100
