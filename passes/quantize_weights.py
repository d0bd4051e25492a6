r"""Put the weights of every layer of neurons onto the levels that the hardware has.

    w = s * q,   q one of the levels

per output channel, per tensor or per core. The step s is the one of `RATIOS` * max|w| / max|q| with the smallest
squared error: a few large weights that are cut cost less than a coarse grid for all (`scales=power-of-two`: the best
power of two below twice the largest of them, for hardware that shifts). The levels of b bits:

    symmetric       integers, |q| <= 2**(b-1) - 1
    power-of-two    0 and +-2**i, 0 <= i < 2**(b-1) - 1: a multiplication is a shift
    base-currents   +-(m_1 c_1 + ... + m_b c_b), m_i in {0, 1}: DYNAP-SE2 switches b currents that a core shares,
                    and the type of the synapse is the sign; c is searched, one set for a layer, or for all
                    layers and scales whose currents meet at the same neurons (per=tensor)

Per core, neighbouring output channels share a step, those of one core of `snnc.sim.cores`. A core has one threshold
too: where those of its neurons differ, the step is shared in units of them, w / theta = s * q. That a neuron's weights
and its threshold are both divided by the same number changes none of its spikes.

The search for base currents alternates two steps, neither of which raises the error sum_j (|w_j| - m_j . c)^2:

    m_j = the mask whose sum is nearest to |w_j|            c = (M^T M)^-1 M^T |w|   (as long as that stays positive)

from binary currents s * (1, 2, 4, ...) at each of `RATIOS`; the best end wins. What is found is put onto the settings
of a bias generator of 8 bits, multiples of 1/255 of the largest current, so that chips can hold exactly these.

The levels become a Constraint: before a trainer this is quantization-aware training (the trainer sees the rounded
weights and moves the real ones), after it post-training quantization. The read-out is left alone unless `readout` asks
for it: chips hand spikes to a host that reads them out. Weights that stand on such levels already stay on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from snnc.errors import PipelineError
from snnc.ir import WEIGHTED, Array, Constraint, Graph, Node, Stage, roles
from snnc.ir.graph import nearest
from snnc.pipeline import Context, Pass
from snnc.sim.cores import CORE, channels_per_core, meeting
from snnc.sim.cost import first_role

RATIOS = tuple(1 - i / 40 for i in range(33))
"""Shares of the largest weight that the grid may end at: 1, 0.975, ... 0.2."""

NOTHING = 1e-6
"""Steps below this share of a layer's largest are of channels that training has put to sleep."""

POWERS = 5
"""Most bits of power-of-two levels: 15 powers span all that float weights need."""

ROUNDS = 30
"""Steps of the search for base currents; it stands still before, as a rule."""

QUANTILES = 8192
"""Of more weights than this, base currents are searched for so many quantiles."""

