"""Orthogonal matching pursuit: the few inputs of a neuron that explain most of its drive, and their weights.

All of it follows from the mean and covariance of the inputs, collected in one sweep over calibration data; the
algebra is in the pass `limit-fan-in`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph, Node, roles

from .local import unfold
from .torch import exact, forward, tensors, to_tensor

CHUNK = 32
"""Samples, and neurons, at a time."""
RIDGE = 1e-3
"""Relative to the mean variance of the kept inputs."""
CANDIDATES = 8192
"""Inputs of one neuron that are looked at; of more, those with the largest |w| * deviation. Bounds the covariance."""


@dataclass
class Moments:
    """Sums over rows (samples, positions) of a layer's mean input per step: count, x [G, K], x x^T [G, K, K]."""

    keep: Tensor
    count: int = 0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Take in rows [G, n, K]."""
        rows = torch.gather(rows, 2, self.keep[:, None].expand(-1, rows.shape[1], -1))
        self.count += rows.shape[1]
        self.first = self.first + rows.double().sum(1)
        self.second = self.second + rows.transpose(1, 2) @ rows

    def centred(self) -> tuple[Tensor, Tensor]:
        """Mean [G, K] and covariance [G, K, K], float64 and float32."""
        mean = torch.as_tensor(self.first) / self.count
        outer = (mean[:, :, None] * mean[:, None, :]).float()
        return mean, torch.as_tensor(self.second) / self.count - outer


def mean_inputs(
    graph: Graph, layers: Iterable[Node], batches: Iterable[Array], device: str
) -> Iterator[dict[str, Tensor]]:
    """What every layer reads, mean over the steps, [n, ...] by the name of the value, batch after batch."""
    params, source = tensors(graph, device), next(iter(graph.inputs))
    read = {graph.values(n)[0] for n in layers}
    with torch.inference_mode(), exact():
        for x in batches:
            values = forward(graph, params, {source: to_tensor(x, device)}, keep=lambda n: n.name in read)
            yield {name: values[name].mean(0) for name in read}


def collect(graph: Graph, layers: list[Node], batches: Iterable[Array], device: str) -> dict[str, Moments]:
    """The moments of every layer's input over calibration data."""
    found: dict[str, Moments] = {}
    for inputs in mean_inputs(graph, layers, batches, device):
        for node in layers:
            rows = _rows(graph, node, inputs[graph.values(node)[0]])
            if node.name not in found:
                found[node.name] = Moments(_candidates(_weight(graph, node), rows))
            found[node.name].add(rows)
    return found


def _rows(graph: Graph, node: Node, x: Tensor) -> Tensor:
    """What the neurons of a layer listen to: [groups, samples * positions, inputs of one neuron]."""
    if node.op == "dense":
        return x[None]
    kernel = _weight(graph, node).shape[2:]
    return unfold(node, x, (kernel[0], kernel[1])).flatten(1, 2)


def _candidates(weight: Array, rows: Tensor) -> Tensor:
    """Indices [G, K] of the inputs that are looked at, ascending."""
    groups, _, size = rows.shape
    if size <= CANDIDATES:
        return torch.arange(size, device=rows.device).expand(groups, -1)
    reach = torch.tensor(np.abs(weight).reshape(groups, -1, size).max(axis=1), device=rows.device) * rows.std(1)
    return reach.topk(CANDIDATES).indices.sort().values


def prune(weight: Array, inputs: Moments, k: int, present: Array) -> tuple[Array, Array, Array]:
    """The refitted weights (zero where pruned), what to add to the bias at every step, and the mask.

    Connections that are not `present` stay absent.
    """
    mean, covariance = inputs.centred()
    groups, size = mean.shape[0], weight[0].size
    rows = torch.tensor(weight.reshape(groups, -1, size), device=mean.device)
    kept = torch.zeros_like(rows)
    exists = torch.tensor(present.reshape(groups, -1, size), device=mean.device)
    full = torch.zeros(groups, size, dtype=torch.float64, device=mean.device).scatter(1, inputs.keep, mean)
    for g in range(groups):
        near = rows[g][:, inputs.keep[g]]
        for at in range(0, len(near), CHUNK):
            allowed = exists[g, at : at + CHUNK][:, inputs.keep[g]]
            most = torch.full((len(allowed),), min(k, near.shape[1]))
            chosen, values = pursue(covariance[g], near[at : at + CHUNK] @ covariance[g], most, allowed)
            values = values * allowed.gather(1, chosen)
            kept[g, at : at + CHUNK].scatter_(1, inputs.keep[g][chosen], values)
    shift = ((rows - kept).double() * full[:, None]).sum(2).flatten()
    out = kept.reshape(weight.shape).cpu().numpy()
    return out, shift.float().cpu().numpy(), out != 0


def pursue(
    covariance: Tensor, drives: Tensor, most: Tensor, allowed: Tensor, ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit of drives: the inputs [O, k] kept of each, and their weights [O, k].

    Args:
        covariance: of the inputs, [K, K].
        drives: their covariance with the inputs, [O, K]; W times `covariance` for y = W x.
        most: inputs to keep of each, at most K, [O], on the CPU; k is the largest of them, and what a drive with fewer
            has behind them is input 0 with weight 0.
        allowed: inputs that a drive may keep, [O, K]; others only where these run out.
        ridge: relative to the mean variance of the kept inputs.
    """
    deviation = covariance.diagonal().clamp_min(1e-12).sqrt()
    k = int(most.max())
    chosen = torch.zeros(len(drives), k, dtype=torch.long, device=drives.device)
    values = torch.zeros(len(drives), k, device=drives.device)
    for s in range(k):
        rows = (most > s).nonzero()[:, 0].to(drives.device)
        before, wanted = chosen[rows, :s], drives[rows]
        left = wanted - torch.einsum("osk,os->ok", covariance[before], values[rows, :s])
        gain = (left / deviation).abs().masked_fill(~allowed[rows], -1.0).scatter(1, before, -2.0)
        now = torch.cat([before, gain.argmax(1, keepdim=True)], 1)
        chosen[rows, : s + 1], values[rows, : s + 1] = now, _refit(covariance, wanted, now, ridge)
    return chosen, values


def _refit(covariance: Tensor, drives: Tensor, chosen: Tensor, ridge: float) -> Tensor:
    """Ridge regression of every drive on its chosen inputs, [O, s]."""
    among = covariance[chosen[:, :, None], chosen[:, None, :]].double()
    size = chosen.shape[1]
    penalty = ridge * among.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    among = among + penalty[:, None, None] * torch.eye(size, device=among.device, dtype=among.dtype)
    wanted = drives.gather(1, chosen).double()
    refitted: Tensor = torch.linalg.solve(among, wanted[..., None])
    return refitted[..., 0].float()


def _weight(graph: Graph, node: Node) -> Array:
    return graph.params[roles(node, graph.params)["weight"]]
