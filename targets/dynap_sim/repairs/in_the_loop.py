r"""Host-in-the-loop training: the chip runs forward, the host makes gradients and writes levels back.

Every spike leaves the chip and is counted by the host, batch by batch. With c the counts that were observed and W, b,
theta what the parts are *set to* (what mismatch made of them is not known), the gradient is that of the analog layers
(tandem learning, section II-D; `snnc.train.coupled`):

    V = W c + b,   dc/dV = 1/theta where 0 < V + u0 < T theta

which neurons that are reset to zero have no more than about: they lose a part of what drives them.

    error=labels    dE/dV goes back through all layers, E the loss of the scores that the host read out
    error=layers    every layer alone: E = sum of ((c - T r) / T)^2, r the target rates of the learning block

    readout=labels  the host's read-out learns from the scores meanwhile, as it does with the learning block

Adam updates weights at full precision on the host, in the units of `snnc.train.units`; what changed its level is
written. `error=layers` is local tandem learning with the chip as its forward pass, without its on-chip block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from snnc.data import Data
from snnc.ir import Node
from snnc.pipeline import Context, Progress, silent
from snnc.targets.dynap_sim.answers import Answers, host_params
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.train import Batch, Tandem
from snnc.train.coupled import Coupled, check_neurons, instead
from snnc.train.losses import criterion
from snnc.train.targets import Targets
from snnc.train.trainer import Learner, from_loss

from .contract import Repair, Repaired, Traffic
from .host import train
from .observe import Observed, Observer
from .program import program, set_to


@dataclass(frozen=True)
class InTheLoop(Repair):
    """Surrogate gradients on observed spikes, for this one chip.

    Attributes:
        error, readout: see the module.
        rate, batch, epochs: of the optimizer, as of the rule `tandem`.
    """

    name = "in-the-loop"

    error: Literal["labels", "layers"] = "labels"
    readout: Literal["labels", "fixed"] = "labels"
    rate: float = 1e-2
    batch: int = 16
    epochs: int = 1

    def __post_init__(self) -> None:
        self._rule()

    def _rule(self) -> Tandem:
        """The options that it has in common with tandem learning."""
        return Tandem(epochs=self.epochs, batch=self.batch, rate=self.rate)

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        data.check(chip.artifact.graph)
        graph = set_to(chip)
        check_neurons(graph, self.name, observed=True)
        updates = self.epochs * -(-len(data.train) // self.batch)
        answers = None
        if self.readout == "labels":
            answers = Answers(chip.graph, chip.device.nominal, data.train.score, self.rate, updates)
        loop = _Loop(chip, data, answers)
        gradient = loop.by_layers if self.error == "layers" else loop.by_labels(self._rule())
        found = train(self._rule(), graph, chip, data, gradient, progress, chip.seed)
        return Repaired(chip, loop.traffic + program(chip, found), data.train.score)


class _Loop:
    """The chip's part of every update.

    Attributes:
        traffic: so far.
    """

    def __init__(self, chip: DynapChip, data: Data, answers: Answers | None = None) -> None:
        self.chip, self.data, self.answers = chip, data, answers
        self.observer = Observer(chip, data.train.score)
        self.coupled = Coupled(set_to(chip), data.train.score)
        self.targets = Targets(chip.artifact.graph, chip.teacher, chip.on)
        self.traffic, self.runs = Traffic(), 0

    def by_labels(self, rule: Tandem) -> Learner:
        """The gradient of the loss of the scores."""
        ctx = Context(self.data, self.chip.teacher, self.chip.seed, self.chip.on)
        judge = criterion(rule, self.coupled.graph, self.coupled.scores, ctx)

        def loss(batch: Batch) -> Tensor:
            read_out = self._read_out()
            seen = self._seen(batch)
            values = self.coupled.totals(
                {**batch.params, **read_out}, batch.x,
                lambda node, charge: self._counts(node, charge, seen, batch.params),
            )  # fmt: skip
            return judge(instead(seen.scores, values[self.coupled.scores]), batch.labels)

        return from_loss(loss)

    def by_layers(self, batch: Batch) -> Tensor:
        """The gradients of every layer's own error."""
        seen, steps = self._seen(batch), self.coupled.graph.steps
        wanted, errors = self.targets(batch.x), []

        def counts(node: Node, charge: Tensor) -> Tensor:
            if node.name in wanted:
                away = self._counts(node, charge, seen, batch.params) / steps - wanted[node.name]
                errors.append(away.square().flatten(1).sum(1).mean())
            return seen.counts[node.name]

        self.coupled.totals(batch.params, batch.x, counts)
        error = torch.stack(errors).sum()
        error.backward()  # type: ignore[no-untyped-call]
        return error.detach()

    def _seen(self, batch: Batch) -> Observed:
        """Write the levels, run the batch on the chip."""
        self.traffic += program(self.chip, batch.params)
        self.runs += 1
        seen = self.observer(batch.x, -self.runs)
        self.traffic += Traffic(events=seen.events)
        if self.answers is not None:
            self.answers.learn(seen.values, batch.labels)
        return seen

    def _read_out(self) -> dict[str, Tensor]:
        """What the host reads out with now."""
        return {name: self.chip.device.nominal[name] for name in host_params(self.chip.graph)}

    def _counts(self, node: Node, charge: Tensor, seen: Observed, params: Mapping[str, Tensor]) -> Tensor:
        """What was observed, with the gradient of the analog layer."""
        return instead(seen.counts[node.name], self.coupled.slope(node, charge, params, "bounded"))
