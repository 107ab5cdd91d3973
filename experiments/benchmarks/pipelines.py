"""The two loaders that are compared; here, and only here, data libraries are imported."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmarks.loading import BATCH, SIZE, WORKERS
from mlm_jax.config import Data
from mlm_jax.data import CAPTION_PROMPT, loader, sources, tokenizers
from mlm_jax.data.records import Source
from mlm_jax.data.transforms import Take, Tokenise, decode_for


def opened(folder: Path) -> tuple[Data, Source, tokenizers.Tokenizer]:
    data = Data(str(folder), captions=1, questions=0, batch=BATCH, threads=WORKERS)
    source = sources.open_source(data, "train")
    return data, source, tokenizers.build(data, source)


def ours(folder: Path) -> Callable[[], Iterator[Any]]:
    data, source, tokenizer = opened(folder)
    return lambda: loader.train_batches(
        data, source, tokenizer, Take(decode_for(data, SIZE)), seed=0
    )


class Pictures:
    """What a torch user writes: a file, a picture of it, the ids of its caption."""

    def __init__(self, folder: Path):
        data, source, tokenizer = opened(folder)
        self.files = sorted(folder.glob("*.jpg"), key=lambda file: int(file.stem))
        self.captions = [source[i].captions[0] for i in range(len(source))]
        self.tokenise = Tokenise(tokenizer, data.text_length, data.target_length)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        with Image.open(self.files[index]) as opened:
            picture = opened.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
        texts = self.tokenise(CAPTION_PROMPT, self.captions[index])
        return {"image": np.asarray(picture), **texts}


def theirs(folder: Path) -> Callable[[], Iterator[Any]]:
    torch = importlib.import_module("torch")
    utilities = importlib.import_module("torch.utils.data")
    pictures = Pictures(folder)

    def collate(rows: list[dict[str, np.ndarray]]) -> dict[str, Any]:
        return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}

    def make() -> Iterator[Any]:
        endless = utilities.RandomSampler(pictures, replacement=True, num_samples=1_000_000)
        return iter(
            utilities.DataLoader(
                pictures, BATCH, sampler=endless, num_workers=WORKERS, collate_fn=collate
            )
        )

    return make


def difference(folder: Path) -> float:
    """The largest difference of pixels and of ids, over all pictures."""
    data, source, tokenizer = opened(folder)
    pictures, each = Pictures(folder), []
    rows = loader.eval_pairs(data, source, tokenizer, Take(decode_for(data, SIZE)))
    for pair, mine in rows:
        other = pictures[pair.index]
        each += [np.abs(mine[key].astype(int) - other[key]).max() for key in other]
    return float(max(each))
