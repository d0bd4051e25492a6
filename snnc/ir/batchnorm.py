r"""Folding a batch norm, or any factor and shift per channel, into a neighbour.

    y = s * x + t   with   s = gamma / sqrt(var + epsilon),   t = beta - s * mean

    behind a conv or dense that nobody else reads:   W' = s W,  b' = s b + t
    before a conv without pads or a dense, also through reshapes and pools without pads:   W' = W s,  b' = b + W t
    elsewhere:   a `scale` with factor s and bias t

All three are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .graph import Array, Graph, Node, Shape
from .ops import attr_ints, roles

Arrays = Mapping[str, Array]
"""Params by role."""


def affine(params: Arrays, epsilon: float) -> tuple[Array, Array]:
    """s and t of a batch norm, float64 [C]."""
    gamma, beta, mean, var = (params[role].astype(np.float64) for role in ("gamma", "beta", "mean", "var"))
    s = gamma / np.sqrt(var + epsilon)
    return s, beta - s * mean


def behind(layer: Arrays, s: Array, t: Array) -> dict[str, Array]:
    """Weight and bias of a conv or dense that does s and t to what it makes; one value each per output, or one."""
    weight = layer["weight"].astype(np.float64)
    s, t = np.broadcast_to(s, len(weight)), np.broadcast_to(t, len(weight))
    bias = s * layer["bias"] + t if "bias" in layer else t
    return {"weight": weight * s.reshape(-1, *[1] * (weight.ndim - 1)), "bias": bias}


def before(layer: Arrays, group: int, s: Array, t: Array) -> dict[str, Array]:
    """Weight and bias of a conv or dense that does s and t to what it reads: one value each per input."""
    weight = layer["weight"].astype(np.float64)
    by_row = (np.repeat(v.reshape(group, -1), len(weight) // group, axis=0) for v in (s, t))
    s, t = (v.reshape(*v.shape, *[1] * (weight.ndim - 2)) for v in by_row)
    shift = (weight * t).sum(axis=tuple(range(1, weight.ndim)))
    return {"weight": weight * s, "bias": layer["bias"] + shift if "bias" in layer else shift}


@dataclass(frozen=True)
class Ahead:
    """The conv or dense in front of a value, and what s and t are there: one value each per input."""

    layer: Node
    s: Array
    t: Array


def ahead(node: Node, s: Array, t: Array, reader: Callable[[str], Node | None]) -> Ahead | None:
    """The layer that takes what `node` does, through reshapes and pools; None if there is none.

    Args:
        s: of the shape that `node` makes; t too.
        reader: the one node that reads a value, None if there are more or it is an output.
    """
    here = reader(node.name)
    while here is not None:
        if here.op == "dense":
            return Ahead(here, s, t)
        if here.op == "reshape":
            s, t = s.reshape(here.type.shape), t.reshape(here.type.shape)
        elif here.op not in ("conv", "avgpool") or any(attr_ints(here, "pads")) or not (_even(s) and _even(t)):
            return None
        elif here.op == "conv":
            return Ahead(here, s[:, 0, 0], t[:, 0, 0])
        else:
            s, t = (np.broadcast_to(v[:, :1, :1], here.type.shape) for v in (s, t))
        here = reader(here.name)
    return None


def spread(param: Array, shape: Shape) -> Array:
    """A param that is a scalar, [C] or the whole shape, in the whole shape."""
    if param.ndim == 1 and len(shape) > 1:
        param = param.reshape(-1, *[1] * (len(shape) - 1))
    return np.broadcast_to(param, shape)


def fold(graph: Graph, note: Callable[[str], None]) -> Graph:
    """The graph without any batch norm; `note` is told of those that no neighbour takes."""
    for _ in range(len(graph.nodes)):
        norm = next((n for n in graph.nodes if n.op == "batchnorm"), None)
        if norm is None:
            break
        graph = _fold(graph, norm, note)
    return graph


def _fold(graph: Graph, norm: Node, note: Callable[[str], None]) -> Graph:
    s, t = affine(_params(graph, norm), float(str(norm.attrs["epsilon"])))
    source = graph.values(norm)[0]
    if source in graph and graph[source].op in ("conv", "dense") and _reader(graph, source) is not None:
        layer = graph[source]
        return _with_params(graph, layer, norm, behind(_params(graph, layer), s, t))
    shape = norm.type.shape
    found = ahead(norm, spread(s, shape), spread(t, shape), lambda name: _reader(graph, name))
    if found is not None:
        layer, group = found.layer, int(str(found.layer.attrs.get("group", 1)))
        return _with_params(graph, layer, norm, before(_params(graph, layer), group, found.s, found.t))
    note(f"{norm.at} has no neighbour to fold into: kept as a scale")
    params = {f"{norm.name}.factor": s.astype(np.float32), f"{norm.name}.bias": t.astype(np.float32)}
    made = replace(norm, op="scale", inputs=(source, *params), attrs={})
    return graph.edit([made if n is norm else n for n in graph.nodes], params=params)


def _params(graph: Graph, node: Node) -> dict[str, Array]:
    return {role: graph.params[name] for role, name in roles(node, graph.params).items()}


def _reader(graph: Graph, name: str) -> Node | None:
    readers = graph.users(name)
    return readers[0] if len(readers) == 1 and not graph.is_output(name) else None


def _even(values: Array) -> bool:
    """Whether every channel holds one value."""
    return bool((values == values[:, :1, :1]).all())


def _with_params(graph: Graph, layer: Node, norm: Node, made: Arrays) -> Graph:
    params = {f"{layer.name}.{role}": array.astype(np.float32) for role, array in made.items()}
    origin = (*layer.origin, *norm.origin)
    new = replace(layer, inputs=(graph.values(layer)[0], *params), origin=origin)
    nodes = [new if n is layer else n for n in graph.nodes if n is not norm]
    return graph.edit(nodes, params=params, rename={norm.name: graph.values(norm)[0]})
