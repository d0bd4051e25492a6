"""What each ONNX operator becomes: one table, operator -> handler.

A handler reads a `Call` and gives the drafts of the nodes it becomes, each reading the one before it; no draft
means that the value passes through. Sizes here are without batch, except inside constants as the model stores them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from snnc.errors import ModelError
from snnc.ir import Array, Attr, Shape


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name there, and its shape without batch."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Call:
    """One ONNX node.

    Attributes:
        inputs: values, constants, and None where an optional input is left out.
        shape: of its first output, without batch, as ONNX infers it.
        opset: decides between the forms an operator had over time.
        batch: the batch size that constants were made for.
    """

    op: str
    attrs: Mapping[str, Any]
    inputs: tuple[Value | Array | None, ...]
    shape: Shape
    opset: int
    batch: int

    def value(self, index: int = 0) -> Value:
        """The input at `index`, which must come from the model's inputs."""
        found = self.inputs[index]
        if not isinstance(found, Value):
            raise ModelError(f"input {index} of {self.op} is a constant; it must depend on the model's input")
        return found

    def given(self, index: int) -> bool:
        """Whether the optional input at `index` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def constant(self, index: int, what: str) -> Array:
        """The input at `index`, which must be known at compile time."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(found, np.ndarray):
            raise ModelError(f"the {what} of {self.op} is computed from the model's input; it must be constant")
        return found

    def scalar(self, index: int, what: str) -> float:
        """The constant at `index`, a single number."""
        array = self.constant(index, what)
        if array.size != 1:
            raise ModelError(f"the {what} of {self.op} is {list(array.shape)}, not one number")
        return float(array.reshape(()).item())

    def weight(self, index: int, what: str) -> Array:
        """The constant at `index` as finite float32."""
        array = self.constant(index, what)
        if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
            raise ModelError(f"the {what} of {self.op} is {array.dtype}", hint="export the float model, not quantised")
        if not array.size:
            raise ModelError(f"the {what} of {self.op} is empty: {list(array.shape)}")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if bad := int((~np.isfinite(array)).sum()):
            raise ModelError(f"{bad} of {array.size} values of the {what} of {self.op} are NaN or infinite")
        return array


@dataclass(frozen=True)
class Draft:
    """A node of the graph to be: op, the values it reads (none: the draft before it), params by role, attributes."""

    op: str
    values: tuple[str, ...] = ()
    params: Mapping[str, Array] = field(default_factory=dict)
    attrs: Mapping[str, Attr] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Call], list[Draft]]


def _conv(call: Call) -> list[Draft]:
    x, weight = _image(call), call.weight(1, "weight")
    if weight.ndim != 4:
        raise ModelError(f"the weight of {call.op} is {list(weight.shape)}, not [out, in, high, wide]")
    params = {"weight": weight}
    if call.given(2):
        params["bias"] = call.weight(2, "bias")
    attrs = _window(call, x.shape, weight.shape[2:])
    return [Draft("conv", (x.name,), params, {**attrs, "group": int(call.attrs.get("group", 1))})]


def _gemm(call: Call) -> list[Draft]:
    x, matrix = call.value(), call.weight(1, "weight")
    if call.attrs.get("transA", 0):
        raise ModelError("Gemm with transA=1 mixes the samples of a batch")
    weight = matrix if call.attrs.get("transB", 0) else matrix.T
    params = {"weight": _times(weight, call.attrs.get("alpha", 1.0))}
    if call.given(2):
        bias = _times(call.weight(2, "bias"), call.attrs.get("beta", 1.0))
        params["bias"] = _stretched(call, _per_sample(call, bias, 1), weight.shape[:1])
    return [Draft("dense", (x.name,), params)]


def _matmul(call: Call) -> list[Draft]:
    x, matrix = call.value(), call.weight(1, "weight")
    if matrix.ndim != 2 or len(x.shape) != 1:
        shapes = f"[batch,{','.join(map(str, x.shape))}] and {list(matrix.shape)}"
        raise ModelError(f"MatMul of {shapes}; only [batch,features] and [features,units]", hint="flatten before it")
    return [Draft("dense", (x.name,), {"weight": matrix.T})]


def _add(call: Call) -> list[Draft]:
    """Values of one shape add up; a constant is a `scale` by one with a bias, which folds into the layer before."""
    values = [found for found in call.inputs if isinstance(found, Value)]
    constants = [i for i, found in enumerate(call.inputs) if isinstance(found, np.ndarray)]
    if any(value.shape != call.shape for value in values):
        raise ModelError(f"{call.op} of {', '.join(str(list(v.shape)) for v in values)} to {list(call.shape)} repeats")
    drafts = [Draft("add", tuple(value.name for value in values))] if len(values) > 1 else []
    for index in constants:
        bias = _channelwise(call, _per_sample(call, call.weight(index, "constant"), len(call.shape)))
        source = () if drafts else (values[0].name,)
        drafts.append(Draft("scale", source, {"factor": np.ones((), np.float32), "bias": bias}))
    return drafts


