"""Constrain, then train: analog layers learn on rounded counts, the spiking network takes their weights over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph, roles, verify
from snnc.pipeline import Context, Pipeline
from snnc.sim import torch as executor
from snnc.train import ConstrainThenTrain
from snnc.train.constrain_then_train import constrained, scores
from snnc.train.coupled import Coupled
from snnc.train.loop import validated
from snnc.train.units import weights_of
from tests.graphs import Builder, data_for, mlp

Lower = Callable[..., Graph]


def test_activations_are_clipped_floors(lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equation 11 layer by layer, and not a spike is computed."""
    graph = lowered("threshold-layernorm{steps=4},bias-per-step")

    def never(*_: object) -> None:
        raise AssertionError("a neuron was stepped")

    monkeypatch.setattr(executor, "fire", never)
    x = data.train.raw
    made = scores(Coupled(graph), executor.tensors(graph), torch.tensor(x)).numpy()
    p, value = graph.params, x.astype(np.float64)
    for layer, weight, bias in (("relu1", "w1", "b1"), ("relu2", "fc2.weight", "b2")):
        own = {role: p[name] for role, name in roles(graph[layer], p).items()}
        value = np.clip(np.floor((value @ p[weight].T + 4 * p[bias] + own["u0"]) / own["theta"]), 0, 4)
        assert {0, 4} < set(value.reshape(-1))
    wanted = value @ p["fc3.weight"].T + 4 * p["b3"]
    close = np.isclose(made, wanted, atol=1e-4).all(axis=1)
    assert close.mean() > 0.99, "but for sums that stand on a threshold"


def test_neurons_that_are_sent_a_constant_current_lose_nothing() -> None:
    """One layer under direct encoding: what it fires is the floor, so there is no transfer loss."""
    ann = mlp()
    data = data_for(ann, 200)
    graph, _ = Pipeline.parse("threshold-layernorm{steps=4},bias-per-step")(ann, data=data)
    ctx = Context(data, graph.teacher)
    made = ConstrainThenTrain(epochs=2, batch=20, rate=0.02).run(graph, ctx)
    assert constrained(Coupled(made), made, ctx) == validated(made, ctx)


def test_spikes_that_come_early_cannot_be_taken_back() -> None:
    """Figure 1 of the paper: the potential ends below threshold, yet the neuron has fired."""
    b = Builder({"x": (2,)}, 4)
    b("current", "encode", "x")
    b("in", "dense", "current", weight=np.eye(2))
    b("first", "lif", "in", theta=[2, 2], u0=[1, 0])
    b("both", "dense", "first", weight=[[1, -1]])
    b("second", "lif", "both")
    b("out", "dense", "second", weight=[[1], [0]])
    graph = b.graph(b("scores", "decode", "out"))
    coupled, params, x = Coupled(graph), executor.tensors(graph), torch.tensor([[4.0, 4.0]])
    fired = coupled.fired(params, x)
    assert fired["first"].tolist() == [[2, 2]]
    assert fired["second"].tolist() == [[1]]
    assert scores(coupled, params, x).tolist() == [[0, 0]]
    assert fired["scores"].tolist() == [[1, 0]]


def test_the_analog_layers_learn_and_choose_the_epoch(lowered: Lower, data: Data) -> None:
    rng = np.random.default_rng(7)
    graph = lowered("threshold-layernorm{steps=4},bias-per-step,limit-fan-in{k=6},quantize-weights{bits=4}")
    spoilt = {n: graph.params[n] * (1 + 0.5 * rng.normal(size=graph.params[n].shape)) for n in weights_of(graph)}
    limits = graph.constraints
    broken = graph.edit(
        params={n: limits[n].project(a) if n in limits else a.astype(np.float32) for n, a in spoilt.items()}
    )
    ctx = Context(data, graph.teacher)
    rule = ConstrainThenTrain(epochs=8, batch=20, rate=0.02)
    made = rule.run(broken, ctx)
    verify(made)
    before, after = (constrained(Coupled(g), g, ctx) for g in (broken, made))
    assert after > before + 0.1
    assert ctx.notes[0].endswith(f"best on validation: {after:.2%}")
    assert (
        ctx.notes[1]
        == f"on validation {after:.2%} with constrained activations, {validated(made, ctx):.2%} with spikes"
    )
    assert ctx.notes[2].startswith("angle between")
    again = rule.run(broken, Context(data, graph.teacher))
    assert all(made.params[name].tobytes() == again.params[name].tobytes() for name in made.params)


def test_leaky_neurons_are_refused(lowered: Lower, data: Data) -> None:
    graph = lowered("threshold-layernorm{steps=4 alpha=0.9},bias-per-step")
    with pytest.raises(PipelineError, match="'constrain-then-train' counts on neurons that keep all charge"):
        ConstrainThenTrain().run(graph, Context(data, graph.teacher))


def test_impossible_options() -> None:
    with pytest.raises(PipelineError, match="'constrain-then-train' cannot work with epochs=0"):
        ConstrainThenTrain(epochs=0)
