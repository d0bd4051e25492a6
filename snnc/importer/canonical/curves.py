r"""Activations that an exporter wrote out in parts: one op again, before their factors can go elsewhere.

x sigmoid(a x)                       ->  swish(x)
x tanh(softplus(x))                  ->  mish(x)
min(max(f x + b, 0), m) / m          ->  hardsigmoid(x), alpha = f/m, beta = b/m
x hardsigmoid(x), x min(max(x + 3, 0), 6) / 6         ->  hardswish(x)
a x (c erf(x / sqrt 2) + c)          ->  2 a c gelu(x)
max(x, a x), 0 <= a <= 1             ->  leakyrelu(x)
"""

from __future__ import annotations

import math

import numpy as np

from snnc.ir import Array, Attr, Node

from .bench import Bench, together


def product(bench: Bench, node: Node) -> bool:
    """A value times a curve of it."""
    values = bench.values(node)
    if len(values) != 2:
        return False
    for x, other in (values, values[::-1]):
        gate = bench.nodes.get(other)
        found = None if gate is None else _gated(bench, x, gate)
        if gate is not None and found is not None:
            op, attrs, source, factor = found
            origin = together(gate.origin, node.origin)
            made = bench.add(op, (source,), attrs, origin)
            bench.put(node, (made,), op="scale", params={"factor": np.asarray(factor)}, attrs={})
            return True
    return False


def _gated(bench: Bench, x: str, gate: Node) -> tuple[str, dict[str, Attr], str, float] | None:
    """What `x` times the value of `gate` is: an op, its attributes, what it reads, and a factor behind it."""
    inner = bench.source(gate)
    if gate.op == "sigmoid" and (line := _line(bench, gate.inputs[0], x)) is not None and line[1] == 0:
        return "swish", {"alpha": _float(line[0])}, x, 1.0
    if gate.op == "tanh" and inner is not None and inner.op == "softplus" and inner.inputs[0] == x:
        return "mish", {}, x, 1.0
    if gate.op == "hardsigmoid" and gate.inputs[0] == x and _near(gate.attrs["alpha"], 1 / 6):
        return ("hardswish", {}, x, 1.0) if _near(gate.attrs["beta"], 0.5) else None
    if gate.op == "relu" and gate.attrs.get("max") == 6.0 and _line(bench, gate.inputs[0], x) == (1.0, 3.0):
        return "hardswish", {}, x, 6.0
    return _gelu(bench, x, gate)


def _gelu(bench: Bench, x: str, gate: Node) -> tuple[str, dict[str, Attr], str, float] | None:
    inner, outer = bench.source(gate), _numbers(bench, gate)
    if outer is None or inner is None or inner.op != "erf" or not _near(outer[0], outer[1]):
        return None
    argument = bench.source(inner)
    numbers = None if argument is None else _numbers(bench, argument)
    if argument is None or numbers is None or numbers[1] != 0 or not _near(numbers[0], math.sqrt(0.5)):
        return None
    line = _line(bench, x, argument.inputs[0])
    if line is None or line[1] != 0:
        return None
    return "gelu", {"approximate": "none"}, argument.inputs[0], 2 * line[0] * outer[0]


def clipped(bench: Bench, node: Node) -> bool:
    """A relu with a ceiling, divided by it."""
    relu, numbers = bench.source(node), _numbers(bench, node)
    top = float(str(relu.attrs.get("max", 0))) if relu is not None and relu.op == "relu" else 0.0
    first = None if relu is None else bench.source(relu)
    line = None if first is None else _numbers(bench, first)
    if relu is None or first is None or line is None or numbers is None or numbers[1] != 0:
        return False
    if top <= 0 or not _near(numbers[0] * top, 1):
        return False
    attrs: dict[str, Attr] = {"alpha": _float(line[0] / top), "beta": _float(line[1] / top)}
    origin = together(first.origin, relu.origin)
    bench.put(node, first.inputs[:1], op="hardsigmoid", params={}, attrs=attrs, origin=origin)
    return True


def leaky(bench: Bench, node: Node) -> bool:
    """The larger of a value and a part of it."""
    values = bench.values(node)
    for x, other in (values, values[::-1]) if len(values) == 2 else ():
        line = _line(bench, other, x)
        if line is not None and other != x and 0 <= line[0] <= 1 and line[1] == 0:
            slope, origin = np.asarray(line[0]), bench.nodes[other].origin
            bench.put(node, (x,), op="leakyrelu", params={"slope": slope}, origin=origin)
            return True
    return False


def _numbers(bench: Bench, node: Node) -> tuple[float, float] | None:
    """Factor and bias of a scale where each is one number."""
    params = bench.arrays(node) if node.op == "scale" else {}
    factor, bias = (_number(params.get(role)) for role in ("factor", "bias"))
    if not params or factor is None or ("bias" in params and bias is None):
        return None
    return factor, bias or 0.0


def _line(bench: Bench, name: str, x: str) -> tuple[float, float] | None:
    """a and b where the value `name` is a x + b."""
    node = bench.nodes.get(name)
    if name == x:
        return 1.0, 0.0
    return _numbers(bench, node) if node is not None and node.op == "scale" and node.inputs[0] == x else None


def _number(array: Array | None) -> float | None:
    return float(array.flat[0]) if array is not None and (array == array.flat[0]).all() else None


def _near(value: object, wanted: float) -> bool:
    return math.isclose(float(str(value)), wanted, rel_tol=1e-5)


def _float(value: float) -> float:
    """As a model would hold it."""
    return float(np.float32(value))
