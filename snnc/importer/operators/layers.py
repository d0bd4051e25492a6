"""Layers with weights: Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from snnc.errors import ModelError
from snnc.importer.call import LARGEST_CONSTANT, Call, Handler, Value
from snnc.ir import Array, Attr, Shape

from .arithmetic import plus
from .norms import without_front
from .window import Image, Window, image, spans, transposed_spans


def _conv(call: Call) -> Value:
    weight = call.weight(1, "weight")
    if weight.ndim == 5:
        return _conv3d(call, call.value(), weight)
    picture = image(call)
    _check_weight(call, picture, weight, out_axis=0)
    window = Window.of(call, picture.spatial, weight.shape[2:])
    params = {"weight": weight.reshape(*weight.shape[:2], *window.flat(weight.shape[2:]))}
    if call.given(2):
        params["bias"] = _bias(call, len(weight))
    made = call.node("conv", picture.value, params=params, attrs=window.attrs(), group=_group(call))
    return picture.restored(made)


def _conv3d(call: Call, x: Value, weight: Array) -> Value:
    front = without_front(call, x)
    if len(front.shape) != 4 or _group(call) != 1 or weight.shape[1] != front.shape[0]:
        message = f"{call.op} over 3-D images of {list(front.shape)} with weight {list(weight.shape)}"
        raise ModelError(message, code="unsupported-form")
    return _banded(call, front, weight, *spans(call, front.shape[1:], weight.shape[2:]))


def _banded(call: Call, x: Value, weight: Array, strides: Shape, dilations: Shape, pads: Shape) -> Value:
    """A 3-D conv as a 2-D one whose channels are channel and depth: a kernel [O*D',C*D,kh,kw] with a band of depths.

    The band costs D' * D / kd times the weights; it is refused where that is large.
    """
    channels, *sizes = x.shape
    deep = (sizes[0] + pads[0] + pads[3] - dilations[0] * (weight.shape[2] - 1) - 1) // strides[0] + 1
    if min(pads) < 0 or deep * sizes[0] * math.prod(weight.shape) // weight.shape[2] > LARGEST_CONSTANT:
        raise ModelError(
            f"{call.op} over 3-D images of {sizes}: unrolled along depth it is too large", code="too-large"
        )
    band = np.zeros((len(weight), deep, channels, sizes[0], *weight.shape[3:]), np.float32)
    for out in range(deep):
        for tap in range(weight.shape[2]):
            at = out * strides[0] + tap * dilations[0] - pads[0]
            if 0 <= at < sizes[0]:
                band[:, out, :, at] += weight[:, :, tap]
    params = {"weight": band.reshape(len(weight) * deep, channels * sizes[0], *weight.shape[3:])}
    if call.given(2):
        params["bias"] = np.repeat(_bias(call, len(weight)), deep)
    flat = call.reshaped(x, (channels * sizes[0], *sizes[1:]))
    attrs: Mapping[str, Attr] = {"strides": strides[1:], "dilations": dilations[1:], "pads": (*pads[1:3], *pads[4:])}
    return call.reshaped(call.node("conv", flat, params=params, attrs=attrs, group=1), call.shape)


def _conv_transpose(call: Call) -> Value:
    """Zeros between the elements (stride - 1 of them), then a conv with the kernel turned round.

    The conv's pads are dilation * (kernel - 1) - pads; where that is negative, the result is cut.
    """
    weight = call.weight(1, "weight")
    if weight.ndim == 5:
        return _conv_transpose3d(call, weight)
    picture = image(call)
    _check_weight(call, picture, weight, out_axis=1)
    window = Window.transposed(call, picture.spatial, weight.shape[2:])
    turned = _turned(weight.reshape(*weight.shape[:2], *window.flat(weight.shape[2:])), _group(call))
    params = {"weight": turned}
    if call.given(2):
        params["bias"] = _bias(call, len(turned))
    wide = tuple(max(pad, 0) for pad in window.pads)
    attrs: Mapping[str, Attr] = {"strides": (1, 1), "pads": wide, "dilations": window.dilations}
    spread = _spread(call, picture.value, window.strides)
    made = call.node("conv", spread, params=params, attrs=attrs, group=_group(call))
    for axis in (0, 1):
        before, after = (min(window.pads[axis + 2 * i], 0) for i in (0, 1))
        made = call.sliced(made, axis + 1, -before, made.shape[axis + 1] + before + after)
    return picture.restored(made)


def _conv_transpose3d(call: Call, weight: Array) -> Value:
    front = without_front(call, call.value())
    if len(front.shape) != 4 or _group(call) != 1 or len(weight) != front.shape[0]:
        message = f"{call.op} over 3-D images of {list(front.shape)} with weight {list(weight.shape)}"
        raise ModelError(message, code="unsupported-form")
    strides, dilations, pads = transposed_spans(call, front.shape[1:], weight.shape[2:])
    return _banded(call, _spread(call, front, strides), _turned(weight, 1), (1, 1, 1), dilations, pads)


def _spread(call: Call, x: Value, strides: Shape) -> Value:
    """Zeros between the elements of an image."""
    if max(strides) == 1:
        return x
    return call.node("pad", x, pads=(0,) * 2 * len(x.shape), interior=(0, *(stride - 1 for stride in strides)))


def _turned(weight: Array, group: int) -> Array:
    """The kernel [C,O/group,...] of a ConvTranspose as that of a conv, [O,C/group,...]."""
    parted = weight.reshape(group, len(weight) // group, *weight.shape[1:])
    turned = np.flip(parted, axis=tuple(range(3, parted.ndim))).swapaxes(1, 2)
    return turned.reshape(group * weight.shape[1], len(weight) // group, *weight.shape[2:])


def _check_weight(call: Call, picture: Image, weight: Array, out_axis: int) -> None:
    """The shapes of weight, input and groups must agree; files can say anything."""
    group, channels = _group(call), picture.value.shape[0]
    if weight.ndim != len(picture.spatial) + 2:
        message = f"the weight of {call.op} is {list(weight.shape)} for {len(picture.spatial)}-D images"
        raise ModelError(message, code="shape")
    inward = weight.shape[1] * group if out_axis == 0 else weight.shape[0]
    if inward != channels or weight.shape[0] % group:
        message = f"{call.op} with weight {list(weight.shape)} in {group} groups for {channels} channels"
        raise ModelError(message, code="shape")


def _group(call: Call) -> int:
    group = int(call.attrs.get("group", 1))
    if group < 1:
        raise ModelError(f"{call.op} with group={group}", code="group")
    return group


def _bias(call: Call, size: int) -> Array:
    bias = call.weight(2, "bias")
    if bias.shape != (size,):
        raise ModelError(f"the bias of {call.op} is {list(bias.shape)}, not [{size}]", code="shape")
    return bias


def _gemm(call: Call) -> Value:
    """alpha * A' B' + beta * C."""
    alpha, beta = float(call.attrs.get("alpha", 1.0)), float(call.attrs.get("beta", 1.0))
    if not math.isfinite(alpha) or not math.isfinite(beta):
        raise ModelError(f"Gemm with alpha={alpha}, beta={beta}", code="attribute")
    if not isinstance(call.inputs[1], np.ndarray) or not isinstance(call.inputs[0], Value):
        return _gemm_of_values(call, alpha, beta)
    x, matrix = call.value(), call.weight(1, "weight")
    if matrix.ndim != 2:
        raise ModelError(f"the weight of Gemm is {list(matrix.shape)}", code="shape")
    if call.attrs.get("transA", 0):
        if call.batched:
            raise ModelError("Gemm with transA=1 mixes the samples of a batch", code="batch-mixed")
        x = call.transposed(x, (1, 0))
    weight = matrix if call.attrs.get("transB", 0) else matrix.T
    weight = weight if alpha == 1 else weight * np.float32(alpha)
    if not call.given(2) or beta == 0:
        return _rows_times(call, x, weight)
    if isinstance(call.inputs[2], np.ndarray):
        bias = call.per_sample(call.weight(2, "bias") * np.float32(beta), 1 if call.batched else 2)
        if bias.size == 1 or (bias.shape[-1:] == weight.shape[:1] and bias.size == len(weight)):
            return _rows_times(call, x, weight, np.broadcast_to(bias.reshape(-1), weight.shape[:1]))
        return plus(call, _rows_times(call, x, weight), bias)
    return plus(call, _rows_times(call, x, weight), call.scaled(call.value(2), beta))


def _gemm_of_values(call: Call, alpha: float, beta: float) -> Value:
    if call.batched:
        raise ModelError("Gemm whose second factor is not a constant mixes the samples of a batch", code="batch-mixed")
    left, right = call.value(0), call.value(1)
    left = call.transposed(left, (1, 0)) if call.attrs.get("transA", 0) else left
    right = call.transposed(right, (1, 0)) if call.attrs.get("transB", 0) else right
    made = call.node("matmul", left, right)
    made = call.scaled(made, alpha) if alpha != 1 else made
    if not call.given(2) or beta == 0:
        return made
    return plus(call, made, call.scaled(call.value(2), beta))


def _rows_times(call: Call, x: Value, weight: Array, bias: Array | None = None) -> Value:
    """The last axis of x times weight [out, in]: a dense layer, or one at every position, which is a 1x1 conv."""
    if x.shape[-1:] != weight.shape[1:]:
        raise ModelError(f"{call.op} of {list(x.shape)} and a weight {list(weight.shape)}", code="shape")
    params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    if len(x.shape) == 1:
        return call.node("dense", x, params=params)
    rows, out = math.prod(x.shape[:-1]), weight.shape[0]
    columns = call.transposed(call.reshaped(x, (rows, x.shape[-1])), (1, 0))
    params["weight"] = weight[:, :, None, None]
    ones: Mapping[str, Attr] = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1}
    made = call.node("conv", call.reshaped(columns, (x.shape[-1], 1, rows)), params=params, attrs=ones)
    return call.reshaped(call.transposed(call.reshaped(made, (out, rows)), (1, 0)), (*x.shape[:-1], out))


def _matmul(call: Call) -> Value:
    left, right = call.inputs[:2]
    if isinstance(left, Value) and isinstance(right, np.ndarray):
        matrix = call.weight(1, "weight")
        while matrix.ndim > 2 and matrix.shape[0] == 1 and matrix.ndim > len(left.shape):
            matrix = matrix[0]
        if matrix.ndim == 2 and left.shape:
            return call.reshaped(_rows_times(call, left, matrix.T), call.shape)
        if matrix.ndim == 1 and left.shape:
            return call.reshaped(_rows_times(call, left, matrix[None]), call.shape)
    return _matmul_of_values(call)


def _matmul_of_values(call: Call) -> Value:
    """numpy's rules: vectors become matrices, the axes in front repeat."""
    left, right = (_factor(call, index) for index in (0, 1))
    if len(left.shape) == 1:
        left = call.reshaped(left, (1, *left.shape))
    if len(right.shape) == 1:
        right = call.reshaped(right, (*right.shape, 1))
    front = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    made = call.node("matmul", *(_repeated(call, value, (*front, *value.shape[-2:])) for value in (left, right)))
    return call.reshaped(made, call.shape)


def _factor(call: Call, index: int) -> Value:
    """A factor of MatMul; with a batch in front every value needs two more axes, constants have none of it."""
    found = call.inputs[index]
    if isinstance(found, np.ndarray):
        array = call.weight(index, "factor")
        rank = max(len(v.shape) for v in call.inputs if isinstance(v, Value))
        return call.node("constant", params={"value": call.per_sample(array, rank)})
    value = call.value(index)
    if call.batched and len(value.shape) < 2:
        raise ModelError("MatMul of two values of [batch,features] mixes the samples of a batch", code="batch-mixed")
    return value


def _repeated(call: Call, value: Value, shape: Shape) -> Value:
    lined = call.reshaped(value, (1,) * (len(shape) - len(value.shape)) + value.shape)
    return lined if lined.shape == shape else call.node("expand", lined, shape=tuple(shape))


HANDLERS: Mapping[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
