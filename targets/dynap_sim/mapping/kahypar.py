"""The division that Mt-KaHyPar finds, a multilevel hypergraph partitioner (MIT licence; the extra `placement`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnc.errors import TargetError
from snnc.ir import Array

from .hypergraph import Hypergraph, connectivity
from .refine import Walls

LARGEST = 10**6
"""The weight of the dearest edge: the partitioner takes integers."""
SEED = 0


def divided(graph: Hypergraph, part: Array, walls: Walls, group: Array | None) -> Array:
    """The partitioner's division brought within the walls, or `part` where that one is cheaper.

    Args:
        part: a division within the walls; it says how many parts there are.
        group: [V]; vertices of different groups never share a part: each is divided alone.

    Raises:
        TargetError: the partitioner is not installed.
    """
    made = np.empty_like(part)
    groups = np.zeros(graph.vertices, np.int64) if group is None else group
    for one in np.unique(groups):
        inside = np.flatnonzero(groups == one)
        alone = graph.restricted(inside).merged()
        names = np.unique(part[inside])
        given = np.searchsorted(names, part[inside])
        made[inside] = names[_cheaper(alone, given, walls)]
    return made


def _cheaper(graph: Hypergraph, part: Array, walls: Walls) -> Array:
    """The partitioner's division of one group, or `part`."""
    parts = int(part.max()) + 1
    if parts == 1:
        return part
    found = _within(graph, _partitioned(graph, parts, walls.vertices), parts, walls)
    if found is None or connectivity(graph, found) >= connectivity(graph, part):
        return part
    return found


def _partitioned(graph: Hypergraph, parts: int, size: int) -> Array:
    """The part of every vertex as the partitioner gives it."""
    library, initializer = _library()
    context = initializer.context_from_preset(library.PresetType.DETERMINISTIC_QUALITY)
    context.set_partitioning_parameters(parts, 0.0, library.Objective.KM1)
    context.set_individual_target_block_weights([size] * parts)
    context.logging = False
    weight = np.maximum(np.rint(graph.weight / graph.weight.max() * LARGEST), 1).astype(np.int64)
    pins = [pins.tolist() for pins in np.split(graph.pin, graph.start[1:-1])]
    ones = [1] * graph.vertices
    library.set_seed(SEED)
    hypergraph = initializer.create_hypergraph(context, graph.vertices, len(pins), pins, ones, weight.tolist())
    made = hypergraph.partition(context)
    return np.array([made.block_id(vertex) for vertex in range(graph.vertices)])


_STARTED: list[Any] = []
"""The library and its initializer: it starts once in a process."""


def _library() -> tuple[Any, Any]:
    try:
        import mtkahypar
    except ImportError:
        raise TargetError(
            "the partitioner mtkahypar is not installed", hint="pip install 'snnc[placement]', or method=greedy"
        ) from None
    if not _STARTED:
        _STARTED.append(mtkahypar.initialize(1))
    return mtkahypar, _STARTED[0]


def _within(graph: Hypergraph, part: Array, parts: int, walls: Walls) -> Array | None:
    """Vertices of parts that are too large, moved to where most of their sources are heard and there is room.

    None where parts listen to too many sources.
    """
    part = part.copy()
    size = np.bincount(part, minlength=parts)
    begins, _ = graph.listening
    for full in np.flatnonzero(size > walls.vertices):
        inside = np.flatnonzero(part == full)
        fewest = np.argsort(np.diff(begins)[inside], kind="stable")
        for vertex in inside[fewest[: size[full] - walls.vertices]]:
            room = np.bincount(part, minlength=parts) < walls.vertices
            part[vertex] = int(np.where(room, _heard(graph, vertex, part, parts), -np.inf).argmax())
    _, load = np.unique(part, return_counts=True)
    edge_part = np.unique(graph.edge * parts + part[graph.pin])
    sources = np.bincount(edge_part % parts, graph.sources[edge_part // parts])
    return part if load.max() <= walls.vertices and sources.max() <= walls.sources else None


def _heard(graph: Hypergraph, vertex: int, part: Array, parts: int) -> Array:
    """[parts], the weight of the sources of `vertex` that each part hears already."""
    edges = graph.edges_of(vertex)
    found = np.zeros(parts)
    for edge in edges:
        found[np.unique(part[graph.pin[graph.start[edge] : graph.start[edge + 1]]])] += graph.weight[edge]
    return found
