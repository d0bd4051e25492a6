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
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snnc.data import Data
from snnc.errors import PipelineError, TargetError
from snnc.ir import roles
from snnc.pipeline import Progress, silent
from snnc.sim.local import unfold
from snnc.sim.pursuit import pursue
from snnc.sim.torch import exact, to_tensor
from snnc.targets.dynap_sim.bench import CHUNK, one_thread
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.device import advance
from snnc.targets.dynap_sim.layout import MOST
from snnc.targets.dynap_sim.learning import Plastic
from snnc.targets.dynap_sim.mapping.netlist import netlist, sources
from snnc.targets.dynap_sim.mismatch import GRID
from snnc.train.targets import Targets

from .contract import WRITE_BYTES, Repair, Repaired, Traffic, batches


@dataclass(frozen=True)
class Rewire(Repair):
    """Words of dead sources go to living ones.

    Attributes:
        samples: of the training part that the host watches for each layer.
        ridge: see the module.
    """

    name = "rewire"

    samples: int = 500
    ridge: float = 0.1

    def __post_init__(self) -> None:
        if not (self.samples >= 2 and 0 < self.ridge < math.inf):
            raise PipelineError(f"'{self.name}' cannot work with samples={self.samples}, ridge={self.ridge}")

    def repair(self, chip: DynapChip, data: Data, progress: Progress = silent) -> Repaired:
        data.check(chip.artifact.graph)
        if chip.target.sharing == "shared":
            raise TargetError("connections that share a kernel cannot be rewired", hint="sharing=physical")
        if (size := sum(r.connected().size for r in chip.block.registers.values())) > MOST:
            raise TargetError(f"{size:,} possible connections are too many to rewire: up to {MOST:,}")
        x = to_tensor(data.train.x(batches(chip, data.train, self.samples)[0]), chip.on)
        wired, traffic = _Wired(chip, x), Traffic()
        layers = [(layer, p) for layer, found in chip.block.synapses.items() for p in found if not p.signed]
        with torch.inference_mode(), exact(), one_thread():
            for i, (layer, plastic) in enumerate(layers):
                progress(f"chip {chip.seed} is rewired", i, len(layers))
                traffic += self._rewired(wired, layer, plastic)
        return Repaired(chip, traffic, data.train.score)

    def _rewired(self, wired: _Wired, layer: str, plastic: Plastic) -> Traffic:
        """Give the free words that drive a layer to others."""
        chip, name = wired.chip, roles(plastic.node, wired.chip.device.graph.params)["weight"]
        heard, lacks, events = wired.watched(layer, plastic)
        windows = unfold(plastic.node, heard, (plastic.shape[4], plastic.shape[5]))
        groups, positions, _, size = windows.shape
        shape = (groups, plastic.shape[0] // groups, positions, size)
        mask = torch.tensor(chip.block.registers[name].connected(), device=chip.on).reshape(shape)
        fires = (windows > 0).any(2)[:, None]
        reached = wired.reached(layer, plastic).reshape(shape)
        allowed, free = reached & fires & ~mask, mask & ~fires
        most = torch.minimum(free.sum(3), allowed.sum(3))
        lacks = lacks.reshape(len(lacks), *shape[:3])
        added, values = torch.zeros_like(mask), torch.zeros(shape, device=chip.on)
        for g in range(groups):
            for p in range(positions):
                if int(most[g, :, p].max()):
                    here = windows[g, p] - windows[g, p].mean(0)
                    drives = (lacks[:, g, :, p] - lacks[:, g, :, p].mean(0)).T @ here / len(here)
                    count = most[g, :, p].cpu()
                    chosen, found = pursue(here.T @ here / len(here), drives, count, allowed[g, :, p], self.ridge)
                    row, at = (torch.arange(chosen.shape[1]) < count[:, None]).nonzero().T.to(chip.on)
                    added[g, row, p, chosen[row, at]] = True
                    values[g, row, p, chosen[row, at]] = found[row, at]
        given = free & (free.cumsum(3) <= most[..., None])
        wired.write(name, (mask & ~given | added), added, values)
        moved = int(added.sum())
        return Traffic(events=events, sent=moved * WRITE_BYTES, writes=moved)


class _Wired:
    """A chip, what it is watched with, and which sources arrive where."""

    def __init__(self, chip: DynapChip, x: Tensor) -> None:
        self.chip, self.x, self.runs = chip, x, 0
        self.targets = Targets(chip.artifact.graph, chip.teacher, chip.on)
        nets = netlist(chip.graph)
        self.core = {layer: site // GRID**2 for layer, site in chip.device.sites.items()}
        core = np.concatenate([self.core[layer].reshape(-1) for layer in nets.layers])
        self.arrives = np.zeros((len(nets.spikes), int(core.max()) + 1), bool)
        self.arrives[nets.source, core[nets.target]] = True
        shapes = {**nets.layers, **nets.inputs}
        self.number = {n: nets.first[n] + np.arange(math.prod(s)).reshape(s) for n, s in shapes.items()}

    def watched(self, layer: str, plastic: Plastic) -> tuple[Tensor, Tensor, int]:
        """What its synapses could hear, counts [N, ...]; what the neurons that they drive lack [N, ...], in weight
        steps; and the spikes that this took.
        """
        chip, name = self.chip, plastic.node.inputs[0]
        source, steps = next(iter(chip.graph.inputs)), chip.graph.steps
        theta = chip.block.theta(chip.device.graph[layer])
        heard, lacks, events = [], [], 0
        for at in range(0, len(self.x), CHUNK):
            some = self.x[at : at + CHUNK]
            self.runs += 1
            stepper = chip.device.stepper({source: some}, -self.runs)
            read = [
                part.values[name].expand(part.count, *part.values[name].shape[1:]).sum(0)
                for part in advance(stepper, steps, counting=True, keep=[name])
            ]
            heard.append(torch.stack(read).sum(0))
            missing = (self.targets(some)[layer] * steps - stepper.count[layer]) * theta
            lacks.append(plastic.driven(missing))
            events += sum(int(count.sum()) for count in stepper.count.values())
        return torch.cat(heard), torch.cat(lacks), events

    def reached(self, layer: str, plastic: Plastic) -> Tensor:
        """Whether what a neuron's window holds arrives at its core, in the order of the weights."""
        graph = self.chip.device.graph
        number = torch.tensor(sources(graph, plastic.node.inputs[0], self.number) + 1.0)[None]
        window = unfold(plastic.node, number, (plastic.shape[4], plastic.shape[5]))[:, :, 0].long().numpy() - 1
        core = torch.tensor(self.core[layer])[None]
        at = plastic.driven(core).reshape(len(window), -1, window.shape[1]).numpy()
        found = self.arrives[window[:, None], at[..., None]] & (window >= 0)[:, None]
        return torch.tensor(found, device=self.chip.on)

    def write(self, name: str, mask: Tensor, added: Tensor, values: Tensor) -> None:
        """Connect a weight by `mask`, and set those that were `added` to the levels nearest to `values`."""
        chip, register = self.chip, self.chip.block.registers[name]
        nominal = chip.device.nominal[name]
        chip.settings.rewire(name, mask.reshape(nominal.shape).cpu().numpy())
        constraint = replace(chip.graph.constraints[name], mask=None)
        level = torch.tensor(constraint.project(values.reshape(nominal.shape).cpu().numpy()), device=chip.on)
        where = added.reshape(nominal.shape)
        stored = torch.where(where, register.standing_for(level), register.stored)
        fits: bool = register.restore(np.asarray(stored.cpu().numpy(), np.int32))
        assert fits
        chip.block.program(name)
