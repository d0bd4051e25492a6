"""What a network costs: synaptic operations, multiply-accumulates, connections, fan-in.

All follow from one count: replace every weight by 1 where a connection exists and by 0 where not, feed each source
with its number of events, and read how many synaptic events arrive at each neuron.

    SynOps = sum_t sum_l sum_j f_out,j * s_j(t)     (tandem learning eq. 13; sources: spikes)
    MACs   = sum_l f_in,l * N_l                      (tandem learning eq. 14; layer by layer, one event each)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from snnc.ir import LINEAR, WEIGHTED, WIRING, Array, Graph, Node, TensorType, attr_ints, roles

from .torch import KERNELS, exact, forward, tensors, to_tensor

Source = Callable[[str, TensorType], Tensor]


@dataclass(frozen=True)
class Cost:
    """Per inference where it is an operation, per network where it is a size.

    Attributes:
        synops: spike-driven synaptic operations (accumulates), mean over the samples.
        input_macs: multiply-accumulates of the layers that read the analog input, done once under direct encoding;
            an input of events (codes `rate` and `events`) costs synops instead, one for each value that is not 0.
        ann_macs: multiply-accumulates of the teacher.
        spikes: spikes of all neurons, mean over the samples.
        rate: spikes per neuron and time step.
        neurons, weights: spiking neurons; non-zero weights that the graph stores.
        synapses: physical connections onto neurons, each position of a kernel counted.
        fan_in: the largest number of connections onto one neuron, by layer.
    """

    synops: float
    input_macs: int
    ann_macs: int
    spikes: float
    rate: float
    neurons: int
    weights: int
    synapses: int
    fan_in: dict[str, int]

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def measure(graph: Graph, teacher: Graph | None, x: Array, device: str = "cpu") -> Cost:
    """The cost of a spiking `graph` on samples x [N, ...]."""
    sent = events_sent(graph, x, device)
    counts = {name: count for name, count in sent.items() if graph[name].op == "lif"}
    spiking = arriving(graph, lambda name, kind: sent[name] if name in sent else torch.zeros(1, *kind.shape))
    every = _ones(graph)
    from_input = arriving(graph, lambda name, kind: torch.full((1, *kind.shape), float(name not in sent)))
    spikes = sum(float(c.sum()) for c in counts.values()) / len(x)
    neurons = sum(c[0].numel() for c in counts.values())
    return Cost(
        synops=sum(float(v.sum(dtype=torch.float64)) for v in spiking.values()) / len(x),
        input_macs=int(sum(float(v.sum(dtype=torch.float64)) for v in from_input.values())),
        ann_macs=0 if teacher is None else sum(macs(teacher).values()),
        spikes=spikes,
        rate=spikes / (neurons * graph.steps) if neurons else 0.0,
        neurons=neurons,
        weights=sum(int(np.count_nonzero(graph.params[w])) for w in _weights(graph)),
        synapses=int(sum(float(v.sum(dtype=torch.float64)) for n, v in every.items() if n in counts)),
        fan_in=fan_in(graph),
    )


def events_sent(graph: Graph, x: Array, device: str = "cpu") -> dict[str, Tensor]:
    """Events on samples x [N, ...] by node that sends them: the sum over time steps, [N, ...]."""
    batch = {next(iter(graph.inputs)): to_tensor(x, device)}
    with torch.inference_mode(), exact():
        values = forward(graph, tensors(graph, device), batch, keep=sends)
        return {n.name: (values[n.name] != 0).sum(0).cpu().to(torch.float32) for n in graph.nodes if sends(n)}


def sends(node: Node) -> bool:
    """Whether events begin here: neurons, an input as events, and max pools, which pass on some without synapses."""
    pool = node.op == "maxpool" and node.type.kind == "spikes"
    return node.op == "lif" or pool or node.attrs.get("code") in ("rate", "events")


def macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates per sample (per time step where it has steps) of every node that multiplies, by name.

    A weight of 0 and a position outside of the image cost nothing; a pool and a sum only add.
    """
    found: dict[str, int] = {}
    with torch.inference_mode(), exact():
        for node in graph.nodes:
            shapes = [graph.type(name).shape for name in graph.values(node)]
            if node.op in (*WEIGHTED, "mix"):
                events = _events(graph, node, [_present(graph, name) for name in graph.values(node)])
                found[node.name] = int(events.sum(dtype=torch.float64))
            elif node.op == "matmul":
                found[node.name] = math.prod(node.type.shape) * shapes[0][-1]
    return found


