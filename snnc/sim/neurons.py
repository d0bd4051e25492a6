"""Neuron models: one pure step each, for numpy arrays and torch tensors alike, and the surrogate gradient beside.

Convention (LTL eq. 1 to 3, steps t = 1..T, S[0] = 0, U[0] = u0), in which a layer sees the spikes of the layer
before within the same step:

    reset = subtract           U[t] = alpha * U[t-1] + I[t] - theta * S[t-1]
    reset = subtract-decayed   U[t] = alpha * (U[t-1] - theta * S[t-1]) + I[t]      (SLTT eq. 3)
    reset = zero               U[t] = alpha * U[t-1] * (1 - S[t-1]) + I[t]
    S[t] = 1 if U[t] >= theta else 0

alpha = 1 is the integrate-and-fire (IF) neuron, alpha = exp(-dt / tau) < 1 the leaky one (LIF). With alpha = 1,
reset by subtraction and a whole charge V >= 0 at the first step, the count is clip(floor((V + u0) / theta), 0, T).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from snnc.ir import Array

T = TypeVar("T", torch.Tensor, Array)


def membrane(u: T, spike: T, current: T, alpha: T, theta: T, reset: str) -> T:
    """U[t] from U[t-1], S[t-1] and I[t]; shapes [N, ...], alpha and theta broadcastable; formula in the module."""
    if reset == "subtract":
        made: T = alpha * u + current - theta * spike
    elif reset == "subtract-decayed":
        made = alpha * (u - theta * spike) + current
    else:
        made = alpha * u * (1 - spike) + current
    return made


class _Boxcar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
        ctx.save_for_backward(u, theta)
        ctx.width = width
        return (u >= theta).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u, theta = ctx.saved_tensors
        return grads[0] * boxcar(u, theta, ctx.width), None, None


def gate(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """Where |U - theta| < p/2, with p = `width` * theta: where gradients may pass (LTL eq. 8).

    The width is relative to the threshold, so that one value serves layers of any scale.
    """
    return (u - theta).abs() < width * theta / 2


def boxcar(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """dS/dU = 1/p where the gate is open, else 0 (LTL eq. 8)."""
    return gate(u, theta, width).to(u.dtype) / (width * theta)


def spike(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """S = 1 where U >= theta (LTL eq. 3), with the boxcar as its derivative."""
    made: torch.Tensor = _Boxcar.apply(u, theta, width)  # type: ignore[no-untyped-call]
    return made
