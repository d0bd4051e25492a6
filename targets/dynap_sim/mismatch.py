r"""Mismatch: what no two chips have in common. One frozen draw per device, from its seed; never per run or batch.

A part that is set to v does v * factor, after quantization; so does every update. N is normal, L(s) = exp(s * N):

    ltl       every physical synapse, bias, threshold and leak by itself: 1 + sigma N     (LTL, section 3.5)
    buchel    every physical synapse, threshold and leak: 1 + sigma N; no biases          (Buechel et al. 2021, code)
    measured  per neuron, fitted to 256 neurons of a DYNAP-SE                             (data of Buechel et al. 2021)
                  tau_mem     L(0.075), and 1.5 % of the neurons slow: uniform in 1.5 to 2.7
                  excitatory  fast: L(0.11), times 1.87 for 18 % of the neurons; slow: as inhibitory
                  inhibitory  L(0.11), correlated by 0.35 with the neighbours on the core's grid (as measured on slow
                              excitatory synapses; inhibitory ones were not measured)
                  threshold, refractory period, DC (bias)   L(0.10), not measured
    rockpool  per neuron: threshold and DC 1 + 0.1 N, tau_mem and refractory period (1 + 0.1 N) / (1 + 0.1 N'), a
              capacitance over a current; weights as they are                             (Rockpool, DYNAP-SE2)

A bias that is a synapse of a tonic channel is spread as a synapse. Factors of leaks and refractory periods are at
least 0.1 in size; thresholds at least a tenth of what they are set to. A factor per neuron belongs to a place on the
chip (`sites`: the layout's, or sequential ones without), so that another network meets the same one there.

`sharing=shared` draws one factor for all positions of a kernel, as the LTL paper does in software: one per kernel
weight and one per channel for biases, thresholds and leaks. A chip has no such parts; it is there to compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from snnc.errors import PipelineError, TargetError
from snnc.ir import WEIGHTED, Array, Graph, Node, roles

from .cores import cores
from .place import tonic
from .wiring import synapses

Preset: TypeAlias = Literal["ltl", "buchel", "measured", "rockpool", "none"]
Sharing: TypeAlias = Literal["physical", "shared"]
Excitatory: TypeAlias = Literal["fast", "slow"]

SIGMA: tuple[Preset, ...] = ("ltl", "buchel")
"""Presets with one sigma for every part."""
SPREADS: Mapping[Preset, str] = {
    "measured": "spreads of its own for every kind of part",
    "rockpool": "spreads of its own for every kind of part",
    "none": "no mismatch",
}
"""What the others have instead."""
GRID = 16
"""Neurons of a core along each side of its array."""
CORRELATION = 0.35
"""Between neighbours on the grid, of slow and inhibitory weights."""
LEAST = 0.1
"""The least size of a factor of a leak or a threshold."""


@dataclass(frozen=True)
class Mismatch:
    """Which spread the parts have.

    Attributes:
        preset: see the module.
        sigma: of `ltl` and `buchel`. The other presets have spreads of their own; 0 switches any of them off.
        sharing: one factor per physical synapse and neuron, or one for all positions of a kernel (`ltl`, `buchel`).
        excitatory: the type of synapse that positive weights have, for `measured`.
    """

    preset: Preset = "ltl"
    sigma: float = 0.2
    sharing: Sharing = "physical"
    excitatory: Excitatory = "fast"

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 1:
            raise PipelineError(f"mismatch={self.sigma} is not between 0 and 1")
        if self.sharing == "shared" and self.preset not in SIGMA:
            raise PipelineError(
                f"preset={self.preset} has factors per neuron, which no kernel shares",
                hint="sharing=physical, or preset=ltl",
            )


@dataclass(frozen=True, eq=False)
class Factors:
    """What the parts of one device do to what they are set to; missing ones do exactly that.

    Attributes:
        weight: by name of weights and biases, broadcastable to them.
        inhibitory: the same for those weights whose negative values have factors of their own.
        theta, tau, refractory: by layer of neurons, broadcastable to it.
    """

    weight: dict[str, Array] = field(default_factory=dict)
    inhibitory: dict[str, Array] = field(default_factory=dict)
    theta: dict[str, Array] = field(default_factory=dict)
    tau: dict[str, Array] = field(default_factory=dict)
    refractory: dict[str, Array] = field(default_factory=dict)


def draw(graph: Graph, seed: int, mismatch: Mismatch, sites: Mapping[str, Array]) -> Factors:
    """The factors of device `seed` for a placed network.

    Args:
        sites: by layer of neurons, in its shape: the number of each neuron's place, core by core.
    """
    if mismatch.preset == "none" or (mismatch.sigma == 0 and mismatch.preset not in SIGMA):
        return Factors()
    if mismatch.preset in SIGMA:
        return _per_part(graph, seed, mismatch)
    return _per_neuron(graph, seed, mismatch, sites)


def sequential(graph: Graph) -> dict[str, Array]:
    """Sites for neurons that fill core after core, as `cores` says, and each core in the order of the layer."""
    placed = cores(graph, GRID**2)
    return sites_on({layer: core for layer, core in placed.items() if graph[layer].op == "lif"})


def sites_on(placed: Mapping[str, Array]) -> dict[str, Array]:
    """Sites for neurons on these cores, each filled in the order of the layers; a core of more than 256 neurons has
    as many arrays as they need.

    Args:
        placed: by layer of neurons, in its shape, the core of each.
    """
    if not placed:
        return {}
    core = np.concatenate([array.reshape(-1) for array in placed.values()]).astype(np.int64)
    order = np.argsort(core, kind="stable")
    size = np.bincount(core)
    rank = np.empty(len(core), np.int64)
    rank[order] = np.arange(len(core)) - np.repeat(np.cumsum(size) - size, size)
    sites = core * (-(-int(size.max()) // GRID**2) * GRID**2) + rank
    ends = np.cumsum([array.size for array in placed.values()])[:-1]
    parts = np.split(sites, ends)
    return {layer: part.reshape(array.shape) for (layer, array), part in zip(placed.items(), parts, strict=True)}


def rng(seed: int, name: str) -> np.random.Generator:
    """A stream of its own for every part of every device."""
    return np.random.default_rng([seed, *name.encode()])


def of_sites(seed: int, name: str, sites: Array) -> Array:
    """Whatever `FIELDS[name]` draws for each of these places, in the shape of `sites`."""
    cores, index = np.unique(sites // GRID**2, return_inverse=True)
    fields = np.stack([FIELDS[name](rng(seed, f"{name} of core {core}")) for core in cores])
    return np.asarray(fields[index.reshape(sites.shape), sites % GRID**2], np.float32)


def _per_part(graph: Graph, seed: int, mismatch: Mismatch) -> Factors:
    made = Factors()

    def spread(name: str, shape: tuple[int, ...]) -> Array:
        alike = (shape[0], 1, 1, *shape[3:]) if mismatch.sharing == "shared" and len(shape) in (3, 6) else shape
        return np.asarray(1 + mismatch.sigma * rng(seed, name).standard_normal(alike, np.float32))

    for node in graph.nodes:
        names = roles(node, graph.params)
        if node.op in WEIGHTED and node.type.kind == "current":
            for role, name in names.items():
                if role != "bias" or mismatch.preset == "ltl" or tonic(graph, name):
                    made.weight[name] = spread(name, graph.params[name].shape)
        elif node.op == "lif":
            made.theta[node.name] = spread(names["theta"], graph.params[names["theta"]].shape)
            made.tau[node.name] = np.abs(spread(names["alpha"], graph.params[names["alpha"]].shape)).clip(LEAST)
    return made


def _per_neuron(graph: Graph, seed: int, mismatch: Mismatch, sites: Mapping[str, Array]) -> Factors:
    made, kind = Factors(), mismatch.preset
    for neuron in [n for n in graph.nodes if n.op == "lif"]:
        at = sites[neuron.name]
        made.theta[neuron.name] = of_sites(seed, f"{kind} threshold", at)
        made.tau[neuron.name] = of_sites(seed, f"{kind} tau", at)
        made.refractory[neuron.name] = of_sites(seed, f"{kind} refractory", at)
        direct = of_sites(seed, f"{kind} dc", at)
        if kind == "measured":
            excitatory = of_sites(seed, f"measured {mismatch.excitatory}", at)
            inhibitory = of_sites(seed, "measured inhibitory", at)
        for node, where in onto(graph, neuron):
            for role, name in roles(node, graph.params).items():
                if name in made.weight:
                    raise TargetError(f"its synapses drive two layers, preset={kind} knows one", at=node.at)
                if role == "bias" and not tonic(graph, name):
                    made.weight[name] = _rows(direct, where, graph.params[name])
                elif kind == "measured":
                    made.weight[name] = _rows(excitatory, where, graph.params[name])
                    made.inhibitory[name] = _rows(inhibitory, where, graph.params[name])
    return made


def onto(graph: Graph, neuron: Node) -> list[tuple[Node, Array]]:
    """The synapse nodes onto a layer of neurons, each with the neuron behind every output."""
    numbered = np.arange(math.prod(neuron.type.shape)).reshape(neuron.type.shape)
    return [(graph[name], where) for name, where in synapses(graph, graph.values(neuron)[0], numbered)]


def _rows(factor: Array, where: Array, param: Array) -> Array:
    """The factors of the neurons `where` as rows of a param that has one for each of them."""
    return np.asarray(factor.reshape(-1)[where].reshape(*where.shape, *[1] * (param.ndim - where.ndim)))


# --- what is drawn for the 256 neurons of a core


def _lognormal(draws: np.random.Generator, spread: float) -> Array:
    return np.exp(spread * draws.standard_normal(GRID**2))


def _tau(draws: np.random.Generator) -> Array:
    """A log-normal bulk, and a few neurons that are far too slow."""
    bulk, slow = _lognormal(draws, 0.075), draws.uniform(1.5, 2.7, GRID**2)
    return np.where(draws.random(GRID**2) < 0.015, slow, bulk)


def _fast(draws: np.random.Generator) -> Array:
    """Two modes, scattered over the core."""
    return _lognormal(draws, 0.11) * np.where(draws.random(GRID**2) < 0.18, 1.87, 1.0)


def _neighbourly(draws: np.random.Generator) -> Array:
    """exp(0.11 g), g = (e + a * the e of four neighbours) / sqrt(1 + 4 a^2), e normal: `CORRELATION` of neighbours.

    Their covariance is 2 a of a variance of 1 + 4 a^2, so that a = (1 - sqrt(1 - 4 c^2)) / (4 c).
    """
    share = (1 - math.sqrt(1 - 4 * CORRELATION**2)) / (4 * CORRELATION)
    e = draws.standard_normal((GRID + 2, GRID + 2))
    around = e[:-2, 1:-1] + e[2:, 1:-1] + e[1:-1, :-2] + e[1:-1, 2:]
    return np.exp(0.11 * (e[1:-1, 1:-1] + share * around) / math.sqrt(1 + 4 * share**2)).reshape(-1)


def _normal(draws: np.random.Generator) -> Array:
    """1 + 0.1 N."""
    return np.abs(1 + 0.1 * draws.standard_normal(GRID**2)).clip(LEAST)


FIELDS = {
    "measured tau": _tau,
    "measured fast": _fast,
    "measured slow": _neighbourly,
    "measured inhibitory": _neighbourly,
    "measured threshold": lambda draws: _lognormal(draws, 0.10),
    "measured refractory": lambda draws: _lognormal(draws, 0.10),
    "measured dc": lambda draws: _lognormal(draws, 0.10),
    "rockpool threshold": _normal,
    "rockpool tau": lambda draws: _normal(draws) / _normal(draws),
    "rockpool refractory": lambda draws: _normal(draws) / _normal(draws),
    "rockpool dc": _normal,
}
"""What is drawn per core: 256 factors in the order of the neurons."""
