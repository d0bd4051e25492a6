"""Losses: by hand, in the units of the network's own scores, weighed by class, and of signals in an unknown order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.pipeline import Context, Pipeline, single
from snnc.sim.torch import run
from snnc.train import BPTT, LTL, TRAINERS, Tandem
from snnc.train.end_to_end import EndToEnd
from snnc.train.loop import Training, validated
from snnc.train.losses import (
    MOST_SOURCES,
    Criterion,
    class_weights,
    criterion,
    permutation_invariant,
    si_sdr,
    spread,
)
from snnc.train.readout import readout
from tests.train.conftest import teacher

Lower = Callable[..., Graph]
SCORES = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])
LABELS = torch.tensor([2, 0])


# --- classes


def test_every_loss_by_hand() -> None:
    entropy = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(SCORES.numpy(), LABELS, strict=True)]
    squares = [((1 - 1) ** 2 + (2 - 1) ** 2 / 4 + (1.5 - 1) ** 2) / 3, ((0.5 + 1) ** 2 + 1 + 1) / 3]
    weights = torch.tensor([3.0, 9.0, 0.5])
    for kind, each in (("cross-entropy", entropy), ("mse", squares)):
        judge = Criterion(kind, 1.0, 2.0)  # type: ignore[arg-type]
        assert float(judge(SCORES, LABELS)) == pytest.approx(np.mean(each), rel=1e-6)
        assert float(judge(SCORES[:, None, :, None], LABELS)) == float(judge(SCORES, LABELS))
        weighed = replace(judge, weights=weights)
        assert float(weighed(SCORES, LABELS)) == pytest.approx((0.5 * each[0] + 3 * each[1]) / 2, rel=1e-6)


def test_without_options_it_is_torchs_own_to_the_bit() -> None:
    assert torch.equal(Criterion()(SCORES, LABELS), F.cross_entropy(SCORES, LABELS))


def test_weights_are_inverse_to_frequency_with_mean_one() -> None:
    labels = np.repeat([0, 1, 3], [80, 15, 5])
    made = class_weights(labels, 5)
    assert made.dtype == np.float32
    assert made[labels].mean() == pytest.approx(1)
    np.testing.assert_allclose(made[[0, 1, 3]] * [80, 15, 5], 100 / 3, rtol=1e-6)
    assert made[[2, 4]].tolist() == [0, 0]
    np.testing.assert_array_equal(class_weights(np.arange(30) % 3, 3), np.ones(3))


def test_the_scale_of_mse_is_that_of_the_scores(lowered: Lower, data: Data) -> None:
    """Mean and deviation are those of one-hot vectors, whatever the network knows."""
    graph, ctx = lowered(), Context(data, teacher())
    scores = readout(graph)
    low, unit = spread(graph, scores, ctx, "a rule")
    made = single(run(graph.edit(outputs={"y": scores}), {"x": data.train}))
    scaled = (made - low) / unit
    assert scaled.mean() == pytest.approx(np.eye(3).mean(), rel=1e-5)
    assert scaled.std() == pytest.approx(np.eye(3).std(), rel=1e-5)
    last = "fc3.weight"
    silent = graph.edit(params={last: np.zeros_like(graph.params[last]), "b3": np.zeros(3, np.float32)})
    assert spread(silent, scores, ctx, "a rule") == pytest.approx((-1 / 3, 1.0))


def test_factor_and_offset_of_the_scores_change_nothing_that_mse_learns(lowered: Lower, data: Data) -> None:
    graph, ctx = lowered(), Context(data, teacher())
    scores, losses = readout(graph), []
    for factor, offset in ((1.0, 0.0), (50.0, 7.0)):
        last = {name: graph.params[name] * np.float32(factor) for name in ("fc3.weight", "b3")}
        made = graph.edit(params={**last, "b3": last["b3"] + np.float32(offset)})
        answers = torch.tensor(single(run(made.edit(outputs={"y": scores}), {"x": data.train})))
        losses.append(float(criterion(BPTT(loss="mse"), made, scores, ctx)(answers, torch.tensor(data.train.labels))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def supervised() -> list[Any]:
    """All rules that learn from labels alone, in one epoch."""
    return [
        *(cls for cls in TRAINERS.table.values() if issubclass(cls, EndToEnd)),
        Tandem,
        TRAINERS.table["constrain-then-train"],
        TRAINERS.table["ptl"],
    ]


@pytest.mark.parametrize("options", [{"loss": "mse"}, {"balance": True}], ids=["mse", "balance"])
@pytest.mark.parametrize("rule", [*supervised(), LTL, TRAINERS.table["ltl-online"]], ids=lambda cls: cls.name)
def test_every_rule_learns_by_every_loss(
    lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch, rule: Any, options: dict[str, Any]
) -> None:
    """It changes what is learned, and is an option on the command line."""
    monkeypatch.setattr(Training, "judge", lambda training: float(training.epochs))
    few = replace(data, train=Split(data.train.raw[:64], np.maximum(data.train.labels[:64], 1)))
    graph = teacher() if rule.name == "ptl" else lowered()
    common = {"epochs": 1, "batch": 16, "rate": 0.02, "start": "random"}
    made = []
    for more in ({}, options):
        step = rule(**{**common, **more, **({"start": 0.5, "steps": 4} if rule.name == "ptl" else {})})
        assert Pipeline.parse(str(step)).passes == (step,)
        made.append(step.run(graph, Context(few, teacher())))
    assert made[0].params["b3"].tobytes() != made[1].params["b3"].tobytes()


@pytest.mark.parametrize("rule", [BPTT, Tandem])
def test_mse_repairs_a_network(lowered: Lower, data: Data, rule: Any) -> None:
    graph = lowered("threshold-layernorm{steps=8},bias-per-step,quantize-weights{bits=2}")
    ctx = Context(data, teacher())
    made = rule(epochs=10, batch=16, rate=0.01, loss="mse").run(graph, ctx)
    assert validated(made, ctx) > validated(graph, ctx) + 0.2


def test_balance_finds_the_rare_class(lowered: Lower, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in twenty samples is of class 1, and looks much like the others: only weights make it worth an answer."""
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.05).astype(np.int64)
    x = (rng.random((400, 8)) + 0.4 * labels[:, None]).astype(np.float32)
    part = Split(x, labels)
    monkeypatch.setattr(Training, "judge", lambda training: float(training.epochs))
    shares = []
    for balance in (False, True):
        rule = BPTT(epochs=15, batch=50, rate=0.02, balance=balance)
        made = rule.run(lowered(), Context(Data(part, part, part), teacher()))
        answers = single(run(made, {"x": x})).argmax(1)
        shares.append(float(np.mean(answers[labels == 1] == 1)))
    assert shares[0] < 0.3, shares
    assert shares[1] > 0.6, shares


