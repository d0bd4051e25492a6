"""Partial sums: exact where thresholds divide, within the stated bound elsewhere; every form of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Array, Graph, verify
from snnc.sim.cost import fan_in
from snnc.sim.partial_sums import Cut, cut, split, thresholds
from snnc.sim.reference import run
from tests.graphs import Builder

STEPS = 8
FORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "dense": ((10,), (3, 10), {}),
    "few parts": ((4,), (3, 4), {}),
    "conv": ((5, 4, 4), (3, 5, 1, 2), {"pads": (0, 1, 0, 0), "strides": (2, 1)}),
    "grouped": ((6, 3, 3), (4, 3, 1, 2), {"group": 2}),
    "taps": ((2, 4, 4), (3, 2, 3, 3), {"pads": (1, 1, 1, 1)}),
    "grouped taps": ((4, 4, 4), (2, 2, 3, 2), {"group": 2, "dilations": (1, 2)}),
}


def network(form: str, weight: Array, code: str = "direct") -> Graph:
    """One layer of neurons; under direct encoding it is charged evenly."""
    shape, _, attrs = FORMS[form]
    b = Builder({"x": shape}, STEPS)
    op = "dense" if len(shape) == 1 else "conv"
    b("layer", op, b("current", "encode", "x", code=code), weight=weight, **attrs)
    b("lif", "lif", "layer", theta=3.0)
    return b.graph(b("count", "decode", "lif"))


def recorded(graph: Graph, x: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}
    run(graph, {"x": x.astype(np.float32)}, record=found)
    return found


def charge(values: dict[str, Array], node: str) -> Array:
    """What arrives over all steps, [N, ...]; a value that never changes is recorded once or at every step."""
    value = values[node]
    return np.asarray(value[0] * STEPS if len(value) == 1 else value.sum(axis=0))


def even(divided: Cut, theta: float) -> Array:
    return np.full((divided.group, divided.parts, divided.taps, len(divided.weight) // divided.group), theta)


@pytest.mark.parametrize("form", FORMS)
def test_where_thresholds_divide_the_sum_is_exact(form: str) -> None:
    """Weights of -1, 0, 1 and inputs of 0, 1 a step: 4 inputs bring at most theta = 4 a step, in all 8 times that."""
    rng = np.random.default_rng(0)
    graph = network(form, rng.integers(-1, 2, FORMS[form][1]))
    divided = cut(graph, graph["layer"], 4)
    new = split(graph, {"layer": divided}, {"layer": even(divided, 4.0)})
    verify(new)
    x = STEPS * rng.integers(0, 2, (20, *FORMS[form][0]))
    before, after = recorded(graph, x), recorded(new, x)
    np.testing.assert_array_equal(charge(after, "layer"), charge(before, "layer"))
    assert np.ptp(charge(before, "layer")) > 0
    assert fan_in(new)["layer.partial"] <= 4
    assert fan_in(new)["lif"] == 2 * divided.sums
    assert new["layer.partial"].type.shape[0] == divided.neurons


@given(st.integers(0, 10_000), st.sampled_from(list(FORMS)))
def test_elsewhere_the_error_is_within_its_bound(seed: int, form: str) -> None:
    """|sum - y| <= sum_g theta_g + |e_g|; and what ON neurons count is the largest charge so far."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=FORMS[form][1])
    shape = FORMS[form][0]
    b = Builder({"x": shape}, STEPS)
    b("spikes", "lif", b("current", "encode", "x"), theta=1.0, u0=0.5)
    op = "dense" if len(shape) == 1 else "conv"
    b("layer", op, "spikes", weight=weight, **FORMS[form][2])
    graph = b.graph(b("count", "decode", b("lif", "lif", "layer", theta=3.0)))
    divided = cut(graph, graph["layer"], 4)
    worth = rng.uniform(0.8, 1.2, even(divided, 1.0).shape) * 4 * np.abs(weight).max()
    new = split(graph, {"layer": divided}, {"layer": worth})
    x = rng.uniform(0, STEPS, (5, *shape))
    values = recorded(new, x)
    arrived = values["layer.sums"].cumsum(axis=0)
    largest = np.maximum(arrived.max(axis=0), 0)
    theta = new.params["layer.partial.theta"].astype(np.float64).reshape(-1, 1, 1)
    counted = values["layer.partial"].sum(axis=0)
    assert (np.abs(counted * theta - largest) <= theta / 2 * 1.001).all()
    on, off = largest[:, ::2], largest[:, 1::2]
    slack = np.abs(on - off - arrived[-1][:, ::2]) + theta[::2] * 1.001
    order = divided.gathered()[::2] // 2
    bound = slack[:, order].reshape(len(x), len(weight), divided.sums, *slack.shape[2:]).sum(axis=2)
    apart = np.abs(charge(values, "layer") - charge(recorded(graph, x), "layer"))
    assert (apart <= bound.reshape(apart.shape)).all()


def test_a_cut_has_every_connection_once() -> None:
    for form in FORMS:
        weight = np.random.default_rng(0).normal(size=FORMS[form][1])
        graph = network(form, weight)
        divided = cut(graph, graph["layer"], 4)
        rows = divided.rows(divided.weight)
        assert np.count_nonzero(rows) == weight.size
        assert (np.count_nonzero(rows.reshape(-1, *rows.shape[-3:]), axis=(1, 2, 3)) <= 4).all()
        np.testing.assert_allclose(rows.sum(), weight.sum(), rtol=1e-4)


def test_thresholds_are_sevenths_of_the_largest_percentile() -> None:
    """Inputs of 1 and weights that differ by group: |C_g| = T * |sum of its weights|, a spike a step stands for it."""
    weight = np.array([[1.0, 1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0, 0]])
    graph = network("dense", weight)
    divided = cut(graph, graph["layer"], 4)
    found = thresholds(graph, {"layer": divided}, [np.full((6, 10), 8.0, np.float32)], 99.0, "cpu")["layer"]
    np.testing.assert_allclose(found.reshape(-1), [4.0, np.ceil(1.8 / 4 * 7) * 4 / 7, 4.0 / 7], rtol=1e-6)


def test_the_percentile_is_the_nearest_rank() -> None:
    graph = network("few parts", np.array([[1.0, 0, 0, 0]]))
    x = np.zeros((100, 4), np.float32)
    x[:, 0] = np.arange(1, 101)
    divided = cut(graph, graph["layer"], 4)
    for percentile, value in ((100.0, 100), (99.0, 99), (50.0, 50)):
        found = thresholds(graph, {"layer": divided}, [x[:30], x[30:]], percentile, "cpu")["layer"]
        np.testing.assert_allclose(found.reshape(-1), [value / STEPS], rtol=0.021)
