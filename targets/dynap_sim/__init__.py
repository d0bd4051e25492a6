"""`dynap-sim`: a simulated mixed-signal chip in the manner of DYNAP-SE2, with an on-chip learning block.

What is modelled: integer weights, a fan-in wall, frozen mismatch per physical part, thermal noise, silenced neurons,
and online local tandem learning. SE1 and SE2 have no plastic weights: the learning block is a hypothetical one. What
is not modelled yet is listed as unchecked in the limits: it is neither enforced nor simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from snnc.artifact import Bundle
from snnc.errors import PipelineError, TargetError
from snnc.ir import Graph, Stage
from snnc.passes import (
    BiasPerStep,
    DropRounding,
    FoldBatchNorm,
    LimitFanIn,
    PoolNeurons,
    QuantizeWeights,
    Rectify,
    ReplaceActivation,
    ReplaceMaxPool,
    SeparateLayers,
    ThresholdLayerNorm,
)
from snnc.passes.quantize_weights import CORE
from snnc.pipeline import Pipeline
from snnc.sim.cost import fan_in
from snnc.target import Artifact, Chip, Finding, Limits, Target
from snnc.train import LTL

from .chip import DynapChip
from .place import host_readout, place

NEURONS = 4 * CORE
"""Neurons of one DYNAP-SE2: 4 cores."""
MOST_BITS = 8


@dataclass(frozen=True)
class DynapSim(Target):
    """A simulated mixed-signal chip.

    Attributes:
        steps, bits, epochs: T, weight bits and LTL epochs of the default recipe.
        fan_in: connections that one neuron can have; 64 CAM words on DYNAP-SE2.
        mismatch: sigma of every physical part.
        thermal: sigma of the noise on the summed current, relative, fresh at every step.
        silencing: share of neurons that are dead.
        rate, width, warm_up, guard_bits, batch: of the learning block; warm_up as a share of the T steps.
        code: how the input comes in the default recipe: as a constant current, or as the stream of events that it is.
    """

    name = "dynap-sim"

    steps: int = 16
    bits: int = 4
    fan_in: int = 64
    epochs: int = 5
    mismatch: float = 0.2
    thermal: float = 0.0
    silencing: float = 0.0
    rate: float = 0.1
    width: float = 1.0
    warm_up: float = 0.75
    guard_bits: int = 7
    batch: int = 16
    code: Literal["direct", "events"] = "direct"

    def __post_init__(self) -> None:
        fine = {
            "steps": self.steps >= 1,
            "bits": 2 <= self.bits <= MOST_BITS,
            "fan_in": self.fan_in >= 1,
            "epochs": self.epochs >= 1,
            "mismatch": 0 <= self.mismatch <= 1,
            "thermal": 0 <= self.thermal <= 1,
            "silencing": 0 <= self.silencing < 1,
            "rate": 0 < self.rate < math.inf,
            "width": 0 < self.width < math.inf,
            "warm_up": 0 <= self.warm_up < 1,
            "guard_bits": 0 <= self.guard_bits <= 16,
            "batch": self.batch >= 1,
        }
        if bad := [f"{key}={getattr(self, key)}" for key, good in fine.items() if not good]:
            raise PipelineError(f"'{self.name}' cannot work with {', '.join(bad)}")

    @property
    def limits(self) -> Limits:
        return Limits(
            walls={"fan-in": self.fan_in, "weight bits": self.bits},
            budgets={"neurons per chip": NEURONS},
            unchecked=(
                "destinations per neuron",
                "tags",
                "thresholds, leaks and gains shared by a core",
                "biases beyond one bit per neuron",
                "base currents shared by a core",
            ),
        )

    def pipeline(self) -> Pipeline:
        return Pipeline(
            FoldBatchNorm(),
            DropRounding(),
            Rectify(),
            ReplaceActivation(),
            ReplaceMaxPool(),
            SeparateLayers(),
            PoolNeurons(),
            ThresholdLayerNorm(steps=self.steps, code=self.code),
            BiasPerStep(),
            LimitFanIn(self.fan_in),
            QuantizeWeights(bits=self.bits),
            LTL(epochs=self.epochs),
        )

    def findings(self, graph: Graph) -> list[Finding]:
        pruned = "limit-fan-in prunes it" if graph.stage is Stage.ANALOG else ""
        found = [
            Finding("fan-in", most, self.fan_in, layer, not pruned, pruned if most > self.fan_in else "")
            for layer, most in fan_in(graph).items()
        ]
        for name, constraint in graph.constraints.items():
            if constraint.bits is not None and graph.feeds(graph.users(name)[0].name, "lif"):
                found.append(Finding("weight bits", constraint.bits, self.bits, graph.users(name)[0].name))
        neurons = sum(math.prod(n.type.shape) for n in graph.nodes if n.op in ("relu", "lif"))
        chips = -(-neurons // NEURONS)
        note = f"{chips} virtual chips" if chips > 1 else ""
        return [*found, Finding("neurons per chip", neurons, NEURONS, "", False, note)]

    def place(self, graph: Graph) -> Graph:
        broken = [f for f in self.findings(graph) if f.wall and not f.ok]
        if broken:
            problems = [TargetError(_broken(f), at=graph[f.layer].at) for f in broken]
            raise TargetError.gather(f"the network does not fit '{self.name}'", problems, hint=f"'{self.pipeline()}'")
        return place(graph)

    def load(self, artifact: Artifact, seed: int = 0, state: Bundle | None = None, device: str = "cpu") -> Chip:
        return DynapChip(self, artifact, seed, state, device)


def _broken(finding: Finding) -> str:
    return f"{finding.limit} {finding.value:g}, the chip has {finding.allowed:g}"


__all__ = ["DynapChip", "DynapSim", "host_readout", "place"]
