"""What is looked at: a picture and the maps of each of its words, and the measures of a run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mlm_jax.config import UserError
from mlm_jax.explaining.asked import Asked, Word, ask, require_multimodal, scores
from mlm_jax.explaining.colours import SCALE, over
from mlm_jax.explaining.measures import CURVES, KINDS, RANDOM, STRICT, Measured, rank_correlation
from mlm_jax.explaining.methods import METHODS, by_layer, explain
from mlm_jax.metrics import Figure
from mlm_jax.pages import cell, interval, number, page, section, table
from mlm_jax.pages.charts import chart
from mlm_jax.showing import png, side_by_side
from mlm_jax.trained import Shown, Trained

FRAMES = 6  # of a clip
TILE = 32  # pixels at most, of one head's map
PLACES = (("upper left", "upper middle", "upper right"), ("left", "middle", "right"),
          ("lower left", "lower middle", "lower right"))  # fmt: skip
COLUMNS = {
    "pointing": "pointing game",
    "strict": f"pointing within {STRICT:.0%} of the side",
    **{kind: f"pointing, {kind}" for kind in KINDS},
    "mass": "mass inside",
    "overlap": "overlap",
    "deletion": "deletion (low is good)",
    "insertion": "insertion (high is good)",
    "random": "rank correlation with random parameters",
}


class Explained(NamedTuple):
    """What was shown, what was written, and the maps of each word by method and sense."""

    run: str
    question: str
    text: str
    words: list[Word]
    probabilities: list[float]
    pictures: dict[str, UInt8[np.ndarray, "H W 3"]]
    maps: dict[str, dict[str, Float[np.ndarray, "W ..."]]]
    layers: dict[str, Float[np.ndarray, "W L H ..."]]


def explained(
    trained: Trained, shown: Shown, question: str = "", methods: Sequence[str] = tuple(METHODS)
) -> Explained:
    """Raises: UserError where nothing is written, or the run is no Multimodal."""
    model, params = require_multimodal(trained), trained.params
    asked, (words,) = ask(trained, [shown], question)
    if not words:
        raise UserError(f"{trained.path} wrote no word about what is shown: nothing to explain")
    count = len(words)
    maps = {
        method: {key: x[0, :count] for key, x in explain(model, params, asked, method).items()}
        for method in methods
    }
    layers = {key: x[0, :count] for key, x in by_layer(model, params, asked).items()}
    told, _ = jax.jit(scores, static_argnums=0)(model, params, asked)
    return Explained(
        str(trained.path),
        question,
        trained.tokenizer.decode(np.asarray(asked.target)[0, 1:]),
        words,
        np.exp(np.asarray(told[0, :count], np.float64)).tolist(),
        {key: picture_of(key, shown, asked) for key in asked.seen},
        maps,
        layers,
    )


# --- as pictures ---


def picture_of(sense: str, shown: Shown, asked: Asked) -> UInt8[np.ndarray, "H W 3"]:
    """A picture, some frames of a clip side by side, a spectrogram in greys, low tones below."""
    if sense != "audio":
        return flat(sense, shown[sense])
    mel = flat(sense, np.asarray(asked.seen[sense][0], np.float32))
    grey = 255 * (mel - mel.min()) / max(float(np.ptp(mel)), 1e-6)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def flat(sense: str, values: np.ndarray) -> np.ndarray:
    """Of a clip some frames side by side, of a sound bands over frames; of a picture itself."""
    if sense == "image":
        return values
    if sense == "audio":
        return values.swapaxes(0, 1)[::-1]
    return side_by_side(values, FRAMES)


def place_of(sense: str, values: np.ndarray) -> str:
    """Where a map is strongest, to be read aloud."""
    if not (values > 0).any():
        return "nowhere"
    peak = np.unravel_index(int(values.argmax()), values.shape)
    if sense == "audio":
        moment, band = (int(100 * at / n) for at, n in zip(peak, values.shape, strict=True))
        return f"{moment} % into the sound, {band} % up the bands"
    down, across = (int(3 * at / n) for at, n in zip(peak[-2:], values.shape[-2:], strict=True))
    frame = f"frame {peak[0] + 1} of {len(values)}, " if sense == "video" else ""
    return frame + PLACES[down][across]


def image(picture: UInt8[np.ndarray, "H W 3"], alt: str, kind: str = "map") -> str:
    return f'<img class={kind} src="data:image/png;base64,{png(picture)}" alt="{escape(alt)}">'


def sheet(layers: Float[np.ndarray, "L H h w"], picture: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """A tile a head, a row a layer; each to its own largest value."""
    step = max(1, -(-max(picture.shape[:2]) // TILE))
    small = picture[::step, ::step]
    tiles = [[over(small, head[::step, ::step]) for head in layer] for layer in layers]
    edged = [
        [np.pad(t, ((1, 1), (1, 1), (0, 0)), constant_values=128) for t in row] for row in tiles
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in edged], axis=0)


# --- the page of one picture ---


def page_of(found: Explained) -> str:
    asked = f" to “{found.question}”" if found.question else ""
    seen = "".join(
        image(picture, f"what was seen: {sense}", "seen")
        for sense, picture in found.pictures.items()
    )
    links = " ".join(
        f'<a href="#word-{i}">{escape(word.text)}</a>' for i, word in enumerate(found.words)
    )
    head = (
        f"<h1>Why these words?</h1><p>What {escape(found.run)} wrote{escape(asked)}, and what each"
        f" word hangs on.</p><div class=beside>{seen}<div><p class=said>{links}</p>{legend()}</div>"
        "</div>"
    )
    words = "".join(word_part(found, i) for i in range(len(found.words)))
    parts = [head, section("Word by word", words), section("The methods", methods_part(found))]
    return page(f"Why “{found.text}”", *parts)


def legend() -> str:
    strip = np.repeat(SCALE[None, ::4], 6, axis=0)
    return (
        f"<p class=legend>nothing {image(strip, 'colours from dark violet to light yellow')} the"
        " most of this map</p><p>Each map is drawn to its own largest value, over the greys of the"
        " picture; what speaks against a word is drawn as nothing.</p>"
    )


def word_part(found: Explained, place: int) -> str:
    word = found.words[place]
    figures = []
    for method, maps in found.maps.items():
        for sense, values in maps.items():
            own = values[place]
            alt = f"“{word.text}”, {method}: strongest {place_of(sense, own)}"
            drawn = over(found.pictures[sense], flat(sense, own))
            figures.append(f"<figure>{image(drawn, alt)}<figcaption>{method}</figcaption></figure>")
    sheets = "".join(
        image(
            sheet(
                np.stack([[flat(sense, head) for head in layer] for layer in values[place]]),
                found.pictures[sense],
            ),
            f"“{word.text}”, attention to the {sense} by layer and head",
            "sheet",
        )
        for sense, values in found.layers.items()
    )
    many = next(iter(found.layers.values())).shape[1:3]
    return (
        f"<article class=word id=word-{place}><div><h3>{escape(word.text)}"
        f" <small>{found.probabilities[place]:.1%} sure</small></h3>"
        f"<div class=maps>{''.join(figures)}</div>"
        f"<details><summary>Attention of {many[0]} layers and {many[1]} heads</summary>"
        f"<p>A row is a layer, the first above; a column a head.</p>{sheets}</details>"
        "</div></article>"
    )


def methods_part(found: Explained) -> str:
    """What each shows, and how far two of them agree."""
    names = list(found.maps)
    told = "".join(f"<dt>{name}</dt><dd>{escape(METHODS[name])}</dd>" for name in names)
    rows = [
        f"<tr><th scope=row>{one}</th>"
        + "".join(f"<td class=num>{agreement(found, one, other):.2f}</td>" for other in names)
        + "</tr>"
        for one in names
    ]
    note = (
        "<h3>How far they agree</h3><p>Rank correlation of two maps, the mean over the words.</p>"
    )
    return f"<dl>{told}</dl>" + (note + table(("", *names), rows) if names[1:] else "")


def agreement(found: Explained, one: str, other: str) -> float:
    pairs = [
        (found.maps[one][sense][i], found.maps[other][sense][i])
        for sense in found.pictures
        for i in range(len(found.words))
    ]
    return float(np.mean([rank_correlation(a, b) for a, b in pairs]))


# --- the page of the measures ---


def measures_page(found: Measured, run: Path) -> str:
    rows = [
        f"<tr><th scope=row>{method}<small>{escape(how)}</small></th>"
        + "".join(cell(found.figures.get(f"{method}/{what}"), what != "random") for what in COLUMNS)
        + "</tr>"
        for method, how in (found.chosen | KNOWN).items()
    ]
    charts = "".join(
        chart(
            f"{name}: probability of the word",
            {
                method: [(i / (len(line) - 1), y) for i, y in enumerate(line)]
                for method, line in lines.items()
            },
            over="share of the pixels",
        )
        for name, lines in found.curves.items()
    )
    tried = [
        f"<tr><th scope=row>{method}</th><td>{escape(name)}</td><td class=num>{value:.3f}</td></tr>"
        for method, each in found.tried.items()
        for name, value in sorted(each.items(), key=lambda item: -item[1])
    ]
    return page(
        f"Maps of {run.name}, measured",
        f"<h1>Maps of {escape(run.name)}, measured</h1><p>{escape(summary(found))}</p>",
        section("Measures", table(("", *COLUMNS.values()), rows)),
        section("Deleting and inserting", f"<div class=charts>{charts}</div>"),
        section(
            "What was tried",
            "<details><summary>Pointing on the other half of the pictures</summary>"
            + table(("method", "put together as", "pointing"), tried)
            + "</details>",
        ),
    )


KNOWN = {"chance": "any pixel; curves in random order", "centre": "the middle of the picture"}


def summary(found: Measured) -> str:
    return (
        f"{found.words:,} sizes, colours and shapes in the captions of {found.pictures:,} unseen"
        f" pictures of {found.side} pixels; 95 % intervals by picture. Pointing allows"
        f" {found.tolerance:g} pixels, half a patch. Curves are of {CURVES} words a picture, random"
        f" parameters of {min(RANDOM, found.pictures)} pictures or some more. How each method's"
        " maps are put together was chosen on other pictures."
    )


def print_measures(found: Measured, run: Path) -> None:
    """Aligned lines: a method and a measure, its value, interval and count."""
    print(f"{run}: {summary(found)}")
    for method, how in (found.chosen | KNOWN).items():
        print(f"\n{method} ({how})")
        for what, title in COLUMNS.items():
            figure: Figure | None = found.figures.get(f"{method}/{what}")
            if figure is not None:
                print(f"  {title:<42} {number(figure.value):>6}  {interval(figure)}  n {figure.n}")


def as_json(found: Measured) -> str:
    return json.dumps(asdict(found), indent=2, allow_nan=False) + "\n"
