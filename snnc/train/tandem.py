r"""Tandem learning (tandem section II-D, Algorithm 1): spikes go forward, gradients come back through analog layers.

    forward    c_l, the spike counts of the network as it is deployed, through all its steps, without a gradient
    backward   dE/dV_l = dE/dc_l * dc_l/dV_l,   dE/dW_l = dE/dV_l c_{l-1}^T,   dE/dc_{l-1} = W_l^T dE/dV_l

with V = W c + b and dc/dV as `snnc.train.coupled` has them. No error builds up from layer to layer, as every layer
learns from the counts that it really gets; and what is kept for the way back does not depend on T. The loss is one
of `snnc.train.losses`, of the read-out: of potentials, or of counts where the graph decodes spikes. Batch norms were
folded before the network was lowered, so that both kinds of layers have the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from snnc.ir import Array, Graph
from snnc.pipeline import Context

from .coupled import Backward, Coupled, agreement, check_neurons, instead
from .local import random_weights
from .loop import loop
from .losses import Labelled, criterion
from .readout import check_classes
from .trainer import Batch, Learner, check, from_loss


@dataclass(frozen=True)
class Tandem(Labelled):
    """Tandem learning of the whole network.

    Attributes:
        backward: where gradients pass neurons: where their charge is worth 0 to T spikes, or also above.
        start: from the weights as they are, or from random ones.
    """

    name = "tandem"

    backward: Backward = "bounded"
    start: Literal["converted", "random"] = "converted"

    def __post_init__(self) -> None:
        check(self)

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        learner = self.learner(graph, ctx)
        if self.start == "random":
            graph = graph.edit(params=random_weights(graph, ctx.rng(self.name)))
        found = loop(self, graph, ctx, learner)
        ctx.note(str(agreement(graph.edit(params=found), ctx)))
        return found

    def learner(self, graph: Graph, ctx: Context) -> Learner:
        """What makes the gradients of one batch.

        Raises:
            PipelineError: neurons leak, or are reset to zero; the network has no classes.
        """
        check_neurons(graph, self.name)
        coupled = Coupled(graph, ctx.score)
        check_classes(self.name, graph, coupled.scores, ctx.score)
        judge = criterion(self, graph, coupled.scores, ctx)

        def loss(batch: Batch) -> Tensor:
            fired = coupled.fired(batch.params, batch.x)
            values = coupled.totals(
                batch.params,
                batch.x,
                lambda node, charge: instead(
                    fired[node.name], coupled.slope(node, charge, batch.params, self.backward)
                ),
            )
            return judge(instead(fired[coupled.scores], values[coupled.scores]), batch.labels)

        return from_loss(loss)
