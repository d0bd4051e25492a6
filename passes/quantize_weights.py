"""Put the weights of every layer of neurons onto a symmetric grid of integer levels.

    w = s * q,   q integer,   |q| <= 2**(bits-1) - 1

per output channel or per tensor. The step s is the one of `RATIOS` * max|w| / (2**(bits-1) - 1) with the smallest
squared error: a few large weights that are cut cost less than a coarse grid for all. The grid becomes a Constraint:
before a trainer this is quantization-aware training (the trainer sees the rounded weights and moves the real ones),
after it post-training quantization. The read-out is left alone unless `readout` asks for it: chips hand spikes to a
host that reads them out. Weights that stand on such a grid already stay on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from snnc.errors import PipelineError
from snnc.ir import WEIGHTED, Array, Constraint, Graph, Stage, roles
from snnc.pipeline import Context, Pass
from snnc.sim.cost import first_role

RATIOS = tuple(1 - i / 40 for i in range(33))
"""Shares of the largest weight that the grid may end at: 1, 0.975, ... 0.2."""

NOTHING = 1e-6
"""Steps below this share of a layer's largest are of channels that training has put to sleep."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize weights to `bits` bits.

    Attributes:
        bits: 2 to 8.
        per: one step per output `channel`, or per `tensor`.
        readout: also the layers that have no neurons behind them.
    """

    name = "quantize-weights"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})
    gives = Stage.CONSTRAINED

    bits: int = 4
    per: Literal["channel", "tensor"] = "channel"
    readout: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise PipelineError(f"'{self.name}' knows 2 to 8 bits, not {self.bits}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        params: dict[str, Array] = {}
        constraints: dict[str, Constraint] = {}
        for node in graph.nodes:
            if node.op not in WEIGHTED or node.type.kind != "current":
                continue
            if not self.readout and not graph.feeds(node.name, "lif"):
                continue
            name = roles(node, graph.params)[first_role(node)]
            before = graph.constraints.get(name, Constraint())
            scale = self._step(graph.params[name])
            if before.bits == self.bits and before.scale is not None and before.scale.shape == scale.shape:
                continue
            if (dead := scale <= NOTHING * scale.max()).any():
                ctx.note(f"{node.at}: {int(dead.sum())} channel(s) without any weight")
                scale = np.where(dead, scale.max() or np.float32(1), scale)
            constraints[name] = replace(before, bits=self.bits, scale=scale)
            params[name] = constraints[name].project(graph.params[name])
            lost = int(((params[name] == 0) & (graph.params[name] != 0)).sum()) / params[name].size
            if lost >= 0.005:
                ctx.note(f"{node.name}: {lost:.0%} of weights rounded to 0")
        if not constraints and graph.stage is Stage.CONSTRAINED:
            return graph
        return graph.edit(params=params, constraints=constraints, stage=Stage.CONSTRAINED)

    def _step(self, weight: Array) -> Array:
        """The step s, float32, broadcastable to the weight."""
        axes = tuple(range(1, weight.ndim)) if self.per == "channel" and weight.ndim > 1 else tuple(range(weight.ndim))
        top = 2 ** (self.bits - 1) - 1
        largest = np.abs(weight).max(axis=axes, keepdims=True)
        best, least = np.asarray(largest / top, np.float32), np.full(largest.shape, np.inf)
        for ratio in RATIOS:
            step = np.asarray(ratio * largest / top, np.float32)
            usable = np.where(step > 0, step, np.float32(1))
            error = np.square(np.clip(np.rint(weight / usable), -top, top) * usable - weight, dtype=np.float64)
            error = error.sum(axis=axes, keepdims=True)
            best, least = np.where(error < least, step, best), np.minimum(error, least)
        return best
