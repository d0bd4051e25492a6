r"""One threshold, one leak and one start potential for all neurons of a core, as chips have them that share biases.

What such a chip holds of a neuron is its threshold in units of its own weight step s. Dividing a neuron's weights,
bias, start potential and threshold by the same number changes none of its spikes, so that theta itself may differ:

    theta_i / s_i  is the same for all neurons i of a core

While weights are free that costs nothing: `quantize-weights{per=core}` puts their steps in units of the thresholds.
Where they stand on levels already, with a step per channel, thresholds are averaged, and start potentials with them:

    theta_i <- s_i * mean(theta_j / s_j)        u0_i <- theta_i * mean(u0_j / theta_j)        alpha_i <- mean(alpha_j)

Then the error is the root of the mean square by which neurons leave their own value, relative to it; it is noted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnc.errors import PipelineError
from snnc.ir import Array, Graph, Node, Stage, roles
from snnc.pipeline import Context, Pass
from snnc.sim.cores import CORE, filled, weight_steps
from snnc.sim.reference import per_channel

SAME = 1e-5
"""Relative differences below this are roundings of float32."""


@dataclass(frozen=True)
class ShareThresholds(Pass):
    """Give all neurons of a core one threshold, one leak and one start potential.

    Attributes:
        core: neurons of a core.
    """

    name = "share-thresholds"
    takes = frozenset({Stage.SPIKING, Stage.CONSTRAINED})

    core: int = CORE

    def __post_init__(self) -> None:
        if self.core < 1:
            raise PipelineError(f"'{self.name}' cannot work with core={self.core}")

    def run(self, graph: Graph, ctx: Context) -> Graph:
        params: dict[str, Array] = {}
        for neuron in [n for n in graph.nodes if n.op == "lif"]:
            made, said = self._layer(graph, neuron)
            params |= made
            if said:
                ctx.note(f"{neuron.name}: {', '.join(said)}")
        return graph.edit(params=params) if params else graph

    def _layer(self, graph: Graph, neuron: Node) -> tuple[dict[str, Array], list[str]]:
        """The params of one layer that change, by name, and what to say of them."""
        own, shape = roles(neuron, graph.params), neuron.type.shape
        if any(len(graph.users(name)) > 1 for name in own.values()):
            return {}, ["declined: other neurons read the same thresholds"]
        cores = filled(shape, self.core)
        before = {role: _whole(graph.params[name], shape) for role, name in own.items()}
        steps = weight_steps(graph, graph.values(neuron)[0])
        theta = before["theta"]
        shared = {
            "theta": theta if steps is None else steps * _means(theta / steps, cores),
            "alpha": _means(before["alpha"], cores),
        }
        shared["u0"] = shared["theta"] * _means(before["u0"] / theta, cores)
        made, said = {}, []
        for role, word in (("theta", "thresholds"), ("alpha", "leaks"), ("u0", "start potentials")):
            size = np.abs(theta if role == "u0" else before[role])
            off = np.abs(shared[role] - before[role]) / size
            if off.max() > SAME:
                made[own[role]] = np.asarray(shared[role], np.float32)
                said.append(f"{word} averaged, off by {np.sqrt(np.square(off).mean()):.1%} (largest {off.max():.1%})")
        return made, said


def _whole(param: Array, shape: tuple[int, ...]) -> Array:
    """A param in the shape of its layer, float64."""
    return np.array(np.broadcast_to(per_channel(param, len(shape)), shape), np.float64)


def _means(values: Array, cores: Array) -> Array:
    """Every value replaced by the mean of those of its core."""
    sums = np.bincount(cores.reshape(-1), values.reshape(-1))
    counts = np.bincount(cores.reshape(-1))
    return np.asarray((sums / np.maximum(counts, 1))[cores])
