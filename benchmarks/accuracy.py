"""Accuracy tables of the README: third-party MNIST networks, and populations of mismatched chips.

    python benchmarks/accuracy.py mnist  [--seeds 3] [--epochs 2] [--fan-in 64] [--models NAME ...]
    python benchmarks/accuracy.py chips  [--chips 10] [--mismatch 0.2 0.3 0.4]

`mnist` (needs SNNC_MODELS and SNNC_DATA): `RECIPE` (T = 16, 4-bit weights with a step per channel, LTL on the first
10,000 training images, of which 1,000 validate) with a fan-in wall, or without one (0); test accuracy on all 10,000
test images, mean and standard deviation over seeds. `chips`: the embedded digits example by the recipe of dynap-sim on
simulated devices before and after one epoch of on-chip calibration, test part.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

import snnc
from snnc import data
from snnc.importer import judge
from snnc.pipeline import single
from snnc.sim import torch as executor
from snnc.sim.judge import accuracy
from snnc.targets import DynapSim

RECIPE = (
    "fold-batchnorm,drop-rounding,rectify,replace-activation,replace-max-pool,separate-layers,pool-neurons,"
    "threshold-layernorm,bias-per-step{wall},quantize-weights,ltl{{epochs={epochs}}}"
)
EXAMPLES = Path(__file__).parents[1] / "examples"
MNIST = {
    "mnist_cnn_bn_torch20_op16": data.Scaling(1 / 255, (0.1307,), (0.3081,)),
    "mnist_cntk_op12": data.Scaling(1 / 255),
    "mnist_cnn_torch29_dynamo": data.Scaling(1 / 255, (0.5,), (0.5,)),
}


def tell(task: str, done: int, total: int) -> None:
    """Progress, now and then."""
    if done % 100 == 0:
        print(f"  {time.strftime('%H:%M:%S')} {task} {done}/{total}", file=sys.stderr, flush=True)


def mnist(seeds: int, models: list[str], epochs: int, fan_in: int) -> None:
    """One row a model."""
    folders = [os.environ.get(name) for name in ("SNNC_MODELS", "SNNC_DATA")]
    if None in folders:
        sys.exit("set SNNC_MODELS and SNNC_DATA to the folders of the models and the data")
    print("model | ANN | onnxruntime, largest difference | converted | after LTL | drop")
    for name in models:
        samples = data.load(f"{folders[1]}/mnist.npz", scaling=MNIST[name], train_samples=10_000)
        path = f"{folders[0]}/{name}.onnx"
        graph = snnc.load(path)
        test, source = samples.test, next(iter(graph.inputs))

        def share(g: snnc.Graph, test: data.Split = test, source: str = source) -> float:
            return accuracy(single(executor.run(g, {source: test.x()})), test.labels)

        few = {source: test.x(slice(0, 200))}
        apart = np.abs(single(judge(path, few)) - single(executor.run(graph, few))).max()
        wall = f",limit-fan-in{{k={fan_in}}}" if fan_in else ""
        *lowering, ltl = snnc.Pipeline.parse(RECIPE.format(wall=wall, epochs=epochs)).passes
        converted, _ = snnc.Pipeline(*lowering)(graph, data=samples)
        plain, ann = share(converted), share(graph)
        trained = [share(snnc.Pipeline(ltl)(converted, data=samples, seed=s, progress=tell)[0]) for s in range(seeds)]
        mean, spread = np.mean(trained), np.std(trained, ddof=1) if seeds > 1 else 0.0
        wall = f"fan-in {fan_in}" if fan_in else "fan-in free"
        print(
            f"{name}, {wall} | {ann:.2%} | {apart:.1e} | {plain:.2%} | "
            f"{mean:.2%} +- {100 * spread:.2f} ({seeds} seeds) | {100 * (ann - mean):.2f} points",
            flush=True,
        )


def chips(count: int, levels: list[float]) -> None:
    """One row a device."""
    samples = data.load(EXAMPLES / "digits.npz")
    graph = snnc.load(EXAMPLES / "digits_cnn.onnx")
    snn, _ = DynapSim().pipeline()(graph, data=samples)
    x, labels = samples.test.x(), samples.test.labels
    ideal = accuracy(single(DynapSim(mismatch=0.0).compile(snn).load(0).run(x)), labels)
    print(f"ANN {accuracy(snnc.simulate(graph, x, 'torch'), labels):.2%}, SNN "
          f"{accuracy(snnc.simulate(snn, x, 'torch'), labels):.2%}, chip without noise {ideal:.2%}")  # fmt: skip
    for level in levels:
        artifact = DynapSim(mismatch=level).compile(snn)
        found = []
        for seed in range(count):
            chip = artifact.load(seed)
            before = accuracy(single(chip.run(x)), labels)
            chip.calibrate(samples, 1)
            found.append((before, accuracy(single(chip.run(x)), labels)))
            print(f"mismatch {level} chip {seed}: {found[-1][0]:.2%} -> {found[-1][1]:.2%}", flush=True)
        before, after = np.mean(found, axis=0)
        lost = ideal - before
        print(f"mismatch {level}: mean {before:.2%} -> {after:.2%}, worst {min(b for b, _ in found):.2%} -> "
              f"{min(a for _, a in found):.2%}, lost {100 * lost:.1f} points, "
              f"brought back {(after - before) / lost:.0%}", flush=True)  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(dest="which", required=True)
    one = which.add_parser("mnist")
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--models", nargs="+", default=list(MNIST), choices=list(MNIST))
    one.add_argument("--epochs", type=int, default=2)
    one.add_argument("--fan-in", type=int, default=64, help="0: no limit")
    two = which.add_parser("chips")
    two.add_argument("--chips", type=int, default=10)
    two.add_argument("--mismatch", type=float, nargs="+", default=[0.2, 0.3, 0.4])
    given = parser.parse_args()
    if given.which == "mnist":
        mnist(given.seeds, given.models, given.epochs, given.fan_in)
    else:
        chips(given.chips, given.mismatch)


if __name__ == "__main__":
    main()
