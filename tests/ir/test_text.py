"""The text form: golden, exact round trip, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import GraphError
from snnc.ir import Constraint, Graph, Stage, parse, to_text
from tests.conftest import Golden
from tests.graphs import analog_graphs, lenet, spiking, spiking_graphs


def same(a: Graph, b: Graph) -> bool:
    """Whether two graphs agree in everything but the teacher."""
    arrays, others = a.arrays(), b.arrays()
    return (
        (a.inputs, a.nodes, a.outputs, a.stage, a.steps) == (b.inputs, b.nodes, b.outputs, b.stage, b.steps)
        and {k: c.bits for k, c in a.constraints.items()} == {k: c.bits for k, c in b.constraints.items()}
        and list(arrays) == list(others)
        and all(np.array_equal(arrays[k], others[k]) and arrays[k].dtype == others[k].dtype for k in arrays)
    )


def constrained(graph: Graph, seed: int) -> Graph:
    """With a grid, a mask, or both on every weight."""
    rng = np.random.default_rng(seed)
    constraints, params = {}, {}
    for i, (name, param) in enumerate(p for p in graph.params.items() if p[0].endswith("weight")):
        mask = rng.random(param.shape) < 0.5 if (seed + i) % 3 else None
        bits, scale = (
            (int(rng.integers(2, 9)), np.float32(rng.lognormal())) if (seed + i) % 2 or mask is None else (None, None)
        )
        constraints[name] = Constraint(bits, None if scale is None else np.asarray(scale), mask)
        params[name] = constraints[name].project(param)
    return graph.edit(params=params, constraints=constraints, stage=Stage.CONSTRAINED)


@given(analog_graphs())
def test_round_trip_of_analog_graphs(graph: Graph) -> None:
    assert same(parse(to_text(graph), graph.arrays()), graph)


@given(spiking_graphs(), st.integers(0, 100), st.text(max_size=20))
def test_round_trip_of_constrained_graphs_with_teacher_and_origins(graph: Graph, seed: int, origin: str) -> None:
    nodes = tuple(replace(n, origin=(origin, "} from [")) for n in graph.nodes)
    graph = replace(constrained(replace(graph, nodes=nodes), seed), teacher=lenet())
    again = parse(to_text(graph), graph.arrays(), graph.teacher)
    assert same(again, graph)
    assert again.teacher is graph.teacher
    assert to_text(again) == to_text(graph)


def test_placed_graphs_round_trip() -> None:
    graph = replace(spiking(), stage=Stage.PLACED)
    assert same(parse(to_text(graph), graph.arrays()), graph)


def test_golden_text(golden: Golden) -> None:
    graph = spiking()
    nodes = [replace(n, origin=("/net/conv1/Conv", 'odd "name"')) if n.name == "conv1" else n for n in graph.nodes]
    weight = graph.params["dense1.weight"]
    constraint = Constraint(4, np.ones((4, 1), np.float32), weight != 0)
    golden(to_text(graph.edit(nodes, constraints={"dense1.weight": constraint}, stage=Stage.CONSTRAINED)))


def broken(old: str, new: str) -> str:
    graph = spiking()
    text = to_text(graph)
    assert old in text
    with pytest.raises(GraphError) as caught:
        parse(text.replace(old, new), graph.arrays())
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("stage spiking", "stage flying", 2),
        ("steps 4", "steps four", 3),
        ("input image: analog", "input image: digital", 4),
        ("float32[2,6,6]\nparam", "float32[2,,6]\nparam", 4),
        ("param conv1.bias: float32[3]", "param conv1.bias: float32[4]", 5),
        ("param conv1.bias", "param conv1.bies", 5),
        ("relu1: spikes", "relu1; spikes", 19),
        ('{"reset":"subtract"}', '{"reset":"subtract"', 19),
        ("sum: current float32[3,3,3]", "sum: current float64[3,3,3]", 23),
    ],
)
def test_malformed_lines_are_named(old: str, new: str, line: int) -> None:
    message = broken(old, new)
    assert message.startswith(f"line {line} of the graph text is malformed: ")
    assert "  at: " in message


def test_bad_constraints_are_malformed() -> None:
    graph = constrained(spiking(), 1)
    for old, new in ((f'"bits":{graph.constraints["conv1.weight"].bits}', '"bits":99'), ('"bits":', '"bots":')):
        with pytest.raises(GraphError, match=r"line \d+ of the graph text is malformed"):
            parse(to_text(graph).replace(old, new), graph.arrays())


@pytest.mark.parametrize("text", ["", "snnc-graph 2\n", "{}", "\x00" * 100])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(GraphError, match="does not begin with 'snnc-graph 1'"):
        parse(text, {})


def test_well_formed_lies_are_caught_by_the_verifier() -> None:
    assert "is declared current float32[9,9] but makes" in broken(
        "sum: current float32[3,3,3]", "sum: current float32[9,9]"
    )
    assert "which nothing makes" in broken("= scores\n", "= nobody\n")


def test_a_missing_array_is_named() -> None:
    graph = constrained(spiking(), 1)
    for name in ("conv1.weight", "conv1.weight@scale"):
        arrays = {k: v for k, v in graph.arrays().items() if k != name}
        with pytest.raises(GraphError, match=name):
            parse(to_text(graph), arrays)
