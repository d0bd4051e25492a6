"""The op table: for every op its inputs, params, attributes, the kinds it maps and the shape it makes.

Ops and what they compute per sample (linear ops also per time step), shapes without batch and time:

    conv       [C,H,W] -> [O,H',W']   cross-correlation, weight [O,C/group,kh,kw], bias [O]
    local      [C,H,W] -> [O,H',W']   conv with unshared kernels: weight [O,H',W',C/group,kh,kw], bias [O,H',W']
    dense      [F] -> [O]             weight [O,F], bias [O]
    scale      any                    x * factor + bias; factor and bias scalar, [C] or the whole shape
    avgpool    [C,H,W] -> [C,H',W']   mean over the window; attribute count_include_pad
    add        n equal shapes         sum
    concat     n shapes               along `axis` (0 = channels)
    reshape    any                    attribute `shape`
    batchnorm  [C,...]                gamma * (x - mean) / sqrt(var + epsilon) + beta
    relu       any                    min(max(x, 0), max)
    maxpool    [C,H,W] -> [C,H',W']
    softmax, logsoftmax               along `axis`
    encode     analog -> current      code `direct`: x/T at every step; `first-step`: x at t = 1, then 0 (PTL 3.4)
    lif        current -> spikes      snnc.sim.neurons; params alpha, theta, u0 scalar, [C] or the whole shape
    decode     current|spikes -> analog   sum over the T steps: aggregate potential, or spike count

A bias of a time-stepped op carries a total charge b: at the first step (`bias_at = first-step`), or b as stored at
every step (`bias_at = per-step`, after the pass bias-per-step has divided it by T).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from snnc.errors import GraphError

from .graph import Array, Attr, Kind, Node, Shape, Stage, TensorType

NAME = re.compile(r"[\w.@/\-]+", re.ASCII)
"""What names of values and params look like; the importer makes the user's names fit."""

Shapes = Mapping[str, Shape]
ShapeRule = Callable[[Sequence[Shape], Shapes, Mapping[str, Attr]], Shape]

WINDOW: Mapping[str, type] = {"strides": tuple, "pads": tuple, "dilations": tuple}
CONV: Mapping[str, type] = {**WINDOW, "group": int, "bias_at": str}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "bias_at": ("first-step", "per-step"),
    "code": ("direct", "first-step"),
    "reset": ("subtract", "subtract-decayed", "zero"),
}


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
    shapes = {role: params[name].shape for role, name in zip(roles, given, strict=True)}
    try:
        shape = row.shape([types[name].shape for name in values], shapes, node.attrs)
    except (ValueError, IndexError) as error:
        got = ", ".join(str(list(types[v].shape)) for v in values)
        raise GraphError(f"shapes do not fit: {error} (values {got}; params {dict(shapes)})", at=node.at) from None
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
            if name not in ("max", "bias_at"):
                raise GraphError(f"'{node.op}' needs the attribute '{name}'", at=node.at)
            continue
        value = node.attrs[name]
        if not isinstance(value, kind) or (kind is tuple and not all(isinstance(i, int) for i in value)):  # type: ignore[union-attr]
            raise GraphError(f"attribute {name}={value!r} is not {kind.__name__}", at=node.at)
        if isinstance(value, float) and not math.isfinite(value):
            raise GraphError(f"attribute {name}={value!r} is not finite", at=node.at)
        if name in CHOICES and value not in CHOICES[name]:
            raise GraphError(f"attribute {name}={value!r} is none of {', '.join(CHOICES[name])}", at=node.at)


def _ints(attrs: Mapping[str, Attr], name: str, count: int, least: int) -> tuple[int, ...]:
    value = attrs[name]
    if not isinstance(value, tuple) or len(value) != count or min(value) < least:
        raise ValueError(f"{name}={value} is not {count} integers of at least {least}")
    return value


def _windows(size: Shape, kernel: Shape, attrs: Mapping[str, Attr]) -> Shape:
    strides, dilations = _ints(attrs, "strides", 2, 1), _ints(attrs, "dilations", 2, 1)
    pads = _ints(attrs, "pads", 4, 0)
    out = []
    for axis in (0, 1):
        span = size[axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1)
        if kernel[axis] < 1 or span < 1:
            raise ValueError(f"a window of {kernel[axis]} does not fit into {size[axis]} with pads {pads}")
        out.append((span - 1) // strides[axis] + 1)
    return tuple(out)


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"needs [C,H,W], not {list(shape)}")
    return shape[0], shape[1], shape[2]


