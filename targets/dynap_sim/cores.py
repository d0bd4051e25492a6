"""Which neuron sits on which core: the one place that says so."""

from __future__ import annotations

from collections.abc import Mapping

from snnc.ir import Array, Graph
from snnc.sim.cores import filled


def cores(graph: Graph, neurons_per_core: int) -> dict[str, Array]:
    """The core of every neuron, by layer of neurons (relu or lif) and in its shape, numbered over the whole network.

    Sequential filling, see `snnc.sim.cores`: every layer begins a new core.
    """
    found: dict[str, Array] = {}
    first = 0
    for node in graph.nodes:
        if node.op in ("relu", "lif"):
            found[node.name] = first + filled(node.type.shape, neurons_per_core)
            first = int(found[node.name].max()) + 1
    return found


def core_count(placed: Mapping[str, Array]) -> int:
    """How many cores there are neurons on."""
    return 1 + max((int(core.max()) for core in placed.values()), default=-1)
