r"""Backpropagation through time with surrogate gradients (STBP; SLTT section 3.2): the yardstick of the other rules.

    L = loss(what the network decodes, labels)          (SLTT eq. 4; `snnc.train.losses`)

The gradient is the chain rule's own through all layers and all T steps, leak and reset included (eq. 7 to 10); only
dS/dU is a surrogate (eq. 5 and 6). What is kept for the way back grows with T.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from snnc.ir import Graph
from snnc.pipeline import Context

from .end_to_end import EndToEnd
from .losses import criterion
from .readout import readout
from .trainer import Batch, Learner, check, from_loss


@dataclass(frozen=True)
class BPTT(EndToEnd):
    """Backpropagation through time."""

    name = "bptt"

    def __post_init__(self) -> None:
        check(self, **self.fine())

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch."""
        scores = readout(graph, ctx.score)
        judge, norms = criterion(self, graph, scores, ctx), self.norms(graph)

        def loss(batch: Batch) -> Tensor:
            return judge(self.values(graph, batch, {scores}, norms)[scores], batch.labels)

        return from_loss(loss)
