r"""Local tandem learning, online (LTL section 2.2): layers learn while time goes by, and keep nothing of it.

    L_l[t] = mean (y_l / y_norm - C_l[t] / t)^2                                (eq. 9; the mean instead of the sum)
    dL_l[t] / dw_ij = zeta_i[t] * boxcar(U_i[t]) * S_j[t]                      (eq. 10, spikes of the same step)
    zeta_i[t] = dL_l[t] / dS_i[t] = -2/t * (y_i / y_norm - C_i[t] / t)         (eq. 11)

The potential, spike and count of the step before carry no gradient. The read-out learns at each step from the scores
that its running mean makes, sum * T / t. The losses of all steps behind the warm-up are summed; weights move once per
batch. Eq. 10 and 11 give the error of every current in closed form; autograd only leads it on to the weights, at every
step, and what that needed is released (`snnc.sim.steps`), so memory does not grow with T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snnc.ir import Array, Graph, Node
from snnc.pipeline import Context
from snnc.sim.neurons import boxcar
from snnc.sim.steps import Stepwise

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
            run, sums = Stepwise(graph, batch.params, {lesson.input: batch.x}), dict[str, Tensor]()

            def alone(node: Node, current: Tensor) -> Tensor:
                sums[node.name] = current
                return current.detach()

            run.state.disturb["current"] = alone
            total = batch.x.new_zeros(())
            for t in range(1, graph.steps + 1):
                run.step(learn=t > first)
                if t <= first:
                    continue
                answer = lesson.answer(run.head(run.running())[lesson.scores], answers)
                total += answer.detach()
                ways = [(answer, torch.ones_like(answer))]
                for layer, rate in rates.items():
                    missed = torch.sub(rate, run.state.count[layer], alpha=1 / t)
                    total += missed.square().mean()
                    slope = boxcar(run.state.potential[layer], run.theta(layer), self.width)
                    ways.append((sums[layer], slope.mul_(missed).mul_(-2 / (t * rate.numel()))))
                made, errors = zip(*(way for way in ways if way[0].requires_grad), strict=True)
                torch.autograd.backward(made, errors)
            run.finish()
            return total

        return learn
