"""The curves of harms and repairs: their figure, their rows, and one small run."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from benchmarks import repair_curves
from benchmarks.curves_figure import figure
from benchmarks.relations.relation import Numbers

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "benchmarks" / "measured"
NEEDS_DATA = pytest.mark.skipif("SNNC_DATA" not in os.environ, reason="needs the images, SNNC_DATA is not set")


def numbers(before: float, after: float, best: float) -> Numbers:
    return {"before": before, "one epoch": after, "best": best}


def test_the_figure_has_a_panel_for_every_curve() -> None:
    levels = {0.2: [numbers(80, 95, 96), numbers(70, 94, 95)], 0.4: [numbers(40, 90, 92)]}
    made = figure([("mnist: mismatch", 98.0, levels), ("mnist: bits", 98.0, {})], 2, "learning=float")
    root = ElementTree.fromstring(made)
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "mnist: mismatch" in texts
    assert "mnist: bits: not run" in texts
    assert "40" in texts, "the axis begins at the ten below the lowest figure"
    lines = [e.attrib["points"].split() for e in root.iter() if e.tag.endswith("polyline")]
    assert [len(line) for line in lines] == [2, 2, 2]
    before, after = ([float(p.split(",")[1]) for p in line] for line in lines[:2])
    assert all(low > high for low, high in zip(before, after, strict=True)), "better is higher up"
    once = figure([("mnist: mismatch", 98.0, {0.2: [numbers(80, 95, 95)]})], 1, "learning=float")
    assert "best" not in once, "the first epoch is the only one"


def test_a_row_says_what_was_lost_and_what_is_left() -> None:
    text = repair_curves.row("mnist", "mismatch", 0.4, "float", [numbers(60, 96, 97), numbers(70, 98, 98)], 98.5)
    assert text == (
        "| mnist | mismatch 0.4 | float | 65.00 +- 7.07 (60.00) | 97.00 +- 1.41 (96.00) | 97.50 +- 0.71 (97.00) "
        "| 33.50 | 1.50 | 2 |"
    )


@NEEDS_DATA
def test_a_small_run_is_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(repair_curves, "TEACHING", 200)
    keep, drawn = tmp_path / "numbers.json", tmp_path / "curves.svg"
    options = ["--networks", "mnist", "--curves", "silencing", "--levels", "0.5", "--chips", "1", "--train", "32"]
    options += ["--test", "20", "--learning", "hardware", "--keep", str(keep), "--figure", str(drawn)]
    monkeypatch.setattr(sys, "argv", ["repair_curves.py", *options])
    repair_curves.main()
    first = capsys.readouterr().out
    assert "| mnist | silencing 0.5 | hardware |" in first
    assert set(json.loads(keep.read_text())["numbers"]) == {"mnist clean", "mnist silencing 0.5 hardware"}
    ElementTree.fromstring(drawn.read_text())
    monkeypatch.setattr(repair_curves, "measured", None)
    repair_curves.main()
    assert capsys.readouterr().out == first
    assert (tmp_path / "numbers.students" / "mnist").is_dir(), "the student need not be taught again"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--curves", "mismatch", "--levels", "0.4", "0.7"), r"no curve of mismatch has the levels \[0.7\]"),
        (("--keep", str(MEASURED / "curves.json"), "--epochs", "2"), "'epochs': 3.*not with.*'epochs': 2"),
    ],
)
def test_what_cannot_be_measured_is_told(options: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNNC_DATA", "none")
    monkeypatch.setattr(sys, "argv", ["repair_curves.py", *options])
    with pytest.raises(SystemExit, match=told):
        repair_curves.main()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "curves",
            "--networks mnist fashion --curves mismatch silencing thermal bits --learning float "
            "--train 6000 --test 2000 --epochs 3",
        ),
        (
            "curves-vgg11",
            "--networks vgg11 --curves mismatch bits thermal silencing --learning hardware "
            "--guard-bits 7 --train 990 --test 500",
        ),
        (
            "curves-vgg11-epochs",
            "--networks vgg11 --curves mismatch silencing --levels 0.2 0.3 0.4 0.5 --learning hardware "
            "--guard-bits 7 --train 990 --test 500 --epochs 3 --chips 10",
        ),
    ],
)
def test_the_figures_are_drawn_from_what_was_measured(
    name: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command itself, which has nothing left to measure."""
    drawn = tmp_path / "drawn.svg"
    files = ["--keep", str(MEASURED / f"{name}.json"), "--figure", str(drawn)]
    monkeypatch.setenv("SNNC_DATA", "none")
    monkeypatch.setattr(sys, "argv", ["repair_curves.py", *options.split(), *files])
    repair_curves.main()
    assert drawn.read_text() == (ROOT / "docs" / f"{name}.svg").read_text()


