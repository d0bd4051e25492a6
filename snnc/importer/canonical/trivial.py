r"""Ops that do nothing, and ops that together are one.

relu(relu(x))        ->  relu(x), the lower ceiling        relu(x) of what is nowhere below zero  ->  x
log(softmax(x))      ->  logsoftmax(x)                     clip(x) from zero                      ->  relu(x)
add(add(x, y), z)    ->  add(x, y, z)                      concat(concat(x, y), z)                ->  concat(x, y, z)
gather of a progression  ->  slice                         slice, expand, pad, concat of all      ->  x
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from snnc.ir import Node, attr_ints

from .bench import Bench, together
from .windows import positive


def nothing(bench: Bench, node: Node) -> bool:
    """An op that makes what it reads goes."""
    if not _changes_nothing(bench, node):
        return False
    bench.turn(node.name, node.inputs[0])
    return True


def _changes_nothing(bench: Bench, node: Node) -> bool:
    if node.op == "pad":
        return not any((*attr_ints(node, "pads"), *attr_ints(node, "interior")))
    if node.op in ("slice", "expand"):
        straight = node.op == "expand" or all(step > 0 for step in attr_ints(node, "steps"))
        return straight and node.type.shape == bench.shape(node.inputs[0])
    if node.op in ("maximum", "minimum"):
        return len(set(node.inputs)) == 1
    if node.op == "abs":
        return positive(bench, node.inputs[0])
    return node.op == "concat" and len(node.inputs) == 1


def progression(bench: Bench, node: Node) -> bool:
    """A gather at even distances is a slice."""
    index, axis, shape = attr_ints(node, "index"), int(str(node.attrs["axis"])), bench.shape(node.inputs[0])
    step = index[1] - index[0] if len(index) > 1 else 1
    if step == 0 or any(b - a != step for a, b in itertools.pairwise(index)):
        return False
    rank = range(len(shape))
    attrs = {
        "starts": tuple(index[0] if i == axis else 0 for i in rank),
        "sizes": tuple(len(index) if i == axis else shape[i] for i in rank),
        "steps": tuple(step if i == axis else 1 for i in rank),
    }
    bench.put(node, op="slice", attrs=attrs)
    return True


def rectified(bench: Bench, node: Node) -> bool:
    """A relu of a relu is one, that of what is nowhere below zero is nothing, a clip from zero is one."""
    before, top = bench.source(node), float(str(node.attrs.get("max", math.inf)))
    if node.op == "clip":
        low = float(str(node.attrs.get("min", -math.inf)))
        if not top > 0 or not (low == 0 or ("min" not in node.attrs and positive(bench, node.inputs[0]))):
            return False
        bench.put(node, op="relu", attrs={"max": top} if top < math.inf else {})
        return True
    ceiling = float(str(before.attrs.get("max", math.inf))) if before is not None and before.op == "relu" else math.inf
    if top >= ceiling and positive(bench, node.inputs[0]):
        bench.turn(node.name, node.inputs[0])
        return True
    if before is None or before.op != "relu" or bench.alone(before.name) is None:
        return False
    bench.put(node, before.inputs, origin=before.origin)
    return True


def nested(bench: Bench, node: Node) -> bool:
    """A sum in a sum, or a concat in a concat along the same axis, that nobody else reads is one with it."""
    read, origin = list[str](), list[tuple[str, ...]]()
    for value in node.inputs:
        inner = bench.nodes.get(value)
        alike = inner is not None and inner.op == node.op and inner.attrs == node.attrs
        if inner is not None and alike and bench.alone(value) is not None and node.inputs.count(value) == 1:
            read += inner.inputs
            origin.append(inner.origin)
        else:
            read.append(value)
    if not origin:
        return False
    bench.put(node, read, origin=together(*origin))
    return True


def doubled(bench: Bench, node: Node) -> bool:
    """A value added to itself is a multiple."""
    if len(set(node.inputs)) > 1:
        return False
    factor = np.asarray(len(node.inputs), np.float32)
    bench.put(node, node.inputs[:1], op="scale", params={"factor": factor}, attrs={})
    return True


def logsoftmax(bench: Bench, node: Node) -> bool:
    """The logarithm of a softmax is a logsoftmax."""
    before = bench.source(node)
    if before is None or before.op != "softmax":
        return False
    bench.put(node, before.inputs, op="logsoftmax", attrs=before.attrs, origin=before.origin)
    return True
