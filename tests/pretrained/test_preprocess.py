"""Pixels and ids against the reference: golden files, and live where transformers is installed.

The golden files hold their inputs; golden/preprocess_make.py made them.
"""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as hf
from PIL import Image

from mlm_jax.config import UserError
from mlm_jax.data.tokenizers import Tokenizer
from mlm_jax.pretrained import pixels, vocabulary
from mlm_jax.pretrained.pixels import Pixels, load_pixels, save_pixels
from mlm_jax.pretrained.vocabulary import load_tokenizer, save_tokenizer, special_names

HERE = Path(__file__).parent / "golden"
GOLDEN: dict[str, Any] = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
ARRAYS: dict[str, np.ndarray] = dict(np.load(HERE / "preprocess.npz"))
TEXTS: list[str] = GOLDEN["texts"]
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in GOLDEN["cases"]}
FAMILIES = tuple(GOLDEN["defaults"])
Change = Callable[[Path], object]


def picture(name: str) -> Image.Image:
    image = Image.fromarray(ARRAYS[f"picture/{name}"])
    if name == "mode P":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([(7 * i + 91 * c) % 256 for i in range(256) for c in range(3)])
        image.info["transparency"] = 3
    return image


PICTURES = [key.removeprefix("picture/") for key in ARRAYS if key.startswith("picture/")]


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Texts as they are, anything else as JSON."""
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name).write_bytes(text.encode())
    return folder


def published(folder: Path, case: str) -> Path:
    """The folder of a golden tokenizer."""
    files = GOLDEN["vocabularies"][CASES[case]["vocabulary"]]
    return write(folder, files | CASES[case]["files"])


def processor(folder: Path, values: dict[str, Any]) -> Pixels:
    return load_pixels(write(folder, {"preprocessor_config.json": values}))


# Pixels


@pytest.mark.parametrize("name", GOLDEN["processors"])
def test_grey_levels_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    inner = processor(tmp_path, GOLDEN["processors"][name])
    for key in PICTURES:
        np.testing.assert_array_equal(inner(picture(key)), ARRAYS[f"{name}/{key}"], err_msg=key)


@pytest.mark.parametrize("name", GOLDEN["processors"])
def test_normalised_tensors_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    inner = processor(tmp_path, GOLDEN["processors"][name])
    out = inner.normalise(inner(ARRAYS["picture/square"]))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, ARRAYS[f"{name}/float"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_the_class(family: str, tmp_path: Path) -> None:
    inner = processor(tmp_path, {"image_processor_type": f"{family}ImageProcessor"})
    theirs = GOLDEN["defaults"][family]
    written = inner.to_json()
    assert {key: written.get(key) for key in theirs} == theirs


@pytest.mark.parametrize("name", GOLDEN["processors"])
def test_what_is_written_reads_back_the_same(name: str, tmp_path: Path) -> None:
    first = processor(tmp_path, GOLDEN["processors"][name])
    save_pixels(first, tmp_path)
    again = load_pixels(tmp_path)
    assert dataclasses.replace(again, family=first.family) == first
    if first.crop is None and not isinstance(first.resize, int):
        assert again.family == first.family


def test_a_crop_beyond_the_picture_is_filled_with_zeros() -> None:
    inner = Pixels("CLIP", None, crop=(5, 4))
    out = inner(np.full((2, 7, 3), 9, np.uint8))[..., 0]
    np.testing.assert_array_equal(out, [[0] * 4, [0] * 4, [9] * 4, [9] * 4, [0] * 4])


def test_an_even_crop_of_an_odd_picture_leans_to_the_front() -> None:
    row = np.arange(7, dtype=np.uint8)[None, :, None].repeat(3, -1)
    assert Pixels(resize=None, crop=(1, 4))(row)[0, :, 0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("inner", "size"),
    [
        (Pixels(), (224, 224)),
        (Pixels(resize=9), None),
        (Pixels(resize=9, crop=(3, 4)), (3, 4)),
        (Pixels(resize=None), None),
        (Pixels(resize=None, crop=(3, 4)), (3, 4)),
    ],
)
def test_size_is_what_comes_out(inner: Pixels, size: tuple[int, int] | None) -> None:
    assert inner.size == size
    if size is not None:
        assert inner(np.zeros((8, 5, 3), np.uint8)).shape == (*size, 3)


def test_a_file_that_does_not_rescale_means_grey_levels(tmp_path: Path) -> None:
    kind = {"image_processor_type": "ViTImageProcessor", "do_rescale": False}
    levels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, -1)
    inner = processor(tmp_path, kind | {"image_mean": 120.0, "image_std": 60.0})
    want = (levels.astype(np.float32) - 120) / 60
    np.testing.assert_allclose(inner.normalise(levels), want, atol=1e-6)
    inner = processor(tmp_path, kind | {"do_normalize": False})
    np.testing.assert_allclose(inner.normalise(levels), levels, rtol=1e-6)


def test_the_nested_file_wins_and_the_model_names_the_class(tmp_path: Path) -> None:
    nested = {"image_processor": {"image_processor_type": "BlipImageProcessor", "size": 8}}
    write(tmp_path, {"preprocessor_config.json": {"size": 9}, "processor_config.json": nested})
    assert load_pixels(tmp_path).resize == (8, 8)
    write(tmp_path, {"processor_config.json": {"processor_class": "CLIPProcessor"}})
    for config, family, size in [
        ({"model_type": "clip"}, "CLIP", 9),
        ({"model_type": "vit"}, "ViT", (9, 9)),
        (
            {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "deit"}},
            "DeiT",
            (9, 9),
        ),
    ]:
        inner = load_pixels(write(tmp_path, {"config.json": config}))
        assert (inner.family, inner.resize) == (family, size)


def test_all_that_is_wrong_in_a_processor_is_said_at_once(tmp_path: Path) -> None:
    values = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"longest_edge": 9},
        "resample": "bicubic",
        "rescale_factor": 0.00784,
        "do_normalize": "yes",
        "do_center_crop": True,
        "image_mean": [0.5, 0.5],
        "image_std": [0.5, 0.5, 0],
        "offset": True,
        "harmless": 3,
    }
    with pytest.raises(UserError) as error:
        processor(tmp_path, values)
    text = str(error.value)
    assert "preprocessor_config.json" in text
    for key in ("size", "resample", "rescale_factor", "do_normalize", "crop_size", "image_mean",
                "image_std", "offset"):  # fmt: skip
        assert key in text
    assert "harmless" not in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_processor_type": "GLPNImageProcessor"}, "GLPN is not supported; accepted: ViTI"),
        ({}, "no class is not supported"),
        ({"size": 9000}, "1-8192"),
        ({"size": {"height": 9, "width": True}}, "accepted"),
        ({"size": 0}, "accepted"),
        ({"crop_size": {"shortest_edge": 9}}, "crop_size"),
        ({"image_mean": float("nan")}, "image_mean"),
        ({"do_pad": True}, "do_pad"),
        ({"pad_size": {"height": 9, "width": 9}}, "pad_size"),
    ],
)
def test_what_is_not_done_is_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    named = {"image_processor_type": "CLIPImageProcessor"} if values and said[:4] != "GLPN" else {}
    free = {"do_center_crop": False} if "do_pad" in values else {}
    with pytest.raises(UserError, match=said):
        processor(tmp_path, named | values | free)


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither preprocessor_config\.json nor"):
        load_pixels(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        load_pixels(write(tmp_path, {"preprocessor_config.json": '{"size": 9'}))


def test_a_thin_picture_does_not_fill_the_memory() -> None:
    with pytest.raises(UserError, match="1 x 60000 becomes 224 x 13440000"):
        Pixels(resize=224)(np.zeros((60000, 1, 3), np.uint8))


# Ids


@pytest.mark.parametrize("name", CASES)
def test_ids_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    inner = load_tokenizer(published(tmp_path, name))
    case = CASES[name]
    for text, ids, plain in zip(TEXTS, case["ids"], case["plain"], strict=True):
        assert inner.encode(text).ids == ids, text
        assert inner.encode(text, add_special_tokens=False).ids == plain, text
    assert inner.encode(TEXTS[2], TEXTS[3]).ids == case["pair"]


@pytest.mark.parametrize("name", CASES)
def test_a_tokenizer_json_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    """As written here, and with padding and truncation, which published files may switch on."""
    inner = load_tokenizer(published(tmp_path, name))
    before = [inner.encode(text).ids for text in TEXTS]
    special = special_names(tmp_path)
    inner.enable_padding(length=64)
    inner.enable_truncation(5)
    other = tmp_path / "other"
    other.mkdir()
    save_tokenizer(inner, other, special=special, length=77)
    again = load_tokenizer(other)
    assert [again.encode(text).ids for text in TEXTS] == before
    assert special_names(other) == special


def test_separators_in_a_vocabulary_do_not_end_a_line(tmp_path: Path) -> None:
    inner = load_tokenizer(published(tmp_path, "bert"))
    rows = GOLDEN["vocabularies"]["bert"]["vocab.txt"].split("\n")[:-1]
    assert [inner.id_to_token(index) for index in range(len(rows))] == rows
    windows = write(tmp_path, {"vocab.txt": "\r\n".join(rows) + "\r\n"})
    assert load_tokenizer(windows).get_vocab() == inner.get_vocab()


@pytest.mark.parametrize(
    ("name", "text", "back"),
    [
        ("bert", "Is it a Red ball? They've seen 42!", "is it a red ball? they ' ve seen 42!"),
        ("gpt2", " Is it  a\tred 🙂 ball?\n", "Is it  a\tred 🙂 ball?"),
        ("clip", " Is it a\n RED 🙂 café ball?", "is it a red 🙂 café ball ?"),
    ],
)
def test_the_data_pipeline_takes_them(name: str, text: str, back: str, tmp_path: Path) -> None:
    inner = Tokenizer(load_tokenizer(published(tmp_path, name)))
    size = len(inner.inner.get_vocab())
    assert inner.size == size == max(inner.inner.get_vocab().values()) + 1
    assert inner.decode(inner.encode(text)) == back
    assert not {inner.bos, inner.eos} & set(inner.encode(TEXTS[16] + TEXTS[17]))
    assert inner.decode([]) == inner.decode([inner.eos]) == inner.decode(inner.encode(" ")) == ""


def test_what_stands_in_tokenizer_config_wins(tmp_path: Path) -> None:
    inner = load_tokenizer(published(tmp_path, "bert"))
    write(tmp_path, {"tokenizer.json": inner.to_str()})
    cased = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    write(tmp_path, {"tokenizer_config.json": cased})
    assert load_tokenizer(tmp_path).encode(TEXTS[3]).ids == CASES["bert cased"]["ids"][3]


def test_special_names_follow_the_folder(tmp_path: Path) -> None:
    assert special_names(published(tmp_path, "clip")) == {
        "bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>",
        "pad": "<|endoftext|>"}  # fmt: skip
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "unk_token": None}
    write(tmp_path, {"tokenizer_config.json": settings | {"added_tokens_decoder": {}}})
    assert special_names(tmp_path) == {
        "bos": "<|startoftext|>", "eos": "<|endoftext|>", "pad": "!"}  # fmt: skip


def edit(name: str, change: Callable[[Any], Any]) -> Change:
    def apply(folder: Path) -> None:
        text = (folder / name).read_bytes().decode()
        is_json = name.endswith(".json")
        write(folder, {name: change(json.loads(text) if is_json else text)})

    return apply


def put(**files: Any) -> Change:
    return lambda folder: write(folder, {k.replace("__", "."): v for k, v in files.items()})


def gone(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("case", "change", "said"),
    [
        ("bert", gone("vocab.txt"), r"no tokenizer: tokenizer\.json, vocab\.txt, or"),
        ("bert", edit("vocab.txt", lambda t: t + "cat\n"), "'cat' in line .* again in line"),
        ("bert", edit("vocab.txt", lambda t: t.replace("[CLS]", "<s>")), r"no \[CLS\] among"),
        ("bert", put(config__json={"vocab_size": 300}), "does not match the vocabulary: .* 300"),
        ("bert", put(tokenizer_config__json={"do_lower_case": "no"}), "do_lower_case is 'no'"),
        ("bert", put(tokenizer_config__json={"do_basic_tokenize": False}), "do_basic_tokenize"),
        (
            "bert",
            put(tokenizer_config__json={"tokenizer_class": "BertweetTokenizer"}),
            r"BertweetTokenizer is not supported without a tokenizer\.json",
        ),
        ("bert", put(added_tokens__json={"[DEC]": 5000}), r"'\[DEC\]' is said to be id 5000"),
        ("bert", put(added_tokens__json={"[DEC]": "x"}), "'x' is no id"),
        ("bert", put(special_tokens_map__json={"cls_token": 3}), "cls_token is 3"),
        ("gpt2", gone("merges.txt"), r"merges\.txt is missing"),
        ("gpt2", gone("vocab.json"), r"vocab\.json is missing"),
        ("gpt2", edit("merges.txt", lambda t: t + "a b c\n"), "line .*'a b c'; accepted: two"),
        ("gpt2", edit("merges.txt", lambda t: t + "zq qz\n"), "out of vocabulary"),
        ("gpt2", edit("vocab.json", lambda v: v | {"a": 9999}), "missing or beyond are .*9999"),
        ("gpt2", edit("vocab.json", lambda v: v | {"a": v["b"]}), "1 repeat another's"),
        ("gpt2", edit("vocab.json", lambda v: v | {"a": 0.5}), "whole numbers"),
        ("gpt2", put(vocab__json='{"a": 0, "b'), "damaged"),
        ("clip", put(config__json={"text_config": {"vocab_size": 9}}), "does not match"),
        ("clip", put(tokenizer__json="{}"), r"tokenizer\.json is damaged"),
        ("clip", put(tokenizer_config__json={"bos_token": "<s>"}), "no <s> among"),
    ],
)
def test_damaged_folders_are_refused(case: str, change: Change, said: str, tmp_path: Path) -> None:
    folder = published(tmp_path, case)
    load_tokenizer(folder)
    change(folder)
    with pytest.raises(UserError, match=said):
        load_tokenizer(folder)


def test_sentencepiece_alone_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"spiece\.model alone is not read: put the tokenizer\.json"
    ):
        load_tokenizer(write(tmp_path, {"spiece.model": "x"}))
    with pytest.raises(UserError, match="a folder"):
        load_tokenizer(tmp_path / "none")


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = published(tmp_path, "bert")
    monkeypatch.setattr(vocabulary, "MAX_JSON", 100)
    with pytest.raises(UserError, match=r"vocab\.txt: over"):
        load_tokenizer(folder)


def test_only_tokens_that_exist_can_be_saved_as_special(tmp_path: Path) -> None:
    inner = load_tokenizer(published(tmp_path, "bert"))
    with pytest.raises(UserError, match=r"\['start', '<s>'\]"):
        save_tokenizer(inner, tmp_path, special={"start": "[CLS]", "bos": "<s>"})


# The reference, live


def theirs(folder: Path, family: str) -> Any:
    transformers = pytest.importorskip("transformers")
    name = f"{family}ImageProcessor"
    cls = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return cls.from_pretrained(folder)


def odd_pictures() -> list[Image.Image]:
    """Portrait, landscape, square, tiny and exact shapes at published sizes."""
    rng = np.random.default_rng(1)
    shapes = [(500, 333), (333, 500), (224, 224), (384, 384), (225, 224), (256, 257), (2, 2),
              (5, 40), (640, 427), (100, 1000), (223, 900)]  # fmt: skip
    made = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    return [Image.fromarray(array) for array in made]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_live_pixels(family: str, tmp_path: Path) -> None:
    """Defaults, an old file with numbers for sizes, and what is written here."""
    old = {"size": 250, "crop_size": 231, "resample": 2, "image_mean": [0.485, 0.456, 0.406]}
    for values in ({}, old):
        inner = processor(tmp_path, {"image_processor_type": f"{family}ImageProcessor"} | values)
        read = theirs(tmp_path, family)
        save_pixels(inner, tmp_path)
        kind = inner.to_json()["image_processor_type"].removesuffix("ImageProcessor")
        for outer in (read, theirs(tmp_path, kind)):
            for image in odd_pictures():
                flags = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
                grey = np.moveaxis(outer(image, **flags)["pixel_values"][0], 0, -1)
                np.testing.assert_array_equal(inner(image), grey)
                full = np.moveaxis(outer(image, return_tensors="np")["pixel_values"][0], 0, -1)
                assert np.abs(inner.normalise(inner(image)) - full).max() <= 1e-6


def hard_texts(count: int) -> list[str]:
    """Random runs of letters, marks, spaces, signs and pieces of special tokens."""
    rng = random.Random(0)
    ranges = [(0x20, 0x7F), (0, 0x300), (0x300, 0x370), (0x370, 0x600), (0x2000, 0x2100),
              (0x3000, 0x3100), (0x4E00, 0x4F00), (0x1F300, 0x1F700), (0xAC00, 0xAD00)]  # fmt: skip
    words = ["[CLS]", "[MASK", "]", "<|endoftext|>", "</w>", "'s", "'LL", "  ", "\n", "##", "42"]

    def piece() -> str:
        if rng.random() < 0.3:
            return rng.choice(words)
        low, high = rng.choice(ranges)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 6)))

    return ["".join(piece() for _ in range(rng.randrange(1, 12))) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_live_ids(name: str, tmp_path: Path) -> None:
    """The class on the published files, and the general class on what is written here."""
    transformers = pytest.importorskip("transformers")
    inner = load_tokenizer(published(tmp_path, name))
    kind = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "clip": "CLIPTokenizer"}
    own = getattr(transformers, kind[CASES[name]["vocabulary"]]).from_pretrained(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    special = special_names(tmp_path)
    save_tokenizer(inner, other, special=special)
    general = transformers.AutoTokenizer.from_pretrained(other)
    assert {key: getattr(general, f"{key}_token") for key in special} == special
    for text in TEXTS + hard_texts(300):
        ids = inner.encode(text).ids
        assert ids == own(text)["input_ids"] == general(text)["input_ids"], text
        back = own.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if name != "bert with added_tokens.json":  # special in transformers 4, ordinary in 5
            assert inner.decode(ids).strip() == back.strip(), text
        plain = inner.encode(text, add_special_tokens=False).ids
        assert plain == own(text, add_special_tokens=False)["input_ids"], text


# What the golden files notice


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("vit", {"resample": Image.Resampling.BICUBIC}),
        ("clip", {"resample": Image.Resampling.LANCZOS}),
        ("blip", {"resample": Image.Resampling.BILINEAR}),
        ("clip", {"resize": (12, 12)}),
        ("deit", {"crop": (12, 13)}),
    ],
)
def test_another_filter_or_size_is_noticed(name: str, broken: dict, tmp_path: Path) -> None:
    inner = dataclasses.replace(processor(tmp_path, GOLDEN["processors"][name]), **broken)
    assert not np.array_equal(inner(picture("landscape")), ARRAYS[f"{name}/landscape"])


def test_a_crop_one_pixel_off_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pixels.centre
    monkeypatch.setattr(pixels, "centre", lambda image, size: right(image[1:, 1:], size))
    for name in ("deit", "clip", "clip padded"):
        inner = processor(tmp_path, GOLDEN["processors"][name])
        assert not np.array_equal(inner(picture("portrait")), ARRAYS[f"{name}/portrait"])


@pytest.mark.parametrize("name", ["bert", "clip"])
def test_letters_not_lowered_are_noticed(name: str, tmp_path: Path) -> None:
    inner = load_tokenizer(published(tmp_path, name))
    inner.normalizer = hf.normalizers.NFC()
    assert inner.encode(TEXTS[3]).ids != CASES[name]["ids"][3]
