"""How much faster than its hardware a chip is simulated, noise on, on one core.

    python benchmarks/realtime.py [--samples 1 16 128 512] [--repeats 20]

A full chip: 4 layers of 256 neurons, 64 connections each, drawn; T = 16 steps of 2 ms, that is 32 ms a sample on the
hardware. With mismatch, thermal noise (0.1) and lost spikes (2 %, fresh at every step). Seconds are processor time of
one thread, the least of the repeats; the factor is hardware time over them.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from snnc.ir import Array, Constraint, Graph, Node, Stage, TensorType
from snnc.targets import DynapSim

NEURONS, LAYERS, FAN_IN, STEPS = 256, 4, 64, 16


def network(seed: int = 0) -> Graph:
    """Dense layers with a mask of 64 connections for each neuron, weights of 4 bits."""
    rng = np.random.default_rng(seed)
    nodes = [Node("current", "encode", ("x",), {"code": "direct"})]
    params: dict[str, Array] = {}
    constraints: dict[str, Constraint] = {}
    at = "current"
    for i in range(LAYERS):
        mask = np.argsort(np.argsort(rng.random((NEURONS, NEURONS)), axis=1), axis=1) < FAN_IN
        weight = rng.choice([-3, -2, -1, 1, 2, 3], mask.shape) * mask
        params[f"dense{i}.weight"] = np.asarray(weight, np.float32)
        constraints[f"dense{i}.weight"] = Constraint(4, np.ones((), np.float32), mask)
        own = {"alpha": 1.0, "theta": 8.0, "u0": 4.0}
        params |= {f"lif{i}.{role}": np.asarray(value, np.float32) for role, value in own.items()}
        nodes.append(Node(f"dense{i}", "dense", (at, f"dense{i}.weight")))
        at = f"lif{i}"
        nodes.append(Node(at, "lif", (f"dense{i}", *(f"{at}.{role}" for role in own)), {"reset": "subtract"}))
    nodes.append(Node("count", "decode", (at,)))
    kind = {"x": TensorType("analog", (NEURONS,))}
    empty = Graph(kind, (), {}, {}, Stage.CONSTRAINED, STEPS)
    teacher = Graph(kind, (), {}, {}).edit([Node("y", "relu", ("x",))], outputs={"y": "y"})
    made = empty.edit(nodes, params=params, constraints=constraints, outputs={"count": "count"})
    return replace(made, teacher=teacher)


def factor(samples: int, repeats: int) -> float:
    """Hardware time of so many samples over the processor time of simulating them at once."""
    target = DynapSim(thermal=0.1, silencing=0.02, silence="step")
    chip = target.compile(network()).load(0)
    x = np.random.default_rng(1).random((samples, NEURONS), np.float32) * 4
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        chip.run(x)
        seconds.append(time.process_time() - start)
    return samples * STEPS * target.chip.times.dt / min(seconds[1:])


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 16, 128, 512])
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args(arguments)
    for samples in given.samples:
        print(f"{samples} samples at once: {factor(samples, given.repeats):.0f} times real time", flush=True)


if __name__ == "__main__":
    main()
