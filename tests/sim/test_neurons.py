"""Neurons against closed forms and sums done by hand, in every executor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from snnc.ir import Array, Graph
from snnc.sim.neurons import SURROGATES, Surrogate, boxcar, charge, fires, gate, leak, membrane, spike
from snnc.sim.window import fire, spike_counts
from tests.graphs import Builder
from tests.saved import most_saved
from tests.sim.executors import EXECUTORS, Trace


@pytest.fixture(params=EXECUTORS)
def trace(request: pytest.FixtureRequest) -> Trace:
    return EXECUTORS[request.param]


def one_layer(steps: int, code: str = "first-step", **neuron: Any) -> Graph:
    b = Builder({"x": (1,)}, steps)
    b("current", "encode", "x", code=code)
    b("lif", "lif", "current", **neuron)
    return b.graph(b("count", "decode", "lif"))


def column(values: Any) -> dict[str, Array]:
    return {"x": np.asarray(values, np.float32)[:, None]}


@pytest.mark.parametrize("u0", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("theta", [1.0, 0.75])
def test_first_step_charge_is_counted_out(trace: Trace, theta: float, u0: float) -> None:
    """count = clip(floor((V + u0) / theta), 0, T), the whole charge V given at the first step."""
    steps, charge = 5, np.arange(-3, 8, 0.125)
    count = trace(one_layer(steps, theta=theta, u0=u0), column(charge))["out_count"][:, 0]
    np.testing.assert_array_equal(count, np.clip(np.floor((charge + u0) / theta), 0, steps))
    assert count.min() == 0
    assert count.max() == steps


def test_direct_coding_fires_at_the_rate_of_its_current(trace: Trace) -> None:
    """A constant current x/T with reset by subtraction gives floor((x + u0) / theta) spikes, at most T."""
    steps, x = 8, np.arange(0, 40, 0.5)
    count = trace(one_layer(steps, "direct", theta=2.0, u0=1.0), column(x))["out_count"][:, 0]
    np.testing.assert_array_equal(count, np.minimum(np.floor((x + 1) / 2), steps))


def test_negative_potential_is_remembered(trace: Trace) -> None:
    """No rectification of the membrane: -3 then +1 a step fires once at the fourth of five steps of size 1."""
    b = Builder({"x": (1,)}, 5)
    b("current", "encode", "x", code="first-step")
    b("drive", "scale", "current", factor=-3, bias=[1], bias_at="per-step")
    b("lif", "lif", "drive")
    train = trace(b.graph(b("count", "decode", "lif")), column([1]))["lif"][:, 0, 0]
    assert train.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("reset", "train"),
    [
        # theta 4, alpha 1/2, I = 5 a step, u0 = 2: U[1] = 1 + 5 = 6 fires
        # U[2] = 3 + 5 - 4 = 4 fires (on the threshold), U[3] = 2 + 5 - 4 = 3, U[4] = 1.5 + 5 = 6.5 fires
        ("subtract", [1, 1, 0, 1]),
        # U[2] = (6 - 4)/2 + 5 = 6 fires, and so on: U = 6 at every step
        ("subtract-decayed", [1, 1, 1, 1]),
        # U[2] = 0 + 5 = 5 fires, and so on
        ("zero", [1, 1, 1, 1]),
    ],
)
def test_leaky_neurons_by_hand(trace: Trace, reset: str, train: list[int]) -> None:
    made = trace(one_layer(4, "direct", alpha=0.5, theta=4, u0=2, reset=reset), column([20]))["lif"][:, 0, 0]
    assert made.tolist() == train


@pytest.mark.parametrize(
    ("reset", "potentials"),
    [
        # theta 2, alpha 1/2, I = 3, 1, 2: U[1] = 3 fires in all
        ("subtract", [3, 0.5, 2.25]),  # 1.5 + 1 - 2;      0.25 + 2
        ("subtract-decayed", [3, 1.5, 2.75]),  # (3 - 2)/2 + 1;    0.75 + 2
        ("zero", [3, 1, 2.5]),  # 0 + 1;            0.5 + 2
    ],
)
def test_three_membrane_steps_by_hand(reset: str, potentials: list[float]) -> None:
    u, s = np.zeros(1), np.zeros(1)
    for current, expected in zip([3.0, 1.0, 2.0], potentials, strict=True):
        u = membrane(u, s, np.array([current]), np.array(0.5), np.array(2.0), reset)
        s = (u >= 2).astype(float)
        assert u.tolist() == [expected]


def test_leak_without_spikes_is_a_geometric_sum(trace: Trace) -> None:
    """U[T] = I (1 - alpha^T) / (1 - alpha) below threshold: fires at the first T where that reaches theta."""
    alpha, current, theta = 0.9, 1.0, 6.0
    first = next(t for t in range(1, 100) if current * (1 - alpha**t) / (1 - alpha) >= theta)
    train = trace(one_layer(20, "direct", alpha=alpha, theta=theta), column([20 * current]))["lif"][:, 0, 0]
    assert int(train.argmax()) + 1 == first


def test_params_per_channel_and_per_neuron(trace: Trace) -> None:
    b = Builder({"x": (2, 1, 2)}, 4)
    b("current", "encode", "x", code="first-step")
    b("lif", "lif", "current", theta=[1, 2], u0=[[[0, 1]], [[1, 0]]], alpha=[1, 1])
    count = trace(b.graph(b("count", "decode", "lif")), {"x": np.full((1, 2, 1, 2), 3, np.float32)})["out_count"]
    assert count[0].tolist() == [[[3, 4]], [[2, 1]]]


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("theta", [1.0, 3.0])
def test_boxcar_is_the_surrogate_of_the_spike(theta: float, width: float) -> None:
    """LTL eq. 8: 1/p inside |U - theta| < p/2, 0 from the edge on."""
    p = width * theta
    u = torch.tensor([-p, -p / 2, -p / 4, 0.0, p / 4, p / 2, p]) + theta
    u.requires_grad_()
    made = spike(u, torch.tensor(theta), width)
    assert made.tolist() == [0, 0, 0, 1, 1, 1, 1]
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert u.grad is not None
    np.testing.assert_allclose(u.grad, np.array([0, 0, 1, 1, 1, 0, 0]) / p)
    grid = torch.linspace(theta - 2 * p, theta + 2 * p, 100001)
    area = torch.trapezoid(boxcar(grid, torch.tensor(theta), width), grid)
    assert float(area) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("surrogate", "shares"),
    [
        ("boxcar", [0, 0, 0, 1, 1, 1, 0, 0, 0]),
        ("triangle", [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]),
        ("sigmoid", [4 / (np.exp(x / 2) + np.exp(-x / 2)) ** 2 for x in np.linspace(-4, 4, 9)]),
    ],
)
def test_surrogates_by_their_closed_forms(surrogate: Surrogate, shares: list[float], width: float) -> None:
    """SLTT eq. 5 and 6, OTTT's sigmoid: height 1/p at the threshold, area 1, p = width * theta."""
    theta = 3.0
    p = width * theta
    u = (theta + p * torch.linspace(-1, 1, 9)).requires_grad_()
    spike(u, torch.tensor(theta), width, surrogate).sum().backward()  # type: ignore[no-untyped-call]
    assert u.grad is not None
    np.testing.assert_allclose(u.grad, np.array(shares) / p, atol=1e-6)
    grid = torch.linspace(theta - 5 * p, theta + 5 * p, 100001)
    area = torch.trapezoid(SURROGATES[surrogate](grid, torch.tensor(theta), width), grid)
    assert float(area) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("surrogate", ["boxcar", "triangle", "sigmoid"])
