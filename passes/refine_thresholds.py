r"""Refine thresholds, biases and start potentials against the running spiking network, layer by layer.

For every layer of neurons, in order, with the spikes that the refined layers before it really send, and a the teacher's
activation on the same samples, per channel

    theta, u0, b = argmin over a grid of theta and u0   E (theta * count - a)^2

which trades what is clipped above T * theta against what is lost below theta, and starts higher where spikes arrive
late. For every theta and u0 of the grid the bias per step takes the mean error of the channel, round by round, and at
the end the start potential that of every neuron:

    b  <- b + E (a - theta * count) / T
    u0 <- u0 + E (a - theta * count)

(Li et al., A free lunch from ANN, 2021, calibrate bias and potential this way after choosing thresholds by MMSE; here
the choice itself runs on the network's own spikes, biases corrected.) Where the cores of a chip start all neurons alike
(`start=layer`), u0 / theta is one for a layer, the mean of what its channels found, and takes no error. theta per
channel makes a spike worth its own channel's theta: the factor goes into the weights behind, or stays as a weighted
synapse. What is left at the end goes into the read-out: its bias, and a dense one's weights as far as ridge regression
(`snnc.sim.ridge`) can tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import LAYERS, WIRING, Array, Graph, Node, Stage, roles, stands_for
from snnc.pipeline import Context, Pass
from snnc.sim.ideal import delivered
from snnc.sim.ridge import remedy
from snnc.sim.torch import decode, exact, forward, per_channel, tensors, to_tensor
from snnc.sim.window import spike_counts
from snnc.sim.worths import absorb_scales, absorb_worths

FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 1.2, 1.5)
"""Thresholds that are tried, relative to the one found."""
STARTS = (0.5, 0.75, 0.25, 1.0, 0.0, 1.25)
"""Start potentials that are tried, in thresholds."""
BETTER = 0.97
"""What is tried must have less than this share of the error of what was tried before it: few samples mislead."""
VALUES = 8192
"""Values of a channel that are enough to choose by."""
HELD = 2**27
"""Numbers that one layer's currents may be."""
LEAST = 32
"""Samples that are searched on at least, however large a channel is."""


