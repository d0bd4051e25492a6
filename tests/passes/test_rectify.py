"""rectify: every piecewise linear function as relus, exactly; names that keep a teacher; what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Graph, to_text
from snnc.passes import Rectify
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, samples


def between(op: str, values: int = 1, **parts: Any) -> Graph:
    """`op` between two layers that one input feeds."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (4, 2, 3)})
    read = [b(f"conv{i}", "conv", "x", weight=rng.normal(size=(4, 4, 1, 1))) for i in range(values)]
    b("f", op, *read, **parts)
    b("flat", "reshape", "f", shape=(24,))
    return b.graph(b("head", "dense", "flat", weight=rng.normal(size=(3, 24))))


CASES: list[tuple[str, int, dict[str, Any], list[str]]] = [
    ("leakyrelu", 1, {"slope": 0.1}, ["f", "f.off"]),
    ("leakyrelu", 1, {"slope": [0.1, 0.0, 0.5, 2.0]}, ["f", "f.off"]),
    ("leakyrelu", 1, {"slope": [0.1, -0.5, 0.0, 1.5]}, ["f.left", "f.right"]),
    ("leakyrelu", 1, {"slope": 0.0}, ["f"]),
    ("leakyrelu", 1, {"slope": np.linspace(-1, 1, 24).reshape(4, 2, 3)}, ["f.left", "f.right"]),
    ("abs", 1, {}, ["f.left", "f.right"]),
    ("clip", 1, {"min": -0.5, "max": 0.25}, ["f", "f.off"]),
    ("clip", 1, {"min": 0.0, "max": 0.25}, ["f"]),
    ("clip", 1, {"min": 0.2, "max": 0.5}, ["f.over"]),
    ("clip", 1, {"min": -0.7, "max": -0.2}, ["f.under"]),
    ("clip", 1, {"min": -0.7}, ["f", "f.off"]),
    ("clip", 1, {"max": 0.7}, ["f", "f.off"]),
    ("clip", 1, {"min": 0.1}, ["f.over"]),
    ("clip", 1, {"max": -0.1}, ["f.under"]),
    ("clip", 1, {"min": 0.5, "max": 0.1}, ["f.over"]),
    ("hardsigmoid", 1, {"alpha": 0.3, "beta": 0.4}, ["f"]),
    ("maximum", 2, {}, ["f.over"]),
    ("minimum", 2, {}, ["f.over"]),
    ("maximum", 3, {}, ["f.over1", "f.over2"]),
    ("minimum", 3, {}, ["f.over1", "f.over2"]),
]


@pytest.mark.parametrize(("op", "values", "parts", "relus"), CASES)
def test_nothing_changes_but_the_form(op: str, values: int, parts: dict[str, Any], relus: list[str]) -> None:
    graph, ctx = between(op, values, **parts), Context()
    new = Rectify().run(graph, ctx)
    assert not any(n.op == op for n in new.nodes)
    assert sorted(n.name for n in new.nodes if n.op == "relu") == relus
    x = samples(graph, 50)
    np.testing.assert_allclose(run(new, x)["out_head"], run(graph, x)["out_head"], rtol=1e-6, atol=1e-6)
    assert Rectify().run(new, Context()) is new
    assert ctx.notes == []


@given(st.sampled_from(CASES), st.integers(0, 2**16))
def test_the_named_half_is_the_function_where_that_is_positive(
    case: tuple[str, int, dict[str, Any], list[str]], seed: int
) -> None:
    """What a trainer compares: the teacher's value of the same name, cut at 0; its other half is `NAME.off`."""
    op, values, parts, relus = case
    graph = between(op, values, **parts)
    new, x = Rectify().run(graph, Context()), samples(graph, 20, seed)
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    run(new, x, ours)
    run(graph, x, theirs)
    if "f" in relus:
        np.testing.assert_allclose(ours["f"], np.maximum(theirs["f"], 0), atol=1e-6)
    if "f.off" in relus:
        np.testing.assert_allclose(ours["f.off"], np.maximum(-theirs["f"], 0), atol=1e-6)


def test_every_op_it_declares_has_a_form_and_the_other_way_round() -> None:
    assert {case[0] for case in CASES} == set(Rectify.rewrites)


def test_only_between_layers() -> None:
    b = Builder({"x": (3,)})
    b("raw", "clip", "x", min=0.0, max=1.0)
    b("dense1", "dense", "raw", weight=np.eye(3))
    graph = b.graph(b("end", "abs", "dense1"))
    assert Rectify().run(graph, Context()) is graph


def test_outputs_and_other_readers_follow() -> None:
    b = Builder({"x": (3,)})
    b("dense1", "dense", "x", weight=np.eye(3))
    b("f", "leakyrelu", "dense1", slope=0.5)
    b("dense2", "dense", "f", weight=np.eye(3))
    b("g", "abs", "f")
    graph = b.graph(b("dense3", "dense", "g", weight=np.eye(3)), "dense2", "f")
    new = Rectify().run(graph, Context())
    assert new.outputs["out_f"] == "f.both"
    x = samples(graph, 9)
    for name, value in run(graph, x).items():
        np.testing.assert_allclose(run(new, x)[name], value, atol=1e-6)


def test_golden_rectify(golden: Golden) -> None:
    graph = between("leakyrelu", slope=0.1)
    golden(to_text(graph) + "\n" + to_text(Rectify().run(graph, Context())))
