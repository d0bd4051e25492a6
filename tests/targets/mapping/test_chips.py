"""Cores on chips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings

from snnc.targets.dynap_sim.mapping import Mesh, Netlist
from snnc.targets.dynap_sim.mapping.chips import UNLIMITED, allowed_words, onto_chips
from tests.targets.mapping.nets import SMALL, netlists, pairs


def words(nets: Netlist, core: np.ndarray, chip: np.ndarray) -> list[int]:
    """Destination words of every neuron, by hand."""
    reached: list[set[int]] = [set() for _ in range(nets.neurons)]
    for source, target in pairs(nets):
        if source < nets.neurons:
            reached[source].add(int(chip[core[target]]))
    return [len(chips) for chips in reached]


@settings(max_examples=10)
@given(netlists())
def test_chips_hold_their_cores_and_are_as_few_as_possible(nets: Netlist) -> None:
    core = np.arange(nets.neurons) // 4
    chip = onto_chips(nets, core, SMALL)
    assert len(chip) == core.max() + 1
    assert np.bincount(chip).max() <= SMALL.cores_per_chip
    assert chip.max() + 1 == -(-len(chip) // SMALL.cores_per_chip)
    np.testing.assert_array_equal(chip, onto_chips(nets, core, SMALL))


def star(rare: float) -> tuple[Netlist, np.ndarray]:
    """Neuron 0 is heard in cores 1 to 4; its neighbours draw each of these to one of cores 5 to 8, all spiking more."""
    rows = [(0, n) for n in range(1, 5)] + [(n, n + 4) for n in range(1, 5)]
    source, target = np.array(rows).T
    start = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=12))])
    spikes = np.full(12, 10.0)
    spikes[0] = rare
    shapes = {"lif": (12,)}
    made = Netlist(shapes, {}, start, target, np.ones(8, np.int64), spikes, np.zeros(12, bool), {"lif": "lif"})
    return made, np.arange(12)


def test_a_source_with_too_few_words_is_served_first() -> None:
    """Rare spikes lose against frequent ones, until they would need more words than there are."""
    nets, core = star(0.01)
    mesh = replace(SMALL, cores_per_chip=2)
    free = words(nets, core, onto_chips(nets, core, replace(mesh, destinations=4)))
    assert free[0] == 4
    tight = words(nets, core, onto_chips(nets, core, replace(mesh, destinations=2)))
    assert max(tight) == 2


def test_the_host_takes_a_word_of_the_neurons_that_it_reads() -> None:
    nets, _ = star(1.0)
    nets = replace(nets, read=np.arange(12) == 3, inputs={"x": (2,)}, spikes=np.ones(14))
    allowed = allowed_words(nets, Mesh())
    assert allowed.tolist() == [4, 4, 4, 3, *[4] * 8, UNLIMITED, UNLIMITED]
