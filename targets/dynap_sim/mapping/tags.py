r"""Destination words and tags, and the proof that every spike arrives where it should and nowhere else.

A source has one destination word for each chip where somebody listens: the chip, the cores there, a tag. Every neuron
in one of these cores that stores the tag in a CAM word receives the spike. So two words need different tags only if
they share a core: tags are colours, given out again on every chip and in every core. Words for many cores choose first,
as they are the hardest to fit; each takes the lowest tag that is free in all of its cores.

`delivered` knows nothing of that. It replays what routers and CAMs do, spike by spike, and `aliasing` compares what
arrives with the netlist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnc.errors import TargetError
from snnc.ir import Array

from .hypergraph import ranges
from .mesh import Mesh
from .netlist import Netlist

LISTED = 20
"""Connections that a report of wrong deliveries names."""


@dataclass(frozen=True, eq=False)
class Words:
    """Destination words, in the order of their sources.

    Attributes:
        source, chip, tag: [W].
        start: [W + 1], where each word's cores begin in `core`.
        core: [R], cores of that chip.
    """

    source: Array
    chip: Array
    tag: Array
    start: Array
    core: Array


@dataclass(frozen=True, eq=False)
class Memories:
    """What the CAMs hold: `count` words of `tag` in `neuron`; [M] each."""

    neuron: Array
    tag: Array
    count: Array


def allocate(nets: Netlist, core: Array, chip: Array) -> Words:
    """The words of every source, with tags.

    Args:
        core: [N], the core of every neuron.
        chip: [cores], the chip of every core.
    """
    cores, chips = len(chip), int(chip.max()) + 1
    reach = np.unique(nets.source * cores + core[nets.target])
    source, listening = reach // cores, reach % cores
    order = np.lexsort((listening, chip[listening], source))
    source, listening = source[order], listening[order]
    key = source * chips + chip[listening]
    new = np.flatnonzero(np.diff(key, prepend=-1))
    start = np.append(new, len(key))
    tag = np.zeros(len(new), np.int64)
    by_chip: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for word, (a, b) in enumerate(zip(start[:-1].tolist(), start[1:].tolist(), strict=True)):
        cores_of = tuple(listening[a:b].tolist())
        by_chip.setdefault(int(chip[cores_of[0]]), {}).setdefault(cores_of, []).append(word)
    for sets in by_chip.values():
        _colour(sets, tag)
    return Words(source[new], chip[listening[new]], tag, start, listening)


def _colour(sets: dict[tuple[int, ...], list[int]], tag: Array) -> None:
    """The lowest free tags for the words of one chip, by the set of cores that they go to."""
    most = sum(map(len, sets.values()))
    used = {core: np.zeros(most, bool) for cores in sets for core in cores}
    for cores in sorted(sets, key=lambda cores: (-len(cores), cores)):
        free = np.flatnonzero(~np.any([used[core] for core in cores], axis=0))[: len(sets[cores])]
        tag[sets[cores]] = free
        for core in cores:
            used[core][free] = True


def memories(nets: Netlist, core: Array, chip: Array, words: Words) -> Memories:
    """What the neurons' CAMs must hold: for every connection the tag that its source has on the neuron's chip."""
    chips = int(chip.max()) + 1
    place = np.searchsorted(words.source * chips + words.chip, nets.source * chips + chip[core[nets.target]])
    return Memories(nets.target, words.tag[place], nets.words)


def delivered(core: Array, chip: Array, xy: Array, words: Words, held: Memories, mesh: Mesh) -> tuple[Array, Array]:
    """What arrives when every source sends one event: pairs [2, D] (source, neuron), and [D] CAM words that match.

    A word's chip is so many hops away in x and y; a spike that would go beyond the range does not arrive. Tags have
    `tag_bits`: what does not fit is cut off. Sources beyond the neurons come from outside, without hops.
    """
    inside = words.source < len(core)
    from_chip = np.where(inside, chip[core[np.where(inside, words.source, 0)]], words.chip)
    hops = xy[words.chip] - xy[from_chip]
    arrives = (np.abs(hops) <= mesh.hop_range).all(axis=1)
    where = {(int(x), int(y)): number for number, (x, y) in enumerate(xy)}
    there = np.array([where[x, y] for x, y in (xy[from_chip] + hops).tolist()], np.int64)
    length = np.diff(words.start)
    word = np.repeat(np.arange(len(length)), length)
    on = arrives[word] & (chip[words.core] == there[word])
    word, reached = word[on], words.core[on]
    heard = reached * mesh.tags + words.tag[word] % mesh.tags
    stored = core[held.neuron] * mesh.tags + held.tag % mesh.tags
    order = np.argsort(stored, kind="stable")
    first, last = (np.searchsorted(stored[order], heard, side) for side in ("left", "right"))
    match = order[ranges(first, last - first)]
    source = np.repeat(words.source[word], last - first)
    pairs, same = np.unique(source * len(core) + held.neuron[match], return_inverse=True)
    count = np.bincount(same.reshape(-1), held.count[match], len(pairs)).astype(np.int64)
    return np.stack([pairs // len(core), pairs % len(core)]), count


def aliasing(nets: Netlist, arrived: Array, count: Array) -> list[TargetError]:
    """How what arrives differs from the netlist: the first of the connections that are missing, or too many.

    Args:
        arrived, count: as `delivered` gives them.
    """
    wanted = nets.source * nets.neurons + nets.target
    got = arrived[0] * nets.neurons + arrived[1]
    every = np.union1d(wanted, got)
    counts = np.zeros((2, len(every)), np.int64)
    counts[0, np.searchsorted(every, wanted)] = nets.words
    counts[1, np.searchsorted(every, got)] = count
    wrong = np.flatnonzero(counts[0] != counts[1])
    found = []
    for place in wrong[:LISTED]:
        source, neuron = divmod(int(every[place]), nets.neurons)
        want, have = counts[:, place].tolist()
        why = f"{nets.label(source)} reaches {nets.label(neuron)} through {have} CAM words, not {want}"
        found.append(TargetError(why, at=nets.at[nets.place_of(neuron)[0]]))
    if len(wrong) > LISTED:
        found.append(TargetError(f"... and {len(wrong) - LISTED} more connections"))
    return found
