"""The netlist of a placed graph: which neuron must hear which neuron and which input, as sparse arrays.

Neurons are numbered layer by layer in the order of the graph, inside a layer in raster order (its last axis first).
Sources have the same numbers, and the network's inputs come behind them.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from snnc.errors import TargetError
from snnc.ir import Array, Graph, Node, Samples, Shape, Stage
from snnc.sim.cost import connected, events_sent
from snnc.sim.local import unfold
from snnc.sim.reference import KERNELS
from snnc.sim.torch import CHUNK
from snnc.targets.dynap_sim.wiring import synapses

from .hypergraph import Hypergraph, gathered


@dataclass(frozen=True, eq=False)
class Netlist:
    """Sources and the neurons that listen to them; S sources, of which the first N are the neurons.

    Attributes:
        layers: layers of neurons and their shapes, in the order of their numbers.
        inputs: inputs of the network and their shapes, behind the neurons.
        start: [S + 1], where the listeners of every source begin in `target`.
        target: [P], neurons, ascending and each once for a source.
        words: [P], connections between the two: each takes a CAM word.
        spikes: [S], expected events per sample.
        read: [N], whether the host reads the neuron's spikes.
        at: by layer or input, its place in the user's model.
    """

    layers: abc.Mapping[str, Shape]
    inputs: abc.Mapping[str, Shape]
    start: Array
    target: Array
    words: Array
    spikes: Array
    read: Array
    at: abc.Mapping[str, str]

    @property
    def neurons(self) -> int:
        """N, the number of neurons."""
        return len(self.read)

    @cached_property
    def source(self) -> Array:
        """[P], the source of every pair."""
        return np.repeat(np.arange(len(self.spikes)), np.diff(self.start))

    @cached_property
    def first(self) -> dict[str, int]:
        """The number of the first neuron or element of every layer and input."""
        sizes = [math.prod(shape) for shape in (*self.layers.values(), *self.inputs.values())]
        return dict(zip((*self.layers, *self.inputs), np.cumsum([0, *sizes]).tolist(), strict=False))

    def place_of(self, source: int) -> tuple[str, tuple[int, ...]]:
        """The layer (or input) of a source, and its index there."""
        name = [name for name, first in self.first.items() if first <= source][-1]
        shape = self.layers[name] if name in self.layers else self.inputs[name]
        return name, tuple(int(i) for i in np.unravel_index(source - self.first[name], shape))

    def label(self, source: int) -> str:
        """A source in words: `relu2[3,0,1]`."""
        name, index = self.place_of(source)
        return f"{name}[{','.join(map(str, index))}]"

    def layer_of(self) -> Array:
        """[N], the number of every neuron's layer."""
        return np.repeat(np.arange(len(self.layers)), [math.prod(shape) for shape in self.layers.values()])

    def hypergraph(self, weight: Array) -> Hypergraph:
        """An edge for every source that somebody listens to, its pins the listeners.

        Args:
            weight: [S], what it costs to reach one core.
        """
        ones = np.ones(len(weight), np.int64)
        return gathered(self.neurons, self.source, self.target, weight, ones)


