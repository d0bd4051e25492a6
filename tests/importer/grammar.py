"""Random valid ONNX models: chains with branches whose every shape is tracked, in the forms of five opsets.

A block of the grammar is a function that takes the draw, the model so far and a value, and gives the value it made.
It is listed under the ranks it fits: images [C,H,W], sequences [C,L], features [F] (a batch stands in front of all).
Blocks write what exporters write: unfolded batch norms, MatMul and Add, shapes computed from Shape, Pad before a
pool, channels last between two transposes. Weights are scaled by their fan-in, so that values stay of size 1 and
an error stays visible.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from snnc.ir import Array, Shape

OPSETS = (9, 11, 13, 17, 21)


@dataclass(frozen=True)
class Value:
    """A value of the model: its name and its shape without batch."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Sample:
    """A random model and an input for it."""

    model: ModelProto
    x: Mapping[str, Array]

    @property
    def ops(self) -> set[str]:
        """The operators in it."""
        return {node.op_type for node in self.model.graph.node}

    @property
    def opset(self) -> int:
        """Its ONNX version."""
        return int(self.model.opset_import[0].version)

    def __repr__(self) -> str:
        """As text, for hypothesis to show what failed."""
        return onnx.printer.to_text(self.model)


@dataclass
class Maker:
    """A model while it grows.

    Attributes:
        batch: None if dynamic.
        inline: constants are `Constant` nodes, as some exporters write them, not initializers.
    """

    opset: int
    batch: int | None
    rng: np.random.Generator
    inline: bool
    nodes: list[NodeProto] = field(default_factory=list)
    consts: list[TensorProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        self.count += 1
        return f"{stem}_{self.count}"

    def const(self, array: Any, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        tensor = numpy_helper.from_array(np.asarray(array, dtype), self.fresh("c"))
        if self.inline:
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            self.consts.append(tensor)
        return str(tensor.name)

    def ints(self, *values: int) -> str:
        """The name of a constant list of integers."""
        return self.const(values, np.int64)

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """The name of a random constant."""
        return self.const(self.rng.normal(size=shape) * scale)

    def weight(self, *shape: int) -> str:
        """The name of a random weight [out, ...], scaled by its fan-in."""
        return self.normal(*shape, scale=1 / math.sqrt(max(math.prod(shape[1:]), 1)))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """Append a node; gives the name of its first output."""
        made = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name=self.fresh("n"), **attrs))
        return made[0]

    def along(self, op: str, x: str, axes: tuple[int, ...], since: int, **attrs: Any) -> str:
        """An operator whose axes became an input at opset `since`."""
        if self.opset >= since:
            return self.add(op, x, self.ints(*axes), **attrs)
        return self.add(op, x, axes=axes, **attrs)


Block: TypeAlias = Callable[[st.DrawFn, Maker, Value], Value]


