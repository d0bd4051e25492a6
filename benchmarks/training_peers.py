"""Learning rules as their papers give them, on the network of benchmarks/training.py: the textbook form.

The equations in plain autograd, step by step: SLTT Algorithm 1; OTTT, a weight's gradient taking the trace in place of
the spikes; LTL eq. 4 (offline) and 9 to 11 (online), teacher included. All give the gradients of one batch, with the
loss and the surrogate that snnc's rule has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.ir import Graph, roles

Gradients = Mapping[str, Tensor]
Update = Callable[[], Gradients]
"""Makes the gradients of one batch, by param."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network, a chain of convolutions, average pools and neurons, and a batch that it learns from.

    Attributes:
        graph: spiking, with its teacher; IF neurons that start at half their threshold, no biases, direct encoding.
        x, labels: [N, ...] and [N].
    """

    graph: Graph
    x: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Layer:
    """Weights, by name, and the neurons behind them; the read-out has none.

    Attributes:
        pooled: what is sent is averaged over 2x2 first.
        neurons: by name, the layer's twin in the teacher; empty for the read-out.
    """

    weight: str
    pooled: bool
    neurons: str = ""
    theta: float = 1.0


def chain(graph: Graph) -> list[Layer]:
    """The layers of a spiking graph that is a chain."""
    found: list[Layer] = []
    weight, pooled = "", False
    for node in graph.nodes:
        own = roles(node, graph.params)
        pooled = pooled or node.op == "avgpool"
        weight = own["weight"] if node.op in ("conv", "dense") else weight
        if node.op in ("lif", "decode"):
            theta = float(graph.params[own["theta"]]) if node.op == "lif" else 1.0
            found.append(Layer(weight, pooled, node.name if node.op == "lif" else "", theta))
            pooled = False
    return found


class _Fires(torch.autograd.Function):
    """1 where U >= theta; going back the triangle (SLTT eq. 6) or the boxcar (LTL eq. 8), both of width theta."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, theta: float, boxcar: bool) -> Tensor:
        ctx.save_for_backward(u)
        ctx.theta, ctx.boxcar = theta, boxcar
        return (u >= theta).float()

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor, None, None]:
        ((u,), (error,), theta) = ctx.saved_tensors, errors, ctx.theta
        away = (u - theta).abs()
        slope = (away < theta / 2).float() / theta if ctx.boxcar else (theta - away).clamp(min=0) / theta**2
        return error * slope, None, None


class Textbook:
    """The network step by step in plain torch.

    Attributes:
        u, s: potentials and spikes by layer of neurons.
        weights: leaves by name.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.steps, self.layers = case, case.graph.steps, chain(case.graph)
        self.weights = {layer.weight: torch.tensor(case.graph.params[layer.weight]) for layer in self.layers}
        for weight in self.weights.values():
            weight.requires_grad_()
        self.u: dict[str, Tensor] = {}
        self.s: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Go to t = 0."""
        self.u, self.s = {}, {}
        for weight in self.weights.values():
            weight.grad = None

    def gradients(self) -> Gradients:
        """What has arrived at the weights."""
        return {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}

    def current(self, layer: Layer, sent: Tensor, weight: Tensor) -> Tensor:
        """I of a layer from what it is sent."""
        sent = F.avg_pool2d(sent, 2) if layer.pooled else sent
        return F.conv2d(sent, weight, padding=1) if weight.ndim == 4 else F.linear(sent.flatten(1), weight)

    def fire(self, layer: Layer, current: Tensor, boxcar: bool = False) -> Tensor:
        """U = U - theta S + I, S = U >= theta."""
        before = layer.neurons in self.u
        u = self.u[layer.neurons] - layer.theta * self.s[layer.neurons] if before else layer.theta / 2
        u = u + current
        self.u[layer.neurons], self.s[layer.neurons] = u, _Fires.apply(u, layer.theta, boxcar)  # type: ignore[no-untyped-call]
        return self.s[layer.neurons]

    def forget(self) -> None:
        """Cut potentials and spikes off from what made them."""
        for held in (self.u, self.s):
            held.update({name: value.detach() for name, value in held.items()})

    def step(self, alone: bool = False) -> Tensor:
        """One time step; what the read-out is sent. `alone`: layers learn alone, with the boxcar."""
        sent = self.case.x / self.steps
        for layer in self.layers:
            current = self.current(layer, sent, self.weights[layer.weight])
            sent = self.fire(layer, current, alone) if layer.neurons else current
            if alone and layer.neurons:
                sent = sent.detach()
        return sent


