"""The loop: units, schedules, clipping, patience, and chance that follows from the position alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Array, Graph
from snnc.pipeline import Context, Progress, silent
from snnc.train import Batch, Checkpoints, Rule
from snnc.train.loop import Training, loop
from snnc.train.trainer import check, from_loss

Lower = Callable[..., Graph]


@dataclass(frozen=True)
class Plain(Rule):
    """A rule whose gradients a test makes."""

    name = "plain"

    def __post_init__(self) -> None:
        check(self)

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        raise AssertionError("a test calls the loop itself")


def nothing(batch: Batch) -> torch.Tensor:
    return torch.zeros(())


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_params_learn_alike_in_their_own_units(lowered: Lower, data: Data, optimizer: str, clip: float) -> None:
    """q = p / u goes the same way whatever the unit u."""
    graph = lowered()
    units = {"b1": 1.0, "b2": 100.0, "b3": 0.01}
    graph = graph.edit(params={n: np.full_like(graph.params[n], 0.25 * u) for n, u in units.items()})
    rule = Plain(3, 8, 0.05, optimizer, "cosine", 0.1, clip)  # type: ignore[arg-type]
    ctx = Context(replace(data, train=data.train.take(16)), graph.teacher)
    training = Training(rule, graph, ctx, units)
    learn = from_loss(lambda b: torch.stack([(b.params[n] / u - 1).square()[0] for n, u in units.items()]).sum())
    while training.goes_on():
        training.epoch(ctx.training("plain"), learn)
    ways = [float(training.real[name].detach()[0]) / unit for name, unit in units.items()]
    assert ways == pytest.approx([ways[0]] * 3, rel=1e-3)
    assert ways[0] > 0.3


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("constant", [1, 1, 1, 1, 1, 1]), ("step", [1, 1, 0.1, 0.1, 0.01, 0.01]), ("cosine", None)],
)
def test_the_rate_falls_as_told(lowered: Lower, data: Data, schedule: str, rates: list[float] | None) -> None:
    graph = lowered()
    ctx = Context(replace(data, train=data.train.take(16)), graph.teacher)
    training = Training(Plain(3, 8, 0.5, schedule=schedule), graph, ctx, {"b1": 1.0})  # type: ignore[arg-type]
    seen = []

    def watch(batch: Batch) -> torch.Tensor:
        seen.append(training.optimizer.param_groups[0]["lr"])
        return torch.zeros(())

    while training.goes_on():
        training.epoch(ctx.training("plain"), watch)
    wanted = [(1 + np.cos(np.pi * t / 6)) / 2 for t in range(6)] if rates is None else rates
    assert seen == pytest.approx([0.5 * rate for rate in wanted])


def test_clipping_bounds_the_norm_of_all_gradients_in_their_units(lowered: Lower, data: Data) -> None:
    graph = lowered()
    ctx = Context(replace(data, train=data.train.take(8)), graph.teacher)
    training = Training(Plain(1, 8, 1e-6, clip=0.25), graph, ctx, {"b1": 2.0, "b2": 0.5})
    training.epoch(ctx.training("plain"), from_loss(lambda b: b.params["b1"].sum() + 3 * b.params["b2"].sum()))
    first, second = (training.real[name].grad for name in ("b1", "b2"))
    assert first is not None
    assert second is not None
    assert float(torch.cat([first * 2.0, second * 0.5]).norm()) == pytest.approx(0.25)
    assert float(second[0] / first[0]) == pytest.approx(3)


def test_patience_ends_training(lowered: Lower, data: Data) -> None:
    """Where nothing changes, three epochs follow and the last is kept; where it gets worse, the start is."""
    graph = lowered()
    ctx = Context(replace(data, train=data.train.take(8)), graph.teacher)
    loop(Plain(9, 8, 1e-9, patience=3), graph, ctx, nothing)
    assert ctx.notes[-1].startswith("kept epoch 3 of 3")
    assert ctx.data is not None
    harm = from_loss(lambda b: -b.params["b3"][int(ctx.data.validation.labels[0] == 0)] * 1e3)  # type: ignore[union-attr]
    loop(Plain(9, 8, 1e3, patience=3), graph, ctx, harm)
    assert ctx.notes[-1].startswith("kept epoch 0 of 3")


def test_patience_counts_from_the_last_epoch_that_was_better_and_so_after_an_interruption(
    lowered: Lower, data: Data, tmp_path: Path
) -> None:
    """The first epoch is better, all others equal it: two follow, also when the second was interrupted."""
    graph = lowered()
    rule = Plain(9, 8, 1e-3, patience=2)

    def run(progress: Progress) -> list[str]:
        part = replace(data, train=data.train.take(16))
        ctx = Context(part, graph.teacher, progress=progress, checkpoints=Checkpoints(tmp_path, every=0))
        learn = from_loss(lambda batch: batch.params["b1"].sum())
        loop(rule, graph, ctx, learn, judge=lambda made: float((made.params["b1"] != graph.params["b1"]).any()))
        return ctx.notes

    def stop(text: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    assert run(silent)[-1].startswith("kept epoch 3 of 3")


def test_chance_follows_from_the_place(lowered: Lower, data: Data) -> None:
    graph = lowered()
    drawn: list[list[float]] = []
    for seed in (0, 0, 1):
        drawn.append([])

        def draw(batch: Batch) -> torch.Tensor:
            drawn[-1].append(float(batch.rng.random()))
            return torch.zeros(())

        loop(Plain(2, 64, 1e-9), graph, Context(data, graph.teacher, seed), draw)
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert len(set(drawn[0])) == 8


def test_options_that_cannot_work_are_named_at_once() -> None:
    with pytest.raises(PipelineError, match=r"'plain' cannot work with epochs=0, rate=nan, clip=-1"):
        Plain(0, 8, float("nan"), clip=-1)
