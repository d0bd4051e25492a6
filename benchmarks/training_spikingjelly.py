"""The learning rules of SpikingJelly 2.0 on the network of benchmarks/training.py.

Backpropagation through time with multi-step IFNodes, SLTT with SLTTLIFNode, and OTTT with OTTTLIFNode in an
OTTTSequential, as its own examples use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.training_peers import Case, Gradients, Layer, Update, chain


def _spikingjelly(
    case: Case, neuron: Callable[[Layer, Any], nn.Module], **how: str
) -> tuple[list[nn.Module], nn.Sequential]:
    """Modules up to the last layer of neurons, and the read-out behind them."""
    from spikingjelly.activation_based import layer as layers
    from spikingjelly.activation_based import surrogate

    made: list[nn.Module] = []
    body = 0
    for layer in chain(case.graph):
        weight = torch.tensor(case.graph.params[layer.weight])
        if layer.pooled:
            made.append(layers.AvgPool2d(2, **how))
        if weight.ndim == 4:
            made.append(layers.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False, **how))
        else:
            made += [layers.Flatten(**how), layers.Linear(weight.shape[1], weight.shape[0], bias=False, **how)]
        made[-1].load_state_dict({"weight": weight})
        if layer.neurons:
            made.append(neuron(layer, surrogate.PiecewiseQuadratic(1 / layer.theta)))
            body = len(made)
    return made[:body], nn.Sequential(*made[body:])


def _named(case: Case, net: nn.Module) -> Gradients:
    """The gradients of a network's weights, in the order of the layers, by the graph's names."""
    pairs = zip(chain(case.graph), net.parameters(), strict=True)
    return {layer.weight: weight.grad for layer, weight in pairs if weight.grad is not None}


def _start(net: nn.Module) -> None:
    """Reset the neurons, to half their threshold, and the gradients."""
    from spikingjelly.activation_based import functional

    net.zero_grad()
    functional.reset_net(net)
    modules: Iterable[Any] = net.modules()
    for module in modules:
        if hasattr(module, "v_threshold"):
            module.v = module.v_threshold / 2


def bptt(case: Case) -> Update:
    """SpikingJelly's backpropagation through time: every layer runs on all steps at once."""
    from spikingjelly.activation_based import neuron

    body, read = _spikingjelly(
        case,
        lambda layer, surrogate: neuron.IFNode(layer.theta, None, surrogate, step_mode="m"),
        step_mode="m",
    )  # fmt: skip
    net, steps = nn.Sequential(*body, *read), case.graph.steps

    def update() -> Gradients:
        _start(net)
        made = net((case.x / steps).expand(steps, *case.x.shape)).sum(0)
        F.cross_entropy(made, case.labels).backward()  # type: ignore[no-untyped-call]
        return _named(case, net)

    return update


def sltt(case: Case) -> Update:
    """SpikingJelly's SLTT nodes; no leak is tau = inf."""
    from spikingjelly.activation_based import neuron

    def made(layer: Layer, surrogate: Any) -> nn.Module:
        node: nn.Module = neuron.SLTTLIFNode(float("inf"), False, layer.theta, None, surrogate)
        return node

    body, read = _spikingjelly(case, made)
    net, steps = nn.Sequential(*body, *read), case.graph.steps

    def update() -> Gradients:
        _start(net)
        for _ in range(steps):
            loss = F.cross_entropy(net(case.x / steps) * steps, case.labels) / steps
            loss.backward()  # type: ignore[no-untyped-call]
        return _named(case, net)

    return update


def ottt(case: Case) -> Update:
    """SpikingJelly's OTTT nodes. It is handed the input's trace, too; its read-out reads spikes, as snnc's does."""
    from spikingjelly.activation_based import layer, neuron

    def made(layer: Layer, surrogate: Any) -> nn.Module:
        node: nn.Module = neuron.OTTTLIFNode(float("inf"), False, layer.theta, None, surrogate)
        return node

    body, read = _spikingjelly(case, made)
    front, steps = layer.OTTTSequential(*body), case.graph.steps
    net = nn.Sequential(front, read)

    def update() -> Gradients:
        _start(net)
        for t in range(1, steps + 1):
            spikes, _ = front([case.x / steps, case.x * (t / steps)])
            loss = F.cross_entropy(read(spikes) * steps, case.labels) / steps
            loss.backward()  # type: ignore[no-untyped-call]
        return _named(case, net)

    return update


SPIKINGJELLY: Mapping[str, Callable[[Case], Update]] = {"bptt": bptt, "sltt": sltt, "ottt": ottt}
"""Rules by the name of snnc's."""
