"""What a repair of a chip is, what it leaves behind, and what it moved between chip and host.

Traffic is what calibration adds: the samples themselves go to the chip in every repair and are not counted, nor is
the first programming of the network. Sizes are conventions [D], not measurements of an interface:

    EVENT_BYTES     an address event on its way to the host: neuron and time stamp in one word
    WRITE_BYTES     a synapse's new level: neuron, CAM word and level in one word
    SETTING_BYTES   an analog setting: where it is, and its value

A chip of this family shows its spikes and nothing else (no counter can be read), so whoever wants a neuron's count
must be sent its spikes, each of them one event.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from snnc import spec
from snnc.data import Data, Split
from snnc.ir import Array, Samples
from snnc.pipeline import Progress, silent
from snnc.score import Score
from snnc.sim.torch import exact, to_tensor
from snnc.targets.dynap_sim.bench import CHUNK, one_thread
from snnc.targets.dynap_sim.chip import DynapChip

from .observe import Observed, Observer

EVENT_BYTES, WRITE_BYTES, SETTING_BYTES = 4, 4, 8


@dataclass(frozen=True)
class Traffic:
    """What a repair moved, in all.

    Attributes:
        events: spikes that the host had to be sent.
        sent: bytes from the host to the chip.
        writes: changes of a synapse's level, whoever made them.
        settings: changes of analog settings (biases, thresholds of cores), whoever made them.
    """

    events: int = 0
    sent: int = 0
    writes: int = 0
    settings: int = 0

    @property
    def received(self) -> int:
        """Bytes from the chip to the host."""
        return self.events * EVENT_BYTES

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.events + other.events, self.sent + other.sent, self.writes + other.writes,
            self.settings + other.settings,
        )  # fmt: skip


Correction = Callable[[Observed], torch.Tensor]
"""What the host makes of what it sees: scores [N, ...], on the CPU or wherever the chip is simulated."""


@dataclass(frozen=True, eq=False)
class Repaired:
    """A chip after its repair, with what the host does to its answers.

    Attributes:
        chip: changed in place; `chip.state()` stores what was changed on it.
        traffic: of the repair.
        judged: what the data that it was repaired with are judged by.
        correct: the host's part, kept here alone; None where the host does what it did before.
    """

    chip: DynapChip
    traffic: Traffic
    judged: Score
    correct: Correction | None = None

    def run(self, x: Samples) -> Array:
        """Scores [N, ...] for inputs x [N, ...], or streams of events [N, T, ...]: the output before a softmax.

        Raises:
            TargetError: the samples do not fit.
        """
        self.chip.check(x)
        observer, parts = Observer(self.chip, self.judged), []
        with torch.inference_mode(), exact(), one_thread():
            for at in range(0, len(x), CHUNK):
                seen = observer(to_tensor(x[at : at + CHUNK], self.chip.on), at // CHUNK)
                parts.append((seen.scores if self.correct is None else self.correct(seen)).cpu().numpy())
        return np.concatenate(parts)

    def score(self, split: Split) -> float:
        """How well the chip does on these samples."""
        return self.judged.measure(self.run(split), split.labels)


@dataclass(frozen=True)
class Repair(ABC):
    """A way to repair one mismatched chip from calibration samples. Its fields are its options.

    Class attributes:
        name: in `REPAIRS`.
    """

    name: ClassVar[str]

    @abstractmethod
    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        """Repair `chip` in place by the training part of `data`; nothing else of the data is looked at.

        Repeatable: the same chip in the same state and the same data give the same bits.
        """

    def __str__(self) -> str:
        return spec.to_spec(self)


def batches(chip: DynapChip, split: Split, size: int) -> list[Array]:
    """The indices of all samples of a part in batches, in an order of the chip's own."""
    order = np.random.default_rng([chip.seed, *b"repair"]).permutation(len(split))
    return [order[at : at + size] for at in range(0, len(order), size)]
