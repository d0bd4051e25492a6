"""Prune every neuron's inputs to the strongest, as many as the hardware can connect.

Strength is |w| * rms(x) of the input x over calibration data: a large weight on an input that never fires is no
loss. What is cut takes its mean along into the bias, b' = b + w * mean(x), so that a neuron's average drive stays.
The pruned connections become a mask that every later trainer keeps. An input behind a pool counts as often as spikes
can reach it at one time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass
from snnc.sim.cost import multiplicity
from snnc.sim.torch import exact, forward, tensors, to_tensor

CHUNK = 64
LAYERS = ("conv", "dense", "local")


@dataclass(frozen=True)
class LimitFanIn(Pass):
    """Keep the `k` strongest connections of every neuron.

    Attributes:
        k: connections per neuron; 64 on DYNAP-SE chips.
        samples: calibration samples from the beginning of the training part.
    """

    name = "limit-fan-in"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    k: int = 64
    samples: int = 256

    def __post_init__(self) -> None:
        if self.k < 1 or self.samples < 1:
            raise PipelineError(f"'{self.name}' cannot work with k={self.k}, samples={self.samples}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        layers = [n for n in graph.nodes if n.op in LAYERS and n.type.kind == "current" and graph.feeds(n.name, "lif")]
        wide = {}
        for node in layers:
            weight = graph.params[roles(node, graph.params)["weight"]]
            room = self.k // multiplicity(graph, graph.values(node)[0])
            if room < 1:
                raise PipelineError(
                    f"not one input fits into a fan-in of {self.k}", at=node.at, hint="pool-neurons before"
                )
            if weight[0].size > room:
                wide[node.name] = room
        moments = self._moments(graph, set(wide), ctx) if wide else {}
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        nodes = {n.name: n for n in graph.nodes}
        for node in layers:
            own = roles(node, graph.params)
            weight = graph.params[own["weight"]]
            mask = np.ones(weight.shape, bool)
            if node.name in wide:
                mean, rms = moments[node.name]
                mask = strongest(np.abs(weight) * rms, wide[node.name])
                shift = np.where(mask, 0, weight * mean).reshape(len(weight), -1).sum(axis=1).astype(np.float32)
                params[f"{node.name}.bias"] = (graph.params[own["bias"]] + shift) if "bias" in own else shift
                inputs = (graph.values(node)[0], own["weight"], f"{node.name}.bias")
                nodes[node.name] = replace(node, inputs=inputs).with_attrs(
                    bias_at=node.attrs.get("bias_at", "per-step")
                )
                ctx.note(
                    f"{node.name}: fan-in {weight[0].size} -> {wide[node.name]}, {1 - mask.mean():.0%} of weights cut"
                )
            before = graph.constraints.get(own["weight"], Constraint())
            constraints[own["weight"]] = replace(before, mask=mask)
            params[own["weight"]] = np.where(mask, weight, np.float32(0))
        return graph.edit(nodes.values(), params=params, constraints=constraints, stage=Stage.CONSTRAINED)

    def _moments(self, graph: Graph, names: set[str], ctx: Context) -> dict[str, tuple[Array, Array]]:
        """Mean and root mean square of every layer's input per step, broadcastable to its weight."""
        split = ctx.training(self.name).take(self.samples)
        params, name = tensors(graph, ctx.device), next(iter(graph.inputs))
        read = {graph.values(graph[n])[0] for n in names}
        sums: dict[str, list[torch.Tensor]] = {}
        with torch.inference_mode(), exact():
            for at in range(0, len(split), CHUNK):
                batch = {name: to_tensor(split.x(slice(at, at + CHUNK)), ctx.device)}
                values = forward(graph, params, batch, keep=lambda n: n.name in read)
                for value in read:
                    found = values[value].double()
                    per_step = [found.mean(0).sum(0), found.square().mean(0).sum(0)]
                    sums[value] = (
                        [a + b for a, b in zip(sums[value], per_step, strict=True)] if value in sums else per_step
                    )
        made = {}
        for n in names:
            mean, square = (s / len(split) for s in sums[graph.values(graph[n])[0]])
            made[n] = _by_weight(graph, graph[n], mean), np.sqrt(_by_weight(graph, graph[n], square))
        return made


def strongest(strength: Array, k: int) -> Array:
    """True at the k largest of every row (first axis); ties go to the earlier one."""
    rows = strength.reshape(len(strength), -1)
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(strength.shape)


def _by_weight(graph: Graph, node: Node, moment: torch.Tensor) -> Array:
    """A moment [F] or [C,H,W] of the input as an array broadcastable to the weight, averaged over positions."""
    weight = graph.params[roles(node, graph.params)["weight"]]
    if node.op == "dense":
        return np.asarray(moment.cpu().numpy())
    group = int(str(node.attrs["group"]))
    channels = moment.mean(dim=(1, 2)).cpu().numpy().reshape(group, -1)
    rows = np.repeat(channels, len(weight) // group, axis=0)
    return np.asarray(rows.reshape(*rows.shape, 1, 1))
