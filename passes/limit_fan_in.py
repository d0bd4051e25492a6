r"""Prune every neuron's inputs to as many as the hardware can connect, and let those stand in for the rest.

A neuron's drive is y = w . x + b. Of its n inputs k are kept, one after the other, each the one that explains most of
what is left of y over calibration data (orthogonal matching pursuit); then the kept weights and the bias are refitted:

    min over w', b' of   E (w . x - w' . x_kept - b')^2 + ridge * |w'|^2

Inputs of a network are strongly correlated, so that few of them carry most of a drive: on an MNIST CNN whose dense
layer goes from 11,616 inputs to 64, keeping the largest |w| * rms(x) leaves 11 % accuracy, refitting those 86 %, and
pursuit 97 % (the analog network, no training; 3,000 calibration images, judged on 2,000 others).
All of it follows from the mean and covariance of x, collected in one sweep.

The pruned connections become a mask that every later trainer keeps. An input behind a pool counts as often as spikes
can reach it at one time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass
from snnc.sim.cost import fan_in, multiplicity
from snnc.sim.torch import exact, forward, tensors, to_tensor, unfold

CHUNK = 32
"""Samples, and neurons, at a time."""
LAYERS = ("conv", "dense")
RIDGE = 1e-3
"""Relative to the mean variance of the kept inputs."""
CANDIDATES = 8192
"""Inputs of one neuron that are looked at; of more, those with the largest |w| * deviation. Bounds the covariance."""


@dataclass(frozen=True)
class LimitFanIn(Pass):
    """Keep `k` connections of every neuron, refitted to stand in for the rest.

    Attributes:
        k: connections per neuron; 64 on DYNAP-SE chips.
        samples: calibration samples from the beginning of the training part.
    """

    name = "limit-fan-in"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    k: int = 64
    samples: int = 4000

    def __post_init__(self) -> None:
        if self.k < 1 or self.samples < 1:
            raise PipelineError(f"'{self.name}' cannot work with k={self.k}, samples={self.samples}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        layers = [n for n in graph.nodes if n.op in LAYERS and n.type.kind == "current" and graph.feeds(n.name, "lif")]
        share = _shares(graph, layers, self.k)
        room = {n.name: self._room(graph, n, share[n.name]) for n in layers}
        wide = [n for n in layers if _weight(graph, n)[0].size > room[n.name]]
        inputs = _collect(graph, wide, ctx, self.samples, self.name) if wide else {}
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        nodes = {n.name: n for n in graph.nodes}
        for node in layers:
            own = roles(node, graph.params)
            weight = graph.params[own["weight"]]
            before = graph.constraints.get(own["weight"], Constraint())
            mask = np.ones(weight.shape, bool) if before.mask is None else before.mask
            if node in wide:
                ctx.progress(self.name, wide.index(node), len(wide))
                kept, shift, mask = _prune(weight, inputs[node.name], room[node.name], mask)
                kept = replace(before, mask=mask).project(kept)
                if node.attrs.get("bias_at") == "first-step":
                    shift = shift * np.float32(graph.steps)
                bias = f"{node.name}.bias"
                params |= {own["weight"]: kept, bias: graph.params[own["bias"]] + shift if "bias" in own else shift}
                nodes[node.name] = replace(
                    node, inputs=(graph.values(node)[0], own["weight"], bias)
                ).with_attrs(bias_at=node.attrs.get("bias_at", "per-step"))  # fmt: skip
                ctx.note(
                    f"{node.name}: fan-in {weight[0].size} -> {room[node.name]}, {1 - mask.mean():.0%} of weights cut"
                )
            constraints[own["weight"]] = replace(before, mask=mask)
        new = graph.edit(nodes.values(), params=params, constraints=constraints, stage=Stage.CONSTRAINED)
        done = graph.stage is Stage.CONSTRAINED and all(name in graph.constraints for name in constraints)
        return graph if done and not wide else new

    def _room(self, graph: Graph, node: Node, share: int) -> int:
        """How many inputs of the layer fit, each counted as often as spikes can reach it at a time."""
        room = share // multiplicity(graph, graph.values(node)[0])
        if room < 1:
            why = f"not one input fits into a fan-in of {self.k}" + (
                f", {self.k - share} taken" if share < self.k else ""
            )
            raise PipelineError(why, at=node.at, hint="pool-neurons before")
        mask = graph.constraints.get(roles(node, graph.params)["weight"], Constraint()).mask
        before = 0 if mask is None else int(mask.reshape(len(mask), -1).sum(axis=1).max())
        return _weight(graph, node)[0].size if 0 < before <= room else room


def _shares(graph: Graph, layers: list[Node], k: int) -> dict[str, int]:
    """What each layer may use of the k connections onto the neurons it drives: others that meet there need some too.

    Skips and pools take what they need; layers share the rest evenly, and what one does not need goes to the next.
    """
    weights = {n.name: roles(n, graph.params)["weight"] for n in layers}
    none = {name: np.zeros_like(graph.params[name]) for name in weights.values()}
    bare = {name: c for name, c in graph.constraints.items() if name not in none}
    fixed = fan_in(replace(graph, params={**graph.params, **none}, constraints=bare))
    found = dict.fromkeys(weights, k)
    for neuron in [n for n in graph.nodes if n.op == "lif"]:
        here = [n for n in layers if n.name in _onto(graph, graph.values(neuron)[0])]
        needs = {n.name: _weight(graph, n)[0].size * multiplicity(graph, graph.values(n)[0]) for n in here}
        left = k - fixed.get(neuron.name, 0)
        for i, name in enumerate(sorted(needs, key=needs.__getitem__)):
            part = min(needs[name], left // (len(needs) - i)) if len(needs) > 1 else left
            found[name] = min(found[name], part)
            left -= part
    return found


def _onto(graph: Graph, name: str) -> set[str]:
    """The layers whose currents meet in the value `name`."""
    if name not in graph or graph[name].op in ("lif", "encode"):
        return set()
    if graph[name].op in LAYERS:
        return {name}
    return set().union(*(_onto(graph, value) for value in graph.values(graph[name])))


@dataclass
class _Moments:
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


def _collect(graph: Graph, layers: list[Node], ctx: Context, samples: int, name: str) -> dict[str, _Moments]:
    """The moments of every layer's input over calibration data."""
    split = ctx.training(name).take(samples)
    params, source = tensors(graph, ctx.device), next(iter(graph.inputs))
    read = {graph.values(n)[0] for n in layers}
    found: dict[str, _Moments] = {}
    with torch.inference_mode(), exact():
        for at in range(0, len(split), CHUNK):
            ctx.progress(f"{name}: collect inputs", at, len(split))
            batch = {source: to_tensor(split.x(slice(at, at + CHUNK)), ctx.device)}
            values = forward(graph, params, batch, keep=lambda n: n.name in read)
            for node in layers:
                rows = _rows(graph, node, values[graph.values(node)[0]].mean(0))
                if node.name not in found:
                    found[node.name] = _Moments(_candidates(_weight(graph, node), rows))
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


