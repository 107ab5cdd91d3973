"""Prompts that are refused: a plain list of terms, one a line, `#` before what is not one.

What is compared are words, whatever their case, width or ligatures (Unicode NFKC and casefold) and
without invisible characters; a term of several words is met where they follow each other. "ass" is
not met in "class", nor "star" in "stars". Words that are respelt, or written with the letters of
another script, are not met: a list stops the plain request, not the determined one.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from mlm_jax.errors import UserError

LIST = Path(__file__).with_name("blocked.txt")
"""The list that counts where none is given."""
WORDS = re.compile(r"[^\W_]+")


def blocked(prompt: str, words: Iterable[str]) -> str | None:
    """Why a prompt is refused: which of the terms it holds; None where it holds none."""
    said = f" {plain(prompt)} "
    for term in words:
        if (wanted := plain(term)) and f" {wanted} " in said:
            return f'the prompt says "{term}", which is on the list of what is not drawn'
    return None


def plain(text: str) -> str:
    """Words in one spelling, single spaces between them: "Ｂad\u00adly, DONE" -> "badly done"."""
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf")
    for _ in range(2):  # folding can leave what is to be composed again
        seen = unicodedata.normalize("NFKC", seen).casefold()
    return " ".join(WORDS.findall(seen))


def read_words(path: Path = LIST) -> tuple[str, ...]:
    """The terms of a list. Raises: UserError where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of blocked words cannot be read: {error}") from error
    terms = (line.partition("#")[0].strip() for line in lines)
    return tuple(dict.fromkeys(term for term in terms if term))