def _conv(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    channels, *size = _image(x[0])
    out, per_group, *kernel = p["weight"]
    group = a["group"]
    if len(kernel) != 2 or not isinstance(group, int) or group < 1 or out % group or per_group * group != channels:
        raise ValueError(f"weight {list(p['weight'])} in {group} groups against {channels} channels")
    made = (out, *_windows(tuple(size), tuple(kernel), a))
    return _with_bias(made, p, (out,))


def _local(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    channels, *size = _image(x[0])
    out, high, wide, per_group, *kernel = p["weight"]
    group = a["group"]
    if len(kernel) != 2 or not isinstance(group, int) or group < 1 or out % group or per_group * group != channels:
        raise ValueError(f"weight {list(p['weight'])} in {group} groups against {channels} channels")
    made = (out, *_windows(tuple(size), tuple(kernel), a))
    if made[1:] != (high, wide):
        raise ValueError(f"weight is for {[high, wide]} positions, the window has {list(made[1:])}")
    return _with_bias(made, p, made)


def _dense(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if len(p["weight"]) != 2 or x[0] != (p["weight"][1],):
        raise ValueError(f"weight {list(p['weight'])} against input {list(x[0])}")
    return _with_bias((p["weight"][0],), p, (p["weight"][0],))


def _with_bias(made: Shape, p: Shapes, bias: Shape) -> Shape:
    if p.get("bias", bias) != bias:
        raise ValueError(f"bias {list(p['bias'])} should be {list(bias)}")
    return made


def _each(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    """Elementwise with params that are scalars, [C], or the whole shape."""
    for role, shape in p.items():
        if shape not in ((), x[0][:1], x[0]):
            raise ValueError(f"{role} {list(shape)} is neither a scalar, [{x[0][0]}] nor {list(x[0])}")
    return x[0]


def _batchnorm(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if any(shape != x[0][:1] for shape in p.values()):
        raise ValueError(f"statistics for {x[0][0]} channels")
    return x[0]


def _pool(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    channels, *size = _image(x[0])
    return (channels, *_windows(tuple(size), _ints(a, "kernel", 2, 1), a))


def _add(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    if len(x) < 2 or len(set(x)) != 1:
        raise ValueError("needs two or more values of one shape")
    return x[0]


def _concat(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axis = a["axis"]
    if not isinstance(axis, int) or not 0 <= axis < len(x[0]):
        raise ValueError(f"axis {axis} of {list(x[0])}")
    if len({(s[:axis], s[axis + 1 :]) for s in x}) != 1:
        raise ValueError("sizes differ outside the axis")
    return (*x[0][:axis], sum(s[axis] for s in x), *x[0][axis + 1 :])


def _reshape(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    shape = a["shape"]
    if not isinstance(shape, tuple) or math.prod(shape) != math.prod(x[0]) or min(shape, default=1) < 0:
        raise ValueError(f"{list(x[0])} has not the size of {shape}")
    return shape


def _softmax(x: Sequence[Shape], p: Shapes, a: Mapping[str, Attr]) -> Shape:
    axis = a["axis"]
    if not isinstance(axis, int) or not 0 <= axis < len(x[0]):
        raise ValueError(f"axis {axis} of {list(x[0])}")
    return x[0]


def _linear(kinds: Sequence[Kind]) -> Kind | None:
    """Analog stays analog, currents and spikes make a current; the two worlds do not mix."""
    if set(kinds) == {"analog"}:
        return "analog"
    return None if "analog" in kinds else "current"


def _same(kinds: Sequence[Kind]) -> Kind | None:
    return kinds[0] if len(set(kinds)) == 1 else _linear(kinds)


def _analog(kinds: Sequence[Kind]) -> Kind | None:
    return "analog" if set(kinds) == {"analog"} else None


SPIKING = (Stage.SPIKING, Stage.CONSTRAINED, Stage.PLACED)

OPS: Mapping[str, Op] = {
    "conv": Op(1, _linear, _conv, ("weight",), "bias", CONV),
    "local": Op(1, _linear, _local, ("weight",), "bias", CONV),
    "dense": Op(1, _linear, _dense, ("weight",), "bias", {"bias_at": str}),
    "scale": Op(1, _linear, _each, ("factor",), "bias", {"bias_at": str}),
    "avgpool": Op(1, _linear, _pool, attrs={**WINDOW, "kernel": tuple, "count_include_pad": int}),
    "add": Op(None, _linear, _add),
    "concat": Op(None, _same, _concat, attrs={"axis": int}),
    "reshape": Op(1, _same, _reshape, attrs={"shape": tuple}),
    "batchnorm": Op(1, _analog, _batchnorm, ("gamma", "beta", "mean", "var"), attrs={"epsilon": float}),
    "relu": Op(1, _analog, _each, attrs={"max": float}),
    "maxpool": Op(1, _analog, _pool, attrs={**WINDOW, "kernel": tuple}),
    "softmax": Op(1, _analog, _softmax, attrs={"axis": int}),
    "logsoftmax": Op(1, _analog, _softmax, attrs={"axis": int}),
    "encode": Op(1, lambda k: "current" if k[0] == "analog" else None, _each, attrs={"code": str}, stages=SPIKING),
    "lif": Op(
        1,
        lambda k: None if k[0] == "analog" else "spikes",
        _each,
        ("alpha", "theta", "u0"),
        attrs={"reset": str},
        stages=SPIKING,
    ),
    "decode": Op(1, lambda k: None if k[0] == "analog" else "analog", _each, stages=SPIKING),
}

WEIGHTED = ("conv", "local", "dense", "scale")
"""The ops that hold synaptic weights: their first param."""

LINEAR = (*WEIGHTED, "avgpool", "add", "concat", "reshape")
"""The ops that are synapses or wiring: they are linear in their values, up to a bias."""
