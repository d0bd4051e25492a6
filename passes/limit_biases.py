r"""Give biases a form that the hardware has. Chips with shared currents have no free bias for every neuron.

In units of each neuron's own weight step (of its threshold, while weights are free) x = b / s, per core:

    dc-bit   x_i -> m_i I,  m_i in {0, 1}, I > 0     every neuron switches the one direct current of its core
    tonic    x_i -> l_i c,  l_i one of the levels L  a channel that always fires; its synapse is one connection more
    fold     W_i -> k_i W_i,  b_i -> 0               no bias: a gain, or a threshold of theta / k_i (`snnc.sim.gains`)

    dc-bit   I, m = argmin sum_i (x_i - m_i I)^2: of the largest k biases I is the mean; the best k has the largest
             (sum of them)^2 / k. Biases below 0 have no current to stand for them and are lost.
    tonic    L are the levels of the layer's weights, where these are a set that is the same for both signs: sums of
             base currents are masks over currents that a core has once, and a tonic synapse is one more mask over
             them. Else L are the integers up to 2**(bits-1) - 1. c is free, the gain of a synapse type of its own: the
             one of `RATIOS` * max_i (|x_i| / max L_i) with the least sum of (x_i - l_i c)^2. The channel fires c times
             a step, evenly; slow synapses make a constant current of that. One channel and one c a core, or a layer.
    fold     needs data, weights that are still free, and nothing of the chip. A bias whose neurons nothing else
             drives has no gain to stand for it and is lost.

Layers whose currents are added up in front of the same neurons have one bias for the first two, the sum, which the
first of them gets. These two become Constraints, so that trainers behind this pass learn within them: a bit is switched
when the bias that is learned comes near the current. Run it behind bias-per-step: a direct current flows at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from snnc.errors import GraphError, PipelineError
from snnc.ir import LAYERS, WEIGHTED, Array, Constraint, Graph, Node, Stage, roles
from snnc.ir.graph import nearest
from snnc.pipeline import Context, Pass
from snnc.sim.cores import CORE, channels_per_core, filled, meeting, weight_steps
from snnc.sim.gains import gains
from snnc.sim.reference import per_channel
from snnc.sim.torch import CHUNK

RATIOS = tuple(1 - i / 40 for i in range(33))
"""Shares of the largest bias that the tonic grid may end at: 1, 0.975, ... 0.2."""
SWITCH = np.array([0, 1], np.float32)
"""The levels of a bias that is a bit."""


@dataclass(frozen=True)
class LimitBiases(Pass):
    """Make biases bits of a current that a core shares, synapses of a tonic channel, or gains.

    Attributes:
        method: see above.
        bits: of a tonic synapse where the weights' levels are integers.
        core: neurons of a core.
        per: one current or tonic step for each core, or for the cores of a layer together, which leaves it free which
            of its neurons share one.
        samples: training samples that gains are seen over.
    """

    name = "limit-biases"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    method: Literal["dc-bit", "tonic", "fold"] = "dc-bit"
    bits: int = 4
    core: int = CORE
    per: Literal["core", "layer"] = "core"
    samples: int = 1000

    def __post_init__(self) -> None:
        if self.core < 1 or not 2 <= self.bits <= 8 or self.samples < 1:
            raise PipelineError(
                f"'{self.name}' cannot work with bits={self.bits}, core={self.core}, samples={self.samples}"
            )

    def run(self, graph: Graph, ctx: Context) -> Graph:
        layers = [node for node in graph.nodes if _biased(graph, node)]
        problems = [
            GraphError("its bias comes whole at the first step", at=node.at, hint="run bias-per-step before")
            for node in layers
            if node.attrs["bias_at"] != "per-step"
        ]
        if problems:
            raise GraphError.gather("biases are no currents that flow at every step", problems)
        if self.method == "fold":
            return self._folded(graph, layers, ctx)
        graph = _added_up(graph, layers, ctx)
        layers = [node for node in graph.nodes if _biased(graph, node)]
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        for node in layers:
            name = roles(node, graph.params)["bias"]
            bias = graph.params[name]
            constraint = self._switched(graph, node) if self.method == "dc-bit" else self._tonic(graph, node)
            if _like(graph.constraints.get(name), constraint) or not bias.any():
                continue
            constraints[name] = constraint
            params[name] = constraint.project(bias)
            ctx.note(f"{node.name}: {self._cost(bias, params[name])}")
        if not params:
            return _constrained(graph)
        return graph.edit(params=params, constraints=constraints, stage=Stage.CONSTRAINED)

    def _folded(self, graph: Graph, layers: list[Node], ctx: Context) -> Graph:
        """The graph without biases that neurons get."""
        layers = [node for node in layers if graph.params[roles(node, graph.params)["bias"]].any()]
        problems = [
            GraphError("a gain would leave the levels that its weights stand on", at=node.at)
            for node in layers
            if (limit := graph.constraints.get(_weight(graph, node))) is not None and limit.scale is not None
        ]
        if problems:
            before = "run limit-biases{method=fold} before quantize-weights"
            raise GraphError.gather("biases fold into weights that are free", problems, hint=before)
        if not layers:
            return _constrained(graph)
        part = ctx.training(self.name).take(self.samples)
        batches = (part.x(slice(at, at + CHUNK)) for at in range(0, len(part), CHUNK))
        params, nodes = dict[str, Array](), {node.name: node for node in graph.nodes}
        for found in gains(graph, layers, batches, ctx.device):
            node, (gain, stands, off) = found.node, found.found()
            weight, bias = _weight(graph, node), roles(node, graph.params)["bias"]
            params[weight] = _times(graph.params[weight], gain, node)
            nodes[node.name] = _without(node, bias)
            lost = "" if stands.all() else f", {np.count_nonzero(~stands)} have nothing to be a gain of and are lost"
            ctx.note(
                f"{node.name}: {np.count_nonzero(stands)} of {stands.size} biases are gains{lost}; off by {off:.0%}"
            )
        return _constrained(graph.edit(nodes.values(), params=params))

    def _switched(self, graph: Graph, node: Node) -> Constraint:
        """The levels of a bias that is a bit, with one current for each core."""
        bias = graph.params[roles(node, graph.params)["bias"]]
        unit, cores = _unit(graph, node, bias), self._cores(node, bias)
        values, scale = bias.astype(np.float64) / unit, np.zeros(bias.shape)
        for core in np.unique(cores):
            scale[cores == core] = direct_current(values[cores == core])
        return Constraint(1, np.asarray(scale * unit, np.float32), None, SWITCH)

    def _tonic(self, graph: Graph, node: Node) -> Constraint:
        """The levels of a bias that is a tonic synapse, with one step for each core."""
        bias = graph.params[roles(node, graph.params)["bias"]]
        weights = _sums(graph, node)
        bits, levels = (self.bits, integers(self.bits)) if weights is None else weights
        unit, cores = _unit(graph, node, bias), self._cores(node, bias, whole=weights is not None)
        values, scale = bias.astype(np.float64) / unit, np.zeros(bias.shape)
        for core in np.unique(cores):
            mine = cores == core
            scale[mine] = tonic_step(values[mine], _of_rows(levels, mine))
        return Constraint(bits, np.asarray(scale * unit, np.float32), None, None if weights is None else levels)

    def _cores(self, node: Node, bias: Array, whole: bool = False) -> Array:
        """Which elements of a bias share a current or a step: [] or [C] stands for whole channels.

        Args:
            whole: the cores of a channel count as one.
        """
        if self.per == "layer":
            return np.zeros(bias.shape, np.int64)
        together = channels_per_core(node.type.shape, self.core)
        if whole:
            channel = np.arange(len(bias)).reshape(-1, *[1] * (bias.ndim - 1))
            return np.asarray(np.broadcast_to(channel // together, bias.shape))
        if bias.shape == node.type.shape:
            return filled(bias.shape, self.core)
        return np.arange(bias.size).reshape(bias.shape) // together

    def _cost(self, before: Array, after: Array) -> str:
        """Where the biases of a layer went, and how far off they are."""
        off = float(np.linalg.norm(after - before) / np.linalg.norm(before))
        on = int(np.count_nonzero(after))
        if self.method == "tonic":
            return f"{on} of {before.size} biases are a tonic synapse, one connection more; off by {off:.0%}"
        lost = int((before < 0).sum())
        return f"{on} of {before.size} biases are switched on, {lost} below 0 are lost; off by {off:.0%}"


def direct_current(values: Array) -> float:
    """The current I > 0 with the least sum of (x_i - m_i I)^2 over all bits m_i; see above.

    The largest size where no value is above 0: all bits are then off.
    """
    ranked = np.sort(values[values > 0])[::-1]
    if not ranked.size:
        return float(np.abs(values).max()) or 1.0
    counts = np.arange(1, len(ranked) + 1)
    best = int((np.cumsum(ranked) ** 2 / counts).argmax())
    return float(ranked[: best + 1].mean())


def tonic_step(values: Array, levels: Array) -> float:
    """The step c with the least sum of (x_i - l_i c)^2 over levels l_i; see above.

    Args:
        values: [n].
        levels: ascending, one set [L], or one for each value, [n, L].
    """
    largest = float((np.abs(values) / levels.max(axis=-1)).max())
    if not largest:
        return 1.0
    steps = np.array(RATIOS) * largest
    errors = [np.square(nearest(values / step, levels) * step - values).sum() for step in steps]
    return float(steps[np.argmin(errors)])


def integers(bits: int) -> Array:
    """The levels of so many bits, one of them the sign."""
    top = 2 ** (bits - 1) - 1
    return np.arange(-top, top + 1, dtype=np.float64)


def _biased(graph: Graph, node: Node) -> bool:
    """Whether a node has a bias that neurons get."""
    timed = node.op in WEIGHTED and node.type.kind == "current" and "bias" in roles(node, graph.params)
    return timed and graph.feeds(node.name, "lif")


def _added_up(graph: Graph, layers: list[Node], ctx: Context) -> Graph:
    """The graph with one bias of layers whose currents nothing but sums stands between, and the neurons."""
    alone = [node for node in layers if _only_added(graph, node)]
    params, nodes = dict[str, Array](), {node.name: node for node in graph.nodes}
    for group in meeting(graph, alone):
        first, names = group[0], [roles(node, graph.params)["bias"] for node in group]
        for node, name in zip(group[1:], names[1:], strict=True):
            bias = graph.params[name]
            if bias.shape == graph.params[names[0]].shape and bias.any():
                params[names[0]] = params.get(names[0], graph.params[names[0]]) + bias
                nodes[node.name] = _without(node, name)
                ctx.note(f"{node.name}: its bias is added to that of {first.name}")
    free = dict.fromkeys(params, Constraint())
    return graph.edit(nodes.values(), params=params, constraints=free) if params else graph


def _only_added(graph: Graph, node: Node) -> bool:
    """Whether the current of a node reaches neurons through sums alone, and nothing else reads it or its bias."""
    users, own = graph.users(node.name), roles(node, graph.params).get("bias")
    if len(users) != 1 or node.name in graph.outputs.values() or (own is not None and len(graph.users(own)) > 1):
        return False
    return users[0].op == "lif" or (users[0].op == "add" and _only_added(graph, users[0]))


def _without(node: Node, bias: str) -> Node:
    """A layer that has no bias any more."""
    attrs = {key: value for key, value in node.attrs.items() if key != "bias_at"}
    return replace(node, inputs=tuple(name for name in node.inputs if name != bias), attrs=attrs)


def _constrained(graph: Graph) -> Graph:
    """A graph of the stage that is promised: where nothing is limited, layers with all of their connections."""
    if graph.stage is Stage.CONSTRAINED:
        return graph
    layers = [node for node in graph.nodes if node.op in WEIGHTED and graph.feeds(node.name, "lif")]
    weights = [_weight(graph, node) for node in layers]
    every = {name: Constraint(mask=np.ones(graph.params[name].shape, bool)) for name in weights}
    return graph.edit(constraints=every, stage=Stage.CONSTRAINED)


def _sums(graph: Graph, node: Node) -> tuple[int, Array] | None:
    """The bits and the levels of a layer's weights, where these are a set that is the same for both signs."""
    limit = graph.constraints.get(_weight(graph, node)) if node.op in LAYERS else None
    if limit is None or limit.levels is None or not np.array_equal(limit.levels, -limit.levels[..., ::-1]):
        return None
    assert limit.bits is not None
    return limit.bits, limit.levels


