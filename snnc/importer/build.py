"""From a traced model to a verified graph: every node through its handler, then the canonical form and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from snnc.errors import GraphError, ModelError
from snnc.ir import WEIGHTED, Array, Attr, Graph, Node, Shape, TensorType, verify
from snnc.ir.ops import infer

from .call import Call, Value
from .canonical import canonical
from .files import Loaded, dtype_name
from .naming import fit, named
from .operators import HANDLERS, HINTS
from .operators.precision import FLOATS, WHOLE
from .options import DEFAULT, Options
from .quantization import Quantized
from .trace import Port, Trace, attributes, trace

NUMBERS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL, *FLOATS, *WHOLE}
EXACT = 2**24
"""Whole numbers up to this size are exact in float32."""
SIZED = ("Expand", "Reshape", "Resize", "Upsample")
"""Operators whose shape may depend on the batch size: ONNX infers it, and it must have the batch in front."""


@dataclass(frozen=True)
class Finding:
    """A node of the user's model that does work, and what keeps it from being imported, None if nothing."""

    node: str
    op: str
    problem: ModelError | None = None


@dataclass(frozen=True)
class Import:
    """What became of a model.

    Attributes:
        graph: None if any node cannot be imported.
        findings: one per node that does work, in order.
        notes: what was changed on the way in and does not show in the graph.
    """

    graph: Graph | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


def build(model: ModelProto | Loaded, options: Options = DEFAULT) -> Import:
    """The graph of a checked `model` if every node can be imported, and a finding for each."""
    traced = trace(model, options)
    if not traced.inputs:
        raise ModelError("the model has no inputs", code="no-inputs")
    builder = _Builder(traced, fit(port.name for port in traced.inputs), options.batched)
    findings = [builder.input(port) for port in traced.inputs]
    for node in model.graph.node:
        builder.quantized.learn(node, traced.constants)
    findings += [builder.finding(i, node) for i, node in enumerate(traced.work)]
    findings += [builder.output(port) for port in traced.outputs]
    shown = tuple(f for f in findings if f.problem is not None or f.op not in ("Input", "Output"))
    if any(found.problem is not None for found in findings):
        return Import(None, shown, tuple(builder.notes))
    plain = builder.graph()
    graph, notes = builder.quantized.constrained(canonical(plain))
    for user, name in graph.outputs.items():
        if graph.type(name) != plain.type(plain.outputs[user]):
            raise GraphError(f"the canonical form changed the output '{user}': this is a mistake of snnc")
    graph = named(graph)
    verify(graph)
    return Import(graph, shown, (*builder.notes, *notes, *_unread(graph)))


def label(node: NodeProto) -> str:
    """What the user calls a node: its name, or else the first value it makes."""
    return str(node.name or next(filter(None, node.output), ""))


def _unread(graph: Graph) -> list[str]:
    read = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs.values())
    return [f"no output depends on the input '{name}'" for name in graph.inputs if name not in read]


