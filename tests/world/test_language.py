"""Texts: every caption and answer is derived again, from the JSON, by code that shares nothing."""

import json
import math
import re
from collections import Counter, defaultdict
from itertools import pairwise, permutations

import numpy as np
import pytest

from mlm_jax.world import language, scene
from mlm_jax.world.language import KINDS, Question, Relation, Told, parse

WORDS = {
    "size": ("small", "large"),
    "colour": ("red", "green", "blue", "yellow", "purple", "orange", "pink", "cyan"),
    "shape": ("circle", "square", "triangle", "diamond", "star", "cross"),
}
NUMBERS = ["zero", "one", "two", "three"]


def draw(count: int, *, seed: int = 6, novel: bool = False) -> list[tuple]:
    drawn = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        truth = scene.sample(rng, novel=novel)
        told, asked = language.captions(truth, rng, 4), language.questions(truth, rng, 8)
        drawn.append((truth, told, asked))
    return drawn


@pytest.fixture(scope="module")
def world() -> list[tuple]:
    return draw(1_500)


def rows(truth: scene.Scene) -> list[dict]:
    keys = ("shape", "colour", "size", "x", "y")
    objects = json.loads(scene.to_json(truth))["objects"]
    return [dict(zip(keys, values, strict=False)) for values in objects]


# ---- answers, derived again


def fits(words: str, row: dict) -> bool:
    """ "small red circles" fits a row that has all the named attributes."""
    for word in words.split():
        single = {"crosses": "cross"}.get(word, word.removesuffix("s") if word != "cross" else word)
        if single not in ("object", *row.values()):
            return False
    return True


def the(words: str, objects: list[dict]) -> dict:
    found = [row for row in objects if fits(words, row)]
    assert len(found) == 1, f"{words!r} does not name one object of {objects}"
    return found[0]


def side(a: dict, b: dict) -> str:
    """Where a is, seen from b; no question may be asked where the two axes are about equal."""
    dx, dy = a["x"] - b["x"], a["y"] - b["y"]
    assert max(abs(dx), abs(dy)) > 1.25 * min(abs(dx), abs(dy))
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def anywhere_on(a: dict, relation: str, b: dict) -> bool:
    key = "x" if relation in ("left of", "right of") else "y"
    sign = 1 if relation in ("left of", "above") else -1
    return sign * (b[key] - a[key]) > 0.05


def answer(text: str, objects: list[dict]) -> str:
    def number(words: str) -> int:
        return sum(fits(words, row) for row in objects)

    def yes(true: bool) -> str:
        return "yes" if true else "no"

    side_of = r"(left of|right of|above|below)"
    forms = {
        r"is the (.+) small or large": lambda x: the(x, objects)["size"],
        r"(?:is there|does the picture show|can you see) an? (.+)": lambda x: yes(number(x) > 0),
        r"are there any (.+)": lambda x: yes(number(x) > 0),
        r"how many (.+) (?:are there|can you see)": lambda x: NUMBERS[number(x)],
        r"what number of (.+) does the picture show": lambda x: NUMBERS[number(x)],
        r"are there more (.+) than (.+)": lambda x, y: yes(number(x) > number(y)),
        r"are there fewer (.+) than (.+)": lambda x, y: yes(number(x) < number(y)),
        r"is the (.+) the same (\w+) as the (.+)": lambda x, key, y: yes(
            the(x, objects)[key] == the(y, objects)[key]
        ),
        r"do the (.+) and the (.+) have the same (\w+)": lambda x, y, key: yes(
            the(x, objects)[key] == the(y, objects)[key]
        ),
        r"is the (.+) (larger|smaller) than the (.+)": lambda x, word, y: yes(
            (the(x, objects)["size"], the(y, objects)["size"])
            == (("large", "small") if word == "larger" else ("small", "large"))
        ),
        rf"what (\w+) is (?:the object )?{side_of} the (.+)": only_one,
        rf"is the (.+) {side_of} the (.+)": lambda x, relation, y: yes(
            side(the(x, objects), the(y, objects)) == relation
        ),
        r"what (\w+) is the (.+)": lambda key, x: the(x, objects)[key],
        r"what (\w+) does the (.+) have": lambda key, x: the(x, objects)[key],
    }
    for pattern, derive in forms.items():
        found = re.fullmatch(pattern + r"\?", text)
        if found:
            extra = (objects,) if derive is only_one else ()
            return derive(*found.groups(), *extra)
    raise AssertionError(f"no form for {text!r}")


