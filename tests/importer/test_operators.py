"""Every supported operator in the forms it had from opset 9 to 23, against ONNX's own evaluators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnc.errors import ModelError
from snnc.importer import load
from snnc.ir import Graph

Save = Callable[..., Path]
Check = Callable[..., Graph]

ORT = ("onnxruntime",)
RNG = np.random.default_rng(1)
ALL_OPSETS = (9, 11, 13, 18, 23)


def weights(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("opset", ALL_OPSETS)
def test_a_small_classifier_in_every_form(check: Check, opset: int) -> None:
    lines = [
        ("Conv", "x w b", "c", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "c g be m v", "n", {"epsilon": 1e-3}),
        ("Relu", "n", "r"),
        ("MaxPool", "r", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Dropout", "p", "d"),
        ("Flatten", "d", "f"),
        ("Gemm", "f k kb", "z", {"transB": 1}),
        ("Softmax", "z", "y", {"axis": 1}),
    ]
    consts = {
        "w": weights(4, 2, 3, 3),
        "b": weights(4),
        "g": weights(4),  # some negative
        "be": weights(4),
        "m": weights(4),
        "v": weights(4) ** 2,
        "k": weights(5, 64),
        "kb": weights(5),
    }
    graph = check(lines, {"x": ("N", 2, 8, 8)}, consts, opset=opset, oracles=ORT)
    names = ["conv1", "relu1", "maxpool1", "reshape1", "dense1", "softmax1"]
    assert [node.name for node in graph.nodes] == names
    assert graph["dense1"].origin == ("n_z",)
    assert graph["conv1"].origin == ("n_c", "n_n"), "the batch norm behind it is folded in"
    assert graph.outputs == {"y": "softmax1"}


@pytest.mark.parametrize(
    ("attrs", "pads"),
    [
        ({"auto_pad": "SAME_UPPER"}, (0, 1, 1, 1)),
        ({"auto_pad": "SAME_LOWER"}, (1, 1, 0, 1)),
        ({"auto_pad": "VALID"}, (0, 0, 0, 0)),
        ({"auto_pad": "NOTSET", "pads": [0, 1, 2, 3]}, (0, 1, 2, 3)),
        ({}, (0, 0, 0, 0)),
    ],
)
def test_padding_modes_of_conv(check: Check, attrs: dict[str, Any], pads: tuple[int, ...]) -> None:
    # kernel 3, stride 2: the 4 windows over 8 rows, and over 7 columns, need (4-1)*2+3 = 9: one more, and two more
    lines = [("Conv", "x w", "y", {"strides": [2, 2], **attrs})]
    graph = check(lines, {"x": ("N", 2, 8, 7)}, {"w": weights(3, 2, 3, 3)})
    assert graph["conv1"].attrs["pads"] == pads
    assert graph["conv1"].inputs == ("x", "conv1.weight")


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_groups_dilations_and_padding_together(check: Check, auto_pad: str) -> None:
    attrs = {"group": 2, "dilations": [2, 1], "strides": [1, 2], "auto_pad": auto_pad}
    consts = {"w": weights(6, 2, 3, 2), "b": weights(6)}
    graph = check([("Conv", "x w b", "y", attrs)], {"x": ("N", 4, 9, 8)}, consts, oracles=("onnx",))
    assert graph["conv1"].attrs["group"] == 2


@pytest.mark.parametrize("bias", [None, (), (1,), (4,), (1, 4)])
@pytest.mark.parametrize("trans", [0, 1])
def test_forms_of_gemm(check: Check, trans: int, bias: tuple[int, ...] | None) -> None:
    consts = {"w": weights(4, 6) if trans else weights(6, 4)}
    if bias is not None:
        consts["b"] = weights(*bias) if bias else np.float32(0.7)
    lines = [("Gemm", "x w b" if bias is not None else "x w", "y", {"alpha": 0.5, "beta": -2.0, "transB": trans})]
    graph = check(lines, {"x": ("N", 6)}, consts)
    assert graph.params["dense1.weight"].shape == (4, 6)
    assert ("dense1.bias" in graph.params) == (bias is not None)


def test_gemm_by_hand(save: Save) -> None:
    path = save(
        [("Gemm", "x w b", "y", {"alpha": 2.0, "beta": 3.0})],
        {"x": ("N", 2)},
        {"w": np.array([[1, 2, 3], [4, 5, 6]], np.float32), "b": np.array([1, 0, -1], np.float32)},
    )
    graph = load(path)
    np.testing.assert_array_equal(graph.params["dense1.weight"], [[2, 8], [4, 10], [6, 12]])
    np.testing.assert_array_equal(graph.params["dense1.bias"], [3, 0, -3])


@pytest.mark.parametrize("opset", [9, 11, 19, 22])
@pytest.mark.parametrize("include", [0, 1])
def test_average_pool(check: Check, opset: int, include: int) -> None:
    attrs = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1], "count_include_pad": include}
    graph = check([("AveragePool", "x", "y", attrs)], {"x": ("N", 2, 6, 5)}, opset=opset)
    assert graph["avgpool1"].attrs["count_include_pad"] == include


def test_average_pool_same_lower_leaves_the_padding_out(check: Check) -> None:
    attrs = {"kernel_shape": [2, 2], "strides": [1, 1], "auto_pad": "SAME_LOWER"}
    assert check([("AveragePool", "x", "y", attrs)], {"x": ("N", 1, 4, 4)})["avgpool1"].attrs["pads"] == (1, 1, 0, 0)


def test_global_average_pool_is_one_window(check: Check) -> None:
    graph = check([("GlobalAveragePool", "x", "p"), ("Flatten", "p", "y")], {"x": ("N", 3, 5, 4)})
    assert graph["avgpool1"].attrs["kernel"] == (5, 4)
    assert graph["reshape1"].type.shape == (3,)


@pytest.mark.parametrize("opset", [10, 12, 22])
def test_max_pool_with_pads_and_dilations(check: Check, opset: int) -> None:
    attrs = {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 1, 2, 0], "dilations": [2, 1]}
    check([("MaxPool", "x", "y", attrs)], {"x": ("N", 2, 7, 8)}, opset=opset)


@pytest.mark.parametrize("size", [6, 7])
def test_ceil_mode_has_windows_over_the_edge(check: Check, size: int) -> None:
    lines = [("MaxPool", "x", "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})]
    assert check(lines, {"x": ("N", 2, size, size)})["maxpool1"].type.shape == (2, (size + 1) // 2, (size + 1) // 2)


def test_clip_of_opset_10_has_attributes(check: Check) -> None:
    assert check([("Clip", "x", "y", {"min": 0.0, "max": 1.5})], {"x": ("N", 4)}, opset=10)["relu1"].attrs == {
        "max": 1.5
    }


def test_clip_of_opset_11_has_inputs(check: Check) -> None:
    zero, top = np.float32(0), np.float32(1.5)
    graph = check([("Clip", "x a b", "y")], {"x": ("N", 4)}, {"a": zero, "b": top}, opset=11)
    assert graph["relu1"].attrs == {"max": 1.5}
    assert check([("Clip", "x a", "y")], {"x": ("N", 4)}, {"a": zero}, opset=11)["relu1"].attrs == {}
    graph = check([("Clip", "x a b", "y")], {"x": ("N", 4)}, {"a": zero, "b": np.float32(np.inf)})
    assert graph["relu1"].attrs == {}


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 0), (1, 6), (2, -1)])
def test_clip_that_is_no_relu(check: Check, low: float, high: float) -> None:
    """With the low bound above the high one everything becomes the high one."""
    consts = {"a": np.float32(low), "b": np.float32(high)}
    oracles = ("onnx", "onnxruntime") if low <= high else ORT
    assert ops(check([("Clip", "x a b", "y")], {"x": ("N", 4)}, consts, oracles=oracles)) == ["clip"]


def test_clip_to_no_number_is_refused(save: Save) -> None:
    with pytest.raises(ModelError, match="Clip from nan to 1"):
        load(save([("Clip", "x a b", "y")], {"x": ("N", 4)}, {"a": np.float32(np.nan), "b": np.float32(1)}))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), ()])
def test_an_added_constant_becomes_the_bias(check: Check, shape: tuple[int, ...]) -> None:
    lines = [("MatMul", "x w", "m"), ("Identity", "m", "i"), ("Add", "b i", "y")]
    graph = check(lines, {"x": ("N", 4)}, {"w": weights(4, 3), "b": weights(*shape) if shape else np.float32(2)})
    assert ops(graph) == ["dense"]
    assert graph["dense1"].origin == ("n_m", "n_y")
    assert graph.params["dense1.bias"].shape == (3,)


def test_added_constants_add_up_in_the_bias_of_a_conv(check: Check) -> None:
    lines = [("Conv", "x w b", "c"), ("Add", "c b1", "d"), ("Add", "b2 d", "y")]
    consts = {"w": weights(3, 1, 2, 2), "b": weights(3), "b1": weights(3, 1, 1), "b2": weights(1, 3, 1, 1)}
    graph = check(lines, {"x": ("N", 1, 4, 4)}, consts)
    assert ops(graph) == ["conv"]
    np.testing.assert_allclose(graph.params["conv1.bias"], consts["b"] + consts["b1"].ravel() + consts["b2"].ravel())


def test_no_bias_is_folded_where_the_layer_has_another_reader(check: Check) -> None:
    consts = {"w": weights(4, 3), "b": weights(3)}
    lines = [("MatMul", "x w", "m"), ("Add", "m b", "a"), ("Add", "a m", "y")]
    assert ops(check(lines, {"x": ("N", 4)}, consts)) == ["dense", "scale", "add"]
    graph = check([("MatMul", "x w", "m"), ("Add", "m b", "y")], {"x": ("N", 4)}, consts, outputs="y m")
    assert graph.outputs == {"y": "scale1", "m": "dense1"}


@pytest.mark.parametrize("shape", [(4, 4), (1, 4), (2, 4, 4), (1, 2, 1, 4)])
def test_a_constant_that_is_no_bias_stays_beside_the_conv(check: Check, shape: tuple[int, ...]) -> None:
    consts = {"w": weights(2, 1, 1, 1), "b": weights(*shape)}
    graph = check([("Conv", "x w", "c"), ("Add", "c b", "y")], {"x": ("N", 1, 4, 4)}, consts)
    assert ops(graph) == ["conv", "scale"]
    assert graph.params["scale1.bias"].shape == (2, 4, 4)


def test_residual_add_concat_and_sum(check: Check) -> None:
    lines = [
        ("Relu", "x", "r"),
        ("Add", "x r", "a"),
        ("Sum", "a r x", "s"),
        ("Concat", "s a", "c", {"axis": 1}),
        ("Concat", "c c", "y", {"axis": -1}),
    ]
    graph = check(lines, {"x": ("N", 2, 3, 3)})
    assert [node.name for node in graph.nodes] == ["relu1", "add1", "add2", "concat1", "concat2"]
    assert [graph[n].attrs["axis"] for n in ("concat1", "concat2")] == [0, 2]
    assert graph["concat2"].type.shape == (4, 3, 6)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_before_and_after_opset_13(check: Check, op: str) -> None:
    inputs, name = {"x": ("N", 2, 3, 2)}, op.lower()
    flattened = ["reshape", name, "reshape"]
    assert ops(check([(op, "x", "y")], inputs, opset=11, oracles=ORT)) == flattened
    assert ops(check([(op, "x", "y", {"axis": 2})], inputs, opset=11, oracles=ORT)) == flattened
    assert ops(check([(op, "x", "y", {"axis": 3})], inputs, opset=11, oracles=ORT)) == [name]
    assert check([(op, "x", "y")], {"x": ("N", 5, 1, 1)}, opset=9, oracles=ORT).nodes[0].attrs["axis"] == 0
    assert check([(op, "x", "y")], inputs, opset=13).nodes[0].attrs["axis"] == 2
    assert check([(op, "x", "y", {"axis": 1})], inputs, opset=13).nodes[0].attrs["axis"] == 0


@pytest.mark.parametrize("opset", [9, 13])
def test_softmax_over_the_batch_is_refused(save: Save, opset: int) -> None:
    with pytest.raises(ModelError, match="Softmax along axis 0, the batch"):
        load(save([("Softmax", "x", "y", {"axis": 0})], {"x": ("N", 3)}, opset=opset))


@pytest.mark.parametrize("opset", [9, 14])
def test_batch_norm_of_features_stands_beside_its_dense(check: Check, opset: int) -> None:
    """Unsqueeze, BatchNormalization, Squeeze, as torch 1.3 exported BatchNorm1d."""
    consts = {"w": weights(4, 3), **{name: weights(3) for name in "gbm"}, "v": weights(3) ** 2}
    axes = {"axes": [2]} if opset < 13 else {}
    more = "" if opset < 13 else " axes"
    consts |= {} if opset < 13 else {"axes": np.array([2])}
    lines = [
        ("MatMul", "x w", "d"),
        ("Unsqueeze", "d" + more, "u", axes),
        ("BatchNormalization", "u g b m v", "n"),
        ("Squeeze", "n" + more, "y", axes),
    ]
    assert ops(check(lines, {"x": ("N", 4)}, consts, opset=opset, oracles=ORT)) == ["dense"]


def test_dropout_in_training_is_refused(check: Check, save: Save) -> None:
    consts = {"p": np.float32(0.5), "off": np.array(False), "on": np.array(True)}
    assert check([("Relu", "x", "r"), ("Dropout", "r p off", "y")], {"x": ("N", 3)}, consts).outputs == {"y": "relu1"}
    with pytest.raises(ModelError, match="Dropout in training mode"):
        load(save([("Dropout", "x p on", "y")], {"x": ("N", 3)}, consts))


def test_batch_norm_in_training_or_with_no_variance_is_refused(save: Save) -> None:
    lines = [("BatchNormalization", "x g b m v", "y m2 v2", {"training_mode": 1})]
    good = {name: np.ones(2, np.float32) for name in "gbmv"}
    with pytest.raises(ModelError, match="BatchNormalization in training mode"):
        load(save(lines, {"x": ("N", 2)}, good, opset=15))
    lines = [("BatchNormalization", "x g b m v", "y")]
    with pytest.raises(ModelError, match=r"variance plus epsilon is -1[^\n]*\n  at: ONNX node 'n_y' \(BatchNorm"):
        load(save(lines, {"x": ("N", 2)}, {**good, "v": np.array([1, -1], np.float32)}, opset=15))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(save: Save, bad: float) -> None:
    consts = {"w": np.array([[1, bad], [0, 1]], np.float32)}
    with pytest.raises(ModelError, match=r"1 of 4 values of the weight of Gemm are NaN or infinite\n.*'n_y' \(Gemm\)"):
        load(save([("Gemm", "x w", "y")], {"x": ("N", 2)}, consts))


@pytest.mark.parametrize(
    ("line", "inputs", "text"),
    [
        (("Gemm", "x x", "y", {"transB": 1}), {"x": (3, 3)}, "second factor is not a constant mixes"),
        (("Gemm", "w x", "y"), {"x": (3, 3)}, "second factor is not a constant mixes"),
        (("Gemm", "x w", "y", {"transA": 1}), {"x": (3, 3)}, "transA=1 mixes"),
        (("MatMul", "x x", "y"), {"x": (3, 3)}, "mixes the samples"),
        (("MatMul", "w x", "y"), {"x": (3, 3)}, "differs from sample to sample"),
        (("Conv", "x k", "y"), {"x": ("N", 2, 9, 9)}, "no shape"),
        (("Conv", "x c", "y", {"group": 0}), {"x": ("N", 2, 9, 9)}, "group=0|no shape"),
        (("Conv", "x c", "y"), {"x": ("N", 5, 9, 9)}, "for 5 channels|no shape"),
        (("Conv", "x v", "y", {"group": 2}), {"x": ("N", 2, 5, 5, 5)}, "over 3-D images"),
        (("Conv", "x c", "y", {"pads": [-1, 0, 0, 0]}), {"x": ("N", 2, 9, 9)}, "pads must not contain negative"),
        (("Gather", "x i", "y"), {"x": ("N", 3)}, "mixes the samples|the batch"),
        (("Transpose", "x", "y", {"perm": [1, 0]}), {"x": (3, 3)}, "moves the batch"),
        (("Pad", "x p", "y"), {"x": (3, 3)}, "mixes the samples|Pad of the batch"),
        (("ReduceMean", "x", "y", {"axes": [0]}), {"x": ("N", 3)}, "mixes the samples|the batch"),
        (("Div", "x zero", "y"), {"x": ("N", 3)}, "holds zeros"),
        (("Concat", "x x", "y", {"axis": 0}), {"x": ("N", 3)}, "mixes the samples"),
        (("Concat", "x w", "y", {"axis": 1}), {"x": (3, 3)}, "differs from sample to sample"),
        (("Add", "x w", "y"), {"x": (3, 3)}, "differs from sample to sample"),
        (
            ("AveragePool", "x", "y", {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]}),
            {"x": ("N", 1, 9, 9)},
            "see no part",
        ),
    ],
)
def test_forms_that_are_refused(save: Save, line: Any, inputs: dict[str, Any], text: str) -> None:
    consts = {"w": weights(3, 3), "k": weights(2, 2, 3), "c": weights(2, 2, 3, 3), "v": weights(2, 1, 2, 2, 2)}
    consts |= {"zero": np.zeros(3, np.float32), "i": np.array([0]), "p": np.array([1, 0, 0, 0])}
    used = {name: array for name, array in consts.items() if name in line[1].split()}
    with pytest.raises(ModelError, match=text) as caught:
        load(save([line], inputs, used))
    assert f"at: ONNX node 'n_y' ({line[0]})" in str(caught.value)


def test_a_bias_for_another_number_of_samples_is_refused(save: Save) -> None:
    """Equal rows or not: it cannot be added."""
    consts = {"w": weights(3, 2), "b": np.ones((4, 2), np.float32)}
    with pytest.raises(ModelError, match=r"is for 4 samples, not 13|no shape"):
        load(save([("Gemm", "x w b", "y")], {"x": ("N", 3)}, consts))
