"""bias-per-step: the same charge, evenly."""

from __future__ import annotations

import numpy as np

from snnc.ir import Array, Graph, to_text
from snnc.passes import BiasPerStep, ThresholdLayerNorm
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import data_for, integers, mlp, spiking


def currents(graph: Graph) -> Array:
    """What arrives at the first layer, [T, N, ...]."""
    found: dict[str, Array] = {}
    run(graph, integers(graph, 2), record=found)
    return found["conv1"]


def test_the_charge_over_all_steps_stays_and_is_even() -> None:
    graph = spiking(steps=4, bias_at="first-step")
    new = BiasPerStep().run(graph, Context())
    assert {n.attrs["bias_at"] for n in new.nodes if "bias_at" in n.attrs} == {"per-step"}
    np.testing.assert_array_equal(currents(new).sum(axis=0), currents(graph).sum(axis=0))
    added = currents(new) - currents(new.edit(params={"conv1.bias": np.zeros(3, np.float32)}))
    share = graph.params["conv1.bias"][:, None, None] / 4
    np.testing.assert_array_equal(added, np.broadcast_to(share, added.shape))


def test_spread_twice_is_spread_once() -> None:
    new = BiasPerStep().run(spiking(bias_at="first-step"), Context())
    assert BiasPerStep().run(new, Context()) is new


def test_golden_bias_per_step(golden: Golden) -> None:
    graph = ThresholdLayerNorm(steps=8).run(mlp(), Context(data_for(mlp())))
    new = BiasPerStep().run(graph, Context())
    golden(to_text(graph) + "\n" + to_text(new) + f"\n{(new.params['dense1.bias'] * 8).round(5).tolist()}\n")
    np.testing.assert_allclose(new.params["dense1.bias"] * 8, mlp().params["dense1.bias"], rtol=1e-6)
