r"""A layer whose neurons have too many inputs, as a tree of partial sums that spikes carry on.

The F inputs of a neuron are cut into G = ceil(F / k) groups. For each group an ON neuron counts the positive part of
its partial sum, an OFF neuron the negative part; the neuron itself reads the 2 G of them:

    y  =  w . x + b  =  sum_g w_g . x_g + b  ~  sum_g theta_g (N_on,g - N_off,g) + b          1 + 2 G neurons

Let C_g(t) be the charge w_g . x_g that has arrived by step t. ON integrates C_g, OFF -C_g, both from u0 = theta_g / 2
with reset by subtraction, at most one spike a step. As long as no step brings more than theta_g,

    N_on,g = floor((max_t C_g(t) + u0) / theta_g)     N_off,g = floor((max_t -C_g(t) + u0) / theta_g)   (0 <= t <= T)

(a spike once sent is not taken back), so that

    theta_g (N_on,g - N_off,g) - C_g(T)  =  r_g + e_g
    |r_g| <= theta_g      rounding (theta_g / 2 where C_g keeps one sign: 0 where theta_g divides every C_g(t))
    e_g = (max_t C_g - C_g(T)) - (max_t -C_g) , what came and went again; 0 where C_g(t) only rises or only falls

The sum of partial values is thus y itself where thresholds divide charges that do not turn back, and otherwise off
by at most sum_g theta_g + |e_g|. All of it happens within a step: no latency.

Groups are input channels with their whole kernels (or, where one kernel has more than k taps, parts of it), so that
all partial sums of a layer are one grouped convolution and one layer of neurons; a dense layer is one over 1 x 1
positions. Where 2 G is again too much, the last sum is cut in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Constraint, Draft, Graph, Node, roles

from .pursuit import mean_inputs
from .torch import KERNELS, exact

PARTIAL = "partial"
"""Suffix of the neurons that carry partial sums: NAME.partial."""
RATIOS = 7
"""Thresholds of a neuron's groups are 1/7, 2/7, ... of the largest: worths that 4-bit weights hold exactly."""
_IMAGE = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


