r"""The learning block: online local tandem learning on the chip (LTL eq. 9 to 11), in two forms.

`float` (this file) is the paper's. At every step t behind the warm-up each neuron i compares its running rate with its
target r from the host's ANN:

    zeta_i[t] = -(2/t) * (r_i - C_i[t] / t)                       (eq. 11)
    dL/dw_ij  = zeta_i[t] * boxcar(U_i[t]) * S_j[t]                (eq. 10, spikes of the same step)

All of it is local: spike count, target, a window comparator on the potential, the presynaptic spike. Nothing is kept
from step to step but the counts and one sum per synapse, so memory does not grow with T; no gradient is traced.
Weights are written once per batch, by one step of Adam on the mean over the batch of the sum over t, as the paper does.
Its rate is in the units of `snnc.train.units`, and falls to 0 over an epoch as a cosine; an epoch begins with fresh
moments, so that a stored calibration goes on as if it had not stopped.

Each synapse stores an integer: its level and `guard_bits` more that collect small updates; updates are rounded to it
stochastically, and the synapse conducts the rounded level. Biases are set in their own fine steps, without guard.

`hardware` has no real number in it: `snnc.targets.dynap_sim.counters`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from snnc.ir import Node, roles
from snnc.ir.streams import streamed
from snnc.sim.local import add_products
from snnc.sim.neurons import boxcar
from snnc.sim.stepper import Stepper
from snnc.train.units import rate_share, weights_of

from .device import Device, advance
from .mismatch import onto
from .profile import Learning, load_profile
from .registers import Register
from .unchain import neurons_behind


@dataclass(frozen=True)
class Rule:
    """The settings of the learning block.

    Attributes:
        rate: learning rate, of the float form.
        width: of the window on the potential, p / theta.
        warm_up: steps without updates.
        guard_bits: below a level.
        p_write: how probable a write is, of the hardware form.
        counters: bits of its registers and its dead zone.
    """

    rate: float
    width: float
    warm_up: int
    guard_bits: int
    p_write: float = 1.0
    counters: Learning = field(default_factory=lambda: load_profile("se2").learning)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a learning block sees of some steps.

    Attributes:
        t: their numbers [steps].
        read: what synapses read, by node, [steps, N, ...], or [1, N, ...] where it is the same at every step.
        potential, count: U[t] and C[t] by layer of neurons, [steps, N, ...].
    """

    t: Tensor
    read: Mapping[str, Tensor]
    potential: Mapping[str, Tensor]
    count: Mapping[str, Tensor]


class Sums:
    """What is summed up over a batch, by param, in memory that is kept from one batch to the next.

    Attributes:
        found: the sums of this batch.
        dtype: theirs.
    """

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self._like, self._kept = like, dict[str, Tensor]()
        self.begin()

    def begin(self, dtype: torch.dtype = torch.float32) -> None:
        """Forget the sums of the batch before."""
        self.found: dict[str, Tensor] = {}
        self.dtype = dtype

    def add(self, name: str, value: Tensor) -> None:
        """Add what has as many elements as the param."""
        memory, first = self._memory(name)
        value = value.reshape(memory.shape)
        memory.copy_(value) if first else memory.add_(value)

    def add_products(self, name: str, plastic: Plastic, x: Tensor, flags: Tensor) -> None:
        """Add, summed over the batch, `flags` [N, neurons of the layer] times what a synapse reads of x [N, ...]."""
        memory, first = self._memory(name)
        add_products(plastic.node, x, plastic.driven(flags), memory.view(plastic.shape), first)

    def _memory(self, name: str) -> tuple[Tensor, bool]:
        """Where the sum is, and whether it still holds anything, as nothing was added yet."""
        first = name not in self.found
        if first:
            if name not in self._kept or self._kept[name].dtype != self.dtype:
                self._kept[name] = torch.empty_like(self._like[name], dtype=self.dtype)
            self.found[name] = self._kept[name]
        return self.found[name], first


class Block(ABC):
    """The registers of all synapses that learn, and the noise of their rounding; of one device, or of several.

    Attributes:
        usual_width: of the window on the potential, if nobody asks for another; chosen on validation images.
        usual_guard_bits: the same of guard bits, where they are not the chip's.
        registers: by param name.
    """

    usual_width: ClassVar[float]
    usual_guard_bits: ClassVar[int | None] = None

    def __init__(self, device: Device, rule: Rule) -> None:
        self.device, self.rule = device, rule
        self.registers: dict[str, Register] = {}
        self.share: dict[str, float] = {}
        one, where = device.one, next(iter(device.nominal.values())).device
        self.noise = [torch.Generator(where) for _ in device.seeds]
        self.synapses: dict[str, list[Plastic]] = {}
        for neuron in [n for n in one.nodes if n.op == "lif"]:
            self.synapses[neuron.name] = Plastic.onto(device, neuron.name, where)
            for plastic in self.synapses[neuron.name]:
                for role, name in roles(plastic.node, one.params).items():
                    self.share[name] = 1.0 if role == "bias" else rate_share(one, one[plastic.node.name])
                    nominal = device.nominal[name]
                    self.registers[name] = Register(one, name, nominal, rule.guard_bits, device.copies)

    def begin(self, epoch: int, batches: int) -> None:
        """Set the rounding noise of an epoch of so many batches, so that a stored calibration can go on; count writes
        from 0.
        """
        for noise, seed in zip(self.noise, self.device.seeds, strict=True):
            noise.manual_seed(int(np.random.default_rng([seed, epoch, *b"rounding"]).integers(2**62)))
        for register in self.registers.values():
            register.forget()

    @property
    def writes(self) -> int:
        """Writes of all cells since the epoch began."""
        return sum(int(register.counted.sum(dtype=torch.float64)) for register in self.registers.values())

    @abstractmethod
    def learn(self, stepper: Stepper, targets: Mapping[str, Tensor]) -> None:
        """Run the batch to its end, learning towards the target rates [N, ...] of every layer, and write."""

    def watch(self, stepper: Stepper) -> Iterator[Seen]:
        """Run the batch to its end; what is seen behind the warm-up, some steps at once."""
        read = {plastic.node.inputs[0] for found in self.synapses.values() for plastic in found}
        for _ in advance(stepper, self.rule.warm_up, counting=True):
            pass
        before = dict(stepper.count)
        for some in advance(stepper, self.device.graph.steps - self.rule.warm_up, True, True, read):
            t = torch.arange(some.first + 1, some.first + some.count + 1, device=self.noise[0].device)
            count = {layer: before[layer] + some.values[layer].cumsum(0) for layer in self.synapses}
            yield Seen(t, {name: some.values[name] for name in read}, some.potential, count)
            before = dict(stepper.count)

    def program(self, name: str) -> None:
        """Set a part to what its register says."""
        self.registers[name].nominal(out=self.device.nominal[name])

    def theta(self, neuron: Node) -> Tensor:
        """What the thresholds of a layer are set to."""
        return self.device.nominal[roles(neuron, self.device.one.params)["theta"]]


