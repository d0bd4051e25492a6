r"""Noise and defects of a device. What is random follows from the device's seed and the number of the run's batch.

    thermal, of the current    I[t] -> I[t] * (1 + sigma N)                     (LTL section 3.5)
    thermal, of the membrane   U[t] -> U[t] + sigma * theta * sqrt(dt / 1 ms) * N  (Buchel et al. 2021, code: a standard
                               deviation of sigma * (V_thresh - V_reset) in every step of 1 ms)
    silencing, frozen          a share of the neurons never sends a spike      (Buchel et al. 2021)
    silencing, step            every spike is lost with that probability; the neuron that fired is reset
                                                                               (LTL section 3.5)
    defects                    synapses on defective CAM words never conduct: a share of all words of the chip, or those
                               that a file lists
    jitter                     what an input stream holds at a step moves by a whole number of steps, uniform in
                               -jitter to jitter, but not out of the sample

A neuron's synapses take its CAM words in the order of the graph, absent connections none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import Array, Graph, Node, Shape, roles
from snnc.sim.stepper import Disturb

from .defects import DefectMap
from .dpi import step
from .mismatch import GRID, onto, rng
from .side_by_side import joined, share

Chance: TypeAlias = Sequence[torch.Generator]
"""One of every device."""
WORDS = 64
"""CAM words that are drawn together; neurons of more synapses have several such blocks."""
DRAWN = 16
"""Normal numbers that torch makes together on a CPU, from as many uniform ones."""


@dataclass(frozen=True)
class Noise:
    """What disturbs a device.

    Attributes:
        thermal: sigma, relative to the current or to the threshold.
        thermal_on: what it is added to.
        silencing: share of neurons, or of spikes.
        silence: whether the same neurons are dead for good, or spikes are lost one by one.
        defects: share of defective CAM words.
        defect_map: further defective words.
        jitter: steps.
        dt: seconds that one time step stands for.
    """

    thermal: float = 0.0
    thermal_on: Literal["current", "membrane"] = "current"
    silencing: float = 0.0
    silence: Literal["frozen", "step"] = "frozen"
    defects: float = 0.0
    defect_map: DefectMap | None = None
    jitter: int = 0
    dt: float = field(default_factory=step)

    def __post_init__(self) -> None:
        fine = {
            "thermal": 0 <= self.thermal <= 1,
            "silencing": 0 <= self.silencing < 1,
            "defects": 0 <= self.defects < 1,
            "jitter": self.jitter >= 0,
            "dt": 0 < self.dt < math.inf,
        }
        if bad := [f"{key}={getattr(self, key)}" for key, good in fine.items() if not good]:
            raise PipelineError(f"no device has {', '.join(bad)}")


def generators(seeds: Sequence[int], stream: str, device: str) -> Chance:
    """The chance of one stream of some devices: equal calls, equal noise."""
    return [torch.Generator(device).manual_seed(_numbers(seed, stream, 1)[0]) for seed in seeds]


@lru_cache(maxsize=256)
def _numbers(seed: int, stream: str, count: int) -> tuple[int, ...]:
    """What the chance of a stream begins with; every run has the same streams."""
    return tuple(rng(seed, stream).integers(2**62, size=count).tolist())


def uniform(shape: Shape, rank: int, chance: Chance) -> Tensor:
    """Numbers in [0, 1): of values [..., K * C, ...] of `rank` axes, those of every device by its own chance."""
    own = share(shape, rank, len(chance))
    return joined([torch.rand(own, generator=each, device=each.device) for each in chance], rank)


class Chances:
    """The chance of one kind of noise, every device's and every layer's own: it does not matter in which order layers
    advance.
    """

    def __init__(self, seeds: Sequence[int], stream: str, device: str, layers: Sequence[str]) -> None:
        drawn = [_numbers(seed, stream, len(layers)) for seed in seeds]
        self._made = {
            layer: [torch.Generator(device).manual_seed(one) for one in own]
            for layer, own in zip(layers, zip(*drawn, strict=True), strict=True)
        }

    def drawn(self, node: Node, like: Tensor, draw: Callable[[Tensor, torch.Generator], object]) -> Tensor:
        """What `draw` fills a layer's memory with, of the shape of `like`, [steps, N, K * C, ...]."""
        rank, chance = len(node.type.shape), self._made[node.name]
        parts = [torch.empty(share(like.shape, rank, len(chance)), device=like.device) for _ in chance]
        for part, each in zip(parts, chance, strict=True):
            for memory in _runs(part):
                draw(memory, each)
        return joined(parts, rank)


