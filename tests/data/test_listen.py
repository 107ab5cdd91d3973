"""Sounds played faster or slower, and later: in training alone."""

import numpy as np

from mlm_jax.data.records import Record, Sounding
from mlm_jax.data.transforms import Listen, Take

RATE, LENGTH = 8_000, 4_000
TONE = (9_000 * np.sin(2 * np.pi * 500 * np.arange(LENGTH) / RATE)).astype(np.int16)
RECORD = Record("here", audio=Sounding(TONE, RATE))


def pitch(wave: np.ndarray) -> float:
    """Hz of the strongest part."""
    return float(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * RATE / len(wave))


def test_speeds_are_within_their_range_and_starts_where_they_fit() -> None:
    take = Take(audio=Listen(8_000, RATE, 0.25))
    pitches, starts = [], []
    for seed in range(60):
        arrays = take(RECORD, np.random.default_rng(seed))
        wave, end = arrays["audio"], int(arrays["audio_length"])
        sounding = np.flatnonzero(wave)
        assert sounding[-1] < end <= 8_000
        starts.append(int(sounding[0]))
        pitches.append(pitch(wave[sounding[0] : end]))
        again = take(RECORD, np.random.default_rng(seed))
        np.testing.assert_array_equal(again["audio"], wave)
    assert 500 / 1.26 < min(pitches) < 430
    assert 580 < max(pitches) < 500 * 1.26
    assert min(starts) < 700
    assert max(starts) > 2_500


def test_tones_are_brighter_or_duller() -> None:
    rng = np.random.default_rng(0)
    noise = Record("here", audio=Sounding(rng.normal(0, 2_000, LENGTH).astype(np.int16), RATE))
    take = Take(audio=Listen(LENGTH, RATE, tone=0.8))
    shares = []
    for seed in range(40):
        wave = take(noise, np.random.default_rng(seed))["audio"]
        power = np.square(np.abs(np.fft.rfft(wave)))
        shares.append(power[len(power) // 2 :].sum() / power.sum())
    assert min(shares) < 0.25
    assert max(shares) > 0.75


def test_nothing_is_changed_where_nothing_is_drawn() -> None:
    plain = Take(audio=Listen(8_000, RATE))(RECORD, np.random.default_rng(0))["audio"]
    evaluated = Take(audio=Listen(8_000, RATE, 0.25))(RECORD)["audio"]
    np.testing.assert_array_equal(plain, evaluated)
    np.testing.assert_array_equal(plain[:LENGTH], TONE)
    assert not plain[LENGTH:].any()
