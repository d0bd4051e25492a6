r"""Repairs that leave the chip as it is: the host fits its own part to what the chip sends.

With o the chip's scores, t the teacher's, on the calibration samples, by least squares:

    per=class      o_k -> a_k o_k + b_k,   a_k = Cov(o_k, t_k) / Var(o_k),   b_k = E t_k - a_k E o_k
    per=network    o -> a o,               a = sum o t / sum o^2      (Buechel et al. 2021 refit one gain; of scores of
                                           classes it changes no answer, of signals it may)
    read-out       o -> o + D c + d,       c the spike counts that the read-out reads; ridge regression of what the
                                           scores lack, `snnc.sim.ridge`

The host needs the output spikes only, which it is sent anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnc.data import Data
from snnc.pipeline import Progress, silent
from snnc.sim.ridge import remedy
from snnc.sim.torch import exact, forward, tensors, to_tensor
from snnc.targets.dynap_sim.bench import CHUNK, one_thread
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.train.readout import readout

from .contract import Repair, Repaired, Traffic, batches
from .observe import Observed, Observer


@dataclass(frozen=True)
class Nothing(Repair):
    """The chip as it was programmed."""

    name = "none"

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        return Repaired(chip, Traffic(), data.train.score)


@dataclass(frozen=True)
class OutputGain(Repair):
    """A gain and an offset of every output, or one gain for all.

    Attributes:
        per: see the module.
    """

    name = "output-gain"

    per: Literal["class", "network"] = "class"

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        _, scores, wanted, traffic = _answers(chip, data, progress)
        if self.per == "class":
            mean, want = scores.mean(0), wanted.mean(0)
            spread = scores - mean
            varies = spread.square().sum(0)
            gain = torch.where(varies > 0, (spread * (wanted - want)).sum(0) / varies.clamp(min=1e-300), 1.0)
            offset = want - gain * mean
        else:
            size = float(scores.square().sum())
            gain = torch.tensor(float((scores * wanted).sum()) / size if size > 0 else 1.0, dtype=torch.float64)
            offset = torch.zeros((), dtype=torch.float64)

        def correct(seen: Observed) -> Tensor:
            made = seen.scores.double() * gain.to(seen.scores.device) + offset.to(seen.scores.device)
            return made.to(seen.scores.dtype)

        return Repaired(chip, traffic, data.train.score, correct)


@dataclass(frozen=True)
class ReadOut(Repair):
    """The whole read-out, weights and all."""

    name = "read-out"

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        read, scores, wanted, traffic = _answers(chip, data, progress)
        change, offset = remedy(read, (wanted - scores).flatten(1))

        def correct(seen: Observed) -> Tensor:
            more = seen.read @ change.to(seen.read).T + offset.to(seen.read)
            return seen.scores + more.reshape(seen.scores.shape)

        return Repaired(chip, traffic, data.train.score, correct)


def _answers(chip: DynapChip, data: Data, progress: Progress) -> tuple[Tensor, Tensor, Tensor, Traffic]:
    """Of all calibration samples: what the read-out reads [N, K], the chip's scores and the teacher's [N, ...]."""
    data.check(chip.artifact.graph)
    observer, teacher = Observer(chip, data.train.score), chip.teacher
    theirs, wanted = tensors(teacher, chip.on), readout(teacher, data.train.score)
    read, scores, right, events = [], [], [], 0
    with torch.inference_mode(), exact(), one_thread():
        for i, index in enumerate(batches(chip, data.train, CHUNK)):
            progress(f"chip {chip.seed} answers", i * CHUNK, len(data.train))
            x = to_tensor(data.train.x(index), chip.on)
            seen = observer(x, -1 - i)
            made = forward(teacher, theirs, {next(iter(teacher.inputs)): x}, keep=lambda node: node.name == wanted)
            read.append(seen.read.double())
            scores.append(seen.scores.double())
            right.append(made[wanted].double())
            events += seen.shown_events
    return torch.cat(read), torch.cat(scores), torch.cat(right), Traffic(events=events)