def _present(graph: Graph, name: str) -> Tensor:
    """1 for every element of the value `name` that carries something, 0 where a pad put zeros; [1, ...]."""
    if name in graph and graph[name].op in WIRING:
        return _events(graph, graph[name], [_present(graph, value) for value in graph.values(graph[name])])
    return torch.ones(1, *graph.type(name).shape)


def fan_in(graph: Graph) -> dict[str, int]:
    """The largest number of connections onto one neuron, by layer of neurons (relu or lif)."""
    return {
        name: int(v.max()) for name, v in _ones(graph).items() if name in graph and graph[name].op in ("relu", "lif")
    }


def arriving(graph: Graph, source: Source) -> dict[str, Tensor]:
    """Synaptic events that arrive at every value that is no wiring itself, [N, ...] by node name.

    Args:
        source: the events that leave a graph input or a non-linear node.
    """
    flow = {name: source(name, kind) for name, kind in graph.inputs.items()}
    synaptic = dict.fromkeys(flow, False)
    found: dict[str, Tensor] = {}
    with torch.inference_mode(), exact():
        for node in graph.nodes:
            read = graph.values(node)
            if node.op in LINEAR:
                flow[node.name] = _events(graph, node, [flow[name] for name in read])
                crosses = node.op in (*WEIGHTED, "avgpool", "add", "mix")
                synaptic[node.name] = crosses or any(synaptic[name] for name in read)
            elif node.op == "batchnorm":
                flow[node.name], synaptic[node.name] = flow[read[0]], synaptic[read[0]]
            else:
                if arrived := [flow[name] for name in read if synaptic[name]]:
                    found[node.name] = arrived[0] if len(arrived) == 1 else _together(arrived)
                flow[node.name], synaptic[node.name] = source(node.name, node.type), False
        for user, name in graph.outputs.items():
            if synaptic[name]:
                found[f"output {user}"] = flow[name]
    return found


def _together(flows: list[Tensor]) -> Tensor:
    """Events of values of different shapes side by side, [N, all of them]."""
    longest = max(map(len, flows))
    return torch.cat([flow.flatten(1).expand(longest, -1) for flow in flows], 1)


def multiplicity(graph: Graph, name: str) -> int:
    """How many spikes can reach one element of the value `name` at a time: 1, or more behind pooling."""
    if name in graph.inputs or graph[name].op not in LINEAR:
        return 1
    node = graph[name]
    with torch.inference_mode():
        made = _events(
            graph,
            node,
            [torch.full((1, *graph.type(n).shape), float(multiplicity(graph, n))) for n in graph.values(node)],
        )
    return int(made.max())


def _one(name: str, kind: TensorType) -> Tensor:
    return torch.ones(1, *kind.shape)


def _ones(graph: Graph) -> dict[str, Tensor]:
    return arriving(graph, _one)


def _weights(graph: Graph) -> list[str]:
    return list(dict.fromkeys(roles(n, graph.params)[first_role(n)] for n in graph.nodes if n.op in WEIGHTED))


def first_role(node: Node) -> str:
    """The role of the param that holds the synaptic weights."""
    return "factor" if node.op == "scale" else "weight"


def connected(graph: Graph, node: Node) -> Array:
    """Where the weights of `node` are connections, bool in their shape: its mask, or else what is not 0."""
    name = roles(node, graph.params)[first_role(node)]
    constraint = graph.constraints.get(name)
    return graph.params[name] != 0 if constraint is None or constraint.mask is None else constraint.mask


def _events(graph: Graph, node: Node, inputs: list[Tensor]) -> Tensor:
    if node.op == "avgpool":
        channels = node.type.shape[0]
        ones = torch.ones(channels, 1, *attr_ints(node, "kernel"))
        return KERNELS["conv"](node.with_attrs(group=channels), inputs, {"weight": ones})
    params = {}
    if node.op == "mix":
        params = {"weight": (torch.tensor(graph.params[roles(node, graph.params)["weight"]]) != 0).to(torch.float32)}
    if node.op in WEIGHTED:
        params = {first_role(node): torch.tensor(connected(graph, node), dtype=torch.float32)}
    longest = max(len(value) for value in inputs)
    return KERNELS[node.op](node, [v.expand(longest, *v.shape[1:]) for v in inputs], params)
