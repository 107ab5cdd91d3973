"""Samples of untrusted sound files, and of the sound of videos."""

import io
import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int16

from mlm_jax.config import UserError
from mlm_jax.data.containers import ACCEPTED, LOST, File, alone, needed, opened, told_of, undamaged
from mlm_jax.data.records import BadRecord, Sounding

with suppress(ImportError):  # an extra, of which `needed` speaks
    import av
with suppress(ImportError, OSError):  # OSError: the package is there, its library is not
    import soundfile

SHORT = 0.1  # seconds of sound that may be in a container: encoders add some before the first
RATES = (1_000, 768_000)  # samples a second
MAX_CHANNELS = 64
REACH = 10  # samples to either side that the filter of resampling looks at

Enough = Callable[[float], int]


def read_sound(
    file: File | Sounding, samples: int, rate: int, where: str
) -> Int16[np.ndarray, "S"]:
    """The beginning of a sound, one channel, at most `samples` of `rate` a second.

    Channels are averaged. Raises: BadRecord.
    """

    def enough(found: float) -> int:
        """How many samples of so many a second it takes, what the filter looks at included."""
        beyond = 0 if found == rate else REACH * math.ceil(max(found / rate, 1)) + 1
        return math.ceil(samples * found / rate) + beyond

    found = file if isinstance(file, Sounding) else decoded(file, enough, where)
    accepted(found.rate, found.samples.shape[1] if found.samples.ndim == 2 else 1, where)
    wave = mono(found.samples[: enough(found.rate)], where)
    if not len(wave):
        raise BadRecord(where, "audio", "no samples; accepted: at least one")
    if not np.isfinite(wave).all():
        raise BadRecord(where, "audio", "samples that are no numbers; accepted: finite ones")
    wave = resampled(wave, round(found.rate), rate)[:samples]
    return np.clip(np.round(32768 * wave), -32768, 32767).astype(np.int16)


def accepted(rate: float, channels: int, where: str) -> None:
    """Raises: BadRecord."""
    if not RATES[0] <= rate <= RATES[1]:
        low, high = RATES
        raise BadRecord(where, "audio", f"{rate:g} samples a second; accepted: {low} to {high}")
    if not 1 <= channels <= MAX_CHANNELS:
        many = f"{channels} channels; accepted: 1 to {MAX_CHANNELS}"
        raise BadRecord(where, "audio", many)


def mono(samples: np.ndarray, where: str) -> Float[np.ndarray, "S"]:
    """The mean of the channels, -1 to 1; raises BadRecord."""
    kind = samples.dtype
    if np.issubdtype(kind, np.signedinteger):  # TFDS holds what is int16 as int64
        samples = samples / -float(np.iinfo(kind if kind.itemsize < 8 else np.int16).min)
    elif not np.issubdtype(kind, np.floating):
        accepted = "accepted: whole numbers with a sign, or floating point"
        raise BadRecord(where, "audio", f"samples are {kind}; {accepted}")
    samples = samples.astype(np.float32)
    return samples.mean(1) if samples.ndim == 2 else samples


def resampled(wave: Float[np.ndarray, "S"], found: int, rate: int) -> Float[np.ndarray, "s"]:
    """As scipy.signal.resample_poly has it, whose filter is designed once for each two rates."""
    if found == rate:
        return wave
    from scipy.signal import resample_poly  # takes as long to import as all the rest

    shared = math.gcd(found, rate)
    up, down = rate // shared, found // shared
    whole: np.ndarray = resample_poly(wave, up, down, window=low_pass(max(up, down)))
    return whole


@lru_cache(maxsize=8)
def low_pass(rate: int) -> Float[np.ndarray, "W"]:
    """A sinc under Kaiser's window, REACH periods to either side; by scipy it takes far longer."""
    at = np.arange(-REACH * rate, REACH * rate + 1)
    taps = np.sinc(at / rate) * np.kaiser(len(at), 5.0)
    return (taps / taps.sum()).astype(np.float32)


def decoded(file: File, enough: Enough, where: str) -> Sounding:
    """`enough` of a sound, or all of one that is shorter; raises BadRecord."""
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream:
            if stream.read(4) in (b"RIFF", b"fLaC", b"OggS"):
                stream.seek(0)
                return by_soundfile(stream, enough, where)
    except UserError:
        raise
    except Exception:  # almost anything, see `opened`; perhaps the other one can read it
        pass
    return by_av(file, enough, where)


def by_soundfile(stream: BinaryIO, enough: Enough, where: str) -> Sounding:
    needed("soundfile", where)
    with soundfile.SoundFile(stream) as sound:
        rate = sound.samplerate
        accepted(rate, sound.channels, where)
        count = min(enough(rate), len(sound))
        blocks = sound.blocks(rate, frames=count, dtype="float32", always_2d=True)
        wave = np.concatenate([block.mean(1) for block in blocks])
        refuse_short(len(wave), told_samples(sound), enough(rate), rate, where)
    return Sounding(wave, rate)


CUT = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAMED = 0x7FFF_0000  # bytes, from which on the header was written before the length was known


def told_samples(sound: Any) -> int:
    """How many samples there are by the header; libsndfile counts those of a WAV that are left."""
    cut = CUT.search(sound.extra_info)
    told, left = map(int, cut.groups()) if cut else (0, 0)
    return len(sound) * told // left if left and told < STREAMED else len(sound)


def by_av(file: File, enough: Enough, where: str) -> Sounding:
    with opened(file, "audio", where) as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise BadRecord(where, "audio", f"the file has no sound in it; {ACCEPTED['audio']}")
        alone(stream, "audio", where)
        floats = av.AudioResampler(format="fltp")
        parts, count, rate = [], 0, stream.rate
        for frame in undamaged(container, stream, "audio", where):
            rate = frame.sample_rate
            accepted(rate, frame.layout.nb_channels, where)
            parts += [part.to_ndarray().mean(0) for part in floats.resample(frame)]
            count += frame.samples
            if count >= enough(rate):
                break
        told = told_of(container, stream)
        if told.own and container.format.name != "mp3":  # of which it may be guessed
            refuse_short(count, int(told.length * rate), enough(rate), rate, where, spare=SHORT)
    return Sounding(np.concatenate(parts) if parts else np.zeros(0, np.float32), rate)


def refuse_short(
    count: int, told: int, enough: int, rate: int, where: str, spare: float = 0.0
) -> None:
    """Raises: BadRecord where clearly fewer samples were read than there should have been."""
    should = min(told, enough)
    if should - count > LOST * should + spare * rate:
        ends = f"the file ends at {count / rate:.2f} s of {told / rate:.2f}"
        raise BadRecord(where, "audio", f"{ends}; accepted: a whole file")
