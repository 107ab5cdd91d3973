"""Tokenizers of published folders, through the `tokenizers` library: text to the published ids.

A folder has a tokenizer.json, or the older files: vocab.txt (WordPiece, BERT), vocab.json and
merges.txt (byte-level BPE, GPT-2 and Whisper; lower-casing BPE with `</w>` at the end of a word,
CLIP). What
is built of the older files follows the reference's classes (`models/*/tokenization_*.py` and
`convert_slow_tokenizer.py` of transformers). `data.tokenizers.Tokenizer` takes what comes out.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mlm_jax.config import UserError
from mlm_jax.pretrained.files import CONFIG, MAX_JSON, read_json
from mlm_jax.pretrained.languages import code_of

WHOLE, SETTINGS, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
WORDS, IDS, MERGES, SENTENCEPIECE = "vocab.txt", "vocab.json", "merges.txt", "spiece.model"
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
USUAL: dict[str, dict[str, str]] = {
    "Bert": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "GPT2": dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"),
    "Whisper": dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"),
    "CLIP": dict.fromkeys(("eos", "unk", "pad"), "<|endoftext|>") | {"bos": "<|startoftext|>"},
    "": {},
}
"""Special tokens by kind, where the folder names no others."""
CLASSES = {"Bert": "Bert", "DistilBert": "Bert", "Electra": "Bert", "MobileBert": "Bert",
           "LayoutLM": "Bert", "GPT2": "GPT2", "CLIP": "CLIP",
           "Whisper": "Whisper"}  # fmt: skip
"""The reference's tokenizers that can be built of the older files, and their kinds."""
MODELS = {"bert": "Bert", "distilbert": "Bert", "electra": "Bert", "blip": "Bert", "git": "Bert",
          "gpt2": "GPT2", "clip": "CLIP", "clip_text_model": "CLIP",
          "whisper": "Whisper"}  # fmt: skip
