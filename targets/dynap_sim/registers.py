"""What a plastic part stores: an integer of levels and guard bits, how often it was written, and what it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph

from .levels import BIT
from .place import ANALOG_BITS

ENDURANCE = 1e6
"""Writes that a plastic cell survives: the low end of resistive memory, recalled from the literature, not verified."""


class Register:
    """The stored integers of one param, and how they become what the part is set to.

    Levels that are no integers (sums of base currents) are counted in their order: 0, the first above 0, ...; changes
    are then measured in their mean distance.

    Attributes:
        stored: int32, in levels and their guard bits.
        counted: int32, writes of every cell since the last `forget`.
        moved: the same for changes of what the part is set to.
        bias: whether it is an analog setting, without levels and guard bits.
    """

    def __init__(self, graph: Graph, name: str, nominal: Tensor, guard_bits: int) -> None:
        constraint = graph.constraints[name]
        self.bias = constraint.bits == ANALOG_BITS
        self.guard = 1 if self.bias else 2**guard_bits
        switched = constraint.bits == BIT
        levels = constraint.levels
        self.grid = None if levels is None or switched else torch.tensor(levels, device=nominal.device)
        most = 1 if switched else constraint.top_level if levels is None else len(levels) // 2
        self.top = most * self.guard
        self.bottom = 0 if switched else -self.top
        self.unit = torch.tensor(constraint.scale, device=nominal.device)
        self.mask = None if constraint.mask is None else torch.tensor(constraint.mask, device=nominal.device)
        self.stored = self.standing_for(nominal)
        self.lsb = 1 if not self.bias else max(1, round(1 / float(self.unit.max()) / 2**guard_bits))
        self.forget()

    def write(self, change: Tensor, noise: torch.Generator) -> int:
        """Add a change (in the units of the param), rounded stochastically; gives back how many cells changed."""
        each = self.unit if self.grid is None else self.unit * self.grid[-1] * self.guard / self.top
        steps = change / each * self.guard
        if self.mask is not None:
            steps = steps * self.mask
        whole = (steps + torch.rand(steps.shape, generator=noise, device=steps.device)).floor()
        whole = whole.clamp(-(2.0**30), 2.0**30 - 128)  # far beyond the top, and the sum is still an int32
        changed = self._store(self.stored + whole.to(torch.int32))
        self.counted += changed
        return int(changed.sum())

    def add(self, net: Tensor, gross: Tensor) -> None:
        """Add `net` single steps, the sum of `gross` writes of one step each; saturates. A weight's step is one unit of
        its guard bits, a bias's is as large as that of a weight of step 1.
        """
        change, writes = net.to(torch.int32) * self.lsb, gross.to(torch.int32)
        if self.mask is not None:
            change, writes = change * self.mask, writes * self.mask
        self._store(self.stored + change)
        self.counted += writes

    def restore(self, stored: Array) -> bool:
        """Take over integers that were read from a file, unless they are none that this param can have."""
        fits = stored.shape == tuple(self.stored.shape) and stored.dtype == np.int32
        if not fits or (stored > self.top).any() or (stored < self.bottom).any():
            return False
        if self.mask is not None and stored[~self.mask.cpu().numpy()].any():
            return False
        self.stored = torch.tensor(stored, device=self.stored.device)
        return True

    def standing_for(self, values: Tensor) -> Tensor:
        """The integers, int32, that stand for these levels of the param."""
        return (self._counted(values) * self.guard).round().to(torch.int32)

    def nominal(self) -> Tensor:
        """What the part is set to: the nearest level."""
        at = self._levels()
        return (at if self.grid is None else self.grid[at.long() + len(self.grid) // 2]) * self.unit

    def forget(self) -> None:
        """Count writes from 0."""
        self.counted, self.moved = torch.zeros_like(self.stored), torch.zeros_like(self.stored)

    def _counted(self, nominal: Tensor) -> Tensor:
        """The number of the level of every value."""
        steps = nominal / self.unit
        if self.grid is None:
            return steps
        return torch.searchsorted((self.grid[1:] + self.grid[:-1]) / 2, steps) - len(self.grid) // 2

    def _levels(self) -> Tensor:
        return (self.stored / self.guard).round()

    def _store(self, wanted: Tensor) -> Tensor:
        """Keep what fits; gives back which cells changed."""
        before, levels = self.stored, self._levels()
        new = wanted.clamp(self.bottom, self.top)
        self.stored = (new if self.mask is None else new * self.mask).to(torch.int32)
        self.moved += self._levels() != levels
        return self.stored != before


@dataclass(frozen=True)
class Wear:
    """Writes of the synapses that there are: mean, 99th percentile and maximum; `moved`: changes of their levels."""

    mean: float
    p99: float
    most: int
    moved: float
    moved_most: int

    @classmethod
    def of(cls, registers: Iterable[Register]) -> Wear:
        """Over all synapses (biases are no plastic cells) since their counts began."""
        kept = [r for r in registers if not r.bias]
        counted, moved = (torch.cat([_present(r, part) for r in kept]) for part in ("counted", "moved"))
        rank = max(1, -(-99 * len(counted) // 100))
        p99 = int(counted.kthvalue(rank).values)
        mean, mean_moved = (float(part.double().mean()) for part in (counted, moved))
        return cls(mean, p99, int(counted.max()), mean_moved, int(moved.max()))

    def __str__(self) -> str:
        text = (
            f"{self.mean:.1f} writes per synapse (99 %: up to {self.p99}, most {self.most}), "
            f"{self.moved:.2f} changes of level (most {self.moved_most})"
        )
        if self.most == 0:
            return text
        return f"{text}; an endurance of {ENDURANCE:,.0f} (unverified) lasts {ENDURANCE / self.most:,.0f} such epochs"


def _present(register: Register, part: str) -> Tensor:
    value: Tensor = getattr(register, part)
    return value.flatten() if register.mask is None else value[register.mask]
