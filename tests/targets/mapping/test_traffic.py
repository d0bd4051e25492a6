"""What a mapping costs, counted by hand, and every wall broken once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from snnc.targets.dynap_sim.mapping import Mesh, Netlist, map_neurons, netlist, traffic, violations
from tests.targets.mapping.nets import SMALL, cores_of, netlists, pairs, placed


@settings(max_examples=10)
@given(netlists())
def test_events_are_counted_as_by_hand(nets: Netlist) -> None:
    mapping = map_neurons(nets, replace(SMALL, neurons_per_core=8))
    core, made = mapping.cores, traffic(nets, mapping)
    broadcasts = hops = 0.0
    arrives = np.zeros(len(mapping.chip))
    for source, reached in enumerate(cores_of(nets, core)):
        broadcasts += nets.spikes[source] * len(reached)
        arrives[list(reached)] += nets.spikes[source]
        if source < nets.neurons:
            here = mapping.xy[mapping.chip[core[source]]]
            for chip in {int(mapping.chip[c]) for c in reached}:
                hops += nets.spikes[source] * np.abs(mapping.xy[chip] - here).sum()
    assert made.broadcasts == pytest.approx(broadcasts)
    assert made.hops == pytest.approx(hops)
    assert made.matches == pytest.approx(sum(nets.spikes[s] * words for (s, _), words in pairs(nets).items()))
    assert made.spikes == pytest.approx(nets.spikes[: nets.neurons].sum())
    assert made.input_events == pytest.approx(nets.spikes[nets.neurons :].sum())
    assert [c.spikes_in for c in made.cores] == pytest.approx(arrives)
    for one in made.cores:
        mine = {(s, t): w for (s, t), w in pairs(nets).items() if core[t] == one.core}
        assert one.chip == mapping.chip[one.core]
        assert one.neurons == (core == one.core).sum()
        assert one.tags == len({s for s, _ in mine})
        assert one.cam_words == sum(mine.values())
        assert one.matches == pytest.approx(sum(nets.spikes[s] * w for (s, _), w in mine.items()))
        assert one.spikes_out == pytest.approx(nets.spikes[: nets.neurons][core == one.core].sum())
    assert made.hot()[0].spikes_in == max(arrives)
    assert json.dumps(made.to_json())


def test_the_report_reads_plainly() -> None:
    nets = netlist(placed("residual"))
    mapping = map_neurons(nets, replace(SMALL, chips=1))
    lines = traffic(nets, mapping).lines()
    assert lines[0] == f"layout: {nets.neurons:,} neurons on 10 cores of 3 virtual chips"
    assert lines[1].startswith(f"per inference: {nets.neurons} spikes, 36 input events, ")
    assert lines[2].startswith("spikes that arrive, of the mean over cores: core ")


def test_all_walls_that_break_are_named_at_once() -> None:
    """Layer, neuron and excess, for every wall; what is broken is known from the mapping made with room."""
    nets = netlist(placed("residual"))
    room = Mesh(chips=9, neurons_per_core=8, destinations=99, monitor_words=0)
    mapping = map_neurons(nets, room)
    assert violations(nets, mapping) == []
    tight = Mesh(chips=1, neurons_per_core=7, fan_in=15, destinations=1, tag_bits=2, hop_range=0)
    found = violations(nets, replace(mapping, mesh=tight))
    text = "\n".join(problem.message for problem in found)
    assert "core 0 holds 8 neurons, 1 too many" in text
    words = np.bincount(nets.target, nets.words, nets.neurons).astype(int)
    worst = int(words[nets.first["relu2"] :][:144].argmax()) + nets.first["relu2"]
    assert f"neurons of relu2, the worst: {nets.label(worst)} needs {words[worst]} CAM words, " in text
    assert f"{words[worst] - 15} too many" in text
    assert "neurons of relu1, the worst: relu1[" in text
    assert "destination words, " in text
    assert "in one of its cores, " in text
    assert "hops in one direction, " in text
    assert {problem.at for problem in found} >= {"relu1 (lif), from /relu1/Relu", "relu2 (lif), from /relu2/Relu"}
    assert "chips" not in text, "more chips than there are break no wall"


def test_a_neuron_that_the_host_reads_has_a_word_less() -> None:
    nets = netlist(placed("plain"))
    read = replace(nets, read=np.arange(nets.neurons) < 1)
    mapping = map_neurons(nets, replace(SMALL, neurons_per_core=4, cores_per_chip=1, destinations=64))
    sent = np.bincount(mapping.words.source)[0]
    for monitor, broken in ((0, False), (1, True)):
        mesh = replace(mapping.mesh, destinations=int(np.bincount(mapping.words.source).max()), monitor_words=monitor)
        mesh = replace(mesh, destinations=int(sent)) if monitor else mesh
        found = [p.message for p in violations(read, replace(mapping, mesh=mesh)) if "destination words" in p.message]
        assert any("relu1[0,0,0]" in text or "neurons of relu1" in text for text in found) == broken
