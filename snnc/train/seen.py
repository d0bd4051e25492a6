r"""A param as the network sees it, and the way back of its gradient.

    w  ->  standardized (if asked for)  ->  absent connections 0  ->  the nearest level

The gradient goes straight through the levels and stops at absent connections. Weight standardization (Qiao et al.
2019; SLTT uses it where there is no batch norm) gives the n weights of every neuron a fixed mean and
deviation, those that they start with, so a converted network starts as it is:

    v = (w - mean w) / sd w          w' = sd_0 * v + mean_0
    dL/dw = sd_0 / sd w * (g - mean g - v * mean (g * v)),   g = dL/dw'

Means are over a neuron's connections; absent ones do not count. Neurons whose weights are all equal stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnc.ir import Constraint
from snnc.sim.levels import nearest_at, taken

EQUAL = 1e-6
"""A neuron's weights are all equal if their deviation is below this share of the largest of its layer."""


class Seen:
    """How the network sees one param."""

    def __init__(self, constraint: Constraint | None, device: str, start: Tensor | None = None) -> None:
        """With `start`, the weights [neurons, ...] that the training starts from, weights are standardized."""
        self.constraint = constraint
        mask, scale, levels = (
            None if array is None else torch.tensor(array).to(device)
            for array in (
                (constraint.mask, constraint.scale, constraint.levels) if constraint is not None else (None,) * 3
            )
        )
        self.mask, self.scale, self.levels = mask, scale, levels
        self.start = None if start is None else self._spread(start)

    def __call__(self, param: Tensor) -> Tensor:
        param = self.standardized(param)
        if self.mask is not None:
            param = param * self.mask
        if self.scale is not None:
            with torch.no_grad():
                away = self._level(param / self.scale) * self.scale - param
            param = param + away
        return param

    def back(self, gradient: Tensor, param: Tensor) -> Tensor:
        """The gradient of the param from that of what the network sees."""
        gradient = gradient if self.mask is None else gradient * self.mask
        if self.start is None:
            return gradient
        _, first, varied = self.start
        mean, sd = self._spread(param)[:2]
        v = self._present(param - mean) / sd
        along = gradient - self._mean(gradient) - v * self._mean(gradient * v)
        return torch.where(varied, self._present(along) * first / sd, gradient)

    def standardized(self, param: Tensor) -> Tensor:
        """The weights with the mean and deviation of those at the start; the same if that was not asked for."""
        if self.start is None:
            return param
        first_mean, first_sd, varied = self.start
        mean, sd, _ = self._spread(param)
        return torch.where(varied, (param - mean) / sd * first_sd + first_mean, param)

    def _spread(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, deviation and whether it is any, of every neuron, [neurons, 1, ...]."""
        mean = self._mean(weight)
        sd = self._mean(self._present(weight - mean).square()).sqrt()
        varied = sd > EQUAL * weight.abs().max()
        return mean, torch.where(varied, sd, 1.0), varied

    def _mean(self, weight: Tensor) -> Tensor:
        axes = list(range(1, weight.ndim))
        if self.mask is None:
            return weight.mean(axes, keepdim=True)
        return (weight * self.mask).sum(axes, keepdim=True) / self.mask.sum(axes, keepdim=True).clamp(min=1)

    def _present(self, weight: Tensor) -> Tensor:
        return weight if self.mask is None else weight * self.mask

    def _level(self, steps: Tensor) -> Tensor:
        """The level nearest to weights in steps, as `Constraint.project` has it."""
        assert self.constraint is not None
        if self.levels is not None:
            return taken(self.levels, nearest_at(steps, self.levels))
        top = self.constraint.top_level
        return steps.round().clamp(-top, top)
