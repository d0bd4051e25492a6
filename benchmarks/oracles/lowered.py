"""A drawn network as a constrained graph of snnc, and what its executors and a chip make of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from benchmarks.oracles.networks import Array, Layer, Net, Synapses
from snnc.ir import Attr, Constraint, Graph, Node, Stage, TensorType, verify
from snnc.sim import reference
from snnc.sim.torch import exact, forward, tensors, to_tensor
from snnc.targets import DynapSim
from snnc.targets.dynap_sim import DynapChip
from snnc.targets.dynap_sim.bench import one_thread


def graph_of(net: Net) -> Graph:
    """The graph, with weights on levels of `net.bits` bits; its output are the counts of the last layer."""
    code = "events" if net.events else "direct"
    made = _Maker(net)
    made.nodes.append(Node("input", "encode", ("x",), {"code": code}))
    for number, layer in enumerate(net.layers):
        made.layer(number, layer)
    made.nodes.append(Node("count", "decode", (f"lif{len(net.layers) - 1}",)))
    empty = Graph({"x": TensorType("analog", net.shape)}, (), {}, {}, Stage.CONSTRAINED, net.steps)
    graph = empty.edit(made.nodes, params=made.params, constraints=made.constraints, outputs={"count": "count"})
    verify(graph)
    return replace(graph, teacher=_teacher(net))


def samples(net: Net) -> Array:
    """The samples as the graph takes them: a current of k at every step is a value of k T."""
    return np.asarray(net.x if net.events else net.x * net.steps, np.float32)


def by_reference(graph: Graph, x: Array) -> dict[str, Array]:
    """Spikes by layer, [T, N, neurons], and the output."""
    values: dict[str, Array] = {}
    outputs = reference.run(graph, {"x": x}, record=values)
    return {name: values[name] for name in _layers(graph)} | outputs


def by_torch(graph: Graph, x: Array) -> dict[str, Array]:
    """The same by the differentiable executor."""
    with torch.inference_mode(), exact(), one_thread():
        values = forward(graph, tensors(graph), {"x": to_tensor(x)})
    return {name: values[name].numpy() for name in _layers(graph)} | {"count": values["count"].numpy()}


def chip_for(net: Net) -> DynapSim:
    """A chip without noise that the network fits: SE2 where it does, else the ideal one."""
    fits = net.bits <= 4 and max(_fan_in(net)) <= 64
    return DynapSim(profile="se2", mismatch=0.0) if fits else DynapSim(profile="ideal")


def by_chip(net: Net, graph: Graph, x: Array) -> dict[str, Array]:
    """The same by a chip with its noise off."""
    chip = chip_for(net).compile(graph).load(0)
    assert isinstance(chip, DynapChip)
    trains: dict[str, list[Array]] = {name: [] for name in _layers(graph)}
    with torch.inference_mode(), exact(), one_thread():
        stepper = chip.device.stepper({"x": to_tensor(x)}, 0)
        for _ in range(graph.steps):
            stepper.step()
            for name, train in trains.items():
                train.append(stepper.values[name].numpy())
    return {name: np.stack(train) for name, train in trains.items()} | chip.run(x)


def _layers(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "lif"]


def _fan_in(net: Net) -> list[int]:
    """Connections of a neuron, by layer."""
    each = {"dense": lambda s: s.weight.shape[1], "conv": lambda s: s.weight[0].size}
    found = []
    for layer in net.layers:
        sizes = [each[s.kind](s) if s.kind in each else 4 if s.kind == "pool" else 1 for s in layer.synapses]
        found.append(sum(sizes))
    return found


def _teacher(net: Net) -> Graph:
    """Any analog graph of the same input: an artifact needs one."""
    empty = Graph({"x": TensorType("analog", net.shape)}, (), {}, {})
    return empty.edit([Node("y", "relu", ("x",))], outputs={"y": "y"})


class _Maker:
    """Nodes, params and constraints, layer by layer."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.nodes: list[Node] = []
        self.params: dict[str, Array] = {}
        self.constraints: dict[str, Constraint] = {}

    def layer(self, number: int, layer: Layer) -> None:
        """One layer: its synapses, their sum, its neurons."""
        currents = [self._synapses(f"synapses{number}.{i}", layer, s) for i, s in enumerate(layer.synapses)]
        if layer.bias.any():
            first = self.nodes[[node.name for node in self.nodes].index(currents[0])]
            self.params[f"{first.name}.bias"] = np.asarray(layer.bias * layer.step, np.float32)
            changed = replace(first, inputs=(*first.inputs, f"{first.name}.bias"))
            self.nodes[self.nodes.index(first)] = changed.with_attrs(bias_at="per-step")
        total = currents[0]
        if len(currents) > 1:
            total = f"sum{number}"
            self.nodes.append(Node(total, "add", tuple(currents)))
        name = f"lif{number}"
        own = {"alpha": np.array(layer.alpha), "theta": layer.theta * layer.step, "u0": layer.u0 * layer.step}
        self.params |= {f"{name}.{role}": np.asarray(value, np.float32) for role, value in own.items()}
        self.nodes.append(Node(name, "lif", (total, *(f"{name}.{role}" for role in own)), {"reset": layer.reset}))

    def _synapses(self, name: str, layer: Layer, synapses: Synapses) -> str:
        source = "input" if synapses.source < 0 else f"lif{synapses.source}"
        strides, pads, dilations, group = synapses.window
        window: dict[str, Attr] = {"strides": strides, "pads": pads, "dilations": dilations}
        if synapses.kind == "pool":
            self.nodes.append(Node(name, "avgpool", (source,), {**window, "kernel": (2, 2), "count_include_pad": 0}))
            return name
        if synapses.kind == "plain":
            self.params[f"{name}.factor"] = np.asarray(synapses.weight * layer.step, np.float32)
            self.nodes.append(Node(name, "scale", (source, f"{name}.factor")))
            return name
        if synapses.kind == "dense" and len(shape := self.net.shape_of(synapses.source)) > 1:
            self.nodes.append(Node(f"{name}.flat", "reshape", (source,), {"shape": (int(np.prod(shape)),)}))
            source = f"{name}.flat"
        step = np.asarray(layer.step, np.float32).reshape(-1, *[1] * (synapses.weight.ndim - 1))
        self.params[f"{name}.weight"] = np.asarray(synapses.weight * step, np.float32)
        self.constraints[f"{name}.weight"] = Constraint(self.net.bits, step)
        attrs: dict[str, Attr] = {**window, "group": group} if synapses.kind == "conv" else {}
        self.nodes.append(Node(name, synapses.kind, (source, f"{name}.weight"), attrs))
        return name
