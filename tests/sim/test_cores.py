"""Which neurons share a core, by hand; and the weight steps they count in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Constraint
from snnc.sim.cores import channels_per_core, filled, meeting, weight_steps
from tests.graphs import Builder


def test_channels_follow_each_other_and_are_not_cut() -> None:
    np.testing.assert_array_equal(filled((3, 2, 2), 9)[:, 0, 0], [0, 0, 1])
    assert channels_per_core((3, 2, 2), 9) == 2


def test_a_channel_larger_than_a_core_gets_several() -> None:
    np.testing.assert_array_equal(filled((2, 5), 3), [[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]])
    assert channels_per_core((2, 5), 3) == 1


def test_neurons_without_positions_fill_cores_whole() -> None:
    np.testing.assert_array_equal(filled((5,), 2), [0, 0, 1, 1, 2])


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 40))
def test_no_core_is_overfull_and_all_are_numbered(shape: list[int], core: int) -> None:
    made = filled(tuple(shape), core)
    assert made.shape == tuple(shape)
    counts = np.bincount(made.reshape(-1))
    assert counts.min() >= 1
    assert counts.max() <= core


def network() -> Builder:
    b = Builder({"x": (2, 3)}, 4)
    b("image", "reshape", b("current", "encode", "x"), shape=(2, 1, 3))
    b("conv", "conv", "image", weight=np.ones((4, 2, 1, 1)))
    b("plain", "conv", "image", weight=np.ones((4, 2, 1, 1)))
    b("sum", "add", "plain", "conv")
    b("turned", "transpose", b("line", "reshape", "sum", shape=(4, 3)), perm=(1, 0))
    b("lif", "lif", "turned")
    return b


def test_layers_whose_currents_are_added_up_meet() -> None:
    b = network()
    b("flat", "reshape", "lif", shape=(12,))
    b("three", "dense", "flat", weight=np.ones((6, 12)))
    b("four", "dense", "flat", weight=np.ones((3, 12)))
    b("five", "dense", "flat", weight=np.ones((3, 12)))
    b("lif2", "lif", b("all", "add", "three", b("side", "concat", "four", "five", axis=0)))
    graph = b.graph(b("out", "decode", "lif2"))
    nodes = [node for node in graph.nodes if node.op in ("conv", "dense")]
    found = [[node.name for node in group] for group in meeting(graph, nodes)]
    assert found == [["conv", "plain"], ["three", "four", "five"]]
    assert meeting(graph, nodes[1:2]) == [nodes[1:2]]


def test_weight_steps_come_through_sums_and_wires() -> None:
    b = network()
    graph = b.graph(b("out", "decode", "lif"))
    assert weight_steps(graph, "turned") is None
    scale = np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1, 1)
    graph = graph.edit(constraints={"conv.weight": Constraint(4, scale)})
    found = weight_steps(graph, "turned")
    assert found is not None
    np.testing.assert_array_equal(found, np.broadcast_to([1, 2, 3, 4], (3, 4)))
    assert weight_steps(graph, "plain") is None
    assert weight_steps(graph, "x") is None


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1)])
def test_one_step_for_a_tensor(shape: tuple[int, ...]) -> None:
    b = network()
    graph = b.graph(b("out", "decode", "lif")).edit(
        constraints={"plain.weight": Constraint(4, np.full(shape, 0.5, np.float32))}
    )
    found = weight_steps(graph, "sum")
    assert found is not None
    assert (found == 0.5).all()