def sltt(case: Case, k: int = 0) -> Update:
    """SLTT, Algorithm 1; SLTT-K, where k steps are drawn as snnc draws them."""
    net, steps = Textbook(case), range(1, case.graph.steps + 1)

    def update() -> Gradients:
        net.reset()
        chosen = set(np.random.default_rng(0).choice(steps, k, replace=False).tolist()) if k else set(steps)
        for t in steps:
            net.forget()
            with torch.set_grad_enabled(t in chosen):
                loss = F.cross_entropy(net.step() * net.steps, case.labels) / net.steps
            if t in chosen:
                loss.backward()  # type: ignore[no-untyped-call]
        return net.gradients()

    return update


def ottt(case: Case) -> Update:
    """OTTT: the weights' gradient from the traces, the errors through the weights as they are."""
    net = Textbook(case)

    def update() -> Gradients:
        net.reset()
        traces: dict[str, Tensor] = {}
        for _ in range(net.steps):
            net.forget()
            sent = case.x / net.steps
            for layer in net.layers:
                weight, name = net.weights[layer.weight], layer.weight
                traces[name] = traces[name] + sent.detach() if name in traces and layer.neurons else sent.detach()
                kept = net.current(layer, traces[name], weight)
                current = net.current(layer, sent, weight.detach()) + kept - kept.detach()
                sent = net.fire(layer, current) if layer.neurons else current
            loss = F.cross_entropy(sent * net.steps, case.labels) / net.steps
            loss.backward()  # type: ignore[no-untyped-call]
        return net.gradients()

    return update


def rates(case: Case, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """r of every layer of neurons: the teacher's activation over T * theta, cut to [0, 1]."""
    teacher = case.graph.teacher
    assert teacher is not None
    found, sent = {}, case.x
    with torch.no_grad():
        for layer, twin in zip(layers, _weights(teacher), strict=True):
            if layer.neurons:
                sent = F.avg_pool2d(sent, 2) if layer.pooled else sent
                sent = F.relu(F.conv2d(sent, twin, padding=1))
                found[layer.neurons] = (sent / (case.graph.steps * layer.theta)).clamp(0, 1)
    return found


def _weights(graph: Graph) -> list[Tensor]:
    names = [roles(node, graph.params).get("weight") for node in graph.nodes]
    return [torch.tensor(graph.params[name]) for name in names if name is not None]


def ltl(case: Case) -> Update:
    """LTL offline: every layer's loss (eq. 4) through its own time steps."""
    net = Textbook(case)

    def update() -> Gradients:
        net.reset()
        wanted = rates(case, net.layers)
        counts, scores = dict.fromkeys(wanted, torch.zeros(())), torch.zeros(())
        for _ in range(net.steps):
            scores = scores + net.step(alone=True)
            counts = {name: counts[name] + net.s[name] for name in counts}
        loss = F.cross_entropy(scores, case.labels)
        for name, rate in wanted.items():
            loss = loss + F.mse_loss(counts[name] / net.steps, rate)
        loss.backward()  # type: ignore[no-untyped-call]
        return net.gradients()

    return update


def ltl_online(case: Case, warm_up: float = 0.75) -> Update:
    """LTL online: the loss of every step behind the warm-up (eq. 9), taken back at once."""
    net, first = Textbook(case), int(warm_up * case.graph.steps)

    def update() -> Gradients:
        net.reset()
        wanted = rates(case, net.layers)
        counts, scores = dict.fromkeys(wanted, torch.zeros(())), torch.zeros(())
        for t in range(1, net.steps + 1):
            net.forget()
            with torch.set_grad_enabled(t > first):
                scores = scores.detach() + net.step(alone=True)
                counts = {name: counts[name].detach() + net.s[name] for name in counts}
            if t > first:
                loss = F.cross_entropy(scores * net.steps / t, case.labels)
                for name, rate in wanted.items():
                    loss = loss + F.mse_loss(counts[name] / t, rate)
                loss.backward()  # type: ignore[no-untyped-call]
        return net.gradients()

    return update


TEXTBOOK: Mapping[str, Callable[[Case], Update]] = {
    "ltl": ltl,
    "ltl-online": ltl_online,
    "sltt": sltt,
    "sltt{k=1}": lambda case: sltt(case, 1),
    "ottt": ottt,
}
"""Rules by the name of snnc's."""
