"""Operators that only move numbers: Reshape, Transpose, Slice, Split, Concat, Pad, Expand, Tile, Gather and such."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from snnc.errors import ModelError
from snnc.importer.call import LARGEST_CONSTANT, Call, Handler, Value
from snnc.ir import Shape


def _reshape(call: Call) -> Value:
    """Flatten, Reshape, Squeeze, Unsqueeze: row by row the same numbers, so the batch in front is all that counts."""
    return call.reshaped(call.value(), call.shape)


def _same(call: Call) -> Value:
    return call.value()


def _dropout(call: Call) -> list[Value]:
    """Passes everything, which the mask says."""
    ratio = call.scalar(1, "ratio") if call.given(1) else 0.5
    if call.given(2) and call.scalar(2, "training_mode") and ratio:
        hint = "export the model in evaluation mode"
        raise ModelError("Dropout in training mode", hint=hint, code="training-mode")
    x = call.value()
    if len(call.shapes) == 1:
        return [x]
    return [x, call.node("constant", params={"value": np.ones(x.shape, np.float32)})]


def _transpose(call: Call) -> Value:
    x = call.value()
    full = len(x.shape) + call.batched
    perm = call.ints("perm", tuple(range(full))[::-1])
    if sorted(perm) != list(range(full)):
        raise ModelError(f"Transpose with perm={list(perm)} of {full} axes", code="shape")
    if call.batched:
        if perm[0] != 0:
            raise ModelError(f"Transpose with perm={list(perm)} moves the batch", code="batch-mixed")
        perm = tuple(axis - 1 for axis in perm[1:])
    return call.transposed(x, perm)


def _concat(call: Call) -> Value:
    rank = len(call.shape)
    axis = call.axis(int(call.attrs.get("axis", 1)), rank)
    values = []
    for index, found in enumerate(call.inputs):
        if isinstance(found, Value):
            values.append(found)
        elif found is not None and found.size:
            array = call.per_sample(call.weight(index, "constant"), rank)
            values.append(call.node("constant", params={"value": array}))
    return values[0] if len(values) == 1 else call.node("concat", *values, axis=axis)


def _split(call: Call) -> list[Value]:
    x = call.value()
    axis = call.axis(int(call.attrs.get("axis", 0)), len(x.shape))
    made, start = [], 0
    for shape in call.shapes:
        if shape is None:
            raise ModelError("Split into parts whose sizes ONNX cannot tell", code="shape")
        made.append(call.sliced(x, axis, start, shape[axis]))
        start += shape[axis]
    return made


def _slice(call: Call) -> Value:
    """numpy's slices: bounds beyond an axis are cut to it, negative ones count from its end."""
    x = call.value()
    starts, ends = call.listed("starts", 1, 10), call.listed("ends", 2, 10)
    full = len(x.shape) + call.batched
    axes = call.listed("axes", 3, 10) or tuple(range(len(starts or ())))
    steps = (call.listed("steps", 4, 10) if call.opset >= 10 else None) or (1,) * len(axes)
    if starts is None or ends is None or not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ModelError(f"Slice from {starts} to {ends} along {axes} in steps of {steps}", code="shape")
    made = x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if call.batched and axis in (0, -full):
            if (start, step) != (0, 1) or end < call.batch:
                raise ModelError("Slice takes a part of the batch", code="batch-mixed")
            continue
        at = call.axis(axis, len(x.shape))
        inside = range(made.shape[at])[slice(start, end, step)]
        if not inside:
            raise ModelError(f"Slice from {start} to {end} of an axis of {made.shape[at]} takes nothing", code="shape")
        made = call.sliced(made, at, inside[0], len(inside), step)
    return made


def _pad(call: Call) -> Value:
    x = call.value()
    begins, ends = _pads(call, len(x.shape))
    mode = call.attrs.get("mode", "constant")
    made = x
    for axis in range(len(x.shape)):
        before, after = min(begins[axis], 0), min(ends[axis], 0)
        if made.shape[axis] + before + after < 1:
            raise ModelError(f"Pad with {begins[axis]} and {ends[axis]} leaves nothing of an axis", code="shape")
        made = call.sliced(made, axis, -before, made.shape[axis] + before + after)
    begins, ends = [max(i, 0) for i in begins], [max(i, 0) for i in ends]
    if not any(begins) and not any(ends):
        return made
    if mode == "constant":
        return _padded(call, made, begins, ends)
    if mode not in ("reflect", "edge", "wrap"):
        raise ModelError(f"Pad with mode={mode}", code="unsupported-form")
    for axis, (before, after) in enumerate(zip(begins, ends, strict=True)):
        if before or after:
            size = made.shape[axis]
            if before + after + size > LARGEST_CONSTANT:
                raise ModelError(f"Pad of an axis to {before + after + size}", code="too-large")
            index = np.pad(np.arange(size), (before, after), mode=mode)
            made = call.node("gather", made, axis=axis, index=tuple(map(int, index)))
    return made


