"""A folder of what was drawn: each file marked and with its facts, and one sheet of all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax import watermark
from mlm_jax.config import UserError
from mlm_jax.drawing import Pixels
from mlm_jax.provenance import facts_of, sheet, write_gif, write_mp4, write_png
from mlm_jax.showing import side_by_side
from mlm_jax.world.clip import RATE

COLUMNS = 4
FRAMES = 4  # of a clip, on the sheet


def require_new(out: Path) -> None:
    """Raises: UserError where `out` is anything but a new or empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} is in use: it must be a new or an empty folder")


def has_room(shape: tuple[int, ...]) -> bool:
    """Whether a picture, or clip, of this shape is large enough for the mark."""
    return min(shape[-3:-1]) >= watermark.GRID


def require_room(shape: tuple[int, ...]) -> None:
    """Raises: UserError where a picture, or clip, of this shape is too small for the mark."""
    if not has_room(shape):
        raise UserError(
            f"pictures of {shape[-3:-1]} are too small for the invisible mark, which needs"
            f" {watermark.GRID} pixels a side: --no-watermark leaves it out"
        )


def hang(
    out: Path,
    run: Path,
    prompts: Sequence[str],
    pictures: Pixels,
    *,
    seed: int,
    settings: Mapping[str, Any],
    mark: bool = True,
    films: bool = False,
) -> list[Path]:
    """Write 000.png, 001.png, ... (of clips .gif, with `films` .mp4 besides) and sheet.png.

    Raises: UserError.
    """
    require_new(out)
    if mark:
        require_room(pictures.shape)
        pictures = np.stack([marked(picture) for picture in pictures])
    out.mkdir(parents=True, exist_ok=True)
    clips = pictures.ndim == 5
    paths = []
    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        facts = facts_of(run, prompt, seed=seed, settings={**settings, "number": i, "marked": mark})
        paths.append(out / f"{i:03}.{'gif' if clips else 'png'}")
        if clips:
            write_gif(paths[-1], list(picture), RATE, facts)
            if films:
                paths.append(paths[-1].with_suffix(".mp4"))
                write_mp4(paths[-1], list(picture), RATE, facts)
        else:
            write_png(paths[-1], picture, facts)
    texts = "; ".join(dict.fromkeys(prompts))
    facts = facts_of(run, texts, seed=seed, settings={**settings, "marked": mark})
    shown = [side_by_side(each, FRAMES) for each in pictures] if clips else list(pictures)
    page = sheet(shown, prompts, 1 if clips else COLUMNS)
    write_png(out / "sheet.png", marked(page) if mark else page, facts)
    return [*paths, out / "sheet.png"]


def marked(picture: np.ndarray) -> np.ndarray:
    """With the invisible mark, each frame of a clip by itself."""
    if picture.ndim == 3:
        return watermark.mark(picture)
    return np.stack([watermark.mark(frame) for frame in picture])
