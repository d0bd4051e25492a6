"""Small pictures inside the report's page: shapes and colours only, no text that a file could have brought."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from snnc.errors import printable

COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#7b3294", "#a6a800", "#17807e",
    "#a50f15",
)  # fmt: skip
"""One per cause, told apart also by the colour-blind; after the last the first again."""
INHERITED, GREY = "inherited", "#b4b4b4"
"""What a layer is not to blame for is grey."""
WIDE, HIGH = 320, 14
"""Size of a picture in pixels."""


def palette(causes: Iterable[str]) -> dict[str, str]:
    """A colour for every cause, in the order in which they first appear."""
    names = [name for name in dict.fromkeys(causes) if name != INHERITED]
    found = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    return {**found, INHERITED: GREY}


def stack(length: float, shares: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """A bar of `length` (0 to 1 of the width), split by the shares above 0; the others make up for some of these."""
    parts = {name: share for name, share in shares.items() if share > 0}
    whole, at, made = sum(parts.values()), 0.0, []
    for name, share in parts.items():
        wide = WIDE * length * share / whole
        tip = f"<title>{escape(printable(name))} {100 * share:.0f} %</title>"
        made.append(f'<rect x="{at:.2f}" y="0" width="{wide:.2f}" height="{HIGH}" fill="{colours[name]}">{tip}</rect>')
        at += wide
    return _picture("".join(made))


def move(before: float, after: float, lowest: float) -> str:
    """Two shares on a line from `lowest` to 1: a hollow dot before, a full one after."""
    first, second = (
        6 + (WIDE - 12) * (share - lowest) / ((1 - lowest) or 1.0) for share in (before, after)
    )  # fmt: skip
    middle = HIGH / 2
    return _picture(
        f'<line x1="0" x2="{WIDE}" y1="{middle}" y2="{middle}" stroke="{GREY}" stroke-width="1"/>'
        f'<line x1="{first:.2f}" x2="{second:.2f}" y1="{middle}" y2="{middle}" '
        f'stroke="{COLOURS[0]}" stroke-width="3"/>'
        f'<circle cx="{first:.2f}" cy="{middle}" r="4.5" fill="white" stroke="{COLOURS[0]}" stroke-width="2"/>'
        f'<circle cx="{second:.2f}" cy="{middle}" r="5" fill="{COLOURS[0]}"/>'
    )


def _picture(inside: str) -> str:
    return f'<svg width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}" role="img">{inside}</svg>'
