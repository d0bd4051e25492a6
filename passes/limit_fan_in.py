r"""Limit every neuron's inputs to as many as the hardware can connect: prune them, or split the sum into a tree.

`prune`: a neuron's drive is y = w . x + b. Of its n inputs k are kept, one after the other, each the one that explains
most of what is left of y over calibration data (orthogonal matching pursuit); then the kept weights and the bias are
refitted:

    min over w', b' of   E (w . x - w' . x_kept - b')^2 + ridge * |w'|^2

Inputs of a network are strongly correlated, so that few of them carry most of a drive: on an MNIST CNN whose dense
layer goes from 11,616 inputs to 64, keeping the largest |w| * rms(x) leaves 11 % accuracy, refitting those 86 %, and
pursuit 97 % (the analog network, no training; 3,000 calibration images, judged on 2,000 others).
All of it follows from the mean and covariance of x, collected in one sweep.

`split`: every connection stays; ON and OFF neurons carry partial sums of at most k inputs on, 1 + 2 ceil(n / k) neurons
instead of 1 and no step more (algebra and error in `snnc.sim.partial_sums`).

`auto`: prunes all if that costs at most `budget` points of accuracy on the validation samples. Otherwise splits all,
and prunes rather, those that would need most neurons first, whichever layers the budget allows. (Not the other way
round: a layer refitted to few inputs also shields from the errors of pruned layers before it; split alone, it may be
worse than pruned.)

The pruned connections become a mask that every later trainer keeps. An input behind a pool counts as often as spikes
can reach it at one time.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass, measured
from snnc.score import ACCURACY
from snnc.sim.cost import fan_in, multiplicity
from snnc.sim.partial_sums import cut, split, thresholds
from snnc.sim.pursuit import CHUNK, collect, prune

LAYERS = ("conv", "dense")
DEEPEST = 6
"""Levels of a tree of partial sums: k = 64 needs 3 for two million inputs."""

RANKED = 512
"""Most samples that the percentile of a partial sum is taken of."""


@dataclass(frozen=True)
class _Pruned:
    """What pruning makes of one layer."""

    node: Node
    params: dict[str, Array]
    constraint: Constraint
    note: str


@dataclass(frozen=True)
class LimitFanIn(Pass):
    """Leave every neuron at most `k` connections.

    Attributes:
        k: connections per neuron; 64 on DYNAP-SE chips.
        samples: calibration samples from the beginning of the training part (split: at most `RANKED`).
        method: `prune` and refit, `split` into partial sums, or `auto`: the cheapest of both within the budget.
        budget: points of validation accuracy that pruning may cost (auto).
        percentile: of a partial sum, that a spike at every step stands for (split).
    """

    name = "limit-fan-in"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    k: int = 64
    samples: int = 4000
    method: Literal["prune", "split", "auto"] = "prune"
    budget: float = 0.5
    percentile: float = 99.9

    def __post_init__(self) -> None:
        if self.k < 1 or self.samples < 1:
            raise PipelineError(f"'{self.name}' cannot work with k={self.k}, samples={self.samples}")
        if not (0 <= self.budget <= 100 and 0 < self.percentile <= 100):
            raise PipelineError(f"'{self.name}' cannot work with budget={self.budget}, percentile={self.percentile}")
        if self.method != "prune" and self.k < 4:
            raise PipelineError(f"'{self.name}' cannot split for k={self.k}", hint="4 inputs: two ON/OFF pairs")

    def check_data(self, data: Data) -> None:
        """Refuse to choose by points of accuracy where there are none.

        Raises:
            PipelineError: says so.
        """
        if self.method == "auto" and data.validation.score is not ACCURACY:
            raise PipelineError(
                f"'{self.name}' with method=auto counts points of accuracy, the data is judged by "
                f"{data.validation.score.name}",
                hint="method=prune or method=split",
            )

    def run(self, graph: Graph, ctx: Context) -> Graph:
        wide = self._wide(graph)
        pruned = self._pruned(graph, wide, ctx) if self.method != "split" and wide else {}
        if self.method == "auto" and wide:
            chosen = self._chosen(graph, wide, pruned, ctx)
        else:
            chosen = set() if self.method == "prune" else {n.name for n in wide}
        for node in wide:
            if node.name not in chosen:
                ctx.note(pruned[node.name].note)
        new = self._limited(graph, pruned, chosen, ctx)
        masked = (graph.constraints.keys() >= new.constraints.keys()) and graph.stage is Stage.CONSTRAINED
        return graph if masked and not wide else new

    def _wide(self, graph: Graph) -> list[Node]:
        """The layers that have more inputs than fit."""
        share = _shares(graph, _layers(graph), self.k)
        return [n for n in _layers(graph) if _weight(graph, n)[0].size > self._room(graph, n, share[n.name])]

    def _limited(self, graph: Graph, pruned: dict[str, _Pruned], chosen: Container[str], ctx: Context) -> Graph:
        """The graph with the `chosen` layers split, the other wide ones pruned, and a mask on each."""
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        nodes = {n.name: n for n in graph.nodes}
        for node in _layers(graph):
            name = roles(node, graph.params)["weight"]
            if node.name in pruned and node.name not in chosen:
                nodes[node.name] = pruned[node.name].node
                params |= pruned[node.name].params
                constraints[name] = pruned[node.name].constraint
            else:
                before = graph.constraints.get(name, Constraint())
                mask = np.ones(graph.params[name].shape, bool) if before.mask is None else before.mask
                constraints[name] = replace(before, mask=mask)
        new = graph.edit(nodes.values(), params=params, constraints=constraints, stage=Stage.CONSTRAINED)
        return self._split(new, ctx)

    def _pruned(self, graph: Graph, wide: list[Node], ctx: Context) -> dict[str, _Pruned]:
        """What pruning makes of the wide layers."""
        share = _shares(graph, _layers(graph), self.k)
        inputs = collect(graph, wide, self._batches(ctx), ctx.device)
        found = {}
        for at, node in enumerate(wide):
            ctx.progress(self.name, at, len(wide))
            own = roles(node, graph.params)
            weight = graph.params[own["weight"]]
            before = graph.constraints.get(own["weight"], Constraint())
            mask = np.ones(weight.shape, bool) if before.mask is None else before.mask
            room = self._room(graph, node, share[node.name])
            kept, shift, mask = prune(weight, inputs[node.name], room, mask)
            kept = replace(before, mask=mask).project(kept)
            if node.attrs.get("bias_at") == "first-step":
                shift = shift * np.float32(graph.steps)
            bias = f"{node.name}.bias"
            params = {own["weight"]: kept, bias: graph.params[own["bias"]] + shift if "bias" in own else shift}
            new = replace(node, inputs=(graph.values(node)[0], own["weight"], bias))
            new = new.with_attrs(bias_at=node.attrs.get("bias_at", "per-step"))
            note = f"{node.name}: fan-in {weight[0].size} -> {room}, {1 - mask.mean():.0%} of weights cut"
            found[node.name] = _Pruned(new, params, replace(before, mask=mask), note)
        return found

    def _split(self, graph: Graph, ctx: Context) -> Graph:
        """Partial sums for the layers that are still too wide, and for sums of these that are, level by level."""
        for _ in range(DEEPEST):
            wide = self._wide(graph)
            if not wide:
                return graph
            cuts = {n.name: cut(graph, n, self.k // multiplicity(graph, graph.values(n)[0])) for n in wide}
            for node in wide:
                _refuse_levels(graph, node)
                size, sums, many = _weight(graph, node)[0].size, cuts[node.name].sums, _added(graph, node, self.k)
                ctx.note(f"{node.name}: fan-in {size} -> {sums} partial sums, {many} neurons added, no step more")
            theta = thresholds(graph, cuts, self._batches(ctx, RANKED), self.percentile, ctx.device)
            graph = split(graph, cuts, theta)
        raise PipelineError(f"'{self.name}' found no tree within {DEEPEST} levels for k={self.k}", at=wide[0].at)

    def _chosen(self, graph: Graph, wide: list[Node], pruned: dict[str, _Pruned], ctx: Context) -> set[str]:
        """The layers to split: none if pruning keeps the budget, else all but those that the budget lets be pruned."""
        quiet = replace(ctx, notes=[])
        free, none = _judged(graph, ctx), _judged(self._limited(graph, pruned, (), quiet), ctx)
        goal = free - self.budget / 100
        ctx.note(f"unlimited {free:.2%}, all pruned {none:.2%}, budget {self.budget:g} points")
        if none >= goal:
            return set()
        chosen = {n.name for n in wide}
        share = _judged(self._limited(graph, pruned, chosen, quiet), ctx)
        ctx.note(f"all split {share:.2%}")
        added = {n.name: _added(graph, n, self.k) for n in wide}
        for name in sorted(added, key=added.__getitem__, reverse=True) if len(wide) > 1 else ():
            less = _judged(self._limited(graph, pruned, chosen - {name}, quiet), ctx)
            saved = less >= min(goal, share)
            ctx.note(f"{name} pruned rather: {less:.2%}, {added[name]} neurons {'saved' if saved else 'kept'}")
            chosen, share = (chosen - {name}, less) if saved else (chosen, share)
        if max(share, none) < goal:
            ctx.note(f"the budget is exceeded: the best of these is {max(share, none):.2%}")
        return chosen if share > none else set()

    def _batches(self, ctx: Context, most: int | None = None) -> Iterator[Array]:
        """Calibration samples [n, ...], batch after batch."""
        part = ctx.training(self.name).take(min(self.samples, most or self.samples))
        for at in range(0, len(part), CHUNK):
            ctx.progress(f"{self.name}: collect inputs", at, len(part))
            yield part.x(slice(at, at + CHUNK))

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


def _layers(graph: Graph) -> list[Node]:
    """The layers that drive neurons, by synapses of their own."""
    return [n for n in graph.nodes if n.op in LAYERS and n.type.kind == "current" and graph.feeds(n.name, "lif")]


def _added(graph: Graph, node: Node, k: int) -> int:
    """Neurons of the first level of partial sums."""
    inputs = k // multiplicity(graph, graph.values(node)[0])
    return cut(graph, node, inputs).neurons * math.prod(node.type.shape[1:])


def _judged(graph: Graph, ctx: Context) -> float:
    """Accuracy on the validation samples."""
    assert ctx.data is not None
    return measured(graph, ctx.data.validation, ctx.device)


def _refuse_levels(graph: Graph, node: Node) -> None:
    if graph.constraints.get(roles(node, graph.params)["weight"], Constraint()).bits is not None:
        raise PipelineError("quantized weights are not split", at=node.at, hint="limit-fan-in before quantize-weights")


def _weight(graph: Graph, node: Node) -> Array:
    return graph.params[roles(node, graph.params)["weight"]]
