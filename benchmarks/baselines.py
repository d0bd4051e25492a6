"""Repairs of mismatched chips, side by side: what on-chip learning brings that cheaper repairs do not.

    python benchmarks/baselines.py [--model digits] [--mismatch 0.2 0.4] [--options preset=measured] [--chips 10]
    python benchmarks/baselines.py --model fashion --train 2000 --test 1000    (needs SNNC_MODELS and SNNC_DATA)
    python benchmarks/baselines.py --model fashion-cnn --mismatch 0.4 --recipe epochs=2 --train 3000 --chips 5
    python benchmarks/baselines.py --tune --repairs 'in-the-loop{rate=0.003}' 'in-the-loop{rate=0.01}'

The same network (the target's own recipe with the options of `--recipe`, T = 16), the same chips and the same
calibration samples for every repair of `snnc.targets.dynap_sim.repairs`. Each passes over the samples once unless its
options say otherwise; repairs joined by `+` do so one after the other. `REPAIR @ OPTIONS` is a repair on a target
with these options. Every repair is judged once, on the test part, on chips 0, 1, ... With `--tune` it is judged on
validation samples and chips 100, 101, ..., which all rates were chosen on.

`mnist-cnn`, `fashion-cnn`: the networks of five layers of `repair_curves.py`, trained there on 20,000 images, which the
recipe sees too; `--train` says how many of them calibrate chips (needs SNNC_DATA).

Prints a markdown table: accuracy, mean +- standard deviation over chips (worst); per calibration sample the spikes
that the host was sent, and the bytes from and to the host (conventions in `repairs.contract`); changes of level per
synapse; seconds a chip.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # found when the script is run by its path
import snnc
from benchmarks import repair_curves
from benchmarks.chips import loaded, summary
from snnc import data, spec
from snnc.sim.judge import accuracy
from snnc.target import Artifact
from snnc.targets import TARGETS
from snnc.targets.dynap_sim import DynapChip
from snnc.targets.dynap_sim.repairs import REPAIRS, NoiseAware, OutputGain, ReadOut, Repair, Repaired, Traffic

NAMES = {"fashion": "fashion_mlp_tf2onnx117", "mnist": "mnist_cnn_torch27_op13"}
CNNS = {f"{name}-cnn": name for name in repair_curves.NETWORKS}
TUNED_ON = 100
"""The first chip that options are chosen on."""
ROWS = (
    "none",
    "output-gain", "read-out",
    "core-bias", "core-bias{over=all}",
    "noise-aware", "noise-aware{epochs=5}", "noise-aware{epochs=5}+read-out",
    "in-the-loop{rate=0.003}", "in-the-loop{error=layers readout=fixed}", "in-the-loop{error=layers}",
    "on-chip @ readout=fixed", "on-chip+output-gain @ readout=fixed", "on-chip+read-out @ readout=fixed", "on-chip",
    "on-chip @ learning=hardware readout=fixed", "on-chip @ learning=hardware",
    "noise-aware{epochs=5}+on-chip",
)  # fmt: skip
HOSTS_ALONE = (OutputGain, ReadOut)
"""Repairs that leave the chip as it is."""


@dataclass
class Found:
    """What a row came to, chip by chip."""

    shares: list[float] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def line(self, samples: int, synapses: int) -> str:
        """The columns behind the name."""

        def each(of: str) -> float:
            return float(np.mean([getattr(t, of) for t in self.traffic]))

        moved = (each("events") / samples, each("received") / samples, each("sent") / samples)
        moved_text = " | ".join(f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2f}" for value in moved)
        return f"{summary(self.shares)} | {moved_text} | {each('writes') / synapses:.2f} | {np.mean(self.seconds):.1f}"


@dataclass(frozen=True)
class Plan:
    """A row: repairs one after the other, on a target with these options."""

    text: str
    repairs: tuple[Repair, ...]
    options: str

    @classmethod
    def parse(cls, text: str) -> Plan:
        """`REPAIR+REPAIR @ OPTIONS`."""
        names, _, options = (part.strip() for part in text.partition("@"))
        return cls(text, tuple(spec.from_spec(name, REPAIRS) for name in names.split("+")), options)


class Bench:
    """One network, its data, and the chips."""

    def __init__(self, snn: snnc.Graph, samples: data.Data, seeds: Sequence[int], tune: bool) -> None:
        self.snn, self.samples, self.seeds = snn, samples, seeds
        self.judged = samples.validation if tune else samples.test

    def rows(self, options: str, plans: Sequence[Plan]) -> None:
        """The table of one kind of mismatch."""
        print(f"\n{options}, chips {self.seeds[0]} to {self.seeds[-1]}, {len(self.judged)} samples judged\n")
        print("| repair | accuracy, % | spikes to host | bytes to host | bytes to chip | writes per synapse | s |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        done: dict[tuple[str, tuple[Repair, ...], int], tuple[Repaired, Traffic, float]] = {}
        for plan in plans:
            artifact, found = self._artifact(f"{options} {plan.options}"), Found()
            levels = {r: r.levels(_chip(artifact, 0), self.samples) for r in plan.repairs if isinstance(r, NoiseAware)}
            for seed in self.seeds:
                start = time.perf_counter()
                before = done.get((plan.options, plan.repairs[:-1], seed))
                if before is not None and isinstance(plan.repairs[-1], HOSTS_ALONE):
                    repaired = plan.repairs[-1].repair(before[0].chip, self.samples)
                    traffic, earlier = before[1] + repaired.traffic, before[2]
                else:
                    chip, traffic, earlier = _chip(artifact, seed), Traffic(), 0.0
                    for repair in plan.repairs:
                        if isinstance(repair, NoiseAware):
                            repaired = repair.deploy(chip, self.samples, levels[repair])
                        else:
                            repaired = repair.repair(chip, self.samples)
                        traffic += repaired.traffic
                seconds = time.perf_counter() - start + earlier
                found.seconds.append(seconds)
                found.traffic.append(traffic)
                found.shares.append(repaired.score(self.judged))
                done[plan.options, plan.repairs, seed] = repaired, traffic, seconds
            synapses = _synapses(repaired.chip)
            print(f"| `{plan.text}` | {found.line(len(self.samples.train), synapses)} |", flush=True)

    def _artifact(self, options: str) -> Artifact:
        target = spec.from_spec(f"dynap-sim{{{options.strip()}}}", TARGETS)
        return target.compile(self.snn)


def _chip(artifact: Artifact, seed: int) -> DynapChip:
    chip = artifact.load(seed)
    assert isinstance(chip, DynapChip)
    return chip


def _synapses(chip: DynapChip) -> int:
    """Synapses that there are."""
    kept = [r for r in chip.block.registers.values() if not r.bias]
    return sum(int(r.stored.numel() if r.mask is None else r.mask.sum()) for r in kept)


def network(model: str, train: int, test: int, recipe: str) -> tuple[snnc.Graph, data.Data]:
    """A network after the recipe of the target with these options, and its data."""
    graph, samples = five_layers(CNNS[model], test) if model in CNNS else loaded(NAMES.get(model, model), train, test)
    target = spec.from_spec(f"dynap-sim{{{recipe}}}", TARGETS)
    snn, _ = target.pipeline()(graph, data=samples)
    samples = data.Data(samples.train.take(train), samples.validation, samples.test)
    x, labels = samples.validation.x(), samples.validation.labels
    shares = [accuracy(snnc.simulate(g, x, "torch"), labels) for g in (graph, snn)]
    sizes = ", ".join(f"{len(getattr(samples, part))} {part}" for part in ("train", "validation", "test"))
    print(f"{model}: {sizes} samples; validation: ANN {shares[0]:.2%}, SNN {shares[1]:.2%}", flush=True)
    x, labels = samples.test.x(), samples.test.labels
    shares = [accuracy(snnc.simulate(g, x, "torch"), labels) for g in (graph, snn)]
    print(f"test: ANN {shares[0]:.2%}, SNN {shares[1]:.2%}", flush=True)
    return snn, samples


def five_layers(name: str, test: int) -> tuple[snnc.Graph, data.Data]:
    """One of the networks of the four curves, and the images that it was trained on."""
    if "SNNC_DATA" not in os.environ:
        sys.exit("set SNNC_DATA to the folder of the images")
    setting = repair_curves.Setting(Path(os.environ["SNNC_DATA"]), None, 0, test, 1, False)
    return repair_curves.network(name, setting)


def main(given: Sequence[str] | None = None) -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", *NAMES, *CNNS), default="digits")
    parser.add_argument("--mismatch", type=float, nargs="*", default=[0.2, 0.4])
    parser.add_argument("--options", nargs="*", default=[], help="further kinds of devices, by options of the target")
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--repairs", nargs="+", default=list(ROWS))
    parser.add_argument("--recipe", default="", help="options of the target that makes the network")
    parser.add_argument("--tune", action="store_true")
    args = parser.parse_args(given)
    plans = [Plan.parse(text) for text in args.repairs]
    snn, samples = network(args.model, args.train, args.test, args.recipe)
    first = TUNED_ON if args.tune else 0
    bench = Bench(snn, samples, range(first, first + args.chips), args.tune)
    for options in (*(f"mismatch={sigma}" for sigma in args.mismatch), *args.options):
        bench.rows(options, plans)


if __name__ == "__main__":
    main()
