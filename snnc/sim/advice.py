"""From a layer's causes of error to the settings that remove them, with what each would leave of the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .twins import Cause


@dataclass(frozen=True)
class Setting:
    """Something to try.

    Attributes:
        text: the setting.
        cause: what it mends.
        about: why.
        before, after: the layer's error now and then, ||a - y|| / ||y||.
        gain: of the output's error, that comes back with the cause off in this layer alone.
        exact: `after` was measured with that very setting; if not, with the cause off: the most it can bring.
    """

    text: str
    cause: Cause
    about: str
    before: float
    after: float
    gain: float
    exact: bool


class Ailing(Protocol):
    """What advice needs to know of a layer, see snnc.sim.diagnosis.Row."""

    @property
    def name(self) -> str: ...
    @property
    def error(self) -> float: ...
    @property
    def silent(self) -> float: ...
    @property
    def dead(self) -> tuple[int, ...]: ...
    @property
    def after(self) -> Mapping[str, float]: ...
    @property
    def bits(self) -> int | None: ...
    @property
    def fan_in(self) -> int | None: ...
    @property
    def causes(self) -> list[Cause]: ...


ABOUT: Mapping[Cause, str] = {
    Cause.TIMING: "spikes arrive unevenly: they come too late, or before the inhibition that should stop them",
    Cause.LEAK: "charge leaks away, or is lost by the reset",
    Cause.CLIPPED: "activations above the threshold are clipped: a neuron spikes at most once a step",
    Cause.STEPS: "too few steps: activations are rounded to whole spikes, or lost below one",
    Cause.DEAD: "dead channels: they never spike, the teacher's do",
    Cause.INHERITED: "wrong input from the layers before",
    Cause.BIAS: "the bias differs from the teacher's",
    Cause.BITS: "weight bits: the weights are rounded to few levels",
    Cause.PRUNED: "pruned fan-in: the connections that are left cannot stand in for all",
    Cause.WEIGHTS: "the weights differ from the teacher's, or cannot be compared with them",
    Cause.POOLING: "a max pool became an average pool",
    Cause.FUNCTION: "a function was replaced by another",
}
"""What each cause means."""

WORTH = 0.99
"""A setting is worth a word if it leaves less of the layer's error."""
MORE_EPOCHS = "ltl{epochs=...} with more epochs"
ROOM = f"if the chip has room, else {MORE_EPOCHS}"
ABLE = f"if the chip's neurons can, else {MORE_EPOCHS}"
TRY: Mapping[Cause, Callable[[Ailing, int], str]] = {
    Cause.TIMING: lambda row, steps: f"steps={2 * steps} (and bias-per-step, if it is not in the pipeline)",
    Cause.LEAK: lambda row, steps: f"threshold-layernorm{{alpha=1 reset=subtract}} {ABLE}",
    Cause.CLIPPED: lambda row, steps: "threshold-layernorm{percentile=100}",
    Cause.STEPS: lambda row, steps: f"threshold-layernorm{{steps={2 * steps}}}",
    Cause.DEAD: lambda row, steps: f"look at channel {_some(row.dead)} of {row.name}: weights, bias and threshold",
    Cause.BIAS: lambda row, steps: MORE_EPOCHS,
    Cause.BITS: lambda row, steps: f"quantize-weights{{bits={(row.bits or 3) + 1}}} {ROOM}",
    Cause.PRUNED: lambda row, steps: f"limit-fan-in{{k={2 * (row.fan_in or 1)}}} {ROOM}",
    Cause.WEIGHTS: lambda row, steps: MORE_EPOCHS,
    Cause.POOLING: lambda row, steps: f"average pools in the model itself, or {MORE_EPOCHS}",
    Cause.FUNCTION: lambda row, steps: f"a relu in the model itself, or {MORE_EPOCHS}",
}
EXACT: Mapping[Cause, str] = {Cause.STEPS: "setting-steps", Cause.CLIPPED: "setting-percentile"}
"""Settings that were measured themselves."""


def advise(row: Ailing, steps: int, gains: Mapping[str, float]) -> tuple[Setting, ...]:
    """What to try for a layer, the setting that brings the output most first; nothing that makes the layer worse.

    Args:
        gains: by cause, of the output's error what comes back; causes that were not measured come last.
    """
    found = []
    for cause in row.causes:
        after = row.after[EXACT.get(cause, cause.value)]
        if after < row.error * WORTH:
            gain = gains.get(cause.value, 0.0)
            found.append(Setting(TRY[cause](row, steps), cause, ABOUT[cause], row.error, after, gain, cause in EXACT))
    return tuple(sorted(found, key=lambda setting: (-setting.gain, setting.after)))


def _some(channels: tuple[int, ...], most: int = 8) -> str:
    return ", ".join(map(str, channels[:most])) + (f" and {len(channels) - most} more" if len(channels) > most else "")
