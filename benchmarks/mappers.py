r"""Mappers in the manner of published ones, to compare placements with: what their texts say, no code of theirs.

    PACMAN     layers in order, a core filled after the other, chip after chip (Galluppi et al. 2012, as PSOPART and
               SpiNeMap describe it)
    SpiNeMap   clusters grown greedily so that few spikes leave them, a synapse being an edge of weight spikes;
               clusters placed by a particle swarm that minimizes spikes times hops (Balaji et al., arXiv 1909.01843)
    SNEAP      multilevel partitioning of the same graph into as many parts (here METIS, by `pip install pymetis`),
               placed by simulated annealing with the same cost (Li et al., arXiv 2004.01639)

All of them count a spike once for every synapse that it crosses to, or for every pair of cores; the chip sends it once
to a core, however many listen there. Their own set-ups differ: other chips or crossbars, other networks, other energy
models. Swarm and annealing are seeded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from snnc.ir import Array
from snnc.targets.dynap_sim.mapping import Mapping, Mesh, Netlist
from snnc.targets.dynap_sim.mapping.mapping import by_layer
from snnc.targets.dynap_sim.mapping.tags import allocate

PARTICLES, GENERATIONS = 40, 150
INERTIA, OWN, COMMON = 0.72, 1.49, 1.49
"""Of the swarm: how much of its speed a particle keeps, and how it is drawn to its own best and to everybody's."""
SWAPS, COOLING = 20_000, 0.9995
FINE = 1000
"""Weights of METIS, integers, in parts of the mean spikes of a source."""


