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

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import torch

from snnc.ir import Array

T = TypeVar("T", torch.Tensor, Array)
Surrogate = Literal["boxcar", "triangle", "sigmoid"]
"""What stands for dS/dU: each with area 1 and height 1/p, p = `width` * theta, so that one width serves every layer."""


def membrane(u: T, spike: T, current: T, alpha: T, theta: T, reset: str) -> T:
    """U[t] from U[t-1], S[t-1] and I[t]; shapes [N, ...], alpha and theta broadcastable; formula in the module."""
    if reset == "subtract":
        made: T = alpha * u + current - theta * spike
    elif reset == "subtract-decayed":
        made = alpha * (u - theta * spike) + current
    else:
        made = alpha * u * (1 - spike) + current
    return made


def charge(
    u: torch.Tensor, spike: torch.Tensor, current: torch.Tensor, alpha: torch.Tensor | None, theta: torch.Tensor,
    reset: str, out: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """`membrane` to the bit, without a gradient and in fewer passes over the memory.

    Args:
        spike: 0 and 1 alone: what is subtracted is exact then, and may be fused with the subtraction.
        alpha: as `leak` gives it: None where nothing leaks.
        out: what is written to, of the shape of the current; may be `u` itself.
    """
    if reset == "subtract":
        kept = torch.add(u, current, out=out) if alpha is None else torch.mul(u, alpha, out=out).add_(current)
        return kept.addcmul_(theta, spike, value=-1)
    if reset == "subtract-decayed":
        kept = torch.addcmul(u, theta, spike, value=-1, out=out)
        return (kept if alpha is None else kept.mul_(alpha)).add_(current)
    stays = 1 - spike
    return torch.mul(u, stays if alpha is None else stays.mul_(alpha), out=out).add_(current)


def leak(alpha: torch.Tensor) -> torch.Tensor | None:
    """alpha, or None where it is 1 throughout; only a CPU is asked, as others would have to be waited for."""
    return None if alpha.device.type == "cpu" and bool((alpha == 1).all()) else alpha


def fires(u: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """1 where U >= theta, else 0, in the type of U; without a gradient."""
    return torch.ge(u, theta, out=torch.empty_like(u))


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor, theta: torch.Tensor, width: float, surrogate: Surrogate) -> torch.Tensor:
        ctx.save_for_backward(u, theta)
        ctx.width, ctx.surrogate = width, surrogate
        return fires(u, theta)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        u, theta = ctx.saved_tensors
        return grads[0] * SURROGATES[ctx.surrogate](u, theta, ctx.width), None, None, None


def gate(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """1 where |U - theta| < p/2, with p = `width` * theta, else 0: where gradients may pass (LTL eq. 8).

    The width is relative to the threshold, so that one value serves layers of any scale.
    """
    away = (u - theta).abs_()
    return torch.lt(away, width * theta / 2, out=away)


def boxcar(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """dS/dU = 1/p where the gate is open, else 0 (LTL eq. 8, SLTT eq. 5)."""
    return gate(u, theta, width).div_(width * theta)


def triangle(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """dS/dU = max(0, p - |U - theta|) / p**2: it reaches p to either side (SLTT eq. 6, whose gamma is p)."""
    p = width * theta
    away = (u - theta).abs_()
    return torch.sub(p, away, out=away).clamp_(min=0).div_(p**2)


def sigmoid(u: torch.Tensor, theta: torch.Tensor, width: float) -> torch.Tensor:
    """dS/dU: the derivative of sigma(4 (U - theta) / p), of height 1/p as the others are (OTTT: slope 4, p = 1)."""
    p = width * theta
    share = (u - theta).mul_(4 / p).sigmoid_()
    return (1 - share).mul_(share).mul_(4 / p)


SURROGATES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "boxcar": boxcar,
    "triangle": triangle,
    "sigmoid": sigmoid,
}


def spike(u: torch.Tensor, theta: torch.Tensor, width: float, surrogate: Surrogate = "boxcar") -> torch.Tensor:
    """S = 1 where U >= theta (LTL eq. 3), with a surrogate as its derivative."""
    made: torch.Tensor = _Spike.apply(u, theta, width, surrogate)  # type: ignore[no-untyped-call]
    return made