@pytest.mark.parametrize("reset", ["subtract", "subtract-decayed", "zero"])
@pytest.mark.parametrize("still", [True, False])
def test_the_window_goes_back_as_autograd_does(surrogate: Surrogate, reset: str, still: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    current = torch.rand(1 if still else 6, 20, 4, generator=rng)
    wanted = torch.randn(6, 20, 4, generator=rng)
    found = []
    for traced in (False, True):
        alpha, theta, u0 = torch.tensor(0.8), torch.tensor(0.7), torch.tensor(0.1, requires_grad=traced)
        given = current.clone().requires_grad_()
        (fire(given, alpha, theta, u0, 6, reset, 1.5, surrogate) * wanted).sum().backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None
        found.append(given.grad)
    assert float(found[0].abs().sum()) > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (3, 1), (3, 5)], ids=["layer", "channel", "neuron"])
@pytest.mark.parametrize("reset", ["subtract", "subtract-decayed", "zero"])
@pytest.mark.parametrize("leaky", [True, False])
def test_the_fast_step_is_the_formula_to_the_bit(reset: str, shape: tuple[int, ...], leaky: bool) -> None:
    """On numbers that are rounded, with the last potential written over."""
    rng = torch.Generator().manual_seed(3)
    u, s = torch.zeros(4, 3, 5), torch.zeros(4, 3, 5)
    alpha, theta = (0.1 + torch.rand(shape, generator=rng) for _ in range(2))
    if not leaky:
        alpha = torch.ones(shape)
    assert (leak(alpha) is None) == (not leaky)
    held, fired = u.clone(), 0.0
    for _ in range(20):
        current = torch.randn(4, 3, 5, generator=rng)
        u = membrane(u, s, current, alpha, theta, reset)
        assert charge(held, s, current, leak(alpha), theta, reset, out=held) is held
        assert torch.equal(held, u)
        s = (u >= theta).float()
        assert torch.equal(fires(u, theta), s)
        fired += float(s.sum())
    assert 0 < fired < 20 * s.numel()


