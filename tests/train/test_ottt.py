"""Online training through time: traces by hand, and what it has in common with SLTT and TET."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.memory import peak
from snnc.data import Data, Split
from snnc.errors import GraphError
from snnc.ir import Graph
from snnc.passes import BiasPerStep, ThresholdLayerNorm
from snnc.pipeline import Context, Pipeline
from snnc.sim.neurons import spike
from snnc.train import OTTT, SLTT, TET
from snnc.train.losses import Criterion
from tests.graphs import Builder, data_for
from tests.train.conftest import teacher
from tests.train.rules import Made, batch, close, leaky, learnt
from tests.train.test_ltl import damaged, share
from tests.train.test_per_step import delayed

Lower = Callable[..., Graph]


def traced(graph: Graph, data: Data) -> Made:
    """The network of conftest written out: errors by SLTT, traces by their recursion."""
    given = batch(graph, data)
    p, steps = given.params, graph.steps
    x = given.x / steps
    u = {name: p[f"{name}.u0"].expand(16, size) for name, size in (("relu1", 16), ("relu2", 12))}
    s = {name: torch.zeros(16, size) for name, size in (("relu1", 16), ("relu2", 12))}
    traces = {"w1": torch.zeros(16, 8), "fc2.weight": torch.zeros(16, 16)}
    ones = {"b1": 0.0, "b2": 0.0}
    made = {name: torch.zeros_like(p[name]) for name in ("w1", "b1", "fc2.weight", "b2", "fc3.weight", "b3")}
    total = 0.0
    for t in range(steps):
        sums = {}
        sent = x
        for name, weight, bias in (("relu1", "w1", "b1"), ("relu2", "fc2.weight", "b2")):
            alpha, theta = p[f"{name}.alpha"], p[f"{name}.theta"]
            charges = graph[graph.values(graph[name])[0]].attrs["bias_at"] == "per-step" or t == 0
            current = sent @ p[weight].detach().T + p[bias].detach() * charges
            sums[name] = current.requires_grad_() if not current.requires_grad else current
            u[name] = alpha * (u[name] - theta * s[name]).detach() + sums[name]
            traces[weight] = alpha * traces[weight] + sent.detach()
            ones[bias] = float(alpha) * ones[bias] + charges
            s[name] = sent = spike(u[name], theta, 1.0, "triangle")
        charges = graph["fc3"].attrs["bias_at"] == "per-step" or t == 0
        scores = steps * (sent @ p["fc3.weight"].detach().T + p["b3"].detach() * charges)
        loss = Criterion()(scores, given.labels) / steps
        error1, error2, error3 = torch.autograd.grad(loss, [sums["relu1"], sums["relu2"], scores])
        for weight, bias, error, trace, one in (
            ("w1", "b1", error1, traces["w1"], ones["b1"]),
            ("fc2.weight", "b2", error2, traces["fc2.weight"], ones["b2"]),
            ("fc3.weight", "b3", error3 * steps, sent.detach(), float(charges)),
        ):
            made[weight] += error.T @ trace
            made[bias] += error.sum(0) * one
        total += float(loss.detach())
    return Made(total, made)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("text", ["threshold-layernorm{steps=8}", "threshold-layernorm{steps=8},bias-per-step"])
def test_gradients_are_errors_times_traces(lowered: Lower, data: Data, text: str, alpha: float) -> None:
    graph = leaky(lowered(text), alpha)
    close(traced(graph, data), learnt(OTTT(), graph, data), rtol=1e-3)


@pytest.mark.parametrize("skip", [0, 3])
def test_without_memory_it_is_sltt(lowered: Lower, data: Data, skip: int) -> None:
    graph = delayed(leaky(lowered(), 0.0, ease=0.3), skip)
    close(learnt(SLTT(), graph, data), learnt(OTTT(), graph, data))
    remembers = leaky(lowered(), 0.5, ease=0.3)
    one, other = (learnt(rule, remembers, data).flat() for rule in (SLTT(), OTTT()))
    assert float((one - other).norm() / one.norm()) > 0.05


def one_layer() -> Graph:
    """conv with a bias, a sum with a scaled skip, an average pool, neurons, a read-out: synapses of several nodes."""
    rng = np.random.default_rng(4)
    b = Builder({"x": (2, 4, 4)}, 6)
    b("current", "encode", "x", code="events")
    b(
        "conv",
        "conv",
        "current",
        weight=rng.normal(size=(3, 2, 3, 3)) / 3,
        bias=rng.normal(size=3) / 3,
        pads=(1, 1, 1, 1),
        bias_at="per-step",
    )
    b("skip", "conv", "current", weight=rng.normal(size=(3, 2, 1, 1)))
    b("scaled", "scale", "skip", factor=rng.uniform(0.5, 1.5, 3), bias=rng.normal(size=3) / 3, bias_at="first-step")
    b("sum", "add", "conv", "scaled")
    b("pool", "avgpool", "sum")
    b("lif", "lif", "pool", alpha=0.8, theta=0.5, reset="subtract-decayed")
    b("flat", "reshape", "lif", shape=(12,))
    b("fc", "dense", "flat", weight=rng.normal(size=(3, 12)) / 3)
    return b.graph(b("scores", "decode", "fc"))


def test_with_one_layer_of_neurons_it_is_the_whole_gradient_but_the_resets() -> None:
    """Autograd through all steps, what the reset takes away cut off."""
    graph, rng = one_layer(), np.random.default_rng(5)
    x = rng.integers(0, 2, size=(12, 6, 2, 4, 4)).astype(np.float32)
    split = Split(x, np.arange(12) % 3)
    data = Data(split, split, split)
    given = batch(graph, data, 12)
    p = given.params
    u = s = torch.zeros(12, 3, 2, 2)
    loss = torch.zeros(())
    for t in range(6):
        sent = given.x[:, t]
        current = torch.nn.functional.conv2d(sent, p["conv.weight"], p["conv.bias"], padding=1)
        scaled = torch.nn.functional.conv2d(sent, p["skip.weight"]) * p["scaled.factor"].reshape(-1, 1, 1)
        scaled = scaled + p["scaled.bias"].reshape(-1, 1, 1) * (t == 0)
        u = 0.8 * (u - 0.5 * s.detach()) + torch.nn.functional.avg_pool2d(current + scaled, 2)
        s = spike(u, torch.tensor(0.5), 1.0, "triangle")
        loss = loss + Criterion()(6 * (s.flatten(1) @ p["fc.weight"].T), given.labels) / 6
    loss.backward()  # type: ignore[no-untyped-call]
    made = learnt(OTTT(), graph, data, 12)
    wanted = {name: p[name].grad for name in made.gradients}
    close(Made(float(loss.detach()), {n: g for n, g in wanted.items() if g is not None}), made)


def test_neurons_of_a_layer_must_leak_alike(lowered: Lower, data: Data) -> None:
    graph = lowered()
    mixed = graph.edit(params={"relu1.alpha": np.linspace(0.5, 1, 16, dtype=np.float32)})
    with pytest.raises(GraphError, match=r"whose neurons must leak alike|alpha is 0\.5 to 1") as caught:
        OTTT().learner(mixed, Context(data))
    assert "relu1" in str(caught.value)
    apart = graph.edit(params={"relu1.alpha": np.full_like(graph.params["relu1.alpha"], 0.5)})
    learnt(OTTT(), apart, data)


def test_memory_does_not_grow_with_time(data: Data) -> None:
    few = replace(data, train=data.train.take(20))
    kept = []
    for steps in (2, 8, 32):
        graph, _ = Pipeline(ThresholdLayerNorm(steps=steps), BiasPerStep())(teacher(), data=data)
        kept.append(peak(OTTT(epochs=1, batch=20), graph, few))
    assert len(set(kept)) == 1


def test_a_damaged_network_is_repaired(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    mended = OTTT(epochs=8, batch=20, rate=0.02).run(broken, Context(data, broken.teacher))
    assert share(mended, data) > share(broken, data) + 0.1


def pooled() -> Graph:
    """conv, relu, max pool, conv with a skip, relu, dense: not yet spiking."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (2, 8, 8)})
    b("conv1", "conv", "x", weight=rng.normal(size=(4, 2, 3, 3)) / 3, bias=rng.normal(size=4) / 3, pads=(1, 1, 1, 1))
    b("relu1", "relu", "conv1")
    b("pool1", "maxpool", "relu1")
    b("conv2", "conv", "pool1", weight=rng.normal(size=(4, 4, 3, 3)) / 4, bias=rng.random(4) / 5, pads=(1, 1, 1, 1))
    b("sum", "add", "conv2", "pool1")
    b("relu2", "relu", "sum")
    b("flat", "reshape", "relu2", shape=(64,))
    return b.graph(b("scores", "dense", "flat", weight=rng.normal(size=(3, 64)) / 8))


def test_max_pools_of_spikes_and_skips() -> None:
    """One step: all rules agree. Several: traces of what the pool sends, and of both branches of the sum."""
    ann = pooled()
    data = data_for(ann)
    one, _ = Pipeline(ThresholdLayerNorm(steps=1), BiasPerStep())(ann, data=data)
    assert "maxpool" in {node.op for node in one.nodes}
    for rule in (SLTT(), OTTT()):
        close(learnt(TET(), one, data), learnt(rule, one, data))
    several, _ = Pipeline(ThresholdLayerNorm(steps=4), BiasPerStep())(ann, data=data)
    forgets = leaky(several, 0.0, ease=0.2)
    close(learnt(SLTT(), forgets, data), learnt(OTTT(), forgets, data))
