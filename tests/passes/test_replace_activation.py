"""replace-activation: fits, names that keep a teacher, notes, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from snnc.errors import PipelineError
from snnc.ir import Graph, to_text
from snnc.passes import ReplaceActivation
from snnc.passes.replace_activation import Corner
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, data_for, samples

ATTRS: dict[str, dict[str, Any]] = {
    "celu": {"alpha": 1.0},
    "elu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "selu": {"alpha": 1.6732632, "gamma": 1.0507010},
    "swish": {"alpha": 1.0},
    "thresholdedrelu": {"alpha": 0.5},
}
WORST = {"sign": 0.5, "thresholdedrelu": 0.35, "softplus": 0.25}
"""Of the deviation of the function, where it is not 0.2."""


def between(op: str, scale: float = 1.0) -> Graph:
    """`op` between two layers."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (6,)})
    b("dense1", "dense", "x", weight=scale * rng.normal(size=(8, 6)) / 6**0.5, bias=rng.normal(size=8) / 4)
    b("f", op, "dense1", **ATTRS.get(op, {}))
    return b.graph(b("dense2", "dense", "f", weight=rng.normal(size=(3, 8))))


def values(graph: Graph, x: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    run(graph, x, found)
    return found


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("op", sorted(ReplaceActivation.rewrites))
def test_the_fit_and_what_it_says_of_itself(op: str, scale: float) -> None:
    graph = between(op, scale)
    data = data_for(graph, 300)
    ctx = Context(data)
    new = ReplaceActivation().run(graph, ctx)
    x = {"x": data.train.x()}
    ours, theirs = values(new, x), values(graph, x)
    signed = "f.both" in new
    away = ours["f.both" if signed else "f"] - theirs["f"]
    error = float(np.sqrt(np.mean(away**2)) / theirs["f"].std())
    assert error < WORST.get(op, 0.2)
    (note,) = ctx.notes
    assert note.startswith(f"f ({op}) became relus, off by ")
    assert float(note.split("off by ")[1].split("%")[0]) / 100 == pytest.approx(error, abs=0.05)
    assert ReplaceActivation().run(new, Context(data)) is new


@pytest.mark.parametrize("op", sorted(ReplaceActivation.rewrites))
def test_the_named_neurons_are_comparable_with_the_teacher(op: str) -> None:
    """In units of the function: what a trainer compares is the teacher's value, cut at 0."""
    graph = between(op)
    data = data_for(graph, 300)
    new = ReplaceActivation().run(graph, Context(data))
    x = {"x": data.train.x()}
    ours, wanted = values(new, x)["f"], np.maximum(values(graph, x)["f"], 0)
    assert new["f"].op == "relu"
    assert np.sqrt(np.mean((ours - wanted) ** 2)) < 0.35 * wanted.std()


def test_bounded_functions_get_bounds() -> None:
    data = data_for(between("tanh"), 300)
    new = ReplaceActivation().run(between("tanh", 5.0), Context(data))
    assert 0.85 < float(str(new["f"].attrs["max"])) < 1.05
    assert 0.85 < float(str(new["f.off"].attrs["max"])) < 1.05
    assert "max" not in ReplaceActivation().run(between("softplus"), Context(data))["f"].attrs


def test_a_corner_that_is_one_is_found() -> None:
    x = np.linspace(-3, 3, 601)
    made = Corner.fit(x, np.clip(0.5 * (x + 1), 0, 0.75), True)
    assert made(x) == pytest.approx(np.clip(0.5 * (x + 1), 0, 0.75), abs=0.03)
    assert math.isclose(made.high or 0, 0.75, rel_tol=0.05)
    flat = Corner.fit(np.zeros(5), np.zeros(5), True)
    assert flat(np.zeros(5)).tolist() == [0] * 5


def test_both_ends_stay_analog_and_data_is_asked_for_by_name() -> None:
    b = Builder({"x": (3,)})
    b("raw", "tanh", "x")
    b("dense1", "dense", "raw", weight=np.eye(3))
    graph = b.graph(b("end", "sigmoid", "dense1"))
    assert ReplaceActivation().run(graph, Context()) is graph
    ctx = Context()
    assert ReplaceActivation().run(between("tanh"), ctx)["f"].op == "relu"
    assert ctx.notes[0] == "no data: fitted to inputs from -4 to 4"
    with pytest.raises(PipelineError, match="'replace-activation' cannot work with samples=0"):
        ReplaceActivation(samples=0)


def test_golden_replace_activation(golden: Golden) -> None:
    graph = between("tanh")
    new = ReplaceActivation().run(graph, Context())
    bound = [n.with_attrs(max=1.0) if n.op == "relu" else n for n in new.nodes]
    golden(to_text(graph) + "\n" + to_text(new.edit(bound)))
    assert run(new, samples(graph, 3))["out_dense2"].shape == (3, 3)
