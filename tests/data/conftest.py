"""A small data set of a user's own, written where a test wants it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


def encoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def picture(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def own(tmp_path: Path) -> Write:
    """Write pictures 0.png ... and `lines` (objects, or bytes as they are) to mine.jsonl."""

    def write(lines: list[Any], pictures: int = 0, name: str = "mine.jsonl") -> Path:
        for i in range(pictures):
            (tmp_path / f"{i}.png").write_bytes(encoded(picture(i)))
        rows = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
        (tmp_path / name).write_bytes(b"\n".join(rows) + b"\n")
        return tmp_path / name

    return write
