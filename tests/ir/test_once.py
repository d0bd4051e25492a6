"""What follows from a graph alone: found once, and let go of with the graph."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from snnc.ir import Graph, Node, TensorType, last_read, params_of
from snnc.ir.once import once


def graph() -> Graph:
    start = Graph({"x": TensorType("analog", (2,))}, (), {}, {})
    nodes = [
        Node("a", "dense", ("x", "a.weight", "a.bias")),
        Node("b", "relu", ("a",)),
        Node("c", "add", ("a", "b")),
        Node("d", "add", ("c", "c")),
    ]
    params = {"a.weight": np.eye(2, dtype=np.float32), "a.bias": np.ones(2, np.float32)}
    return start.edit(nodes, params=params, outputs={"y": "d"})


def test_a_fact_is_found_once_for_each_graph() -> None:
    asked: list[int] = []

    @once
    def size(graph: Graph) -> int:
        asked.append(len(graph.nodes))
        return len(graph.nodes)

    one, two = graph(), graph()
    assert [size(one), size(one), size(two)] == [4, 4, 4]
    assert asked == [4, 4]


def test_a_graph_that_was_asked_of_is_let_go_of() -> None:
    made = graph()
    last_read(made)
    params_of(made)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_values_are_read_for_the_last_time_once_each() -> None:
    assert last_read(graph()) == {"a": ("x",), "b": (), "c": ("a", "b"), "d": ("c",)}


def test_params_are_named_by_role() -> None:
    assert params_of(graph()) == {"a": {"weight": "a.weight", "bias": "a.bias"}, "b": {}, "c": {}, "d": {}}
