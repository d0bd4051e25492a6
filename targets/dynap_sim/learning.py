r"""The learning block: online local tandem learning on the chip (LTL eq. 9 to 11).

At every step t behind the warm-up each neuron i compares its running rate with its target r from the host's ANN:

    zeta_i[t] = -(2/t) * (r_i - C_i[t] / t)                       (eq. 11)
    dL/dw_ij  = zeta_i[t] * boxcar(U_i[t]) * S_j[t]                (eq. 10, spikes of the same step)

All of it is local: spike count, target, a window comparator on the potential, the presynaptic spike. Nothing is kept
from step to step but the counts and one sum per synapse, so memory does not grow with T; no gradient is traced.
Weights are written once per batch, in units of theta as in the offline rule:

    w <- w - rate * theta / width * mean over the batch of the sum over t of zeta * [|U - theta| < p/2] * S

The rate falls as 1/n beyond 64 inputs. Each synapse stores an integer: its level and `guard_bits` more that collect
small updates; updates are rounded to it stochastically, and the synapse conducts the rounded level. Biases are set in
their own fine steps, without guard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Array, Graph, Node, roles
from snnc.ir.streams import streamed
from snnc.sim.neurons import boxcar
from snnc.sim.stepper import Stepper
from snnc.sim.torch import unfold
from snnc.train.units import rate_share

from .device import Device
from .place import ANALOG_BITS, synapses
from .unchain import neurons_behind


@dataclass(frozen=True)
class Rule:
    """The settings of the learning block: learning rate, window p / theta, warm-up steps, guard bits."""

    rate: float
    width: float
    warm_up: int
    guard_bits: int


class Register:
    """The stored integers of one param, and how they become what the part is set to.

    Attributes:
        stored: int32, in steps of `step`.
    """

    def __init__(self, graph: Graph, name: str, nominal: Tensor, guard_bits: int) -> None:
        constraint = graph.constraints[name]
        self.guard = 1 if constraint.bits == ANALOG_BITS else 2**guard_bits
        self.top = constraint.top_level * self.guard
        self.unit = torch.tensor(constraint.scale, device=nominal.device)
        self.mask = None if constraint.mask is None else torch.tensor(constraint.mask, device=nominal.device)
        self.stored = (nominal / self.unit * self.guard).round().to(torch.int32)

    def write(self, change: Tensor, noise: torch.Generator) -> int:
        """Add a change (in the units of the param), rounded stochastically; gives back how many cells changed."""
        steps = change / self.unit * self.guard
        if self.mask is not None:
            steps = steps * self.mask
        whole = (steps + torch.rand(steps.shape, generator=noise, device=steps.device)).floor()
        whole = whole.clamp(-(2.0**30), 2.0**30 - 128)  # far beyond the top, and the sum is still an int32
        new = (self.stored + whole.to(torch.int32)).clamp(-self.top, self.top)
        if self.mask is not None:
            new = new * self.mask
        written = int((new != self.stored).sum())
        self.stored = new.to(torch.int32)
        return written

    def restore(self, stored: Array) -> bool:
        """Take over integers that were read from a file, unless they are none that this param can have."""
        fits = stored.shape == tuple(self.stored.shape) and stored.dtype == np.int32
        if not fits or (np.abs(stored.astype(np.int64)) > self.top).any():
            return False
        if self.mask is not None and stored[~self.mask.cpu().numpy()].any():
            return False
        self.stored = torch.tensor(stored, device=self.stored.device)
        return True

    def nominal(self) -> Tensor:
        """What the part is set to: the nearest level."""
        return (self.stored / self.guard).round() * self.unit


class LearningBlock:
    """Collects the updates of one batch, then writes them."""

    def __init__(self, device: Device, rule: Rule) -> None:
        self.device, self.rule = device, rule
        self.registers: dict[str, Register] = {}
        self._share: dict[str, float] = {}
        self.writes = 0
        self._noise = torch.Generator(next(iter(device.nominal.values())).device)
        self._synapses: dict[str, list[_Plastic]] = {}
        for neuron in [n for n in device.graph.nodes if n.op == "lif"]:
            self._synapses[neuron.name] = _Plastic.onto(device.graph, neuron, self._noise.device)
            for plastic in self._synapses[neuron.name]:
                for role, name in roles(plastic.node, device.graph.params).items():
                    self._share[name] = 1.0 if role == "bias" else rate_share(device.graph, plastic.node)
                    self.registers[name] = Register(device.graph, name, device.nominal[name], rule.guard_bits)

    def begin(self, seed: int, epoch: int) -> None:
        """Set the rounding noise of an epoch, so that a calibration can be stored and gone on with."""
        self._noise.manual_seed(int(np.random.default_rng([seed, epoch, *b"rounding"]).integers(2**62)))

    def learn(self, stepper: Stepper, targets: Mapping[str, Tensor]) -> None:
        """Run the batch to its end, learning towards the target rates [N, ...] of every layer, and write."""
        graph = self.device.graph
        sums: dict[str, Tensor] = {}
        for t in range(1, graph.steps + 1):
            stepper.step()
            if t <= self.rule.warm_up:
                continue
            for layer, rate in targets.items():
                error = self._error(stepper, graph[layer], rate, t)
                for plastic in self._synapses[layer]:
                    for name, part in _gradients(graph, plastic, stepper.values, error).items():
                        sums[name] = sums[name] + part if name in sums else part
        for name, total in sums.items():
            self.writes += self.registers[name].write(-self.rule.rate * self._share[name] * total, self._noise)
            self.device.nominal[name] = self.registers[name].nominal()

    def _error(self, stepper: Stepper, neuron: Node, rate: Tensor, t: int) -> Tensor:
        """theta^2 * zeta * boxcar, averaged over the batch [N, ...]: the gradient in units of theta."""
        theta = self.device.nominal[roles(neuron, self.device.graph.params)["theta"]]
        zeta = -(2 / t) * (rate - stepper.count[neuron.name] / t)
        return theta.square() * zeta * boxcar(stepper.potential[neuron.name], theta, self.rule.width) / len(rate)


@dataclass(frozen=True, eq=False)
class _Plastic:
    """Synapses that learn: their node, how large one of their input events is, and the neurons they drive."""

    node: Node
    height: float
    where: Tensor

    @classmethod
    def onto(cls, graph: Graph, neuron: Node, device: torch.device) -> list[_Plastic]:
        """All that drive a layer of neurons and have levels."""
        shape = neuron.type.shape
        numbered = np.arange(math.prod(shape)).reshape(shape)
        found = []
        for name, where in synapses(graph, graph.values(neuron)[0], numbered):
            node = graph[name]
            if node.op in ("local", "dense") and roles(node, graph.params)["weight"] in graph.constraints:
                direct = neurons_behind(graph, node.inputs[0]) == "encode" and not streamed(graph)
                height = 1 / graph.steps if direct else 1.0
                found.append(cls(node, height, torch.tensor(where, device=device)))
        return found


def _gradients(graph: Graph, plastic: _Plastic, values: Mapping[str, Tensor], error: Tensor) -> dict[str, Tensor]:
    """Sum over the batch of error times presynaptic event, by param; events are counted in units of their height."""
    node = plastic.node
    own, x = roles(node, graph.params), values[node.inputs[0]]
    error = error.flatten(1)[:, plastic.where]
    if node.op == "dense":
        weight = error.T @ x
    else:
        out, high, wide, _, *kernel = graph.params[own["weight"]].shape
        windows = unfold(node, x, (kernel[0], kernel[1]))
        group = len(windows)
        rows = error.reshape(len(x), group, out // group, high * wide).permute(1, 3, 2, 0)
        weight = (rows @ windows).permute(0, 2, 1, 3).reshape(graph.params[own["weight"]].shape)
    found = {own["weight"]: weight / plastic.height**2}
    if "bias" in own:
        found[own["bias"]] = error.sum(0)
    return found
