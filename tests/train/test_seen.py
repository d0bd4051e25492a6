"""A param as the network sees it: weight standardization and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from snnc.data import Data
from snnc.ir import Constraint, Graph
from snnc.pipeline import Context
from snnc.train import SLTT
from snnc.train.seen import Seen

START = torch.tensor(np.random.default_rng(0).normal(size=(3, 2, 3, 3)), dtype=torch.float32)
MASK = np.random.default_rng(1).random((3, 2, 3, 3)) < 0.6


def test_training_starts_from_the_weights_as_they_are() -> None:
    torch.testing.assert_close(Seen(None, "cpu", START)(START), START)
    torch.testing.assert_close(Seen(Constraint(mask=MASK), "cpu", START)(START), START * torch.tensor(MASK))


def test_mean_and_deviation_stay_whatever_the_weights() -> None:
    made = Seen(None, "cpu", START)(7 * START.flip(1).cos() + 2)
    for a, b in ((made, START),):
        torch.testing.assert_close(a.mean((1, 2, 3)), b.mean((1, 2, 3)))
        torch.testing.assert_close(a.std((1, 2, 3)), b.std((1, 2, 3)))


def test_the_gradient_is_autograds() -> None:
    """With and without absent connections; in double precision."""
    for constraint in (None, Constraint(mask=MASK)):
        seen = Seen(constraint, "cpu", START.double())
        param = (START + 0.3 * START.flip(0)).double().requires_grad_()
        given = START.flip(2).double()
        (wanted,) = torch.autograd.grad(seen(param), param, given)
        torch.testing.assert_close(seen.back(given, param.detach()), wanted)
        assert float(wanted.abs().max()) > 0.1


def test_equal_weights_are_left_alone() -> None:
    """A neuron without any deviation, and one with a single connection: their weights move freely."""
    start = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    seen, moved = Seen(None, "cpu", start), torch.tensor([[3.0, 4.0], [0.5, 2.0]])
    torch.testing.assert_close(seen(moved), moved)
    torch.testing.assert_close(seen.back(torch.ones(2, 2), moved)[0], torch.ones(2))
    torch.testing.assert_close(seen.back(torch.ones(2, 2), moved)[1], torch.zeros(2), atol=1e-6, rtol=0)


def test_levels_come_last() -> None:
    constraint = Constraint(bits=4, scale=np.float32(0.25))
    made = Seen(constraint, "cpu", START)(2 * START)
    torch.testing.assert_close(made, torch.tensor(constraint.project(START.numpy())))


def test_a_rule_that_standardizes_keeps_the_spread_of_every_neuron(lowered: Callable[[str], Graph], data: Data) -> None:
    """Weights move, what every neuron's have in common does not; biases and the rest are free."""
    graph = lowered("threshold-layernorm{steps=2},bias-per-step")
    name = next(n for n, array in graph.params.items() if array.shape == (12, 16))
    ways = {}
    for standardize in (False, True):
        rule = SLTT(epochs=2, rate=0.05, standardize=standardize)
        ways[standardize] = rule.fit(graph, Context(data, graph.teacher))[name]
    first = graph.params[name]
    assert not np.allclose(ways[True], first, atol=1e-3)
    np.testing.assert_allclose(ways[True].std(1), first.std(1), rtol=1e-4)
    np.testing.assert_allclose(ways[True].mean(1), first.mean(1), atol=1e-5)
    assert not np.allclose(ways[False].std(1), first.std(1), rtol=1e-2)
