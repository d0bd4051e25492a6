"""Spread every bias over the time window: b / T at every step instead of b at the first (PTL section 4, tandem eq. 5).

The total charge stays b; the neurons see it evenly, as a constant injected current.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnc.ir import Graph, Stage, roles
from snnc.pipeline import Context, Pass


@dataclass(frozen=True)
class BiasPerStep(Pass):
    """Inject biases as constant currents."""

    name = "bias-per-step"
    takes = frozenset({Stage.SPIKING})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        late = [n for n in graph.nodes if n.attrs.get("bias_at") == "first-step"]
        if not late:
            return graph
        biases = {roles(n, graph.params)["bias"]: n for n in late}
        params = {name: graph.params[name] / np.float32(graph.steps) for name in biases}
        return graph.edit([n.with_attrs(bias_at="per-step") if n in late else n for n in graph.nodes], params=params)
