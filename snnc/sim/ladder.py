r"""From what a layer of neurons hands on to what it should: one idealisation after the other, each removes a cause.

    s0   what it hands on: count * theta                              off     what that is
    s1   the charge V arrives evenly over the T steps                 timing  unevenness of the spike trains
    s2   clip(floor((V + u0) / theta), 0, T) * theta                  leak    leak, and resets that lose charge
    s3   max(floor((V + u0) / theta), 0) * theta                      clipped above T spikes
    s4   max(V, 0)                                                    steps   rounded to whole spikes, or below one
    s5   the same, V from what the layers before should hand on       inherited
    s6   with the teacher's bias                                      bias
    s7   with the best weights that round to these                    bits
    s8   with the teacher's weights where connections were pruned     pruned
    s9   with the teacher's weights everywhere                        weights moved by training, or not comparable
    y    the teacher's activation                                     pooling or function, replaced by another

The error D = s0 - y is the sum of the steps d_i = s_i - s_(i+1), and |D|^2 that of <d_i, D>: the share of a cause is
<d_i, D> / |D|^2, negative where it makes up for others. Shares depend on the order and sum to 1. Channels that never
spike, and would not with `DEEPER` times the steps and the teacher's input, while the teacher's are active, are dead:
there all steps but the inherited one belong to the cause `dead`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .ideal import Layer
from .twins import IN_WEIGHTS, Cause
from .window import spike_counts

DEEPER = 8
"""Steps, times T, in which a channel that is not dead spikes at least once."""
IN_NEURONS = (Cause.TIMING, Cause.LEAK, Cause.CLIPPED, Cause.STEPS)
"""The causes s0 to s4."""


def counted(charge: Tensor, theta: Tensor, u0: Tensor, steps: float) -> Tensor:
    """Counts of IF neurons, clip(floor((V + u0) / theta), 0, T); T may be infinite."""
    return torch.floor((charge + u0) / theta).clamp(0, steps)


def response(layer: Layer, charge: Tensor, counts: Tensor, steps: int, ceiling: float) -> list[Tensor]:
    """s0 to s4 [N, ...] of a layer from its charge V and its actual counts.

    Args:
        ceiling: the largest activation that the teacher can have.
    """
    reset = str(layer.node.attrs["reset"])
    even = spike_counts(charge[None] / steps, layer.alpha, layer.theta, layer.u0, steps, reset)
    plain = reset != "zero" and bool((layer.alpha == 1).all())
    kept = even if plain else counted(charge, layer.theta, layer.u0, steps)
    more = counted(charge, layer.theta, layer.u0, torch.inf)
    unclipped = torch.where(kept >= steps, torch.maximum(more, kept), kept) * layer.theta
    unclipped = torch.maximum(unclipped.clamp(max=ceiling), kept * layer.theta)
    return [counts * layer.theta, even * layer.theta, kept * layer.theta, unclipped, charge.clamp(0, ceiling)]


def climb(
    states: list[Tensor], ideal: list[Tensor], target: Tensor, ceiling: float, last: Cause, dead: Tensor
) -> dict[Cause, Tensor]:
    """d_i [N, ...] by cause, whose sum is s0 - y.

    Args:
        states: s0 to s4.
        ideal: the charges behind s5 to s9.
        last: the cause of what is left between s9 and y.
        dead: channels [C], bool.
    """
    rungs = [*states, *(charge.clamp(0, ceiling) for charge in ideal), target]
    names = [*IN_NEURONS, Cause.INHERITED, *IN_WEIGHTS, last]
    found: dict[Cause, Tensor] = {}
    for name, above, below in zip(names, rungs, rungs[1:], strict=False):
        step = above - below
        found[name] = found[name] + step if name in found else step
    if dead.any():
        there = dead.reshape(-1, *[1] * (target.ndim - 2))
        own = [cause for cause in found if cause is not Cause.INHERITED]
        found[Cause.DEAD] = torch.stack([found[cause] for cause in own]).sum(0) * there
        found |= {cause: found[cause] * ~there for cause in own}
    return found


def settings(layer: Layer, charge: Tensor, steps: int, largest: float) -> Mapping[str, Tensor]:
    """s1 [N, ...] as it would be under another setting of the layer: twice the steps, or no value above threshold."""
    ratio = (largest / steps / layer.theta).clamp(min=1)
    half, wide = layer.theta / 2, layer.theta * ratio
    return {
        "setting-steps": counted(charge, half, layer.u0 / 2, 2 * steps) * half,
        "setting-percentile": counted(charge, wide, layer.u0 * ratio, steps) * wide,
    }
