r"""How far a membrane can be charged, whatever the spikes: interval bounds, and the bits that an accumulator needs.

Intervals run through the synapses with the signs of the weights apart: where a value lies in [l, h] with l <= 0 <= h,

    P = W+ h + W- l   is the largest,   N = W+ l + W- h   the smallest partial sum of W x, in any order of arrival

(W+ and W- the positive and the negative part). Spikes lie in [0, 1], encoded inputs in [-m, m] / T, streams of events
in [-m, m]. With P(t), N(t) including the biases of step t, a = alpha, in the convention of `snnc.sim.neurons`,
potentials U[t] lie in [L(t), M(t)]:

    M(t) = P(t) + R(t-1)                R(0) = a u0, then the largest that the reset leaves of M = M(t):
                                            subtract           max(a min(M, theta), a M - theta)
                                            subtract-decayed   a max(min(M, theta), M - theta)
                                            zero               a min(M, theta)
    L(t) = N(t) + min(a L(t-1), Q)      L(0) = u0, Q = -(1 - a) theta (subtract), 0 (else)

Sums may be taken before the reset is subtracted, so that the accumulator holds up to a M(t-1) + P(t) (zero: M(t)), and
never less than L(t). A threshold must fit too: it is compared with what the accumulator holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.ir import LINEAR, WEIGHTED, Graph, Node, roles

from .cost import first_role
from .torch import KERNELS, exact, per_channel

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Reach:
    """The values that an accumulator may hold, of all neurons of a layer."""

    lowest: float
    highest: float

    @property
    def bits(self) -> int:
        """The width in two's complement that holds the integers from lowest to highest."""
        low, high = int(np.floor(self.lowest)), int(np.ceil(self.highest))
        return max((-low - 1).bit_length() if low < 0 else 0, max(high, 0).bit_length()) + 1


def accumulators(graph: Graph, largest_input: float) -> dict[str, Reach]:
    """The reach of every layer of neurons, in the units that the graph is in; `largest_input`: m, of |x|."""
    flows: dict[str, list[Interval]] = {}
    found: dict[str, Reach] = {}
    params = {name: torch.tensor(array, dtype=torch.float64) for name, array in graph.params.items()}
    with torch.inference_mode(), exact():
        for node in graph.nodes:
            read = graph.values(node)
            if node.op == "encode":
                flows[node.name] = _encoded(node, graph.steps, largest_input)
            elif node.op == "lif":
                found[node.name] = _reach(graph, node, flows[read[0]], params)
                flows[node.name] = _spikes(node)
            elif node.op == "maxpool" and node.type.kind == "spikes":
                flows[node.name] = _spikes(node)
            elif node.op in LINEAR and node.type.kind != "analog":
                flows[node.name] = [
                    _through(graph, node, [flows[n][at] for n in read], params, at == 0) for at in range(2)
                ]
    return found


def _encoded(node: Node, steps: int, largest: float) -> list[Interval]:
    """An encoded input at the first step, and at every other."""
    full = torch.ones(node.type.shape, dtype=torch.float64)
    if node.attrs["code"] == "first-step":
        return [(-full * largest, full * largest), (0 * full, 0 * full)]
    event = largest if node.attrs["code"] == "events" else float(str(node.attrs.get("max", largest))) / steps
    return [(-full * event, full * event)] * 2


def _spikes(node: Node) -> list[Interval]:
    return [(torch.zeros(node.type.shape), torch.ones(node.type.shape))] * 2


def _through(graph: Graph, node: Node, inputs: list[Interval], params: Mapping[str, Tensor], first: bool) -> Interval:
    """Smallest and largest partial sum behind a linear node, bias included."""
    low, high = ([pair[side][None].double() for pair in inputs] for side in range(2))
    own = {role: params[name] for role, name in roles(node, graph.params).items()}
    bias = own.pop("bias", None)
    role = first_role(node) if node.op in WEIGHTED else "weight"
    if role in own:
        plus, minus = ({**own, role: own[role].clamp(min=0)}, {**own, role: own[role].clamp(max=0)})
        kernel = KERNELS[node.op]
        least = kernel(node, low, plus) + kernel(node, high, minus)
        most = kernel(node, high, plus) + kernel(node, low, minus)
    else:
        least, most = KERNELS[node.op](node, low, own), KERNELS[node.op](node, high, own)
    least, most = least[0], most[0]
    if bias is not None and (first or node.attrs.get("bias_at") == "per-step"):
        charge = per_channel(bias, len(node.type.shape))
        least, most = least + charge.clamp(max=0), most + charge.clamp(min=0)
    return least, most


def _reach(graph: Graph, node: Node, current: list[Interval], params: Mapping[str, Tensor]) -> Reach:
    """Run the recursion of the module over all steps."""
    rank = len(node.type.shape)
    own = {role: per_channel(params[name], rank) for role, name in roles(node, graph.params).items()}
    alpha, theta, reset = own["alpha"], own["theta"], str(node.attrs["reset"])
    floor = (alpha - 1) * theta if reset == "subtract" else torch.zeros_like(theta)
    least = most = own["u0"].expand(node.type.shape)
    left = alpha * most
    lowest, highest = least, torch.maximum(most, theta)
    for step in range(graph.steps):
        low, high = current[min(step, 1)]
        before, most = most, high + left
        least = low + torch.minimum(alpha * least, floor)
        peak = most if reset == "zero" else torch.maximum(most, high + alpha * before)
        lowest, highest = torch.minimum(lowest, least), torch.maximum(highest, peak)
        left = _left(most, alpha, theta, reset)
    return Reach(float(lowest.min()), float(highest.max()))


def _left(most: Tensor, alpha: Tensor, theta: Tensor, reset: str) -> Tensor:
    """R: the largest that leak and reset leave of a potential of at most `most`."""
    if reset == "zero":
        return alpha * torch.minimum(most, theta)
    if reset == "subtract":
        return torch.maximum(alpha * torch.minimum(most, theta), alpha * most - theta)
    return alpha * torch.maximum(torch.minimum(most, theta), most - theta)
