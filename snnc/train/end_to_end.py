"""What rules share that take one loss at the output back through all layers, with a surrogate for dS/dU."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from snnc.ir import Array, Graph
from snnc.pipeline import Context
from snnc.sim.neurons import Surrogate
from snnc.sim.torch import forward

from .local import random_weights
from .loop import loop
from .losses import Labelled
from .readout import check_classes, readout
from .trainer import Batch, Learner


@dataclass(frozen=True)
class EndToEnd(Labelled):
    """A rule that learns from the labels alone.

    Attributes:
        width: the surrogate's p relative to theta.
        surrogate: what stands for dS/dU, see `snnc.sim.neurons`.
        start: from the weights as they are, or from random ones.
    """

    width: float = 1.0
    surrogate: Surrogate = "triangle"
    start: Literal["converted", "random"] = "converted"

    def fine(self) -> dict[str, bool]:
        """Whether the options that all such rules have can be worked with, by name; for `check`."""
        return {"width": 0 < self.width < math.inf}

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        check_classes(self.name, graph, readout(graph, ctx.score), ctx.score)
        learner = self.learner(graph, ctx)
        if self.start == "random":
            graph = graph.edit(params=random_weights(graph, ctx.rng(self.name)))
        return loop(self, graph, ctx, learner)

    @abstractmethod
    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch."""

    def values(self, graph: Graph, batch: Batch, needed: Container[str]) -> dict[str, Tensor]:
        """What the network makes of a batch through all its steps, differentiable, with the rule's surrogate.

        Args:
            needed: the values to give back besides the outputs, by node name.

        Returns:
            By node name: analog and decoded [N, ...], currents and spikes [T or 1, N, ...].
        """
        (name,) = graph.inputs
        return forward(
            graph,
            batch.params,
            {name: batch.x},
            width=self.width,
            surrogate=self.surrogate,
            keep=lambda node: node.name in needed,
        )
