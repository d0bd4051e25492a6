"""Cast, QuantizeLinear and DequantizeLinear: values stay float32, rounded to what the other type can hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from snnc.errors import ModelError
from snnc.importer.call import Call, Handler, Value
from snnc.ir import Array

from .arithmetic import INTEGERS

WHOLE: Mapping[int, tuple[int, bool]] = {
    **INTEGERS,
    TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
    **({TensorProto.INT2: (2, True), TensorProto.UINT2: (2, False)} if hasattr(TensorProto, "INT2") else {}),
}
FLOATS: Mapping[int, tuple[int, int, float, str]] = {
    TensorProto.FLOAT16: (10, -24, 65504.0, "inf"),
    TensorProto.BFLOAT16: (7, -133, float(2.0**127 * (2 - 2.0**-7)), "inf"),
    TensorProto.FLOAT8E4M3FN: (3, -9, 448.0, "nan"),
    TensorProto.FLOAT8E4M3FNUZ: (3, -10, 240.0, "nan"),
    TensorProto.FLOAT8E5M2: (2, -16, 57344.0, "inf"),
    TensorProto.FLOAT8E5M2FNUZ: (2, -17, 57344.0, "nan"),
    TensorProto.FLOAT4E2M1: (1, -1, 6.0, "finite"),
}
"""Binary digits behind the first, exponent of the smallest step, largest number, what lies beyond it becomes."""
SATURATING = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ]

KEPT = (TensorProto.FLOAT, TensorProto.DOUBLE)


def _cast(call: Call) -> Value:
    return _to(call, call.value(), int(call.attrs["to"]))


def _to(call: Call, x: Value, dtype: int) -> Value:
    """`x` as the type `dtype` can hold it."""
    if dtype in KEPT:
        return x
    if dtype == TensorProto.BOOL:
        return call.node("abs", call.node("sign", x))
    if dtype in WHOLE:
        bits, signed = WHOLE[dtype]
        return call.node("wrap", x, bits=bits, signed=int(signed)) if bits <= 16 else call.node("trunc", x)
    if dtype in FLOATS:
        return _rounded(call, x, dtype, bool(call.attrs.get("saturate", 1)))
    raise ModelError(f"{call.op} to {TensorProto.DataType.Name(dtype)}", code="dtype")


def _rounded(call: Call, x: Value, dtype: int, saturate: bool) -> Value:
    digits, lowest, largest, over = FLOATS[dtype]
    over = "clip" if dtype in SATURATING and saturate else over
    return call.node("roundfloat", x, digits=digits, lowest=lowest, max=largest, over=over)


def _quantize(call: Call) -> Value:
    x = call.value()
    if call.attrs.get("block_size", 0):
        raise ModelError("QuantizeLinear in blocks", code="unsupported-form")
    dtype = call.dtypes[0]
    step = _along(call, call.weight(1, "scale"), x)
    if not (step > 0).all():
        raise ModelError("QuantizeLinear with a scale that is not positive", code="attribute")
    if dtype in FLOATS:
        return _rounded(call, call.scaled(x, 1 / step), dtype, bool(call.attrs.get("saturate", 1)))
    bits, signed = WHOLE.get(dtype, (0, False))
    if not 0 < bits <= 16:
        raise ModelError(f"QuantizeLinear to {TensorProto.DataType.Name(dtype)}", code="dtype")
    zero = _along(call, call.weight(2, "zero point"), x) if call.given(2) else np.zeros_like(step)
    low = -(2 ** (bits - 1)) if signed else 0
    params = {"step": step, "zero": np.broadcast_to(zero, step.shape)}
    return call.node("quantize", x, params=params, min=low, max=low + 2**bits - 1)


def _dequantize(call: Call) -> Value:
    """(x - zero) * step."""
    x = call.value()
    if call.attrs.get("block_size", 0):
        raise ModelError("DequantizeLinear in blocks", code="unsupported-form")
    step = _along(call, call.weight(1, "scale"), x)
    zero = _along(call, call.weight(2, "zero point"), x) if call.given(2) else None
    if zero is None or not zero.any():
        return call.scaled(x, step)
    return call.scaled(call.scaled(x, 1.0, -zero), step)


def _along(call: Call, array: Array, x: Value) -> Array:
    """A scale or zero point: one number, or one per element of `axis`."""
    if array.size == 1:
        return np.asarray(array.reshape(()))
    axis = call.axis(int(call.attrs.get("axis", 1)), len(x.shape))
    if array.shape != (x.shape[axis],):
        raise ModelError(f"{call.op} with {list(array.shape)} scales along {x.shape[axis]}", code="shape")
    if axis == 0:
        return array
    return np.broadcast_to(array.reshape(-1, *[1] * (len(x.shape) - axis - 1)), x.shape)


HANDLERS: Mapping[str, Handler] = {
    "Cast": _cast,
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
