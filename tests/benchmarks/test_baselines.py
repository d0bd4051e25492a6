"""The table of repairs: its rows, its arithmetic, and that a shared beginning changes nothing."""

from __future__ import annotations

import re

import pytest

from benchmarks import baselines
from benchmarks.baselines import ROWS, Bench, Found, Plan, main
from snnc.errors import PipelineError
from snnc.targets.dynap_sim.repairs import OnChip, OutputGain, ReadOut, Traffic
from tests.targets.networks import constrained, data

LINE = re.compile(r"\| `(?P<text>[^`]+)` \| (?P<rest>.*) \|")


def table(rows: list[str], capsys: pytest.CaptureFixture[str], chips: int = 2) -> dict[str, list[str]]:
    """By row its columns, without the seconds."""
    bench = Bench(constrained("plain"), data("plain"), range(chips), tune=False)
    bench.rows("mismatch=0.3", [Plan.parse(text) for text in rows])
    found = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    return {m["text"]: m["rest"].split(" | ")[:-1] for m in found if m}


def test_every_row_is_a_plan() -> None:
    assert len({Plan.parse(text) for text in ROWS}) == len(ROWS)
    plan = Plan.parse("on-chip+output-gain{per=network} @ learning=hardware")
    assert plan.repairs == (OnChip(), OutputGain("network"))
    assert plan.options == "learning=hardware"
    with pytest.raises(PipelineError, match="no repair is named 'magic'"):
        Plan.parse("magic")


def test_a_shared_beginning_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Behind the row of its beginning, a row takes over the chips; alone it makes them."""
    rows = ["on-chip", "on-chip+output-gain", "on-chip+read-out"]
    together = table(rows, capsys, 1)
    for row in rows:
        assert table([row], capsys, 1)[row] == together[row]


def test_rows_of_other_devices_share_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["on-chip", "on-chip+read-out", "on-chip @ learning=hardware", "on-chip+read-out @ learning=hardware"]
    found = table(rows, capsys)
    assert found["on-chip"][3] == "760", "4 bytes for each of 190 neurons with a target"
    assert found["on-chip @ learning=hardware"][3] == "190"
    assert found["on-chip+read-out @ learning=hardware"][3] == "190"


def test_the_arithmetic_of_a_row() -> None:
    found = Found([0.5, 0.7], [Traffic(100, 300, 8, 1), Traffic(300, 500, 12, 1)], [1.0, 2.0])
    assert found.line(samples=10, synapses=40) == "60.00 +- 14.14 (50.00) | 20 | 80 | 40 | 0.25 | 1.5"
    assert Found([1.0], [Traffic()], [0.0]).line(10, 40) == "100.00 +- 0.00 (100.00) | 0 | 0 | 0 | 0.00 | 0.0"


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(baselines, "network", lambda *given: (constrained("plain"), data("plain")))
    main(
        ["--mismatch", "0.3", "--options", "preset=measured", "--chips", "2", "--tune", "--repairs", "none", "read-out"]
    )
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "chips 100 to 101" in line] == [
        "mismatch=0.3, chips 100 to 101, 20 samples judged",
        "preset=measured, chips 100 to 101, 20 samples judged",
    ]
    assert [m["text"] for line in out.splitlines() if (m := LINE.fullmatch(line))] == ["none", "read-out"] * 2
    assert ReadOut.name in out
