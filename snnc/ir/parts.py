"""Where a node of a network stands: before, between or behind the layers that hold its weights; what it reads."""

from __future__ import annotations

from collections.abc import Container, Mapping

from .graph import Graph
from .once import once
from .ops import LINEAR, WIRING, roles

LAYERS = ("conv", "local", "dense")
"""The ops that make a layer of a network: weighted sums over several inputs."""


@once
def params_of(graph: Graph) -> Mapping[str, Mapping[str, str]]:
    """By node: its params' roles and names, as `roles` has them."""
    return {node.name: roles(node, graph.params) for node in graph.nodes}


@once
def last_read(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    """By node: the values that no later node reads."""
    last = {name: node.name for node in graph.nodes for name in graph.values(node)}
    return {
        node.name: tuple(name for name in dict.fromkeys(graph.values(node)) if last[name] == node.name)
        for node in graph.nodes
    }


def later_than(graph: Graph, *ops: str) -> frozenset[str]:
    """The nodes that have a node of `ops` anywhere before them."""
    found: set[str] = set()
    for node in graph.nodes:
        if any(name in found or (name in graph and graph[name].op in ops) for name in graph.values(node)):
            found.add(node.name)
    return frozenset(found)


def earlier_than(graph: Graph, *ops: str) -> frozenset[str]:
    """The inputs and nodes that have a node of `ops` anywhere behind them."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in ops or node.name in found:
            found.update(graph.values(node))
    return frozenset(found)


def between_layers(graph: Graph) -> frozenset[str]:
    """The nodes that have a layer before and a layer behind them: where activations can become neurons."""
    return later_than(graph, *LAYERS) & earlier_than(graph, *LAYERS)


def front(graph: Graph) -> frozenset[str]:
    """What the host computes before it hands the input to the neurons: all before the first layers and relus.

    A scale that a relu reads is no such part: it is the synapse of those neurons.
    """
    found = set(graph.inputs)
    for node in graph.nodes:
        synapse = node.op == "scale" and any(user.op == "relu" for user in graph.users(node.name))
        if node.op not in (*LAYERS, "relu") and not synapse and found.issuperset(graph.values(node)):
            found.add(node.name)
    return frozenset(found - set(graph.inputs))


def steady(graph: Graph) -> frozenset[str]:
    """What does not depend on the inputs: constants, and what is made of them."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op != "relu" and found.issuperset(graph.values(node)):
            found.add(node.name)
    return frozenset(found)


def chained(graph: Graph, neurons: Container[str]) -> frozenset[str]:
    """The values between two layers where neurons are missing, were those of `neurons` (names) neurons.

    A layer, or a sum or scale of what layers make, that another layer with neurons behind reads through wiring and
    pools: synapses do not chain. A scale is no layer, as it goes into the one before it, unless more than a change of
    shape lies between (a batch norm behind a concatenation, DenseNet).
    """
    signed: set[str] = set()
    for node in graph.nodes:
        inner = any(name in signed for name in graph.values(node))
        if node.op in LAYERS or (node.op in LINEAR and inner and node.name not in neurons):
            signed.add(node.name)
    driving: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in neurons or node.name in driving:
            driving.update(graph.values(node))
    found: set[str] = set()
    for node in graph.nodes:
        if node.name in driving and (
            node.op in LAYERS or (node.op == "scale" and _joins(graph, graph.values(node)[0]))
        ):
            found |= {name for name in _sources(graph, graph.values(node)[0]) if name in signed}
    return frozenset(name for name in found if name not in neurons)


def _joins(graph: Graph, name: str) -> bool:
    """Whether the value `name` is wiring that does more than change the shape, or a pool."""
    if name not in graph or graph[name].op not in (*WIRING, "concat", "avgpool", "mix"):
        return False
    return graph[name].op not in ("reshape", "transpose") or _joins(graph, graph.values(graph[name])[0])


def _sources(graph: Graph, name: str) -> list[str]:
    """What the value `name` comes from, through wiring and pools."""
    if name in graph and graph[name].op in (*WIRING, "concat", "avgpool", "mix"):
        return [source for value in graph.values(graph[name]) for source in _sources(graph, value)]
    return [name]