@dataclass
class _Builder:
    """The graph while it grows.

    Attributes:
        values: by ONNX name; a value that cannot be followed, because a node before it failed, is missing.
        origin: the ONNX node that is being imported.
    """

    traced: Trace
    names: Mapping[str, str]
    batched: bool
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    params: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    quantized: Quantized = field(default_factory=Quantized)
    notes: list[str] = field(default_factory=list)
    origin: str = ""

    def __post_init__(self) -> None:
        self.read = {port.name for port in self.traced.outputs}
        self.read.update(name for node in self.traced.work for name in node.input)

    def input(self, port: Port) -> Finding:
        """Make an input of the graph: numbers, with static sizes behind the batch."""
        shape = self._shape(port.name)
        problem = self._input_problem(port)
        if problem is None and shape is None:
            problem = ModelError("the input has no shape", at=f"input '{port.name}'", code="shape")
        if shape is not None:
            self.values[port.name] = Value(self.names[port.name], shape)
            self.types[self.names[port.name]] = TensorType("analog", shape)
        if problem is None and port.dtype != TensorProto.FLOAT:
            wide = "; exact up to 2**24" if WHOLE.get(port.dtype, (0, True))[0] > 24 else ""
            self.notes.append(f"input '{port.name}' is {dtype_name(port.dtype)}, computed in float32{wide}")
        return Finding(port.name, "Input", problem)

    def _input_problem(self, port: Port) -> ModelError | None:
        at = f"input '{port.name}'"
        if port.dtype not in NUMBERS:
            kind = dtype_name(port.dtype)
            hint = "feed numbers: convert outside the model"
            return ModelError(f"the input is {kind}, not a number", at=at, hint=hint, code="dtype")
        if self.batched and not port.dims:
            hint = "make it [batch, ...], or read the model without a batch"
            return ModelError(f"the input {_sizes(port)} has no batch in front", at=at, hint=hint, code="no-batch")
        if None in port.dims[self.batched :]:
            hint = "say the sizes: shapes={'" + port.name + "': (3, 32, 32)}, on the command line --shape"
            message = f"the input {_sizes(port)} has dynamic sizes behind the batch"
            return ModelError(message, at=at, hint=hint, code="dynamic-shape")
        return None

    def finding(self, index: int, node: NodeProto) -> Finding:
        """Import one node; its values go on with the shapes ONNX tells even where the node fails."""
        self.origin, problem = label(node), None
        begun = len(self.nodes)
        try:
            if (folding := self.traced.problems.get(index)) is not None:
                raise folding
            results = self._import(node)
        except (ModelError, GraphError) as error:
            at = f"ONNX node '{self.origin}' ({node.op_type})"
            hint = error.hint or HINTS.get(node.op_type, "")
            problem = ModelError(error.message, at=at, hint=hint, code=error.code or "shape")
            del self.nodes[begun:]
            results = self._stand_ins(node)
        self.values.update(results)
        return Finding(self.origin, node.op_type, problem)

    def _stand_ins(self, node: NodeProto) -> dict[str, Value]:
        made = {}
        for name in filter(None, node.output):
            if (shape := self._shape(name)) is not None:
                made[name] = Value(f"?{name}", shape)
                self.types[f"?{name}"] = TensorType("analog", shape)
        return made

    def _shape(self, name: str) -> Shape | None:
        """The shape of a value in the graph; None if it is unknown, or has not the batch in front."""
        shape = self.traced.shapes.get(name)
        if shape is None or not self.batched:
            return shape
        return shape[1:] if shape and shape[0] == self.traced.batch else None

    def _import(self, node: NodeProto) -> dict[str, Value]:
        """The values that `node` makes by ONNX name; none if what it reads is missing already."""
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(f"the operator {node.domain}.{node.op_type} is not one of ONNX", code="foreign-operator")
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            raise ModelError(f"the operator {node.op_type} is not supported", code="unsupported-operator")
        if any(n and n not in self.values and n not in self.traced.constants for n in node.input):
            return {}
        if not any(name in self.values for name in node.input):
            message = f"{node.op_type} of constants only"
            raise ModelError(message, hint="fold it before: onnxsim", code="not-folded")
        if sized := [n for n in node.input if n in self.traced.sized and node.op_type not in SIZED]:
            raise ModelError(f"the constant '{sized[0]}' depends on the batch size", code="batch-mixed")
        call = self._call(node)
        begun = len(self.nodes)
        made = handler(call)
        results = [made] if isinstance(made, Value) else list(made)
        if used := [name for name in node.output[len(results) :] if name and name in self.read]:
            message = f"output {len(results)} of {node.op_type}, '{used[0]}', is read"
            raise ModelError(message, code="unsupported-form")
        for result, shape in zip(results, call.shapes, strict=False):
            if shape is not None and result.shape != shape:
                raise ModelError(f"ONNX makes {list(shape)} here, snnc {list(result.shape)}", code="shape")
        self._note_grids(node, begun)
        return {name: result for name, result in zip(node.output, results, strict=False) if name}

    def _note_grids(self, node: NodeProto, begun: int) -> None:
        grids = [self.quantized.constants[name] for name in node.input if name in self.quantized.constants]
        for made in self.nodes[begun:]:
            if grids and made.op in WEIGHTED and made.op != "scale":
                self.quantized.params[made.inputs[1]] = grids[0]

    def _call(self, node: NodeProto) -> Call:
        shape = self.traced.shapes.get(node.output[0])
        if shape is None:
            why = self.traced.contradictions.get(node.output[0], "it is not known before the model runs")
            raise ModelError(f"ONNX finds no shape for what {node.op_type} makes: {why}", code="shape")
        if 0 in shape:
            raise ModelError(f"{node.op_type} makes nothing: {list(shape)}", code="shape")
        if self._shape(node.output[0]) is None:
            message = f"{node.op_type} mixes the samples of a batch: {self.traced.batch} samples become {list(shape)}"
            raise ModelError(message, hint="keep the batch size in front, as -1 for instance", code="batch-mixed")
        outputs = [name for name in node.output if name]
        return Call(
            node.op_type,
            attributes(node),
            tuple(self.values.get(name, self.traced.constants.get(name)) for name in node.input),
            tuple(self._shape(name) for name in outputs),
            tuple(self.traced.dtypes.get(name, 0) for name in outputs),
            self.traced.opset,
            self.traced.batch,
            self.batched,
            self._emit,
        )

    def _emit(self, op: str, values: Sequence[Value], params: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Value:
        name = f"#{len(self.nodes)}"
        own = {f"{name}.{role}": np.asarray(array, np.float32) for role, array in params.items()}
        node = Node(name, op, (*(v.name for v in values), *own), attrs, (self.origin,))
        self.types[name] = infer(node, self.types, own)
        self.nodes.append(node)
        self.params.update(own)
        return Value(name, self.types[name].shape)

    def output(self, port: Port) -> Finding:
        """Note what stands behind an output."""
        problem = None
        if port.name in self.traced.constants:
            try:
                self.outputs[port.name] = self._constant_output(port.name)
            except (ModelError, GraphError) as error:
                problem = ModelError(error.message, at=f"output '{port.name}'", code=error.code)
        elif port.name in self.values:
            self.outputs[port.name] = self.values[port.name].name
        return Finding(port.name, "Output", problem)

    def _constant_output(self, name: str) -> str:
        """An output that is the same for every sample (anchors, for instance)."""
        array = self.traced.constants[name]
        if name in self.traced.sized:
            raise ModelError("the output depends on the batch size only", code="batch-mixed")
        if array.dtype.kind not in "fiub" or (array.dtype.kind in "iu" and np.abs(array).max(initial=0) > EXACT):
            raise ModelError(f"the output is a constant {array.dtype}", code="dtype")
        if self.batched:
            if array.ndim == 0 or len(array) != self.traced.batch or (array != array[:1]).any():
                raise ModelError("the output is a constant without a batch in front", code="batch-mixed")
            array = array[0]
        self.origin = name
        return self._emit("constant", (), {"value": array}, {}).name

    def graph(self) -> Graph:
        """All nodes that were made, under working names."""
        inputs = {self.names[p.name]: self.types[self.names[p.name]] for p in self.traced.inputs}
        names = fit(port.name for port in self.traced.outputs)
        outputs = {names[raw]: value for raw, value in self.outputs.items()}
        return Graph(inputs, tuple(self.nodes), self.params, outputs).edit()


def _sizes(port: Port) -> str:
    return "[" + ",".join("?" if d is None else str(d) for d in port.dims) + "]"
