r"""Average pools of events whose windows lie side by side, with the gradient by hand.

    out[i, j] = 1/(h w) sum_{a < h, b < w} x[h i + a, w j + b]          dL/dx[h i + a, w j + b] = dL/dout[i, j] / (h w)

Rows are added first, then columns, whole images at a time: sums of spikes are exact in any order. torch's own kernel
goes window by window, which takes several times as long on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnc.ir import Node, attr_ints


def apart(node: Node) -> bool:
    """Whether an `avgpool` has windows side by side, without pads or dilation."""
    whole = attr_ints(node, "kernel") == attr_ints(node, "strides")
    return whole and not any(attr_ints(node, "pads")) and attr_ints(node, "dilations") == (1, 1)


def pool(x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """The means of images x [N, C, H, W] over windows side by side; what is left at the end belongs to none."""
    made: Tensor = _Pool.apply(x, kernel)  # type: ignore[no-untyped-call]
    return made


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: tuple[int, int]) -> Tensor:
        (high, wide), (rows, columns) = kernel, (x.shape[-2] // kernel[0], x.shape[-1] // kernel[1])
        ctx.kernel, ctx.shape = kernel, x.shape
        whole = x[..., : rows * high, : columns * wide]
        down = _sum([whole[..., a::high, :] for a in range(high)])
        return _sum([down[..., b::wide] for b in range(wide)]).div_(high * wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (high, wide), (error,) = ctx.kernel, grads
        share = error / (high * wide)
        rows, columns = share.shape[-2:]
        across = share.new_empty(*share.shape, wide)
        for b in range(wide):
            across[..., b] = share
        made = (
            share.new_zeros(ctx.shape)
            if ctx.shape[-2:] != (rows * high, columns * wide)
            else share.new_empty(ctx.shape)
        )
        for a in range(high):
            made[..., a : rows * high : high, : columns * wide] = across.flatten(-2)
        return made, None


def _sum(parts: list[Tensor]) -> Tensor:
    """Their sum, in memory of its own."""
    if len(parts) == 1:
        return parts[0].clone(memory_format=torch.contiguous_format)
    made = parts[0] + parts[1]
    for part in parts[2:]:
        made += part
    return made
