"""One figure of a population of devices: each before and after its calibration, the worst on the left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from snnc.score import Score

from .svg import COLOURS, GREY

WIDE, HIGH = 720, 360
"""Size of the figure in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 34, 40
"""Its margins in pixels."""
TICKS = 6
"""Marks of the vertical axis, about."""
FLOOR = COLOURS[3]


def chart(before: Sequence[float], after: Sequence[float], score: Score, floor: float | None = None) -> str:
    """An SVG file: one line a device, from a hollow dot (before) to a full one (after calibration).

    Args:
        before, after: figures of `score`, one a device, at least one.
        floor: drawn as a dashed line.
    """
    pairs = sorted(zip(before, after, strict=True), reverse=not score.higher_is_better)
    axis = _axis([*before, *after, *([] if floor is None else [floor])], score)
    step = (WIDE - LEFT - RIGHT) / len(pairs)
    size = max(1.5, min(4.5, step / 2.5))

    def high(value: float) -> float:
        return HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (value - axis[0]) / (axis[-1] - axis[0])

    parts = [_grid(value, high(value), score) for value in axis]
    if floor is not None:
        level = f"{high(floor):.2f}"
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{level}" y2="{level}" stroke="{FLOOR}" stroke-dasharray="6 4"/>'
        )
    for i, (first, second) in enumerate(pairs):
        x, ends = f"{LEFT + (i + 0.5) * step:.2f}", (f"{high(first):.2f}", f"{high(second):.2f}")
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}" stroke="{COLOURS[0]}" stroke-opacity=".4"/>'
        )
        parts.append(f'<circle cx="{x}" cy="{ends[0]}" r="{size:.2f}" fill="white" stroke="{COLOURS[0]}"/>')
        parts.append(f'<circle cx="{x}" cy="{ends[1]}" r="{size:.2f}" fill="{COLOURS[0]}"/>')
    name = f"{score.name}{f' ({score.unit})' if score.unit else ''} of {len(pairs)} devices on test samples"
    floor_text = "" if floor is None else f"; dashed: the floor, {score.text(floor)}"
    parts.append(f'<text x="{LEFT}" y="20">{escape(name)}</text>')
    told = f"one line a device, worst first: hollow before, full after calibration{floor_text}"
    parts.append(f'<text x="{LEFT}" y="{HIGH - 14}">{escape(told)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}" '
        f'font-family="sans-serif" font-size="12"><rect width="{WIDE}" height="{HIGH}" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _axis(values: Sequence[float], score: Score) -> list[float]:
    """Round figures, evenly spaced, that reach around all values."""
    low, high = min(values), max(values)
    rough = (high - low) / TICKS or abs(high) / TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(rough * score.factor)) / score.factor
    tick = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / tick + 1e-9), math.ceil(high / tick - 1e-9)
    return [i * tick for i in range(first, max(last, first + 1) + 1)]


def _grid(value: float, y: float, score: Score) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y:.2f}" y2="{y:.2f}" stroke="{GREY}" stroke-width=".5"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.2f}" text-anchor="end">{escape(score.text(value))}</text>'
    )
