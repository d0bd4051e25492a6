r"""Constrain, then train: the baseline that tandem learning is measured against (tandem sections I and III-C).

The analog layers alone are trained, with activations constrained to what neurons could fire at best,

    a = clip(floor((V + u0) / theta), 0, T),   V = W a + b      (tandem eq. 11; straight through the floor going back)

and the spiking network takes the weights over as they are. No spike is computed while training, so nothing knows
when spikes come: what a and c differ by builds up from layer to layer. The best epoch is chosen by the analog layers'
score; the note says what the spiking network loses against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph, Node
from snnc.pipeline import Context
from snnc.sim import torch as executor

from .coupled import Coupled, agreement, check_neurons, instead
from .local import random_weights
from .loop import loop, validated
from .losses import Labelled, criterion
from .readout import check_classes
from .trainer import Batch, check, from_loss


@dataclass(frozen=True)
class ConstrainThenTrain(Labelled):
    """Train the network on counts that its analog layers round, then transfer the weights.

    Attributes:
        start: from the weights as they are, or from random ones.
    """

    name = "constrain-then-train"

    start: Literal["converted", "random"] = "converted"

    def __post_init__(self) -> None:
        check(self)

    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        check_neurons(graph, self.name)
        coupled, score = Coupled(graph, ctx.score), ctx.score
        check_classes(self.name, graph, coupled.scores, score)
        compare = criterion(self, graph, coupled.scores, ctx)
        if self.start == "random":
            graph = graph.edit(params=random_weights(graph, ctx.rng(self.name)))

        def loss(batch: Batch) -> Tensor:
            return compare(scores(coupled, batch.params, batch.x), batch.labels)

        found = loop(self, graph, ctx, from_loss(loss), judge=lambda made: constrained(coupled, made, ctx))
        made = graph.edit(params=found)
        ann, snn = constrained(coupled, made, ctx), validated(made, ctx)
        ctx.note(f"on validation {score.brief(ann)} with constrained activations, {score.brief(snn)} with spikes")
        ctx.note(str(agreement(made, ctx)))
        return found


def scores(coupled: Coupled, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The read-out [N, classes] of analog layers whose activations are counts, floored and cut; differentiable."""

    def rounded(node: Node, charge: Tensor) -> Tensor:
        return instead(coupled.rounded(node, charge, params), coupled.slope(node, charge, params, "bounded"))

    return coupled.totals(params, x, rounded)[coupled.scores]


def constrained(coupled: Coupled, graph: Graph, ctx: Context) -> float:
    """The score on the validation samples, not a spike fired; of `coupled`, with the params of `graph`."""
    assert ctx.data is not None, "training needs data"
    split, params = ctx.data.validation, executor.tensors(graph, ctx.device)
    with torch.inference_mode(), executor.exact():
        batches = split.batches(executor.CHUNK)
        made = torch.cat([scores(coupled, params, executor.to_tensor(x, ctx.device)) for x in batches])
    return split.score.measure(np.asarray(made.cpu().numpy()), split.labels)
