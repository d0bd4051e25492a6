"""Where the biases of a placed layer are on the chip, and what they take of it.

A chip with shared currents has one direct current a core, which every neuron switches on or off. A bias can also be a
synapse of a tonic channel (pass limit-biases): a CAM word, in weight steps of a size that the core chooses. Anything
else is a free analog bias for every neuron, which is simulated, but which no such chip has.
"""

from __future__ import annotations

import numpy as np

from snnc.ir import Array, roles

from .place import Layer, tonic
from .unchain import spread


def direct_currents(layer: Layer) -> Array:
    """The current that flows into every neuron at every step, in its weight steps; tonic synapses are none."""
    total = np.zeros(layer.neuron.type.shape)
    for node in layer.synapses:
        name = roles(node, layer.graph.params).get("bias")
        if name is not None and not tonic(layer.graph, name):
            bias = spread(layer.graph.params[name], node.type.shape) / layer.units(node)
            np.add.at(total.reshape(-1), layer.where[node.name], bias)
    return total


def tonic_words(layer: Layer, repeated: bool) -> Array:
    """The CAM words that every neuron has for tonic channels: one, or as many as their levels (`repeated`)."""
    total = np.zeros(layer.neuron.type.shape)
    for node in layer.synapses:
        name = roles(node, layer.graph.params).get("bias")
        if name is not None and tonic(layer.graph, name):
            levels = np.abs(np.rint(layer.graph.params[name] / np.asarray(layer.graph.constraints[name].scale)))
            count = spread(levels if repeated else np.ones_like(levels), node.type.shape)
            np.add.at(total.reshape(-1), layer.where[node.name], count)
    return total
