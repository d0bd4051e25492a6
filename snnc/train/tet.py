r"""Temporal efficient training (Deng et al. 2022, arXiv 2202.11946): backpropagation through time of a loss per step.

    L = 1/T sum_t [(1 - m) loss(o[t], labels) + m * mean (o[t] - 1)^2]

Every step has to answer rightly, not only their mean: SLTT's loss (eq. 14), of whose gradient `sltt` takes a part and
this rule the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnc.ir import Graph
from snnc.pipeline import Context

from .losses import criterion
from .per_step import PerStep, host, predictions
from .readout import readout
from .trainer import Batch, Learner, from_loss


@dataclass(frozen=True)
class TET(PerStep):
    """Temporal efficient training."""

    name = "tet"

    def __post_init__(self) -> None:
        self.check()

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        scores = readout(graph, ctx.score)
        judge, norms = criterion(self, graph, scores, ctx), self.norms(graph)
        part = host(graph, scores)
        needed = {*part.inputs, *(value for n in graph.nodes if n.name in part.inputs for value in graph.values(n))}

        def loss(batch: Batch) -> Tensor:
            values = self.values(graph, batch, needed, norms)
            answers = predictions(graph, batch.params, values, scores)
            wanted = batch.labels.expand(len(answers), *batch.labels.shape).flatten(0, 1)
            return self.at_a_step(judge, answers.flatten(0, 1), wanted)

        return from_loss(loss)
