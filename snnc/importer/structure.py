"""What must hold of a model before anything is computed with it: versions, names, nesting, makers, order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import networkx as nx
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from snnc.errors import ModelError, printable

from .options import Limits, raising
from .tensors import is_stub

OLDEST = 7
"""The first opset with the broadcasting rules of today."""

STANDARD = ("", "ai.onnx")


def keep_outputs(model: ModelProto, names: Sequence[str]) -> None:
    """Forget all outputs but those of `names`, where any are named.

    Raises:
        ModelError: the model has no such output.
    """
    known = {value.name: value for value in model.graph.output}
    if missing := [name for name in names if name not in known]:
        message = f"the model has no output '{missing[0]}'"
        raise ModelError(message, hint=f"one of {', '.join(known)}", code="no-output")
    if names:
        kept = [known[name] for name in dict.fromkeys(names)]
        del model.graph.output[:]
        model.graph.output.extend(kept)


def check_structure(model: ModelProto, limits: Limits) -> None:
    """Refuse what is never supported, before the checker or the inliner runs, which nesting can hang.

    Names of nodes lose their control characters here: they only serve as names of places in reports.

    Raises:
        ModelError: foreign versions, training, sparse weights, or more nodes, nesting or name than the limits allow.
    """
    _check_versions(model)
    if model.training_info:
        raise ModelError("the model holds a training graph", hint="export it for inference", code="training")
    _check_names(_graph_names(model.graph), limits)
    seen = sum(_check_nodes(nodes, limits, 1) for nodes in (model.graph.node, *(f.node for f in model.functions)))
    if seen > limits.nodes:
        message = f"the model has {seen} nodes, more than {limits.nodes}"
        raise ModelError(message, hint=raising("nodes"), code="too-many-nodes")
    for function in model.functions:
        texts = [function.name, function.domain, *function.input, *function.output, *function.attribute]
        _check_names(texts, limits)
    _check_kinds(model.graph)


def _check_versions(model: ModelProto) -> None:
    if model.ir_version > onnx.IR_VERSION:
        message = f"the model is of IR version {model.ir_version}; the installed onnx {onnx.__version__} reads up to "
        raise ModelError(f"{message}{onnx.IR_VERSION}", hint="a newer onnx, or an older export", code="ir-version")
    newest = onnx.defs.onnx_opset_version()
    versions = sorted({e.version for e in model.opset_import if e.domain in STANDARD})
    if len(versions) != 1 or not OLDEST <= versions[0] <= newest:
        found = " and ".join(map(str, versions)) or "none"
        hint = "onnx.version_converter.convert_version, or another opset at export"
        message = f"the model uses opset {found}; {OLDEST} to {newest} are supported"
        raise ModelError(message, hint=hint, code="opset")


def _graph_names(graph: GraphProto) -> Iterator[object]:
    yield graph.name
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (d.dim_param for d in value.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in graph.initializer)


def _check_names(names: Iterable[object], limits: Limits) -> None:
    """Texts, none longer than the limit; in bytes, so that 1 KiB is 1 KiB."""
    for name in names:
        if not isinstance(name, str):  # what protobuf gives for bytes that are no UTF-8
            raise ModelError(f"a name is no UTF-8 text: {name!r:.80}", code="name-encoding")
        if len(name) > limits.name_bytes or len(name.encode("utf-8", "replace")) > limits.name_bytes:
            message = f"a name of {len(name)} characters, '{name[:40]}...', is longer than {limits.name_bytes} bytes"
            raise ModelError(message, hint=raising("name_bytes"), code="name-length")


def _check_nodes(nodes: Iterable[NodeProto], limits: Limits, depth: int) -> int:
    """How many nodes there are, those of graphs in attributes too."""
    if depth > limits.nesting:
        message = f"graphs are nested deeper than {limits.nesting}"
        raise ModelError(message, hint=raising("nesting"), code="nesting")
    seen = 0
    for node in nodes:
        texts = [node.name, node.op_type, node.domain, node.overload, *node.input, *node.output]
        _check_names([*texts, *(a.name for a in node.attribute)], limits)
        if not (node.op_type.isprintable() and node.domain.isprintable()):
            raise ModelError(f"an operator is named '{node.op_type}'", at=node.name, code="operator-name")
        if not node.name.isprintable() or not "".join(node.output).isprintable():
            node.name = printable(node.name or "".join(node.output[:1]))
        seen += 1
        for graph in _graphs(node):
            if graph.sparse_initializer:
                raise ModelError("the model holds sparse weights", hint="store them dense", code="sparse")
            _check_names(_graph_names(graph), limits)
            seen += _check_nodes(graph.node, limits, depth + 1)
    return seen


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            message, hint = f"{node.op_type} holds sparse values", "store them dense"
            raise ModelError(message, at=node.name, hint=hint, code="sparse")
        if attribute.type in (AttributeProto.TYPE_PROTO, AttributeProto.TYPE_PROTOS):
            raise ModelError(f"{node.op_type} works on optional or sequence values", at=node.name, code="value-kind")
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_kinds(graph: GraphProto) -> None:
    if graph.sparse_initializer:
        raise ModelError("the model holds sparse weights", hint="store them dense", code="sparse")
    for value in (*graph.input, *graph.output):
        kind = value.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            what = kind.removesuffix("_type").replace("_", " ")
            raise ModelError(f"'{value.name}' is a {what}, not a tensor", code="value-kind")


def settle(model: ModelProto) -> tuple[str, ...]:
    """Bring the nodes into runnable order, keeping that of the file where it can be; a note if it was another.

    Raises:
        ModelError: a value is made twice or never, or the nodes read each other in a circle.
    """
    graph = model.graph
    given = [value.name for value in graph.input]
    stored = [tensor.name for tensor in graph.initializer]
    _refuse_twice(given, "input")
    _refuse_twice(stored, "initializer")
    _refuse_twice([value.name for value in graph.output], "output")
    known = {*given, *stored}
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers or name in known:
                raise ModelError(f"'{name}' is made twice", at=f"ONNX node '{node.name}'", code="duplicate-name")
            makers[name] = index
    _refuse_unmade(graph, {*known, *makers})
    reads = [[makers[name] for name in reads_of(node) if name in makers] for node in graph.node]
    if all(before < index for index, found in enumerate(reads) for before in found):
        return ()
    nodes = [graph.node[index] for index in _order(reads, graph)]
    del graph.node[:]
    graph.node.extend(nodes)
    return ("the nodes of the model were not in runnable order and have been sorted",)


def reads_of(node: NodeProto) -> set[str]:
    """Names that a node reads; those of its subgraphs too, whose own names do no harm here."""
    names = set(filter(None, node.input))
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names |= {value.name for value in graph.output}
            for inner in graph.node:
                names |= reads_of(inner)
    return names


def _refuse_twice(names: list[str], what: str) -> None:
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        shown = ", ".join(f"'{name}'" for name in twice[:5])
        raise ModelError(f"more than one {what} is named {shown}", code="duplicate-name")


def _refuse_unmade(graph: GraphProto, known: set[str]) -> None:
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                message = f"'{name}' is read but nothing makes it"
                raise ModelError(message, at=f"ONNX node '{node.name}' ({node.op_type})", code="unknown-value")
    if unmade := [value.name for value in graph.output if value.name not in known]:
        raise ModelError(f"the output '{unmade[0]}' is made by nothing", code="unknown-value")


def _order(reads: list[list[int]], graph: GraphProto) -> list[int]:
    flow: nx.DiGraph[int] = nx.DiGraph()
    flow.add_nodes_from(range(len(reads)))
    flow.add_edges_from((before, index) for index, found in enumerate(reads) for before in found)
    try:
        return list(nx.lexicographical_topological_sort(flow))
    except nx.NetworkXUnfeasible:
        edges = nx.find_cycle(flow)[:8]
        circle = " -> ".join(f"'{graph.node[a].name or graph.node[a].op_type}'" for a, _ in edges)
        raise ModelError(f"nodes read each other in a circle: {circle}", code="cycle") from None


def check_standard(model: ModelProto) -> None:
    """Hold the model to the ONNX standard; weights that were taken out count as inputs.

    Foreign operators whose domain is not imported may pass: each is refused by its own name later.

    Raises:
        ModelError: it breaks it.
    """
    skeleton = ModelProto()
    skeleton.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    stubs = [tensor for tensor in model.graph.initializer if is_stub(tensor)]
    rest = [tensor for tensor in model.graph.initializer if not is_stub(tensor)]
    del skeleton.graph.initializer[:]
    skeleton.graph.initializer.extend(rest)
    skeleton.graph.input.extend(_as_input(tensor) for tensor in stubs if tensor.name not in inputs)
    imported = {entry.domain for entry in skeleton.opset_import}
    foreign = {node.domain for node in skeleton.graph.node if node.domain and not node.domain.startswith("ai.onnx")}
    skeleton.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(foreign - imported))
    try:
        onnx.checker.check_model(skeleton)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"the model breaks the ONNX standard: {str(error).strip()}", code="standard") from None


def _as_input(tensor: onnx.TensorProto) -> ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, [int(d) for d in tensor.dims])
