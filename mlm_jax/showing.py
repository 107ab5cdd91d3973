"""Parts of the report: what was seen and heard, what happened in it, what was taken for what."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from mlm_jax.pages import picture, row, section, table, wide

STRIP = 8  # frames of a clip
FEW = 20  # classes of which all confusions are shown
MISTAKEN = 20  # pairs of classes that are listed


def details_section(split: str, examples: Mapping[str, Any]) -> str:
    """What `Measured.details` hold: "clips", "confusion", "rebuilt", "drawn"."""
    parts = []
    if examples.get("rebuilt"):
        note = "<p>Above as they were, below after their way through the codes.</p>"
        cards = "".join(picture(each["image"], each["where"]) for each in examples["rebuilt"])
        parts.append(section(f"Pictures of {split} and what is left", note, row(cards)))
    if examples.get("drawn"):
        cards = "".join(picture(each["image"], each["text"]) for each in examples["drawn"])
        parts.append(section(f"Drawn from captions of {split}", row(cards)))
    if examples.get("clips"):
        parts.append(clips_section(split, examples["clips"]))
    if "confusion" in examples:
        parts.append(confusion_section(split, examples["confusion"]))
    return "".join(parts)


# --- what is seen and heard ---


def shown_as(seen: Mapping[str, np.ndarray]) -> str:
    """Base64 of a PNG: a picture, some frames of a clip in a row, or a sound's loudness."""
    return png(as_picture(seen))


def png(picture: np.ndarray) -> str:
    """Base64, as pages hold it themselves."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def as_picture(seen: Mapping[str, np.ndarray]) -> np.ndarray:
    if "image" in seen:
        return seen["image"]
    if "video" in seen:
        return side_by_side(seen["video"], STRIP)
    loud = abs(seen["audio"].astype(np.int32)) / 32768
    columns = np.array([part.max() for part in np.array_split(loud, 192)])
    return np.where(abs(np.linspace(-1, 1, 48))[:, None] <= columns, 40, 235).astype(np.uint8)


def side_by_side(frames: np.ndarray, most: int) -> np.ndarray:
    """At most so many frames of a clip, evenly spread, the first and the last among them."""
    chosen = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)
    return np.concatenate([*frames[chosen]], axis=1)


# --- events ---


def clips_section(split: str, clips: Sequence[Mapping[str, Any]]) -> str:
    """Clips with what happens in them and what was found, over their time."""
    note = "<p>Above what happens, below what was found and how sure it is; from left to right.</p>"
    cards = "".join(
        f'<article><img src="data:image/png;base64,{escape(clip["image"])}" alt="frames of a clip">'
        f"<div>{lanes(clip['true'], 'truth')}{lanes(clip['said'], 'said')}</div></article>"
        for clip in clips
    )
    return section(f"Clips of {split}", note, row(cards))


def lanes(events: Sequence[Mapping[str, Any]], kind: str) -> str:
    """A bar for each event, `start` and `end` as shares of the clip."""
    bars = []
    for event in events:
        left, width = 100 * event["start"], 100 * (event["end"] - event["start"])
        sure = f" {event['score']:.0%}" if kind == "said" else ""
        bars.append(
            f"<li>{escape(event['label'])}{sure}"
            f'<i style="margin-left:{left:.1f}%;width:{width:.1f}%"></i></li>'
        )
    return f"<ul class='lanes {kind}'>{''.join(bars) or '<li>nothing</li>'}</ul>"


# --- classes ---


def confusion_section(split: str, confusion: Mapping[str, Any]) -> str:
    """What each class was taken for: all of it where there are few, or else the commonest."""
    classes, counts = confusion["classes"], np.array(confusion["counts"])
    wrong = [(int(counts[i, j]), classes[i], classes[j]) for i, j in np.argwhere(counts) if i != j]
    pairs = [
        f"<tr><td>{escape(real)}</td><td>{escape(said)}</td><td class=num>{count:,}</td></tr>"
        for count, real, said in sorted(wrong, reverse=True)[:MISTAKEN]
    ]
    mistaken = table(("is", "said", "times"), pairs) if pairs else "<p>Nothing.</p>"
    matrix = confusion_matrix(classes, counts) if len(classes) <= FEW else ""
    return section(f"Classes of {split} taken for another", matrix, mistaken)


def confusion_matrix(classes: Sequence[str], counts: np.ndarray) -> str:
    """Rows are what is, columns what was said; each cell as dark as its share of the row."""
    head = "".join(f"<th scope=col>{escape(name)}" for name in classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}"
        + "".join(
            f'<td class=num style="--share:{share:.2f}">{count or ""}'
            for count, share in zip(row, part, strict=True)
        )
        for name, row, part in zip(classes, counts.tolist(), shares.tolist(), strict=True)
    )
    return wide(f"<table class=confusion><tr><th>{head}</tr>{rows}</table>")