def _batchnorm(call: Call) -> list[Draft]:
    x = call.value()
    if call.attrs.get("training_mode", 0):
        raise ModelError("BatchNormalization in training mode", hint="export the model in evaluation mode")
    roles = ("gamma", "beta", "mean", "var")
    params = {role: call.weight(i, role) for i, role in enumerate(roles, 1)}
    epsilon = float(call.attrs.get("epsilon", 1e-5))
    if not (lowest := float(params["var"].min()) + epsilon) > 0:
        raise ModelError(f"variance plus epsilon is {lowest:.3g}: its root cannot divide")
    norm = Draft("batchnorm", (x.name,), params, {"epsilon": epsilon})
    if len(x.shape) != 2 or x.shape[1] != 1:
        return [norm]
    # BatchNorm1d of features that an exporter made [C,1]: back to [C], so that it stands beside its dense layer
    flat = Draft("reshape", (x.name,), attrs={"shape": x.shape[:1]})
    return [flat, Draft("batchnorm", (), params, {"epsilon": epsilon}), Draft("reshape", attrs={"shape": x.shape})]


def _relu(call: Call) -> list[Draft]:
    return [Draft("relu", (call.value().name,))]


def _clip(call: Call) -> list[Draft]:
    """Clip(0, a) is relu with a ceiling; the bounds are attributes before opset 11."""
    if call.opset < 11:
        low, high = (float(call.attrs.get(name, bound)) for name, bound in (("min", -np.inf), ("max", np.inf)))
    else:
        low = call.scalar(1, "minimum") if call.given(1) else -math.inf
        high = call.scalar(2, "maximum") if call.given(2) else math.inf
    if low != 0 or not high > 0:
        raise ModelError(f"Clip from {low:g} to {high:g}; only from 0 upward is a relu")
    ceiling = {} if high >= np.finfo(np.float32).max else {"max": high}
    return [Draft("relu", (call.value().name,), attrs=ceiling)]


def _avgpool(call: Call) -> list[Draft]:
    x = _image(call)
    attrs = {**_pool(call, x.shape), "count_include_pad": int(call.attrs.get("count_include_pad", 0))}
    return [Draft("avgpool", (x.name,), attrs=attrs)]


def _maxpool(call: Call) -> list[Draft]:
    x = _image(call)
    return [Draft("maxpool", (x.name,), attrs=_pool(call, x.shape))]


