"""What LTL's two rules share: random starts, the share of updates that the boxcar gates out, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.pipeline import Context, Pipeline
from snnc.sim.stepper import Stepper
from snnc.sim.torch import tensors
from snnc.train import LTL
from snnc.train.local import gated_out, random_weights
from snnc.train.units import weights_of
from tests.graphs import Builder

Lower = Callable[..., Graph]
SPIKING = "threshold-layernorm{steps=8},bias-per-step"
CONSTRAINED = f"{SPIKING},limit-fan-in{{k=6}},quantize-weights{{bits=3}}"
NOTED = r"the boxcar gates out \d+% of all updates"


def test_random_weights_follow_from_the_seed_and_have_the_frameworks_size(lowered: Lower) -> None:
    """Uniform within 1/sqrt(fan-in) units: T * theta for the input's weights, theta for hidden ones, 1/T read-out."""
    graph = lowered(CONSTRAINED)
    one, same, other = (random_weights(graph, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert set(one) == set(weights_of(graph))
    for name, array in one.items():
        assert array.tobytes() == same[name].tobytes()
        assert array.tobytes() != other[name].tobytes()
    for name in ("w1", "fc2.weight"):
        np.testing.assert_array_equal(graph.constraints[name].project(one[name]), one[name])
    plain = random_weights(lowered(), np.random.default_rng(0))
    units = {"w1": 8 * graph.params["relu1.theta"], "fc2.weight": graph.params["relu2.theta"], "fc3.weight": 1 / 8}
    for name, unit in units.items():
        most = unit / np.sqrt(plain[name].shape[1])
        assert 0.8 * most < np.abs(plain[name]).max() <= most
    assert (
        0.5 * graph.params["relu1.theta"] / 8**0.5 < np.abs(plain["b1"]).max() <= graph.params["relu1.theta"] / 8**0.5
    )


def test_gated_out_updates_are_counted(lowered: Lower, data: Data) -> None:
    """By hand: the share of neurons, samples and steps with |U - theta| >= p/2."""
    graph = lowered()
    x = data.validation.x()[:10]
    stepper, shut = Stepper(graph, tensors(graph), {"x": torch.tensor(x)}), []
    for _ in range(8):
        stepper.step()
        u, theta = stepper.potential["relu1"].numpy(), float(graph.params["relu1.theta"])
        shut.append(np.abs(u - theta) >= 0.5 * 1.2 * theta)
    found = gated_out(graph, torch.tensor(x), 1.2, ("relu1", "relu2"), first=3)
    assert found["relu1"] == pytest.approx(np.mean(shut[3:]))
    assert 0.1 < found["relu1"] < 0.9
    ctx = Context(data, graph.teacher)
    LTL(epochs=1, rate=1e-6).run(graph, ctx)
    assert re.fullmatch(rf"{NOTED}: relu\d \d+% to relu\d \d+%", ctx.notes[-1])


def test_scores_and_neurons_that_do_not_fit_are_refused(lowered: Lower, data: Data) -> None:
    graph = lowered(f"{CONSTRAINED},quantize-neurons")
    with pytest.raises(PipelineError, match=r"takes T \* theta .* these neurons are integers") as caught:
        LTL().run(graph, Context(data, graph.teacher))
    assert "before quantize-neurons" in caught.value.hint
    b = Builder({"x": (8,)})
    b("d", "dense", "x", weight=np.random.default_rng(3).normal(size=(6, 8)) / 3)
    b("relu", "relu", "d")
    one = b.graph(b("e", "dense", "relu", weight=np.ones((1, 6))))
    parts = [replace(part, labels=part.labels * 0) for part in (data.train, data.validation, data.test)]
    single_score, _ = Pipeline.parse(SPIKING)(one, data=Data(*parts))
    with pytest.raises(PipelineError, match=r"needs one score for each of two or more classes, not \[1\]"):
        LTL().run(single_score, Context(data, one))


def test_a_batch_with_one_norm_is_not_shared(lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = lowered()
    monkeypatch.setattr("snnc.train.local.processes", lambda: 2)
    with pytest.raises(PipelineError, match="norm=batch takes percentiles of whole batches") as caught:
        LTL(norm="batch").learner(graph, Context(data, graph.teacher))
    assert "norm=collected" in caught.value.hint
    LTL().learner(graph, Context(data, graph.teacher))
