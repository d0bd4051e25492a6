"""What rules share that take one loss at the output back through all layers, with a surrogate for dS/dU."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Array, Graph
from snnc.pipeline import Context
from snnc.sim.neurons import Surrogate
from snnc.sim.torch import forward, to_tensor

from .batchnorm import BatchNorm, norms_of
from .local import random_weights
from .loop import loop
from .losses import MEASURED, Labelled
from .parallel import processes
from .readout import check_classes, readout
from .trainer import Batch, Learner


@dataclass(frozen=True)
class EndToEnd(Labelled):
    """A rule that learns from the labels alone.

    Attributes:
        width: the surrogate's p relative to theta.
        surrogate: what stands for dS/dU, see `snnc.sim.neurons`.
        start: from the weights as they are, or from random ones.
        batchnorm: in training a batch norm per time step behind every layer with weights (`snnc.train.batchnorm`).
    """

    width: float = 1.0
    surrogate: Surrogate = "triangle"
    start: Literal["converted", "random"] = "converted"
    batchnorm: bool = False

    def fine(self) -> dict[str, bool]:
        """Whether the options that all such rules have can be worked with, by name; for `check`.

        Raises:
            PipelineError: batch norm does not go together with another option.
        """
        if self.batchnorm and self.standardize:
            raise PipelineError(
                f"'{self.name}' cannot have both batchnorm and standardize: each fixes the scale of the weights",
                hint="one of them",
            )
        if self.batchnorm and self.batch == 1:
            raise PipelineError(f"'{self.name}' cannot normalize over a batch of one", hint="batch=2 or more")
        return {"width": 0 < self.width < math.inf}

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        check_classes(self.name, graph, readout(graph, ctx.score), ctx.score)
        norms, learner = self.norms(graph), self.learner(graph, ctx)
        if self.start == "random":
            graph = graph.edit(params=random_weights(graph, ctx.rng(self.name)))
        if not norms:
            return loop(self, graph, ctx, learner)
        x = to_tensor(ctx.training(self.name).take(MEASURED).x(), ctx.device)
        if len(x) == 1:
            raise PipelineError(f"'{self.name}' cannot normalize over a single training sample")
        graph = norms.spread(graph, x) if self.start == "random" else graph
        return loop(self, graph, ctx, learner, norms.units(graph), beside=norms.begin(graph, x))

    def norms(self, graph: Graph) -> BatchNorm:
        """The batch norms of the network in training; none unless they were asked for.

        Raises:
            PipelineError: they cannot be folded into their layers; or several processes share a batch.
        """
        if self.batchnorm and processes() > 1:
            raise PipelineError(
                f"'{self.name}' with batchnorm=true normalizes over the whole batch, of which each process has a share",
                hint="batchnorm=false, or one process",
            )
        return BatchNorm(norms_of(graph, self.name) if self.batchnorm else ())

    @abstractmethod
    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch."""

    def values(self, graph: Graph, batch: Batch, needed: Container[str], norms: BatchNorm) -> dict[str, Tensor]:
        """What the network makes of a batch through all its steps, differentiable, with the rule's surrogate.

        Args:
            needed: the values to give back besides the outputs, by node name.

        Returns:
            By node name: analog and decoded [N, ...], currents and spikes [T or 1, N, ...].
        """
        (name,) = graph.inputs
        work = norms.on(batch)
        made = forward(
            graph,
            batch.params,
            {name: batch.x},
            width=self.width,
            surrogate=self.surrogate,
            keep=lambda node: node.name in needed,
            normalize=work.by_node,
        )
        work.remember()
        return made
