"""Resize and Upsample: along every axis a matrix [out, in] of interpolation weights; nearest ones only move numbers.

The formulas are those of ONNX Resize-19: a position of the result is carried back into the input (the coordinate
transformation), and its neighbours there are weighted by a kernel (linear: a triangle, cubic: Keys' with coefficient
a), which for antialias is as much wider as the axis shrinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from snnc.errors import ModelError
from snnc.importer.call import LARGEST_CONSTANT, Call, Handler, Value
from snnc.ir import Array


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized: sizes, their ratio, and the part of it that is looked at."""

    size: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _resize(call: Call) -> Value:
    x = call.value()
    mode = str(call.attrs.get("mode", "nearest"))
    if mode not in ("nearest", "linear", "cubic"):
        raise ModelError(f"{call.op} with mode={mode}", code="unsupported-form")
    made = x
    for axis, way in enumerate(_ways(call, x)):
        if way.size == way.out and way.scale == 1 and (way.start, way.end) == (0, 1):
            continue
        if way.size * way.out > LARGEST_CONSTANT:
            raise ModelError(f"{call.op} of {way.size} elements to {way.out}", code="too-large")
        outside = _outside(call, way)
        if mode == "nearest" and not outside.any():
            made = call.node("gather", made, axis=axis, index=tuple(int(i) for i in _nearest(call, way)))
            continue
        weight = np.eye(way.size)[_nearest(call, way)] if mode == "nearest" else _matrix(call, way, mode)
        weight = np.where(outside[:, None], 0, weight)
        made = call.node("mix", made, params={"weight": weight.astype(np.float32)}, axis=axis)
        if outside.any():
            fill = np.where(outside, float(call.attrs.get("extrapolation_value", 0.0)), 0.0)
            fill = np.broadcast_to(fill.reshape(-1, *[1] * (len(made.shape) - axis - 1)), made.shape)
            made = call.scaled(made, 1.0, fill)
    return call.reshaped(made, call.shape)


def _ways(call: Call, x: Value) -> list[_Axis]:
    """One per axis of the graph; the batch must stay as it is."""
    full = len(x.shape) + call.batched
    sizes = (call.batch, *x.shape) if call.batched else x.shape
    out = (call.batch, *call.shape) if call.batched else call.shape
    if len(out) != full:
        raise ModelError(f"{call.op} from {list(sizes)} to {list(out)}", code="shape")
    axes = [a % full for a in call.ints("axes", tuple(range(full)))]
    scales = _scales(call, axes, sizes, out)
    roi = _roi(call, axes, full)
    ways = [_Axis(sizes[i], out[i], scales[i], *roi[i]) for i in range(full)]
    if call.batched and (ways[0].scale != 1 or roi[0] != (0.0, 1.0)):
        raise ModelError(f"{call.op} of the batch", code="batch-mixed")
    return ways[call.batched :]


def _scales(call: Call, axes: list[int], sizes: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    """The ratio out / in of every axis, as given, or from the sizes."""
    if call.op == "Upsample" and call.opset < 9:
        given = tuple(float(s) for s in call.attrs.get("scales", ()))
    else:
        index = 1 if call.op == "Upsample" or call.opset < 11 else 2
        given = tuple(map(float, call.constant(index, "scales").reshape(-1))) if _filled(call, index) else ()
    found = [1.0] * len(sizes)
    if given:
        if len(given) != len(axes) or not all(math.isfinite(s) and s > 0 for s in given):
            raise ModelError(f"{call.op} with scales {list(given)}", code="attribute")
        for axis, scale in zip(axes, given, strict=True):
            found[axis] = scale
        return found
    wanted = call.constant(3, "sizes").reshape(-1)
    if len(wanted) != len(axes):
        raise ModelError(f"{call.op} with sizes {wanted.tolist()}", code="shape")
    ratios = [int(want) / sizes[axis] for axis, want in zip(axes, wanted, strict=True)]
    policy = str(call.attrs.get("keep_aspect_ratio_policy", "stretch"))
    if policy != "stretch":
        ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)
    for axis, ratio in zip(axes, ratios, strict=True):
        found[axis] = ratio
    return found


def _filled(call: Call, index: int) -> bool:
    found = call.inputs[index] if index < len(call.inputs) else None
    return isinstance(found, Value) or (found is not None and found.size > 0)


