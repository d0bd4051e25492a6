"""What a plastic part stores: an integer of levels and guard bits, how often it was written, and what it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph
from snnc.sim.levels import nearest_at, taken

from .levels import BIT
from .noise import Chance, uniform
from .place import ANALOG_BITS
from .side_by_side import tiled

BLOCK = 2**17
"""Cells that are computed at once: they stay in the cache, and large memory comes slowly from the system."""
ENDURANCE = 1e6
"""Writes that a plastic cell survives: the low end of resistive memory, recalled from the literature, not verified."""
PACKED = {torch.float32: 2.0**12, torch.float64: 2.0**26}
"""How much a write weighs in `pack`, by the type of the sum: half of it is more than its writes may be."""


def pack(net: Tensor, gross: Tensor) -> Tensor:
    """Two whole numbers in one, to be summed up at once: `net`, at most `gross` large, and `gross` PACKED times."""
    return net + gross * PACKED[net.dtype]


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of `net` and of `gross`."""
    weight = PACKED[packed.dtype]
    gross = (packed / weight).round_()
    return torch.add(packed, gross, alpha=-weight), gross


def room_for(writes: int) -> torch.dtype:
    """The type of a packed sum of so many writes."""
    return next(dtype for dtype, weight in PACKED.items() if writes < weight / 2)


