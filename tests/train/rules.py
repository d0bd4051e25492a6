"""What tests of learning rules share: one batch, and the gradients that a rule makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from snnc.data import Data
from snnc.ir import Graph
from snnc.pipeline import Context
from snnc.sim.torch import tensors
from snnc.train import Batch, Learner
from snnc.train.units import weights_of


class Learns(Protocol):
    def learner(self, graph: Graph, ctx: Context) -> Learner: ...


@dataclass(frozen=True)
class Made:
    """The loss of a batch, and the gradients by param."""

    loss: float
    gradients: dict[str, torch.Tensor]

    def flat(self) -> torch.Tensor:
        return torch.cat([self.gradients[name].flatten() for name in sorted(self.gradients)])


def batch(graph: Graph, data: Data, size: int = 16, rng: np.random.Generator | None = None) -> Batch:
    """The first training samples; the params that learn require gradients."""
    units = weights_of(graph)
    params = {name: value.requires_grad_(name in units) for name, value in tensors(graph).items()}
    x, labels = torch.tensor(data.train.raw[:size]), torch.tensor(data.train.labels[:size])
    return Batch(params, x, labels, np.random.default_rng(0) if rng is None else rng)


def learnt(rule: Learns, graph: Graph, data: Data, size: int = 16, rng: np.random.Generator | None = None) -> Made:
    """What `rule` makes of the first training samples; every param that should learn is moved."""
    given = batch(graph, data, size, rng)
    loss = rule.learner(graph, Context(data, graph.teacher))(given)
    assert not loss.requires_grad
    found = {name: given.params[name].grad for name in weights_of(graph)}
    assert all(value is not None and float(value.abs().sum()) > 0 for value in found.values()), "a test of zeros"
    return Made(float(loss), {name: value for name, value in found.items() if value is not None})


def close(one: Made, other: Made, rtol: float = 1e-4) -> None:
    """The same gradients and loss, up to rounding in float32."""
    assert one.gradients.keys() == other.gradients.keys()
    assert abs(one.loss - other.loss) <= rtol * abs(one.loss)
    for name, value in one.gradients.items():
        size = float(value.abs().max())
        torch.testing.assert_close(
            other.gradients[name], value, rtol=rtol, atol=rtol * size, msg=lambda m, n=name: f"{n}: {m}"
        )


def leaky(graph: Graph, alpha: float, reset: str = "subtract-decayed", ease: float = 1.0) -> Graph:
    """All neurons leak and are reset so; thresholds are `ease` times what they were, so that spikes still come."""
    nodes = [replace(n, attrs={**n.attrs, "reset": reset}) if n.op == "lif" else n for n in graph.nodes]
    params = {}
    for name, array in graph.params.items():
        if name.endswith(".alpha"):
            params[name] = np.full_like(array, alpha)
        if name.endswith(".theta"):
            params[name] = array * np.float32(ease)
    return graph.edit(nodes, params=params)
