r"""Make neurons of activations, with the thresholds of Threshold LayerNorm (PTL section 3.3).

    a_u   = the percentile of a layer's activations over the calibration data (at most the relu's own maximum)
    theta = a_u / T        one spike stands for theta, T spikes for a_u
    u0    = start * theta  1/2 rounds where 0 floors: count = clip(floor((V + u0) / theta), 0, T)

What a spike is worth goes into the weights that read it, through wiring too: W' = theta W. What is no weight (a sum,
an output) reads a `scale`, a weighted synapse. A max pool that reads neurons stays one, of spikes, exactly: it counts
(see snnc.sim.reference), and the worth moves behind it. A bias delivers its whole charge at the first step until
bias-per-step spreads it.

Both ends stay on the host. What depends on the inputs alone and lies before the first layer stays analog; what it
makes becomes a current of total charge x. The last linear layer is read as aggregate membrane potential, and what
follows it and is not linear (softmax, sigmoid, argmax) stays analog behind a `decode`, with all that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from snnc.data import Split
from snnc.errors import GraphError, PipelineError
from snnc.ir import (
    LAYERS,
    LINEAR,
    Array,
    Attr,
    Graph,
    Node,
    Stage,
    earlier_than,
    front,
    roles,
)
from snnc.pipeline import Context, Pass
from snnc.sim.torch import exact, forward, tensors, to_tensor
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
        code: how inputs become currents: `direct`, `first-step`, or events by chance, `rate`.
        skip: steps before the read-out begins to count; what it counts is scaled up by T / (T - skip).
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
    code: Literal["direct", "first-step", "rate"] = "direct"
    skip: int = 0

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
        _refuse(graph)
        split = ctx.training(self.name).take(self.samples)
        lowering = _Lowering(self, graph, upper_bounds(graph, split, self.percentile, ctx), ctx.seed)
        if self.code == "rate":
            lowering.ranges = largest_sizes(graph, lowering.encoded(), split, ctx)
        spiking = lowering.run()
        if self.skip:
            spiking = _even_read_out(spiking)
        if any("bias_at" in n.attrs for n in spiking.nodes):
            ctx.note("biases arrive whole at the first step until bias-per-step spreads them")
        if late := [n.name for n in graph.nodes if n.name in lowering.back and n.op in LAYERS]:
            ctx.note(f"on the host, behind a function that is not linear: {', '.join(late)}")
        return absorb_scales(absorb_worths(spiking))


class _Lowering:
    """The two ends of the network and what each of its values became, as the nodes are lowered one by one.

    Attributes:
        back: the analog end.
        theta: by relu.
        ranges: the largest size of every value that is encoded, where the code asks for it.
    """

    def __init__(self, options: ThresholdLayerNorm, graph: Graph, bounds: dict[str, float], seed: int) -> None:
        self.options, self.graph, self.seed = options, graph, seed
        self.theta = {name: bound / options.steps for name, bound in bounds.items()}
        self.ranges: dict[str, float] = {}
        self.back = _back(graph)
        self.analog = {*graph.inputs, *front(graph), *self.back}
        self.nodes: list[Node] = []
        self.params: dict[str, Array] = {}
        self.turn: dict[str, str] = {}
        self.decoded: dict[str, str] = {}
        self.led: dict[str, str] = {}

    def encoded(self) -> frozenset[str]:
        """The analog values that neurons and synapses read."""
        timed = [node for node in self.graph.nodes if node.name not in self.analog]
        return frozenset(name for node in timed for name in self.graph.values(node) if name in self.analog)

    def run(self) -> Graph:
        """The spiking graph."""
        for node in self.graph.nodes:
            if node.name in self.analog:
                inputs = tuple(i if i in self.graph.params else self._value(i) for i in node.inputs)
                self.nodes.append(replace(node, inputs=inputs))
            elif node.op == "relu":
                self._neurons(node)
            elif node.op == "maxpool":
                self._pool(node)
            else:
                inputs = tuple(i if i in self.graph.params else self._current(i) for i in node.inputs)
                timed: dict[str, Attr] = {"bias_at": "first-step"} if "bias" in roles(node, self.graph.params) else {}
                self.nodes.append(replace(node, inputs=inputs, attrs={**node.attrs, **timed}))
        outputs = {user: self._value(name) for user, name in self.graph.outputs.items()}
        return self.graph.edit(
            self.nodes, params=self.params, outputs=outputs, stage=Stage.SPIKING, steps=self.options.steps
        )

    def _neurons(self, node: Node) -> None:
        """Neurons, and behind them a scale that says what their spikes are worth."""
        theta = self.theta[node.name]
        own = {"alpha": self.options.alpha, "theta": theta, "u0": self.options.start * theta}
        self.params |= {f"{node.name}.{key}": np.asarray(value, np.float32) for key, value in own.items()}
        inputs = (self._current(node.inputs[0]), *(f"{node.name}.{key}" for key in own))
        self.nodes.append(Node(node.name, "lif", inputs, {"reset": self.options.reset}, node.origin))
        self._worth(node, np.asarray(theta, np.float32))

    def _pool(self, node: Node) -> None:
        """A max pool of spikes, and behind it what they are worth: one factor, or one for each channel."""
        worth = spike_worths(self.graph, node.name, self.theta)
        assert worth is not None, "what is no pool of neurons was refused or stays analog"
        self.nodes.append(replace(node, inputs=(self._spikes(node.inputs[0]),)))
        factor = worth[:, 0, 0]
        self._worth(node, factor[0] if (factor == factor[0]).all() else factor)

    def _worth(self, node: Node, factor: Array) -> None:
        worth = f"{node.name}.worth"
        self.params[f"{worth}.factor"] = factor
        self.nodes.append(Node(worth, "scale", (node.name, f"{worth}.factor"), origin=node.origin))
        self.turn[node.name] = worth

    def _spikes(self, name: str) -> str:
        """The spikes behind a value, led through wiring without their worth."""
        node = self.graph[name]
        if node.op in ("relu", "maxpool"):
            return name
        if name not in self.led:
            self.led[name] = self.graph.fresh(f"{name}.spikes")
            self.nodes.append(replace(node, name=self.led[name], inputs=tuple(map(self._spikes, node.inputs))))
        return self.led[name]

    def _current(self, name: str) -> str:
        """What neurons and synapses read instead of a value of the analog graph."""
        if name in self.analog and name not in self.turn:
            self.turn[name] = self.graph.fresh(f"{name}.current")
            chance: dict[str, Attr] = {}
            if self.options.code == "rate":
                later = sum(node.op == "encode" for node in self.nodes)
                chance = {"seed": self.seed + later, "max": self.ranges[name]}
            self.nodes.append(Node(self.turn[name], "encode", (name,), {"code": self.options.code, **chance}))
        return self.turn.get(name, name)

    def _value(self, name: str) -> str:
        """What the host reads instead of a value of the analog graph."""
        if name in self.analog:
            return name
        name = self.turn.get(name, name)
        if name not in self.decoded:
            self.decoded[name] = f"{name}.decoded"
            skip: dict[str, Attr] = {"skip": self.options.skip} if self.options.skip else {}
            self.nodes.append(Node(self.decoded[name], "decode", (name,), skip))
        return self.decoded[name]


def _back(graph: Graph) -> frozenset[str]:
    """The analog end: what is neither linear nor neurons, and all that reads it; the front is none of it."""
    before, found, neurons = front(graph), set[str](), dict[str, float]()
    for number, node in enumerate(graph.nodes, 1):
        spiking = node.op == "maxpool" and spike_worths(graph, node.name, neurons) is not None
        plain = (spiking or node.op in (*LINEAR, "relu")) and found.isdisjoint(node.inputs)
        if node.name not in before and not plain:
            found.add(node.name)
        elif node.op == "relu":
            neurons[node.name] = number
    return frozenset(found)


HINTS: Mapping[str, str] = {
    "batchnorm": "fold-batchnorm",
    "maxpool": "replace-max-pool",
    "quantize": "drop-rounding",
    **dict.fromkeys(("abs", "clip", "hardsigmoid", "leakyrelu", "maximum", "minimum"), "rectify"),
    **dict.fromkeys(("celu", "elu", "erf", "gelu", "hardswish", "mish", "selu", "sigmoid"), "replace-activation"),
    **dict.fromkeys(("sign", "softplus", "softsign", "swish", "tanh", "thresholdedrelu"), "replace-activation"),
}
"""The pass that takes an op out of the way; a test holds it to what the passes say themselves."""


def _refuse(graph: Graph) -> None:
    """Everything that has no spiking form and stands before the last neurons, at once."""
    before, later, back = front(graph), earlier_than(graph, "relu"), _back(graph)
    problems = []
    for node in graph.nodes:
        spiking = node.op == "maxpool" and node.name not in back
        if node.name in before or node.op in (*LINEAR, "relu") or spiking:
            continue
        if node.op in ("batchnorm", "maxpool") or node.name in later:
            hint = f"run {HINTS[node.op]} before" if node.op in HINTS else "only the ends of a network may stay analog"
            problems.append(
                GraphError(f"'{node.op}' has no spiking form", at=node.at, hint=hint, code="no-spiking-form")
            )
    if not any(node.op == "relu" for node in graph.nodes):
        problems.append(GraphError("the network has no relu that could become neurons", code="no-neurons"))
    if problems:
        raise GraphError.gather("the network cannot become spiking as it is", problems)


def upper_bounds(graph: Graph, split: Split, percentile: float, ctx: Context) -> dict[str, float]:
    """a_u of every relu: the nearest-rank percentile over all its activations on `split`, exact.

    Only the largest values are kept from batch to batch, so memory does not grow with the number of samples.
    """
    relus = [n for n in graph.nodes if n.op == "relu"]
    keep = {n.name: _rank_from_top(len(split) * math.prod(n.type.shape), percentile) for n in relus}
    top: dict[str, torch.Tensor] = {}
    for values in _batches(graph, frozenset(keep), split, ctx):
        for name, count in keep.items():
            pool = torch.cat([*([top[name]] if name in top else []), values[name].flatten()])
            top[name] = pool.topk(min(count, len(pool)), sorted=False).values
    found = {}
    for node in relus:
        found[node.name] = float(top[node.name].min())
        if not found[node.name] > 0:
            most = float(top[node.name].max())
            found[node.name] = most if most > 0 else 1.0
            ctx.note(
                f"{node.at}: the {percentile} percentile is 0, threshold set from {'the maximum' if most > 0 else '1'}"
            )
    return found


def _batches(graph: Graph, names: frozenset[str], split: Split, ctx: Context) -> Iterator[dict[str, torch.Tensor]]:
    """The values of `names` (inputs or nodes), and the outputs, of one batch of `split` after the other."""
    params, name = tensors(graph, ctx.device), next(iter(graph.inputs))
    with torch.inference_mode(), exact():
        for at in range(0, len(split), CHUNK):
            ctx.progress("calibrate thresholds", at, len(split))
            batch = {name: to_tensor(split.x(slice(at, at + CHUNK)), ctx.device)}
            yield forward(graph, params, batch, keep=lambda n: n.name in names)


def largest_sizes(graph: Graph, names: frozenset[str], split: Split, ctx: Context) -> dict[str, float]:
    """max |x| of every value of `names` (inputs or nodes) on `split`; 1 where all are 0."""
    found = dict.fromkeys(names, 0.0)
    for values in _batches(graph, names, split, ctx):
        found = {key: max(most, float(values[key].abs().max())) for key, most in found.items()}
    return {key: most or 1.0 for key, most in found.items()}


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


def _rank_from_top(count: int, percentile: float) -> int:
    """How many of the largest of `count` values reach down to the nearest-rank percentile."""
    return count - max(math.ceil(round(percentile / 100 * count, 6)), 1) + 1
