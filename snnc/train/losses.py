r"""Losses of what a network answers: scores of classes, and signals.

    cross-entropy   -log softmax(o)[y]                                        labels
    mse             mean over classes of ((o - b) / a - [c = y])^2            labels
    mse             mean over elements of (o - y)^2                           targets that are floats
    si-sdr          - SI-SDR(o, y), of several sources in their best order    targets that are signals
    auto            cross-entropy of labels, else what the targets are judged by

The second is that of STBP (Wu et al. 2018) and of TET's and SLTT's runs on DVS-CIFAR10: outputs against one-hot
vectors. Theirs are rates, from 0 to 1; the scores of a converted network are in the units of its ANN. So a and b are
such that at the start of training (o - b) / a has the mean and the standard deviation that one-hot vectors have: 1/K
and sqrt(K - 1)/K of K classes. Targets that are floats are in the units of the output, so o is what it is.

With class weights the loss of a sample counts w[y] = N / (K n[y]) times: n[c] of the N training samples are of class c,
K classes occur. The mean of w over the training samples is 1, so the learning rate keeps its meaning. The loss of a
batch is the mean over its samples of w[y] * loss, not divided by the weights: no sample's gradient depends on others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Array, Graph
from snnc.pipeline import Context, Pass
from snnc.score import ACCURACY, SI_SDR, Score, no_signals
from snnc.signals import MOST_SOURCES as MOST_SOURCES
from snnc.signals import as_sources
from snnc.signals import permutation_invariant as permutation_invariant
from snnc.signals import si_sdr as si_sdr
from snnc.sim import torch as executor

from .trainer import Rule

Loss = Literal["auto", "cross-entropy", "mse", "si-sdr"]
Compare = Callable[[Tensor, Tensor], Tensor]
"""A loss: outputs [N, ...] and what is wanted [N, ...] -> a mean over the batch, []."""
MEASURED = 256
"""Training samples that the scale of the scores is measured on."""


@dataclass(frozen=True)
class Labelled(Rule):
    """A rule that learns from labels, or from targets.

    Attributes:
        loss: what compares outputs with them, see `snnc.train.losses`.
        balance: rare classes count as much as frequent ones.
    """

    for_classes: ClassVar[tuple[str, ...]] = ("balance", "augment")
    """Options that mean something for classes alone: images are moved, their targets would not be."""

    loss: Loss = "auto"
    balance: bool = False

    def check_data(self, data: Data) -> None:
        """Refuse options that do not fit what the data's outputs are judged by.

        Raises:
            PipelineError: see `check_targets`.
        """
        check_targets(self, self.loss, data, self.for_classes)


def loss_for(loss: Loss, score: Score) -> Loss:
    """The loss that `auto` is for data of this score; any other is itself."""
    if loss != "auto":
        return loss
    return "cross-entropy" if score is ACCURACY else "si-sdr" if score is SI_SDR else "mse"


def check_targets(step: Pass, loss: Loss, data: Data, for_classes: tuple[str, ...]) -> None:
    """Refuse a loss that does not fit the data's targets, and options that mean something for classes alone.

    Args:
        for_classes: these options.

    Raises:
        PipelineError: names all that do not fit.
    """
    problems: list[PipelineError] = []
    score, shape = data.train.score, data.train.labels.shape[1:]
    chosen = loss_for(loss, score)
    if chosen == "si-sdr" and score is ACCURACY:
        problems.append(PipelineError("loss=si-sdr compares signals, the data has class numbers", hint="loss=auto"))
    elif chosen == "si-sdr" and (why := no_signals(shape)):
        problems.append(PipelineError(f"loss={why}", hint="loss=mse"))
    elif chosen == "cross-entropy" and score is not ACCURACY:
        what = f"loss=cross-entropy compares scores with class numbers, the data has targets of shape {list(shape)}"
        problems.append(PipelineError(what, hint="loss=mse, or loss=si-sdr for signals"))
    usual = {option.name: option.default for option in fields(step)}
    problems += [
        PipelineError(f"'{name}' is for classes, the data has targets", hint=f"leave '{name}' out")
        for name in for_classes
        if score is not ACCURACY and getattr(step, name) != usual[name]
    ]
    if problems:
        raise PipelineError.gather(f"'{step}' cannot learn from this data", problems)


@dataclass(frozen=True, eq=False)
class Criterion:
    """The loss of scores [N, classes], axes of length 1 among them or not, with labels [N]: a mean over the batch, [].

    Attributes:
        kind: of loss.
        low, unit: b and a of the module.
        weights: w by class [classes]; None: all 1.
    """

    kind: Loss = "cross-entropy"
    low: float = 0.0
    unit: float = 1.0
    weights: Tensor | None = None

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores, labels = scores.flatten(1), labels.to(scores.device)
        if self.weights is None and self.kind == "cross-entropy":
            return F.cross_entropy(scores, labels)
        if self.kind == "cross-entropy":
            each = F.cross_entropy(scores, labels, reduction="none")
        else:
            wanted = F.one_hot(labels, scores.shape[1])
            each = ((scores - self.low) / self.unit - wanted).square().mean(1)
        return each.mean() if self.weights is None else (self.weights.to(labels.device)[labels] * each).mean()


def criterion(rule: Labelled, graph: Graph, scores: str, ctx: Context) -> Compare:
    """What `rule` compares the value `scores` of the graph with labels by; `graph` is what training starts from.

    Raises:
        PipelineError: there are no training samples to weigh or to measure, or the loss does not fit them.
    """
    if ctx.data is not None:
        rule.check_data(ctx.data)
    kind = loss_for(rule.loss, ctx.score)
    if ctx.score is not ACCURACY:
        return _of_targets(kind)
    low, unit = spread(graph, scores, ctx, rule.name) if kind == "mse" else (0.0, 1.0)
    weights = None
    if rule.balance:
        classes = math.prod(graph.type(scores).shape)
        made = class_weights(ctx.training(rule.name).labels[:], classes)
        weights = torch.as_tensor(made)
    return Criterion(kind, low, unit, weights)


def usual(score: Score) -> Compare:
    """What `auto` stands for with data of this score."""
    kind = loss_for("auto", score)
    return Criterion(kind) if score is ACCURACY else _of_targets(kind)


def _of_targets(kind: Loss) -> Compare:
    return separated if kind == "si-sdr" else squared


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean square of the difference, []."""
    return F.mse_loss(outputs, targets.to(outputs.device))


def separated(outputs: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean SI-SDR in dB, [], of signals [N, samples] or [N, sources, samples]."""
    return permutation_invariant(as_sources(outputs), as_sources(targets.to(outputs.device)))[0]


def class_weights(labels: Array, classes: int) -> Array:
    """w of the module, float32 [classes], from labels [N]; 0 for classes that do not occur."""
    counts = np.bincount(labels, minlength=classes)
    share = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, share, 0.0).astype(np.float32)


def spread(graph: Graph, scores: str, ctx: Context, name: str) -> tuple[float, float]:
    """b and a of the module, measured; a is 1 where all scores are the same."""
    split = ctx.training(name).take(MEASURED)
    part = graph.edit(outputs={scores: scores})
    made = executor.run(part, {next(iter(graph.inputs)): split}, ctx.device)[scores]
    classes = made[0].size
    unit = float(made.std(dtype=np.float64)) * classes / math.sqrt(classes - 1) or 1.0
    return float(made.mean(dtype=np.float64)) - unit / classes, unit
