r"""What a rule trains and remembers beside the params of the graph; all of it stands in a checkpoint.

A running mean over the batches, with torch's momentum of batch norms:

    m  <-  (1 - MOMENTUM) * m + MOMENTUM * (what the batch has)

A learner replaces the running means of its batch (`Batch.running`) once in every update. They are what an update
remembers of those before it; all else follows from its position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from snnc.sim.torch import Tensors

MOMENTUM = 0.1
"""The share of a running mean that the newest batch has."""

Fold = Callable[[Tensors, Tensors], dict[str, Tensor]]
"""From all params that learn, and the running means: the graph's own params, as they are deployed."""


def averaged(mean: Tensor, found: Tensor) -> Tensor:
    """The running mean after a batch that has `found`; both of one shape."""
    return mean.lerp(found, MOMENTUM)


def as_they_are(learned: Tensors, running: Tensors) -> dict[str, Tensor]:
    """The fold of a rule that trains nothing but the graph's params."""
    return dict(learned)


@dataclass(frozen=True, eq=False)
class Beside:
    """What stands beside the graph's params when a training begins; names are none that a graph can have.

    Attributes:
        params: that learn, too, at the start; every one has its unit among those of the training.
        running: running means at the start.
        fold: see `Fold`. What it gives of the start is what the graph has.
    """

    params: Mapping[str, Tensor] = field(default_factory=dict)
    running: Mapping[str, Tensor] = field(default_factory=dict)
    fold: Fold = as_they_are


NOTHING = Beside()
"""Of a rule that trains the graph's params, and remembers nothing."""
