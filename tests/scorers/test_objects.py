"""POPE: which objects are asked about, and how answers are read and counted."""

import pytest

from mlm_jax.scorers.objects import Question, asked, questions, said_yes, score

PICTURES = {
    "1": ["dog", "ball", "tree", "man"],
    "2": ["dog", "ball", "tree", "car"],
    "3": ["cup", "fork", "spoon", "car"],
    "4": ["cup", "fork", "spoon", "car"],
    "5": ["cup", "fork", "spoon", "apple"],
    "6": ["cup", "car"],
}


def not_there(absent, picture, each=1):
    found = questions(PICTURES, absent, each=each)
    return [q.text for q in found if q.picture == picture and not q.label]


def test_popular_is_what_most_pictures_have():
    assert not_there("popular", "1") == ["Is there a car in the image?"]
    assert not_there("popular", "1", 2)[1] == "Is there a cup in the image?"
    assert not_there("popular", "3") == ["Is there a ball in the image?"], "of equals the first"


def test_adversarial_is_what_goes_with_what_is_there():
    assert not_there("adversarial", "5") == ["Is there a car in the image?"]
    # with dog, ball, tree and car: cup 3 times (car), man 3 times (the others), fork twice
    wanted = [f"Is there a {name} in the image?" for name in ("cup", "man")]
    assert not_there("adversarial", "2", 2) == wanted


@pytest.mark.parametrize("absent", ["random", "popular", "adversarial"])
def test_half_of_the_questions_are_about_what_is_there(absent):
    found = questions(PICTURES, absent)
    assert {q.picture for q in found} == {"1", "2", "3", "4", "5"}, "6 has too few objects"
    assert len(found) == 5 * 6
    for q in found:
        name = q.text.removeprefix("Is there a").removeprefix("n").split(" in the")[0].strip()
        assert (name in PICTURES[q.picture]) == q.label
    assert len(set(found)) == len(found)
    assert found == questions(PICTURES, absent)


def test_random_is_drawn_from_the_seed():
    assert questions(PICTURES, "random") != questions(PICTURES, "random", seed=1)
    drawn = {q for seed in range(60) for q in questions(PICTURES, "random", each=1, seed=seed)}
    assert len({q.text for q in drawn if q.picture == "1" and not q.label}) == 5, "each that lacks"


def test_article():
    assert asked("apple") == "Is there an apple in the image?"
    assert asked("dog") == "Is there a dog in the image?"


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("Yes", True), ("No", False), ("no, there is none", False), ("There is not. Yes", False),
     ("Yes. Not that I know", True), ("nothing", True), ("I see a dog", True), ("", True),
     ("No\nThere", True), ("No \nThere", False)],
)  # fmt: skip
def test_how_an_answer_is_read(answer, yes):
    assert said_yes(answer) is yes


def test_figures_by_hand():
    """3 yes of which 2 are right, 3 no of which 2 are right."""
    labels = [True, True, True, False, False, False]
    asked_ = {str(i): Question(str(i // 2), "", label) for i, label in enumerate(labels)}
    said = dict(zip(asked_, ["yes", "Yes.", "no", "yes", "No", "no"], strict=True))
    value = {name: figure.value for name, figure in score(said, asked_).items()}
    assert value == pytest.approx({
        "pope/accuracy": 4 / 6, "pope/precision": 2 / 3, "pope/recall": 2 / 3, "pope/f1": 2 / 3,
        "pope/yes": 0.5,
    })  # fmt: skip


def test_always_yes_is_half_right_with_every_object_found():
    asked_ = {str(i): Question(str(i), "", i % 2 == 0) for i in range(10)}
    value = {n: f.value for n, f in score(dict.fromkeys(asked_, "Yes"), asked_).items()}
    assert value == pytest.approx({
        "pope/accuracy": 0.5, "pope/precision": 0.5, "pope/recall": 1, "pope/f1": 2 / 3,
        "pope/yes": 1,
    })  # fmt: skip
