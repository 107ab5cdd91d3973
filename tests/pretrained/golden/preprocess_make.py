"""Make the golden files of test_preprocess.py with the reference.

    python tests/pretrained/golden/preprocess_make.py [FOLDER]

Wants transformers (4 or 5), torch and Pillow. Small vocabularies are trained on a few lines; the
files hold them, hard texts with their ids, pictures of odd shapes and what becomes of them.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tokenizers as hf
import transformers
from PIL import Image
from tokenizers import models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog isn't amused.",
    "A photo of a cat; a photo of two cats! Is it a red ball? They've seen 42 cats and 1999 dogs.",
    "the naïve café résumé of Mr. O'Brien: I'll, we're, you'd, I'm, it's, don't, can't",
    "What colour is the cube behind the small yellow cylinder? Yellow. #hashtag @user $3.50 (100%)",
    "東京は日本の首都 你好 世界 привет мир Ελλάδα straße ÉCOLE Ünïcödé",
    "    def f(x):\n\treturn x ** 2\n\n\nhello   world  ...  ??!!  --- ___",
] * 3
TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo Of A CAT!!",
    "THE QUICK BROWN FOX JUMPS",
    " leading and trailing  ",
    "two  spaces   three\ttab\n\nnewlines\r\nand\x0bmore\x0c",
    "isn't I'LL we're YOU'D they'Ve O'Brien 's 't '' '",
    "naïve café résumé Ünïcödé ÉCOLE straße İstanbul ǅ ﬁ",
    "cafe\u0301 re\u0301sume\u0301 A\u030a \u1e9b\u0323",
    "東京は日本の首都 你好,世界 \U00020000 한국어",
    "привет МИР Ελλάδα ΟΔΟΣ",
    "🙂 👩‍👩‍👧 🇩🇪 cat🐈cat \u2764\ufe0f",
    "3.14 1999 12,345 x2 4th ½ Ⅳ ٣",
    '...??!!--- ___ ~~ #hashtag @user $3.50 (100%) a/b\\c "q" “q” «x» ¿?',
    "\x00control\x01\x7f\x85\xa0nbsp\u200bzero\ufeff\u2028sep\u3000wide\ufffd",
    "[CLS] a [SEP] [MASK] [PAD] [UNK] [cls] [DEC] [ENC]x",
    "<|endoftext|> a <|startoftext|> b < |endoftext| > </w> cat</w>",
    "a<new>b <NEW> <new> ##ing ## ##",
    "supercalifragilisticexpialidocious" * 4,
    "def f(x):\n    return x ** 2\n",
    "\u0130\u0307 \u00df \ud7ff \U0010fffd",
]


def wordpiece() -> list[str]:
    inner = hf.Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=420, special_tokens=special, show_progress=False, min_frequency=2
    )
    inner.train_from_iterator(CORPUS + [line.lower() for line in CORPUS], trainer)
    vocab = inner.get_vocab()
    # Separators that only some ways of reading lines take as the end of one.
    return [*sorted(vocab, key=vocab.__getitem__), "\u2028", "\x85x", "cafe", "resume"]


def bpe(suffix: str) -> tuple[dict[str, int], list[str]]:
    """Byte-level vocabulary and merges; with a suffix, each byte also ends a word."""
    inner = hf.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if suffix:
        inner = hf.Tokenizer(models.BPE(end_of_word_suffix=suffix))
        inner.normalizer = normalizers.Lowercase()
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    hf.Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", True
                ),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=480 if suffix else 440,
        show_progress=False,
        **({"end_of_word_suffix": suffix} if suffix else {}),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(CORPUS, trainer)
    merges = [" ".join(pair) for pair in json.loads(inner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + suffix for letter in letters if suffix]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>"] if suffix else []
    tokens = [*dict.fromkeys(tokens), "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}, merges


def vocabularies() -> dict[str, dict[str, str]]:
    """Files by name, for each kind of vocabulary.

    Once made they are kept: training settles equal counts by chance.
    """
    made = Path(__file__).parent / "preprocess.json"
    if made.is_file():
        return json.loads(made.read_text(encoding="utf-8"))["vocabularies"]
    files = {"bert": {"vocab.txt": "".join(f"{token}\n" for token in wordpiece())}}
    for name, suffix in (("gpt2", ""), ("clip", "</w>")):
        vocab, merges = bpe(suffix)
        rows = "\n".join(["#version: 0.2", *merges, ""])
        files[name] = {"vocab.json": json.dumps(vocab), "merges.txt": rows}
    return files


def token(text: str, **flags: bool) -> dict:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"content": text, **usual, **flags}


def cases(sizes: dict[str, int]) -> list[dict]:
    """A vocabulary and what stands beside it."""
    bert, clip = sizes["bert"], sizes["clip"]
    extra = {"additional_special_tokens": ["[DEC]", "[ENC]"]}
    clip_map = {
        "bos_token": token("<|startoftext|>", normalized=True),
        "eos_token": token("<|endoftext|>", normalized=True),
        "unk_token": token("<|endoftext|>", normalized=True),
        "pad_token": "<|endoftext|>",
    }
    decoder = {
        "0": token("[PAD]", special=True),
        str(bert): token("[DEC]", special=True, lstrip=True),
        str(bert + 1): token("<new>", special=False, normalized=True),
    }
    cased = {"do_lower_case": False}
    return [
        {"name": "bert", "files": {"tokenizer_config.json": {"do_lower_case": True}}},
        {"name": "bert cased", "files": {"tokenizer_config.json": cased}},
        {
            "name": "bert cased, accents stripped, characters of Chinese in one word",
            "files": {
                "tokenizer_config.json": cased
                | {"strip_accents": True, "tokenize_chinese_chars": False}
            },
        },
        {
            "name": "bert accents kept",
            "files": {"tokenizer_config.json": {"do_lower_case": True, "strip_accents": False}},
        },
        {
            "name": "bert with added_tokens.json",
            "files": {
                "added_tokens.json": {"[DEC]": bert, "[ENC]": bert + 1, "<new>": bert + 2},
                "special_tokens_map.json": extra,
                "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"},
            },
        },
        {
            "name": "bert with added_tokens_decoder",
            "files": {"tokenizer_config.json": {"added_tokens_decoder": decoder}},
        },
        {"name": "gpt2", "files": {}},
        {
            "name": "gpt2 with a space before",
            "files": {"tokenizer_config.json": {"add_prefix_space": True}},
        },
        {
            "name": "gpt2 with a start token",
            "files": {
                "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}
            },
        },
        {"name": "clip", "files": {}},
        {
            "name": "clip as published",
            "files": {
                "special_tokens_map.json": clip_map,
                "tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"},
            },
        },
        {
            "name": "clip with a token more",
            "files": {"added_tokens.json": {"<new>": clip, "two spaces": clip + 1}},
        },
    ]


def reference(name: str, folder: Path) -> transformers.PreTrainedTokenizerBase:
    kind = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "clip": "CLIPTokenizer"}[name]
    fast = getattr(transformers, f"{kind}Fast", None) or getattr(transformers, kind)
    return fast.from_pretrained(folder)


def texts() -> dict:
    files = vocabularies()
    sizes = {"bert": files["bert"]["vocab.txt"].count("\n")}
    sizes |= {name: len(json.loads(files[name]["vocab.json"])) for name in ("gpt2", "clip")}
    made = cases(sizes)
    for case in made:
        case["vocabulary"] = case["name"].split()[0]
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files[case["vocabulary"]].items():
                (Path(folder) / name).write_bytes(text.encode())
            for name, value in case["files"].items():
                (Path(folder) / name).write_text(json.dumps(value))
            tokenizer = reference(case["vocabulary"], Path(folder))
        case["ids"] = [tokenizer(text)["input_ids"] for text in TEXTS]
        case["plain"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        pair = tokenizer(TEXTS[2], TEXTS[3])
        case["pair"] = pair["input_ids"]
    return {"texts": TEXTS, "vocabularies": files, "cases": made}


SHAPES = {"portrait": (37, 23), "landscape": (21, 50), "square": (24, 24), "exact": (12, 12),
          "tiny": (2, 5), "one": (1, 1), "thin": (4, 90)}  # fmt: skip
PROCESSORS = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 14}},
    "vit old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 12, "image_mean": 0.4},
    "vit nearest": {"image_processor_type": "ViTImageProcessor", "size": 11, "resample": 0},
    "deit": {"image_processor_type": "DeiTImageProcessor", "size": 15, "crop_size": 12},
    "deit imagenet": {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 13, "width": 13},
        "crop_size": {"height": 8, "width": 11},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 12},
        "crop_size": {"height": 12, "width": 12},
    },
    "clip old": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 13, "crop_size": 10},
    "clip padded": {"image_processor_type": "CLIPImageProcessor", "size": 7, "crop_size": 12},
    "clip as it is": {
        "image_processor_type": "CLIPImageProcessorFast",
        "do_resize": False,
        "crop_size": {"height": 11, "width": 14},
        "do_normalize": False,
    },
    "siglip": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 10, "width": 13},
        "resample": 1,
        "do_convert_rgb": None,
    },
    "blip": {
        "image_processor_type": "BlipImageProcessor",
        "size": {"height": 12, "width": 12},
        "do_pad": True,
        "size_divisor": 32,
    },
}
FAMILIES = ("ViT", "DeiT", "CLIP", "Siglip", "Blip")


def pictures() -> dict[str, np.ndarray]:
    """Noise with edges; the modes' names begin with `mode`: arrays of L, LA, RGBA, indices of P."""
    rng = np.random.default_rng(0)
    made = {}
    for name, (height, width) in SHAPES.items():
        image = rng.integers(0, 256, (height, width, 3))
        image[: height // 2] //= 8
        image[:, width // 2 :, 1] |= 0xC0
        made[name] = image.astype(np.uint8)
    for mode, depth in (("L", ()), ("LA", (2,)), ("RGBA", (4,)), ("P", ())):
        made[f"mode {mode}"] = rng.integers(0, 256, (15, 19, *depth)).astype(np.uint8)
    return made


def opened(name: str, array: np.ndarray) -> Image.Image:
    if name != "mode P":
        return Image.fromarray(array)
    image = Image.fromarray(array, "P")
    image.putpalette([(7 * i + 91 * c) % 256 for i in range(256) for c in range(3)])
    image.info["transparency"] = 3
    return image


def processor(values: dict):
    name = values.get("image_processor_type") or values["feature_extractor_type"]
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values))
        return kind.from_pretrained(folder)


