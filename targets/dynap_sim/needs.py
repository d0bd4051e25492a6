r"""What neurons need of their core, which has one of it: threshold, leak, start, base currents, gain, direct current.

    thresholds         in weight steps of the neuron; start potentials in its thresholds
    weights            sums of the core's base currents I_k
    tonic synapses     sums of g I_k: the same masks, with a gain g of a synapse type of their own
    switched biases    a direct current, on or off

A core must be given the currents of its weights, and of its tonic synapses those that the best g makes none of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from snnc.ir import LAYERS, Array, Constraint, Node, roles
from snnc.ir.graph import nearest

from .biases import switched_currents, tonic_steps, tonics
from .levels import currents
from .place import Layer
from .unchain import spread

SAME = 1e-5
"""Relative differences below this are roundings of float32."""


def thresholds(layer: Layer) -> Array:
    """Of every neuron, in its weight steps."""
    return np.asarray(_own(layer, "theta") / layer.unit)


def starts(layer: Layer) -> Array:
    """The start potential of every neuron, in its thresholds."""
    return np.asarray(_own(layer, "u0") / _own(layer, "theta"))


def leaks(layer: Layer) -> Array:
    """What every neuron keeps of its potential in a step."""
    return _own(layer, "alpha")


def base_currents(layer: Layer, core: Array, masks: bool) -> tuple[Array, Array]:
    """The core of every synapse of a layer, and a current that it is a sum of, in its neuron's weight steps: [n] each.

    Integers of b bits, one of them the sign, are sums of b - 1 currents (masks), or one current many times; base
    currents are themselves; a pool is one, and so is the weight of a scale that is no such sum.
    """
    cores, sizes = [], []
    for node in layer.synapses:
        shape = node.type.shape
        size = (layer.own_unit(node, shape) / layer.units(node))[..., None]
        if node.op in LAYERS and (masks or layer.levels(node).levels is not None):
            size = size * _currents(layer.levels(node), shape)
        elif (limit := _sums(layer, node)) is not None:
            step = spread(np.asarray(limit.scale), shape) / layer.units(node)
            size = step[..., None] * _currents(limit, shape)
        cores.append(np.repeat(core.reshape(-1)[layer.where[node.name]].reshape(-1), size.shape[-1]))
        sizes.append(size.reshape(-1))
    return np.concatenate(cores), np.concatenate(sizes)


def tonic_currents(layer: Layer, core: Array, masks: bool) -> tuple[Array, Array]:
    """The core of every tonic synapse of a layer, and a current that its levels are sums of, in its own steps."""
    cores, sizes = [np.zeros(0, core.dtype)], [np.zeros(0)]
    for node, name in tonics(layer):
        shape, limit = node.type.shape, layer.graph.constraints[name]
        own = _currents(limit, shape) if masks or limit.levels is not None else np.ones(1)
        sizes.append(np.broadcast_to(own, (*shape, own.shape[-1])).reshape(-1))
        cores.append(np.repeat(core.reshape(-1)[layer.where[node.name]].reshape(-1), own.shape[-1]))
    return np.concatenate(cores), np.concatenate(sizes)


def fewest(sizes: Array, tonic: Array) -> int:
    """How many currents a core must be given; see above.

    Args:
        sizes, tonic: currents of weights and of tonic synapses, ascending and all different.
    """
    if not tonic.size:
        return len(sizes)
    wanted = np.divide.outer(sizes, tonic).reshape(-1, 1) * tonic
    new = np.abs(nearest(wanted, sizes) - wanted) > SAME * sizes.max()
    return len(sizes) + int(new.sum(axis=1).min())


def alike(layers: Sequence[Layer], masks: bool) -> list[Array]:
    """Numbers, by layer in its shape: the same for neurons that need the same of a core; in the order of thresholds."""
    parts, neurons = [], 0
    for layer in layers:
        size = math.prod(layer.neuron.type.shape)
        parts.append((layer, neurons + np.arange(size).reshape(layer.neuron.type.shape)))
        neurons += size
    needs = (
        *(
            joined((number.reshape(-1), of(layer).reshape(-1)) for layer, number in parts)
            for of in (thresholds, leaks, starts)
        ),
        joined(base_currents(*part, masks) for part in parts),
        joined(tonic_currents(*part, masks) for part in parts),
        joined(tonic_steps(*part) for part in parts),
        joined(switched_currents(*part) for part in parts),
    )
    numbers = [_numbered(value) for _, value in needs]
    first = np.cumsum([0, *(1 + number.max(initial=-1) for number in numbers)])
    most = int(first[-1])
    kinds = zip(needs, numbers, first, strict=False)
    pairs = np.unique(np.concatenate([where * most + start + number for (where, _), number, start in kinds]))
    each = np.split(pairs % most, np.searchsorted(pairs, np.arange(1, neurons) * most))
    keys = [tuple(own.tolist()) for own in each]
    rank = {key: i for i, key in enumerate(sorted(set(keys)))}
    found = np.array([rank[key] for key in keys])
    return [found[number] for _, number in parts]


def joined(parts: Iterable[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The cores of all parts, and what is there."""
    cores, values = zip(*parts, strict=True)
    return np.concatenate(cores), np.concatenate(values)


def different(values: Array) -> int:
    """How many values differ by more than rounding."""
    return len(distinct(values))


def distinct(values: Array) -> Array:
    """One of all values that differ by rounding only, ascending."""
    ordered = np.unique(values)
    return np.asarray(ordered[np.diff(ordered, prepend=-np.inf) > SAME * np.abs(ordered).max(initial=0)])


def _numbered(values: Array) -> Array:
    """Numbers of values, the same for those that differ by rounding only."""
    ordered, at = np.unique(values, return_inverse=True)
    return np.asarray(np.cumsum(np.diff(ordered, prepend=-np.inf) > SAME * np.abs(ordered))[at] - 1)


def _own(layer: Layer, role: str) -> Array:
    """A param of the neurons, one value each."""
    given = layer.graph.params[roles(layer.neuron, layer.graph.params)[role]]
    return np.asarray(spread(given, layer.neuron.type.shape), np.float64)


def _sums(layer: Layer, node: Node) -> Constraint | None:
    """What the weight of a scale obeys, where that is sums of base currents."""
    if node.op != "scale":
        return None
    limit = layer.graph.constraints.get(roles(node, layer.graph.params)["factor"])
    return limit if limit is not None and limit.levels is not None and limit.scale is not None else None


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
