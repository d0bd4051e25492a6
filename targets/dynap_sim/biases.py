"""Where the biases of a placed layer are on the chip, and what they take of it.

A chip with shared currents has one direct current a core, which every neuron switches on or off. A bias can also be a
synapse of a tonic channel (pass limit-biases): a CAM word, its levels times a gain that the core chooses. Anything else
is a free analog bias for every neuron, which is simulated, but which no such chip has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from snnc.ir import Array, Node, roles

from .levels import BIT, in_levels
from .place import Layer, tonic
from .unchain import spread


def direct_currents(layer: Layer) -> Array:
    """The current that flows into every neuron at every step, in its weight steps; tonic synapses are none."""
    total = np.zeros(layer.neuron.type.shape)
    for node, name in _biases(layer):
        if not tonic(layer.graph, name):
            bias = spread(layer.graph.params[name], node.type.shape) / layer.units(node)
            np.add.at(total.reshape(-1), layer.where[node.name], bias)
    return total


def tonic_words(layer: Layer, repeated: bool) -> Array:
    """The CAM words that every neuron has for tonic channels: one, or as many as their levels (`repeated`)."""
    total = np.zeros(layer.neuron.type.shape)
    for node, name in tonics(layer):
        levels = np.abs(in_levels(layer.graph.params[name], layer.graph.constraints[name]))
        count = spread(levels if repeated else np.ones_like(levels), node.type.shape)
        np.add.at(total.reshape(-1), layer.where[node.name], count)
    return total


def tonic_steps(layer: Layer, core: Array) -> tuple[Array, Array]:
    """The core of every tonic synapse of a layer, and its step in its neuron's weight steps: [n] each."""
    return _steps(layer, core, tonics(layer))


def switched_currents(layer: Layer, core: Array) -> tuple[Array, Array]:
    """The core of every bias of a layer that is a bit, on or off, and its current in weight steps: [n] each."""
    limits = layer.graph.constraints
    bits = [(node, name) for node, name in _biases(layer) if name in limits and limits[name].bits == BIT]
    return _steps(layer, core, bits)


def tonics(layer: Layer) -> Iterator[tuple[Node, str]]:
    """The synapse nodes of a layer whose bias is a tonic synapse, and its name."""
    return ((node, name) for node, name in _biases(layer) if tonic(layer.graph, name))


def _biases(layer: Layer) -> Iterator[tuple[Node, str]]:
    """The synapse nodes of a layer that have a bias, and its name."""
    for node in layer.synapses:
        name = roles(node, layer.graph.params).get("bias")
        if name is not None:
            yield node, name


def _steps(layer: Layer, core: Array, biases: Iterable[tuple[Node, str]]) -> tuple[Array, Array]:
    """The core of every neuron with one of these biases, and the step of its levels in weight steps: [n] each."""
    cores, steps = [np.zeros(0, core.dtype)], [np.zeros(0)]
    for node, name in biases:
        scale = np.asarray(layer.graph.constraints[name].scale)
        steps.append((spread(scale, node.type.shape) / layer.units(node)).reshape(-1))
        cores.append(core.reshape(-1)[layer.where[node.name]].reshape(-1))
    return np.concatenate(cores), np.concatenate(steps)
