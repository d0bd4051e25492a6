"""One network, written as six exporters write it: one canonical graph.

Two exporters are run where they are installed, the others are imitated node by node: channel-last values with a
transpose around every layer (tf2onnx, keras2onnx), weights reshaped at run time (CNTK), fully connected layers as
convolutions (MATLAB).
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from snnc.importer import load
from snnc.importer.canonical import canonical
from snnc.ir import Array, Graph
from snnc.sim.reference import run

from .conftest import Save

Params = Mapping[str, Array]
Lines = list[tuple[Any, ...]]
Style = Callable[[Params], dict[str, Any]]


def body(graph: Graph) -> tuple[list[tuple[Any, ...]], list[Array]]:
    """The nodes without names and origins, and the arrays; views of an input are the input."""
    index: dict[str, str] = dict.fromkeys(graph.inputs, "input")
    lines, arrays = list[tuple[Any, ...]](), list[Array]()
    for node in graph.nodes:
        values = graph.values(node)
        if node.op in ("reshape", "transpose") and index[values[0]] == "input":
            index[node.name] = "input"
            continue
        index[node.name] = str(len(lines))
        params = [graph.params[name] for name in node.inputs if name in graph.params]
        arrays += params
        read, shapes = [index[value] for value in values], [array.shape for array in params]
        lines.append((node.op, node.type.shape, dict(node.attrs), read, shapes))
    return [*lines, [index[name] for name in graph.outputs.values()]], arrays


def same(graph: Graph, reference: Graph) -> None:
    """The same nodes in the same order, the same arrays."""
    assert canonical(graph) is graph
    (lines, arrays), (expected, wanted) = body(graph), body(reference)
    assert lines == expected
    for array, want in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(array, want, rtol=1e-5, atol=1e-6)


# --- the networks, in torch


class Image(nn.Module):
    """Input normalisation, conv with batch norm, pool, a residual block, a flattened head."""

    shape = (2, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, -0.25]).reshape(2, 1, 1))
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(64, 6)
        self.fc2 = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x - self.mean)))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(x + self.bn2(self.conv2(x)))
        return self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))


class Signal(nn.Module):
    """1-D: conv with batch norm, pool, conv, the mean over time, a read-out."""

    shape = (2, 12)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm1d(4)
        self.conv2 = nn.Conv1d(4, 5, 3)
        self.fc1 = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool1d(torch.relu(self.bn1(self.conv1(x))), 2)
        return self.fc1(torch.relu(self.conv2(x)).mean(2))


class Features(nn.Module):
    """Dense layers with a batch norm, and the logarithm of a softmax."""

    shape = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.bn1 = nn.BatchNorm1d(8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.fc2(torch.relu(self.bn1(self.fc1(x)))), 1)


NETWORKS = {"image": Image, "signal": Signal, "features": Features}


@functools.cache
def network(name: str) -> nn.Module:
    """With statistics that are not those of a fresh batch norm."""
    torch.manual_seed(1)
    made = NETWORKS[name]().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low in ((module.weight, -1.5), (module.bias, -1), (module.running_mean, -1)):
                tensor.data.uniform_(low, 1)
            module.running_var.uniform_(0.5, 2)
    return made


def arrays(name: str) -> Params:
    return {key: value.numpy() for key, value in network(name).state_dict().items()}


# --- the exporters that are run


def exported(name: str, path: Path, **options: Any) -> Path:
    """By PyTorch, with the batch left open in the old exporter's way."""
    module = network(name)
    buffer = io.BytesIO()
    x = torch.zeros(2, *module.shape)  # type: ignore[arg-type, misc]
    if options.get("dynamo"):
        torch.onnx.export(module, (x,), dynamo=True, verbose=False).save(str(path))  # type: ignore[union-attr]
        return path
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    torch.onnx.export(module, (x,), buffer, input_names=["x"], output_names=["y"], dynamic_axes=axes, **options)
    path.write_bytes(buffer.getvalue())
    return path


needs_onnxscript = pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="onnxscript is not there")


@pytest.fixture
def reference(request: pytest.FixtureRequest, save: Save) -> Callable[[str], Graph]:
    """A network written in the plainest way: channels first, every layer one node."""
    return lambda name: load(save(**PLAIN[name](arrays(name))))


