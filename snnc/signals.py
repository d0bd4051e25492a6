r"""Signals against signals: SI-SDR, and the best order of sources that nobody has put in an order."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .errors import PipelineError

EPS = 1e-8
"""What keeps SI-SDR finite (Conv-TasNet's)."""
MOST_SOURCES = 6
"""Sources that can be told apart by trying all their orders: 720."""


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


def separation(estimates: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How well sources were separated, in an order that nobody knows (PTL section 6.3; Conv-TasNet).

    Over whole utterances, the order of the targets with the largest mean SI-SDR counts.

    Args:
        estimates, targets: signals [N, sources, samples].

    Returns:
        the mean SI-SDR of the best order in dB, [N], differentiable; and these orders, int64 [N, sources]: estimate i
        is of target `order[i]`.

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
    return best, orders[at]


def permutation_invariant(estimates: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a network that separates sources: minus the mean of `separation` over samples, []; and the orders."""
    best, orders = separation(estimates, targets)
    return -best.mean(), orders


def as_sources(signals: Tensor) -> Tensor:
    """[N, sources, samples] from that, or from the one source of [N, samples]."""
    return signals[:, None] if signals.ndim == 2 else signals
