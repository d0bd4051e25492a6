"""The chip that is timed is a full one, and the time is that of a thread."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.realtime import main, network
from snnc.sim.cost import fan_in
from snnc.targets import DynapSim


def test_a_full_chip_is_timed() -> None:
    graph = network()
    found = {f.limit: f for f in DynapSim().findings(graph)}
    assert found["neurons per chip"].value == found["neurons per chip"].allowed == 1024
    assert set(fan_in(graph).values()) == {64}
    counts = DynapSim().compile(graph).load(0).run(np.random.default_rng(0).random((4, 256), np.float32) * 4)["count"]
    assert 0.1 < counts.mean() / graph.steps < 0.9, "its neurons are busy"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--samples", "2", "--repeats", "1"])
    words = capsys.readouterr().out.split()
    assert words[:4] == ["2", "samples", "at", "once:"]
    assert int(words[4]) > 0
