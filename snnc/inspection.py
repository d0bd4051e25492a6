"""A network as a table: what goes in and comes out, and a row for every node with its shape, parameters and MACs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from .ir import Attr, Graph, Node, roles, to_text
from .sim.cost import macs


@dataclass(frozen=True)
class NodeRow:
    """One node of the graph.

    Attributes:
        arrays: shapes of the arrays that it reads, by role.
        params: elements of these arrays.
        macs: multiply-accumulates per sample; in a spiking graph, its connections.
        origin: the user's own nodes that it came from.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Attr]
    kind: str
    shape: tuple[int, ...]
    arrays: Mapping[str, tuple[int, ...]]
    params: int
    macs: int
    origin: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "name": self.name,
            "op": self.op,
            "inputs": list(self.inputs),
            "attrs": {key: list(value) if isinstance(value, tuple) else value for key, value in self.attrs.items()},
            "kind": self.kind,
            "shape": list(self.shape),
            "arrays": {role: list(shape) for role, shape in self.arrays.items()},
            "params": self.params,
            "macs": self.macs,
            "from": list(self.origin),
        }


@dataclass(frozen=True)
class Inspection:
    """A network as a table.

    Attributes:
        inputs, outputs: shapes without the batch, by the user's names.
        params: elements of all arrays; those of neurons are no parameters of the network, but counted.
        macs: of all nodes, per sample.
        neurons: spiking neurons, 0 in an analog graph.
        text: the exact graph, see snnc.ir.text.
    """

    stage: str
    steps: int
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    params: int
    macs: int
    neurons: int
    nodes: tuple[NodeRow, ...]
    text: str

    @classmethod
    def of(cls, graph: Graph) -> Inspection:
        """The table of a graph of any stage."""
        costs = macs(graph)
        return cls(
            graph.stage.value,
            graph.steps,
            {name: kind.shape for name, kind in graph.inputs.items()},
            {user: graph.type(name).shape for user, name in graph.outputs.items()},
            sum(array.size for array in graph.params.values()),
            sum(costs.values()),
            sum(prod(node.type.shape) for node in graph.nodes if node.op == "lif"),
            tuple(_row(graph, node, costs.get(node.name, 0)) for node in graph.nodes),
            to_text(graph),
        )

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return {
            "stage": self.stage,
            "steps": self.steps,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "params": self.params,
            "macs": self.macs,
            "neurons": self.neurons,
            "nodes": [row.to_json() for row in self.nodes],
        }


def _row(graph: Graph, node: Node, cost: int) -> NodeRow:
    arrays = {role: graph.params[name].shape for role, name in roles(node, graph.params).items()}
    return NodeRow(
        node.name, node.op, graph.values(node), dict(node.attrs), node.type.kind, node.type.shape, arrays,
        sum(map(prod, arrays.values())), cost, node.origin,
    )  # fmt: skip
