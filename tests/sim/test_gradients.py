"""Gradients of the torch executor: layers that learn alone, and LTL's own recursion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from snnc.ir import Array, Graph
from snnc.sim.torch import forward, tensors
from tests.graphs import Builder, integers, spiking


def gradients(graph: Graph, layer: str, detach: bool) -> dict[str, torch.Tensor]:
    """Of the squared firing rates of one layer, by weight; missing where there is no path at all."""
    params = tensors(graph)
    weights = {name: params[name].requires_grad_() for name in params if name.endswith(("weight", "bias", "factor"))}
    x = {"image": torch.tensor(integers(graph, 8)["image"])}
    loss = forward(graph, params, x, width=4.0, detach=detach)[layer].square().sum()
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {name: grad for name, grad in zip(weights, found, strict=True) if grad is not None}


@pytest.mark.parametrize(
    ("layer", "own"),
    [
        ("relu1", {"conv1.weight", "conv1.bias"}),
        ("relu2", {"conv2.weight", "skip.factor"}),
        ("scores", {"dense1.weight", "dense1.bias"}),
    ],
)
@pytest.mark.parametrize("bias_at", ["first-step", "per-step"])
def test_detached_layers_learn_alone(layer: str, own: set[str], bias_at: str) -> None:
    found = gradients(spiking(steps=8, bias_at=bias_at), layer, detach=True)
    assert set(found) == own
    assert all(grad.abs().sum() > 0 for grad in found.values())


def test_without_detach_gradients_reach_every_layer_before() -> None:
    found = gradients(spiking(steps=8), "scores", detach=False)
    assert set(found) >= {"conv1.weight", "conv2.weight", "skip.factor", "dense1.weight"}
    assert all(found[name].abs().sum() > 0 for name in ("conv1.weight", "conv2.weight", "skip.factor"))


def test_detaching_changes_no_value() -> None:
    graph = spiking(steps=8)
    x = {"image": torch.tensor(integers(graph, 4)["image"])}
    one, other = (forward(graph, tensors(graph), x, detach=d) for d in (False, True))
    for name, value in one.items():
        assert torch.equal(value, other[name])


def recursion(
    weight: Array, spikes: Array, rate: Array, alpha: float, theta: float, p: float, *, literal: bool = False
) -> Array:
    """dL/dw of one layer by LTL eq. 5 to 8; weight [O,I], presynaptic spikes [T,I], target rate [O].

    What eq. 6 and 7 write as delta[t+1] dS[t+1]/dU[t+1] is dL/dU[t+1] by BPTT, which eq. 6 itself says holds more
    for t+1 < T; `literal` leaves it as it is printed.
    """
    steps = len(spikes)
    u, s = np.zeros(len(weight)), np.zeros(len(weight))
    potentials, count = [], np.zeros(len(weight))
    for t in range(steps):
        u = alpha * u + weight @ spikes[t] - theta * s
        s = (u >= theta).astype(float)
        potentials.append(u)
        count += s
    slope = [(np.abs(u - theta) < p / 2) / p for u in potentials]
    last = -2 / steps * (rate - count / steps)
    later = np.zeros(len(weight))
    gradient = np.zeros_like(weight)
    for t in reversed(range(steps)):
        delta = -theta * later + last
        by_potential = alpha * later + delta * slope[t]
        gradient += np.outer(by_potential, spikes[t])
        later = delta * slope[t] if literal else by_potential
    return gradient


@pytest.mark.parametrize("alpha", [1.0, 0.9], ids=["IF", "LIF"])
@pytest.mark.parametrize("steps", [2, 3, 8])
def test_offline_ltl_gradient_by_hand(alpha: float, steps: int) -> None:
    rng = np.random.default_rng(steps)
    theta, width, target = 1.5, 1.8, rng.random((4, 6)).astype(np.float32)
    b = Builder({"x": (5,)}, steps)
    b("current", "encode", "x")
    b("lif1", "lif", "current", u0=0.5)
    b("layer", "dense", "lif1", weight=rng.uniform(-0.1, 0.8, (6, 5)))
    b("lif2", "lif", "layer", alpha=alpha, theta=theta)
    graph = b.graph(b("count", "decode", "lif2"))
    params = tensors(graph)
    weight = params["layer.weight"].requires_grad_()
    x = {"x": torch.tensor(rng.uniform(0, steps, (4, 5)), dtype=torch.float32)}
    values = forward(graph, params, x, width=width, detach=True)
    loss = (torch.tensor(target) - values["lif2"].mean(0)).square().sum()
    (made,) = torch.autograd.grad(loss, [weight])
    trains = values["lif1"].detach().numpy()
    expected, printed = (
        sum(
            recursion(
                graph.params["layer.weight"], trains[:, n], target[n], alpha, theta, width * theta, literal=literal
            )
            for n in range(4)
        )
        for literal in (False, True)
    )
    assert np.count_nonzero(expected) > 20
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert np.allclose(printed, expected) == (steps == 2)
