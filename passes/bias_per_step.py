"""Spread every bias over the time window: b / T at every step instead of b at the first (PTL section 4, tandem eq. 5).

The total charge stays b; the neurons see it evenly, as a constant injected current.
"""

from __future__ import annotations

from dataclasses import dataclass

from snnc.ir import Graph, Stage
from snnc.pipeline import Context, Pass
from snnc.sim.lowering import spread_biases


@dataclass(frozen=True)
class BiasPerStep(Pass):
    """Inject biases as constant currents."""

    name = "bias-per-step"
    takes = frozenset({Stage.SPIKING})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        return spread_biases(graph)
