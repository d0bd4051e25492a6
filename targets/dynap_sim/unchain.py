r"""Bring a constrained graph into the form the chip has: neurons, one set of synapses onto each, wiring between.

Synapses do not chain: what is weighted twice between two layers of neurons becomes one weight. Each rule is an
identity of linear maps, applied until none fits:

    W (a + b)        ->  W a + W b               a layer that reads a sum of neurons listens to each of them
    W (f x)          ->  (W f) x                 a scale before a layer goes into its weights
    f (W x)          ->  (f W) x                 a scale behind a layer too
    f (g x)          ->  (f g) x
    f (a + b)        ->  f a + f b
    wire(a + b)      ->  wire(a) + wire(b)       in front of a layer
    wire(f x)        ->  wire(f) wire(x)
    concat(f a, f b) ->  f concat(a, b)
    concat(a, b)     ->  pad(a) + pad(b)         where they differ in worth

Weights on a grid stay on one: its step is multiplied too. That works where all weights of a neuron get factors of one
size; else the rule does not fit, and placing refuses the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from snnc.errors import TargetError
from snnc.ir import LAYERS, WIRING, Array, Attr, Constraint, Draft, Graph, Node, roles
from snnc.sim.reference import KERNELS

MOST = 10_000
"""Applications of rules before something is wrong with them."""


def unchained(graph: Graph) -> Graph:
    """The graph with every rule applied that fits between neurons; `graph` itself where none does.

    Raises:
        TargetError: the rules do not come to an end.
    """
    for _ in range(MOST):
        after = _step(graph)
        if after is None:
            return graph
        graph = after
    raise TargetError(f"synapses are still chained after {MOST} rewritings")


def neurons_behind(graph: Graph, name: str) -> str:
    """What the value `name` is, through wiring: `lif` or `encode`, or the first op that is neither, '' if mixed."""
    if name not in graph:
        return "input"
    node = graph[name]
    if node.op not in (*WIRING, "concat"):
        return node.op
    kinds = {neurons_behind(graph, value) for value in graph.values(node)}
    return kinds.pop() if len(kinds) == 1 else ""


def plain(graph: Graph, name: str) -> bool:
    """Whether the value `name` is neurons or the encoded input, through wiring at most."""
    return neurons_behind(graph, name) in ("lif", "encode")


def _step(graph: Graph) -> Graph | None:
    """The graph after one rule, None if none fits."""
    for neuron in graph.nodes:
        if neuron.op == "lif":
            after = _onto(graph, graph.values(neuron)[0])
            if after is not None:
                return after
    return None


def _onto(graph: Graph, name: str) -> Graph | None:
    """One rule for the currents that meet in the value `name`, if one fits."""
    if name not in graph:
        return None
    node = graph[name]
    if node.op in ("add", "concat", "reshape", "transpose"):
        return next((made for value in graph.values(node) if (made := _onto(graph, value)) is not None), None)
    if node.op not in (*LAYERS, "scale", "avgpool"):
        return None
    source = graph.values(node)[0]
    if plain(graph, source) or source not in graph:
        return None
    rule: Callable[[Graph, Node, Node], Graph | None] | None = {
        "add": _over_sum,
        "scale": _over_scale,
        **dict.fromkeys(LAYERS, _behind_layer),
        **dict.fromkeys(WIRING, _over_wire),
        "concat": _over_concat,
    }.get(graph[source].op)
    if rule is None or (node.op == "avgpool" and rule is _over_scale):
        return None
    return rule(graph, node, graph[source])


def _over_sum(graph: Graph, node: Node, total: Node) -> Graph | None:
    """W (a + b) -> W a + W b; the bias goes with the first."""
    draft = Draft(graph)
    own = roles(node, graph.params)
    parts = []
    for i, value in enumerate(graph.values(total)):
        bias = own if i == 0 else {role: name for role, name in own.items() if role != "bias"}
        attrs = node.attrs if i == 0 else {key: v for key, v in node.attrs.items() if key != "bias_at"}
        parts.append(draft.add(node, f"of{i + 1}", node.op, value, *bias.values(), attrs=attrs))
    draft.replace(node, draft.add(node, "sum", "add", *parts))
    return draft.finish()


def _over_scale(graph: Graph, node: Node, scale: Node) -> Graph | None:
    """W (f x) -> (W f) x, and W (f x + c) -> (W f) x + W c."""
    own = roles(scale, graph.params)
    field = spread(graph.params[own["factor"]], scale.type.shape)
    source = graph.values(scale)[0]
    if node.op != "scale" and "bias" not in own and plain(graph, source) and _one(graph.params[own["factor"]]):
        return None  # placing reads through it
    factor = _factor_in(graph, node, field)
    shift = None if "bias" not in own else _through(graph, node, spread(graph.params[own["bias"]], scale.type.shape))
    if factor is None or ("bias" in own and shift is None):
        return None
    return _with_factor(graph, node, node, source, factor, shift, scale.attrs.get("bias_at"))


def _behind_layer(graph: Graph, scale: Node, layer: Node) -> Graph | None:
    """f (W x) -> (f W) x, under the name of the scale."""
    if scale.op != "scale":
        return None
    own = roles(scale, graph.params)
    field = spread(graph.params[own["factor"]], scale.type.shape)
    rows = field.reshape(len(field), -1)
    weight = graph.params[roles(layer, graph.params)["weight"]]
    if layer.op == "local":
        factor = field.reshape(*field.shape, 1, 1, 1)
    elif (rows == rows[:, :1]).all():
        factor = rows[:, 0].reshape(-1, *[1] * (weight.ndim - 1))
    else:
        return None
    shift = None if "bias" not in own else spread(graph.params[own["bias"]], scale.type.shape)
    layer_own = roles(layer, graph.params)
    if "bias" in layer_own:
        inner = field * spread(graph.params[layer_own["bias"]], scale.type.shape)
        if shift is not None and scale.attrs.get("bias_at") != layer.attrs.get("bias_at"):
            return None
        shift = inner if shift is None else shift + inner
    at = layer.attrs.get("bias_at", scale.attrs.get("bias_at"))
    bare = replace(layer, inputs=(graph.values(layer)[0], layer_own["weight"]))
    return _with_factor(graph, scale, bare, graph.values(layer)[0], factor, shift, at)


def _with_factor(
    graph: Graph, old: Node, layer: Node, source: str, factor: Array, shift: Array | None, bias_at: Attr | None
) -> Graph | None:
    """Put (weights * factor) of `layer` in the place of `old`, reading `source`, with `shift` added to its bias.

    None where the neurons' grids, or the shape of a bias, cannot hold it.
    """
    own = roles(layer, graph.params)
    role = "factor" if layer.op == "scale" else "weight"
    if layer.op == "scale":  # one synapse a neuron: placing sets it as finely as a threshold
        made, constraint = np.asarray(spread(graph.params[own[role]], old.type.shape) * factor), Constraint()
    else:
        made, on_grid = graph.constraints.get(own[role], Constraint()).times(graph.params[own[role]], factor)
        if on_grid is None:
            return None
        constraint = on_grid
    draft = Draft(graph)
    params: dict[str, Array] = {role: made}
    attrs: dict[str, Attr] = {key: value for key, value in layer.attrs.items() if key != "bias_at"}
    if "bias" in own or shift is not None:
        bias = spread(graph.params[own["bias"]], old.type.shape) if "bias" in own else np.zeros(old.type.shape)
        if shift is not None and "bias" in own and layer.attrs.get("bias_at") != bias_at:
            return None
        total = bias if shift is None else bias + shift
        rows = total.reshape(len(total), -1) if total.ndim else total.reshape(1, 1)
        even = layer.op in ("conv", "dense") and (rows == rows[:, :1]).all()
        if layer.op == "conv" and not even:
            layer, params, constraint = _unshared(layer, params, constraint, old.type.shape)
        params["bias"] = rows[:, 0] if even else total
        attrs["bias_at"] = bias_at if bias_at is not None else layer.attrs["bias_at"]
    shared = any(user is not old for part in params for user in graph.users(f"{old.name}.{part}"))
    name = draft.add(old, "own" if shared else "", layer.op, source, attrs=attrs, **params)
    draft.replace(old, name)
    draft.constraints[f"{name}.{role}"] = constraint
    if "bias" in params:
        draft.constraints[f"{name}.bias"] = Constraint()  # what was added to it is on no levels
    return draft.finish()


def _unshared(
    layer: Node, params: dict[str, Array], constraint: Constraint, shape: tuple[int, ...]
) -> tuple[Node, dict[str, Array], Constraint]:
    """A convolution with a kernel for every position: where the neurons of a channel have biases of their own."""
    scale = constraint.scale
    if scale is not None and scale.ndim:
        scale = scale.reshape(-1, *[1] * 5)
    mask = None if constraint.mask is None else unrolled(constraint.mask, shape)
    made = {**params, "weight": unrolled(params["weight"], shape)}
    return replace(layer, op="local"), made, Constraint(constraint.bits, scale, mask, constraint.levels)


def unrolled(kernel: Array, shape: tuple[int, ...]) -> Array:
    """[O,I,kh,kw] -> [O,H',W',I,kh,kw], the same kernel at every position."""
    out, inner, *window = kernel.shape
    return np.array(np.broadcast_to(kernel[:, None, None], (out, *shape[1:], inner, *window)))


def _factor_in(graph: Graph, node: Node, field: Array) -> Array | None:
    """What the weights of `node` are multiplied by when its input is no longer multiplied by `field`."""
    weight = graph.params[roles(node, graph.params)["factor" if node.op == "scale" else "weight"]]
    if node.op == "dense":
        return field
    if node.op == "scale":
        flat = field.reshape(-1)
        return flat[0] if (flat == flat[0]).all() else field
    rows = field.reshape(len(field), -1)
    if not (rows == rows[:, :1]).all():
        return None
    group = int(str(node.attrs["group"]))
    by_row = np.repeat(rows[:, 0].reshape(group, -1), len(weight) // group, axis=0)
    return by_row.reshape(len(weight), *[1] * (weight.ndim - 4), -1, 1, 1)


def _through(graph: Graph, node: Node, field: Array) -> Array:
    """What a layer makes of a constant input, without its bias."""
    params = {role: graph.params[name] for role, name in roles(node, graph.params).items() if role != "bias"}
    return np.asarray(KERNELS[node.op](node, [field[None]], params)[0], np.float32)


def _over_wire(graph: Graph, node: Node, wire: Node) -> Graph | None:
    """wire(a + b) -> wire(a) + wire(b); wire(f x + c) -> wire(f) wire(x) + wire(c)."""
    inner = graph.values(wire)[0]
    if inner not in graph:
        return None
    before = graph[inner]
    draft = Draft(graph)
    if before.op == "add":
        parts = [
            draft.add(wire, f"of{i + 1}", wire.op, v, attrs=wire.attrs) for i, v in enumerate(graph.values(before))
        ]
        draft.replace(wire, draft.add(wire, "sum", "add", *parts))
        return draft.finish()
    if before.op == "scale":
        fields = {
            role: KERNELS[wire.op](wire, [spread(graph.params[name], before.type.shape)[None]], {})[0]
            for role, name in roles(before, graph.params).items()
        }
        moved = draft.add(wire, "wire", wire.op, graph.values(before)[0], attrs=wire.attrs)
        timed = {key: value for key, value in before.attrs.items() if key == "bias_at"}
        fields["factor"] = _merged(fields["factor"])
        draft.replace(wire, draft.add(wire, "scaled", "scale", moved, attrs=timed, **fields))
        return draft.finish()
    if before.op in WIRING:
        return _over_wire(graph, wire, before)
    if before.op == "concat":
        return _over_concat(graph, wire, before)
    return _before_wire(graph, node, wire) if before.op in LAYERS and node.op == "scale" else None


def _before_wire(graph: Graph, scale: Node, wire: Node) -> Graph | None:
    """f wire(W x) -> wire(f' (W x)), where the wire only puts the same elements elsewhere."""
    if wire.op not in ("reshape", "transpose"):
        return None
    inner = graph.values(wire)[0]
    shape = graph.type(inner).shape
    where = KERNELS[wire.op](wire, [np.arange(math.prod(shape)).reshape(1, *shape)], {}).reshape(-1).astype(int)
    fields = {}
    for role, name in roles(scale, graph.params).items():
        fields[role] = np.zeros(len(where), np.float32)
        fields[role][where] = spread(graph.params[name], scale.type.shape).reshape(-1)
    draft = Draft(graph)
    shaped = {role: field.reshape(shape) for role, field in fields.items()}
    made = draft.add(scale, "before", "scale", inner, attrs=scale.attrs, **shaped)
    draft.replace(scale, draft.add(scale, "wire", wire.op, made, attrs=wire.attrs))
    return draft.finish()


def _over_concat(graph: Graph, node: Node, both: Node) -> Graph | None:
    """concat(f a, b) -> concat(f, 1) concat(a, b); where a part is a sum, concat(a, b) -> pad(a) + pad(b)."""
    axis = int(str(both.attrs["axis"]))
    values = graph.values(both)
    draft = Draft(graph)
    if all(plain(graph, v) or _bare_scale(graph, v) for v in values):
        field = np.concatenate([_worth(graph, value) for value in values], axis=axis)
        if _one(field):
            sources = [graph.values(graph[v])[0] if _bare_scale(graph, v) else v for v in values]
            moved = draft.add(both, "wire", "concat", *sources, attrs=both.attrs)
            draft.replace(both, draft.add(both, "scaled", "scale", moved, factor=_merged(field)))
            return draft.finish()
    parts, at, rank = [], 0, len(both.type.shape)
    for i, value in enumerate(values):
        size = graph.type(value).shape[axis]
        pads = [0] * (2 * rank)
        pads[axis], pads[axis + rank] = at, both.type.shape[axis] - at - size
        attrs: dict[str, Attr] = {"pads": tuple(pads), "interior": (0,) * rank}
        parts.append(draft.add(both, f"part{i + 1}", "pad", value, attrs=attrs))
        at += size
    draft.replace(both, draft.add(both, "sum", "add", *parts))
    return draft.finish()


def _bare_scale(graph: Graph, name: str) -> bool:
    """Whether the value `name` is a scale without a bias."""
    return name in graph and graph[name].op == "scale" and "bias" not in roles(graph[name], graph.params)


def _worth(graph: Graph, name: str) -> Array:
    """The factor of a scale in its whole shape, 1 for neurons."""
    if _bare_scale(graph, name):
        return spread(graph.params[roles(graph[name], graph.params)["factor"]], graph[name].type.shape)
    return np.ones(graph.type(name).shape, np.float32)


def _merged(field: Array) -> Array:
    """One number, where all factors are one number; zeros of a pad multiply nothing, so that they may be any."""
    present = field[field != 0]
    one = present.size > 0 and (present == present.flat[0]).all()
    return np.array(present.flat[0], np.float32) if one else field


def _one(field: Array) -> bool:
    """Whether there is one positive factor."""
    return field.size == 1 and bool(field.reshape(())[()] > 0)


def spread(param: Array, shape: tuple[int, ...]) -> Array:
    """A param that is a scalar, [C] or the whole shape, in the whole shape."""
    if param.ndim == 1 and len(shape) > 1:
        param = param.reshape(-1, *[1] * (len(shape) - 1))
    return np.asarray(np.broadcast_to(param, shape), np.float32)
