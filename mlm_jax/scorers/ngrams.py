"""BLEU and CIDEr of captions, to the digits of the COCO caption scorer.

BLEU: Papineni et al., ACL 2002. CIDEr and CIDEr-D: arXiv:1411.5726. All n-grams are numbers, and
all texts are counted at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mlm_jax.metrics import Sums, divide

ORDER = 4
SIGMA = 6.0
SMALL, TINY = 1e-9, 1e-15  # the scorer's, so that nothing divides by 0


class Counts(NamedTuple):
    """How often a text holds an n-gram, of one n; sorted by text, then by n-gram."""

    text: Int[np.ndarray, " E"]
    gram: Int[np.ndarray, " E"]
    times: Int[np.ndarray, " E"]
    spelling: Int[np.ndarray, " G"]
    """Of each n-gram: the one that is shorter by a word, x the number of words, + that word."""

    @property
    def grams(self) -> int:
        return len(self.spelling)


class Corpus(NamedTuple):
    """Texts as numbers: N candidates, one for a picture, then the references of all pictures, then
    texts of other pictures that only tell how common an n-gram is."""

    counts: list[Counts]
    """For n from 1 to ORDER."""
    length: Int[np.ndarray, " T"]
    picture: Int[np.ndarray, " T"]
    """The picture of each text; those of the last group are counted by themselves."""
    candidates: int
    references: int
    words: list[str]

    @property
    def pictures(self) -> Int[np.ndarray, " R"]:
        """The picture of each reference."""
        return self.picture[self.candidates : self.candidates + self.references]


def corpus(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]] = (),
) -> Corpus:
    """Of words with spaces between them; the references of a candidate stand at its place."""
    texts = [*candidates, *chain.from_iterable(references), *chain.from_iterable(others)]
    split = [text.split() for text in texts]
    length = np.array([len(words) for words in split])
    number: dict[str, int] = {}
    words = (number.setdefault(word, len(number)) for word in chain.from_iterable(split))
    word = np.fromiter(words, np.int64, length.sum())
    picture = [np.arange(len(candidates))]
    picture += [np.repeat(np.arange(len(x)), [len(own) for own in x]) for x in (references, others)]
    told = sum(map(len, references))
    counts = counted(word, np.repeat(np.arange(len(texts)), length), len(number))
    return Corpus(
        counts, length, np.concatenate(picture).astype(int), len(candidates), told, [*number]
    )


def counted(
    word: Int[np.ndarray, " W"], text: Int[np.ndarray, " W"], vocabulary: int
) -> list[Counts]:
    """`word` holds the texts one after another, `text` is the one that each word stands in."""
    found = []
    gram, known = word, np.arange(vocabulary)
    for n in range(1, ORDER + 1):
        if n > 1:  # an n-gram is one that is shorter by a word, and that word
            whole = text[n - 1 :] == text[: len(text) - n + 1]
            pairs = (gram[:-1] * vocabulary + word[n - 1 :])[whole]
            known, inverse = numbered(pairs)
            gram = np.zeros(len(whole), np.int64)
            gram[whole] = inverse
            inside = text[: len(whole)][whole] * len(known) + inverse
        else:
            inside = text * vocabulary + gram
        inside.sort()
        first = np.flatnonzero(rises(inside))
        keys, times = inside[first], np.diff(first, append=len(inside))
        grams = max(len(known), 1)
        found.append(Counts(keys // grams, keys % grams, times, known))
    return found


def numbered(
    keys: Int[np.ndarray, " K"],
) -> tuple[Int[np.ndarray, " U"], Int[np.ndarray, " K"]]:
    """The different keys, sorted, and the place of each among them: np.unique, but faster."""
    order = np.argsort(keys)
    ordered = keys[order]
    new = rises(ordered)
    inverse = np.empty(len(keys), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return ordered[new], inverse


def rises(ordered: Int[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """Where sorted keys begin to be another."""
    return np.diff(ordered, prepend=-1) != 0


def looked_up(
    keys: Int[np.ndarray, " K"], wanted: Int[np.ndarray, " E"]
) -> tuple[Int[np.ndarray, " E"], Bool[np.ndarray, " E"]]:
    """The place of each wanted one among the sorted `keys`, and whether it is there."""
    if not len(keys):
        return np.zeros(len(wanted), int), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted


# --- BLEU ---


@dataclass(frozen=True)
class Bleu:
    """BLEU with n-grams of up to `order` words, from sums over captions."""

    order: int
    n: str = "captions"

    def __call__(self, sums: Sums) -> Float[np.ndarray, " S"]:
        return bleu(sums, self.order)


def bleu(sums: Sums, order: int) -> Float[np.ndarray, " S"]:
    """Of the sums over a corpus, or of a caption's own counts: "right n", "told n", "length", and
    "wanted", the length of the reference that is nearest in length."""
    product = np.ones_like(sums["length"], float)
    for n in range(1, order + 1):
        product = product * (sums[f"right {n}"] + TINY) / (sums[f"told {n}"] + SMALL)
    ratio = (sums["length"] + TINY) / (sums["wanted"] + SMALL)
    return product ** (1 / order) * np.exp(np.minimum(0, 1 - 1 / ratio))


def bleu_counts(texts: Corpus) -> dict[str, Float[np.ndarray, " N"]]:
    """What BLEU is made of, for each candidate."""
    many = texts.candidates
    length = texts.length[:many].astype(float)
    found = {"length": length, "wanted": nearest_lengths(texts).astype(float)}
    for n, counts in enumerate(texts.counts, 1):
        told, wanted = counts.text < many, is_reference(texts, counts)
        keys, inverse = numbered(
            texts.picture[counts.text[wanted]] * counts.grams + counts.gram[wanted]
        )
        most = np.zeros(len(keys), int)
        np.maximum.at(most, inverse, counts.times[wanted])
        place, there = looked_up(keys, counts.text[told] * counts.grams + counts.gram[told])
        right = np.minimum(counts.times[told][there], most[place[there]])
        found[f"right {n}"] = np.bincount(counts.text[told][there], right, many)
        found[f"told {n}"] = np.maximum(0, length - n + 1)
    return found


def nearest_lengths(texts: Corpus) -> Int[np.ndarray, " N"]:
    """The length nearest to each candidate's among its references, the shorter of two."""
    picture = texts.pictures
    length = texts.length[texts.candidates :][: len(picture)]
    away = abs(length - texts.length[picture])
    order = np.lexsort((length, away, picture))
    first = np.unique(picture[order], return_index=True)[1]
    return length[order][first]


