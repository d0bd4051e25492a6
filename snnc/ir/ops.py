"""The op table: for every op its inputs, params, attributes, the kinds it maps and the shape it makes.

Ops and what they compute per sample (linear ops also per time step), shapes without batch and time:

    conv       [C,H,W] -> [O,H',W']   cross-correlation, weight [O,C/group,kh,kw], bias [O]
    local      [C,H,W] -> [O,H',W']   conv with unshared kernels: weight [O,H',W',C/group,kh,kw], bias [O,H',W']
    dense      [F] -> [O]             weight [O,F], bias [O]
    scale      any                    x * factor + bias; factor and bias scalar, [C] or the whole shape
    mix        [..,I,..] -> [..,O,..] weight [O,I] along `axis`, the same everywhere else (interpolation)
    avgpool    [C,H,W] -> [C,H',W']   mean over the window; attribute count_include_pad
    add        n equal shapes         sum
    concat     n shapes               along `axis` (0 = channels)
    reshape    any                    attribute `shape`
    transpose  any                    axis i of what is made is axis perm[i]
    slice      any                    `sizes` elements from `starts` in `steps`, per axis
    pad        any                    zeros before and after (`pads`), and `interior` ones between two elements
    expand     any                    axes of size 1 repeated to `shape`
    gather     any                    the elements at `index` along `axis`
    batchnorm  [C,...]                gamma * (x - mean) / sqrt(var + epsilon) + beta
    relu       any                    min(max(x, 0), max)
    leakyrelu  any                    x where x >= 0, else slope * x; slope scalar, [C] or the whole shape
    maxpool    [C,H,W] -> [C,H',W']   of spikes: one wherever the largest count so far in the window grows (snnc.sim)
    softmax, logsoftmax               along `axis`
    standardize                       (x - mean) / sqrt(var + epsilon), both over `axes` of the sample itself
    reduce     any                    over `axes`, which go; `by` sum, mean, max, min, prod
    argmax     any                    along `axis`, which goes; the first or the `last` of equals
    quantize   any                    clip(round(x / step) + zero, min, max), halves to even
    constant   -> shape of `value`    the same for every sample
    mul, div, power, maximum, minimum of equal shapes, elementwise; matmul [..,n,k] [..,k,m] -> [..,n,m]
    sigmoid, tanh, elu, ...           elementwise, see CURVES
    encode     analog -> current      code `direct`: x/T at every step; `first-step`: x at t = 1, then 0 (PTL 3.4);
                                      `rate`: events of +-max/T by chance (snnc.sim.encoding), its `seed` and `max`;
                                      `events`: an input that is a stream, as it comes (snnc.ir.streams)
    lif        current -> spikes      snnc.sim.neurons; params alpha, theta, u0 scalar, [C] or the whole shape
    decode     current|spikes -> analog   sum over the T steps: aggregate potential, or spike count; of the steps
                                      behind the first `skip` only (delayed read-out), times T/(T - skip)

A bias of a time-stepped op carries a total charge b: at the first step (`bias_at = first-step`), or b as stored at
every step (`bias_at = per-step`, after the pass bias-per-step has divided it by T).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from snnc.errors import GraphError

from . import shapes
from .graph import Array, Kind, Node, Stage, TensorType
from .shapes import ShapeRule

NAME = re.compile(r"[\w.@/\-]+", re.ASCII)
"""What names of values and params look like; the importer makes the user's names fit."""

WINDOW: Mapping[str, type] = {"strides": tuple, "pads": tuple, "dilations": tuple}
CONV: Mapping[str, type] = {**WINDOW, "group": int, "bias_at": str}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "bias_at": ("first-step", "per-step"),
    "code": ("direct", "first-step", "rate", "events"),
    "reset": ("subtract", "subtract-decayed", "zero"),
    "by": ("sum", "mean", "max", "min", "prod"),
    "approximate": ("none", "tanh"),
    "over": ("clip", "finite", "inf", "nan"),
}
MAY_LACK = ("max", "min", "bias_at", "seed", "skip")
"""Attributes that a node can do without: bounds that are not there, biases that no time passes over, chance (only the
code `rate` has it, and needs it), a delay of the read-out."""


@dataclass(frozen=True)
class Op:
    """One row: how many values it reads (None: one or more), its params in order, its attributes and rules."""

    values: int | None
    kinds: Callable[[Sequence[Kind]], Kind | None]
    shape: ShapeRule
    params: tuple[str, ...] = ()
    optional: str = ""
    attrs: Mapping[str, type] | None = None
    stages: tuple[Stage, ...] = tuple(Stage)


