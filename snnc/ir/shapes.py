"""Shape rules of the op table: from the shapes of values and params, and the attributes, to the shape that is made.

Shapes are per sample: without batch and time. A rule raises ValueError where they do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .graph import Attr, Shape

Shapes = Mapping[str, Shape]
ShapeRule = Callable[[Sequence[Shape], Shapes, Mapping[str, Attr]], Shape]


def _ints(attrs: Mapping[str, Attr], name: str, count: int, least: float = -np.inf) -> tuple[int, ...]:
    value = attrs[name]
    if not isinstance(value, tuple) or len(value) != count or min(value, default=least) < least:
        raise ValueError(f"{name}={value} is not {count} integers of at least {least}")
    return value


def _windows(size: Shape, kernel: Shape, attrs: Mapping[str, Attr]) -> Shape:
    strides, dilations = _ints(attrs, "strides", 2, 1), _ints(attrs, "dilations", 2, 1)
    pads = _ints(attrs, "pads", 4, 0)
    out = []
    for axis in (0, 1):
        span = size[axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1)
        if kernel[axis] < 1 or span < 1:
            raise ValueError(f"a window of {kernel[axis]} does not fit into {size[axis]} with pads {pads}")
        out.append((span - 1) // strides[axis] + 1)
    return tuple(out)


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"needs [C,H,W], not {list(shape)}")
    return shape[0], shape[1], shape[2]


def conv(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    channels, *size = _image(x[0])
    out, per_group, *kernel = p["weight"]
    group = a["group"]
    if len(kernel) != 2 or not isinstance(group, int) or group < 1 or out % group or per_group * group != channels:
        raise ValueError(f"weight {list(p['weight'])} in {group} groups against {channels} channels")
    made = (out, *_windows(tuple(size), tuple(kernel), a))
    return _with_bias(made, p, (out,))


def local(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    channels, *size = _image(x[0])
    out, high, wide, per_group, *kernel = p["weight"]
    group = a["group"]
    if len(kernel) != 2 or not isinstance(group, int) or group < 1 or out % group or per_group * group != channels:
        raise ValueError(f"weight {list(p['weight'])} in {group} groups against {channels} channels")
    made = (out, *_windows(tuple(size), tuple(kernel), a))
    if made[1:] != (high, wide):
        raise ValueError(f"weight is for {[high, wide]} positions, the window has {list(made[1:])}")
    return _with_bias(made, p, made)


def dense(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if len(p["weight"]) != 2 or x[0] != (p["weight"][1],):
        raise ValueError(f"weight {list(p['weight'])} against input {list(x[0])}")
    return _with_bias((p["weight"][0],), p, (p["weight"][0],))


def _with_bias(made: Shape, p: Shapes, bias: Shape) -> Shape:
    if p.get("bias", bias) != bias:
        raise ValueError(f"bias {list(p['bias'])} should be {list(bias)}")
    return made


def each(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    """Elementwise with params that are scalars, [C], or the whole shape."""
    for role, shape in p.items():
        if shape not in ((), x[0][:1], x[0]):
            raise ValueError(f"{role} {list(shape)} is neither a scalar, {list(x[0][:1])} nor {list(x[0])}")
    return x[0]


def batchnorm(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if any(shape != x[0][:1] for shape in p.values()):
        raise ValueError(f"statistics for {x[0][0]} channels")
    return x[0]


def pool(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    channels, *size = _image(x[0])
    return (channels, *_windows(tuple(size), _ints(a, "kernel", 2, 1), a))


def equal(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if len(x) < 2 or len(set(x)) != 1:
        raise ValueError("needs two or more values of one shape")
    return x[0]


def concat(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axis = _axis(x[0], a)
    if len({(s[:axis], s[axis + 1 :]) for s in x}) != 1:
        raise ValueError("sizes differ outside the axis")
    return (*x[0][:axis], sum(s[axis] for s in x), *x[0][axis + 1 :])


def reshape(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    shape = a["shape"]
    if not isinstance(shape, tuple) or math.prod(shape) != math.prod(x[0]) or min(shape, default=1) < 0:
        raise ValueError(f"{list(x[0])} has not the size of {shape}")
    return shape


def along_axis(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    _axis(x[0], a)
    return x[0]


def transpose(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    perm = _ints(a, "perm", len(x[0]), 0)
    if sorted(perm) != list(range(len(x[0]))):
        raise ValueError(f"perm={perm} of {list(x[0])}")
    return tuple(x[0][axis] for axis in perm)


def slices(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    rank = len(x[0])
    starts, sizes, steps = _ints(a, "starts", rank, 0), _ints(a, "sizes", rank, 1), _ints(a, "steps", rank)
    for full, start, size, step in zip(x[0], starts, sizes, steps, strict=True):
        if step == 0 or not 0 <= start < full or not 0 <= start + (size - 1) * step < full:
            raise ValueError(f"{size} elements from {start} in steps of {step} leave an axis of {full}")
    return sizes


def pad(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    rank = len(x[0])
    pads, interior = _ints(a, "pads", 2 * rank, 0), _ints(a, "interior", rank, 0)
    return tuple(size + (size - 1) * interior[i] + pads[i] + pads[i + rank] for i, size in enumerate(x[0]))


def expand(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    shape = _ints(a, "shape", len(x[0]), 1)
    if any(old not in (1, new) for old, new in zip(x[0], shape, strict=True)):
        raise ValueError(f"{list(x[0])} cannot be repeated to {list(shape)}")
    return shape


def gather(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axis, index = _axis(x[0], a), a["index"]
    if not isinstance(index, tuple) or not index or min(index) < 0 or max(index) >= x[0][axis]:
        raise ValueError(f"an index outside of 0 to {x[0][axis] - 1}")
    return (*x[0][:axis], len(index), *x[0][axis + 1 :])


def mix(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axis = _axis(x[0], a)
    if len(p["weight"]) != 2 or p["weight"][1] != x[0][axis]:
        raise ValueError(f"weight {list(p['weight'])} along axis {axis} of {list(x[0])}")
    return (*x[0][:axis], p["weight"][0], *x[0][axis + 1 :])


def matmul(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    left, right = x
    if len(left) < 2 or len(left) != len(right) or left[:-2] != right[:-2] or left[-1] != right[-2]:
        raise ValueError("needs [...,n,k] and [...,k,m]")
    return (*left[:-1], right[-1])


def reduced(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axes = _axes(x[0], a)
    return tuple(size for axis, size in enumerate(x[0]) if axis not in axes)


def standardized(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    _axes(x[0], a)
    return x[0]


def argmax(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axis = _axis(x[0], a)
    return (*x[0][:axis], *x[0][axis + 1 :])


def quantized(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if p["step"] != p["zero"]:
        raise ValueError("step and zero differ in shape")
    return each(x, p, a)


def constant(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    return p["value"]


def _axis(shape: Shape, a: Mapping[str, Attr]) -> int:
    axis = a["axis"]
    if not isinstance(axis, int) or not 0 <= axis < len(shape):
        raise ValueError(f"axis {axis} of {list(shape)}")
    return axis


def _axes(shape: Shape, a: Mapping[str, Attr]) -> tuple[int, ...]:
    axes = a["axes"]
    if not isinstance(axes, tuple) or len(set(axes)) != len(axes) or any(not 0 <= i < len(shape) for i in axes):
        raise ValueError(f"axes {axes} of {list(shape)}")
    return axes
