"""Where a node of an analog network stands: before, between or behind the layers that hold its weights."""

from __future__ import annotations

from .graph import Graph

LAYERS = ("conv", "local", "dense")
"""The ops that make a layer of a network: weighted sums over several inputs."""


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
