"""The step-by-step executor: all layers advance together by one time step, with O(1) memory in T.

It shares the kernels and the neuron of `snnc.sim.torch`; a chip steps its network with it, adds its noise through
`disturb`, and learns between two steps from what it can see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from snnc.errors import GraphError
from snnc.ir import Graph, Node, params_of
from snnc.ir.once import once

from .encoding import totals
from .neurons import fires, membrane
from .placement import moved, places
from .torch import KERNELS, Normalize, Tensors, biased, delay, encode, largest, per_channel

Disturb = Callable[[Node, Tensor], Tensor]
Neurons = Callable[[Node, Tensor], tuple[Tensor, Tensor]]
"""U[t] and S[t] of a layer from its current I[t]: neurons other than those of `snnc.sim.neurons`, with their state."""


class Stepper:
    """The running state of one network on one batch.

    Attributes:
        values: every value at the present step [N, ...]; analog ones once they are known.
        potential: U[t] by lif node.
        read: what was summed up so far, by decode node.
        count: C[t], the spikes so far, by lif node.
        fired: S[t] by lif node before it was disturbed, which is what resets a neuron; empty where nothing disturbs it.
        still: the nodes of `values` that are computed once, as they are the same at every step.
        trains: what encoders hand on step by step, [T, N, ...], by node.
        place: where every node computes, by name; empty if all is on one device.
        arrived, most: the spikes so far that a spiking max pool was sent and their largest in each window, by node.
        intercept: hears of every layer of neurons and its current before it fires, gives back the current that it gets:
            [N, ...], or several steps at once, [steps or 1, N, ...], where `snnc.sim.chunks` advances it.
        t: steps done.
    """

    def __init__(
        self, graph: Graph, params: Tensors, x: Tensors, disturb: Mapping[str, Disturb] | None = None,
        neurons: Neurons | None = None, normalize: Normalize | None = None,
    ) -> None:  # fmt: skip
        """Set the inputs and go to t = 0.

        Args:
            x: inputs [N, ...], or streams of events [N, T, ...], by input name.
            disturb: by `current` and `spikes`: what becomes of a neuron's input and of its output at some steps
                [steps, N, ...].
            neurons: what fires in place of the neurons of `snnc.sim.neurons`.
            normalize: see `snnc.sim.torch.forward`.
        """
        self.graph, self.params, self.disturb = graph, params, dict(disturb or {})
        self.neurons, self.normalize = neurons, dict(normalize or {})
        self.intercept: Disturb | None = None
        self.fired: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = totals(graph, x)
        self.potential: dict[str, Tensor] = {}
        self.count: dict[str, Tensor] = {}
        self.arrived: dict[str, Tensor] = {}
        self.most: dict[str, Tensor] = {}
        self.read: dict[str, Tensor] = {}
        self.t = 0
        self.trains: dict[str, Tensor] = {}
        self._given = {name: x[name] for name in graph.inputs}
        self.still: set[str] = set()
        self.place = places(graph, params, x)
        self._head = _readout(graph)
        for node in graph.nodes:
            self._prepare(node)

    def _prepare(self, node: Node) -> None:
        """Analog values before the first encoding, currents that stay the same, and the neurons' start."""
        read = self.graph.values(node)
        if node.op == "encode":
            self.trains[node.name] = encode(node, self.values[read[0]], self.graph.steps, self._given)
            if len(self.trains[node.name]) == 1:
                self.values[node.name] = self.trains[node.name][0]
                self.still.add(node.name)
        elif node.op == "lif":
            shape = (self.batch, *node.type.shape)
            u0 = per_channel(self.own(node)["u0"], len(node.type.shape))
            self.potential[node.name] = u0.expand(shape)
            self.values[node.name] = self.count[node.name] = torch.zeros(shape, device=u0.device)
        elif node.op == "decode":
            self.read[node.name] = torch.zeros((self.batch, *node.type.shape), device=self._device(node))
            self.values[node.name] = self.read[node.name]
        elif node.op == "maxpool" and node.type.kind == "spikes":
            for held, shape in ((self.arrived, self.graph.type(read[0]).shape), (self.most, node.type.shape)):
                held[node.name] = torch.zeros((self.batch, *shape), device=self._device(node))
        elif node.type.kind == "analog" and node.name not in self._head:
            self.values[node.name] = self._compute(node)
        elif node.attrs.get("bias_at") != "first-step" and read and set(read) <= self.still:
            self.values[node.name] = self._compute(node)
            self.still.add(node.name)

    def step(self) -> None:
        """Advance every layer by one time step."""
        self.t += 1
        for node in self.graph.nodes:
            if node.name in self.still or node.name in self._head:
                continue
            read = self.graph.values(node)
            if node.op == "encode":
                self.values[node.name] = self.trains[node.name][self.t - 1]
            elif node.op == "decode":
                self._read_out(node, self.values[read[0]])
            elif node.op == "lif":
                self._fire(node, self.values[read[0]])
            elif node.name in self.most:
                self._pool(node, self.values[read[0]])
            elif node.type.kind != "analog":
                self.values[node.name] = self._compute(node)

    def outputs(self) -> dict[str, Tensor]:
        """The outputs by the user's names, from what was decoded so far."""
        self.values.update(self.head({}))
        return {user: self.values[name] for user, name in self.graph.outputs.items()}

    def head(self, decoded: Tensors) -> dict[str, Tensor]:
        """All that stands behind the read-outs, by node name, given what these decode (else what they have so far)."""
        values = {**self.values, **decoded}
        made = dict(decoded)
        for node in self.graph.nodes:
            if node.name in self._head:
                made[node.name] = values[node.name] = self._compute(node, values)
        return made

    def _fire(self, node: Node, current: Tensor) -> None:
        current = moved(current, self.place.get(node.name))
        if self.intercept is not None:
            current = self.intercept(node, current)
        if "current" in self.disturb:
            current = self.disturb["current"](node, current[None])[0]
        u, spikes = (self._charge if self.neurons is None else self.neurons)(node, current)
        if "spikes" in self.disturb:
            self.fired[node.name] = spikes
            spikes = self.disturb["spikes"](node, spikes[None])[0]
        self.potential[node.name], self.values[node.name] = u, spikes
        self.count[node.name] = self.count[node.name] + spikes

    def _charge(self, node: Node, current: Tensor) -> tuple[Tensor, Tensor]:
        own, rank = self.own(node), len(node.type.shape)
        alpha, theta = per_channel(own["alpha"], rank), per_channel(own["theta"], rank)
        last = self.fired.get(node.name, self.values[node.name])
        u = membrane(self.potential[node.name], last, current, alpha, theta, str(node.attrs["reset"]))
        return u, fires(u, theta)

    def _pool(self, node: Node, spikes: Tensor) -> None:
        """A spike wherever the largest count in the window grows (snnc.sim.reference has the formula)."""
        self.arrived[node.name] = self.arrived[node.name] + spikes
        most = largest(node, self.arrived[node.name])
        self.values[node.name], self.most[node.name] = most - self.most[node.name], most

    def _read_out(self, node: Node, value: Tensor) -> None:
        """The sum over the steps that count; what was skipped is made up for by a factor."""
        skip, more = delay(node, self.graph.steps)
        if self.t > skip:
            self.read[node.name] = self.read[node.name] + value
            self.values[node.name] = self.read[node.name] * more if skip else self.read[node.name]

    def _compute(self, node: Node, values: Tensors | None = None) -> Tensor:
        own, values = self.own(node), self.values if values is None else values
        if node.op == "constant":
            return own["value"].expand(self.batch, *node.type.shape)
        here = self.place.get(node.name)
        made = KERNELS[node.op](node, [moved(values[name], here) for name in self.graph.values(node)], own)
        charged = node.type.kind == "analog" or node.attrs.get("bias_at") == "per-step" or self.t == 1
        made = biased(node, made, own) if charged else made
        return self.normalize[node.name](made) if node.name in self.normalize else made

    def own(self, node: Node) -> dict[str, Tensor]:
        """The params of a node by role, where it computes."""
        here = self.place.get(node.name)
        return {role: moved(self.params[name], here) for role, name in params_of(self.graph)[node.name].items()}

    @property
    def batch(self) -> int:
        """Samples that run."""
        return self.values[next(iter(self.graph.inputs))].shape[0]

    def _device(self, node: Node) -> torch.device:
        return self.place.get(node.name, self.values[next(iter(self.graph.inputs))].device)


@once
def _readout(graph: Graph) -> frozenset[str]:
    """The analog nodes behind a decode: they wait for the last step."""
    found: set[str] = set()
    for node in graph.nodes:
        before = [graph[name] for name in graph.values(node) if name in graph]
        if any(b.op == "decode" or b.name in found for b in before):
            if node.op == "encode":
                raise GraphError(
                    "spikes behind a read-out cannot run step by step with the layers before it", at=node.at
                )
            found.add(node.name)
    return frozenset(found)
