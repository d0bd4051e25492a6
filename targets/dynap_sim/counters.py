r"""The learning block in hardware terms: counters, comparators and single steps; no multiplier, no real-valued weight.

Every neuron has (bits and dead zone are the profile's; those of se2 are named)

    C    spike counter, 6 bits                       r    target register, 8 bits: 256 * rate from the host
    A    teacher accumulator, A[t] = A[t-1] + r      an ideal integrate-and-fire neuron driven by the target
    E[t] = A[t] - 256 * C[t]                         UP if E > dead zone, DOWN if E < -dead zone (half a count, 128)
    B[t] = |U[t] - theta| < p/2                      a window comparator on the potential, one bit
    R[t] = |E[t]| > 4 * 256 * random                 a comparator with a random number of a shift register, one bit

and at every step behind the warm-up, wherever B, R and another random bit of the neuron (1 with probability p) let it,
every synapse that has just received a spike is written by +-1:

    stored <- clip(stored + (UP - DOWN) * S_j[t], -top, top)      stored: the level and its guard bits

So writes have a sign and no size, and are as frequent as the error is large, up to 4 counts. p falls from p_write to 0
over an epoch, linearly: the host sets it for all neurons, batch by batch. Writes that stay as probable would end in
noise. The sign is that of -zeta in LTL eq. 11, E = t (r t - C) / t in counts. A bias is a synapse whose input is always
there. An input that is a constant current has no spikes: its event is a bit that is 1 with probability |x| / max |x| of
the sample, with the sign of x. Counter and accumulator saturate at 63 counts.

The chip learns sample by sample, at once. The simulation runs a batch of samples side by side: all of them see the
weights from before the batch, and their writes, integers, are added behind it. With batch=1 that is no approximation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snnc.ir import Node, roles
from snnc.sim.neurons import gate
from snnc.sim.stepper import Stepper

from .learning import Block, Plastic, Seen, Sums
from .noise import uniform
from .registers import pack, room_for


class CountingBlock(Block):
    """The hardware form."""

    usual_width = 3.0

    @property
    def one(self) -> int:
        """A count, in units of the target register."""
        return int(2**self.rule.counters.target_bits)

    @property
    def most(self) -> int:
        """Counts that the counter holds."""
        return int(2**self.rule.counters.counter_bits - 1)

    def begin(self, epoch: int, batches: int) -> None:
        super().begin(epoch, batches)
        self._batches, self._done = batches, 0
        self._sums = Sums(self.device.nominal)

    @property
    def chance(self) -> float:
        """p of the present batch."""
        return self.rule.p_write * max(0.0, 1 - self._done / self._batches)

    def learn(self, stepper: Stepper, targets: Mapping[str, Tensor]) -> None:
        """Run the batch to its end, writing towards the target rates [N, ...] of every layer."""
        graph = self.device.graph
        self._sums.begin(room_for(stepper.batch * graph.steps))
        registers = {layer: (rate * self.one).round().clamp(0, self.one - 1) for layer, rate in targets.items()}
        for seen in self.watch(stepper):
            for layer, register in registers.items():
                if self.synapses[layer]:
                    flags, often = self._flags(seen, graph[layer], register)
                    lucky = uniform(flags.shape, len(graph[layer].type.shape), self.noise).div_(often)
                    for plastic in self.synapses[layer]:
                        self._collect(plastic, seen, flags, lucky)
        for name, packed in self._sums.found.items():
            self.registers[name].add(packed)
            self.program(name)
        self._done += 1

    def _flags(self, seen: Seen, neuron: Node, register: Tensor) -> tuple[Tensor, Tensor]:
        """UP - DOWN of every neuron whose window is open: 1, 0 or -1; and how probable R is; [steps, N, ...]."""
        teacher = (seen.t.reshape(-1, *[1] * register.ndim) * register).clamp_(max=self.most * self.one)
        error = teacher.sub_(seen.count[neuron.name].clamp(max=self.most), alpha=self.one)
        size = error.abs().div_(self.one)
        sign = error.sign_().mul_(size > self.rule.counters.dead_zone)
        opened = gate(seen.potential[neuron.name], self.theta(neuron), self.rule.width)
        return sign.mul_(opened), size.div_(self.rule.counters.certain).clamp_(1e-9, 1)

    def _collect(self, plastic: Plastic, seen: Seen, flags: Tensor, lucky: Tensor) -> None:
        """Add the writes of these steps, packed: by param the sum of their signs, and their number."""
        own, dtype = roles(plastic.node, self.device.graph.params), self._sums.dtype
        x = seen.read[plastic.node.inputs[0]]
        events = self._events(x.expand(len(flags), *x.shape[1:]).flatten(0, 1), plastic.direct).to(dtype)
        chosen = (flags * (lucky < self.chance * self.share[own["weight"]])).flatten(0, 1).to(dtype)
        if plastic.signed:
            self._sums.add_products(own["weight"], plastic, events, chosen)
            self._sums.add_products(own["weight"], plastic, events.abs_(), pack(torch.zeros_like(chosen), chosen.abs()))
        else:
            self._sums.add_products(own["weight"], plastic, events, pack(chosen, chosen.abs()))
        if "bias" in own:
            chosen = (flags * (lucky < self.chance)).flatten(0, 1).to(dtype)
            self._sums.add(own["bias"], plastic.driven(pack(chosen, chosen.abs())).sum(0))

    def _events(self, x: Tensor, direct: bool) -> Tensor:
        """What has just arrived [N, ...], as 1, 0 or -1."""
        if not direct:
            return x.sign()
        own = x.abs().reshape(len(x), len(self.noise), -1)
        lucky = uniform(x.shape, x.ndim - 1, self.noise).reshape(own.shape)
        return x.sign() * (lucky * own.amax(2, keepdim=True) < own).reshape(x.shape)
