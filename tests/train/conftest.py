"""A tiny teacher, its spiking twin, and samples that it labels itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from snnc.data import Data, Split
from snnc.ir import Graph, Node, TensorType
from snnc.pipeline import Pipeline
from snnc.sim.reference import run


def teacher() -> Graph:
    """8 inputs, 16 and 12 relus, three classes about equally frequent, softmax."""
    rng = np.random.default_rng(5)
    shapes = {"w1": (16, 8), "b1": (16,), "w2": (12, 16), "b2": (12,), "w3": (3, 12), "b3": (3,)}
    params = {
        n: (rng.normal(size=s) / np.sqrt(s[-1] if len(s) > 1 else 20)).astype(np.float32) for n, s in shapes.items()
    }
    nodes = [
        Node("fc1", "dense", ("x", "w1", "b1"), origin=("/fc1/Gemm",)),
        Node("relu1", "relu", ("fc1",)),
        Node("fc2", "dense", ("relu1", "w2", "b2"), origin=("/fc2/Gemm",)),
        Node("relu2", "relu", ("fc2",)),
        Node("fc3", "dense", ("relu2", "w3", "b3"), origin=("/fc3/Gemm",)),
    ]
    graph = Graph({"x": TensorType("analog", (8,))}, (), {}, {}).edit(nodes, params=params, outputs={"y": "fc3"})
    x = np.random.default_rng(9).random((500, 8), np.float32)
    balanced = params["b3"] - run(graph, {"x": x})["y"].mean(axis=0).astype(np.float32)
    end = Node("probabilities", "softmax", ("fc3",), {"axis": 0})
    return graph.edit([*graph.nodes, end], params={"b3": balanced}, outputs={"y": "probabilities"})


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """For networks this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data() -> Data:
    """300 samples, labelled by the teacher."""
    return labelled()


def labelled() -> Data:
    """What `data` gives."""
    x = np.random.default_rng(6).random((300, 8), np.float32)
    scores = run(teacher(), {"x": x})["y"]
    labels = scores.argmax(axis=1).astype(np.int64)
    return Data(Split(x[:200], labels[:200]), Split(x[200:260], labels[200:260]), Split(x[260:], labels[260:]))


@pytest.fixture(scope="session")
def lowered(data: Data) -> Callable[[str], Graph]:
    """The spiking twin behind a pipeline text, made once each."""
    made: dict[str, Graph] = {}

    def lower(text: str = "threshold-layernorm{steps=8},bias-per-step") -> Graph:
        if text not in made:
            made[text] = Pipeline.parse(text)(teacher(), data=data)[0]
        return made[text]

    return lower
