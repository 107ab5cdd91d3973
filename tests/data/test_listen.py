"""Sounds played faster or slower, later, in another tone and with noise: in training alone."""

import numpy as np

from mlm_jax.data.listening import Listen, faster
from mlm_jax.data.records import Record, Sounding
from mlm_jax.data.transforms import Take

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


def heard(most: Listen, count: int = 40) -> list[np.ndarray]:
    """The power of each frequency of one noise, as it is played each time."""
    wave = np.random.default_rng(0).normal(0, 2_000, LENGTH).astype(np.int16)
    noise = Record("here", audio=Sounding(wave, RATE))
    played = [
        Take(audio=most)(noise, np.random.default_rng(seed))["audio"] for seed in range(count)
    ]
    return [np.square(np.abs(np.fft.rfft(each))) for each in played]


def test_tones_are_brighter_or_duller() -> None:
    """Each pitch by so many decibels at the most, and by as much as its neighbours."""
    before = heard(Listen(LENGTH, RATE), 1)[0][1:]
    decibels = np.array(
        [10 * np.log10(each[1:] / before) for each in heard(Listen(LENGTH, RATE, tone=3.0))]
    )
    middle = np.median(decibels.reshape(40, -1, 40), axis=-1)
    assert 6 < abs(middle).max() < 12
    assert middle.min() < -3 < 3 < middle.max()
    assert abs(np.diff(middle)).max() < 3
    assert abs(middle.mean()) < 0.5


def test_noise_is_at_most_a_share_of_the_level() -> None:
    plain = Take(audio=Listen(LENGTH, RATE))(RECORD)["audio"].astype(float)
    take = Take(audio=Listen(LENGTH, RATE, noise=0.5))
    levels = []
    for seed in range(100):
        noise = take(RECORD, np.random.default_rng(seed))["audio"] - plain
        assert abs(np.corrcoef(noise, plain)[0, 1]) < 0.1
        levels.append(noise.std() / plain.std())
    assert 0.004 < min(levels) < 0.01
    assert 0.3 < max(levels) < 0.51
    assert 0.03 < np.median(levels) < 0.08


def test_a_faster_sound_is_as_loud_and_as_bright() -> None:
    """To within its band: a line between samples takes two thirds of what is at 3,400 Hz."""
    time = np.arange(LENGTH) / RATE
    for hertz in (500, 2_000, 3_400):
        wave = 9_000 * np.sin(2 * np.pi * hertz * time) * np.hanning(LENGTH)
        slow = faster(wave, 0.9)
        assert len(slow) == round(LENGTH / 0.9)
        assert abs(pitch(slow) - 0.9 * hertz) < 3
        assert abs(slow.std() / wave.std() - 1) < 0.01


def test_nothing_is_changed_where_nothing_is_drawn() -> None:
    plain = Take(audio=Listen(8_000, RATE))(RECORD, np.random.default_rng(0))["audio"]
    evaluated = Take(audio=Listen(8_000, RATE, 0.25, 3.0, 0.5))(RECORD)["audio"]
    np.testing.assert_array_equal(plain, evaluated)
    np.testing.assert_array_equal(plain[:LENGTH], TONE)
    assert not plain[LENGTH:].any()
