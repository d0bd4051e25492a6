"""What fires in a network, by Brian2 (`pip install "snnc[brian2]"`), an oracle that shares no code with snnc.

Brian2 updates the state, tests the threshold, then lets resets and synapses act, so that a weight and a reset that land
after the test are decayed by alpha at the next step; scaled by 1/alpha they make exactly the equations of `networks`:

    dv/dt = (-v + I0) / tau,   I0 = b / (1 - alpha),   on_pre: v += w / alpha
    reset: v -= theta / alpha (subtract), v -= theta (subtract-decayed), v = 0 (zero)

(alpha = 1: dv/dt = I0 / tau with tau = dt). A layer sees the spikes of the layer before one step later; its bias and
its start potential are switched on as many steps late, and connections that skip layers are delayed by as many steps.
Integers are not exactly integers here: the threshold of IF neurons is 1/16 of a step lower.
"""

from __future__ import annotations

from typing import Any

import brian2 as b2
import numpy as np

from benchmarks.oracles.networks import Array, Layer, Net, matrix

SLACK = 1 / 16


def spikes(net: Net, sample: int = 0) -> list[Array]:
    """Spikes of every layer [T, neurons] of one sample."""
    b2.start_scope()
    b2.prefs.codegen.target = "numpy"
    dt, first = b2.defaultclock.dt, int(net.events)
    groups = [_group(layer, dt) for layer in net.layers]
    sources: dict[int, Any] = dict(enumerate(groups))
    x = net.x[sample].reshape(net.steps if net.events else 1, -1)
    if net.events:
        sources[-1] = _generator(x, dt)
    parts = []
    for i, layer in enumerate(net.layers):
        for one in layer.synapses:
            if one.source in sources:
                parts += _synapses(sources[one.source], groups[i], matrix(net, layer, one), layer, i - one.source - 1)
    if net.events:
        parts += _negative(net, x, groups, dt)
    monitors = [b2.SpikeMonitor(group) for group in groups]
    network = b2.Network(*sources.values(), *parts, *monitors)
    network.schedule = ["start", "groups", "thresholds", "resets", "synapses", "end"]
    network.run(first * dt)
    for layer, group in zip(net.layers, groups, strict=True):
        drive = layer.wide(layer.bias)
        for one in layer.synapses:
            if one.source < 0 and not net.events:
                drive = drive + matrix(net, layer, one) @ x[0]
        group.v = np.asarray(group.v) + layer.wide(layer.u0)
        group.I0 = drive / (1 - layer.alpha if layer.alpha < 1 else 1)
        network.run(dt)
    network.run((net.steps - 1) * dt)
    made = []
    for late, (monitor, layer) in enumerate(zip(monitors, net.layers, strict=True), first):
        train = np.zeros((net.steps + len(groups) + first, int(np.prod(layer.shape))))
        train[np.rint(monitor.t / dt).astype(int), np.asarray(monitor.i)] = 1
        made.append(train[late : late + net.steps])
    return made


def _group(layer: Layer, dt: Any) -> Any:
    """The neurons of a layer, in steps, silent until they are switched on."""
    leaky = layer.alpha < 1
    drift = f"dv/dt = {'(I0 - v) / tau' if leaky else 'I0 / tau'} : 1\nI0 : 1\ntheta : 1\nleast : 1"
    reset = {"subtract": "v -= theta / alpha", "subtract-decayed": "v -= theta", "zero": "v = 0"}[layer.reset]
    group = b2.NeuronGroup(
        int(np.prod(layer.shape)),
        drift,
        threshold="v >= least",
        reset=reset,
        method="exact" if leaky else "euler",
        namespace={"tau": -dt / np.log(layer.alpha) if leaky else dt, "alpha": layer.alpha},
    )
    group.theta = layer.wide(layer.theta)
    group.least = layer.wide(layer.theta) - (0 if leaky else SLACK)
    return group


def _synapses(source: Any, group: Any, weight: Array, layer: Layer, skipped: int, sign: int = 1) -> list[Any]:
    """The connections of a matrix that are not 0, `skipped` steps slower."""
    post, pre = np.nonzero(weight)
    if not len(post):
        return []
    made = b2.Synapses(source, group, "w : 1", on_pre="v += w / alpha", namespace={"alpha": layer.alpha})
    made.connect(i=pre, j=post)
    made.w = sign * weight[post, pre]
    made.delay = skipped * b2.defaultclock.dt
    return [made]


def _generator(x: Array, dt: Any) -> Any:
    at, index = np.nonzero(x > 0)
    return b2.SpikeGeneratorGroup(x.shape[1], index, at * dt)


def _negative(net: Net, x: Array, groups: list[Any], dt: Any) -> list[Any]:
    """Events of the value -1, from a generator of their own."""
    source = _generator(-x, dt)
    made = [source]
    for i, layer in enumerate(net.layers):
        for one in layer.synapses:
            if one.source < 0:
                made += _synapses(source, groups[i], matrix(net, layer, one), layer, i, -1)
    return made
