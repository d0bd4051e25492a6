"""fold-batchnorm: the same function without a batch norm, in all three forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from snnc.ir import Graph, to_text
from snnc.passes import FoldBatchNorm
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, analog_graphs, lenet, samples, statistics


def folded(graph: Graph) -> tuple[Graph, list[str]]:
    """The folded graph, checked against the one before, and the notes."""
    ctx = Context()
    new = FoldBatchNorm().run(graph, ctx)
    x = samples(graph, 4)
    before, after = run(graph, x), run(new, x)
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-5 * np.abs(array).max())
    assert not any(n.op == "batchnorm" for n in new.nodes)
    return new, ctx.notes


def network(*, norm_at: str, **conv: Any) -> Graph:
    """conv -> relu -> conv -> relu -> pool -> reshape -> dense with a batch norm behind `norm_at`."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (2, 6, 6)})
    at = "x"

    def norm(name: str, channels: int) -> str:
        return b(f"bn_{name}", "batchnorm", name, **statistics(rng, channels)) if name == norm_at else name

    at = norm(b("relu0", "relu", at), 2)
    group = conv.pop("group", 1)
    weight = rng.normal(size=(4, 2 // group, 3, 3))
    at = norm(b("conv1", "conv", at, weight=weight, group=group, **conv), 4)
    at = norm(b("relu1", "relu", at), 4)
    size = 2 if not conv.get("pads") else 3
    at = norm(b("pool1", "avgpool", at), 4)
    at = b("flat", "reshape", at, shape=(4 * size**2,))
    at = norm(at, 4 * size**2)
    at = norm(b("dense1", "dense", at, weight=rng.normal(size=(3, 4 * size**2)), bias=rng.normal(size=3)), 3)
    return b.graph(at)


PADS: dict[str, Any] = {"pads": (1, 1, 1, 1)}


@pytest.mark.parametrize("norm_at", ["conv1", "dense1"])
@pytest.mark.parametrize("conv", [{}, {"bias": [1, -2, 3, 0]}, {"group": 2}, PADS], ids=str)
def test_into_the_layer_before(norm_at: str, conv: dict[str, Any]) -> None:
    graph, notes = folded(network(norm_at=norm_at, **conv))
    assert not any(n.op == "scale" for n in graph.nodes)
    assert notes == []


@pytest.mark.parametrize("norm_at", ["relu0", "relu1", "pool1", "flat"])
@pytest.mark.parametrize("conv", [{}, {"bias": [1, -2, 3, 0]}, {"group": 2}], ids=str)
def test_into_the_layer_behind_through_pools_and_reshapes(norm_at: str, conv: dict[str, Any]) -> None:
    graph, notes = folded(network(norm_at=norm_at, **conv))
    assert not any(n.op == "scale" for n in graph.nodes)
    assert notes == []


def test_before_a_padded_conv_it_stays_a_scale() -> None:
    graph, notes = folded(network(norm_at="relu0", **PADS))
    assert graph["bn_relu0"].op == "scale"
    assert notes == ["bn_relu0 (batchnorm) has no neighbour to fold into: kept as a scale"]


def test_before_a_padded_pool_it_stays_a_scale() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("relu", "relu", "x")
    b("bn", "batchnorm", "relu", **statistics(rng, 2))
    b("pool", "avgpool", "bn", pads=(1, 1, 1, 1), count_include_pad=1)
    b("flat", "reshape", "pool", shape=(18,))
    graph, _ = folded(b.graph(b("dense", "dense", "flat", weight=rng.normal(size=(3, 18)))))
    assert graph["bn"].op == "scale"


def test_uneven_statistics_do_not_fold_into_a_conv() -> None:
    """Normalised per feature, then looked at as an image: no kernel can hold that."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (8,)})
    b("relu", "relu", "x")
    b("bn", "batchnorm", "relu", **statistics(rng, 8))
    b("image", "reshape", "bn", shape=(2, 2, 2))
    graph, _ = folded(b.graph(b("conv", "conv", "image", weight=rng.normal(size=(3, 2, 2, 2)))))
    assert graph["bn"].op == "scale"


@pytest.mark.parametrize("where", ["conv", "bn"])
def test_a_value_that_others_read_keeps_its_meaning(where: str) -> None:
    """Where conv is read by others the batch norm goes forward, where the batch norm is, backward."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("conv", "conv", "x", weight=rng.normal(size=(2, 2, 1, 1)))
    b("bn", "batchnorm", "conv", **statistics(rng, 2))
    b("next", "conv", "bn", weight=rng.normal(size=(2, 2, 1, 1)))
    before = b.graph(b("sum", "add", "next", where))
    graph, notes = folded(before)
    assert [n.name for n in graph.nodes] == ["conv", "next", "sum"]
    assert notes == []
    kept = "conv" if where == "conv" else "next"
    np.testing.assert_array_equal(graph.params[f"{kept}.weight"], before.params[f"{kept}.weight"])


def test_outputs_keep_their_values_and_names() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (3,)})
    b("dense", "dense", "x", weight=rng.normal(size=(4, 3)))
    b("bn", "batchnorm", "dense", **statistics(rng, 4))
    b("head", "dense", "bn", weight=rng.normal(size=(2, 4)))
    graph, _ = folded(b.graph("head", "bn", "dense"))
    assert set(graph.outputs) == {"out_head", "out_bn", "out_dense"}
    assert graph["bn"].op == "scale"
    graph, _ = folded(b.graph("head", "bn"))
    assert graph.outputs["out_bn"] == "dense"


def test_two_in_a_row() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("bn1", "batchnorm", "x", **statistics(rng, 2))
    b("bn2", "batchnorm", "bn1", **statistics(rng, 2))
    graph, _ = folded(b.graph(b("conv", "conv", "bn2", weight=rng.normal(size=(3, 2, 3, 3)), group=1)))
    assert graph.nodes[-1].op == "conv"


def test_origins_are_collected() -> None:
    graph = lenet()
    nodes = [type(n)(n.name, n.op, n.inputs, n.attrs, (f"/{n.name}",)) for n in graph.nodes]
    graph, _ = folded(graph.edit(nodes))
    assert graph["conv1"].origin == ("/conv1", "/bn1")


def test_golden_fold_batchnorm(golden: Golden) -> None:
    graph = lenet()
    golden(to_text(graph) + "\n" + to_text(folded(graph)[0]))


@given(analog_graphs())
def test_random_networks_keep_their_function(graph: Graph) -> None:
    ctx = Context()
    new = FoldBatchNorm().run(graph, ctx)
    x = samples(graph, 3)
    before, after = run(graph, x)["out_head"], run(new, x)["out_head"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * max(1, float(np.abs(before).max())))
    assert FoldBatchNorm().run(new, ctx) is new
