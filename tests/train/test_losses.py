"""Losses: by hand, in the units of the network's own scores, and weighed by class."""

from __future__ import annotations

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
from snnc.score import ACCURACY, MSE, SI_SDR
from snnc.sim.torch import run
from snnc.train import BPTT, LTL, PTL, TRAINERS, Tandem
from snnc.train.end_to_end import EndToEnd
from snnc.train.loop import Training, validated
from snnc.train.losses import Criterion, class_weights, criterion, loss_for, spread
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


def test_auto_is_cross_entropy_of_labels_and_the_default_is_auto() -> None:
    found = [loss_for("auto", score) for score in (ACCURACY, MSE, SI_SDR)]
    assert found == ["cross-entropy", "mse", "si-sdr"]
    assert loss_for("mse", ACCURACY) == "mse"
    assert {cls().loss for cls in (BPTT, LTL, Tandem, PTL)} == {"auto"}