def _plain_image(p: Params) -> dict[str, Any]:
    lines: Lines = [
        ("Sub", "x mean", "x0"),
        ("Conv", "x0 conv1.weight", "c1", {"pads": [1] * 4}),
        ("BatchNormalization", "c1 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "b1"),
        ("Relu", "b1", "r1"),
        ("MaxPool", "r1", "m1", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", "m1 conv2.weight conv2.bias", "c2", {"pads": [1] * 4}),
        ("BatchNormalization", "c2 bn2.weight bn2.bias bn2.running_mean bn2.running_var", "b2"),
        ("Add", "m1 b2", "s"),
        ("Relu", "s", "r2"),
        ("Flatten", "r2", "f"),
        ("Gemm", "f fc1.weight fc1.bias", "d1", {"transB": 1}),
        ("Relu", "d1", "r3"),
        ("Gemm", "r3 fc2.weight fc2.bias", "y", {"transB": 1}),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 2, 8, 8)}, "consts": used(p, lines), "opset": 15}


def _plain_signal(p: Params) -> dict[str, Any]:
    lines: Lines = [
        ("Conv", "x conv1.weight conv1.bias", "c1", {"pads": [1, 1]}),
        ("BatchNormalization", "c1 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "b1"),
        ("Relu", "b1", "r1"),
        ("MaxPool", "r1", "m1", {"kernel_shape": [2], "strides": [2]}),
        ("Conv", "m1 conv2.weight conv2.bias", "c2"),
        ("Relu", "c2", "r2"),
        ("GlobalAveragePool", "r2", "g"),
        ("Flatten", "g", "f"),
        ("Gemm", "f fc1.weight fc1.bias", "y", {"transB": 1}),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 2, 12)}, "consts": used(p, lines), "opset": 15}


def _plain_features(p: Params) -> dict[str, Any]:
    lines: Lines = [
        ("Gemm", "x fc1.weight fc1.bias", "d1", {"transB": 1}),
        ("BatchNormalization", "d1 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "b1"),
        ("Relu", "b1", "r1"),
        ("Gemm", "r1 fc2.weight fc2.bias", "d2", {"transB": 1}),
        ("LogSoftmax", "d2", "y", {"axis": 1}),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 6)}, "consts": used(p, lines), "opset": 15}


PLAIN: dict[str, Style] = {"image": _plain_image, "signal": _plain_signal, "features": _plain_features}


def used(p: Params, lines: Lines) -> dict[str, Array]:
    """Those constants that the lines read."""
    read = {name for line in lines for name in line[1].split()}
    return {name: array for name, array in p.items() if name in read}


# --- the exporters that are imitated

LAST, FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}


def affine(p: Params, norm: str) -> tuple[Array, Array]:
    """Factor and bias of a batch norm, as Keras leaves them."""
    factor = p[f"{norm}.weight"] / np.sqrt(p[f"{norm}.running_var"] + 1e-5)
    return factor, p[f"{norm}.bias"] - factor * p[f"{norm}.running_mean"]


def channel_last(p: Params, layer: str) -> Array:
    """The weight of a dense layer of a flattened [4,4,4] map whose channels stand last, [in, out]."""
    return p[f"{layer}.weight"].reshape(-1, 4, 4, 4).transpose(2, 3, 1, 0).reshape(64, -1)


def tf2onnx_image(p: Params) -> dict[str, Any]:
    (f1, b1), (f2, b2) = affine(p, "bn1"), affine(p, "bn2")
    consts = {
        "mean": p["mean"].reshape(2), "w1": p["conv1.weight"], "f1": f1, "b1": b1, "w2": p["conv2.weight"],
        "c2": p["conv2.bias"], "f2": f2, "b2": b2, "d1": channel_last(p, "fc1"), "e1": p["fc1.bias"],
        "d2": p["fc2.weight"].T, "e2": p["fc2.bias"], "flat": np.array([-1, 64]),
    }  # fmt: skip
    lines: Lines = [
        ("Sub", "x mean", "x0"),
        ("Transpose", "x0", "t1", FIRST),
        ("Conv", "t1 w1", "v1", {"auto_pad": "SAME_UPPER"}),
        ("Transpose", "v1", "t2", LAST),
        ("Mul", "t2 f1", "v2"),
        ("Add", "v2 b1", "v3"),
        ("Relu", "v3", "v4"),
        ("Transpose", "v4", "t3", FIRST),
        ("MaxPool", "t3", "v5", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Transpose", "v5", "t4", LAST),
        ("Transpose", "t4", "t5", FIRST),
        ("Conv", "t5 w2", "v6", {"pads": [1] * 4}),
        ("Transpose", "v6", "t6", LAST),
        ("Add", "t6 c2", "v7"),
        ("Mul", "v7 f2", "v8"),
        ("Add", "v8 b2", "v9"),
        ("Add", "v9 t4", "v10"),
        ("Relu", "v10", "v11"),
        ("Reshape", "v11 flat", "v12"),
        ("MatMul", "v12 d1", "v13"),
        ("Add", "v13 e1", "v14"),
        ("Relu", "v14", "v15"),
        ("MatMul", "v15 d2", "v16"),
        ("Add", "v16 e2", "y"),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 8, 8, 2)}, "consts": consts, "opset": 13}


