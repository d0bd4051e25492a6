"""One step at a time with gradients: the same network, the present step alone, and nothing kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from snnc.ir import Graph
from snnc.sim.neurons import Surrogate, boxcar
from snnc.sim.steps import Stepwise
from snnc.sim.torch import exact, forward, tensors
from tests.graphs import Builder, samples, spiking
from tests.saved import most_saved


def chain(steps: int = 4, code: str = "direct", reset: str = "subtract", skip: int = 0) -> Graph:
    """3 inputs, 5 leaky neurons, 2 scores."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (3,)}, steps)
    b("current", "encode", "x", code=code)
    b("d1", "dense", "current", weight=rng.normal(size=(5, 3)), bias=rng.normal(size=5), bias_at="per-step")
    b("n1", "lif", "d1", theta=0.5, u0=0.25, alpha=0.9, reset=reset)
    b("d2", "dense", "n1", weight=rng.normal(size=(4, 5)))
    b("n2", "lif", "d2", theta=0.5, u0=0.25, reset=reset)
    b("d3", "dense", "n2", weight=rng.normal(size=(2, 4)) / steps, bias=rng.normal(size=2) / 9, bias_at="per-step")
    b("read", "decode", "d3", **({"skip": skip} if skip else {}))
    return b.graph(b("scores", "relu", "read"))


def pooled(steps: int = 6) -> Graph:
    """A spiking max pool between two layers of neurons, streams of events in."""
    rng = np.random.default_rng(4)
    b = Builder({"image": (1, 4, 4)}, steps)
    b("stream", "encode", "image", code="events")
    b("conv", "conv", "stream", weight=rng.integers(-2, 4, (2, 1, 3, 3)), pads=(1, 1, 1, 1))
    b("n1", "lif", "conv", theta=6, u0=3)
    b("pool", "maxpool", "n1")
    b("flat", "reshape", "pool", shape=(8,))
    b("dense", "dense", "flat", weight=rng.integers(-3, 4, (3, 8)))
    b("n2", "lif", "dense", theta=4, u0=2)
    return b.graph(b("read", "decode", "n2"))


def inputs(graph: Graph, count: int = 4) -> dict[str, Tensor]:
    """Integers; streams where the graph reads events."""
    stream = any(n.attrs.get("code") == "events" for n in graph.nodes)
    rng = np.random.default_rng(2)
    return {
        name: torch.tensor(rng.integers(0, 3, (count, *((graph.steps,) if stream else ()), *kind.shape))).float()
        * (1 if stream else graph.steps)
        for name, kind in graph.inputs.items()
    }


@pytest.mark.parametrize(
    "graph",
    [
        *(spiking(code, 4, reset, at) for code, reset, at in [
            ("direct", "subtract", "per-step"), ("first-step", "zero", "first-step"),
            ("direct", "subtract-decayed", "first-step"),
        ]),
        pooled(),
        chain(skip=2),
    ],
    ids=["direct", "first-step", "decayed", "pooled events", "delayed"],
)  # fmt: skip
def test_steps_are_the_whole_window_exactly(graph: Graph) -> None:
    """Every spike at every step, and what is decoded."""
    x, params = inputs(graph), {n: t.requires_grad_() for n, t in tensors(graph).items()}
    with exact():
        whole = forward(graph, params, x)
        run = Stepwise(graph, params, x)
        spikes = 0.0
        for t in range(graph.steps):
            values = run.step()
            for node in graph.nodes:
                if node.op == "lif" or (node.op == "maxpool" and node.type.kind == "spikes"):
                    assert torch.equal(values[node.name], whole[node.name][t]), (node.name, t)
                    spikes += float(values[node.name].detach().sum())
        assert spikes > 0
        found = run.head(run.running())
    for name in graph.outputs.values():
        torch.testing.assert_close(found[name], whole[name])


