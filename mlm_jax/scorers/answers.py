"""Answers compared as the VQA challenge compares them (arXiv:1505.00468, section 3)."""

import re
from collections.abc import Sequence
from functools import lru_cache

SIGNS = ';/[]"{}()=+\\_-><@`,?!'
COUNTED = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(i) for i, word in enumerate(COUNTED.split())} | {"none": "0"}
ARTICLES = ("a", "an", "the")
CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't"
    " haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't"
    " mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've"
    " should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've"
    " someone'll someone's something'd something'd've something'll that's there'd there'd've"
    " there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't"
    " what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's"
    " who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've"
    " you'd you'd've you'll you're you've"
)
"""Each is known with one apostrophe left out: couldn'tve and couldnt've, but not couldntve."""
WHOLE = {
    word[: i.start()] + word[i.end() :]: word
    for word in CONTRACTIONS.split()
    for i in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}  # the challenge's own slip
COMMA = re.compile(r"\d,\d")
POINT = re.compile(r"\.(?!\d)")
POINTS = 32  # no more are taken out: a flag stands there in the place of a count


@lru_cache(maxsize=1 << 16)
def normalised(answer: str) -> str:
    """`The 2,000 dogs.` -> `2000 dogs`: signs, articles, words for numbers, missing apostrophes.

    A sign goes without a trace where it stands beside a space anywhere in the answer, or a comma
    between two digits; elsewhere it becomes a space. A point stays only before a digit.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    spare = COMMA.search(text) is not None
    bare = text
    for sign in SIGNS:
        beside = f"{sign} " in text or f" {sign}" in text
        bare = bare.replace(sign, "" if beside or spare else " ")
    words = (NUMBERS.get(word, word) for word in POINT.sub("", bare, count=POINTS).lower().split())
    return " ".join(WHOLE.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, people: Sequence[str]) -> float:
    """min(1, how many people said so / 3), the mean over each of them being left out.

    Where all of them said the very same, the answer has to be that, letter for letter: the
    challenge normalises only where people differ.
    """
    said, given = [_tidy(each) for each in people], _tidy(answer)
    if len(set(said)) > 1:
        said, given = [normalised(each) for each in said], normalised(given)
    alike = [each == given for each in said]
    return sum(min(1.0, (sum(alike) - one) / 3) for one in alike) / len(alike)


def _tidy(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
