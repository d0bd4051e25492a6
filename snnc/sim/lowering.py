"""An analog graph as a time-stepped one: which values come step by step, and what each of them becomes.

The thresholds are given; the pass threshold-layernorm finds them, and its docstring has the algebra.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

import numpy as np

from snnc.errors import GraphError
from snnc.ir import LINEAR, Array, Attr, Graph, Node, Stage, earlier_than, front, roles

from .worths import spike_worths


@dataclass(frozen=True)
class Neurons:
    """What all neurons, and both ends of the network, have in common; as the options of threshold-layernorm."""

    steps: int
    start: float
    alpha: float
    reset: str
    code: str
    skip: int


class Lowering:
    """The two ends of the network and what each of its values became, as the nodes are lowered one by one.

    Attributes:
        back: the analog end.
        theta: by relu, [] or [C].
        ranges: the largest size of every value that is encoded, where the code asks for it.
    """

    def __init__(
        self,
        options: Neurons,
        graph: Graph,
        before: frozenset[str],
        bounds: Mapping[str, Array],
        seed: int,
        late: frozenset[str] = frozenset(),
    ) -> None:
        """Find both ends.

        Args:
            before: what stays analog before the first layer.
            bounds: what T spikes of a relu stand for, [] or [C].
            seed: of the code `rate`; every value that is encoded gets the next one.
            late: relus that stay analog, and all that reads them (a hybrid network).
        """
        self.options, self.graph, self.seed = options, graph, seed
        self.theta = {name: np.asarray(bound / options.steps, np.float32) for name, bound in bounds.items()}
        self.ranges: dict[str, float] = {}
        self.back = back(graph, before, late)
        self.analog = {*graph.inputs, *before, *self.back}
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
        self._worth(node, theta)

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
            code = "direct" if self.options.code == "events" and name in self.graph else self.options.code
            self.nodes.append(Node(self.turn[name], "encode", (name,), {"code": code, **chance}))
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


def spread_biases(graph: Graph, keep: Container[str] = ()) -> Graph:
    """The graph with every bias b that arrives at the first step as b / T at each; itself if there is none.

    Args:
        keep: nodes whose bias goes on arriving at the first step.
    """
    late = [n for n in graph.nodes if n.attrs.get("bias_at") == "first-step" and n.name not in keep]
    if not late:
        return graph
    biases = {roles(n, graph.params)["bias"] for n in late}
    params = {name: graph.params[name] / np.float32(graph.steps) for name in biases}
    return graph.edit([n.with_attrs(bias_at="per-step") if n in late else n for n in graph.nodes], params=params)


def back(graph: Graph, before: frozenset[str], late: frozenset[str] = frozenset()) -> frozenset[str]:
    """The analog end: what is neither linear nor neurons, relus in `late`, and all that reads it; not the front."""
    found, neurons = set[str](), dict[str, float]()
    for number, node in enumerate(graph.nodes, 1):
        spiking = node.op == "maxpool" and spike_worths(graph, node.name, neurons) is not None
        plain = (spiking or node.op in (*LINEAR, "relu")) and found.isdisjoint(node.inputs)
        if node.name not in before and (node.name in late or not plain):
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


def refuse(graph: Graph, before: frozenset[str]) -> None:
    """Refuse everything that has no spiking form and stands before the last neurons, at once.

    Args:
        before: what stays analog before the first layer.

    Raises:
        GraphError: names each, and the pass that takes it out of the way.
    """
    later, late = earlier_than(graph, "relu"), back(graph, before)
    problems = []
    for node in graph.nodes:
        spiking = node.op == "maxpool" and node.name not in late
        if node.name in before or node.op in (*LINEAR, "relu") or spiking:
            continue
        if node.op in ("batchnorm", "maxpool") or node.name in later:
            hint = f"run {HINTS[node.op]} before" if node.op in HINTS else "only the ends of a network may stay analog"
            hint = "the host computes it of totals: code=direct" if node.name in front(graph) else hint
            problems.append(
                GraphError(f"'{node.op}' has no spiking form", at=node.at, hint=hint, code="no-spiking-form")
            )
    if not any(node.op == "relu" for node in graph.nodes):
        problems.append(GraphError("the network has no relu that could become neurons", code="no-neurons"))
    if problems:
        raise GraphError.gather("the network cannot become spiking as it is", problems)
