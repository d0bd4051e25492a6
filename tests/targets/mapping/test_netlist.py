"""The netlist of a placed graph against what the graph's own executors deliver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from snnc.errors import TargetError
from snnc.ir import Graph, TensorType
from snnc.sim.cost import arriving, fan_in
from snnc.sim.reference import run
from snnc.targets.dynap_sim.mapping import expected_spikes, netlist
from tests.targets.mapping.nets import EVERY, placed
from tests.targets.networks import constrained, images


def counted(graph: Graph, first: dict[str, int], sources: int) -> dict[str, np.ndarray]:
    """Connections [sources, layer]: one event of one source at a time, sent through kernels of ones."""

    def events(name: str, kind: TensorType) -> torch.Tensor:
        size = math.prod(kind.shape)
        one = torch.zeros(sources, size)
        if name in first:
            one[first[name] + torch.arange(size), torch.arange(size)] = 1
        return one.reshape(sources, *kind.shape)

    found = arriving(graph, events)
    return {name: found[name].numpy().reshape(sources, -1) for name in first if name in found and name in graph}


@pytest.mark.parametrize("net", EVERY)
def test_connections_are_those_along_which_events_flow(net: str) -> None:
    graph = placed(net)
    nets = netlist(graph)
    wanted = counted(graph, nets.first, len(nets.spikes))
    made = np.zeros((len(nets.spikes), nets.neurons), np.int64)
    made[nets.source, nets.target] = nets.words
    for name, shape in nets.layers.items():
        mine = made[:, nets.first[name] : nets.first[name] + math.prod(shape)]
        np.testing.assert_array_equal(mine, wanted[name], err_msg=name)
        assert mine.any(axis=1).any()


@pytest.mark.parametrize("net", EVERY)
def test_cam_words_are_the_fan_in_and_lists_ascend(net: str) -> None:
    graph = placed(net)
    nets = netlist(graph)
    words = np.bincount(nets.target, nets.words, nets.neurons)
    for name, shape in nets.layers.items():
        assert words[nets.first[name] :][: math.prod(shape)].max() == fan_in(graph)[name]
    for source in range(len(nets.spikes)):
        assert (np.diff(nets.target[nets.start[source] : nets.start[source + 1]]) > 0).all()


def test_expected_spikes_are_the_mean_of_what_the_oracle_counts() -> None:
    graph, x, record = placed("residual"), images(20, seed=4), {}
    run(graph, {"x": x}, record)
    spikes = expected_spikes(graph, x)
    nets = netlist(graph, spikes)
    for name, shape in nets.layers.items():
        wanted = record[name].sum(axis=0).mean(axis=0)
        np.testing.assert_allclose(spikes[name], wanted, atol=1e-6)
        mine = nets.spikes[nets.first[name] :][: math.prod(shape)]
        np.testing.assert_allclose(mine, wanted.reshape(-1), atol=1e-6)
        assert wanted.any()
    (name,) = nets.inputs
    assert not nets.spikes[nets.first[name] :].any(), "an analog current sends no events"
    assert (netlist(graph).spikes == 1).all()


def test_neurons_that_the_host_reads_are_known_and_named() -> None:
    nets = netlist(placed("plain"))
    last = nets.first["relu3"]
    assert nets.read[last:].all()
    assert not nets.read[:last].any()
    assert nets.label(nets.first["relu2"] + 3 * 3 + 4) == "relu2[1,1,1]"
    assert nets.at["relu2"] == "relu2 (lif), from /relu2/Relu"
    assert nets.label(nets.neurons).endswith("[0,0,0]")
    assert nets.layer_of().tolist() == [0] * 144 + [1] * 36 + [2] * 10


def test_only_placed_graphs_have_a_netlist() -> None:
    with pytest.raises(TargetError, match="of a graph of stage placed, not constrained"):
        netlist(constrained("plain"))
