"""What is known of a model before any operator is understood: sizes, constants, kinds, order, functions inlined."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from snnc.errors import ModelError
from snnc.importer.files import open_model, read
from snnc.importer.options import DEFAULT, Limits, Options
from snnc.importer.trace import PROBE, trace
from tests.importer.hostile import (
    Content,
    chain,
    function,
    image,
    integers,
    laughs,
    model,
    node,
    plain,
    weights,
    with_functions,
)


def opened(content: Content, folder: Path, options: Options = DEFAULT):  # type: ignore[no-untyped-def]
    """A model by way of a file."""
    assert not callable(content)
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return open_model(path, options)


def test_a_message_and_a_file_trace_alike(tmp_path: Path) -> None:
    content = plain()
    found, direct = trace(opened(content, tmp_path)), trace(content)
    assert found.shapes == direct.shapes
    assert found.dtypes == direct.dtypes
    assert [n.op_type for n in found.work] == [n.op_type for n in direct.work]
    for name, array in direct.constants.items():
        np.testing.assert_array_equal(found.constants[name], array)


def test_batch_shapes_and_kinds() -> None:
    made = trace(model([node("Cast", "x", "c", to=TensorProto.INT32), node("Cast", "c", "y", to=1)]))
    assert made.batch == PROBE
    assert made.shapes == {"x": (PROBE, 4), "c": (PROBE, 4), "y": (PROBE, 4)}
    assert made.dtypes == {"x": TensorProto.FLOAT, "c": TensorProto.INT32, "y": TensorProto.FLOAT}


def test_options_give_the_sizes_that_are_open() -> None:
    made = image(node("Relu", "x", "y"))
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    assert trace(made).inputs[0].dims == (None, 3, None, 8)
    assert trace(made, Options(shapes={"x": (3, 5, 8)})).shapes["y"] == (PROBE, 3, 5, 8)
    unbatched = Options(batched=False, shapes={"x": (2, 3, 5, 8)})
    assert trace(made, unbatched).shapes["y"] == (2, 3, 5, 8)
    with pytest.raises(
        ModelError, match=r"sizes \[3, 5, 7\] are given for the input 'x', which is \[3,\?,8\]"
    ) as caught:
        trace(made, Options(shapes={"x": (3, 5, 7)}))
    assert caught.value.code == "input-shape"


def test_both_parts_of_a_split_are_traced_and_only_one_needed() -> None:
    nodes = [node("Split", "x", "a b", axis=1), node("Relu", "b", "y")]
    made = trace(model(nodes))
    assert made.shapes["a"] == made.shapes["b"] == (PROBE, 2)
    assert [n.op_type for n in made.work] == ["Split", "Relu"]


def test_what_folds_is_sized_before_it_is_computed() -> None:
    nodes = [node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")]
    made = trace(model(nodes, {"s": integers(100, 4)}), Options(limits=Limits(fold_bytes=1000)))
    (problem,) = made.problems.values()
    assert problem.code == "fold-size"
    assert (
        str(problem) == "this constant [100, 4] takes up to 3200 bytes, more than 1000\n"
        "  try: raise the limit fold_bytes (--limit fold_bytes=NUMBER)"
    )
    assert trace(model(nodes, {"s": integers(100, 4)})).problems == {}


def test_random_operators_and_control_flow_are_never_computed() -> None:
    made = trace(model([node("RandomNormal", "", "r", shape=[1, 4]), node("Add", "x r", "y")]))
    assert [n.op_type for n in made.work] == ["RandomNormal", "Add"]
    assert made.problems == {}


def test_large_constants_leave_the_message_and_come_back(tmp_path: Path) -> None:
    value = weights(4, 2000)
    content = model(
        [
            node("Constant", "", "c", value=numpy_helper.from_array(value)),
            node("MatMul", "x c", "m"),
            node("MatMul", "m w", "y"),
        ],
        {"w": weights(2000, 3)},
    )
    loaded = opened(content, tmp_path)
    assert loaded.proto.ByteSize() < 1000
    np.testing.assert_array_equal(trace(loaded).constants["c"], value)
    whole = read(tmp_path / "model.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    np.testing.assert_array_equal(stored["c"], value)
    assert stored["w"].shape == (2000, 3)


def test_types_that_are_widened_are_noted(tmp_path: Path) -> None:
    half = weights(4, 4).astype(np.float16)
    content = model([node("MatMul", "x a", "h"), node("MatMul", "h b", "y")], {"a": half, "b": half})
    assert opened(content, tmp_path).notes == ("2 weights are float16, widened to float32",)


def test_nodes_are_sorted_and_the_order_of_the_file_kept_where_it_can_be(tmp_path: Path) -> None:
    nodes = [
        node("Add", "b c", "y", "3"),
        node("Relu", "x", "a", "0"),
        node("Relu", "a", "b", "1"),
        node("Relu", "a", "c", "2"),
    ]
    loaded = opened(model(nodes), tmp_path)
    assert [n.name for n in loaded.graph.node] == ["0", "1", "2", "3"]
    assert loaded.notes == ("the nodes of the model were not in runnable order and have been sorted",)
    assert opened(model(loaded.graph.node), tmp_path).notes == ()


def test_functions_are_inlined_within_the_budget(tmp_path: Path) -> None:
    loaded = opened(laughs(4, 3), tmp_path)
    assert [n.op_type for n in loaded.graph.node] == ["Relu"] * 27
    assert list(loaded.proto.functions) == []
    assert len(opened(laughs(4, 3), tmp_path, Options(limits=Limits(nodes=27))).graph.node) == 27
    with pytest.raises(ModelError, match=r"makes 27 nodes of \d+ bytes, more than 26 nodes") as caught:
        opened(laughs(4, 3), tmp_path, Options(limits=Limits(nodes=26)))
    assert caught.value.code == "function-budget"
    with pytest.raises(ModelError, match="deeper than 3"):
        opened(laughs(4, 3), tmp_path, Options(limits=Limits(nesting=3)))


def test_weights_of_functions_are_taken_too(tmp_path: Path) -> None:
    value = numpy_helper.from_array(weights(4, 2000))
    body = [node("Constant", "", "c", value=value), node("MatMul", "a c", "b")]
    loaded = opened(with_functions([function("f0", body)], "f0"), tmp_path)
    (array,) = loaded.weights.values()
    np.testing.assert_array_equal(array, numpy_helper.to_array(value))


def test_the_walk_is_linear(tmp_path: Path) -> None:
    """Ten times the nodes take about ten times as many calls; a square would take a hundred times."""
    found = []
    for length in (400, 4000):
        loaded, calls = opened(chain(length), tmp_path), Counter[str]()
        sys.setprofile(lambda frame, event, arg, calls=calls: calls.update([event]))  # type: ignore[misc]
        try:
            trace(loaded)
        finally:
            sys.setprofile(None)
        found.append(calls["call"] + calls["c_call"])
    assert 5 * found[0] < found[1] < 15 * found[0]
