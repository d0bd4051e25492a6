"""Spike for spike: a chip without noise, the reference, torch, plain loops, and Brian2, on random networks of integers.

    python benchmarks/agreement.py [--networks 1000] [--brian2 100] [--record FILE]

`benchmarks/oracles` says what is drawn: all kinds of layers, weights, thresholds and counts at their limits. Compared
is every spike of every neuron at every step, of two samples each, layer by layer, and the counts that leave the chip.
Brian2 runs the first `--brian2` networks, one sample each, where it is installed (`pip install "snnc[brian2]"`).
`--record` writes digests of the spikes that Brian2 makes of these, for tests that run without it.

Prints what was drawn, what was compared, and every network that disagrees; ends with 1 if one does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.oracles import lowered
from benchmarks.oracles.networks import Array, Net, draw, simulate


def disagreements(net: Net) -> list[str]:
    """Where executors and the chip leave the plain loops: one line for each executor and layer."""
    graph, x = lowered.graph_of(net), lowered.samples(net)
    expected, _ = simulate(net)
    found = []
    for name, made in (
        ("reference", lowered.by_reference(graph, x)),
        ("torch", lowered.by_torch(graph, x)),
        ("chip", lowered.by_chip(net, graph, x)),
    ):
        for i, spikes in enumerate(expected):
            own = made[f"lif{i}"].reshape(spikes.shape)
            if not np.array_equal(own, spikes):
                found.append(f"{name}, layer {i}: {int((own != spikes).sum())} of {spikes.size} differ")
        if not np.array_equal(made["count"].reshape(len(x), -1), expected[-1].sum(axis=0)):
            found.append(f"{name}: the counts that leave it differ")
    return found


def digest(spikes: Array) -> str:
    """A short name of a spike train [T, neurons]."""
    return hashlib.sha256(np.packbits(np.asarray(spikes, bool)).tobytes()).hexdigest()[:16]


def identity(net: Net) -> str:
    """A short name of a network, so that a record is of this very network."""
    text = repr(net.shape) + repr((net.steps, net.bits, net.events))
    made = hashlib.sha256(text.encode() + np.ascontiguousarray(net.x, np.float64).tobytes())
    for layer in net.layers:
        made.update(repr((layer.shape, layer.alpha, layer.reset)).encode())
        for array in (layer.bias, layer.theta, layer.u0, layer.step, *(s.weight for s in layer.synapses)):
            made.update(np.ascontiguousarray(array, np.float64).tobytes())
    return made.hexdigest()[:16]


class Drawn:
    """What the networks had in them."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def see(self, net: Net) -> None:
        """Count one more network."""
        spikes, _ = simulate(net)
        kinds = {s.kind for layer in net.layers for s in layer.synapses}
        kinds |= {"residual" for layer in net.layers if len(layer.synapses) > 1}
        kinds |= {"leaky" if layer.alpha < 1 else "IF" for layer in net.layers}
        kinds |= {f"reset {layer.reset}" for layer in net.layers}
        kinds |= {"events in"} if net.events else set()
        kinds |= {"se2"} if lowered.chip_for(net).profile == "se2" else {"ideal"}
        kinds |= {"a threshold of one step" for layer in net.layers if (layer.theta == 1).any()}
        kinds |= {"a threshold above 2^16 steps" for layer in net.layers if (layer.theta > 2**16).any()}
        kinds |= {"8 bits"} if net.bits == 8 else set()
        kinds |= {"a count of T" for train in spikes if (train.sum(axis=0) == net.steps).any()}
        kinds |= {"T = 64"} if net.steps == 64 else set()
        self.kinds.update(kinds)

    def __str__(self) -> str:
        return ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))


def by_brian2(numbers: range, record: Path | None) -> tuple[int, list[str]]:
    """How many networks Brian2 ran, and where it leaves the plain loops."""
    try:
        from benchmarks.oracles import brian
    except ImportError as error:
        print(f"Brian2: left out, {error}")
        return 0, []
    found, lines = [], []
    for number in numbers:
        net = draw(number)
        made, expected = brian.spikes(net), simulate(net)[0]
        for i, (own, spikes) in enumerate(zip(made, expected, strict=True)):
            if not np.array_equal(own, spikes[:, 0]):
                found.append(f"network {number}: Brian2, layer {i}: {int((own != spikes[:, 0]).sum())} differ")
        lines.append(json.dumps({"net": identity(net), "spikes": [digest(train) for train in made]}))
    if record is not None:
        record.write_text(f'{{"brian2":"{brian.b2.__version__}","nets":[\n' + ",\n".join(lines) + "\n]}\n")
    return len(numbers), found


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--brian2", type=int, default=100)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args(arguments)
    drawn, wrong, start = Drawn(), list[str](), time.perf_counter()
    for number in range(given.networks):
        net = draw(number)
        drawn.see(net)
        wrong += [f"network {number}: {line}" for line in disagreements(net)]
    print(f"{given.networks} networks: {drawn}")
    print(f"reference, torch and chip against plain loops: {len(wrong)} disagreements")
    ran, also = by_brian2(range(given.brian2), given.record)
    if ran:
        print(f"Brian2 on {ran} networks: {len(also)} disagreements")
    print(f"{time.perf_counter() - start:.0f} s")
    for line in [*wrong, *also]:
        print(line)
    return bool(wrong or also)


if __name__ == "__main__":
    sys.exit(main())
