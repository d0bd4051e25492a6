"""The params that learn, and the unit that each of them is measured in."""

from __future__ import annotations

import math

import numpy as np

from snnc.ir import WEIGHTED, Graph, Node, roles

WIDE = 64
"""Inputs of a neuron up to which the learning rate is the same."""


def weights_of(graph: Graph) -> dict[str, float]:
    """The trainable params and the unit that each is measured in: weights and biases of all weighted layers.

    In units of theta a layer's weights turn rates into rates, whatever the scale of its activations; in units of
    T * theta the first layer's weights turn inputs into rates (events of a stream are as spikes are), in units of 1/T
    the read-out turns rates into scores.
    Adam moves all n weights of a neuron by the learning rate, and so their sum by n times it: beyond `WIDE` inputs
    the unit shrinks as 1/n (as in maximal update parametrization, arXiv 2203.03466). A learning rate in these units
    suits every layer.
    """
    found: dict[str, float] = {}
    for node in graph.nodes:
        if node.op in WEIGHTED and node.type.kind == "current":
            unit = _unit(graph, node.name)
            for role, name in roles(node, graph.params).items():
                first = graph.steps if _reads_input(graph, node.name) else 1
                found[name] = unit if role == "bias" else unit * first * rate_share(graph, node)
    return found


def rate_share(graph: Graph, node: Node) -> float:
    """The share of the learning rate that the weights of `node` get: 1 up to `WIDE` inputs a neuron, then as 1/n."""
    return min(1.0, WIDE / max(fan_in(graph, node), 1))


def fan_in(graph: Graph, node: Node) -> int:
    """The most inputs that a neuron behind `node` has, connections that must stay absent left out; 1 of a scale."""
    weight = roles(node, graph.params).get("weight")
    if weight is None:
        return 1
    constraint = graph.constraints.get(weight)
    kept = graph.params[weight] if constraint is None or constraint.mask is None else constraint.mask
    neurons = kept.shape[:3] if node.op == "local" else kept.shape[:1]
    return int(np.count_nonzero(kept.reshape(math.prod(neurons), -1), axis=1).max())


def _unit(graph: Graph, name: str) -> float:
    """The mean threshold of the neurons that the value `name` drives, or 1/T for the read-out."""
    for user in graph.users(name):
        if user.op == "lif":
            return float(graph.params[roles(user, graph.params)["theta"]].mean())
        if user.op != "decode":
            return _unit(graph, user.name)
    return 1.0 / graph.steps


def _reads_input(graph: Graph, name: str) -> bool:
    """Whether the value `name` comes from the encoded input, no stream of events, without neurons between."""
    if name in graph.inputs or graph[name].op in ("lif", "encode"):
        return name in graph and graph[name].attrs.get("code", "events") != "events"
    return any(_reads_input(graph, n) for n in graph.values(graph[name]))