def attr_ints(node: Node, name: str) -> tuple[int, ...]:
    """The integers of a tuple attribute."""
    value = node.attrs[name]
    assert isinstance(value, tuple)
    return value


def infer(node: Node, types: Mapping[str, TensorType], params: Mapping[str, Array]) -> TensorType:
    """The type of the value that `node` makes.

    Raises:
        GraphError: unknown op, missing input, wrong attribute, kinds or shapes that do not fit; says which.
    """
    row = OPS.get(node.op)
    if row is None:
        raise GraphError(f"unknown op '{node.op}'", at=node.at, hint=f"one of {', '.join(OPS)}")
    values = [name for name in node.inputs if name in types]
    given = [name for name in node.inputs if name not in types]
    if missing := [name for name in given if name not in params]:
        raise GraphError(f"'{missing[0]}' is read but nothing makes it", at=node.at)
    roles = [*row.params, row.optional][: len(given)]
    if (row.values is None and not values) or (row.values is not None and len(values) != row.values):
        raise GraphError(f"'{node.op}' reads {row.values or 'one or more'} values, not {len(values)}", at=node.at)
    if len(given) < len(row.params) or len(given) > len(roles) or "" in roles:
        wanted = ", ".join(row.params) + (f"[, {row.optional}]" if row.optional else "")
        raise GraphError(f"'{node.op}' takes the params ({wanted}), not {len(given)} of them", at=node.at)
    if tuple(node.inputs) != (*values, *given):
        raise GraphError("values come before params", at=node.at)
    _check_attrs(node, row)
    kind = row.kinds([types[name].kind for name in values])
    if kind is None:
        raise GraphError(f"'{node.op}' cannot take {', '.join(types[v].kind for v in values)}", at=node.at)
    sizes = {role: params[name].shape for role, name in zip(roles, given, strict=True)}
    try:
        shape = row.shape([types[name].shape for name in values], sizes, node.attrs)
    except (ValueError, IndexError) as error:
        got = ", ".join(str(list(types[v].shape)) for v in values)
        raise GraphError(f"shapes do not fit: {error} (values {got}; params {sizes})", at=node.at) from None
    return TensorType(kind, shape)


def roles(node: Node, params: Mapping[str, Array]) -> dict[str, str]:
    """The params of `node`: role in the op table -> name in the graph."""
    row = OPS[node.op]
    return dict(zip([*row.params, row.optional], (n for n in node.inputs if n in params), strict=False))


def _check_attrs(node: Node, row: Op) -> None:
    known = dict(row.attrs or {})
    if extra := sorted(set(node.attrs) - set(known)):
        raise GraphError(f"'{node.op}' has no attribute {', '.join(extra)}", at=node.at)
    for name, kind in known.items():
        if name not in node.attrs:
            if name not in MAY_LACK:
                raise GraphError(f"'{node.op}' needs the attribute '{name}'", at=node.at)
            continue
        value = node.attrs[name]
        if not isinstance(value, kind) or (kind is tuple and not all(isinstance(i, int) for i in value)):  # type: ignore[union-attr]
            raise GraphError(f"attribute {name}={value!r} is not {kind.__name__}", at=node.at)
        if isinstance(value, float) and not math.isfinite(value):
            raise GraphError(f"attribute {name}={value!r} is not finite", at=node.at)
        if name in CHOICES and value not in CHOICES[name]:
            raise GraphError(f"attribute {name}={value!r} is none of {', '.join(CHOICES[name])}", at=node.at)


def _linear(kinds: Sequence[Kind]) -> Kind | None:
    """Analog stays analog, currents and spikes make a current; the two worlds do not mix."""
    if set(kinds) == {"analog"}:
        return "analog"
    return None if "analog" in kinds else "current"


def _same(kinds: Sequence[Kind]) -> Kind | None:
    return kinds[0] if len(set(kinds)) == 1 else _linear(kinds)


def _analog(kinds: Sequence[Kind]) -> Kind | None:
    return "analog" if set(kinds) == {"analog"} else None


def _unweighted(kinds: Sequence[Kind]) -> Kind | None:
    """Analog stays analog, spikes stay spikes; a current is no count."""
    return None if "current" in kinds else kinds[0]


def _none(kinds: Sequence[Kind]) -> Kind | None:
    return "analog"


SPIKING = (Stage.SPIKING, Stage.CONSTRAINED, Stage.PLACED)


def _curve(**attrs: type) -> Op:
    return Op(1, _analog, shapes.each, attrs=attrs)


