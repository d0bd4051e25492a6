r"""Gains that stand in for biases: the neurons of a channel listen more, or less, to what they get.

    k = sum V I / sum I^2        over samples and positions where V = I + b is above 0, which is where neurons fire

is the k with the least sum of (k I - V)^2. A layer with weights k W and no bias fires as one with the threshold
theta / k would: dividing a neuron's weights, start potential and threshold by one number changes none of its spikes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph, Node, roles

from .torch import exact, forward, per_channel, tensors, to_tensor

MOST = 4.0
"""Gains lie between 1 / MOST and MOST: weights of few bits resolve no more."""


@dataclass(eq=False)
class Gain:
    """What one layer's gains follow from: one for the layer, a channel or a neuron, as its bias and its weights are.

    Attributes:
        node: the layer.
    """

    node: Node
    _sums: Tensor | None = field(default=None, init=False)

    def see(self, drive: Tensor, bias: Tensor) -> None:
        """Take note of V [N, ...], the mean over the steps, bias included."""
        rank = drive.ndim - 1
        own = drive - per_channel(bias, rank)
        fires = drive > 0
        parts = torch.stack([drive * own * fires, own * own * fires, drive * drive * fires]).double().sum(1)
        shape = bias.shape[:1] if self.node.op == "conv" else bias.shape
        alike = (*shape, *[1] * (rank - 1)) if len(shape) == 1 else tuple(shape)
        made = parts.sum_to_size(3, *alike).reshape(3, *shape)
        self._sums = made if self._sums is None else self._sums + made

    def found(self) -> tuple[Array, Array, float]:
        """The gains, whether they stand for the bias (else nothing drives the neurons), and how far off they are."""
        assert self._sums is not None
        cross, own, whole = self._sums.cpu().numpy()
        stands = (cross > 0) & (own > 0)
        gain = np.clip(np.where(stands, cross / np.where(own > 0, own, 1), 1), 1 / MOST, MOST)
        left = np.maximum(whole - 2 * gain * cross + gain**2 * own, 0)
        off = float(np.sqrt(left.sum() / whole.sum())) if whole.sum() else 0.0
        return np.asarray(gain, np.float32), stands, off


def gains(graph: Graph, layers: Iterable[Node], batches: Iterable[Array], device: str = "cpu") -> list[Gain]:
    """What stands for the biases of these layers of a spiking network, seen over batches [n, ...] of its one input."""
    found, params, (source,) = [Gain(node) for node in layers], tensors(graph, device), graph.inputs
    names = {gain.node.name for gain in found}
    with torch.inference_mode(), exact():
        for x in batches:
            values = forward(graph, params, {source: to_tensor(x, device)}, keep=lambda n: n.name in names)
            for gain in found:
                bias = params[roles(gain.node, graph.params)["bias"]]
                gain.see(values[gain.node.name].mean(0), bias)
    return found
