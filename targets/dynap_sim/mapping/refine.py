r"""Improve a division by moving vertices between two parts at a time (Fiduccia and Mattheyses, DAC 1982).

With c_P(e) pins of edge e in part P, a vertex v that moves from A to B saves

    gain(v) = sum over edges e of v:  weight_e * ([c_A(e) = 1] - [c_B(e) = 0])

Vertices move one after the other, the largest gain first, each once, also where the gain is negative for a while; kept
is the best point on the way at which both parts are within the walls. Full parts exchange vertices that way. Edges that
reach many parts say little about which two belong together and do not choose pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnc.ir import Array

from .hypergraph import Hypergraph, ranges, reached

NEIGHBOURS = 12
"""Parts with which each part exchanges vertices: those that share most sources with it."""
WIDEST = 32
"""Parts that an edge may reach to have a say in that."""
PATIENCE = 24
"""Moves without a new best point before a pair is left."""
LEAST = 1e-9
"""Share of the cost below which a gain is rounding."""


@dataclass(frozen=True)
class Walls:
    """What a part can hold: vertices, and different sources that these listen to."""

    vertices: int
    sources: int


def refine(graph: Hypergraph, part: Array, walls: Walls, rounds: int, group: Array | None = None) -> Array:
    """A division into the same parts that costs no more.

    Args:
        part: [V], within the walls.
        rounds: how often to go through all pairs; it ends earlier where nothing changes.
        group: [V]; vertices of different groups never share a part (and do not in `part`).
    """
    part = part.copy()
    members = [np.flatnonzero(part == p) for p in range(int(part.max(initial=-1)) + 1)]
    kind = None if group is None else [int(group[m[0]]) if len(m) else -1 for m in members]
    least = LEAST * float(graph.weight.sum())
    changed, seen = np.zeros(len(members), np.int64), dict[tuple[int, int], tuple[int, int]]()
    for _ in range(rounds):
        before = int(changed.sum())
        for a, b in _pairs(graph, part, len(members)):
            state = int(changed[a]), int(changed[b])
            if seen.get((a, b)) == state or (kind is not None and kind[a] != kind[b]):
                continue
            pair = _Pair(graph, members[a], members[b], walls)
            if pair.improve(least):
                members[a], members[b] = pair.parts()
                part[members[a]], part[members[b]] = a, b
                changed[[a, b]] += 1
            seen[a, b] = int(changed[a]), int(changed[b])
        if int(changed.sum()) == before:
            break
    return part


def _pairs(graph: Hypergraph, part: Array, parts: int) -> list[tuple[int, int]]:
    """The pairs of parts that share sources, those with the most first."""
    edge, reach = reached(graph, part)
    size = np.bincount(edge, minlength=len(graph.weight))
    begin = np.concatenate([[0], np.cumsum(size)])[:-1]
    kept = (size[edge] > 1) & (size[edge] <= WIDEST)
    place, edge = np.flatnonzero(kept), edge[kept]
    after = begin[edge] + size[edge] - 1 - place  # later parts of the same edge
    one, other = np.repeat(reach[kept], after), reach[ranges(place + 1, after)]
    shared = np.bincount(one * parts + other, np.repeat(graph.weight[edge], after), parts * parts)
    table = shared.reshape(parts, parts)
    table = table + table.T
    best = np.argsort(-table, axis=1, kind="stable")[:, :NEIGHBOURS]
    found = {(min(a, int(b)), max(a, int(b))) for a in range(parts) for b in best[a] if table[a, b] > 0}
    return sorted(found, key=lambda pair: (-table[pair], pair))


def _renumbered(values: Array, most: int) -> tuple[Array, Array]:
    """The different values below `most`, ascending, and the place of each value among them."""
    present = np.zeros(most, bool)
    present[values] = True
    kept = np.flatnonzero(present)
    number = np.empty(most, np.int64)
    number[kept] = np.arange(len(kept))
    return kept, number[values]


class _Pair:
    """Two parts and the edges that have pins in them, all numbered anew."""

    def __init__(self, graph: Hypergraph, a: Array, b: Array, walls: Walls) -> None:
        self.vertices, self.walls = np.concatenate([a, b]), walls
        self.side = np.repeat([0, 1], [len(a), len(b)])
        begins, edges = graph.listening
        length = begins[self.vertices + 1] - begins[self.vertices]
        kept, edge = _renumbered(edges[ranges(begins[self.vertices], length)], len(graph.weight))
        self.vertex = np.repeat(np.arange(len(self.vertices)), length)
        self.weight, self.sources = graph.weight[kept], graph.sources[kept]
        self.begin, self.edge = np.concatenate([[0], np.cumsum(length)]), edge
        sides = edge * 2 + self.side[self.vertex]
        self.count = np.bincount(sides, minlength=2 * len(kept)).reshape(-1, 2).T.copy()
        worth = self._worth(np.arange(len(kept)))
        self.gain = np.bincount(self.vertex, worth[self.side[self.vertex], edge], len(self.vertices))
        self.load = np.array([(self.sources * (self.count[s] > 0)).sum() for s in (0, 1)])
        self.size = np.array([len(a), len(b)])
        self.pin, self.pins = edge[:0], edge[:0]

    def parts(self) -> tuple[Array, Array]:
        """The vertices of both parts, ascending."""
        a, b = (np.sort(self.vertices[self.side == s]) for s in (0, 1))
        return a, b

    def improve(self, least: float) -> bool:
        """Move vertices to the best point within the walls; False, and nothing moved, if that is the start."""
        if self._bound() <= least:
            return False
        self._transpose()
        free = np.ones(len(self.vertices), bool)
        start = self.side.copy()
        moved: list[int] = []
        total, best, kept, worse = 0.0, least, 0, 0
        while free.any() and worse < PATIENCE:
            vertex = self._next(free)
            if vertex < 0:
                break
            total += float(self.gain[vertex])
            self._move(vertex)
            free[vertex] = False
            moved.append(vertex)
            worse += 1
            if total > best and self.size.max() <= self.walls.vertices and self.load.max() <= self.walls.sources:
                best, kept, worse = total, len(moved), 0
        start[moved[:kept]] ^= 1
        self.side = start
        return kept > 0

    def _transpose(self) -> None:
        """The pins of every edge, for moves."""
        few = len(self.weight) <= np.iinfo(np.uint16).max
        order = np.argsort(self.edge.astype(np.uint16) if few else self.edge, kind="stable")
        self.pin = self.vertex[order]
        self.pins = np.concatenate([[0], np.cumsum(np.bincount(self.edge, minlength=len(self.weight)))])

    def _bound(self) -> float:
        """More than the first exchange can gain: one vertex of each side, or one alone."""
        ends = [float(self.gain[self.side == s].astype(np.float64).max(initial=-np.inf)) for s in (0, 1)]
        return max(*ends, sum(ends))

    def _next(self, free: Array) -> int:
        """The free vertex of the largest gain, from the fuller side if one is full; -1 where there is none."""
        allowed = free
        for side in (0, 1):
            if self.size[1 - side] > self.walls.vertices:
                allowed = free & (self.side != side)
        if not allowed.any():
            return -1
        return int(np.where(allowed, self.gain, -np.inf).argmax())

    def _worth(self, edges: Array) -> Array:
        """What moving a pin of each edge saves, [2, edges]: of a pin in part 0, and of one in part 1."""
        count, weight = self.count[:, edges], self.weight[edges]
        return np.asarray(weight * ((count == 1).astype(np.int64) - (count[::-1] == 0)))

    def _move(self, vertex: int) -> None:
        """Put a vertex on the other side and bring the gains of all that share its edges up to date."""
        edges, here = self.edge[self.begin[vertex] : self.begin[vertex + 1]], int(self.side[vertex])
        count = self.count[:, edges]
        critical = (count[here] <= 2) | (count[1 - here] <= 1)
        edges = edges[critical]
        before = self._worth(edges)
        self.load += self._loads(edges, here)
        all_edges = self.edge[self.begin[vertex] : self.begin[vertex + 1]]
        self.count[here, all_edges] -= 1
        self.count[1 - here, all_edges] += 1
        change = self._worth(edges) - before
        length = self.pins[edges + 1] - self.pins[edges]
        pins = self.pin[ranges(self.pins[edges], length)]
        np.add.at(self.gain, pins, change[self.side[pins], np.repeat(np.arange(len(edges)), length)])
        self.side[vertex] ^= 1
        self.size[[here, 1 - here]] += (-1, 1)

    def _loads(self, edges: Array, here: int) -> Array:
        """By how much the sources of part 0 and 1 change when a pin of `edges` leaves part `here`."""
        gone = self.sources[edges][self.count[here, edges] == 1].sum()
        new = self.sources[edges][self.count[1 - here, edges] == 0].sum()
        return np.array([-gone, new] if here == 0 else [new, -gone])
