"""Words that listen to silent neurons are given to others: `snnc.targets.dynap_sim.rewiring`, which has the algebra."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.pipeline import Progress, silent
from snnc.sim.torch import exact, to_tensor
from snnc.targets.dynap_sim.bench import CHUNK, one_thread
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.rewiring import RIDGE, rewired
from snnc.train.targets import Targets

from .contract import WRITE_BYTES, Repair, Repaired, Traffic, batches


@dataclass(frozen=True)
class Rewire(Repair):
    """Words of silent sources go to living ones.

    Attributes:
        samples: of the training part that the host watches for each layer.
        ridge: of the regression that sets them.
    """

    name = "rewire"

    samples: int = 500
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        if not (self.samples >= 2 and 0 < self.ridge < math.inf):
            raise PipelineError(f"'{self.name}' cannot work with samples={self.samples}, ridge={self.ridge}")

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        data.check(chip.artifact.graph)
        chosen = batches(chip, data.train, self.samples)[0]
        targets = Targets(chip.artifact.graph, chip.teacher, chip.on)
        with torch.inference_mode(), exact(), one_thread():
            parts = [chosen[at : at + CHUNK] for at in range(0, len(chosen), CHUNK)]
            x = [to_tensor(data.train.x(part), chip.on) for part in parts]
            moved = rewired(chip.settings, x, targets, self.ridge, progress)
        traffic = Traffic(events=moved.events, sent=moved.words * WRITE_BYTES, writes=moved.words)
        return Repaired(chip, traffic, data.train.score)
