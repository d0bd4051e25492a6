"""What a handler of an ONNX operator gets and gives: values and constants in, nodes of the graph out.

Sizes and axes of the graph leave out the batch, which stands in front of every value in the model, unless the model
is read with `batched=False`: then the whole tensor is one sample and both count the same axes. `Call` is the only
place that knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from snnc.errors import ModelError
from snnc.ir import Array, Attr, Shape

LARGEST_CONSTANT = 2**26
"""Elements of a constant that padding or repeating may make part of the graph."""


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name there, and its shape without batch."""

    name: str
    shape: Shape


Operand: TypeAlias = Value | Array


class Emit(Protocol):
    """Adds a node to the graph and gives its value."""

    def __call__(
        self, op: str, values: Sequence[Value], params: Mapping[str, Array], attrs: Mapping[str, Attr]
    ) -> Value: ...


@dataclass(frozen=True)
class Call:
    """One ONNX node.

    Attributes:
        inputs: values, constants, and None where an optional input is left out.
        shapes: of its outputs, without batch, as ONNX infers them; None where it cannot tell.
        dtypes: ONNX element types of its outputs, 0 where unknown.
        opset: decides between the forms an operator had over time.
        batch: the batch size that constants were made for.
        batched: whether the first axis of every value is the batch.
        emit: adds a node to the graph.
    """

    op: str
    attrs: Mapping[str, Any]
    inputs: tuple[Operand | None, ...]
    shapes: tuple[Shape | None, ...]
    dtypes: tuple[int, ...]
    opset: int
    batch: int
    batched: bool
    emit: Emit

    @property
    def shape(self) -> Shape:
        """Of its first output, which is always known."""
        assert self.shapes[0] is not None
        return self.shapes[0]

    def node(
        self,
        op: str,
        *values: Value,
        params: Mapping[str, Array] | None = None,
        attrs: Mapping[str, Attr] | None = None,
        **more: Attr,
    ) -> Value:
        """The value of a new node of the graph; `attrs` and `more` are its attributes."""
        return self.emit(op, values, params or {}, {**(attrs or {}), **more})

    def value(self, index: int = 0) -> Value:
        """The input at `index` as a value; a constant becomes a node of its own."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise ModelError(f"input {index} of {self.op} is left out", code="missing-input")
        return found if isinstance(found, Value) else self.constant_node(self.weight(index, f"input {index}"))

    def constant_node(self, array: Array) -> Value:
        """A constant as a value that every sample has: as the model stores it, without its batch axis."""
        return self.node("constant", params={"value": self.per_sample(array, array.ndim - self.batched)})

    def given(self, index: int) -> bool:
        """Whether the optional input at `index` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def constant(self, index: int, what: str) -> Array:
        """The input at `index`, which must be known at compile time."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(found, np.ndarray):
            why = "is missing" if found is None else "is computed from the model's input; it must be constant"
            raise ModelError(f"the {what} of {self.op} {why}", code="not-constant")
        return found

    def scalar(self, index: int, what: str) -> float:
        """The constant at `index`, a single number."""
        array = self.constant(index, what)
        if array.size != 1:
            raise ModelError(f"the {what} of {self.op} is {list(array.shape)}, not one number", code="shape")
        return float(array.reshape(()).item())

    def ints(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return tuple(int(i) for i in self.attrs.get(name, default))

    def listed(self, name: str, index: int, from_opset: int) -> tuple[int, ...] | None:
        """Integers that are an attribute before `from_opset` and an input from then on; None where left out."""
        if self.opset < from_opset:
            return self.ints(name) if name in self.attrs else None
        return tuple(int(i) for i in self.constant(index, name).reshape(-1)) if self.given(index) else None

    def weight(self, index: int, what: str) -> Array:
        """The constant at `index` as finite float32; narrower types widen, integers become numbers."""
        array = self.constant(index, what)
        if array.dtype.kind not in "fiub" and array.dtype.name not in SMALL_TYPES:
            raise ModelError(f"the {what} of {self.op} is {array.dtype}, not a number", code="dtype")
        if not array.size:
            raise ModelError(f"the {what} of {self.op} is empty: {list(array.shape)}", code="empty-weight")
        with np.errstate(over="ignore"):
            made = array.astype(np.float32, copy=False)
        if bad := int((~np.isfinite(made)).sum()):
            message = f"{bad} of {array.size} values of the {what} of {self.op} are NaN or infinite"
            raise ModelError(message, code="nan-weight")
        made.flags.writeable = False  # the graph copies what could still change
        return made

    def per_sample(self, array: Array, rank: int) -> Array:
        """A constant that meets a value of `rank`, without its batch axis: every sample must get the same."""
        if array.ndim <= rank or not self.batched:
            return array
        if array.ndim > rank + 1 or (array.shape[0] > 1 and (array != array[:1]).any()):
            message = f"the constant {list(array.shape)} of {self.op} differs from sample to sample"
            raise ModelError(message, code="batch-mixed")
        if len(array) not in (1, self.batch):
            message = f"the constant {list(array.shape)} of {self.op} is for {len(array)} samples, not {self.batch}"
            raise ModelError(message, code="shape")
        return np.asarray(array[0])

    def fitted(self, array: Array, shape: Shape) -> Array:
        """A constant that meets a value of `shape`: a scalar, [C] if it depends on the channel only, else whole."""
        array = self.per_sample(array, len(shape))
        if array.size == 1:
            return np.asarray(array.reshape(()))
        full = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        target = shape[:1] if all(size == 1 for size in full.shape[1:]) else shape
        try:
            if target == shape and math.prod(shape) > LARGEST_CONSTANT:
                raise ModelError(f"a constant {list(shape)} is more than {LARGEST_CONSTANT} values", code="too-large")
            return np.broadcast_to(full.reshape(full.shape[: len(target)]), target)
        except ValueError:
            message = f"the constant {list(array.shape)} of {self.op} does not fit {list(shape)}"
            raise ModelError(message, code="shape") from None

    def axis(self, axis: int, rank: int) -> int:
        """An ONNX axis of a value of `rank` (without batch), as an axis of the graph; that of the batch is refused."""
        full = rank + self.batched
        axis = axis + full if axis < 0 else axis
        if not 0 <= axis < full:
            raise ModelError(f"{self.op} along axis {axis} of {full}", code="shape")
        if axis < self.batched:
            raise ModelError(f"{self.op} along axis 0, the batch", code="batch-mixed")
        return axis - self.batched

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """ONNX axes as axes of the graph, in order."""
        found = sorted(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            raise ModelError(f"{self.op} names an axis twice: {list(axes)}", code="shape")
        return tuple(found)

    def reshaped(self, value: Value, shape: Shape) -> Value:
        """`value` in another shape of the same size."""
        return value if value.shape == shape else self.node("reshape", value, shape=tuple(shape))

    def transposed(self, value: Value, perm: Sequence[int]) -> Value:
        """`value` with its axes in the order of `perm`."""
        return value if list(perm) == sorted(perm) else self.node("transpose", value, perm=tuple(perm))

    def stretched(self, value: Value, shape: Shape) -> Value:
        """`value` repeated along axes of size 1, and along new ones in front, to `shape` (numpy's broadcasting)."""
        if value.shape == shape:
            return value
        if len(value.shape) > len(shape) or (self.batched and len(value.shape) != len(shape)):
            message = f"{self.op} of values of different ranks, {list(value.shape)} and {list(shape)} without batch"
            raise ModelError(message, code="batch-mixed")
        lined = self.reshaped(value, (1,) * (len(shape) - len(value.shape)) + value.shape)
        return lined if lined.shape == shape else self.node("expand", lined, shape=tuple(shape))

    def sliced(self, value: Value, axis: int, start: int, size: int, step: int = 1) -> Value:
        """`size` elements along one axis."""
        if (start, size, step) == (0, value.shape[axis], 1):
            return value
        starts, sizes, steps = [0] * len(value.shape), list(value.shape), [1] * len(value.shape)
        starts[axis], sizes[axis], steps[axis] = start, size, step
        return self.node("slice", value, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps))

    def scaled(self, value: Value, factor: float | Array = 1.0, bias: float | Array | None = None) -> Value:
        """value * factor + bias; both scalar, [C] or the whole shape."""
        params = {"factor": np.asarray(factor, np.float32)}
        if bias is not None:
            params["bias"] = np.asarray(bias, np.float32)
        return self.node("scale", value, params=params)


SMALL_TYPES = (
    "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn", "int4", "uint4",
    "int2", "uint2",
)  # fmt: skip
"""Names of element types that numpy knows through ml_dtypes only, and that float32 holds exactly."""

Handler: TypeAlias = Callable[[Call], Value | Sequence[Value]]
