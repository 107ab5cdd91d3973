"""Tokenizers: the `tokenizers` library behind one small class.

Own tokenizers have the ids pad 0, bos 1, eos 2, unk 3. Any tokenizer.json can be loaded: its
special tokens are those that the published files beside it name, or else found by their usual
names, and what is missing is added at the end. Text that imitates a special token is read as
ordinary text.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import SupportsIndex

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mlm_jax.config import Data
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.records import DataError, Source
from mlm_jax.pretrained.vocabulary import load_tokenizer, save_names, stated_names

PAD, BOS, EOS, UNK = "[PAD]", "[BOS]", "[EOS]", "[UNK]"
NAMES = {
    PAD: (PAD, "<pad>", "<|pad|>", "<|endoftext|>"),
    BOS: (BOS, "<s>", "<bos>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    EOS: (EOS, "</s>", "<eos>", "<|endoftext|>", "[SEP]"),
    UNK: (UNK, "<unk>", "<|unk|>", "<|endoftext|>"),
}
ONE = hf.Tokenizer(models.WordLevel({"one": 0}, "one")).encode("one")
"""A text of one token."""


class Tokenizer:
    """Text to ids and back. `size` counts all ids; pad, bos, eos and unk are ids.

    `special` names tokens as published files do: {"pad": "</s>"}. `before` and `after` are what a
    published tokenizer puts around a text, [CLS] and [SEP]; ours put nothing.
    """

    def __init__(self, inner: hf.Tokenizer, special: Mapping[str, str] = {}):
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self.inner, self.special = inner, special
        self.pad, self.bos, self.eos, self.unk = (self._special(name) for name in NAMES)
        framed = inner.post_process(ONE)
        place = framed.special_tokens_mask.index(0)
        self.before, self.after = framed.ids[:place], framed.ids[place + 1 :]

    def _special(self, name: str) -> int:
        named = self.special.get(name[1:-1].lower(), name)
        for known in (named, *NAMES[name]):
            index = self.inner.token_to_id(known)
            if index is not None:
                return index
        self.inner.add_special_tokens([name])
        return self._special(name)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """Ids without bos and eos."""
        return self.inner.encode(text, add_special_tokens=False).ids

    def framed(self, ids: list[int]) -> list[int]:
        """The ids as an encoder of that tokenizer was taught to read them."""
        return [*self.before, *ids, *self.after]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Clean text of the ids up to eos; pad and bos are left out."""
        kept = []
        for index in map(int, ids):
            if index == self.eos:
                break
            if index not in (self.pad, self.bos):
                kept.append(index)
        return self.inner.decode(kept, skip_special_tokens=False).strip()

    def save(self, path: Path | str) -> None:
        """Write a tokenizer.json, and beside it the names of `special` where there are any."""
        if self.special:
            save_names(self.special, Path(path).parent)
        Path(path).write_text(self.inner.to_str(pretty=True), encoding="utf-8")


def words(corpus: Iterable[str]) -> Tokenizer:
    """Word level: lower case, punctuation apart; every word of the corpus has an id.

    A token remembers whether a space went before it, "is it?" -> "▁is", "▁it", "?", so that
    decoding gives back the lower-case text exactly, with single spaces.
    """
    inner = hf.Tokenizer(models.WordLevel({}, unk_token=UNK))
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(hf.Regex(r"[\s\x1c-\x1f▁]+"), " "),
            normalizers.Strip(),
        ]
    )
    word = r"▁?[\p{L}\p{M}\p{N}]+|▁?[^\p{L}\p{M}\p{N}▁]"
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(hf.Regex(word), "isolated"),
        ]
    )
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.WordLevelTrainer(
        vocab_size=1 << 20, special_tokens=[PAD, BOS, EOS, UNK], show_progress=False
    )
    inner.train_from_iterator(corpus, trainer)
    return Tokenizer(inner)


def bpe(corpus: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE of `vocab` ids, at least 260: no text is unknown, and decoding is exact."""
    if vocab < 260:
        raise DataError(f"--data.vocab {vocab}: at least 260 (256 bytes and 4 special tokens)")
    inner = hf.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, BOS, EOS, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    return Tokenizer(inner)


def load(path: Path | str) -> Tokenizer:
    """Any tokenizer.json; raises DataError."""
    special = stated_names(Path(path).parent)
    try:
        return Tokenizer(hf.Tokenizer.from_str(Path(path).read_text(encoding="utf-8")), special)
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{path}: not a readable tokenizer.json ({error})") from error


def build(data: Data, source: Source) -> Tokenizer:
    """The tokenizer that data.tokenizer asks for (see there); raises UserError.

    Where no texts are read it knows no word but those of the prompt.
    """
    if not data.texts:
        return words([CAPTION_PROMPT])
    if data.tokenizer.endswith(".json"):
        return load(data.tokenizer)
    if Path(data.tokenizer).is_dir():
        return Tokenizer(load_tokenizer(data.tokenizer), stated_names(Path(data.tokenizer)))
    if data.tokenizer == "words":
        return words(dict.fromkeys([CAPTION_PROMPT, *source.corpus()]))
    if data.tokenizer == "bpe":
        return bpe([CAPTION_PROMPT, *source.corpus()], data.vocab)
    raise DataError(
        f"--data.tokenizer {data.tokenizer!r}; accepted: words, bpe, a path that ends in .json, or "
        "the folder of a published checkpoint"
    )
