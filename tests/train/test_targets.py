"""Target rates: the teacher's activations in units that T steps can count."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from snnc.data import Data
from snnc.ir import Graph
from snnc.pipeline import Pipeline
from snnc.sim.reference import run
from snnc.train.targets import Targets, has_weights, norm_of
from tests.graphs import Builder

Lower = Callable[..., Graph]
SPIKING = "threshold-layernorm{steps=8},bias-per-step"


def test_targets_are_the_teachers_rates(lowered: Lower, data: Data) -> None:
    """y / (T theta), cut to [0, 1], with the theta that threshold-layernorm chose."""
    graph = lowered()
    assert graph.teacher is not None
    targets = Targets(graph, graph.teacher)
    assert targets.layers == ("relu1", "relu2")
    assert targets.without == ()
    x = np.random.default_rng(8).random((20, 8), np.float32) * 2
    record: dict[str, np.ndarray] = {}
    run(graph.teacher, {"x": x}, record)
    found = targets(torch.tensor(x))
    for layer in targets.layers:
        wanted = np.clip(record[layer] / (8 * graph.params[f"{layer}.theta"]), 0, 1)
        np.testing.assert_allclose(found[layer].numpy(), wanted, atol=1e-5)
        assert wanted.max() == 1, "the cut must be exercised"


def test_off_neurons_learn_what_a_value_is_below_0(data: Data) -> None:
    """A leaky relu becomes two layers; the second one's target is the negative part of the teacher's value."""
    b = Builder({"x": (8,)})
    b("d", "dense", "x", weight=np.random.default_rng(3).normal(size=(6, 8)) / 3)
    b("leaky", "leakyrelu", "d", slope=0.3)
    graph, _ = Pipeline.parse(f"rectify,{SPIKING}")(b.graph(b("e", "dense", "leaky", weight=np.eye(3, 6))), data=data)
    assert graph.teacher is not None
    targets = Targets(graph, graph.teacher)
    assert targets.layers == ("leaky", "leaky.off")
    assert targets.without == ()
    x = np.random.default_rng(8).random((20, 8), np.float32)
    record: dict[str, np.ndarray] = {}
    run(graph.teacher, {"x": x}, record)
    found = targets(torch.tensor(x))
    for layer, sign in (("leaky", 1), ("leaky.off", -1)):
        wanted = np.clip(sign * record["leaky"] / (8 * graph.params[f"{layer}.theta"]), 0, 1)
        np.testing.assert_allclose(found[layer].numpy(), wanted, atol=1e-5)
        assert 0 < wanted.mean() < 1


def test_which_neurons_have_weights_of_their_own(lowered: Lower) -> None:
    graph = lowered()
    assert has_weights(graph, "fc1")
    assert not has_weights(graph, "x.current")
    assert not has_weights(graph, "relu1")
    assert not has_weights(graph, "x")


@pytest.mark.parametrize("percentile", [70, 90, 99.9, 100])
def test_batches_can_have_norms_of_their_own(lowered: Lower, percentile: float) -> None:
    """y / the nearest-rank percentile over all elements of the batch, zeros included."""
    graph = lowered()
    assert graph.teacher is not None
    x = np.random.default_rng(8).random((20, 8), np.float32)
    record: dict[str, np.ndarray] = {}
    run(graph.teacher, {"x": x}, record)
    found = Targets(graph, graph.teacher, norm="batch", percentile=percentile)(torch.tensor(x))
    for layer in ("relu1", "relu2"):
        ranked = np.sort(record[layer].reshape(-1))
        norm = ranked[math.ceil(percentile / 100 * len(ranked)) - 1]
        assert norm > 0
        np.testing.assert_allclose(found[layer].numpy(), np.clip(record[layer] / norm, 0, 1), atol=1e-5)


def test_a_running_norm_is_the_mean_of_the_batches_percentiles(lowered: Lower) -> None:
    """0.9 of what it was and 0.1 of this batch's, which is among them; it begins with that of other samples."""
    graph = lowered()
    assert graph.teacher is not None
    rng = np.random.default_rng(8)
    batches = [rng.random((20, 8), np.float32) * size for size in (1, 3, 0.5, 2)]
    targets = Targets(graph, graph.teacher, norm="running", percentile=90)
    records: list[dict[str, np.ndarray]] = [{} for _ in batches]
    for x, record in zip(batches, records, strict=True):
        run(graph.teacher, {"x": x}, record)
    targets.begin(torch.tensor(batches[0]))
    running = dict(targets.begun)
    assert set(running) == {norm_of("relu1"), norm_of("relu2")}
    by_hand = {name: nearest_rank(records[0][name], 90) for name in ("relu1", "relu2")}
    for x, record in zip(batches[1:], records[1:], strict=True):
        found = targets.rates(torch.tensor(x), targets.activations(torch.tensor(x)), running)
        for layer in by_hand:
            by_hand[layer] = 0.9 * by_hand[layer] + 0.1 * nearest_rank(record[layer], 90)
            assert float(running[norm_of(layer)]) == pytest.approx(by_hand[layer], rel=1e-5)
            np.testing.assert_allclose(found[layer].numpy(), np.clip(record[layer] / by_hand[layer], 0, 1), atol=1e-5)
    first = targets(torch.tensor(batches[1]))
    for layer in by_hand:
        assert float(targets.begun[norm_of(layer)]) != pytest.approx(by_hand[layer], rel=1e-2)
        wanted = np.clip(records[1][layer] / float(targets.begun[norm_of(layer)]), 0, 1)
        np.testing.assert_allclose(first[layer].numpy(), wanted, atol=1e-5)


