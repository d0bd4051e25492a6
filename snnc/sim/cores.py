"""Which neurons share a core before anything is placed, and the weight steps that they count in.

The neurons of one layer fill cores in order: every layer begins a new core, its channels follow each other, and a
channel whose neurons (positions) do not fit whole begins a new core too. Of p positions max(1, core // p) channels
share a core; a channel of more positions than a core has neurons gets ceil(p / core) cores of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from snnc.ir import LAYERS, Array, Graph, Node, Shape, roles

from .reference import KERNELS, per_channel

CORE = 256
"""Neurons of a core of DYNAP-SE and DYNAP-SE2."""


def channels_per_core(shape: Shape, core: int) -> int:
    """Channels of a layer of this shape that one core holds; 1 where a channel needs several cores."""
    return max(1, core // math.prod(shape[1:]))


def filled(shape: Shape, core: int) -> Array:
    """The number of the core of every neuron of a layer, from 0, in the layer's shape."""
    positions = math.prod(shape[1:])
    channel = np.arange(shape[0])[:, None] // channels_per_core(shape, core)
    within = np.arange(positions)[None] // core
    return np.asarray((channel * (-(-positions // core)) + within).reshape(shape), np.int64)


def meeting(graph: Graph, nodes: Sequence[Node]) -> list[list[Node]]:
    """Synapse nodes, in the order given, those together whose currents are added up before they reach neurons."""
    group = {node.name: [node] for node in nodes}
    for node in graph.nodes:
        if node.op == "add" and node.type.kind == "current":
            joined = [n for n in nodes if n.name in _sources(graph, node.name)]
            together = [n for n in nodes if any(n in group[one.name] for one in joined)]
            group |= {n.name: together for n in together}
    found: list[list[Node]] = []
    for node in nodes:
        if group[node.name] not in found:
            found.append(group[node.name])
    return found


def _sources(graph: Graph, name: str) -> set[str]:
    """The nodes whose currents are added up and put in order to make the current `name`."""
    if name not in graph:
        return set()
    if graph[name].op not in ("add", "reshape", "transpose", "concat"):
        return {name}
    return set[str]().union(*(_sources(graph, value) for value in graph.values(graph[name])))


def weight_steps(graph: Graph, name: str) -> Array | None:
    """The weight step of every neuron that the current `name` drives, in its shape; None where weights are free.

    Of several layers that meet there, that of the first one with levels.
    """
    if name not in graph:
        return None
    node = graph[name]
    if node.op in LAYERS:
        constraint = graph.constraints.get(roles(node, graph.params)["weight"])
        if constraint is None or constraint.scale is None:
            return None
        rows = np.broadcast_to(constraint.scale.reshape(-1), node.type.shape[:1])
        return np.array(np.broadcast_to(per_channel(rows, len(node.type.shape)), node.type.shape), np.float32)
    parts = [weight_steps(graph, value) for value in graph.values(node)]
    known = [part for part in parts if part is not None]
    if node.op == "add":
        return known[0] if known else None
    if node.op in ("reshape", "transpose", "concat") and known and len(known) == len(parts):
        return np.asarray(KERNELS[node.op](node, [part[None] for part in known], {})[0])
    return None
