"""Frames and samples of files made here, against every frame with its time, and against scipy."""

import io
import re
import struct
import sys
import time
import tracemalloc
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from scipy.signal import resample_poly

from mlm_jax.config import Data, UserError
from mlm_jax.data import frames as reader
from mlm_jax.data.frames import read_frames
from mlm_jax.data.records import BadRecord, Record, Sounding
from mlm_jax.data.sounds import read_sound
from mlm_jax.data.transforms import Decode, take_for
from mlm_jax.encoders import VideoEncoder
from mlm_jax.pretrained.pixels import DEFAULTS, save_pixels

SIZE = (48, 64)
X264, VP9 = {"preset": "ultrafast"}, {"deadline": "realtime", "cpu-used": "8"}
EVEN = [i / 25 for i in range(50)]
UNEVEN = np.cumsum([0, *[0.04, 0.2, 0.08, 0.48] * 6]).tolist()


def marked(number: int) -> np.ndarray:
    """A picture that says its number: eight bars, one for each bit."""
    bits = [220 if number >> bit & 1 else 30 for bit in range(8)]
    return np.broadcast_to(np.repeat(bits, 8)[None, :, None], (*SIZE, 3)).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    bars = frame.mean((0, 2)).reshape(8, -1)[:, 2:-2].mean(1)
    return sum(int(bar > 125) << bit for bit, bar in enumerate(bars))


