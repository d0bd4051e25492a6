"""Backpropagation through time: autograd through every step, for every surrogate and reset."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Graph
from snnc.pipeline import Context
from snnc.sim.neurons import Surrogate, membrane, spike
from snnc.train import BPTT
from tests.train.rules import Made, batch, close, learnt
from tests.train.test_ltl import damaged, share

Lower = Callable[..., Graph]


def unrolled(graph: Graph, data: Data, surrogate: Surrogate, width: float) -> Made:
    """The same by autograd alone, through all steps of the network of conftest, written out."""
    given = batch(graph, data)
    p, steps = given.params, graph.steps
    x = given.x / steps
    state = {
        name: (p[f"{name}.u0"].expand(16, size), torch.zeros(16, size)) for name, size in (("relu1", 16), ("relu2", 12))
    }
    total = torch.zeros(16, 3)

    def fire(name: str, current: torch.Tensor) -> torch.Tensor:
        u, s = state[name]
        u = membrane(u, s, current, p[f"{name}.alpha"], p[f"{name}.theta"], str(graph[name].attrs["reset"]))
        s = spike(u, p[f"{name}.theta"], width, surrogate)
        state[name] = (u, s)
        return s

    for _ in range(steps):
        one = fire("relu1", x @ p["w1"].T + p["b1"])
        two = fire("relu2", one @ p["fc2.weight"].T + p["b2"])
        total = total + two @ p["fc3.weight"].T + p["b3"]
    loss = F.cross_entropy(total, given.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p[name].grad for name in ("w1", "b1", "fc2.weight", "b2", "fc3.weight", "b3")}
    return Made(float(loss.detach()), {name: grad for name, grad in found.items() if grad is not None})


@pytest.mark.parametrize("surrogate", ["boxcar", "triangle", "sigmoid"])
@pytest.mark.parametrize(("alpha", "reset"), [(1.0, "subtract"), (0.9, "subtract-decayed"), (0.9, "zero")])
def test_gradients_are_autograds_through_every_step(
    lowered: Lower, data: Data, surrogate: Surrogate, alpha: float, reset: str
) -> None:
    graph = lowered(f"threshold-layernorm{{steps=8 alpha={alpha} reset={reset}}},bias-per-step")
    close(unrolled(graph, data, surrogate, 1.5), learnt(BPTT(surrogate=surrogate, width=1.5), graph, data))


def test_a_damaged_network_is_repaired(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    mended = BPTT(epochs=8, batch=20, rate=0.02).run(broken, Context(data, broken.teacher))
    assert share(mended, data) > share(broken, data) + 0.1


def test_the_same_seed_gives_the_same_bytes(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    one, other = (BPTT(epochs=1, rate=0.02).run(broken, Context(data, broken.teacher)) for _ in range(2))
    assert all(one.params[name].tobytes() == other.params[name].tobytes() for name in one.params)


def test_impossible_options() -> None:
    with pytest.raises(PipelineError, match="'bptt' cannot work with batch=0, width=nan"):
        BPTT(batch=0, width=float("nan"))


def test_learning_from_random_weights(lowered: Lower, data: Data) -> None:
    graph = lowered()
    fresh = BPTT(epochs=1, batch=200, rate=1e-9, start="random")
    ctx = Context(data, graph.teacher)
    first = fresh.run(graph, ctx)
    assert all(
        not torch.equal(torch.tensor(first.params[n]), torch.tensor(graph.params[n])) for n in ("w1", "fc2.weight")
    )
    assert share(first, data) < 0.6
    assert share(BPTT(epochs=20, batch=20, rate=0.03, start="random").run(graph, ctx), data) > 0.85


def test_labels_need_scores_of_classes(lowered: Lower, data: Data) -> None:
    graph = lowered()
    lone = graph.edit(params={"fc3.weight": graph.params["fc3.weight"][:1], "b3": graph.params["b3"][:1]})
    with pytest.raises(PipelineError, match=r"'bptt' needs one score for each of two or more classes, not \[1\]"):
        BPTT().run(lone, Context(data))
