"""torch's optimizers and schedules for params that are measured in units of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .trainer import Rule

MOMENTUM = 0.9


def optimizer(rule: Rule, real: Mapping[str, Tensor], units: Mapping[str, float]) -> torch.optim.Optimizer:
    """torch's optimizer as if every param were measured in its unit u: p = u * q, dL/dq = u * dL/dp.

    Adam's steps do not depend on the gradient's size: q's step of `rate` is one of rate * u of p. Those of gradient
    descent do: rate * u**2. A decay that is added to the gradient, decay * q, is decay / u**2 * p; one beside it
    (adamw) takes the share rate * decay, so decay / u.
    """
    power = 2 if rule.optimizer == "sgd" else 1
    less = 1 if rule.optimizer == "adamw" else 2
    groups: list[dict[str, Any]] = [
        {"params": [real[name]], "lr": rule.rate * unit**power, "weight_decay": rule.decay / unit**less}
        for name, unit in units.items()
    ]
    if rule.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, weight_decay=0.0) if rule.optimizer == "adamw" else torch.optim.Adam(groups)


def schedule(rule: Rule, made: torch.optim.Optimizer, updates: int) -> torch.optim.lr_scheduler.LRScheduler:
    """How the learning rate falls over all updates."""
    if rule.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(made, updates)
    third = -(-updates // 3) if rule.schedule == "step" else updates + 1
    return torch.optim.lr_scheduler.StepLR(made, third)