@pytest.mark.parametrize("options", [{"loss": "mse"}, {"balance": True}])
def test_the_teachers_answers_are_no_labels(lowered: Lower, data: Data, options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"'ltl' with output=teacher learns answers, not labels") as caught:
        LTL(output="teacher", **options).learner(lowered(), Context(data, teacher()))
    assert caught.value.hint == "output=labels, or neither of them"


# --- signals


def signals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_si_sdr_in_closed_form() -> None:
    """Orthogonal noise of a tenth of the amplitude: 20 dB; all noise: no dB to speak of."""
    time = torch.arange(1000, dtype=torch.float64) / 1000
    signal, noise = torch.sin(2 * np.pi * 5 * time), torch.sin(2 * np.pi * 9 * time)
    assert float(si_sdr(signal + 0.1 * noise, signal)) == pytest.approx(20, abs=1e-5)
    assert float(si_sdr(noise, signal)) < -70
    assert float(si_sdr(signal, signal)) > 100
    assert bool(si_sdr(torch.zeros(9), torch.zeros(9)).isfinite())


@pytest.mark.parametrize(("factor", "offset"), [(3.0, 0.0), (0.1, -7.0), (-2.0, 1.0)])
def test_si_sdr_knows_neither_scale_nor_offset(factor: float, offset: float) -> None:
    estimate, target = signals(4, 2, 300), signals(4, 2, 300, seed=1) + signals(4, 2, 300)
    wanted = si_sdr(estimate, target)
    assert wanted.shape == (4, 2)
    torch.testing.assert_close(si_sdr(estimate * factor + offset, target), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(si_sdr(estimate, target * factor + offset), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_order_of_sources_changes_nothing(sources: int) -> None:
    targets = signals(5, sources, 200)
    estimates = targets.flip(1) + 0.5 * signals(5, sources, 200, seed=1)
    loss, order = permutation_invariant(estimates, targets)
    assert order.tolist() == [list(range(sources))[::-1]] * 5
    assert float(loss) == pytest.approx(-float(si_sdr(estimates, targets.flip(1)).mean()))
    for shuffled in itertools.permutations(range(sources)):
        found, other = permutation_invariant(estimates, targets[:, list(shuffled)])
        assert float(found) == pytest.approx(float(loss))
        assert [[shuffled[i] for i in row] for row in other.tolist()] == order.tolist()


def test_the_order_is_chosen_by_utterance_and_by_the_mean() -> None:
    """Not every estimate's own best: two that both like the same target share what there is."""
    targets = signals(2, 2, 500)
    estimates = torch.stack([targets[0], targets[1].flip(0)])
    assert permutation_invariant(estimates, targets)[1].tolist() == [[0, 1], [1, 0]]
    greedy = torch.stack([targets[:, 0] + 0.1 * targets[:, 1], targets[:, 0] + 0.5 * targets[:, 1]], 1)
    assert permutation_invariant(greedy, targets)[1].tolist() == [[0, 1]] * 2


def test_a_separation_is_learned() -> None:
    """Gradient descent on a mixing matrix finds the sources, in whichever order."""
    targets = signals(3, 2, 400)
    mixed = torch.einsum("ij,njt->nit", torch.tensor([[1.0, 0.6], [0.5, 1.0]], dtype=torch.float64), targets)
    matrix = torch.tensor([[0.2, 1.0], [1.0, 0.1]], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([matrix], 0.01)
    first = None
    for _ in range(200):
        optimizer.zero_grad()
        loss, order = permutation_invariant(torch.einsum("ij,njt->nit", matrix, mixed), targets)
        first = float(loss.detach()) if first is None else first
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < first - 15  # type: ignore[operator]
    assert order.tolist() == [[1, 0]] * 3


@pytest.mark.parametrize("shape", [(2, 300), (2, 3, 300)])
def test_signals_that_do_not_compare(shape: tuple[int, ...]) -> None:
    with pytest.raises(PipelineError, match=r"signals \[N, sources, samples\] are compared, not"):
        permutation_invariant(torch.zeros(shape), torch.zeros(2, 2, 300))


def test_too_many_sources_to_try_all_orders() -> None:
    many = torch.zeros(1, MOST_SOURCES + 1, 4)
    with pytest.raises(PipelineError, match="7 sources: the orders of 1 to 6 are tried"):
        permutation_invariant(many, many)
