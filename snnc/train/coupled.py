r"""Layers of spiking neurons coupled with layers of analog ones that share their weights (tandem section II).

Over a window linear ops act on total charges. With c the spike counts of the layer before and b all that the bias
delivers, what drives a layer of IF neurons is

    V = W c + b                                     (tandem eq. 4, the free aggregate potential)
    a = clip(floor((V + u0) / theta), 0, T)         (eq. 11, with a start potential)

and a is what the neurons would fire if V came at once. What they do fire, c, depends on when it comes. Either value
may be handed on; the gradient of both is that of the analog layer, straight through the floor:

    dc/dV = 1 / theta   where 0 < V + u0 < T * theta     (`bounded`, eq. 11)
                        where 0 < V + u0                 (`released`: not cut where the neurons fire at every step)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Graph, Node, later_than, roles
from snnc.pipeline import Context
from snnc.score import ACCURACY, Score
from snnc.sim import torch as executor
from snnc.sim.ideal import charges
from snnc.sim.judge import LAYER_SAMPLES
from snnc.sim.torch import per_channel

from .readout import readout

Backward = Literal["bounded", "released"]


def check_neurons(graph: Graph, name: str, observed: bool = False) -> None:
    """Refuse neurons whose count does not follow from a total charge, all at once.

    Args:
        name: of the rule that asks.
        observed: counts are observed, and only their slope follows from the charge: then what a reset to zero loses
            is no obstacle.

    Raises:
        PipelineError: names the layers of neurons that leak or, unless `observed`, are reset to zero.
    """
    problems = []
    for node in graph.nodes:
        if node.op == "lif":
            leaks = bool((graph.params[roles(node, graph.params)["alpha"]] != 1).any())
            if leaks or (node.attrs["reset"] == "zero" and not observed):
                why = "leak" if leaks else "are reset to zero"
                problems.append(PipelineError(f"neurons that {why} lose charge", at=node.at, hint="'ltl' trains them"))
    if problems:
        raise PipelineError.gather(f"'{name}' counts on neurons that keep all charge", problems)


def instead(value: Tensor, path: Tensor) -> Tensor:
    """`value`, to the bit, with the gradient of `path`."""
    return value.to(path.device) + (path - path.detach())


class Coupled:
    """A spiking graph with its analog layers, or a hybrid of both; the ops are those of the executor.

    Attributes:
        scores: the name of the read-out, before any softmax; of targets the output.
        spiking: the same graph with the counts of all layers of neurons as outputs, and the read-out.
    """

    def __init__(self, graph: Graph, score: Score = ACCURACY) -> None:
        """Of a graph whose output is judged by `score`."""
        self.graph = graph
        self.input = next(iter(graph.inputs))
        self.scores = readout(graph, score)
        self.spiking = _counting(graph, self.scores)

    def fired(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Of the spiking network: counts [N, ...] by layer of neurons, and the read-out [N, ...]; no gradient."""
        with torch.no_grad():
            made = [
                executor.forward(self.spiking, params, {self.input: part}, keep=lambda node: False)
                for part in torch.split(x, executor.at_once(self.spiking, str(x.device)))
            ]
            return {name: torch.cat([values[end] for values in made]) for name, end in self.spiking.outputs.items()}

    def totals(
        self, params: Mapping[str, Tensor], x: Tensor, counts: Callable[[Node, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Of the analog layers: every value [N, ...], neurons handing on `counts` of their charge; differentiable."""
        return charges(self.graph, params, {self.input: x}, counts)

    def rounded(self, node: Node, charge: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """a of a layer of neurons, eq. 11, from its charge V [N, ...]; no gradient."""
        theta, u0 = self._neuron(node, params)
        return torch.floor((charge.detach() + u0) / theta).clamp(0, self.graph.steps)

    def slope(self, node: Node, charge: Tensor, params: Mapping[str, Tensor], backward: Backward) -> Tensor:
        """Something whose gradient is dc/dV, from V [N, ...]."""
        theta, u0 = self._neuron(node, params)
        room = charge.detach() + u0
        passes = room > 0 if backward == "released" else (room > 0) & (room < self.graph.steps * theta)
        return torch.where(passes, charge / theta, 0.0)

    def _neuron(self, node: Node, params: Mapping[str, Tensor]) -> list[Tensor]:
        """theta and u0, broadcastable to [N, ...]."""
        own = roles(node, self.graph.params)
        return [per_channel(params[own[role]], len(node.type.shape)) for role in ("theta", "u0")]


def _counting(graph: Graph, scores: str) -> Graph:
    """The graph with every layer's count decoded right where it fires, so that its spikes need not be kept."""
    nodes: list[Node] = []
    outputs = {scores: scores}
    for node in graph.nodes:
        nodes.append(node)
        if node.op == "lif":
            outputs[node.name] = graph.fresh(f"{node.name}.count")
            nodes.append(Node(outputs[node.name], "decode", (node.name,), origin=node.origin))
    return graph.edit(nodes, outputs=outputs)


@dataclass(frozen=True)
class Agreement:
    """How well the analog layers stand for the spiking ones (tandem section III-E), means over samples.

    Attributes:
        angle: by layer of neurons, between the vectors a and c, in degrees (below 24 in the paper).
        pearson: by layer that reads spikes, the correlation of its charges W a and W c (above 0.9 in the paper).
    """

    angle: Mapping[str, float]
    pearson: Mapping[str, float]

    def __str__(self) -> str:
        def listed(found: Mapping[str, float], digits: int) -> str:
            return ", ".join(f"{name} {value:.{digits}f}" for name, value in found.items()) or "none"

        return (
            f"angle between counts of ANN and SNN in degrees (tandem: < 24): {listed(self.angle, 1)}; "
            f"correlation of what they drive (> 0.9): {listed(self.pearson, 3)}"
        )


def agreement(graph: Graph, ctx: Context) -> Agreement:
    """The agreement on validation samples: every layer's a and c from the c of the layer before, as in training.

    The samples run twice as one batch: the first half hands on c, the other half a of the first half's charge.
    """
    assert ctx.data is not None, "a rule was trained"
    coupled, params = Coupled(graph, ctx.score), executor.tensors(graph, ctx.device)
    x = executor.to_tensor(ctx.data.validation.take(LAYER_SAMPLES).x(), ctx.device)
    behind = later_than(graph, "lif")
    angle: dict[str, float] = {}
    pearson: dict[str, float] = {}
    with torch.inference_mode(), executor.exact():
        fired = coupled.fired(params, x)

        def counts(node: Node, charge: Tensor) -> Tensor:
            ours, theirs = charge.chunk(2)
            if graph.values(node)[0] in behind:
                pearson[node.name] = float(_cosines(_centred(ours), _centred(theirs)).mean())
            rounded = coupled.rounded(node, ours, params)
            angle[node.name] = float(_cosines(fired[node.name], rounded).arccos().rad2deg().mean())
            return torch.cat([fired[node.name], rounded])

        ours, theirs = coupled.totals(params, torch.cat([x, x]), counts)[coupled.scores].chunk(2)
        pearson[coupled.scores] = float(_cosines(_centred(ours), _centred(theirs)).mean())
    return Agreement(angle, pearson)


def _centred(value: Tensor) -> Tensor:
    """[N, ...] less the mean of every sample."""
    flat = value.flatten(1)
    return flat - flat.mean(1, keepdim=True)


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """By sample [N], the cosine between both [N, ...]; 1 where both are 0, 0 where one of them is."""
    a, b = one.flatten(1).double(), other.flatten(1).double()
    size = a.norm(dim=1) * b.norm(dim=1)
    made = (a * b).sum(1) / torch.where(size > 0, size, 1.0)
    return torch.where(a.any(1) | b.any(1), made, 1.0).clamp(-1, 1)
