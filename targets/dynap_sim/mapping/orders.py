r"""Cut layers into blocks of neurons that share sources: the start that refinement then improves.

Which cut is best depends on the layer, and so several are tried on each, and the cheapest is taken:

    raster   as the neurons are numbered, one channel after the other
    boxes    neighbouring positions, with all of their channels or with some
    growth   one neuron after the other, the one that has the largest share of its sources in the block so far

Layers that listen to the same sources (two branches of a network) are a family; its layers are cut apart and together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from snnc.ir import Array, Shape

from .hypergraph import Hypergraph, connectivity, ranges, reached
from .netlist import Netlist

STRETCHES = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 1e6)
"""Lengths of a channel, next to one position, that are tried for boxes."""


def blocks(nets: Netlist, graph: Hypergraph, size: int, even: bool, group: Array | None = None) -> list[Array]:
    """All neurons in blocks of at most `size`.

    Args:
        even: all blocks of a layer are of one size; else all but one are full.
        group: [N]; no block has neurons of two groups.
    """
    units = _units(nets, group)
    label = np.empty(nets.neurons, np.int64)
    for i, unit in enumerate(units):
        label[unit.numbers] = i
    found: list[Array] = []
    for family in families(graph, label, len(units)):
        for kind in dict.fromkeys(units[i].kind for i in family):
            mine = [units[i] for i in family if units[i].kind == kind]
            cut = [block for unit in mine for block in _cut(graph, [unit], size, even)]
            if len(mine) > 1:
                cut = min(cut, _cut(graph, mine, size, even), key=lambda blocks: _cost(graph, blocks))
            found += cut
    return found


@dataclass(frozen=True, eq=False)
class _Unit:
    """The neurons of a layer that may share a core: their group, their numbers, where they are in the layer."""

    kind: int
    shape: Shape
    numbers: Array
    inside: Array


def _units(nets: Netlist, group: Array | None) -> list[_Unit]:
    """Every layer, or every group in every layer."""
    found = []
    for name, shape in nets.layers.items():
        numbers = nets.first[name] + np.arange(math.prod(shape))
        kinds = np.zeros(len(numbers), np.int64) if group is None else group[numbers]
        for kind in np.unique(kinds).tolist():
            inside = np.flatnonzero(kinds == kind)
            found.append(_Unit(kind, shape, numbers[inside], inside))
    return found


def families(graph: Hypergraph, label: Array, labels: int) -> list[list[int]]:
    """Labels of vertices (layers, say) in sets that share sources, directly or through others."""
    edge, reach = reached(graph, label)
    same = edge[1:] == edge[:-1]
    relation = nx.Graph()
    relation.add_nodes_from(range(labels))
    relation.add_edges_from(zip(reach[:-1][same].tolist(), reach[1:][same].tolist(), strict=True))
    return sorted(sorted(family) for family in nx.connected_components(relation))


def coordinates(shapes: Sequence[Shape]) -> Array:
    """[3, neurons]: channel, y and x of layers side by side, positions in the units of the largest of them."""
    spaces = [(channels, high, math.prod(rest)) for channels, high, *rest in ((*shape, 1, 1) for shape in shapes)]
    most = np.max(spaces, axis=0)
    found, channels = [], 0
    for space in spaces:
        here = np.indices(space).reshape(3, -1).astype(np.float64)
        here[1:] *= (most[1:] / space[1:])[:, None]
        here[0] += channels
        channels += space[0]
        found.append(here)
    return np.concatenate(found, axis=1)


def _cut(graph: Hypergraph, units: list[_Unit], size: int, even: bool) -> list[Array]:
    """The cheapest cut of some units taken together."""
    numbers = np.concatenate([unit.numbers for unit in units])
    shapes = [unit.shape for unit in units]
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes[:-1])])
    places = coordinates(shapes)[:, np.concatenate([u.inside + e for u, e in zip(units, ends, strict=True)])]
    alone = graph.restricted(numbers).merged()
    count = len(numbers)
    parts = -(-count // size)
    sizes = [count * (i + 1) // parts - count * i // parts for i in range(parts)] if even else [size] * parts
    ends = np.minimum(np.cumsum(sizes), count)
    orders = [np.arange(count), growth(alone, ends)]
    if np.ptp(places[1:], axis=1).any():
        orders += [boxes(places, ends, stretch) for stretch in STRETCHES]
    cuts = [np.split(order, ends[:-1]) for order in orders]
    return [numbers[block] for block in min(cuts, key=lambda cut: _cost(alone, cut))]


def _cost(graph: Hypergraph, cut: Sequence[Array]) -> float:
    """What blocks of some of the vertices cost as parts."""
    inside = np.concatenate(cut)
    label = np.repeat(np.arange(len(cut)), [len(block) for block in cut])
    return connectivity(graph.restricted(inside), label)


def boxes(places: Array, ends: Array, stretch: float) -> Array:
    """An order in which the neurons up to each of `ends` are a compact box of channels and positions.

    The space is halved across its longest side, again and again.

    Args:
        places: [3, neurons], as `coordinates` gives them.
        ends: ascending, the last is the number of neurons.
        stretch: how long a channel is, next to one position: 0 never separates channels, infinity does that first.
    """
    scale = np.array([stretch, 1.0, 1.0])
    order = np.arange(places.shape[1])
    waiting = [(0, len(ends))]
    while waiting:
        low, high = waiting.pop()
        if high - low < 2:
            continue
        begin, end, middle = ends[low - 1] if low else 0, ends[high - 1], (low + high) // 2
        inside = order[begin:end]
        here = places[:, inside]
        axis = int(np.argmax(np.ptp(here, axis=1) * scale))
        order[begin:end] = inside[np.lexsort((*np.delete(here, axis, axis=0), here[axis]))]
        waiting += [(low, middle), (middle, high)]
    return order


def growth(graph: Hypergraph, ends: Array) -> Array:
    """An order in which each block, up to the next of `ends`, is grown by the vertex that fits best.

    That is the one with the largest share of its sources in the block. A block begins with the vertex that fits the
    block before.
    """
    begins, edges = graph.listening
    owner = np.repeat(np.arange(graph.vertices), np.diff(begins))
    whole = np.maximum(np.bincount(owner, graph.weight[edges], graph.vertices), 1e-30)
    order, full = np.empty(graph.vertices, np.int64), set(ends.tolist())
    mark = np.zeros(len(graph.weight), bool)
    share, taken = np.zeros(graph.vertices), np.zeros(graph.vertices)
    for i in range(graph.vertices):
        vertex = int((share - taken).argmax())
        order[i], taken[vertex] = vertex, np.inf
        mine = edges[begins[vertex] : begins[vertex + 1]]
        fresh = mine[~mark[mine]]
        mark[fresh] = True
        length = graph.start[fresh + 1] - graph.start[fresh]
        pins = graph.pin[ranges(graph.start[fresh], length)]
        np.add.at(share, pins, np.repeat(graph.weight[fresh], length) / whole[pins])
        if i + 1 in full:
            nearest = int((share - taken).argmax())
            mark[:], share = False, np.zeros(graph.vertices)
            share[nearest] = 1.0
    return order
