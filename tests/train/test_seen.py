"""A param as the network sees it: weight standardization and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from snnc.data import Data
from snnc.ir import Constraint, Graph
from snnc.pipeline import Context
from snnc.train import LTL, SLTT
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


def test_every_row_has_levels_of_its_own() -> None:
    above = np.sort(np.random.default_rng(2).uniform(0.2, 4, (3, 4))).astype(np.float32)
    levels = np.concatenate([-above[:, ::-1], np.zeros((3, 1), np.float32), above], axis=1)
    constraint = Constraint(3, np.full((3, 1, 1, 1), 0.5, np.float32), MASK, levels)
    made = Seen(constraint, "cpu")(START)
    torch.testing.assert_close(made, torch.tensor(constraint.project(START.numpy())), rtol=0, atol=1e-6)
    assert not torch.equal(made[0], Seen(Constraint(3, np.float32(0.5), MASK, levels[1]), "cpu")(START)[0])


def test_training_keeps_weights_on_the_levels_of_their_row(lowered: Callable[[str], Graph], data: Data) -> None:
    """Two groups of neurons with currents of their own; the weights move, and no weight leaves its group's levels."""
    recipe = "threshold-layernorm{steps=4},bias-per-step,quantize-weights{levels=base-currents per=core core=8}"
    graph = lowered(recipe)
    for rule in (LTL(epochs=2, rate=0.02), SLTT(epochs=2, rate=0.02)):
        made = rule.fit(graph, Context(data, graph.teacher))
        assert len(graph.constraints) == 2
        for name, constraint in graph.constraints.items():
            assert constraint.levels is not None
            assert len(np.unique(constraint.levels, axis=0)) == 2
            assert (made[name] != graph.params[name]).any()
            np.testing.assert_array_equal(constraint.project(made[name]), made[name])


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
