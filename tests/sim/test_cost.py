"""Costs of networks small enough to count by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from snnc.ir import Constraint, Graph, Stage
from snnc.sim.cost import arriving, fan_in, macs, measure, multiplicity
from tests.graphs import Builder, lenet, spiking


def conv(size: int = 4, channels: int = 1, out: int = 1, steps: int = 1, **attrs: Any) -> Graph:
    """Input neurons of threshold 1 and one conv with neurons; weights of ones."""
    b = Builder({"x": (channels, size, size)}, steps)
    b("current", "encode", "x", code="first-step")
    b("source", "lif", "current")
    kernel = attrs.pop("kernel", 3)
    weight = np.ones((out, channels // attrs.get("group", 1), kernel, kernel))
    b("conv", "conv", "source", weight=weight, **attrs)
    return b.graph(b("count", "decode", b("lif", "lif", "conv", theta=100)))


def synops(graph: Graph, at: tuple[int, ...]) -> float:
    """Synaptic operations of one input spike."""
    x = np.zeros((1, *graph.inputs["x"].shape), np.float32)
    x[0][at] = 1
    return measure(graph, None, x).synops


@pytest.mark.parametrize(
    ("attrs", "at", "count"),
    [
        ({}, (0, 0, 0), 1),  # a corner lies in one of the 2x2 windows of 3x3
        ({}, (0, 1, 1), 4),
        ({}, (0, 0, 1), 2),
        ({"pads": (1, 1, 1, 1)}, (0, 0, 0), 4),  # 4x4 windows
        ({"pads": (1, 1, 1, 1)}, (0, 1, 1), 9),
        ({"pads": (1, 1, 1, 1), "strides": (2, 2)}, (0, 1, 1), 4),  # windows around 0 and 2 in both axes
        ({"pads": (1, 1, 1, 1), "strides": (2, 2)}, (0, 0, 0), 1),
        ({"pads": (1, 1, 1, 1), "out": 5}, (0, 1, 1), 45),
        ({"pads": (1, 1, 1, 1), "out": 4, "channels": 2, "group": 2}, (1, 1, 1), 18),
    ],
)
def test_synops_of_one_spike_are_its_fan_out(attrs: dict[str, Any], at: tuple[int, ...], count: float) -> None:
    assert synops(conv(**attrs), at) == count


def test_measure_of_a_conv_by_hand() -> None:
    graph = conv(pads=(1, 1, 1, 1), out=2)
    x = np.zeros((4, 1, 4, 4), np.float32)
    x[0, 0, 1, 1] = x[1, 0, 0, 0] = 1
    cost = measure(graph, None, x)
    assert cost.synops == 2 * (9 + 4) / 4
    assert cost.spikes == 2 / 4
    assert cost.neurons == 16 + 32
    assert cost.rate == 2 / 4 / 48
    assert cost.weights == 18
    assert cost.synapses == 2 * (4 * 4 + 8 * 6 + 4 * 9)  # corners, edges, middle
    assert cost.fan_in == {"lif": 9}
    assert cost.input_macs == 0
    assert cost.ann_macs == 0
    assert cost.to_json()["synops"] == 6.5


def test_input_layer_counts_as_macs_and_the_teacher_too() -> None:
    b = Builder({"x": (3,)}, 4)
    b("current", "encode", "x")
    b("dense1", "dense", "current", weight=[[1, 2, 0], [0, 0, 1]])
    b("lif", "lif", "dense1", theta=3)
    b("dense2", "dense", "lif", weight=[[1, 1]])
    graph = b.graph(b("y", "decode", "dense2"))
    cost = measure(graph, lenet(), np.array([[4, 4, 0]], np.float32))
    assert cost.input_macs == 3
    assert cost.spikes == 4  # 3 a step against a threshold of 3
    assert cost.synops == 4
    assert cost.synapses == 3
    assert cost.weights == 5
    # conv 3x3 with pads on 8x8: 6x6 inner, 24 edges, 4 corners, 3 channels; dense 48 x 6; read-out
    assert cost.ann_macs == 3 * (36 * 9 + 24 * 6 + 4 * 4) + 6 * 48 + 24


def test_masked_connections_cost_nothing_but_zero_weights_within_a_mask_do() -> None:
    graph = conv(pads=(1, 1, 1, 1))
    mask = np.zeros((1, 1, 3, 3), bool)
    mask[0, 0, 1] = True
    weight = np.zeros((1, 1, 3, 3), np.float32)
    weight[0, 0, 1, 1] = 1
    pruned = graph.edit(
        params={"conv.weight": weight}, constraints={"conv.weight": Constraint(mask=mask)}, stage=Stage.CONSTRAINED
    )
    assert fan_in(pruned) == {"lif": 3}
    assert synops(pruned, (0, 1, 1)) == 3
    assert fan_in(graph.edit(params={"conv.weight": weight})) == {"lif": 1}


def test_connections_through_a_pool_multiply() -> None:
    b = Builder({"x": (1, 4, 4)}, 1)
    b("current", "encode", "x", code="first-step")
    b("source", "lif", "current")
    b("pool", "avgpool", "source")
    b("flat", "reshape", "pool", shape=(4,))
    b("dense", "dense", "flat", weight=np.ones((3, 4)))
    graph = b.graph(b("count", "decode", b("lif", "lif", "dense", theta=9)))
    assert fan_in(graph) == {"lif": 16}
    assert multiplicity(graph, "flat") == 4
    assert multiplicity(graph, "source") == multiplicity(graph, "x") == 1
    assert synops(graph, (0, 0, 0)) == 3


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_pool_multiplicity_is_a_whole_number_at_borders_too(kernel: int) -> None:
    """n / k * k is not always n in floating point; pads make windows of every n."""
    b = Builder({"x": (2, 6, 6)}, 1)
    b("source", "lif", b("current", "encode", "x"))
    pads = (kernel - 1,) * 4
    b("pool", "avgpool", "source", kernel=(kernel, kernel), strides=(1, 1), pads=pads)
    graph = b.graph(b("count", "decode", b("lif", "lif", "pool")))
    found = arriving(graph, lambda name, kind: torch.ones(1, *kind.shape))["lif"].numpy()
    np.testing.assert_array_equal(found, np.rint(found))
    assert found[0, 0, 0, 0] == 1
    assert found.max() == fan_in(graph)["lif"] == min(kernel, 6) ** 2


def test_residual_connections_add_up() -> None:
    """A weight of zero is no connection; behind the pool every connection counts four times, the skip once more."""
    graph = spiking()
    most = int(np.count_nonzero(graph.params["conv2.weight"], axis=(1, 2, 3)).max())
    assert most < 27
    assert multiplicity(graph, "sum") == 4 * most + 4
    assert fan_in(graph)["relu2"] == 4 * most + 4
    ones = graph.edit(params={"conv2.weight": np.ones((3, 3, 3, 3), np.float32)})
    assert fan_in(ones)["relu2"] == 4 * 27 + 4
    x = np.zeros((1, 2, 6, 6), np.float32)
    ones = ones.edit(params={"conv1.weight": np.ones((3, 2, 3, 3), np.float32)})
    assert measure(ones, None, x).input_macs == 3 * 2 * (16 * 9 + 16 * 6 + 4 * 4)


def test_shared_weights_are_stored_once() -> None:
    b = Builder({"x": (2,)}, 1)
    b("current", "encode", "x")
    b("one", "dense", "current", weight=np.ones((2, 2)))
    b("lif", "lif", "one")
    graph = b.graph(b("y", "decode", b("two", "dense", "lif", weight=np.ones((2, 2)))))
    nodes = [n if n.name != "two" else type(n)("two", "dense", ("lif", "one.weight")) for n in graph.nodes]
    assert measure(graph, None, np.ones((1, 2), np.float32)).weights == 8
    assert measure(graph.edit(nodes), None, np.ones((1, 2), np.float32)).weights == 4


def test_macs_by_node() -> None:
    """Layer by layer: what chains does not multiply, pools and sums cost none, neither do zeros."""
    b = Builder({"x": (2, 4, 4)})
    b("conv1", "conv", "x", weight=np.ones((3, 2, 3, 3)), pads=(1, 1, 1, 1))
    b("conv2", "conv", "conv1", weight=np.ones((3, 1, 1, 1)), group=3)
    b("pool", "avgpool", "conv2")
    b("norm", "scale", "pool", factor=[1, 0, 2])
    b("sum", "add", "norm", "pool")
    b("large", "mix", "sum", weight=[[1, 0], [0.5, 0.5], [0, 1]], axis=1)
    b("rows", "reshape", "large", shape=(9, 2))
    b("turned", "transpose", "rows", perm=(1, 0))
    b("gram", "matmul", "rows", "turned")
    b("flat", "reshape", "gram", shape=(81,))
    graph = b.graph(b("head", "dense", "flat", weight=np.ones((2, 81))))
    assert macs(graph) == {
        "conv1": 3 * 2 * (4 * 9 + 8 * 6 + 4 * 4),
        "conv2": 3 * 16,
        "norm": 8,
        "large": 3 * 2 * 4,
        "gram": 9 * 9 * 2,
        "head": 162,
    }


def test_zeros_of_a_pad_cost_nothing() -> None:
    b = Builder({"x": (1, 2, 2)})
    b("spaced", "pad", "x", pads=(0, 1, 1, 0, 1, 1), interior=(0, 1, 1))
    graph = b.graph(b("up", "conv", "spaced", weight=np.ones((3, 1, 2, 2))))
    assert graph["up"].type.shape == (3, 4, 4)
    assert macs(graph) == {"up": 3 * 4 * 4}, "every input reaches the four positions of the transposed kernel"


def wired(*nodes: tuple[str, str, dict[str, Any]]) -> Graph:
    """Neurons [2,3,4], the given wiring, and a layer that reads all of it."""
    b = Builder({"x": (2, 3, 4)}, 1)
    b("lif1", "lif", b("current", "encode", "x", code="first-step"))
    at = "lif1"
    for name, op, attrs in nodes:
        at = b(name, op, at, **attrs)
    size = int(np.prod(b.graph(b("probe", "decode", at))[at].type.shape))
    b.nodes.pop()
    b("dense", "dense", b("flat", "reshape", at, shape=(size,)), weight=np.ones((3, size)))
    return b.graph(b("count", "decode", b("lif2", "lif", "dense", theta=99)))


@pytest.mark.parametrize(
    ("op", "attrs", "most", "connections"),
    [
        ("transpose", {"perm": (2, 0, 1)}, 1, 24),
        ("slice", {"starts": (0, 2, 0), "sizes": (2, 2, 2), "steps": (1, -2, 1)}, 1, 8),
        ("pad", {"pads": (1, 0, 0, 0, 0, 2), "interior": (0, 1, 0)}, 1, 24),
        ("gather", {"axis": 1, "index": (0, 0, 0, 2)}, 1, 32),
        ("mix", {"axis": 2, "weight": [[1, 0, 0, 0.5], [0, 0, 0, 1]]}, 2, 18),
    ],
)
def test_wiring_costs_nothing_but_what_it_leads_on(op: str, attrs: dict[str, Any], most: int, connections: int) -> None:
    graph = wired(("wire", op, attrs))
    assert multiplicity(graph, "flat") == most
    assert fan_in(graph)["lif2"] == connections
    assert measure(graph, None, np.full((1, 2, 3, 4), 1.0, np.float32)).synops == connections * 3


def test_repeated_values_count_as_often_as_they_are_read() -> None:
    graph = wired(
        ("one", "slice", {"starts": (0, 0, 0), "sizes": (2, 1, 4), "steps": (1, 1, 1)}),
        ("wide", "expand", {"shape": (2, 5, 4)}),
    )
    assert fan_in(graph)["lif2"] == 40