def test_the_gate_is_open_where_the_boxcar_is() -> None:
    u = torch.linspace(-1, 3, 401)
    opened = gate(u, torch.tensor(1.0), 1.0)
    assert torch.equal(opened, ((u > 0.5) & (u < 1.5)).float())
    torch.testing.assert_close(boxcar(u, torch.tensor(2.0), 0.5), ((u > 1.5) & (u < 2.5)).float())
    assert torch.equal(u, torch.linspace(-1, 3, 401))


@pytest.mark.parametrize(("reset", "surrogate", "size"), [
    ("subtract", "boxcar", 1), ("subtract-decayed", "triangle", 4), ("zero", "boxcar", 8), ("zero", "sigmoid", 8),
])  # fmt: skip
def test_what_a_window_keeps(reset: str, surrogate: Surrogate, size: int) -> None:
    """Bytes per neuron and step: the boxcar's gate, or U, and the spikes where the reset multiplies by U."""
    current = torch.rand(6, 50, requires_grad=True)
    one = torch.ones(())
    kept = most_saved(lambda: fire(current, one, one, one / 2, 6, reset, 1.0, surrogate).sum().backward())  # type: ignore[no-untyped-call]
    assert 300 * size <= kept < 300 * size + 100


@pytest.mark.parametrize("reset", ["subtract", "subtract-decayed", "zero"])
@pytest.mark.parametrize(("alpha", "long", "block"), [(1.0, 6, 2**16), (0.9, 6, 30), (0.9, 1, 30), (1.0, 1, 1)])
def test_counts_are_the_spikes_of_the_window(
    reset: str, alpha: float, long: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the spike, however many samples go at once; a bias is a current of every step."""
    monkeypatch.setattr("snnc.sim.window.BLOCK", block)
    chance = torch.Generator().manual_seed(5)
    current = torch.rand(long, 7, 3, 4, generator=chance) * 2 - 0.5
    theta, bias = (torch.rand(3, 1, generator=chance) + 0.3 for _ in range(2))
    leak, u0 = torch.tensor(alpha), torch.rand(3, 4, generator=chance)
    for more in (None, bias):
        given = current if more is None else current + more
        wanted = fire(given, leak, theta, u0, 6, reset, 1.0).sum(0)
        assert torch.equal(spike_counts(current, leak, theta, u0, 6, reset, more), wanted)
        assert len(wanted.unique()) > 3
    assert torch.equal(current, torch.rand(long, 7, 3, 4, generator=torch.Generator().manual_seed(5)) * 2 - 0.5)
