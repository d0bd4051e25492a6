"""Refinement: its gains against the cost itself, its walls, and optima that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.targets.dynap_sim.mapping.hypergraph import Hypergraph, connectivity, gathered
from snnc.targets.dynap_sim.mapping.partition import heard
from snnc.targets.dynap_sim.mapping.refine import Walls, _Pair, refine


def random_graph(rng: np.random.Generator, vertices: int, edges: int, pins: int) -> Hypergraph:
    rows = {(e, int(v)) for e in range(edges) for v in rng.choice(vertices, rng.integers(1, pins + 1), replace=False)}
    edge, pin = np.array(sorted(rows)).T
    return gathered(vertices, edge, pin, rng.uniform(0.5, 2, edges), rng.integers(1, 3, edges))


@given(st.integers(0, 2**16))
def test_gains_are_what_the_cost_falls_by(seed: int) -> None:
    """After any moves the gain of every vertex that has not moved is the difference that moving it makes."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 16, 40, 5)
    part = rng.permutation(np.repeat([0, 1, 2], [6, 6, 4]))
    pair = _Pair(graph, np.flatnonzero(part == 0), np.flatnonzero(part == 1), Walls(12, 99))
    pair._transpose()
    gone = set()
    for vertex in [None, *rng.permutation(12)[:5].tolist()]:
        if vertex is not None:
            pair._move(vertex)
            part[pair.vertices[vertex]] ^= 1
            gone.add(vertex)
        before = connectivity(graph, part)
        for number, one in enumerate(pair.vertices):
            if number in gone:
                continue
            moved = part.copy()
            moved[one] ^= 1
            assert pair.gain[number] == pytest.approx(before - connectivity(graph, moved))
        assert pair.load.tolist() == heard(graph, part)[:2].tolist()
        assert pair.size.tolist() == np.bincount(part)[:2].tolist()


@given(st.integers(0, 2**16), st.booleans())
def test_it_never_costs_more_and_keeps_all_walls(seed: int, apart: bool) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 40, 90, 5)
    part = rng.permutation(np.arange(40) // 8)
    group = None
    if apart:
        group = np.repeat([0, 1], [16, 24])
        part = np.arange(40) // 8
    walls = Walls(8, int(heard(graph, part).max()))
    made = refine(graph, part, walls, 4, group)
    assert connectivity(graph, made) <= connectivity(graph, part) + 1e-9
    assert np.bincount(made).max() <= 8
    assert heard(graph, made).max() <= walls.sources
    np.testing.assert_array_equal(made, refine(graph, part, walls, 4, group))
    if group is not None:
        assert all(len(set(group[made == p])) == 1 for p in range(5))


@pytest.mark.parametrize("seed", range(5))
def test_two_mixed_up_clusters_come_apart(seed: int) -> None:
    """Every source is heard in one cluster only: the optimum costs one part a source."""
    rng = np.random.default_rng(seed)
    rows = {(e, int(v)) for e in range(60) for v in rng.choice(10, 4, replace=False) + 10 * (e % 2)}
    edge, pin = np.array(sorted(rows)).T
    graph = gathered(20, edge, pin, np.ones(60), np.ones(60, np.int64))
    mixed = rng.permutation(np.repeat([0, 1], 10))
    assert connectivity(graph, mixed) > 90
    assert connectivity(graph, refine(graph, mixed, Walls(10, 99), 4)) == 60
