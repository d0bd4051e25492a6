"""Runs of a spiking network beside its teacher, with causes of error switched off: the measurements of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snnc.ir import WEIGHTED, Graph, Node, Samples, earlier_than, roles
from snnc.ir.batchnorm import fold

from .ideal import Layer, block, charges
from .ladder import DEEPER, IN_NEURONS, climb, response, settings
from .placement import first
from .torch import forward, tensors, to_tensor
from .twins import IN_WEIGHTS, OWN, Cause, Change, Twins, merged, twin_of

CHUNK = 32
"""Samples at a time."""
Progress = Callable[[str, int, int], None]
"""(what is going on, samples done, samples in all)"""
Off = Mapping[str, frozenset[Cause]]
"""By layer of neurons the causes that are switched off."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A network with causes switched off in layers, and with other params of weighted nodes (by their names).

    Attributes:
        even: what is encoded arrives evenly, and not by chance.
    """

    off: Off = field(default_factory=dict)
    weights: Mapping[str, Change] = field(default_factory=dict)
    even: bool = False


@dataclass
class Sums:
    """Of one layer, over all samples: squared norms, and products <d_i, D> by cause.

    Attributes:
        error, own, norm: |D|^2, |D - d_inherited|^2, |y|^2.
        lost: y summed where it is above 0 and no spike came; `total`: everywhere.
        after: |D - d_i|^2 by cause, and |D|^2 under other settings.
    """

    error: float = 0.0
    own: float = 0.0
    norm: float = 0.0
    lost: float = 0.0
    total: float = 0.0
    shares: dict[Cause, float] | None = None
    after: dict[str, float] | None = None

    def add(self, steps: Mapping[Cause, Tensor], target: Tensor, silent: Tensor, others: Mapping[str, Tensor]) -> None:
        """A batch: d_i by cause, y, where no spike came, and D under other settings."""
        whole = torch.stack(list(steps.values())).sum(0)
        self.error += _square(whole)
        self.own += _square(whole - steps[Cause.INHERITED])
        self.norm += _square(target)
        self.lost += float((target * silent).sum())
        self.total += float(target.sum())
        shares, after = self.shares or {}, self.after or {}
        for cause, step in steps.items():
            shares[cause] = shares.get(cause, 0.0) + float((step.double() * whole.double()).sum())
        for name, left in [*((cause.value, whole - step) for cause, step in steps.items()), *others.items()]:
            after[name] = after.get(name, 0.0) + _square(left)
        self.shares, self.after = shares, after


@dataclass(frozen=True, eq=False)
class Scene:
    """One batch: what the teacher does, and what drives every layer on ideal input, with its own and other weights.

    Attributes:
        ideal: by layer the charges behind s5 to s9.
    """

    x: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    ideal: Mapping[str, list[Tensor]]


class Probe:
    """A spiking graph and its teacher, measured on samples [N, ...].

    Attributes:
        layers: every layer of neurons.
        changes: by cause and weighted node, the params without the cause.
        blocks: by layer, its weighted nodes.
        first: the layers that read an encoded input.
        readout: by weighted node that no neurons follow, the teacher's weights; `tail`: these nodes and all behind.
        dead: by layer, bool per channel.
    """

    def __init__(
        self, graph: Graph, teacher: Graph, x: Samples, device: str = "cpu", progress: Progress = lambda *_: None
    ) -> None:
        self.progress, device = progress, first(device)
        self.graph, self.teacher = graph, fold(teacher, lambda text: None)
        self.params, self.theirs = tensors(graph, device), tensors(self.teacher, device)
        self.x, self.device = x, device
        self.layers = {n.name: Layer.of(n, graph, self.teacher, self.params) for n in graph.nodes if n.op == "lif"}
        self.blocks = {name: _weighted(graph, layer.node) for name, layer in self.layers.items()}
        self.first = frozenset(name for name, layer in self.layers.items() if block(graph, layer.node, ("encode",)))
        self.readout: dict[str, Change] = {}
        self.tail: tuple[Node, ...] = ()
        self.largest = dict.fromkeys(self.layers, 0.0)
        self.dead: dict[str, Tensor] = {}
        self.changes: dict[Cause, dict[str, Change]] = {cause: {} for cause in IN_WEIGHTS}
        self._study()

    def _study(self) -> None:
        """The sweep that finds dead channels, the largest activations and the teacher's weights in our units."""
        twins = Twins(self.graph, self.teacher, self.params, self.theirs)
        seen: dict[str, Tensor] = {}
        for x in self._batches("compare with the teacher"):
            scene = self.scene(x)
            ours = self._ideal(x, scene.teacher, self.params)
            twins.see(ours, scene.teacher, len(next(iter(x.values()))) / len(self.x))
            counts = self.spike_counts(x)
            for name, layer in self.layers.items():
                target = scene.targets[name]
                self.largest[name] = max(self.largest[name], float(target.max()))
                would = (scene.ideal[name][0] * DEEPER + layer.u0) >= layer.theta
                found = counts[name] > 0, target >= layer.theta / 2, would
                marks = torch.stack([_channels(mark) for mark in found])
                seen[name] = marks if name not in seen else seen[name] | marks
        self.dead = {name: ~spiked & wanted & ~would for name, (spiked, wanted, would) in seen.items()}
        self.changes = twins.changes()
        self._read_out()

    def _read_out(self) -> None:
        """Find the weights that no neurons follow, and all that depends on them."""
        driving = {name for block in self.blocks.values() for name in block}
        for cause in IN_WEIGHTS:
            for name, change in self.changes[cause].items():
                if name not in driving:
                    self.readout[name] = {**self.readout.get(name, {}), **change}
        if self.readout:
            before = earlier_than(self.graph, "lif")
            self.tail = tuple(n for n in self.graph.nodes if n.name not in before and n.op not in ("lif", "encode"))

    def _batches(self, task: str) -> Iterator[dict[str, Tensor]]:
        (name,) = self.graph.inputs
        for at in range(0, len(self.x), CHUNK):
            self.progress(task, at, len(self.x))
            yield {name: to_tensor(self.x[at : at + CHUNK], self.device)}

    def spike_counts(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By layer, spikes [N, ...]."""
        values = forward(self.graph, self.params, x, keep=lambda node: node.op == "lif")
        return {name: values[name].sum(0) for name in self.layers}

    def scene(self, x: Mapping[str, Tensor]) -> Scene:
        """The ideal side of a batch."""
        teacher = forward(self.teacher, self.theirs, x)
        own = self._ideal(x, teacher, self.params)
        targets = {name: layer.ideal(teacher, own[layer.node.inputs[0]]) for name, layer in self.layers.items()}
        ideal = {name: [own[layer.node.inputs[0]]] for name, layer in self.layers.items()}
        params, last = self.params, own
        for cause in IN_WEIGHTS:
            if self.changes[cause]:
                params = merged(params, self.changes[cause].values())
                last = charges(self.graph, params, x, lambda node, _: targets[node.name] / self.layers[node.name].theta)
            for name, layer in self.layers.items():
                ideal[name].append(last[layer.node.inputs[0]])
        return Scene(x, teacher, targets, ideal)

    def _ideal(
        self, x: Mapping[str, Tensor], teacher: Mapping[str, Tensor], params: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        layers = self.layers
        return charges(
            self.graph, params, x, lambda node, v: layers[node.name].ideal(teacher, v) / layers[node.name].theta
        )

    def last_cause(self, name: str) -> Cause:
        """What explains the difference that is left once a layer has the teacher's weights."""
        compared = {node for changed in self.changes.values() for node in changed}
        if any(self.graph[node].op in OWN and node not in compared for node in self.blocks[name]):
            return Cause.WEIGHTS
        if any(roles(self.graph[n], self.graph.params)["factor"] in self.graph.constraints
               for n in self.blocks[name] if self.graph[n].op == "scale"):  # fmt: skip
            return Cause.WEIGHTS
        if any(self._bare(self.graph[node]) for node in self.blocks[name]):
            return Cause.BIAS
        target = self.layers[name].target
        return Cause.POOLING if target is not None and self.teacher[target].op == "maxpool" else Cause.FUNCTION

    def _bare(self, node: Node) -> bool:
        """Whether a layer has no bias, and the teacher's has one."""
        twin = twin_of(node, self.graph, self.teacher)
        if twin is None or "bias" in roles(node, self.graph.params):
            return False
        theirs = roles(twin, self.teacher.params).get("bias")
        return theirs is not None and bool(self.teacher.params[theirs].any())

    def ceiling(self, name: str) -> float:
        """The largest activation that a layer can be asked for."""
        return self.largest[name] if self.layers[name].bounded else torch.inf

    def local(self) -> dict[str, Sums]:
        """By layer, the sums of its errors over all samples."""
        found = {name: Sums() for name in self.layers}
        steps = self.graph.steps
        for x in self._batches("measure every layer"):
            scene, counts = self.scene(x), self.spike_counts(x)
            actual = charges(self.graph, self.params, x, lambda node, _, c=counts: c[node.name])  # type: ignore[misc]
            for name, layer in self.layers.items():
                charge, target = actual[layer.node.inputs[0]], scene.targets[name]
                states = response(layer, charge, counts[name], steps, self.ceiling(name))
                parts = climb(
                    states, scene.ideal[name], target, self.ceiling(name), self.last_cause(name), self.dead[name]
                )
                set_ = settings(layer, charge, steps, self.largest[name])
                others = {key: states[0] - states[1] + value - target for key, value in set_.items()}
                found[name].add(parts, target, counts[name] == 0, others)
        return found

    def outputs(self, variants: Sequence[Variant]) -> list[tuple[Tensor, Tensor]]:
        """By variant the network's output [N, ...], and the same read out with the teacher's weights; in one sweep."""
        params = [merged(self.params, variant.weights.values()) for variant in variants]
        parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in variants]
        for x in self._batches("switch causes off"):
            scene = self.scene(x)
            for variant, own, found in zip(variants, params, parts, strict=True):
                found.append(self._run(x, own, variant, scene))
        return [(torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])) for found in parts]

    def teacher_outputs(self) -> Tensor:
        """What the teacher answers, [N, ...]."""
        (name,) = self.teacher.outputs.values()
        task = "ask the teacher"
        return torch.cat(
            [forward(self.teacher, self.theirs, x, keep=lambda node: False)[name] for x in self._batches(task)]
        )

    def _run(
        self, x: Mapping[str, Tensor], params: Mapping[str, Tensor], variant: Variant, scene: Scene
    ) -> tuple[Tensor, Tensor]:
        """Both outputs [N, ...] of a batch: the graph runs in pieces, each up to a layer that is mended."""
        values, off = dict(x), variant.off
        for piece in self._pieces(off):
            values |= forward(replace(self.graph, nodes=piece, outputs={}), params, values)
            for node in piece if variant.even else ():
                if node.op == "encode":
                    values[node.name] = (values[self.graph.values(node)[0]] / self.graph.steps)[None]
            if (node := piece[-1]).name in off:
                read = values[self.graph.values(node)[0]]
                values[node.name] = self._mended(node, read, values[node.name], scene, off[node.name])
        (name,) = self.graph.outputs.values()
        made = values[name]
        if self.tail:
            restored = merged(params, self.readout.values())
            values |= forward(replace(self.graph, nodes=self.tail, outputs={}), restored, values)
        return made, values[name]

    def _pieces(self, off: Off) -> list[tuple[Node, ...]]:
        """All nodes in a runnable order; what is encoded comes first, as chance depends on what a run is given."""
        first = earlier_than(self.graph, "encode")
        front = tuple(n for n in self.graph.nodes if n.op == "encode" or n.name in first)
        pieces: list[list[Node]] = [[]]
        for node in self.graph.nodes:
            if node not in front:
                pieces[-1].append(node)
                if node.name in off:
                    pieces.append([])
        return [piece for piece in (front, *map(tuple, pieces)) if piece]

    def _mended(self, node: Node, current: Tensor, spikes: Tensor, scene: Scene, causes: frozenset[Cause]) -> Tensor:
        """What a layer hands on [T, N, ...] without some causes: its spikes, and what is missing spread evenly."""
        layer, steps, name = self.layers[node.name], self.graph.steps, node.name
        target, ceiling = scene.targets[name], self.ceiling(name)
        charge = current.sum(0) if len(current) == steps else current[0] * steps
        states = response(layer, charge, spikes.sum(0), steps, ceiling)
        missing = torch.zeros_like(target)
        for cause, above, below in zip(IN_NEURONS, states, states[1:], strict=False):
            if cause in causes:
                missing = missing + below - above
        if self.last_cause(name) in causes:
            missing = missing + target - scene.ideal[name][-1].clamp(0, ceiling)
        if Cause.DEAD in causes:
            there = self.dead[name].reshape(-1, *[1] * (target.ndim - 2))
            missing = torch.where(there, target - states[0], missing)
        return spikes + missing / layer.theta / steps


def _weighted(graph: Graph, node: Node) -> list[str]:
    """The nodes that hold the weights of a layer of neurons; scales of one number only lead on."""
    found = block(graph, node, WEIGHTED)
    return [n for n in found if graph[n].op != "scale" or graph.params[roles(graph[n], graph.params)["factor"]].ndim]


def _channels(marks: Tensor) -> Tensor:
    """[N, C, ...] -> [C]: whether there is a mark anywhere."""
    return marks.transpose(0, 1).reshape(marks.shape[1], -1).any(1) if marks.ndim > 1 else marks.any()[None]


def _square(value: Tensor) -> float:
    return float(value.double().square().sum())
