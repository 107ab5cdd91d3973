"""Sounds: what can be heard of who does what, by spectra alone."""

from itertools import pairwise

import numpy as np
import pytest

from mlm_jax.world import clip
from mlm_jax.world.clip import KINDS, Clip, Event
from mlm_jax.world.scene import COLOURS, SHAPES, Background, Object
from mlm_jax.world.sound import PITCH, SAMPLES, sound

FRAME = 1_000  # samples
GREY = Background("plain", (99, 99, 99), (99, 99, 99), 0.0, 0.2, 0)
BANDS = np.geomspace(150, 4_000, 58).astype(int)  # a semitone each


def draw(i: int, frames: int = 16, objects: int = 1) -> Clip:
    return clip.sample(np.random.default_rng([9, i]), frames=frames, objects=objects)


def one(colour: str, shape: str, kind: str, start: int = 3, end: int = 8) -> Clip:
    thing = Object(shape, colour, "small", 0.5, 0.5, 0.09)
    return Clip((thing,), GREY, (Event(kind, 0, start, end, 0.3),), 16)


def heard(truth: Clip, seed: int = 0) -> np.ndarray:
    """What sounds while the first event lasts."""
    event = truth.events[0]
    wave = sound(truth, np.random.default_rng(seed))
    return wave[event.start * FRAME : event.end * FRAME].astype(float)


def spectra(wave: np.ndarray, parts: int = 6) -> np.ndarray:
    """Strength in each band, of each part of the time; of unit length in all."""
    pieces = np.array_split(wave, parts)
    power = [abs(np.fft.rfft(p * np.hanning(len(p)), SAMPLES)) ** 2 for p in pieces]
    strength = np.sqrt([[p[a : max(b, a + 1)].sum() for a, b in pairwise(BANDS)] for p in power])
    return (strength / np.linalg.norm(strength)).ravel()


def test_colour_and_shape_are_heard():
    names = [
        (c, s, k) for c in COLOURS for s in SHAPES for k in ("grows", "moves up", "moves down")
    ]
    templates = np.stack([spectra(heard(one(*name))) for name in names])
    right = 0
    for i in range(300):
        truth = draw(i)
        thing = truth.objects[0]
        nearest = names[int((templates @ spectra(heard(truth, i))).argmax())]
        right += nearest[:2] == (thing.colour, thing.shape)
    assert right >= 0.99 * 300


@pytest.mark.parametrize("frames", [8, 16, 64])
def test_kinds_are_heard(frames):
    for i in range(25):
        truth = draw(i, frames)
        (event,) = truth.events
        other = [spectra(heard(truth._replace(events=(event._replace(kind=k),)))) for k in KINDS]
        nearest = KINDS[int((other @ spectra(heard(truth, i + 1))).argmax())]
        assert nearest == event.kind


def test_the_pitch_is_the_colour_and_the_harmonics_the_shape():
    for colour, pitch in PITCH.items():
        wave = heard(one(colour, "circle", "grows"))
        assert abs(np.fft.rfft(wave, SAMPLES)).argmax() == pytest.approx(pitch, abs=1.5)
    for shape, loud, soft in (
        ("square", 3, 2),
        ("triangle", 2, 3),
        ("star", 5, 6),
        ("cross", 4, 2),
    ):
        power = abs(np.fft.rfft(heard(one("red", shape, "grows")), SAMPLES))
        assert power[200 * loud] > 20 * power[200 * soft]


@pytest.mark.parametrize("frames", [8, 23, 64])
@pytest.mark.parametrize("objects", [1, 3])
def test_sounds_are_as_long_as_the_clip_and_silent_where_nothing_happens(frames, objects):
    for i in range(20):
        truth = draw(i, frames, objects)
        wave = sound(truth, np.random.default_rng(i))
        assert wave.dtype == np.int16
        assert wave.shape == (frames * FRAME,)
        during = np.zeros(len(wave), bool)
        for event in truth.events:
            during[event.start * FRAME : event.end * FRAME] = True
        assert abs(wave[~during]).max() < 0.02 * 32_767
        assert 0.05 * 32_767 < abs(wave[during].astype(int)).max() < 0.95 * 32_767


def test_a_seed_is_a_sound():
    first, again, other = (sound(draw(0), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_sounds_of_two_events_add_up():
    truth = draw(1, objects=2)
    assert truth.events[1].start < truth.events[0].end
    alone = [truth._replace(events=events) for events in (truth.events[:1], truth.events[1:], ())]
    both, *each, quiet = (sound(t, np.random.default_rng(0)).astype(int) for t in (truth, *alone))
    assert abs(both + quiet - sum(each)).max() <= 3
