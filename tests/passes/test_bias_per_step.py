"""bias-per-step: the same charge, evenly."""

from __future__ import annotations

import numpy as np

from snnc.ir import to_text
from snnc.passes import BiasPerStep, ThresholdLayerNorm
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import data_for, integers, mlp, spiking


def test_the_charge_over_all_steps_stays() -> None:
    graph = spiking(steps=4, bias_at="first-step")
    ctx = Context()
    new = BiasPerStep().run(graph, ctx)
    assert {n.attrs["bias_at"] for n in new.nodes if "bias_at" in n.attrs} == {"per-step"}
    x, before, after = integers(graph, 2), {}, {}
    run(graph, x, record=before)
    run(new, x, record=after)
    np.testing.assert_array_equal(before["conv1"].sum(axis=0), after["conv1"].sum(axis=0))
    steps = after["conv1"] - run_without_bias(new, x)
    for step in steps:
        np.testing.assert_array_equal(step, np.broadcast_to(graph.params["conv1.bias"][:, None, None] / 4, step.shape))


def run_without_bias(graph, x):  # type: ignore[no-untyped-def]
    found: dict[str, np.ndarray] = {}
    run(graph.edit(params={"conv1.bias": np.zeros(3, np.float32)}), x, record=found)
    return found["conv1"]


def test_spread_twice_is_spread_once() -> None:
    new = BiasPerStep().run(spiking(bias_at="first-step"), Context())
    assert BiasPerStep().run(new, Context()) is new


def test_golden_bias_per_step(golden: Golden) -> None:
    graph = ThresholdLayerNorm(steps=8).run(mlp(), Context(data_for(mlp())))
    new = BiasPerStep().run(graph, Context())
    golden(to_text(graph) + "\n" + to_text(new) + f"\n{(new.params['dense1.bias'] * 8).round(5).tolist()}\n")
    np.testing.assert_allclose(new.params["dense1.bias"] * 8, mlp().params["dense1.bias"], rtol=1e-6)
