"""The differentiable executor: torch, CPU or CUDA, time folded into the batch.

Layer by layer over all T steps: linear ops run once on [T*N, ...], only the neurons loop over time. A value that is
the same at every step (the image, and the first layer's current under direct encoding) is held once, with a time
axis of length 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.ir import Array, Graph, Node, Samples, attr_ints, last_read, params_of

from .curves import CURVES, curve
from .encoding import events, totals
from .local import local
from .neurons import Surrogate
from .placement import first, homes, moved, places
from .pooling import apart, pool
from .window import fire

Tensors = Mapping[str, Tensor]
Normalize = Mapping[str, Callable[[Tensor], Tensor]]
"""What becomes of some values at every time step: by node name, from [N, ...] to [N, ...]."""
CHUNK = 256
"""Samples that run at once in `run`, at most."""
LARGEST = 2**24
"""Bytes that the largest value of the samples that run at once on a CPU may have: memory for what is larger comes from
the system anew every time, which took half of the time of a VGG-11."""


@contextmanager
def exact() -> Iterator[None]:
    """No Winograd, FFT or TF32 convolution inside: integer-valued sums below 2**24 stay exact in float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def tensors(graph: Graph, device: str = "cpu") -> dict[str, Tensor]:
    """The graph's params as tensors (copies: the graph's own arrays are write-protected).

    Args:
        device: where they lie; of several, "cuda:0,cuda:1", each has its part (`snnc.sim.placement`).
    """
    home = homes(graph, device)
    return {name: torch.tensor(array).to(home[name]) for name, array in graph.params.items()}


def run(graph: Graph, x: Mapping[str, Samples], device: str = "cpu", chunk: int = 0) -> dict[str, Array]:
    """The outputs of `graph` by the user's output names, without gradients.

    Args:
        x: input arrays [N, ...], or streams of events [N, T, ...], by input name.
        chunk: samples at a time; bounds the memory; 0: see `at_once`.
    """
    params, chunk = tensors(graph, device), chunk or at_once(graph, device)
    count = len(next(iter(x.values())))
    parts: dict[str, list[Array]] = {user: [] for user in graph.outputs}
    with torch.inference_mode(), exact():
        for start in range(0, count, chunk):
            batch = {name: to_tensor(array[start : start + chunk], device) for name, array in x.items()}
            values = forward(graph, params, batch, keep=lambda node: False)
            for user, name in graph.outputs.items():
                parts[user].append(values[name].cpu().numpy())
    return {user: np.concatenate(found) for user, found in parts.items()}


def at_once(graph: Graph, device: str = "cpu") -> int:
    """How many samples run at once: `CHUNK`, or on a CPU fewer, of networks whose values are large."""
    sizes = [math.prod(node.type.shape) * (1 if node.type.kind == "analog" else graph.steps) for node in graph.nodes]
    fit = LARGEST // (4 * max(sizes, default=1) or 1)
    return max(1, min(CHUNK, fit)) if first(device) == "cpu" else CHUNK


def to_tensor(array: Array, device: str = "cpu") -> Tensor:
    """A float32 tensor on `device`, on the first of several."""
    return torch.as_tensor(array).to(first(device), torch.float32)


