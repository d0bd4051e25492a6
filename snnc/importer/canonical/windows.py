r"""Windows: pads in the conv or pool behind them, one form for each head and for each pool over a whole map.

conv(pad(x))                         ->  conv(x) with the pads; pools too, where zeros change nothing
conv whose one window reads all      ->  dense of the flattened value
pool whose one window covers all     ->  kernel of the size of the map, no pads
mean or maximum over both map axes   ->  pool over the whole map
pool over one number                 ->  nothing
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from snnc.ir import Array, Attr, Node, attr_ints

from .bench import Bench
from .view import Step

POOLS = ("avgpool", "maxpool")
POSITIVE = ("abs", "exp", "hardsigmoid", "relu", "sigmoid", "softmax", "softplus", "sqrt", "thresholdedrelu")
"""Ops that make nothing below zero."""

KEEPING = ("add", "avgpool", "concat", "expand", "gather", "maximum", "maxpool", "minimum", "mul", "pad", "reshape")
KEEPS = (*KEEPING, "round", "slice", "tanh", "transpose")
"""Ops that make nothing below zero of values that are not."""

FAR = 64
"""Values that are looked at to tell whether one is nowhere below zero."""


def positive(bench: Bench, name: str) -> bool:
    """Whether the value is known to be nowhere below zero."""
    seen = [name]
    for value in seen:
        node = bench.nodes.get(value)
        if node is None or len(seen) > FAR:
            return False
        if node.op in KEEPS:
            seen += [v for v in bench.values(node) if v not in seen]
        elif not _is_positive(node):
            return False
    return True


def _is_positive(node: Node) -> bool:
    if node.op == "clip":
        return float(str(node.attrs.get("min", -1))) >= 0
    return node.op in POSITIVE and float(str(node.attrs.get("alpha", 0))) >= 0


def pads(bench: Bench, node: Node) -> bool:
    """The zeros of a pad around the map become pads of the window that reads them."""
    pad = bench.source(node)
    if pad is None or pad.op != "pad" or any(attr_ints(pad, "interior")):
        return False
    front, top, left, back, bottom, right = attr_ints(pad, "pads")
    own = attr_ints(node, "pads")
    whole = tuple(a + b for a, b in zip(own, (top, left, bottom, right), strict=True))
    if front or back or (node.op in POOLS and not _pools(bench, node, pad, whole)):
        return False
    attrs = {**node.attrs, "pads": whole}
    if node.op == "avgpool":
        attrs["count_include_pad"] = 1
    bench.put(node, pad.inputs[:1], attrs=attrs, origin=pad.origin)
    return True


def _pools(bench: Bench, node: Node, pad: Node, whole: Sequence[int]) -> bool:
    """Whether zeros in front of a pool are what its own pads would be.

    The mean must count them (it has no other pads, or counts those too). The maximum must find one number in every
    window that is at least zero.
    """
    if node.op == "avgpool":
        fits = all(n < k for n, k in zip(whole, attr_ints(node, "kernel") * 2, strict=True))
        return fits and bool(node.attrs["count_include_pad"] or not any(attr_ints(node, "pads")))
    if not positive(bench, pad.inputs[0]):
        return False
    size = bench.shape(pad.inputs[0])[1:]
    return all((_taps(node, size, whole, axis) >= 0).any(axis=1).all() for axis in (0, 1))


def _taps(node: Node, size: Sequence[int], pads: Sequence[int], axis: int) -> Array:
    """[windows, kernel]: the place that each number of each window has along one axis of the map, -1 outside."""
    kernel, stride, dilation = (attr_ints(node, name)[axis] for name in ("kernel", "strides", "dilations"))
    starts = np.arange(node.type.shape[axis + 1]) * stride - pads[axis]
    places = starts[:, None] + np.arange(kernel) * dilation
    return np.where(places < size[axis], places, -1).clip(min=-1)


def inert(bench: Bench, node: Node) -> bool:
    """Attributes that change nothing stand at their least: the stride of one window, the dilation of one number."""
    size, pads = bench.shape(node.inputs[0])[1:], attr_ints(node, "pads")
    kernel = attr_ints(node, "kernel") if node.op in POOLS else bench.arrays(node)["weight"].shape[-2:]
    dilations = tuple(1 if k == 1 else d for k, d in zip(kernel, attr_ints(node, "dilations"), strict=True))
    places = [size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) for i in (0, 1)]
    strides = (min(s, n) for s, n in zip(attr_ints(node, "strides"), places, strict=True))
    attrs = {**node.attrs, "strides": tuple(strides), "dilations": dilations}
    if node.op == "avgpool" and not any(pads):
        attrs["count_include_pad"] = 0
    if attrs == dict(node.attrs):
        return False
    bench.put(node, attrs=attrs)
    return True


def whole(bench: Bench, node: Node) -> bool:
    """A pool with one window that covers the map has its size and no pads; over one number it is nothing."""
    size, kernel, pads = bench.shape(node.inputs[0])[1:], attr_ints(node, "kernel"), attr_ints(node, "pads")
    if kernel == (1, 1) == attr_ints(node, "strides") and not any(pads):
        bench.turn(node.name, node.inputs[0])
        return True
    covers = all(k - p >= n for k, p, n in zip(kernel, pads, size, strict=False))
    plain = node.type.shape[1:] == attr_ints(node, "dilations") == (1, 1) and not node.attrs.get("count_include_pad")
    if not covers or not plain or (kernel == size and not any(pads)):
        return False
    bench.put(node, attrs={**node.attrs, "kernel": size, "pads": (0, 0, 0, 0)})
    return True


def head(bench: Bench, node: Node) -> bool:
    """A conv with a single window that reads every number of the map is a dense layer."""
    x, params = bench.shape(node.inputs[0]), bench.arrays(node)
    if node.attrs["group"] != 1 or node.type.shape[1:] != (1, 1):
        return False
    window = node.with_attrs(kernel=params["weight"].shape[2:])
    places = [_taps(window, x[1:], attr_ints(node, "pads"), axis)[0] for axis in (0, 1)]
    inside = [[i for i, place in enumerate(p) if place >= 0] for p in places]
    if [len(i) for i in inside] != [*x[1:]]:
        return False
    weight = params["weight"][:, :, inside[0]][:, :, :, inside[1]].reshape(len(params["weight"]), -1)
    flat = bench.viewed(node.inputs[0], [("reshape", {"shape": (math.prod(x),)})], node.origin)
    back: list[Step] = [("reshape", {"shape": node.type.shape})]
    bench.change(node, (flat,), back, op="dense", params={**params, "weight": weight}, attrs={}, origin=node.origin)
    return True


def reduced(bench: Bench, node: Node) -> bool:
    """The mean or maximum over the axes of the map is a pool over the whole of it."""
    x, axes, by = bench.shape(node.inputs[0]), set(attr_ints(node, "axes")), node.attrs["by"]
    if len(x) != 3 or by not in ("mean", "max") or any((a in axes) != (a > 0) for a in range(3) if a == 0 or x[a] > 1):
        return False
    attrs: dict[str, Attr] = {"kernel": x[1:], "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    if by == "mean":
        attrs["count_include_pad"] = 0
    op = "avgpool" if by == "mean" else "maxpool"
    back: list[Step] = [("reshape", {"shape": node.type.shape})]
    bench.change(node, node.inputs, back, op=op, attrs=attrs, origin=node.origin)
    return True
