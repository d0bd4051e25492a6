"""What folds to constants, what must keep the batch in front, canonical form, and all problems at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snnc.errors import ModelError
from snnc.importer import Finding, judge, load, survey
from snnc.ir import Graph, parse, to_text
from snnc.sim.reference import run

Save = Callable[..., Path]
Check = Callable[..., Graph]

RNG = np.random.default_rng(2)


def weights(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def tensor(value: Any) -> dict[str, Any]:
    return {"value": numpy_helper.from_array(np.asarray(value))}


@pytest.mark.parametrize("opset", [9, 11, 13, 23])
def test_a_view_computed_from_the_shape_of_the_input(check: Check, opset: int) -> None:
    """x.view(x.size(0), -1) as torch writes it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    old = opset < 13
    lines = [
        ("Shape", "x", "s"),
        ("Constant", "", "zero", tensor(0)),
        ("Gather", "s zero", "g", {"axis": 0}),
        ("Unsqueeze", "g" if old else "g axes", "u", {"axes": [0]} if old else {}),
        ("Constant", "", "rest", tensor([-1])),
        ("Concat", "u rest", "shape", {"axis": 0}),
        ("Relu", "x", "r"),
        ("Reshape", "r shape", "y"),
    ]
    graph = check(lines, {"x": ("N", 2, 3, 4)}, {} if old else {"axes": np.array([0])}, opset=opset)
    assert sorted(ops(graph)) == ["relu", "reshape"]
    assert set(graph.outputs) == {"y"}


def test_a_weight_reshaped_at_run_time(check: Check) -> None:
    lines = [("Reshape", "w shape", "v"), ("Identity", "v", "i"), ("MatMul", "x i", "y")]
    graph = check(lines, {"x": ("N", 4)}, {"w": weights(2, 2, 3), "shape": np.array([4, 3])})
    assert graph["dense1"].origin == ("n_y",)


@pytest.mark.parametrize(("shape", "zero"), [([0, -1], 0), ([-1, 24], 0), ([0, 0, 12], 0), ([-1, 2, 12], 1)])
def test_forms_of_reshape(check: Check, shape: list[int], zero: int) -> None:
    check([("Reshape", "x s", "y", {"allowzero": zero})], {"x": ("N", 2, 3, 4)}, {"s": np.array(shape)}, opset=14)


def test_reshape_to_nothing_with_allowzero_is_refused(save: Save) -> None:
    """With allowzero=1 a 0 is a size of 0, not a copied one."""
    path = save([("Reshape", "x s", "y", {"allowzero": 1})], {"x": (1, 2, 3)}, {"s": np.array([0, 6])}, opset=14)
    with pytest.raises(ModelError, match="Reshape"):
        load(path)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_flatten_that_keeps_the_batch_in_effect(check: Check, axis: int) -> None:
    check([("Flatten", "x", "y", {"axis": axis})], {"x": ("N", 1, 6)} if axis == 2 else {"x": ("N", 6)})


@pytest.mark.parametrize(
    ("lines", "inputs"),
    [
        ([("Reshape", "x one", "y")], {"x": ("N", 4)}),
        ([("Reshape", "x pairs", "y")], {"x": ("N", 4)}),
        ([("Flatten", "x", "y", {"axis": 0})], {"x": ("N", 4)}),
        ([("Flatten", "x", "y", {"axis": 2})], {"x": ("N", 3, 4)}),
        ([("Reshape", "x pairs", "y")], {"x": (2, 4)}),
        ([("Squeeze", "x zero", "y")], {"x": (1, 4)}),
    ],
)
def test_mixing_the_batch_is_refused(save: Save, lines: Any, inputs: dict[str, Any]) -> None:
    consts = {"one": np.array([1, -1]), "pairs": np.array([-1, 2]), "zero": np.array([0])}
    with pytest.raises(ModelError, match="mixes the samples of a batch") as caught:
        load(save(lines, inputs, {n: a for n, a in consts.items() if n in lines[0][1].split()}))
    assert "at: ONNX node 'n_y'" in str(caught.value)


def test_a_weight_that_depends_on_the_batch_size_is_refused(save: Save) -> None:
    lines = [
        ("Shape", "x", "s"),
        ("Cast", "s", "f", {"to": TensorProto.FLOAT}),
        ("Add", "x f", "y"),
    ]
    with pytest.raises(ModelError, match="the constant 'f' depends on the batch size"):
        load(save(lines, {"x": ("N", 2)}))
    np.testing.assert_array_equal(load(save(lines, {"x": (5, 2)})).params["scale1.bias"], [5, 2])


