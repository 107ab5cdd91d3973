"""VQA accuracy, against the challenge's own program."""

import json

import pytest

from mlm_jax.metrics import agreement
from mlm_jax.scorers.answers import accuracy, normalised
from mlm_jax.scorers.vqa import Asked, score

NORMALISED = {  # what the official program makes of them
    "A dog.": "dog", "2,000 people": "2000 people", "3.5": "3.5", "none": "0", "ten": "10",
    "dont know": "don't know", "black/white": "black white", "hot-dog": "hot dog", "a": "",
    "1,2,3": "123", '"stop"': "stop", "50%": "50%", "3. 5": "3 5", "100,000.50": "100000.50",
    "well-lit; bright": "well lit bright", "yall": "y'all", "a_b": "b", "r & b": "r & b",
    "St. Louis": "st louis", "10-20 minutes": "10 20 minutes", "MR - ADC Map": "mr adc map",
    "Below the 7th rib.": "below 7th rib", "couldnt": "couldn't", "cat\n": "cat",
}  # fmt: skip


@pytest.mark.parametrize(("raw", "wanted"), NORMALISED.items())
def test_answers_normalised(raw, wanted):
    assert normalised(raw) == wanted


def test_one_missing_apostrophe_is_put_back():
    assert normalised("couldnt've couldn'tve") == "couldn't've couldn't've"
    assert normalised("couldntve lets shes ill") == "couldntve lets shes ill"


def test_stored_official_values(shared):
    stored = json.loads((shared / "metric_goldens/vqa_accuracy.json").read_text())
    assert len(stored["normalize"]) > 100
    for each in stored["normalize"]:
        assert normalised(each["text"]) == each["normalized"], each["text"]
    asked = {
        str(each["question_id"]): Asked(str(i), tuple(each["answers"]))
        for i, each in enumerate(stored["questions"])
    }
    answers = {str(each["question_id"]): each["prediction"] for each in stored["questions"]}
    found = score(answers, asked)
    for each in stored["questions"]:
        ours = 100 * found.per_question[str(each["question_id"])]
        assert ours == pytest.approx(each["official_accuracy"], abs=0.01), each
    assert 100 * found.figures["vqa/accuracy"].value == pytest.approx(stored["overall"], abs=0.01)


def test_three_of_ten_are_enough():
    people = ["Two"] * 3 + ["a bird"] * 7
    assert accuracy("2", people) == pytest.approx(0.9)  # the three leave themselves out
    assert accuracy("the bird.", people) == 1
    assert accuracy("dog", people) == 0


def test_where_all_agree_nothing_is_normalised():
    assert accuracy("Yes", ["yes"] * 10) == 0
    assert accuracy("yes ", ["yes"] * 10) == 1
    assert accuracy("Yes", ["yes"] * 9 + ["yes."]) == 1


def test_kinds_of_questions_and_their_intervals():
    people = ("no",) * 5 + ("yes",) * 5
    asked = {
        "1": Asked("7", people, ("answer/yes/no", "question/is")),
        "2": Asked("7", people, ("answer/number",)),
        "3": Asked("8", people, ("answer/number",)),
    }
    figures = score({"1": "no", "2": "red", "3": "yes"}, asked).figures
    assert figures["vqa/accuracy"].value == pytest.approx(2 / 3)
    assert figures["vqa/accuracy/answer/number"].value == 0.5
    assert figures["vqa/accuracy/question/is"].n == 1
    whole = figures["vqa/accuracy"]
    assert (whole.low, whole.high) == (0.5, 1), "two pictures: of one half is right, of one all"


def test_evaluating_a_run_compares_ten_answers_so():
    assert agreement("the bird.", ["2"] * 3 + ["a bird"] * 7) == 1
    assert agreement("the bird.", ["bird"]) == 0, "of a single answer nothing is taken away"
