r"""Windows of images as rows of a matrix, and the products of layers whose every position has weights of its own.

A window reads K = C/group * kh * kw inputs; the P = H * W positions of an output have one each. Samples lie side by
side in memory, so that an input of all samples is one run of it: gathering windows copies such runs, and what a
position computes is a product of matrices:

    out[p] = W[p] x[p]             [O/group, K] [K, N]
    dW[p]  = d[p] x[p]^T           [O/group, N] [N, K]

Values come and go in the order that all others have, [N, C, H, W], by one transposition of a matrix: what is computed
from memory in two orders is many times as slow. Where a gradient is wanted they are views in the order of the products.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.ir import Node, attr_ints

Shape = tuple[int, ...]
BLOCK = 2**20
"""Elements of windows that are made at once: they stay in the cache, and large memory comes slowly from the system."""
COLUMNS = 16
"""Samples that a product has at least, so that it makes the same of a sample, bit for bit, in a batch of any size: of
fewer than 12 MKL adds up in another order, and of 2 to 11 more slowly, too.
"""


def unfold(node: Node, x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """All windows of an image in the order of the groups: [N,C,H,W] -> [group, positions, N, C/group*kh*kw]."""
    return _gathered(_side_by_side(x), _index_of(node, x, kernel)).transpose(2, 3)


def local(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    """A convolution with weights [O, H, W, C/group, kh, kw] of their own at every position: [N,C,...] -> [N,O,H,W]."""
    if len(x) < COLUMNS:
        return local(node, F.pad(x, (0,) * 7 + (COLUMNS - len(x),)), weight)[: len(x)]
    out, high, wide, _, *kernel = weight.shape
    if (columns := _whole(node, x, kernel)) is not None:
        made = torch.bmm(weight.reshape(len(columns), -1, columns.shape[1]), columns)
        return made.permute(2, 0, 1).reshape(len(x), out, 1, 1)
    index, samples = _index_of(node, x, (kernel[0], kernel[1])), _side_by_side(x)
    rows = weight.reshape(len(index), -1, high * wide, index.shape[2]).transpose(1, 2)
    if x.requires_grad or weight.requires_grad:
        groups = [
            torch.cat([torch.bmm(left[some], _gathered(samples, here[some])) for some in _blocks(here, len(x))])
            for left, here in _at_once(rows, index)
        ]
        made = torch.stack(groups) if len(groups) > 1 else groups[0].view(*rows.shape[:3], len(x))
        return made.permute(3, 0, 2, 1).reshape(len(x), out, high, wide)
    made = x.new_empty(out, high * wide, len(x))
    for left, here, to in _at_once(rows, index, made.view(len(index), -1, high * wide, len(x)).transpose(1, 2)):
        for some in _blocks(here, len(x)):
            torch.bmm(left[some], _gathered(samples, here[some]), out=to[some])
    return made.view(-1, len(x)).T.contiguous().view(len(x), out, high, wide)


def add_products(node: Node, x: Tensor, error: Tensor, total: Tensor, anew: bool = False) -> None:
    """Add to `total`, of the shape of the weights of `local`, its gradient: `error` [N,O,H,W] times the inputs.

    Args:
        anew: whether `total` is written over instead.
    """
    high, wide, _, *kernel = total.shape[1:]
    beta = 0 if anew else 1
    if (columns := _whole(node, x, kernel)) is not None:
        left = error.reshape(len(x), len(columns), -1).permute(1, 2, 0)
        total.view(len(columns), -1, columns.shape[1]).baddbmm_(left, columns.transpose(1, 2), beta=beta)
        return
    index, samples = _index_of(node, x, (kernel[0], kernel[1])), _side_by_side(x)
    rows = error.reshape(len(x), -1).T.contiguous().view(len(index), -1, high * wide, len(x)).transpose(1, 2)
    sums = total.view(len(index), -1, high * wide, index.shape[2]).transpose(1, 2)
    for each, left, here in _at_once(sums, rows, index):
        for some in _blocks(here, len(x)):
            each[some].baddbmm_(left[some], _gathered(samples, here[some]).transpose(1, 2), beta=beta)


def _whole(node: Node, x: Tensor, kernel: list[int]) -> Tensor | None:
    """What the one position of a layer reads whose window is the whole image, [group, C/group*kh*kw, N]; else None."""
    if tuple(kernel) != tuple(x.shape[2:]) or any(attr_ints(node, "pads")):
        return None
    return x.reshape(len(x), int(str(node.attrs["group"])), -1).permute(1, 2, 0)


def _at_once(*parts: Tensor) -> list[tuple[Tensor, ...]]:
    """Parts of products, [group, positions, ...], the first with O/group next: as lists of products, one for every
    group, or for all of them where groups have one output.
    """
    if len(parts[0]) == 1 or parts[0].shape[2] == 1:
        return [tuple(part.view(-1, *part.shape[2:]) for part in parts)]
    return list(zip(*parts, strict=True))


def _blocks(index: Tensor, count: int) -> list[slice]:
    """Positions whose windows are computed at once, one after the other."""
    size = max(1, BLOCK // (index.shape[1] * count))
    return [slice(at, at + size) for at in range(0, len(index), size)]


def _side_by_side(x: Tensor) -> Tensor:
    """[N, ...] -> [1 + inputs, N], the first of zeros: what a pad is."""
    if x.requires_grad:
        return torch.cat([x.new_zeros(1, len(x)), x.flatten(1).T])
    made = x.new_empty(1 + x[0].numel(), len(x))
    made[0], made[1:] = 0, x.flatten(1).T
    return made


def _gathered(samples: Tensor, index: Tensor) -> Tensor:
    """What windows read: [inputs, N] and [..., K] -> [..., K, N]."""
    return samples.index_select(0, index.flatten()).reshape(*index.shape, samples.shape[1])


def _index_of(node: Node, x: Tensor, kernel: tuple[int, int]) -> Tensor:
    attrs = tuple(attr_ints(node, name) for name in ("pads", "strides", "dilations"))
    return _index(tuple(x.shape[1:]), int(str(node.attrs["group"])), kernel, *attrs, x.device)


@lru_cache(maxsize=64)
def _index(
    shape: Shape, group: int, kernel: Shape, pads: Shape, strides: Shape, dilations: Shape, device: torch.device
) -> Tensor:
    """Which inputs a window reads, counted from 1, and 0 where it reads a pad: [group, positions, C/group*kh*kw]."""
    size = shape[0] * shape[1] * shape[2]
    top, left, bottom, right = pads
    with torch.inference_mode(False):  # what is kept may be needed on the way back
        numbers = torch.arange(1, size + 1, dtype=torch.float64).reshape(1, *shape)
        columns = F.unfold(F.pad(numbers, (left, right, top, bottom)), kernel, dilations, 0, strides)
        return columns.reshape(group, -1, columns.shape[-1]).transpose(1, 2).contiguous().long().to(device)
