"""One way to ask any executor for all its spikes; both ways to compute one op, held against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from snnc.ir import Array, Graph
from snnc.sim import reference
from snnc.sim.stepper import Stepper
from snnc.sim.torch import exact, forward, run, tensors, to_tensor
from tests.graphs import Builder

Trace = Callable[[Graph, Mapping[str, Array]], dict[str, Array]]


def neurons(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "lif"]


def by_reference(graph: Graph, x: Mapping[str, Array]) -> dict[str, Array]:
    values: dict[str, Array] = {}
    outputs = reference.run(graph, x, record=values)
    return {**{name: values[name] for name in neurons(graph)}, **outputs}


def by_torch(graph: Graph, x: Mapping[str, Array]) -> dict[str, Array]:
    with torch.inference_mode(), exact():
        values = forward(graph, tensors(graph), {name: to_tensor(array) for name, array in x.items()})
    wanted = {name: name for name in neurons(graph)} | dict(graph.outputs)
    return {name: values[value].numpy() for name, value in wanted.items()}


def by_stepper(graph: Graph, x: Mapping[str, Array]) -> dict[str, Array]:
    with torch.inference_mode(), exact():
        state = Stepper(graph, tensors(graph), {name: to_tensor(array) for name, array in x.items()})
        trains: dict[str, list[Array]] = {name: [] for name in neurons(graph)}
        for _ in range(graph.steps):
            state.step()
            for name, train in trains.items():
                train.append(state.values[name].numpy())
        for name, train in trains.items():
            np.testing.assert_array_equal(state.count[name].numpy(), np.sum(train, axis=0))
        outputs = {user: value.numpy() for user, value in state.outputs().items()}
    return {**{name: np.stack(train) for name, train in trains.items()}, **outputs}


EXECUTORS: Mapping[str, Trace] = {"reference": by_reference, "torch": by_torch, "stepper": by_stepper}


def agree(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Both executors' outputs on two random samples, which must agree; the reference's."""
    rng = np.random.default_rng(seed)
    x = {name: rng.normal(size=(2, *kind.shape)).astype(np.float32) for name, kind in graph.inputs.items()}
    expected = reference.run(graph, x)
    made = run(graph, x)
    for name, array in expected.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-5, atol=1e-5)
    return x | expected


def build(op: str, *shapes: tuple[int, ...], **parts: Any) -> Graph:
    b = Builder({f"x{i}": shape for i, shape in enumerate(shapes)})
    return b.graph(b("y", op, *b.inputs, **parts))
