"""Simulated chips before and after one epoch of calibration, by both forms of the learning block; and the two tiers.

    python benchmarks/chips.py mismatch [--chips 5] [--model digits] [--train 2000] [--test 1000] [--rows TEXT ...]
    python benchmarks/chips.py noise    [the same]
    python benchmarks/chips.py tiers    [--images 500]
    python benchmarks/chips.py together [--at-once 2 4 8 16] [--repeats 5] [--model digits] [--train 2000] [--test 1000]

`mismatch` and `noise`: a network (the recipe of dynap-sim) on devices 0, 1, ...; test accuracy
before, after one epoch of the float rule and of the hardware rule, mean +- standard deviation (worst); writes per
synapse in that epoch (of the last chip), seconds of the last hardware calibration. `--rows`: rows by their options.
`--model fashion`: `fashion_cnn_torch13` (needs SNNC_MODELS and SNNC_DATA), trained and calibrated on `--train` images.
`together`: seconds that a chip takes, among so many at once and alone: an epoch of calibration, and a run over the
test samples; medians of interleaved repeats, which must end in the same bits.
`tiers`: spike counts of the circuits against those of the discrete neurons, and accuracy, without mismatch, digits.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # found when the script is run by its path
import snnc
from benchmarks.conversion import MODELS, OUTPUTS
from snnc import data, spec
from snnc.artifact import pack
from snnc.pipeline import single
from snnc.sim.judge import accuracy
from snnc.sim.torch import exact, to_tensor
from snnc.targets import TARGETS, DynapSim
from snnc.targets.dynap_sim.bench import DynapBench
from snnc.targets.dynap_sim.device import Device, Model
from snnc.targets.dynap_sim.dpi import Circuit
from snnc.targets.dynap_sim.mismatch import Mismatch
from snnc.targets.dynap_sim.place import place
from snnc.targets.dynap_sim.registers import Wear

EXAMPLES = Path(__file__).parents[1] / "examples"
FASHION = "fashion_cnn_torch13"
MISMATCH = (
    "mismatch=0", "mismatch=0.2", "mismatch=0.4", "mismatch=0.2 sharing=shared", "mismatch=0.4 sharing=shared",
    "preset=measured", "preset=measured excitatory=slow", "preset=buchel", "preset=rockpool",
    "mismatch=0.2 tier=dpi", "preset=measured tier=dpi",
)  # fmt: skip
NOISE = tuple(
    f"mismatch=0 {more}"
    for more in (
        "thermal=0.2", "thermal=0.05 thermal_on=membrane", "silencing=0.2", "silencing=0.2 silence=step",
        "defects=0.05", "defects=0.2",
    )
)  # fmt: skip
CIRCUITS: dict[str, dict[str, float]] = {
    "as it is": {},
    "tau_syn = 1 ms": {"tau_syn": 1e-3},
    "tau_syn = 4 ms": {"tau_syn": 4e-3},
    "t_ref = 0.1 ms": {"t_ref": 1e-4},
    "tau_syn = 4 ms, t_ref = 0.1 ms": {"tau_syn": 4e-3, "t_ref": 1e-4},
    "with positive feedback": {"feedback": 1.0},
    "tau_syn = 10 ms (Rockpool), step 2 ms": {"tau_syn": 1e-2},
    "the same, step 20 ms": {"tau_syn": 1e-2, "dt": 2e-2},
}


def loaded(model: str, train: int, test: int) -> tuple[snnc.Graph, data.Data]:
    """The digits example, or one of `MODELS` that others trained, and its data."""
    if model == "digits":
        return snnc.load(EXAMPLES / "digits_cnn.onnx"), data.load(EXAMPLES / "digits.npz", test_samples=test)
    folders = [os.environ.get(name) for name in ("SNNC_MODELS", "SNNC_DATA")]
    if None in folders:
        sys.exit("set SNNC_MODELS and SNNC_DATA to the folders of the models and the data")
    name, scaling = MODELS[model]
    samples = data.load(f"{folders[1]}/{name}.npz", scaling=scaling, train_samples=train, test_samples=test)
    return snnc.load(f"{folders[0]}/{model}.onnx", outputs=OUTPUTS.get(model, ())), samples


def network(model: str, train: int, test: int) -> tuple[snnc.Graph, data.Data]:
    """A network after the recipe, and its data."""
    graph, samples = loaded("digits" if model == "digits" else FASHION, train, test)
    snn, _ = DynapSim().pipeline()(graph, data=samples)
    x, labels = samples.test.x(), samples.test.labels
    shares = [accuracy(snnc.simulate(g, x, "torch"), labels) for g in (graph, snn)]
    print(f"{model}: ANN {shares[0]:.2%}, SNN {shares[1]:.2%}, {len(labels)} test samples", flush=True)
    return snn, samples


def population(snn: snnc.Graph, samples: data.Data, options: str, chips: int) -> None:
    """One row: devices 0 to chips-1 with these options."""
    target = spec.from_spec(f"dynap-sim{{{options}}}", TARGETS)
    assert isinstance(target, DynapSim)
    found: dict[str, list[float]] = {"before": [], "float": [], "hardware": []}
    wear: list[Wear] = []
    seconds = 0.0
    for learning in ("float", "hardware"):
        artifact = replace(target, learning=learning).compile(snn)
        for seed in range(chips):
            chip = artifact.load(seed)
            if learning == "float":
                found["before"].append(accuracy(single(chip.run(samples.test)), samples.test.labels))
            start = time.perf_counter()
            chip.calibrate(samples)
            seconds = time.perf_counter() - start
            found[learning].append(accuracy(single(chip.run(samples.test)), samples.test.labels))
        wear.append(Wear.of(chip.block.registers.values()))  # type: ignore[attr-defined]
    worn = " | ".join(f"{w.mean:.1f}, {w.p99}, {w.most}" for w in wear)
    print(f"{options} | {' | '.join(map(summary, found.values()))} | {worn} | {seconds:.1f} s", flush=True)


def summary(shares: Sequence[float]) -> str:
    """Mean +- standard deviation (worst), in percent."""
    spread = 100 * np.std(shares, ddof=1) if len(shares) > 1 else 0.0
    return f"{100 * np.mean(shares):.2f} +- {spread:.2f} ({100 * min(shares):.2f})"


def tiers(images: int) -> None:
    """One row a circuit: per layer the correlation of its spike counts with the discrete tier's, and their means."""
    snn, samples = network("digits", 0, images)
    graph, x, labels = place(snn), samples.test.x(), samples.test.labels

    def counts(circuit: Circuit | None) -> tuple[dict[str, np.ndarray], float]:
        device = Device(graph, 0, Model(Mismatch("none"), circuit=circuit))
        with torch.inference_mode(), exact():
            given = {next(iter(graph.inputs)): to_tensor(x)}
            stepper = device.stepper(given, 0)
            for _ in range(graph.steps):
                stepper.step()
            scores = single({k: v.numpy() for k, v in device.outputs(stepper, given)[0].items()})
        return {layer: c.flatten().numpy() for layer, c in stepper.count.items()}, accuracy(scores, labels)

    discrete, share = counts(None)
    print(f"discrete | {share:.2%} | {', '.join(f'{c.mean():.2f}' for c in discrete.values())} |")
    for name, fields in CIRCUITS.items():
        found, share = counts(Circuit(**fields))
        alike = ", ".join(f"{np.corrcoef(c, discrete[layer])[0, 1]:.3f}" for layer, c in found.items())
        print(f"{name} | {share:.2%} | {', '.join(f'{c.mean():.2f}' for c in found.values())} | {alike}", flush=True)


