r"""Put neurons between two layers that follow each other without an activation, exactly.

    x = relu(x) - relu(-x)

Synapses do not chain on a chip: what is weighted twice needs neurons in between, one for each sign where x is what a
layer made. Transposed convolutions before a concatenation (U-Net) and linear bottlenecks (MobileNetV2) are such layers.
The first relu takes the name of x, so that its neurons learn from the teacher's x (a trainer cuts it at 0); the other
reads the same weights through a scale of -1 and so learns with it. Run it behind the passes that make relus.
"""

from __future__ import annotations

from dataclasses import dataclass

from snnc.ir import OFF, Draft, Graph, Node, Stage, chained
from snnc.pipeline import Context, Pass


@dataclass(frozen=True)
class SeparateLayers(Pass):
    """Put a pair of neurons, one for each sign, between layers that have none between them; exact."""

    name = "separate-layers"
    takes = frozenset({Stage.ANALOG})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        missing = chained(graph, {n.name for n in graph.nodes if n.op == "relu"})
        if not missing:
            return graph
        draft = Draft(graph)
        for node in graph.nodes:
            if node.name in missing:
                _separate(draft, node)
        ctx.note(f"no activation behind {', '.join(sorted(missing))}: neurons for each sign were put there")
        return draft.finish()


def _separate(draft: Draft, node: Node) -> None:
    """Behind `node`, which gives its name to the first relu."""
    made = draft.add(node, "linear", node.op, *node.inputs, attrs=node.attrs)
    minus = draft.add(node, "minus", "scale", made, factor=-1.0)
    signed = draft.add(node, "signed", "scale", draft.add(node, OFF, "relu", minus), factor=-1.0)
    draft.replace(node, draft.add(node, "both", "add", draft.add(node, "", "relu", made), signed))
