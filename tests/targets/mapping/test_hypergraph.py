"""Hypergraphs against sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.targets.dynap_sim.mapping import hypergraph
from snnc.targets.dynap_sim.mapping.hypergraph import Hypergraph, connectivity, gathered, ranges, reached


@st.composite
def hypergraphs(draw: st.DrawFn) -> tuple[Hypergraph, list[set[int]]]:
    """One drawn with few vertices, so that many edges are alike, and its sets of pins; some edges have none."""
    vertices = draw(st.integers(2, 12))
    sets = draw(st.lists(st.sets(st.integers(0, vertices - 1), max_size=5), min_size=1, max_size=30))
    rows = [(edge, pin) for edge, pins in enumerate(sets) for pin in pins]
    edge, pin = np.array(rows or [(0, 0)]).T
    sets = sets if rows else [{0}, *sets[1:]]
    weight = np.arange(1, len(sets) + 1) * 1.0
    return gathered(vertices, edge, pin, weight, np.ones(len(sets), np.int64)), [pins for pins in sets if pins]


def brute(graph: Hypergraph, sets: list[set[int]], part: np.ndarray) -> float:
    return float(sum(w * len({part[pin] for pin in pins}) for w, pins in zip(graph.weight, sets, strict=True)))


@given(hypergraphs(), st.integers(0, 2**16), st.sampled_from([0, 2**27]))
def test_connectivity_counts_parts_by_edge(made: tuple[Hypergraph, list[set[int]]], seed: int, table: int) -> None:
    graph, sets = made
    part = np.random.default_rng(seed).integers(0, 4, graph.vertices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hypergraph, "TABLE", table)
        assert connectivity(graph, part) == pytest.approx(brute(graph, sets, part))
        edge, reach = reached(graph, part)
    assert sorted(zip(edge.tolist(), reach.tolist(), strict=True)) == sorted(
        {(i, int(part[pin])) for i, pins in enumerate(sets) for pin in pins}
    )


@given(hypergraphs(), st.integers(0, 2**16))
def test_merging_keeps_the_cost_of_every_division(made: tuple[Hypergraph, list[set[int]]], seed: int) -> None:
    graph, sets = made
    merged = graph.merged()
    assert len(merged.weight) == len({frozenset(pins) for pins in sets})
    assert merged.sources.sum() == len(sets)
    for part in np.random.default_rng(seed).integers(0, 3, (5, graph.vertices)):
        assert connectivity(merged, part) == pytest.approx(connectivity(graph, part))


@given(hypergraphs(), st.integers(0, 2**16))
def test_restricting_leaves_the_pins_that_are_kept(made: tuple[Hypergraph, list[set[int]]], seed: int) -> None:
    graph, sets = made
    kept = np.random.default_rng(seed).permutation(graph.vertices)[: graph.vertices // 2]
    small = graph.restricted(kept)
    found = [{int(kept[pin]) for pin in pins} for pins in np.split(small.pin, small.start[1:-1]) if len(pins)]
    assert found == [left for pins in sets if (left := pins & set(kept.tolist()))]


@given(hypergraphs())
def test_listening_is_the_transpose(made: tuple[Hypergraph, list[set[int]]]) -> None:
    graph, sets = made
    for vertex in range(graph.vertices):
        assert graph.edges_of(vertex).tolist() == [i for i, pins in enumerate(sets) if vertex in pins]


def test_ranges() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.array([], int), np.array([], int)).tolist() == []
