"""Several steps at once are so many single steps: the same spikes to the bit, the same gradients up to rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from snnc.ir import Graph, roles
from snnc.sim.neurons import Surrogate
from snnc.sim.steps import Stepwise
from snnc.sim.torch import exact, tensors
from tests.graphs import spiking
from tests.saved import most_saved
from tests.sim.test_steps import chain, inputs, pooled


def partly_leaky() -> Graph:
    """Channels that leak beside others that do not."""
    graph = spiking("direct", 6, "subtract", "per-step")
    name, channels = roles(graph["relu1"], graph.params)["alpha"], graph["relu1"].type.shape[0]
    return graph.edit(params={name: np.where(np.arange(channels) % 2, 0.5, 1).astype(np.float32)})


GRAPHS = {
    "direct": lambda: spiking("direct", 6, "subtract", "per-step"),
    "first step": lambda: spiking("first-step", 6, "zero", "first-step"),
    "bias first": lambda: spiking("direct", 6, "subtract-decayed", "first-step"),
    "pooled events": pooled,
    "delayed": lambda: chain(steps=6, skip=2),
    "partly leaky": partly_leaky,
    "leaky, zero": lambda: chain(steps=6, reset="zero"),
}


def learning(graph: Graph, surrogate: Surrogate) -> tuple[Stepwise, dict[str, Tensor]]:
    """A network at t = 0, and its params; weights and biases learn."""
    params = {n: t.requires_grad_(n.endswith(("weight", "bias"))) for n, t in tensors(graph).items()}
    return Stepwise(graph, params, inputs(graph), width=2.0, surrogate=surrogate), params


def read_outs(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "decode"]


def by_steps(graph: Graph, surrogate: Surrogate) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], Stepwise]:
    """Values and read-outs at every step, and the gradients of a loss of what is read out, step by step."""
    run, params = learning(graph, surrogate)
    seen = []
    for t in range(1, graph.steps + 1):
        values = run.step()
        present, running = run.present(), run.running()
        seen.append({n: v.detach().clone() for n, v in values.items()} | {f"{n}!": v for n, v in running.items()})
        sum((run_loss(present[n]) + t * run_loss(running[n]) for n in read_outs(graph)), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    run.finish()
    return seen, {n: p.grad for n, p in params.items() if p.grad is not None}, run


def run_loss(value: Tensor) -> Tensor:
    """Of [N, ...] a number whose gradient differs from element to element."""
    return (value - torch.linspace(-1, 1, value.numel()).reshape(value.shape)).square().sum()


def by_chunks(
    graph: Graph, surrogate: Surrogate, sizes: Sequence[int]
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], Stepwise]:
    """The same, by chunks."""
    run, params = learning(graph, surrogate)
    seen: list[dict[str, Tensor]] = []
    for size in sizes:
        made = run.chunk(size)
        presents, runnings = run.presents(made), run.runnings(made)
        loss = torch.zeros(())
        for i in range(size):
            values = {n: v[i if len(v) > 1 else 0].detach().clone() for n, v in made.values.items()}
            seen.append(values | {f"{n}!": v[i] for n, v in runnings.items()})
            for name in read_outs(graph):
                loss = loss + run_loss(presents[name][i]) + (made.first + 1 + i) * run_loss(runnings[name][i])
        loss.backward()  # type: ignore[no-untyped-call]
    run.finish()
    return seen, {n: p.grad for n, p in params.items() if p.grad is not None}, run


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3), (4, 2), (1,) * 6])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_chunk_is_its_steps(name: str, sizes: tuple[int, ...]) -> None:
    graph = GRAPHS[name]()
    with exact():
        one, wanted, whole = by_steps(graph, "triangle")
        other, found, run = by_chunks(graph, "triangle", sizes)
    spikes = 0.0
    for t, (here, there) in enumerate(zip(one, other, strict=True)):
        for node in graph.nodes:
            if node.op == "lif":
                assert torch.equal(here[node.name], there[node.name]), (node.name, t)
                spikes += float(here[node.name].sum())
        for name in read_outs(graph):
            torch.testing.assert_close(there[f"{name}!"], here[f"{name}!"])
    assert spikes > 10
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()))
    assert sum(float(grad.abs().sum()) for grad in wanted.values()) > 0
    for held, kept in (
        (whole.state.potential, run.state.potential), (whole.state.count, run.state.count),
        (whole.state.most, run.state.most), (whole.state.arrived, run.state.arrived),
    ):  # fmt: skip
        assert held.keys() == kept.keys()
        for name in held:
            torch.testing.assert_close(kept[name], held[name].detach())
    for name in read_outs(graph):
        torch.testing.assert_close(run.state.values[name], whole.state.values[name].detach())


@pytest.mark.parametrize("surrogate", ["boxcar", "triangle", "sigmoid"])
def test_every_surrogate(surrogate: Surrogate) -> None:
    graph = chain(steps=6)
    _, wanted, _ = by_steps(graph, surrogate)
    _, found, _ = by_chunks(graph, surrogate, (4, 2))
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5)


def test_chunks_and_steps_can_follow_on_each_other() -> None:
    graph = chain(steps=6)
    run, _ = learning(graph, "boxcar")
    whole, _ = learning(graph, "boxcar")
    for _ in range(6):
        whole.step(learn=False)
    run.chunk(2)
    run.step()
    run.chunk(2, learn=False)
    run.step(learn=False)
    assert torch.equal(run.state.values["n2"], whole.state.values["n2"])
    torch.testing.assert_close(run.state.values["read"], whole.state.values["read"].detach())


def test_counts_are_kept_or_gone() -> None:
    run, _ = learning(chain(), "boxcar")
    run.chunk(2, counting=False)
    assert not run.state.count


def test_nothing_is_kept_if_nobody_learns() -> None:
    graph = chain()
    run, _ = learning(graph, "boxcar")
    assert most_saved(lambda: run.chunk(4, learn=False)) == 0
    assert all(len(kept) == 1 for kept in run.chunk(0 + 2, learn=False).potential.values())


def test_what_is_kept_grows_with_the_chunk_alone() -> None:
    def kept(steps: int, size: int) -> int:
        graph = chain(steps=steps)

        def learn() -> None:
            run, _ = learning(graph, "triangle")
            for _ in range(steps // size):
                sum((v.sum() for v in run.presents(run.chunk(size)).values()), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
            run.finish()

        return most_saved(learn)

    assert kept(4, 4) == kept(8, 4) == kept(32, 4)
    assert kept(8, 1) < kept(8, 4) < kept(8, 8)
