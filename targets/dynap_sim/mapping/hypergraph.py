r"""Who must hear whom, as a hypergraph: an edge for every source, its pins the vertices that listen to it.

A chip sends a spike once to every core where somebody listens, however many do. So a division of the vertices into
parts costs the connectivity metric of hypergraph partitioning,

    cost = sum over edges e of  weight_e * lambda_e        lambda_e: the number of parts that e has pins in

and not the number of connections that are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from snnc.ir import Array

TABLE = 2**27
"""Entries of a table up to which it is faster than sorting."""


@dataclass(frozen=True, eq=False)
class Hypergraph:
    """Edges as rows of a sparse matrix.

    Attributes:
        vertices: how many there are.
        start: [E + 1], where each edge's pins begin in `pin`; every edge has pins.
        pin: [P], vertices, each at most once in an edge.
        weight: [E], what it costs to reach one more part.
        sources: [E], how many sources an edge stands for.
    """

    vertices: int
    start: Array
    pin: Array
    weight: Array
    sources: Array

    @cached_property
    def edge(self) -> Array:
        """[P], the edge of every pin."""
        return np.repeat(np.arange(len(self.weight)), np.diff(self.start))

    @cached_property
    def listening(self) -> tuple[Array, Array]:
        """The transpose: [V + 1] where each vertex's edges begin, and [P] edges."""
        order = np.argsort(self.pin, kind="stable")
        begins = np.concatenate([[0], np.cumsum(np.bincount(self.pin, minlength=self.vertices))])
        return begins, self.edge[order]

    def edges_of(self, vertex: int) -> Array:
        """The edges that `vertex` is a pin of."""
        begins, edges = self.listening
        return edges[begins[vertex] : begins[vertex + 1]]

    def restricted(self, vertices: Array) -> Hypergraph:
        """Only these `vertices`, numbered by their place in the array; edges without any of them go."""
        number = np.full(self.vertices, -1)
        number[vertices] = np.arange(len(vertices))
        kept = number[self.pin] >= 0
        return gathered(len(vertices), self.edge[kept], number[self.pin[kept]], self.weight, self.sources)

    def merged(self) -> Hypergraph:
        """Edges with the same pins as one edge, their weights summed: a division costs the same.

        Sets of pins are told apart by 128 random bits each, so that two different ones are never taken for one.
        """
        bits = np.random.default_rng(0).integers(0, 2**63, (2, self.vertices), np.uint64)
        prints = np.add.reduceat(bits[:, self.pin], self.start[:-1], axis=1)
        _, first, same = np.unique(prints, axis=1, return_index=True, return_inverse=True)
        kept = np.isin(self.edge, first)
        edge = same.reshape(-1)[self.edge[kept]]
        weight, sources = (np.bincount(same.reshape(-1), part) for part in (self.weight, self.sources))
        return gathered(self.vertices, edge, self.pin[kept], weight, sources)


def gathered(vertices: int, edge: Array, pin: Array, weight: Array, sources: Array) -> Hypergraph:
    """A hypergraph of the edges that have pins, in their order.

    Args:
        edge, pin: [P], one row for every pin; edges by number, in any order.
        weight, sources: of every edge, of those without pins too.
    """
    order = np.argsort(edge, kind="stable")
    size = np.bincount(edge, minlength=len(weight))
    used = size > 0
    start = np.concatenate([[0], np.cumsum(size[used])])
    return Hypergraph(vertices, start, pin[order].astype(np.int32), weight[used], sources[used].astype(np.int64))


def reached(graph: Hypergraph, part: Array) -> tuple[Array, Array]:
    """Every pair (edge, part that it has pins in) once, in order."""
    parts = int(part.max(initial=0)) + 1
    pairs = graph.edge * parts + part[graph.pin]
    if len(graph.weight) * parts > TABLE:
        pairs = np.unique(pairs)
    else:
        table = np.zeros(len(graph.weight) * parts, bool)
        table[pairs] = True
        pairs = np.flatnonzero(table)
    return pairs // parts, pairs % parts


def connectivity(graph: Hypergraph, part: Array) -> float:
    """The cost of a division: the sum of weight * number of parts, over edges."""
    edge, _ = reached(graph, part)
    return float(graph.weight[edge].sum())


def ranges(start: Array, length: Array) -> Array:
    """start[0], start[0] + 1, ... (length[0] of them), then start[1], ..."""
    ends = np.cumsum(length)
    return np.asarray(np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - (ends - length), length))