def test_a_static_batch_becomes_any_batch(save: Save) -> None:
    lines = [("Gemm", "x w b", "d"), ("Reshape", "d s", "y")]
    consts = {"w": weights(3, 4), "b": np.tile(weights(4), (5, 1)), "s": np.array([5, 2, 2])}
    path = save(lines, {"x": (5, 3)}, consts)
    graph, x = load(path), {"x": weights(12, 3)}
    judged = judge(path, x)["y"]
    assert judged.shape == (12, 2, 2)
    np.testing.assert_allclose(run(graph, x)["y"], judged, atol=1e-5)


def test_judge_runs_a_dynamic_batch_in_chunks(save: Save) -> None:
    path, x = save([("Relu", "x", "y")], {"x": ("N", 3)}), weights(600, 3)
    np.testing.assert_array_equal(judge(path, {"x": x})["y"], np.maximum(x, 0))


@pytest.mark.parametrize("bomb", [[1 << 20, 1 << 20], [0x7FFFFFFF, 1 << 32], [1 << 13, 1 << 13]])
def test_a_constant_too_large_to_fold_is_refused(save: Save, bomb: list[int]) -> None:
    lines = [("ConstantOfShape", "s", "c"), ("ReduceSum", "c", "r"), ("Add", "x r", "y")]
    with pytest.raises(ModelError, match=r"takes up to|more than"):
        load(save(lines, {"x": ("N", 4)}, {"s": np.array(bomb)}))


def test_random_numbers_are_not_folded(save: Save) -> None:
    lines = [("RandomNormal", "", "n", {"shape": [4]}), ("Add", "x n", "y")]
    with pytest.raises(ModelError, match="RandomNormal is not supported"):
        load(save(lines, {"x": ("N", 4)}))


def test_what_the_reference_evaluator_computes_wrong_is_not_folded(save: Save) -> None:
    """Softmax before opset 13 flattens; onnx 1.23 evaluates it along its axis alone."""
    lines = [("Softmax", "c", "s", {"axis": 1}), ("Add", "x s", "y")]
    with pytest.raises(ModelError, match="Softmax of constants only"):
        load(save(lines, {"x": ("N", 2, 3)}, {"c": weights(1, 2, 3)}, opset=11))


def test_a_constant_output_is_the_same_for_every_sample(save: Save) -> None:
    lines, c = [("Relu", "x", "y"), ("Relu", "c", "z")], weights(1, 4)
    with pytest.raises(ModelError, match=r"constant without a batch in front\n.*output 'z'"):
        load(save(lines, {"x": ("N", 4)}, {"c": c}, outputs="y z"))
    made = run(load(save(lines, {"x": (1, 4)}, {"c": c}, outputs="y z")), {"x": weights(3, 4)})["z"]
    np.testing.assert_array_equal(made, np.repeat(np.maximum(c, 0), 3, axis=0))


def test_redundant_reshapes_merge_and_vanish(check: Check) -> None:
    lines = [("Reshape", "x a", "p"), ("Reshape", "p b", "q"), ("Relu", "q", "r"), ("Reshape", "r b", "y")]
    shapes = {"a": np.array([-1, 4, 3]), "b": np.array([-1, 6, 2])}
    graph = check(lines, {"x": ("N", 12)}, shapes)
    assert [node.name for node in graph.nodes] == ["reshape1", "relu1"]
    assert graph["reshape1"].origin == ("n_p", "n_q")
    back = [("Reshape", "x a", "p"), ("Reshape", "p c", "q"), ("Relu", "q", "y")]
    assert ops(check(back, {"x": ("N", 12)}, {"a": shapes["a"], "c": np.array([-1, 12])})) == ["relu"]


def test_names_are_made_to_fit_and_to_differ(check: Check) -> None:
    lines = [("Add", "x:0 x_0", "a"), ("Relu", "a", "out:0"), ("Neg", "out:0", "out_0")]
    graph = check(lines, {"x:0": ("N", 3), "x_0": ("N", 3)}, outputs="out:0 out_0", oracles=("onnxruntime",))
    assert tuple(graph.inputs) == ("x_0", "x_0_2")
    assert graph.outputs == {"out_0": "relu1", "out_0_2": "scale1"}


def test_nodes_and_params_step_aside_for_the_names_of_inputs(check: Check) -> None:
    lines = [("MatMul", "dense1.weight w", "relu1"), ("Relu", "relu1", "y")]
    graph = check(lines, {"dense1.weight": ("N", 2)}, {"w": weights(2, 2)}, outputs="y relu1")
    assert [node.name for node in graph.nodes] == ["dense2", "relu2"]
    assert graph.outputs == {"y": "relu2", "relu1": "dense2"}