@dataclass(frozen=True)
class RefineThresholds(Pass):
    """Choose thresholds, biases and start potentials by the error of the running spiking network.

    Attributes:
        samples: calibration samples, from the beginning of the training part; fewer where a layer's currents over the
            T steps, which are held at once, would be more than `HELD` numbers.
        rounds: corrections of biases and start potentials.
        per: one threshold for each channel, or for each layer.
        start: a start potential for each neuron, or one for each layer.
    """

    name = "refine-thresholds"
    takes = frozenset({Stage.SPIKING})

    samples: int = 1000
    rounds: int = 3
    per: Literal["channel", "layer"] = "channel"
    start: Literal["neuron", "layer"] = "neuron"

    def __post_init__(self) -> None:
        if self.samples < 4 or self.rounds < 0:
            raise PipelineError(f"'{self.name}' cannot work with samples={self.samples}, rounds={self.rounds}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        if ctx.teacher is None:
            raise PipelineError(f"'{self.name}' needs the network that the graph was made from", hint="use a Pipeline")
        wanted = _wanted(graph, ctx.teacher)
        if not wanted:
            ctx.note("no neurons have a twin in the teacher: nothing refined")
            return graph
        open_graph, worths = _with_worths(graph, wanted)
        x = {next(iter(graph.inputs)): to_tensor(ctx.training(self.name).take(self._count(graph)).x(), ctx.device)}
        with torch.inference_mode(), exact():
            compared = {twin for twin, _ in wanted.values()} | {n.inputs[0] for n in graph.nodes if n.op == "decode"}
            theirs = forward(ctx.teacher, tensors(ctx.teacher, ctx.device), x, keep=lambda n: n.name in compared)
            refined = _Refined(self, open_graph, wanted, worths, theirs, tensors(open_graph, ctx.device), ctx)
            kept = {n.name for end, layer in _read_outs(open_graph) for n in (end, open_graph[layer.inputs[0]])}
            made = forward(open_graph, refined.params, x, keep=lambda n: n.name in kept, before=refined.see)
            refined.read_out(made)
        params = {name: refined.params[name].cpu().numpy() for name in sorted(refined.changed)}
        return absorb_scales(absorb_worths(open_graph.edit(params=params)))

    def _count(self, graph: Graph) -> int:
        """How many samples fit."""
        largest = max(math.prod(node.type.shape) for node in graph.nodes if node.op == "lif")
        return min(self.samples, max(LEAST, HELD // (graph.steps * largest)))


def _wanted(graph: Graph, teacher: Graph) -> dict[str, tuple[str, float]]:
    """What each layer of neurons stands for; thresholds that differ within a channel are left as they are."""
    found = {}
    for node in graph.nodes:
        if node.op == "lif" and graph.params[roles(node, graph.params)["theta"]].ndim < 2:
            found[node.name] = stands_for(node, teacher)
    return {name: twin for name, twin in found.items() if twin is not None}


def _with_worths(graph: Graph, wanted: Mapping[str, tuple[str, float]]) -> tuple[Graph, dict[str, tuple[str, ...]]]:
    """The graph with a factor of one per channel behind every layer of neurons, and the names of these factors.

    Behind a max pool of spikes the factor comes after it. Where wiring leads spikes to one there is none: these
    neurons keep their threshold.
    """
    nodes = {n.name: n for n in graph.nodes}
    params: dict[str, Array] = {}
    worths: dict[str, tuple[str, ...]] = {}
    for name in wanted:
        users = graph.users(name)
        pools = [user.name for user in users if user.op == "maxpool"]
        if any(user.op in (*WIRING, "concat") and graph.feeds(user.name, "maxpool") for user in users):
            continue
        made = []
        for source in [*pools, *([name] if len(pools) < len(users) else [])]:
            scale = graph.fresh(f"{source}.refined")
            made.append(f"{scale}.factor")
            params[made[-1]] = np.ones(nodes[source].type.shape[:1], np.float32)
            for user in graph.users(source):
                if source in pools or user.op != "maxpool":
                    inputs = tuple(scale if i == source else i for i in nodes[user.name].inputs)
                    nodes[user.name] = replace(nodes[user.name], inputs=inputs)
            nodes[scale] = Node(scale, "scale", (source, made[-1]), origin=nodes[source].origin)
        worths[name] = tuple(made)
    return graph.edit(nodes.values(), params=params), worths


@dataclass
class _Refined:
    """The params while the network runs through once.

    Attributes:
        theirs: the teacher's values on the same samples.
        changed: the params that are no longer those of the graph.
        seen: the layers that are done.
    """

    options: RefineThresholds
    graph: Graph
    wanted: Mapping[str, tuple[str, float]]
    worths: Mapping[str, tuple[str, ...]]
    theirs: Mapping[str, Tensor]
    params: dict[str, Tensor]
    ctx: Context
    changed: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def see(self, node: Node, current: Tensor) -> Tensor:
        """Refine the neurons of `node` on their current [T or 1, N, ...]; the current with its new bias."""
        if (twin := self.wanted.get(node.name)) is None:
            return current
        self.ctx.progress(f"refine {node.name}", len(self.seen), len(self.wanted))
        self.seen.add(node.name)
        own = roles(node, self.graph.params)
        before = self.params[own["theta"]]
        name, sign = twin
        wanted = (sign * self.theirs[name]).clamp(min=0)
        layer = _Layer(node, current, wanted, self.params[own["alpha"]], self.graph.steps)
        bias, worths = _bias(self.graph, node), self.worths.get(node.name)
        found = layer.search(before, worths is not None, self.options, self.options.rounds if bias else 0)
        layer = replace(layer, current=current + per_channel(found.bias, wanted.ndim - 1))
        made = {own["theta"]: found.theta, own["u0"]: layer.corrected(found, self.options)}
        made |= {name: (found.theta / before).reshape(-1) for name in worths or ()}
        made |= {bias: self.params[bias] + found.bias} if bias else {}
        self.params |= made
        self.changed.update(made)
        return layer.current

    def read_out(self, made: Mapping[str, Tensor]) -> None:
        """Give what the read-outs lack to the layers that make them; `made`: what these read, [T or 1, N, ...]."""
        for end, layer in _read_outs(self.graph):
            own = roles(layer, self.graph.params)
            if layer.name not in self.theirs or "bias" not in own or self.params[own["bias"]].ndim != 1:
                continue
            lack = self.theirs[layer.name] - made[end.name]
            if layer.op == "dense" and own["weight"] not in self.graph.constraints:
                read = decode(end, made[self.graph.values(layer)[0]], self.graph.steps)
                change, offset = remedy(read, lack)
                self.params[own["weight"]] = self.params[own["weight"]] + change
                self.changed.add(own["weight"])
            else:
                offset = lack.mean([axis for axis in range(lack.ndim) if axis != 1])
            self.params[own["bias"]] = self.params[own["bias"]] + offset / delivered(layer, self.graph.steps)
            self.changed.add(own["bias"])


def _read_outs(graph: Graph) -> list[tuple[Node, Node]]:
    """The layers whose output is decoded, each behind what decodes it."""
    ends = {node.inputs[0]: node for node in graph.nodes if node.op == "decode"}
    return [(end, graph[name]) for name, end in ends.items() if name in graph and graph[name].op in LAYERS]


def _bias(graph: Graph, node: Node) -> str | None:
    """The bias per channel and step that reaches the neurons of `node` and nothing else, if there is one."""
    paths = [graph.values(node)[0]]
    while paths:
        name = paths.pop()
        if name not in graph or len(graph.users(name)) > 1 or name in graph.outputs.values():
            continue
        source = graph[name]
        bias = roles(source, graph.params).get("bias")
        if bias is not None and source.attrs.get("bias_at") == "per-step" and len(graph.users(bias)) == 1:
            if graph.params[bias].shape == node.type.shape[:1]:
                return bias
        elif source.op == "add":
            paths += graph.values(source)
    return None


@dataclass(frozen=True)
class _Found:
    """What was found for the channels of a layer, [C] each; the bias is a current per step."""

    theta: Tensor
    u0: Tensor
    bias: Tensor

    def where(self, better: Tensor, other: _Found) -> _Found:
        """`other` in the channels where it is better."""
        pairs = ((self.theta, other.theta), (self.u0, other.u0), (self.bias, other.bias))
        return _Found(*(torch.where(better, new, old) for old, new in pairs))


@dataclass(frozen=True)
class _Layer:
    """One layer of neurons, what arrives at it, and what it should make.

    Attributes:
        current: [T or 1, N, C, ...].
        wanted: [N, C, ...], never negative.
    """

    node: Node
    current: Tensor
    wanted: Tensor
    alpha: Tensor
    steps: int

    def search(self, before: Tensor, free: bool, options: RefineThresholds, rounds: int) -> _Found:
        """Thresholds, start potentials and biases with the least error on enough of the samples.

        Args:
            free: the threshold may change.
            rounds: corrections of the bias.
        """
        channels = self.wanted.shape[1]
        few = replace(self, current=self._few(self.current, 1), wanted=self._few(self.wanted, 0))
        least = before.new_full((channels,), torch.inf)
        first = before.reshape(-1)[:1].expand(channels)
        found = _Found(first, first, torch.zeros_like(first))
        for factor in FACTORS if free else (1.0,):
            for start in STARTS:
                theta = (before * factor).reshape(-1).expand(channels)
                tried = _Found(theta, theta * start, torch.zeros_like(theta))
                for left in range(rounds, -1, -1):
                    mean, error = few.judge(tried)
                    error = error if options.per == "channel" else error.mean().expand(channels)
                    better = error < BETTER * least
                    least, found = torch.where(better, error, least), found.where(better, tried)
                    tried = replace(tried, bias=tried.bias + mean / self.steps) if left else tried
        return found

    def judge(self, tried: _Found) -> tuple[Tensor, Tensor]:
        """By channel: the mean of the error a - theta * count, and that of its square."""
        theta = per_channel(tried.theta, self.wanted.ndim - 1)
        error = self.wanted - theta * self.counts(tried.theta, tried.u0, tried.bias)
        others = [axis for axis in range(error.ndim) if axis != 1]
        return error.mean(others), error.square().mean(others)

    def corrected(self, found: _Found, options: RefineThresholds) -> Tensor:
        """Start potentials of every neuron [C, ...], with its mean error added round by round; or of the layer [C]."""
        if options.start == "layer":
            return found.theta * (found.u0 / found.theta).mean()
        theta = per_channel(found.theta, self.wanted.ndim - 1)
        made = per_channel(found.u0, self.wanted.ndim - 1).expand(self.wanted.shape[1:])
        for _ in range(options.rounds):
            made = made + (self.wanted - theta * self.counts(found.theta, made)).mean(0)
        return made.clone()

    def counts(self, theta: Tensor, u0: Tensor, bias: Tensor | None = None) -> Tensor:
        """Spikes of every neuron, [N, C, ...], with a bias [C] per step if there is one."""
        rank = self.wanted.ndim - 1
        theta, u0, alpha = (per_channel(param, rank) for param in (theta, u0, self.alpha))
        more = None if bias is None else per_channel(bias, rank)
        return spike_counts(self.current, alpha, theta, u0, self.steps, str(self.node.attrs["reset"]), more)

    def _few(self, value: Tensor, axis: int) -> Tensor:
        """As many of the samples, which lie along `axis`, as are enough to choose by."""
        enough = max(LEAST, -(-VALUES // math.prod(self.wanted.shape[2:])))
        return value.narrow(axis, 0, min(len(self.wanted), enough))