CLIP_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""openai/CLIP, clip/simple_tokenizer.py."""


@dataclass(frozen=True)
class Stated:
    """What a folder says beside its vocabulary."""

    folder: Path
    settings: dict[str, Any]
    """tokenizer_config.json, with special_tokens_map.json over it in older folders."""
    model: dict[str, Any]
    """config.json; empty where there is none."""

    @property
    def kind(self) -> str:
        """A key of USUAL; nothing where that is not known and a tokenizer.json tells all.

        By the class, then by the model, then by the vocabulary. Raises: UserError.
        """
        name = self.settings.get("tokenizer_class") or self.model.get("tokenizer_class") or ""
        name = str(name).removesuffix("Fast").removesuffix("Tokenizer")
        if name not in ("", "PreTrained"):
            return CLASSES.get(name) or self._other(name)
        decoder = self.model.get("decoder")
        model = str((decoder if isinstance(decoder, dict) else self.model).get("model_type"))
        if model in MODELS or (self.folder / WHOLE).is_file():
            return MODELS.get(model, "")
        if (self.folder / WORDS).is_file():
            return "Bert"
        words = any(token.endswith("</w>") for token in _optional(self.folder / IDS))
        return "CLIP" if words else "GPT2"

    def _other(self, name: str) -> str:
        if (self.folder / WHOLE).is_file():
            return ""
        raise UserError(
            f"{self.folder}: a {name}Tokenizer is not supported without a {WHOLE}; built of"
            f" {WORDS}, or {IDS} and {MERGES}, are those of {', '.join(CLASSES)}"
        )

    def flag(self, key: str, default: bool) -> bool:
        """A setting that is true or false; null is the default. Raises: UserError."""
        value = self.settings.get(key)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{self.folder / SETTINGS}: {key} is {value!r}; accepted: true, false")
        return default if value is None else value

    @property
    def accents(self) -> bool | None:
        """Whether accents are stripped; None: where the text is lower-cased."""
        unsaid = self.settings.get("strip_accents") is None
        return None if unsaid else self.flag("strip_accents", False)

    def special(self, usual: Mapping[str, str]) -> dict[str, hf.AddedToken]:
        """Special tokens by name (bos, eos, ...); a name that is null in the folder is left out."""
        found = {}
        for name in NAMES:
            value = self.settings.get(f"{name}_token", usual.get(name))
            if value is not None:
                found[name] = self._token(value, f"{name}_token")
        return found

    def extra(self) -> list[hf.AddedToken]:
        """Special tokens without a name."""
        found = []
        for key in ("additional_special_tokens", "extra_special_tokens"):
            values = self.settings.get(key) or []
            values = list(values.values()) if isinstance(values, dict) else values
            if not isinstance(values, list):
                raise UserError(f"{self.folder}: {key} is {values!r}; accepted: a list of texts")
            found += [self._token(value, key) for value in values]
        return found

    def added(self) -> dict[int, hf.AddedToken]:
        """Tokens that the folder adds to its vocabulary, by id. Raises: UserError."""
        if "added_tokens_decoder" in self.settings:
            key = "added_tokens_decoder"
            path = self.folder / SETTINGS
            pairs = self.settings[key]
            if not isinstance(pairs, dict):
                raise UserError(f"{path}: {key} is {pairs!r}; accepted: an object, ids to tokens")
            return {_id(i, path): self._token(v, key, special=False) for i, v in pairs.items()}
        path = self.folder / "added_tokens.json"
        known = {token.content for token in [*self.special({}).values(), *self.extra()]}
        return {
            _id(index, path): hf.AddedToken(
                text, special=text in known, normalized=text not in known
            )
            for text, index in _optional(path).items()
        }

    def _token(self, value: Any, key: str, *, special: bool = True) -> hf.AddedToken:
        if isinstance(value, str):
            return hf.AddedToken(value, special=True)
        if isinstance(value, dict) and isinstance(value.get("content"), str):
            keys = ("single_word", "lstrip", "rstrip", "normalized")
            flags = {k: v for k, v in value.items() if k in keys and isinstance(v, bool)}
            special = special or value.get("special") is True
            return hf.AddedToken(value["content"], special=special, **flags)
        raise UserError(f"{self.folder}: {key} is {value!r}; accepted: a text or its `content`")


def load_tokenizer(folder: Path | str) -> hf.Tokenizer:
    """The tokenizer of a published folder; its post-processor puts the special tokens around.

    Text that imitates a special token is read as that token, as in the reference, unless
    `encode_special_tokens` is set. Padding and truncation are off.

    Raises: UserError naming the file, what is wrong in it and what would be right.
    """
    stated = _stated(Path(folder))
    kind = stated.kind
    if (stated.folder / WHOLE).is_file():
        tokenizer = _whole(stated, kind)
    elif any((stated.folder / name).is_file() for name in (WORDS, IDS, MERGES)):
        build = {"Bert": _wordpiece, "GPT2": _gpt2, "CLIP": _clip, "Whisper": _whisper}
        tokenizer = build[kind](stated)
    else:
        raise UserError(_missing(stated.folder))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _add(tokenizer, stated, USUAL[kind])
    _fits(tokenizer, stated)
    return tokenizer


def special_names(folder: Path | str) -> dict[str, str]:
    """Texts of the special tokens by name (bos, eos, unk, sep, pad, cls, mask), as published.

    The usual ones of the class where the folder names none and its tokenizer has them.
    """
    tokenizer, stated = load_tokenizer(folder), _stated(Path(folder))
    special = stated.special(USUAL[stated.kind])
    texts = {name: token.content for name, token in special.items()}
    return {name: text for name, text in texts.items() if tokenizer.token_to_id(text) is not None}


def stated_names(folder: Path) -> dict[str, str]:
    """Texts of those that the folder names, whether its tokenizer has them or not."""
    special = Stated(folder, _settings(folder), {}).special({})
    return {name: token.content for name, token in special.items()}


def save_names(special: Mapping[str, str], folder: Path) -> None:
    """Write special_tokens_map.json, from which `stated_names` has them again."""
    named = {f"{name}_token": text for name, text in special.items()}
    (folder / SPECIAL).write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(
    tokenizer: hf.Tokenizer,
    folder: Path | str,
    *,
    special: Mapping[str, str],
    kind: str = "PreTrainedTokenizerFast",
    length: int | None = None,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> None:
    """Write tokenizer.json and the tokenizer_config.json with which the reference reads it.

    special: {"bos": "[BOS]", ...}, names as in NAMES, each text known to the tokenizer.
    kind: the reference's class, BertTokenizer, GPT2Tokenizer, CLIPTokenizer or the general one.
    length: the most tokens that the model takes.
    inputs: what the model takes of a text; the general class of transformers 4 adds segments.
    """
    unknown = [name for name in special if name not in NAMES]
    absent = [text for text in special.values() if tokenizer.token_to_id(text) is None]
    if unknown or absent:
        raise UserError(f"special tokens {unknown + absent} are unknown; accepted names: {NAMES}")
    settings: dict[str, Any] = {"tokenizer_class": kind, "clean_up_tokenization_spaces": False}
    settings["model_input_names"] = list(inputs)
    settings |= {f"{name}_token": text for name, text in special.items()}
    if length is not None:
        settings["model_max_length"] = length
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        settings["do_lower_case"] = normalizer.lowercase
        settings["strip_accents"] = normalizer.strip_accents
        settings["tokenize_chinese_chars"] = normalizer.handle_chinese_chars
    if isinstance(splitter, pre_tokenizers.ByteLevel):
        settings["add_prefix_space"] = splitter.add_prefix_space
    folder = Path(folder)
    (folder / WHOLE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _stated(folder: Path) -> Stated:
    if not folder.is_dir():
        raise UserError(f"{folder}: a folder with {WHOLE} is wanted")
    return Stated(folder, _settings(folder), _optional(folder / CONFIG))


def _settings(folder: Path) -> dict[str, Any]:
    settings = _optional(folder / SETTINGS)
    if "added_tokens_decoder" not in settings:
        settings |= _optional(folder / SPECIAL)
    return settings


def _missing(folder: Path) -> str:
    if (folder / SENTENCEPIECE).is_file():
        return (
            f"{folder / SENTENCEPIECE} alone is not read: put the {WHOLE} of the checkpoint beside"
            " it. Where none is published, SentencePieceUnigramTokenizer.from_spm of the library"
            " `tokenizers` makes one of it; SigLIP's lower-cases and drops punctuation before"
        )
    return f"{folder} has no tokenizer: {WHOLE}, {WORDS}, or {IDS} and {MERGES} are accepted"


def _whole(stated: Stated, kind: str) -> hf.Tokenizer:
    """tokenizer.json; where tokenizer_config.json differs it wins, as in the reference."""
    path = stated.folder / WHOLE
    tokenizer: hf.Tokenizer = _made(path, lambda: hf.Tokenizer.from_str(_text(path)))
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if kind == "Bert" and isinstance(normalizer, normalizers.BertNormalizer):
        normalizer.lowercase = stated.flag("do_lower_case", normalizer.lowercase)
        spread = stated.flag("tokenize_chinese_chars", normalizer.handle_chinese_chars)
        normalizer.handle_chinese_chars = spread
        if "strip_accents" in stated.settings:
            normalizer.strip_accents = stated.accents
    if kind in ("GPT2", "Whisper") and isinstance(splitter, pre_tokenizers.ByteLevel):
        splitter.add_prefix_space = stated.flag("add_prefix_space", splitter.add_prefix_space)
    ends = getattr(tokenizer.model, "end_of_word_suffix", None) == "</w>"
    if ends and isinstance(tokenizer.decoder, decoders.ByteLevel):
        tokenizer.decoder = _clip_decoder()
    return tokenizer


def _wordpiece(stated: Stated) -> hf.Tokenizer:
    path = stated.folder / WORDS
    if not stated.flag("do_basic_tokenize", True):
        raise UserError(f"{stated.folder / SETTINGS}: do_basic_tokenize false is not supported")
    vocab: dict[str, int] = {}
    twice = [
        f"{row!r} in line {vocab[row] + 1} again in line {index + 1}"
        for index, row in enumerate(_lines(path))
        if vocab.setdefault(row, index) != index
    ]
    if twice:
        raise UserError(f"{path}: {'; '.join(twice[:5])}; each line is a token, its number the id")
    names = {name: token.content for name, token in stated.special(USUAL["Bert"]).items()}
    _wants(path, vocab, [names.get(name, f"{name}_token") for name in ("unk", "cls", "sep")])
    tokenizer = hf.Tokenizer(models.WordPiece(vocab, unk_token=names["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=stated.flag("tokenize_chinese_chars", True),
        strip_accents=stated.accents,
        lowercase=stated.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    cls, sep = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    return tokenizer


def _gpt2(stated: Stated) -> hf.Tokenizer:
    """Radford et al. 2019; a leading space belongs to the word, nothing is unknown."""
    vocab = _ids(stated.folder / IDS)
    tokenizer = _bytes(stated, vocab)
    special = stated.special(USUAL["GPT2"])
    first, last = (
        [special[name].content]
        if name in special and stated.flag(f"add_{name}_token", False)
        else []
        for name in ("bos", "eos")
    )
    _wants(stated.folder / IDS, vocab, first + last)
    second = [*(f"{text}:1" for text in first), "$B:1", *(f"{text}:1" for text in last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *second],
        special_tokens=[(text, vocab[text]) for text in dict.fromkeys(first + last)],
    )
    return tokenizer


def _whisper(stated: Stated) -> hf.Tokenizer:
    """GPT-2's; the start of the transcript, language and task before a text, its end after it."""
    vocab = _ids(stated.folder / IDS)
    tokenizer = _bytes(stated, vocab)
    special = stated.special(USUAL["Whisper"])
    end = special["eos"].content if "eos" in special else "eos_token"
    language = code_of(str(stated.settings.get("language") or ""))
    wanted = [language, stated.settings.get("task")]
    times = stated.flag("predict_timestamps", False)
    names = ["startoftranscript", *filter(None, wanted), *([] if times else ["notimestamps"])]
    start = [f"<|{name}|>" for name in names]
    known = vocab | {token.content: index for index, token in stated.added().items()}
    _wants(stated.folder / IDS, known, [*start, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*start, "$A", end],
        pair=[*start, "$A", "$B:1", f"{end}:1"],
        special_tokens=[(text, known[text]) for text in dict.fromkeys([*start, end])],
    )
    return tokenizer


