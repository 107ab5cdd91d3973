"""Containers: how untrusted video and sound files are opened, and what they say of themselves.

Only common formats are opened: others, such as playlists, can name further files.
"""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from mlm_jax.config import UserError
from mlm_jax.data.records import BadRecord

with suppress(ImportError):  # an extra, of which `needed` speaks
    import av

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif")
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus")
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,ogg,wav,flac,mp3"
ACCEPTED = {
    "video": "accepted: MP4, MOV, WebM, Matroska, AVI, GIF",
    "audio": "accepted: WAV, FLAC, MP3, Ogg, or the sound of a video",
}
LOST = 0.05  # share of a file that may be missing at its end

File = bytes | Path


@contextmanager
def opened(file: File, key: str, where: str) -> Iterator[Any]:
    """A container, and what goes wrong while it is read as BadRecord."""
    needed("av", where)
    # "file:" and the list of protocols: "http:a.mp4" is the name of a file like any other
    source = io.BytesIO(file) if isinstance(file, bytes) else f"file:{file}"
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(source, options=options, metadata_errors="replace") as container:
            yield container
    except BadRecord:
        raise
    except Exception as error:  # on damaged files decoders raise almost anything
        raise BadRecord(where, key, f"cannot be read ({said(error)}); {ACCEPTED[key]}") from error


def said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def needed(module: str, where: str) -> None:
    """Raises: UserError where an extra is not installed."""
    if module not in sys.modules:
        raise UserError(f"{where}: needs {module}, which pip install -e '.[media]' brings")


def alone(stream: Any, key: str, where: str) -> None:
    """Decode in one thread, since the loader has its own; raises BadRecord."""
    if stream.codec_context is None:
        raise BadRecord(where, key, f"nothing here decodes its {key}; {ACCEPTED[key]}")
    stream.codec_context.thread_count = 1


def undamaged(
    container: Any, stream: Any, key: str, where: str, went: int | None = None
) -> Iterator[Any]:
    """Its frames, from the beginning or the time it `went` to, in its units.

    Raises: BadRecord, with the time, at what is no frame.
    """
    begin = stream.start_time or 0
    time = (begin if went is None else went) * stream.time_base
    try:
        for frame in container.decode(stream):
            yield frame
            time = frame.time or time
    except Exception as error:
        damage = f"damaged after {float(time - begin * stream.time_base):.2f} s ({said(error)})"
        raise BadRecord(where, key, f"{damage}; accepted: a whole file") from error


class Told(NamedTuple):
    """From when to when a stream lasts, in seconds, by what the file says of itself.

    own: whether it says so of the stream, and not only of itself as a whole.
    """

    begin: Fraction
    end: Fraction
    own: bool

    @property
    def length(self) -> Fraction:
        return self.end - self.begin


CLOCK = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")


def told_of(container: Any, stream: Any) -> Told:
    """As if it ended at 0 where it does not say."""
    begin = (stream.start_time or 0) * stream.time_base
    clock = CLOCK.fullmatch(stream.metadata.get("DURATION", ""))  # Matroska's
    if stream.duration:
        return Told(begin, begin + stream.duration * stream.time_base, True)
    if clock:
        hours, minutes, seconds = map(Fraction, clock.groups())
        return Told(begin, 3600 * hours + 60 * minutes + seconds, True)
    end = Fraction(container.duration or 0, av.time_base)
    return Told(begin, end, len(container.streams) == 1)