def nearest_rank(activity: np.ndarray, percentile: float) -> float:
    """The percentile of all elements, zeros included."""
    return float(np.sort(activity.reshape(-1))[math.ceil(percentile / 100 * activity.size) - 1])


def test_a_layer_without_activity_has_no_norm_and_the_rate_0(lowered: Lower) -> None:
    graph = lowered()
    assert graph.teacher is not None
    dead = graph.teacher.edit(params={"b1": np.full(16, -1e3, np.float32)})
    found = Targets(graph, dead, norm="batch")(torch.rand(5, 8))
    assert torch.equal(found["relu1"], torch.zeros(5, 16))
    targets = Targets(graph, dead, norm="running")
    targets.begin(torch.rand(5, 8))
    assert torch.equal(targets(torch.rand(5, 8))["relu1"], torch.zeros(5, 16))


def test_rates_can_be_rounded_down_to_counts(lowered: Lower) -> None:
    graph = lowered()
    assert graph.teacher is not None
    x = torch.rand(20, 8, generator=torch.Generator().manual_seed(3))
    exact, floor = (Targets(graph, graph.teacher, rounding=rounding)(x) for rounding in ("exact", "floor"))
    for layer, rates in exact.items():
        np.testing.assert_array_equal(floor[layer].numpy(), np.floor(rates.numpy() * 8) / 8)
        assert not torch.equal(floor[layer], rates)


def test_partial_sums_stand_for_what_the_weights_make_of_ideal_input(lowered: Lower, data: Data) -> None:
    """ON minus OFF rates, in charges, sum to W a of the teacher: that is what a split layer stands for."""
    graph = lowered(f"{SPIKING},limit-fan-in{{k=6 method=split}}")
    assert graph.teacher is not None
    targets = Targets(graph, graph.teacher)
    assert targets.without == ("fc1.partial", "fc2.partial")
    x = data.validation.x()
    rates = targets(torch.tensor(x))
    record: dict[str, np.ndarray] = {}
    run(graph.teacher, {"x": x}, record)
    wanted = record["relu1"] @ graph.teacher.params["w2"].T
    rate = rates["fc2.partial"].numpy()
    free = (rate < 1).all(axis=(1, 2, 3))
    assert free.sum() > len(x) / 2
    on_off = rate * graph.params["fc2.partial.theta"].reshape(-1, 1, 1) * 8
    pairs = on_off.reshape(len(x), -1, 2)
    assert (pairs.min(axis=2) == 0).all()
    signed = pairs[..., 0] - pairs[..., 1]
    np.testing.assert_allclose(signed.reshape(len(x), -1, 12).sum(axis=1)[free], wanted[free], atol=1e-4)
