"""pool-neurons: more neurons, the same function."""

from __future__ import annotations

import numpy as np

from snnc.ir import Graph, to_text
from snnc.passes import PoolNeurons
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, lenet, samples


def same_function(before: Graph, after: Graph) -> None:
    x = samples(before, 4)
    for name, array in run(before, x).items():
        np.testing.assert_allclose(run(after, x)[name], array, rtol=1e-5, atol=1e-6)


def pooled() -> Builder:
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 8, 8)})
    b("conv1", "conv", "x", weight=rng.normal(size=(2, 2, 1, 1)))
    b("relu1", "relu", "conv1")
    b("pool1", "avgpool", "relu1")
    return b


def test_neurons_behind_the_pool_keep_the_function() -> None:
    graph = lenet()
    new = PoolNeurons().run(graph, Context())
    assert new["pool1.neurons"].op == "relu"
    assert new["flat"].inputs == ("pool1.neurons",)
    same_function(graph, new)
    assert PoolNeurons().run(new, Context()) is new


def test_golden_pool_neurons(golden: Golden) -> None:
    golden(to_text(PoolNeurons().run(lenet(), Context())))


def test_a_pool_before_the_read_out_needs_none() -> None:
    b = pooled()
    b("flat", "reshape", "pool1", shape=(32,))
    graph = b.graph(b("dense1", "dense", "flat", weight=np.ones((3, 32))))
    assert PoolNeurons().run(graph, Context()) is graph


def test_a_pool_of_signed_values_gets_none() -> None:
    """A relu behind the mean of values of both signs would not be the identity."""
    b = Builder({"x": (2, 8, 8)})
    b("pool1", "avgpool", "x")
    b("conv1", "conv", "pool1", weight=np.ones((2, 2, 1, 1)))
    graph = b.graph(b("relu1", "relu", "conv1"))
    assert PoolNeurons().run(graph, Context()) is graph


def test_a_pool_that_meets_its_neurons_directly_needs_none() -> None:
    b = pooled()
    graph = b.graph(b("relu2", "relu", "pool1"))
    assert PoolNeurons().run(graph, Context()) is graph


def test_all_readers_of_the_pool_turn_and_outputs_too() -> None:
    b = pooled()
    b("conv2", "conv", "pool1", weight=np.full((2, 2, 1, 1), 0.5))
    b("sum", "add", "conv2", "pool1")
    graph = b.graph(b("relu2", "relu", "sum"), "pool1")
    new = PoolNeurons().run(graph, Context())
    assert new["sum"].inputs == ("conv2", "pool1.neurons")
    assert dict(new.outputs) == {"out_relu2": "relu2", "out_pool1": "pool1.neurons"}
    same_function(graph, new)


def test_a_name_that_is_taken_is_avoided() -> None:
    b = pooled()
    b("pool1.neurons", "conv", "pool1", weight=np.ones((2, 2, 1, 1)))
    new = PoolNeurons().run(b.graph(b("relu2", "relu", "pool1.neurons")), Context())
    assert new["pool1.neurons"].inputs[0] == "pool1.neurons2"