SETTINGS = 256
"""Settings of a current, 0 among them, as the bias generators of DYNAP-SE and DYNAP-SE2 have within a range."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights to `bits` bits.

    Attributes:
        bits: 2 to 8.
        per: one step per output `channel`, per `tensor`, or for the output channels of a `core`.
        levels: the set of levels, see above.
        scales: any step, or powers of two only.
        readout: also the layers that have no neurons behind them.
        core: neurons of a core (per=core).
    """

    name = "quantize-weights"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    bits: int = 4
    per: Literal["channel", "tensor", "core"] = "channel"
    levels: Literal["symmetric", "power-of-two", "base-currents"] = "symmetric"
    scales: Literal["free", "power-of-two"] = "free"
    readout: bool = False
    core: int = CORE

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise PipelineError(f"'{self.name}' knows 2 to 8 bits, not {self.bits}")
        if self.levels == "power-of-two" and self.bits > POWERS:
            raise PipelineError(f"'{self.name}' knows power-of-two levels of up to {POWERS} bits, not {self.bits}")
        if self.levels == "base-currents" and (self.per == "channel" or self.scales != "free"):
            raise PipelineError(
                f"'{self.name}' finds base currents for a core or a layer, in any step, not with per={self.per} "
                f"scales={self.scales}",
                hint="per=core, or per=tensor; scales=free",
            )
        if self.core < 1 or (self.core != CORE and self.per != "core"):
            raise PipelineError(f"'{self.name}' cannot work with core={self.core}, per={self.per}", hint="per=core")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        timed = [node for node in graph.nodes if node.op in WEIGHTED and node.type.kind == "current"]
        nodes = [node for node in timed if self.readout or graph.feeds(node.name, "lif")]
        together = self.levels == "base-currents" and self.per == "tensor"
        for group in meeting(graph, nodes) if together else [[node] for node in nodes]:
            for node, wanted in zip(group, self._wanted(graph, group, ctx), strict=True):
                name = _weight(graph, node)
                if wanted is None:
                    continue
                constraints[name] = wanted
                params[name] = wanted.project(graph.params[name])
                lost = int(((params[name] == 0) & (graph.params[name] != 0)).sum()) / params[name].size
                if lost >= 0.005:
                    ctx.note(f"{node.name}: {lost:.0%} of weights rounded to 0")
        if not constraints and graph.stage is Stage.CONSTRAINED:
            return graph
        return graph.edit(params=params, constraints=constraints, stage=Stage.CONSTRAINED)

    def _wanted(self, graph: Graph, group: Sequence[Node], ctx: Context) -> list[Constraint | None]:
        """What the weights of nodes that share their levels shall obey; None for all if they do already."""
        weights = [graph.params[_weight(graph, node)] for node in group]
        before = [graph.constraints.get(_weight(graph, node), Constraint()) for node in group]
        unit = _thresholds(graph, group[0]) if self.per == "core" else np.ones((), np.float32)
        first = self._first(weights[0], group[0])
        levels, scale = self._grid(weights[0] if len(group) == 1 else np.concatenate(weights, None), unit, first)
        scales = [scale] if len(group) == 1 else [scale.reshape((1,) * weight.ndim) for weight in weights]
        same = all(_same(old, before[0]) for old in before)
        if same and all(self._obeyed(o, s, levels, first, unit) for o, s in zip(before, scales, strict=True)):
            return [None] * len(group)
        if (dead := scale <= NOTHING * scale.max()).any():
            ctx.note(f"{group[0].at}: {int(dead.sum())} channel(s) without any weight")
            scales = [np.where(s <= NOTHING * s.max(), s.max() or np.float32(1), s) for s in scales]
        return [replace(o, bits=self.bits, scale=s, levels=levels) for o, s in zip(before, scales, strict=True)]

    def _first(self, weight: Array, node: Node) -> Array:
        """The first row (output channel) of every group of rows of the weight that share a step."""
        if self.per == "tensor" or weight.ndim < 2:
            return np.zeros(1, int)
        together = channels_per_core(node.type.shape, self.core) if self.per == "core" else 1
        return np.arange(0, len(weight), together)

    def _grid(self, weight: Array, unit: Array, first: Array) -> tuple[Array | None, Array]:
        """The levels in units of the step (None: the integers of so many bits), and the step."""
        if self.levels == "base-currents":
            levels, step = self._currents(weight / unit, first)
            return levels, np.asarray(step * unit, np.float32)
        powers = _signed(2.0 ** np.arange(2 ** (self.bits - 1) - 1)) if self.levels == "power-of-two" else None
        return powers, np.asarray(self._step(weight / unit, powers, first) * unit, np.float32)

    def _currents(self, weight: Array, first: Array) -> tuple[Array, Array]:
        """The sums of the base currents of all rows, or for every row those of its group, and the step."""
        groups = np.split(np.atleast_1d(weight), first[1:])
        sets, steps = zip(*(_sums_and_step(group, self.bits) for group in groups), strict=True)
        if self.per == "tensor" or weight.ndim < 2:
            return np.unique(sets[0]), np.full((1,) * weight.ndim, steps[0], np.float32)
        rows = [len(group) for group in groups]
        step = np.repeat(np.asarray(steps, np.float32), rows)
        return np.repeat(np.stack(sets), rows, axis=0), step.reshape(-1, *[1] * (weight.ndim - 1))

    def _obeyed(self, before: Constraint, scale: Array, levels: Array | None, first: Array, unit: Array) -> bool:
        """Whether the weights stand on levels of this kind already."""
        if before.bits != self.bits or before.scale is None or before.scale.shape != scale.shape:
            return False
        if not np.allclose(_shared(np.maximum, before.scale / unit, first), before.scale / unit, rtol=1e-6, atol=0):
            return False
        if self.scales == "power-of-two" and (np.frexp(before.scale)[0] != 0.5).any():
            return False
        if levels is None or before.levels is None:
            return levels is before.levels
        if self.levels == "base-currents":
            if np.array_equal(before.levels, np.rint(before.levels)):
                return False
            return before.levels.ndim == 1 or np.array_equal(_shared(np.maximum, before.levels, first), before.levels)
        return np.array_equal(before.levels, levels)

    def _step(self, weight: Array, levels: Array | None, first: Array) -> Array:
        """The step s, float32, broadcastable to the weight."""
        alone = self.per != "tensor" and weight.ndim > 1
        axes = tuple(range(alone, weight.ndim))
        top = 2 ** (self.bits - 1) - 1 if levels is None else levels.max()
        largest = _shared(np.maximum, np.abs(weight).max(axis=axes, keepdims=True), first)
        best, least = np.asarray(largest / top, np.float32), np.full(largest.shape, np.inf)
        for ratio in RATIOS:
            step = np.asarray(ratio * largest / top, np.float32)
            usable = np.where(step > 0, step, np.float32(1))
            if self.scales == "power-of-two":
                usable = step = np.asarray(np.exp2(np.ceil(np.log2(usable))), np.float32)
            near = np.clip(np.rint(weight / usable), -top, top) if levels is None else nearest(weight / usable, levels)
            apart = np.square(near * usable - weight, dtype=np.float64)
            error = _shared(np.add, apart.sum(axis=axes, keepdims=True), first)
            best, least = np.where(error < least, step, best), np.minimum(error, least)
        return best


