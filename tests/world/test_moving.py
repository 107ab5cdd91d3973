"""Clips: what may happen, where things are in every frame, and that time has no direction."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import hypot

import numpy as np
import pytest
from scipy.stats import ks_2samp

from mlm_jax.world import clip, scene
from mlm_jax.world.clip import KINDS, Clip
from mlm_jax.world.render import play, render
from mlm_jax.world.scene import HELD_OUT, SEEN, Scene

OPPOSITE = {
    "moves left": "moves right",
    "moves up": "moves down",
    "grows": "shrinks",
    "appears": "vanishes",
}
FAR = 1.16  # radii from the centre of a turning square to its corner
OPPOSITE |= {other: kind for kind, other in OPPOSITE.items()}


def draw(count: int, frames: int = 16, *, seed: int = 7, **options: int) -> list[Clip]:
    return [
        clip.sample(np.random.default_rng([seed, i]), frames=frames, **options)
        for i in range(count)
    ]


@dataclass
class State:
    """An object in a frame."""

    x: float
    y: float
    radius: float
    opacity: float = 1.0


def states(drawn: Clip) -> list[list[State]]:
    """Of each frame its objects, worked out event by event from the JSON."""
    tree = json.loads(clip.to_json(drawn))
    beat = max(1, tree["frames"] // 16)
    film = []
    for frame in range(tree["frames"]):
        now = [State(x, y, radius) for _, _, _, x, y, radius, _ in tree["objects"]]
        for kind, which, start, end, by in tree["events"]:
            share = min(max((frame + 1 - start) / (end - start), 0), 1)
            thing = now[which]
            match kind.split():
                case ["moves", "left"]:
                    thing.x -= by * share
                case ["moves", "right"]:
                    thing.x += by * share
                case ["moves", "up"]:
                    thing.y -= by * share
                case ["moves", "down"]:
                    thing.y += by * share
                case ["grows"]:
                    thing.radius *= clip.GROWTH**share
                case ["shrinks"]:
                    thing.radius /= clip.GROWTH**share
                case ["appears"]:
                    thing.opacity *= share
                case ["vanishes"]:
                    thing.opacity *= 1 - share
                case ["blinks"] if start <= frame < end and (frame - start) // beat % 2 == 0:
                    thing.opacity = 0
        film.append(now)
    return film


# ---- what may happen


@pytest.mark.parametrize("frames", [8, 16, 23, 32, 64])
@pytest.mark.parametrize("objects", [0, 1, 2, 3])
def test_clips_are_legal(frames, objects):
    beat = max(1, frames // 16)
    for drawn in draw(60, frames, objects=objects):
        assert drawn.frames == frames
        assert 1 <= len(drawn.events) <= 3
        if objects:
            assert sorted(event.object for event in drawn.events) == list(range(objects))
        assert len({thing.colour for thing in drawn.objects}) == len(drawn.objects)
        assert [e.start for e in drawn.events] == sorted({e.start for e in drawn.events})
        assert [e.end for e in drawn.events] == sorted({e.end for e in drawn.events})
        for i, thing in enumerate(drawn.objects):
            own = [event for event in drawn.events if event.object == i]
            for event in own:
                assert 1 <= event.start <= event.end - 3 <= frames - 3
                assert event.kind in KINDS
                assert event.kind != "turns" or thing.shape in clip.TURN
            for one, two in pairwise(own):
                assert one.end + beat <= two.start  # a rest between, longer than one in a blink
                assert one.kind != "vanishes"
                assert two.kind != "appears"
            assert thing.size == ("small" if thing.radius <= 0.1 else "large")


@pytest.mark.parametrize("frames", [8, 16, 64])
def test_objects_stay_inside_and_apart_in_every_frame(frames):
    for drawn in draw(150, frames):
        for now in states(drawn):
            for i, a in enumerate(now):
                assert 0.084 < a.radius < 0.161
                assert min(a.x, a.y, 1 - a.x, 1 - a.y) > FAR * a.radius + 0.02
                for b in now[:i]:
                    reach = FAR * (a.radius + b.radius)
                    assert hypot(a.x - b.x, a.y - b.y) > reach + 2 / 48


def test_held_out_pairs_are_in_novel_only_and_act_there():
    usual = [{(o.colour, o.shape) for o in drawn.objects} for drawn in draw(600)]
    assert set.union(*usual) == set(SEEN)
    acting = set()
    for drawn in draw(300, novel=True):
        names = [(o.colour, o.shape) for o in drawn.objects]
        now = {names[event.object] for event in drawn.events}
        assert now & HELD_OUT
        acting |= now
    assert acting >= HELD_OUT


def test_there_is_something_of_everything():
    drawn = draw(1_000)
    objects = Counter(len(each.objects) for each in drawn)
    events = Counter(len(each.events) for each in drawn)
    kinds = Counter(event.kind for each in drawn for event in each.events)
    assert min(objects[i] for i in (1, 2, 3)) > 0.15 * len(drawn)
    assert min(events[i] for i in (1, 2, 3)) > 0.2 * len(drawn)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 0.05 * kinds.total()
    assert max(kinds.values()) < 0.18 * kinds.total()
    one = Counter(clip.name(each) for each in draw(600, objects=1))
    assert set(one) == set(KINDS)
    assert max(one.values()) < 0.14 * one.total()
    repeated = sum(len({e[:2] for e in each.events}) < len(each.events) for each in drawn)
    assert repeated > 0.1 * len(drawn)


def test_a_clip_of_several_events_has_no_name():
    assert {clip.name(drawn) for drawn in draw(50, objects=2)} == {""}


@pytest.mark.parametrize("frames", [0, 7, 65])
def test_other_lengths_are_refused(frames):
    with pytest.raises(ValueError, match="from 8 to 64"):
        clip.sample(np.random.default_rng(0), frames=frames)


def test_json_is_exact_and_a_seed_is_a_clip():
    for frames in (8, 64):
        for first, again in zip(draw(100, frames), draw(100, frames), strict=True):
            assert first == again
            assert clip.from_json(clip.to_json(first)) == first


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"objects":[[1]],"background":[],"events":[],"frames":8}', "null"]
)
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match="not the JSON of a clip"):
        clip.from_json(text)


# ---- time has no direction


def backwards(drawn: Clip) -> Clip:
    """The clip that is seen when `drawn` is played backwards."""
    last = states(drawn)[-1]
    objects = tuple(
        thing._replace(x=now.x, y=now.y, radius=now.radius)
        for thing, now in zip(drawn.objects, last, strict=True)
    )
    events = tuple(
        event._replace(
            kind=OPPOSITE.get(event.kind, event.kind),
            start=drawn.frames + 1 - event.end,
            end=drawn.frames + 1 - event.start,
            by=-event.by if event.kind == "turns" else event.by,
        )
        for event in reversed(drawn.events)
    )
    return Clip(objects, drawn.background, events, drawn.frames)


@pytest.mark.parametrize("frames", [8, 16, 32, 64])
def test_a_clip_played_backwards_is_a_clip(frames):
    for drawn in draw(20, frames):
        forth, back = (play(each, 32).astype(int) for each in (drawn, backwards(drawn)))
        assert abs(forth - back[::-1]).max() <= 1
        assert clip.possible(list(backwards(drawn).events), frames)


def alike(values: dict[str, list[float]], kind: str, other: str) -> float:
    """Chance that two kinds differ as they do, or more, if nothing tells them apart."""
    return float(ks_2samp(values[kind], values[other], method="asymp").pvalue)


def test_the_middle_frame_tells_no_two_opposites_apart():
    middle: dict[str, dict[str, list[float]]] = {}
    for drawn in draw(1_500, 17, seed=3):
        now = states(drawn)[8]
        for event in drawn.events:
            thing = now[event.object]
            for key, value in thing.__dict__.items():
                middle.setdefault(key, {}).setdefault(event.kind, []).append(value)
    for kind in OPPOSITE:
        for values in middle.values():
            assert alike(values, kind, OPPOSITE[kind]) > 1e-3
    assert len(middle["x"]["grows"]) > 200


def test_times_and_orders_are_as_likely_backwards():
    times: dict[str, dict[str, list[float]]] = {}
    for drawn in draw(1_500, 17, seed=4):
        for each, sign in ((drawn, 1), (backwards(drawn), -1)):
            for place, event in enumerate(each.events):
                for key, value in (("start", event.start), ("end", event.end), ("place", place)):
                    kinds = times.setdefault(key, {})
                    kinds.setdefault(f"{event.kind}{sign}", []).append(value)
    for kind in KINDS:
        for values in times.values():
            assert alike(values, f"{kind}1", f"{kind}-1") > 1e-3


# ---- what is drawn


def test_the_first_frame_is_the_scene():
    for drawn in draw(40):
        first = tuple(
            thing
            for i, thing in enumerate(drawn.objects)
            if not any(e.kind == "appears" and e.object == i for e in drawn.events)
        )
        assert (play(drawn)[0] == render(Scene(first, drawn.background))).all()


def test_frames_differ_from_the_one_before_while_something_happens_and_only_then():
    for drawn in draw(40, 64):
        film = play(drawn)
        differs = (film[1:] != film[:-1]).any((1, 2, 3))
        during, blinking = np.zeros(63, bool), np.zeros(63, bool)
        for event in drawn.events:
            span = blinking if event.kind == "blinks" else during
            span[event.start - 1 : event.end - 1] = True
            assert differs[[event.start - 1, event.end - 2]].all()
        assert (differs | ~during).all()
        assert (during | blinking | ~differs).all()


@pytest.mark.parametrize("size", [32, 100, 512])
def test_a_clip_looks_the_same_at_all_sizes(size):
    drawn = draw(1, 8, seed=2)[0]
    film = play(drawn, size)
    assert film.shape == (8, size, size, 3)
    assert film.dtype == np.uint8
    assert abs(film.mean((1, 2)) - play(drawn, 48).mean((1, 2))).max() < 2


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="32 to 512"):
        play(draw(1)[0], 31)


def test_a_scene_is_not_a_clip():
    with pytest.raises(ValueError, match="not the JSON of a clip"):
        clip.from_json(scene.to_json(scene.sample(np.random.default_rng(0))))
