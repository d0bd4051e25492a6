r"""Weights: factors and biases go into the layer that makes a value, or else into the one that reads it.

    scale(layer(x))        ->  layer'(x)               where nobody else reads the layer; batch norms too
    scale(scale(x))        ->  scale'(x)               f2 (f1 x + b1) + b2 = (f2 f1) x + (f2 b1 + b2)
    layer(scale(x))        ->  layer'(x)               not for a scale of an input of the graph: that is pre-processing
    add(x, constant), ...  ->  scale(x)
    scale(x) by 1          ->  x                       and biases of zeros go

The formulas of the folds are those of `snnc.ir.batchnorm`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from snnc.ir import Array, Node, Shape
from snnc.ir.batchnorm import affine, ahead, before, behind, spread

from .bench import Bench, together
from .transfer import tight

LAYERS = ("conv", "dense")


def tidy(bench: Bench, node: Node) -> bool:
    """Params in their smallest form; no bias of zeros, no scale that changes nothing."""
    params = bench.arrays(node)
    kept = {role: array for role, array in params.items() if role != "bias" or array.any()}
    if node.op in ("scale", "leakyrelu"):
        kept = {role: tight(array) for role, array in kept.items()}
        if node.op == "scale" and "bias" not in kept and kept["factor"].shape == () and kept["factor"] == 1:
            bench.turn(node.name, node.inputs[0])
            return True
    if all(kept.get(role) is array for role, array in params.items()):
        return False
    bench.put(node, params=kept)
    return True


def backward(bench: Bench, node: Node) -> bool:
    """A scale per channel goes into the conv or dense that it alone reads."""
    layer = bench.source(node)
    if layer is None or layer.op not in LAYERS or bench.alone(layer.name) is None:
        return False
    s, t = _factors(bench, node)
    if s.ndim > 1 or t.ndim > 1:
        return False
    return _refold(bench, layer, node, behind(bench.arrays(layer), s, t))


def _factors(bench: Bench, node: Node) -> tuple[Array, Array]:
    params = bench.arrays(node)
    zero = np.zeros((), np.float64)
    return params["factor"].astype(np.float64), params.get("bias", zero).astype(np.float64)


def _refold(bench: Bench, layer: Node, node: Node, params: dict[str, Array]) -> bool:
    """Give the layer the params that do what `node` does, if they are numbers that float32 can hold."""
    if not _held(params):
        return False
    bench.put(layer, params=params, origin=node.origin)
    bench.turn(node.name, node.inputs[0])
    return True


def _held(params: dict[str, Array]) -> bool:
    largest = float(np.finfo(np.float32).max)
    return all(float(np.abs(array).max(initial=0)) <= largest for array in params.values())


def chain(bench: Bench, node: Node) -> bool:
    """A scale of a scale that it alone reads is one scale."""
    first = bench.source(node)
    if first is None or first.op != "scale" or bench.alone(first.name) is None:
        return False
    (f1, b1), (f2, b2), shape = _factors(bench, first), _factors(bench, node), node.type.shape
    params = {
        "factor": _joined(shape, lambda a, b: a * b, f1, f2),
        "bias": _joined(shape, lambda a, b, c: a * b + c, f2, b1, b2),
    }
    if not _held(params):
        return False
    bench.put(replace(node, origin=together(first.origin, node.origin)), first.inputs[:1], params=params)
    return True


def _joined(shape: Shape, rule: Callable[..., Array], *params: Array) -> Array:
    if all(param.ndim == 0 for param in params):
        return np.asarray(rule(*params))
    return tight(rule(*(spread(param, shape) for param in params)))


def normed(bench: Bench, node: Node) -> bool:
    """A batch norm is a scale per channel, so that it makes no difference whether an exporter wrote it out."""
    params = bench.arrays(node)
    s, t = affine(params, float(str(node.attrs["epsilon"])))
    made = {"factor": s, "bias": t}
    if not _held(made):
        return False
    bench.put(node, op="scale", params=made, attrs={})
    return True


def forward(bench: Bench, node: Node) -> bool:
    """A scale goes into the conv without pads or the dense that alone reads it, through reshapes and pools.

    Not one that undoes a `quantize`: the pair says what the model's own quantization is.
    """
    source = bench.source(node)
    if bench.given(node.inputs[0]) or (source is not None and source.op == "quantize"):
        return False
    shape = node.type.shape
    s, t = (spread(param, shape) for param in _factors(bench, node))
    found = ahead(node, s, t, bench.alone)
    if found is None:
        return False
    group = int(str(found.layer.attrs.get("group", 1)))
    return _refold(bench, found.layer, node, before(bench.arrays(found.layer), group, found.s, found.t))


def constant(bench: Bench, node: Node) -> bool:
    """A constant among the values of an op makes it a scale, or a clip."""
    values = bench.values(node)
    fixed = {v: bench.params[n.inputs[0]] for v in values if (n := bench.nodes.get(v)) and n.op == "constant"}
    free = [v for v in values if v not in fixed]
    if len(free) != 1 or len(values) != 2 or not fixed or (node.op == "div" and values[0] in fixed):
        return False
    array = next(iter(fixed.values())).astype(np.float64)
    one, origin = np.ones(()), bench.nodes[next(iter(fixed))].origin
    if node.op == "add":
        bench.put(node, free, op="scale", params={"factor": one, "bias": tight(array)}, origin=origin)
    elif node.op == "mul":
        bench.put(node, free, op="scale", params={"factor": tight(array)}, origin=origin)
    elif node.op == "div" and (np.abs(np.frexp(array)[0]) == 0.5).all():  # other divisors round twice
        bench.put(node, free, op="scale", params={"factor": tight(1 / array)}, origin=origin)
    elif node.op in ("maximum", "minimum") and tight(array).ndim == 0:
        bound = {"min" if node.op == "maximum" else "max": float(array.flat[0])}
        bench.put(node, free, op="clip", params={}, attrs=bound, origin=origin)
    else:
        return False
    return True