def measured(name: str) -> dict[tuple[str, ...], list[Numbers]]:
    """The numbers of every network, curve, level and form of learning; without those of clean networks."""
    kept = json.loads((MEASURED / name).read_text())["numbers"]
    return {key: list(found.values()) for name, found in kept.items() if len(key := tuple(name.split())) == 4}


def rows(behind: str) -> dict[str, list[str]]:
    """The rows of the first table behind a text of the page on devices, by their harm."""
    page = (ROOT / "docs" / "device.md").read_text()
    table = page[page.index("\n|", page.index(behind)) :].lstrip("\n").split("\n\n")[0]
    return {cells[0]: cells[1:] for line in table.splitlines() if (cells := line.strip("| ").split(" | "))}


def every_level() -> set[tuple[str, str]]:
    """Of the four curves of LTL's figure 4."""
    return {(curve, f"{level:g}") for curve, of in repair_curves.LEVELS.items() for level in of if curve != "lost"}


def summaries(found: list[Numbers], *kinds: str) -> list[str]:
    return [repair_curves.summary([numbers[kind] for numbers in found]) for kind in kinds]


def test_what_the_documents_say_was_measured() -> None:
    """Every level, on ten devices; of three epochs the first and the best."""
    columns, table, measurements = {"mnist": 0, "fashion": 4}, rows("](curves.svg)"), measured("curves.json")
    kept = json.loads((MEASURED / "curves.json").read_text())
    assert kept["settings"]["epochs"] == 3
    for network, at in columns.items():
        assert {key[1:] for key in measurements if key[0] == network} == {(*of, "float") for of in every_level()}
        clean = kept["numbers"][f"{network} clean"]["0"]["before"]
        for (_, curve, level, _), found in ((k, f) for k, f in measurements.items() if k[0] == network):
            assert len(found) == 10
            left = clean - np.mean([numbers["one epoch"] for numbers in found])
            told = [*summaries(found, "before", "one epoch", "best"), f"{left:.2f}"]
            assert table[f"{curve} {level}"][at : at + 4] == told


def test_what_the_documents_say_of_the_hardware_form_was_measured() -> None:
    columns, table, other = {"mnist": 0, "fashion": 4}, rows("](curves.svg)"), measured("curves.json")
    for (network, curve, level, learning), found in measured("curves-hardware.json").items():
        row, at = table[f"{curve} {level}, {learning}"], columns[network]
        assert (len(found), row[at : at + 2]) == (10, summaries(found, "before", "one epoch"))
        same = other[network, curve, level, "float"]
        assert [n["before"] for n in found] == [n["before"] for n in same], "the devices are the same"


def test_what_the_documents_say_of_the_vgg11_was_measured() -> None:
    """Every level, on ten devices."""
    table, measurements = rows("**The half-width VGG-11**"), measured("curves-vgg11.json")
    assert {key[1:3] for key in measurements} == every_level()
    for (network, curve, level, learning), found in measurements.items():
        assert (network, learning, len(found)) == ("vgg11", "hardware", 10)
        assert table[f"{curve} {level}"][:3] == [*summaries(found, "before", "one epoch"), left(found, "one epoch")]


def test_what_the_documents_say_of_more_epochs_of_the_vgg11_was_measured() -> None:
    """Where one epoch leaves something, on the same ten devices; their first epoch is that of the runs of one."""
    table, once = rows("**The half-width VGG-11**"), measured("curves-vgg11.json")
    several = measured("curves-vgg11-epochs.json")
    for key, found in several.items():
        assert len(found) == 10
        assert table[" ".join(key[1:3])][3:] == [*summaries(found, "best"), left(found, "best")]
        for numbers, first in zip(found, once[key], strict=True):
            assert [numbers[kind] for kind in ("before", "one epoch")] == [first["before"], first["one epoch"]]
    assert {key for key, found in once.items() if float(left(found, "one epoch")) > 0.5} == several.keys()


def left(found: list[Numbers], kind: str) -> str:
    """What is left of the points that a VGG-11 lost."""
    clean = json.loads((MEASURED / "curves-vgg11.json").read_text())["numbers"]["vgg11 clean"]["0"]["before"]
    return f"{clean - np.mean([numbers[kind] for numbers in found]):.2f}"