def _runs(memory: Tensor) -> list[Tensor]:
    """What is drawn in one go of [steps, ...]: step by step, so that it does not matter how many steps come at once; or
    all of it, where that is the same.
    """
    together = memory.device.type == "cpu" and memory[0].numel() % DRAWN == 0
    return [memory] if together else list(memory)


def heated(noise: Noise, theta: Mapping[str, Tensor], chances: Chances) -> Disturb:
    """Thermal noise on the currents I[t] of a layer [steps, N, ...]; `theta` by layer."""
    size = noise.thermal * math.sqrt(noise.dt / 1e-3)

    def disturb(node: Node, current: Tensor) -> Tensor:
        normal = chances.drawn(node, current, lambda memory, chance: memory.normal_(generator=chance))
        if noise.thermal_on == "membrane":
            return normal.mul_(size * theta[node.name]).add_(current)
        return normal.mul_(noise.thermal).add_(1).mul_(current)

    return disturb


def losing(lost: float, chances: Chances) -> Disturb:
    """Every spike [steps, N, ...] is lost with this probability."""

    def disturb(node: Node, spikes: Tensor) -> Tensor:
        lucky = chances.drawn(node, spikes, lambda memory, chance: memory.uniform_(generator=chance))
        return lucky.ge_(lost).mul_(spikes)

    return disturb


def alive(seed: int, layer: Node, share: float) -> Array:
    """1 for neurons that fire, 0 for the share that is dead, in the shape of the layer."""
    return np.asarray(rng(seed, f"silent {layer.name}").random(layer.type.shape) >= share, np.float32)


def jittered(x: Tensor, steps: int, chance: Chance) -> Tensor:
    """A stream [N, T, K * C, ...] whose contents have moved by up to `steps` steps; the totals over T stay."""
    rank = x.ndim - 2
    own = share(x.shape, rank, len(chance))
    moved = joined([torch.randint(-steps, steps + 1, own, generator=c, device=x.device) for c in chance], rank)
    t = torch.arange(x.shape[1], device=x.device).reshape(1, -1, *[1] * rank)
    return torch.zeros_like(x).scatter_add_(1, (t + moved).clamp(0, x.shape[1] - 1), x)


def conducting(graph: Graph, seed: int, noise: Noise, sites: Mapping[str, Array]) -> dict[str, Array]:
    """By weight: True where the synapse sits on a CAM word that works; empty where all do.

    Args:
        sites: as of `snnc.targets.dynap_sim.mismatch.draw`.
    """
    listed = np.zeros((0, 3), np.int64) if noise.defect_map is None else noise.defect_map.of(seed)
    if noise.defects == 0 and not len(listed):
        return {}
    found: dict[str, Array] = {}
    for neuron in [n for n in graph.nodes if n.op == "lif"]:
        at = sites[neuron.name].reshape(-1)
        used = np.zeros(at.size, np.int64)
        for node, where in onto(graph, neuron):
            own = roles(node, graph.params)
            name = own.get("weight", own.get("factor", ""))
            constraint, param = graph.constraints.get(name), graph.params[name]
            mask = np.ones(param.shape, bool) if constraint is None or constraint.mask is None else constraint.mask
            rows, numbers = mask.reshape(where.size, -1), where.reshape(-1)
            word = rows.cumsum(axis=1) - 1 + used[numbers, None]
            used[numbers] += rows.sum(axis=1)
            broken = _broken(seed, noise.defects, listed, at[numbers], int(used.max(initial=1)))
            bad = np.take_along_axis(broken, word.clip(0), axis=1) & rows
            found[name] = found.get(name, True) & ~bad.reshape(param.shape)
    return found


def _broken(seed: int, share: float, listed: Array, sites: Array, words: int) -> Array:
    """[neurons, words] whether a word of the neuron at each site is defective; words in whole blocks."""
    blocks = -(-words // WORDS)
    made = np.zeros((len(sites), blocks * WORDS), bool)
    for core in np.unique(sites // GRID**2):
        here = np.zeros((GRID**2, blocks * WORDS), bool)
        if share > 0:
            drawn = [rng(seed, f"words of core {core}, {b}").random((GRID**2, WORDS)) for b in range(blocks)]
            here = np.concatenate(drawn, axis=1) < share
        mine = listed[(listed[:, 0] == core) & (listed[:, 2] < here.shape[1])]
        here[mine[:, 1], mine[:, 2]] = True
        rows = sites // GRID**2 == core
        made[rows] = here[sites[rows] % GRID**2]
    return made
