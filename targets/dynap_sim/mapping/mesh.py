r"""The mesh of chips, and the places of chips on it, so that spikes travel few hops.

With S(p, q) the spikes that go from chip p to chip q,

    hops = sum over p, q of  S(p, q) * (|x_p - x_q| + |y_p - y_q|)

is lowered by the exchange of two chips that saves most, until none does (a quadratic assignment problem).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from snnc.errors import PipelineError
from snnc.ir import Array

MOST_TAG_BITS = 32
BEYOND = 1000
"""Hops that one hop beyond the range counts as."""


@dataclass(frozen=True)
class Mesh:
    """What limits a layout; the numbers of a DYNAP-SE2.

    Attributes:
        chips: how many there are; a network that needs more is laid out on virtual ones.
        cores_per_chip, neurons_per_core: what they hold.
        fan_in: CAM words of a neuron.
        destinations: words of a neuron, each one chip, some of its cores and a tag.
        monitor_words: words that it takes for the host to see a neuron's spikes.
        tag_bits: of a tag.
        hop_range: chips that a spike can go in x, and in y.

    Raises:
        PipelineError: names the numbers that no chip has.
    """

    chips: int = 1
    cores_per_chip: int = 4
    neurons_per_core: int = 256
    fan_in: int = 64
    destinations: int = 4
    monitor_words: int = 1
    tag_bits: int = 11
    hop_range: int = 7

    def __post_init__(self) -> None:
        least = {"monitor_words": 0, "hop_range": 0}
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        bad = [f"{name}={value}" for name, value in given.items() if value < least.get(name, 1)]
        if self.tag_bits > MOST_TAG_BITS:
            bad.append(f"tag_bits={self.tag_bits}")
        if bad:
            raise PipelineError(f"no mesh has {', '.join(bad)}")

    @property
    def tags(self) -> int:
        """Different tags."""
        return int(2**self.tag_bits)


def positions(traffic: Array, hop_range: int) -> Array:
    """(x, y) of every chip, [chips, 2], on the smallest mesh that is nearly square.

    Args:
        traffic: [chips, chips], spikes from one chip to another.
    """
    chips = len(traffic)
    wide = math.ceil(math.sqrt(chips))
    high = math.ceil(chips / wide)
    y, x = (a.reshape(-1) for a in np.indices((high, wide)))
    apart = np.abs(x[:, None] - x), np.abs(y[:, None] - y)
    distance = np.asarray(sum(d + BEYOND * np.maximum(d - hop_range, 0) for d in apart), np.float64)
    spikes = np.zeros((high * wide,) * 2)
    spikes[:chips, :chips] = traffic + traffic.T
    np.fill_diagonal(spikes, 0)
    starts = [np.arange(high * wide), np.argsort(hilbert(y, x), kind="stable")]
    ends = [_exchanged(spikes, distance, start) for start in starts]
    costs = [float((spikes * distance[np.ix_(place, place)]).sum()) for place in ends]
    place = ends[int(np.argmin(costs))][:chips]
    return np.stack([x[place], y[place]], axis=1)


def _exchanged(spikes: Array, distance: Array, place: Array) -> Array:
    """The place of every chip after the exchanges that save most, one at a time."""
    place = place.copy()
    apart = distance[np.ix_(place, place)]
    cost = spikes @ apart
    least = -1e-9 * float(spikes.sum())
    for _ in range(10 * len(place)):
        own = np.diag(cost)
        change = cost + cost.T - own[:, None] - own + 2 * spikes * apart
        i, j = divmod(int(change.argmin()), len(place))
        if change[i, j] >= least:
            break
        cost += np.outer(spikes[:, j] - spikes[:, i], apart[i] - apart[j])
        cost[:, [i, j]] = cost[:, [j, i]]
        place[[i, j]] = place[[j, i]]
        apart = distance[np.ix_(place, place)]
    return place


def hilbert(y: Array, x: Array) -> Array:
    """The place of each cell (y, x) along a Hilbert curve over the smallest square of a power of two around them."""
    side = 1 << int(max(y.max(initial=0), x.max(initial=0))).bit_length()
    y, x, place = y.copy(), x.copy(), np.zeros_like(x)
    half = side // 2
    while half:
        right, down = (x & half) > 0, (y & half) > 0
        place += half * half * ((3 * right) ^ down)
        flip = ~down & right
        x, y = np.where(flip, half - 1 - (x & (half - 1)), x), np.where(flip, half - 1 - (y & (half - 1)), y)
        x, y = np.where(~down, y, x), np.where(~down, x, y)
        half //= 2
    return place
