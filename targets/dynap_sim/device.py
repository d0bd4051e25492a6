r"""One simulated mixed-signal device: what mismatch made of the placed network, and its noise while it runs.

    synapse      w  -> w * factor          by the sign of w, where the preset tells types of synapses apart
    bias         b  -> b * factor
    threshold    theta -> max(|theta * factor|, theta / 10)
    leak (LIF)   tau -> tau * factor, that is alpha -> alpha ** (1 / factor)

Factors are frozen (`mismatch`); they multiply what is realised, after quantization, and so also the effect of every
update. While the device runs: `noise`. Its neurons are those of the discrete executor (tier `lif`) or circuits (`dpi`).

Several devices may run side by side, in one tensor (`side_by_side`): each does what it does alone, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from snnc.errors import TargetError
from snnc.ir import Array, Graph, roles
from snnc.ir.streams import streamed
from snnc.sim.chunks import Chunk
from snnc.sim.stepper import Disturb, Stepper
from snnc.sim.torch import forward, tensors

from .dpi import Circuit, Neurons
from .mismatch import LEAST, Mismatch, draw, sequential
from .noise import Chances, Noise, alive, conducting, generators, heated, jittered, losing
from .side_by_side import Parts, apart, joined, side_by_side, stacked

Params: TypeAlias = dict[str, Tensor]
"""By param name."""
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
    """The physical parts of one chip with the placed network on them; or of several chips, side by side.

    Attributes:
        one: the placed network.
        graph: what runs: the chip's part of it, as often as there are devices.
        seeds: which devices.
        sites: where its neurons are, by layer.
        nominal: what the parts are set to, by param name, device after device along the first axis; repairs change it.
            Of one device it holds what the host computes with, too.
        factor: what becomes of every weight and bias: realised = nominal * factor, 0 where a synapse never conducts.
        inhibitory: the same for the negative values of those weights that have factors of their own for them.
        silent: by layer, 0 for dead neurons; empty without.
    """

    def __init__(
        self, graph: Graph, seeds: int | Sequence[int], model: Model, device: str = "cpu",
        sites: Mapping[str, Array] | None = None,
    ) -> None:  # fmt: skip
        """Draw the device, or devices, of these seeds.

        Args:
            sites: by layer of neurons, in its shape: the place of each, core by core; by default sequential.

        Raises:
            TargetError: input jitter without a stream of events.
        """
        self.one, self.model, self._device = graph, model, device
        self.seeds = (seeds,) if isinstance(seeds, int) else tuple(seeds)
        self.sites = sequential(graph) if sites is None else sites
        if model.noise.jitter and not streamed(graph):
            raise TargetError(
                "jitter moves events, and no input is a stream of events", hint="code=events, or jitter=0"
            )
        self._cut = Parts.of(graph)
        self.graph = side_by_side(self._cut.chip, self.copies)
        self.nominal = tensors(graph, device)
        self._hosts: tuple[dict[str, Tensor], ...] = ()
        if self.copies > 1:
            on_host = self._cut.before.params.keys() | self._cut.after.params.keys()
            self._hosts = tuple({name: self.nominal[name] for name in on_host} for _ in self.seeds)
            on_chip = {name: node for node in self._cut.chip.nodes for name in roles(node, graph.params).values()}
            self.nominal = self._tensors({n: stacked(graph.params[n], of, self.copies) for n, of in on_chip.items()})
        self._draw()
        self._drawn: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self._kept = {name: torch.empty_like(self.nominal[name]) for name in self.factor}
        self._realised: tuple[list[Tensor], list[int], tuple[Params, Params]] = ([], [], ({}, {}))

    def _draw(self) -> None:
        """What the parts of these devices do to what they are set to."""
        graph, noise = self.one, self.model.noise
        drawn = [draw(graph, seed, self.model.mismatch, self.sites) for seed in self.seeds]
        works = [conducting(graph, seed, noise, self.sites) for seed in self.seeds]
        pairs = list(zip(drawn, works, strict=True))
        self.factor = self._beside([{**w, **_conducted(d.weight, w)} for d, w in pairs], graph.params)
        self.inhibitory = self._beside([_conducted(d.inhibitory, w) for d, w in pairs], graph.params)
        layers = {node.name: roles(node, graph.params) for node in graph.nodes if node.op == "lif"}
        alphas = {name: graph.params[own["alpha"]] for name, own in layers.items()}
        self._tau = self._beside([d.tau for d in drawn], alphas)
        self._refractory = self._beside([d.refractory for d in drawn], alphas)
        leaks = [{layers[n]["alpha"]: alphas[n] ** (1 / tau) for n, tau in d.tau.items()} for d in drawn]
        self._leaks = self._beside(leaks, graph.params)
        thresholds = [{layers[n]["theta"]: factor for n, factor in d.theta.items()} for d in drawn]
        self._thresholds = self._beside(thresholds, graph.params)
        dead = noise.silence == "frozen" and noise.silencing > 0
        silent = [{n: alive(seed, graph[n], noise.silencing) for n in layers if dead} for seed in self.seeds]
        self.silent = self._beside(silent, alphas)

    def move(self, name: str, gone: Tensor, come: Tensor, k: int = 0) -> None:
        """The words of device k that the artifact gives to the connections `gone` of a weight serve those that `come`,
        neuron by neuron in order, with all that mismatch and defects make of them.

        Raises:
            TargetError: connections of several neurons share what mismatch makes of them.
        """
        for factors, drawn in zip((self.factor, self.inhibitory), self._drawn, strict=True):
            shape = factors[name].shape if name in factors else ()
            if math.prod(shape[-1:] if len(shape) == 2 else shape[3:]) == 1:
                continue  # a neuron's words are alike
            if shape != self.nominal[name].shape:
                raise TargetError("connections that share a kernel cannot be rewired", at=name, hint="sharing=physical")
            whole = drawn.setdefault(name, factors[name].clone())
            mine, own = factors[name].chunk(self.copies)[k], whole.chunk(self.copies)[k]
            mine.copy_(own)
            mine[come] = own[gone]

    @property
    def copies(self) -> int:
        """How many devices there are."""
        return len(self.seeds)

    @property
    def hosts(self) -> tuple[dict[str, Tensor], ...]:
        """What the host of every device computes with, by param name."""
        return self._hosts or (self.nominal,)

    def params(self, kept: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What the parts really do, by param name, as `nominal` has them.

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

    def _as_set(self) -> tuple[Params, Params]:
        """`params`, and the same in the shapes that `graph` has: in memory that is kept, computed anew where anything
        was set otherwise since.
        """
        read = [*self.nominal.values(), *self.factor.values(), *self.inhibitory.values()]
        if any(part.is_inference() for part in read):  # these do not tell when they change
            self._realised = [], [], ({}, {})
            return self._realise()
        versions, (before, then, realised) = [part._version for part in read], self._realised
        if versions != then or any(one is not other for one, other in zip(read, before, strict=True)):
            realised = self._realise()
            self._realised = read, versions, realised
        return realised

    def _realise(self) -> tuple[Params, Params]:
        params = self.params(self._kept)
        return params, {name: params[name].reshape(param.shape) for name, param in self.graph.params.items()}

    def stepper(self, x: Mapping[str, Tensor], stream: int) -> Stepper:
        """Start on a batch; `stream` numbers it, so that equal calls see equal noise.

        One batch runs at a time: the next one's parts take the memory of this one's.

        Args:
            x: inputs [N, K * C, ...], or streams of events [N, T, K * C, ...], by input name: every device's own.
        """
        noise, (params, shaped) = self.model.noise, self._as_set()
        if noise.jitter:
            chance = generators(self.seeds, f"jitter {stream}", self._device)
            events = streamed(self.one)
            x = {name: jittered(v, noise.jitter, chance) if name in events else v for name, v in x.items()}
        neurons = None
        if self.model.circuit is not None:
            neurons = Neurons(self.graph, self.model.circuit, params, self.nominal, self._tau, self._refractory)
        own = [self._before(each, host) for each, host in zip(self._apart(x), self.hosts, strict=True)]
        encoded = {name: joined([e[name] for e in own], len(t.shape)) for name, t in self._cut.chip.inputs.items()}
        return Stepper(self.graph, shaped, encoded, self._disturbances(stream), neurons=neurons)

    def read_out(self, stepper: Stepper, x: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        """What the host of every device knows of its batch x at the end, [N, ...] by node name: what was decoded, and
        what it computed before and behind.
        """
        decoded = [dict[str, Tensor]() for _ in self.seeds]
        for user, name in self.graph.outputs.items():
            rank = max(1, len(self.one.type(user).shape))
            for found, value in zip(decoded, apart(stepper.values[name], rank, self.copies), strict=True):
                found[user] = value.reshape(len(value), *self.one.type(user).shape)
        return tuple(
            self._after({**self._before(each, host), **own}, host)
            for each, own, host in zip(self._apart(x), decoded, self.hosts, strict=True)
        )

    def outputs(self, stepper: Stepper, x: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        """The outputs [N, ...] of every device by the user's names."""
        found = self.read_out(stepper, x)
        return tuple({user: values[name] for user, name in self.one.outputs.items()} for values in found)

    def _apart(self, x: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every device's own inputs."""
        own = {name: apart(value, len(self.one.inputs[name].shape), self.copies) for name, value in x.items()}
        return [{name: values[k] for name, values in own.items()} for k in range(self.copies)]

    def _before(self, x: Mapping[str, Tensor], host: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs and what a host makes of them before anything is encoded."""
        part = self._cut.before
        return {**forward(part, host, x), **x} if part.nodes else dict(x)

    def _after(self, values: Mapping[str, Tensor], host: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`values` and what a host makes of them behind the decoders."""
        part = self._cut.after
        if not part.nodes:
            return dict(values)
        return {**values, **forward(part, host, {name: values[name] for name in part.inputs})}

    def _disturbances(self, stream: int) -> dict[str, Disturb]:
        noise, made = self.model.noise, dict[str, Disturb]()
        layers = [n.name for n in self.one.nodes if n.op == "lif"]
        if noise.thermal > 0:
            theta = {layer: self.nominal[roles(self.one[layer], self.one.params)["theta"]] for layer in layers}
            made["current"] = heated(noise, theta, Chances(self.seeds, f"thermal {stream}", self._device, layers))
        if self.silent:
            made["spikes"] = lambda node, spikes: spikes * self.silent[node.name]
        elif noise.silencing > 0:
            made["spikes"] = losing(noise.silencing, Chances(self.seeds, f"lost {stream}", self._device, layers))
        return made

    def _beside(self, parts: Sequence[Mapping[str, Array]], like: Mapping[str, Array]) -> dict[str, Tensor]:
        """What was drawn for every device, side by side along the first axis of what `like` has of the same name; 1
        where a device has nothing.
        """
        if len(parts) == 1:
            return self._tensors(parts[0])
        made = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            shape = like[name].shape
            each = [part.get(name, np.ones([1] * len(shape))) for part in parts]
            alike = np.broadcast_shapes((shape[0], *[1] * (len(shape) - 1)), *(one.shape for one in each))
            made[name] = np.concatenate([np.broadcast_to(one, alike) for one in each])
        return self._tensors(made)

    def _tensors(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        found = arrays.items()
        return {name: torch.tensor(np.asarray(array, np.float32), device=self._device) for name, array in found}


def _conducted(factors: Mapping[str, Array], works: Mapping[str, Array]) -> dict[str, Array]:
    """Factors by param name, 0 where a synapse does not conduct."""
    return {name: np.asarray(factor * works.get(name, np.float32(1))) for name, factor in factors.items()}
