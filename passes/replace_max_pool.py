"""Replace every max pool by an average pool over the same window, followed by neurons of its own.

A maximum over spike trains is no synapse: it takes a counter for each input, which few chips have (without this pass
threshold-layernorm keeps max pools that read neurons, exactly). The average is one, but smaller than the maximum, so it
is an approximation that a trainer has to mend: behind the pool stands a relu with the max pool's name, which becomes a
layer of neurons whose threshold fits the average, and whose teacher is the max pool. A pool of the raw input stays: it
is the host's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from snnc.ir import Graph, Node, Stage, front
from snnc.pipeline import Context, Pass


@dataclass(frozen=True)
class ReplaceMaxPool(Pass):
    """Turn max pools into average pools."""

    name = "replace-max-pool"
    takes = frozenset({Stage.ANALOG})
    rewrites: ClassVar[Mapping[str, str]] = {
        "maxpool": "becomes an average pool with neurons of its own; a trainer must mend it"
    }

    def run(self, graph: Graph, ctx: Context) -> Graph:
        before = front(graph)
        if not (pools := [n for n in graph.nodes if n.op == "maxpool" and n.name not in before]):
            return graph
        nodes: list[Node] = []
        for node in graph.nodes:
            if node in pools:
                ctx.note(f"{node.at} became an average pool: its values shrink, a trainer must mend it")
                average = graph.fresh(f"{node.name}.average")
                nodes.append(replace(node, name=average, op="avgpool").with_attrs(count_include_pad=0))
                node = Node(node.name, "relu", (average,), origin=node.origin)
            nodes.append(node)
        return graph.edit(nodes)
