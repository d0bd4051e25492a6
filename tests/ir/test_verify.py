"""The verifier lists everything that is wrong, at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from snnc.errors import GraphError
from snnc.ir import Constraint, Graph, Stage, TensorType, verify
from tests.graphs import mlp, spiking


def text(graph: Graph) -> str:
    with pytest.raises(GraphError) as caught:
        verify(graph)
    return str(caught.value)


def test_all_violations_at_once() -> None:
    good = spiking()
    nodes = list(good.nodes)
    relu1 = next(i for i, n in enumerate(nodes) if n.name == "relu1")
    nodes[relu1] = replace(nodes[relu1], type=TensorType("spikes", (9, 9, 9)))
    nodes[-1] = replace(nodes[-1], op="gilu")
    conv2 = good.params["conv2.weight"]
    params = {
        **good.params,
        "bad name": np.zeros(1, np.float32),
        "skip.factor": np.float32(np.nan) * np.ones((), np.float32),
        "dense1.bias": good.params["dense1.bias"].astype(np.float64),
    }
    constraints = {
        "conv2.weight": Constraint(mask=np.zeros(conv2.shape, bool)),
        "ghost": Constraint(4, np.ones((), np.float32)),
    }
    bad = Graph(good.inputs, tuple(nodes), params, {"y": "nobody"}, Stage.SPIKING, 0, constraints)
    message = text(bad)
    assert message.startswith("the graph breaks 10 invariant(s)\n")
    for part in (
        "'bad name' is no valid name",
        "is declared spikes float32[9,9,9] but makes spikes float32[3,6,6]\n      at: relu1 (lif)",
        "unknown op 'gilu'",
        "output 'y' is 'nobody', which nothing makes",
        "param 'bad name' is read by nothing",
        "param 'skip.factor' holds NaN or infinity",
        "param 'dense1.bias' is float64, not float32",
        f"{np.count_nonzero(conv2)} of {conv2.size} values of 'conv2.weight' break its constraint",
        "a constraint is on 'ghost', which is no param",
        "a graph of stage spiking with 0 steps",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["a b", "a(b", "a,b", "a:b", "", "naïve", "a\n"])
def test_names_that_the_text_form_cannot_hold(name: str) -> None:
    graph = mlp()
    first = replace(graph["dense1"], name=name)
    second = replace(graph["relu1"], inputs=(name,))
    assert "is no valid name" in text(replace(graph, nodes=(first, second, graph["dense2"])))
    assert "is no valid name" in text(replace(graph, outputs={name: "dense2"}))


def test_one_name_for_two_things() -> None:
    graph = mlp()
    nodes = (*graph.nodes, replace(graph["dense2"], name="dense1.bias"), replace(graph["relu1"], name="x"))
    message = text(replace(graph, nodes=nodes))
    assert "two things are named 'dense1.bias'" in message
    assert "two things are named 'x'" in message


@pytest.mark.parametrize(
    ("constraint", "part"),
    [
        (Constraint(bits=4), "bits without scale, or scale without bits"),
        (Constraint(scale=np.ones((), np.float32)), "bits without scale, or scale without bits"),
        (Constraint(mask=np.ones((8, 11), bool)), "is not bool[8, 12]"),
        (Constraint(mask=np.ones((8, 12), np.float32)), "is not bool[8, 12]"),
        (Constraint(4, np.zeros((8, 1), np.float32)), "is not positive float32"),
        (Constraint(4, np.ones((3, 1), np.float32)), "broadcastable to [8, 12]"),
        (Constraint(4, np.ones((1, 8, 12), np.float32)), "broadcastable to [8, 12]"),
        (Constraint(4, np.full((), 0.01, np.float32)), "of 96 values of 'dense1.weight' break its constraint"),
    ],
)
def test_constraints(constraint: Constraint, part: str) -> None:
    graph = replace(mlp(), stage=Stage.CONSTRAINED, steps=4, constraints={"dense1.weight": constraint})
    assert part in text(graph)


def test_stages() -> None:
    analog = mlp()
    assert "a graph of stage analog with 4 steps" in text(replace(analog, steps=4))
    assert "a graph of stage spiking with -1 steps" in text(replace(analog, stage=Stage.SPIKING, steps=-1))
    grid = {"dense1.weight": Constraint(8, np.ones((), np.float32))}
    rounded = analog.edit(params={"dense1.weight": np.rint(3 * analog.params["dense1.weight"])}, constraints=grid)
    verify(rounded)  # weights that came quantized
    assert "a constrained graph carries no constraint" in text(replace(analog, stage=Stage.CONSTRAINED, steps=4))
    message = text(replace(spiking(), stage=Stage.ANALOG, steps=0))
    assert "op 'encode' has no place in a graph of stage analog" in message
    assert "op 'lif' has no place in a graph of stage analog" in message


def test_outputs_must_be_decoded() -> None:
    graph = spiking()
    assert "output 'dense1' is current: it needs a decode" in text(replace(graph, outputs={"y": "dense1"}))
    assert "the graph has no outputs" in text(replace(graph, outputs={}))


def test_inputs_are_analog() -> None:
    assert "input 'x' is not analog" in text(replace(mlp(), inputs={"x": TensorType("current", (12,))}))


def test_bias_at_goes_with_time_stepped_biases() -> None:
    analog, timed = mlp(), spiking()
    problem = "bias_at belongs to a time-stepped op with a bias, and to nothing else"
    nodes = tuple(n.with_attrs(bias_at="per-step") if n.op == "dense" else n for n in analog.nodes)
    assert text(replace(analog, nodes=nodes)).count(problem) == 2
    nodes = tuple(n.with_attrs(bias_at="per-step") if n.name == "conv2" else n for n in timed.nodes)
    assert problem in text(replace(timed, nodes=nodes))
    bare = tuple(
        replace(n, attrs={k: v for k, v in n.attrs.items() if k != "bias_at"}) if n.name == "conv1" else n
        for n in timed.nodes
    )
    assert problem in text(replace(timed, nodes=bare))


def test_the_order_is_checked() -> None:
    graph = mlp()
    assert "'relu1' is read but nothing makes it" in text(replace(graph, nodes=graph.nodes[::-1]))


def test_teachers_are_plain_and_analog() -> None:
    good = spiking()
    verify(replace(good, teacher=mlp()))
    assert "the teacher is not a plain analog graph" in text(replace(good, teacher=good))
    assert "the teacher is not a plain analog graph" in text(replace(good, teacher=replace(mlp(), teacher=mlp())))
    assert "in the teacher: the graph has no outputs" in text(replace(good, teacher=replace(mlp(), outputs={})))
