"""What a mapping costs per inference, and which walls it breaks: events first, joules are for others to work out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from snnc.errors import TargetError
from snnc.ir import Array

from .chips import allowed_words
from .mapping import Mapping, between_chips
from .netlist import Netlist

HOT = 4
"""Cores that a report names as hot spots."""


@dataclass(frozen=True, eq=False)
class Core:
    """One core: its neurons, the CAM words that they use, the different tags that it listens to, and per sample the
    spikes that arrive, the CAM words that these match, and the spikes that its neurons send."""

    core: int
    chip: int
    neurons: int
    cam_words: int
    tags: int
    spikes_in: float
    matches: float
    spikes_out: float


@dataclass(frozen=True, eq=False)
class Traffic:
    """Events per sample, from the expected spikes of the netlist.

    Attributes:
        cores: every core.
        chips, virtual: chips that it takes, and how many of these do not exist.
        spikes: of neurons.
        input_events: events of inputs; 0 for an input that comes as a current.
        broadcasts: spikes and events times the cores that each is sent to.
        hops: spikes of neurons times the chips that each passes on its way.
        matches: CAM words that are matched.
        words: destination words of the neuron that needs most.
    """

    cores: tuple[Core, ...]
    chips: int
    virtual: int
    spikes: float
    input_events: float
    broadcasts: float
    hops: float
    matches: float
    words: int

    def hot(self) -> tuple[Core, ...]:
        """The cores at which most spikes arrive."""
        return tuple(sorted(self.cores, key=lambda core: -core.spikes_in)[:HOT])

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        made = [
            f"layout: {sum(core.neurons for core in self.cores):,} neurons on {len(self.cores)} cores of {self.chips} "
            f"{'virtual ' if self.virtual else ''}chip{'s' if self.chips > 1 else ''}",
            f"per inference: {self.spikes:,.0f} spikes, {self.input_events:,.0f} input events, {self.broadcasts:,.0f} "
            f"core broadcasts, {self.hops:,.0f} hops between chips, {self.matches:,.0f} CAM matches",
        ]
        mean = sum(core.spikes_in for core in self.cores) / len(self.cores)
        if mean > 0:
            hot = ", ".join(f"core {core.core} {core.spikes_in / mean:.1f}" for core in self.hot())
            made.append(f"spikes that arrive, of the mean over cores: {hot}")
        return made


def traffic(nets: Netlist, mapping: Mapping) -> Traffic:
    """What one sample costs on average."""
    core, words, cores = mapping.cores, mapping.words, len(mapping.chip)
    source = np.repeat(words.source, np.diff(words.start))
    matched = nets.spikes[nets.source] * nets.words
    by_core = {
        "neurons": np.bincount(core, minlength=cores),
        "cam_words": np.bincount(core[nets.target], nets.words, cores).astype(np.int64),
        "tags": np.bincount(words.core, minlength=cores),
        "spikes_in": np.bincount(words.core, nets.spikes[source], cores),
        "matches": np.bincount(core[nets.target], matched, cores),
        "spikes_out": np.bincount(core, nets.spikes[: nets.neurons], cores),
    }
    table = [
        Core(i, int(mapping.chip[i]), **{name: values[i].item() for name, values in by_core.items()})
        for i in range(cores)
    ]
    apart = np.abs(mapping.xy[:, None] - mapping.xy).sum(axis=2)
    return Traffic(
        cores=tuple(table),
        chips=mapping.chips,
        virtual=max(mapping.chips - mapping.mesh.chips, 0),
        spikes=float(nets.spikes[: nets.neurons].sum()),
        input_events=float(nets.spikes[nets.neurons :].sum()),
        broadcasts=float(by_core["spikes_in"].sum()),
        hops=float((between_chips(nets, core, mapping.chip, words) * apart).sum()),
        matches=float(by_core["matches"].sum()),
        words=int(np.bincount(words.source[words.source < nets.neurons], minlength=1).max()),
    )


def violations(nets: Netlist, mapping: Mapping) -> list[TargetError]:
    """All walls that a mapping breaks: one problem for every wall and layer, with the worst neuron and its excess.

    Broken are: neurons of a core, CAM words and destination words of a neuron, tags of a core, hops of a spike. More
    chips than there are is none: they are virtual.
    """
    mesh, words = mapping.mesh, mapping.words
    count = np.bincount(mapping.cores)
    found = [
        TargetError(f"core {i} holds {count[i]} neurons, {count[i] - mesh.neurons_per_core} too many")
        for i in np.flatnonzero(count > mesh.neurons_per_core)
    ]
    cam = np.bincount(nets.target, nets.words, nets.neurons)
    found += _worst(nets, cam, np.full(nets.neurons, mesh.fan_in), lambda n: f"{n} CAM words", "limit-fan-in")
    sent = np.bincount(words.source, minlength=len(nets.spikes))
    hint = "a smaller network, or fewer neurons that listen to it"
    found += _worst(nets, sent, allowed_words(nets, mesh), lambda n: f"{n} destination words", hint)
    highest = np.zeros(len(nets.spikes), np.int64)
    np.maximum.at(highest, words.source, words.tag + 1)
    limit = np.full(len(highest), mesh.tags)
    found += _worst(nets, highest, limit, lambda n: f"tag number {n} in one of its cores", "fewer sources")
    inside = words.source < nets.neurons
    hops = np.zeros(nets.neurons, np.int64)
    own = mapping.xy[mapping.chip[mapping.cores[words.source[inside]]]]
    np.maximum.at(hops, words.source[inside], np.abs(mapping.xy[words.chip[inside]] - own).max(axis=1))
    limit = np.full(nets.neurons, mesh.hop_range)
    found += _worst(nets, hops, limit, lambda n: f"{n} hops in one direction", "a smaller network")
    return found


def _worst(nets: Netlist, value: Array, allowed: Array, what: Callable[[int], str], hint: str) -> list[TargetError]:
    """One problem for every layer with neurons beyond what is allowed."""
    over = np.flatnonzero(value > allowed)
    found = []
    for name in dict.fromkeys(nets.place_of(int(source))[0] for source in over):
        layer = name in nets.layers
        size = math.prod(nets.layers[name] if layer else nets.inputs[name])
        mine = over[(over >= nets.first[name]) & (over < nets.first[name] + size)]
        worst = int(mine[np.argmax((value - allowed)[mine])])
        excess = int(value[worst] - allowed[worst])
        count = f"{len(mine)} {'neurons' if layer else 'values'} of {name}, the worst: " if len(mine) > 1 else ""
        why = f"{count}{nets.label(worst)} needs {what(int(value[worst]))}, {excess} too many"
        found.append(TargetError(why, at=nets.at[name], hint=hint))
    return found
