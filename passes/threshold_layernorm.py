r"""Make neurons of activations, with the thresholds of Threshold LayerNorm (PTL section 3.3).

    a_u   = the percentile of a layer's activations over the calibration data (at most the relu's own maximum)
    theta = a_u / T        one spike stands for theta, T spikes for a_u
    u0    = start * theta  1/2 rounds where 0 floors: count = clip(floor((V + u0) / theta), 0, T)

a_u is one for a layer, or with `per=channel` one for each channel, of its own activations alone (channel-wise
normalization, Spiking-YOLO section 3.1, arXiv 1903.06530): small channels then use all T steps too.

What a spike is worth goes into the weights that read it, through wiring too: W' = theta W. What is no weight (a sum,
an output) reads a `scale`, a weighted synapse. A max pool that reads neurons stays one, of spikes, exactly: it counts
(see snnc.sim.reference), and the worth moves behind it. A bias delivers its whole charge at the first step until
bias-per-step spreads it.

Both ends stay on the host. What depends on the inputs alone and lies before the first layer stays analog; what it
makes becomes a current of total charge x. An input that is a stream of events (`code=events`, see snnc.ir.streams)
comes as it is: what lies before the first layer then runs step by step, and must be linear. The last linear layer is
read as aggregate membrane potential, and what follows it and is not linear (softmax, sigmoid, argmax) stays analog
behind a `decode`, with all that reads it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from snnc.data import Split
from snnc.errors import PipelineError
from snnc.ir import (
    LAYERS,
    WIRING,
    Array,
    Graph,
    Node,
    Stage,
    front,
    roles,
    steady,
)
from snnc.ir.streams import is_stream
from snnc.pipeline import Context, Pass
from snnc.sim.calibration import largest_sizes, percentiles, usable
from snnc.sim.lowering import Lowering, Neurons, back, refuse
from snnc.sim.worths import absorb_scales, absorb_worths, spike_worths

CHUNK = 64


@dataclass(frozen=True)
class ThresholdLayerNorm(Pass):
    """Turn every relu into integrate-and-fire neurons.

    Attributes:
        steps: T.
        percentile: nearest rank over all activations of a layer, zeros included; PTL uses 99 or 99.9.
        samples: calibration samples, from the beginning of the training part; the percentile over them is exact.
        start: u0 as a share of theta.
        alpha: the leak a step; 1 is IF, exp(-dt/tau) < 1 is LIF.
        reset: see snnc.sim.neurons.
        code: how inputs become currents: `direct`, `first-step`, events by chance, `rate`, or streams of `events`,
            of as many steps.
        skip: steps before the read-out begins to count; what it counts is scaled up by T / (T - skip).
        per: one threshold for each layer, or for each channel.
    """

    name = "threshold-layernorm"
    takes = frozenset({Stage.ANALOG})
    gives = Stage.SPIKING

    steps: int = 16
    percentile: float = 99.9
    samples: int = 1000
    start: float = 0.5
    alpha: float = 1.0
    reset: Literal["subtract", "subtract-decayed", "zero"] = "subtract"
    code: Literal["direct", "first-step", "rate", "events"] = "direct"
    skip: int = 0
    per: Literal["layer", "channel"] = "layer"

    def __post_init__(self) -> None:
        wrong = {
            "steps": self.steps >= 1,
            "percentile": 0 < self.percentile <= 100,
            "samples": self.samples >= 1,
            "start": 0 <= self.start < 1,
            "alpha": 0 < self.alpha <= 1,
            "skip": 0 <= self.skip < max(self.steps, 1),
        }
        if bad := [f"{key}={getattr(self, key)}" for key, fine in wrong.items() if not fine]:
            hint = f"skip fewer than the {self.steps} step(s)" if f"skip={self.skip}" in bad else ""
            raise PipelineError(f"'{self.name}' cannot work with {', '.join(bad)}", hint=hint)

    def run(self, graph: Graph, ctx: Context) -> Graph:
        before = front(graph) if self.code != "events" else steady(graph)
        refuse(graph, before)
        split = ctx.training(self.name).take(self.samples)
        self._check_streams(graph, split)
        channels = _by_channel(graph, before, ctx) if self.per == "channel" else frozenset[str]()
        bounds = upper_bounds(graph, split, self.percentile, ctx, channels)
        own = Neurons(self.steps, self.start, self.alpha, self.reset, self.code, self.skip)
        lowering = Lowering(own, graph, before, bounds, ctx.seed)
        if self.code == "rate":
            lowering.ranges = largest_sizes(graph, lowering.encoded(), _batches(split, ctx), ctx.device)
        spiking = lowering.run()
        if self.skip:
            spiking = _even_read_out(spiking)
        if any("bias_at" in n.attrs for n in spiking.nodes):
            ctx.note("biases arrive whole at the first step until bias-per-step spreads them")
        if late := [n.name for n in graph.nodes if n.name in lowering.back and n.op in LAYERS]:
            ctx.note(f"on the host, behind a function that is not linear: {', '.join(late)}")
        return absorb_scales(absorb_worths(spiking))

    def _check_streams(self, graph: Graph, split: Split) -> None:
        """Events need streams of T steps; other codes would see their totals, which for images is no sum to take."""
        name, sample = next(iter(graph.inputs)), split.raw.shape[1:]
        stream = is_stream(graph, name, sample)
        if self.code != "events" and stream and sample[0] > 1:
            raise PipelineError(
                f"samples {list(sample)} are streams of {sample[0]} steps for the input '{name}' "
                f"{list(graph.inputs[name].shape)}, of which code={self.code} would see the totals",
                hint=f"code=events steps={sample[0]} for recordings; samples of the input's own shape for images",
            )
        if self.code == "events" and not stream:
            want = ", ".join(map(str, ("T", *graph.inputs[name].shape)))
            raise PipelineError(f"'{self.name}' with code=events needs samples [{want}], not {list(sample)}")
        if self.code == "events" and sample[0] != self.steps:
            why = f"'{self.name}' has steps={self.steps}, the samples are streams of {sample[0]} steps"
            raise PipelineError(why, hint=f"steps={sample[0]}, or count the events in other frames")


def _by_channel(graph: Graph, before: frozenset[str], ctx: Context) -> frozenset[str]:
    """The relus whose channels may have thresholds of their own: no window of a max pool sees two of them."""
    relus = {n.name: n.type.shape for n in graph.nodes if n.op == "relu" and n.type.shape}
    worths = {name: 1 + np.arange(shape[0]) for name, shape in relus.items()}
    mixed: set[str] = set()
    for pool in [n for n in graph.nodes if n.op == "maxpool" and n.name not in {*before, *back(graph, before)}]:
        if spike_worths(graph, pool.name, worths) is None:
            mixed |= _sources(graph, pool.name)
    if mixed:
        ctx.note(f"one threshold for all channels, which a max pool compares: {', '.join(sorted(mixed))}")
    return frozenset(relus) - mixed


def _sources(graph: Graph, name: str) -> set[str]:
    """The relus that the value `name` comes from, through wiring and max pools."""
    if name not in graph or graph[name].op not in (*WIRING, "concat", "maxpool"):
        return {name}
    return set().union(*(_sources(graph, value) for value in graph.values(graph[name])))


def upper_bounds(
    graph: Graph, split: Split, percentile: float, ctx: Context, channels: Container[str] = ()
) -> dict[str, Array]:
    """a_u of every relu, float32: one [], or of those in `channels` (by name) one for each channel, [C].

    Where the percentile is 0 it is the maximum, where that is 0 too (dead) the layer's largest a_u, or else 1.
    """
    relus = {n.name: n for n in graph.nodes if n.op == "relu"}
    rows = {name: node.type.shape[0] if name in channels else 1 for name, node in relus.items()}
    found = percentiles(graph, rows, _batches(split, ctx), len(split), percentile, ctx.device)
    made = {}
    for name, (bound, most) in found.items():
        made[name] = usable(bound, most)
        _note_zeros(relus[name], percentile, bound, most, ctx)
    return {name: bound if name in channels else bound.reshape(()) for name, bound in made.items()}


def _note_zeros(node: Node, percentile: float, bound: Array, most: Array, ctx: Context) -> None:
    """Say where the percentile was no threshold, and what became one."""
    rare, dead = int(((bound <= 0) & (most > 0)).sum()), int((most <= 0).sum())
    where = "" if len(bound) == 1 else " of {} channel(s)"
    other = "the largest of the others" if dead < len(bound) else "1"
    for count, text in ((rare, "the maximum"), (dead, other)):
        if count:
            zero = f"the {percentile} percentile{where.format(count)} is 0"
            ctx.note(f"{node.at}: {zero}, threshold set from {text}")


def _batches(split: Split, ctx: Context) -> Iterator[Array]:
    """Calibration samples [n, ...], batch after batch."""
    for at in range(0, len(split), CHUNK):
        ctx.progress("calibrate thresholds", at, len(split))
        yield split.x(slice(at, at + CHUNK))


def _even_read_out(graph: Graph) -> Graph:
    """The read-out's biases spread over the steps: a read-out that skips the first one would lose them."""
    read: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op == "decode" or node.name in read:
            read.update(name for name in graph.values(node) if name in graph and graph[name].op != "lif")
    nodes, params = {n.name: n for n in graph.nodes}, dict[str, Array]()
    for node in (graph[name] for name in read if graph[name].attrs.get("bias_at") == "first-step"):
        old = roles(node, graph.params)["bias"]
        name = old if len(graph.users(old)) == 1 else graph.fresh(f"{node.name}.even")
        params[name] = graph.params[old] / np.float32(graph.steps)
        inputs = tuple(name if i == old else i for i in node.inputs)
        nodes[node.name] = replace(node, inputs=inputs).with_attrs(bias_at="per-step")
    return graph.edit(nodes.values(), params=params)
