r"""Sets of levels as tensors: ascending, one set [L] for a whole param or one for each of its rows, [rows, L].

    at(v) = how many middles of neighbouring levels lie below v        nearest(v) = levels[at(v)]

so that halfway between two the lower one is taken, as `snnc.ir.Constraint` does.
"""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_at(values: Tensor, levels: Tensor) -> Tensor:
    """The number, from 0, of the level that is nearest to every value [rows, ...]."""
    middles = (levels[..., 1:] + levels[..., :-1]) / 2
    if levels.ndim == 1:
        return torch.searchsorted(middles, values.contiguous())
    return torch.searchsorted(middles.contiguous(), values.reshape(len(levels), -1).contiguous()).reshape(values.shape)


def taken(levels: Tensor, at: Tensor) -> Tensor:
    """The levels of these numbers, each out of the set of its row."""
    if levels.ndim == 1:
        return levels[at]
    return levels.gather(1, at.reshape(len(levels), -1)).reshape(at.shape)
