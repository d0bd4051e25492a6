r"""A layer of neurons over the whole time window, with its gradient by hand.

Forward steps `snnc.sim.neurons.membrane`; only U is kept for the way back, or of the boxcar its gate alone (where the
reset multiplies by U: U and the spikes). Backward, from t = T to 1, with g_S the gradient that arrives at the spikes
(LTL eq. 6 and 7):

    subtract           d[t] = g_S[t] - theta * e[t+1]
    subtract-decayed   d[t] = g_S[t] - alpha * theta * e[t+1]
    zero               d[t] = g_S[t] - alpha * U[t] * e[t+1]
    e[t] = d[t] * S'(U[t]) + alpha * e[t+1]      (zero: alpha * (1 - S[t]) * e[t+1])

e is the gradient of U and so of I. The same as autograd through the steps, at a third of the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .neurons import SURROGATES, Surrogate, charge, gate, leak, membrane, spike

BLOCK = 2**16
"""Neurons, of all samples, that are stepped at once where nothing but their counts is wanted."""


def fire(
    current: Tensor,
    alpha: Tensor,
    theta: Tensor,
    u0: Tensor,
    steps: int,
    reset: str,
    width: float,
    surrogate: Surrogate = "boxcar",
) -> Tensor:
    """Spikes [T, N, ...] from currents [T or 1, N, ...] (1: the same at every step).

    Differentiable in the current; in alpha, theta and u0 too, at the price of autograd's memory.
    """
    if torch.is_grad_enabled() and any(p.requires_grad for p in (alpha, theta, u0)):
        return _traced(current, alpha, theta, u0, steps, reset, width, surrogate)
    made: Tensor = _Window.apply(  # type: ignore[no-untyped-call]
        current, alpha, theta, u0, steps, reset, width, surrogate
    )
    return made


def spike_counts(
    current: Tensor, alpha: Tensor, theta: Tensor, u0: Tensor, steps: int, reset: str, bias: Tensor | None = None
) -> Tensor:
    """Spikes [N, ...] of all steps together from currents [T or 1, N, ...]: the sum over T of what `fire` gives.

    Without a gradient, and some samples after the others, so that their neurons stay in the cache.

    Args:
        bias: a current that is added at every step, broadcastable to [N, ...].
    """
    made, left = current.new_zeros(current.shape[1:]), leak(alpha)
    size = max(1, BLOCK // max(1, made[:1].numel()))
    for at in range(0, len(made), size):
        total, some = made[at : at + size], current[:, at : at + size]
        u, s, now = u0.expand(total.shape), torch.zeros_like(total), some[0]
        room, sums = torch.empty_like(total), torch.empty_like(total)
        for t in range(steps):
            if t == 0 or len(some) > 1:
                now = some[t] if bias is None else torch.add(some[t], bias, out=sums)
            u = charge(u, s, now, left, theta, reset, out=room)
            total.add_(torch.ge(u, theta, out=s))
    return made


def _traced(
    current: Tensor,
    alpha: Tensor,
    theta: Tensor,
    u0: Tensor,
    steps: int,
    reset: str,
    width: float,
    surrogate: Surrogate,
) -> Tensor:
    u, s = u0.expand(current.shape[1:]), torch.zeros_like(current[0])
    spikes = []
    for t in range(steps):
        u = membrane(u, s, current[t if len(current) > 1 else 0], alpha, theta, reset)
        s = spike(u, theta, width, surrogate)
        spikes.append(s)
    return torch.stack(spikes)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        alpha: Tensor,
        theta: Tensor,
        u0: Tensor,
        steps: int,
        reset: str,
        width: float,
        surrogate: Surrogate,
    ) -> Tensor:
        learns, shape = ctx.needs_input_grad[0], current.shape[1:]
        gated = surrogate == "boxcar" and reset != "zero"
        u, s, left = u0.expand(shape), torch.zeros_like(current[0]), leak(alpha)
        spikes = current.new_empty(steps, *shape)
        kept = current.new_empty(steps if learns and not gated else 1, *shape)
        gates = current.new_empty(steps if learns and gated else 0, *shape, dtype=torch.uint8)
        for t in range(steps):
            u = charge(u, s, current[t if len(current) > 1 else 0], left, theta, reset, out=kept[t % len(kept)])
            s = torch.ge(u, theta, out=spikes[t])
            if len(gates):
                gates[t] = gate(u, theta, width)
        if learns:
            ctx.save_for_backward(alpha, theta, gates if gated else kept, *([spikes] if reset == "zero" else []))
        ctx.steps, ctx.reset, ctx.width, ctx.still = steps, reset, width, len(current) == 1
        ctx.slope = None if gated else SURROGATES[surrogate]
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        alpha, theta, kept, *fired = ctx.saved_tensors
        (wanted,) = grads
        made = torch.zeros_like(wanted[:1]) if ctx.still else torch.empty_like(wanted)
        back, after = theta if ctx.reset == "subtract" else alpha * theta, torch.zeros_like(made[0])
        height = 1 / (ctx.width * theta)
        for t in range(ctx.steps - 1, -1, -1):
            slope = kept[t].to(height.dtype).mul_(height) if ctx.slope is None else ctx.slope(kept[t], theta, ctx.width)
            arrived = torch.addcmul(wanted[t], alpha * kept[t] if fired else back, after, value=-1).mul_(slope)
            carried = (1 - fired[0][t]).mul_(alpha) if fired else alpha
            after = torch.addcmul(arrived, carried, after, out=arrived if ctx.still else made[t])
            if ctx.still:
                made[0] += after
        return made, None, None, None, None, None, None, None