def levels(inner, image: Image.Image) -> np.ndarray:
    """Grey levels (h, w, 3) of the reference; its classes without conversion get an RGB picture."""
    flags = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    if not getattr(inner, "do_convert_rgb", None):
        image = rgb(image)
    out = inner(image, **flags)["pixel_values"][0]
    return np.moveaxis(out, 0, -1)


def rgb(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def pixels() -> tuple[dict, dict[str, np.ndarray]]:
    arrays = {f"picture/{name}": array for name, array in pictures().items()}
    shown = {name: opened(name, array) for name, array in pictures().items()}
    for name, values in PROCESSORS.items():
        inner = processor(values)
        for key, image in shown.items():
            arrays[f"{name}/{key}"] = levels(inner, image)
        out = inner(shown["square"], return_tensors="np")["pixel_values"][0]
        arrays[f"{name}/float"] = np.moveaxis(out, 0, -1)
    defaults = {}
    for family in FAMILIES:
        own = processor({"image_processor_type": f"{family}ImageProcessor"})
        size, crop = dict(own.size), getattr(own, "crop_size", None)
        defaults[family] = {
            "size": {key: value for key, value in size.items() if value is not None},
            "crop_size": crop and {key: value for key, value in dict(crop).items() if value},
            "resample": int(own.resample),
            "image_mean": list(own.image_mean),
            "image_std": list(own.image_std),
        }
    return {"processors": PROCESSORS, "defaults": defaults}, arrays


def main(folder: Path) -> None:
    described, arrays = pixels()
    golden = {"made_with": f"transformers {transformers.__version__}", **described, **texts()}
    text = json.dumps(golden, ensure_ascii=True)
    (folder / "preprocess.json").write_text(text + "\n", encoding="utf-8")
    np.savez_compressed(folder / "preprocess.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
