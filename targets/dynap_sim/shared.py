"""What the neurons of a core must have in common, and how far a network is from it, layer by layer.

Thresholds are counted in weight steps of the neuron, start potentials in thresholds, as the chip holds them: dividing
a neuron's weights, bias, start potential and threshold by one number changes none of its spikes, so that only their
ratios are facts about the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from snnc.ir import LAYERS, Array, Constraint, attr_ints, roles
from snnc.sim.cost import connected
from snnc.target import Finding

from .biases import direct_currents, tonic_words
from .levels import currents, in_levels
from .place import Layer
from .profile import Profile
from .unchain import spread

SAME = 1e-5
"""Relative differences below this are roundings of float32."""
THRESHOLDS, LEAKS, STARTS = "thresholds per core", "leaks per core", "start potentials per core"
BASES, DIRECT = "base currents per core", "direct currents per core"
BINDS: Mapping[str, tuple[str, ...]] = {
    "threshold": (THRESHOLDS, STARTS),
    "tau_mem": (LEAKS,),
    "base_weights": (BASES,),
    "dc": (DIRECT,),
}
"""The limits that follow from what a core shares."""
REMEDY = {
    THRESHOLDS: "quantize-weights{per=core}, share-thresholds",
    LEAKS: "share-thresholds",
    STARTS: "share-thresholds",
    BASES: "quantize-weights{per=core}, fewer bits",
    DIRECT: "limit-biases",
}


def limits(profile: Profile) -> dict[str, float]:
    """How many different values a core has room for, by limit; only what the chip shares."""
    bases = profile.weight_bits if profile.weight_coding == "masks" else 1
    room = {THRESHOLDS: 1, LEAKS: 1, STARTS: 1, BASES: bases, DIRECT: 1}
    return {name: room[name] for shared in profile.shared_per_core for name in BINDS.get(shared, ())}


def sources(profile: Profile) -> dict[str, str]:
    """Where these limits come from."""
    found = {name: profile.source("shared_per_core") for name in limits(profile)}
    if BASES in found:
        found[BASES] = profile.source("weight_bits")
    return found


def findings(layer: Layer, core: Array, profile: Profile, wall: bool) -> list[Finding]:
    """How one layer stands to what its cores share.

    Args:
        core: of every neuron, in the shape of the layer.
        wall: whether more than there is room for is refused.
    """
    room, said = limits(profile), sources(profile)
    found = []
    for name in room:
        most, note = _measured(name, layer, core, profile)
        over = f"{note}; try {REMEDY[name]}" if most > room[name] else ""
        found.append(Finding(name, most, room[name], layer.neuron.name, wall, over, said[name]))
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


def _measured(name: str, layer: Layer, core: Array, profile: Profile) -> tuple[int, str]:
    """The most different values in a core, and what they are like."""
    if name == BASES:
        masks = profile.weight_coding == "masks"
        return _bases(layer, core, masks), "sizes of synapses that are not sums of so many currents"
    if name == DIRECT:
        return _direct(layer, core, "dc" in profile.per_neuron_bits)
    role = {THRESHOLDS: "theta", STARTS: "u0", LEAKS: "alpha"}[name]
    given = layer.graph.params[roles(layer.neuron, layer.graph.params)[role]]
    values = np.asarray(spread(given, core.shape), np.float64)
    if name == THRESHOLDS:
        values /= layer.unit
    elif name == STARTS:
        values /= spread(layer.graph.params[roles(layer.neuron, layer.graph.params)["theta"]], core.shape)
    most = max(_different(values[core == one]) for one in np.unique(core))
    return most, _spread(values, core)


def _direct(layer: Layer, core: Array, switched: bool) -> tuple[int, str]:
    """Different direct currents in the core that has most, 0 left out where every neuron can switch its own off.

    One below 0 counts as one too many: no direct current takes charge away.
    """
    values = direct_currents(layer)
    below = int((values < 0).sum())
    most = 0
    for one in np.unique(core):
        own = values[core == one]
        most = max(most, _different(own[own != 0] if switched else own))
    size = f", root mean square {np.sqrt(np.square(values).mean()):.2g} weight steps"
    return max(most, 2 * (below > 0)), f"free analog biases, {below} of {values.size} neurons below 0{size}"


def base_currents(layer: Layer, core: Array, masks: bool) -> tuple[Array, Array]:
    """The core of every synapse of a layer, and a current that it is a sum of, in its neuron's weight steps: [n] each.

    Integers of b bits, one of them the sign, are sums of b - 1 currents (masks), or one current many times; base
    currents are themselves; a pool, and a weight alone, is one.
    """
    cores, sizes = [], []
    for node in layer.synapses:
        shape = node.type.shape
        size = (layer.own_unit(node, shape) / layer.units(node))[..., None]
        if node.op in LAYERS and (masks or layer.levels(node).levels is not None):
            size = size * _currents(layer.levels(node), shape)
        cores.append(np.repeat(core.reshape(-1)[layer.where[node.name]].reshape(-1), size.shape[-1]))
        sizes.append(size.reshape(-1))
    return np.concatenate(cores), np.concatenate(sizes)


def _bases(layer: Layer, core: Array, masks: bool) -> int:
    """Currents that the core with most of them must be given, for the synapses of this layer to be sums of them."""
    where, sizes = base_currents(layer, core, masks)
    return max(_different(sizes[where == one]) for one in np.unique(where))


def _currents(constraint: Constraint, shape: tuple[int, ...]) -> Array:
    """The currents [..., k] that make the levels of a layer's neurons; `shape` is theirs, each first axis a row."""
    if constraint.levels is None:
        return np.asarray(2.0 ** np.arange(max(1, (constraint.bits or 1) - 1)))
    if constraint.levels.ndim == 1:
        return np.array(currents(constraint.levels))
    rows = [currents(own) for own in constraint.levels]
    most = max(map(len, rows))
    table = np.array([[*own, *[own[-1]] * (most - len(own))] for own in rows])
    return table.reshape(-1, *[1] * (len(shape) - 1), most)


def _different(values: Array) -> int:
    """How many values differ by more than rounding."""
    if not values.size:
        return 0
    ordered = np.unique(values)
    return 1 + int((np.diff(ordered) > SAME * np.abs(ordered).max()).sum())


def _spread(values: Array, core: Array) -> str:
    """How far values lie apart in the core where they do most, and what one value for each core would be off by."""
    low, high, square = 1.0, 1.0, 0.0
    for one in np.unique(core):
        own = values[core == one]
        mean = float(own.mean()) or 1.0
        low, high = min(low, float(own.min()) / mean), max(high, float(own.max()) / mean)
        square += float(np.square(own / mean - 1).sum())
    return f"{low:.2f} to {high:.2f} of a core's mean, which would be off by {math.sqrt(square / values.size):.0%}"
