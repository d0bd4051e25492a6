r"""Spatial learning through time (SLTT, Algorithm 1): every step's gradient alone, at once, in constant memory.

    dL/dW_l = sum_t e_l[t] S_{l-1}[t]^T                                                        (eq. 12)
    e_l[t]  = dl/dS_l[t] * dS_l/dU_l     and     e_l[t] = e_{l+1}[t] dU_{l+1}/dS_l * dS_l/dU_l   (eq. 13)

with the loss per step of `snnc.train.per_step`: the potential that neurons carry over from the last step is cut off
from what made it, so that leak and reset carry no gradient. Little is lost where the leak is strong (the paper's
lambda, our alpha, is 0.09 there), nothing where T = 1, or where alpha = 0 and the reset decays with the potential.

SLTT-K (`k`): only k steps, drawn anew for every batch, are learned from; the loss keeps its factor 1/T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.pipeline import Context
from snnc.sim.steps import Stepwise

from .losses import criterion
from .per_step import PerStep, alike, answers, counted, host
from .readout import readout
from .trainer import Batch, Learner


@dataclass(frozen=True)
class SLTT(PerStep):
    """Spatial learning through time.

    Attributes:
        k: the steps of each batch that are learned from; 0: all.
        chunk: steps that run at once: more are faster, and kept for the way back together.
    """

    name = "sltt"

    k: int = 0
    chunk: int = 4

    def __post_init__(self) -> None:
        self.check(k=self.k >= 0, chunk=self.chunk >= 1)

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch.

        Raises:
            PipelineError: `k` is more than there are steps.
        """
        steps = counted(graph)
        if self.k > len(steps):
            raise PipelineError(
                f"'sltt' cannot learn from k={self.k} of {len(steps)} steps", hint=f"k=1 to {len(steps)}, or 0 for all"
            )
        (name,) = graph.inputs
        scores = readout(graph, ctx.score)
        part = host(graph, scores)
        judge, norms = criterion(self, graph, scores, ctx), self.norms(graph)

        def learn(batch: Batch) -> Tensor:
            chosen = set(steps if self.k == 0 else batch.rng.choice(steps, self.k, replace=False).tolist())
            work, x = norms.on(batch), {name: batch.x}
            run = Stepwise(graph, batch.params, x, width=self.width, surrogate=self.surrogate, normalize=work.by_node)
            losses, kinds = [], [(t in steps, t in chosen) for t in range(1, graph.steps + 1)]
            for (counts, learns), count in alike(kinds, self.chunk):
                made = run.chunk(count, learns, counting=False)
                if not counts:
                    continue
                with torch.set_grad_enabled(learns):
                    answer = answers(part, batch.params, run.state.values, run.presents(made))
                    wanted = batch.labels.expand(count, *batch.labels.shape).flatten(0, 1)
                    losses.append(self.at_a_step(judge, answer.flatten(0, 1), wanted) * (count / len(steps)))
                if learns:
                    losses[-1].backward()  # type: ignore[no-untyped-call]
            run.finish()
            work.remember()
            return torch.stack([loss.detach() for loss in losses]).sum()

        return learn
