"""Sets of levels as tensors: the levels that a constraint projects to, one set or one for each row."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Constraint, Node
from snnc.ir.graph import nearest
from snnc.sim.levels import nearest_at, taken
from snnc.sim.twins import Study


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([(4,), (4, 3), (4, 2, 3, 3)]))
def test_they_are_the_levels_of_the_constraint(seed: int, by_row: bool, shape: tuple[int, ...]) -> None:
    """Levels on a grid of 1/4 with repeats, values on one of 1/8: many are halfway between two, or on a level."""
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.integers(-12, 13, (4, 9)) / 4).astype(np.float32)
    levels = levels if by_row else levels[0]
    values = (rng.integers(-30, 31, shape) / 8).astype(np.float32)
    at = nearest_at(torch.tensor(values), torch.tensor(levels))
    assert at.shape == shape
    made = taken(torch.tensor(levels), at)
    np.testing.assert_array_equal(made.numpy(), nearest(values, levels))


def test_a_tensor_in_any_layout() -> None:
    levels = torch.tensor([[-1.0, 0, 1], [-5, 0, 5]])
    values = torch.tensor([[0.9, 4.0], [-0.6, 0.1], [-3, -3]]).T
    torch.testing.assert_close(taken(levels, nearest_at(values, levels)), torch.tensor([[1.0, -1, -1], [5, 0, -5]]))


@given(st.integers(0, 10**6), st.booleans())
def test_weights_lie_in_the_room_of_what_they_are_rounded_to(seed: int, by_row: bool) -> None:
    rng = np.random.default_rng(seed)
    above = np.sort(rng.uniform(0.1, 3, (4, 3)), axis=1).astype(np.float32)
    levels = np.concatenate([-above[:, ::-1], np.zeros((4, 1), np.float32), above], axis=1)
    limits = Constraint(2, rng.uniform(0.5, 2, (4, 1)).astype(np.float32), None, levels if by_row else levels[0])
    weight = rng.normal(0, 3, (4, 20)).astype(np.float32)
    made = limits.project(weight)
    node = Node("dense", "dense", ())
    least, most = (bound.numpy() for bound in Study(node, node, limits, made.shape).room(torch.tensor(made)))
    assert (least <= weight + 1e-5).all()
    assert (weight <= most + 1e-5).all()
    assert (least < made).all()
    assert (made < most).all()
    inner = np.isfinite(least) & np.isfinite(most)
    np.testing.assert_array_equal(limits.project(np.where(inner, (least + most) / 2, made)), made)
