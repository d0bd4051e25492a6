"""replace-max-pool: an average with neurons of its own; it changes the function, and says so."""

from __future__ import annotations

import numpy as np

from snnc.ir import Graph, to_text
from snnc.passes import ReplaceMaxPool
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder


def max_pooled(**attrs: tuple[int, ...]) -> Graph:
    b = Builder({"x": (1, 4, 4)})
    b("relu1", "relu", "x")
    b("pool1", "maxpool", "relu1", **attrs)
    b("flat", "reshape", "pool1", shape=(4,))
    return b.graph(b("dense1", "dense", "flat", weight=np.ones((2, 4))))


def test_max_pools_become_averages_with_neurons_of_their_name() -> None:
    graph, ctx = max_pooled(), Context()
    new = ReplaceMaxPool().run(graph, ctx)
    assert [n.name for n in new.nodes] == ["relu1", "pool1.average", "pool1", "flat", "dense1"]
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


def test_a_pool_of_the_raw_input_stays_on_the_host() -> None:
    b = Builder({"x": (1, 4, 4)})
    b("pool1", "maxpool", "x")
    b("flat", "reshape", "pool1", shape=(4,))
    graph = b.graph(b("dense1", "dense", "flat", weight=np.ones((1, 4))))
    assert ReplaceMaxPool().run(graph, Context()) is graph
