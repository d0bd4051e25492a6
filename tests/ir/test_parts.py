"""Where nodes stand among the layers of a network, graphs under reconstruction, and multiplied constraints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Constraint, Draft, Graph, between_layers, chained, earlier_than, front, later_than, verify
from snnc.sim.reference import run
from tests.graphs import Builder, mlp, samples


def network() -> Graph:
    """scale, tanh | conv, tanh, pool, (relu), conv | sigmoid, with a constant."""
    b = Builder({"x": (2, 4, 4)})
    b("norm", "scale", "x", factor=2.0)
    b("squash", "tanh", "norm")
    b("conv1", "conv", "squash", weight=np.ones((3, 2, 1, 1)))
    b("inner", "tanh", "conv1")
    b("pool", "avgpool", "inner")
    b("relu", "relu", "pool")
    b("conv2", "conv", "relu", weight=np.ones((2, 3, 1, 1)))
    b("shift", "constant", value=np.ones((2, 2, 2)))
    b("sum", "add", "conv2", "shift")
    return b.graph(b("share", "sigmoid", "sum"))


def test_parts() -> None:
    graph = network()
    assert front(graph) == {"norm", "squash", "shift"}
    assert between_layers(graph) == {"inner", "pool", "relu"}
    assert later_than(graph, "relu") == {"conv2", "sum", "share"}
    assert earlier_than(graph, "relu") == {"x", "norm", "squash", "conv1", "inner", "pool"}


def test_a_scale_that_a_relu_reads_is_its_synapse() -> None:
    b = Builder({"x": (3,)})
    b("norm", "scale", "x", factor=2.0)
    b("relu1", "relu", "norm")
    assert front(b.graph(b("dense", "dense", "relu1", weight=np.eye(3)))) == frozenset()


def chain(*between: str) -> Graph:
    """Two layers with the ops of one value `between` them, then neurons and a read-out."""
    b = Builder({"x": (2, 4, 4)})
    at = b("conv1", "conv", "x", weight=np.ones((2, 2, 1, 1)))
    for i, op in enumerate(between):
        own = {"scale": {"factor": 2.0}, "transpose": {"perm": (0, 2, 1)}, "gather": {"axis": 0, "index": (1, 0)}}
        at = b(f"{op}{i}", op, at, **own.get(op, {}))
    at = b("conv2", "conv", at, weight=np.ones((2, 2, 1, 1)))
    b("end", "relu", at)
    size = 8 if "avgpool" in between else 32
    return b.graph(b("out", "dense", b("flat", "reshape", "end", shape=(size,)), weight=np.ones((2, size))))


@pytest.mark.parametrize(
    ("between", "found"),
    [
        ((), {"conv1"}),
        (("transpose", "avgpool"), {"conv1"}),
        (("relu",), set()),
        (("scale",), {"scale0"}),
        (("relu", "scale"), set()),
        (("tanh",), set()),
        (("gather", "scale"), {"conv1", "scale1"}),
    ],
)
def test_layers_that_chain(between: tuple[str, ...], found: set[str]) -> None:
    graph = chain(*between)
    neurons = {n.name for n in graph.nodes if n.op in ("relu", "tanh")}
    assert chained(graph, neurons) == found


def test_a_read_out_may_chain() -> None:
    b = Builder({"x": (3,)})
    b("relu1", "relu", b("dense1", "dense", "x", weight=np.eye(3)))
    b("dense2", "dense", "relu1", weight=np.eye(3))
    assert chained(b.graph(b("dense3", "dense", "dense2", weight=np.eye(3))), {"relu1"}) == frozenset()


def test_a_draft_replaces_one_node_by_several() -> None:
    graph = mlp()
    draft = Draft(graph)
    node = graph["relu1"]
    twice = draft.add(node, "twice", "scale", "dense1", factor=2.0)
    positive = draft.add(node, "", "relu", twice)
    draft.replace(node, draft.add(node, "half", "scale", positive, factor=0.5))
    draft.replace(graph["dense2"], draft.add(graph["dense2"], "again", "dense", "relu1", *graph["dense2"].inputs[1:]))
    new = draft.finish()
    verify(new)
    assert [n.name for n in new.nodes] == ["dense1", "relu1.twice", "relu1", "relu1.half", "dense2.again"]
    x = samples(graph, 5)
    np.testing.assert_allclose(run(new, x)["out_dense2"], run(graph, x)["out_dense2"], atol=1e-6)


def test_names_of_a_draft_that_are_taken_are_avoided() -> None:
    b = Builder({"x": (3,)})
    b("a", "relu", "x")
    b("a.b", "relu", "a")
    graph = b.graph("a.b")
    draft = Draft(graph)
    assert draft.add(graph["a"], "b", "relu", "x") == "a.b_"
    assert draft.add(graph["a"], "b", "relu", "x") == "a.b__"


@given(st.integers(0, 2**16), st.sampled_from(["scalar", "row", "sign"]))
def test_levels_stay_levels_when_weights_are_multiplied(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    constraint = Constraint(4, rng.uniform(0.1, 1, (3, 1)).astype(np.float32))
    weight = constraint.project(rng.normal(size=(3, 5)))
    shape = {"scalar": (), "row": (3, 1), "sign": (3, 5)}[kind]
    factor = rng.uniform(0.1, 5, shape) if kind != "sign" else rng.choice([-1.0, 1.0], shape) * 0.7
    made, after = constraint.times(weight, np.asarray(factor, np.float32))
    assert after is not None
    np.testing.assert_array_equal(after.project(made), made)
    np.testing.assert_allclose(made, weight * factor, rtol=1e-6, atol=1e-7)
    assert after.scale is not None
    np.testing.assert_array_equal(np.abs(np.rint(made / after.scale)), np.abs(np.rint(weight / constraint.scale)))


def test_factors_that_differ_within_a_row_leave_the_grid() -> None:
    weight = np.ones((2, 3), np.float32)
    made, after = Constraint(4, np.ones((2, 1), np.float32)).times(weight, np.array([1.0, 2.0, 3.0], np.float32))
    assert after is None
    np.testing.assert_array_equal(made, [[1, 2, 3]] * 2)
    free = Constraint(mask=np.ones((2, 3), bool))
    assert free.times(weight, np.array([1.0, 2.0, 3.0], np.float32))[1] is free
