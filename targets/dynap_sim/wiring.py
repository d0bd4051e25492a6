"""From a layer of neurons back to the synapses onto it, and what these read."""

from __future__ import annotations

import math

import numpy as np

from snnc.errors import TargetError
from snnc.ir import WEIGHTED, Array, Graph, Node, attr_ints, roles

from .unchain import neurons_behind, plain

CROSSING = ("conv", "dense", "local", "avgpool")
"""Ops behind which a spike's worth can go into the synapse."""
JOINING = ("add", "reshape", "transpose", "concat")
"""Ops through which currents reach neurons, each of them one."""


def synapses(graph: Graph, name: str, where: Array) -> list[tuple[str, Array]]:
    """The synapse nodes whose currents meet in the value `name`, each with the neurons it drives.

    Args:
        where: in the shape of the value: the (flat) number of the neuron that each of its elements drives.

    Raises:
        TargetError: something stands in between, or before, that no synapse is.
    """
    if name not in graph:
        raise TargetError(f"neurons read the input '{name}' without a synapse", at=name)
    node = graph[name]
    if node.op in JOINING:
        return [s for value, part in _inwards(graph, node, where) for s in synapses(graph, value, part)]
    if node.op not in (*WEIGHTED, "avgpool"):
        raise TargetError(f"'{node.op}' stands between synapses and neurons", at=node.at)
    source = reads(graph, node)[0]
    if not plain(graph, source) and source in graph:
        op = neurons_behind(graph, source)
        if not op:
            raise TargetError("reads neurons and the input together, through wiring", at=node.at)
        before = {"avgpool": "pool-neurons", "maxpool": "replace-max-pool"}.get(op)
        hint = f"run {before} before threshold-layernorm" if before else ""
        raise TargetError(f"reads '{op}', not neurons: synapses do not chain", at=node.at, hint=hint)
    return [(name, where)]


def _inwards(graph: Graph, node: Node, where: Array) -> list[tuple[str, Array]]:
    """The values that a sum or a wire reads, each with the neurons that its elements drive."""
    values = graph.values(node)
    if node.op == "reshape":
        return [(values[0], where.reshape(graph.type(values[0]).shape))]
    if node.op == "transpose":
        return [(values[0], where.transpose(np.argsort(attr_ints(node, "perm"))))]
    if node.op == "concat":
        axis = int(str(node.attrs["axis"]))
        cuts = np.cumsum([graph.type(value).shape[axis] for value in values])[:-1]
        return list(zip(values, np.split(where, cuts, axis=axis), strict=True))
    return [(value, where) for value in values]


def reads(graph: Graph, synapse: Node) -> tuple[str, float]:
    """What synapses read, behind a scale that only says what spikes are worth, and that worth.

    threshold-layernorm leaves such a scale where it cannot go into all that reads it: at sums and pools.
    """
    name = graph.values(synapse)[0]
    if name in graph and graph[name].op == "scale" and synapse.op in CROSSING:
        own = roles(graph[name], graph.params)
        factor = graph.params[own["factor"]]
        if "bias" not in own and factor.size == 1 and (factor > 0 or synapse.op == "avgpool"):
            return graph.values(graph[name])[0], float(factor.reshape(()))
    return name, 1.0


def share(graph: Graph, pool: Node) -> float:
    """The weight of one input of an average pool."""
    return reads(graph, pool)[1] / math.prod(attr_ints(pool, "kernel"))


def hidden(graph: Graph, name: str) -> None:
    """Refuse that anything but neurons reads a current that meets in the value `name`: no host sees currents."""
    for user in graph.users(name):
        if user.op not in (*JOINING, "lif") and not (user.op in CROSSING and reads(graph, user)[0] != name):
            raise TargetError(f"'{user.name}' reads a current, which leaves no chip", at=graph[name].at)
    if graph[name].op in JOINING:
        for value in graph.values(graph[name]):
            hidden(graph, value)
