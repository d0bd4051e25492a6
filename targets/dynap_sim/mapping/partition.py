r"""Divide neurons into cores, so that spikes are sent to as few cores as possible.

    cost = sum over sources s of  spikes_s * (cores in which somebody listens to s)

Layers are cut into blocks that share sources (`orders`), blocks are packed into cores, and cores exchange neurons
(`refine`); of two ways to cut, full and even blocks, the cheaper end is kept. A core holds no more neurons than it has,
and listens to no more sources than there are tags. All of it is deterministic.
"""

from __future__ import annotations

import numpy as np

from snnc.ir import Array

from .hypergraph import Hypergraph, connectivity, reached
from .kahypar import divided
from .mesh import Mesh
from .netlist import Netlist
from .orders import blocks
from .refine import Walls, refine

FLOOR = 0.01
"""Spikes that a source is taken to send at least, as a share of the mean: a silent one is still to be reached."""
ROUNDS = 4
"""Times that all pairs of neighbouring cores exchange neurons."""


def partition(nets: Netlist, mesh: Mesh, method: str = "greedy", group: Array | None = None) -> Array:
    """The core of every neuron, [N], counted from 0.

    Args:
        method: `greedy`, or `mtkahypar` (the extra `placement`) to begin with that partitioner's division.
        group: [N]; neurons of different groups never share a core: where a core has one threshold, say.

    Raises:
        TargetError: the partitioner is not installed.
    """
    graph = nets.hypergraph(weights(nets.spikes)).merged()
    walls = Walls(mesh.neurons_per_core, mesh.tags)
    starts = [_begun(nets, graph, walls, group, even) for even in (False, True)]
    if method == "mtkahypar":
        starts.append(divided(graph, starts[0], walls, group))
    ends = [refine(graph, part, walls, ROUNDS, group) for part in starts]
    return compact(min(ends, key=lambda part: connectivity(graph, part)))


def _begun(nets: Netlist, graph: Hypergraph, walls: Walls, group: Array | None, even: bool) -> Array:
    """Blocks of neurons on cores; filled neuron after neuron where cores would listen to too many sources."""
    found = blocks(nets, graph, walls.vertices, even, group)
    part = packed(graph, found, walls.vertices, group)
    if heard(graph, part).max(initial=0) <= walls.sources:
        return part
    order = np.concatenate(found)
    order = order if group is None else order[np.argsort(group[order], kind="stable")]
    return fill(graph, order, walls, group)


def sequential(nets: Netlist, mesh: Mesh, group: Array | None = None) -> Array:
    """The core of every neuron where cores are filled in the order of the numbers, as mappers without a cost do."""
    graph = nets.hypergraph(nets.spikes)
    order = np.arange(nets.neurons) if group is None else np.argsort(group, kind="stable")
    return fill(graph, order, Walls(mesh.neurons_per_core, mesh.tags), group)


def weights(spikes: Array) -> Array:
    """What it costs to reach a core: the spikes, and at least a share of their mean."""
    mean = float(spikes.mean()) if len(spikes) else 0.0
    return np.maximum(spikes, FLOOR * mean if mean > 0 else 1.0)


def compact(part: Array) -> Array:
    """The same parts, numbered without gaps in the order in which they were."""
    return np.asarray(np.unique(part, return_inverse=True)[1].reshape(-1))


def fill(graph: Hypergraph, order: Array, walls: Walls, group: Array | None = None) -> Array:
    """The part of every vertex, where parts are filled one after the other in this order up to the walls.

    Args:
        group: [V]; a new part begins where the group changes.
    """
    breaks = np.zeros(len(order), bool)
    if group is not None:
        breaks[1:] = group[order][1:] != group[order][:-1]
    runs = np.diff(np.flatnonzero(np.concatenate([[True], breaks[1:], [True]])))
    inside = np.concatenate([place // walls.vertices for place in (np.arange(run) for run in runs)])
    new = np.concatenate([[True], breaks[1:] | (inside[1:] != inside[:-1])])
    part = np.empty(len(order), np.int64)
    part[order] = np.cumsum(new) - 1
    if heard(graph, part).max(initial=0) <= walls.sources:
        return part
    return _filled(graph, order, walls, breaks)


def heard(graph: Hypergraph, part: Array) -> Array:
    """How many sources each part listens to."""
    edge, reach = reached(graph, part)
    return np.bincount(reach, graph.sources[edge])


def _filled(graph: Hypergraph, order: Array, walls: Walls, breaks: Array) -> Array:
    """As `fill`, a vertex at a time: where parts listen to too many sources before they are full."""
    part, mark = np.empty(len(order), np.int64), np.full(len(graph.weight), -1)
    core, size, load = -1, walls.vertices, 0
    for vertex, fresh in zip(order, breaks, strict=True):
        edges = graph.edges_of(vertex)
        more = int(graph.sources[edges[mark[edges] != core]].sum())
        if fresh or size == walls.vertices or (size and load + more > walls.sources):
            core, size, load = core + 1, 0, 0
            more = int(graph.sources[edges].sum())
        mark[edges] = core
        part[vertex], size, load = core, size + 1, load + more
    return part


def packed(graph: Hypergraph, blocks: list[Array], size: int, group: Array | None = None) -> Array:
    """The part of every vertex: blocks are put into the first part with room, those that cost most first.

    As few parts as can hold all vertices. A block for which no room is left is split.

    Args:
        group: [V], the same for all of a block; vertices of different groups never share a part.
    """
    part, parts = np.empty(graph.vertices, np.int64), 0
    begins, edges = graph.listening
    owner = np.repeat(np.arange(graph.vertices), np.diff(begins))
    dear = np.bincount(owner, graph.weight[edges], graph.vertices)
    kind = [0 if group is None else int(group[block[0]]) for block in blocks]
    for one in sorted(set(kind)):
        mine = sorted((b for b, k in zip(blocks, kind, strict=True) if k == one), key=lambda b: -float(dear[b].sum()))
        room = np.full(-(-sum(map(len, mine)) // size), size)
        split = []
        for block in mine:
            first = int((room >= len(block)).argmax())
            if room[first] < len(block):
                split.append(block)
                continue
            part[block] = parts + first
            room[first] -= len(block)
        for block in split:
            while len(block):
                widest = int(room.argmax())
                here, block = np.split(block, [room[widest]])
                part[here] = parts + widest
                room[widest] -= len(here)
        parts += len(room)
    return part