def smooth(height: int, width: int) -> np.ndarray:
    cells = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def film(
    path: Path,
    codec: str = "libx264",
    times: Sequence[float] = EVEN,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    frames: Sequence[np.ndarray] = (),
    unit: Fraction = Fraction(1, 1000),
    aspect: Fraction | None = None,
    sound: np.ndarray | None = None,
    container: dict[str, str] | None = None,
    title: str = "",
) -> Path:
    """A video with a frame at each of `times`, and `sound`, float (channels, S), 16 kHz."""
    frames = frames or [marked(i) for i in range(len(times))]
    own = X264 if codec == "libx264" else VP9 if codec == "libvpx-vp9" else {}
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=25, options=own | (options or {}))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        stream.codec_context.time_base = unit
        out.metadata["title"] = title
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        heard = None
        if sound is not None:
            layout = "mono" if len(sound) == 1 else "stereo"
            codec = {".webm": "libopus", ".mkv": "flac"}.get(path.suffix, "aac")
            heard = out.add_stream(codec, rate=16_000, layout=layout)
        for at, picture in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = round(at / unit), unit
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if heard is not None:
            frame = av.AudioFrame.from_ndarray(sound.astype(np.float32), "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            for part in av.AudioResampler(heard.format, layout, 16_000).resample(frame):
                out.mux(heard.encode(part))
            out.mux(heard.encode())
    return path


def whole(path: Path) -> list[tuple[int, int, np.ndarray]]:
    """Every frame in turn: when it begins, how long it lasts, what it shows."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [(f.pts, f.duration, f.to_ndarray(format="rgb24")) for f in frames]


def to_be_seen(path: Path, count: int) -> list[int]:
    frames = whole(path)
    begins = [begin for begin, _, _ in frames]
    begin, end = begins[0], begins[-1] + frames[-1][1]
    times = [begin + Fraction(2 * i + 1, 2 * count) * (end - begin) for i in range(count)]
    return [number(frames[bisect_right(begins, at) - 1][2]) for at in times]


def seen(file: Path | bytes, count: int) -> list[int]:
    return [number(frame) for frame in read_frames(file, count, SIZE, "stretch", "here").frames]


FILMS = {
    "b_frames.mp4": {"options": {"bf": "3"}},
    "uneven.mp4": {"options": {"bf": "3"}, "times": UNEVEN},
    "late.mp4": {"options": {"bf": "2"}, "times": [3 + at for at in EVEN]},
    "plain.mov": {"codec": "mpeg4"},
    "even.webm": {"codec": "libvpx-vp9"},
    "late.webm": {"codec": "libvpx-vp9", "times": [3 + at for at in UNEVEN]},
    "uneven.mkv": {"options": {"bf": "2"}, "times": UNEVEN},
    "pictures.gif": {"codec": "gif", "pixels": "rgb8", "times": UNEVEN, "unit": Fraction(1, 100)},
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "unit": Fraction(1, 25)},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    made = {name: film(folder / name, **options) for name, options in FILMS.items()}
    data = bytearray(made["b_frames.mp4"].read_bytes())
    place = data.index(b"elst") + 12  # by its list of edits it begins with the fourteenth frame
    lasts, begin = struct.unpack_from(">Ii", data, place)
    struct.pack_into(">Ii", data, place, lasts - 13 * 40, begin + 13 * 640)
    made["trimmed.mp4"] = folder / "trimmed.mp4"
    made["trimmed.mp4"].write_bytes(data)
    return made


@pytest.mark.parametrize("far", [False, True], ids=["in turn", "sought"])
@pytest.mark.parametrize("name", [*FILMS, "trimmed.mp4"])
def test_frames_are_those_to_be_seen_at_evenly_spread_times(films, monkeypatch, name, far):
    monkeypatch.setattr(reader, "FAR", 0.0 if far else 100.0)
    for count in (1, 2, 7, 16, len(whole(films[name])), 64):
        expected = to_be_seen(films[name], count)
        assert seen(films[name], count) == expected
        assert seen(films[name].read_bytes(), count) == expected


def test_how_long_it_is(films):
    def seconds(name: str) -> float:
        return read_frames(films[name], 1, SIZE, "stretch", "here").seconds

    assert seconds("b_frames.mp4") == seconds("late.mp4") == seconds("b_frames.avi") == 2
    assert seconds("trimmed.mp4") == pytest.approx(37 / 25)
    assert seconds("pictures.gif") == pytest.approx(UNEVEN[-1] + 0.04)
    assert seconds("late.webm") == pytest.approx(UNEVEN[-1] + 0.04)


def test_one_frame_is_shown_all_the_time(tmp_path):
    path = film(tmp_path / "one.mp4", times=[0], frames=[marked(9)])
    assert seen(path, 5) == [9] * 5


def test_a_title_need_not_be_utf_8(tmp_path):
    path = film(tmp_path / "title.mkv", title="a caf\u00e9")
    path.write_bytes(path.read_bytes().replace(b"a caf\xc3\xa9", b"at caf\xe9"))
    assert seen(path, 1) == [25]


def test_what_is_heard_for_longer_does_not_count(tmp_path):
    sound = np.zeros((1, 16_000 * 8))
    path = film(tmp_path / "one.mkv", sound=sound)
    assert seen(path, 5) == to_be_seen(path, 5)
    told = b"DURATION"  # a tag that not all write
    path.write_bytes(path.read_bytes().replace(told, b"DURATIO_"))
    assert seen(path, 5) == [5, 15, 25, 35, 45]


MATRICES = {  # a, b, c, d -> what is seen of what is stored
    (1, 0, 0, 1): lambda stored: stored,
    (0, 1, -1, 0): lambda stored: np.rot90(stored, -1),
    (-1, 0, 0, -1): lambda stored: np.rot90(stored, 2),
    (0, -1, 1, 0): lambda stored: np.rot90(stored, 1),
    (-1, 0, 0, 1): lambda stored: stored[:, ::-1],
    (1, 0, 0, -1): lambda stored: stored[::-1],
    (0, 1, 1, 0): lambda stored: stored.swapaxes(0, 1),
}


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Say in an mp4 that its frames are to be turned."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_camera_that_was_turned(tmp_path, matrix):
    path = film(
        tmp_path / "turned.mp4",
        times=[0],
        frames=[smooth(96, 160)],
        pixels="yuv444p",
        options={"crf": "1"},
    )
    shown = MATRICES[matrix](whole(path)[0][2])
    turn(path, matrix)
    for resize in ("stretch", "crop", "pad"):
        got = read_frames(path, 1, (40, 50), resize, "here").frames[0]
        assert off(got, Decode((40, 50), resize)(np.ascontiguousarray(shown))) < (3, 10)


@pytest.mark.parametrize("family", ["VideoMAE", "Vivit", "Timesformer"])
@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0)], ids=["level", "on its side"])
def test_a_published_processor_sees_frames_as_they_are(tmp_path, family, matrix):
    """Those of evenly spread times, upright, as the reference's decoders give them."""
    published = DEFAULTS[family]
    pictures = [np.roll(smooth(240, 320), 10 * i, 1) for i in range(25)]
    path = film(tmp_path / "clip.mp4", times=EVEN[:25], frames=pictures, aspect=Fraction(2))
    shown = [MATRICES[matrix](frame) for _, _, frame in whole(path)]
    turn(path, matrix)
    save_pixels(published, tmp_path)
    eyes = VideoEncoder(frames=5, size=(224, 224), patch=16)
    take = take_for(Data(preprocessor=str(tmp_path)), {"video": eyes})
    frames = take(Record("rows:1", video=path))["video"]
    wanted = [published(np.ascontiguousarray(shown[i])) for i in (2, 7, 12, 17, 22)]
    np.testing.assert_array_equal(frames, wanted)


def off(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The mean distance, and that of all but a hundredth."""
    distance = np.abs(one.astype(int) - other)
    return float(distance.mean()), float(np.quantile(distance, 0.99))


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_sizes_follow_the_rules_of_pictures(tmp_path, resize, pixels):
    for height, width in ((240, 320), (90, 160)):
        picture = smooth(height, width)
        path = film(
            tmp_path / "size.mp4",
            times=[0],
            frames=[picture],
            pixels=pixels,
            options={"crf": "1"},
        )
        for size in ((48, 48), (224, 224), (30, 77), (100, 40), (height, width)):
            got = read_frames(path, 1, size, resize, "here").frames[0]
            assert off(got, Decode(size, resize)(picture)) < (3, 9)


@pytest.mark.parametrize(("height", "width"), [(33, 57), (1, 1), (3, 250), (250, 3)])
def test_odd_sizes(tmp_path, height, width):
    picture = smooth(height, width)
    path = film(tmp_path / "odd.mkv", "ffv1", times=[0], frames=[picture], pixels="bgr0")
    for size in ((48, 48), (31, 17), (height, width)):
        for resize in ("stretch", "crop", "pad"):
            got = read_frames(path, 1, size, resize, "here").frames[0]
            assert got.shape == (*size, 3)
            if min(height, width) > 20:
                assert off(got, Decode(size, resize)(picture)) < (3, 9)


def test_pixels_that_are_no_squares(tmp_path):
    path = film(tmp_path / "wide.mp4", times=[0], frames=[smooth(64, 64)], aspect=Fraction(2))
    padded = read_frames(path, 1, (64, 64), "pad", "here").frames[0]
    assert (padded[:16] == 255).all()
    assert (padded[48:] == 255).all()
    assert not (padded[16:48] == 255).all((1, 2)).any()


@pytest.mark.parametrize("size", [(48, 64), (24, 32)])
@pytest.mark.parametrize(("matrix", "tag"), [("ITU709", 1), ("ITU601", 6)])
@pytest.mark.parametrize(("range_", "pixels"), [(1, "yuv420p"), (2, "yuvj420p")])
def test_colours_are_those_that_were_drawn(tmp_path, size, matrix, tag, range_, pixels):
    drawn = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [120, 40, 220]])
    path = tmp_path / "colours.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options=X264 | {"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, range_
        picture = np.broadcast_to(np.repeat(drawn, 16, axis=0), (*SIZE, 3)).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(picture)
        frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=range_)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    got = read_frames(path, 1, size, "stretch", "here").frames[0]
    assert np.abs(got[5, size[1] // 8 :: size[1] // 4].astype(int) - drawn).max() < 6


def test_what_is_seen_through_is_white(tmp_path):
    pictures = [Image.new("RGBA", (64, 48)) for _ in range(3)]
    for i, picture in enumerate(pictures):
        picture.paste((200, 30, 30, 255), (8 * i, 8, 8 * i + 8, 16))
    path = tmp_path / "through.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    clip = read_frames(path, 3, SIZE, "stretch", "here")
    assert clip.seconds == pytest.approx(0.3)
    for i, frame in enumerate(clip.frames):
        assert frame[12, 8 * i + 4].tolist() == [200, 30, 30]
        assert frame[12, 8 * (i + 1) + 4].tolist() == [255, 255, 255]


def read_so_far() -> int:
    """Bytes that this process has read."""
    lines = Path("/proc/self/io").read_text().split()
    return int(lines[lines.index("rchar:") + 1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="nothing counts what is read")
@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_of_ten_hours_only_what_is_asked_for_is_read(tmp_path, name):
    frames = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(60)]
    frames = [frames[i % 60] for i in range(3600)]
    times = [10.0 * i for i in range(3600)]
    path = film(tmp_path / name, times=times, frames=frames, options={"g": "6"})
    before, start = read_so_far(), time.process_time()
    clip = read_frames(path, 8, SIZE, "stretch", "here")
    took, size = time.process_time() - start, path.stat().st_size
    assert 35_980 < clip.seconds < 36_001
    assert read_so_far() - before < size / 8
    assert size > 5_000_000
    assert took < 0.5
    for i, frame in enumerate(clip.frames):
        right = int((2 * i + 1) / 16 * clip.seconds / 10)
        near = [off(frame, frames[right + step])[0] for step in (-1, 0, 1)]
        assert near[1] == min(near) < 50


@pytest.mark.parametrize("name", ["live.mkv", "live.webm"])
def test_a_long_file_that_does_not_say_how_long_it_is(tmp_path, monkeypatch, name):
    times = [0.5 * i for i in range(200)]
    codec = "libx264" if name == "live.mkv" else "libvpx-vp9"
    path = film(tmp_path / name, codec, times=times, options={"g": "4"}, container={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    went: list[int] = []
    monkeypatch.setattr(reader, "went", lambda *args, go=reader.went: (went.append(1), go(*args)))
    assert seen(path, 4) == to_be_seen(path, 4)
    assert len(went) >= 4
    went.clear()
    assert seen(path, 40) == to_be_seen(path, 40)
    assert not went


# ---- videos that are none


def broken(file: Path | bytes, count: int = 8) -> str:
    with pytest.raises(BadRecord) as caught:
        read_frames(file, count, SIZE, "stretch", "mine.jsonl:7")
    assert str(caught.value).startswith("mine.jsonl:7: video: ")
    assert "accepted" in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("name", ["b_frames.mp4", "even.webm", "uneven.mkv", "b_frames.avi"])
def test_a_file_that_was_cut_is_refused_wherever_it_was(films, tmp_path, name):
    data = films[name].read_bytes()
    for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.7):
        broken(data[: int(share * len(data))])
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    broken(tmp_path / name)
    broken(b"")


def test_where_it_was_cut_is_said(tmp_path):
    path = film(tmp_path / "front.mp4", container={"movflags": "faststart"})
    data = path.read_bytes()
    reason = broken(data[: int(0.6 * len(data))])
    assert re.fullmatch(r"the file ends at [01]\.\d\d s of 2\.00; accepted: a whole file", reason)


def test_a_long_file_that_was_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "FAR", 0.0)
    for name in ("front.mp4", "front.mkv"):
        front = {"movflags": "faststart"} if name == "front.mp4" else {}
        path = film(tmp_path / name, options={"g": "5"}, container=front)
        data = path.read_bytes()
        assert "accepted: a whole file" in broken(data[: int(0.6 * len(data))])


def test_what_is_no_video(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video at all\n" * 200)
    assert broken(text).endswith("accepted: MP4, MOV, WebM, Matroska, AVI, GIF")
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.zeros(800), 8_000)
    assert broken(sound).startswith("the file has no video in it; accepted: MP4")
    assert broken(tmp_path / "none.mp4").startswith("cannot be read (No such file")


def test_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        heard = out.add_stream("aac", rate=16_000)
        cover = out.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = *SIZE, "rgb24"
        cover.disposition = cover.disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        out.mux(heard.encode(frame))
        out.mux(cover.encode(av.VideoFrame.from_ndarray(marked(1))))
        out.mux(cover.encode())
        out.mux(heard.encode())
    assert broken(path).startswith("the file has no video in it")


def test_playlists_and_names_like_addresses_lead_nowhere(films, tmp_path):
    good = films["b_frames.mp4"].resolve()
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n",
        "b.mp4": f"ffconcat version 1.0\nfile '{good}'\n",
        "c.concat": f"file '{good}'\n",
        "d.mpd": f"<MPD><Period><BaseURL>{good}</BaseURL></Period></MPD>",
        "e.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert broken(tmp_path / name).startswith("cannot be read (")
        assert broken(text.encode()).startswith("cannot be read (")
        with pytest.raises(BadRecord, match="cannot be read"):
            read_sound(tmp_path / name, 100, 8_000, "here")
    for name in ("http:a.mp4", "concat:b.mp4", "data:c.mp4", "%03d.mp4"):
        (tmp_path / name).write_bytes(good.read_bytes())
        assert seen(tmp_path / name, 2) == [12, 37]
    assert broken(Path(f"concat:{good}")).startswith("cannot be read (No such file")


def test_too_many_pixels(tmp_path, monkeypatch, films):
    monkeypatch.setattr(reader, "MAX_PIXELS", 47 * 64)
    reason = "64 x 48 pixels; at most 3,008 are accepted"
    assert broken(films["b_frames.mp4"]) == reason
    thin = film(tmp_path / "thin.mkv", "ffv1", [0], "bgr0", frames=[smooth(1, 300)])
    with pytest.raises(BadRecord, match="14400 x 48 pixels; at most"):
        read_frames(thin, 1, SIZE, "crop", "here")


@pytest.mark.parametrize("module", ["av", "soundfile"])
def test_an_extra_that_is_missing_is_named(films, monkeypatch, module):
    monkeypatch.delitem(sys.modules, module)
    files = {"av": films["b_frames.mp4"], "soundfile": encoded(np.zeros(100))}
    said = f"here: needs {module}, which pip install -e '\\.\\[media\\]' brings"
    with pytest.raises(UserError, match=said) as caught:
        read_sound(files[module], 100, 8_000, "here")
    assert not isinstance(caught.value, BadRecord)  # which would be skipped
    if module == "av":
        with pytest.raises(UserError, match=said):
            read_frames(files[module], 1, SIZE, "stretch", "here")


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, with some bits turned round, or with a part that is empty or gone."""
    kind, some = rng.integers(4), bytearray(data)
    first, last = sorted(rng.integers(0, len(data), 2).tolist())
    if kind == 0:
        return data[:last]
    if kind == 1:
        some[first:last] = bytes(last - first) if rng.random() < 0.5 else b""
        return bytes(some)
    within = len(data) if kind == 2 else 600
    for place in rng.integers(0, within, rng.integers(1, 20)):
        some[place] ^= 1 << rng.integers(8)
    return bytes(some)


@pytest.mark.parametrize("name", ["b_frames.mp4", "even.webm"])
def test_damaged_videos_are_read_or_refused(films, monkeypatch, name):
    rng, data = np.random.default_rng(0), films[name].read_bytes()
    start, reasons = time.monotonic(), []
    for i in range(200):
        monkeypatch.setattr(reader, "FAR", i % 2 * 4.0)
        try:
            clip = read_frames(damaged(data, rng), 4, (16, 16), "crop", "here")
        except BadRecord as error:
            reasons.append(error.reason)
        else:
            assert clip.frames.shape == (4, 16, 16, 3)
    assert 50 < len(reasons) < 200
    assert all("accepted" in reason for reason in reasons)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("far", [4.0, 0.0], ids=["in turn", "sought"])
def test_when_a_video_is_damaged_is_told(tmp_path, monkeypatch, far):
    """Empty bytes in place of the picture from 1.20 to 1.24 s: the last before is from 1.16 on."""
    path = film(tmp_path / "pictures.avi", "mjpeg", pixels="yuvj420p", unit=Fraction(1, 25))
    with av.open(str(path)) as container:
        packets = [(each.pos, each.size) for each in container.demux(video=0) if each.size]
    data = bytearray(path.read_bytes())
    place, size = packets[30]
    data[place + 8 : place + 8 + size] = bytes(size)
    monkeypatch.setattr(reader, "FAR", far)
    said = "(Invalid data found when processing input); accepted: a whole file"
    assert broken(bytes(data), 50) == f"damaged after 1.16 s {said}"


# ---- sound


def tone(samples: int, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


def encoded(wave: np.ndarray, rate: int = 8_000, kind: str = "WAV", subtype: str = "") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype or None)
    return file.getvalue()


def heard(file, samples: int = 8_000, rate: int = 8_000) -> np.ndarray:
    return read_sound(file, samples, rate, "here") / 32768


KINDS = [
    ("WAV", "PCM_U8", 0.01), ("WAV", "PCM_16", 5e-5), ("WAV", "PCM_24", 5e-5),
    ("WAV", "PCM_32", 5e-5), ("WAV", "FLOAT", 5e-5), ("WAV", "DOUBLE", 5e-5), ("WAV", "ULAW", 0.02),
    ("FLAC", "PCM_16", 5e-5), ("FLAC", "PCM_24", 5e-5), ("OGG", "VORBIS", 0.05),
    ("OGG", "OPUS", 0.07), ("MP3", "", 0.07),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype", "within"), KINDS)
def test_sound_of_every_kind_of_file(tmp_path, kind, subtype, within):
    wave = tone(12_000, 8_000)
    data = encoded(wave, kind=kind, subtype=subtype)
    got = heard(data)
    assert got.shape == (8_000,)
    assert np.abs(got - wave[:8_000])[200:].max() < within
    (tmp_path / "sound").write_bytes(data)
    assert (heard(tmp_path / "sound") == got).all()
    assert abs(len(heard(data, 90_000)) - 12_000) <= (1_200 if kind == "MP3" else 0)


def test_samples_of_sixteen_bits_stay_as_they_are():
    wave = np.random.default_rng(0).integers(-32768, 32768, 4_000).astype(np.int16)
    wave[:2] = -32768, 32767
    assert (read_sound(encoded(wave), 4_000, 8_000, "here") == wave).all()
    assert (read_sound(Sounding(wave, 8_000), 4_000, 8_000, "here") == wave).all()
    assert (read_sound(Sounding(wave.astype(np.int64), 8_000), 4_000, 8_000, "here") == wave).all()
    exact = wave.astype(np.float64) / 32768
    assert (read_sound(Sounding(exact, 8_000), 4_000, 8_000, "here") == wave).all()


@pytest.mark.parametrize("found", [44_100, 48_000, 22_050, 11_025, 8_000, 16_001, 44_101, 192_000])
def test_other_rates_are_as_scipy_has_the_whole(found):
    wave = np.random.default_rng(0).normal(0, 0.2, 2 * found).astype(np.float32)
    shared = np.gcd(found, 16_000)
    whole = np.clip(resample_poly(wave, 16_000 // shared, found // shared), -1, 1)
    data = encoded(wave, found, subtype="FLOAT")
    for samples in (1, 999, 16_000):
        got = heard(data, samples, 16_000)
        assert got.shape == (samples,)
        assert np.abs(got - whole[:samples]).max() < 1e-4
    assert heard(data, 90_000, 16_000).shape == (32_000,)


def test_channels_are_averaged(tmp_path):
    for channels in (2, 3, 6):
        many = np.random.default_rng(0).normal(0, 0.1, (4_000, channels))
        for kind, subtype in (("WAV", "FLOAT"), ("FLAC", "PCM_24")):
            got = heard(encoded(many, kind=kind, subtype=subtype))
            assert np.abs(got - many.mean(1)).max() < 1e-4
        assert np.abs(heard(Sounding(many, 8_000)) - many.mean(1)).max() < 1e-4
    two = np.stack([tone(16_000, 16_000), np.zeros(16_000)])
    got = heard(film(tmp_path / "two.mkv", times=[0], sound=two), 16_000, 16_000)
    assert np.abs(got - two.mean(0)).max() < 1e-3


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.mkv"])
def test_the_sound_of_a_video(tmp_path, name):
    wave = tone(32_000, 16_000)
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    path = film(tmp_path / name, codec, sound=wave[None])
    got = heard(path, 16_000, 16_000)
    assert got.shape == (16_000,)
    assert np.abs(got - wave[:16_000])[2_000:].max() < 0.05
    assert (heard(path.read_bytes(), 16_000, 16_000) == got).all()
    assert 30_000 < len(heard(path, 99_000, 16_000)) < 34_000


def test_ten_hours_of_sound_are_not_read(tmp_path):
    data = bytearray(encoded(tone(8_000, 8_000)))
    place, size = data.index(b"data") + 4, 36_000 * 16_000
    data[place : place + 4] = struct.pack("<I", size)
    path = tmp_path / "long.wav"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.truncate(place + 4 + size)
    tracemalloc.start()
    start = time.process_time()
    got = heard(path)
    took, (_, most) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.abs(got - tone(8_000, 8_000)).max() < 1e-4
    assert took < 0.2
    assert most < 1 << 20


def test_silence_is_a_sound():
    assert (heard(encoded(np.zeros(5_000)), 4_000) == 0).all()


# ---- sounds that are none


def refused(file, rate: int = 8_000) -> str:
    with pytest.raises(BadRecord) as caught:
        read_sound(file, 8_000, rate, "mine.jsonl:7")
    assert str(caught.value).startswith("mine.jsonl:7: audio: ")
    assert "accepted" in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_sound_that_was_cut_is_refused_wherever_it_was(kind):
    data = encoded(tone(8_000, 8_000), kind=kind)
    for share in (0.0, 0.001, 0.01, 0.1, 0.5, 0.85):
        refused(data[: int(share * len(data))])
    if kind == "WAV":
        half = refused(data[: len(data) // 2])
        assert half == "the file ends at 0.50 s of 1.00; accepted: a whole file"


def test_a_sound_of_which_the_beginning_is_there_is_enough():
    data = encoded(tone(80_000, 8_000))
    assert len(heard(data[: len(data) // 5])) == 8_000


def test_a_header_that_was_written_before_the_length_was_known():
    wave = tone(4_000, 8_000)
    data = encoded(wave)
    place = data.index(b"data") + 4
    for told in (0xFFFF_FFFF, 0x7FFF_FFFF):
        streamed = data[:place] + struct.pack("<I", told) + data[place + 4 :]
        assert np.abs(heard(streamed)[:4_000] - wave).max() < 1e-4


def test_a_sound_by_page_is_as_long_as_it_is():
    data = encoded(np.random.default_rng(0).normal(0, 0.1, 80_000), kind="OGG")
    assert 20_000 < len(heard(data[: len(data) // 2], 99_000)) < 60_000


def with_header(offset: int, code: str, value: int) -> bytes:
    """A WAV with another value in its header, by the place within the chunk."""
    data = bytearray(encoded(tone(8_000, 8_000)))
    place = data.index(b"fmt ") + 8 + offset
    struct.pack_into(code, data, place, value)
    return bytes(data)


def test_absurd_rates_and_channels():
    assert refused(with_header(4, "<I", 7)) == "7 samples a second; accepted: 1000 to 768000"
    assert "accepted: 1000 to 768000" in refused(with_header(4, "<I", 2_000_000_000))
    many = encoded(np.zeros((1_000, 65)))
    assert refused(many) == "65 channels; accepted: 1 to 64"
    assert "samples a second" in refused(Sounding(np.zeros(8_000), 0.5))


def test_what_are_no_samples(tmp_path):
    for wrong in (np.nan, np.inf):
        wave = tone(8_000, 8_000)
        wave[500] = wrong
        data = encoded(wave, subtype="DOUBLE")
        assert refused(data) == "samples that are no numbers; accepted: finite ones"
        assert len(heard(data, 400)) == 400  # before it all is well
    assert refused(encoded(np.zeros(0))) == "no samples; accepted: at least one"
    assert refused(Sounding(np.zeros(0), 8_000)) == "no samples; accepted: at least one"
    assert refused(Sounding(np.zeros(8, np.uint8), 8_000)).startswith("samples are uint8; accepted")
    silent = film(tmp_path / "silent.mp4")
    assert refused(silent).startswith("the file has no sound in it; accepted: WAV")
    (tmp_path / "text.raw").write_text("text\n" * 99)
    assert refused(tmp_path / "text.raw").endswith("or the sound of a video")
    assert refused(tmp_path / "none.wav").startswith("cannot be read (No such file")


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", ""), ("FLAC", ""), ("OGG", ""), ("MP3", "")])
def test_damaged_sounds_are_read_or_refused(kind, subtype):
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000)
    rng, data = np.random.default_rng(0), encoded(noise, kind=kind, subtype=subtype)
    start, reasons = time.monotonic(), []
    for _ in range(100):
        try:
            got = heard(damaged(data, rng))
        except BadRecord as error:
            reasons.append(error.reason)
        else:
            assert 1 <= len(got) <= 8_000
    assert 10 < len(reasons) < 100
    assert all("accepted" in reason for reason in reasons)
    assert time.monotonic() - start < 60
