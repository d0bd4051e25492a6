"""Functions that a model defines itself: inlined, once it is known how much that makes.

25 functions that each call the one before twice fit into 1.6 KB and make 2**25 nodes, which hangs the ONNX checker:
so the nodes are counted, in Python integers, before any is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx.inliner
from onnx import FunctionProto, ModelProto, NodeProto

from snnc.errors import ModelError

from .options import Limits, raising

Key: TypeAlias = tuple[str, str, str]


def inline(model: ModelProto, limits: Limits) -> ModelProto:
    """`model` without functions of its own, itself if it has none.

    Raises:
        ModelError: functions call each other in a circle, too deep, make too many nodes, or cannot be inlined.
    """
    if not model.functions:
        return model
    functions = {_key(function): function for function in model.functions}
    if len(functions) < len(model.functions):
        raise ModelError("two functions of the model have the same name", code="duplicate-name")
    budget = _Budget(functions, limits)
    nodes, size, _ = budget.cost(model.graph.node, ())
    if nodes > limits.nodes or size > limits.file_bytes:
        message = f"inlining the functions of the model makes {nodes} nodes of {size} bytes, more than "
        message += f"{limits.nodes} nodes or {limits.file_bytes} bytes"
        raise ModelError(message, hint="raise the limits nodes or file_bytes", code="function-budget")
    try:
        made = onnx.inliner.inline_local_functions(model)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the functions of the model cannot be inlined: {error}", code="function") from None
    if left := [node.op_type for node in made.graph.node if _call(node) in functions]:
        hint = "export the functions for the opset of the model, or inline them: optimize=True at export"
        raise ModelError(f"functions of the model cannot be inlined: {', '.join(left[:5])}", hint=hint, code="function")
    del made.functions[:]
    return made


@dataclass(frozen=True)
class _Budget:
    """What calls make: nodes, bytes and the depth of calls within calls; counted once per function."""

    functions: dict[Key, FunctionProto]
    limits: Limits
    known: dict[Key, tuple[int, int, int]] = field(default_factory=dict)

    def cost(self, nodes: Iterable[NodeProto], calls: tuple[Key, ...]) -> tuple[int, int, int]:
        """Nodes, bytes and depth after inlining; `calls` are the functions that are being counted."""
        total, size, depth = 0, 0, 0
        for node in nodes:
            graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
            own = self._function(_call(node), calls) if _call(node) in self.functions else (1, node.ByteSize(), 0)
            for found in (own, *(self.cost(graph.node, calls) for graph in graphs)):
                total, size, depth = total + found[0], size + found[1], max(depth, found[2])
        return total, size, depth

    def _function(self, key: Key, calls: tuple[Key, ...]) -> tuple[int, int, int]:
        if key in calls:
            circle = " -> ".join(f"'{name}'" for _, name, _ in (*calls[calls.index(key) :], key))
            raise ModelError(f"functions of the model call each other in a circle: {circle}", code="cycle")
        if key not in self.known and len(calls) < self.limits.nesting:
            nodes, size, depth = self.cost(self.functions[key].node, (*calls, key))
            self.known[key] = nodes, size, depth + 1
        if key not in self.known or len(calls) + self.known[key][2] > self.limits.nesting:
            message = f"functions of the model call each other deeper than {self.limits.nesting}"
            raise ModelError(message, hint=raising("nesting"), code="nesting")
        return self.known[key]


def _key(function: FunctionProto) -> Key:
    return _domain(function.domain), function.name, function.overload


def _call(node: NodeProto) -> Key:
    return _domain(node.domain), node.op_type, node.overload


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