def forward(
    graph: Graph,
    params: Tensors,
    x: Tensors,
    *,
    width: float = 1.0,
    surrogate: Surrogate = "boxcar",
    detach: bool = False,
    keep: Callable[[Node], bool] | None = None,
    before: Callable[[Node, Tensor], Tensor] | None = None,
    normalize: Normalize | None = None,
) -> dict[str, Tensor]:
    """Run `graph` on tensors, differentiable in `params`: every value, analog [N, ...], time-stepped [T or 1, N, ...].

    Args:
        params: by param name; may require gradients.
        x: inputs [N, ...], or streams of events [N, T, ...], by input name; totals are given back.
        width: the surrogate's width relative to theta (LTL eq. 8).
        surrogate: see `snnc.sim.neurons`.
        detach: layers learn alone: what a layer of neurons hands on carries no gradient (LTL, section 2.2).
            What is given back are the undetached spikes.
        keep: which values to give back besides the outputs; all by default.
        before: told of every layer of neurons and its current before it fires, gives back the current that it gets;
            may replace params that are read later.
        normalize: what becomes of values that have a time axis, bias included, before anybody reads them.
    """
    values: dict[str, Tensor] = totals(graph, x)
    handed = dict(values)
    finished, own_params = last_read(graph), params_of(graph)
    outputs = set(graph.outputs.values())
    count, place = len(next(iter(x.values()))), places(graph, params, x)
    for node in graph.nodes:
        read, here = graph.values(node), place.get(node.name)
        handed.update({name: moved(handed[name], here) for name in read})
        if before is not None and node.op == "lif":
            handed[read[0]] = before(node, handed[read[0]])
        own = {role: moved(params[name], here) for role, name in own_params[node.name].items()}
        if node.op == "encode":
            made = encode(node, handed[read[0]], graph.steps, x)
        elif node.op == "lif":
            made = _lif(node, handed[read[0]], own, graph.steps, width, surrogate)
        else:
            made = evaluate(node, [handed[name] for name in read], own, count, graph.steps)
        if normalize is not None and node.name in normalize:
            made = torch.stack([normalize[node.name](value) for value in made])
        values[node.name] = made
        handed[node.name] = made.detach() if detach and node.op == "lif" else made
        for name in finished[node.name]:
            del handed[name]
            if keep is not None and name not in outputs and name in graph and not keep(graph[name]):
                del values[name]
    return values


def evaluate(node: Node, inputs: list[Tensor], params: Tensors, count: int, steps: int) -> Tensor:
    """What a node other than neurons and encoders makes: analog [N, ...], else [T, N, ...], or [1, N, ...] of such.

    Args:
        inputs: values [N, ...], or with a time axis of T or 1.
        params: by role.
        count: N.
        steps: T; a bias that comes at the first step comes at the first of these.
    """
    if node.op == "decode":
        return decode(node, inputs[0], steps)
    if node.op == "maxpool" and node.type.kind == "spikes":
        return _spiking_maxpool(node, inputs[0])
    if node.op == "constant":
        return params["value"].expand(count, *node.type.shape)
    if node.op == "reshape" and node.type.kind != "analog":
        return inputs[0].reshape(*inputs[0].shape[:2], *node.type.shape)
    if node.type.kind == "analog":
        return biased(node, KERNELS[node.op](node, inputs, params), params)
    long = max(value.shape[0] for value in inputs)
    flat = [value.expand(long, *value.shape[1:]).flatten(0, 1) for value in inputs]
    made = KERNELS[node.op](node, flat, params).reshape(long, -1, *node.type.shape)
    if "bias" not in params or node.attrs.get("bias_at") == "per-step":
        return biased(node, made, params)
    rest = made[1:] if long > 1 else made.expand(steps, *made.shape[1:])[1:]
    return torch.cat([biased(node, made[:1], params), rest])


def biased(node: Node, value: Tensor, params: Tensors) -> Tensor:
    """`value` [..., C, ...] plus the op's bias, if it has one."""
    return value + per_channel(params["bias"], len(node.type.shape)) if "bias" in params else value


def per_channel(param: Tensor, rank: int) -> Tensor:
    """A param that is a scalar, [C] or the whole shape, made broadcastable to [..., C, ...] of `rank` axes."""
    return param.reshape(-1, *[1] * (rank - 1)) if param.ndim == 1 and rank > 1 else param


def encode(node: Node, x: Tensor, steps: int, inputs: Tensors) -> Tensor:
    """The current a value x [N, ...] makes: [1, N, ...] if it is constant, else [T, N, ...].

    Args:
        inputs: the network's inputs as they were given: what chance depends on, and streams of events.
    """
    if node.attrs["code"] == "events":
        return inputs[node.inputs[0]].transpose(0, 1)
    if node.attrs["code"] == "direct":
        return (x / steps)[None]
    if node.attrs["code"] == "rate":
        samples = {name: _array(value) for name, value in inputs.items()}
        made = torch.tensor(events(node, _array(x), samples, steps), device=x.device).to(x.dtype)
        made = made * (float(str(node.attrs["max"])) / steps)
        return made + (x - x.detach()) / steps if x.requires_grad else made
    return torch.cat([x[None], x.new_zeros(steps - 1, *x.shape)])


def _array(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().numpy())


def delay(node: Node, steps: int) -> tuple[int, float]:
    """The steps that a `decode` skips, and the factor T / (T - skip) that makes up for them."""
    skip = int(str(node.attrs.get("skip", 0)))
    return skip, steps / (steps - skip)