def _prune(weight: Array, inputs: _Moments, k: int, present: Array) -> tuple[Array, Array, Array]:
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
            chosen, values = pursue(covariance[g], near[at : at + CHUNK], min(k, near.shape[1]), allowed)
            values = values * allowed.gather(1, chosen)
            kept[g, at : at + CHUNK].scatter_(1, inputs.keep[g][chosen], values)
    shift = ((rows - kept).double() * full[:, None]).sum(2).flatten()
    out = kept.reshape(weight.shape).cpu().numpy()
    return out, shift.float().cpu().numpy(), out != 0


def pursue(covariance: Tensor, weights: Tensor, k: int, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit of drives y = W x: the inputs [O, k] kept of each, and their weights [O, k].

    Args:
        covariance: of the inputs, [K, K].
        weights: W, [O, K].
        k: inputs to keep, at most K.
        allowed: inputs that a drive may keep, [O, K]; others only where these run out.
    """
    deviation = covariance.diagonal().clamp_min(1e-12).sqrt()
    explained = weights @ covariance
    chosen = torch.zeros(len(weights), 0, dtype=torch.long, device=weights.device)
    values = torch.zeros(len(weights), 0, device=weights.device)
    for _ in range(k):
        left = explained - torch.einsum("osk,os->ok", covariance[chosen], values)
        gain = (left / deviation).abs().masked_fill(~allowed, -1.0).scatter(1, chosen, -2.0)
        chosen = torch.cat([chosen, gain.argmax(1, keepdim=True)], 1)
        values = _refit(covariance, explained, chosen)
    return chosen, values


def _refit(covariance: Tensor, explained: Tensor, chosen: Tensor) -> Tensor:
    """Ridge regression of every drive on its chosen inputs, [O, s]."""
    among = covariance[chosen[:, :, None], chosen[:, None, :]].double()
    size = chosen.shape[1]
    ridge = RIDGE * among.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    among = among + ridge[:, None, None] * torch.eye(size, device=among.device, dtype=among.dtype)
    wanted = explained.gather(1, chosen).double()
    refitted: Tensor = torch.linalg.solve(among, wanted[..., None])
    return refitted[..., 0].float()


def _weight(graph: Graph, node: Node) -> Array:
    return graph.params[roles(node, graph.params)["weight"]]
