"""The graders of clips: right on true renders, and not deceived by damaged clips and texts."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from mlm_jax.world import clip, story
from mlm_jax.world.clip import Clip, Event
from mlm_jax.world.render import play
from mlm_jax.world.scene import COLOURS, SHAPES, Background, Object
from mlm_jax.world.story import acts
from mlm_jax.world.watch import Seen, StoryGrade, grade_story, recognised, watch

OPPOSITE = {
    "moves left": "moves right",
    "moves up": "moves down",
    "grows": "shrinks",
    "appears": "vanishes",
}
OPPOSITE |= {other: kind for kind, other in OPPOSITE.items()}


def draw(i: int, frames: int = 16) -> Clip:
    return clip.sample(np.random.default_rng([13, i]), frames=frames, novel=i % 2 == 1)


def truth(drawn: Clip) -> tuple[Seen, ...]:
    return tuple(
        Seen(act, event.start, event.end)
        for act, event in zip(acts(drawn), drawn.events, strict=True)
    )


@pytest.mark.parametrize(
    ("size", "frames", "count"),
    [(48, 16, 50), (32, 8, 20), (32, 64, 10), (96, 16, 10), (48, 32, 10), (224, 16, 4)],
)
def test_true_clips_are_read_back(size, frames, count):
    for drawn in (draw(i, frames) for i in range(count)):
        assert watch(play(drawn, size)) == truth(drawn)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "frames", "count"),
    [
        *((48, 16, 1_500), (48, 8, 400), (48, 23, 300), (48, 64, 300), (32, 16, 500)),
        *((32, 64, 300), (96, 32, 100), (112, 32, 100), (224, 16, 60)),
    ],
)
def test_thousands_of_true_clips_are_read_back(size, frames, count):
    events = right = 0
    for drawn in (draw(1_000 + i, frames) for i in range(count)):
        seen, true = watch(play(drawn, size)), truth(drawn)
        events += max(len(seen), len(true))
        right += len(set(seen) & set(true))
    assert right >= 0.995 * events


@pytest.mark.slow
def test_a_little_noise_does_no_harm():
    rng = np.random.default_rng(0)
    right = 0
    for drawn in (draw(i) for i in range(200)):
        frames = play(drawn) + rng.normal(0, 2, (16, 48, 48, 3))
        right += watch(frames.clip(0, 255).round().astype(np.uint8)) == truth(drawn)
    assert right > 0.95 * 200


# ---- damage


def film(count: int) -> Iterator[tuple[Clip, np.ndarray, np.random.Generator]]:
    for i in range(count):
        drawn = draw(100 + i)
        yield drawn, play(drawn), np.random.default_rng(i)


def test_shuffled_frames_are_noticed():
    for drawn, frames, rng in film(20):
        assert watch(rng.permutation(frames)) != truth(drawn)


def test_a_clip_that_is_played_backwards_is_seen_as_such():
    for drawn, frames, _ in film(20):
        reverse = [
            Seen(
                one.act._replace(action=OPPOSITE.get(action, action)), 17 - one.end, 17 - one.start
            )
            for one in reversed(truth(drawn))
            for action in [str(one.act.action)]
        ]
        assert list(watch(frames[::-1])) == reverse


def test_a_wrong_colour_or_shape_is_noticed():
    for drawn, frames, rng in film(20):
        event = drawn.events[int(rng.integers(len(drawn.events)))]
        thing = drawn.objects[event.object]
        free = [c for c in COLOURS if c not in {o.colour for o in drawn.objects}]
        other = [s for s in SHAPES if s != thing.shape]
        for wrong in (
            thing._replace(colour=str(rng.choice(free))),
            thing._replace(shape=str(rng.choice(other))),
        ):
            objects = tuple(wrong if o is thing else o for o in drawn.objects)
            spoilt = play(drawn._replace(objects=objects))
            assert watch(spoilt) != truth(drawn)
            if event.kind.startswith("moves"):  # something else from half-way on
                half = (event.start + event.end) // 2
                assert watch(np.concatenate([frames[:half], spoilt[half:]])) != truth(drawn)


def test_an_event_removed_is_missing():
    for drawn, _, rng in film(20):
        i = int(rng.integers(len(drawn.events)))
        less = play(drawn._replace(events=drawn.events[:i] + drawn.events[i + 1 :]))
        assert watch(less) == truth(drawn)[:i] + truth(drawn)[i + 1 :]


def test_events_are_recognised_as_often_as_they_are_there():
    for i in range(20):
        drawn = draw(i)
        frames = play(drawn, 48)
        assert recognised(frames, drawn) == len(drawn.events)
        assert recognised(frames[:1].repeat(16, 0), drawn) == 0, "a still"
        assert recognised(frames[..., [1, 2, 0]], drawn) == 0, "other colours"
        twice = drawn._replace(events=(*drawn.events, drawn.events[0]))
        assert recognised(frames, twice) == len(drawn.events), "an event too few"


def test_an_event_at_another_time_is_noticed():
    for drawn, frames, _ in film(20):
        missing = np.delete(frames, drawn.events[0].start, axis=0)
        assert watch(missing) != truth(drawn)


def test_nothing_happens_in_a_still():
    for drawn, frames, _ in film(10):
        assert watch(np.repeat(frames[:1], 16, axis=0)) == ()
        assert watch(play(drawn._replace(objects=(), events=()))) == ()


def test_any_clip_can_be_watched():
    rng = np.random.default_rng(0)
    assert watch(np.zeros((8, 48, 48, 3), np.uint8)) == ()
    watch(rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8))
    watch(rng.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2))


@pytest.mark.parametrize("shape", [(48, 48, 3), (8, 48, 40, 3), (8, 16, 16, 3), (1, 48, 48, 3)])
def test_only_square_colour_clips_are_watched(shape):
    with pytest.raises(ValueError, match="must be uint8"):
        watch(np.zeros(shape, np.uint8))


# ---- captions

OBJECTS = (
    Object("star", "red", "small", 0.2, 0.5, 0.1),
    Object("cross", "blue", "small", 0.8, 0.5, 0.1),
)
GREY = Background("plain", (99, 99, 99), (99, 99, 99), 0.0, 0.2, 0)
TWO = Clip(OBJECTS, GREY, (Event("turns", 0, 1, 5, 1.0), Event("moves left", 1, 6, 10, 0.3)), 16)
PERFECT = StoryGrade(6, 6, 6, 6, (), (), 0, True, True)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("a red star turns, then a blue cross moves left", PERFECT),
        ("a blue cross moves left after a red star turns", PERFECT),
        (
            "a blue cross moves left, then a red star turns",
            replace(PERFECT, in_order=False, wholly_right=False),
        ),
        (
            "a red star turns, then a blue cross moves right",
            StoryGrade(
                6,
                5,
                6,
                5,
                (),
                ("blue cross moves right, not blue cross moves left",),
                0,
                True,
                False,
            ),
        ),
        (
            "a red star turns",
            StoryGrade(3, 3, 6, 3, ("blue cross moves left",), (), 0, False, False),
        ),
        (
            "a star turns, then a blue cross moves left",
            StoryGrade(5, 5, 6, 5, ("colour of: red star turns",), (), 0, True, False),
        ),
        (
            "a red star turns, then it turns, then a blue cross moves left",
            StoryGrade(9, 6, 6, 6, (), ("red star turns",), 1, True, False),
        ),
        (
            "a green circle blinks",
            StoryGrade(
                3,
                0,
                6,
                0,
                ("red star turns", "blue cross moves left"),
                ("green circle blinks",),
                1,
                False,
                False,
            ),
        ),
        (
            "",
            StoryGrade(
                0, 0, 6, 0, ("red star turns", "blue cross moves left"), (), 0, False, False
            ),
        ),
    ],
)
def test_captions_are_graded(text, grade):
    assert grade_story(text, TWO) == grade


def test_true_captions_are_wholly_right_and_changed_ones_are_not():
    for i in range(150):
        drawn = draw(i)
        told = acts(drawn)
        whole = 3 * len(told)
        for text in story.captions(drawn, np.random.default_rng(i), 4):
            grade = grade_story(text, drawn)
            assert grade == StoryGrade(whole, whole, whole, whole, (), (), 0, True, True), text
            for word, other in changes(told[0]):
                changed = grade_story(text.replace(word, other, 1), drawn)
                assert not changed.wholly_right
                assert changed.right < changed.told == whole
                assert other in " ".join(changed.invented)
            double = grade_story(f"{text}, then {text}", drawn)
            assert double.invented_objects == len(told)
            assert not double.wholly_right


def changes(act: story.Act) -> Iterator[tuple[str, str]]:
    """A word of an event, and a wrong one."""
    yield str(act.colour), "green" if act.colour == "red" else "red"
    yield str(act.shape), "circle" if act.shape == "star" else "star"
    verb = str(act.action).split()[-1]
    if verb in ("left", "right", "up", "down"):
        yield verb, "up" if verb == "left" else "left"
    else:
        yield verb, "blinks" if verb == "turns" else "turns"


def test_another_order_is_noticed():
    for drawn in (draw(i) for i in range(150)):
        told = acts(drawn)
        text = ", then ".join(story.clause(act) for act in reversed(told))
        grade = grade_story(text, drawn)
        assert grade.right == grade.told == grade.expected
        assert grade.in_order == grade.wholly_right == (told == told[::-1])
        partly = grade_story(story.clause(told[0]), drawn)
        assert partly.recalled == 3
        assert partly.in_order == (len(told) == 1)


@pytest.mark.parametrize("text", ["", "and and", "a a a red", "after", "it moves", "🙂 <b>"])
def test_any_text_can_be_graded(text):
    for i in range(3):
        grade = grade_story(text, draw(i))
        assert not grade.wholly_right
        assert grade.right <= grade.told


def test_endless_texts_are_graded():
    grade = grade_story("a red star turns, then " * 200, TWO)
    assert grade.invented_objects == 199
