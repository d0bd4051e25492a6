r"""Local tandem learning, online (LTL section 2.2): layers learn while time goes by, and keep nothing of it.

    L_l[t] = mean (y_l / y_norm - C_l[t] / t)^2                                (eq. 9; the mean instead of the sum)
    dL_l[t] / dw_ij = zeta_i[t] * boxcar(U_i[t]) * S_j[t]                      (eq. 10, spikes of the same step)
    zeta_i[t] = dL_l[t] / dS_i[t] = -2/t * (y_i / y_norm - C_i[t] / t)         (eq. 11)

The potential, spike and count of the step before carry no gradient. The read-out learns at each step from the scores
that its running mean makes, sum * T / t. The losses of all steps behind the warm-up are summed; weights move once per
batch. Eq. 10 and 11 give the error of every current in closed form; autograd only leads it on to the weights, after
every chunk of steps, and what that needed is released (`snnc.sim.chunks`), so memory does not grow with T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from snnc.ir import Array, Graph, Node
from snnc.pipeline import Context
from snnc.sim.chunks import Chunk
from snnc.sim.neurons import boxcar
from snnc.sim.steps import Stepwise

from .local import Lesson, LocalRule
from .loop import loop
from .per_step import alike, answers, host
from .trainer import Batch, Learner, check


@dataclass(frozen=True)
class LTLOnline(LocalRule):
    """Online local tandem learning.

    Attributes:
        warm_up: the share of the T steps, rounded down, in which counts are too noisy to learn from: 12 of 16.
        chunk: steps that run at once: more are faster, and kept for the way back together.
    """

    name = "ltl-online"

    warm_up: float = 0.75
    chunk: int = 4

    def __post_init__(self) -> None:
        check(self, **self.fine(), warm_up=0 <= self.warm_up < 1, chunk=self.chunk >= 1)

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        lesson = Lesson(self, graph, ctx)
        fitted = loop(self, self.begin(graph, ctx), ctx, self.taught(lesson), beside=lesson.beside)
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
        part = host(graph, lesson.scores)

        def learn(batch: Batch) -> Tensor:
            rates, right = lesson.wanted(batch)
            run, sums = Stepwise(graph, batch.params, {lesson.input: batch.x}), dict[str, Tensor]()

            def alone(node: Node, current: Tensor) -> Tensor:
                sums[node.name] = current
                return current.detach()

            run.state.intercept = alone
            total = batch.x.new_zeros(())
            for learns, count in alike([t > first for t in range(1, graph.steps + 1)], self.chunk):
                before = dict(run.state.count)
                made = run.chunk(count, learns)
                if not learns:
                    continue
                scores = answers(part, batch.params, run.state.values, run.runnings(made))
                wanted = right.expand(count, *right.shape).flatten(0, 1)
                answer = lesson.answer(scores.flatten(0, 1), wanted) * count
                total += answer.detach().to(total.device)
                ways = [(answer, torch.ones_like(answer))]
                for layer, rate in rates.items():
                    total += self._errors(made, layer, rate, before[layer], run.theta(layer)).to(total.device)
                    error = made.potential[layer]
                    ways.append((sums[layer], error.sum(0, keepdim=True) if len(sums[layer]) == 1 else error))
                ends, errors = zip(*(way for way in ways if way[0].requires_grad), strict=True)
                torch.autograd.backward(ends, errors)
            run.finish()
            return total

        return learn

    def _errors(self, made: Chunk, layer: str, rate: Tensor, count: Tensor, theta: Tensor) -> Tensor:
        """The losses of a layer, summed over a chunk; the potentials become the errors of its currents (eq. 10, 11).

        Args:
            rate: the target [N, ...].
            count: of spikes before the chunk [N, ...].
        """
        potential, total = made.potential[layer], theta.new_zeros(())
        for i, spikes in enumerate(made.values[layer]):
            t, count = made.first + 1 + i, count + spikes
            missed = torch.sub(rate.to(count.device), count, alpha=1 / t)
            total += missed.square().mean()
            slope = boxcar(potential[i], theta, self.width)
            torch.mul(slope.mul_(missed), -2 / (t * rate.numel()), out=potential[i])
        return total
