"""separate-layers: a pair of neurons where two layers chain, exactly, and nowhere else."""

from __future__ import annotations

import numpy as np

from snnc.ir import Graph, to_text
from snnc.passes import SeparateLayers
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, lenet, mlp, residual, samples


def bottleneck() -> Graph:
    """A linear bottleneck with a skip (MobileNetV2): layers chain through a sum, and through a pool and a concat."""
    rng = np.random.default_rng(5)
    b = Builder({"x": (2, 4, 4)})
    b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1))))
    b("sum", "add", b("conv2", "conv", "relu1", weight=rng.normal(size=(3, 3, 1, 1)), bias=[1, 0, -1]), "relu1")
    b("relu2", "relu", b("conv3", "conv", "sum", weight=rng.normal(size=(3, 3, 1, 1))))
    b("conv4", "conv", "relu2", weight=rng.normal(size=(3, 3, 1, 1)))
    b("both", "concat", "conv4", "relu2")
    b("flat", "reshape", b("pool", "avgpool", "both"), shape=(24,))
    b("relu3", "relu", b("dense1", "dense", "flat", weight=rng.normal(size=(5, 24))))
    return b.graph(b("dense3", "dense", b("dense2", "dense", "relu3", weight=np.eye(5)), weight=np.eye(5)))


def test_pairs_stand_where_layers_chain() -> None:
    graph, ctx = bottleneck(), Context()
    new = SeparateLayers().run(graph, ctx)
    made = {n.name for n in new.nodes if n.op == "relu"} - {"relu1", "relu2", "relu3"}
    assert made == {"sum", "sum.off", "conv4", "conv4.off"}, "the read-out, on the host, may chain"
    assert ctx.notes == ["no activation behind conv4, sum: neurons for each sign were put there"]
    x = samples(graph, 9)
    np.testing.assert_allclose(run(new, x)["out_dense3"], run(graph, x)["out_dense3"], atol=1e-6)
    assert SeparateLayers().run(new, Context()) is new


def test_networks_with_activations_stay() -> None:
    for graph in (mlp(), lenet(), residual()):
        assert SeparateLayers().run(graph, Context()) is graph


def test_golden_separate_layers(golden: Golden) -> None:
    graph = bottleneck()
    golden(to_text(graph) + "\n" + to_text(SeparateLayers().run(graph, Context())))
