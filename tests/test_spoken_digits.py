"""Spoken digits: from the published set to files and rows, and through training to a name."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import generate, gmdcsa_events, spoken_digits
from experiments.configs import audio_tiny, esc10, gmdcsa
from mlm_jax import evaluate, train
from mlm_jax.config import Config, UserError, senses
from mlm_jax.data import tokenizers
from mlm_jax.data.labels import Labels, classes_of
from mlm_jax.data.records import BadRecord
from mlm_jax.data.sources import open_source
from mlm_jax.data.transforms import take_for
from mlm_jax.feed import Feed
from mlm_jax.layers import Block, Transformer
from mlm_jax.stop import Stop

soundfile = pytest.importorskip("soundfile")

SPEAKERS = ("anna", "ben", "carl")


def a_set(folder: Path, takes: int = 2) -> list[np.ndarray]:
    """Each digit is a tone of its own, and each speaker a level; stored as FSDD is."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(d, s, i) for d in range(10) for s in range(3) for i in range(takes)]
    waves = []
    for digit, speaker, index in rows:
        at = np.arange(2_000 + 100 * speaker + 10 * index) / spoken_digits.RATE
        wave = 8_000 * (speaker + 1) * np.sin(2 * np.pi * (200 + 150 * digit) * at)
        waves.append(wave.astype(np.int16))
    pcm = np.concatenate(waves)
    delta = np.diff(pcm, prepend=np.int16(0)).view(np.uint16)
    digit, speaker, index = (np.array(column, np.uint8) for column in zip(*rows, strict=True))
    np.savez(
        folder / spoken_digits.NAME,
        delta_lo=(delta & 255).astype(np.uint8),
        delta_hi=(delta >> 8).astype(np.uint8),
        offsets=np.cumsum([0, *map(len, waves)]),
        digit=digit,
        speaker=speaker,
        index=index,
        speakers=np.array(SPEAKERS),
    )
    return waves


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]


def test_files_are_the_recordings_and_rows_name_them(tmp_path: Path) -> None:
    waves, out = a_set(tmp_path / "set"), tmp_path / "out"
    words = [str(tmp_path / "set"), "--out", str(out), "--test-speaker", "ben"]
    assert spoken_digits.run(words) == 0
    rows = rows_of(out)
    assert rows[3] == {"audio": "0_ben_1.flac", "label": 0, "speaker": "ben", "split": "test"}
    assert {(row["speaker"], row["split"]) for row in rows} == {
        ("anna", "train"),
        ("ben", "test"),
        ("carl", "train"),
    }
    with zipfile.ZipFile(out / "clips.zip") as archive:
        assert len(archive.namelist()) == len(rows) == len(waves) == 60
        for row, wave in zip(rows, waves, strict=True):
            with archive.open(row["audio"]) as file:
                samples, rate = soundfile.read(file, dtype="int16")
            assert rate == 8_000
            assert (samples == wave).all()
    first = (out / "clips.zip").read_bytes()
    assert spoken_digits.run(words) == 0
    assert (out / "clips.zip").read_bytes() == first


def test_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_set(tmp_path / "set")
    words = [str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--test-speaker", "ben"]
    written, write = [], soundfile.write

    def full(*given: Any, **options: Any) -> None:
        written.append(given)
        if len(written) == 30:
            raise OSError(28, "No space left on device")
        write(*given, **options)

    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(OSError, match="No space"):
        spoken_digits.run(words)
    assert not (tmp_path / "out" / "clips.zip").exists()
    assert not (tmp_path / "out" / "data.jsonl").exists()


def test_mistakes_are_named(tmp_path: Path) -> None:
    a_set(tmp_path)
    with pytest.raises(UserError, match="--test-speaker dora: the speakers are anna, ben, carl"):
        spoken_digits.run([str(tmp_path), "--test-speaker", "dora"])
    with pytest.raises(UserError, match=r"fsdd_8k\.npz: .*accepted: an \.npz of delta_lo"):
        spoken_digits.run([str(tmp_path / "nowhere")])
    path = tmp_path / spoken_digits.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    with pytest.raises(UserError, match=r"fsdd_8k\.npz"):
        spoken_digits.read(path)
    path.write_bytes(whole)
    with np.load(path) as arrays:
        fewer = dict(arrays) | {"digit": arrays["digit"][:-1]}
    np.savez_compressed(path, **fewer)
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"fsdd_8k\.npz: .*accepted: an \.npz of delta_lo"):
        spoken_digits.read(path)
    np.savez(path, **fewer)
    with pytest.raises(UserError, match="59 digits, but offsets for 60"):
        spoken_digits.read(path)


