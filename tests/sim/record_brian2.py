"""Record spike trains of small networks with Brian2, an oracle that shares no code with snnc.

    pip install "snnc[brian2]"
    python tests/sim/record_brian2.py

writes `tests/golden/brian2.json`, which `test_brian2.py` replays; needed again only when the networks below change.

Brian2 updates the state, tests the threshold, then lets synapses and resets act, so that a weight and a reset that
land after the test are decayed by alpha at the next step. Scaled by 1/alpha they make exactly U[t] of LTL eq. 1:

    dv/dt = (-v + I0) / tau,   I0 = b / (1 - alpha),   on_pre: v += w / alpha,   reset: v -= theta / alpha

(alpha = 1: dv/dt = b / tau with tau = dt). A layer sees the spikes of the layer before one step later than in snnc;
its bias and its start potential are therefore switched on as many steps late, and layer l is recorded from step l on.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import brian2 as b2
import numpy as np

NETS = 20
STEPS = 32
MARGIN = 1e-3
"""Potentials come no closer to the threshold, so that no rounding decides about a spike."""
PATH = Path(__file__).parents[1] / "golden" / "brian2.json"


def draw(rng: np.random.Generator, alpha: float, layers: int) -> dict[str, Any]:
    """A network: integer weights and inputs, thresholds with three decimals."""
    sizes = [4, *rng.integers(4, 8, layers)]
    return {
        "alpha": alpha,
        "steps": STEPS,
        "x": rng.integers(-16, 64, sizes[0]).tolist(),
        "layers": [
            {
                "weight": rng.integers(-2, 5, (out, given)).tolist(),
                "bias": rng.integers(-1, 2, out).tolist(),
                "theta": round(float(rng.uniform(3, 9)), 3),
                "u0": round(float(rng.uniform(0, 2)), 3),
            }
            for given, out in itertools.pairwise(sizes)
        ],
    }


def record(net: dict[str, Any]) -> tuple[list[list[str]], float]:
    """The spike train of every neuron of every layer, one character a step, and the smallest |U - theta|."""
    b2.start_scope()
    dt, alpha = b2.defaultclock.dt, net["alpha"]
    leaky = alpha < 1
    drift = f"dv/dt = {'(I0 - v) / tau' if leaky else 'I0 / tau'} : 1\nI0 : 1"
    names = {"tau": -dt / np.log(alpha) if leaky else dt, "alpha": alpha}
    groups: list[Any] = []
    parts, monitors, potentials = [], [], []
    for layer in net["layers"]:
        theta = float(np.float32(layer["theta"]))
        group = b2.NeuronGroup(
            len(layer["bias"]),
            drift,
            threshold=f"v >= {theta!r}",
            reset=f"v -= {theta / alpha!r}",
            method="exact" if leaky else "euler",
            namespace=names,
        )
        monitors.append(b2.SpikeMonitor(group))
        potentials.append(b2.StateMonitor(group, "v", record=True, when="after_groups"))
        if groups:
            synapses = b2.Synapses(groups[-1], group, "w : 1", on_pre="v += w / alpha", namespace=names)
            synapses.connect()
            synapses.w = np.array(layer["weight"], float).T.flatten()
            parts.append(synapses)
        groups.append(group)
    network = b2.Network(*groups, *parts, *monitors, *potentials)
    drive = np.array(net["layers"][0]["weight"]) @ np.array(net["x"]) / net["steps"]
    for late, (group, layer) in enumerate(zip(groups, net["layers"], strict=True)):
        group.v = np.asarray(group.v) + float(np.float32(layer["u0"]))
        group.I0 = (np.array(layer["bias"]) + (drive if late == 0 else 0)) / (1 - alpha if leaky else 1)
        network.run(dt)
    network.run((net["steps"] - 1) * dt)
    trains, margin = [], np.inf
    for late, (monitor, potential, layer) in enumerate(zip(monitors, potentials, net["layers"], strict=True)):
        spikes = np.zeros((len(layer["bias"]), net["steps"] + len(groups)), int)
        spikes[np.asarray(monitor.i), np.rint(monitor.t / dt).astype(int)] = 1
        trains.append(["".join(map(str, row[late : late + net["steps"]])) for row in spikes])
        seen = np.asarray(potential.v)[:, late : late + net["steps"]]
        margin = min(margin, float(np.abs(seen - np.float32(layer["theta"])).min()))
    return trains, margin


def main() -> None:
    """Draw networks until enough keep their distance from the threshold, and write them with their spikes."""
    b2.prefs.codegen.target = "numpy"
    rng = np.random.default_rng(0)
    nets: list[dict[str, Any]] = []
    while len(nets) < NETS:
        net = draw(rng, alpha=(1.0, 0.9)[len(nets) % 2], layers=2 + len(nets) // 2 % 2)
        trains, margin = record(net)
        busy = [0 < train.count("1") < STEPS for layer in trains for train in layer]
        if margin > MARGIN and np.mean(busy) > 0.6:
            nets.append({**net, "spikes": trains})
    lines = ",\n".join(json.dumps(net, separators=(",", ":")) for net in nets)
    PATH.write_text(f'{{"brian2":"{b2.__version__}","nets":[\n{lines}\n]}}\n')
    print(f"{len(nets)} networks, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
