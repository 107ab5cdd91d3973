"""Clips: how untrusted video and sound files become frames and samples.

Frames are taken by time, not by number: of a file with an uneven rate those that were to be seen at
evenly spread moments. Of a long file no more is read than is asked for. Only common formats are
opened: others, such as playlists, can name further files.
"""

import io
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int16, UInt8
from scipy.signal import resample_poly

from mlm_jax.config import UserError
from mlm_jax.data.pictures import MAX_PIXELS
from mlm_jax.data.records import BadRecord, Sounding

try:
    import av
    import soundfile
except ImportError:  # an extra, of which `needed` speaks
    pass

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus")
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,ogg,wav,flac,mp3"
ACCEPTED = "accepted: MP4, MOV, WebM, Matroska, AVI, GIF"
SOUND_ACCEPTED = "accepted: WAV, FLAC, MP3, Ogg, or the sound of a video"
FAR = 4.0  # seconds between two frames that are asked for, from which on it is worth to seek
LOST = 0.5  # share of a file that may be missing at its end
RATES = (1_000, 768_000)  # samples a second
MAX_CHANNELS = 64

File = bytes | Path
Resize = Literal["stretch", "crop", "pad"]


class Frames(NamedTuple):
    frames: UInt8[np.ndarray, "T H W 3"]
    seconds: float


def read_frames(
    file: File, count: int, size: tuple[int, int], resize: Resize, where: str
) -> Frames:
    """`count` frames of `size` (height, width), evenly spread over the whole. Raises: BadRecord."""
    with opened(file, "video", where) as container:
        if not container.streams.video:
            raise BadRecord(where, "video", "the file has no video in it; accepted: one that has")
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            size_ = f"{stream.width} x {stream.height} pixels"
            raise BadRecord(where, "video", f"{size_}; at most {MAX_PIXELS:,} are accepted")
        stream.codec_context.thread_count = 1  # the loader has its own threads
        begin, seconds = duration(container, stream, file, where)
        wanted = [begin + (i + 0.5) / count * seconds for i in range(count)]
        shown = sought if seconds / count > FAR else in_turn
        frames = [fitted(frame, size, resize) for frame in shown(container, stream, wanted, where)]
    if len(frames) < count:
        known = f"{len(frames)} of {count} frames"
        raise BadRecord(where, "video", f"the file ends early: {known}; accepted: a whole file")
    return Frames(np.stack(frames), seconds)


def needed(module: str, where: str) -> None:
    """Raises: UserError where an extra is not installed."""
    if module not in sys.modules:
        raise UserError(f"{where}: needs {module}, which pip install 'mlm_jax[media]' brings")


@contextmanager
def opened(file: File, key: str, where: str) -> Iterator[Any]:
    """A container, and what goes wrong while it is read as BadRecord."""
    needed("av", where)
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    accepted = ACCEPTED if key == "video" else SOUND_ACCEPTED
    try:
        with av.open(source, options={"format_whitelist": FORMATS}) as container:
            yield container
    except BadRecord:
        raise
    except Exception as error:  # on damaged files decoders raise almost anything
        reason = str(error).partition(":")[0] or type(error).__name__
        raise BadRecord(where, key, f"cannot be read ({reason}); {accepted}") from error


def duration(container: Any, stream: Any, file: File, where: str) -> tuple[float, float]:
    """When the video begins, and how many seconds it has, as the header or else its packets say."""
    base = float(stream.time_base)
    begin = float(stream.start_time or 0) * base
    if stream.duration:
        return begin, float(stream.duration) * base
    if container.duration:
        return begin, container.duration / av.time_base - begin
    with opened(file, "video", where) as again:
        ends = [
            (packet.pts + (packet.duration or 0)) * base
            for packet in again.demux(again.streams.video[0])
            if packet.pts is not None
        ]
    if not ends:
        raise BadRecord(where, "video", "the file has no frames; accepted: at least one")
    return begin, max(ends) - begin


def in_turn(container: Any, stream: Any, wanted: list[float], where: str) -> Iterator[Any]:
    """The frames that are to be seen at the times `wanted`, by decoding all."""
    left, shown, latest = iter(wanted), None, 0.0
    time = next(left, None)
    for frame in container.decode(stream):
        latest = frame.time if frame.time is not None else latest
        while time is not None and latest > time:
            yield shown if shown is not None else frame
            time = next(left, None)
        shown = frame
        if time is None:
            return
    if shown is None:
        raise BadRecord(where, "video", "the file has no frames; accepted: at least one")
    gap = wanted[-1] - latest
    if gap > LOST * (wanted[-1] - wanted[0]) and gap > 1 and len(wanted) > 1:
        raise BadRecord(
            where, "video", f"the file ends at {latest:.1f} s of {wanted[-1]:.1f}; accepted: a"
            " whole file"
        )  # fmt: skip
    while time is not None:
        yield shown
        time = next(left, None)