def _weight(graph: Graph, node: Node) -> str:
    """The param that has levels."""
    return roles(node, graph.params)[first_role(node)]


def _same(one: Constraint, other: Constraint) -> bool:
    """Whether the weights of two nodes obey the same levels in the same step."""
    if one is other:
        return True
    if one.scale is None or other.scale is None or one.levels is None or other.levels is None:
        return False
    return np.array_equal(one.scale.reshape(-1), other.scale.reshape(-1)) and np.array_equal(one.levels, other.levels)


def _thresholds(graph: Graph, layer: Node) -> Array:
    """The thresholds of the neurons behind a layer, by its rows [O, 1, ...], in units of the largest; [] if all equal.

    Those that differ within a channel count as one, as do those of neurons that several layers lead to.
    """
    theta = [graph.params[roles(user, graph.params)["theta"]] for user in graph.users(layer.name) if user.op == "lif"]
    if len(theta) != 1 or theta[0].ndim != 1 or (theta[0] == theta[0][0]).all():
        return np.ones((), np.float32)
    rank = graph.params[roles(layer, graph.params)[first_role(layer)]].ndim
    return np.asarray((theta[0] / theta[0].max()).reshape(-1, *[1] * (rank - 1)), np.float32)


def _shared(reduce: np.ufunc, rows: Array, first: Array) -> Array:
    """Rows [O, 1, ...] that begin a group at each of `first`: every row what its whole group is reduced to."""
    if not rows.ndim:
        return rows
    return np.repeat(reduce.reduceat(rows, first, axis=0), np.diff([*first, len(rows)]), axis=0)


def base_currents(sizes: Array, count: int) -> Array:
    """`count` positive numbers, ascending, whose subset sums are near to all `sizes` [n]; algebra in the module."""
    if not sizes.size:
        return np.asarray(2.0 ** np.arange(count))
    sizes = np.sort(sizes.astype(np.float64).reshape(-1))
    sizes = sizes[np.linspace(0, len(sizes) - 1, min(len(sizes), QUANTILES)).round().astype(int)]
    best, least = np.zeros(count), np.inf
    for ratio in RATIOS:
        currents = ratio * sizes.max() * 2.0 ** np.arange(count) / (2**count - 1)
        for _ in range(ROUNDS):
            masks = _masks(count)[_nearest(sizes, _masks(count) @ currents)]
            error = float(np.square(masks @ currents - sizes).sum())
            if error < least:
                best, least = currents, error
            found = np.linalg.lstsq(masks.T @ masks, masks.T @ sizes, rcond=None)[0]
            if not (found > 0).all() or np.array_equal(found, currents):
                break
            currents = found
    return np.sort(best)


def _sums_and_step(weight: Array, bits: int) -> tuple[Array, float]:
    """The sums of base currents for these weights in units of a step, ascending, and the step: 0 if all weights are."""
    currents = base_currents(np.abs(weight[weight != 0]), bits)
    finest = currents.max() / (SETTINGS - 1)
    return _signed(_sums(settings(currents / finest)) / SETTINGS), finest * SETTINGS if weight.any() else 0.0


def settings(currents: Array) -> Array:
    """Integers from 1 to `SETTINGS` - 1 near to ascending currents in units of the finest, with different subset sums.

    From the largest down, each takes the nearest integer that makes no sum of those before twice; where none is left,
    the nearest.
    """
    found, sums = np.zeros(len(currents)), np.zeros(1)
    free = np.arange(1, SETTINGS)
    for i in reversed(range(len(currents))):
        near = free[np.argsort(np.abs(free - currents[i]), kind="stable")]
        apart = np.abs(sums[:, None] - sums).reshape(-1)
        new = near[~np.isin(near, apart)]
        found[i] = new[0] if len(new) else near[0]
        sums = np.unique(np.concatenate([sums, sums + found[i]]))
    return np.sort(found)


def _masks(count: int) -> Array:
    """All ways to switch `count` currents, [2**count, count]."""
    return np.asarray((np.arange(2**count)[:, None] >> np.arange(count)) & 1, np.float64)


def _nearest(values: Array, sums: Array) -> Array:
    """The index of the nearest sum to every value."""
    order = np.argsort(sums, kind="stable")
    ranked = sums[order]
    return np.asarray(order[np.searchsorted((ranked[1:] + ranked[:-1]) / 2, values)])


def _sums(currents: Array) -> Array:
    """The sums of all masks but the empty one, ascending; as often as there are masks that make them."""
    return np.sort((_masks(len(currents)) @ currents).astype(np.float32))[1:]


def _signed(sizes: Array) -> Array:
    """0 and these levels with both signs, ascending, float32."""
    return np.asarray(np.concatenate([-sizes[::-1], [0.0], sizes]), np.float32)
