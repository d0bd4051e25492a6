"""Shapes and constants of a model, node by node, found by ONNX itself.

The batch size is fixed (a dynamic one to `PROBE`), then one walk in the order of the file infers the type of every
value with the operator's own schema and runs every node whose inputs are all constants in ONNX's reference
evaluator. What is left are the nodes that do work. Nothing here knows what an operator computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from snnc.errors import ModelError
from snnc.ir import Array, Shape

from .files import Loaded
from .folding import FOLDED, LARGEST_VALUE, check_size, evaluate, refuse_giants, static_shape, too_large
from .options import DEFAULT, Options, raising
from .structure import STANDARD, reads_of

PROBE = 13
"""Stands for a dynamic batch size: a number that no model has written into it, so that code for one batch size,
and values that mix samples, give themselves away."""

SMALL = 1024
"""Elements of a constant that shape inference may look at: shapes, axes, pads, but not weights."""


@dataclass(frozen=True)
class Port:
    """An input or output of the model: its raw name, ONNX element type and sizes, None where dynamic."""

    name: str
    dtype: int
    dims: tuple[int | None, ...]


@dataclass(frozen=True)
class Trace:
    """What is known of a model before any operator is understood.

    Attributes:
        batch: the batch size that `shapes` are for; 1 where the model has no batch.
        inputs: with the sizes that the options give.
        shapes: with batch, of every value that is not constant; a name is missing where ONNX cannot tell.
        sized: constants computed from a dynamic batch size: good for a reshape, never for a weight.
        work: the nodes that the outputs need and that are not constant, in runnable order.
        problems: nodes that only make constants but cannot be folded, by position in `work`.
        contradictions: why ONNX finds no type for a value, by name.
        dtypes: ONNX's element type of every value that is not constant.
    """

    opset: int
    batch: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: dict[str, Array] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    sized: set[str] = field(default_factory=set)
    work: list[NodeProto] = field(default_factory=list)
    problems: dict[int, ModelError] = field(default_factory=dict)
    contradictions: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)


def ports(values: Iterable[ValueInfoProto]) -> tuple[Port, ...]:
    """Inputs or outputs of a graph; sizes that are not positive count as dynamic (old exporters write 0 or -1)."""
    found = []
    for value in values:
        kind = value.type.tensor_type
        dims = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
        found.append(Port(value.name, kind.elem_type, dims))
    return tuple(found)


def model_inputs(model: ModelProto) -> tuple[Port, ...]:
    """The inputs that a user must give: those without an initializer."""
    known = {tensor.name for tensor in model.graph.initializer}
    return ports(value for value in model.graph.input if value.name not in known)


def batch_of(inputs: Iterable[Port]) -> int | None:
    """The static batch size of a model, None if it is dynamic.

    Raises:
        ModelError: the inputs have different ones.
    """
    sizes = {port.dims[0] for port in inputs if port.dims} - {None}
    if len(sizes) > 1:
        raise ModelError(f"the inputs have different batch sizes: {sorted(s for s in sizes if s)}", code="batch")
    return next(iter(sizes), None)


def sized_inputs(inputs: Iterable[Port], options: Options) -> tuple[Port, ...]:
    """The inputs with the sizes that `options` give for dynamic ones.

    Raises:
        ModelError: sizes for no input, or sizes that contradict the model's.
    """
    made, given = [], dict(options.shapes)
    for port in inputs:
        front = port.dims[:1] if options.batched else ()
        if (shape := given.pop(port.name, None)) is not None:
            known = port.dims[len(front) :]
            fits = len(shape) == len(known) and all(d in (None, s) for d, s in zip(known, shape, strict=True))
            if (port.dims and not fits) or min(shape, default=1) < 1:
                message = f"sizes {list(shape)} are given for the input '{port.name}', which is {_shown(known)}"
                raise ModelError(message, code="input-shape")
            port = replace(port, dims=((front or (None,) * options.batched) + tuple(shape)))
        if math.prod(d or 1 for d in port.dims) > LARGEST_VALUE:
            message = f"the input '{port.name}' {_shown(port.dims)} has more than {LARGEST_VALUE} elements"
            raise ModelError(message, code="value-size")
        made.append(port)
    if given:
        names = ", ".join(f"'{port.name}'" for port in made)
        raise ModelError(f"sizes are given for '{next(iter(given))}', the inputs are {names}", code="input-shape")
    return tuple(made)


def _shown(dims: Iterable[int | None]) -> str:
    return "[" + ",".join("?" if d is None else str(d) for d in dims) + "]"


def trace(model: ModelProto | Loaded, options: Options = DEFAULT) -> Trace:
    """Infer and fold all that the outputs of `model` need.

    Raises:
        ModelError: the inputs have different batch sizes, or do not fit the options; an initializer cannot be read.
    """
    proto = model.proto if isinstance(model, Loaded) else model
    inputs = sized_inputs(model_inputs(proto), options)
    static = batch_of(inputs) if options.batched else 1
    opset = next((entry.version for entry in proto.opset_import if entry.domain in STANDARD), None)
    if opset is None:
        raise ModelError("the model uses no operators of ONNX itself", code="opset")
    made = Trace(opset, static or PROBE, inputs, ports(proto.graph.output))
    if isinstance(model, Loaded):
        made.constants.update(model.weights)
    else:
        made.constants.update((tensor.name, _array(tensor)) for tensor in proto.graph.initializer)
    walk = _Walk(made, static is None, options, {})
    for port in inputs:
        walk.declare(port)
    for node in _needed(proto):
        walk.step(node)
    return made


@dataclass(frozen=True)
class _Walk:
    """One pass over the nodes; `types` holds the ONNX type of every value met so far."""

    made: Trace
    dynamic: bool
    options: Options
    types: dict[str, TypeProto]

    def declare(self, port: Port) -> None:
        dims = port.dims
        if self.options.batched:
            dims = (self.made.batch, *port.dims[1:])[: len(port.dims)]
        self._learn(port.name, helper.make_tensor_type_proto(port.dtype, dims))

    def step(self, node: NodeProto) -> None:
        if all(name in self.made.constants for name in node.output):  # a Constant whose value was taken out
            return
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            self.made.problems[len(self.made.work)] = _control_flow(node)
            self._work(node, {})
            return
        inferred = self._infer(node)
        try:
            refuse_giants(inferred)
            if self._shape_only(node):
                self._fold(node, {node.input[0]: self._dummy(node.input[0])}, inferred)
            elif self._foldable(node):
                self._fold(node, {name: self.made.constants[name] for name in node.input if name}, inferred)
            else:
                self._work(node, inferred)
        except ModelError as problem:
            self.made.problems[len(self.made.work)] = problem
            self._work(node, inferred)

    def _work(self, node: NodeProto, inferred: Mapping[str, TypeProto]) -> None:
        self.made.work.append(node)
        for name, kind in inferred.items():
            self._learn(name, kind)

    def _learn(self, name: str, kind: TypeProto) -> None:
        self.types[name] = kind
        self.made.dtypes[name] = kind.tensor_type.elem_type
        if (shape := static_shape(kind)) is not None:
            self.made.shapes[name] = shape

    def _shape_only(self, node: NodeProto) -> bool:
        return (
            _standard(node)
            and node.op_type in ("Shape", "Size")
            and len(node.input) == 1
            and node.input[0] in self.made.shapes
        )

    def _foldable(self, node: NodeProto) -> bool:
        plain = _standard(node) and node.op_type in FOLDED
        return plain and all(name in self.made.constants for name in node.input if name)

    def _dummy(self, name: str) -> Array:
        """An array of the shape of a value that takes no memory."""
        return np.broadcast_to(np.float32(0), self.made.shapes[name])

    def _infer(self, node: NodeProto) -> dict[str, TypeProto]:
        """The types of what `node` makes, as far as its schema tells; nothing if it does not."""
        known = {name: kind for name in node.input if name and (kind := self._type(name)) is not None}
        if not _standard(node) or len(known) < len(set(filter(None, node.input))):
            return {}
        small = {n: self.made.constants[n] for n in known if n in self.made.constants}
        data = {name: numpy_helper.from_array(a, name) for name, a in small.items() if a.size <= SMALL}
        opsets = [helper.make_opsetid("", self.made.opset)]
        try:
            schema = onnx.defs.get_schema(node.op_type, self.made.opset, "")
            return dict(onnx.shape_inference.infer_node_outputs(schema, node, known, data, opset_imports=opsets))
        except Exception as error:  # InferenceError, and what the C++ side lets through on odd models
            self.made.contradictions.update(dict.fromkeys(node.output, str(error).strip()))
            return {}

    def _type(self, name: str) -> TypeProto | None:
        if name in self.made.constants:
            array = self.made.constants[name]
            return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        return self.types.get(name)

    def _fold(self, node: NodeProto, given: Mapping[str, Array], inferred: Mapping[str, TypeProto]) -> None:
        """Run `node` and keep what it makes as constants."""
        most = self.options.limits.fold_bytes
        check_size(node, inferred, most)
        try:
            with np.errstate(all="ignore"):
                made = evaluate(node, given, self.made.opset)
        except MemoryError:
            hint = raising("memory_bytes")
            raise ModelError("there is no memory to compute this constant", hint=hint, code="memory-limit") from None
        except Exception as error:  # the evaluator raises whatever numpy and its own kernels do
            raise ModelError(f"this constant cannot be computed: {error}", code="fold") from None
        if (size := sum(array.nbytes for array in made.values())) > most:
            raise too_large(f"takes {size} bytes", most)
        self.made.constants.update(made)
        if self.made.sized.intersection(node.input) or (self.dynamic and self._shape_only(node)):
            self.made.sized.update(made)


def _control_flow(node: NodeProto) -> ModelError:
    hint = "export without control flow: torch.onnx.export with fixed sizes, or onnxsim"
    return ModelError(f"the operator {node.op_type} is not supported", hint=hint, code="control-flow")


def _standard(node: NodeProto) -> bool:
    return node.domain in STANDARD


def _needed(model: ModelProto) -> list[NodeProto]:
    """The nodes that the outputs depend on, in the order of the file."""
    wanted = {value.name for value in model.graph.output}
    found = []
    for node in reversed(model.graph.node):
        if wanted.intersection(filter(None, node.output)):
            found.append(node)
            wanted.update(reads_of(node))
    return found[::-1]


def _array(tensor: TensorProto) -> Array:
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"this initializer cannot be read: {error}", at=tensor.name, code="tensor-data") from None


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; texts decoded."""
    found = {}
    for attribute in node.attribute:
        try:
            value = None if attribute.type == AttributeProto.GRAPH else helper.get_attribute_value(attribute)
        except ValueError as error:
            raise ModelError(f"the attribute '{attribute.name}': {error}", at=node.name, code="attribute") from None
        found[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found
