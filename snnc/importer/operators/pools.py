"""Pools over 1-D, 2-D and 3-D images. Over several axes a maximum, and a sum, is one over each axis in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from snnc.errors import ModelError
from snnc.importer.call import Call, Handler, Value
from snnc.ir import Array, Attr, Shape

from .elementwise import to_power
from .window import overhang, spans


def _front(call: Call) -> tuple[Value, Shape]:
    """The input as [C, ...] and the sizes of its image."""
    x = call.value()
    if call.batched:
        return x, x.shape[1:]
    if len(x.shape) < 3 or x.shape[0] != 1:
        message = f"{call.op} of {list(x.shape)} read without a batch: only one sample can stand in front"
        raise ModelError(message, code="unsupported-form")
    return call.reshaped(x, x.shape[1:]), x.shape[2:]


def _geometry(call: Call, sizes: Shape) -> tuple[Shape, Shape, Shape, Shape, Shape]:
    """Kernel, strides, dilations, pads, and the overhang that ceil_mode makes; refuses windows of padding only."""
    kernel = call.ints("kernel_shape")
    if not 1 <= len(sizes) <= 3:
        raise ModelError(f"{call.op} over {len(sizes)}-D images; 1-D to 3-D are supported", code="unsupported-form")
    strides, dilations, pads = spans(call, sizes, kernel)
    dims = len(sizes)
    out = call.shape[-dims:]
    for i in range(dims):
        reach = (kernel[i] - 1) * dilations[i]
        last = (out[i] - 1) * strides[i] - pads[i]
        if reach < pads[i] or last >= sizes[i]:
            message = f"{call.op} with pads {list(pads)} has windows that see no part of {list(sizes)}"
            raise ModelError(message, code="unsupported-form")
    return kernel, strides, dilations, pads, overhang(sizes, out, kernel, strides, dilations, pads)


def _maxpool(call: Call) -> Value:
    x, sizes = _front(call)
    kernel, strides, dilations, pads, over = _geometry(call, sizes)
    dims = len(sizes)
    ends = tuple(pads[i + dims] + over[i] for i in range(dims))
    if dims == 3:
        _only_real_begin(call, kernel, dilations, pads)
        made = call.reshaped(x, (x.shape[0] * sizes[0], *sizes[1:]))
        made = _max2d(call, made, kernel[1:], strides[1:], dilations[1:], (*pads[1:3], *ends[1:]))
        high, wide = made.shape[1:]
        made = call.reshaped(made, (x.shape[0], sizes[0], high * wide))
        made = _max2d(call, made, (kernel[0], 1), (strides[0], 1), (dilations[0], 1), (pads[0], 0, ends[0], 0))
    elif dims == 2:
        made = _max2d(call, x, kernel, strides, dilations, (*pads[:2], *ends))
    else:
        flat = call.reshaped(x, (x.shape[0], 1, *sizes))
        made = _max2d(call, flat, (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, ends[0]))
    return call.reshaped(made, call.shape)


def _only_real_begin(call: Call, kernel: Shape, dilations: Shape, pads: Shape) -> None:
    if any(pads) and max(dilations) > 1:
        raise ModelError(f"{call.op} over 3-D images with pads and dilations", code="unsupported-form")


def _max2d(call: Call, x: Value, kernel: Shape, strides: Shape, dilations: Shape, pads: Shape) -> Value:
    return call.node("maxpool", x, kernel=kernel, strides=strides, dilations=dilations, pads=pads)


def _avgpool(call: Call) -> Value:
    x, sizes = _front(call)
    kernel, strides, dilations, pads, over = _geometry(call, sizes)
    dims = len(sizes)
    include = int(call.attrs.get("count_include_pad", 0))
    if dims < 3 and not any(over):
        flat = x if dims == 2 else call.reshaped(x, (x.shape[0], 1, *sizes))
        lead = (1,) * (2 - dims)
        made = call.node(
            "avgpool",
            flat,
            kernel=(*lead, *kernel),
            strides=(*lead, *strides),
            dilations=(*lead, *dilations),
            pads=(*(0,) * (2 - dims), *pads[:dims], *(0,) * (2 - dims), *pads[dims:]),
            count_include_pad=include if any(pads) else 0,
        )
        return call.reshaped(made, call.shape)
    made = x
    for i in range(dims):
        taps = _taps(sizes[i], call.shape[-dims + i], kernel[i], strides[i], dilations[i], pads[i])
        reach = range(-pads[i], sizes[i] + pads[i + dims]) if include else range(sizes[i])
        count = np.array([[t in reach for t in row] for row in taps]).sum(1, keepdims=True)
        made = _mixed(call, made, i + 1, _matrix(taps, sizes[i]) / count)
    return call.reshaped(made, call.shape)


def _lppool(call: Call) -> Value:
    """(sum |x|^p)^(1/p); pads count as zeros."""
    x, sizes = _front(call)
    kernel, strides, dilations, pads, _ = _geometry(call, sizes)
    p, dims = float(call.attrs.get("p", 2)), len(sizes)
    made = to_power(call, call.node("abs", x), p)
    for i in range(dims):
        taps = _taps(sizes[i], call.shape[-dims + i], kernel[i], strides[i], dilations[i], pads[i])
        made = _mixed(call, made, i + 1, _matrix(taps, sizes[i]))
    return call.reshaped(to_power(call, made, 1 / p), call.shape)


def _taps(size: int, out: int, kernel: int, stride: int, dilation: int, pad: int) -> Array:
    """Which elements of an axis each window reads, [out, kernel]; those outside of it too."""
    return np.arange(out)[:, None] * stride + np.arange(kernel)[None] * dilation - pad


def _matrix(taps: Array, size: int) -> Array:
    """[out, size]: how often a window reads an element."""
    made = np.zeros((len(taps), size))
    for row, line in enumerate(taps):
        inside = line[(line >= 0) & (line < size)]
        np.add.at(made[row], inside, 1)
    return made


def _mixed(call: Call, x: Value, axis: int, weight: Array) -> Value:
    return call.node("mix", x, params={"weight": weight.astype(np.float32)}, axis=axis)


def _flat(call: Call) -> Value:
    """Any image as [C,H,W] for a pool over all of it."""
    x, sizes = _front(call)
    if len(sizes) == 2:
        return x
    return call.reshaped(x, (x.shape[0], 1, math.prod(sizes)))


def _global_avgpool(call: Call) -> Value:
    x = _flat(call)
    whole: Mapping[str, Attr] = {"kernel": x.shape[1:], "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    return call.reshaped(call.node("avgpool", x, attrs=whole, count_include_pad=0), call.shape)


def _global_maxpool(call: Call) -> Value:
    x = _flat(call)
    return call.reshaped(_max2d(call, x, x.shape[1:], (1, 1), (1, 1), (0, 0, 0, 0)), call.shape)


def _global_lppool(call: Call) -> Value:
    x, p = _flat(call), float(call.attrs.get("p", 2))
    total = call.node("reduce", to_power(call, call.node("abs", x), p), axes=(1, 2), by="sum")
    return call.reshaped(to_power(call, total, 1 / p), call.shape)


HANDLERS: Mapping[str, Handler] = {
    "AveragePool": _avgpool,
    "GlobalAveragePool": _global_avgpool,
    "GlobalLpPool": _global_lppool,
    "GlobalMaxPool": _global_maxpool,
    "LpPool": _lppool,
    "MaxPool": _maxpool,
}
