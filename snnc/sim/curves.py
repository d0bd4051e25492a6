"""Elementwise functions of one value: each formula once, for numpy and torch alike.

The definitions are those of the ONNX operators of the same names. A function takes the library to compute with (its
names that both know), the value and the attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from snnc.ir import Attr

Curve = Callable[[Any, Any, Mapping[str, Any]], Any]


def _softplus(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    return m.where(x > 0, x, m.zeros_like(x)) + m.log1p(m.exp(-m.abs(x)))


def _sigmoid(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    """1 / (1 + exp(-x)), written with exp(-|x|): neither tail overflows or loses digits."""
    small = m.exp(-m.abs(x))
    return m.where(x < 0, small, m.ones_like(small)) / (1 + small)


def _elu(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    return m.where(x < 0, a["alpha"] * m.expm1(m.where(x < 0, x, m.zeros_like(x))), x)


def _celu(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    return m.where(x < 0, a["alpha"] * m.expm1(m.where(x < 0, x, m.zeros_like(x)) / a["alpha"]), x)


def _gelu(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    if a["approximate"] == "tanh":
        return 0.5 * x * (1 + m.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + m.erf(x * 0.5**0.5))


def _clip(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    """min(max(x, low), high), so that a low above the high gives the high."""
    x = m.where(x < a["min"], m.full_like(x, a["min"]), x) if "min" in a else x
    return m.where(x > a["max"], m.full_like(x, a["max"]), x) if "max" in a else x


def _hardsigmoid(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    return m.clip(a["alpha"] * x + a["beta"], 0, 1)


def _wrap(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    """What an integer of so many bits makes of x: towards zero, then modulo 2**bits."""
    count = 2.0 ** a["bits"]
    low = -count / 2 if a["signed"] else 0.0
    whole = m.trunc(x)
    return whole - m.floor((whole - low) / count) * count


def _roundfloat(m: Any, x: Any, a: Mapping[str, Any]) -> Any:
    """The nearest number with `digits` binary digits behind the first, halves to even; no smaller step than 2**lowest.

    What would lie beyond max is clipped to it, or becomes infinite, or no number; `finite` types clip and have a zero
    in place of what is no number.
    """
    size = m.abs(x)
    whole = (size > 0) & (size < np.inf)
    step = m.exp2(m.clip(m.floor(m.log2(m.where(whole, size, m.ones_like(x)))) - a["digits"], a["lowest"], None))
    made = m.where(size < np.inf, m.round(x / step) * step, x)
    if a["over"] == "finite":
        made = m.where(x == x, made, m.zeros_like(x))
    beyond = {"inf": np.inf, "nan": np.nan}.get(a["over"], a["max"])
    return m.where(m.abs(made) > a["max"], m.sign(made) * beyond, made)


def _own(name: str) -> Curve:
    """A function that the library has by this name."""
    return lambda m, x, a: getattr(m, name)(x)


OWN = ("abs", "ceil", "cos", "erf", "exp", "floor", "log", "round", "sign", "sin", "sqrt", "tanh", "trunc")

CURVES: Mapping[str, Curve] = {
    **{name: _own(name) for name in OWN},
    "celu": _celu,
    "clip": _clip,
    "elu": _elu,
    "gelu": _gelu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda m, x, a: x * m.clip(x / 6 + 0.5, 0, 1),
    "mish": lambda m, x, a: x * m.tanh(_softplus(m, x, a)),
    "reciprocal": lambda m, x, a: 1 / x,
    "roundfloat": _roundfloat,
    "selu": lambda m, x, a: a["gamma"] * _elu(m, x, a),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "softsign": lambda m, x, a: x / (1 + m.abs(x)),
    "swish": lambda m, x, a: x * _sigmoid(m, a["alpha"] * x, a),
    "thresholdedrelu": lambda m, x, a: m.where(x > a["alpha"], x, m.zeros_like(x)),
    "wrap": _wrap,
}


def curve(library: Any, op: str, x: Any, attrs: Mapping[str, Attr]) -> Any:
    """The value that the elementwise function `op` makes of `x`."""
    return CURVES[op](library, x, attrs)
