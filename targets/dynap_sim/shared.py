"""What the neurons of a core must have in common, and how far a network is from it, layer by layer.

Thresholds are counted in weight steps of the neuron, start potentials in thresholds, as the chip holds them: dividing
a neuron's weights, bias, start potential and threshold by one number changes none of its spikes, so that only their
ratios are facts about the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from snnc.ir import LAYERS, Array, attr_ints, roles
from snnc.sim.cost import connected
from snnc.target import Finding

from .biases import direct_currents, tonic_steps, tonic_words
from .levels import in_levels
from .needs import base_currents, different, distinct, fewest, joined, leaks, starts, thresholds, tonic_currents
from .place import Layer
from .profile import Profile
from .unchain import spread

THRESHOLDS, LEAKS, STARTS = "thresholds per core", "leaks per core", "start potentials per core"
BASES, DIRECT, TONIC = "base currents per core", "direct currents per core", "tonic steps per core"
BINDS: Mapping[str, tuple[str, ...]] = {
    "threshold": (THRESHOLDS, STARTS),
    "tau_mem": (LEAKS,),
    "base_weights": (BASES,),
    "dc": (DIRECT,),
    "gain": (TONIC,),
}
"""The limits that follow from what a core shares."""
REMEDY = {
    THRESHOLDS: "quantize-weights{per=core}, share-thresholds",
    LEAKS: "share-thresholds",
    STARTS: "share-thresholds",
    BASES: "quantize-weights{per=core}, fewer bits",
    DIRECT: "limit-biases",
    TONIC: "limit-biases{method=tonic}",
}
Parts: TypeAlias = Sequence[tuple[Layer, Array]]
"""Layers, each with the core of every neuron in its shape."""


def limits(profile: Profile) -> dict[str, float]:
    """How many different values a core has room for, by limit; only what the chip shares."""
    bases = profile.weight_bits if profile.weight_coding == "masks" else 1
    room = {THRESHOLDS: 1, LEAKS: 1, STARTS: 1, BASES: bases, DIRECT: 1, TONIC: 1}
    return {name: room[name] for shared in profile.shared_per_core for name in BINDS.get(shared, ())}


def sources(profile: Profile) -> dict[str, str]:
    """Where these limits come from."""
    found = {name: profile.source("shared_per_core") for name in limits(profile)}
    if BASES in found:
        found[BASES] = profile.source("weight_bits")
    return found


def findings(parts: Parts, profile: Profile, wall: bool, at: str = "") -> list[Finding]:
    """How layers stand to what their cores share.

    Args:
        wall: whether more than there is room for is refused.
        at: the layer, where it is one.
    """
    room, said = limits(profile), sources(profile)
    found = []
    for name in room:
        most, note = _measured(name, parts, profile)
        over = f"{note}; try {REMEDY[name]}" if most > room[name] else ""
        found.append(Finding(name, most, room[name], at, wall, over, said[name]))
    return found


def words(layer: Layer, repeated: bool) -> int:
    """The most CAM words that one neuron of a layer needs, tonic synapses among them.

    Args:
        repeated: a weight of k steps is k words; else every connection is one, even where its weight is 0 for now.
    """
    total = tonic_words(layer, repeated)
    for node in layer.synapses:
        shape = node.type.shape
        if node.op in LAYERS:
            weight = layer.graph.params[roles(node, layer.graph.params)["weight"]]
            levels = np.abs(in_levels(weight, layer.levels(node)))
            rows = shape if node.op == "local" else shape[:1]
            count = (levels if repeated else connected(layer.graph, node)).reshape(*rows, -1).sum(axis=-1)
        else:
            count = np.asarray(math.prod(attr_ints(node, "kernel")) if node.op == "avgpool" else 1)
        np.add.at(total.reshape(-1), layer.where[node.name], spread(count, shape))
    return int(total.max())


def _measured(name: str, parts: Parts, profile: Profile) -> tuple[int, str]:
    """The most different values in a core, and what they are like."""
    if name == BASES:
        most = _bases(parts, profile.weight_coding == "masks")
        return most, "sizes of synapses that are not sums of so many currents"
    if name == TONIC:
        where, steps = joined(tonic_steps(*part) for part in parts)
        most = max((different(steps[where == one]) for one in np.unique(where)), default=0)
        return most, "steps of tonic synapses, whose type has one gain"
    core = np.concatenate([core.reshape(-1) for _, core in parts])
    if name == DIRECT:
        values = np.concatenate([direct_currents(layer).reshape(-1) for layer, _ in parts])
        return _direct(values, core, "dc" in profile.per_neuron_bits)
    of = {THRESHOLDS: thresholds, LEAKS: leaks, STARTS: starts}[name]
    values = np.concatenate([of(layer).reshape(-1) for layer, _ in parts])
    most = max(different(values[core == one]) for one in np.unique(core))
    return most, _spread(values, core)


def _direct(values: Array, core: Array, switched: bool) -> tuple[int, str]:
    """Different direct currents in the core that has most, 0 left out where every neuron can switch its own off.

    One below 0 counts as one too many: no direct current takes charge away.
    """
    below = int((values < 0).sum())
    most = 0
    for one in np.unique(core):
        own = values[core == one]
        most = max(most, different(own[own != 0] if switched else own))
    size = f", root mean square {np.sqrt(np.square(values).mean()):.2g} weight steps"
    return max(most, 2 * (below > 0)), f"free analog biases, {below} of {values.size} neurons below 0{size}"


def _bases(parts: Parts, masks: bool) -> int:
    """Currents that the core with most of them must be given, for all its synapses to be sums of them.

    Those of tonic synapses times the gain of their type that needs the fewest.
    """
    where, sizes = joined(base_currents(*part, masks) for part in parts)
    tonic_at, tonic = joined(tonic_currents(*part, masks) for part in parts)
    return max(fewest(distinct(sizes[where == one]), distinct(tonic[tonic_at == one])) for one in np.unique(where))


def _spread(values: Array, core: Array) -> str:
    """How far values lie apart in the core where they do most, and what one value for each core would be off by."""
    low, high, square = 1.0, 1.0, 0.0
    for one in np.unique(core):
        own = values[core == one]
        mean = float(own.mean()) or 1.0
        low, high = min(low, float(own.min()) / mean), max(high, float(own.max()) / mean)
        square += float(np.square(own / mean - 1).sum())
    return f"{low:.2f} to {high:.2f} of a core's mean, which would be off by {math.sqrt(square / values.size):.0%}"
