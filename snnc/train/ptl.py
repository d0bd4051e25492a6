r"""Progressive tandem learning (PTL section 4, Algorithm 1): one layer at a time becomes spiking, and all that can
still change learns to live with it.

    for each layer of relus, from the input on:
        a_u    the percentile of its activations in the hybrid network as it is now;  theta = a_u / T   (section 3.3)
        hybrid that layer becomes neurons too; what stays analog reads T-step totals behind a `decode`
        learn  the layer's weights and those of all later, analog layers, by tandem learning; what comes before it is
               frozen; until the validation accuracy has not improved for `patience` epochs; the best epoch is kept
    and at last the read-out alone, on the spikes of the network as it will be deployed, at a tenth of the rate

Every hybrid is an ordinary spiking graph with weights of the same names, so that the loop, its constraints and all
executors take it as it is. Biases are spread over the steps (see `hybrid`). The last linear layer has no neurons: it
reads the aggregate potential. With `bits`, a layer's weights go onto levels when it becomes spiking (section 4.3): the
network grows used to the rounding layer by layer; the read-out is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import networkx as nx
import numpy as np

from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import WEIGHTED, Array, Constraint, Graph, Stage, front, later_than, roles
from snnc.pipeline import Context, Pass
from snnc.sim.calibration import percentiles, usable
from snnc.sim.cost import first_role
from snnc.sim.lowering import Lowering, Neurons, back, refuse, spread_biases
from snnc.sim.worths import absorb_scales, absorb_worths

from .coupled import Backward, agreement
from .loop import loop, validated
from .losses import Loss, check_targets
from .readout import check_classes, readout
from .tandem import Tandem
from .units import rate_share

CHUNK = 64
LAST = 0.1
"""The share of the rate that the read-out learns at, when it is all that learns."""


@dataclass(frozen=True)
class PTL(Pass):
    """Convert and train, layer by layer.

    Attributes:
        steps: T.
        percentile: of a layer's activations, what T spikes stand for.
        samples: calibration samples, from the beginning of the training part.
        start: u0 as a share of theta; 0.5 rounds (PTL eq. 10), 0 floors.
        code: how inputs become currents: at the first step (PTL section 3.4), or evenly.
        epochs: of a stage, at most.
        patience: T_p, epochs without a better validation score before a stage ends; 0: never before `epochs`.
        batch: samples per update.
        rate: the learning rate, in units of what T spikes are worth.
        backward: see `tandem`.
        bits: of the weights of layers that have become spiking; 0: full precision.
        loss, balance: see `snnc.train.losses`.
    """

    name = "ptl"
    takes = frozenset({Stage.ANALOG})
    gives = Stage.SPIKING
    splits = True

    steps: int = 16
    percentile: float = 99.9
    samples: int = 1000
    start: float = 0.5
    code: Literal["first-step", "direct"] = "first-step"
    epochs: int = 10
    patience: int = 3
    batch: int = 64
    rate: float = 3e-3
    backward: Backward = "bounded"
    bits: int = 0
    loss: Loss = "auto"
    balance: bool = False

    def __post_init__(self) -> None:
        fine = {
            "steps": self.steps >= 1,
            "percentile": 0 < self.percentile <= 100,
            "samples": self.samples >= 1,
            "start": 0 <= self.start < 1,
            "epochs": self.epochs >= 1,
            "patience": self.patience >= 0,
            "batch": self.batch >= 1,
            "rate": 0 < self.rate < math.inf,
            "bits": self.bits == 0 or 2 <= self.bits <= 8,
        }
        if wrong := [f"{key}={getattr(self, key)}" for key, good in fine.items() if not good]:
            raise PipelineError(f"'{self.name}' cannot work with {', '.join(wrong)}")

    def check_data(self, data: Data) -> None:
        """Refuse a loss that does not fit the data's targets, see `snnc.train.losses`."""
        check_targets(self, self.loss, data, ("balance",))

    def run(self, graph: Graph, ctx: Context) -> Graph:
        split = ctx.training(self.name).take(self.samples)
        refuse(graph, front(graph))
        check_classes(self.name, graph, readout(graph, ctx.score), ctx.score)
        if ctx.data is not None:
            self.check_data(ctx.data)
        _refuse_shared(graph)
        bounds: dict[str, Array] = {}
        made = graph
        for relu in _layers(graph):
            found = self.upper_bounds(graph, made, bounds, split, ctx)
            done = feeding(graph, bounds)
            bounds[relu] = found[relu]
            if self.bits:
                graph = onto_levels(graph, feeding(graph, [relu]) - done, self.bits)
            graph, made = self._stage(graph, relu, bounds, units(graph, found, done), ctx)
        last = units(graph, bounds, feeding(graph, bounds))
        graph, made = self._stage(graph, "read-out", bounds, last, ctx)
        made = absorb_scales(absorb_worths(made))
        ctx.note(str(agreement(made, ctx)))
        return made

    def hybrid(self, graph: Graph, bounds: Mapping[str, Array], seed: int) -> Graph:
        """The analog graph with the relus in `bounds` as neurons, params by the same names, biases per step.

        Where the input comes at the first step, so does the bias of the layer that reads it: its neurons only have to
        give off the charge that they got (tandem eq. 6 to 8).
        """
        late = frozenset(n.name for n in graph.nodes if n.op == "relu") - bounds.keys()
        own = Neurons(self.steps, self.start, 1.0, "subtract", self.code, 0)
        made = Lowering(own, graph, front(graph), bounds, seed, late).run()
        inner = later_than(made, "lif") if self.code == "first-step" else {node.name for node in made.nodes}
        return spread_biases(made, keep={node.name for node in made.nodes} - inner)

    def upper_bounds(
        self, graph: Graph, made: Graph, known: Mapping[str, Array], split: Split, ctx: Context
    ) -> dict[str, Array]:
        """a_u [] of every relu: as `known`, or the percentile of the activations in `made`, the present hybrid."""
        rows = {n.name: 1 for n in graph.nodes if n.op == "relu" and n.name not in known}
        batches = (split.x(slice(at, at + CHUNK)) for at in range(0, len(split), CHUNK))
        found = percentiles(made, rows, batches, len(split), self.percentile, ctx.device)
        return {**known, **{name: usable(bound, most).reshape(()) for name, (bound, most) in found.items()}}

    def _stage(
        self, graph: Graph, name: str, bounds: Mapping[str, Array], learn: Mapping[str, float], ctx: Context
    ) -> tuple[Graph, Graph]:
        """The analog graph and its hybrid after a stage in which the params `learn` learned."""
        made = self.hybrid(graph, bounds, ctx.seed)
        if not learn:
            return graph, made
        rate = self.rate * (LAST if name == "read-out" else 1)
        rule = Tandem(
            self.epochs, self.batch, rate, schedule="constant", patience=self.patience, backward=self.backward,
            loss=self.loss, balance=self.balance,
        )  # fmt: skip
        own = replace(ctx, notes=[], progress=lambda text, done, of: ctx.progress(f"{name}: {text}", done, of))
        per_step = {roles(n, made.params)["bias"] for n in made.nodes if n.attrs.get("bias_at") == "per-step"}
        in_units = {param: unit / (self.steps if param in per_step else 1) for param, unit in learn.items()}
        begun = validated(made, ctx)
        found = loop(rule, made, own, rule.learner(made, own), in_units)
        ctx.note(f"{name}: {ctx.score.brief(begun)} when it began, {'; '.join(own.notes)}")
        whole = {n: a * np.float32(self.steps) if n in per_step else a for n, a in found.items()}
        return graph.edit(params=whole), made.edit(params=found)


