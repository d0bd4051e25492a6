"""The table of placements, on a small network."""

from __future__ import annotations

import pytest

from benchmarks.placement import main, rows, synthetic
from snnc.targets.dynap_sim.mapping import Mesh


def test_placed_below_in_order_below_at_random() -> None:
    """A network of at least four chips: 30 % below filling in order, all walls held."""
    nets = synthetic(10)
    found = {row.method: row for row in rows(nets, Mesh(neurons_per_core=64, tag_bits=12), ["greedy"], None)}
    assert found["greedy"].chips >= 4
    assert found["greedy"].broadcasts < 0.7 * found["in order"].broadcasts < 0.7 * found["random"].broadcasts
    assert found["greedy"].broken == ()


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNNC_MODELS", raising=False)
    main(["--networks", "mnist_cntk_op12"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| network | neurons | chips |")
    assert lines[2] == "mnist_cntk_op12: left out, SNNC_MODELS and SNNC_DATA are not set"