def _pads(call: Call, rank: int) -> tuple[list[int], list[int]]:
    """Begins and ends per axis of the graph."""
    full = rank + call.batched
    if call.opset < 2:
        raise ModelError("Pad of opset 1", code="unsupported-form")
    pads = call.listed("pads", 1, 11) or ()
    axes = call.listed("axes", 3, 18) if call.opset >= 18 else None
    where = range(full) if axes is None else [a + full if a < 0 else a for a in axes]
    if len(pads) != 2 * len(where) or any(not 0 <= a < full for a in where):
        raise ModelError(f"Pad with pads {list(pads)} of {full} axes", code="shape")
    begins, ends = [0] * full, [0] * full
    for i, axis in enumerate(where):
        begins[axis], ends[axis] = pads[i], pads[i + len(where)]
    if call.batched and (begins[0] or ends[0]):
        raise ModelError("Pad of the batch", code="batch-mixed")
    return begins[call.batched :], ends[call.batched :]


def _padded(call: Call, x: Value, begins: Sequence[int], ends: Sequence[int]) -> Value:
    fill = float(call.attrs.get("value", 0.0)) if call.opset < 11 else 0.0
    if call.given(2):
        fill = call.scalar(2, "fill")
    if fill == 0:
        return call.node("pad", x, pads=(*begins, *ends), interior=(0,) * len(x.shape))
    if not math.isfinite(fill):
        raise ModelError(f"Pad with {fill}", code="attribute", hint="put the padding into the pool behind it")
    made = x
    for axis, sizes in enumerate(zip(begins, ends, strict=True)):
        sides = []
        for size in sizes:
            shape = (*made.shape[:axis], size, *made.shape[axis + 1 :])
            if math.prod(shape) > LARGEST_CONSTANT:
                raise ModelError(f"Pad with {fill} to {list(shape)}", code="too-large")
            sides.append([call.node("constant", params={"value": np.full(shape, fill, np.float32)})] if size else [])
        parts = (*sides[0], made, *sides[1])
        made = call.node("concat", *parts, axis=axis) if len(parts) > 1 else made
    return made


def _expand(call: Call) -> Value:
    x = call.value()
    if call.batched and len(x.shape) != len(call.shape):
        raise ModelError("Expand to more axes puts something before the batch", code="batch-mixed")
    return call.stretched(x, call.shape)


def _tile(call: Call) -> Value:
    x, repeats = call.value(), tuple(int(i) for i in call.constant(1, "repeats").reshape(-1))
    if len(repeats) != len(x.shape) + call.batched or min(repeats, default=1) < 1:
        raise ModelError(f"Tile with repeats {list(repeats)}", code="shape")
    if call.batched and repeats[0] != 1:
        raise ModelError("Tile repeats the batch", code="batch-mixed")
    made = x
    for axis, count in enumerate(repeats[call.batched :]):
        if count > 1:
            size = made.shape[axis]
            if size * count > LARGEST_CONSTANT:
                raise ModelError(f"Tile of an axis to {size * count}", code="too-large")
            made = call.node("gather", made, axis=axis, index=tuple(range(size)) * count)
    return made


def _gather(call: Call) -> Value:
    x, index = call.value(), call.constant(1, "indices")
    if index.dtype.kind not in "iu" or not index.size:
        raise ModelError(f"Gather with {index.dtype} indices {list(index.shape)}", code="dtype")
    axis = call.axis(int(call.attrs.get("axis", 0)), len(x.shape))
    size = x.shape[axis]
    flat = [int(i) for i in index.reshape(-1)]
    if min(flat) < -size or max(flat) >= size:
        raise ModelError(f"Gather beyond an axis of {size}", code="shape")
    flat = [i % size for i in flat]
    if flat == list(range(flat[0], flat[0] + len(flat))):
        made = call.sliced(x, axis, flat[0], len(flat))
    else:
        made = call.node("gather", x, axis=axis, index=tuple(flat))
    return call.reshaped(made, call.shape)


def _depth_to_space(call: Call) -> Value:
    x, (front, channels, high, wide), block = _blocks(call)
    if str(call.attrs.get("mode", "DCR")) == "DCR":
        parts, perm = (block, block, channels // block**2), (2, 3, 0, 4, 1)
    else:
        parts, perm = (channels // block**2, block, block), (0, 3, 1, 4, 2)
    if channels % block**2:
        raise ModelError(f"DepthToSpace of {channels} channels in blocks of {block}", code="shape")
    made = call.transposed(call.reshaped(x, (*parts, high, wide)), perm)
    return call.reshaped(made, (*front, channels // block**2, high * block, wide * block))


def _space_to_depth(call: Call) -> Value:
    x, (front, channels, high, wide), block = _blocks(call)
    if high % block or wide % block:
        raise ModelError(f"SpaceToDepth of {high}x{wide} in blocks of {block}", code="shape")
    parted = call.reshaped(x, (channels, high // block, block, wide // block, block))
    made = call.transposed(parted, (2, 4, 0, 1, 3) if call.attrs.get("mode", "DCR") == "DCR" else (0, 2, 4, 1, 3))
    return call.reshaped(made, (*front, channels * block**2, high // block, wide // block))


def _blocks(call: Call) -> tuple[Value, tuple[Shape, int, int, int], int]:
    x, block = call.value(), int(call.attrs.get("blocksize", 0))
    if len(x.shape) != 4 - call.batched or block < 1 or (not call.batched and x.shape[0] != 1):
        raise ModelError(f"{call.op} of {list(x.shape)} in blocks of {block}", code="shape")
    channels, high, wide = x.shape[-3:]
    return x, (x.shape[:-3], channels, high, wide), block


HANDLERS: Mapping[str, Handler] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Identity": _same,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
