"""Netlists for tests: of small placed networks, and drawn ones."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import strategies as st

from snnc.ir import Array, Graph
from snnc.targets.dynap_sim import DynapSim, place
from snnc.targets.dynap_sim.mapping import Mesh, Netlist
from tests.targets.networks import NETS
from tests.targets.networks import constrained as plain
from tests.targets.wired import WIRED, samples

EVERY = (*NETS, *WIRED)
SMALL = Mesh(chips=64, neurons_per_core=32, monitor_words=0)


@cache
def placed(net: str) -> Graph:
    """As the passes leave it, laid out."""
    if net in NETS:
        return place(plain(net))
    return place(DynapSim(epochs=1).pipeline()(WIRED[net](), data=samples(net))[0])


def drawn(rng: np.random.Generator, layers: tuple[int, ...], inputs: int, fan_in: int) -> Netlist:
    """Layers [1, n] in a chain: neurons listen to up to `fan_in` of the layer before, some twice, some further back."""
    neurons = sum(layers)
    first = np.concatenate([[0], np.cumsum(layers)])
    rows = []
    for i, size in enumerate(layers):
        before = np.arange(neurons, neurons + inputs) if i == 0 else np.arange(first[i - 1], first[i])
        for target in range(first[i], first[i] + size):
            heard = rng.choice(before, int(rng.integers(1, fan_in + 1)))
            if i > 1 and rng.random() < 0.2:
                heard = np.append(heard[1:], rng.integers(0, first[i - 1]))
            rows += [(source, target) for source in heard]
    pairs, words = np.unique(np.array(rows), axis=0, return_counts=True)
    start = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=neurons + inputs))])
    shapes = {f"lif{i}": (1, size) for i, size in enumerate(layers)}
    read = np.arange(neurons) >= first[-2]
    spikes = rng.exponential(1.0, neurons + inputs)
    at = {name: f"{name} (lif)" for name in (*shapes, "current")}
    return Netlist(shapes, {"current": (inputs,)}, start, pairs[:, 1].astype(np.int32), words, spikes, read, at)


@st.composite
def netlists(draw: st.DrawFn) -> Netlist:
    """Two to four layers of 5 to 40 neurons."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    layers = tuple(draw(st.lists(st.integers(5, 40), min_size=2, max_size=4)))
    return drawn(rng, layers, draw(st.integers(1, 30)), draw(st.integers(1, 8)))


def pairs(nets: Netlist) -> dict[tuple[int, int], int]:
    """CAM words by (source, neuron)."""
    rows = zip(nets.source.tolist(), nets.target.tolist(), nets.words.tolist(), strict=True)
    return {(source, target): words for source, target, words in rows}


def cores_of(nets: Netlist, core: Array) -> list[set[int]]:
    """The cores in which somebody listens, by source."""
    found: list[set[int]] = [set() for _ in nets.spikes]
    for source, target in pairs(nets):
        found[source].add(int(core[target]))
    return found
