"""Give every average pool neurons of its own, where it feeds weights.

A pool that is mere wiring multiplies the fan-in of the layer behind it: a 3x3 kernel over 2x2 pools listens to 36
neurons a channel. With neurons behind the pool it listens to 9. On the analog graph a relu behind the mean of
non-negative values is the identity, so the function does not change; threshold-layernorm makes neurons of it. The
pool of a signed sum of activations (rectify makes such) is the sum of their pools, each with neurons of its own. An
interpolation (`mix`) is such a mean too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from snnc.ir import WEIGHTED, WIRING, Attr, Draft, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass

MOST = 10_000
"""Pools of sums that are taken apart before something is wrong."""


@dataclass(frozen=True)
class PoolNeurons(Pass):
    """Put neurons behind every average pool of activations that a weighted layer with neurons reads."""

    name = "pool-neurons"
    takes = frozenset({Stage.ANALOG})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        for _ in range(MOST):
            pool = next((n for n in graph.nodes if _of_sum(graph, n) and _feeds_neurons(graph, n.name)), None)
            if pool is None:
                break
            graph = _into_sum(graph, pool)
        graph = _with_mixes(graph)
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


def _with_mixes(graph: Graph) -> Graph:
    """Every `mix` of activations with weights that are not negative (interpolation) as a 1x1 convolution and neurons.

    The axis that is mixed becomes the channels of an image of height 1, and goes back behind the neurons.
    """
    draft = Draft(graph)
    for node in graph.nodes:
        weight = graph.params[roles(node, graph.params)["weight"]] if node.op == "mix" else np.zeros(0)
        if (
            node.op != "mix"
            or (weight < 0).any()
            or not _positive(graph, node.name)
            or not _feeds_neurons(graph, node.name)
        ):
            continue
        axis, shape = int(str(node.attrs["axis"])), node.type.shape
        rest = tuple(i for i in range(len(shape)) if i != axis)
        others = tuple(shape[i] for i in rest)
        attrs: dict[str, Attr] = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "group": 1}
        turned = draft.add(node, "turned", "transpose", graph.values(node)[0], attrs={"perm": (axis, *rest)})
        flat = {"shape": (weight.shape[1], 1, math.prod(others))}
        image = draft.add(node, "image", "reshape", turned, attrs=flat)
        mixed = draft.add(node, "mixed", "conv", image, attrs=attrs, weight=weight[:, :, None, None])
        neurons = draft.add(node, "neurons", "relu", mixed)
        unfolded = draft.add(node, "unfolded", "reshape", neurons, attrs={"shape": (shape[axis], *others)})
        back = tuple(int(i) for i in np.argsort((axis, *rest)))
        draft.replace(node, draft.add(node, "back", "transpose", unfolded, attrs={"perm": back}))
    return draft.finish() if draft.parts else graph


def _of_sum(graph: Graph, pool: Node) -> bool:
    """Whether the pool reads a sum of activations, each with a sign and a size: scales without bias."""
    source = graph.values(pool)[0] if pool.op == "avgpool" else ""
    return source in graph and graph[source].op in ("add", "scale") and _signed(graph, source)


def _signed(graph: Graph, name: str) -> bool:
    if name not in graph:
        return False
    node = graph[name]
    if node.op == "add":
        return all(_signed(graph, value) for value in graph.values(node))
    own = roles(node, graph.params)
    if node.op == "scale" and "bias" not in own and graph.params[own["factor"]].ndim < 2:
        return _signed(graph, graph.values(node)[0])
    return node.op == "relu"


def _into_sum(graph: Graph, pool: Node) -> Graph:
    """pool(a + b) -> pool(a) + pool(b), and pool(f a) -> f pool(a)."""
    before, draft = graph[graph.values(pool)[0]], Draft(graph)
    if before.op == "add":
        parts = [
            draft.add(pool, f"of{i + 1}", "avgpool", v, attrs=pool.attrs) for i, v in enumerate(graph.values(before))
        ]
        draft.replace(pool, draft.add(pool, "sum", "add", *parts))
    else:
        inner = draft.add(pool, "of", "avgpool", graph.values(before)[0], attrs=pool.attrs)
        factor = graph.params[roles(before, graph.params)["factor"]]
        draft.replace(pool, draft.add(pool, "signed", "scale", inner, factor=factor))
    return draft.finish()


def _of_activations(graph: Graph, pool: Node) -> bool:
    """Whether the pool reads non-negative activations, through wiring at most."""
    name = graph.values(pool)[0]
    return _positive(graph, name)


def _positive(graph: Graph, name: str) -> bool:
    if name in graph and graph[name].op in (*WIRING, "concat", "mix"):
        return all(_positive(graph, value) for value in graph.values(graph[name]))
    return name in graph and graph[name].op == "relu"


def _feeds_neurons(graph: Graph, name: str) -> bool:
    """Whether a weighted layer reads `name` and has neurons behind it; the read-out needs none."""
    for user in graph.users(name):
        if user.op in (*WIRING, "concat", "add") and _feeds_neurons(graph, user.name):
            return True
        if user.op in WEIGHTED and graph.feeds(user.name, "relu"):
            return True
    return False
