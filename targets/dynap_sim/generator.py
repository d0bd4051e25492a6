r"""What it costs that a core's currents are settings of its bias generator.

    settings     k F_r / (f - 1),  k = 1 ... f - 1: even steps of every coarse range r up to its full scale F_r
    wanted       g x_i: base currents, threshold and direct current of a core. They all count in weight steps, and only
                 their ratios matter, so that their common size g is free
    rounding     e_i(g) = |near(g x_i) / (g x_i) - 1|,   near: the nearest setting

    g = argmin max e_i over the base currents, and of these the one with the least max e_i over the rest

among all g that put the largest base current onto a setting, up to `FREE` times more or less than the operating point.
Where base currents are k / (f - 1) of the largest (1, 2 and 4; those of quantize-weights) their ratios are then exact,
and what is left is the rounding of the threshold and of the direct current, in weight steps. A current in range r is
off by F_r / (f - 1) / 2 at most. A leak is a setting of its own, without g. Tonic synapses are masks over the same
currents and take none.

Ranges follow each other here as the profile has them. That one is off against the next on a real chip, and every
setting from chip to chip, is mismatch, which is far larger than this.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from snnc.ir import Array, roles
from snnc.target import Finding

from .biases import direct_currents
from .dpi import Circuit
from .needs import base_currents, distinct
from .place import Layer
from .profile import BiasGenerator, Profile
from .unchain import spread

ROUNDING = "rounding of currents, %"
FREE = 3.0
"""How far the size of a core's currents may leave the operating point: ranges are 8 times apart, and each has one."""
EQUAL = 1e-9
"""Roundings that differ by less are equal."""


@dataclass(frozen=True)
class Wanted:
    """The currents of a core at the operating point, in A.

    Attributes:
        bases: what its synapses are sums of.
        rest: what must stand in ratio to them, by name.
        fixed: what is wanted as it is, by name.
    """

    bases: tuple[float, ...]
    rest: tuple[tuple[str, float], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()


def settings(generator: BiasGenerator) -> Array:
    """All currents that there are, ascending, in A."""
    fine = np.arange(1, generator.fine) / (generator.fine - 1)
    return np.unique(np.outer(generator.full_scale, fine))


def promised(generator: BiasGenerator) -> float:
    """The largest rounding of a current that lies above the first range."""
    apart = [1.0, *(b / a for a, b in zip(generator.full_scale, generator.full_scale[1:], strict=False))]
    return max(apart) / (generator.fine - 1) / 2


def roundings(currents: Array, grid: Array) -> Array:
    """How far each current is from the nearest setting, relative to it."""
    right = np.clip(np.searchsorted(grid, currents), 1, len(grid) - 1)
    return np.asarray(np.minimum(np.abs(grid[right] - currents), np.abs(grid[right - 1] - currents)) / currents)


def size(wanted: Wanted, grid: Array) -> float:
    """The factor g of the module; 1 where no setting is near the operating point."""
    bases, rest = np.array(wanted.bases), np.array([current for _, current in wanted.rest])
    factors = grid[(grid >= bases.max() / FREE) & (grid <= bases.max() * FREE)] / bases.max()
    if not factors.size:
        return 1.0
    ratios = roundings(np.outer(factors, bases), grid).max(axis=1)
    best = factors[ratios <= ratios.min() + EQUAL]
    return float(best[roundings(np.outer(best, rest), grid).max(axis=1).argmin()] if rest.size else best[0])


def asked(wanted: Wanted, grid: Array) -> list[tuple[str, float]]:
    """Every current that the generator is asked for, by name."""
    g = size(wanted, grid)
    scaled = [*(("base current", base) for base in wanted.bases), *wanted.rest]
    return [*((name, g * current) for name, current in scaled), *wanted.fixed]


def limit(profile: Profile) -> dict[str, float]:
    """What the grid promises, in percent, on a chip whose cores share base currents; else nothing."""
    if "base_weights" not in profile.shared_per_core:
        return {}
    return {ROUNDING: float(f"{100 * promised(profile.bias_generator):.2g}")}


def sources(profile: Profile) -> dict[str, str]:
    """Where that comes from."""
    return dict.fromkeys(limit(profile), profile.source("bias_generator.fine"))


def finding(layer: Layer, core: Array, profile: Profile) -> Finding:
    """The largest rounding of a layer's cores.

    Args:
        core: of every neuron, in the shape of the layer.
    """
    grid = settings(profile.bias_generator)
    currents = sorted({one for wanted in set(cores(layer, core, profile)) for one in asked(wanted, grid)})
    off = roundings(np.array([current for _, current in currents]), grid)
    name, current = currents[int(off.argmax())]
    note = f"of a {name} of {current:.2g} A{_beyond(current, grid)}"
    value, most = float(f"{100 * off.max():.2g}"), limit(profile)[ROUNDING]
    return Finding(ROUNDING, value, most, layer.neuron.name, False, note, sources(profile)[ROUNDING])


def cores(layer: Layer, core: Array, profile: Profile) -> Iterable[Wanted]:
    """The currents of every core of a layer; free analog biases, which no core has currents for, are left out."""
    circuit = Circuit.of(profile.times)
    own, params, shape = roles(layer.neuron, layer.graph.params), layer.graph.params, layer.neuron.type.shape
    alpha = spread(params[own["alpha"]], shape)
    tau = circuit.tau(torch.tensor(alpha))
    theta = spread(params[own["theta"]], shape) / layer.unit * circuit.rise(tau).numpy()
    leak, direct = circuit.leak(tau).numpy(), direct_currents(layer) * circuit.direct
    where, bases = base_currents(layer, core, profile.weight_coding == "masks")
    for one in np.unique(core):
        mine = core == one
        flowing = distinct(direct[mine & (direct != 0)])
        rest = [("threshold", current) for current in distinct(theta[mine])]
        rest += [("direct current", current) for current in flowing if len(flowing) == 1 and current > 0]
        fixed = [("leak", current) for current in distinct(leak[mine & (alpha < 1)])]
        yield Wanted(tuple(distinct(bases[where == one] * circuit.iscale).tolist()), tuple(rest), tuple(fixed))


def _beyond(current: float, grid: Array) -> str:
    """Whether no setting is near to a current, and why."""
    if current > grid[-1]:
        return f", beyond the largest full scale, {grid[-1]:.2g} A"
    return f", below the smallest setting, {grid[0]:.2g} A" if current < grid[0] else ""
