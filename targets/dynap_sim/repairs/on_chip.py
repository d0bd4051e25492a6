"""Local tandem learning by the learning block of the chip, as `calibrate` does it: its form is the target's option, and
whether the host's read-out learns along, from the spikes of the last layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from snnc.data import Data
from snnc.pipeline import Progress, silent
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.train.targets import Targets

from .contract import Repair, Repaired, Traffic
from .observe import Observer

REAL_BYTES = 4
"""A target rate as a real number, of `learning=float`."""


@dataclass(frozen=True)
class OnChip(Repair):
    """One epoch of online local tandem learning. The host sends target rates."""

    name = "on-chip"

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        data.check(chip.artifact.graph)
        chip.learn(data.train, progress)
        layers = Targets(chip.artifact.graph, chip.teacher, chip.on).layers
        neurons = sum(math.prod(chip.graph[layer].type.shape) for layer in layers)
        target = chip.target
        size = REAL_BYTES if target.learning == "float" else target.chip.learning.target_bits / 8
        shown = Observer(chip, data.train.score).shown
        registers = chip.block.registers.values()
        return Repaired(
            chip,
            Traffic(
                events=sum(chip.fired[layer] for layer in shown) if target.readout == "labels" else 0,
                sent=math.ceil(neurons * size) * len(data.train),
                writes=sum(int(r.moved.sum(dtype=torch.float64)) for r in registers if not r.bias),
                settings=sum(int(r.moved.sum(dtype=torch.float64)) for r in registers if r.bias),
            ),
            data.train.score,
        )