def _bytes(stated: Stated, vocab: dict[str, int]) -> hf.Tokenizer:
    """Byte-level BPE, without special tokens around."""
    tokenizer = hf.Tokenizer(_bpe(stated, vocab))
    space = stated.flag("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _clip(stated: Stated) -> hf.Tokenizer:
    """Lower case, spaces collapsed, start and end token around."""
    vocab = _ids(stated.folder / IDS)
    special = stated.special(USUAL["CLIP"])
    names = {name: token.content for name, token in special.items()}
    bos, eos = (names.get(name, f"{name}_token") for name in ("bos", "eos"))
    unknown = {"unk_token": names["unk"]} if "unk" in names else {}
    _wants(stated.folder / IDS, vocab, [bos, eos, *unknown.values()])
    tokenizer = hf.Tokenizer(_bpe(stated, vocab, end_of_word_suffix="</w>", **unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(hf.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(hf.Regex(CLIP_PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = _clip_decoder()
    tokenizer.post_processor = processors.RobertaProcessing(
        (eos, vocab[eos]), (bos, vocab[bos]), False, False
    )
    return tokenizer


def _bpe(stated: Stated, vocab: dict[str, int], **settings: str) -> models.BPE:
    path = stated.folder / MERGES
    merges = list(_merges(path))
    made: models.BPE = _made(path, lambda: models.BPE(vocab, merges, **settings))
    return made


def _clip_decoder() -> decoders.Decoder:
    """Bytes to text, the end of a word to a space, none around."""
    ends = hf.Regex(r"^\s+|\s+$")  # decoders.Strip panics on an empty text
    return decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Replace(ends, "")]
    )


def _add(tokenizer: hf.Tokenizer, stated: Stated, usual: Mapping[str, str]) -> None:
    """Mark special tokens, and add those that the folder names beside its vocabulary.

    The library numbers what it adds one after the other: that must be the ids of the folder.
    """
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    own = set(stated.special({}))
    named = [
        token
        for name, token in stated.special(usual).items()
        if name in own or tokenizer.token_to_id(token.content) is not None
    ]
    added = sorted(stated.added().items())
    for token in [*(token for _, token in added), *named, *stated.extra()]:
        if token.content not in known:
            known.add(token.content)
            tokenizer.add_tokens([token])
    for index, token in added:
        here = tokenizer.token_to_id(token.content)
        if here != index:
            raise UserError(
                f"{stated.folder}: the added token {token.content!r} is said to be id {index}, but"
                f" is {here} after the vocabulary: ids must follow on without gaps; are"
                " vocabulary and added tokens of one checkpoint?"
            )


def _fits(tokenizer: hf.Tokenizer, stated: Stated) -> None:
    """Raises: UserError where the model has fewer rows than the tokenizer has ids."""
    parts = [stated.model, stated.model.get("text_config"), stated.model.get("decoder")]
    sizes = [part.get("vocab_size") for part in parts if isinstance(part, dict)]
    ids = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    for size in [size for size in sizes if size is not None][:1]:
        if type(size) is not int or ids > size:
            raise UserError(
                f"{stated.folder}: a tokenizer that does not match the vocabulary: it has {ids}"
                f" ids, vocab_size in {CONFIG} is {size}; put the tokenizer of this checkpoint here"
            )


def _ids(path: Path) -> dict[str, int]:
    """vocab.json. Raises: UserError unless its ids are 0, 1, 2, ... without gap or repetition."""
    vocab = read_json(path)
    if not all(type(index) is int for index in vocab.values()):
        raise UserError(f"{path}: accepted are texts with whole numbers as their ids")
    wrong = sorted(set(range(len(vocab))) ^ set(vocab.values()))
    if wrong:
        repeated = len(vocab) - len(set(vocab.values()))
        raise UserError(
            f"{path}: {len(vocab)} tokens want the ids 0-{len(vocab) - 1}, each once; {repeated}"
            f" repeat another's, missing or beyond are {wrong[:5]}: is the file cut or edited?"
        )
    return vocab


def _merges(path: Path) -> Iterator[tuple[str, str]]:
    """merges.txt: two tokens a line, with a space between. Raises: UserError."""
    if not path.is_file():
        raise UserError(f"{path} is missing: {IDS} alone does not tell how words are merged")
    for number, row in enumerate(_lines(path), 1):
        if not row or (number == 1 and row.startswith("#version")):
            continue
        pair = row.split(" ")
        if len(pair) != 2 or not all(pair):
            raise UserError(f"{path}, line {number}: {row[:80]!r}; accepted: two tokens")
        yield pair[0], pair[1]


def _wants(path: Path, vocab: Mapping[str, int], texts: list[str]) -> None:
    absent = [text for text in texts if text not in vocab]
    if absent:
        raise UserError(
            f"{path}: no {', '.join(absent)} among its {len(vocab)} tokens; special tokens of other"
            f" names stand in {SETTINGS}"
        )


def _made(path: Path, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path} is damaged: {error}") from error


def _text(path: Path) -> str:
    """A text file from outside. Raises: UserError."""
    if path.stat().st_size > MAX_JSON:
        raise UserError(f"{path}: over {MAX_JSON >> 20} MiB, the most accepted")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged, no UTF-8: {error}") from error


def _lines(path: Path) -> list[str]:
    """Lines end with a line feed only: vocabularies hold other line separators as tokens."""
    rows = _text(path).split("\n")
    return [row.removesuffix("\r") for row in (rows[:-1] if rows[-1] == "" else rows)]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _id(value: Any, path: Path) -> int:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if type(value) is not int or value < 0:
        raise UserError(f"{path}: {value!r} is no id; accepted: a whole number from 0")
    return value