class LearningBlock(Block):
    """The float form: collects the gradient of one batch, takes one step of Adam, and writes."""

    usual_width = 2.0
    usual_guard_bits: ClassVar[int] = 7

    def begin(self, epoch: int, batches: int) -> None:
        super().begin(epoch, batches)
        units, self._sums = weights_of(self.device.one), Sums(self.device.nominal)
        self._change = {name: torch.zeros_like(self.device.nominal[name]) for name in self.registers}
        self._adam = torch.optim.Adam(
            [{"params": [change], "lr": self.rule.rate * units[name]} for name, change in self._change.items()],
            fused=True,
        )
        self._falls = torch.optim.lr_scheduler.CosineAnnealingLR(self._adam, batches)

    def learn(self, stepper: Stepper, targets: Mapping[str, Tensor]) -> None:
        """Run the batch to its end, learning towards the target rates [N, ...] of every layer, and write."""
        found = self.gradients(stepper, targets)
        for name, change in self._change.items():
            change.zero_().grad = found.get(name)
        self._adam.step()
        self._falls.step()
        for name in found:
            self.registers[name].write(self._change[name], self.noise)
            self.program(name)

    def gradients(self, stepper: Stepper, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the batch to its end: by param theta^2 times the sum over its steps of eq. 10, a mean over the batch."""
        graph, sums = self.device.graph, self._sums
        sums.begin()
        for seen in self.watch(stepper):
            for layer, rate in targets.items():
                error = self._error(seen, graph[layer], rate)
                for plastic in self.synapses[layer]:
                    own, x = roles(plastic.node, graph.params), seen.read[plastic.node.inputs[0]]
                    theirs = error.sum(0, keepdim=True) if len(x) == 1 else error
                    sums.add_products(own["weight"], plastic, x.flatten(0, 1), theirs.flatten(0, 1))
                    if "bias" in own:
                        sums.add(own["bias"], plastic.driven(error.flatten(0, 1)).sum(0))
        return sums.found

    def _error(self, seen: Seen, neuron: Node, rate: Tensor) -> Tensor:
        """theta^2 * zeta * boxcar at every step, averaged over the batch [steps, N, ...]: the gradient in units of
        theta.
        """
        theta, t = self.theta(neuron), seen.t.reshape(-1, *[1] * rate.ndim)
        missed = (seen.count[neuron.name] / t).sub_(rate).mul_(2 / t)
        slope = boxcar(seen.potential[neuron.name], theta, self.rule.width)
        return slope.mul_(missed).mul_(theta.square() / len(rate))


@dataclass(frozen=True, eq=False)
class Plastic:
    """Synapses that learn: their node, and the neurons they drive.

    Attributes:
        shape: of their weights, as the node reads them.
        where: the numbers of these neurons in the layer, in the shape of what `node` makes; None: all, in order.
        direct: whether they read the input as a constant current.
        signed: whether they may read what is below 0: anything but spikes of neurons.
    """

    node: Node
    shape: tuple[int, ...]
    where: Tensor | None
    direct: bool
    signed: bool

    @classmethod
    def onto(cls, device: Device, layer: str, where: torch.device) -> list[Plastic]:
        """All that drive a layer of neurons and have levels."""
        found, graph = [], device.graph
        neuron = graph[layer]
        for node, driven in onto(graph, neuron):
            name = roles(node, graph.params).get("weight", "")
            if node.op == "local" and name in device.one.constraints:
                behind = neurons_behind(graph, node.inputs[0])
                direct = behind == "encode" and not streamed(graph)
                all_of_them = np.array_equal(driven.reshape(-1), np.arange(math.prod(neuron.type.shape)))
                numbers = None if all_of_them else torch.tensor(driven, device=where)
                found.append(cls(node, graph.params[name].shape, numbers, direct, behind != "lif"))
        return found

    def driven(self, flags: Tensor) -> Tensor:
        """Those of the neurons that these synapses drive, [N, ...]."""
        if self.where is None:
            return flags.reshape(len(flags), *self.node.type.shape)
        return flags.flatten(1)[:, self.where]
