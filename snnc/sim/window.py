r"""A layer of neurons over the whole time window, with its gradient by hand.

Forward steps `snnc.sim.neurons.membrane`; only S'(U) is kept for the way back (of the boxcar its gate alone; and U,
where the reset multiplies by it). Backward, from t = T to 1, with g_S the gradient that arrives at the spikes (LTL
eq. 6 and 7):

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

from .neurons import SURROGATES, Surrogate, gate, membrane, spike


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
        learns = ctx.needs_input_grad[0]
        slope = gate if surrogate == "boxcar" else SURROGATES[surrogate]
        u, s = u0.expand(current.shape[1:]), torch.zeros_like(current[0])
        spikes = current.new_empty(steps, *current.shape[1:])
        slopes, potentials = [], []
        for t in range(steps):
            u = membrane(u, s, current[t if len(current) > 1 else 0], alpha, theta, reset)
            s = torch.ge(u, theta, out=spikes[t])
            if learns:
                slopes.append(slope(u, theta, width))
                potentials += [u] if reset == "zero" else []
        if learns:
            kept = [torch.stack(potentials), spikes] if reset == "zero" else []
            ctx.save_for_backward(alpha, theta, torch.stack(slopes), *kept)
        ctx.steps, ctx.reset, ctx.width, ctx.still = steps, reset, width, len(current) == 1
        ctx.gated = surrogate == "boxcar"
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        alpha, theta, slopes, *kept = ctx.saved_tensors
        (wanted,) = grads
        height = 1 / (ctx.width * theta) if ctx.gated else 1.0
        after = torch.zeros_like(wanted[0])
        made = torch.zeros_like(wanted[:1]) if ctx.still else torch.empty_like(wanted)
        for t in range(ctx.steps - 1, -1, -1):
            if ctx.reset == "zero":
                potentials, spikes = kept
                arrived = wanted[t] - alpha * potentials[t] * after
                carried = alpha * (1 - spikes[t]) * after
            else:
                back = theta if ctx.reset == "subtract" else alpha * theta
                arrived, carried = wanted[t] - back * after, alpha * after
            after = arrived * (slopes[t] * height) + carried
            if ctx.still:
                made[0] += after
            else:
                made[t] = after
        return made, None, None, None, None, None, None, None
