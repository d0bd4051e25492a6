"""Normalisations: BatchNormalization, and those that a sample does by itself (Instance, Group, Layer)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from snnc.errors import ModelError
from snnc.importer.call import Call, Handler, Value
from snnc.ir import Array, Shape

from .arithmetic import plus


def _batchnorm(call: Call) -> Value:
    x = call.value()
    if call.attrs.get("training_mode", 0):
        hint = "export the model in evaluation mode"
        raise ModelError("BatchNormalization in training mode", hint=hint, code="training-mode")
    if call.attrs.get("spatial", 1) != 1:
        raise ModelError("BatchNormalization with spatial=0", code="unsupported-form")
    roles = ("gamma", "beta", "mean", "var")
    params = {role: call.weight(i, role) for i, role in enumerate(roles, 1)}
    epsilon = float(call.attrs.get("epsilon", 1e-5))
    if not math.isfinite(epsilon) or not (lowest := float(params["var"].min()) + epsilon) > 0:
        message = f"variance plus epsilon is {float(params['var'].min()) + epsilon:.3g}: its root cannot divide"
        raise ModelError(message, code="variance")
    if lowest < 1e-30:
        raise ModelError(f"variance plus epsilon is {lowest:.3g}: its root overflows", code="variance")
    if call.batched and not x.shape:
        raise ModelError("BatchNormalization of one number a sample", code="shape")
    front = without_front(call, x)
    if len(front.shape) == 2 and front.shape[1] == 1:  # BatchNorm1d of features that an exporter made [C,1]
        front = call.reshaped(front, front.shape[:1])
    return call.reshaped(call.node("batchnorm", front, params=params, epsilon=epsilon), x.shape)


def without_front(call: Call, x: Value) -> Value:
    """`x` with its channels in front: without the batch of one that an unbatched model has before them."""
    if call.batched:
        return x
    if len(x.shape) < 2 or x.shape[0] != 1:
        message = f"{call.op} of {list(x.shape)} read without a batch: only one sample can stand in front"
        raise ModelError(message, code="unsupported-form")
    return call.reshaped(x, x.shape[1:])


def _instance_norm(call: Call) -> Value:
    x = without_front(call, call.value())
    if len(x.shape) < 2:
        raise ModelError(f"InstanceNormalization of {list(x.shape)}", code="shape")
    made = _standardized(call, x, tuple(range(1, len(x.shape))), float(call.attrs.get("epsilon", 1e-5)))
    factor, bias = (call.weight(i, what) for i, what in ((1, "scale"), (2, "bias")))
    return call.reshaped(call.scaled(made, factor, bias), call.shape)


def _group_norm(call: Call) -> Value:
    x, groups = without_front(call, call.value()), int(call.attrs.get("num_groups", 1))
    if len(x.shape) < 2 or groups < 1 or x.shape[0] % groups:
        raise ModelError(f"GroupNormalization of {list(x.shape)} in {groups} groups", code="group")
    parted = call.reshaped(x, (groups, math.prod(x.shape) // groups))
    made = call.reshaped(_standardized(call, parted, (1,), float(call.attrs.get("epsilon", 1e-5))), x.shape)
    factor, bias = (call.weight(i, what) for i, what in ((1, "scale"), (2, "bias")))
    if call.opset < 21:
        factor, bias = (np.repeat(array, x.shape[0] // len(array)) for array in (factor, bias))
    return call.reshaped(call.scaled(made, factor, bias), call.shape)


def _layer_norm(call: Call) -> list[Value]:
    x = call.value()
    axis = call.axis(int(call.attrs.get("axis", -1)), len(x.shape))
    axes, epsilon = tuple(range(axis, len(x.shape))), float(call.attrs.get("epsilon", 1e-5))
    made = _standardized(call, x, axes, epsilon)
    factor = _spread(call, call.weight(1, "scale"), x.shape)
    bias = _spread(call, call.weight(2, "bias"), x.shape) if call.given(2) else None
    outputs = [call.scaled(made, factor, bias)]
    if len(call.shapes) > 1:
        mean = call.node("reduce", x, axes=axes, by="mean")
        kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
        centred = plus(call, x, call.scaled(call.stretched(call.reshaped(mean, kept), x.shape), -1.0))
        var = call.node("reduce", call.node("mul", centred, centred), axes=axes, by="mean")
        inverse = call.node("reciprocal", call.node("sqrt", call.scaled(var, 1.0, epsilon)))
        outputs += [call.reshaped(mean, kept), call.reshaped(inverse, kept)]
    return outputs


def _spread(call: Call, array: Array, shape: Shape) -> Array:
    """A parameter of the last axes over the whole shape."""
    try:
        return np.broadcast_to(call.per_sample(array, len(shape)), shape)
    except ValueError:
        message = f"the scale or bias {list(array.shape)} of {call.op} does not fit {list(shape)}"
        raise ModelError(message, code="shape") from None


def _mean_variance_norm(call: Call) -> Value:
    x = call.value()
    axes = call.axes(call.ints("axes", (0, 2, 3)), len(x.shape))
    return _standardized(call, x, axes, 1e-9)


def _standardized(call: Call, x: Value, axes: Shape, epsilon: float) -> Value:
    if not epsilon >= 0 or not math.isfinite(epsilon):
        raise ModelError(f"{call.op} with epsilon={epsilon}", code="variance")
    return call.node("standardize", x, axes=axes, epsilon=epsilon)


HANDLERS: Mapping[str, Handler] = {
    "BatchNormalization": _batchnorm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
}