def _conv(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    channels, *size = x.shape
    out = draw(st.sampled_from([2, 4]))
    group = draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0 and out % g == 0]))
    attrs, made = _window(draw, size, dilated=True)
    weight = m.weight(out, channels // group, *attrs["kernel_shape"])
    if draw(st.integers(0, 3)) == 0:
        attrs.pop("kernel_shape")
    inputs = [x.name, weight, *([m.normal(out)] if draw(st.booleans()) else [])]
    return Value(m.add("Conv", *inputs, group=group, **attrs), (out, *made))


def _quantised_weight(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """A 1x1 conv whose int8 weight passes a DequantizeLinear, which there is from opset 10."""
    if m.opset < 10:
        return x
    out, channels = 2, x.shape[0]
    weight = m.const(m.rng.integers(-128, 128, (out, channels, *[1] * (len(x.shape) - 1))), np.int8)
    scale, zero = m.const(1 / (100 * channels)), m.const(draw(st.sampled_from([0, 3])), np.int8)
    made = m.add("Conv", x.name, m.add("DequantizeLinear", weight, scale, zero))
    return Value(made, (out, *x.shape[1:]))


def _conv_transpose(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    channels, *size = x.shape
    group = draw(st.sampled_from([g for g in (1, 2) if channels % g == 0]))
    kernel, stride, pad = (draw(st.integers(low, high)) for low, high in ((2, 3), (1, 2), (0, 1)))
    pad = 0 if min(size) == 1 else pad
    extra = draw(st.integers(0, stride - 1))
    rank = len(size)
    weight = m.weight(channels, 2, *[kernel] * rank)
    attrs = {"strides": [stride] * rank, "pads": [pad] * 2 * rank, "output_padding": [extra] * rank, "group": group}
    made = tuple((s - 1) * stride - 2 * pad + kernel + extra for s in size)
    return Value(m.add("ConvTranspose", x.name, weight, **attrs), (2 * group, *made))


def _window(draw: st.DrawFn, size: list[int], dilated: bool) -> tuple[dict[str, Any], Shape]:
    """Attributes of a window that fits, and the size of what it makes; pads stay smaller than the window."""
    kernel = [draw(st.integers(1, min(3, s))) for s in size]
    strides = [draw(st.integers(1, 2)) for _ in size]
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto.startswith("SAME") and all(map(operator.ge, kernel, strides)):  # else neither oracle runs it
        return {**attrs, "auto_pad": auto}, tuple(-(-s // stride) for s, stride in zip(size, strides, strict=True))
    if auto != "NOTSET":
        auto = "VALID"
        return {**attrs, "auto_pad": auto}, _floor(size, kernel, strides, [0] * 2 * len(size))
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    dilations = [
        2 if dilated and 2 * k - 1 <= s and draw(st.booleans()) else 1 for k, s in zip(kernel, size, strict=True)
    ]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attrs |= {"pads": pads, **({"dilations": dilations} if dilations != [1] * len(size) else {})}
    return attrs, _floor(size, spans, strides, pads)


def _floor(size: list[int], spans: list[int], strides: list[int], pads: list[int]) -> Shape:
    rank = len(size)
    return tuple((size[i] + pads[i] + pads[i + rank] - spans[i]) // strides[i] + 1 for i in range(rank))


def _pool(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    op = draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))
    channels, *size = x.shape
    if op != "LpPool" and m.opset >= 10 and draw(st.booleans()):
        kernel = [draw(st.integers(1, min(3, s))) for s in size]
        strides = [draw(st.integers(1, k)) for k in kernel]
        made = tuple(-(-(s - k) // stride) + 1 for s, k, stride in zip(size, kernel, strides, strict=True))
        return Value(m.add(op, x.name, kernel_shape=kernel, strides=strides, ceil_mode=1), (channels, *made))
    attrs, made = _window(draw, size, dilated=op == "MaxPool" and m.opset >= 10)
    if op == "AveragePool" and "pads" in attrs:
        attrs["count_include_pad"] = draw(st.integers(0, 1))
    if op == "LpPool":
        attrs["p"] = draw(st.sampled_from([1, 2]))
    return Value(m.add(op, x.name, **attrs), (channels, *made))


def _padded_pool(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """A Pad of its own before a pool without pads, as Keras exports; zeros count in the maximum of negatives."""
    channels, *size = x.shape
    padded = _padding(m, x.name, [0, 0, *[0] * len(size), 0, 0, *[1] * len(size)], "constant")
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    made = m.add(op, padded, kernel_shape=[2] * len(size), strides=[2] * len(size))
    return Value(made, (channels, *((s - 1) // 2 + 1 for s in size)))


def _pad(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    most = 1 if min(x.shape[1:]) > 1 else 0
    pads = [0, 0, *(draw(st.integers(0, most)) for _ in x.shape[1:])] * 2
    value = draw(st.sampled_from([0.0, 0.5])) if mode == "constant" else 0.0
    made = _padding(m, x.name, pads, mode, value)
    return Value(made, (x.shape[0], *(s + 2 * p for s, p in zip(x.shape[1:], pads[2:], strict=False))))


def _padding(m: Maker, x: str, pads: list[int], mode: str, value: float = 0.0) -> str:
    if m.opset < 11:
        return m.add("Pad", x, pads=pads, mode=mode, value=value)
    return m.add("Pad", x, m.ints(*pads), *([m.const(value)] if value else []), mode=mode)


def _global_pool(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    op = draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
    return Value(m.add(op, x.name), (x.shape[0], *[1] * (len(x.shape) - 1)))


def _reduce(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Over the last axes, which become 1 or go, in the form of the opset; never all of them."""
    op, since = draw(st.sampled_from([("ReduceMean", 18), ("ReduceSum", 13), ("ReduceMax", 18)]))
    first = draw(st.integers(1, len(x.shape) - 1))
    keep = draw(st.booleans())
    axes = tuple(range(first + 1, len(x.shape) + 1))
    if m.opset >= 11 and draw(st.booleans()):
        axes = tuple(a - len(x.shape) - 1 for a in axes)
    made = m.along(op, x.name, axes, since, keepdims=int(keep))
    if op == "ReduceSum":
        made = m.add("Mul", made, m.const(1 / math.prod(x.shape[first:])))
    return Value(made, (*x.shape[:first], *([1] * (len(x.shape) - first) if keep else [])))


def _batchnorm(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    channels = x.shape[0]
    var = m.const(m.rng.uniform(0.2, 2, channels))
    stats = (m.normal(channels), m.normal(channels), m.normal(channels), var)
    return Value(m.add("BatchNormalization", x.name, *stats, epsilon=draw(st.sampled_from([1e-5, 1e-3]))), x.shape)


def _unfolded_norm(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """A batch norm as the arithmetic that some exporters write."""
    shape = (x.shape[0], *[1] * (len(x.shape) - 1))
    if draw(st.booleans()):
        made = m.add("Add", m.add("Mul", x.name, m.normal(*shape)), m.normal(*shape))
        return Value(made, x.shape)
    made = m.add("Div", m.add("Sub", x.name, m.normal(1, *shape)), m.const(m.rng.uniform(0.5, 2, shape)))
    return Value(made, x.shape)


def _instance_norm(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    if math.prod(x.shape[1:]) < 4:
        return x
    return Value(m.add("InstanceNormalization", x.name, m.normal(x.shape[0]), m.normal(x.shape[0])), x.shape)


def _layer_norm(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    if m.opset < 17 or x.shape[-1] < 2:
        return x
    inputs = [x.name, m.normal(x.shape[-1]), *([m.normal(x.shape[-1])] if draw(st.booleans()) else [])]
    return Value(m.add("LayerNormalization", *inputs, axis=-1, epsilon=1e-2), x.shape)


CURVES: Mapping[str, Mapping[str, float]] = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.1},
    "Sigmoid": {},
    "Tanh": {},
    "Elu": {"alpha": 0.7},
    "Selu": {},
    "Softplus": {},
    "HardSigmoid": {"alpha": 0.3},
    "Softsign": {},
    "Abs": {},
    "Neg": {},
    "Identity": {},
}


def _curve(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    op = draw(st.sampled_from(list(CURVES)))
    return Value(m.add(op, x.name, **CURVES[op]), x.shape)


def _relu(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    return Value(m.add("Relu", x.name), x.shape)


def _prelu(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    slope = draw(st.sampled_from([(1,), (x.shape[0], *[1] * (len(x.shape) - 1))]))
    return Value(m.add("PRelu", x.name, m.const(m.rng.uniform(-0.5, 0.5, slope))), x.shape)


def _clip(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    low, high = draw(st.sampled_from([(0.0, 6.0), (-0.5, 0.5), (0.0, None), (None, 0.3)]))
    if m.opset < 11:
        attrs = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
        return Value(m.add("Clip", x.name, **attrs), x.shape)
    bounds = ["" if bound is None else m.const(bound) for bound in (low, high)]
    return Value(m.add("Clip", x.name, *(bounds if bounds[1] else bounds[:1])), x.shape)


def _swish(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """x * sigmoid(x): two values of the input multiplied."""
    return Value(m.add("Mul", x.name, m.add("Sigmoid", x.name)), x.shape)


def _bound(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Max or Min with a constant, or with a branch."""
    op = draw(st.sampled_from(["Max", "Min"]))
    other = m.const(0.1) if draw(st.booleans()) else m.add("Tanh", x.name)
    return Value(m.add(op, x.name, other), x.shape)


def _square(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    return Value(m.add("Pow", m.add("Tanh", x.name), m.const(2.0)), x.shape)


def _affine(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Scalars on either side."""
    op = draw(st.sampled_from(["Add", "Sub", "Mul"]))
    pair = [x.name, m.const(draw(st.sampled_from([0.5, -1.5])))]
    return Value(m.add(op, *(pair if draw(st.booleans()) else pair[::-1])), x.shape)


def _dropout(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    if m.opset < 12:
        return Value(m.add("Dropout", x.name, ratio=0.4), x.shape)
    return Value(m.add("Dropout", x.name, m.const(0.4), m.const(False, np.bool_)), x.shape)


def _residual(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """A branch of a pointwise layer that meets its source again."""
    channels, rank = x.shape[0], len(x.shape)
    if rank == 1:
        branch = m.add("MatMul", m.add("Relu", x.name), m.weight(channels, channels))
    else:
        branch = m.add("Conv", m.add("Relu", x.name), m.weight(channels, channels, *[1] * (rank - 1)))
    op = draw(st.sampled_from(["Add", "Sub", "Sum", "Mul"]))
    return Value(m.add(op, x.name, branch), x.shape)


def _squeeze_excite(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Channels weighted by a gate of their own mean: [C,1,1] meets [C,H,W]."""
    mean = m.add("GlobalAveragePool", x.name)
    channels = x.shape[0]
    gate = m.add("Sigmoid", m.add("Conv", mean, m.weight(channels, channels, *[1] * (len(x.shape) - 1))))
    return Value(m.add("Mul", x.name, gate), x.shape)


def _concat(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    if x.shape[0] > 8:
        return x
    branch = m.add(draw(st.sampled_from(["Relu", "Sigmoid", "Identity"])), x.name)
    axis = draw(st.sampled_from([1, -len(x.shape)] if m.opset >= 11 else [1]))
    return Value(m.add("Concat", x.name, branch, axis=axis), (2 * x.shape[0], *x.shape[1:]))


def _split(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Channels split, one part bent, put together again the other way round."""
    channels = x.shape[0]
    if channels < 2:
        return x
    first = draw(st.integers(1, channels - 1))
    if m.opset < 13:
        made = m.add("Split", x.name, outputs=2, axis=1, split=[first, channels - first])
    else:
        made = m.add("Split", x.name, m.ints(first, channels - first), outputs=2, axis=1)
    other = m.nodes[-1].output[1]
    return Value(m.add("Concat", other, m.add("Relu", made), axis=1), x.shape)


def _slice(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    axis = draw(st.integers(0, len(x.shape) - 1))
    size = x.shape[axis]
    if size < 3:
        return x
    start, stop = draw(st.sampled_from([(0, size - 1), (1, size), (1, 2**31), (-2, size)]))
    made = len(range(size)[start:stop])
    if m.opset < 10:
        name = m.add("Slice", x.name, axes=[axis + 1], starts=[start], ends=[stop])
        return Value(name, _with(x.shape, axis, made))
    step = draw(st.sampled_from([1, 2, -1]))
    if step < 0:
        start, stop, made = size - 1, -(2**31), size
    inputs = (m.ints(start), m.ints(stop), m.ints(axis + 1), m.ints(step))
    return Value(m.add("Slice", x.name, *inputs), _with(x.shape, axis, -(-made // abs(step))))


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _channels_last(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Between two transposes, as TensorFlow exports: a bias [C] and a product with the channels last."""
    rank = len(x.shape)
    last = m.add("Transpose", x.name, perm=[0, *range(2, rank + 1), 1])
    units = draw(st.sampled_from([2, 4]))
    made = m.add("Add", m.add("MatMul", last, m.weight(x.shape[0], units)), m.normal(units))
    return Value(m.add("Transpose", made, perm=[0, rank, *range(1, rank)]), (units, *x.shape[1:]))


def _upsample(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    channels, *size = x.shape
    if max(size) > 10:
        return x
    scales = m.const([1, 1, *[2] * len(size)])
    shape = (channels, *(2 * s for s in size))
    mode = draw(st.sampled_from(["nearest", "linear"]))
    if m.opset < 11:
        return Value(m.add("Upsample" if m.opset < 10 else "Resize", x.name, scales, mode=mode), shape)
    how = draw(st.sampled_from(["asymmetric", "half_pixel", "align_corners"]))
    attrs = {"mode": mode, "coordinate_transformation_mode": how}
    if mode == "nearest":
        attrs |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    roi = m.const(np.zeros(0)) if m.opset < 13 else ""
    return Value(m.add("Resize", x.name, roi, scales, **attrs), shape)


def _depth_to_space(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    channels, high, wide = x.shape
    if channels % 4:
        return x
    mode = {"mode": draw(st.sampled_from(["DCR", "CRD"]))} if m.opset >= 11 else {}
    return Value(m.add("DepthToSpace", x.name, blocksize=2, **mode), (channels // 4, 2 * high, 2 * wide))


def _softmax(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    op = draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    axis = draw(st.integers(1, len(x.shape)))
    return Value(m.add(op, x.name, axis=axis), x.shape)


def _gemm(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    out, trans = draw(st.integers(1, 5)), draw(st.integers(0, 1))
    shape = (out, x.shape[0]) if trans else (x.shape[0], out)
    weight = m.normal(*shape, scale=1 / math.sqrt(x.shape[0]))
    bias = draw(st.sampled_from([None, (out,), (1, out), (1,)]))
    inputs = [x.name, weight] + ([m.normal(*bias)] if bias else [m.const(np.zeros(out))] if m.opset < 11 else [])
    alpha, beta = draw(st.sampled_from([(1.0, 1.0), (0.5, 2.0)]))
    return Value(m.add("Gemm", *inputs, transB=trans, alpha=alpha, beta=beta), (out,))


def _dense(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """MatMul and Add, over the last axis of any rank."""
    out = draw(st.integers(2, 5))
    made = m.add("MatMul", x.name, m.normal(x.shape[-1], out, scale=1 / math.sqrt(x.shape[-1])))
    if draw(st.booleans()):
        pair = [made, m.normal(out)]
        made = m.add("Add", *(pair if draw(st.booleans()) else pair[::-1]))
    return Value(made, (*x.shape[:-1], out))


def _transpose(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    perm = draw(st.permutations(range(len(x.shape))))
    return Value(m.add("Transpose", x.name, perm=[0, *(i + 1 for i in perm)]), tuple(x.shape[i] for i in perm))


def _unsqueeze(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """An axis of 1 more, which stays or goes again."""
    at = draw(st.integers(1, len(x.shape) + 1))
    made = m.along("Unsqueeze", x.name, (at,), 13)
    if draw(st.booleans()) or len(x.shape) == 3:
        return Value(m.along("Squeeze", m.add("Tanh", made), (at,), 13), x.shape)
    return Value(made, (*x.shape[: at - 1], 1, *x.shape[at - 1 :]))


def _reshape(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """Another rank of as many numbers."""
    size = math.prod(x.shape)
    factors = [d for d in (2, 3, 4) if size % d == 0]
    if not factors:
        return x
    first = draw(st.sampled_from(factors))
    batch = draw(st.sampled_from([0, -1] if m.batch is None else [0, -1, m.batch]))
    second = size // first if batch == -1 else draw(st.sampled_from([-1, size // first]))
    return Value(m.add("Reshape", x.name, m.ints(batch, first, second)), (first, size // first))


def _flatten(draw: st.DrawFn, m: Maker, x: Value) -> Value:
    """The many ways in which exporters write it."""
    size = math.prod(x.shape)
    how = draw(st.sampled_from(["flatten", "reshape", "gather", "slice"]))
    if how == "flatten":
        made = m.add("Flatten", x.name, **({"axis": 1} if draw(st.booleans()) else {}))
    elif how == "reshape":
        made = m.add("Reshape", x.name, m.ints(*draw(st.sampled_from([(0, -1), (-1, size), (0, size)]))))
    elif how == "gather":
        batch = m.add("Gather", m.add("Shape", x.name), m.const(0, np.int64), axis=0)
        parts = [m.along("Unsqueeze", batch, (0,), 13), m.ints(-1)]
        made = m.add("Reshape", x.name, m.add("Concat", *parts, axis=0))
    else:
        shape = m.add("Shape", x.name)
        if m.opset < 10:
            batch = m.add("Slice", shape, axes=[0], starts=[0], ends=[1])
        else:
            batch = m.add("Slice", shape, m.ints(0), m.ints(1), m.ints(0))
        made = m.add("Reshape", x.name, m.add("Concat", batch, m.ints(size), axis=0))
    return Value(made, (size,))


ANY: Mapping[str, Block] = {
    "relu": _relu,
    "curve": _curve,
    "clip": _clip,
    "prelu": _prelu,
    "swish": _swish,
    "bound": _bound,
    "square": _square,
    "affine": _affine,
    "dropout": _dropout,
    "batchnorm": _batchnorm,
    "unfolded_norm": _unfolded_norm,
    "residual": _residual,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "unsqueeze": _unsqueeze,
    "reshape": _reshape,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
}
SPATIAL: Mapping[str, Block] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "quantised_weight": _quantised_weight,
    "pool": _pool,
    "padded_pool": _padded_pool,
    "pad": _pad,
    "global_pool": _global_pool,
    "reduce": _reduce,
    "instance_norm": _instance_norm,
    "squeeze_excite": _squeeze_excite,
    "channels_last": _channels_last,
    "transpose": _transpose,
    "dense": _dense,
}
BLOCKS: Mapping[int, Mapping[str, Block]] = {
    1: {**ANY, "gemm": _gemm, "dense": _dense},
    2: {**ANY, **SPATIAL},
    3: {**ANY, **SPATIAL, "upsample": _upsample, "depth_to_space": _depth_to_space},
}
"""By rank without batch: name -> block."""

LARGEST = 4096
"""Numbers in a value; growth stops there, for the speed of the tests."""


@st.composite
def models(draw: st.DrawFn) -> Sample:
    """A model of one input and one or two outputs that the ONNX checker accepts, and an input for it."""
    m = Maker(
        draw(st.sampled_from(OPSETS)),
        draw(st.sampled_from([None, 1, 2, 3])),
        np.random.default_rng(draw(st.integers(0, 2**16))),
        draw(st.booleans()),
    )
    start = draw(st.sampled_from([(3, 6, 6), (2, 5, 7), (4, 4, 4), (1, 8, 5), (2, 6, 6), (3, 8), (2, 6), (6,)]))
    given, at = _input(draw, m, start)
    side = draw(st.integers(0, 5))
    branch = at
    for i in range(draw(st.integers(1, 8))):
        blocks = BLOCKS[len(at.shape)]
        made = blocks[draw(st.sampled_from(list(blocks)))](draw, m, at)
        if math.prod(made.shape) > LARGEST:
            break
        at = made
        branch = at if i == side else branch
    if draw(st.booleans()):
        at = _gemm(draw, m, at if len(at.shape) == 1 else _flatten(draw, m, at))
    return _finished(m, given, [at] if branch.name in (given.name, at.name) else [at, branch])


def _input(draw: st.DrawFn, m: Maker, shape: Shape) -> tuple[Value, Value]:
    """The model's input, and the value to go on with: now and then images come channels last."""
    if len(shape) == 3 and draw(st.integers(0, 4)) == 0:
        given = Value("x", (*shape[1:], shape[0]))
        return given, Value(m.add("Transpose", "x", perm=[0, 3, 1, 2]), shape)
    return Value("x", shape), Value("x", shape)


def _finished(m: Maker, given: Value, ends: list[Value]) -> Sample:
    if not m.nodes:
        ends = [Value(m.add("Identity", given.name), given.shape)]
    if any(end.name == given.name for end in ends):
        ends = [Value(m.add("Identity", end.name), end.shape) for end in ends[:1]]
    batch = m.batch or "N"
    inputs = [helper.make_tensor_value_info(given.name, TensorProto.FLOAT, [batch, *given.shape])]
    outputs = [helper.make_tensor_value_info(end.name, TensorProto.FLOAT, [batch, *end.shape]) for end in ends]
    graph = helper.make_graph(m.nodes, "random", inputs, outputs, m.consts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", m.opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return Sample(model, {given.name: m.rng.normal(size=(m.batch or 2, *given.shape)).astype(np.float32)})
