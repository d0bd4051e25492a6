r"""Rewiring: CAM words that listen to neurons which never fire are given to others.

The host watches the spikes of some calibration samples, layer by layer from the input on. With x the counts of what
a neuron could listen to, c its own, r its target rate and theta its threshold, what it lacks of its drive is

    e = theta * (T r - c)

A word is free where its source did not fire once. The m free words of a neuron go, one after the other, to the source
that explains most of what is left of e (orthogonal matching pursuit, `snnc.sim.pursuit`), and are set to

    min over w of   E (e - w . x)^2 + ridge * mean Var(x) * |w|^2        all counted from their means

on the nearest level that there is. A source may be anything within the reach of the neuron's kernel that fires and
already arrives at the neuron's core: no route and no tag changes, the host writes CAM words and nothing else. What
mismatch made of a word, or a defect, stays with it, and is not known to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snnc.errors import TargetError
from snnc.ir import Array, roles
from snnc.pipeline import Progress, silent
from snnc.sim.local import unfold
from snnc.sim.pursuit import pursue
from snnc.train.targets import Targets

from .device import advance
from .layout import MOST
from .learning import Plastic
from .mapping.netlist import netlist, sources
from .mismatch import GRID
from .settings import Settings

RIDGE = 0.1
"""Chosen on validation samples, see docs/repairs.md."""


@dataclass(frozen=True)
class Moved:
    """What rewiring took.

    Attributes:
        words: that listen to other neurons now.
        events: spikes that the host watched.
    """

    words: int = 0
    events: int = 0

    def __str__(self) -> str:
        return f"{self.words:,} words that listened to silent neurons listen to others; {self.events:,} spikes watched"

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.words + other.words, self.events + other.events)


def rewired(
    settings: Settings, x: Sequence[Tensor], targets: Targets, ridge: float = RIDGE, progress: Progress = silent
) -> Moved:
    """Rewire one device in place, layer by layer.

    Args:
        x: the samples, batch by batch, [N, ...].
        targets: the target rates of its layers.
        ridge: see the module.

    Raises:
        TargetError: connections share what mismatch makes of them, or are too many.
    """
    if settings.device.copies > 1:
        raise ValueError("devices are rewired one by one")
    if settings.device.model.mismatch.sharing == "shared":
        raise TargetError("connections that share a kernel cannot be rewired", hint="sharing=physical")
    if (size := sum(r.connected().size for r in settings.block.registers.values())) > MOST:
        raise TargetError(f"{size:,} possible connections are too many to rewire, more than {MOST:,}")
    watch, found = _Watch(settings, x, targets), Moved()
    layers = [(n, p) for n, own in settings.block.synapses.items() for p in own if not p.signed]
    for i, (layer, plastic) in enumerate(layers):
        progress("rewire", i, len(layers))
        found += _give(watch, layer, plastic, ridge)
    return found


def _give(watch: _Watch, layer: str, plastic: Plastic, ridge: float) -> Moved:
    """Give the free words of a layer to others."""
    settings = watch.settings
    name = roles(plastic.node, settings.device.graph.params)["weight"]
    heard, lacks, events = watch(layer, plastic)
    window = _windows(plastic, heard.shape[1:])
    groups, positions, size = window.shape
    shape = (groups, plastic.shape[0] // groups, positions, size)
    heard = torch.cat([heard.new_zeros(len(heard), 1), heard.flatten(1)], 1)
    mask = torch.tensor(settings.block.registers[name].connected(), device=heard.device).reshape(shape)
    fires = (heard > 0).any(0)[window][:, None]
    allowed, free = watch.reached(layer, plastic, window).to(heard.device) & fires & ~mask, mask & ~fires
    most = torch.minimum(free.sum(3), allowed.sum(3))
    lacks = lacks.reshape(len(lacks), *shape[:3])
    added, values = torch.zeros_like(mask), torch.zeros(shape, device=heard.device)
    for g, p in most.amax(1).nonzero().tolist():
        here = heard[:, window[g, p]]
        here = here - here.mean(0)
        drives = (lacks[:, g, :, p] - lacks[:, g, :, p].mean(0)).T @ here / len(here)
        count = most[g, :, p].cpu()
        chosen, weights = pursue(here.T @ here / len(here), drives, count, allowed[g, :, p], ridge)
        row, at = (torch.arange(chosen.shape[1]) < count[:, None]).nonzero().T.to(heard.device)
        added[g, row, p, chosen[row, at]] = True
        values[g, row, p, chosen[row, at]] = weights[row, at]
    given = free & (free.cumsum(3) <= most[..., None])
    _write(settings, name, mask & ~given | added, added, values)
    return Moved(int(added.sum()), events)


def _windows(plastic: Plastic, shape: Sequence[int]) -> Tensor:
    """What the neurons of every position can listen to [group, positions, K], counted from 1 through a sample of this
    shape; 0 at pads.
    """
    number = torch.arange(1, 1 + math.prod(shape), dtype=torch.float64).reshape(1, *shape)
    return unfold(plastic.node, number, (plastic.shape[4], plastic.shape[5]))[:, :, 0].long()


def _write(settings: Settings, name: str, mask: Tensor, added: Tensor, values: Tensor) -> None:
    """Connect a weight by `mask`, and set those that were `added` to the levels nearest to `values`."""
    register, shape = settings.block.registers[name], settings.device.nominal[name].shape
    settings.rewire(name, mask.reshape(shape).cpu().numpy())
    constraint = replace(settings.graph.constraints[name], mask=None)
    level = torch.tensor(constraint.project(values.reshape(shape).cpu().numpy()), device=values.device)
    stored = torch.where(added.reshape(shape), register.standing_for(level), register.stored)
    fits = register.restore(stored.cpu().numpy())
    assert fits
    settings.block.program(name)


class _Watch:
    """The host's eyes on a device."""

    def __init__(self, settings: Settings, x: Sequence[Tensor], targets: Targets) -> None:
        self.settings, self.x, self.targets, self.runs = settings, x, targets, 0
        nets = netlist(settings.graph)
        self.core = {layer: site // GRID**2 for layer, site in settings.device.sites.items()}
        core = np.concatenate([self.core[layer].reshape(-1) for layer in nets.layers])
        self.arrives: Array = np.zeros((len(nets.spikes), int(core.max()) + 1), bool)
        self.arrives[nets.source, core[nets.target]] = True
        shapes = {**nets.layers, **nets.inputs}
        self.number = {n: nets.first[n] + np.arange(math.prod(s)).reshape(s) for n, s in shapes.items()}

    def __call__(self, layer: str, plastic: Plastic) -> tuple[Tensor, Tensor, int]:
        """What its synapses could hear, counts [N, ...]; what the neurons that they drive lack [N, ...], in weight
        steps; and the spikes that this took.
        """
        graph, device = self.settings.graph, self.settings.device
        name, theta = plastic.node.inputs[0], self.settings.block.theta(device.graph[layer])
        heard, lacks, events = [], [], 0
        for x in self.x:
            self.runs += 1
            stepper = device.stepper({next(iter(graph.inputs)): x}, -self.runs)
            parts = advance(stepper, graph.steps, counting=True, keep=[name])
            heard.append(torch.stack([part.values[name].sum(0) for part in parts]).sum(0))
            missing = (self.targets(x)[layer] * graph.steps - stepper.count[layer]) * theta
            lacks.append(plastic.driven(missing))
            events += sum(int(count.sum()) for count in stepper.count.values())
        return torch.cat(heard), torch.cat(lacks), events

    def reached(self, layer: str, plastic: Plastic, window: Tensor) -> Tensor:
        """Whether what a neuron's window holds arrives at its core, [group, O/group, positions, K]; anything of pads,
        which never fire.
        """
        read = sources(self.settings.device.graph, plastic.node.inputs[0], self.number)
        source = np.concatenate([[0], read.reshape(-1)])[window.numpy()]
        core = plastic.driven(torch.tensor(self.core[layer])[None]).reshape(len(window), -1, window.shape[1]).numpy()
        return torch.tensor(self.arrives[source[:, None], core[..., None]])
