"""400 random models: the import computes what two independent oracles compute, and exact steps change nothing.

`python benchmarks/random_models.py` does the same over more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from onnx import TensorProto, helper

from snnc.ir import Graph
from tests.importer import oracles
from tests.importer.grammar import Sample, models
from tests.importer.oracles import MismatchError, Tally, examine

COUNT = 400
TALLY = Tally()


@settings(
    max_examples=COUNT,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(sample=models())
def examine_many(sample: Sample) -> None:
    """Every model that hypothesis draws, shrunk where one fails."""
    examine(sample, TALLY)


def test_random_models_are_imported_right_and_exact_steps_change_nothing() -> None:
    examine_many()
    assert TALLY.models >= COUNT
    assert not TALLY.refused, str(TALLY)
    assert sum(TALLY.aside.values()) <= COUNT // 100, str(TALLY)
    assert len(TALLY.ops) >= 40, str(TALLY)
    assert TALLY.equal - TALLY.one_oracle >= COUNT // 2, str(TALLY)
    assert all(count >= COUNT * 0.98 for count in TALLY.steps.values()), str(TALLY)


def _small() -> Sample:
    """Two layers with a relu between them."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(3, 3)).astype(np.float32) for name in "vw"}
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])] for name in "xy"]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "small", *ends, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return Sample(model, {"x": rng.normal(size=(2, 3)).astype(np.float32)})


def _scaled(factor: float) -> Any:
    """A step that multiplies the first weight."""

    def step(graph: Graph) -> Graph:
        name = next(iter(graph.params))
        return graph.edit(params={name: (graph.params[name] * factor).astype(np.float32)})

    return step


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (_scaled(1.001), "a step is off by"),
        (_scaled(1.000001), "a second time it makes something else"),
        (lambda graph: graph.edit(outputs={"other": graph.outputs["y"]}), "outputs"),
    ],
)
def test_a_step_that_changes_something_is_seen(monkeypatch: pytest.MonkeyPatch, step: Any, text: str) -> None:
    examine(_small(), Tally())
    monkeypatch.setattr(oracles, "STEPS", {"a step": step})
    with pytest.raises(MismatchError, match=text):
        examine(_small(), Tally())


def test_an_import_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = oracles.run
    monkeypatch.setattr(oracles, "run", lambda graph, x: {k: v * 1.001 for k, v in right(graph, x).items()})
    with pytest.raises(MismatchError, match="the import is off by"):
        examine(_small(), Tally())