def decode(node: Node, x: Tensor, steps: int) -> Tensor:
    """What a `decode` makes of a value [T or 1, N, ...]: its total, [N, ...]."""
    if len(x) == 1:
        return x[0] * steps
    skip, more = delay(node, steps)
    return x[skip:].sum(0) * more if skip else x.sum(0)


def _lif(node: Node, current: Tensor, params: Tensors, steps: int, width: float, surrogate: Surrogate) -> Tensor:
    alpha, theta, u0 = (per_channel(params[name], current.ndim - 2) for name in ("alpha", "theta", "u0"))
    return fire(current, alpha, theta, u0, steps, str(node.attrs["reset"]), width, surrogate)


def _padded(node: Node, x: Tensor, fill: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """Symmetric pads are left to torch's own kernels; others are made here."""
    top, left, bottom, right = attr_ints(node, "pads")
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=fill), (0, 0)


def _conv(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    image, pads = _padded(node, x[0])
    group = int(str(node.attrs["group"]))
    return F.conv2d(image, p["weight"], None, attr_ints(node, "strides"), pads, attr_ints(node, "dilations"), group)


def _avgpool(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    if node.type.kind != "analog" and apart(node):
        return pool(x[0], attr_ints(node, "kernel"))
    top, left, bottom, right = attr_ints(node, "pads")
    total = _window_sum(node, F.pad(x[0], (left, right, top, bottom)) if any(attr_ints(node, "pads")) else x[0])
    if node.attrs["count_include_pad"] or not any(attr_ints(node, "pads")):
        return total / math.prod(attr_ints(node, "kernel"))
    return total / _window_sum(node, F.pad(torch.ones_like(x[0][:1, :1]), (left, right, top, bottom)))


def _window_sum(node: Node, image: Tensor) -> Tensor:
    kernel, strides, dilations = (attr_ints(node, name) for name in ("kernel", "strides", "dilations"))
    if dilations == (1, 1):
        return F.avg_pool2d(image, kernel, strides, divisor_override=1)
    ones = image.new_ones(image.shape[1], 1, *kernel)
    return F.conv2d(image, ones, None, strides, 0, dilations, image.shape[1])


def _maxpool(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    return largest(node, x[0], -torch.inf)


def _spiking_maxpool(node: Node, spikes: Tensor) -> Tensor:
    """The formula of the reference, all steps at once. The gradient goes where the largest count is at each step:

    the total's to every spike of the position that wins in the end (the first of equals), as in a max pool of counts.
    """
    most = largest(node, spikes.cumsum(0).flatten(0, 1)).reshape(*spikes.shape[:2], *node.type.shape)
    return torch.cat([most[:1], most[1:] - most[:-1]])


def largest(node: Node, x: Tensor, fill: float = 0.0) -> Tensor:
    """The maximum of every window of images x [N, C, H, W], pads being `fill`; of counts, which are none below 0, 0."""
    top, left, bottom, right = attr_ints(node, "pads")
    image = F.pad(x, (left, right, top, bottom), value=fill)
    return F.max_pool2d(image, attr_ints(node, "kernel"), attr_ints(node, "strides"), 0, attr_ints(node, "dilations"))


def _batchnorm(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    gamma, beta, mean, var = (per_channel(p[name], x[0].ndim - 1) for name in ("gamma", "beta", "mean", "var"))
    return gamma * (x[0] - mean) / torch.sqrt(var + float(str(node.attrs["epsilon"]))) + beta


def _axis(node: Node) -> int:
    return int(str(node.attrs["axis"])) + 1


def _pad(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    pads, interior = attr_ints(node, "pads"), attr_ints(node, "interior")
    made = x[0].new_zeros(len(x[0]), *node.type.shape)
    inside = [
        slice(pads[i], pads[i] + (size - 1) * (interior[i] + 1) + 1, interior[i] + 1)
        for i, size in enumerate(x[0].shape[1:])
    ]
    made[(slice(None), *inside)] = x[0]
    return made


def _slice(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    made = x[0]
    for axis, (start, size, step) in enumerate(
        zip(*(attr_ints(node, name) for name in ("starts", "sizes", "steps")), strict=True), 1
    ):
        if step > 0:
            made = made.narrow(axis, start, (size - 1) * step + 1)[(*[slice(None)] * axis, slice(None, None, step))]
        else:
            index = torch.arange(start, start + size * step, step, device=made.device)
            made = made.index_select(axis, index)
    return made


def _gather(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    return x[0].index_select(_axis(node), torch.tensor(attr_ints(node, "index"), device=x[0].device))


def _mix(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    return (x[0].movedim(_axis(node), -1) @ p["weight"].T).movedim(-1, _axis(node))


def _standardize(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    axes = [axis + 1 for axis in attr_ints(node, "axes")]
    if not axes:
        return torch.zeros_like(x[0])
    centred = x[0] - x[0].mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + float(str(node.attrs["epsilon"])))


def _reduce(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    axes = [axis + 1 for axis in attr_ints(node, "axes")]
    if not axes:
        return x[0]
    if node.attrs["by"] == "prod":
        made = x[0]
        for axis in sorted(axes, reverse=True):
            made = made.prod(axis)
        return made
    by = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin}
    return torch.as_tensor(by[str(node.attrs["by"])](x[0], axes))  # type: ignore[operator]


def _argmax(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    """torch does not say which of equals it finds: the first of them is looked for."""
    axis, size = _axis(node), x[0].shape[_axis(node)]
    largest = x[0] == x[0].amax(axis, keepdim=True)
    order = torch.arange(size, device=x[0].device)
    order = (order + 1 if node.attrs["last"] else size - order).reshape(-1, *[1] * (x[0].ndim - axis - 1))
    found = (largest * order).amax(axis)
    return (found - 1 if node.attrs["last"] else size - found).to(x[0].dtype)


def _quantize(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    step, zero = (per_channel(p[name], x[0].ndim - 1) for name in ("step", "zero"))
    return (torch.round(x[0] / step) + zero).clamp(float(str(node.attrs["min"])), float(str(node.attrs["max"])))


def _leakyrelu(node: Node, x: list[Tensor], p: Tensors) -> Tensor:
    return torch.where(x[0] < 0, x[0] * per_channel(p["slope"], x[0].ndim - 1), x[0])


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node, list[Tensor], Tensors], Tensor]:
    return lambda node, x, p: functools.reduce(function, x)


KERNELS: Mapping[str, Callable[[Node, list[Tensor], Tensors], Tensor]] = {
    "conv": _conv,
    "local": lambda node, x, p: local(node, x[0], p["weight"]),
    "dense": lambda node, x, p: x[0] @ p["weight"].T,
    "scale": lambda node, x, p: x[0] * per_channel(p["factor"], x[0].ndim - 1),
    "avgpool": _avgpool,
    "add": lambda node, x, p: torch.stack(x).sum(0) if len(x) > 2 else x[0] + x[1],
    "concat": lambda node, x, p: torch.cat(x, _axis(node)),
    "reshape": lambda node, x, p: x[0].reshape(len(x[0]), *attr_ints(node, "shape")),
    "transpose": lambda node, x, p: x[0].permute(0, *(axis + 1 for axis in attr_ints(node, "perm"))),
    "slice": _slice,
    "pad": _pad,
    "expand": lambda node, x, p: x[0].expand(len(x[0]), *attr_ints(node, "shape")),
    "gather": _gather,
    "mix": _mix,
    "batchnorm": _batchnorm,
    "leakyrelu": _leakyrelu,
    **{op: lambda node, x, p: curve(torch, node.op, x[0], node.attrs) for op in CURVES},
    "standardize": _standardize,
    "reduce": _reduce,
    "argmax": _argmax,
    "quantize": _quantize,
    "mul": _folded(torch.mul),
    "div": lambda node, x, p: x[0] / x[1],
    "power": lambda node, x, p: x[0] ** x[1],
    "maximum": _folded(torch.maximum),
    "minimum": _folded(torch.minimum),
    "matmul": lambda node, x, p: x[0] @ x[1],
    "relu": lambda node, x, p: x[0].clamp(0, float(str(node.attrs.get("max", float("inf"))))),
    "maxpool": _maxpool,
    "softmax": lambda node, x, p: torch.softmax(x[0], _axis(node)),
    "logsoftmax": lambda node, x, p: torch.log_softmax(x[0], _axis(node)),
}
"""What each op computes per sample; linear ops without their bias."""