def _of_rows(levels: Array, mine: Array) -> Array:
    """The levels of these elements of a bias: one set, or where their rows differ one for each, [n, L]."""
    if levels.ndim == 1:
        return levels
    each = levels[np.nonzero(mine)[0]]
    return np.asarray(each[0] if (each == each[0]).all() else each)


def _unit(graph: Graph, node: Node, bias: Array) -> Array:
    """What the core counts in, for every element of a bias: the weight step of its neurons, or their threshold."""
    steps = weight_steps(graph, node.name)
    if steps is None:
        neurons = [user for user in graph.users(node.name) if user.op == "lif"]
        theta = graph.params[roles(neurons[0], graph.params)["theta"]] if neurons else np.ones((), np.float32)
        rank = len(node.type.shape)
        steps = np.array(np.broadcast_to(per_channel(theta, rank), node.type.shape))
    if bias.shape == steps.shape:
        return steps
    return np.asarray(steps.reshape(len(steps), -1)[:, 0] if bias.ndim else steps.reshape(-1)[0])


def _weight(graph: Graph, node: Node) -> str:
    """The param that a layer's gain is part of."""
    own = roles(node, graph.params)
    return own["factor" if node.op == "scale" else "weight"]


def _times(weight: Array, gain: Array, node: Node) -> Array:
    """Weights of a layer, row by row times its gains, which are one number, one a channel or one a neuron."""
    if node.op == "scale":
        rank = len(node.type.shape)
        made = per_channel(weight, rank) * per_channel(gain, rank)
        return np.asarray(made.reshape(-1) if made.ndim > 1 and made.size == len(made) else made, np.float32)
    return np.asarray(weight * gain.reshape(*gain.shape, *[1] * (weight.ndim - gain.ndim)), np.float32)


def _like(before: Constraint | None, wanted: Constraint) -> bool:
    """Whether a bias obeys a constraint of this kind already, of as many bits, the same levels and as many cores."""
    if before is None or before.scale is None or wanted.scale is None:
        return False
    if before.bits != wanted.bits or before.scale.shape != wanted.scale.shape:
        return False
    if before.levels is None or wanted.levels is None:
        return before.levels is wanted.levels
    return np.array_equal(before.levels, wanted.levels)
