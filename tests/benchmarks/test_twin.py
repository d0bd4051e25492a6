"""The torch twin: the function of the graph, in modules that a converter can match and trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import fx, nn

from benchmarks import twin as built
from benchmarks.twin import Twin, pools_before_relus, scores, twin
from snnc.errors import GraphError
from snnc.ir import Graph
from snnc.passes import FoldBatchNorm
from snnc.pipeline import Context, single
from snnc.sim import torch as executor
from tests.graphs import Builder, lenet, mlp, residual, samples


def pooled(op: str, **window: Any) -> Graph:
    """conv, relu, a pool of that kind, dense."""
    rng = np.random.default_rng(2)
    b = Builder({"image": (2, 7, 7)})
    b("conv1", "conv", "image", weight=rng.normal(size=(4, 1, 3, 3)), bias=rng.normal(size=4), group=2)
    b("relu1", "relu", "conv1")
    b("pool1", op, "relu1", **window)
    b("flat", "reshape", "pool1", shape=(4 * (3 if "pads" in window else 2) ** 2,))
    b("dense1", "dense", "flat", weight=rng.normal(size=(3, b.nodes[-1].attrs["shape"][0])))  # type: ignore[index]
    return b.graph("dense1")


def channel_last() -> Graph:
    """Images [H, W, C], two axes in another order, a softmax at the end."""
    rng = np.random.default_rng(3)
    b = Builder({"image": (4, 5, 2)})
    b("first", "transpose", "image", perm=(2, 0, 1))
    b("conv1", "conv", "first", weight=rng.normal(size=(3, 2, 3, 3)), bias=rng.normal(size=3))
    b("relu1", "relu", "conv1")
    b("turned", "transpose", "relu1", perm=(1, 2, 0))
    b("flat", "reshape", "turned", shape=(18,))
    b("dense1", "dense", "flat", weight=rng.normal(size=(4, 18)))
    b("shares", "softmax", "dense1")
    return b.graph("shares")


def convolution(pads: tuple[int, ...], strides: tuple[int, int] = (1, 1), dilations: tuple[int, int] = (1, 1)) -> Graph:
    """One convolution with a kernel that is no square."""
    rng = np.random.default_rng(4)
    b = Builder({"image": (2, 7, 6)})
    window = {"pads": pads, "strides": strides, "dilations": dilations}
    b("conv1", "conv", "image", weight=rng.normal(size=(3, 2, 3, 2)), bias=rng.normal(size=3), **window)
    return b.graph("conv1")


def folded() -> Graph:
    return FoldBatchNorm().run(lenet(), Context())


GRAPHS: dict[str, Callable[[], Graph]] = {
    "mlp": mlp,
    "lenet": folded,
    "residual": residual,
    "channel_last": channel_last,
    "maxpool": lambda: pooled("maxpool"),
    "maxpool_padded": lambda: pooled("maxpool", pads=(1, 1, 1, 1), kernel=(3, 3)),
    "avgpool_padded": lambda: pooled("avgpool", pads=(1, 1, 1, 1), kernel=(3, 3)),
    "avgpool_padded_counted": lambda: pooled("avgpool", pads=(1, 1, 1, 1), kernel=(3, 3), count_include_pad=1),
}


def same(graph: Graph, net: nn.Module) -> None:
    """The module makes the class scores of the graph."""
    x = samples(graph, 6)
    found = net(torch.from_numpy(single(x))).numpy()
    np.testing.assert_allclose(found, single(executor.run(scores(graph), x)), atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_twin_is_the_graphs_function_and_can_be_traced(name: str) -> None:
    graph = GRAPHS[name]()
    net = twin(graph, single(samples(graph, 4)))
    same(graph, net)
    traced = fx.symbolic_trace(net)
    same(graph, traced)
    relus = [node for node in traced.graph.nodes if node.op == "call_module" and "relu" in node.target]
    assert len(relus) == sum(node.op == "relu" for node in graph.nodes)
    assert all(type(traced.get_submodule(str(node.target))) is nn.ReLU for node in relus)


@given(st.tuples(*[st.integers(0, 3)] * 4), *[st.tuples(st.integers(1, 2), st.integers(1, 2))] * 2)
def test_uneven_pads_become_zeros_of_the_kernel(
    pads: tuple[int, ...], strides: tuple[int, int], dilations: tuple[int, int]
) -> None:
    assume((pads[2] - pads[0]) % dilations[0] == 0 and (pads[3] - pads[1]) % dilations[1] == 0)
    graph = convolution(pads, strides, dilations)
    net = Twin(graph)
    same(graph, net)
    assert [type(module) for module in net.children()] == [nn.Conv2d]


def test_what_has_no_module_is_refused_with_every_node_by_name() -> None:
    b = Builder({"x": (2, 5, 5)})
    b("a", "sigmoid", "x")
    b("b", "relu", "a", max=6.0)
    b("c", "maxpool", "b", pads=(0, 0, 1, 1))
    b("d", "conv", "c", weight=np.ones((1, 2, 2, 2)), pads=(0, 0, 1, 0), dilations=(2, 2))
    with pytest.raises(GraphError) as caught:
        Twin(b.graph("d"))
    text = str(caught.value)
    for part in (
        "no torch twin",
        "'sigmoid' of analog values\n      at: a (sigmoid)",
        "relu with a maximum for a relu\n      at: b (relu)",
        "the same pads on both sides\n      at: c (maxpool)",
        "no multiple of the dilation\n      at: d (conv)",
    ):
        assert part in text


def test_several_outputs_are_refused() -> None:
    b = Builder({"x": (3,)})
    b("a", "relu", "x")
    b("b", "relu", "a")
    with pytest.raises(GraphError, match="1 inputs and 2 outputs"):
        Twin(b.graph("a", "b"))


def test_a_twin_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built, "MODULES", {**built.MODULES, "relu": lambda node, params: nn.Identity()})
    graph = mlp()
    with pytest.raises(GraphError, match=r"scores of the torch twin differ by \d"):
        twin(graph, single(samples(graph, 4)))


def test_scores_leave_out_a_softmax_at_the_end_and_nothing_else() -> None:
    assert list(scores(channel_last()).outputs.values()) == ["dense1"]
    graph = mlp()
    assert scores(graph) is graph


def test_max_pools_go_before_relus_exactly() -> None:
    graph = pooled("maxpool")
    moved = pools_before_relus(graph)
    assert [node.op for node in moved.nodes] == ["conv", "maxpool", "relu", "reshape", "dense"]
    x = samples(graph, 5)
    np.testing.assert_array_equal(single(executor.run(moved, x)), single(executor.run(graph, x)))


def test_max_pools_stay_where_the_relu_has_other_readers() -> None:
    b = Builder({"x": (1, 4, 4)})
    b("relu1", "relu", "x")
    b("pool1", "maxpool", "relu1")
    b("pool2", "avgpool", "relu1")
    b("sum", "add", "pool1", "pool2")
    graph = b.graph("sum")
    assert pools_before_relus(graph) is graph
