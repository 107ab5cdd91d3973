"""Words of captions, as the official program made them."""

import gzip
import json

import pytest

from mlm_jax.scorers.ptb import tokenise

OFFICIAL = {
    "A close up picture of a brown bear's face.": "a close up picture of a brown bear 's face",
    "A purple bus can't be missed, isn't it?": "a purple bus ca n't be missed is n't it",
    "I'm sure they'll say; it's John's.": "i 'm sure they 'll say it 's john 's",
    "rock'n'roll, o'clock O'Brien y'all 'tis": "rock 'n' roll o'clock o'brien y' all 't is",
    "cannot gonna gotta wanna wont": "can not gon na got ta wan na wont",
    "the dogs' tails": "the dogs tails",
    "don’t “quote” ‘one’": "do n't quote one",
    "A cat \"reading\" the text ``here''": "a cat reading the text here",
    "(paren) [square] {curly}": "-lrb- paren -rrb- -lsb- square -rsb- -lcb- curly -rcb-",
    "a-b a--b a - b well-known t-shirt": "a-b a b a b well-known t-shirt",
    "word... word.. word!! what?! yes!": "word word word !! what ?! yes",
    "Mr. Smith of St. Louis etc. at 5 p.m.": "mr. smith of st. louis etc. at 5 p.m.",
    "the U.S. flag on 12th Ave. and the end.": "the u.s. flag on 12th ave. and the end",
    "No. 5 is not, No. Five": "no. 5 is not no five",
    "Wash. and wash. it": "wash. and wash it",
    "the dog., the cat.": "the dog. the cat",
    "1,000 2,000.50 .5 1/2 10:30am 50%": "1,000 2,000.50 .5 1/2 10:30 am 50 %",
    "$5.00 £5 5€ US$5": "$ 5.00 # 5 5 $ us$ 5",
    "1 1/2 cups, 5'10\" tall": "1\u00a01/2 cups 5 10 tall",
    "24/7 and/or w/ black / white": "24/7 and/or w / black / white",
    "AT&T a&b a & b C++ C# F#": "at&t a & b a & b c++ c# f#",
    "<b>bold</b> <unk> & <a href='x'>": "<b> bold </b> <unk> & <a\u00a0href='x'>",
    "http://a.b/c?d=e&f=g. www.a.com x@b.org": "http://a.b/c?d=e&f=g www.a.com x@b.org",
    ":) :-( ;D a:b": ":-rrb- :--lrb- ;d a b",
    "café naïve 日本語 ½ ° a½": "café naïve 日本語 1/2 ° a 1/2",
    "a person I. A hood": "a person i a hood",
}


@pytest.mark.parametrize(("caption", "words"), OFFICIAL.items())
def test_as_the_official_program(caption, words):
    assert tokenise([caption]) == [words]


def test_what_stands_next_decides_about_a_letter_at_the_end():
    assert tokenise(["it reads K.", "A dog"]) == ["it reads k", "a dog"]
    assert tokenise(["it reads K.", "two dogs"]) == ["it reads k.", "two dogs"]
    assert tokenise(["it reads K.", "", "The dog"]) == ["it reads k", "", "the dog"]
    assert tokenise(["it reads K."]) == ["it reads k."]


def test_what_is_no_sign_is_left_out():
    assert tokenise(["a\x1b[31mred\x00 dog\u202e\U0001f642b"]) == ["a -lsb- 31mred dog b"]
    assert tokenise(["", "  ", "...", "\n"]) == ["", "", "", ""]
    assert tokenise(["a\nline\tbreak\r\nhere"]) == ["a line break here"]


def test_neither_long_words_nor_long_lines_take_ages():
    assert tokenise(["x" * 100_000 + " A b"]) == ["x" * 100_000 + " a b"]
    assert len(tokenise(["<a " * 20_000])[0]) > 0
    assert tokenise(["a." * 40_000 + "!"])[0].startswith("a.a.")


def test_words_of_every_stored_caption(shared):
    rows = map(json.loads, (shared / "coco_caption_eval/fakecap_126.jsonl").open())
    texts, words = [], []
    for row in rows:
        texts += [row["candidate"], *row["references"]]
        words += [row["tok_candidate"], *row["tok_references"]]
    assert len(words) > 700
    assert tokenise(texts) == words


def test_words_of_all_captions_of_coco_are_few_signs(shared):
    """No sign that the scorer takes out is left, and no caption of COCO is without a word."""
    with gzip.open(shared / "coco_caption_eval/captions_val2017.jsonl.gz") as file:
        captions = [text for line in file for text in json.loads(line)["captions"]]
    words = tokenise(captions)
    assert all(words)
    assert not {"''", "``", "'", "`", ".", ",", "?", "!", ":", ";", "-", "--"} & {
        word for text in words for word in text.split(" ")
    }