@pytest.mark.parametrize("surrogate", ["boxcar", "triangle", "sigmoid"])
@pytest.mark.parametrize("reset", ["subtract", "subtract-decayed", "zero"])
def test_one_step_has_the_gradient_of_the_window(reset: str, surrogate: Surrogate) -> None:
    graph = chain(1, reset=reset)
    x = {name: torch.tensor(value) for name, value in samples(graph, 20).items()}
    found = []
    for stepwise in (False, True):
        params = {n: t.requires_grad_() for n, t in tensors(graph).items()}
        if stepwise:
            run = Stepwise(graph, params, x, width=2.0, surrogate=surrogate)
            run.step()
            loss = run.head(run.running())["scores"].square().sum() + run.state.count["n1"].sum()
        else:
            values = forward(graph, params, x, width=2.0, surrogate=surrogate)
            loss = values["scores"].square().sum() + values["n1"].sum()
        loss.backward()  # type: ignore[no-untyped-call]
        if stepwise:
            run.finish()
        found.append({n: params[n].grad for n in ("d1.weight", "d1.bias", "d2.weight", "d3.weight")})
    for name, wanted in found[0].items():
        assert wanted is not None
        assert float(wanted.abs().sum()) > 0
        torch.testing.assert_close(found[1][name], wanted)


@pytest.mark.parametrize("code", ["direct", "first-step"])
def test_gradients_see_the_present_step_alone(code: str) -> None:
    """dL/dW = sum_t g[t] * boxcar(U[t]) * x[t] by hand, with another g at every step; the past does not count."""
    graph = chain(5, code)
    (x,) = samples(graph, 20).values()
    weigh = np.random.default_rng(8).normal(size=(5, 20, 5)).astype(np.float32)
    params = {n: t.requires_grad_() for n, t in tensors(graph).items()}
    run = Stepwise(graph, params, {"x": torch.tensor(x)}, width=3.0)
    weight, bias = np.zeros((5, 3), np.float32), np.zeros(5, np.float32)
    for t in range(5):
        values = run.step()
        (values["n1"] * torch.tensor(weigh[t])).sum().backward()  # type: ignore[no-untyped-call]
        error = weigh[t] * boxcar(run.state.potential["n1"], torch.tensor(0.5), 3.0).detach().numpy()
        came = x / 5 if code == "direct" else x * (t == 0)
        weight += error.T @ came
        bias += error.sum(0)
    run.finish()
    for name, wanted in (("d1.weight", weight), ("d1.bias", bias)):
        grad = params[name].grad
        assert grad is not None
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(grad.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_kept_does_not_grow_with_time() -> None:
    def learn(steps: int) -> None:
        graph = spiking("direct", steps)
        params = {n: t.requires_grad_() for n, t in tensors(graph).items()}
        run = Stepwise(graph, params, inputs(graph))
        for _ in range(steps):
            run.step()
            run.head(run.running())["scores"].sum().backward()  # type: ignore[no-untyped-call]
        run.finish()

    kept = [most_saved(lambda steps=steps: learn(steps)) for steps in (2, 8, 32)]  # type: ignore[misc]
    assert kept[0] == kept[1] == kept[2] > 0


def test_steps_that_learn_nothing_keep_nothing() -> None:
    graph = chain()
    params = {n: t.requires_grad_() for n, t in tensors(graph).items()}
    x = {name: torch.tensor(value) for name, value in samples(graph, 5).items()}
    run = Stepwise(graph, params, x)
    values = run.step(learn=False)
    assert not any(values[n].requires_grad for n in ("n1", "d2", "n2"))
    assert most_saved(lambda: run.step(learn=False)) == 0
    assert run.step()["n1"].requires_grad


@pytest.mark.parametrize("skip", [0, 2])
def test_what_is_decoded_is_the_mean_of_the_steps_and_the_end_of_the_running_mean(skip: int) -> None:
    graph = chain(5, skip=skip)
    x = {name: torch.tensor(value) for name, value in samples(graph, 20).items()}
    run = Stepwise(graph, tensors(graph), x)
    present = []
    for _ in range(5):
        run.step()
        present.append(run.present()["read"])
    whole = forward(graph, tensors(graph), x)
    torch.testing.assert_close(torch.stack(present[skip:]).mean(0), whole["read"])
    torch.testing.assert_close(run.running()["read"], whole["read"])
    assert not torch.equal(present[-1], whole["read"])
    torch.testing.assert_close(run.head({"read": whole["read"] - 1})["scores"], (whole["read"] - 1).clamp(min=0))