def only_one(key: str, relation: str, words: str, objects: list[dict]) -> str:
    landmark = the(words, objects)
    others = [row for row in objects if row is not landmark]
    found = [row for row in others if anywhere_on(row, relation, landmark)]
    assert len(found) == 1
    assert side(found[0], landmark) == relation
    return found[0][key]


def test_every_answer_is_right(world):
    forms = Counter()
    for truth, _, asked in world:
        for question in asked:
            assert answer(question.text, rows(truth)) == question.answer, (truth, question)
            forms[question.kind] += 1
    assert set(forms) == set(KINDS)


def test_questions_are_several_different_and_of_every_kind_the_scene_allows(world):
    for truth, _, asked in world:
        assert len({question.text for question in asked}) == 8
        kinds = {question.kind for question in asked}
        assert kinds >= {"existence", "count", "comparison"}
        objects = rows(truth)
        if len({named(row) for row in objects}) == len(objects):
            assert "attribute" in kinds
            if any(beyond_dispute(a, b) for a, b in permutations(objects, 2)):
                assert "relation" in kinds


def beyond_dispute(a: dict, b: dict) -> bool:
    dx, dy = abs(a["x"] - b["x"]), abs(a["y"] - b["y"])
    return max(dx, dy) > 1.31 * min(dx, dy)


# ---- captions


def test_captions_tell_every_object_and_only_what_is_so(world):
    for truth, told, _ in world:
        objects = rows(truth)
        assert len(set(told)) == 4
        for text in told:
            facts = parse(text)
            wanted = Counter((row["size"], row["colour"], row["shape"]) for row in objects)
            assert Counter(tuple(each) for each in facts.objects) == wanted, text
            assert facts.number in (None, len(objects))
            for first, relation, second in facts.relations:
                for a in (row for row in objects if named(row) == facts.objects[first]):
                    for b in (row for row in objects if named(row) == facts.objects[second]):
                        assert side(a, b) == relation, (text, objects)


def named(row: dict) -> Told:
    return Told(row["size"], row["colour"], row["shape"])


def test_captions_vary(world):
    texts = [text for _, told, _ in world for text in told]
    assert sum(bool(parse(text).relations) for text in texts) > 0.48 * len(texts)
    assert len({re.sub("|".join(sum(WORDS.values(), ())), "", text) for text in texts}) > 60


def test_facts_are_the_scene(world):
    for truth, *_ in world[:200]:
        facts = language.facts(truth)
        objects = rows(truth)
        assert list(facts.objects) == [named(row) for row in objects]
        assert facts.number == len(objects)
        for first, relation, second in facts.relations:
            assert side(objects[first], objects[second]) == relation


RED, BLUE = Told("small", "red", "circle"), Told("large", "blue", "cross")


