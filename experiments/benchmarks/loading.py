"""Pictures a second from files to batches: the loader against a torch DataLoader."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.setting import Setting
from experiments.benchmarks.sides import DisagreementError, Row
from experiments.benchmarks.timing import compared, significant, summary

BATCH, WORKERS, SIZE = 32, 2, (224, 224)
FILES, BATCHES = 2_048, 20
WORDS = ("a", "photo", "of", "some", "red", "thing", "in", "an", "old", "field", "near", "water")


def write_pictures(folder: Path) -> None:
    """JPEG files of 500 x 375 pixels, smooth and grainy like photographs, each with a caption."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        grainy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(folder / f"{i}.jpg", quality=90)
        rows.append({"image": f"{i}.jpg", "captions": [" ".join(rng.choice(WORDS, 10))]})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data.jsonl").write_text(lines, encoding="utf-8")


def loader(setting: Setting) -> Iterator[Row]:
    """Decode, stretch to 224 x 224 (bicubic), tokenise, batch; both with 2 workers.

    Each repeat makes the iterator anew and is timed from its second batch on.
    """
    from experiments.benchmarks import pipelines

    folder = setting.folder / "pictures"
    write_pictures(folder)
    ours, theirs = pipelines.ours(folder), pipelines.theirs(folder)
    row: Row = {"what": f"pictures at 224 px, {WORKERS} workers, batch {BATCH}"}
    row["difference"] = {"DataLoader": pipelines.difference(folder)}
    if row["difference"]["DataLoader"]:
        raise DisagreementError(f"{row['what']}: {row['difference']}")
    taken: dict[str, list[float]] = {"ours": [], "DataLoader": []}
    for turn in range(setting.repeats):
        sides = [("ours", ours), ("DataLoader", theirs)]
        for name, make in sides[:: -1 if turn % 2 else 1]:
            taken[name].append(per_batch(make))
    row["seconds"] = {name: summary(each) for name, each in taken.items()}
    rate = {name: significant(BATCH / s["median"]) for name, s in row["seconds"].items()}
    row |= compared(taken.pop("ours"), taken)
    yield row | {"rate": rate, "unit": "pictures/s", "times": significant(1 / row["ratio"], 3)}


def per_batch(make: Callable[[], Iterator[Any]]) -> float:
    """Seconds a batch, after the first."""
    batches = make()
    next(batches)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    taken = (time.perf_counter() - start) / BATCHES
    del batches
    time.sleep(0.5)  # what was begun ahead is finished outside of anybody's time
    return taken
