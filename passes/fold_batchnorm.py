"""Fold every batch norm into a neighbour: exact, and the algebra stands in `snnc.ir.batchnorm`.

Those behind a conv or dense that nobody else reads went on import already; here the others go, into the layer ahead
where there is one, and what remains becomes a `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

from snnc.ir import Graph, Stage
from snnc.ir.batchnorm import fold
from snnc.pipeline import Context, Pass


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Remove every batch norm, exactly."""

    name = "fold-batchnorm"
    takes = frozenset({Stage.ANALOG})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        return fold(graph, ctx.note)
