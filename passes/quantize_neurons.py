r"""Thresholds, start potentials and biases as integers of the weight step, and a proof that no accumulator overflows.

A neuron whose weights are w = s q fires the same spikes when all that it adds up is divided by s > 0:

    q = w / s,   theta' = max(round(theta / s), 1),   u0' = round(u0 / s),   b' = round(b / s)

so that it becomes a neuron of integers, its own unit one weight step. With `shift=f` a step is 2**f units, as where
hardware shifts weights before it adds them (Loihi: by 6); thresholds and biases are rounded that much finer. A bias per
step is small and its rounding counts T times: of 98 % of the digits example f = 0 leaves 57 %, f = 4 96 %. What any sum
can reach is bounded by intervals (`snnc.sim.bounds`). Below 2**24 all executors add integers exactly, and so does
hardware whose accumulators are as wide as stated. Leaks are left as they are: a neuron with alpha < 1 is bounded, but
no integer; nor are the currents of an encoded input. A bias that limit-biases has put on levels (a switched current, a
tonic synapse) stays on them: what is rounded is its step c, b' = (b / c) max(round(c / s), 1).

Refused: weights without integer levels, layers that meet at a neuron with steps of their own, pools and scales (what
they make of spikes is no integer). The read-out is left to the host. Run it last: a trainer takes T * theta for what a
neuron's activity is worth, and moves weights without asking whether sums still fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from snnc.errors import GraphError, PipelineError
from snnc.ir import LAYERS, WIRING, Array, Constraint, Graph, Node, Stage, roles
from snnc.ir.streams import streamed
from snnc.pipeline import Context, Pass
from snnc.sim.bounds import accumulators
from snnc.sim.encoding import totals

WIDEST = 24
"""Bits that float32 adds exactly, and a constraint can state."""


@dataclass(frozen=True)
class QuantizeNeurons(Pass):
    """Give every neuron integer parameters, and prove that its membrane does not overflow.

    Attributes:
        bits: of thresholds, start potentials and biases, signed.
        accumulator: bits of a membrane potential, signed.
        shift: units of a weight step, as a power of two.
        largest: the largest |x| that the input will have (a stream of events: at one step); 0: that of the training
            samples.
    """

    name = "quantize-neurons"
    takes = frozenset({Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    bits: int = 16
    accumulator: int = 24
    shift: int = 6
    largest: float = 0.0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= self.accumulator <= WIDEST:
            why = f"'{self.name}' cannot work with bits={self.bits}, accumulator={self.accumulator}"
            raise PipelineError(why, hint=f"2 <= bits <= accumulator <= {WIDEST}")
        if not (0 <= self.shift < WIDEST and 0 <= self.largest < np.inf):
            raise PipelineError(f"'{self.name}' cannot work with shift={self.shift}, largest={self.largest}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        problems: list[GraphError] = []
        for neuron in [n for n in graph.nodes if n.op == "lif"]:
            try:
                layers = [_plain(graph, layer) for layer in _onto(graph, graph.values(neuron)[0], neuron)]
                unit = _unit(graph, layers, neuron) / 2.0**self.shift
                made, steps = self._integers(graph, layers, neuron, unit)
            except GraphError as error:
                problems.append(error)
                continue
            problems += [
                GraphError(f"'{name}' is shared with other neurons, whose weight steps differ", at=neuron.at)
                for name in made
                if name in params and not np.array_equal(params[name], made[name])
            ]
            params |= made
            constraints |= steps
            for weight in (roles(layer, graph.params)["weight"] for layer in layers):
                before = graph.constraints[weight]
                scale = np.full_like(np.asarray(before.scale), 2.0**self.shift)
                constraints[weight] = replace(before, scale=scale)
        if problems:
            raise GraphError.gather("the network has neurons that are no integers", problems)
        same = all(np.array_equal(array, graph.params[name]) for name, array in params.items())
        new = graph if same else graph.edit(params=params, constraints=constraints)
        self._prove(new, ctx)
        return new

    def _integers(
        self, graph: Graph, layers: list[Node], neuron: Node, unit: Array
    ) -> tuple[dict[str, Array], dict[str, Constraint]]:
        """The params of the layers and of their neurons in units, [O]; biases, thresholds, starts within the width.

        Also the constraints of biases that are on levels.
        """
        weights: dict[str, Array] = {}
        analog: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        for layer in layers:
            own = roles(layer, graph.params)
            scale = np.asarray(graph.constraints[own["weight"]].scale)
            weights[own["weight"]] = np.rint(graph.params[own["weight"]] / scale) * 2.0**self.shift
            if "bias" in own:
                bias, given = graph.params[own["bias"]], graph.constraints.get(own["bias"], Constraint())
                analog[own["bias"]] = _per(bias, unit)
                if given.scale is not None:
                    step = np.maximum(_per(given.scale, unit), 1)
                    analog[own["bias"]] = np.rint(bias / given.scale) * step
                    constraints[own["bias"]] = replace(given, scale=np.asarray(step, np.float32))
        own = roles(neuron, graph.params)
        analog |= {own[role]: _per(graph.params[own[role]], unit) for role in ("theta", "u0")}
        analog[own["theta"]] = np.maximum(analog[own["theta"]], 1)
        top = 2 ** (self.bits - 1) - 1
        if wide := [f"{name} {np.abs(a).max():.0f}" for name, a in analog.items() if np.abs(a).max() > top]:
            why = f"{self.bits} bits hold up to {top}: {', '.join(wide)}"
            raise GraphError(why, at=neuron.at, hint="more bits or a smaller shift")
        made = {name: np.asarray(array, np.float32) for name, array in {**weights, **analog}.items()}
        return made, constraints

    def _prove(self, graph: Graph, ctx: Context) -> None:
        """Refuse layers whose membrane may leave the accumulator; note how wide the widest must be."""
        largest = self.largest or max(_largest(graph, x) for x in ctx.training(self.name).batches())
        found = accumulators(graph, largest)
        problems = [
            GraphError(
                f"a membrane may reach {reach.lowest:.0f} to {reach.highest:.0f}: {reach.bits} bits, "
                f"not {self.accumulator}",
                at=graph[name].at,
                hint="a wider accumulator, fewer bits, a smaller fan-in, fewer steps or a smaller shift",
            )
            for name, reach in found.items()
            if reach.bits > self.accumulator
        ]
        if problems:
            raise GraphError.gather("accumulators may overflow", problems)
        ctx.note(f"inputs up to {largest:g}: no membrane leaves {max(r.bits for r in found.values())} bits")


def _largest(graph: Graph, x: Array) -> float:
    """The largest |x| that an encoding reads: of a stream of events its total, or a step of it."""
    (name,) = graph.inputs
    return float(np.abs(x if name in streamed(graph) else totals(graph, {name: x})[name]).max())


def _per(array: Array, unit: Array) -> Array:
    """A scalar, [O] or [O, ...] in units [O], rounded."""
    steps = unit.reshape(-1, *[1] * (array.ndim - 1)) if array.ndim > 1 else unit
    return np.asarray(np.rint(np.asarray(array, np.float64) / steps))


def _onto(graph: Graph, name: str, neuron: Node) -> Iterable[Node]:
    """The layers whose currents meet in the value `name`, which has the channels of `neuron`."""
    node = graph[name]
    if node.op == "add":
        for value in graph.values(node):
            yield from _onto(graph, value, neuron)
    elif node.op == "reshape" and node.type.shape[0] == graph.type(graph.values(node)[0]).shape[0]:
        yield from _onto(graph, graph.values(node)[0], neuron)
    elif node.op in LAYERS:
        yield node
    else:
        raise GraphError(f"'{name}' ({node.op}) adds no integers", at=neuron.at, hint="pool-neurons before")


def _plain(graph: Graph, layer: Node) -> Node:
    """The layer itself, if it weighs spikes (or the input) with integer levels of one step a channel."""
    own = roles(layer, graph.params)
    constraint = graph.constraints.get(own["weight"], Constraint())
    if constraint.scale is None or constraint.bits is None:
        raise GraphError("weights are not quantized", at=layer.at, hint="quantize-weights before")
    for levels in (graph.constraints.get(name, Constraint()).levels for name in own.values()):
        if levels is not None and (np.rint(levels) != levels).any():
            raise GraphError("levels that are no integers", at=layer.at, hint="quantize-weights{levels=symmetric}")
    if constraint.scale.size not in (1, constraint.scale.shape[0]):
        raise GraphError("weight steps differ within a channel", at=layer.at)
    name = graph.values(layer)[0]
    while graph[name].op in (*WIRING, "maxpool"):
        name = graph.values(graph[name])[0]
    if graph[name].op not in ("lif", "encode"):
        raise GraphError(f"reads '{name}' ({graph[name].op}), no spikes", at=layer.at, hint="pool-neurons before")
    return layer


def _unit(graph: Graph, layers: list[Node], neuron: Node) -> Array:
    """The weight step of every channel, [O]."""
    names = [roles(layer, graph.params)["weight"] for layer in layers]
    steps = [np.asarray(graph.constraints[name].scale, np.float64).reshape(-1) for name in names]
    made = [np.broadcast_to(step, len(graph.params[name])) for step, name in zip(steps, names, strict=True)]
    if not all(np.array_equal(step, made[0]) for step in made):
        raise GraphError(f"{', '.join(names)} meet here, and their weight steps differ", at=neuron.at)
    return np.asarray(made[0])
