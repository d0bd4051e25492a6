"""The graph itself: editing, constraints, write protection."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import GraphError
from snnc.ir import Constraint, Graph, Node
from tests.graphs import Builder, lenet, mlp, spiking


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def relus(*lines: tuple[str, str]) -> list[Node]:
    return [Node(name, "relu", (read,)) for name, read in lines]


def empty() -> Graph:
    b = Builder({"x": (3,)})
    return b.graph(b("start", "relu", "x"))


def test_edit_sorts_and_keeps_the_order_where_it_can() -> None:
    nodes = [Node("d", "add", ("c", "a")), *relus(("c", "b"), ("a", "x"), ("b", "x"))]
    assert names(empty().edit(nodes, outputs={"y": "d"})) == ["a", "b", "c", "d"]


def test_edit_prunes_what_no_output_needs() -> None:
    graph = empty().edit(relus(("a", "x"), ("b", "a"), ("dead", "a"), ("deader", "dead")), outputs={"y": "b"})
    assert names(graph) == ["a", "b"]


def test_edit_drops_unread_params_and_their_constraints() -> None:
    graph = mlp()
    kept = Constraint(mask=np.ones((8, 12), bool))
    graph = graph.edit(constraints={"dense1.weight": kept, "dense2.weight": Constraint(mask=np.ones((3, 8), bool))})
    cut = graph.edit(params={"stray": np.zeros(3, np.float32)}, outputs={"y": "relu1"})
    assert set(cut.params) == {"dense1.weight", "dense1.bias"}
    assert set(cut.constraints) == {"dense1.weight"}


def test_edit_infers_types_anew() -> None:
    graph = mlp().edit(params={"dense2.weight": np.ones((5, 8), np.float32), "dense2.bias": np.ones(5, np.float32)})
    assert graph.type("dense2").shape == (5,)


def test_edit_leaves_the_graph_alone() -> None:
    graph = mlp()
    before = dict(graph.params)
    graph.edit(params={"dense1.bias": np.zeros(8, np.float32)}, outputs={"y": "relu1"})
    assert dict(graph.params) == before
    assert names(graph) == ["dense1", "relu1", "dense2"]


def test_renames_chain_and_reach_outputs() -> None:
    graph = empty().edit(relus(("a", "x"), ("b", "a"), ("c", "b"), ("d", "c")), outputs={"y": "d", "z": "c"})
    cut = graph.edit(rename={"c": "b", "b": "a"})
    assert names(cut) == ["a", "d"]
    assert cut["d"].inputs == ("a",)
    assert dict(cut.outputs) == {"y": "d", "z": "a"}


def test_renames_in_a_circle_are_refused() -> None:
    with pytest.raises(GraphError, match="in a circle"):
        empty().edit(relus(("a", "x")), rename={"x": "q", "q": "x"}, outputs={"y": "a"})


def test_cycle_is_named() -> None:
    with pytest.raises(GraphError, match=r"cycle without a delay: (a -> b|b -> a)"):
        empty().edit([Node("a", "add", ("x", "b")), *relus(("b", "a"))], outputs={"y": "b"})


def test_cycle_that_no_output_needs_goes_unnoticed() -> None:
    assert names(empty().edit(relus(("a", "b"), ("b", "a"), ("c", "x")), outputs={"y": "c"})) == ["c"]


def test_reading_nothing_is_refused() -> None:
    with pytest.raises(GraphError, match=r"'ghost' is read but nothing makes it\n  at: a \(relu\)"):
        empty().edit(relus(("a", "ghost")), outputs={"y": "a"})


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(GraphError, match="two nodes are named 'a'"):
        empty().edit(relus(("a", "x"), ("a", "x")), outputs={"y": "a"})


def test_unknown_node_names_the_candidates() -> None:
    with pytest.raises(GraphError, match=r"no node is named 'dense3'\n  try: one of dense1, relu1, dense2"):
        mlp()["dense3"]


def test_fresh_avoids_inputs_nodes_and_params() -> None:
    graph = mlp()
    assert [graph.fresh(stem) for stem in ("new", "x", "relu1", "dense1.bias")] == [
        "new",
        "x2",
        "relu12",
        "dense1.bias2",
    ]


def test_questions_about_the_neighbourhood() -> None:
    graph = lenet()
    assert [node.name for node in graph.users("relu1")] == ["pool1"]
    assert graph.values(graph["conv1"]) == ("image",)
    assert graph.feeds("conv1", "dense")
    assert not graph.feeds("dense1", "conv")
    assert graph.is_output("dense2")
    assert not graph.is_output("dense1")


def test_arrays_cannot_be_changed_from_either_side() -> None:
    mine = np.ones((3, 3), np.float32)
    b = Builder({"x": (3,)})
    b("d", "dense", "x", weight=mine)
    graph = b.graph("d").edit(params={"d.weight": mine}, constraints={"d.weight": Constraint(mask=mine > 0)})
    mine[:] = 7
    assert (graph.params["d.weight"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        graph.params["d.weight"][0] = 2
    with pytest.raises(ValueError, match="read-only"):
        graph.arrays()["d.weight@mask"][0] = False
    with pytest.raises(TypeError):
        graph.params["d.weight"] = mine  # type: ignore[index]
    with pytest.raises(TypeError):
        graph["d"].attrs["bias_at"] = "per-step"  # type: ignore[index]


def test_unchanged_arrays_are_shared_not_copied() -> None:
    graph = spiking()
    assert graph.edit().params["conv1.weight"] is graph.params["conv1.weight"]


def test_graphs_are_not_pickled() -> None:
    with pytest.raises(TypeError, match=r"use snnc.ir.to_text and Graph.arrays"):
        pickle.dumps(mlp()["relu1"])


def test_projection_rounds_ties_to_even_clips_and_masks() -> None:
    constraint = Constraint(3, np.full((), 0.5, np.float32), np.array([True] * 7 + [False]))
    param = np.array([0.25, 0.75, -0.75, 1.25, 9, -9, 0.3, 1], np.float32)
    assert constraint.project(param).tolist() == [0, 1, -1, 1, 1.5, -1.5, 0.5, 0]


def test_top_level_is_symmetric_and_needs_bits() -> None:
    assert [Constraint(bits, np.ones((), np.float32)).top_level for bits in (2, 4, 8)] == [1, 7, 127]
    with pytest.raises(GraphError, match="has no levels"):
        _ = Constraint(mask=np.ones(3, bool)).top_level


@given(st.integers(2, 8), st.integers(0, 2**16))
def test_projection_is_idempotent(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = rng.lognormal(sigma=4, size=(6, 1)).astype(np.float32)
    constraint = Constraint(bits, scale, rng.random((6, 50)) < 0.7)
    param = (rng.normal(size=(6, 50)) * scale * 2**bits / 2).astype(np.float32)
    once = constraint.project(param)
    np.testing.assert_array_equal(constraint.project(once), once)
    assert (np.abs(once - np.clip(param, -constraint.top_level * scale, constraint.top_level * scale))[constraint.mask]
            <= (0.5001 * scale * np.ones_like(param))[constraint.mask]).all()  # fmt: skip
