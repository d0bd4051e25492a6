r"""Local tandem learning, online (LTL section 2.2): layers learn while time goes by, and keep nothing of it.

    L_l[t] = mean (y_l / y_norm - C_l[t] / t)^2                                (eq. 9; the mean instead of the sum)
    dL_l[t] / dw_ij = zeta_i[t] * boxcar(U_i[t]) * S_j[t]                      (eq. 10, spikes of the same step)
    zeta_i[t] = dL_l[t] / dS_i[t] = -2/t * (y_i / y_norm - C_i[t] / t)         (eq. 11)

The potential, spike and count of the step before carry no gradient. The read-out learns at each step from the scores
that its running mean makes, sum * T / t. The losses of all steps behind the warm-up are summed; weights move once per
batch. A gradient is taken back at every step and what it needed is released (`snnc.sim.steps`), so memory does not grow
with T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snnc.ir import Array, Graph
from snnc.pipeline import Context
from snnc.sim.steps import Stepwise, boxed

from .local import Lesson, LocalRule
from .loop import loop
from .trainer import Batch, Learner, check


@dataclass(frozen=True)
class LTLOnline(LocalRule):
    """Online local tandem learning.

    Attributes:
        warm_up: the share of the T steps, rounded down, in which counts are too noisy to learn from: 12 of 16.
    """

    name = "ltl-online"

    warm_up: float = 0.75

    def __post_init__(self) -> None:
        check(self, **self.fine(), warm_up=0 <= self.warm_up < 1)

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        lesson = Lesson(self, graph, ctx)
        fitted = loop(self, self.begin(graph, ctx), ctx, self.taught(lesson))
        lesson.note_gates(fitted, ctx, self.first(graph))
        return fitted

    def first(self, graph: Graph) -> int:
        """The number of warm-up steps."""
        return int(self.warm_up * graph.steps)

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch.

        Raises:
            PipelineError: there is no teacher, or nothing that the losses fit.
        """
        return self.taught(Lesson(self, graph, ctx))

    def taught(self, lesson: Lesson) -> Learner:
        """The learner of a lesson."""
        graph, first = lesson.graph, self.first(lesson.graph)

        def learn(batch: Batch) -> Tensor:
            rates, answers = lesson.wanted(batch)
            run = Stepwise(graph, batch.params, {lesson.input: batch.x}, fire=boxed(self.width), detach=True)
            total = batch.x.new_zeros(())
            for t in range(1, graph.steps + 1):
                run.step(learn=t > first)
                if t <= first:
                    continue
                losses = lesson.local({layer: run.state.count[layer] / t for layer in lesson.layers}, rates)
                losses.append(lesson.answer(run.head(run.running())[lesson.scores], answers))
                loss = torch.stack(losses).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            run.finish()
            return total

        return learn
