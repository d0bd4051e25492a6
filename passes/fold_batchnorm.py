r"""Fold every batch norm into a neighbour.

    y = s * x + t   with   s = gamma / sqrt(var + epsilon),   t = beta - s * mean

    behind a conv or dense that nobody else reads:   W' = s W,  b' = s b + t
    before a conv without pads or a dense, also through reshapes and pools without pads:   W' = W s,  b' = b + W t
    elsewhere:   a `scale` with factor s and bias t

All three are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from snnc.ir import Array, Graph, Node, Stage, attr_ints, roles
from snnc.pipeline import Context, Pass


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Remove every batch norm, exactly."""

    name = "fold-batchnorm"
    takes = frozenset({Stage.ANALOG})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        for _ in range(len(graph.nodes)):
            norm = next((n for n in graph.nodes if n.op == "batchnorm"), None)
            if norm is None:
                break
            graph = _fold(graph, norm, ctx)
        return graph


def _fold(graph: Graph, norm: Node, ctx: Context) -> Graph:
    s, t = _affine(graph, norm)
    before = graph.values(norm)[0]
    if before in graph and graph[before].op in ("conv", "dense") and _sole_reader(graph, before):
        return _backward(graph, graph[before], norm, s, t)
    if (forward := _forward(graph, norm, s, t)) is not None:
        return forward
    ctx.note(f"{norm.at} has no neighbour to fold into: kept as a scale")
    params = {f"{norm.name}.factor": s.astype(np.float32), f"{norm.name}.bias": t.astype(np.float32)}
    made = replace(norm, op="scale", inputs=(before, *params), attrs={})
    return graph.edit([made if n is norm else n for n in graph.nodes], params=params)


def _affine(graph: Graph, norm: Node) -> tuple[Array, Array]:
    """s and t, float64 [C]."""
    gamma, beta, mean, var = (graph.params[n].astype(np.float64) for n in roles(norm, graph.params).values())
    s = gamma / np.sqrt(var + float(str(norm.attrs["epsilon"])))
    return s, beta - s * mean


def _sole_reader(graph: Graph, name: str) -> bool:
    return len(graph.users(name)) == 1 and not graph.is_output(name)


def _backward(graph: Graph, layer: Node, norm: Node, s: Array, t: Array) -> Graph:
    own = roles(layer, graph.params)
    weight = graph.params[own["weight"]] * s.reshape(-1, *[1] * (graph.params[own["weight"]].ndim - 1))
    bias = s * graph.params[own["bias"]] + t if "bias" in own else t
    return _with_params(graph, layer, norm, weight, bias)


def _forward(graph: Graph, norm: Node, s: Array, t: Array) -> Graph | None:
    """Into the conv or dense that alone reads the batch norm, through reshapes and pools; None if there is none."""
    shape = norm.type.shape
    s, t = (np.broadcast_to(v.reshape(-1, *[1] * (len(shape) - 1)), shape) for v in (s, t))
    here = norm
    while _sole_reader(graph, here.name):
        here = graph.users(here.name)[0]
        if here.op == "dense":
            return _into(graph, here, norm, s, t)
        if here.op == "reshape":
            s, t = s.reshape(here.type.shape), t.reshape(here.type.shape)
            continue
        if here.op not in ("conv", "avgpool") or any(attr_ints(here, "pads")) or not (_even(s) and _even(t)):
            return None
        if here.op == "conv":
            return _into(graph, here, norm, s[:, 0, 0], t[:, 0, 0])
        s, t = (np.broadcast_to(v[:, :1, :1], here.type.shape) for v in (s, t))
    return None


def _even(values: Array) -> bool:
    """Whether every channel holds one value."""
    return bool((values == values[:, :1, :1]).all())


def _into(graph: Graph, layer: Node, norm: Node, s: Array, t: Array) -> Graph:
    """Scale a layer's weights by input: s and t have one value per input channel or feature."""
    own = roles(layer, graph.params)
    weight = graph.params[own["weight"]].astype(np.float64)
    group = int(str(layer.attrs.get("group", 1)))
    by_row = (np.repeat(v.reshape(group, -1), len(weight) // group, axis=0) for v in (s, t))
    s, t = (v.reshape(*v.shape, *[1] * (weight.ndim - 2)) for v in by_row)
    shift = (weight * t).sum(axis=tuple(range(1, weight.ndim)))
    bias = graph.params[own["bias"]] + shift if "bias" in own else shift
    return _with_params(graph, layer, norm, weight * s, bias)


def _with_params(graph: Graph, layer: Node, norm: Node, weight: Array, bias: Array) -> Graph:
    params = {f"{layer.name}.weight": weight.astype(np.float32), f"{layer.name}.bias": bias.astype(np.float32)}
    origin = (*layer.origin, *norm.origin)
    made = replace(layer, inputs=(graph.values(layer)[0], *params), origin=origin)
    nodes = [made if n is layer else n for n in graph.nodes if n is not norm]
    return graph.edit(nodes, params=params, rename={norm.name: graph.values(norm)[0]})
