r"""One simulated mixed-signal device: what mismatch made of the placed network, and its noise while it runs.

    synapse      w  -> w * factor          by the sign of w, where the preset tells types of synapses apart
    bias         b  -> b * factor
    threshold    theta -> max(|theta * factor|, theta / 10)
    leak (LIF)   tau -> tau * factor, that is alpha -> alpha ** (1 / factor)

Factors are frozen (`mismatch`); they multiply what is realised, after quantization, and so also the effect of every
update. While the device runs: `noise`. Its neurons are those of the discrete executor (tier `lif`) or circuits (`dpi`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from snnc.errors import TargetError
from snnc.ir import Array, Graph, roles
from snnc.ir.streams import streamed
from snnc.sim.chunks import Chunk
from snnc.sim.stepper import Disturb, Stepper
from snnc.sim.torch import tensors

from .dpi import Circuit, Neurons
from .mismatch import LEAST, Mismatch, draw, sequential
from .noise import Chances, Noise, alive, conducting, generator, heated, jittered, losing

ROWS = 128
"""Samples times steps that are computed at once: as many as a matrix product needs to be fast."""


@dataclass(frozen=True)
class Model:
    """How devices differ from what they are set to: mismatch, noise, and circuits in place of discrete neurons."""

    mismatch: Mismatch = field(default_factory=Mismatch)
    noise: Noise = field(default_factory=Noise)
    circuit: Circuit | None = None


def advance(
    stepper: Stepper, steps: int, learn: bool = False, counting: bool = False, keep: Collection[str] = ()
) -> Iterator[Chunk]:
    """Go on by so many steps, as many of them at once as fill ROWS; options as of `snnc.sim.chunks`."""
    end, most = stepper.t + steps, max(1, ROWS // stepper.batch)
    while stepper.t < end:
        count = min(most, end - stepper.t)
        yield Chunk(stepper, count, learn, counting, neurons=stepper.neurons, keep=keep)


class Device:
    """The physical parts of one chip with the placed network on them.

    Attributes:
        graph: the placed network.
        sites: where its neurons are, by layer.
        nominal: what the parts are set to, by param name; repairs change it.
        factor: what becomes of every weight and bias: realised = nominal * factor, 0 where a synapse never conducts.
        inhibitory: the same for the negative values of those weights that have factors of their own for them.
        silent: by layer, 0 for dead neurons; empty without.
    """

    def __init__(
        self, graph: Graph, seed: int, model: Model, device: str = "cpu", sites: Mapping[str, Array] | None = None
    ) -> None:
        """Draw the device `seed`.

        Args:
            sites: by layer of neurons, in its shape: the place of each, core by core; by default sequential.

        Raises:
            TargetError: input jitter without a stream of events.
        """
        self.graph, self.seed, self.model = graph, seed, model
        self.sites = sequential(graph) if sites is None else sites
        self.nominal = tensors(graph, device)
        self._device = device
        if model.noise.jitter and not streamed(graph):
            raise TargetError(
                "jitter moves events, and no input is a stream of events", hint="code=events, or jitter=0"
            )
        drawn = draw(graph, seed, model.mismatch, self.sites)
        works = conducting(graph, seed, model.noise, self.sites)
        self.factor = self._tensors({name: f * works.get(name, np.float32(1)) for name, f in drawn.weight.items()})
        self.factor |= self._tensors({name: w for name, w in works.items() if name not in drawn.weight})
        inhibitory = {name: f * works.get(name, np.float32(1)) for name, f in drawn.inhibitory.items()}
        self.inhibitory = self._tensors(inhibitory)
        neurons = [n for n in graph.nodes if n.op == "lif"]
        self._tau, self._refractory = self._tensors(drawn.tau), self._tensors(drawn.refractory)
        self._leaks: dict[str, Tensor] = {}
        self._thresholds: dict[str, Tensor] = {}
        for node in neurons:
            if node.name in drawn.theta:
                own = roles(node, graph.params)
                leak = graph.params[own["alpha"]] ** (1 / drawn.tau[node.name])
                self._leaks |= self._tensors({own["alpha"]: leak})
                self._thresholds |= self._tensors({own["theta"]: drawn.theta[node.name]})
        self._kept = {name: torch.empty_like(self.nominal[name]) for name in self.factor}
        dead = model.noise.silence == "frozen" and model.noise.silencing > 0
        self.silent = self._tensors({n.name: alive(seed, n, model.noise.silencing) for n in neurons} if dead else {})

    def params(self, kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What the parts really do, by param name.

        Args:
            kept: memory that may be written to, by param name.
        """
        out = {} if kept is None else kept
        realised = {
            name: torch.mul(self.nominal[name], factor, out=out.get(name)) for name, factor in self.factor.items()
        }
        for name, factor in self.inhibitory.items():
            realised[name] = torch.where(self.nominal[name] < 0, self.nominal[name] * factor, realised[name])
        for name, factor in self._thresholds.items():
            theta = self.nominal[name]
            realised[name] = torch.maximum((theta * factor).abs(), theta * LEAST)
        return {**self.nominal, **self._leaks, **realised}

    def stepper(self, x: Mapping[str, Tensor], stream: int) -> Stepper:
        """Start on a batch; `stream` numbers it, so that equal calls see equal noise.

        One batch runs at a time: the next one's parts take the memory of this one's.
        """
        noise, params = self.model.noise, self.params(self._kept)
        if noise.jitter:
            chance = generator(self.seed, f"jitter {stream}", self._device)
            events = streamed(self.graph)
            x = {name: jittered(v, noise.jitter, chance) if name in events else v for name, v in x.items()}
        neurons = None
        if self.model.circuit is not None:
            neurons = Neurons(self.graph, self.model.circuit, params, self.nominal, self._tau, self._refractory)
        return Stepper(self.graph, params, x, self._disturbances(stream), neurons=neurons)

    def _disturbances(self, stream: int) -> dict[str, Disturb]:
        noise, made = self.model.noise, dict[str, Disturb]()
        layers = [n.name for n in self.graph.nodes if n.op == "lif"]
        if noise.thermal > 0:
            theta = {layer: self.nominal[roles(self.graph[layer], self.graph.params)["theta"]] for layer in layers}
            made["current"] = heated(noise, theta, Chances(self.seed, f"thermal {stream}", self._device, layers))
        if self.silent:
            made["spikes"] = lambda node, spikes: spikes * self.silent[node.name]
        elif noise.silencing > 0:
            made["spikes"] = losing(noise.silencing, Chances(self.seed, f"lost {stream}", self._device, layers))
        return made

    def _tensors(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        found = arrays.items()
        return {name: torch.tensor(np.asarray(array, np.float32), device=self._device) for name, array in found}
