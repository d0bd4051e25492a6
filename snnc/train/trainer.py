"""The contract of a learning rule.

A trainer changes params and nothing else. It sees each param through its Constraint: absent connections stay absent,
levels are rounded going forward and passed straight through going back; what it gives back obeys the constraint.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Stage
from snnc.pipeline import Context, Pass

from .augment import Kind


@dataclass(frozen=True)
class Trainer(Pass):
    """A pass that fits params to data."""

    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    splits = True

    @abstractmethod
    def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
        """New values for some of the graph's params, same names and shapes."""

    def run(self, graph: Graph, ctx: Context) -> Graph:
        fitted = self.fit(graph, ctx)
        if not fitted:
            return graph
        for name, array in fitted.items():
            if name not in graph.params or graph.params[name].shape != array.shape:
                raise PipelineError(
                    f"the trainer '{self.name}' made '{name}' {list(array.shape)}, which is no such param"
                )
        return graph.edit(params={name: project(graph.constraints.get(name), array) for name, array in fitted.items()})


def project(constraint: Constraint | None, array: Array) -> Array:
    """The nearest array that obeys; float32."""
    return array.astype(np.float32) if constraint is None else constraint.project(array)


@dataclass(frozen=True)
class Batch:
    """What a rule learns from at a time.

    Attributes:
        params: by name, as the network sees them (constraints obeyed): leaves, those that learn require gradients.
        x: inputs [N, ...].
        labels: right answers [N], or targets, float32 [N, ...].
        rng: for what the rule leaves to chance in this update; follows from seed and position.
        running: running means over the batches (`snnc.train.beside`), which the learner replaces: all that is
            remembered between updates.
    """

    params: Mapping[str, Tensor]
    x: Tensor
    labels: Tensor
    rng: np.random.Generator
    running: dict[str, Tensor] = field(default_factory=dict)


Learner = Callable[[Batch], Tensor]
"""Adds to the gradients (`.grad`) of the params that learn; gives back the loss, a mean over the batch, [] detached."""


@dataclass(frozen=True)
class Rule(Trainer):
    """A trainer that runs in `snnc.train.loop`; its `fit` says how the gradients of a batch are made.

    Attributes:
        epochs: passes over the training part, at most.
        batch: samples per update.
        rate: the learning rate, in units of theta (first layer: T * theta; read-out: 1/T), see `snnc.train.units`.
        optimizer: torch's; sgd with momentum 0.9.
        schedule: the rate falls to 0 along half a cosine, or to a tenth after each third of the epochs, or stays.
        decay: torch's weight decay, for weights in their units: beside the gradient with adamw, else added to it.
        clip: the largest norm of all gradients together, each in its unit; 0: no limit.
        patience: epochs without a better validation score (an equal one is not) before training stops; 0: never.
        augment: images move, and are mirrored, by chance (`snnc.train.augment`).
        standardize: the weights of every neuron keep the mean and deviation that they start with (`snnc.train.seen`).
    """

    epochs: int = 5
    batch: int = 64
    rate: float = 3e-3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    decay: float = 0.0
    clip: float = 0.0
    patience: int = 0
    augment: Kind = "none"
    standardize: bool = False


def check(rule: Rule, **fine: bool) -> None:
    """Refuse options that a rule cannot work with.

    Args:
        fine: by option of its own, whether it is.

    Raises:
        PipelineError: names all that are not.
    """
    found = {
        **{key: 0 < getattr(rule, key) < math.inf for key in ("epochs", "batch", "rate")},
        **{key: 0 <= getattr(rule, key) < math.inf for key in ("decay", "clip", "patience")},
        **fine,
    }
    if wrong := [f"{key}={getattr(rule, key)}" for key, good in found.items() if not good]:
        raise PipelineError(f"'{rule.name}' cannot work with {', '.join(wrong)}")


def from_loss(loss: Callable[[Batch], Tensor]) -> Learner:
    """The learner of a loss [] that autograd can go back from at once."""

    def learn(batch: Batch) -> Tensor:
        made = loss(batch)
        made.backward()  # type: ignore[no-untyped-call]
        return made.detach()

    return learn
