r"""Events by chance, the same in every executor: the encoding `rate`; and totals of inputs that are streams of events.

    e[t, i] = sign(x_i) if u[t, i] < |x_i| / max else 0      I[t, i] = e[t, i] * max / T

with u uniform in [0, 1), so that sum_t I[t] is x in the mean (for |x| <= max; beyond, an event at every step). Rate
coding is Bernoulli's, every step a draw of its own (as in Sengupta et al. 2019, arXiv 1802.02627); values below 0 make
events of the other sign.

u is no stream but a function of (seed, sample, t, i), so that neither the order of the samples, nor batches, nor the
executor change a single event: SplitMix64 (Steele et al., OOPSLA 2014), started at a hash of the seed and of the
sample, its step number t * size + i. A sample is known by the float32 bytes of all the network's inputs: the same
picture always makes the same train, and another picture another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from torch import Tensor

from snnc.errors import DataError
from snnc.ir import Array, Graph, Node
from snnc.ir.streams import is_stream, sample_shape, streamed

Value = TypeVar("Value", Array, Tensor)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def keys(inputs: Mapping[str, Array], seed: int) -> Array:
    """Where each sample's random numbers start, uint64 [N], from all inputs [N, ...] by name."""
    rows = [np.ascontiguousarray(inputs[name], np.float32) for name in sorted(inputs)]
    made = [
        blake2b(b"".join(row[i].tobytes() for row in rows), digest_size=8, key=b"%d" % seed).digest()
        for i in range(len(rows[0]))
    ]
    return np.frombuffer(b"".join(made), "<u8").astype(np.uint64)


def uniform(start: Array, shape: tuple[int, ...], t: int) -> Array:
    """u[t] in [0, 1), float32 [N, *shape]: multiples of 2**-24, from `keys` [N] at step t = 0, 1, ..."""
    size = int(np.prod(shape))
    step = np.arange(t * size + 1, (t + 1) * size + 1, dtype=np.uint64)
    z = start[:, None] + GOLDEN * step
    for shift, factor in MIX:
        z = (z ^ (z >> shift)) * factor
    z ^= z >> np.uint64(31)
    share = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return np.asarray(share.reshape(-1, *shape))


def events(node: Node, x: Array, inputs: Mapping[str, Array], steps: int) -> Array:
    """e, the events of an `encode` of code `rate`, int8 [T, N, ...] of -1, 0 and 1, for values x [N, ...].

    Args:
        inputs: the network's inputs that the values were made of.
    """
    x = np.asarray(x, np.float32)
    share = np.abs(x) / np.float32(str(node.attrs["max"]))
    sign = np.sign(x).astype(np.int8)
    start = keys(inputs, int(str(node.attrs["seed"])))
    return np.stack([(uniform(start, x.shape[1:], t) < share) * sign for t in range(steps)])


def totals(graph: Graph, x: Mapping[str, Value]) -> dict[str, Value]:
    """What is given [N, ...] by name, with streams of events [N, T, ...] of the graph's inputs summed over their steps.

    Raises:
        DataError: an encoding of code `events` is given no stream, or one of another length than T.
    """
    for name in streamed(graph) & x.keys():
        got, want = tuple(x[name].shape[1:]), sample_shape(graph, name, tuple(x[name].shape[1:]))
        if got != want:
            raise DataError(
                f"input '{name}' takes events [N, {', '.join(map(str, want))}], not [N, {', '.join(map(str, got))}]"
            )
    made = dict(x)
    for name in graph.inputs.keys() & x.keys():
        if is_stream(graph, name, tuple(x[name].shape[1:])):
            made[name] = x[name].sum(1)
    return made
