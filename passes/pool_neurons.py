"""Give every average pool neurons of its own, where it feeds weights.

A pool that is mere wiring multiplies the fan-in of the layer behind it: a 3x3 kernel over 2x2 pools listens to 36
neurons a channel. With neurons behind the pool it listens to 9. On the analog graph a relu behind the mean of
non-negative values is the identity, so the function does not change; threshold-layernorm makes neurons of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from snnc.ir import WEIGHTED, Graph, Node, Stage
from snnc.pipeline import Context, Pass


@dataclass(frozen=True)
class PoolNeurons(Pass):
    """Put neurons behind every average pool of activations that a weighted layer with neurons reads."""

    name = "pool-neurons"
    takes = frozenset({Stage.ANALOG})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        neurons: dict[str, Node] = {}
        for pool in graph.nodes:
            if pool.op == "avgpool" and _of_activations(graph, pool) and _feeds_neurons(graph, pool.name):
                name = graph.fresh(f"{pool.name}.neurons")
                neurons[pool.name] = Node(name, "relu", (pool.name,), origin=pool.origin)
        if not neurons:
            return graph
        turn = {pool: node.name for pool, node in neurons.items()}
        nodes = [replace(n, inputs=tuple(turn.get(i, i) for i in n.inputs)) for n in graph.nodes]
        outputs = {user: turn.get(name, name) for user, name in graph.outputs.items()}
        return graph.edit([*nodes, *neurons.values()], outputs=outputs)


def _of_activations(graph: Graph, pool: Node) -> bool:
    """Whether the pool reads non-negative activations, through wiring at most."""
    name = graph.values(pool)[0]
    while name in graph and graph[name].op == "reshape":
        name = graph.values(graph[name])[0]
    return name in graph and graph[name].op == "relu"


def _feeds_neurons(graph: Graph, name: str) -> bool:
    """Whether a weighted layer reads `name` and has neurons behind it; the read-out needs none."""
    for user in graph.users(name):
        if user.op == "reshape" and _feeds_neurons(graph, user.name):
            return True
        if user.op in WEIGHTED and graph.feeds(user.name, "relu"):
            return True
    return False