def _refuse_shared(graph: Graph) -> None:
    """A layer cannot be frozen while another one learns the same weights."""
    shared = [name for name in graph.params if sum(node.op in WEIGHTED for node in graph.users(name)) > 1]
    if shared:
        raise PipelineError(
            f"'{PTL.name}' freezes layer by layer, but several layers share {', '.join(shared)}",
            hint="threshold-layernorm,bias-per-step,tandem trains all layers together",
        )


def _layers(graph: Graph) -> list[str]:
    """The relus that become neurons, from the input on."""
    end = back(graph, front(graph))
    return [node.name for node in graph.nodes if node.op == "relu" and node.name not in end]


def feeding(graph: Graph, relus: Iterable[str]) -> frozenset[str]:
    """All nodes that lie anywhere before one of these relus."""
    flow = graph.digraph()
    return frozenset[str]().union(*(nx.ancestors(flow, relu) for relu in relus))


def onto_levels(graph: Graph, nodes: Container[str], bits: int) -> Graph:
    """The weights of these nodes rounded, a step for each tensor, where nothing else limits them yet (PTL eq. 8)."""
    limits: dict[str, Constraint] = {}
    for node in graph.nodes:
        if node.op not in WEIGHTED or node.name not in nodes:
            continue
        name = roles(node, graph.params)[first_role(node)]
        before, most = graph.constraints.get(name, Constraint()), np.abs(graph.params[name]).max()
        if before.bits is None and most > 0:
            limit = replace(before, bits=bits)
            step = np.full((1,) * graph.params[name].ndim, most / limit.top_level, np.float32)
            limits[name] = replace(limit, scale=step)
    return graph.edit(params={n: c.project(graph.params[n]) for n, c in limits.items()}, constraints=limits)


def units(graph: Graph, bounds: Mapping[str, Array], fixed: Container[str]) -> dict[str, float]:
    """The params of an analog graph that learn, in the units that `weights_of` gives to its spiking twin.

    T spikes are worth a_u: weights from a layer of a_u' to one of a_u have the unit a_u / a_u', biases a_u; inputs and
    the read-out count as 1.

    Args:
        bounds: a_u of every relu.
        fixed: nodes whose params do not learn; what comes before the first layer does not either.
    """
    before = front(graph)
    found: dict[str, float] = {}
    for node in graph.nodes:
        if node.op in WEIGHTED and node.name not in before and node.name not in fixed:
            out = _driven(graph, node.name, bounds)
            share = rate_share(graph, node) / _read(graph, graph.values(node)[0], bounds)
            found |= {name: out if role == "bias" else out * share for role, name in roles(node, graph.params).items()}
    return found


def _driven(graph: Graph, name: str, bounds: Mapping[str, Array]) -> float:
    """a_u of the relu that the value `name` drives, or 1 for the read-out."""
    for user in graph.users(name):
        return float(bounds[user.name]) if user.op == "relu" else _driven(graph, user.name, bounds)
    return 1.0


def _read(graph: Graph, name: str, bounds: Mapping[str, Array]) -> float:
    """The largest a_u of the relus that the value `name` comes from, or 1 for the input."""
    if name in graph.inputs:
        return 1.0
    node = graph[name]
    return (
        float(bounds[name])
        if node.op == "relu"
        else max((_read(graph, n, bounds) for n in graph.values(node)), default=1.0)
    )