@pytest.mark.parametrize(
    ("text", "objects", "relations", "number"),
    [
        ("a small red circle", [RED], [], None),
        ("A small, RED circle!", [RED], [], None),
        ("two small red circles and a large blue cross", [RED, RED, BLUE], [], None),
        ("two objects: a small red circle and a large blue cross", [RED, BLUE], [], 2),
        ("a small red circle is above a large blue cross", [RED, BLUE], [(0, "above", 1)], None),
        (
            "a small red circle is left of a large blue cross and below a small red circle",
            [RED, BLUE, RED],
            [(0, "left of", 1), (0, "below", 2)],
            None,
        ),
        (
            "two small red circles are above a large blue cross",
            [RED, RED, BLUE],
            [(0, "above", 2), (1, "above", 2)],
            None,
        ),
        ("a small red", [Told("small", "red")], [], None),
        ("a small red object", [Told("small", "red")], [], None),
        ("small red large blue cross", [Told("small", "red"), BLUE], [], None),
        ("circle circle left of", [Told(shape="circle")] * 2, [], None),
        ("left of above the a a of red", [Told(colour="red")], [], None),
        ("the dog is above \u00e9\u00e9 12 []", [], [], None),
        ("", [], [], None),
    ],
)
def test_parse(text, objects, relations, number):
    facts = parse(text)
    assert list(facts.objects) == objects
    assert list(facts.relations) == [Relation(*each) for each in relations]
    assert facts.number == number


def test_any_words_can_be_parsed(world):
    vocabulary = sorted({word for _, told, _ in world[:300] for t in told for word in t.split()})
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        facts = parse(" ".join(rng.choice(vocabulary, rng.integers(40))))
        for first, _, second in facts.relations:
            assert max(first, second) < len(facts.objects)


# ---- splits and words


def pairs_named(text: str) -> set[tuple[str, str]]:
    colours, shapes = "|".join(WORDS["colour"]), "|".join(WORDS["shape"])
    return set(re.findall(rf"\b({colours}) ({shapes})", text))


def test_held_out_pairs_are_not_even_named(world):
    for _, told, asked in world:
        for text in told + [question.text for question in asked]:
            assert not pairs_named(text) & scene.HELD_OUT
    novel = draw(300, novel=True)
    assert all(pairs_named(t) & scene.HELD_OUT for _, told, _ in novel for t in told)
    for truth, _, asked in novel:
        for question in asked:
            assert answer(question.text, rows(truth)) == question.answer


def test_the_words_are_few_and_lower_case(world):
    texts = [t for _, told, _ in world for t in told]
    texts += [t for _, _, asked in world for q in asked for t in (q.text, q.answer)]
    assert all(text == text.lower() for text in texts)
    assert len({word for text in texts for word in re.findall(r"\w+", text)}) < 100


def test_a_seed_is_a_text():
    assert draw(30) == draw(30)


# ---- balance


class Blind:
    """Answers without the picture: by the same question seen before, else by naive Bayes."""

    def __init__(self, asked: list[Question]) -> None:
        self.answers = Counter(question.answer for question in asked)
        self.words: dict[str, Counter] = defaultdict(Counter)
        self.exact: dict[str, Counter] = defaultdict(Counter)
        for question in asked:
            self.words[question.answer].update(self.features(question.text))
            self.exact[question.text][question.answer] += 1

    def features(self, text: str) -> set[str]:
        words = ["^", *text.split()]
        return {*words, *(" ".join(pair) for pair in pairwise(words))}

    def __call__(self, text: str) -> str:
        if self.exact[text].total() >= 8:
            return self.exact[text].most_common(1)[0][0]

        def score(answer: str) -> float:
            seen = self.answers[answer]
            likely = (math.log((self.words[answer][f] + 0.5) / (seen + 1)) for f in features)
            return math.log(seen) + sum(likely)

        features = self.features(text)
        return max(self.answers, key=score)


def test_neither_the_commonest_answer_nor_the_question_alone_is_enough(world):
    asked = {kind: [q for _, _, qs in world for q in qs if q.kind == kind] for kind in KINDS}
    commonest = right = total = 0
    for kind, questions in asked.items():
        half = len(questions) * 2 // 3
        blind, test = Blind(questions[:half]), questions[half:]
        hits = sum(blind(question.text) == question.answer for question in test)
        most = max(Counter(question.answer for question in test).values())
        assert hits / len(test) < 0.56, kind
        assert most / len(test) < 0.56, kind
        commonest, right, total = commonest + most, right + hits, total + len(test)
    assert commonest / total < 0.45
    assert right / total < 0.48
