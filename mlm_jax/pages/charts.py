"""Line charts as SVG, coloured by the style sheet, so that they follow light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Points = list[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 230, 52, 30, 10, 12
SERIES = 8
"""Lines that the style sheet tells apart, by colour and by dash; further ones begin again."""


def chart(
    title: str, series: Mapping[str, Points], *, log: bool = False, over: str = "step"
) -> str:
    """Lines by name, over `over`; a log axis falls back where values reach 0."""
    xs = [x for each in series.values() for x, _ in each]
    ys = [y for each in series.values() for _, y in each]
    log = log and min(ys) > 0
    x_ticks = ticks(min(0.0, *xs), max(xs))
    y_ticks = log_ticks(min(ys), max(ys)) if log else ticks(min(0.0, *ys), max(ys))
    across, up = (
        scale(x_ticks, False, LEFT, WIDTH - RIGHT),
        scale(y_ticks, log, HEIGHT - BOTTOM, TOP),
    )
    grid = [
        f'<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1="{up(y):.1f}" y2="{up(y):.1f}"/>'
        f'<text class=y x={LEFT - 6} y="{up(y) + 4:.1f}">{short(y)}</text>'
        for y in y_ticks
    ]
    grid += [
        f'<text class=x x="{across(x):.1f}" y={HEIGHT - 10}>{short(x)}</text>' for x in x_ticks
    ]
    lines, legend = [], []
    for place, (name, each) in enumerate(series.items()):
        i = place % SERIES
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in each)
        lines.append(f'<polyline class="line s{i}" points="{path}"/>')
        x, y = each[-1]
        lines.append(f'<circle class="dot s{i}" cx="{across(x):.1f}" cy="{up(y):.1f}" r=2.5 />')
        legend.append(f'<span class="key s{i}">{escape(name)} <b>{short(y)}</b></span>')
    spoken = ", ".join(f"{name} ends at {short(each[-1][1])}" for name, each in series.items())
    label = escape(f"{title} by {over}: {spoken}")
    return (
        f"<figure><figcaption>{escape(title)}{''.join(legend)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{label}">'
        f"{''.join(grid)}{''.join(lines)}</svg></figure>"
    )


def scale(marks: Sequence[float], log: bool, start: float, end: float) -> Any:
    """Values between the first and last mark to places between `start` and `end`."""
    bend = math.log10 if log else float
    low, high = bend(marks[0]), bend(marks[-1])
    return lambda value: start + (end - start) * (bend(value) - low) / (high - low)


def ticks(low: float, high: float) -> list[float]:
    """About five multiples of 1, 2 or 5 times a power of ten that enclose both."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= span / 5 * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten and their 2 and 5 folds that enclose both; powers alone over three decades."""
    wide = high / low > 1000
    marks = [
        m * 10.0**p
        for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in ((1,) if wide else (1, 2, 5))
    ]
    below = [m for m in marks if m <= low * (1 + 1e-9)]
    above = [m for m in marks if m >= high * (1 - 1e-9) and m > below[-1]]
    return [m for m in marks if below[-1] <= m <= above[0]]


def short(value: float) -> str:
    """1500 -> 1.5k, 0.00042 -> 4.2e-4"""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value / 1000:.4g}k"
    if abs(value) < 0.001:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:.3g}"
