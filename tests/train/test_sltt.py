"""Spatial learning through time: the exact relations to backpropagation through time, and memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.memory import peak
from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Array, Graph
from snnc.passes import BiasPerStep, ThresholdLayerNorm
from snnc.pipeline import Context, Pipeline
from snnc.train import BPTT, SLTT, TET
from tests.graphs import Builder
from tests.train.rules import Made, batch, close, leaky, learnt
from tests.train.test_ltl import damaged, share
from tests.train.test_per_step import delayed

Lower = Callable[..., Graph]
FOUR = "threshold-layernorm{steps=4},bias-per-step"


class Given(np.random.Generator):
    """Chance that draws what a test wants."""

    def __init__(self, *draw: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.draw = np.array(draw)

    def choice(self, *args: Any, **options: Any) -> Array:
        return self.draw


def by_hand(graph: Graph, data: Data, width: float) -> dict[str, Array]:
    """Eq. 12 and 13 with the triangle (eq. 6), for the network of conftest: no autograd."""
    given = batch(graph, data)
    p = {name: np.asarray(value.detach().numpy(), np.float64) for name, value in given.params.items()}
    x, labels, steps = given.x.numpy() / graph.steps, given.labels.numpy(), graph.steps
    u = {name: np.broadcast_to(p[f"{name}.u0"], (16, size)) for name, size in (("relu1", 16), ("relu2", 12))}
    s = {name: np.zeros_like(value) for name, value in u.items()}
    found = {name: np.zeros_like(p[name]) for name in ("w1", "b1", "fc2.weight", "b2", "fc3.weight", "b3")}
    for _ in range(steps):
        slope, sent = {}, x
        for name, weight, bias in (("relu1", "w1", "b1"), ("relu2", "fc2.weight", "b2")):
            alpha, theta = p[f"{name}.alpha"], p[f"{name}.theta"]
            u[name] = alpha * (u[name] - theta * s[name]) + sent @ p[weight].T + p[bias]
            s[name] = sent = (u[name] >= theta).astype(np.float64)
            gamma = width * theta
            slope[name] = np.maximum(0, gamma - np.abs(u[name] - theta)) / gamma**2
        scores = steps * (s["relu2"] @ p["fc3.weight"].T + p["b3"])
        chances = np.exp(scores - scores.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        error = (chances - np.eye(3)[labels]) / len(labels) / steps * steps
        for name, weight, bias, below in (
            ("", "fc3.weight", "b3", s["relu2"]),
            ("relu2", "fc2.weight", "b2", s["relu1"]),
            ("relu1", "w1", "b1", x),
        ):
            error = error * slope[name] if name else error
            found[weight] += error.T @ below
            found[bias] += error.sum(0)
            error = error @ p[weight]
    return found


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_gradients_are_equations_12_and_13(lowered: Lower, data: Data, alpha: float) -> None:
    graph = leaky(lowered(), alpha)
    made, wanted = learnt(SLTT(width=1.5), graph, data), by_hand(graph, data, 1.5)
    assert made.gradients.keys() == wanted.keys()
    for name, value in wanted.items():
        size = np.abs(value).max()
        np.testing.assert_allclose(made.gradients[name].numpy(), value, rtol=1e-3, atol=1e-4 * size, err_msg=name)


@pytest.mark.parametrize("surrogate", ["boxcar", "triangle", "sigmoid"])
def test_one_step_is_backpropagation_through_time(lowered: Lower, data: Data, surrogate: Any) -> None:
    graph = lowered("threshold-layernorm{steps=1},bias-per-step")
    made = learnt(SLTT(surrogate=surrogate, width=2.0), graph, data)
    close(learnt(BPTT(surrogate=surrogate, width=2.0), graph, data), made)
    close(learnt(TET(surrogate=surrogate, width=2.0), graph, data), made)


def test_without_memory_it_is_the_whole_gradient(lowered: Lower, data: Data) -> None:
    """lambda = 0 cuts leak and reset alike where the reset decays with the potential (eq. 3)."""
    forgetful = leaky(lowered(), 0.0, ease=0.3)
    close(learnt(TET(), forgetful, data), learnt(SLTT(), forgetful, data))


@pytest.mark.parametrize(("alpha", "reset"), [(0.5, "subtract-decayed"), (0.0, "subtract"), (1.0, "subtract")])
def test_with_memory_it_is_not(lowered: Lower, data: Data, alpha: float, reset: str) -> None:
    """A reset that is not multiplied by lambda goes on into the next step."""
    graph = leaky(lowered(), alpha, reset, ease=0.3)
    one, other = learnt(TET(), graph, data).flat(), learnt(SLTT(), graph, data).flat()
    assert float((one - other).norm() / one.norm()) > 0.01


def test_the_steeper_the_leak_the_closer_to_the_whole_gradient(lowered: Lower, data: Data) -> None:
    """Section 4.1, Fig. 3: the cosine of both gradients, a mean over the layers, for tau = 1.1, 2 and 5."""

    def likeness(tau: float) -> float:
        graph = leaky(lowered(), 1 - 1 / tau, ease=0.5)
        one, other = (learnt(rule, graph, data, 100).gradients for rule in (TET(), SLTT()))
        return float(np.mean([float(torch.cosine_similarity(one[n].flatten(), other[n].flatten(), 0)) for n in one]))

    near, middle, far = (likeness(tau) for tau in (1.1, 2.0, 5.0))
    assert near >= 0.9
    assert near > middle > far


def test_all_steps_drawn_are_all_steps_bit_for_bit(lowered: Lower, data: Data) -> None:
    one, other = learnt(SLTT(), lowered(FOUR), data), learnt(SLTT(k=4), lowered(FOUR), data)
    assert one.loss == other.loss
    assert all(torch.equal(one.gradients[name], other.gradients[name]) for name in one.gradients)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_mean_over_all_draws_is_k_of_t_of_the_gradient(lowered: Lower, data: Data, k: int) -> None:
    whole = learnt(SLTT(), lowered(FOUR), data)
    draws = [learnt(SLTT(k=k), lowered(FOUR), data, rng=Given(*draw)) for draw in combinations(range(1, 5), k)]
    mean = {name: sum(m.gradients[name] for m in draws) / len(draws) for name in whole.gradients}
    scaled = Made(whole.loss, {name: value * k / 4 for name, value in whole.gradients.items()})
    close(scaled, Made(draws[0].loss, mean))  # type: ignore[arg-type]
    assert float((draws[0].flat() - draws[1].flat()).abs().max()) > 0


def test_draws_follow_chance_and_only_from_the_steps_that_count(lowered: Lower, data: Data) -> None:
    graph = delayed(lowered(), 5)
    alone = [learnt(SLTT(k=1), graph, data, rng=Given(t)).flat() for t in (6, 7, 8)]
    drawn = [learnt(SLTT(k=1), graph, data, rng=np.random.default_rng(seed)).flat() for seed in range(12)]
    which = [next(i for i, one in enumerate(alone) if torch.equal(one, made)) for made in drawn]
    assert set(which) == {0, 1, 2}
    with pytest.raises(PipelineError, match="'sltt' cannot learn from k=4 of 3 steps"):
        SLTT(k=4).learner(graph, Context(data))
    with pytest.raises(PipelineError, match="'sltt' cannot work with k=-1"):
        SLTT(k=-1)


@pytest.fixture(scope="module")
def bytes_kept(data: Data) -> Callable[[Any, int], int]:
    """The most bytes saved for backward in one update, by rule and T."""
    from tests.train.conftest import teacher

    few = Data(data.train.take(20), data.validation, data.test)

    def kept(rule: Any, steps: int) -> int:
        graph, _ = Pipeline(ThresholdLayerNorm(steps=steps), BiasPerStep())(teacher(), data=data)
        return peak(rule, graph, few)

    return kept


def test_memory_does_not_grow_with_time(bytes_kept: Callable[[Any, int], int]) -> None:
    """What is saved for the way back: that of a chunk for every T with SLTT, for one step as much as BPTT at T = 1."""
    for chunk, k in ((1, 0), (1, 2), (4, 0)):
        assert len({bytes_kept(SLTT(epochs=1, batch=20, k=k, chunk=chunk), t) for t in (4, 8, 32, 128)}) == 1
    through_time = {steps: bytes_kept(BPTT(epochs=1, batch=20), steps) for steps in (1, 2, 8, 32, 128)}
    a_step = through_time[2] - through_time[1]
    assert {(through_time[t] - through_time[2]) / (t - 2) for t in (8, 32, 128)} == {a_step}
    assert 0.95 * through_time[1] < bytes_kept(SLTT(epochs=1, batch=20, chunk=1), 128) <= through_time[1]
    assert bytes_kept(SLTT(epochs=1, batch=20, chunk=8), 128) <= 1.1 * through_time[8]


def test_streams_of_events_are_learned_from(data: Data) -> None:
    """Which of two inputs has more events, x [N, T, 2]."""
    rng = np.random.default_rng(0)
    x = (rng.random((240, 6, 2)) < rng.random((240, 1, 2))).astype(np.float32)
    labels = x.sum(1).argmax(1).astype(np.int64)
    b = Builder({"x": (2,)}, 6)
    b("current", "encode", "x", code="events")
    b("fc1", "dense", "current", weight=rng.normal(size=(16, 2)) / 2)
    b("relu1", "lif", "fc1", u0=0.5)
    b("fc2", "dense", "relu1", weight=rng.normal(size=(2, 16)) / 8)
    graph = b.graph(b("scores", "decode", "fc2"))
    events = Data(Split(x[:160], labels[:160]), Split(x[160:], labels[160:]), Split(x[:0], labels[:0]))
    trained = SLTT(epochs=6, batch=16, rate=0.05).run(graph, Context(events))
    assert share(graph, events) < 0.7
    assert share(trained, events) > 0.85


def test_a_damaged_network_is_repaired(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    for rule in (SLTT(epochs=8, batch=20, rate=0.02), SLTT(epochs=8, batch=20, rate=0.02, k=2)):
        mended = rule.run(broken, Context(data, broken.teacher))
        assert share(mended, data) > share(broken, data) + 0.1


def test_the_same_seed_gives_the_same_bytes(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    rule = SLTT(epochs=1, rate=0.02, k=2)
    one, two, other = (rule.run(broken, Context(data, broken.teacher, seed)).params for seed in (0, 0, 1))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)
