"""From a traced model to a verified graph: every node through its handler, then biases, reshapes and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from onnx import ModelProto, NodeProto, TensorProto

from snnc.errors import GraphError, ModelError
from snnc.ir import NAME, Array, Graph, Node, TensorType, verify
from snnc.ir.ops import infer

from .files import dtype_name
from .handlers import HANDLERS, HINTS, Call, Draft, Value
from .options import Options
from .trace import Port, Trace, attributes, trace

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


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


def build(model: ModelProto, options: Options = Options()) -> Import:
    """The graph of a checked `model` if every node can be imported, and a finding for each."""
    traced = trace(model, options)
    builder = _Builder(traced, fit(port.name for port in traced.inputs))
    findings = [_input(port) for port in traced.inputs]
    builder.begin()
    findings += [builder.finding(i, node) for i, node in enumerate(traced.work)]
    findings += [builder.output(port) for port in traced.outputs]
    graph = None if _failed(findings) else builder.graph()
    if graph is not None:
        findings += _unread(graph)
    shown = [f for f in findings if f.problem is not None or f.op not in ("Input", "Output")]
    if graph is None or _failed(findings):
        return Import(None, tuple(shown))
    graph = _named(_without_reshapes(_with_biases(graph)))
    verify(graph)
    return Import(graph, tuple(shown))


def fit(names: Iterable[str]) -> dict[str, str]:
    """The user's names, each made to fit `snnc.ir.NAME`, all different."""
    found: dict[str, str] = {}
    for raw in names:
        clean = "".join(c if NAME.fullmatch(c) else "_" for c in raw)
        taken, number = set(found.values()), 2
        name = clean
        while name in taken:
            name, number = f"{clean}_{number}", number + 1
        found[raw] = name
    return found


def label(node: NodeProto) -> str:
    """What the user calls a node: its name, or else the first value it makes."""
    return str(node.name or next(filter(None, node.output), ""))


def _failed(findings: Iterable[Finding]) -> bool:
    return any(found.problem is not None for found in findings)


def _problem(error: ModelError | GraphError, node: str, op: str, hint: str = "") -> ModelError:
    return ModelError(error.message, at=f"ONNX node '{node}' ({op})", hint=error.hint or hint)


def _input(port: Port) -> Finding:
    """Inputs must be floating point, with a batch in front and static sizes behind it."""
    problem = None
    at = f"input '{port.name}'"
    if port.dtype not in FLOATS:
        kind = dtype_name(port.dtype)
        hint = "feed float32: convert and scale the images outside the model"
        problem = ModelError(f"the input is {kind}, not floating point", at=at, hint=hint)
    elif len(port.dims) < 2:
        problem = ModelError(f"the input {_sizes(port)} has no batch in front", at=at, hint="make it [batch, ...]")
    elif None in port.dims[1:]:
        hint = "fix all but the batch: python -m onnxruntime.tools.make_dynamic_shape_fixed"
        problem = ModelError(f"the input {_sizes(port)} has dynamic sizes behind the batch", at=at, hint=hint)
    return Finding(port.name, "Input", problem)


def _sizes(port: Port) -> str:
    return "[" + ",".join("?" if d is None else str(d) for d in port.dims) + "]"


def _unread(graph: Graph) -> list[Finding]:
    read = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs.values())
    hint = "remove it from the model"
    return [
        Finding(name, "Input", ModelError("no output depends on this input", at=f"input '{name}'", hint=hint))
        for name in graph.inputs
        if name not in read
    ]


