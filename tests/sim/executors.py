"""One way to ask any executor for all its spikes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from snnc.ir import Array, Graph
from snnc.sim import reference
from snnc.sim.stepper import Stepper
from snnc.sim.torch import exact, forward, tensors, to_tensor

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
