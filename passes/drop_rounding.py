r"""Take the rounding of activations (QuantizeLinear, DequantizeLinear) out from between the layers.

    q = clip(round(x / step) + zero, min, max),   y = f q + b     ~     y = (f / step) x + (b + f zero)

which is x itself where the second undoes the first. A spike count is a rounding of its own, in steps of theta. Where
min stands for 0 the bounds are those of a relu: they become neurons if x has none yet (exporters leave the relu to the
clipping), and bound those that it has. What is lost is half a step, and clipping elsewhere: a trainer mends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from snnc.ir import WIRING, Array, Draft, Graph, Node, Stage, between_layers, roles
from snnc.pipeline import Context, Pass

NEAR = 1e-4
"""Shares of a step that are nothing."""


@dataclass(frozen=True)
class DropRounding(Pass):
    """Remove the rounding of activations between layers."""

    name = "drop-rounding"
    takes = frozenset({Stage.ANALOG})
    rewrites: ClassVar[Mapping[str, str]] = {
        "quantize": "its rounding is dropped, its bounds become those of neurons; a trainer must mend it"
    }

    def run(self, graph: Graph, ctx: Context) -> Graph:
        inside = between_layers(graph)
        mine = [n for n in graph.nodes if n.op == "quantize" and n.name in inside]
        if not mine:
            return graph
        draft = Draft(graph)
        for node in mine:
            _drop(draft, node)
        ctx.note(f"rounding dropped at {', '.join(n.name for n in mine)}: a trainer must mend it")
        return draft.finish()


def _drop(draft: Draft, node: Node) -> None:
    """Let what reads `node` read what it reads, as neurons where its bounds say so, scaled where they must be."""
    graph, own = draft.graph, roles(node, draft.graph.params)
    step, zero = (graph.params[own[role]].astype(np.float64) for role in ("step", "zero"))
    low, high = ((float(str(node.attrs[name])) - zero) * step for name in ("min", "max"))
    source, users = graph.values(node)[0], graph.users(node.name)
    undoes = len(users) == 1 and not graph.is_output(node.name) and _undoes(graph, users[0], step, zero)
    if (np.abs(low) < step * NEAR).all() and (high == high.flat[0]).all():
        bound = {"max": float(high.flat[0])}
        if not _positive(graph, source):
            source = (
                draft.add(users[0], "", "relu", source, attrs=bound)
                if undoes
                else draft.add(node, "relu", "relu", source, attrs=bound)
            )
        elif graph[source].op == "relu" and len(graph.users(source)) == 1 and source not in draft.parts:
            most = min(bound["max"], float(str(graph[source].attrs.get("max", np.inf))))
            draft.add(graph[source], "", "relu", *graph[source].inputs, attrs={"max": most})
    if undoes:
        draft.replace(users[0], source)
    else:
        draft.replace(node, draft.add(node, "units", "scale", source, factor=1 / step, bias=zero))


def _undoes(graph: Graph, user: Node, step: Array, zero: Array) -> bool:
    """Whether `user` makes of q the x that it came from."""
    if user.op != "scale":
        return False
    own = roles(user, graph.params)
    factor, bias = graph.params[own["factor"]], graph.params[own["bias"]] if "bias" in own else np.zeros(())
    try:
        return bool((np.abs(factor / step - 1) < NEAR).all() and (np.abs(bias + factor * zero) < step * NEAR).all())
    except ValueError:  # one is per channel, the other of the whole shape
        return False


def _positive(graph: Graph, name: str) -> bool:
    """Whether the value `name` is neurons, or a pool or wiring of such."""
    if name not in graph:
        return False
    if graph[name].op in (*WIRING, "concat", "avgpool", "maxpool"):
        return all(_positive(graph, value) for value in graph.values(graph[name]))
    return graph[name].op == "relu"
