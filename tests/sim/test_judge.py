"""Each layer's error against the teacher."""

from __future__ import annotations

import numpy as np
import pytest

from snnc.ir import Constraint
from snnc.sim.judge import layer_errors
from tests.graphs import Builder


def test_layer_errors_by_hand() -> None:
    """theta * count against the relu, relative; x = 3 and theta = 2 make one spike, worth 2, of 3."""
    b = Builder({"x": (2,)})
    b("layer", "relu", "x")
    teacher = b.graph(b("only_here", "relu", "layer"))
    b = Builder({"x": (2,)}, 4)
    b("current", "encode", "x", code="first-step")
    b("layer", "lif", "current", theta=2)
    graph = b.graph(b("count", "decode", "layer"))
    x = np.array([[3, 0], [4, -5]], np.float32)
    assert layer_errors(graph, teacher, x) == {"layer": pytest.approx(1 / 5)}
    assert layer_errors(graph, teacher, np.array([[4, 8]], np.float32)) == {"layer": 0}


def test_thresholds_per_channel_weigh_their_own_channel() -> None:
    b = Builder({"x": (2, 1, 1)})
    teacher = b.graph(b("layer", "relu", "x"))
    b = Builder({"x": (2, 1, 1)}, 4)
    b("current", "encode", "x", code="first-step")
    b("layer", "lif", "current", theta=[1, 3])
    graph = b.graph(b("count", "decode", "layer"))
    x = np.array([[[[4]], [[6]]]], np.float32)
    assert layer_errors(graph, teacher, x) == {"layer": 0}


def test_layers_of_another_shape_are_left_out() -> None:
    b = Builder({"x": (2,)})
    teacher = b.graph(b("layer", "relu", "x"))
    b = Builder({"x": (2,)}, 4)
    b("current", "encode", "x")
    b("wide", "dense", "current", weight=np.ones((3, 2)))
    b("layer", "lif", "wide")
    assert layer_errors(b.graph(b("count", "decode", "layer")), teacher, np.ones((1, 2), np.float32)) == {}


def test_neurons_in_weight_steps_have_no_error_in_the_teachers_units() -> None:
    b = Builder({"x": (2,)})
    teacher = b.graph(b("layer", "relu", b("sum", "dense", "x", weight=[[0.5, -0.5]])))
    b = Builder({"x": (2,)}, 4)
    b("current", "encode", "x", code="first-step")
    b("layer", "lif", b("sum", "dense", "current", weight=[[1, -1]]), theta=2)
    graph = b.graph(b("count", "decode", "layer"))
    x = np.array([[3, 1]], np.float32)
    assert set(layer_errors(graph, teacher, x)) == {"layer"}
    integers = graph.edit(constraints={"sum.weight": Constraint(bits=4, scale=np.ones((), np.float32))})
    assert layer_errors(integers, teacher, x) == {}
