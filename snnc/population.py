"""The same artifact on many devices, no two of them alike: each judged before and after it has calibrated itself.

Devices 0, 1, ... are tried in order, in each process that torchrun started as many at once as the target can. Nothing
of one device depends on another, so neither these numbers nor an interruption change a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .artifact import Bundle, canonical
from .data import Data
from .errors import ArtifactError, DataError
from .pipeline import Progress, silent, single
from .report.population import chart
from .score import Score
from .target import Artifact
from .train import parallel

CHIP_SAMPLES = 1000
"""Test samples that every chip of a population is judged on."""
NORMAL = 1.96
"""Standard errors of a 95 % interval."""


@dataclass(frozen=True)
class Spread:
    """A population's figures in short.

    Attributes:
        sd: the sample standard deviation; 0 of a single device.
        share: of the devices at the floor or better, if there is a floor; of all there are within `interval` (95 %).
    """

    mean: float
    sd: float
    worst: float
    best: float
    share: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float], score: Score, floor: float | None = None) -> Spread:
        """Of one figure a device."""
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        made = cls(float(np.mean(values)), sd, *score.ends(values))
        if floor is None:
            return made
        good = sum(not score.better(floor, value) for value in values)
        return replace(made, share=good / len(values), interval=wilson(good, len(values)))

    def text(self, score: Score) -> str:
        """Worst, best and deviation in a sentence."""
        sd = f", sd {score.text(self.sd).removesuffix(' %')}" if self.sd else ""
        return f"worst {score.brief(self.worst)}, best {score.brief(self.best)}{sd}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = {"mean": self.mean, "sd": self.sd, "worst": self.worst, "best": self.best}
        if self.share is not None and self.interval is not None:
            found |= {"yield": self.share, "interval": list(self.interval)}
        return found


def wilson(good: int, count: int) -> tuple[float, float]:
    r"""The 95 % interval of a share of which `good` of `count` were seen (Wilson's score interval, 1927).

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)
    """
    share, part = good / count, NORMAL**2 / count
    middle, half = share + part / 2, NORMAL * math.sqrt(share * (1 - share) / count + part / (4 * count))
    return max(0.0, (middle - half) / (1 + part)), min(1.0, (middle + half) / (1 + part))


@dataclass(frozen=True)
class Population:
    """What devices 0, 1, ... reached on test samples.

    Attributes:
        artifact, data: digests of what ran on them, and of what they learned from and were judged on.
        epochs: of calibration.
        samples: of the test part that each was judged on.
        before, after: one figure a device.
    """

    artifact: str
    data: str
    epochs: int
    samples: int
    score: Score
    before: tuple[float, ...] = ()
    after: tuple[float, ...] = ()

    @property
    def chips(self) -> list[dict[str, Any]]:
        """One dict a device."""
        pairs = zip(self.before, self.after, strict=True)
        return [{"seed": seed, "before": before, "after": after} for seed, (before, after) in enumerate(pairs)]

    def to_json(self, floor: float | None = None) -> dict[str, Any]:
        """Plain data: every device, and both spreads."""
        return {
            "artifact": self.artifact, "data": self.data, "epochs": self.epochs, "samples": self.samples,
            "score": self.score.name, "floor": floor, "chips": self.chips,
            "before": Spread.of(self.before, self.score, floor).to_json(),
            "after": Spread.of(self.after, self.score, floor).to_json(),
        }  # fmt: skip

    def bundle(self, floor: float | None = None) -> Bundle:
        """As files: `yield.json` and the figure `yield.svg`."""
        drawn = chart(self.before, self.after, self.score, floor)
        return Bundle("yield", {"yield.json": canonical(self.to_json(floor)), "yield.svg": drawn.encode()})

    def goes_on(self, bundle: Bundle) -> Population:
        """This population, with the devices that an interrupted measurement has already tried.

        Raises:
            ArtifactError: it measured something else.
        """
        found = bundle.json("yield.json")
        try:
            known = {key: found[key] for key in ("artifact", "data", "epochs", "samples", "score")}
            before, after = (tuple(float(chip[key]) for chip in found["chips"]) for key in ("before", "after"))
        except (KeyError, TypeError, ValueError):
            raise ArtifactError("yield.json is damaged") from None
        mine = {key: getattr(self, key) for key in known} | {"score": self.score.name}
        if other := [f"{key} {known[key]}, not {mine[key]}" for key in known if known[key] != mine[key]]:
            raise ArtifactError(f"was measured with {'; '.join(other)}", hint="another --out, or --restart")
        return replace(self, before=before, after=after)


def known_in(folder: Path | None) -> Bundle | None:
    """What an interrupted measurement has left in its folder, if there is one and it holds anything.

    Raises:
        ArtifactError: it holds something else, or is damaged.
    """
    held = folder is not None and folder.is_dir() and any(folder.iterdir())
    return Bundle.read(folder, "yield") if folder is not None and held else None


def population(
    artifact: Artifact,
    data: Data,
    chips: int,
    *,
    epochs: int = 1,
    device: str = "cpu",
    progress: Progress = silent,
    known: Bundle | None = None,
    keep: Callable[[Population], None] | None = None,
) -> Population:
    """Try the artifact on devices 0 .. chips-1.

    Args:
        known: what an interrupted measurement of the same left: its devices are not tried again.
        keep: told of the population whenever it has grown; in the first process only.

    Raises:
        DataError: the data do not fit the network, or there are no test samples.
        ArtifactError: `known` is of another measurement.
    """
    if chips < 1 or epochs < 0:
        raise DataError(f"a population of {chips} chips, calibrated for {epochs} epochs, cannot be measured")
    data.check(artifact.graph)
    test = data.test.take(CHIP_SAMPLES)
    made = Population(artifact.digest, data.digest, epochs, len(test), data.test.score)
    made = made if known is None else made.goes_on(known)
    made = replace(made, before=made.before[:chips], after=made.after[:chips])
    most = artifact.at_once(device)
    while len(made.before) < chips:
        done = len(made.before)
        progress("devices", done, chips)
        rounds = -(-(chips - done) // (most * parallel.processes()))
        each = -(-(chips - done) // (rounds * parallel.processes()))
        count = min(each * parallel.processes(), chips - done)
        figures = torch.zeros(count, 2, dtype=torch.float64)
        own = slice(parallel.rank() * each, min((parallel.rank() + 1) * each, count))
        if own.start < own.stop:
            seeds = range(done + own.start, done + own.stop)
            figures[own] = torch.tensor(_tried(artifact, data, seeds, epochs, device, progress))
        parallel.add_up([figures], 1.0)
        before, after = (tuple(map(made.score.rounded, column)) for column in figures.T.tolist())
        made = replace(made, before=made.before + before, after=made.after + after)
        if keep is not None and parallel.is_first():
            keep(made)
    return made


def _tried(
    artifact: Artifact, data: Data, seeds: Sequence[int], epochs: int, device: str, progress: Progress
) -> list[tuple[float, float]]:
    """What every one of some devices reaches before and after calibration."""
    test, score, bench = data.test.take(CHIP_SAMPLES), data.test.score, artifact.bench(seeds, device)

    def judged() -> list[float]:
        return [score.measure(single(made), test.labels) for made in bench.run(test, progress)]

    before = judged()
    if not epochs:
        return list(zip(before, before, strict=True))
    bench.calibrate(data, epochs, progress)
    return list(zip(before, judged(), strict=True))