def together(snn: snnc.Graph, samples: data.Data, counts: Sequence[int], repeats: int) -> None:
    """One row a learning block and number of chips at once."""
    for learning in ("float", "hardware"):
        artifact = replace(DynapSim(), learning=learning).compile(snn)
        found: dict[int, list[tuple[float, float]]] = {count: [] for count in (1, *counts)}
        digests: set[str] = set()
        for _ in range(repeats):
            for count, times in found.items():
                bench = artifact.bench(range(count))
                assert isinstance(bench, DynapBench)
                start = time.perf_counter()
                bench.learn(samples.train)
                learned = time.perf_counter()
                scores = single(bench.run(samples.test)[0])
                times.append(((learned - start) / count, (time.perf_counter() - learned) / count))
                digests.add(hashlib.sha256(pack(bench.settings.stored()) + scores.tobytes()).hexdigest())
        assert len(digests) == 1, "chip 0 depends on its neighbours"
        alone = np.median(found[1], axis=0)
        for count, times in found.items():
            took = np.median(times, axis=0)
            print(
                f"{learning} | {count} | {took[0]:.2f} | {alone[0] / took[0]:.2f} | {took[1]:.3f} | "
                f"{alone[1] / took[1]:.2f}", flush=True,
            )  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(dest="which", required=True)
    for name, rows in (("mismatch", MISMATCH), ("noise", NOISE)):
        one = which.add_parser(name)
        one.add_argument("--chips", type=int, default=5)
        one.add_argument("--model", choices=("digits", "fashion"), default="digits")
        one.add_argument("--train", type=int, default=2000)
        one.add_argument("--test", type=int, default=1000)
        one.add_argument("--rows", nargs="+", default=list(rows))
    which.add_parser("tiers").add_argument("--images", type=int, default=500)
    beside = which.add_parser("together")
    beside.add_argument("--at-once", type=int, nargs="+", default=[2, 4, 8, 16])
    beside.add_argument("--repeats", type=int, default=5)
    beside.add_argument("--model", choices=("digits", "fashion"), default="digits")
    beside.add_argument("--train", type=int, default=2000)
    beside.add_argument("--test", type=int, default=1000)
    given = parser.parse_args()
    if given.which == "tiers":
        tiers(given.images)
        return
    snn, samples = network(given.model, given.train, given.test)
    if given.which == "together":
        print(
            "learning block | chips at once | seconds a chip and epoch | times faster | seconds a chip and run | faster"
        )
        together(snn, samples, given.at_once, given.repeats)
        return
    print("options | before | float | hardware | writes float: mean, 99 %, most | writes hardware | seconds")
    for options in given.rows:
        population(snn, samples, options, given.chips)


if __name__ == "__main__":
    main()