class Synapses:
    """The graph that these methods see: neurons, and for every pair of them the spikes between."""

    def __init__(self, nets: Netlist) -> None:
        inside = nets.source < nets.neurons
        source, target = nets.source[inside], nets.target[inside].astype(np.int64)
        spikes = nets.spikes[source] * nets.words[inside]
        kept = source != target
        ends = np.concatenate([source[kept], target[kept]]), np.concatenate([target[kept], source[kept]])
        keys, place = np.unique(ends[0] * nets.neurons + ends[1], return_inverse=True)
        self.weight = np.bincount(place, np.tile(spikes[kept], 2))
        self.other = keys % nets.neurons
        self.start = np.concatenate([[0], np.cumsum(np.bincount(keys // nets.neurons, minlength=nets.neurons))])


def spinemap(nets: Netlist, mesh: Mesh, seed: int = 0) -> Mapping:
    """Greedy clusters, placed by a particle swarm."""
    return _on_slots(nets, mesh, grown(Synapses(nets), nets.neurons, mesh.neurons_per_core), swarm, seed)


def sneap(nets: Netlist, mesh: Mesh, seed: int = 0) -> Mapping:
    """Parts of least cut, placed by simulated annealing.

    Raises:
        ImportError: pymetis is not installed.
    """
    return _on_slots(nets, mesh, multilevel(Synapses(nets), nets.neurons, mesh.neurons_per_core), annealed, seed)


def cut(nets: Netlist, core: Array) -> float:
    """Spikes over synapses between cores, every synapse for itself: what these methods call global spikes."""
    inside = nets.source < nets.neurons
    apart = core[nets.source[inside]] != core[nets.target[inside]]
    return float(((nets.spikes[nets.source] * nets.words)[inside] * apart).sum())


def grown(graph: Synapses, neurons: int, size: int) -> Array:
    """The cluster of every neuron: each starts with the busiest one left and takes those it shares most spikes with."""
    busy = np.add.reduceat(np.append(graph.weight, 0.0), graph.start[:-1]) * (np.diff(graph.start) > 0)
    cluster = np.full(neurons, -1)
    for number in range(-(-neurons // size)):
        shared = np.where(cluster < 0, 1e-12 * busy, -np.inf)
        for _ in range(min(size, int((cluster < 0).sum()))):
            chosen = int(shared.argmax())
            cluster[chosen], shared[chosen] = number, -np.inf
            row = slice(graph.start[chosen], graph.start[chosen + 1])
            np.add.at(shared, graph.other[row], graph.weight[row])
    return cluster


def multilevel(graph: Synapses, neurons: int, size: int) -> Array:
    """The part of every neuron by METIS; parts that are too large give away what ties them least."""
    import pymetis

    parts = -(-neurons // size)
    weight = np.maximum(np.rint(graph.weight / graph.weight.mean() * FINE), 1).astype(int)
    _, found = pymetis.part_graph(
        parts, xadj=graph.start.tolist(), adjncy=graph.other.tolist(), eweights=weight.tolist()
    )
    part = np.array(found)
    count = np.bincount(part, minlength=parts)
    for full in np.flatnonzero(count > size):
        own = np.flatnonzero(part == full)
        ties = np.array([_ties(graph, part, v, parts) for v in own])
        order = np.argsort(ties[:, full] - np.delete(ties, full, axis=1).max(axis=1))
        for v, tie in zip(own[order[: count[full] - size]], ties[order], strict=False):
            room = np.flatnonzero(np.bincount(part, minlength=parts) < size)
            part[v] = room[tie[room].argmax()]
    return part


def _ties(graph: Synapses, part: Array, vertex: int, parts: int) -> Array:
    """The spikes between a neuron and every part."""
    row = slice(graph.start[vertex], graph.start[vertex + 1])
    return np.bincount(part[graph.other[row]], graph.weight[row], parts)


def _on_slots(
    nets: Netlist, mesh: Mesh, core: Array, placer: Callable[[Array, Array, np.random.Generator], Array], seed: int
) -> Mapping:
    """The mapping with every core in one of the slots that the chips have, chips on a mesh that is nearly square."""
    cores = int(core.max()) + 1
    chips = -(-cores // mesh.cores_per_chip)
    wide = int(np.ceil(np.sqrt(chips)))
    chip_of = np.arange(chips * mesh.cores_per_chip) // mesh.cores_per_chip
    xy = np.stack([np.arange(chips) % wide, np.arange(chips) // wide], axis=1)
    hops = np.abs(xy[:, None] - xy).sum(axis=2)[np.ix_(chip_of, chip_of)]
    inside = nets.source < nets.neurons
    pairs = core[nets.source[inside]] * cores + core[nets.target[inside]]
    flow = np.bincount(pairs, (nets.spikes[nets.source] * nets.words)[inside], cores**2).reshape(cores, cores)
    chip = chip_of[placer(flow, hops, np.random.default_rng(seed))]
    used, number = np.unique(chip, return_inverse=True)
    return Mapping(mesh, by_layer(nets, core), number, xy[used], allocate(nets, core, number))


def _cost(flow: Array, hops: Array, slots: Array) -> float:
    """Spikes times hops, cores in these slots."""
    return float((flow * hops[np.ix_(slots, slots)]).sum())


def swarm(flow: Array, hops: Array, rng: np.random.Generator) -> Array:
    """The slot of every core by particle swarm: a particle is a key for each slot, cores take slots in their order."""
    shape = PARTICLES, len(hops)
    keys, speed = rng.random(shape), rng.normal(scale=0.1, size=shape)
    best, least = keys.copy(), np.full(PARTICLES, np.inf)
    for _ in range(GENERATIONS):
        costs = np.array([_cost(flow, hops, np.argsort(key)[: len(flow)]) for key in keys])
        better = costs < least
        best[better], least[better] = keys[better], costs[better]
        pull = OWN * rng.random(shape) * (best - keys) + COMMON * rng.random(shape) * (best[least.argmin()] - keys)
        speed = INERTIA * speed + pull
        keys = keys + speed
    return np.argsort(best[least.argmin()])[: len(flow)]


def annealed(flow: Array, hops: Array, rng: np.random.Generator) -> Array:
    """The slot of every core by simulated annealing: two slots exchange what they hold."""
    slots = np.arange(len(hops))
    both = flow + flow.T
    heat = float(both.mean()) * len(flow)
    now = _cost(flow, hops, slots[: len(flow)])
    best, least = slots.copy(), now
    for _ in range(SWAPS if len(hops) > 1 else 0):
        i, j = rng.choice(len(hops), 2, replace=False)
        tried = slots.copy()
        tried[[i, j]] = tried[[j, i]]
        cost = _cost(flow, hops, tried[: len(flow)])
        if cost <= now or rng.random() < np.exp((now - cost) / max(heat, 1e-12)):
            slots, now = tried, cost
        if now < least:
            best, least = slots.copy(), now
        heat *= COOLING
    return best[: len(flow)]