def netlist(graph: Graph, spikes: abc.Mapping[str, Array] | None = None) -> Netlist:
    """The netlist of a placed graph.

    Args:
        spikes: expected events per sample of every source, by layer or input, as `expected_spikes` measures them; 1 for
            each source without.

    Raises:
        TargetError: the graph is not placed, has no neurons, or something between them is no synapse and no wire.
    """
    if graph.stage is not Stage.PLACED:
        raise TargetError(f"neurons are mapped of a graph of stage placed, not {graph.stage}", hint="place it first")
    layers = {n.name: n.type.shape for n in graph.nodes if n.op == "lif"}
    inputs = {n.name: n.type.shape for n in graph.nodes if n.op == "encode"}
    number, count = _numbered({**layers, **inputs})
    neurons = sum(math.prod(shape) for shape in layers.values())
    if not neurons:
        raise TargetError("the graph has no neurons to map")
    found = [np.zeros((2, 0), np.int64)]
    for name in layers:
        for synapse, where in synapses(graph, graph.values(graph[name])[0], number[name]):
            heard = sources(graph, graph.values(graph[synapse])[0], number)
            found.append(_connections(graph, graph[synapse], heard, where))
    source, target = np.concatenate(found, axis=1)
    pairs, words = np.unique(source * neurons + target, return_counts=True)
    start = np.concatenate([[0], np.cumsum(np.bincount(pairs // neurons, minlength=count))])
    read = np.zeros(neurons, bool)
    for node in graph.nodes:
        if node.op == "decode" and graph.type(node.inputs[0]).kind == "spikes":
            heard = sources(graph, node.inputs[0], number)
            read[heard[(heard >= 0) & (heard < neurons)]] = True
    expected = np.ones(count)
    for name, array in (spikes or {}).items():
        expected[number[name].reshape(-1)] = np.asarray(array, np.float64).reshape(-1)
    at = {name: graph[name].at for name in (*layers, *inputs)}
    return Netlist(layers, inputs, start, (pairs % neurons).astype(np.int32), words, expected, read, at)


def expected_spikes(graph: Graph, x: Samples) -> dict[str, Array]:
    """Events per sample of every source, by layer or input in its shape: the mean over samples x [N, ...].

    An input that comes as a current (`code=direct`, `first-step`) sends no events: 0.
    """
    total = {n.name: np.zeros(n.type.shape) for n in graph.nodes if n.op in ("lif", "encode")}
    for at in range(0, len(x), CHUNK):
        for name, sent in events_sent(graph, x[at : at + CHUNK]).items():
            total[name] += sent.sum(0).numpy()
    return {name: array / max(len(x), 1) for name, array in total.items()}


def _numbered(shapes: abc.Mapping[str, Shape]) -> tuple[dict[str, Array], int]:
    """The numbers of the elements of every value, in its shape, and how many there are."""
    found, count = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        found[name] = np.arange(count, count + size).reshape(shape)
        count += size
    return found, count


def sources(graph: Graph, name: str, number: abc.Mapping[str, Array]) -> Array:
    """The source behind every element of the value `name`, through wiring; -1 where a pad put nothing."""
    if name in number:
        return number[name]
    node = graph[name]
    parts = [sources(graph, value, number)[None] + 1.0 for value in graph.values(node)]
    return np.asarray(KERNELS[node.op](node, parts, {})[0] - 1, np.int64)


def _connections(graph: Graph, node: Node, heard: Array, where: Array) -> Array:
    """The connections [2, ...] of one synapse node: source, neuron; one column each.

    Args:
        heard: the sources in the shape of what it reads.
        where: the neurons in the shape of what it makes.
    """
    exists = connected(graph, node)
    if node.op == "local":
        source, target = _local(node, heard, where, exists)
    elif node.op == "dense":
        rows, columns = np.nonzero(exists)
        source, target = heard.reshape(-1)[columns], where.reshape(-1)[rows]
    else:
        if exists.ndim == 1 and where.ndim > 1:
            exists = exists.reshape(-1, *[1] * (where.ndim - 1))
        kept = np.broadcast_to(exists, where.shape)
        source, target = heard[kept], where[kept]
    return np.stack([source, target])[:, source >= 0]


def _local(node: Node, heard: Array, where: Array, exists: Array) -> tuple[Array, Array]:
    """Sources and neurons of unrolled convolutions, a channel at a time."""
    out, *_, high, wide = exists.shape
    windows = unfold(node, torch.tensor(heard + 1.0)[None], (high, wide))[:, :, 0].to(torch.int64).numpy() - 1
    exists, where = exists.reshape(out, len(where[0].reshape(-1)), -1), where.reshape(out, -1)
    sources, targets = [], []
    for channel in range(out):
        position, element = np.nonzero(exists[channel])
        sources.append(windows[channel * len(windows) // out][position, element])
        targets.append(where[channel][position])
    return np.concatenate(sources), np.concatenate(targets)
