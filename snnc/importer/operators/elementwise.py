"""Activations and other functions of one value; Softmax and its like."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from snnc.errors import ModelError
from snnc.importer.call import Call, Handler, Value

from .arithmetic import as_integer


def _curve(op: str, **defaults: float) -> Handler:
    """An elementwise op whose attributes are those of the ONNX operator, with its defaults."""

    def handler(call: Call) -> Value:
        attrs = {name: float(call.attrs.get(name, default)) for name, default in defaults.items()}
        if bad := [f"{name}={value}" for name, value in attrs.items() if not math.isfinite(value)]:
            raise ModelError(f"{call.op} with {', '.join(bad)}", code="attribute")
        return call.node(op, call.value(), attrs=attrs)

    return handler


def _relu(call: Call) -> Value:
    return call.node("relu", call.value())


def _leakyrelu(call: Call) -> Value:
    return _leaky(call, np.asarray(call.attrs.get("alpha", 0.01), np.float32))


def _leaky(call: Call, slope: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Value:
    if not np.isfinite(slope).all():
        raise ModelError(f"{call.op} with a slope that is not finite", code="attribute")
    return call.node("leakyrelu", call.value(), params={"slope": slope})


def _prelu(call: Call) -> Value:
    slope = call.weight(1, "slope")
    return _leaky(call, call.fitted(slope, call.value().shape))


def _clip(call: Call) -> Value:
    """min(max(x, low), high); Clip(0, a) is relu with a ceiling. The bounds are attributes before opset 11."""
    if call.opset < 11:
        low, high = (float(call.attrs.get(name, bound)) for name, bound in (("min", -np.inf), ("max", np.inf)))
    else:
        low = call.scalar(1, "minimum") if call.given(1) else -math.inf
        high = call.scalar(2, "maximum") if call.given(2) else math.inf
    if math.isnan(low) or math.isnan(high) or low == math.inf or high == -math.inf:
        raise ModelError(f"Clip from {low:g} to {high:g}", code="attribute")
    widest = float(np.finfo(np.float32).max)
    ceiling = {} if high >= widest else {"max": high}
    if low == 0 and high > 0:
        return call.node("relu", call.value(), attrs=ceiling)
    floor = {} if low <= -widest else {"min": low}
    if not floor and not ceiling:
        return call.value()
    return call.node("clip", call.value(), attrs={**floor, **ceiling})


def _neg(call: Call) -> Value:
    return as_integer(call, call.scaled(call.value(), -1.0))


def _gelu(call: Call) -> Value:
    approximate = str(call.attrs.get("approximate", "none"))
    if approximate not in ("none", "tanh"):
        raise ModelError(f"Gelu with approximate={approximate}", code="attribute")
    return call.node("gelu", call.value(), approximate=approximate)


def _softmax(call: Call) -> Value:
    """Before opset 13 all axes from `axis` on count as one (ONNX Softmax-11)."""
    x, op = call.value(), call.op.lower()
    axis = call.axis(int(call.attrs.get("axis", 1 if call.opset < 13 else -1)), len(x.shape))
    wide = [i for i in range(axis, len(x.shape)) if x.shape[i] > 1]
    if call.opset >= 13 or len(wide) < 2:
        return call.node(op, x, axis=axis if call.opset >= 13 or not wide else wide[0])
    flat = call.reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return call.reshaped(call.node(op, flat, axis=1), x.shape)


def to_power(call: Call, x: Value, p: float) -> Value:
    """x ** p for x >= 0."""
    if p == 1:
        return x
    if p == 2:
        return call.node("mul", x, x)
    if p == 0.5:
        return call.node("sqrt", x)
    exponent = call.node("constant", params={"value": np.full(x.shape, p, np.float32)})
    return call.node("power", x, exponent)


_DIRECT = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "HardSwish": "hardswish",
    "Log": "log",
    "Mish": "mish",
    "Reciprocal": "reciprocal",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}

HANDLERS: Mapping[str, Handler] = {
    **{name: _curve(op) for name, op in _DIRECT.items()},
    "Celu": _curve("celu", alpha=1.0),
    "Clip": _clip,
    "Elu": _curve("elu", alpha=1.0),
    "Gelu": _gelu,
    "HardSigmoid": _curve("hardsigmoid", alpha=0.2, beta=0.5),
    "LeakyRelu": _leakyrelu,
    "LogSoftmax": _softmax,
    "Neg": _neg,
    "PRelu": _prelu,
    "Relu": _relu,
    "Selu": _curve("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Softmax": _softmax,
    "Swish": _curve("swish", alpha=1.0),
    "ThresholdedRelu": _curve("thresholdedrelu", alpha=1.0),
}
