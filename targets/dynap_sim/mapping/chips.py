r"""Divide cores into chips, so that spikes leave their chip for as few others as possible.

A spike leaves its chip once for every other chip where somebody listens: one destination word, which carries a mask of
the cores there. So cores are divided into chips as neurons are into cores, by connectivity, with the core that a source
is in among those that it reaches. Sources that would need more words than a neuron has gain weight until they fit, or
until that does not help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from snnc.ir import Array

from .hypergraph import Hypergraph, connectivity, gathered, reached
from .mesh import Mesh
from .netlist import Netlist
from .orders import growth
from .partition import compact, fill, weights
from .refine import Walls, refine

ROUNDS = 8
"""Times that all pairs of neighbouring chips exchange cores, and that sources with too many words gain weight."""
DEARER = 8
"""What a source with too many words weighs more, each time."""
UNLIMITED = 2**62


def onto_chips(nets: Netlist, core: Array, mesh: Mesh) -> Array:
    """The chip of every core, by connectivity.

    Args:
        core: [N], the core of every neuron.
    """
    words = _words(nets, core)
    allowed = allowed_words(nets, mesh)[words.heard]
    walls = Walls(mesh.cores_per_chip, UNLIMITED)
    weight = words.graph.weight.copy()
    merged = words.graph.merged()
    ends = np.append(np.arange(mesh.cores_per_chip, merged.vertices, mesh.cores_per_chip), merged.vertices)
    orders = [np.arange(merged.vertices), growth(merged, ends)]
    chip = min((fill(merged, order, walls) for order in orders), key=lambda part: connectivity(merged, part))
    best, found = (math.inf, math.inf), chip
    for _ in range(ROUNDS):
        chip = refine(words.weighing(weight).merged(), chip, walls, ROUNDS)
        over = words.chips(chip) > allowed
        now = float(over.sum()), connectivity(merged, chip)
        if now < best:
            best, found = now, chip
        if not over.any():
            break
        weight[over] *= DEARER
    return compact(found)


def allowed_words(nets: Netlist, mesh: Mesh) -> Array:
    """[S], the destination words of every source; inputs come from outside, which has as many as it needs."""
    allowed = np.full(len(nets.spikes), UNLIMITED)
    allowed[: nets.neurons] = mesh.destinations - mesh.monitor_words * nets.read
    return allowed


@dataclass(frozen=True, eq=False)
class _Words:
    """The cores that every source reaches, and as one more pin the core that it is in.

    Attributes:
        heard: [E], the sources that somebody listens to.
        edge, core: rows (place in `heard`, core that listens).
    """

    graph: Hypergraph
    heard: Array
    edge: Array
    core: Array

    def weighing(self, weight: Array) -> Hypergraph:
        """The hypergraph with other weights."""
        made = self.graph
        return Hypergraph(made.vertices, made.start, made.pin, weight, made.sources)

    def chips(self, chip: Array) -> Array:
        """[E], the chips that every source reaches: its words."""
        pairs = np.unique(self.edge * (int(chip.max()) + 1) + chip[self.core])
        return np.bincount(pairs // (int(chip.max()) + 1), minlength=len(self.heard))


def _words(nets: Netlist, core: Array) -> _Words:
    heard = np.flatnonzero(np.diff(nets.start))
    edge, listening = reached(nets.hypergraph(nets.spikes), core)
    own = np.flatnonzero(heard < nets.neurons)
    cores = int(core.max()) + 1
    pairs = np.unique(np.concatenate([edge * cores + listening, own * cores + core[heard[own]]]))
    ones = np.ones(len(heard), np.int64)
    graph = gathered(cores, pairs // cores, pairs % cores, weights(nets.spikes)[heard], ones)
    return _Words(graph, heard, edge, listening)
