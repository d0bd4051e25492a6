"""The scores that a cross-entropy reads, before what keeps their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.train.readout import readout
from tests.graphs import Builder

Lower = Callable[..., Graph]


def headed(*head: tuple[str, dict[str, Any]], classes: int = 4) -> Graph:
    """Three inputs, five neurons, a read-out, and these ops behind it."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (3,)}, 4)
    b("current", "encode", "x")
    b("d1", "dense", "current", weight=rng.normal(size=(5, 3)))
    b("n1", "lif", "d1")
    b("d2", "dense", "n1", weight=rng.normal(size=(classes, 5)))
    at = b("read", "decode", "d2")
    for i, (op, parts) in enumerate(head):
        at = b(f"h{i}", op, at, **parts)
    return b.graph(at)


def test_the_readout_is_found_before_any_softmax(lowered: Lower) -> None:
    graph = lowered()
    assert graph.outputs == {"y": "probabilities"}
    assert readout(graph) == "fc3.decoded"
    twice = graph.edit(
        [*graph.nodes, replace(graph["probabilities"], name="again", op="logsoftmax", inputs=("probabilities",))],
        outputs={"y": "again"},
    )
    assert readout(twice) == "fc3.decoded"
    assert readout(graph.edit(outputs={"y": "fc3.decoded"})) == "fc3.decoded"


QUANTIZE: tuple[str, dict[str, Any]] = ("quantize", {"step": 0.1, "zero": 0, "min": -128, "max": 127})


@pytest.mark.parametrize(
    ("head", "scores"),
    [
        ([("sigmoid", {})], "read"),
        ([("argmax", {"axis": 0, "last": 0})], "read"),
        ([("softmax", {"axis": 0}), ("argmax", {"axis": 0, "last": 0})], "read"),
        ([QUANTIZE, ("scale", {"factor": 0.1})], "read"),
        ([("reshape", {"shape": (4, 1)}), ("softmax", {"axis": 0}), ("reshape", {"shape": (4,)})], "h0"),
        ([("reshape", {"shape": (2, 2)}), ("softmax", {"axis": 0})], "h1"),
        ([("scale", {"factor": 2.0})], "h0"),
        ([("abs", {}), ("sigmoid", {})], "h0"),
        ([("scale", {"factor": -1.0}), ("sigmoid", {})], "h0"),
        ([("scale", {"factor": [1, 2, 3, 4]}), ("tanh", {})], "h0"),
        ([("sigmoid", {}), ("scale", {"factor": -1.0}), ("sigmoid", {})], "h1"),
        ([("sigmoid", {}), ("scale", {"factor": [1, 2, 3, 4]}), ("sigmoid", {})], "h1"),
        ([("sigmoid", {}), ("scale", {"factor": 2.0, "bias": 1.0}), ("sigmoid", {})], "read"),
        ([("scale", {"factor": 2.0, "bias": 1.0}), ("sigmoid", {})], "h0"),
    ],
)
def test_what_keeps_the_order_is_passed_and_nothing_else(head: list[tuple[str, dict[str, Any]]], scores: str) -> None:
    assert readout(headed(*head)) == scores


def test_scores_without_a_gradient_are_refused() -> None:
    with pytest.raises(PipelineError, match="the scores come through 'round', which has no gradient") as caught:
        readout(headed(("round", {}), ("abs", {})))
    assert "h0" in caught.value.at
    assert "drop-rounding" in caught.value.hint


def test_several_outputs_are_refused(lowered: Lower) -> None:
    graph = lowered()
    with pytest.raises(PipelineError, match="needs one output, not 2: y, z"):
        readout(graph.edit(outputs={"y": "fc3.decoded", "z": "probabilities"}))
