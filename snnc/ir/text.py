"""The textual form of a graph, one line per value; `parse(to_text(g), g.arrays())` is `g` again.

    snnc-graph 1
    stage spiking
    steps 16
    input image: analog float32[1,8,8]
    param conv1.weight: float32[8,1,3,3]
    constraint conv1.weight: {"bits":4,"mask":true,"scale":true}
    encode1: current float32[1,8,8] = encode(image) {"code":"direct"}
    conv1: current float32[8,8,8] = conv(encode1, conv1.weight) {...} from ["/conv1/Conv"]
    output logits = dense2

Arrays stay outside (`Graph.arrays`); the teacher is a graph of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np

from snnc.errors import GraphError

from .graph import Array, Attr, Constraint, Graph, Node, Stage, TensorType
from .ops import NAME
from .verify import verify

HEADER = "snnc-graph 1"
_NAME = NAME.pattern
_TYPE = re.compile(r"(analog|current|spikes) (float32)\[((?:\d+(?:,\d+)*)?)\]")
_NODE = re.compile(rf"({_NAME}): (.+?) = (\w+)\(([^()]*)\)(?: (\{{.*?\}}))?(?: from (\[.*\]))?")


def to_text(graph: Graph) -> str:
    """The text of `graph`, without its arrays and its teacher."""
    lines = [HEADER, f"stage {graph.stage}", f"steps {graph.steps}"]
    lines += [f"input {name}: {kind}" for name, kind in graph.inputs.items()]
    for name, array in sorted(graph.params.items()):
        lines.append(f"param {name}: {array.dtype}[{','.join(map(str, array.shape))}]")
    for name, c in sorted(graph.constraints.items()):
        parts = {"bits": c.bits, "mask": c.mask is not None, "scale": c.scale is not None}
        parts |= {} if c.levels is None else {"levels": True}
        lines.append(f"constraint {name}: {_json(parts)}")
    for node in graph.nodes:
        attrs = f" {_json(dict(node.attrs))}" if node.attrs else ""
        origin = f" from {_json(list(node.origin))}" if node.origin else ""
        lines.append(f"{node.name}: {node.type} = {node.op}({', '.join(node.inputs)}){attrs}{origin}")
    lines += [f"output {user} = {name}" for user, name in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def parse(text: str, arrays: Mapping[str, Array], teacher: Graph | None = None) -> Graph:
    """The graph that `text` and `arrays` (see `Graph.arrays`) describe; verified.

    Raises:
        GraphError: the text is malformed (says in which line), or the graph breaks an invariant.
    """
    lines = text.splitlines()
    if not lines or lines[0] != HEADER:
        raise GraphError(f"the text does not begin with '{HEADER}'")
    inputs: dict[str, TensorType] = {}
    outputs: dict[str, str] = {}
    params: dict[str, Array] = {}
    constraints: dict[str, Constraint] = {}
    nodes: list[Node] = []
    stage, steps = Stage.ANALOG, 0
    for number, line in enumerate(lines[1:], 2):
        word, _, rest = line.partition(" ")
        name, _, tail = rest.partition(": ")
        try:
            if word == "stage":
                stage = Stage(rest)
            elif word == "steps":
                steps = int(rest)
            elif word == "input":
                inputs[name] = _type(tail)
            elif word == "param":
                params[name] = _array(arrays, name, tail)
            elif word == "constraint":
                constraints[name] = _constraint(arrays, name, json.loads(tail))
            elif word == "output":
                user, _, value = rest.partition(" = ")
                outputs[user] = value
            else:
                nodes.append(_node(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise GraphError(f"line {number} of the graph text is malformed: {error}", at=line[:200]) from None
    graph = Graph(inputs, tuple(nodes), params, outputs, stage, steps, constraints, teacher)
    verify(graph)
    return graph


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _type(text: str) -> TensorType:
    match = _TYPE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no type")
    kind, dtype, shape = match.groups()
    return TensorType(kind, tuple(int(i) for i in shape.split(",") if i), dtype)  # type: ignore[arg-type]


def _array(arrays: Mapping[str, Array], name: str, declared: str) -> Array:
    if name not in arrays:
        raise ValueError(f"the array '{name}' is missing")
    array = arrays[name]
    if declared != f"{array.dtype}[{','.join(map(str, array.shape))}]":
        raise ValueError(f"declared {declared}, but the array is {array.dtype}{list(array.shape)}")
    return array


def _constraint(arrays: Mapping[str, Array], name: str, parts: dict[str, object]) -> Constraint:
    bits = parts["bits"]
    if bits is not None and (not isinstance(bits, int) or not 1 <= bits <= 24):
        raise ValueError(f"bits={bits}")
    scale = arrays[f"{name}@scale"] if parts["scale"] else None
    mask = arrays[f"{name}@mask"] if parts["mask"] else None
    levels = arrays[f"{name}@levels"] if parts.get("levels") else None
    return Constraint(bits, scale, None if mask is None else mask.astype(np.bool_), levels)


def _node(line: str) -> Node:
    match = _NODE.fullmatch(line)
    if match is None:
        raise ValueError("no node, input, param, constraint or output")
    name, kind, op, inputs, attrs, origin = match.groups()
    given: dict[str, Attr] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(attrs or "{}").items()
    }
    read = tuple(i for i in inputs.split(", ") if i)
    return Node(name, op, read, given, tuple(map(str, json.loads(origin or "[]"))), _type(kind))
