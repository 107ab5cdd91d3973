import gzip
import json

import pytest
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from mlm_jax.config import Data
from mlm_jax.data import CAPTION_PROMPT
from mlm_jax.data.records import DataError
from mlm_jax.data.sources import open_source
from mlm_jax.data.tokenizers import bpe, build, load, words

CORPUS = ["is there a red circle?", "yes", "the left-most, it's two!", "3.5 (blue)"]


@pytest.mark.parametrize(
    "text", [*CORPUS, "Is there A RED circle?", "  is\tthere   two \n", "two!!"]
)
def test_words_round_trip(text):
    tokenizer = words(CORPUS)
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.lower().split())


def test_words_are_whole_words_and_single_marks():
    tokenizer = words(CORPUS)
    assert len(tokenizer.encode("is there a red circle?")) == 6
    assert len(tokenizer.encode("left-most, it's")) == 7


def test_own_tokenizers_have_the_ids_of_the_contract():
    for tokenizer in (words(CORPUS), bpe(CORPUS, 280)):
        special = tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk
        assert special == (0, 1, 2, 3)
        ids = [i for text in CORPUS for i in tokenizer.encode(text)]
        assert min(ids) >= 4
        assert max(ids) < tokenizer.size


def test_unknown_words_are_unk():
    tokenizer = words(CORPUS)
    assert tokenizer.encode("a zebra") == [*tokenizer.encode("a"), tokenizer.unk]


def test_decoding_stops_at_eos_and_leaves_out_padding():
    tokenizer = words(CORPUS)
    ids = tokenizer.encode("a red circle")
    row = [tokenizer.bos, *ids, tokenizer.eos, *tokenizer.encode("yes"), tokenizer.pad]
    assert tokenizer.decode(row) == "a red circle"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("make", [words, lambda corpus: bpe(corpus, 300)])
def test_text_that_imitates_special_tokens_is_text(make):
    tokenizer = make([*CORPUS, "[EOS] [PAD] [BOS]"])
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk}
    assert not special & set(tokenizer.encode("a [EOS] red [PAD] circle [BOS]"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_bpe_round_trips_any_text(text):
    tokenizer = BPE
    assert tokenizer.decode(tokenizer.encode(text)) == text.strip()


BPE = bpe(CORPUS, 280)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_words_never_fail_and_are_stable(text):
    """Decoding what was encoded and encoding again changes nothing, for words of its own corpus."""
    tokenizer = words([text])
    ids = tokenizer.encode(text)
    assert tokenizer.unk not in ids
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


def test_bpe_learns_merges_up_to_its_size():
    small, large = bpe(CORPUS * 9, 260), bpe(CORPUS * 9, 285)
    assert (small.size, large.size) == (260, 285)
    assert len(large.encode("a red circle")) < len(small.encode("a red circle")) == 12
    with pytest.raises(DataError, match="at least 260"):
        bpe(CORPUS, 259)


def test_saved_and_loaded_is_the_same(tmp_path):
    for tokenizer in (words(CORPUS), BPE):
        tokenizer.save(tmp_path / "tokenizer.json")
        again = load(tmp_path / "tokenizer.json")
        assert again.size == tokenizer.size
        assert (again.pad, again.bos, again.eos, again.unk) == (0, 1, 2, 3)
        assert [again.encode(t) for t in CORPUS] == [tokenizer.encode(t) for t in CORPUS]
        assert again.decode(again.encode(CORPUS[0])) == CORPUS[0]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"t\.json: not a readable tokenizer\.json"):
        load(path)
    with pytest.raises(DataError, match="missing"):
        load(tmp_path / "missing.json")


def test_the_corpus_is_every_text_of_the_split(own):
    path = own(
        [
            {"image": "0.png", "captions": ["one", "two"]},
            {"image": "1.png", "question": "three?", "answers": ["four", "five"]},
            {"image": "1.png", "captions": "six"},
        ],
        pictures=2,
    )
    data = Data(name=str(path), train="train[:1]")
    whole, half = (build(data, open_source(data, split)) for split in ("train", data.train))
    for text in ("one", "two", "three?", "four", "five", "six", CAPTION_PROMPT):
        assert whole.unk not in whole.encode(text)
    assert half.unk in half.encode("six")


def test_an_unknown_kind_is_refused(own):
    data = Data(name=str(own([{"image": "0.png", "captions": "one"}], 1)), tokenizer="wordz")
    with pytest.raises(
        DataError, match=r"wordz.*accepted: words, bpe, a path that ends in .json, or the"
    ):
        build(data, open_source(data, "train"))


def test_a_published_folder_says_what_is_special_and_what_stands_around_a_text(own, tmp_path):
    """Of SigLIP 2 "</s>" is a word, of SigLIP and T5 the end alone stands around a text."""
    folder = tmp_path / "published"
    folder.mkdir()
    inner = hf.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "!": 2, "?": 3, "is": 4}, "?"))
    inner.post_processor = processors.TemplateProcessing("$A !", special_tokens=[("!", 2)])
    inner.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "!", "eos_token": {"content": "!"}, "unk_token": "?"}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    path = own([{"image": "0.png", "captions": "one"}], 1)
    data = Data(name=str(path), tokenizer=str(folder))
    built = build(data, open_source(data, "train"))
    built.save(tmp_path / "tokenizer.json")
    for each in (built, load(folder / "tokenizer.json"), load(tmp_path / "tokenizer.json")):
        assert (each.pad, each.bos, each.eos, each.unk, each.size) == (2, 0, 2, 3, 5)
        assert each.framed(each.encode("is")) == [4, 2]


def bert(shared, case: str) -> hf.Tokenizer:
    inner = hf.Tokenizer(
        models.WordPiece.from_file(
            str(shared / "tokenizers" / f"bert_base_{case}_vocab.txt"), unk_token="[UNK]"
        )
    )
    inner.normalizer = normalizers.BertNormalizer(lowercase=case == "uncased")
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def gpt2(shared) -> hf.Tokenizer:
    with gzip.open(shared / "tokenizers" / "gpt2_vocab_derived.json.gz") as file:
        vocab = json.load(file)
    lines = (shared / "tokenizers" / "gpt2_merges.txt").read_text("utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
    merges = [(first, second) for first, second in (pair for pair in pairs if len(pair) == 2)]
    inner = hf.Tokenizer(models.BPE(vocab, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


@pytest.mark.parametrize("name", ["bert_uncased", "bert_cased", "gpt2"])
def test_published_tokenizers_give_the_reference_ids(shared, tmp_path, name):
    inner = gpt2(shared) if name == "gpt2" else bert(shared, name.partition("_")[2])
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load(tmp_path / "tokenizer.json")
    lines = (shared / "tokenizers" / "golden_ids.jsonl").read_text("utf-8").splitlines()
    for golden in map(json.loads, lines):
        expected = golden[name] if name == "gpt2" else golden[name][1:-1]
        assert tokenizer.encode(golden["text"]) == expected, golden["text"]
    if name == "gpt2":
        assert tokenizer.pad == tokenizer.size - 1 or tokenizer.pad == tokenizer.eos
    else:
        assert (tokenizer.pad, tokenizer.unk, tokenizer.bos, tokenizer.eos) == (0, 100, 101, 102)
