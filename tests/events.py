"""Small recordings of events in four classes, and a network that was trained on their totals."""

from __future__ import annotations

import numpy as np
import torch

from snnc.data import Data, Split
from snnc.ir import Graph
from tests.graphs import Builder

STEPS = 8


def recordings(count: int, seed: int = 0) -> Split:
    """Two channels of 6x6, four classes: where a blob of events sits, drifting over the steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    rate = np.full((count, STEPS, 2, 6, 6), 0.02)
    for i, label in enumerate(labels):
        row, column = 3 * (label // 2), 3 * (label % 2)
        for t in range(STEPS):
            rate[i, t, t % 2, row : row + 3, column + t * 2 // STEPS : column + t * 2 // STEPS + 2] = 0.25
    return Split(rng.poisson(rate).astype(np.uint8), labels)


def data() -> Data:
    return Data(recordings(160), recordings(40, 1), recordings(80, 2))


def trained(split: Split) -> Graph:
    """A small CNN, trained on the totals for a second."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.ReLU(),
        torch.nn.Linear(16, 4),
    )  # fmt: skip
    x, labels = torch.tensor(split.x().sum(1)), torch.tensor(split.labels)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    own = {name: param.detach().numpy() for name, param in net.named_parameters()}
    b = Builder({"image": (2, 6, 6)})
    b("relu1", "relu", b("conv1", "conv", "image", weight=own["0.weight"], bias=own["0.bias"]))
    b("flat", "reshape", "relu1", shape=(64,))
    b("relu2", "relu", b("dense1", "dense", "flat", weight=own["3.weight"], bias=own["3.bias"]))
    return b.graph(b("dense2", "dense", "relu2", weight=own["5.weight"], bias=own["5.bias"]))
