"""The contract of a learning rule: it changes params and nothing else, and what comes back obeys the constraints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Stage, verify
from snnc.passes import FoldBatchNorm
from snnc.pipeline import Context, Pipeline
from snnc.sim.reference import run
from snnc.sim.torch import tensors
from snnc.train import Trainer
from snnc.train.loop import loop
from snnc.train.seen import Seen
from snnc.train.trainer import Learner, Rule, from_loss, project
from snnc.train.units import weights_of
from tests.graphs import data_for, mlp

Lower = Callable[..., Graph]
CONSTRAINED = "threshold-layernorm{steps=8},bias-per-step,limit-fan-in{k=6},quantize-weights{bits=4}"


@dataclass(frozen=True)
class Given(Trainer):
    """Gives back what a test wants."""

    name = "given"

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        return FITTED


@dataclass(frozen=True)
class Ruled(Rule):
    """A rule whose gradients a test makes."""

    name = "ruled"

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        raise AssertionError("a test calls the loop itself")


Loss = Callable[[Mapping[str, torch.Tensor], torch.Tensor, torch.Tensor], torch.Tensor]


def learner(loss: Loss) -> Learner:
    return from_loss(lambda batch: loss(batch.params, batch.x, batch.labels))


FITTED: dict[str, Array] = {}


@pytest.fixture(autouse=True)
def nothing_fitted() -> None:
    FITTED.clear()


def test_a_trainer_takes_spiking_and_constrained_graphs() -> None:
    assert Trainer.takes == {Stage.SPIKING, Stage.CONSTRAINED}
    with pytest.raises(PipelineError, match="'given' takes a graph of stage spiking or constrained"):
        Pipeline(FoldBatchNorm(), Given())


def test_structure_cannot_change(lowered: Lower) -> None:
    graph = lowered(CONSTRAINED)
    FITTED.update({"w1": np.ones_like(graph.params["w1"])})
    after = Given().run(graph, Context())
    assert after.nodes == graph.nodes
    assert after.outputs == graph.outputs
    assert (after.stage, after.steps, after.teacher) == (graph.stage, graph.steps, graph.teacher)
    assert set(after.params) == set(graph.params)
    assert all(after.constraints[n] is graph.constraints[n] for n in graph.constraints)
    untouched = set(graph.params) - set(FITTED)
    assert all(after.params[n] is graph.params[n] for n in untouched)


@pytest.mark.parametrize(("name", "shape"), [("new", (2,)), ("w1", (2, 2)), ("w1", ())])
def test_names_and_shapes_cannot_change(lowered: Lower, name: str, shape: tuple[int, ...]) -> None:
    FITTED.update({name: np.zeros(shape, np.float32)})
    with pytest.raises(PipelineError, match=rf"the trainer 'given' made '{name}' .* which is no such param"):
        Given().run(lowered(CONSTRAINED), Context())


def test_nothing_fitted_is_nothing_changed(lowered: Lower) -> None:
    graph = lowered(CONSTRAINED)
    assert Given().run(graph, Context()) is graph


def test_what_comes_back_obeys(lowered: Lower) -> None:
    graph = lowered(CONSTRAINED)
    rng = np.random.default_rng(0)
    FITTED.update({n: rng.normal(size=graph.params[n].shape) * 10 for n in ("w1", "fc2.weight", "b3")})
    after = Given().run(graph, Context())
    verify(after)
    for name in ("w1", "fc2.weight"):
        c, w = graph.constraints[name], after.params[name]
        assert c.mask is not None
        assert c.scale is not None
        assert not c.mask.all()
        assert (w[~c.mask] == 0).all()
        levels = w / c.scale
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-5)
        assert np.abs(np.rint(levels)).max() == 7
        np.testing.assert_array_equal(c.project(w), w)
    assert after.params["b3"].dtype == np.float32


def test_projection_is_a_fixed_point_and_the_nearest() -> None:
    rng = np.random.default_rng(1)
    scale = rng.random((5, 1)).astype(np.float32) + 0.1
    mask = rng.random((5, 9)) < 0.7
    constraint, wild = Constraint(3, scale, mask), rng.normal(size=(5, 9)).astype(np.float32)
    once = project(constraint, wild)
    np.testing.assert_array_equal(project(constraint, once), once)
    grid = scale[:, :, None] * np.arange(-3, 4, dtype=np.float32)
    nearest = np.abs(grid - wild[:, :, None]).min(axis=-1)
    np.testing.assert_allclose(np.abs(once - wild)[mask], nearest[mask], atol=1e-6)
    np.testing.assert_array_equal(project(None, wild.astype(np.float64)), wild)


@pytest.mark.parametrize("levels", [None, [-4, -2, -1, 0, 1, 2, 4]])
def test_forward_sees_the_projection_and_backward_goes_straight_through(levels: list[int] | None) -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((4, 6)) < 0.6
    own = None if levels is None else np.array(levels, np.float32)
    constraint = Constraint(4, np.full((4, 1), 0.25, np.float32), mask, levels=own)
    param = torch.tensor(rng.normal(size=(4, 6)).astype(np.float32), requires_grad=True)
    seen = Seen(constraint, "cpu")
    np.testing.assert_allclose(seen(param.detach()).numpy(), constraint.project(param.detach().numpy()), atol=1e-6)
    np.testing.assert_array_equal(seen.back(torch.ones(4, 6), torch.zeros(4, 6)).numpy(), mask.astype(np.float32))


def test_units_of_the_learning_rate(lowered: Lower) -> None:
    """Weights that read spikes in theta, those that read the input in T * theta, the read-out in 1/T."""
    graph = lowered()
    theta = {n: float(graph.params[f"{n}.theta"]) for n in ("relu1", "relu2")}
    units = weights_of(graph)
    assert units == pytest.approx(
        {
            "w1": 8 * theta["relu1"],
            "b1": theta["relu1"],
            "fc2.weight": theta["relu2"],
            "b2": theta["relu2"],
            "fc3.weight": 1 / 8,
            "b3": 1 / 8,
        }
    )


def test_many_inputs_share_the_learning_rate() -> None:
    """Beyond 64 connections the unit falls as 1/n; connections that a mask forbids do not count."""
    ann = mlp(hidden=256)
    recipe = Pipeline.parse("threshold-layernorm{steps=8},bias-per-step")
    graph, _ = recipe(ann, data=data_for(ann))
    (weight,) = (n for n, a in graph.params.items() if a.ndim == 2 and a.shape[1] == 256)
    assert weights_of(graph)[weight] == pytest.approx(64 / 256 / 8)
    mask = np.zeros(graph.params[weight].shape, bool)
    mask[:, :100] = True
    params = {weight: np.where(mask, graph.params[weight], np.float32(0))}
    pruned = graph.edit(params=params, constraints={weight: Constraint(mask=mask)}, stage=Stage.CONSTRAINED)
    assert weights_of(pruned)[weight] == pytest.approx(64 / 100 / 8)


def test_one_step_moves_every_param_by_one_rate_in_its_unit(lowered: Lower, data: Data) -> None:
    """Adam's first step is the sign of the gradient: `rate` times the unit, whatever the layer's scale."""
    graph = lowered()
    ctx = Context(replace(data, train=data.train.take(8)), graph.teacher)
    seen: list[dict[str, Any]] = []

    def loss(params: Mapping[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append({name: value.detach().clone() for name, value in params.items()})
        return sum((params[name].sum() for name in weights_of(graph)), torch.zeros(()))

    loop(Ruled(2, 8, 0.01), graph, ctx, learner(loss))
    for name, unit in weights_of(graph).items():
        moved = seen[0][name] - seen[1][name]
        np.testing.assert_allclose(moved.numpy(), 0.01 * unit, rtol=1e-3)
    fixed = set(graph.params) - set(weights_of(graph))
    assert {"relu1.theta", "relu2.alpha"} <= fixed
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in fixed)


def test_the_start_is_kept_when_nothing_validates_better(lowered: Lower, data: Data) -> None:
    graph = lowered()
    x = data.validation.raw
    own = Split(x, run(graph, {"x": x})["y"].argmax(axis=1))
    ctx = Context(replace(data, validation=own), graph.teacher)

    def harm(params: Mapping[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return params["fc3.weight"].square().sum() + params["b3"].sum()

    kept = loop(Ruled(2, 50, 30.0), graph, ctx, learner(harm))
    assert {n: a.tobytes() for n, a in kept.items()} == {n: graph.params[n].tobytes() for n in kept}
    assert ctx.notes[0].startswith("kept epoch 0 of 2")


def test_the_best_epoch_is_kept_not_the_last(lowered: Lower, data: Data) -> None:
    """The bias of the right class is pushed up in the first epoch and far down in the second."""
    graph = lowered()
    only = replace(data.validation, labels=data.validation.labels * 0 + 2)
    ctx = Context(replace(data, train=data.train.take(10), validation=only), graph.teacher)
    calls: list[int] = []

    def seesaw(params: Mapping[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return params["b3"][2] * (-1 if len(calls) == 1 else 1e4)

    kept = loop(Ruled(4, 10, 50.0), graph, ctx, learner(seesaw))
    assert kept["b3"][2] > graph.params["b3"][2] + 1
    assert re.fullmatch(r"kept epoch [12] of 4, best on validation: 100\.00%", ctx.notes[0])


def test_epochs_see_every_training_sample_once_in_another_order(lowered: Lower, data: Data) -> None:
    graph = lowered()
    seen: list[Array] = []

    def watch(params: Mapping[str, torch.Tensor], x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(x.numpy())
        return params["b3"].sum() * 0

    loop(Ruled(2, 64, 0.1), graph, Context(data, graph.teacher), learner(watch))
    assert [len(batch) for batch in seen] == [64, 64, 64, 8] * 2
    epochs = [np.concatenate(seen[:4]), np.concatenate(seen[4:])]
    assert not np.array_equal(epochs[0], epochs[1])
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(data.train.raw, axis=0))


def test_training_needs_data(lowered: Lower) -> None:
    with pytest.raises(PipelineError, match="'ruled' needs data"):
        loop(Ruled(1, 8, 0.1), lowered(), Context(), learner(lambda *_: torch.zeros(())))
    assert set(tensors(lowered())) == set(lowered().params)
