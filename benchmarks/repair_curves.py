"""The four curves of LTL's figure 4 on simulated devices: what each harm costs, and what calibration brings back.

    python benchmarks/repair_curves.py --keep numbers.json --figure curves.svg [--chips 10] [--epochs 1]
        [--networks mnist fashion vgg11] [--curves mismatch bits thermal silencing lost] [--learning float hardware]
        [--train 3000] [--test 1000] [--validation] [--guard-bits N] [--chip]

`mnist`, `fashion`: a network of five layers (convolutions of 16 and 32 channels with stride 2, one of 32, dense 64,
10), trained here with batch norms on 20,000 images, exported to ONNX, imported, converted (T = 16) and taught by LTL at
4 bits (needs SNNC_DATA). `vgg11`: the half-width VGG-11 on CIFAR-10 (needs SNNC_MODELS too), taught on 990 images;
two minutes for each device and 990 images.

    mismatch     sigma of every physical synapse, bias and threshold
    bits         weights rounded to so many bits after training at full precision; no other harm
    thermal      sigma of the summed current, relative
    silencing    share of neurons that are dead for good
    lost         share of spikes that are lost, drawn afresh at every step

Each level is one network on devices 0, 1, ... of the profile se2 without its wall on the fan-in; with `--chip` inside
all its limits, by the target's own recipe (fan-in 63 and a tonic bias, four base currents a layer, resets to zero),
and fewer bits are fewer base currents from the start. Each device is judged on test images, calibrated on `--train`
training images for an epoch, judged, and so on: before, after one epoch, and the epoch that is best on validation
images. `clean` is the device without any harm, before it learns. `--validation` judges on validation images only, for
whoever tunes. `--keep` goes on from what it holds, and from the students in the folder beside it. The table and the
figure show means over devices; bars of the figure reach from worst to best.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # found when the script is run by its path
import snnc
from benchmarks.curves_figure import Panel, figure
from benchmarks.relations.kept import Kept
from benchmarks.relations.networks import TASKS, Task, samples, teacher
from benchmarks.relations.relation import Numbers
from snnc import Pipeline
from snnc.data import Data, Scaling, Split
from snnc.ir import Graph
from snnc.pipeline import single
from snnc.sim.judge import accuracy
from snnc.target import Artifact
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.bench import DynapBench

STEPS, BITS = 16, 4
FREE = 10**6
"""A fan-in that no network has."""
TEACHING = 20_000
"""Training images of teacher and student."""
FIVE_LAYERS = ((16, 2), (32, 2), (32, 1))
NETWORKS = {
    "mnist": Task("mnist.npz", "", Scaling(1 / 255), (1, 28, 28), FIVE_LAYERS, (64,), 4),
    "fashion": Task("fashion_mnist.npz", "", Scaling(1 / 255), (1, 28, 28), FIVE_LAYERS, (64,), 6),
}
VGG11, VGG11_IMAGES, VGG11_TEACHING = "cifar10_vgg11_half", 6_600, 990
"""Its file, the images that devices are calibrated and validated on, and those that the student learns from."""
LEVELS: dict[str, Sequence[float]] = {
    "mismatch": (0.05, 0.1, 0.2, 0.3, 0.4),
    "bits": (6, 5, 4, 3),
    "thermal": (0.01, 0.05, 0.1, 0.2),
    "silencing": (0.1, 0.2, 0.3, 0.4, 0.5),
    "lost": (0.1, 0.2, 0.3, 0.4, 0.5),
}
"""Seven bits of 512 inputs exceed what a device adds up exactly."""
ON_CHIP = {"bits": (4, 3, 2)}
"""Levels where the chip has no others: it has four base currents."""
LOWERED = f"fold-batchnorm,threshold-layernorm{{steps={STEPS}}},bias-per-step"
TAUGHT = dict.fromkeys(NETWORKS, "ltl{epochs=2}") | {"vgg11": "ltl{epochs=1 batch=32 rate=0.001}"}
RATES = {"vgg11": 0.001}
"""Of the float learning block, where its default is too much for so many layers; chosen on validation images."""


@dataclass(frozen=True)
class Setting:
    """What does not vary from row to row."""

    data: Path
    models: Path | None
    train: int
    test: int
    epochs: int
    validation: bool
    guard_bits: int | None = None
    chip: bool = False
    students: Path | None = None

    def facts(self) -> dict[str, int]:
        """As far as numbers depend on it."""
        facts = {"train": self.train, "test": self.test, "epochs": self.epochs, "validation": int(self.validation)}
        facts |= {} if self.guard_bits is None else {"guard bits": self.guard_bits}
        return {**facts, "chip": 1} if self.chip else facts


@cache
def network(name: str, setting: Setting) -> tuple[Graph, Data]:
    """The analog network and the images that it was, and its student is, trained on."""
    if name == "vgg11":
        if setting.models is None:
            sys.exit("set SNNC_MODELS to the folder of the models")
        task, path = TASKS["cifar"], setting.models / f"{VGG11}.onnx"
        return snnc.load(path), samples(task, setting.data, VGG11_IMAGES, setting.test)
    data = samples(NETWORKS[name], setting.data, TEACHING, setting.test)
    return teacher(NETWORKS[name], data), data


@cache
def student(name: str, bits: int | None, setting: Setting) -> Graph:
    """The spiking network, taught at BITS, or rounded to `bits` after it was taught at full precision."""
    kept = None if setting.students is None else setting.students / (name if bits is None else f"{name}-{bits}")
    if kept is not None and kept.exists():
        return snnc.open(kept).graph
    ann, data = network(name, setting)
    levels = f"quantize-weights{{bits={bits or BITS}}}"
    taught = TAUGHT[name]
    if name == "vgg11":
        data = Data(data.train.take(VGG11_TEACHING), data.validation, data.test)
    text = f"{LOWERED},{levels},{taught}" if bits is None else f"{LOWERED},{taught},{levels}"
    if setting.chip:
        text = str(DynapSim(bits=bits or BITS, epochs=2).pipeline())
    start = time.perf_counter()
    made, _ = Pipeline.parse(text)(ann, data=data)
    tell(f"{name}: {text}", start)
    if kept is not None:
        DynapSim(bits=bits or BITS, fan_in=None if setting.chip else FREE).compile(made).bundle.write(kept)
    return made


def calibrating(name: str, setting: Setting) -> Data:
    """The images that devices see."""
    data = network(name, setting)[1]
    return Data(data.train.take(setting.train), data.validation, data.test)


def judged(bench: DynapBench, split: Split) -> list[float]:
    """Accuracy of every device in percent."""
    return [100 * accuracy(single(made), split.labels) for made in bench.run(split)]


def programmed(name: str, curve: str, level: float, learning: str, setting: Setting) -> Artifact:
    """What devices with one harm are programmed with; with none at level 0."""
    bits = int(level) if curve == "bits" else None
    sigma, hot = (level if curve == kind else 0.0 for kind in ("mismatch", "thermal"))
    target = DynapSim(
        bits=bits or BITS,
        fan_in=None if setting.chip else FREE,
        learning=learning,  # type: ignore[arg-type]
        rate=RATES.get(name, DynapSim.rate),
        mismatch=sigma,
        thermal=hot,
        silencing=level if curve in ("silencing", "lost") else 0.0,
        silence="step" if curve == "lost" else "frozen",
        guard_bits=setting.guard_bits,
    )
    return target.compile(student(name, bits, setting))


def measured(programmed: Artifact, seeds: Sequence[int], data: Data, setting: Setting) -> list[Numbers]:
    """Every device before, after one epoch, and at the epoch that is best on validation images."""
    bench, part = programmed.bench(seeds), data.validation if setting.validation else data.test
    assert isinstance(bench, DynapBench)
    found, valid = [judged(bench, part)], list[list[float]]()
    for _ in range(setting.epochs):
        bench.learn(data.train)
        found.append(judged(bench, part))
        valid.append(judged(bench, data.validation) if setting.epochs > 1 else found[-1])
    best = np.argmax(valid, axis=0)
    return [
        {"before": found[0][k], "one epoch": found[1][k], "best": found[1 + at][k]}
        for k, at in enumerate(best.tolist())
    ]


def clean(name: str, setting: Setting) -> Numbers:
    """A device without any harm, before it learns."""
    bench, data = programmed(name, "mismatch", 0.0, "float", setting).bench([0]), calibrating(name, setting)
    assert isinstance(bench, DynapBench)
    return {"before": judged(bench, data.validation if setting.validation else data.test)[0]}


def row(name: str, curve: str, level: float, learning: str, found: Sequence[Numbers], whole: float) -> str:
    """One line of the table: means, (worst), what is left of the loss."""
    cells = [summary([f[key] for f in found]) for key in ("before", "one epoch", "best")]
    left = whole - float(np.mean([f["one epoch"] for f in found]))
    lost = whole - float(np.mean([f["before"] for f in found]))
    return f"| {name} | {curve} {level:g} | {learning} | {' | '.join(cells)} | {lost:.2f} | {left:.2f} | {len(found)} |"


def summary(values: Sequence[float]) -> str:
    """Mean +- standard deviation (worst)."""
    spread = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread} ({min(values):.2f})"


def key(name: str, curve: str, level: float, learning: str) -> str:
    """Under which numbers are kept."""
    return f"{name} {curve} {level:g} {learning}"


def tell(text: str, start: float) -> None:
    """How it goes."""
    print(f"  {time.perf_counter() - start:5.0f} s  {text}", file=sys.stderr, flush=True)


def panel(kept: Kept, name: str, curve: str, levels: Sequence[float], given: argparse.Namespace) -> Panel:
    """One curve of the figure, of the first form of learning, as far as it was measured."""
    found = {level: kept.of(key(name, curve, level, given.learning[0]), given.chips) for level in levels}
    whole = kept.of(f"{name} clean", 1)[0]["before"]
    return f"{name}: {curve}", whole, {level: numbers for level, numbers in found.items() if numbers}


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=(*NETWORKS, "vgg11"), default=list(NETWORKS))
    parser.add_argument("--curves", nargs="+", choices=tuple(LEVELS), default=list(LEVELS))
    parser.add_argument("--levels", nargs="+", type=float, help="only these of each curve")
    parser.add_argument("--learning", nargs="+", choices=("float", "hardware"), default=["float", "hardware"])
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--guard-bits", type=int, help="of the learning block, instead of its own")
    parser.add_argument("--chip", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if "SNNC_DATA" not in os.environ:
        sys.exit("set SNNC_DATA to the folder of the images")
    models = os.environ.get("SNNC_MODELS")
    setting = Setting(Path(os.environ["SNNC_DATA"]), Path(models) if models else None, given.train, given.test,
                      given.epochs, given.validation, given.guard_bits, given.chip,
                      given.keep and given.keep.with_suffix(".students"))  # fmt: skip
    levels = {**LEVELS, **ON_CHIP} if given.chip else LEVELS
    there = {level for curve in given.curves for level in levels[curve]}
    if none := [level for level in given.levels or [] if level not in there]:
        sys.exit(f"no curve of {', '.join(given.curves)} has the levels {none}; there are {sorted(there)}")
    try:
        kept = Kept(setting.facts(), given.keep)
    except ValueError as error:
        sys.exit(f"{error}; give --keep another file, or these options")
    print("| network | harm | learning | before | one epoch | best | points lost | left after one epoch | devices |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.networks:
        if not kept.has(f"{name} clean", 0):
            kept.add(f"{name} clean", 0, clean(name, setting))
        whole = kept.of(f"{name} clean", 1)[0]["before"]
        print(f"| {name} | clean | | {whole:.2f} | | | | | |")
        for curve in given.curves:
            for level in [v for v in levels[curve] if given.levels is None or v in given.levels]:
                for learning in given.learning:
                    one = key(name, curve, level, learning)
                    if seeds := [seed for seed in range(given.chips) if not kept.has(one, seed)]:
                        made = programmed(name, curve, level, learning, setting)
                        most = made.at_once()
                        for some in (seeds[at : at + most] for at in range(0, len(seeds), most)):
                            start = time.perf_counter()
                            found = measured(made, some, calibrating(name, setting), setting)
                            for seed, numbers in zip(some, found, strict=True):
                                kept.add(one, seed, numbers)
                            tell(f"{one}, devices {', '.join(map(str, some))}", start)
                    print(row(name, curve, level, learning, kept.of(one, given.chips), whole), flush=True)
    if given.figure is not None:
        drawn = [panel(kept, name, curve, levels[curve], given) for name in given.networks for curve in given.curves]
        given.figure.write_text(figure(drawn, len(given.curves), f"learning={given.learning[0]}"))


if __name__ == "__main__":
    main()