CURVES: Mapping[str, Op] = {
    **dict.fromkeys(("abs", "ceil", "cos", "erf", "exp", "floor", "hardswish", "log", "mish", "reciprocal"), _curve()),
    **dict.fromkeys(("round", "sigmoid", "sign", "sin", "softplus", "softsign", "sqrt", "tanh", "trunc"), _curve()),
    "celu": _curve(alpha=float),
    "clip": _curve(min=float, max=float),
    "elu": _curve(alpha=float),
    "gelu": _curve(approximate=str),
    "hardsigmoid": _curve(alpha=float, beta=float),
    "roundfloat": _curve(digits=int, lowest=int, max=float, over=str),
    "selu": _curve(alpha=float, gamma=float),
    "swish": _curve(alpha=float),
    "thresholdedrelu": _curve(alpha=float),
    "wrap": _curve(bits=int, signed=int),
}
"""Elementwise functions of one value without params; their formulas are in snnc.sim.curves."""

OPS: Mapping[str, Op] = {
    "conv": Op(1, _linear, shapes.conv, ("weight",), "bias", CONV),
    "local": Op(1, _linear, shapes.local, ("weight",), "bias", CONV),
    "dense": Op(1, _linear, shapes.dense, ("weight",), "bias", {"bias_at": str}),
    "scale": Op(1, _linear, shapes.each, ("factor",), "bias", {"bias_at": str}),
    "mix": Op(1, _linear, shapes.mix, ("weight",), attrs={"axis": int}),
    "avgpool": Op(1, _linear, shapes.pool, attrs={**WINDOW, "kernel": tuple, "count_include_pad": int}),
    "add": Op(None, _linear, shapes.equal),
    "concat": Op(None, _same, shapes.concat, attrs={"axis": int}),
    "reshape": Op(1, _same, shapes.reshape, attrs={"shape": tuple}),
    "transpose": Op(1, _same, shapes.transpose, attrs={"perm": tuple}),
    "slice": Op(1, _same, shapes.slices, attrs={"starts": tuple, "sizes": tuple, "steps": tuple}),
    "pad": Op(1, _same, shapes.pad, attrs={"pads": tuple, "interior": tuple}),
    "expand": Op(1, _same, shapes.expand, attrs={"shape": tuple}),
    "gather": Op(1, _same, shapes.gather, attrs={"axis": int, "index": tuple}),
    "batchnorm": Op(1, _analog, shapes.batchnorm, ("gamma", "beta", "mean", "var"), attrs={"epsilon": float}),
    "relu": Op(1, _analog, shapes.each, attrs={"max": float}),
    "leakyrelu": Op(1, _analog, shapes.each, ("slope",)),
    **CURVES,
    "maxpool": Op(1, _unweighted, shapes.pool, attrs={**WINDOW, "kernel": tuple}),
    "softmax": Op(1, _analog, shapes.along_axis, attrs={"axis": int}),
    "logsoftmax": Op(1, _analog, shapes.along_axis, attrs={"axis": int}),
    "standardize": Op(1, _analog, shapes.standardized, attrs={"axes": tuple, "epsilon": float}),
    "reduce": Op(1, _analog, shapes.reduced, attrs={"axes": tuple, "by": str}),
    "argmax": Op(1, _analog, shapes.argmax, attrs={"axis": int, "last": int}),
    "quantize": Op(1, _analog, shapes.quantized, ("step", "zero"), attrs={"min": int, "max": int}),
    "constant": Op(0, _none, shapes.constant, ("value",)),
    "mul": Op(None, _analog, shapes.equal),
    "div": Op(2, _analog, shapes.equal),
    "power": Op(2, _analog, shapes.equal),
    "maximum": Op(None, _analog, shapes.equal),
    "minimum": Op(None, _analog, shapes.equal),
    "matmul": Op(2, _analog, shapes.matmul),
    "encode": Op(
        1,
        lambda k: "current" if k[0] == "analog" else None,
        shapes.each,
        attrs={"code": str, "seed": int, "max": float},
        stages=SPIKING,
    ),
    "lif": Op(
        1,
        lambda k: None if k[0] == "analog" else "spikes",
        shapes.each,
        ("alpha", "theta", "u0"),
        attrs={"reset": str},
        stages=SPIKING,
    ),
    "decode": Op(1, lambda k: None if k[0] == "analog" else "analog", shapes.each, attrs={"skip": int}, stages=SPIKING),
}

WEIGHTED = ("conv", "local", "dense", "scale")
"""The ops that hold synaptic weights: their first param."""

WIRING = ("reshape", "transpose", "slice", "pad", "expand", "gather")
"""The ops of one value that only lead events elsewhere: no weight, no bias, no sum."""

LINEAR = (*WEIGHTED, *WIRING, "mix", "avgpool", "add", "concat")
"""The ops that are synapses or wiring: they are linear in their values, up to a bias."""
