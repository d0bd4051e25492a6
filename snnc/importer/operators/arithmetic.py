"""Add, Sub, Mul, Div, Max, Min and their like, between values and constants; numpy's broadcasting made visible."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import TensorProto

from snnc.errors import ModelError
from snnc.importer.call import Call, Handler, Operand, Value
from snnc.ir import Array, Shape

INTEGERS: Mapping[int, tuple[int, bool]] = {
    TensorProto.INT8: (8, True),
    TensorProto.UINT8: (8, False),
    TensorProto.INT16: (16, True),
    TensorProto.UINT16: (16, False),
    TensorProto.INT32: (32, True),
    TensorProto.UINT32: (32, False),
    TensorProto.INT64: (64, True),
    TensorProto.UINT64: (64, False),
}
"""Bits and sign of ONNX's whole numbers."""


def as_integer(call: Call, made: Value) -> Value:
    """What arithmetic of whole numbers makes wraps around, where float32 can tell."""
    bits, signed = INTEGERS.get(call.dtypes[0], (0, False))
    return call.node("wrap", made, bits=bits, signed=int(signed)) if 0 < bits <= 16 else made


def _operands(call: Call) -> list[Operand]:
    found = [v for v in call.inputs if v is not None]
    if not any(isinstance(v, Value) for v in found):
        raise ModelError(f"{call.op} of constants only", code="not-folded")
    return [v if isinstance(v, Value) else call.weight(i, "constant") for i, v in enumerate(found)]


def plus(call: Call, x: Value, other: Operand) -> Value:
    """x + other, repeated to one shape."""
    if isinstance(other, Value):
        shape = _joint(call, x.shape, other.shape)
        return call.node("add", call.stretched(x, shape), call.stretched(other, shape))
    other = call.per_sample(other, len(x.shape))
    x = call.stretched(x, _joint(call, x.shape, other.shape))
    return call.scaled(x, 1.0, call.fitted(other, x.shape))


def times(call: Call, x: Value, other: Operand) -> Value:
    """x * other, repeated to one shape."""
    if isinstance(other, Value):
        shape = _joint(call, x.shape, other.shape)
        return call.node("mul", call.stretched(x, shape), call.stretched(other, shape))
    other = call.per_sample(other, len(x.shape))
    x = call.stretched(x, _joint(call, x.shape, other.shape))
    return call.scaled(x, call.fitted(other, x.shape))


def _joint(call: Call, *shapes: Shape) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        message = f"{call.op} of {', '.join(str(list(s)) for s in shapes)} (without batch)"
        raise ModelError(message, code="shape") from None


def _add(call: Call) -> Value:
    operands = _operands(call)
    values = [v for v in operands if isinstance(v, Value)]
    made = values[0]
    if len(values) > 1:
        shape = _joint(call, *(v.shape for v in values))
        made = call.node("add", *(call.stretched(v, shape) for v in values))
    for array in operands:
        if not isinstance(array, Value):
            made = plus(call, made, array)
    return as_integer(call, made)


def _sub(call: Call) -> Value:
    left, right = _operands(call)
    if isinstance(left, Value):
        return as_integer(call, plus(call, left, call.scaled(right, -1.0) if isinstance(right, Value) else -right))
    assert isinstance(right, Value)
    return as_integer(call, plus(call, call.scaled(right, -1.0), left))


def _mul(call: Call) -> Value:
    left, right = _operands(call)
    made = times(call, left, right) if isinstance(left, Value) else times(call, _value(right), left)
    return as_integer(call, made)


def _div(call: Call) -> Value:
    left, right = _operands(call)
    if call.dtypes[0] in INTEGERS:
        made = call.node("trunc", call.node("div", *_pair(call, left, right)))
        return as_integer(call, made)
    if isinstance(left, Value) and not isinstance(right, Value):
        if not right.all():
            raise ModelError("Div by a constant that holds zeros", code="division")
        with np.errstate(over="ignore"):
            factor = 1 / right
        if not np.isfinite(factor).all():
            raise ModelError("Div by a constant so small that the quotient overflows", code="division")
        return times(call, left, factor)
    return call.node("div", *_pair(call, left, right))


def _value(operand: Operand) -> Value:
    assert isinstance(operand, Value)
    return operand


def _pair(call: Call, *operands: Operand) -> list[Value]:
    """All as values of one shape."""
    ranks = [len(v.shape) for v in operands if isinstance(v, Value)]
    arrays = [v if isinstance(v, Value) else call.per_sample(v, max(ranks)) for v in operands]
    shape = _joint(call, *(v.shape for v in arrays))
    return [
        call.stretched(v, shape)
        if isinstance(v, Value)
        else call.node("constant", params={"value": _filled(call, v, shape)})
        for v in arrays
    ]


def _filled(call: Call, array: Array, shape: Shape) -> Array:
    full = call.fitted(array, shape)
    return np.broadcast_to(full.reshape(full.shape + (1,) * (len(shape) - full.ndim)), shape)


def _extreme(op: str) -> Callable[[Call], Value]:
    def handler(call: Call) -> Value:
        operands = _operands(call)
        if len(operands) == 1:
            return _value(operands[0])
        values = _pair(call, *operands)
        return call.node(op, *values)

    return handler


def _pow(call: Call) -> Value:
    left, right = _operands(call)
    if call.dtypes[0] in INTEGERS:
        raise ModelError("Pow of whole numbers", code="dtype")
    if isinstance(left, Value) and not isinstance(right, Value) and right.size == 1 and float(right.item()) == 2:
        return call.node("mul", left, left)
    if isinstance(left, Value) and not isinstance(right, Value) and right.size == 1 and float(right.item()) == 0.5:
        return call.node("sqrt", left)
    return call.node("power", *_pair(call, left, right))


def _mean(call: Call) -> Value:
    return call.scaled(_add(call), 1 / len(call.inputs)) if len(call.inputs) > 1 else _value(_operands(call)[0])


HANDLERS: Mapping[str, Handler] = {
    "Add": _add,
    "Div": _div,
    "Max": _extreme("maximum"),
    "Mean": _mean,
    "Min": _extreme("minimum"),
    "Mul": _mul,
    "Pow": _pow,
    "Sub": _sub,
    "Sum": _add,
}
