"""The oracle: numpy, float64, one time step after the other, written to be read.

Runs a graph of any stage. With integer weights, thresholds and inputs every sum is exact, so that any other
executor must agree with it spike for spike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from snnc.ir import Array, Graph, Node, attr_ints, roles

from .curves import CURVES, curve
from .encoding import events, totals
from .neurons import membrane

Params = dict[str, Array]


def run(graph: Graph, x: Mapping[str, Array], record: dict[str, Array] | None = None) -> dict[str, Array]:
    """The outputs of `graph` by the user's output names.

    Args:
        x: input arrays [N, ...], or streams of events [N, T, ...], by input name.
        record: when given, filled with every value: analog [N, ...], currents and spikes [T, N, ...].
    """
    x = {name: np.asarray(array, np.float64) for name, array in x.items()}
    values = totals(graph, x)
    for node in graph.nodes:
        if node.op == "constant":
            value = graph.params[node.inputs[0]].astype(np.float64)
            values[node.name] = np.broadcast_to(value, (len(next(iter(x.values()))), *node.type.shape))
        else:
            values[node.name] = _evaluate(graph, node, [values[name] for name in graph.values(node)], x)
    if record is not None:
        record.update(values)
    return {user: values[name] for user, name in graph.outputs.items()}


def _evaluate(graph: Graph, node: Node, inputs: list[Array], x: Mapping[str, Array]) -> Array:
    params = {role: graph.params[name].astype(np.float64) for role, name in roles(node, graph.params).items()}
    if node.op == "encode":
        return _encode(node, inputs[0], graph.steps, x)
    if node.op == "decode":
        skip = int(str(node.attrs.get("skip", 0)))
        return np.asarray(inputs[0][skip:].sum(axis=0) * (graph.steps / (graph.steps - skip)))
    if node.op == "lif":
        return _lif(node, inputs[0], params)
    if node.op == "maxpool" and node.type.kind == "spikes":
        return _spiking_maxpool(node, inputs[0])
    if node.type.kind == "analog":
        return _biased(node, KERNELS[node.op](node, inputs, params), params)
    made = []
    for t in range(graph.steps):
        current = KERNELS[node.op](node, [value[t] for value in inputs], params)
        charged = t == 0 or node.attrs.get("bias_at") == "per-step"
        made.append(_biased(node, current, params) if charged else current)
    return np.stack(made)


def _biased(node: Node, value: Array, params: Params) -> Array:
    return value + per_channel(params["bias"], value.ndim - 1) if "bias" in params else value


def per_channel(param: Array, rank: int) -> Array:
    """A param that is a scalar, [C] or the whole shape, made broadcastable to [N, C, ...] of rank + 1 axes."""
    return param.reshape(-1, *[1] * (rank - 1)) if param.ndim == 1 and rank > 1 else param


def _encode(node: Node, x: Array, steps: int, inputs: Mapping[str, Array]) -> Array:
    if node.attrs["code"] == "events":
        return np.moveaxis(inputs[node.inputs[0]], 1, 0)
    if node.attrs["code"] == "rate":
        return events(node, x, inputs, steps) * (float(str(node.attrs["max"])) / steps)
    if node.attrs["code"] == "direct":
        return np.repeat((x / steps)[None], steps, axis=0)
    return np.concatenate([x[None], np.zeros((steps - 1, *x.shape))])


def _lif(node: Node, current: Array, params: Params) -> Array:
    rank = current.ndim - 2
    alpha, theta, u0 = (per_channel(params[name], rank) for name in ("alpha", "theta", "u0"))
    u, s = np.broadcast_to(u0, current.shape[1:]), np.zeros(current.shape[1:])
    spikes = np.empty_like(current)
    for t, charge in enumerate(current):
        u = membrane(u, s, charge, alpha, theta, str(node.attrs["reset"]))
        s = (u >= theta).astype(np.float64)
        spikes[t] = s
    return spikes


def _windows(node: Node, x: Array, kernel: tuple[int, int], fill: float = 0.0) -> Array:
    """All windows of an image: [N,C,H,W] -> [N,C,H',W',kh,kw]."""
    top, left, bottom, right = attr_ints(node, "pads")
    (sh, sw), (dh, dw) = attr_ints(node, "strides"), attr_ints(node, "dilations")
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    span = (dh * (kernel[0] - 1) + 1, dw * (kernel[1] - 1) + 1)
    return sliding_window_view(padded, span, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]


def _grouped(node: Node, x: Array, weight: Array) -> Array:
    windows = _windows(node, x, (weight.shape[-2], weight.shape[-1]))
    group = int(str(node.attrs["group"]))
    n, _, high, wide, *kernel = windows.shape
    return windows.reshape(n, group, -1, high, wide, *kernel)


def _conv(node: Node, x: list[Array], p: Params) -> Array:
    windows = _grouped(node, x[0], p["weight"])
    weight = p["weight"].reshape(windows.shape[1], -1, *p["weight"].shape[1:])
    made = np.einsum("ngchwij,gocij->ngohw", windows, weight, optimize=True)
    return np.asarray(made.reshape(made.shape[0], -1, *made.shape[3:]))


def _local(node: Node, x: list[Array], p: Params) -> Array:
    windows = _grouped(node, x[0], p["weight"])
    weight = p["weight"].reshape(windows.shape[1], -1, *p["weight"].shape[1:])
    made = np.einsum("ngchwij,gohwcij->ngohw", windows, weight, optimize=True)
    return np.asarray(made.reshape(made.shape[0], -1, *made.shape[3:]))


def _avgpool(node: Node, x: list[Array], p: Params) -> Array:
    kernel = attr_ints(node, "kernel")
    total = _windows(node, x[0], (kernel[0], kernel[1])).sum(axis=(-2, -1))
    if node.attrs["count_include_pad"]:
        return np.asarray(total / math.prod(kernel))
    return np.asarray(total / _windows(node, np.ones_like(x[0]), (kernel[0], kernel[1])).sum(axis=(-2, -1)))


def _maxpool(node: Node, x: list[Array], p: Params) -> Array:
    kernel = attr_ints(node, "kernel")
    return np.asarray(_windows(node, x[0], (kernel[0], kernel[1]), fill=-np.inf).max(axis=(-2, -1)))


def _spiking_maxpool(node: Node, spikes: Array) -> Array:
    r"""A spike wherever the largest count so far in the window grows; spikes [T, N, ...].

        out[t] = M[t] - M[t-1],   M[t] = max_{i in window} c_i[t],   c_i[t] = sum_{s <= t} s_i[s],   M[0] = 0

    out is 0 or 1: a count never falls and grows by at most 1 a step, and so does the largest of several. The sum
    telescopes to M[T], the maximum of the final counts, exactly. Pads count 0, which no maximum of counts notices.
    """
    kernel = attr_ints(node, "kernel")
    count, most, made = np.zeros_like(spikes[0]), np.zeros((len(spikes[0]), *node.type.shape)), []
    for arrived in spikes:
        count = count + arrived
        now = _windows(node, count, (kernel[0], kernel[1])).max(axis=(-2, -1))
        made.append(now - most)
        most = now
    return np.stack(made)


def _batchnorm(node: Node, x: list[Array], p: Params) -> Array:
    gamma, beta, mean, var = (per_channel(p[name], x[0].ndim - 1) for name in ("gamma", "beta", "mean", "var"))
    return np.asarray(gamma * (x[0] - mean) / np.sqrt(var + float(str(node.attrs["epsilon"]))) + beta)


def _logsoftmax(node: Node, x: list[Array], p: Params) -> Array:
    axis = int(str(node.attrs["axis"])) + 1
    shifted = x[0] - x[0].max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _pad(node: Node, x: list[Array], p: Params) -> Array:
    pads, interior = attr_ints(node, "pads"), attr_ints(node, "interior")
    made = np.zeros((len(x[0]), *node.type.shape))
    inside = (
        slice(at, at + (n - 1) * (gap + 1) + 1, gap + 1)
        for at, n, gap in zip(pads, x[0].shape[1:], interior, strict=False)
    )
    made[(slice(None), *inside)] = x[0]
    return made


def _slice(node: Node, x: list[Array], p: Params) -> Array:
    made = x[0]
    parts = zip(*(attr_ints(node, name) for name in ("starts", "sizes", "steps")), strict=True)
    for axis, (start, size, step) in enumerate(parts, 1):
        made = np.take(made, start + step * np.arange(size), axis=axis)
    return made


def _mix(node: Node, x: list[Array], p: Params) -> Array:
    axis = _axis(node)
    return np.asarray(np.moveaxis(np.tensordot(x[0], p["weight"], axes=(axis, 1)), -1, axis))


def _standardize(node: Node, x: list[Array], p: Params) -> Array:
    axes = _axes(node)
    var = x[0].var(axis=axes, keepdims=True)
    return np.asarray((x[0] - x[0].mean(axis=axes, keepdims=True)) / np.sqrt(var + float(str(node.attrs["epsilon"]))))


def _reduce(node: Node, x: list[Array], p: Params) -> Array:
    return np.asarray(getattr(np, str(node.attrs["by"]))(x[0], axis=_axes(node)))


def _argmax(node: Node, x: list[Array], p: Params) -> Array:
    axis = _axis(node)
    if node.attrs["last"]:
        return np.asarray(x[0].shape[axis] - 1.0 - np.argmax(np.flip(x[0], axis), axis=axis))
    return np.asarray(np.argmax(x[0], axis=axis), np.float64)


def _quantize(node: Node, x: list[Array], p: Params) -> Array:
    step, zero = (per_channel(p[name], x[0].ndim - 1) for name in ("step", "zero"))
    least, most = (float(str(node.attrs[name])) for name in ("min", "max"))
    return np.asarray(np.clip(np.rint(x[0] / step) + zero, least, most))


def _leakyrelu(node: Node, x: list[Array], p: Params) -> Array:
    return np.where(x[0] < 0, x[0] * per_channel(p["slope"], x[0].ndim - 1), x[0])


def _axis(node: Node) -> int:
    return int(str(node.attrs["axis"])) + 1


def _axes(node: Node) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in attr_ints(node, "axes"))


def _folded(function: Callable[[Array, Array], Array]) -> Callable[[Node, list[Array], Params], Array]:
    return lambda node, x, p: functools.reduce(function, x)


class _Library:
    """numpy with the one function that torch has and numpy lacks."""

    erf = staticmethod(np.vectorize(math.erf, otypes=[np.float64]))

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)


LIBRARY = _Library()
"""What `snnc.sim.curves` computes with here."""

KERNELS: Mapping[str, Callable[[Node, list[Array], Params], Array]] = {
    "conv": _conv,
    "local": _local,
    "dense": lambda node, x, p: x[0] @ p["weight"].T,
    "scale": lambda node, x, p: x[0] * per_channel(p["factor"], x[0].ndim - 1),
    "avgpool": _avgpool,
    "add": lambda node, x, p: np.asarray(sum(x)),
    "concat": lambda node, x, p: np.concatenate(x, axis=int(str(node.attrs["axis"])) + 1),
    "reshape": lambda node, x, p: x[0].reshape(len(x[0]), *attr_ints(node, "shape")),
    "transpose": lambda node, x, p: x[0].transpose(0, *(axis + 1 for axis in attr_ints(node, "perm"))),
    "slice": _slice,
    "pad": _pad,
    "expand": lambda node, x, p: np.broadcast_to(x[0], (len(x[0]), *attr_ints(node, "shape"))),
    "gather": lambda node, x, p: np.take(x[0], attr_ints(node, "index"), axis=_axis(node)),
    "mix": _mix,
    "batchnorm": _batchnorm,
    "leakyrelu": _leakyrelu,
    **{op: lambda node, x, p: curve(LIBRARY, node.op, x[0], node.attrs) for op in CURVES},
    "standardize": _standardize,
    "reduce": _reduce,
    "argmax": _argmax,
    "quantize": _quantize,
    "mul": _folded(np.multiply),
    "div": lambda node, x, p: x[0] / x[1],
    "power": lambda node, x, p: x[0] ** x[1],
    "maximum": _folded(np.maximum),
    "minimum": _folded(np.minimum),
    "matmul": lambda node, x, p: x[0] @ x[1],
    "relu": lambda node, x, p: np.clip(x[0], 0, float(str(node.attrs.get("max", math.inf)))),
    "maxpool": _maxpool,
    "softmax": lambda node, x, p: np.exp(_logsoftmax(node, x, p)),
    "logsoftmax": _logsoftmax,
}
"""What each op computes per sample; linear ops without their bias."""
