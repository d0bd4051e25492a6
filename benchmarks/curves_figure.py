"""Accuracies of devices over levels of harm, before and after calibration, as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.relations.relation import Numbers
from snnc.report.svg import COLOURS, GREY

WIDE, HIGH, MARGIN = 250, 190, 44
"""Of a panel, in pixels."""
LEGEND_WIDE, LEGEND_HIGH = 380, 35
"""Of the two lines above the panels, in pixels."""
DRAWN = {"before": COLOURS[3], "one epoch": COLOURS[0], "best": COLOURS[2]}


Panel = tuple[str, float, Mapping[float, Sequence[Numbers]]]
"""A title, the accuracy without harm, and by level what was measured, one a device; percent."""


def figure(panels: Sequence[Panel], columns: int, note: str) -> str:
    """An SVG file: panels row by row. What is best is drawn where it is not the first epoch."""
    devices = [n for _, _, levels in panels for found in levels.values() for n in found]
    drawn = dict(DRAWN)
    if all(n["best"] == n["one epoch"] for n in devices):
        del drawn["best"]
    made = [panel(i % columns * WIDE, LEGEND_HIGH + i // columns * HIGH, one, drawn) for i, one in enumerate(panels)]
    wide, high = max(WIDE * columns, LEGEND_WIDE), LEGEND_HIGH + HIGH * -(-len(panels) // columns)
    made += [
        f'<text x="{10 + 90 * k}" y="15" fill="{colour}">{what}</text>'
        for k, (what, colour) in enumerate(drawn.items())
    ]
    made.append(f'<text x="10" y="30">{note}; accuracy in percent; dashed: without harm</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" font-family="sans-serif" '
        f'font-size="11"><rect width="{wide}" height="{high}" fill="white"/>{"".join(made)}</svg>\n'
    )


def panel(left: float, top: float, what: Panel, drawn: Mapping[str, str]) -> str:
    """Means as lines over the levels, worst to best as bars."""
    title, whole, levels = what
    if not levels:
        return f'<text x="{left + MARGIN}" y="{top + HIGH / 2}">{title}: not run</text>'
    low = 10 * (min([n[kind] for found in levels.values() for n in found for kind in drawn] + [whole]) // 10)
    ends = f'x1="{left + MARGIN}" x2="{left + WIDE - 20}"'

    def across(i: int) -> float:
        return left + MARGIN + (WIDE - MARGIN - 20) * (i + 0.5) / len(levels)

    def down(value: float) -> float:
        return top + HIGH - 34 - (HIGH - 60) * (value - low) / (100 - low)

    made = [f'<text x="{left + MARGIN}" y="{top + 16}">{title}</text>']
    for value in (low, (low + 100) / 2, 100):
        y = down(value)
        made.append(f'<line {ends} y1="{y:.1f}" y2="{y:.1f}" stroke="{GREY}" stroke-width=".5"/>')
        made.append(f'<text x="{left + MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    made.append(f'<line {ends} y1="{down(whole):.1f}" y2="{down(whole):.1f}" stroke="black" stroke-dasharray="4 3"/>')
    for i, level in enumerate(levels):
        made.append(f'<text x="{across(i):.1f}" y="{top + HIGH - 18}" text-anchor="middle">{level:g}</text>')
    for size, (kind, colour) in zip((3, 4.5, 2.5), drawn.items(), strict=False):
        points = []
        for i, found in enumerate(levels.values()):
            values = [n[kind] for n in found]
            x, worst, best = f"{across(i):.1f}", down(min(values)), down(max(values))
            mean = f"{down(float(np.mean(values))):.1f}"
            points.append(f"{x},{mean}")
            made.append(f'<circle cx="{x}" cy="{mean}" r="{size}" fill="white" stroke="{colour}" stroke-width="1.5"/>')
            bar = f'<line x1="{x}" x2="{x}" y1="{worst:.1f}" y2="{best:.1f}" stroke="{colour}" stroke-opacity=".5"/>'
            made.append(bar)
        made.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return "".join(made)