def _roi(call: Call, axes: list[int], full: int) -> list[tuple[float, float]]:
    """The part of every axis that is looked at, in shares of it."""
    found = [(0.0, 1.0)] * full
    if _mode(call) != "tf_crop_and_resize":
        return found
    roi = call.constant(1, "region").reshape(-1).astype(float)
    if len(roi) != 2 * len(axes) or not np.isfinite(roi).all():
        raise ModelError(f"{call.op} with a region of {len(roi)} numbers", code="shape")
    for i, axis in enumerate(axes):
        found[axis] = (float(roi[i]), float(roi[i + len(axes)]))
    return found


def _mode(call: Call) -> str:
    """Upsample, and Resize before opset 11, know one transformation only."""
    old = call.op == "Upsample" or call.opset < 11
    return "asymmetric" if old else str(call.attrs.get("coordinate_transformation_mode", "half_pixel"))


def _positions(call: Call, way: _Axis) -> Array:
    """Where in the input each element of the result lies."""
    mode, x = _mode(call), np.arange(way.out, dtype=np.float64)
    size, scale = way.size, way.scale
    length = scale * size
    if mode == "half_pixel":
        found = (x + 0.5) / scale - 0.5
    elif mode == "half_pixel_symmetric":
        found = size / 2 * (1 - way.out / length) + (x + 0.5) / scale - 0.5
    elif mode == "pytorch_half_pixel":
        found = (x + 0.5) / scale - 0.5 if way.out > 1 else np.array([-0.5])
    elif mode == "align_corners":
        found = x * (size - 1) / (length - 1) if length != 1 else np.zeros(way.out)
    elif mode == "asymmetric":
        found = x / scale
    elif mode == "tf_crop_and_resize":
        span = (way.end - way.start) * (size - 1)
        middle = np.full(way.out, 0.5 * (way.start + way.end) * (size - 1))
        found = way.start * (size - 1) + x * span / (length - 1) if length > 1 else middle
    else:
        raise ModelError(f"{call.op} with coordinate_transformation_mode={mode}", code="unsupported-form")
    return found


def _outside(call: Call, way: _Axis) -> Array:
    """Which elements look beyond the image and become `extrapolation_value` (tf_crop_and_resize only)."""
    found = _positions(call, way)
    return ((found < 0) | (found > way.size - 1)) & (_mode(call) == "tf_crop_and_resize")


def _nearest(call: Call, way: _Axis) -> Array:
    """The index of the neighbour that each element takes."""
    found = _positions(call, way)
    old = call.op == "Upsample" or call.opset < 11
    mode = "floor" if old else str(call.attrs.get("nearest_mode", "round_prefer_floor"))
    rules: Mapping[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda p: np.ceil(p - 0.5),
        "round_prefer_ceil": lambda p: np.floor(p + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if mode not in rules:
        raise ModelError(f"{call.op} with nearest_mode={mode}", code="unsupported-form")
    return np.asarray(np.clip(rules[mode](found), 0, way.size - 1), np.int64)


def _matrix(call: Call, way: _Axis, mode: str) -> Array:
    """[out, in]: what each element of the axis weighs in each element of the result."""
    stretch = min(way.scale, 1.0) if call.attrs.get("antialias", 0) else 1.0
    a = float(call.attrs.get("cubic_coeff_a", -0.75))
    reach = 1 if mode == "linear" else 2
    made = np.zeros((way.out, way.size))
    for row, position in enumerate(_positions(call, way)):
        base = math.floor(position)
        first = math.floor(-reach / stretch) + 1
        taps = base + np.arange(first, first + 2 - 2 * first)
        distance = np.abs(taps - position) * stretch
        weights = np.clip(1 - distance, 0, 1) if mode == "linear" else _keys(distance, a)
        if call.attrs.get("exclude_outside", 0):
            weights = np.where((taps < 0) | (taps >= way.size), 0, weights)
        if call.attrs.get("exclude_outside", 0) or stretch != 1:
            weights = weights / weights.sum()
        np.add.at(made[row], np.clip(taps, 0, way.size - 1), weights)
    return made


def _keys(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


HANDLERS: Mapping[str, Handler] = {"Resize": _resize, "Upsample": _resize}
