"""A graph under reconstruction: some nodes become several, and what read them reads what replaces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from .graph import Array, Attr, Constraint, Graph, Node

OFF = "off"
"""Suffix of neurons that stand for what a value is below 0: NAME.off for max(-NAME, 0); NAME is for max(NAME, 0)."""


def stands_for(node: Node, teacher: Graph) -> tuple[str, float] | None:
    """The value of `teacher` that a layer of neurons stands for, and its sign: max(sign * value, 0).

    That of the same name and shape; of NAME for NAME.off, negative. None where the teacher has neither.
    """
    for name, sign in ((node.name, 1.0), (node.name.removesuffix(f".{OFF}"), -1.0)):
        if name in teacher and teacher[name].type.shape == node.type.shape:
            return name, sign
    return None


@dataclass
class Draft:
    """The parts that stand for nodes of `graph`, collected one after the other."""

    graph: Graph
    parts: dict[str, list[Node]] = field(default_factory=dict)
    params: dict[str, Array] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    _turn: dict[str, str] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def add(
        self,
        of: Node,
        suffix: str,
        op: str,
        *values: str,
        attrs: Mapping[str, Attr] | None = None,
        **params: npt.ArrayLike,
    ) -> str:
        """Add a node that stands for a part of `of`, under its name and a suffix (none: its own name).

        Returns:
            The name of the new node.
        """
        name = f"{of.name}.{suffix}" if suffix else of.name
        while suffix and (name in self._taken or self.graph.fresh(name) != name):
            name += "_"
        self._taken.add(name)
        own = {f"{name}.{role}": np.asarray(value, np.float32) for role, value in params.items()}
        self.params |= own
        self.parts.setdefault(of.name, []).append(Node(name, op, (*values, *own), attrs or {}, of.origin))
        return name

    def replace(self, old: Node, result: str) -> None:
        """Let everything that reads `old`, but the parts of `old` themselves, read `result`."""
        self._turn[old.name] = result

    def finish(self) -> Graph:
        """The graph with all replacements made."""
        nodes: list[Node] = []
        for node in self.graph.nodes:
            parts = self.parts.get(node.name, [])
            own = {part.name for part in parts}
            for part in parts or [node]:
                inputs = tuple(i if i in own else self._now(i) for i in part.inputs)
                nodes.append(replace(part, inputs=inputs))
        outputs = {user: self._now(name) for user, name in self.graph.outputs.items()}
        return self.graph.edit(nodes, params=self.params, outputs=outputs, constraints=self.constraints)

    def _now(self, name: str) -> str:
        """What is read in the end instead of the value `name`."""
        while self._turn.get(name, name) != name:
            name = self._turn[name]
        return name
