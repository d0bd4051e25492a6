"""What a fan-in wall costs: pruned, or split into partial sums; before and after LTL.

    python benchmarks/fan_in.py [--k 64] [--bits 4] [--epochs 2] [--train 2000] [--test 1000] [--seeds 3]
                                [--methods NAME ...] [--models NAME ...]

The recipe of `dynap-sim{levels=symmetric reset=subtract}` with `limit-fan-in` free, prune, split and auto: test
accuracy converted and after LTL, neurons.
LTL with several seeds: mean and standard deviation. The digits example always (its wall is 16 inputs: it has no layer
beyond 64), MNIST and Fashion-MNIST models where SNNC_MODELS and SNNC_DATA are set.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from conversion import fitted

import snnc
from snnc import data
from snnc.passes import LimitFanIn
from snnc.pipeline import Pass, single
from snnc.sim import torch as executor
from snnc.sim.cost import fan_in
from snnc.sim.judge import accuracy
from snnc.targets import DynapSim

EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = {
    "mnist_cnn_bn_torch20_op16": ("mnist", data.Scaling(1 / 255, (0.1307,), (0.3081,))),
    "mnist_cntk_op12": ("mnist", data.Scaling(1 / 255)),
    "fashion_mlp_tf2onnx117": ("fashion_mnist", data.Scaling(1 / 255)),
}
DIGITS_WALL = 16
METHODS = ("free", "prune", "split", "auto")


def rows(graph: snnc.Graph, samples: data.Data, target: DynapSim, methods: list[str], seeds: int) -> None:
    """One row a method."""
    *lowering, ltl = target.pipeline().passes
    for method in methods:
        start = time.perf_counter()
        snn, ledger = snnc.Pipeline(*_with(lowering, method))(graph, data=samples)
        plain, neurons = _share(snn, samples), sum(math.prod(n.type.shape) for n in snn.nodes if n.op == "lif")
        trained = [100 * _share(snnc.Pipeline(ltl)(snn, data=samples, seed=s)[0], samples) for s in range(seeds)]
        most, seconds = max(fan_in(snn).values()), time.perf_counter() - start
        after = f"{np.mean(trained):.2f} +- {np.std(trained):.2f} %"
        print(f"  {method} | {most} | {neurons} | {plain:.2%} | {after} | {seconds:.0f} s")
        for note in [n for row in ledger.rows if row.step.startswith("limit-fan-in") for n in row.notes]:
            print(f"      {note}", file=sys.stderr)
        sys.stdout.flush()


def _with(lowering: list[Pass], method: str) -> list[Pass]:
    """The recipe with another way to limit the fan-in, or none."""
    if method == "free":
        return [p for p in lowering if not isinstance(p, LimitFanIn)]
    return [replace(p, method=method) if isinstance(p, LimitFanIn) else p for p in lowering]  # type: ignore[arg-type]


def _share(graph: snnc.Graph, samples: data.Data) -> float:
    outputs = executor.run(graph, {next(iter(graph.inputs)): samples.test.x()})
    return accuracy(single(outputs), samples.test.labels)


def _shaped(samples: data.Data, shape: tuple[int, ...]) -> data.Data:
    """The same numbers in the layout of the model."""
    parts = {
        part: replace(split, raw=fitted(split.raw, shape))
        for part in ("train", "validation", "test")
        for split in [getattr(samples, part)]
    }
    return replace(samples, **parts)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--models", nargs="*", default=["digits", *MODELS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    given = parser.parse_args()
    print("method | fan-in | neurons | converted | after LTL | seconds")
    folders = [os.environ.get(name) for name in ("SNNC_MODELS", "SNNC_DATA")]
    for name in given.models:
        target = DynapSim(fan_in=given.k, bits=given.bits, epochs=given.epochs, levels="symmetric", reset="subtract")
        if name == "digits":
            target = replace(target, fan_in=min(given.k, DIGITS_WALL))
            graph, samples = snnc.load(EXAMPLES / "digits_cnn.onnx"), data.load(EXAMPLES / "digits.npz")
        elif None in folders:
            print(f"{name}: left out, SNNC_MODELS and SNNC_DATA are not set")
            continue
        else:
            graph = snnc.load(f"{folders[0]}/{name}.onnx")
            where, scaling = MODELS[name]
            samples = data.load(f"{folders[1]}/{where}.npz", scaling=scaling, train_samples=given.train)
            [kind] = graph.inputs.values()
            samples = _shaped(samples, kind.shape)
            samples = replace(samples, test=samples.test.take(given.test))
        print(f"{name}, {given.bits} bits: ANN {_share(graph, samples):.2%}", flush=True)
        rows(graph, samples, target, given.methods, given.seeds)


if __name__ == "__main__":
    main()
