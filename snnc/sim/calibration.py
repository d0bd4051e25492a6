"""Statistics of a network's values over many samples: exact, batch after batch.

Of a percentile only the largest values are held from batch to batch, (1 - p) of all; of a maximum one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph

from .torch import exact, forward, tensors, to_tensor


def percentiles(
    graph: Graph,
    rows: Mapping[str, int],
    batches: Iterable[Array],
    samples: int,
    percentile: float,
    device: str = "cpu",
) -> dict[str, tuple[Array, Array]]:
    """The nearest-rank percentile (no interpolation) and the maximum of values, row by row; float32 [rows] each.

    Args:
        rows: by name of the value: 1, all its elements together, or its first axis C, every channel on its own.
        batches: of the one input, [n, ...], of `samples` samples in all.
        percentile: above 0, up to 100.
    """
    sizes = {name: samples * math.prod(graph.type(name).shape) // count for name, count in rows.items()}
    keep = {name: rank_from_top(size, percentile) for name, size in sizes.items()}
    top: dict[str, Tensor] = {}
    for values in _runs(graph, frozenset(rows), batches, device):
        for name, count in rows.items():
            found = _rows(values[name], count)
            pool = torch.cat([top[name], found], 1) if name in top else found
            top[name] = pool.topk(min(keep[name], pool.shape[1]), 1, sorted=False).values
    return {name: (_array(pool.amin(1)), _array(pool.amax(1))) for name, pool in top.items()}


def usable(bound: Array, most: Array) -> Array:
    """Upper bounds [rows] that thresholds can be made of, from percentiles and maxima [rows]; float32.

    Where the percentile is 0 it is the maximum, where that is 0 too (dead) the largest of the other rows, or else 1.
    """
    found = np.where(bound > 0, bound, most)
    return np.asarray(np.where(found > 0, found, found.max() or np.float32(1)))


def largest_sizes(
    graph: Graph, names: frozenset[str], batches: Iterable[Array], device: str = "cpu"
) -> dict[str, float]:
    """max |x| of every value of `names` (inputs or nodes) over batches of the one input; 1 where all are 0."""
    found = dict.fromkeys(names, 0.0)
    for values in _runs(graph, names, batches, device):
        found = {name: max(most, float(values[name].abs().max())) for name, most in found.items()}
    return {name: most or 1.0 for name, most in found.items()}


def _runs(graph: Graph, names: frozenset[str], batches: Iterable[Array], device: str) -> Iterable[Mapping[str, Tensor]]:
    """The values of `names`, and more, of one batch after the other."""
    params, (source,) = tensors(graph, device), graph.inputs
    with torch.inference_mode(), exact():
        for x in batches:
            yield forward(graph, params, {source: to_tensor(x, device)}, keep=lambda n: n.name in names)


def _rows(value: Tensor, count: int) -> Tensor:
    """[N, C, ...] -> [1, all] or [C, all of a channel]."""
    return value.reshape(1, -1) if count == 1 else value.transpose(0, 1).reshape(count, -1)


def rank_from_top(count: int, percentile: float) -> int:
    """How many of the largest of `count` values reach down to the nearest-rank percentile."""
    return count - max(math.ceil(round(percentile / 100 * count, 6)), 1) + 1


def _array(value: Tensor) -> Array:
    return np.asarray(value.cpu().numpy())
