r"""Losses of what a network answers: scores of classes, and signals.

    cross-entropy   -log softmax(o)[y]
    mse             mean over classes of ((o - b) / a - [c = y])^2

The second is that of STBP (Wu et al. 2018) and of TET's and SLTT's runs on DVS-CIFAR10: outputs against one-hot
vectors. Theirs are rates, from 0 to 1; the scores of a converted network are in the units of its ANN. So a and b are
such that at the start of training (o - b) / a has the mean and the standard deviation that one-hot vectors have: 1/K
and sqrt(K - 1)/K of K classes.

With class weights the loss of a sample counts w[y] = N / (K n[y]) times: n[c] of the N training samples are of class c,
K classes occur. The mean of w over the training samples is 1, so the learning rate keeps its meaning. The loss of a
batch is the mean over its samples of w[y] * loss, not divided by the weights: no sample's gradient depends on others.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Array, Graph
from snnc.pipeline import Context
from snnc.sim import torch as executor

from .trainer import Rule

Loss = Literal["cross-entropy", "mse"]
MEASURED = 256
"""Training samples that the scale of the scores is measured on."""
EPS = 1e-8
"""What keeps SI-SDR finite (Conv-TasNet's)."""
MOST_SOURCES = 6
"""Sources that can be told apart by trying all their orders: 720."""


@dataclass(frozen=True)
class Labelled(Rule):
    """A rule that learns from labels.

    Attributes:
        loss: what compares scores with labels, see `snnc.train.losses`.
        balance: rare classes count as much as frequent ones.
    """

    loss: Loss = "cross-entropy"
    balance: bool = False


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
        scores = scores.flatten(1)
        if self.weights is None and self.kind == "cross-entropy":
            return F.cross_entropy(scores, labels)
        if self.kind == "cross-entropy":
            each = F.cross_entropy(scores, labels, reduction="none")
        else:
            wanted = F.one_hot(labels, scores.shape[1])
            each = ((scores - self.low) / self.unit - wanted).square().mean(1)
        return each.mean() if self.weights is None else (self.weights[labels] * each).mean()


def criterion(rule: Labelled, graph: Graph, scores: str, ctx: Context) -> Criterion:
    """What `rule` compares the value `scores` of the graph with labels by; `graph` is what training starts from.

    Raises:
        PipelineError: there are no training samples to weigh or to measure.
    """
    low, unit = spread(graph, scores, ctx, rule.name) if rule.loss == "mse" else (0.0, 1.0)
    weights = None
    if rule.balance:
        classes = math.prod(graph.type(scores).shape)
        made = class_weights(ctx.training(rule.name).labels, classes)
        weights = torch.as_tensor(made, device=ctx.device)
    return Criterion(rule.loss, low, unit, weights)


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


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    r"""The scale-invariant signal-to-distortion ratio in dB, [...], of signals [..., samples]; differentiable.

        SI-SDR = 10 log10(|p|^2 / |e - p|^2)      p = <e, s> s / |s|^2      e, s: estimate and target less their means

    Le Roux et al. 2019. PTL eq. 14 is printed without the division by \|s\|^2, with which alone scales do not matter.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    share = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + EPS)
    wanted = share * target
    ratio = wanted.square().sum(-1) / ((estimate - wanted).square().sum(-1) + EPS)
    return 10 * torch.log10(ratio + EPS)


def permutation_invariant(estimates: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a network that separates sources, in an order that nobody knows (PTL section 6.3; Conv-TasNet).

    Over whole utterances, the order of the targets with the largest mean SI-SDR counts.

    Args:
        estimates, targets: signals [N, sources, samples].

    Returns:
        minus the mean SI-SDR of the best orders, in dB, [], differentiable; and these orders, int64 [N, sources]:
        estimate i is of target `order[i]`.

    Raises:
        PipelineError: the shapes differ, or there are too many sources.
    """
    if estimates.shape != targets.shape or estimates.ndim != 3:
        got = " and ".join(str(list(tensor.shape)) for tensor in (estimates, targets))
        raise PipelineError(f"signals [N, sources, samples] are compared, not {got}")
    sources = estimates.shape[1]
    if not 1 <= sources <= MOST_SOURCES:
        raise PipelineError(f"{sources} sources: the orders of 1 to {MOST_SOURCES} are tried")
    pairs = si_sdr(estimates[:, :, None], targets[:, None])
    orders = torch.tensor(list(itertools.permutations(range(sources))), device=estimates.device)
    means = pairs[:, torch.arange(sources, device=estimates.device), orders].mean(-1)
    best, at = means.max(1)
    return -best.mean(), orders[at]