def keras2onnx_image(p: Params) -> dict[str, Any]:
    consts = {
        **p, "mean": p["mean"].reshape(1, 1, 1, 2), "d1": channel_last(p, "fc1"), "d2": p["fc2.weight"].T,
        "shape": np.array([-1, 64]),
    }  # fmt: skip
    lines: Lines = [
        ("Sub", "x mean", "x0"),
        ("Transpose", "x0", "adjusted1", FIRST),
        ("Conv", "adjusted1 conv1.weight", "v1", {"auto_pad": "SAME_LOWER", "strides": [1, 1]}),
        ("BatchNormalization", "v1 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "v2"),
        ("Transpose", "v2", "t1", LAST),
        ("Relu", "t1", "v3"),
        ("Transpose", "v3", "t2", FIRST),
        ("MaxPool", "t2", "v4", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "VALID"}),
        ("Transpose", "v4", "t3", LAST),
        ("Transpose", "t3", "t4", FIRST),
        ("Conv", "t4 conv2.weight conv2.bias", "v5", {"auto_pad": "SAME_UPPER"}),
        ("BatchNormalization", "v5 bn2.weight bn2.bias bn2.running_mean bn2.running_var", "v6"),
        ("Transpose", "v6", "t5", LAST),
        ("Add", "t3 t5", "v7"),
        ("Relu", "v7", "v8"),
        ("Identity", "v8", "v9"),
        ("Reshape", "v9 shape", "v10"),
        ("MatMul", "v10 d1", "v11"),
        ("Add", "v11 fc1.bias", "v12"),
        ("Relu", "v12", "v13"),
        ("MatMul", "v13 d2", "v14"),
        ("Add", "v14 fc2.bias", "y"),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 8, 8, 2)}, "consts": used(consts, lines), "opset": 11}


def cntk_image(p: Params) -> dict[str, Any]:
    """Weights stored flat and reshaped at run time, biases as [C,1,1] behind the layers, an explicit Pad."""
    (f1, b1), (f2, b2) = affine(p, "bn1"), affine(p, "bn2")
    consts = {
        "mean": p["mean"], "w1": p["conv1.weight"].reshape(-1), "s1": np.array([4, 2, 3, 3]), "f1": f1.reshape(4, 1, 1),
        "b1": b1.reshape(4, 1, 1), "w2": p["conv2.weight"], "c2": p["conv2.bias"].reshape(4, 1, 1),
        "f2": f2.reshape(1, 4, 1, 1), "b2": b2.reshape(4, 1, 1), "flat": np.array([-1, 64]),
        "d1": p["fc1.weight"].T.reshape(4, 4, 4, 6), "s2": np.array([64, 6]), "e1": p["fc1.bias"].reshape(1, 6),
        "d2": p["fc2.weight"].T, "e2": p["fc2.bias"].reshape(1, 3),
    }  # fmt: skip
    lines: Lines = [
        ("Sub", "x mean", "x0"),
        ("Reshape", "w1 s1", "w1r"),
        ("Pad", "x0", "p1", {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
        ("Conv", "p1 w1r", "v1"),
        ("Mul", "v1 f1", "v2"),
        ("Add", "b1 v2", "v3"),
        ("Relu", "v3", "v4"),
        ("MaxPool", "v4", "v5", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}),
        ("Conv", "v5 w2", "v6", {"auto_pad": "SAME_UPPER"}),
        ("Add", "v6 c2", "v7"),
        ("Mul", "f2 v7", "v8"),
        ("Add", "v8 b2", "v9"),
        ("Sum", "v9 v5", "v10"),
        ("Relu", "v10", "v11"),
        ("Reshape", "v11 flat", "v12"),
        ("Reshape", "d1 s2", "d1r"),
        ("MatMul", "v12 d1r", "v13"),
        ("Add", "v13 e1", "v14"),
        ("Relu", "v14", "v15"),
        ("MatMul", "v15 d2", "v16"),
        ("Add", "v16 e2", "y"),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 2, 8, 8)}, "consts": consts, "opset": 9}


