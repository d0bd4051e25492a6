"""Small ONNX models written to disk, and the check that what is imported computes what ONNX computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from snnc.importer import judge, load
from snnc.ir import Graph
from snnc.sim.reference import run

Line = tuple[str, str, str] | tuple[str, str, str, dict[str, Any]]
Save = Callable[..., Path]
Check = Callable[..., Graph]


def node(line: Line) -> onnx.NodeProto:
    """A node from (op, inputs, outputs, attributes); names apart by blanks, `_` for one left out."""
    op, inputs, outputs, *attrs = line
    given = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, given, outputs.split(), name=f"n_{outputs.split()[0]}", **(attrs[0] if attrs else {}))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a model with inputs such as {"x": ("N", 3, 8, 8)} and gives its path."""

    def write(
        lines: Sequence[Line],
        inputs: Mapping[str, Sequence[int | str]],
        consts: Mapping[str, Any] | None = None,
        outputs: str = "y",
        opset: int = 13,
        dtype: int = TensorProto.FLOAT,
        **options: Any,
    ) -> Path:
        made = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()]
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs.split()]
        arrays = [numpy_helper.from_array(np.asarray(array), name) for name, array in (consts or {}).items()]
        graph = helper.make_graph([node(line) for line in lines], "g", made, out, arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)
        _declare_outputs(model)
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Give the outputs the shapes that they must declare; a made-up one where inference finds none."""
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    for output, found in zip(model.graph.output, inferred, strict=True):
        output.CopyFrom(found)
        if not output.type.tensor_type.HasField("shape"):
            output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["any"]))


@pytest.fixture
def check(save: Save) -> Check:
    """Saves a model with a dynamic batch, imports it and holds it to both oracles; gives the graph.

    Each oracle has gaps: the reference evaluator computes Softmax and BatchNormalization before opset 14 as if they
    were the new ones, onnxruntime knows no dilation with auto_pad. Such a test names the oracle to go by.
    """

    def compare(*args: Any, oracles: Sequence[str] = ("onnx", "onnxruntime"), **options: Any) -> Graph:
        path = save(*args, **options)
        graph = load(path)
        rng = np.random.default_rng(0)
        x = {name: rng.normal(size=(3, *kind.shape)).astype(np.float32) * 2 for name, kind in graph.inputs.items()}
        made, expected = run(graph, x), {}
        if "onnxruntime" in oracles:
            expected["onnxruntime"] = judge(path, x)
        if "onnx" in oracles:
            expected["onnx"] = dict(zip(made, ReferenceEvaluator(onnx.load(path)).run(None, x), strict=True))
        assert set(expected) == set(oracles)
        for oracle, outputs in expected.items():
            for name, array in made.items():
                np.testing.assert_allclose(array, outputs[name], rtol=1e-5, atol=1e-5, err_msg=f"{name} by {oracle}")
        return graph

    return compare