def sought(container: Any, stream: Any, wanted: list[float], where: str) -> Iterator[Any]:
    """The frames that are to be seen at the times `wanted`, by going there."""
    for time in wanted:
        container.seek(round(time / stream.time_base), stream=stream)
        yield next(in_turn(container, stream, [time], where))


def fitted(frame: Any, size: tuple[int, int], resize: Resize) -> UInt8[np.ndarray, "H W 3"]:
    """A frame upright, in RGB, of `size`; by the rules of `transforms.Decode`."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    height, width = size if turns % 2 == 0 else size[::-1]
    if resize == "stretch":
        inner = (height, width)
    else:
        pick = max if resize == "crop" else min
        scale = pick(height / frame.height, width / frame.width)
        inner = (max(1, round(frame.height * scale)), max(1, round(frame.width * scale)))
    small = frame.reformat(
        width=inner[1], height=inner[0], format="rgb24", interpolation="BICUBIC"
    ).to_ndarray()
    return np.rot90(placed(small, (height, width)), turns)


def placed(picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture that is larger; one that is smaller in the middle of white."""
    if picture.shape[:2] == size:
        return picture
    canvas = np.full((*size, 3), 255, np.uint8)
    here, there = [], []
    for whole, part in zip(size, picture.shape[:2], strict=True):
        length = min(whole, part)
        here.append(slice((whole - length) // 2, (whole - length) // 2 + length))
        there.append(slice((part - length) // 2, (part - length) // 2 + length))
    canvas[tuple(here)] = picture[tuple(there)]
    return canvas


# ---- sound


def read_sound(
    file: File | Sounding, samples: int, rate: int, where: str
) -> Int16[np.ndarray, "S"]:
    """The beginning of a sound, one channel, at most `samples` of `rate` a second.

    Channels are averaged. Raises: BadRecord.
    """
    seconds = samples / rate
    found = file if isinstance(file, Sounding) else _decoded(file, seconds, where)
    if not RATES[0] <= found.rate <= RATES[1]:
        low, high = RATES
        raise BadRecord(where, "audio", f"{found.rate} samples a second; accepted: {low} to {high}")
    wave = found.samples[: math.ceil(seconds * found.rate)]
    if np.issubdtype(wave.dtype, np.integer):
        wave = wave / -float(np.iinfo(wave.dtype if wave.dtype.itemsize < 8 else np.int16).min)
    wave = wave.astype(np.float32)
    if wave.ndim == 2:
        wave = wave.mean(1)
    if not len(wave):
        raise BadRecord(where, "audio", "no samples; accepted: at least one")
    if not np.isfinite(wave).all():
        raise BadRecord(where, "audio", "samples that are no numbers; accepted: finite ones")
    if found.rate != rate:
        shared = math.gcd(rate, round(found.rate))
        wave = resample_poly(wave, rate // shared, round(found.rate) // shared)
    return (32767 * np.clip(wave[:samples], -1, 1)).round().astype(np.int16)


def _decoded(file: File, seconds: float, where: str) -> Sounding:
    needed("soundfile", where)
    try:
        with soundfile.SoundFile(io.BytesIO(file) if isinstance(file, bytes) else file) as sound:
            if sound.channels > MAX_CHANNELS:
                many = f"{sound.channels} channels; at most {MAX_CHANNELS} are accepted"
                raise BadRecord(where, "audio", many)
            count = min(math.ceil(seconds * sound.samplerate), len(sound))
            return Sounding(sound.read(count, dtype="float32"), sound.samplerate)
    except soundfile.LibsndfileError:  # no format of its own: the sound of a video, perhaps
        return _of_video(file, seconds, where)


def _of_video(file: File, seconds: float, where: str) -> Sounding:
    with opened(file, "audio", where) as container:
        if not container.streams.audio:
            raise BadRecord(where, "audio", f"the file has no sound in it; {SOUND_ACCEPTED}")
        stream = container.streams.audio[0]
        rate = stream.rate
        mono = av.AudioResampler(format="flt", layout="mono", rate=rate)
        parts: list[np.ndarray] = []
        for frame in container.decode(stream):
            parts += [part.to_ndarray()[0] for part in mono.resample(frame)]
            if sum(map(len, parts)) >= seconds * rate:
                break
    return Sounding(np.concatenate(parts) if parts else np.zeros(0, np.float32), rate)
