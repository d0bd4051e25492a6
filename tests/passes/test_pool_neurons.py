"""pool-neurons: more neurons, the same function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnc.ir import Graph, to_text
from snnc.passes import PoolNeurons, Rectify
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


def signed_pool(op: str = "leakyrelu", **parts: Any) -> Graph:
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("f", op, b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1))), **parts)
    b("pool1", "avgpool", "f")
    b("relu2", "relu", b("conv2", "conv", "pool1", weight=rng.normal(size=(3, 3, 1, 1))))
    b("flat", "reshape", "relu2", shape=(12,))
    return Rectify().run(b.graph(b("head", "dense", "flat", weight=rng.normal(size=(2, 12)))), Context())


@pytest.mark.parametrize("parts", [{"slope": 0.1}, {"slope": [0.1, -0.2, 0.3]}])
def test_a_pool_of_a_signed_sum_is_the_sum_of_pools_with_neurons_each(parts: dict[str, Any]) -> None:
    graph = signed_pool(**parts)
    new = PoolNeurons().run(graph, Context())
    pools = [n for n in new.nodes if n.op == "avgpool"]
    assert len(pools) == 2
    assert all(new[n.inputs[0]].op == "relu" and new.users(n.name)[0].op == "relu" for n in pools)
    x = samples(graph, 9)
    np.testing.assert_allclose(run(new, x)["out_head"], run(graph, x)["out_head"], atol=1e-6)
    assert PoolNeurons().run(new, Context()) is new


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_interpolation_becomes_a_convolution_with_neurons(axis: int) -> None:
    rng = np.random.default_rng(0)
    shape = [2, 3, 3]
    b = Builder({"x": (2, 3, 3)})
    b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(2, 2, 1, 1))))
    shape[axis] = 5
    b("wide", "mix", "relu1", weight=rng.uniform(0, 1, (5, (2, 3, 3)[axis])), axis=axis)
    b("flat", "reshape", "wide", shape=(int(np.prod(shape)),))
    b("relu2", "relu", b("dense1", "dense", "flat", weight=rng.normal(size=(4, int(np.prod(shape))))))
    graph = b.graph(b("dense2", "dense", "relu2", weight=rng.normal(size=(2, 4))))
    new = PoolNeurons().run(graph, Context())
    assert not any(n.op == "mix" for n in new.nodes)
    assert new[new["wide.neurons"].inputs[0]].op == "conv"
    x = samples(graph, 9)
    np.testing.assert_allclose(run(new, x)["out_dense2"], run(graph, x)["out_dense2"], rtol=1e-5, atol=1e-5)
    assert PoolNeurons().run(new, Context()) is new
    negative = graph.edit(params={"wide.weight": -graph.params["wide.weight"]})
    assert PoolNeurons().run(negative, Context()) is negative