def matlab_image(p: Params) -> dict[str, Any]:
    """Fully connected layers as convolutions whose kernel is the whole map."""
    consts = {
        **p, "mean": np.broadcast_to(p["mean"], (1, 2, 8, 8)), "d1": p["fc1.weight"].reshape(6, 4, 4, 4),
        "d2": p["fc2.weight"].reshape(3, 6, 1, 1),
    }  # fmt: skip
    lines: Lines = [
        ("Sub", "x mean", "x0"),
        ("Conv", "x0 conv1.weight", "v1", {"pads": [1] * 4, "group": 1, "dilations": [1, 1]}),
        ("BatchNormalization", "v1 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "v2", {"epsilon": 1e-5}),
        ("Relu", "v2", "v3"),
        ("MaxPool", "v3", "v4", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", "v4 conv2.weight conv2.bias", "v5", {"pads": [1] * 4}),
        ("BatchNormalization", "v5 bn2.weight bn2.bias bn2.running_mean bn2.running_var", "v6", {"epsilon": 1e-5}),
        ("Add", "v6 v4", "v7"),
        ("Relu", "v7", "v8"),
        ("Dropout", "v8", "v9"),
        ("Conv", "v9 d1 fc1.bias", "v10", {"kernel_shape": [4, 4], "strides": [4, 4]}),
        ("Relu", "v10", "v11"),
        ("Conv", "v11 d2 fc2.bias", "v12"),
        ("Flatten", "v12", "y"),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 2, 8, 8)}, "consts": used(consts, lines), "opset": 8}


def tf2onnx_signal(p: Params) -> dict[str, Any]:
    """Keras has no 1-D convolutions for ONNX: the value becomes an image of height 1, in and out of every layer."""
    f1, b1 = affine(p, "bn1")
    consts = {
        "w1": p["conv1.weight"], "b": p["conv1.bias"], "f1": f1, "b1": b1, "w2": p["conv2.weight"][:, :, None],
        "c2": p["conv2.bias"], "d1": p["fc1.weight"].T, "e1": p["fc1.bias"], "one": np.array([1]), "two": np.array([2]),
    }  # fmt: skip
    swap = {"perm": [0, 2, 1]}
    lines: Lines = [
        ("Transpose", "x", "t1", swap),
        ("Conv", "t1 w1 b", "v1", {"auto_pad": "SAME_UPPER"}),
        ("Transpose", "v1", "t2", swap),
        ("Mul", "t2 f1", "v2"),
        ("Add", "v2 b1", "v3"),
        ("Relu", "v3", "v4"),
        ("Transpose", "v4", "t3", swap),
        ("MaxPool", "t3", "v5", {"kernel_shape": [2], "strides": [2]}),
        ("Transpose", "v5", "t4", swap),
        ("Unsqueeze", "t4 one", "v6"),
        ("Transpose", "v6", "t5", FIRST),
        ("Conv", "t5 w2", "v7"),
        ("Transpose", "v7", "t6", LAST),
        ("Squeeze", "t6 one", "v8"),
        ("Add", "v8 c2", "v9"),
        ("Relu", "v9", "v10"),
        ("ReduceMean", "v10", "v11", {"axes": [1], "keepdims": 0}),
        ("MatMul", "v11 d1", "v12"),
        ("Add", "v12 e1", "y"),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 12, 2)}, "consts": consts, "opset": 13}