@dataclass(frozen=True)
class Cut:
    """How the inputs of a layer's neurons are divided.

    Attributes:
        weight: of the layer as a convolution, [O, C, kh, kw]; C channels reach each neuron.
        mask: the connections that it has.
        group: of the convolution.
        channels, parts: channels in one part, parts of C (the last may be filled up).
        taps: parts of the kernel.
    """

    weight: Array
    mask: Array
    group: int
    channels: int
    parts: int
    taps: int

    @property
    def sums(self) -> int:
        """G, the partial sums of one neuron."""
        return self.parts * self.taps

    @property
    def neurons(self) -> int:
        """ON and OFF neurons at each position."""
        return 2 * self.sums * len(self.weight)

    def index(self) -> Array:
        """The channel of the input that each input channel of the partial sums is; fillers repeat the last one."""
        inner = np.minimum(np.arange(self.parts * self.channels), self.weight.shape[1] - 1)
        return np.asarray((np.arange(self.group)[:, None] * self.weight.shape[1] + inner).reshape(-1))

    def rows(self, array: Array) -> Array:
        """Weights or mask of the partial sums, [group, parts, taps, O/group, channels, kh, kw], zero where absent."""
        out, own, high, wide = self.weight.shape
        full = np.zeros((out, self.parts * self.channels, high, wide), array.dtype)
        full[:, :own] = array
        full = full.reshape(self.group, out // self.group, self.parts, self.channels, high, wide).swapaxes(1, 2)
        part = np.arange(high * wide) * self.taps // (high * wide)
        taps = (part == np.arange(self.taps)[:, None]).reshape(self.taps, 1, 1, high, wide)
        return np.asarray(full[:, :, None] * taps.astype(array.dtype))

    def gathered(self) -> Array:
        """The channels of the ON/OFF neurons in the order of the neurons that read them: [O, parts, taps, 2]."""
        made = np.arange(self.neurons).reshape(self.group, self.parts, self.taps, -1, 2)
        return np.asarray(made.transpose(0, 3, 1, 2, 4).reshape(-1))


def cut(graph: Graph, node: Node, k: int) -> Cut:
    """Divide the inputs of a layer into groups of at most k."""
    name = roles(node, graph.params)["weight"]
    weight, mask = graph.params[name], graph.constraints.get(name, Constraint()).mask
    shape = weight.shape if node.op == "conv" else (*weight.shape, 1, 1)
    mask = np.ones(shape, bool) if mask is None else mask.reshape(shape)
    size = shape[2] * shape[3]
    parts = math.ceil(shape[1] / max(k // size, 1))
    group = int(str(node.attrs.get("group", 1)))
    return Cut(
        weight.reshape(shape), mask, group, math.ceil(shape[1] / parts), parts, 1 if size <= k else -(-size // k)
    )


def thresholds(
    graph: Graph, cuts: dict[str, Cut], batches: Iterable[Array], percentile: float, device: str
) -> dict[str, Array]:
    """theta of every partial sum by layer, [group, parts, taps, O/group]: T spikes stand for a percentile of |C_g(T)|.

    Nearest rank over samples and positions, then rounded up to a 7th of the largest of the same neuron.
    """
    nodes = [graph[name] for name in cuts]
    top = {name: _Largest(1 - percentile / 100) for name in cuts}
    weights = {name: torch.tensor(_rows(c.rows(c.weight)), device=device) for name, c in cuts.items()}
    for inputs in mean_inputs(graph, nodes, batches, device):
        for node in nodes:
            x = inputs[graph.values(node)[0]]
            x = x.reshape(len(x), -1, 1, 1) if node.op == "dense" else x
            x = x[:, torch.tensor(cuts[node.name].index(), device=device)]
            with exact():
                top[node.name].add(KERNELS["conv"](_sums(node, cuts[node.name]), [x], {"weight": weights[node.name]}))
    return {name: _rounded(top[name].least(), cuts[name]) for name in cuts}


class _Largest:
    """The largest |values| of every channel that were seen, the given share of all."""

    def __init__(self, share: float) -> None:
        self.share, self.count, self.kept = share, 0, torch.zeros(0)

    def add(self, values: Tensor) -> None:
        """Take in values [n, C, H, W]."""
        rows = values.abs().transpose(0, 1).flatten(1)
        self.count += rows.shape[1]
        rows = torch.cat([self.kept, rows], 1) if len(self.kept) else rows
        self.kept = rows.topk(min(int(self.share * self.count) + 1, rows.shape[1]), 1, sorted=False).values

    def least(self) -> Array:
        """The smallest that is kept of every channel, [C]."""
        return np.asarray(self.kept.min(1).values.cpu().numpy())


def _rounded(theta: Array, cuts: Cut) -> Array:
    theta = theta.reshape(cuts.group, cuts.parts, cuts.taps, -1)
    most = theta.max(axis=(1, 2), keepdims=True)
    most = np.where(most > 0, most, theta.max() or 1.0)
    ratio = np.clip(np.ceil(theta / most * RATIOS - 1e-6), 1, RATIOS)
    return np.asarray(ratio * most / RATIOS, np.float32)


def split(graph: Graph, cuts: dict[str, Cut], theta: dict[str, Array]) -> Graph:
    """The graph with these layers as partial sums, ON/OFF neurons and a last sum under the layer's own name."""
    draft = Draft(graph)
    for name, divided in cuts.items():
        _split(draft, graph[name], divided, theta[name])
    return draft.finish()


def _split(draft: Draft, node: Node, cuts: Cut, theta: Array) -> None:
    """Add what stands for one layer."""
    value = draft.graph.values(node)[0]
    if node.op == "dense":
        value = draft.add(node, "image", "reshape", value, attrs={"shape": (cuts.weight.shape[1], 1, 1)})
    value = _gather(draft, node, "inputs", value, cuts.index())
    signs = np.array([1, -1], np.float32)
    sums = draft.add(
        node, "sums", "conv", value, attrs=_sums(node, cuts).attrs, weight=_rows(_paired(cuts.rows(cuts.weight), signs))
    )
    draft.constraints[f"{sums}.weight"] = Constraint(mask=_rows(_paired(cuts.rows(cuts.mask), np.array([True, True]))))
    per_neuron = np.repeat(theta.reshape(-1), 2)
    neurons = draft.add(
        node, PARTIAL, "lif", sums, attrs={"reset": "subtract"}, alpha=1.0, theta=per_neuron, u0=per_neuron / 2
    )
    value = _gather(draft, node, "order", neurons, cuts.gathered())
    own = roles(node, draft.graph.params)
    params = {"weight": (theta[..., None] * signs).reshape(-1)[cuts.gathered()].reshape(len(cuts.weight), -1, 1, 1)}
    if "bias" in own:
        params["bias"] = draft.graph.params[own["bias"]]
    timed = {"bias_at": node.attrs["bias_at"]} if "bias_at" in node.attrs else {}
    attrs = {**_IMAGE, "group": len(cuts.weight), **timed}
    last = draft.add(node, "sum" if node.op == "dense" else "", "conv", value, attrs=attrs, **params)
    draft.constraints[f"{last}.weight"] = Constraint(mask=np.ones(params["weight"].shape, bool))
    if node.op == "dense":
        draft.add(node, "", "reshape", last, attrs={"shape": (len(cuts.weight),)})


def _sums(node: Node, cuts: Cut) -> Node:
    """The grouped convolution that makes the partial sums of a layer."""
    attrs = {key: node.attrs.get(key, default) for key, default in _IMAGE.items()}
    return replace(node, op="conv", attrs={**attrs, "group": cuts.group * cuts.parts})


def _rows(array: Array) -> Array:
    """[..., C, kh, kw] -> [O, C, kh, kw]."""
    return np.ascontiguousarray(array.reshape(-1, *array.shape[-3:]))


def _paired(rows: Array, signs: Array) -> Array:
    """Every row for an ON and an OFF neuron, [..., 2, C, kh, kw]."""
    return np.asarray(rows[..., None, :, :, :] * signs[:, None, None, None])


def _gather(draft: Draft, node: Node, suffix: str, value: str, index: Array) -> str:
    """Channels in the order of `index`; nothing where that is the order they have."""
    if np.array_equal(index, np.arange(len(index))):
        return value
    return draft.add(node, suffix, "gather", value, attrs={"axis": 0, "index": tuple(map(int, index))})
