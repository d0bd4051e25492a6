"""Tags and routing: random networks are delivered exactly, every planted fault is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnc.targets.dynap_sim.mapping import Mapping, Mesh, Netlist, map_neurons, netlist, violations
from snnc.targets.dynap_sim.mapping.tags import LISTED, Memories, Words, allocate, delivered
from tests.targets.mapping.nets import EVERY, SMALL, netlists, pairs, placed

TINY = Mesh(chips=64, cores_per_chip=3, neurons_per_core=8, destinations=64, monitor_words=0, tag_bits=10, hop_range=9)


def by_hand(mapping: Mapping, held: Memories, mesh: Mesh) -> dict[tuple[int, int], int]:
    """What arrives, word by word and neuron by neuron."""
    core, words, found = mapping.cores, mapping.words, dict[tuple[int, int], int]()
    cam: list[list[tuple[int, int]]] = [[] for _ in core]
    for neuron, tag, count in zip(held.neuron.tolist(), held.tag.tolist(), held.count.tolist(), strict=True):
        cam[neuron].append((tag, count))
    for i, source in enumerate(words.source.tolist()):
        if source < len(core):
            here = mapping.xy[mapping.chip[core[source]]]
            if np.abs(mapping.xy[words.chip[i]] - here).max() > mesh.hop_range:
                continue
        for one in words.core[words.start[i] : words.start[i + 1]]:
            for neuron in np.flatnonzero(core == one).tolist():
                for tag, count in cam[neuron]:
                    if tag % mesh.tags == words.tag[i] % mesh.tags:
                        found[source, neuron] = found.get((source, neuron), 0) + count
    return found


@given(netlists(), st.sampled_from(["greedy", "sequential"]))
def test_random_networks_are_delivered_exactly(nets: Netlist, method: str) -> None:
    mapping = map_neurons(nets, TINY, method)
    assert violations(nets, mapping) == []
    assert mapping.check(nets) == []
    assert by_hand(mapping, mapping.memories(nets), TINY) == pairs(nets)


@pytest.mark.parametrize("net", EVERY)
def test_real_wiring_is_delivered_exactly(net: str) -> None:
    nets = netlist(placed(net))
    mapping = map_neurons(nets, replace(SMALL, destinations=8))
    assert violations(nets, mapping) == []
    assert mapping.check(nets) == []


@settings(max_examples=20)
@given(netlists(), st.integers(0, 2**16), st.sampled_from(["tag", "cam", "lost", "core", "double", "bits", "hops"]))
def test_every_planted_fault_is_seen(nets: Netlist, seed: int, fault: str) -> None:
    """The replay delivers what the one by hand does, and the check complains exactly when that is not the netlist."""
    rng, mapping = np.random.default_rng(seed), map_neurons(nets, TINY)
    held, words, mesh = mapping.memories(nets), mapping.words, TINY
    one, other = rng.integers(0, len(words.tag), 2)
    row = rng.integers(0, len(held.tag))
    if fault == "tag":
        words = replace(words, tag=np.where(np.arange(len(words.tag)) == one, words.tag[other], words.tag))
    elif fault == "cam":
        held = replace(held, tag=np.where(np.arange(len(held.tag)) == row, words.tag[other], held.tag))
    elif fault == "lost":
        held = Memories(*(np.delete(getattr(held, part), row) for part in ("neuron", "tag", "count")))
    elif fault == "double":
        held = Memories(*(np.append(a, a[row]) for a in (held.neuron, held.tag, held.count)))
    elif fault == "core":
        far = np.flatnonzero(mapping.chip == mapping.chip[words.core[words.start[one]]])
        core = words.core.copy()
        core[words.start[one]] = rng.choice(far)
        words = replace(words, core=core)
    elif fault == "bits":
        mesh = replace(mesh, tag_bits=1)
    else:
        mesh = replace(mesh, hop_range=0)
    faulty = replace(mapping, words=words, mesh=mesh)
    arrived, count = delivered(faulty.cores, faulty.chip, faulty.xy, words, held, mesh)
    got = dict(zip(map(tuple, arrived.T.tolist()), count.tolist(), strict=True))
    assert got == by_hand(faulty, held, mesh)
    right = got == pairs(nets)
    assert (faulty.check(nets, held) == []) == right
    if fault in ("lost", "double"):
        assert not right


def test_a_shared_tag_in_a_shared_core_is_named() -> None:
    nets = netlist(placed("plain"))
    mapping = map_neurons(nets, SMALL)
    words = mapping.words
    core = int(words.core[0])
    inside = np.unique(np.repeat(np.arange(len(words.tag)), np.diff(words.start))[words.core == core])
    a, b = inside[:2]
    tag = words.tag.copy()
    tag[b] = tag[a]
    found = replace(mapping, words=replace(words, tag=tag)).check(nets, mapping.memories(nets))
    assert found
    assert any(nets.label(int(words.source[b])) in problem.message for problem in found)
    assert any("CAM words, not" in problem.message for problem in found)
    assert all("(lif)" in problem.at for problem in found[:LISTED])
    assert len(found) <= LISTED + 1


def test_tags_are_given_out_again_where_no_core_is_shared() -> None:
    """Sets of cores {0,1}, {2,3}, {0}, {2}: two tags and no more."""
    core = np.arange(4)
    source, target = np.array([(0, 0), (0, 1), (1, 2), (1, 3), (2, 0), (3, 2)]).T
    start = np.array([0, 2, 4, 5, 6])
    names = {"lif": (4,)}, {}
    nets = Netlist(*names, start, target, np.ones(6, int), np.ones(4), np.zeros(4, bool), {"lif": "lif"})
    words = allocate(nets, core, np.zeros(4, int))
    assert words.tag.tolist() == [0, 0, 1, 1]
    assert source.tolist() == nets.source.tolist()


@settings(max_examples=10)
@given(netlists())
def test_words_that_share_a_core_differ_and_no_core_has_more_tags_than_words(nets: Netlist) -> None:
    mapping = map_neurons(nets, TINY)
    words: Words = mapping.words
    word = np.repeat(np.arange(len(words.tag)), np.diff(words.start))
    key = np.stack([words.core, words.tag[word]])
    assert np.unique(key, axis=1).shape == key.shape, "two words with one tag in a core"
    for chip in range(mapping.chips):
        assert words.tag[words.chip == chip].max(initial=-1) < (words.chip == chip).sum()