def keras2onnx_features(p: Params) -> dict[str, Any]:
    f1, b1 = affine(p, "bn1")
    consts = {"w1": p["fc1.weight"].T, "c1": p["fc1.bias"], "f1": f1, "b1": b1, **p, "w2": p["fc2.weight"].T}
    lines: Lines = [
        ("MatMul", "x w1", "v1"),
        ("Add", "v1 c1", "v2"),
        ("Mul", "v2 f1", "v3"),
        ("Add", "v3 b1", "v4"),
        ("Max", "v4 zero", "v5"),
        ("MatMul", "v5 w2", "v6"),
        ("Add", "fc2.bias v6", "v7"),
        ("Softmax", "v7", "v8", {"axis": 1}),
        ("Log", "v8", "y"),
    ]
    consts = used({**consts, "zero": np.zeros(1, np.float32)}, lines)
    return {"lines": lines, "inputs": {"x": ("N", 6)}, "consts": consts, "opset": 12}


def matlab_features(p: Params) -> dict[str, Any]:
    """The features as one pixel of six channels."""
    consts = {**p, "w1": p["fc1.weight"].reshape(8, 1, 1, 6), "w2": p["fc2.weight"].reshape(3, 8, 1, 1)}
    lines: Lines = [
        ("Conv", "x w1 fc1.bias", "v1"),
        ("BatchNormalization", "v1 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "v2"),
        ("Relu", "v2", "v3"),
        ("Conv", "v3 w2 fc2.bias", "v4"),
        ("Flatten", "v4", "v5"),
        ("LogSoftmax", "v5", "y", {"axis": 1}),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 1, 1, 6)}, "consts": used(consts, lines), "opset": 8}


def torch03_features(p: Params) -> dict[str, Any]:
    """The first PyTorch exporters put an axis around BatchNorm1d."""
    lines: Lines = [
        ("Gemm", "x fc1.weight fc1.bias", "v1", {"transB": 1}),
        ("Unsqueeze", "v1", "v2", {"axes": [2]}),
        ("BatchNormalization", "v2 bn1.weight bn1.bias bn1.running_mean bn1.running_var", "v3"),
        ("Squeeze", "v3", "v4", {"axes": [2]}),
        ("Relu", "v4", "v5"),
        ("Gemm", "v5 fc2.weight fc2.bias", "v6", {"transB": 1}),
        ("LogSoftmax", "v6", "y", {"axis": 1}),
    ]
    return {"lines": lines, "inputs": {"x": ("N", 6)}, "consts": used(p, lines), "opset": 9}


STYLES: dict[str, Style] = {
    "tf2onnx-image": tf2onnx_image,
    "keras2onnx-image": keras2onnx_image,
    "cntk-image": cntk_image,
    "matlab-image": matlab_image,
    "tf2onnx-signal": tf2onnx_signal,
    "keras2onnx-features": keras2onnx_features,
    "matlab-features": matlab_features,
    "torch03-features": torch03_features,
}


@pytest.mark.parametrize("style", STYLES)
def test_an_imitated_exporter(style: str, save: Save, reference: Callable[[str], Graph]) -> None:
    name = style.split("-")[1]
    expected = reference(name)
    same(load(save(**STYLES[style](arrays(name)))), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "unfolded"])
def test_the_old_torch_exporter(name: str, fold: bool, tmp_path: Path, reference: Callable[[str], Graph]) -> None:
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
    path = exported(name, tmp_path / "m.onnx", dynamo=False, do_constant_folding=fold, training=mode, opset_version=13)
    assert fold or any(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)
    same(load(path), reference(name))


@needs_onnxscript
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")
def test_the_new_torch_exporter(name: str, tmp_path: Path, reference: Callable[[str], Graph]) -> None:
    same(load(exported(name, tmp_path / "m.onnx", dynamo=True)), reference(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_is_what_torch_computes(name: str, reference: Callable[[str], Graph]) -> None:
    graph, module = reference(name), network(name)
    x = np.random.default_rng(0).normal(size=(3, *module.shape)).astype(np.float32)  # type: ignore[misc]
    made = run(graph, dict.fromkeys(graph.inputs, x))["y"]
    np.testing.assert_allclose(made, module(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


FORMS = {
    "image": "scale conv relu maxpool conv add relu reshape dense relu dense",
    "signal": "conv relu maxpool conv relu avgpool reshape dense",
    "features": "dense relu dense logsoftmax",
}


@pytest.mark.parametrize("name", FORMS)
def test_the_form(name: str, reference: Callable[[str], Graph]) -> None:
    """What it looks like, so that equal does not mean equally wrong."""
    assert " ".join(line[0] for line in body(reference(name))[0][:-1]) == FORMS[name]
