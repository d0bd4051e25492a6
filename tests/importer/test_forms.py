"""Every form that an operator has had since opset 7, once each: attributes that became inputs, defaults that moved.

ONNX's node tests know the newest forms only. A row holds for a range of opsets, and is tried at the opset of every
schema that it covers; a test checks that no schema is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.importer.grammar import Sample
from tests.importer.oracles import Tally, examine

Save = Callable[..., Path]

OLDEST, NEWEST = 7, onnx.defs.onnx_opset_version()
RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class Form:
    """An operator as it is written from opset `since` up to, but without, `until`."""

    line: Any
    consts: Mapping[str, Any] = field(default_factory=dict)
    since: int = OLDEST
    until: int = NEWEST + 1
    x: tuple[int, ...] = (2, 6, 6)
    batch: int | str = "N"


def normal(*shape: int) -> Any:
    """Random weights."""
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Any:
    """A list of integers."""
    return np.array(values, np.int64)


def number(value: float) -> Any:
    """A scalar."""
    return np.float32(value)


WINDOW = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}
STATISTICS = {"g": normal(2), "b": normal(2), "m": normal(2), "v": normal(2) ** 2}
HALVES = {"axis": 1}
CONST = {"c": normal(2, 1, 1)}
SCALES = np.array([1, 1, 2, 2], np.float32)

FORMS: Mapping[str, Sequence[Form]] = {
    "Conv": [Form(("Conv", "x w b", "y", {**WINDOW, "dilations": [1, 2]}), {"w": normal(3, 2, 3, 2), "b": normal(3)})],
    "ConvTranspose": [
        Form(("ConvTranspose", "x w", "y", {"strides": [2, 2], "pads": [1, 0, 0, 1]}), {"w": normal(2, 3, 3, 3)})
    ],
    "BatchNormalization": [
        Form(("BatchNormalization", "x g b m v", "y", {"epsilon": 0.01}), STATISTICS),
        Form(("BatchNormalization", "x g b m v", "y", {"momentum": 0.5}), STATISTICS, x=(2,)),
    ],
    "MaxPool": [
        Form(("MaxPool", "x", "y", WINDOW)),
        Form(("MaxPool", "x", "y", {**WINDOW, "ceil_mode": 1, "dilations": [2, 1]}), since=10),
    ],
    "AveragePool": [
        Form(("AveragePool", "x", "y", {**WINDOW, "count_include_pad": 1})),
        Form(("AveragePool", "x", "y", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}), since=10),
        Form(("AveragePool", "x", "y", {"kernel_shape": [2, 2], "dilations": [2, 1]}), since=19),
    ],
    "GlobalAveragePool": [Form(("GlobalAveragePool", "x", "y"))],
    "GlobalMaxPool": [Form(("GlobalMaxPool", "x", "y"))],
    "LpPool": [Form(("LpPool", "x", "y", {**WINDOW, "p": 1}))],
    "Gemm": [
        Form(("Gemm", "x w b", "y", {"transB": 1, "alpha": 0.5}), {"w": normal(3, 4), "b": normal(3)}, x=(4,)),
        Form(("Gemm", "x w", "y"), {"w": normal(4, 3)}, since=11, x=(4,)),
    ],
    "MatMul": [Form(("MatMul", "x w", "y"), {"w": normal(6, 3)})],
    "Relu": [Form(("Relu", "x", "y"))],
    "LeakyRelu": [Form(("LeakyRelu", "x", "y", {"alpha": 0.2}))],
    "PRelu": [
        Form(("PRelu", "x s", "y"), {"s": normal(2, 1, 1)}),
        Form(("PRelu", "x s", "y"), {"s": normal(1)}),
    ],
    "Clip": [
        Form(("Clip", "x", "y", {"min": -0.5, "max": 1.0}), until=11),
        Form(("Clip", "x", "y", {"max": 1.0}), until=11),
        Form(("Clip", "x a b", "y"), {"a": number(-0.5), "b": number(1)}, since=11),
        Form(("Clip", "x _ b", "y"), {"b": number(1)}, since=11),
    ],
    "Sigmoid": [Form(("Sigmoid", "x", "y"))],
    "Tanh": [Form(("Tanh", "x", "y"))],
    "Elu": [Form(("Elu", "x", "y", {"alpha": 0.5}))],
    "Selu": [Form(("Selu", "x", "y", {"alpha": 1.5, "gamma": 1.1}))],
    "Softplus": [Form(("Softplus", "x", "y"))],
    "HardSigmoid": [Form(("HardSigmoid", "x", "y", {"alpha": 0.25}))],
    "Add": [Form(("Add", "x c", "y"), CONST), Form(("Add", "x x", "y"))],
    "Sub": [Form(("Sub", "c x", "y"), CONST)],
    "Mul": [Form(("Mul", "x c", "y"), CONST), Form(("Mul", "x x", "y"))],
    "Div": [Form(("Div", "x c", "y"), CONST)],
    "Max": [Form(("Max", "x c", "y"), CONST, since=8), Form(("Max", "x x", "y"))],
    "Min": [Form(("Min", "x c", "y"), CONST, since=8), Form(("Min", "x x", "y"))],
    "Concat": [Form(("Concat", "x x", "y", HALVES))],
    "Split": [
        Form([("Split", "x", "a y", {**HALVES, "split": [1, 1]})], until=13),
        Form([("Split", "x", "a y", HALVES)], until=18),
        Form([("Split", "x s", "a y", HALVES)], {"s": ints(1, 1)}, since=13),
        Form([("Split", "x", "a y", {**HALVES, "num_outputs": 2})], since=18),
    ],
    "Slice": [
        Form(("Slice", "x", "y", {"axes": [2, 3], "starts": [1, -3], "ends": [9, -1]}), until=10),
        Form(("Slice", "x", "y", {"starts": [0, 0, 2], "ends": [2**31 - 1, 9, 5]}), until=10),
        Form(
            ("Slice", "x a b i s", "y"),
            {"a": ints(1, -1), "b": ints(9, -9), "i": ints(2, 3), "s": ints(2, -1)},
            since=10,
        ),
    ],
    "Flatten": [Form(("Flatten", "x", "y")), Form(("Flatten", "x", "y", {"axis": -3}), since=11)],
    "Reshape": [
        Form(("Reshape", "x s", "y"), {"s": ints(0, 0, -1)}),
        Form(("Reshape", "x s", "y", {"allowzero": 1}), {"s": ints(-1, 2, 36)}, since=14),
    ],
    "Squeeze": [
        Form([("Unsqueeze", "x", "u", {"axes": [2]}), ("Squeeze", "u", "y", {"axes": [2]})], until=13),
        Form([("Unsqueeze", "x a", "u"), ("Squeeze", "u a", "y")], {"a": ints(2)}, since=13),
    ],
    "Unsqueeze": [
        Form(("Unsqueeze", "x", "y", {"axes": [1, 3]}), until=13, x=(4,)),
        Form(("Unsqueeze", "x", "y", {"axes": [-1]}), since=11, until=13, x=(4,)),
        Form(("Unsqueeze", "x a", "y"), {"a": ints(-1, 1)}, since=13, x=(4,)),
    ],
    "Transpose": [Form(("Transpose", "x", "y", {"perm": [0, 2, 3, 1]}))],
    "Identity": [Form(("Identity", "x", "y"))],
    "Dropout": [
        Form(("Dropout", "x", "y", {"ratio": 0.3}), until=12),
        Form(("Dropout", "x", "y")),
        Form(("Dropout", "x r t", "y"), {"r": number(0.3), "t": np.array(False)}, since=12),
    ],
    "Softmax": [Form(("Softmax", "x", "y")), Form(("Softmax", "x", "y", {"axis": 2}))],
    "LogSoftmax": [Form(("LogSoftmax", "x", "y")), Form(("LogSoftmax", "x", "y", {"axis": 2}))],
    "Constant": [
        Form([("Constant", "", "c", {"value": onnx.numpy_helper.from_array(CONST["c"])}), ("Add", "x c", "y")]),
        Form([("Constant", "", "c", {"value_float": 0.5}), ("Add", "x c", "y")], since=12),
    ],
    "Pad": [
        Form(("Pad", "x", "y", {"pads": [0, 0, 1, 0, 0, 0, 2, 1], "value": 0.5}), until=11),
        Form(("Pad", "x", "y", {"pads": [0, 0, 1, 0, 0, 0, 2, 1], "mode": "edge"}), until=11),
        Form(("Pad", "x p v", "y"), {"p": ints(0, 0, 1, 0, 0, 0, 2, 1), "v": number(0.5)}, since=11),
        Form(("Pad", "x p _ a", "y", {"mode": "reflect"}), {"p": ints(1, 2), "a": ints(3)}, since=18),
        Form(("Pad", "x p", "y", {"mode": "wrap"}), {"p": ints(0, 0, 1, 0, 0, 0, 2, 1)}, since=19),
    ],
    "ReduceMean": [
        Form(("ReduceMean", "x", "y", {"axes": [2, 3], "keepdims": 0}), until=18),
        Form(("ReduceMean", "x", "y", {"axes": [-1]}), since=11, until=18),
        Form(("ReduceMean", "x a", "y", {"keepdims": 0}), {"a": ints(2, 3)}, since=18),
        Form(("ReduceMean", "x", "y", {"noop_with_empty_axes": 1}), since=18),
    ],
    "ReduceSum": [
        Form(("ReduceSum", "x", "y", {"axes": [1, 3]}), until=13),
        Form(("ReduceSum", "x a", "y"), {"a": ints(1, -1)}, since=13),
    ],
    "Upsample": [
        Form(("Upsample", "x", "y", {"scales": [1.0, 1.0, 2.0, 3.0]}), until=9),
        Form(("Upsample", "x s", "y", {"mode": "linear"}), {"s": SCALES}, since=9, until=10),
        Form(("Upsample", "x s", "y"), {"s": SCALES}, since=9, until=10),
    ],
    "Resize": [
        Form(("Resize", "x s", "y"), {"s": SCALES}, since=10, until=11),
        Form(("Resize", "x s", "y", {"mode": "linear"}), {"s": SCALES}, since=10, until=11),
        Form(("Resize", "x r s", "y"), {"r": normal(0), "s": SCALES}, since=11),
        Form(
            ("Resize", "x r _ s", "y", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
            {"r": normal(0), "s": ints(3, 2, 9, 11)},
            since=13,
            batch=3,
        ),
        Form(
            ("Resize", "x _ s", "y", {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}),
            {"s": SCALES},
            since=13,
        ),
    ],
    "Cast": [Form(("Cast", "x", "y", {"to": 1}))],
    "DequantizeLinear": [
        Form(
            [("DequantizeLinear", "w s z", "d"), ("MatMul", "x d", "y")],
            {"w": np.arange(-8, 10, dtype=np.int8).reshape(6, 3), "s": number(0.1), "z": np.int8(3)},
            since=10,
        ),
        Form(
            [("DequantizeLinear", "w s", "d", {"axis": 1}), ("MatMul", "x d", "y")],
            {"w": np.arange(-8, 10, dtype=np.int8).reshape(6, 3), "s": np.array([0.1, 0.2, 0.3], np.float32)},
            since=13,
        ),
    ],
    "QuantizeLinear": [
        Form(
            [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "y")],
            {"s": number(0.125), "z": np.int8(3)},
            since=10,
        )
    ],
    "Expand": [Form(("Expand", "x s", "y"), {"s": ints(1, 2, 6, 6)}, since=8, x=(2, 1, 6))],
    "Shape": [
        Form(
            [("Shape", "x", "n"), ("Gather", "n i", "b"), ("Concat", "b m", "s", {"axis": 0}), ("Reshape", "x s", "y")],
            {"i": ints(0), "m": ints(-1)},
        ),
        Form(
            [("Shape", "x", "b", {"end": 1}), ("Concat", "b m", "s", {"axis": 0}), ("Reshape", "x s", "y")],
            {"m": ints(-1)},
            since=15,
        ),
    ],
    "LayerNormalization": [
        Form(("LayerNormalization", "x g b", "y", {"axis": -2}), {"g": normal(6, 6), "b": normal(6, 6)}, since=17)
    ],
    "InstanceNormalization": [Form(("InstanceNormalization", "x g b", "y"), {"g": normal(2), "b": normal(2)})],
}


def schemas(op: str) -> list[int]:
    """The versions of an operator that models of opset 7 and later can mean, up to where it was removed."""
    found = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == op and s.domain == ""]
    versions = sorted(s.since_version for s in found if not s.deprecated)
    return [v for v, after in zip(versions, [*versions[1:], NEWEST + 1], strict=True) if after > OLDEST]


def rows() -> Iterator[tuple[str, int, Form]]:
    """Every form at the opset of every schema it is written for."""
    for op, forms in FORMS.items():
        for form in forms:
            for version in schemas(op):
                opset = max(version, OLDEST)
                if form.since <= opset < form.until:
                    yield op, opset, form


@pytest.mark.parametrize(
    ("op", "opset", "form"), list(rows()), ids=lambda part: part if isinstance(part, str) else None
)
def test_form(save: Save, op: str, opset: int, form: Form) -> None:
    lines = form.line if isinstance(form.line, list) else [form.line]
    model = onnx.load(save(lines, {"x": (form.batch, *form.x)}, form.consts, opset=opset))
    x = np.random.default_rng(0).normal(size=(3, *form.x)).astype(np.float32)
    tally = Tally()
    examine(Sample(model, {"x": x}), tally)
    assert tally.equal == 1, str(tally)


def test_no_schema_is_left_out() -> None:
    tried = {(op, opset) for op, opset, _ in rows()}
    assert not [(op, v) for op in FORMS for v in schemas(op) if (op, max(v, OLDEST)) not in tried]