def test_the_graph_survives_its_text_form(save: Save) -> None:
    graph = load(save([("Gemm", "x w", "d"), ("Relu", "d", "y")], {"x": ("N", 2)}, {"w": weights(2, 3)}))
    assert to_text(parse(to_text(graph), graph.arrays())) == to_text(graph)
    assert to_text(load(save([("Gemm", "x w", "d"), ("Relu", "d", "y")], {"x": ("N", 2)}, {"w": weights(2, 3)}))) == (
        to_text(graph)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(save: Save, dtype: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    path = save([("Gemm", "x w", "y")], {"x": ("N", 2)}, {"w": weights(2, 3).astype(dtype)}, dtype=kind)
    assert load(path).params["dense1.weight"].dtype == np.float32


def test_initializers_listed_as_inputs(save: Save) -> None:
    path = save([("Gemm", "x w", "y")], {"x": ("N", 2), "w": (2, 3)}, {"w": weights(2, 3)})
    assert tuple(load(path).inputs) == ("x",)


@pytest.mark.parametrize(
    ("inputs", "dtype", "text"),
    [
        (
            {"x": ("N", 2)},
            TensorProto.STRING,
            "the input is STRING, not a number\n.*'x'\n  try: feed numbers",
        ),
        ({"x": ("N", 2, "H")}, TensorProto.FLOAT, r"the input \[\?,2,\?\] has dynamic sizes behind the batch"),
        ({"x": ()}, TensorProto.FLOAT, r"the input \[\] has no batch in front"),
        ({"x": (4, 2), "z": (5, 2)}, TensorProto.FLOAT, r"different batch sizes: \[4, 5\]"),
    ],
)
def test_inputs_that_are_refused(save: Save, inputs: dict[str, Any], dtype: int, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        load(save([("Identity", "x", "i"), ("Flatten", "i", "y")], inputs, dtype=dtype))


def test_all_problems_at_once(save: Save) -> None:
    lines = [
        ("LRN", "x", "t", {"size": 3}),
        ("Conv", "t w", "c"),
        ("TopK", "c k", "s i"),
        ("Softmax", "s", "z", {"axis": 0}),
        ("Identity", "z", "y"),
        ("Tanh", "x", "unused"),
    ]
    path = save(lines, {"x": ("N", 3, 8, 8)}, {"w": weights(2, 3, 3, 3), "k": np.array([2])})
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(caught.value) == (
        "3 parts of 'model.onnx' cannot be imported\n"
        "  - the operator LRN is not supported\n"
        "      at: ONNX node 'n_t' (LRN)\n"
        "      try: train the model with batch normalisation instead of local response normalisation\n"
        "  - the operator TopK is not supported\n"
        "      at: ONNX node 'n_s' (TopK)\n"
        "      try: cut the model before it: post-processing runs on the host\n"
        "  - Softmax along axis 0, the batch\n"
        "      at: ONNX node 'n_z' (Softmax)"
    )
    found = survey(path)
    assert [(f.node, f.op, f.problem is None) for f in found] == [
        ("n_t", "LRN", False),
        ("n_c", "Conv", True),
        ("n_s", "TopK", False),
        ("n_z", "Softmax", False),
        ("n_y", "Identity", True),
    ]


def test_survey_of_a_model_that_can_be_imported(save: Save) -> None:
    lines = [("Constant", "", "c", tensor(weights(3))), ("Relu", "x", "r"), ("Add", "r c", "y")]
    assert survey(save(lines, {"x": ("N", 3)})) == (Finding("n_r", "Relu"), Finding("n_y", "Add"))


def test_a_second_output_that_is_read_is_refused(save: Save) -> None:
    lines = [("MaxPool", "x", "p i", {"kernel_shape": [2, 2]}), ("Cast", "i", "f", {"to": 1}), ("Add", "p f", "y")]
    with pytest.raises(ModelError, match="output 1 of MaxPool, 'i', is read"):
        load(save(lines, {"x": ("N", 1, 4, 4)}))


def test_custom_operators_functions_and_control_flow_are_refused(save: Save) -> None:
    path = save([("Relu", "x", "r"), ("Relu", "r", "y")], {"x": ("N", 3)})
    model = onnx.load(path)
    model.graph.node[0].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"the operator com\.acme\.Relu is not one of ONNX"):
        load(path)
    opset = [helper.make_opsetid("", 13)]
    model.functions.append(
        helper.make_function("com.acme", "Relu", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opset)
    )
    path.write_bytes(model.SerializeToString())
    assert ops(load(path)) == ["relu"], "a function of the model's own is inlined"
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["q"])], "b", [], [helper.make_tensor_value_info("q", 1, ["N", 3])]
    )
    branches = {"then_branch": body, "else_branch": body}
    path = save([("If", "c", "y", branches)], {"x": ("N", 3)}, {"c": np.array(True)})
    with pytest.raises(ModelError, match=r"If is not supported\n.*\n  try: export without control flow"):
        load(path)


@pytest.mark.parametrize("opset", [6, onnx.defs.onnx_opset_version() + 1])
def test_other_opsets_are_refused(save: Save, opset: int) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}; 7 to {onnx.defs.onnx_opset_version()} are supported"):
        load(save([("Relu", "x", "y")], {"x": ("N", 3)}, opset=opset))
