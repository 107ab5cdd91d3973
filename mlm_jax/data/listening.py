"""A sound as a model hears it: as it is, or, in training, as somebody else might have said it."""

from dataclasses import dataclass

import numpy as np

from mlm_jax.data.records import Record
from mlm_jax.data.sounds import read_sound

NOISES = 100.0  # the loudest noise over the softest: the ear, and a log-mel, hear ratios


@dataclass(frozen=True)
class Listen:
    """A sound to `samples` samples, `rate` a second; silence follows one that is shorter.

    In training, where it is asked for: `speed`, played up to that share faster or slower, which
    changes its pitch as well, and begun anywhere from where it still fits; `tone`, pitches louder
    and softer than others, by some decibels (`toned`); `noise`, white, up to that share of
    the sound's own level.
    """

    samples: int
    rate: int
    speed: float = 0.0
    tone: float = 0.0
    noise: float = 0.0

    def __call__(
        self, record: Record, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """audio int16 (samples,), and audio_length, at which it ends; raises BadRecord.

        Where it was made to begin later, the silence before it counts as heard.
        """
        wave = read_sound(record.audio, self.samples, self.rate, record.key)
        start = 0
        if rng is not None and (self.speed or self.tone or self.noise):
            wave, start = self._varied(wave, rng)
        whole = np.zeros(self.samples, np.int16)
        whole[start : start + len(wave)] = wave
        return {"audio": whole, "audio_length": np.array(start + len(wave), np.int32)}

    def _varied(self, wave: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """At another speed, with another tone and noise, and where it begins."""
        step = (1 + self.speed) ** rng.uniform(-1, 1)
        other = toned(faster(wave, step), self.rate, self.tone, rng)[: self.samples]
        level = np.sqrt(np.mean(np.square(other)))
        other += rng.normal(0, self.noise * NOISES ** rng.uniform(-1, 0) * level, len(other))
        start = rng.integers(self.samples - len(other) + 1) if self.speed else 0
        return np.clip(other, -32768, 32767).astype(np.int16), int(start)


def faster(wave: np.ndarray, step: float) -> np.ndarray:
    """`step` samples of before for one, nothing but the highest pitches lost: float (n / step,).

    Lines between samples would dull it, and train a model on sounds duller than those it meets.
    """
    from scipy.signal import resample  # takes as long to import as all the rest

    return resample(wave.astype(np.float64), max(1, round(len(wave) / step)))


def toned(wave: np.ndarray, rate: int, most: float, rng: np.random.Generator) -> np.ndarray:
    """Pitches louder and softer: four waves along the mel scale, of up to `most` decibels each."""
    spectrum = np.fft.rfft(wave)
    place = np.log1p(np.fft.rfftfreq(len(wave), 1 / rate) / 700)
    waves = np.cos(np.pi * np.arange(4)[:, None] * place / max(place[-1], 1e-9))
    decibels = rng.uniform(-most, most, 4) @ waves
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), len(wave))
