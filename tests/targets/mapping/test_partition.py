"""Neurons on cores: walls, known optima, the orders it starts from, the optional partitioner."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnc.errors import TargetError
from snnc.targets.dynap_sim.mapping import Netlist, netlist
from snnc.targets.dynap_sim.mapping.hypergraph import connectivity
from snnc.targets.dynap_sim.mapping.orders import blocks, boxes, coordinates, families, growth
from snnc.targets.dynap_sim.mapping.partition import FLOOR, compact, fill, heard, packed, partition, sequential, weights
from snnc.targets.dynap_sim.mapping.refine import Walls
from tests.targets.mapping.nets import SMALL, cores_of, netlists, pairs, placed


def cost(nets: Netlist, core: np.ndarray) -> float:
    """Spikes times destination cores, by hand."""
    return float(sum(s * len(c) for s, c in zip(nets.spikes, cores_of(nets, core), strict=True)))


@settings(max_examples=12)
@given(netlists(), st.booleans(), st.integers(1, 12), st.integers(4, 6))
def test_no_wall_is_broken(nets: Netlist, apart: bool, size: int, bits: int) -> None:
    mesh = replace(SMALL, neurons_per_core=size, tag_bits=bits)
    group = (np.arange(nets.neurons) // 3) % 2 + 2 * (nets.layer_of() > 0) if apart else None
    for core in (partition(nets, mesh, "greedy", group), sequential(nets, mesh, group)):
        assert np.bincount(core).min() > 0
        assert np.bincount(core).max() <= size
        for one in range(core.max() + 1):
            assert len({s for s, t in pairs(nets) if core[t] == one}) <= mesh.tags
            assert group is None or len(set(group[core == one])) == 1


@settings(max_examples=12)
@given(netlists())
def test_it_costs_no_more_than_in_order_and_is_the_same_twice(nets: Netlist) -> None:
    core, in_order = partition(nets, SMALL), sequential(nets, SMALL)
    graph = nets.hypergraph(weights(nets.spikes))
    assert connectivity(graph, core) <= connectivity(graph, in_order) + 1e-9
    np.testing.assert_array_equal(core, partition(nets, SMALL))
    assert core.max() + 1 == math.ceil(nets.neurons / SMALL.neurons_per_core)


@pytest.mark.parametrize("net", ["residual", "plain", "pooled", "upsampled"])
def test_well_below_filling_in_order(net: str) -> None:
    nets = netlist(placed(net))
    assert nets.neurons > 4 * SMALL.neurons_per_core
    core, in_order = partition(nets, SMALL), sequential(nets, SMALL)
    assert cost(nets, core) < 0.85 * cost(nets, in_order)


def clustered(clusters: int, size: int) -> Netlist:
    """A layer of shuffled clusters, each listening to four sources of its own."""
    rng = np.random.default_rng(1)
    of = rng.permutation(np.repeat(np.arange(clusters), size))
    rows = sorted((clusters * size + 4 * of[n] + k, n) for n in range(clusters * size) for k in range(4))
    source, target = np.array(rows).T
    count = clusters * size + 4 * clusters
    start = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=count))])
    names = {"lif": (clusters * size,)}, {"x": (4 * clusters,)}
    words, read = np.ones(len(target), np.int64), np.zeros(clusters * size, bool)
    return Netlist(*names, start, target.astype(np.int32), words, np.ones(count), read, {"lif": "lif", "x": "x"})


def test_hidden_clusters_are_found() -> None:
    nets = clustered(12, 32)
    core = partition(nets, SMALL)
    assert cost(nets, core) == 48, "one core a source"
    assert cost(nets, sequential(nets, SMALL)) > 300


def test_weights_have_a_floor() -> None:
    np.testing.assert_allclose(weights(np.array([0.0, 2.0, 4.0])), [2 * FLOOR, 2, 4])
    np.testing.assert_array_equal(weights(np.zeros(3)), np.ones(3))


@given(netlists(), st.integers(3, 20))
def test_filled_in_order(nets: Netlist, size: int) -> None:
    graph = nets.hypergraph(nets.spikes)
    order = np.random.default_rng(0).permutation(nets.neurons)
    part = fill(graph, order, Walls(size, 10**9))
    np.testing.assert_array_equal(part[order], np.arange(nets.neurons) // size)
    tight = fill(graph, order, Walls(size, 20))
    assert (np.diff(tight[order]) >= 0).all()
    assert heard(graph, tight).max() <= 20
    assert np.bincount(tight).max() <= size


@given(netlists(), st.integers(3, 20), st.booleans(), st.booleans())
def test_blocks_are_all_neurons_once_and_packed_into_as_few_cores_as_possible(
    nets: Netlist, size: int, even: bool, apart: bool
) -> None:
    graph, layer = nets.hypergraph(nets.spikes), nets.layer_of()
    found = blocks(nets, graph, size, even, layer if apart else None)
    assert sorted(np.concatenate(found).tolist()) == list(range(nets.neurons))
    assert max(map(len, found)) <= size
    assert not apart or all(len(set(layer[block])) == 1 for block in found)
    part = packed(graph, found, size, layer if apart else None)
    assert np.bincount(part).max() <= size
    needed = [math.ceil(n / size) for n in (np.bincount(layer) if apart else [nets.neurons])]
    assert part.max() + 1 == sum(needed)


def test_boxes_are_compact() -> None:
    """16 x 16 positions of 4 channels in blocks of 64: 4 x 4 positions, or 8 x 8 of one channel."""
    places = coordinates([(4, 16, 16)])
    ends = np.arange(64, 1025, 64)
    for stretch, sides in ((0.0, (3, 3, 3)), (1e6, (0, 7, 7))):
        for block in np.split(boxes(places, ends, stretch), ends[:-1]):
            assert tuple(sorted(np.ptp(places[:, block], axis=1))) == tuple(sorted(sides))


def test_coordinates_of_layers_side_by_side() -> None:
    places = coordinates([(2, 4, 4), (3, 2, 2)])
    assert places.shape == (3, 44)
    assert places[0].tolist() == [0] * 16 + [1] * 16 + [2] * 4 + [3] * 4 + [4] * 4
    assert places[1, 32:36].tolist() == [0, 0, 2, 2]
    assert coordinates([(5,)]).tolist() == [[0, 1, 2, 3, 4], [0] * 5, [0] * 5]


def test_branches_that_read_the_same_are_a_family() -> None:
    nets = netlist(placed("joined"))
    names = list(nets.layers)
    found = [
        {names[i] for i in family} for family in families(nets.hypergraph(nets.spikes), nets.layer_of(), len(names))
    ]
    assert {"relu1", "relu2"} in found, found


def test_growth_takes_one_cluster_after_the_other() -> None:
    nets = clustered(6, 10)
    graph = nets.hypergraph(nets.spikes)
    order = growth(graph, np.arange(10, 61, 10))
    label = np.empty(60, np.int64)
    label[order] = np.arange(60) // 10
    assert connectivity(graph, label) == 24


def test_compact() -> None:
    assert compact(np.array([7, 2, 7, 5])).tolist() == [2, 0, 2, 1]


def test_without_the_partitioner_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtkahypar", None)
    with pytest.raises(TargetError, match="mtkahypar is not installed") as caught:
        partition(clustered(4, 32), SMALL, "mtkahypar")
    assert "snnc[placement]" in caught.value.hint


@pytest.mark.parametrize("apart", [False, True])
def test_the_partitioner_gives_the_same_kind_of_result(apart: bool) -> None:
    pytest.importorskip("mtkahypar", reason="the extra 'placement' is not installed")
    nets = netlist(placed("residual"))
    group = nets.layer_of() if apart else None
    core = partition(nets, SMALL, "mtkahypar", group)
    assert np.bincount(core).max() <= SMALL.neurons_per_core
    assert cost(nets, core) <= cost(nets, partition(nets, SMALL, "greedy", group))
    np.testing.assert_array_equal(core, partition(nets, SMALL, "mtkahypar", group))
    assert group is None or all(len(set(nets.layer_of()[core == c])) == 1 for c in range(core.max() + 1))