def is_reference(texts: Corpus, counts: Counts) -> Bool[np.ndarray, " E"]:
    end = texts.candidates + texts.references
    return (counts.text >= texts.candidates) & (counts.text < end)


# --- CIDEr ---


class Frequencies(NamedTuple):
    """Of how many documents, which are pictures, each n-gram is told; its words have a space
    between them."""

    documents: int
    frequencies: Mapping[str, int]


class Rarity(NamedTuple):
    """What is taken for the information of n-grams."""

    idf: list[Float[np.ndarray, " G"]]


def rarity_by(table: Frequencies, texts: Corpus) -> Rarity:
    """The same as of the texts that the table was counted in (see `rarity`)."""
    idf = []
    for spelt in spellings(texts):
        seen = np.array([table.frequencies.get(words, 0) for words in spelt])
        idf.append(np.log(table.documents) - np.log(np.maximum(seen, 1)))
    return Rarity(idf)


def spellings(texts: Corpus) -> list[list[str]]:
    """The words of each n-gram, for n from 1 to ORDER."""
    found = [texts.words]
    for counts in texts.counts[1:]:
        shorter, last = (x.tolist() for x in np.divmod(counts.spelling, len(texts.words)))
        found.append(
            [f"{found[-1][i]} {texts.words[j]}" for i, j in zip(shorter, last, strict=True)]
        )
    return found


def rarity(texts: Corpus) -> Rarity:
    """log of pictures over those that an n-gram is told of: in the references, or in the other
    texts where there are any. One that is in none counts as in one."""
    start = texts.candidates + texts.references
    given = len(texts.length) > start
    picture = texts.picture[start:] if given else texts.pictures
    documents = picture.max() + 1
    idf = []
    for counts in texts.counts:
        those = counts.text >= start if given else is_reference(texts, counts)
        keys = np.sort(texts.picture[counts.text[those]] * counts.grams + counts.gram[those])
        seen = np.bincount(keys[rises(keys)] % max(counts.grams, 1), minlength=counts.grams)
        idf.append(np.log(documents) - np.log(np.maximum(seen, 1)))
    return Rarity(idf)


def cider(texts: Corpus, known: Rarity, *, clipped: bool = True) -> Float[np.ndarray, " N"]:
    """CIDEr-D of each candidate, or without `clipped` CIDEr: ten times the mean cosine.

    CIDEr-D counts an n-gram no more often than the reference does, and takes
    exp(-(difference of lengths)^2 / (2 SIGMA^2)) of it. Lengths are those of the scorer: numbers of
    pairs of words.
    """
    many, picture = texts.candidates, texts.pictures
    alike = np.zeros(len(picture))
    for counts, idf in zip(texts.counts, known.idf, strict=True):
        weight = counts.times * idf[counts.gram]
        norm = np.sqrt(np.bincount(counts.text, weight**2, len(texts.length)))
        told, wanted = counts.text < many, is_reference(texts, counts)
        keys = counts.text[told] * counts.grams + counts.gram[told]
        text = counts.text[wanted]
        place, there = looked_up(keys, texts.picture[text] * counts.grams + counts.gram[wanted])
        ours, theirs = weight[told][place[there]], weight[wanted][there]
        products = (np.minimum(ours, theirs) if clipped else ours) * theirs
        dot = np.bincount(text[there] - many, products, len(picture))
        over = norm[picture] * norm[many : many + len(picture)]
        alike += divide(dot, over, 0.0)
    if clipped:
        pairs = np.maximum(0, texts.length - 1)
        away = pairs[picture] - pairs[many : many + len(picture)]
        alike *= np.exp(-(away**2) / (2 * SIGMA**2))
    return 10 / ORDER * np.bincount(picture, alike, many) / np.bincount(picture, minlength=many)