def test_the_published_set(shared: Path, tmp_path: Path) -> None:
    if not (shared / "fsdd" / spoken_digits.NAME).exists():
        pytest.skip("no fsdd")
    recordings = spoken_digits.read(shared / "fsdd" / spoken_digits.NAME)
    assert len({each.file for each in recordings}) == len(recordings) >= 2_000
    few = recordings[::100]
    spoken_digits.pack(few, tmp_path / "few.zip")
    with zipfile.ZipFile(tmp_path / "few.zip") as archive:
        for each in few:
            with archive.open(each.file) as file:
                assert (soundfile.read(file, dtype="int16")[0] == each.samples).all()


def small(config: Config, folder: Path) -> Config:
    """The experiment on the set in `folder`, of a model that compiles at once."""
    model: Any = config.model
    body = Transformer(width=16, depth=1, block=Block(heads=2))
    name, clips = str(folder / "data.jsonl"), (str(folder / "clips.zip"),)
    return replace(
        config,
        model=replace(model, audio=replace(model.audio, body=body)),
        data=replace(config.data, name=name, images=clips, batch=8),
        steps=4,
    )


def test_what_is_held_out_is_heard_as_it_is(tmp_path: Path) -> None:
    """Neither faster nor in another tone nor with noise, which training has all of."""
    waves = a_set(tmp_path / "set")
    spoken_digits.run([str(tmp_path / "set"), "--out", str(tmp_path), "--test-speaker", "carl"])
    config = small(audio_tiny.config, tmp_path)
    data, take = config.data, take_for(config.data, senses(config))
    assert data.speed
    assert data.tone
    assert data.noise
    source = open_source(data, data.train, take.needs)
    known = Labels(tuple(map(str, range(10))))
    feed = Feed(config, tokenizers.words([]), known, take, source, (0, 1))
    recorded = {wave.tobytes() for wave in waves}

    def unchanged(batch: Any) -> int:
        rows = zip(batch["audio"], batch["audio_length"], strict=True)
        return sum(wave[:length].tobytes() in recorded for wave, length in rows)

    assert [unchanged(batch) for batch in feed.held_out()] == [8, 8]
    assert unchanged(next(feed.batches(0, Stop()))) == 0


def test_from_the_set_to_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_set(tmp_path / "set")
    spoken_digits.run([str(tmp_path / "set"), "--out", str(tmp_path), "--test-speaker", "carl"])
    run = tmp_path / "run"
    assert train.train(small(audio_tiny.config, tmp_path), run) == 0
    figures = evaluate.evaluate(run)
    assert figures["classes/accuracy"].n == 20
    assert figures["classes/majority"].value == pytest.approx(0.1)
    with zipfile.ZipFile(tmp_path / "clips.zip") as archive:
        archive.extract("3_carl_0.flac", tmp_path)
    capsys.readouterr()
    asked = ["--run", str(run), "--audio"]
    assert generate.main([*asked, str(tmp_path / "3_carl_0.flac"), "--n", "10"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sorted(line.partition("  (")[0] for line in told) == [str(i) for i in range(10)]
    (tmp_path / "text.wav").write_text("text")
    with pytest.raises(BadRecord, match=r"text\.wav: audio: cannot be read .*accepted: WAV"):
        generate.main([*asked, str(tmp_path / "text.wav")])


@pytest.mark.parametrize(("config", "records"), [(esc10.config, (238, 80))])
def test_environmental_sounds_by_fold(shared: Path, config: Config, records: tuple) -> None:
    data, model = config.data, config.model
    if not (shared / "esc10").exists():
        pytest.skip("no esc10")
    train_, test = (open_source(data, split, ["audio"]) for split in (data.train, data.test))
    assert (len(train_), len(test)) == records
    take = take_for(data, {"audio": model.audio})
    arrays = take(test[0])
    assert arrays["audio"].shape == (80_000,)
    assert arrays["audio_length"] > 79_000
    assert len({*train_.labels()}) == model.labels == 10


def test_events_at_home(shared: Path, tmp_path: Path) -> None:
    folder = shared / "gmdcsa24_video"
    if not folder.exists():
        pytest.skip("no gmdcsa24_video")
    assert gmdcsa_events.run([str(folder), "--out", str(tmp_path)]) == 0
    config = gmdcsa.config
    data = replace(config.data, name=str(tmp_path / "data.jsonl"))
    train_, test = (open_source(data, split, ["video"]) for split in (data.train, data.test))
    assert not train_.broken | test.broken
    classes = classes_of(train_, events=True)
    assert {*test.labels(events=True)} <= {*classes}
    assert len(classes) <= config.model.labels
    take = take_for(data, {"video": config.model.video}, classes)
    for source in (train_, test):
        for record in source:
            arrays = take(record)
            assert arrays["event_mask"].sum() == len(record.events) > 0
            assert arrays["span"].max() <= 1
