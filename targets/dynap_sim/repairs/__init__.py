"""Ways to repair a mismatched chip, from doing nothing to learning on it: what on-chip learning is measured against.

    chip = artifact.load(seed=7)
    repaired = REPAIRS["output-gain"]().repair(chip, data)
    repaired.score(data.test), repaired.traffic

Every repair sees the training part of the data once and nothing else; see docs/repairs.md.
"""

from snnc.spec import Registry

from .contract import Repair, Repaired, Traffic
from .core_bias import CoreBias
from .in_the_loop import InTheLoop
from .noise_aware import NoiseAware
from .on_chip import OnChip
from .readout import Nothing, OutputGain, ReadOut
from .rewire import Rewire

REPAIRS: Registry[Repair] = Registry(
    "snnc.repairs",
    "repair",
    {
        "none": Nothing,
        "output-gain": OutputGain,
        "read-out": ReadOut,
        "core-bias": CoreBias,
        "in-the-loop": InTheLoop,
        "noise-aware": NoiseAware,
        "on-chip": OnChip,
        "rewire": Rewire,
    },
)

__all__ = [
    "REPAIRS",
    "CoreBias",
    "InTheLoop",
    "NoiseAware",
    "Nothing",
    "OnChip",
    "OutputGain",
    "ReadOut",
    "Repair",
    "Repaired",
    "Rewire",
    "Traffic",
]
