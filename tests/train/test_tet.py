"""Temporal efficient training: the whole gradient of a loss that judges every step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data
from snnc.ir import Graph
from snnc.pipeline import Context
from snnc.sim.torch import forward, tensors
from snnc.train import BPTT, TET
from tests.train.rules import close, learnt
from tests.train.test_ltl import damaged, share

Lower = Callable[..., Graph]
ONE = "threshold-layernorm{steps=1},bias-per-step"


def test_the_loss_is_a_mean_over_steps_of_cross_entropies(lowered: Lower, data: Data) -> None:
    graph = lowered()
    x, labels = torch.tensor(data.train.raw[:16]), torch.tensor(data.train.labels[:16])
    sent = forward(graph, tensors(graph), {"x": x})["fc3"] * graph.steps
    wanted = np.mean([float(F.cross_entropy(step, labels)) for step in sent])
    assert learnt(TET(), graph, data).loss == pytest.approx(wanted, rel=1e-5)


def test_one_step_is_backpropagation_through_time(lowered: Lower, data: Data) -> None:
    close(learnt(BPTT(), lowered(ONE), data), learnt(TET(), lowered(ONE), data))


def test_more_steps_are_not(lowered: Lower, data: Data) -> None:
    one, other = learnt(BPTT(), lowered(), data), learnt(TET(), lowered(), data)
    assert other.loss > one.loss, "a mean of losses is above the loss of the mean (SLTT eq. 14)"
    assert float((one.flat() - other.flat()).abs().max()) > 1e-4


def test_a_damaged_network_is_repaired(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    mended = TET(epochs=8, batch=20, rate=0.02).run(broken, Context(data, broken.teacher))
    assert share(mended, data) > share(broken, data) + 0.1
