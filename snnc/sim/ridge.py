r"""A linear layer that makes up for what its inputs lack: ridge regression of what is left to explain.

    D, d = argmin  E |r - D c - d|^2 + lambda |D|^2        D = Cov(r, c) (Cov(c, c) + lambda I)^-1,  d = E r - D E c

c [K] what the layer reads, r [O] what its outputs lack. lambda, relative to the mean variance of c, is the one of
`RIDGES` whose D predicts the other half of the samples best; where none is much better than d alone, there is no D.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of lambda that are tried."""
BETTER = 0.99
"""D must leave less than this share of what d alone leaves."""


def remedy(c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """What to add to the weights [O, K] and to the bias [O] of a layer.

    Args:
        c: inputs [N, K].
        r: what the outputs lack, [N, O].
    """
    c, r = c.double(), r.double()
    half = len(c) // 2
    none = torch.zeros(r.shape[1], c.shape[1], dtype=torch.float64, device=c.device)
    if half == 0:
        return none.float(), r.mean(0).float()
    parts = (slice(None, half), slice(half, None))
    alone = sum(_left(none, r[a].mean(0), c[b], r[b]) for a, b in (parts, parts[::-1]))
    errors = [sum(_left(*_fit(c[a], r[a], ridge), c[b], r[b]) for a, b in (parts, parts[::-1])) for ridge in RIDGES]
    least, best = min(zip(errors, RIDGES, strict=True))
    change, offset = _fit(c, r, best) if least < BETTER * alone else (none, r.mean(0))
    return change.float(), offset.float()


def _fit(c: Tensor, r: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """D [O, K] and d [O]; the smaller of the two systems, K x K or N x N, is solved."""
    spread, lack = c - c.mean(0), r - r.mean(0)
    count, size = spread.shape
    penalty = max(ridge * float(spread.square().mean()) * count, torch.finfo(torch.float64).tiny)
    if size <= count:
        square = spread.T @ spread + penalty * torch.eye(size, dtype=c.dtype, device=c.device)
        change = torch.linalg.solve(square, spread.T @ lack).T
    else:
        square = spread @ spread.T + penalty * torch.eye(count, dtype=c.dtype, device=c.device)
        change = (spread.T @ torch.linalg.solve(square, lack)).T
    return change, r.mean(0) - change @ c.mean(0)


def _left(change: Tensor, offset: Tensor, c: Tensor, r: Tensor) -> float:
    return float((r - c @ change.T - offset).square().sum())
