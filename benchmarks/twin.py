"""The torch twin of a graph: an nn.Module that converters which look for modules can read.

SpikingJelly and Sinabs replace `nn.ReLU` modules by neurons, the former in a network that torch.fx can trace. So every
node becomes a module of torch's own, or, where torch has none, plain arithmetic in `forward`: an add, another order of
axes. Padding that differs between two sides becomes zeros in the kernel, which is the same function: a kernel of size k
with pads (p, q), p < q, is one of size q - p + k that begins with q - p zeros, padded by q on both sides.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from snnc.errors import GraphError
from snnc.ir import Array, Graph, Node, attr_ints, roles
from snnc.pipeline import single
from snnc.sim import torch as executor

SHARES = ("softmax", "logsoftmax")
TOLERANCE = 1e-4
Arithmetic = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Line:
    """One node: the values it reads, and the module of that name, or else the arithmetic, that makes its value."""

    name: str
    reads: tuple[str, ...]
    module: str = ""
    arithmetic: Arithmetic | None = None


class Twin(nn.Module):
    """The network of an analog graph with one input and one output, [N, ...] -> [N, classes].

    Attributes:
        lines: the nodes, in the order of the graph.

    Raises:
        GraphError: names every node for which there is no module.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        if problems := _problems(graph):
            raise GraphError.gather("this graph has no torch twin", problems)
        (self.source,), (self.sink,) = graph.inputs, graph.outputs.values()
        lines = []
        for i, node in enumerate(graph.nodes):
            reads = graph.values(node)
            if node.op in ARITHMETIC:
                lines.append(Line(node.name, reads, arithmetic=ARITHMETIC[node.op](node)))
                continue
            params = {role: graph.params[name] for role, name in roles(node, graph.params).items()}
            lines.append(Line(node.name, reads, f"{node.op}_{i}"))
            self.add_module(lines[-1].module, MODULES[node.op](node, params))
        self.lines = tuple(lines)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, ...] -> [N, classes]."""
        values = {self.source: x}
        for line in self.lines:
            read = [values[name] for name in line.reads]
            values[line.name] = line.arithmetic(read) if line.arithmetic else getattr(self, line.module)(*read)
        return values[self.sink]


def twin(graph: Graph, x: Array) -> Twin:
    """The twin of a graph's class scores, held to the graph's own on samples x [N, ...].

    A softmax at the end is left out: it keeps the order of the scores, and sums over time steps want what is before it.

    Raises:
        GraphError: there is no twin, or one of its scores differs by more than TOLERANCE.
    """
    graph = scores(graph)
    made = Twin(graph)
    wanted = single(executor.run(graph, {made.source: x}))
    with torch.inference_mode(), executor.exact():
        apart = float(np.abs(made(executor.to_tensor(x)).numpy() - wanted).max())
    if not apart <= TOLERANCE:
        raise GraphError(f"scores of the torch twin differ by {apart:.1e}, more than {TOLERANCE}")
    return made


def scores(graph: Graph) -> Graph:
    """The graph with the output before its softmax; itself where there is none."""
    (user, name), *_ = graph.outputs.items()
    if name not in graph or graph[name].op not in SHARES:
        return graph
    return graph.edit(outputs={user: graph.values(graph[name])[0]})


def pools_before_relus(graph: Graph) -> Graph:
    """maxpool(relu(x)) as relu(maxpool(x)), the same function, where nothing else reads the relu.

    The other way round than the pass relu-before-max-pool: max pools of other converters look at one step at a time,
    and the currents of one step say more of the largest than its spikes.
    """
    for pool in [node for node in graph.nodes if node.op == "maxpool"]:
        name = graph.values(pool)[0]
        if name not in graph or graph[name].op != "relu" or len(graph.users(name)) > 1 or graph.is_output(name):
            continue
        relu = graph[name]
        first = replace(pool, name=relu.name, inputs=relu.inputs)
        second = replace(relu, name=pool.name, inputs=(relu.name,))
        graph = graph.edit([*(n for n in graph.nodes if n not in (relu, pool)), first, second])
    return graph


def _problems(graph: Graph) -> list[GraphError]:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return [GraphError(f"it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs")]
    found = []
    for node in graph.nodes:
        if (node.op not in MODULES and node.op not in ARITHMETIC) or node.type.kind != "analog":
            found.append(GraphError(f"no module stands for '{node.op}' of {node.type.kind} values", at=node.at))
        elif node.op == "relu" and "max" in node.attrs:
            found.append(GraphError("converters do not take a relu with a maximum for a relu", at=node.at))
        elif node.op in ("avgpool", "maxpool") and (any(_uneven(node)) or attr_ints(node, "dilations") != (1, 1)):
            found.append(GraphError("pools here have no dilation, and the same pads on both sides", at=node.at))
        elif node.op == "conv" and any(
            more % step for more, step in zip(_uneven(node), attr_ints(node, "dilations"), strict=True)
        ):
            found.append(GraphError("pads of two sides differ by no multiple of the dilation", at=node.at))
    return found


def _uneven(node: Node) -> tuple[int, int]:
    """By how much the pads behind exceed those before, per axis."""
    top, left, bottom, right = attr_ints(node, "pads")
    return bottom - top, right - left


def _conv(node: Node, params: Mapping[str, Array]) -> nn.Module:
    """The zeros that make up for uneven pads stand before the kernel where there are more pads behind."""
    top, left, bottom, right = attr_ints(node, "pads")
    dilations, group = attr_ints(node, "dilations"), int(str(node.attrs["group"]))
    zeros = [more // step for more, step in zip(_uneven(node), dilations, strict=True)]
    weight = np.pad(params["weight"], [(0, 0), (0, 0), *((max(z, 0), max(-z, 0)) for z in zeros)])
    pads, strides = (max(top, bottom), max(left, right)), attr_ints(node, "strides")
    out, inside, *kernel = weight.shape
    sizes = (inside * group, out, tuple(kernel), strides, pads, dilations, group, "bias" in params)
    return _filled(nn.utils.skip_init(nn.Conv2d, *sizes), {**params, "weight": weight})


def _dense(node: Node, params: Mapping[str, Array]) -> nn.Module:
    out, inside = params["weight"].shape
    return _filled(nn.utils.skip_init(nn.Linear, inside, out, "bias" in params), params)


def _filled(module: nn.Module, params: Mapping[str, Array]) -> nn.Module:
    module.load_state_dict({role: torch.tensor(array) for role, array in params.items()})
    return module


def _avgpool(node: Node, params: Mapping[str, Array]) -> nn.Module:
    kernel, strides, pads = attr_ints(node, "kernel"), attr_ints(node, "strides"), attr_ints(node, "pads")
    return nn.AvgPool2d(kernel, strides, pads[:2], count_include_pad=bool(node.attrs["count_include_pad"]))


def _maxpool(node: Node, params: Mapping[str, Array]) -> nn.Module:
    return nn.MaxPool2d(attr_ints(node, "kernel"), attr_ints(node, "strides"), attr_ints(node, "pads")[:2])


def _reshape(node: Node) -> Arithmetic:
    sizes = attr_ints(node, "shape")
    return lambda read: read[0].reshape(-1, *sizes)


def _transpose(node: Node) -> Arithmetic:
    order = (0, *(axis + 1 for axis in attr_ints(node, "perm")))
    return lambda read: read[0].permute(order)


MODULES: Mapping[str, Callable[[Node, Mapping[str, Array]], nn.Module]] = {
    "conv": _conv,
    "dense": _dense,
    "relu": lambda node, params: nn.ReLU(),
    "avgpool": _avgpool,
    "maxpool": _maxpool,
}
ARITHMETIC: Mapping[str, Callable[[Node], Arithmetic]] = {
    "add": lambda node: lambda read: functools.reduce(operator.add, read),
    "reshape": _reshape,
    "transpose": _transpose,
}
