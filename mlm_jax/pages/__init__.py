"""The one look of all pages: self-contained, without network or script, in light and dark.

A page is made of sections; a section of tables, charts (`charts.py`), cards of pictures. Text that
comes from data, a model or a user is escaped here or where it is put in.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from mlm_jax.metrics import Figure

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page(title: str, *sections: str) -> str:
    """A whole page. `title` is text, `sections` are HTML."""
    style = (files(__name__) / "style.css").read_text()
    return PAGE.format(title=escape(title), style=style, body="\n".join(sections))


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """`columns` are text, `rows` the HTML of whole rows. A column without a name has no heading."""
    names = map(escape, columns)
    head = "".join(f"<th scope=col>{name}</th>" if name else "<td></td>" for name in names)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return wide(f"<table>{body}</table>")


def wide(content: str) -> str:
    """What scrolls sideways where the page is narrower, by keyboard too."""
    return f'<div class=wide role=group aria-label="table" tabindex=0>{content}</div>'


# --- figures ---


def number(value: float) -> str:
    """0.93417 -> 0.934, 1532.4 -> 1,532"""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def interval(figure: Figure) -> str:
    return f"{number(figure.low)} to {number(figure.high)}"


def cell(figure: Figure | None, share: bool = True) -> str:
    """A value, its interval, and of a share a mark where they lie between 0 and 1."""
    if figure is None:
        return "<td></td>"
    text = f"<b>{number(figure.value)}</b> <small>{interval(figure)}</small>"
    if not share or not 0 <= figure.low <= figure.high <= 1:
        return f"<td>{text}</td>"
    low, high, value = (100 * x for x in (figure.low, figure.high, figure.value))
    return (
        f'<td>{text}<svg class=mark viewBox="0 0 100 6" preserveAspectRatio=none aria-hidden=true>'
        f'<rect class=track width=100 height=2 y=2 /><rect class=range x="{low:.2f}" '
        f'width="{max(high - low, 0.5):.2f}" height=6 y=0 />'
        f'<rect class=value x="{max(value - 0.4, 0):.2f}" width=0.8 height=6 y=0 /></svg></td>'
    )


# --- cards ---


def picture(image: str, text: str) -> str:
    """A card of a base64 PNG and its text."""
    return (
        f'<article><img src="data:image/png;base64,{escape(image)}" alt="{escape(text)}">'
        f"<div>{escape(text)}</div></article>"
    )


def row(cards: str) -> str:
    return f"<div class=cards>{cards}</div>"


def verdict(score: float) -> str:
    """A mark that is read aloud too: of 1 for right, of 0 for wrong, or of what lies between."""
    if 0 < score < 1:
        return '<span role=img aria-label="partly right">≈</span>'
    name, mark = ("right", "✓") if score >= 1 else ("wrong", "✗")
    return f'<span class={name} role=img aria-label="{name}">{mark}</span>'


def correction(text: Mapping[str, Any]) -> str:
    """What is right, the commonest of its references; empty where the text itself is.

    A score between 0 and 1 is that of the VQA challenge: 0.3 for each of the people who say so.
    """
    if text["score"] >= 1:
        return ""
    commonest = Counter(text["references"]).most_common(1)[0][0]
    if text["score"] <= 0:
        return f"right: {commonest}"
    alike, people = round(text["score"] / 0.3), len(text["references"])
    return f"as {alike} of {people} people say, the commonest: {commonest}"