def _global_avgpool(call: Call) -> list[Draft]:
    x = _image(call)
    attrs = {"kernel": x.shape[1:], "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    return [Draft("avgpool", (x.name,), attrs={**attrs, "count_include_pad": 0})]


def _reshape(call: Call) -> list[Draft]:
    """Flatten, Reshape, Squeeze, Unsqueeze: row by row the same numbers, so the batch in front is all that counts."""
    return [Draft("reshape", (call.value().name,), attrs={"shape": call.shape})]


def _same(call: Call) -> list[Draft]:
    return [Draft("same", (call.value().name,))]


def _dropout(call: Call) -> list[Draft]:
    if call.given(2) and call.scalar(2, "training_mode"):
        raise ModelError("Dropout in training mode", hint="export the model in evaluation mode")
    return _same(call)


def _concat(call: Call) -> list[Draft]:
    axis = _axis(call, int(call.attrs["axis"]))
    values = tuple(call.value(i).name for i in range(len(call.inputs)))
    return [Draft("concat", values, attrs={"axis": axis})]


def _softmax(call: Call) -> list[Draft]:
    """Before opset 13 all axes from `axis` on count as one (ONNX Softmax-11)."""
    x, op = call.value(), call.op.lower()
    axis = _axis(call, int(call.attrs.get("axis", 1 if call.opset < 13 else -1)))
    wide = [i for i in range(axis, len(x.shape)) if x.shape[i] > 1]
    if call.opset >= 13 or len(wide) < 2:
        along = axis if call.opset >= 13 or not wide else wide[0]
        return [Draft(op, (x.name,), attrs={"axis": along})]
    flat = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return [
        Draft("reshape", (x.name,), attrs={"shape": flat}),
        Draft(op, attrs={"axis": 1}),
        Draft("reshape", attrs={"shape": x.shape}),
    ]


def _image(call: Call) -> Value:
    x = call.value()
    if len(x.shape) != 3:
        hint = "make it 2-D with a height or width of 1" if len(x.shape) == 2 else ""
        raise ModelError(f"{call.op} over {len(x.shape) - 1}-D images; only 2-D is supported", hint=hint)
    return x


def _axis(call: Call, axis: int) -> int:
    """An ONNX axis without batch; that of the batch is refused."""
    axis = axis if axis >= 0 else axis + len(call.shape) + 1
    if not 1 <= axis <= len(call.shape):
        raise ModelError(f"{call.op} along axis {axis}, the batch")
    return axis - 1


def _pool(call: Call, shape: Shape) -> dict[str, Attr]:
    """Window attributes of a pool; ceil_mode only where it changes nothing."""
    kernel = _ints(call, "kernel_shape", ())
    attrs = _window(call, shape, kernel)
    pads, strides, dilations = attrs["pads"], attrs["strides"], attrs["dilations"]
    if any(pads[i] >= (kernel[i % 2] - 1) * dilations[i % 2] + 1 for i in range(4)):
        raise ModelError(f"{call.op} with pads {list(pads)} as large as its kernel {list(kernel)}")
    if call.attrs.get("ceil_mode", 0):
        spans = [shape[i + 1] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1 for i in (0, 1)]
        if tuple(span // stride + 1 for span, stride in zip(spans, strides, strict=True)) != call.shape[1:]:
            message = f"{call.op} with ceil_mode=1, which makes {list(call.shape[1:])} with a window over the edge"
            raise ModelError(message, hint="ceil_mode=False, or pad the input so that the windows fit")
    return {**attrs, "kernel": kernel}


def _window(call: Call, shape: Shape, kernel: Shape) -> dict[str, tuple[int, ...]]:
    """Strides, dilations and explicit pads [top, left, bottom, right] of a 2-D window."""
    strides, dilations = _ints(call, "strides", (1, 1)), _ints(call, "dilations", (1, 1))
    if not len(kernel) == len(strides) == len(dilations) == 2 or min(strides) < 1:
        raise ModelError(f"{call.op} with kernel {list(kernel)}, strides {list(strides)}, dilations {list(dilations)}")
    auto = call.attrs.get("auto_pad", "NOTSET")
    pads = _ints(call, "pads", (0, 0, 0, 0)) if auto == "NOTSET" else (0, 0, 0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same_total(shape[i + 1], kernel[i], strides[i], dilations[i]) for i in (0, 1)]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    elif auto not in ("NOTSET", "VALID"):
        raise ModelError(f"{call.op} with auto_pad={auto}")
    if len(pads) != 4 or min(pads) < 0:
        raise ModelError(f"{call.op} with pads {list(pads)}")
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _same_total(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Padding, both sides together, that makes ceil(size / stride) windows."""
    return max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def _ints(call: Call, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in call.attrs.get(name, default))


def _times(array: Array, factor: float) -> Array:
    return np.asarray(array * np.float32(factor))


def _per_sample(call: Call, array: Array, rank: int) -> Array:
    """A constant that meets a value of `rank`, without its batch axis: every sample must get the same."""
    if array.ndim <= rank:
        return array
    if array.ndim > rank + 1 or (array.shape[0] > 1 and (array != array[:1]).any()):
        raise ModelError(f"the constant {list(array.shape)} of {call.op} differs from sample to sample")
    return np.asarray(array[0])


def _stretched(call: Call, array: Array, shape: Shape) -> Array:
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ModelError(f"the constant {list(array.shape)} of {call.op} does not fit {list(shape)}") from None


def _channelwise(call: Call, array: Array) -> Array:
    """A constant that meets a value of the shape of `call`: as [C] if it depends on the channel only, else whole."""
    full = array.reshape((1,) * (len(call.shape) - array.ndim) + array.shape)
    if all(size == 1 for size in full.shape[1:]):
        return _stretched(call, full.reshape(-1), call.shape[:1])
    return _stretched(call, full, call.shape)


HANDLERS: Mapping[str, Handler] = {
    "Add": _add,
    "AveragePool": _avgpool,
    "BatchNormalization": _batchnorm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Dropout": _dropout,
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_avgpool,
    "Identity": _same,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "MaxPool": _maxpool,
    "Relu": _relu,
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Squeeze": _reshape,
    "Sum": _add,
    "Unsqueeze": _reshape,
}

_RELU = "train the model with Relu: a spiking neuron is a relu that counts"
_SCALING = "move input scaling out of the model, to --scale, --mean and --std; fold other factors into the weights"
_FEEDFORWARD = "only feed-forward models become spiking"
_CONTROL = "export without control flow: torch.onnx.export with fixed sizes, or onnxsim"
_FLOAT = "export the float model: snnc quantises itself"

HINTS: Mapping[str, str] = {
    "Transpose": "export in channels-first layout: tf2onnx --inputs-as-nchw, Keras data_format='channels_first'",
    "Pad": "put the padding into the pads of the Conv or pool behind it",
    **dict.fromkeys(("Sub", "Mul", "Div"), _SCALING),
    **dict.fromkeys(
        ("Sigmoid", "Tanh", "LeakyRelu", "PRelu", "Elu", "Selu", "HardSwish", "HardSigmoid", "Gelu"), _RELU
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _FEEDFORWARD),
    **dict.fromkeys(("If", "Loop", "Scan"), _CONTROL),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"), _FLOAT),
}
