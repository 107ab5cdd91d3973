"""ROUGE-L as the COCO caption scorer has it (Lin, 2004, with beta 1.2)."""

from collections.abc import Sequence

BETA = 1.2


def rouge_l(candidate: str, references: Sequence[str]) -> float:
    """F of the best precision and the best recall, which may be of two references.

    Words have one space between them. The scorer splits at spaces alone, so that of an empty text
    it makes one empty word: two of them agree.
    """
    words = candidate.split(" ")
    place: dict[str, int] = {}
    for i, word in enumerate(words):
        place[word] = place.get(word, 0) | 1 << i
    precision = recall = 0.0
    for reference in references:
        other = reference.split(" ")
        common = in_common(place, len(words), other)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(other))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def in_common(place: dict[str, int], length: int, other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of its table at a time.

    `place` has for each word of the first text, which has `length`, a bit where it stands. A row
    is an integer with a bit for each place where the table does not rise (Crochemore et al., 2001).
    """
    row = whole = (1 << length) - 1
    for word in other:
        here = row & place.get(word, 0)
        row = ((row + here) | (row - here)) & whole
    return length - row.bit_count()
