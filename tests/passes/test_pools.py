"""pool-neurons keeps the function; replace-max-pool does not, and says so."""

from __future__ import annotations

import numpy as np

from snnc.ir import Graph, to_text
from snnc.passes import PoolNeurons, ReplaceMaxPool
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, lenet, samples


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


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


def max_pooled(**attrs: tuple[int, ...]) -> Graph:
    b = Builder({"x": (1, 4, 4)})
    b("relu1", "relu", "x")
    b("pool1", "maxpool", "relu1", **attrs)
    b("flat", "reshape", "pool1", shape=(4,))
    return b.graph(b("dense1", "dense", "flat", weight=np.ones((2, 4))))


def test_max_pools_become_averages_with_neurons_of_their_name() -> None:
    graph, ctx = max_pooled(), Context()
    new = ReplaceMaxPool().run(graph, ctx)
    assert names(new) == ["relu1", "pool1.average", "pool1", "flat", "dense1"]
    assert (new["pool1.average"].op, new["pool1"].op) == ("avgpool", "relu")
    assert ctx.notes == ["pool1 (maxpool) became an average pool: its values shrink, a trainer must mend it"]
    assert ReplaceMaxPool().run(new, Context()) is new
    x = {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)}
    assert run(graph, x)["out_dense1"][0, 0] == 5 + 7 + 13 + 15
    assert run(new, x)["out_dense1"][0, 0] == 2.5 + 4.5 + 10.5 + 12.5


def test_padding_of_a_max_pool_is_not_averaged_in() -> None:
    graph = max_pooled(pads=(1, 1, 1, 1), kernel=(3, 3), strides=(3, 3))
    new = ReplaceMaxPool().run(graph, Context())
    x = {"x": np.ones((1, 1, 4, 4), np.float32)}
    np.testing.assert_allclose(run(new, x)["out_dense1"], run(graph, x)["out_dense1"])


def test_golden_replace_max_pool(golden: Golden) -> None:
    graph = max_pooled()
    golden(to_text(graph) + "\n" + to_text(ReplaceMaxPool().run(graph, Context())))


def test_an_average_name_that_is_taken_is_avoided() -> None:
    b = Builder({"x": (1, 4, 4)})
    b("pool1.average", "relu", "x")
    b("pool1", "maxpool", "pool1.average")
    new = ReplaceMaxPool().run(b.graph("pool1"), Context())
    assert [n.op for n in new.nodes] == ["relu", "avgpool", "relu"]
