"""Chips on the mesh: places against all exchanges, the Hilbert curve, numbers that no mesh has."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import PipelineError
from snnc.targets.dynap_sim.mapping import Mesh
from snnc.targets.dynap_sim.mapping.mesh import BEYOND, hilbert, positions


def hops(traffic: np.ndarray, xy: np.ndarray) -> float:
    return float((traffic * np.abs(xy[:, None] - xy).sum(axis=2)).sum())


@given(st.integers(0, 2**16), st.integers(1, 9))
def test_no_exchange_of_two_chips_saves_hops(seed: int, chips: int) -> None:
    rng = np.random.default_rng(seed)
    traffic = rng.exponential(1, (chips, chips)) * (rng.random((chips, chips)) < 0.4)
    xy = positions(traffic, 7)
    assert len({tuple(place) for place in xy.tolist()}) == chips
    assert xy.max(initial=0) < np.ceil(np.sqrt(chips))
    for a, b in combinations(range(chips), 2):
        other = xy.copy()
        other[[a, b]] = other[[b, a]]
        assert hops(traffic, xy) <= hops(traffic, other) + 1e-6


def test_a_chain_lies_along_neighbours() -> None:
    """A chain of chips in any order: every step is one hop."""
    order = np.random.default_rng(3).permutation(9)
    traffic = np.zeros((9, 9))
    traffic[order[:-1], order[1:]] = 1
    assert hops(traffic, positions(traffic, 7)) <= 9


def test_the_range_comes_before_hops() -> None:
    """Light traffic is kept within the range although heavy traffic would like the places."""
    traffic = np.zeros((4, 4))
    traffic[0, 1] = traffic[1, 2] = traffic[2, 3] = 10.0
    traffic[0, 3] = 0.1
    for reach in (0, 1):
        xy = positions(traffic, reach)
        assert np.abs(xy[0] - xy[3]).max() <= 1
    assert BEYOND > 100


def test_the_hilbert_curve_visits_every_cell_in_single_steps() -> None:
    y, x = (a.reshape(-1) for a in np.indices((16, 16)))
    place = hilbert(y, x)
    assert sorted(place.tolist()) == list(range(256))
    order = np.argsort(place)
    steps = np.abs(np.diff(y[order])) + np.abs(np.diff(x[order]))
    assert (steps == 1).all()


def test_numbers_that_no_mesh_has_are_named_at_once() -> None:
    with pytest.raises(PipelineError, match="no mesh has chips=0, destinations=-1, tag_bits=40"):
        Mesh(chips=0, destinations=-1, tag_bits=40)
    assert Mesh(hop_range=0, monitor_words=0).tags == 2048
