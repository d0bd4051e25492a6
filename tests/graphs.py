"""Small graphs for tests: a builder, a few named networks, and random ones for hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from snnc.data import Data, Split
from snnc.ir import OPS, Array, Attr, Graph, Node, Shape, Stage, TensorType, verify

WINDOW: Mapping[str, Attr] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
DEFAULTS: Mapping[str, Mapping[str, Attr]] = {
    "conv": {**WINDOW, "group": 1},
    "local": {**WINDOW, "group": 1},
    "avgpool": {**WINDOW, "strides": (2, 2), "kernel": (2, 2), "count_include_pad": 0},
    "maxpool": {**WINDOW, "strides": (2, 2), "kernel": (2, 2)},
    "batchnorm": {"epsilon": 1e-5},
    "lif": {"reset": "subtract"},
    "encode": {"code": "direct"},
    "softmax": {"axis": 0},
    "logsoftmax": {"axis": 0},
    "concat": {"axis": 0},
}
NEURON: Mapping[str, float] = {"alpha": 1.0, "theta": 1.0, "u0": 0.0}


@dataclass
class Builder:
    """A graph line by line: `b("conv1", "conv", "x", weight=w, strides=(2, 2))` gives back the name.

    Params are told from attributes by the op table; both have defaults.
    """

    inputs: Mapping[str, Shape]
    steps: int = 0
    nodes: list[Node] = field(default_factory=list)
    params: dict[str, Array] = field(default_factory=dict)

    def __call__(self, name: str, op: str, *values: str, **parts: Any) -> str:
        parts = {**(NEURON if op == "lif" else {}), **DEFAULTS.get(op, {}), **parts}
        own = {f"{name}.{role}": parts.pop(role) for role in (*OPS[op].params, OPS[op].optional) if role in parts}
        self.params |= {param: np.asarray(value, np.float32) for param, value in own.items()}
        self.nodes.append(Node(name, op, (*values, *own), parts))
        return name

    def graph(self, *outputs: str, stage: Stage | None = None) -> Graph:
        """What was built, verified; its outputs under the names of their values."""
        types = {name: TensorType("analog", shape) for name, shape in self.inputs.items()}
        stage = stage or (Stage.SPIKING if self.steps else Stage.ANALOG)
        ends = {f"out_{name}": name for name in outputs}
        graph = Graph(types, (), {}, {}, stage, self.steps).edit(self.nodes, params=self.params, outputs=ends)
        verify(graph)
        return graph


def statistics(rng: np.random.Generator, channels: int) -> dict[str, Array]:
    """Batch norm params; gamma of both signs."""
    return {
        "gamma": rng.uniform(0.5, 1.5, channels) * rng.choice([-1, 1], channels),
        "beta": rng.normal(size=channels),
        "mean": rng.normal(size=channels),
        "var": rng.uniform(0.3, 2, channels),
    }


def samples(graph: Graph, count: int, seed: int = 0) -> dict[str, Array]:
    """Random inputs [count, ...] by input name."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, *kind.shape)).astype(np.float32) for name, kind in graph.inputs.items()}


def data_for(graph: Graph, count: int = 40, seed: int = 0, x: Array | None = None) -> Data:
    """A data set of random samples (or of `x`) and labels that fits `graph`, all three parts alike."""
    made = samples(graph, count, seed)[next(iter(graph.inputs))] if x is None else x
    classes = graph.type(next(iter(graph.outputs.values()))).shape[0]
    split = Split(made, np.arange(len(made)) % classes)
    return Data(split, split, split)


