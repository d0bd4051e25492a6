"""What spikes are worth, and other factors, moved into the weights that read them: the same function, fewer nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from snnc.ir import LAYERS, WEIGHTED, WIRING, Array, Constraint, Graph, Node, Shape, roles

from .cost import first_role
from .reference import KERNELS
from .reference import per_channel as by_channel


def spike_worths(graph: Graph, name: str, worth: Mapping[str, float | Array]) -> Array | None:
    """What one spike is worth at every element of the value `name` of an analog graph, were its spikes led there.

    None unless they come from neurons (by name in `worth`, one [] or one for each channel [C]) through wiring,
    concatenations and max pools, each of which sees windows of one worth only: their largest count is then the largest
    value.
    """
    if name in worth:
        return _field(worth[name], graph.type(name).shape)
    if name not in graph or graph[name].op not in (*WIRING, "concat", "maxpool"):
        return None
    node = graph[name]
    parts = [part for value in graph.values(node) if (part := spike_worths(graph, value, worth)) is not None]
    if len(parts) < len(graph.values(node)):
        return None
    if node.op != "maxpool":
        return np.asarray(KERNELS[node.op](node, [part[None] for part in parts], {})[0])
    through = _by_channel(parts[0])
    return None if through is None else np.array(np.broadcast_to(through[:, None, None], node.type.shape))


def absorb_worths(graph: Graph) -> Graph:
    """Multiply what spikes are worth into the weights that read them; sums and outputs go on reading a worth."""
    nodes = {n.name: n for n in graph.nodes}
    neurons = {n.name for n in graph.nodes if n.op == "lif" or (n.op == "maxpool" and n.type.kind == "spikes")}
    params: dict[str, Array] = {}
    constraints: dict[str, Constraint] = {}
    for worth in graph.nodes:
        own = roles(worth, graph.params)
        if worth.op != "scale" or worth.inputs[0] not in neurons or "bias" in own:
            continue
        field = _field(graph.params[own["factor"]], worth.type.shape)
        for user in graph.users(worth.name):
            factors = _factors(graph, worth.name, field, user)
            if factors is None:
                continue
            direct = tuple(worth.inputs[0] if i == worth.name else i for i in nodes[user.name].inputs)
            nodes[user.name] = replace(nodes[user.name], inputs=direct)
            for layer, factor in factors:
                name = _own_param(graph, layer)
                old = roles(layer, graph.params)[first_role(layer)]
                before = constraints.get(name, graph.constraints.get(old, Constraint()))
                params[name], after = before.times(params.get(name, graph.params[old]), factor)
                constraints[name] = after or Constraint(mask=before.mask)
                inputs = tuple(name if i == old else i for i in nodes[layer.name].inputs)
                nodes[layer.name] = replace(nodes[layer.name], inputs=inputs)
    kept = {name: c for name, c in constraints.items() if c.bits is not None or c.mask is not None}
    graph = replace(graph, constraints={n: c for n, c in graph.constraints.items() if n not in params})
    return graph.edit(nodes.values(), params=params, constraints=kept)


def absorb_scales(graph: Graph) -> Graph:
    """W (f x + b) = (W f) (x + b / f): factors that differ by channel go into the layers behind (a batch norm's)."""
    for scale in graph.nodes:
        own = roles(scale, graph.params)
        if scale.op != "scale" or scale.type.kind != "current" or not graph.params[own["factor"]].ndim:
            continue
        factor, layers = graph.params[own["factor"]], []
        field = _field(factor, scale.type.shape)
        if graph.is_output(scale.name) or not field.all():
            continue
        for user in graph.users(scale.name):
            found = None if user.op not in (*LAYERS, *WIRING) else _factors(graph, scale.name, field, user)
            layers.append(found)
        if layers and all(found is not None for found in layers):
            graph = _moved(graph, scale, [pair for found in layers if found is not None for pair in found])
    return graph


def _moved(graph: Graph, scale: Node, layers: list[tuple[Node, Array]]) -> Graph:
    """The graph with the factors of `scale` in the weights of `layers`."""
    own = roles(scale, graph.params)
    params: dict[str, Array] = {f"{scale.name}.factor": np.ones((), np.float32)}
    if "bias" in own:
        factor, bias = graph.params[own["factor"]], graph.params[own["bias"]]
        rank = len(scale.type.shape)
        shift = by_channel(bias, rank) / by_channel(factor, rank)
        params[f"{scale.name}.bias"] = shift.reshape(-1) if shift.size == len(factor) else shift
    nodes = {n.name: n for n in graph.nodes}
    nodes[scale.name] = replace(scale, inputs=(graph.values(scale)[0], *params))
    for layer, factors in layers:
        name, old = _own_param(graph, layer), roles(layer, graph.params)[first_role(layer)]
        params[name] = (params.get(name, graph.params[old]) * factors).astype(np.float32)
        inputs = tuple(name if i == old else i for i in nodes[layer.name].inputs)
        nodes[layer.name] = replace(nodes[layer.name], inputs=inputs)
    graph = replace(graph, constraints={n: c for n, c in graph.constraints.items() if n not in params})
    gone = {} if "bias" in own else {scale.name: graph.values(scale)[0]}
    return graph.edit(nodes.values(), params=params, rename=gone)


def _field(worth: float | Array, shape: Shape) -> Array:
    """A worth [], [C] or of the whole shape at every element, float32 of `shape`."""
    return np.array(np.broadcast_to(by_channel(np.asarray(worth), len(shape)), shape), np.float32)


def _own_param(graph: Graph, layer: Node) -> str:
    """The name of the layer's weights, which no other node reads."""
    name = f"{layer.name}.{first_role(layer)}"
    return name if all(n is layer for n in graph.users(name)) else graph.fresh(name)


def _factors(graph: Graph, name: str, field: Array, user: Node) -> list[tuple[Node, Array]] | None:
    """What the weights behind `user`, which reads the value `name` worth `field`, are to be multiplied by.

    None if something else than wiring lies between, or an element of a weight would need two factors.
    """
    if user.op in WEIGHTED:
        factor = _on_weights(graph, user, field)
        return None if factor is None else [(user, factor)]
    if user.op not in (*WIRING, "concat", "avgpool") or graph.is_output(user.name):
        return None
    if user.op == "avgpool":
        through = _by_channel(field)
        if through is None:
            return None
        field = np.broadcast_to(through[:, None, None], user.type.shape)
    else:
        parts = [field if i == name else np.ones(graph.type(i).shape, np.float32) for i in graph.values(user)]
        field = KERNELS[user.op](user, [part[None] for part in parts], {})[0]
    found: list[tuple[Node, Array]] = []
    for behind in graph.users(user.name):
        factors = _factors(graph, user.name, field, behind)
        if factors is None:
            return None
        found += factors
    return found


def _on_weights(graph: Graph, layer: Node, field: Array) -> Array | None:
    """The factor of every weight of a layer whose input is worth `field`; where that is 0 nothing arrives."""
    weight = graph.params[roles(layer, graph.params)[first_role(layer)]]
    present = np.where(field == 0, np.float32(1), field)
    if layer.op == "dense":
        return present
    if layer.op == "scale":
        return present.reshape(-1)[0] if (present == present.reshape(-1)[0]).all() else _whole(weight, present)
    through = _by_channel(field)
    if through is None:
        return None
    group = int(str(layer.attrs["group"]))
    rows = np.repeat(through.reshape(group, -1), len(weight) // group, axis=0)
    return rows.reshape(len(weight), *[1] * (weight.ndim - 4), -1, 1, 1)


def _whole(factor: Array, field: Array) -> Array | None:
    """A field that a scale's own factor can be multiplied by, if that has the whole shape."""
    return field if factor.shape == field.shape else None


def _by_channel(field: Array) -> Array | None:
    """The one value other than 0 of every channel, 1 where there is none; None if there are several."""
    rows = field.reshape(len(field), -1)
    first = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    value = np.where(first != 0, first, np.float32(1))
    return value[:, 0] if ((rows == 0) | (rows == value)).all() else None
