r"""Per-core bias retuning: the host turns what a core has one of, its threshold, until the core fires as it should.

After every batch, for every core with n spikes of its neurons and m that the teacher wants (T * target rate; the
targets are those of the learning block), both summed over samples and neurons:

    theta_core <- theta_core * ((n + 1) / (m + 1)) ** rate,    a factor between 1/2 and 2

    over=active   n and m where the teacher wants half a spike or more
    over=all      everywhere: the core's mean count against the mean target. Mismatch makes neurons fire that should
                  be silent, and this pays for them with the spikes of those that should not

One number a core; all its neurons, of whatever layer, get it, mismatch and all. Neurons without a target (pools) are
turned along, not counted. A core's synaptic gain is the same knob but for the start potential, as dividing a neuron's
weights and threshold by one number changes no spike; a leak or a direct current that a core shares is not turned. The
step of the bias generator (0.4 to 3 %) is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snnc.data import Data
from snnc.errors import PipelineError, TargetError
from snnc.ir import Array, roles
from snnc.pipeline import Progress, silent
from snnc.sim.torch import exact, to_tensor
from snnc.targets.dynap_sim.bench import one_thread
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.cores import core_count
from snnc.targets.dynap_sim.layout import cores_of
from snnc.train.targets import Targets

from .contract import SETTING_BYTES, Repair, Repaired, Traffic, batches
from .observe import Observer

ACTIVE = 0.5
"""Spikes from which a neuron counts as one that should fire."""
MOST = 2.0
"""The largest factor of one step."""


@dataclass(frozen=True)
class CoreBias(Repair):
    """One threshold for each core, by the core's spike count.

    Attributes:
        over: which counts are compared, see the module.
        rate: the exponent of a step.
        batch: samples between two steps.
    """

    name = "core-bias"

    over: Literal["active", "all"] = "active"
    rate: float = 0.5
    batch: int = 128

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1 and self.batch >= 1):
            raise PipelineError(f"'{self.name}' cannot work with rate={self.rate}, batch={self.batch}")

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        data.check(chip.artifact.graph)
        profile = chip.target.chip
        if "threshold" not in profile.shared_per_core:
            raise TargetError(
                f"the neurons of a core of '{profile}' share no threshold to turn",
                hint="a profile with threshold in shared_per_core, or the repair in-the-loop",
            )
        cores = cores_of(chip.graph, chip.artifact.bundle, profile.neurons_per_core)
        targets = Targets(chip.artifact.graph, chip.teacher, chip.on)
        names = {layer: roles(chip.graph[layer], chip.graph.params)["theta"] for layer in cores}
        before = {name: chip.device.nominal[name].clone() for name in names.values()}
        gain, events, turned = np.ones(core_count(cores)), 0, 0
        observer = Observer(chip, data.train.score)
        for i, index in enumerate(batches(chip, data.train, self.batch)):
            progress(f"chip {chip.seed} is retuned", i * self.batch, len(data.train))
            with torch.inference_mode(), exact(), one_thread():
                x = to_tensor(data.train.x(index), chip.on)
                seen = observer(x, -1 - i)
                wanted = {layer: rate * chip.graph.steps for layer, rate in targets(x).items()}
                sent, right = np.zeros(len(gain)), np.zeros(len(gain))
                for layer, target in wanted.items():
                    counts = target >= (ACTIVE if self.over == "active" else 0)
                    _add_up(sent, cores[layer], seen.counts[layer] * counts)
                    _add_up(right, cores[layer], target * counts)
            step = (((sent + 1) / (right + 1)) ** self.rate).clip(1 / MOST, MOST)
            gain, events, turned = gain * step, events + seen.events, turned + int((step != 1).sum())
            for layer, name in names.items():
                factor = torch.tensor(gain[cores[layer]], dtype=torch.float32, device=chip.on)
                chip.device.nominal[name] = before[name] * factor
        return Repaired(chip, Traffic(events=events, sent=turned * SETTING_BYTES, settings=turned), data.train.score)


def _add_up(total: Array, core: Array, values: Tensor) -> None:
    """Add values [N, ...] of a layer to the totals of its neurons' cores."""
    np.add.at(total, core.reshape(-1), values.sum(0).double().cpu().numpy().reshape(-1))