def lenet(seed: int = 0, size: int = 8) -> Graph:
    """conv, batch norm, relu, pool, dense, relu, dense."""
    rng = np.random.default_rng(seed)
    b = Builder({"image": (1, size, size)})
    b("conv1", "conv", "image", weight=rng.normal(size=(3, 1, 3, 3)) / 3, bias=rng.normal(size=3), pads=(1, 1, 1, 1))
    b("bn1", "batchnorm", "conv1", **statistics(rng, 3))
    b("relu1", "relu", "bn1")
    b("pool1", "avgpool", "relu1")
    flat = 3 * (size // 2) ** 2
    b("flat", "reshape", "pool1", shape=(flat,))
    b("dense1", "dense", "flat", weight=rng.normal(size=(6, flat)) / flat**0.5, bias=rng.normal(size=6) / 4)
    b("relu2", "relu", "dense1")
    b("dense2", "dense", "relu2", weight=rng.normal(size=(4, 6)) / 6**0.5, bias=rng.normal(size=4) / 4)
    return b.graph("dense2")


def residual(seed: int = 0) -> Graph:
    """Two branches of unequal scale that meet in an add, and go on through a relu to the read-out."""
    rng = np.random.default_rng(seed)
    b = Builder({"image": (2, 4, 4)})
    b("conv1", "conv", "image", weight=rng.normal(size=(3, 2, 1, 1)))
    b("relu1", "relu", "conv1")
    b("conv2", "conv", "relu1", weight=rng.normal(size=(3, 3, 3, 3)), bias=rng.normal(size=3), pads=(1, 1, 1, 1))
    b("relu2", "relu", "conv2")
    b("sum", "add", "relu1", "relu2")
    b("relu3", "relu", "sum")
    b("flat", "reshape", "relu3", shape=(48,))
    b("dense1", "dense", "flat", weight=rng.normal(size=(4, 48)) / 7)
    return b.graph("dense1")


def mlp(seed: int = 0, features: int = 12, hidden: int = 8, classes: int = 3) -> Graph:
    """dense, relu, dense."""
    rng = np.random.default_rng(seed)
    b = Builder({"x": (features,)})
    b("dense1", "dense", "x", weight=rng.normal(size=(hidden, features)) / 3, bias=rng.normal(size=hidden) / 3)
    b("relu1", "relu", "dense1")
    b("dense2", "dense", "relu1", weight=rng.normal(size=(classes, hidden)) / 3, bias=rng.normal(size=classes) / 3)
    return b.graph("dense2")


def spiking(code: str = "direct", steps: int = 4, reset: str = "subtract", bias_at: str = "per-step") -> Graph:
    """An integer network: conv, neurons, 2x2 pool, conv with a residual add, neurons, dense read-out."""
    rng = np.random.default_rng(1)
    b = Builder({"image": (2, 6, 6)}, steps)
    b("current", "encode", "image", code=code)
    weight = rng.integers(-2, 4, (3, 2, 3, 3))
    b("conv1", "conv", "current", weight=weight, bias=rng.integers(-2, 3, 3), pads=(1, 1, 1, 1), bias_at=bias_at)
    b("relu1", "lif", "conv1", theta=4, u0=2, reset=reset)
    b("pool1", "avgpool", "relu1")
    b("conv2", "conv", "pool1", weight=4 * rng.integers(-1, 3, (3, 3, 3, 3)), pads=(1, 1, 1, 1))
    b("skip", "scale", "pool1", factor=4)
    b("sum", "add", "conv2", "skip")
    b("relu2", "lif", "sum", theta=[24, 32, 48], u0=[0, 8, 3], reset=reset)
    b("flat", "reshape", "relu2", shape=(27,))
    b("dense1", "dense", "flat", weight=rng.integers(-3, 4, (4, 27)), bias=rng.integers(-2, 3, 4), bias_at=bias_at)
    b("scores", "decode", "dense1")
    return b.graph("scores")


@st.composite
def analog_graphs(draw: st.DrawFn) -> Graph:
    """Random chains and residual blocks of conv, batch norm, relu, pool, concat, scale, with a dense head."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    channels = draw(st.sampled_from([2, 4]))
    b = Builder({"x": (channels, 6, 6)})
    at, shape = "x", (channels, 6, 6)
    ops = ["conv", "batchnorm", "relu", "relu6", "avgpool", "residual", "concat", "scale"]
    for i, op in enumerate(draw(st.lists(st.sampled_from(ops), min_size=1, max_size=7))):
        at, shape = _grow(b, rng, f"{op}{i}", op, at, shape, draw(st.integers(0, 3)))
    features = int(np.prod(shape))
    b("flat", "reshape", at, shape=(features,))
    at = b("bn_head", "batchnorm", "flat", **statistics(rng, features)) if draw(st.booleans()) else "flat"
    b("head", "dense", at, weight=rng.normal(size=(3, features)) / features**0.5, bias=rng.normal(size=3))
    return b.graph("head")


def _grow(
    b: Builder, rng: np.random.Generator, name: str, op: str, at: str, shape: tuple[int, int, int], variant: int
) -> tuple[str, tuple[int, int, int]]:
    channels, high, wide = shape
    if op == "conv":
        group, pad = (2 if variant & 1 else 1), variant >> 1
        size = 3 if high + 2 * pad >= 3 else 1
        weight = rng.normal(size=(4, channels // group, size, size)) / (channels * size**2) ** 0.5
        b(
            name,
            "conv",
            at,
            weight=weight,
            group=group,
            pads=(pad,) * 4,
            **({"bias": rng.normal(size=4)} if pad else {}),
        )
        at, shape = name, (4, high + 2 * pad - size + 1, wide + 2 * pad - size + 1)
    elif op == "batchnorm":
        at = b(name, op, at, **statistics(rng, channels))
    elif op in ("relu", "relu6"):
        at = b(name, "relu", at, **({"max": 1.5} if op == "relu6" else {}))
    elif op == "avgpool" and high >= 2:
        at, shape = b(name, op, at), (channels, high // 2, wide // 2)
    elif op == "residual":
        b(f"{name}.conv", "conv", at, weight=rng.normal(size=(channels, channels, 1, 1)) / channels)
        at = b(f"{name}.add", "add", at, f"{name}.conv")
    elif op == "concat" and channels < 8:
        b(f"{name}.relu", "relu", at)
        at, shape = b(name, op, at, f"{name}.relu"), (2 * channels, high, wide)
    elif op == "scale":
        factor = [rng.normal(), rng.normal(size=channels), rng.normal(size=shape)][variant % 3]
        at = b(name, op, at, factor=factor)
    return at, shape


@st.composite
def spiking_graphs(draw: st.DrawFn) -> Graph:
    """Random networks of integer weights whose every sum is exact in float32."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps = draw(st.sampled_from([1, 2, 4, 8]))
    b = Builder({"x": (2, 4, 4)}, steps)
    at = b("current", "encode", "x", code=draw(st.sampled_from(["direct", "first-step"])))
    channels, size = 2, 4
    for i in range(draw(st.integers(1, 3))):
        group, stride = draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
        bias = draw(st.sampled_from([None, "per-step", "first-step"]))
        timed = {} if bias is None else {"bias": rng.integers(-2, 3, 4), "bias_at": bias}
        weight = rng.integers(-2, 4, (4, channels // group, 3, 3))
        window = {"pads": (1, 0, 1, 2) if stride == 1 else (0, 1, 2, 1), "strides": (stride, stride), "group": group}
        source, before, skip = at, (channels, size), draw(st.booleans())
        at = b(f"conv{i}", "conv", at, weight=weight, **window, **timed)
        channels, size = 4, -(-size // stride)
        if skip and before == (channels, size):
            b(
                f"skip{i}",
                "scale",
                source,
                factor=rng.integers(-2, 3, draw(st.sampled_from([(), (4,), (4, size, size)]))),
            )
            at = b(f"sum{i}", "add", at, f"skip{i}")
        per = draw(st.sampled_from([(), (4,), (4, size, size)]))
        at = b(
            f"lif{i}",
            "lif",
            at,
            alpha=draw(st.sampled_from([1.0, 0.5])),
            theta=rng.integers(2, 8, per),
            u0=rng.integers(0, 2, per),
            reset=draw(st.sampled_from(["subtract", "subtract-decayed", "zero"])),
        )
        if size % 2 == 0 and draw(st.booleans()):
            at, size = b(f"pool{i}", "avgpool", at), size // 2
    b("flat", "reshape", at, shape=(channels * size**2,))
    b("head", "dense", "flat", weight=rng.integers(-3, 4, (3, channels * size**2)))
    b("scores", "decode", "head")
    return b.graph("scores")


def integers(graph: Graph, count: int, seed: int = 0) -> dict[str, Array]:
    """Random integer inputs [count, ...] by input name."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-8, 9, (count, *kind.shape)).astype(np.float32) for name, kind in graph.inputs.items()}
