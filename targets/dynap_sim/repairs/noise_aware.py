r"""Noise-aware training before deployment: a new device is drawn for every batch, none of them is a real chip.

    w, theta, alpha  ->  what the device of that batch makes of them     (mismatch as the target models it, defects too)

forward and backward, through time with a surrogate gradient; the gradient of what is realised goes to what is set
(multiplicative weight noise as of Buechel et al. 2021 and of hardware-aware training elsewhere, with the very
distribution that chips are drawn from). The host's read-out learns along. All chips get the same
levels: nothing is known of the individual.
Noise that is fresh at every step, dead neurons and circuits are not drawn: neurons are the discrete ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from snnc.data import Data
from snnc.errors import TargetError
from snnc.pipeline import Context, Progress, silent
from snnc.targets.dynap_sim.answers import host_params, host_units
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.device import Device
from snnc.targets.dynap_sim.noise import Noise
from snnc.train import BPTT, Batch

from .contract import Repair, Repaired, Traffic
from .host import train
from .program import program

NO_CHIP = 2**32
"""Seeds of devices from here on are those of training; a chip's are below."""


@dataclass(frozen=True)
class NoiseAware(Repair):
    """Training on devices that are drawn anew for every batch.

    Attributes:
        rate, batch, epochs: of the optimizer, as of the rule `bptt`.
        seed: of the training; not the chip's.
    """

    name = "noise-aware"

    rate: float = 1e-2
    batch: int = 16
    epochs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self._rule()

    def _rule(self) -> BPTT:
        return BPTT(epochs=self.epochs, batch=self.batch, rate=self.rate)

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        _check_wiring(chip)
        return self.deploy(chip, data, self.levels(chip, data, progress))

    def levels(self, chip: DynapChip, data: Data, progress: Progress = silent) -> dict[str, Tensor]:
        """What every chip of this artifact is to be set to: train once, `deploy` on many; by param name.

        Args:
            chip: any of them; what it was set to or repaired to before plays no part.
        """
        data.check(chip.artifact.graph)
        graph, rule = chip.graph, self._rule()
        drawn = chip.device.model
        model = replace(drawn, noise=Noise(defects=drawn.noise.defects), circuit=None)
        learn = rule.learner(graph, Context(data, chip.teacher, self.seed, chip.on))

        def on_a_device(batch: Batch) -> Tensor:
            device = Device(graph, NO_CHIP + int(batch.rng.integers(2**32)), model, chip.on, chip.device.sites)
            device.nominal = dict(batch.params)
            return learn(replace(batch, params=device.params()))

        return train(rule, graph, chip, data, on_a_device, progress, self.seed, host_units(graph))

    def deploy(self, chip: DynapChip, data: Data, levels: Mapping[str, Tensor]) -> Repaired:
        """Program a chip with trained levels. They take the place of the first programming, which is not counted.

        Raises:
            TargetError: the chip has connections that the artifact has not.
        """
        _check_wiring(chip)
        program(chip, levels)
        chip.device.nominal |= {name: levels[name] for name in host_params(chip.graph)}
        return Repaired(chip, Traffic(), data.train.score)


def _check_wiring(chip: DynapChip) -> None:
    if chip.settings.moved():
        raise TargetError("words of this chip were moved since it was deployed", hint="noise-aware first")