@dataclass
class _Builder:
    """The graph while it grows.

    Attributes:
        values: by ONNX name; a value that cannot be followed, because a node before it failed, is missing.
    """

    traced: Trace
    names: Mapping[str, str]
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    params: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Make the inputs."""
        for port in self.traced.inputs:
            name, shape = self.names[port.name], self.traced.shapes.get(port.name)
            if shape:
                self.values[port.name] = Value(name, shape[1:])
                self.types[name] = TensorType("analog", shape[1:])

    def finding(self, index: int, node: NodeProto) -> Finding:
        """Import one node; its value goes on with the shape ONNX tells even where the node fails."""
        name, problem = label(node), None
        try:
            if (folding := self.traced.problems.get(index)) is not None:
                raise folding
            result = self._import(node)
        except (ModelError, GraphError) as error:
            problem = _problem(error, name, node.op_type, HINTS.get(node.op_type, ""))
            result = self._stand_in(node)
        if result is not None:
            self.values[node.output[0]] = result
        return Finding(name, node.op_type, problem)

    def _stand_in(self, node: NodeProto) -> Value | None:
        shape = self.traced.shapes.get(node.output[0])
        if not shape or shape[0] != self.traced.batch:
            return None
        stand_in = f"?{node.output[0]}"
        self.types[stand_in] = TensorType("analog", shape[1:])
        return Value(stand_in, shape[1:])

    def _import(self, node: NodeProto) -> Value | None:
        """The value that `node` makes; None if what it reads is missing already."""
        handler = HANDLERS.get(node.op_type)
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(f"the operator {node.domain}.{node.op_type} is not one of ONNX")
        if handler is None:
            raise ModelError(f"the operator {node.op_type} is not supported")
        if any(n and n not in self.values and n not in self.traced.constants for n in node.input):
            return None
        if not any(name in self.values for name in node.input):
            raise ModelError(f"{node.op_type} of constants only", hint="fold it before: onnxsim")
        if used := [name for name in node.output[1:] if name and self._read(name)]:
            raise ModelError(f"the second output of {node.op_type}, '{used[0]}', is read")
        if sized := [n for n in node.input if n in self.traced.sized and node.op_type != "Reshape"]:
            raise ModelError(f"the constant '{sized[0]}' depends on the batch size")
        call = self._call(node)
        return self._emit(handler(call), call, label(node))

    def _read(self, name: str) -> bool:
        wanted = {port.name for port in self.traced.outputs}
        return name in wanted or any(name in node.input for node in self.traced.work)

    def _call(self, node: NodeProto) -> Call:
        shape = self.traced.shapes.get(node.output[0])
        if shape is None:
            why = self.traced.contradictions.get(node.output[0], "it is not known before the model runs")
            raise ModelError(f"ONNX finds no shape for what {node.op_type} makes: {why}")
        if not shape or shape[0] != self.traced.batch:
            message = f"{node.op_type} mixes the samples of a batch: {self.traced.batch} samples become {list(shape)}"
            raise ModelError(message, hint="keep the batch size in front, as -1 for instance")
        inputs = tuple(self.values.get(name, self.traced.constants.get(name)) for name in node.input)
        return Call(node.op_type, attributes(node), inputs, shape[1:], self.traced.opset, self.traced.batch)

    def _emit(self, drafts: Iterable[Draft], call: Call, origin: str) -> Value:
        """Append the drafts; what they make must be what ONNX says."""
        made = ""
        for draft in drafts:
            sources = draft.values or (made,)
            if draft.op == "same":
                made = sources[0]
                continue
            made = f"#{len(self.nodes)}"
            params = {f"{made}.{role}": array for role, array in draft.params.items()}
            node = Node(made, draft.op, (*sources, *params), draft.attrs, (origin,))
            self.types[made] = infer(node, self.types, params)
            self.nodes.append(node)
            self.params.update(params)
        if self.types[made].shape != call.shape:
            raise ModelError(f"ONNX makes {list(call.shape)} here, snnc {list(self.types[made].shape)}")
        return Value(made, call.shape)

    def output(self, port: Port) -> Finding:
        """Note what stands behind an output."""
        if port.name in self.traced.constants:
            problem = ModelError("the output does not depend on any input", at=f"output '{port.name}'")
            return Finding(port.name, "Output", problem)
        if port.name in self.values:
            self.outputs[port.name] = self.values[port.name].name
        return Finding(port.name, "Output")

    def graph(self) -> Graph:
        """All nodes that were made, under working names."""
        inputs = {self.names[p.name]: self.types[self.names[p.name]] for p in self.traced.inputs}
        names = fit(port.name for port in self.traced.outputs)
        outputs = {names[raw]: value for raw, value in self.outputs.items()}
        return Graph(inputs, tuple(self.nodes), self.params, outputs).edit()


def _with_biases(graph: Graph) -> Graph:
    """An added constant that nothing else comes before becomes the bias of its conv or dense."""
    nodes, params = {node.name: node for node in graph.nodes}, dict(graph.params)
    rename: dict[str, str] = {}
    for node in graph.nodes:
        source = nodes.get(rename.get(node.inputs[0], node.inputs[0]))
        if node.op != "scale" or source is None or not _takes_bias(graph, node, source):
            continue
        bias = params[node.inputs[2]]
        if len(source.inputs) > 2:
            bias = params[source.inputs[2]] + bias
        name = f"{source.name}.bias"
        params[name] = bias
        inputs = (*source.inputs[:2], name)
        nodes[source.name] = replace(source, inputs=inputs, origin=source.origin + node.origin)
        rename[node.name] = source.name
    return graph.edit(nodes.values(), params=params, rename=rename) if rename else graph


def _takes_bias(graph: Graph, node: Node, source: Node) -> bool:
    alone = len(graph.users(node.inputs[0])) == 1 and not graph.is_output(node.inputs[0])
    units = source.type.shape[:1]
    return source.op in ("conv", "dense") and alone and graph.params[node.inputs[2]].shape == units


def _without_reshapes(graph: Graph) -> Graph:
    """A reshape of a reshape reads what the first one reads; one that changes nothing goes."""
    nodes: dict[str, Node] = {}
    rename: dict[str, str] = {}
    for node in graph.nodes:
        if node.op == "reshape":
            source = rename.get(node.inputs[0], node.inputs[0])
            inner = nodes.get(source)
            if inner is not None and inner.op == "reshape":
                node = replace(node, origin=inner.origin + node.origin)
                source = inner.inputs[0]
            node = replace(node, inputs=(source,))
            if graph.type(source).shape == node.attrs["shape"]:
                rename[node.name] = source
        nodes[node.name] = node
    return graph.edit(nodes.values(), rename=rename)


def _named(graph: Graph) -> Graph:
    """Nodes named by op and counter in order of execution, params by node and role."""
    taken = {*graph.inputs, *graph.outputs}
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for node in graph.nodes:
        number = counts.get(node.op, 0) + 1
        while any(re.match(rf"{node.op}{number}(\.|$)", name) for name in taken):
            number += 1
        counts[node.op] = number
        names[node.name] = f"{node.op}{number}"
    for param in graph.params:
        owner, role = param.rsplit(".", 1)
        names[param] = f"{names[owner]}.{role}"
    return Graph(
        graph.inputs,
        tuple(
            replace(node, name=names[node.name], inputs=tuple(names.get(i, i) for i in node.inputs))
            for node in graph.nodes
        ),
        {names[param]: array for param, array in graph.params.items()},
        {user: names.get(value, value) for user, value in graph.outputs.items()},
    ).edit()
