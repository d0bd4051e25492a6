"""`dynap-sim`: a simulated mixed-signal chip in the manner of DYNAP-SE2, with an on-chip learning block.

What a chip has is data (`profile`): SE2, SE1, an ideal one, or a user's own. What is modelled: integer weights, a
fan-in wall, thresholds, leaks, weight steps and direct currents that the neurons of a core share, frozen mismatch per
physical part, thermal noise, silenced neurons, and online local tandem learning. SE1 and SE2 have no plastic weights:
the learning block is a hypothetical one. What is not modelled yet is listed as unchecked in the limits: it is neither
enforced nor simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from snnc import spec
from snnc.artifact import Bundle, canonical
from snnc.errors import ArtifactError, PipelineError, TargetError
from snnc.ir import Graph, Samples
from snnc.passes import (
    BiasPerStep,
    DropRounding,
    FoldBatchNorm,
    LimitBiases,
    LimitFanIn,
    PoolNeurons,
    QuantizeWeights,
    Rectify,
    RefineThresholds,
    ReplaceActivation,
    ReplaceMaxPool,
    SeparateLayers,
    ShareThresholds,
    ThresholdLayerNorm,
)
from snnc.pipeline import Pass, Pipeline
from snnc.target import Artifact, Attaching, Bench, Benching, Chip, Finding, Laying, Layout, Limits, OneByOne, Target
from snnc.train import LTL

from .bench import DynapBench, at_once, model
from .chip import DynapChip
from .defects import DefectMap
from .host import host_readout
from .layout import laid_out
from .learning import LearningBlock
from .levels import repeatable
from .limits import findings_of, limits_of, most_bits
from .mismatch import SIGMA, SPREADS, Excitatory, Preset, Sharing
from .place import MOST_BITS, place
from .profile import BUILT_IN, Profile, from_json, load_profile

PROFILE, DEFECTS = "profile.json", "defects.csv"
"""The files of an artifact that hold the chip description and, if there is one, the list of defects."""


@dataclass(frozen=True)
class DynapSim(Target, Attaching, Laying, Benching):
    """A simulated mixed-signal chip.

    Attributes:
        profile: the chip description: `se2`, `se1`, `ideal`, or the path of a user's own (`.toml`).
        strict: what the cores share is a wall: a network that needs more is refused. Else it is reported.
        steps, epochs: T and LTL epochs of the default recipe.
        bits, fan_in, mismatch, preset, guard_bits: instead of the profile's own; bits of the weights, of which one is
            the sign; connections (CAM words) of a neuron; sigma of every physical part, of presets that have one. With
            a larger fan-in there are more guard bits, if no number is given.
        thermal: sigma of the noise on the summed current, relative, fresh at every step.
        silencing: share of neurons that are dead.
        rate, width, warm_up, batch: of the learning block; width 2 is usual for its float form, 3 for the other;
            warm_up as a share of the T steps.
        rewire: samples that the host watches before the first epoch of a calibration, to give CAM words that listen to
            silent neurons to others (`rewiring`); none at 0.
        readout: whether the host's read-out learns from the labels while the chip calibrates itself.
        code: how the input comes in the default recipe: as a constant current, or as the stream of events that it is.
        levels: the weights of the default recipe: integers of a step for each core, or sums of as many base currents as
            the weights have bits, one set for a layer, which leaves the layout free to choose its cores. Sums where the
            chip has masks over base currents, if nothing else is asked for.
        reset: of the neurons in the default recipe; the chip's, if nothing else is asked for.
        sharing, excitatory: of the mismatch, see `mismatch`.
        thermal_on, silence, defects, defect_map, jitter: of the noise, see `noise`.
        tier: discrete neurons, or circuits of differential-pair integrators.
        learning: the paper's rule, or counters and single writes; p_write is how probable each of these is at first.
    """

    name = "dynap-sim"

    profile: str | Profile = "se2"
    strict: bool = False
    steps: int = 16
    bits: int | None = None
    fan_in: int | None = None
    epochs: int = 5
    mismatch: float | None = None
    thermal: float = 0.0
    silencing: float = 0.0
    rate: float = 0.01
    width: float | None = None
    warm_up: float = 0.75
    guard_bits: int | None = None
    batch: int = 16
    code: Literal["direct", "events"] = "direct"
    levels: Literal["symmetric", "base-currents"] | None = None
    reset: Literal["subtract", "zero"] | None = None
    preset: Preset | None = None
    sharing: Sharing = "physical"
    excitatory: Excitatory = "fast"
    thermal_on: Literal["current", "membrane"] = "current"
    silence: Literal["frozen", "step"] = "frozen"
    defects: float = 0.0
    defect_map: str | DefectMap = ""
    jitter: int = 0
    tier: Literal["lif", "dpi"] = "lif"
    learning: Literal["float", "hardware"] = "float"
    rewire: int = 0
    readout: Literal["labels", "fixed"] = "labels"
    p_write: float = 1.0

    def __post_init__(self) -> None:
        fine = {
            "steps": self.steps >= 1,
            "bits": self.bits is None or 2 <= self.bits <= MOST_BITS,
            "fan_in": self.fan_in is None or self.fan_in >= 1,
            "epochs": self.epochs >= 1,
            "mismatch": self.mismatch is None or 0 <= self.mismatch <= 1,
            "thermal": 0 <= self.thermal <= 1,
            "silencing": 0 <= self.silencing < 1,
            "rate": 0 < self.rate < math.inf,
            "width": self.width is None or 0 < self.width < math.inf,
            "warm_up": 0 <= self.warm_up < 1,
            "guard_bits": self.guard_bits is None or 0 <= self.guard_bits <= 16,
            "batch": self.batch >= 1,
            "rewire": self.rewire == 0 or self.rewire >= 2,
            "defects": 0 <= self.defects < 1,
            "jitter": self.jitter >= 0,
            "p_write": 0 < self.p_write <= 1,
        }
        if bad := [f"{key}={getattr(self, key)}" for key, good in fine.items() if not good]:
            raise PipelineError(f"'{self.name}' cannot work with {', '.join(bad)}")
        if self.rewire and self.sharing == "shared":
            raise PipelineError(
                f"rewire={self.rewire}: words of one kernel are no one neuron's", hint="sharing=physical"
            )
        kind = self.chip.mismatch.preset
        if self.mismatch and kind not in SIGMA:
            raise PipelineError(
                f"mismatch={self.mismatch} says nothing about preset={kind}, which has {SPREADS[kind]}",
                hint="leave mismatch away (0: no mismatch at all), or preset=ltl",
            )
        model(self)

    @cached_property
    def chip(self) -> Profile:
        """What the chip is: its description, with the options that were given instead."""
        found = self.profile if isinstance(self.profile, Profile) else load_profile(self.profile)
        mismatch, learning = found.mismatch, found.learning
        if self.mismatch is not None:
            mismatch = replace(mismatch, sigma=self.mismatch)
        if self.preset is not None:
            mismatch = replace(mismatch, preset=self.preset)
        room = found.fan_in if self.fan_in is None else self.fan_in
        if self.guard_bits is not None:
            learning = replace(learning, guard_bits=self.guard_bits)
        elif room > found.fan_in:
            learning = replace(learning, guard_bits=_finer(learning.guard_bits, room / found.fan_in))
        return replace(found, fan_in=room, mismatch=mismatch, learning=learning)

    @cached_property
    def listed(self) -> DefectMap | None:
        """The defective words that a file lists, if one was given."""
        if isinstance(self.defect_map, DefectMap):
            return self.defect_map
        return DefectMap.read(self.defect_map) if self.defect_map else None

    @property
    def limits(self) -> Limits:
        return limits_of(self.chip, self._most_bits, self.strict)

    def pipeline(self) -> Pipeline:
        chip = self.chip
        reset = self.reset or chip.reset
        tonic = "dc" in chip.shared_per_core and chip.fan_in > 1
        lost_above = [RefineThresholds(per="layer", start="layer")] if reset == "zero" else []
        return Pipeline(
            FoldBatchNorm(),
            DropRounding(),
            Rectify(),
            ReplaceActivation(),
            ReplaceMaxPool(),
            SeparateLayers(),
            PoolNeurons(),
            ThresholdLayerNorm(steps=self.steps, reset=reset, code=self.code),
            BiasPerStep(),
            *lost_above,
            LimitFanIn(chip.fan_in - tonic),
            *self._on_cores(tonic),
            LTL(epochs=self.epochs),
        )

    def _on_cores(self, tonic: bool) -> list[Pass]:
        """The passes that give weights, thresholds and biases what the neurons of a core share."""
        chip, common, core = self.chip, self.chip.shared_per_core, self.chip.neurons_per_core
        bits = self.bits or chip.weight_bits + (chip.weight_coding == "repeated")
        levels = self.levels or ("base-currents" if chip.weight_coding == "masks" else "symmetric")
        if levels == "base-currents" and chip.weight_coding == "repeated":
            raise PipelineError(f"'{chip.name}' has no base currents: its words repeat one", hint="levels=symmetric")
        whole = levels == "base-currents"
        made: list[Pass] = []
        if whole:
            made = [QuantizeWeights(bits=bits, per="tensor", levels=levels), ShareThresholds(core)]
        elif "base_weights" in common or "threshold" in common:
            made = [QuantizeWeights(bits=bits, per="core", core=core), ShareThresholds(core)]
        else:
            made = [QuantizeWeights(bits=bits)]
        return [*made, LimitBiases("tonic", bits, core, "layer" if whole else "core")] if tonic else made

    def findings(self, graph: Graph) -> list[Finding]:
        return findings_of(graph, self.chip, self._most_bits, self.strict, self.steps)

    def place(self, graph: Graph) -> Graph:
        if self.chip.weight_coding == "repeated":
            repeatable(graph)
        broken = [f for f in self.findings(graph) if f.wall and not f.ok]
        if broken:
            problems = [TargetError(_broken(f), at=graph[f.layer].at) for f in broken]
            raise TargetError.gather(f"the network does not fit '{self.name}'", problems, hint=f"'{self.pipeline()}'")
        return place(graph)

    def lay_out(self, graph: Graph, x: Samples) -> Layout:
        return laid_out(graph, self.chip, self.strict, x)

    def load(self, artifact: Artifact, seed: int = 0, state: Bundle | None = None, device: str = "cpu") -> Chip:
        return DynapChip(self, artifact, seed, state, device)

    def at_once(self, artifact: Artifact, device: str = "cpu") -> int:
        return 1 if self.rewire else at_once(place(artifact.graph), device)

    def bench(self, artifact: Artifact, seeds: Sequence[int], device: str = "cpu") -> Bench:
        if self.rewire and len(seeds) > 1:
            return OneByOne([self.load(artifact, seed, device=device) for seed in seeds])
        return DynapBench(self, artifact, seeds, device)

    def attached(self) -> tuple[str, Mapping[str, bytes]]:
        own = self.profile in BUILT_IN
        described = load_profile(self.profile) if isinstance(self.profile, str) else self.profile
        text = str(replace(self, profile=self.profile if own else described, defect_map=""))
        listed = {} if self.listed is None else {DEFECTS: self.listed.to_bytes()}
        return text, {PROFILE: canonical(described.to_json()), **listed}

    @classmethod
    def from_attached(cls, options: Mapping[str, str], bundle: Bundle) -> DynapSim:
        if "defect_map" in options:
            raise ArtifactError("names a list of defects outside of it")
        if PROFILE not in bundle.files:
            raise ArtifactError(
                f"holds no {PROFILE}", hint="it is of a version without chip descriptions: compile the model again"
            )
        described = from_json(bundle.json(PROFILE), PROFILE)
        named = options.get("profile", cls.profile)
        made = spec.build(cls, {key: value for key, value in options.items() if key != "profile"})
        ours = named in BUILT_IN and load_profile(str(named)) == described
        listed = DefectMap.parse(bundle.files[DEFECTS], DEFECTS) if DEFECTS in bundle.files else ""
        return replace(made, profile=str(named) if ours else described, defect_map=listed)

    @property
    def _most_bits(self) -> int:
        return self.bits or most_bits(self.chip)


def _finer(guard_bits: int, more: float) -> int:
    """Guard bits of a chip with so many times the fan-in: one more for every doubling, as all synapses of a neuron are
    written together; up to those of the float form.
    """
    return max(guard_bits, min(guard_bits + math.ceil(math.log2(more)), LearningBlock.usual_guard_bits))


def _broken(finding: Finding) -> str:
    return f"{finding.limit} {finding.value:g}, the chip has {finding.allowed:g}"


__all__ = ["DynapChip", "DynapSim", "host_readout", "place"]