class Register:
    """The stored integers of one param, and how they become what the part is set to.

    Levels that are no integers (sums of base currents) are counted in their order: 0, the first above 0, ...; changes
    are then measured in their mean distance.

    Attributes:
        counted: writes of every cell since the last `forget`, whole numbers up to 2^24.
        moved: the same for changes of what the part is set to.
        bias: whether it is an analog setting, without levels and guard bits.
    """

    def __init__(self, graph: Graph, name: str, nominal: Tensor, guard_bits: int, copies: int = 1) -> None:
        """Stand for `nominal`, a param of a placed network; or for those of so many devices, side by side."""
        constraint = tiled(graph.constraints[name], graph.params[name], copies)
        self.copies = copies
        self.bias = constraint.bits == ANALOG_BITS
        self.guard = 1 if self.bias else 2**guard_bits
        switched = constraint.bits == BIT
        levels = constraint.levels
        self.grid = None if levels is None or switched else torch.tensor(levels, device=nominal.device)
        most = 1 if switched else constraint.top_level if levels is None else levels.shape[-1] // 2
        self.top = most * self.guard
        self.bottom = 0 if switched else -self.top
        self.unit = torch.tensor(constraint.scale, device=nominal.device)
        self.mask = None if constraint.mask is None else torch.tensor(constraint.mask, device=nominal.device)
        self._there = None if self.mask is None else self.mask.to(torch.float32)  # products with booleans are slow
        each = self.unit if self.grid is None else self.unit * self._largest() * self.guard / self.top
        self.finest = self.guard / each
        self._stored = self.standing_for(nominal).to(torch.float32)  # whole numbers, all of them exact
        self.lsb = 1 if not self.bias else max(1, round(1 / float(self.unit.max()) / 2**guard_bits))
        self.forget()

    def write(self, change: Tensor, noise: Chance) -> None:
        """Add a change (in the units of the param), rounded stochastically, every device's by its own noise."""
        rows = len(change) // self.copies
        for some in self._blocks():
            steps = change[some] * _of(self.finest, some, change)
            steps += uniform(steps.shape, steps.ndim, noise[some.start // rows : -(-some.stop // rows)])
            steps.floor_().clamp_(-(2.0**30), 2.0**30)  # far beyond the top, and no infinity
            self._store(some, self._present(some, steps))

    def add(self, packed: Tensor) -> None:
        """Add `net` single steps, the sum of `gross` writes of one step each, as `pack` has them; saturates. A weight's
        step is one unit of its guard bits, a bias's is as large as that of a weight of step 1.
        """
        for some in self._blocks():
            net, gross = unpack(self._present(some, packed[some]))
            self._store(some, net if self.lsb == 1 else net.mul_(self.lsb), gross)

    @property
    def stored(self) -> Tensor:
        """What is stored, int32, in levels and their guard bits."""
        return self._stored.to(torch.int32)

    def of(self, part: Tensor, k: int) -> Tensor:
        """Device k's share of what has the shape of the param, or of its mask."""
        return part.chunk(self.copies)[k]

    def restore(self, stored: Array, k: int = 0) -> bool:
        """Take over device k's integers, read from a file, unless they are none that this param can have."""
        own = self.of(self._stored, k)
        fits = stored.shape == tuple(own.shape) and stored.dtype == np.int32
        if not fits or (stored > self.top).any() or (stored < self.bottom).any():
            return False
        if self.mask is not None and stored[~self.of(self.mask, k).cpu().numpy()].any():
            return False
        own.copy_(torch.tensor(stored, dtype=torch.float32))
        return True

    def connected(self, k: int = 0) -> Array:
        """The connections of device k that have words: True; all there are, where none may be absent."""
        whole = self.of(self._stored, k)
        return np.ones(whole.shape, bool) if self.mask is None else self.of(self.mask, k).cpu().numpy().copy()

    def rewire(self, mask: Array, k: int = 0) -> bool:
        """Let device k have the connections of `mask`, unless a neuron had more or fewer then; what is new stores 0."""
        now = self.connected(k)
        if self.mask is None or self._there is None or mask.shape != now.shape or mask.dtype != np.bool_:
            return False
        if not np.array_equal(_words(mask), _words(now)):
            return False
        own = self.of(self.mask, k)
        wanted = torch.tensor(mask, device=own.device)
        self.of(self._stored, k)[own != wanted] = 0
        own.copy_(wanted)
        self.of(self._there, k).copy_(wanted)
        return True

    def standing_for(self, values: Tensor) -> Tensor:
        """The integers, int32, that stand for these levels of the param."""
        return (self._counted(values) * self.guard).round().to(torch.int32)

    def nominal(self, out: Tensor | None = None) -> Tensor:
        """What the part is set to: the nearest level.

        Args:
            out: what is written to, if there is one.
        """
        made = torch.empty_like(self._stored) if out is None else out
        for some in self._blocks():
            at = self._levels(some)
            level = at if self.grid is None else self._level(at, some)
            torch.mul(level, _of(self.unit, some, made), out=made[some])
        return made

    def forget(self) -> None:
        """Count writes from 0."""
        self.counted, self.moved = torch.zeros_like(self._stored), torch.zeros_like(self._stored)

    def _counted(self, nominal: Tensor) -> Tensor:
        """The number of the level of every value."""
        steps = nominal / self.unit
        if self.grid is None:
            return steps
        return nearest_at(steps, self.grid) - self.grid.shape[-1] // 2

    def _level(self, at: Tensor, some: slice) -> Tensor:
        """The levels of these numbers, counted from 0, of these rows."""
        assert self.grid is not None
        return taken(self.grid if self.grid.ndim == 1 else self.grid[some], at.long() + self.grid.shape[-1] // 2)

    def _largest(self) -> Tensor:
        """The largest level, or that of each row."""
        assert self.grid is not None
        return self.grid[-1] if self.grid.ndim == 1 else self.grid[:, -1].reshape(-1, *[1] * (self.unit.ndim - 1))

    def _blocks(self) -> list[slice]:
        """Rows that are computed at once, one after the other: some of one device, or all of some devices."""
        rows = len(self._stored) // self.copies
        size = max(1, BLOCK // max(1, self._stored[:1].numel()))
        if size >= rows:
            size -= size % rows
            return [slice(at, min(at + size, len(self._stored))) for at in range(0, len(self._stored), size)]
        starts = [first + at for first in range(0, len(self._stored), rows) for at in range(0, rows, size)]
        return [slice(at, min(at + size, at - at % rows + rows)) for at in starts]

    def _levels(self, some: slice) -> Tensor:
        return (self._stored[some] / self.guard).round_()

    def _present(self, some: slice, change: Tensor) -> Tensor:
        """A change without that of connections that there are not."""
        return change if self._there is None else change * self._there[some]

    def _store(self, some: slice, change: Tensor, writes: Tensor | None = None) -> None:
        """Add a change, whole numbers, and keep what fits; count writes, by default those that changed anything."""
        stored, before = self._stored[some], self._levels(some)
        new = change.add_(stored).clamp_(self.bottom, self.top)
        self.counted[some].add_(_differ(new, stored) if writes is None else writes)
        stored.copy_(new)
        self.moved[some].add_(_differ(new.div_(self.guard).round_(), before))


@dataclass(frozen=True)
class Wear:
    """Writes of the synapses that there are: mean, 99th percentile and maximum; `moved`: changes of their levels."""

    mean: float
    p99: float
    most: int
    moved: float
    moved_most: int

    @classmethod
    def of(cls, registers: Iterable[Register], k: int = 0) -> Wear:
        """Over all synapses of device k (biases are no plastic cells) since their counts began."""
        kept = [r for r in registers if not r.bias]
        counted, moved = (torch.cat([_present(r, part, k) for r in kept]) for part in ("counted", "moved"))
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


def _words(mask: Array) -> Array:
    """Connections of every neuron."""
    neurons = mask.shape[:1] if mask.ndim == 2 else mask.shape[:3]
    return np.asarray(mask.reshape(*neurons, -1).sum(-1))


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """1 where they do, else 0."""
    return torch.ne(one, other, out=torch.empty_like(other))  # much faster than through booleans


def _of(shared: Tensor, some: slice, whole: Tensor) -> Tensor:
    """The part for these rows of `whole` of what is as large or broadcasts to it."""
    return shared[some] if shared.ndim == whole.ndim and len(shared) == len(whole) else shared


def _present(register: Register, part: str, k: int) -> Tensor:
    value = register.of(getattr(register, part), k)
    return value.flatten() if register.mask is None else value[register.of(register.mask, k)]
