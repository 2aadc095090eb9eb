"""Charts as SVG, without anything from elsewhere. Pure: numbers and names in, markup out.

Names are escaped here; colours are classes that the page's style sheet gives, for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

_WIDTH: Final = 760
_LABEL: Final = 190
_FIGURES: Final = 120
_ROW: Final = 30


class Bar(NamedTuple):
    """A measure in both results, 0 to 1."""

    name: str
    a: float
    b: float


class Interval(NamedTuple):
    """A difference with its bounds; ``mark`` is ``better``, ``worse`` or ``same``."""

    name: str
    value: float
    low: float
    high: float
    mark: str


def bars(rows: Sequence[Bar], a: str, b: str) -> str:
    """Two bars for each measure, one below the other."""
    span = _WIDTH - _LABEL - _FIGURES
    height = 46 * len(rows) + 8
    parts = [_svg(height, f"All measures of {a} and {b}")]
    for place, row in enumerate(rows):
        y = 46 * place + 8
        parts.append(_text(_LABEL - 10, y + 22, row.name, "end"))
        for offset, (value, mark) in enumerate(((row.a, "a"), (row.b, "b"))):
            top = y + 18 * offset
            width = max(1.0, span * min(1.0, max(0.0, value)))
            parts.append(
                f'<rect class="{mark}" x="{_LABEL}" y="{top}" width="{width:.1f}" height="15"/>'
            )
            parts.append(_text(_LABEL + width + 6, top + 12, f"{value:.3f}"))
    return "".join([*parts, "</svg>"])


def intervals(rows: Sequence[Interval], *, better: str, worse: str) -> str:
    """A line for each difference, from its lower to its upper bound, about a middle of zero."""
    most = max((abs(edge) for row in rows for edge in (row.low, row.high, row.value)), default=0.0)
    step = _step(most)
    reach = max(step, math.ceil(most / step) * step)
    span = _WIDTH - _LABEL - _FIGURES
    middle = _LABEL + span / 2

    def x(value: float) -> float:
        return middle + span / 2 * value / reach

    bottom = _ROW * len(rows) + 26
    parts = [_svg(bottom + 26, "Differences with their intervals")]
    parts.append(_text(middle - 10, 14, f"← {worse}", "end", "quiet"))
    parts.append(_text(middle + 10, 14, f"{better} →", "start", "quiet"))
    ticks = round(reach / step)
    for tick in range(-ticks, ticks + 1):
        kind = "zero" if tick == 0 else "grid"
        at = x(tick * step)
        parts.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="22" y2="{bottom}"/>')
        parts.append(
            _text(at, bottom + 16, f"{tick * step:+.6g}" if tick else "0", "middle", "quiet")
        )
    for place, row in enumerate(rows):
        y = _ROW * place + 26 + _ROW / 2
        parts.append(_text(_LABEL - 10, y + 4, row.name, "end"))
        parts.append(
            f'<line class="span {row.mark}" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" '
            f'y1="{y}" y2="{y}"/>'
            f'<circle class="{row.mark}" cx="{x(row.value):.1f}" cy="{y}" r="5"/>'
        )
        parts.append(_text(_WIDTH - _FIGURES + 14, y + 4, f"{row.value:+.4f}"))
    return "".join([*parts, "</svg>"])


def histogram(values: Sequence[float], *, worse_below: bool = True, slots: int = 21) -> str:
    """How many questions differ by how much; below zero and above it in the two colours."""
    most = max((abs(value) for value in values), default=0.0) or 1.0
    counts = [0] * slots
    for value in values:
        counts[min(slots - 1, int((value / most + 1) / 2 * slots))] += 1
    highest = max(counts)
    width = (_WIDTH - 40) / slots
    parts = [_svg(190, "Questions by their difference")]
    for place, count in enumerate(counts):
        tall = 130 * count / highest if highest else 0
        x = 20 + place * width
        below = place < slots // 2
        mark = "same" if place == slots // 2 else "worse" if below == worse_below else "better"
        parts.append(
            f'<rect class="{mark}" x="{x + 1:.1f}" y="{160 - tall:.1f}" width="{width - 2:.1f}" '
            f'height="{tall:.1f}"/>'
        )
        if count:
            parts.append(_text(x + width / 2, 154 - tall, f"{count:,}", "middle", "quiet"))
    parts.append(f'<line class="zero" x1="20" x2="{_WIDTH - 20}" y1="160" y2="160"/>')
    for value in (-most, 0.0, most):
        at = 20 + (value / most + 1) / 2 * (_WIDTH - 40)
        anchor = "start" if value < 0 else "end" if value > 0 else "middle"
        parts.append(_text(at, 178, f"{value:+.4g}" if value else "0", anchor, "quiet"))
    return "".join([*parts, "</svg>"])


def _step(most: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, three or four to the side."""
    if most <= 0:
        return 0.01
    rough = most / 3
    power = 10.0 ** math.floor(math.log10(rough))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough)


def _svg(height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )
