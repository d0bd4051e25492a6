"""Small networks for chips: plain, residual and pooled; as the passes leave them, or snapped so that all is exact."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from snnc.data import Data, Split
from snnc.ir import WEIGHTED, Array, Attr, Constraint, Graph, Node, TensorType, roles, verify
from snnc.pipeline import Pipeline
from snnc.sim.reference import run

STEPS = 8
RECIPE = (
    "fold-batchnorm,replace-max-pool,pool-neurons,threshold-layernorm{steps=8},bias-per-step,"
    "limit-fan-in{k=20},quantize-weights{per=tensor}"
)
WINDOW: dict[str, Attr] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
POOL: dict[str, Attr] = {**WINDOW, "pads": (0,) * 4, "strides": (2, 2), "kernel": (2, 2), "count_include_pad": 0}


def conv(name: str, source: str, **attrs: Attr) -> Node:
    inputs = (source, f"{name}.w", f"{name}.b")
    return Node(name, "conv", inputs, {**WINDOW, "group": 1, **attrs}, (f"/{name}/Conv",))


def relu(name: str, source: str) -> Node:
    return Node(name, "relu", (source,), origin=(f"/{name}/Relu",))


NETS: dict[str, list[Node]] = {
    "plain": [
        conv("conv1", "x"),
        relu("relu1", "conv1"),
        conv("conv2", "relu1", strides=(2, 2), group=2),
        relu("relu2", "conv2"),
    ],
    "residual": [
        conv("conv1", "x"),
        relu("relu1", "conv1"),
        conv("conv2", "relu1"),
        Node("sum", "add", ("conv2", "relu1"), origin=("/Add",)),
        relu("relu2", "sum"),
    ],
    "pooled": [
        conv("conv1", "x"),
        relu("relu1", "conv1"),
        Node("pool", "avgpool", ("relu1",), POOL, ("/Pool",)),
        conv("conv2", "pool"),
        relu("relu2", "conv2"),
    ],
}


def teacher(net: str) -> Graph:
    """Input [1,6,6], two convolutions with neurons, a dense layer with neurons, a read-out of three classes."""
    rng = np.random.default_rng(11)
    flat = 4 * 36 if net == "residual" else 4 * 9
    shapes = {
        "conv1.w": (4, 1, 3, 3),
        "conv2.w": (4, 2 if net == "plain" else 4, 3, 3),
        "fc.w": (10, flat),
        "out.w": (3, 10),
    }
    params: dict[str, Array] = {n: rng.normal(size=s) / np.sqrt(np.prod(s[1:])) for n, s in shapes.items()}
    params |= {n.replace(".w", ".b"): rng.normal(size=s[0]) / 10 for n, s in shapes.items()}
    nodes = [
        *NETS[net],
        Node("flat", "reshape", ("relu2",), {"shape": (flat,)}),
        Node("fc", "dense", ("flat", "fc.w", "fc.b"), origin=("/fc/Gemm",)),
        relu("relu3", "fc"),
        Node("out", "dense", ("relu3", "out.w", "out.b"), origin=("/out/Gemm",)),
    ]
    arrays = {n: np.asarray(a, np.float32) for n, a in params.items()}
    return Graph({"x": TensorType("analog", (1, 6, 6))}, (), {}, {}).edit(nodes, params=arrays, outputs={"y": "out"})


def images(count: int, seed: int = 12) -> Array:
    """Grey levels k/16, as the digits have: exact in every executor."""
    return (np.random.default_rng(seed).integers(0, 17, (count, 1, 6, 6)) / 16).astype(np.float32)


def data(net: str, count: int = 120) -> Data:
    """Labelled by the teacher: 2/3 to train."""
    x = images(count)
    y = run(teacher(net), {"x": x})["y"].argmax(axis=1).astype(np.int64)
    a, b = count * 2 // 3, count * 5 // 6
    return Data(Split(x[:a], y[:a]), Split(x[a:b], y[a:b]), Split(x[b:], y[b:]))


@cache
def constrained(net: str, recipe: str = RECIPE) -> Graph:
    """As the passes make it."""
    return Pipeline.parse(recipe)(teacher(net), data=data(net))[0]


def step_of(graph: Graph, value: str) -> float:
    """The weight step of the neurons that the value `value` drives: that of their first quantized synapses."""
    for user in graph.users(value):
        if user.op == "lif":
            return _first_step(graph, user.inputs[0])
        if user.op == "add":
            return step_of(graph, user.name)
    return 1.0


def _first_step(graph: Graph, name: str) -> float:
    node = graph[name]
    if node.op == "add":
        return _first_step(graph, node.inputs[0])
    before = graph[node.inputs[0]]
    worth = float(graph.params[before.inputs[1]]) if before.op == "scale" else 1.0
    if node.op == "avgpool":
        return worth / 4
    scale = graph.constraints[roles(node, graph.params)["weight"]].scale
    assert scale is not None
    return float(scale.reshape(-1)[0]) * worth


@cache
def exact(net: str) -> Graph:
    """The same with steps that are powers of two, and everything else a multiple of step / 256: nothing rounds."""
    graph = constrained(net)
    worths = [n.inputs[1] for n in graph.nodes if n.op == "scale"]
    graph = replace(graph, constraints={n: c for n, c in graph.constraints.items() if n not in worths})
    constraints: dict[str, Constraint] = {}
    params = {name: _power_of_two(graph.params[name]) for name in worths}
    for name, c in graph.constraints.items():
        constraints[name] = Constraint(c.bits, None if c.scale is None else _power_of_two(c.scale), c.mask)
        params[name] = constraints[name].project(graph.params[name])
    graph = graph.edit(params=params, constraints=constraints)
    snapped: dict[str, Array] = {}
    for node in graph.nodes:
        own = roles(node, graph.params)
        if node.op == "lif":
            unit, names = _first_step(graph, node.inputs[0]), [own["theta"], own["u0"]]
        elif node.op in WEIGHTED:
            unit, names = step_of(graph, node.name), [own["bias"]] if "bias" in own else []
        else:
            continue
        snapped |= {n: (np.rint(graph.params[n] / unit * 256) / 256 * unit).astype(np.float32) for n in names}
    made = graph.edit(params=snapped)
    verify(made)
    return made


def _power_of_two(values: Array) -> Array:
    return np.asarray(np.exp2(np.rint(np.log2(values))), np.float32)


def counting(graph: Graph) -> Graph:
    """With the spike counts of every layer as further outputs."""
    counts = {n.name: Node(f"{n.name}.counted", "decode", (n.name,)) for n in graph.nodes if n.op == "lif"}
    outputs = {**graph.outputs, **{f"count.{name}": node.name for name, node in counts.items()}}
    return graph.edit([*graph.nodes, *counts.values()], outputs=outputs)


def spikes(graph: Graph, x: Array) -> dict[str, Array]:
    """By layer, [T, N, ...], from the oracle."""
    record: dict[str, Array] = {}
    run(graph, {"x": x}, record)
    return {n.name: record[n.name] for n in graph.nodes if n.op == "lif"}
