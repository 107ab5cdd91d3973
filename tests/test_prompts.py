"""What is on the list is refused however it is written, and nothing else is."""

import numpy as np
import pytest

from mlm_jax.errors import UserError
from mlm_jax.prompts import LIST, blocked, plain, read_words
from mlm_jax.world import language, scene


@pytest.mark.parametrize(
    "prompt",
    [
        "a bad word",
        "A BAD, WORD!",
        "ｂａｄ word",
        "b\u00adad w\u200bord",
        "bad\n\tword",
        "bad_word",
        "so-bad-word-ly",
    ],
)
def test_a_term_is_met_however_it_is_written(prompt):
    reason = blocked(prompt, ("other", "Bad word"))
    assert reason is not None
    assert '"Bad word"' in reason


@pytest.mark.parametrize(
    "prompt", ["", "badword", "bad words", "a word, bad", "class", "bad a word"]
)
def test_only_whole_words_are_met(prompt):
    assert blocked(prompt, ("bad word", "ass", "", "#")) is None


def test_letters_fold():
    assert plain("STRASSE Straße ﬁne İ") == plain("strasse strasse fine i̇")
    assert blocked("große", ("GROSSE",))


def test_a_list_is_read(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# heading\n\nbad word  # reason\nother\nother\n", encoding="utf-8")
    assert read_words(file) == ("bad word", "other")
    file.write_bytes(b"\xff")
    for path in (file, tmp_path / "none.txt"):
        with pytest.raises(UserError, match="cannot be read"):
            read_words(path)


def test_the_list_that_is_shipped_lets_the_world_pass():
    words = read_words()
    assert read_words(LIST) == words
    assert blocked("CSAM", words)
    for i in range(200):
        rng = np.random.default_rng(i)
        text = language.captions(scene.sample(rng), rng, 1)[0]
        assert blocked(text, words) is None
