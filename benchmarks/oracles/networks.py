r"""Networks of integers, drawn at the edges of what a chip holds, and what fires in them, computed by plain loops.

Nothing here knows snnc: every synapse node becomes a dense matrix, position by position, and every step is

    U[t] = alpha (U[t-1] - ...) + W s[t] + b,   S[t] = U[t] >= theta,   the resets of LTL eq. 1, SLTT eq. 3, and to zero

in float64. Drawn are: layers (dense, conv with strides, pads, dilations and groups, average pools, residual sums with a
convolution, a pool or a plain connection), the input (a constant current, or events), 2 to 8 bits with weights at the
top level, at both ends, or anywhere, a power of two as the step of each channel, thresholds of one step, of about the
charge of a step, of all that can arrive, and the largest that is exact, T from 1 to 64, IF and leaky neurons, all
resets.

Potentials of leaky neurons are no integers: networks where one comes too close to a threshold for float32 to tell are
drawn again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

EXACT = 2**20
"""Potentials in weight steps that every executor, and the chip, adds exactly."""
NEAR = 1e-5
"""Leaky potentials closer to the threshold than this, relative to the largest, may fire or not by rounding."""
ATTEMPTS = 1000
STEPS = (1, 2, 3, 4, 7, 8, 16, 31, 32, 63, 64)
RESETS = ("subtract", "subtract-decayed", "zero")


@dataclass(frozen=True)
class Synapses:
    """One synapse node: `kind` dense, conv, pool or plain, from the layer number `source` (-1: the input).

    Attributes:
        weight: integers; dense [O, I], conv [O, I/group, kh, kw]; one factor for `plain`, nothing for `pool`.
        window: strides, pads (top, left, bottom, right), dilations, group.
    """

    kind: str
    source: int
    weight: Array = field(default_factory=lambda: np.zeros(0))
    window: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int] = ((1, 1), (0, 0, 0, 0), (1, 1), 1)


@dataclass(frozen=True)
class Layer:
    """Neurons and their synapses; weights, bias, theta and u0 are in steps, `step` [C] is the step of every channel."""

    shape: tuple[int, ...]
    synapses: tuple[Synapses, ...]
    bias: Array
    theta: Array
    u0: Array
    alpha: float
    reset: str
    step: Array

    def wide(self, param: Array) -> Array:
        """A value for each channel as one for each neuron, flat."""
        return np.repeat(param, math.prod(self.shape[1:]))


@dataclass(frozen=True)
class Net:
    """A network and one or more samples: x [N, ...] is the charge of a step, or events [N, T, ...] if `events`."""

    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    steps: int
    bits: int
    x: Array
    events: bool

    def shape_of(self, source: int) -> tuple[int, ...]:
        """The shape of a layer, or of the input."""
        return self.shape if source < 0 else self.layers[source].shape


def matrix(net: Net, layer: Layer, synapses: Synapses) -> Array:
    """[neurons, inputs]: the weight of every connection, in steps."""
    shape = net.shape_of(synapses.source)
    made = np.zeros((math.prod(layer.shape), math.prod(shape)))
    if synapses.kind == "dense":
        return made + synapses.weight
    if synapses.kind == "plain":
        return made + np.eye(len(made)) * float(synapses.weight)
    number = np.arange(math.prod(shape)).reshape(shape)
    (down, right), (top, left, *_), (tall, broad), group = synapses.window
    out, high, wide = layer.shape
    pool = synapses.kind == "pool"
    weight = np.full((out, 1, 2, 2), 0.25) if pool else synapses.weight
    first = np.arange(out) if pool else np.arange(out) // (out // group) * weight.shape[1]
    for o in range(out):
        for i in range(high):
            for j in range(wide):
                for c, a, b in np.ndindex(weight.shape[1:]):
                    y, x = i * down + a * tall - top, j * right + b * broad - left
                    if 0 <= y < shape[1] and 0 <= x < shape[2]:
                        made[(o * high + i) * wide + j, number[first[o] + c, y, x]] += weight[o, c, a, b]
    if pool:
        made /= layer.wide(layer.step)[:, None]  # a pool's share is a fact of the graph, not a number of steps
    return made


def simulate(net: Net) -> tuple[list[Array], float]:
    """Spikes of every layer [T, N, neurons], and the least distance of a leaky potential from its threshold."""
    weights = [[matrix(net, layer, s) for s in layer.synapses] for layer in net.layers]
    flat = net.x.reshape(len(net.x), *([net.steps] if net.events else []), -1).astype(float)
    spikes = [np.zeros((net.steps, len(net.x), math.prod(layer.shape))) for layer in net.layers]
    u = [np.broadcast_to(layer.wide(layer.u0), spikes[i][0].shape) for i, layer in enumerate(net.layers)]
    closest = np.inf
    for t in range(net.steps):
        for i, layer in enumerate(net.layers):
            theta, alpha = layer.wide(layer.theta), layer.alpha
            last = spikes[i][t - 1] if t else np.zeros_like(u[i])
            current = layer.wide(layer.bias)
            for synapses, weight in zip(layer.synapses, weights[i], strict=True):
                source = (flat[:, t] if net.events else flat) if synapses.source < 0 else spikes[synapses.source][t]
                current = current + source @ weight.T
            if layer.reset == "subtract":
                u[i] = alpha * u[i] - theta * last + current
            elif layer.reset == "subtract-decayed":
                u[i] = alpha * (u[i] - theta * last) + current
            else:
                u[i] = np.where(last > 0, 0, alpha * u[i]) + current
            spikes[i][t] = u[i] >= theta
            if alpha < 1:
                closest = min(closest, float((np.abs(u[i] - theta) / np.maximum(np.abs(u[i]), theta)).min()))
    return spikes, closest


def draw(number: int) -> Net:
    """Network number `number`: always the same one."""
    for attempt in range(ATTEMPTS):
        try:
            net = _draw(np.random.default_rng([number, attempt]))
        except OverflowError:
            continue
        if simulate(net)[1] > NEAR:
            return net
    raise ValueError(f"no network {number} is exact and keeps its distance from the thresholds")


def _draw(rng: np.random.Generator) -> Net:
    image, steps, bits = bool(rng.random() < 0.7), int(rng.choice(STEPS)), int(rng.integers(2, 9))
    events = bool(rng.random() < 0.3)
    shape = (int(rng.integers(1, 4)), *rng.integers(4, 7, 2).tolist()) if image else (int(rng.integers(2, 9)),)
    most = 1 if events else 4
    x = rng.integers(-most, most + 1, (2, *([steps] if events else []), *shape))
    net = Net(shape, (), steps, bits, x, events)
    for depth in range(int(rng.integers(1, 5))):
        layer = _layer(rng, net, depth, most)
        net = Net(shape, (*net.layers, layer), steps, bits, x, events)
    return net


def _layer(rng: np.random.Generator, net: Net, depth: int, most: int) -> Layer:
    """One more layer."""
    before = net.shape_of(depth - 1)
    kind = "dense" if len(before) == 1 or min(before[1:]) < 2 or rng.random() < 0.2 else "conv"
    if kind == "conv" and depth and rng.random() < 0.2:
        kind = "pool"
    if kind == "pool":
        shape = (before[0], before[1] // 2, before[2] // 2)
        synapses: tuple[Synapses, ...] = (Synapses("pool", depth - 1, window=((2, 2), (0, 0, 0, 0), (1, 1), 1)),)
    elif kind == "dense":
        shape = (int(rng.integers(1, 9)),)
        synapses = (Synapses("dense", depth - 1, _levels(rng, (shape[0], math.prod(before)), net.bits)),)
    else:
        shape, synapses = _conv(rng, net, depth)
    step = np.ones(shape[0]) if kind == "pool" else 2.0 ** rng.integers(-6, 3, shape[0])
    if kind != "pool":
        synapses += _residual(rng, net, depth, shape, synapses[0])
    bias = np.zeros(shape[0]) if kind == "pool" or rng.random() < 0.3 else rng.integers(-3, 4, shape[0]).astype(float)
    leaky = rng.random() < 0.3
    alpha = float(np.float32(rng.choice([0.5, 0.875, 0.9, 0.99]))) if leaky else 1.0
    reset = str(rng.choice(RESETS))
    bare = Layer(shape, synapses, bias, np.ones(shape[0]), np.zeros(shape[0]), alpha, reset, step)
    theta = _thresholds(rng, net, bare, most)
    u0 = np.floor(theta / 2) if rng.random() < 0.5 else np.zeros(shape[0])
    return Layer(shape, synapses, bias, theta, u0, alpha, reset, step)


def _conv(rng: np.random.Generator, net: Net, depth: int) -> tuple[tuple[int, ...], tuple[Synapses, ...]]:
    """A convolution of 1 x 1 to 3 x 3 that leaves an image."""
    inner, high, wide = net.shape_of(depth - 1)
    group = inner if rng.random() < 0.2 else 1
    out = group * int(rng.integers(1, 4)) if group > 1 else int(rng.integers(1, 5))
    kernel = rng.integers(1, 4, 2)
    strides, dilations = rng.integers(1, 3, 2), rng.integers(1, 3, 2)
    pads = rng.integers(0, 2, 4)
    size = [
        (n + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, n in enumerate((high, wide))
    ]
    if min(size) < 1:
        kernel, strides, dilations, pads = np.ones(2, int), np.ones(2, int), np.ones(2, int), np.zeros(4, int)
        size = [high, wide]
    window = (tuple(strides.tolist()), tuple(pads.tolist()), tuple(dilations.tolist()), group)
    weight = _levels(rng, (out, inner // group, *kernel.tolist()), net.bits)
    return (out, *map(int, size)), (Synapses("conv", depth - 1, weight, window),)


def _residual(
    rng: np.random.Generator, net: Net, depth: int, shape: tuple[int, ...], main: Synapses
) -> tuple[Synapses, ...]:
    """Sometimes a second way into the same neurons, from a layer further back."""
    if not depth or rng.random() < 0.5:
        return ()
    source = int(rng.integers(0, depth))
    before = net.shape_of(source)
    if before == shape:
        return (Synapses("plain", source, np.array(float(rng.integers(1, 5)))),)
    if len(shape) == 3 and len(before) == 3 and before[0] == shape[0]:
        if (before[1] // 2, before[2] // 2) == shape[1:]:
            return (Synapses("pool", source, window=((2, 2), (0, 0, 0, 0), (1, 1), 1)),)
        return ()
    if len(shape) == 1:
        return (Synapses("dense", source, _levels(rng, (shape[0], math.prod(before)), net.bits)),)
    return ()


def _levels(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Array:
    """Integers of so many bits: all at the top, at both ends, or anywhere; few or many of them 0."""
    top = 2 ** (bits - 1) - 1
    how = rng.integers(0, 3)
    if how == 0:
        made = np.full(shape, top)
    elif how == 1:
        made = rng.choice([-top, top], shape)
    else:
        made = rng.integers(-top, top + 1, shape)
    return np.asarray(made * (rng.random(shape) < rng.choice([1.0, 0.5])), float)


def _thresholds(rng: np.random.Generator, net: Net, layer: Layer, most: int) -> Array:
    """A threshold for every channel: one step, about a step's charge, all charge, or the largest that is exact."""
    reach = np.zeros(math.prod(layer.shape))
    for synapses in layer.synapses:
        reach += np.abs(matrix(net, layer, synapses)).sum(axis=1) * (most if synapses.source < 0 else 1)
    charge = np.ceil((reach + np.abs(layer.wide(layer.bias))).reshape(len(layer.step), -1).max(axis=1))
    pool = layer.synapses[0].kind == "pool"  # its neurons count in quarters
    room = EXACT // (8 if pool else 2) - charge * net.steps - 1
    if (room < 1).any():
        raise OverflowError("potentials beyond what is exact")
    choices = np.stack([np.ones_like(charge), np.maximum(charge // 3, 1), charge * net.steps + 1, room])
    one = rng.random() < 0.5
    pick = np.full(len(charge), rng.integers(0, 4)) if one else rng.integers(0, 4, len(charge))
    return np.asarray(np.minimum(choices[pick, np.arange(len(charge))], room), float)
