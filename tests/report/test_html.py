"""The page of a compile: whole, harmless whatever a model's names are, and drawn to scale."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from snnc.report import Ledger, Row, page, svg
from snnc.sim.findings import Unexplained
from snnc.sim.twins import Cause

VOID = {"meta", "br"}
CAUSES = {"b": {"weight bits": 0.75, "inherited": 0.35, "bias": -0.1}, "a": {"timing": 1.0}}
LEDGER = Ledger([
    Row("fold-batchnorm", 0.9, changed=False),
    Row("quantize-weights", 0.9, "validation", "constrained", 7, {"a": 0.1, "b": 0.4}, ("a note",), True, 1.5, CAUSES),
    Row("snn", 0.85, "test"),
])  # fmt: skip
REPORT: dict[str, Any] = {
    "chips": [{"seed": 0, "before": 0.8, "after": 0.9}, {"seed": 1, "before": 0.85, "after": 0.95}],
    "cost": {"synops": 1234567.25, "neurons": 10, "fan_in": {"b": 64}},
    "limits": [{"limit": "neurons", "layer": "b", "value": 2000.0, "allowed": 1024.0, "ok": False, "note": "2 chips"}],
    "unchecked": ["tags"],
    "diagnosis": {
        "summary": "b (model node 'Conv_12'): weight bits; try quantize-weights{bits=5}",
        "samples": 64,
        "judged_by": "labels",
        "worst": "b",
        "accuracy": {"remainder": 0.0125},
        "output_error": {"network": 0.2, "remainder": 0.015},
        "layers": [{"layer": "b", "from": ["Conv_12"]}],
        "gains": [{"off": "weight bits", "accuracy": 0.05, "output_error": 0.12}],
        "gains_in_turn": [{"off": "weight bits", "accuracy": 0.04, "output_error": 0.11}],
        "advice": [
            {"try": "bits=5", "about": "coarse", "error": 0.4, "after": 0.2, "exact": False, "output_error": 0.12}
        ],
    },
}
FACTS = {"pipeline": "quantize-weights", "seed": 0, "versions": {}}
EVIL = "</script></td><script>alert(1)</script><img src=x onerror='a()'>\"&\x1b[31m"


class Reader(HTMLParser):
    """Every tag that is opened must be closed in turn; all text and attributes are kept."""

    def __init__(self, whole: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(whole)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_everything_of_the_report_is_on_it() -> None:
    words = Reader(page(LEDGER, REPORT, FACTS)).words
    for said in (
        REPORT["diagnosis"]["summary"], "quantize-weights", "a note", "90.00 %", "b 40.0 % weight bits", "Conv_12",
        "weight bits 75 %, inherited 35 %, bias -10 %", "Nothing to do: fold-batchnorm", "+12.00", "+4.00", "+1.50",
        "40.00 % to at best 20.00 %", "80.00 %", "95.00 %", "1,234,567", "fan-in of b", "2,000", "1,024", "beyond",
        "2 chips", "tags",
    ):  # fmt: skip
        assert said in words, said


def test_it_loads_and_runs_nothing() -> None:
    whole = page(LEDGER, REPORT, FACTS)
    found = Reader(whole)
    assert not {"script", "link", "img", "iframe", "object", "a", "image", "use", "form"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href", "xlink:href")]
    assert "http-equiv" in dict(found.attributes)
    assert not re.search(r"url\(|@import|https?:|javascript:", whole)


def test_names_from_a_model_are_only_text() -> None:
    """Wherever a user's file can put words: layers, causes, notes, steps, origins, limits, facts."""
    row = Row(EVIL, 0.9, "validation", "", 7, {EVIL: 0.4}, (EVIL,), True, 0, {EVIL: {EVIL: 1.0}})
    diagnosis = {**REPORT["diagnosis"], "summary": EVIL, "worst": EVIL, "layers": [{"layer": EVIL, "from": [EVIL]}]}
    diagnosis["advice"] = [{**diagnosis["advice"][0], "try": EVIL, "about": EVIL}]
    for key in ("gains", "gains_in_turn"):
        diagnosis[key] = [{**REPORT["diagnosis"][key][0], "off": EVIL}]
    limits = [{**REPORT["limits"][0], "layer": EVIL, "note": EVIL, "limit": EVIL}]
    report = {**REPORT, "diagnosis": diagnosis, "limits": limits, "unchecked": [EVIL], "cost": {EVIL: {EVIL: 1}}}
    whole = page(Ledger([row, Row(EVIL, None, changed=False)]), report, {"pipeline": EVIL, "target": EVIL})
    found = Reader(whole)
    tame = Reader(page(Ledger([replace(row, notes=("x",))]), REPORT, {"pipeline": "x", "target": "x"}))
    assert set(found.tags) <= set(tame.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "<script" not in whole
    assert "\x1b" not in whole
    assert found.words.count("<script>alert(1)</script>") > 15, "it is all there, as text"


def bars(whole: str) -> list[list[tuple[float, str]]]:
    """Of every picture, the widths and colours of its bars."""
    pictures = re.findall(r"<svg.*?</svg>", whole)
    found = [re.findall(r'<rect [^>]*width="([\d.]+)"[^>]*fill="([^"]+)"', picture) for picture in pictures]
    return [[(float(wide), colour) for wide, colour in picture] for picture in found if picture]


def test_bars_are_drawn_to_scale() -> None:
    """The longest is the largest error; positive shares fill it, 0.75 and 0.35 of 1.1; grey is what is inherited."""
    long, short = bars(page(LEDGER, REPORT, FACTS))
    assert [wide for wide, _ in long] == pytest.approx([svg.WIDE * 0.75 / 1.1, svg.WIDE * 0.35 / 1.1], abs=0.01)
    assert [wide for wide, _ in short] == pytest.approx([svg.WIDE * 0.1 / 0.4], abs=0.01)
    assert long[1][1] == svg.GREY
    assert len({long[0][1], short[0][1], svg.GREY}) == 3


def test_grey_is_a_cause_and_there_are_colours_for_all_others() -> None:
    assert svg.INHERITED in set(Cause)
    colours = svg.palette(Cause)
    assert set(colours) == set(Cause)
    assert len(set(colours.values())) == len(Cause)


def test_chips_lie_on_a_line_from_the_lowest_to_all() -> None:
    whole = page(LEDGER, REPORT, FACTS)
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', whole)]
    room = svg.WIDE - 12
    assert dots == pytest.approx([6, 6 + room / 2, 6 + room / 4, 6 + room * 3 / 4], abs=0.01)
    assert "80.00 % to 100 %" in whole
    perfect = {**REPORT, "chips": [{"seed": 0, "before": 1.0, "after": 1.0}]}
    assert "95.00 % to 100 %" in page(LEDGER, perfect, FACTS)


def test_what_was_not_measured_has_no_place() -> None:
    why = Unexplained("its thresholds are integers", "explain what was compiled without")
    report = {**REPORT, "chips": [], "diagnosis": why.to_json()}
    whole = page(Ledger([Row("import", 0.9)]), report, {})
    Reader(whole)
    assert "not measured, its thresholds are integers; explain what was compiled without" in whole
    for head in ("Why, layer by layer", "What would come back", "Simulated chips"):
        assert head not in whole
        assert head in page(LEDGER, REPORT, FACTS)


def test_no_times_and_twice_the_same() -> None:
    later = Ledger([replace(row, seconds=row.seconds + 7) for row in LEDGER.rows])
    assert page(LEDGER, REPORT, FACTS) == page(later, REPORT, FACTS)
