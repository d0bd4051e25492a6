"""Random networks of integers: plain loops, executors, the chip and Brian2 (as recorded) fire spike for spike."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.agreement import Drawn, by_brian2, digest, disagreements, identity, main
from benchmarks.oracles import lowered, networks
from benchmarks.oracles.networks import EXACT, Layer, Net, simulate
from snnc.targets.dynap_sim.place import EXACT as PLACED
from snnc.targets.dynap_sim.place import counted

draw = cache(networks.draw)
RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "agreement.json").read_text())["nets"]


@pytest.mark.parametrize("tens", range(10))
def test_all_agree_spike_for_spike(tens: int) -> None:
    for number in range(10 * tens, 10 * tens + 10):
        assert disagreements(draw(number)) == [], number


def test_brian2_agrees() -> None:
    """Its spikes of 100 networks, recorded by `python benchmarks/agreement.py --record`."""
    assert len(RECORDED) == 100
    for number, recorded in enumerate(RECORDED):
        net = draw(number)
        assert identity(net) == recorded["net"], "the networks are others: record again"
        trains = lowered.by_torch(lowered.graph_of(net), lowered.samples(net))
        made = [trains[f"lif{i}"][:, 0].reshape(net.steps, -1) for i in range(len(net.layers))]
        assert [digest(train) for train in made] == recorded["spikes"], number


def changed(net: Net, **fields: object) -> Net:
    """With another first layer."""
    return replace(net, layers=(replace(net.layers[0], **fields), *net.layers[1:]))  # type: ignore[arg-type]


def test_a_difference_is_seen() -> None:
    """Executors of another network than the loops: every one of them is told, by layer."""
    pairs = ((net, changed(net, theta=net.layers[0].theta + 1)) for net in map(draw, range(100)))
    net, twin = next(pair for pair in pairs if (simulate(pair[0])[0][0] != simulate(pair[1])[0][0]).any())
    other = lowered.graph_of(twin)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lowered, "graph_of", lambda _: other)
        found = disagreements(net)
    assert {line.partition(",")[0] for line in found} >= {"reference", "torch", "chip"}
    assert any(", layer 0: " in line for line in found)


def test_networks_are_at_the_limits() -> None:
    drawn = Drawn()
    for number in range(100):
        drawn.see(draw(number))
    wanted = {"conv", "dense", "pool", "plain", "residual", "leaky", "IF", "events in", "se2", "ideal", "8 bits"}
    wanted |= {"a threshold of one step", "a threshold above 2^16 steps", "a count of T", "T = 64"}
    assert wanted <= drawn.kinds.keys()
    assert EXACT == PLACED
    reach = max(layer.reach() for number in range(100) for layer in counted(lowered.graph_of(draw(number))))
    assert 0.4 * EXACT < reach < EXACT


def test_the_loops_are_the_equations() -> None:
    """One neuron, by hand: I = 3 a step, theta = 4; alpha = 1/2, and each reset."""
    for reset, alpha, spikes in (
        ("subtract", 1.0, [0, 1, 1, 1, 0, 1]),
        ("zero", 1.0, [0, 1, 0, 1, 0, 1]),
        ("subtract", 0.5, [0, 1, 0, 0, 1, 0]),
        ("subtract-decayed", 0.5, [0, 1, 0, 1, 0, 1]),
    ):
        one = np.ones(1)
        layer = Layer((1,), (), 3 * one, 4 * one, 0 * one, alpha, reset, one)
        trains, _ = simulate(Net((1,), (layer,), 6, 4, np.zeros((1, 1)), False))
        assert trains[0][:, 0, 0].tolist() == spikes, (reset, alpha)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "2", "--brian2", "0"]) == 0
    assert "against plain loops: 0 disagreements" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("brian2") is None, reason="brian2 is not installed: snnc[brian2]")
def test_brian2_itself_agrees() -> None:
    assert by_brian2(range(3), None) == (3, [])
