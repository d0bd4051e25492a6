"""relu-before-max-pool: exact, idempotent, and only where nothing else reads what lies in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Graph, to_text, verify
from snnc.passes import ReluBeforeMaxPool
from snnc.pipeline import Context
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, lenet, mlp, residual, samples


def moved(graph: Graph) -> Graph:
    """The verified result, held to the law: the same function, and nothing more to do."""
    new = ReluBeforeMaxPool().run(graph, Context())
    verify(new)
    assert ReluBeforeMaxPool().run(new, Context()) is new
    x = samples(graph, 5)
    expected = run(graph, x)
    for name, array in run(new, x).items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6)
    return new


def pooled(*between: tuple[str, dict[str, Any]], outputs: tuple[str, ...] = (), **relu: Any) -> Graph:
    """conv, max pool, what stands between, relu, reshape, dense."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 6, 6)})
    b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1)), bias=rng.normal(size=3))
    at = b("pool1", "maxpool", "conv1", kernel=(3, 3), pads=(1, 1, 1, 1))
    for i, (op, parts) in enumerate(between):
        at = b(f"between{i}", op, at, **parts)
    size = int(np.prod(b.graph(b("relu1", "relu", at, **relu))["relu1"].type.shape))
    b("flat", "reshape", "relu1", shape=(size,))
    return b.graph(b("head", "dense", "flat", weight=rng.normal(size=(2, size))), *outputs)


def ops(graph: Graph) -> list[tuple[str, str]]:
    return [(n.name, n.op) for n in graph.nodes]


def test_the_relu_takes_the_name_of_what_was_pooled() -> None:
    new = moved(pooled())
    assert ops(new)[:4] == [("conv1.linear", "conv"), ("conv1", "relu"), ("relu1", "maxpool"), ("flat", "reshape")]


def test_golden_relu_before_max_pool(golden: Golden) -> None:
    graph = pooled(max=1.5)
    golden(to_text(graph) + "\n" + to_text(ReluBeforeMaxPool().run(graph, Context())))


BETWEEN: dict[str, tuple[str, dict[str, Any]]] = {
    "pool": ("maxpool", {"kernel": (2, 2), "strides": (1, 1)}),
    "pad": ("pad", {"pads": (0, 1, 0, 0, 0, 1), "interior": (0, 0, 0)}),
    "transpose": ("transpose", {"perm": (0, 2, 1)}),
    "scale": ("scale", {"factor": [0.5, 0, 2], "bias": [1, -1, 0.5]}),
    "scalar": ("scale", {"factor": 2.0}),
}


@given(st.lists(st.sampled_from(sorted(BETWEEN)), max_size=4), st.sampled_from([{}, {"max": 0.7}]))
def test_what_commutes_stands_behind_and_the_function_stays(names: list[str], relu: dict[str, float]) -> None:
    new = moved(pooled(*(BETWEEN[name] for name in names), **relu))
    order = [n.op for n in new.nodes]
    wired = [name in ("pad", "transpose") for name in names]
    blocked = any("scal" in name and any(wired[:i]) for i, name in enumerate(names))
    if not blocked:
        assert order.index("relu") < order.index("maxpool")


def test_scales_go_before_and_the_relu_gets_a_name_that_teaches_nothing_wrong() -> None:
    new = moved(pooled(BETWEEN["scale"]))
    assert ops(new)[:4] == [("conv1", "conv"), ("between0", "scale"), ("relu1.before", "relu"), ("relu1", "maxpool")]


@pytest.mark.parametrize(
    "between",
    [
        ("scale", {"factor": [0.5, -1, 2]}),
        ("scale", {"factor": np.ones((3, 3, 3))}),
        ("avgpool", {"kernel": (1, 1), "strides": (1, 1)}),
    ],
)
def test_what_does_not_commute_stays(between: tuple[str, dict[str, Any]]) -> None:
    graph = pooled(between)
    assert ReluBeforeMaxPool().run(graph, Context()) is graph


def test_a_pool_that_others_read_stays() -> None:
    graph = pooled(outputs=("pool1",))
    assert ReluBeforeMaxPool().run(graph, Context()) is graph


def test_what_others_read_keeps_its_name() -> None:
    new = moved(pooled(outputs=("conv1",)))
    assert ops(new)[:3] == [("conv1", "conv"), ("relu1.before", "relu"), ("relu1", "maxpool")]


def test_neurons_that_stand_before_already_stay_the_only_ones() -> None:
    b = Builder({"x": (1, 4, 4)})
    b("relu1", "relu", b("conv1", "conv", "x", weight=np.ones((1, 1, 1, 1))))
    b("relu2", "relu", b("pool1", "maxpool", "relu1"))
    graph = b.graph("relu2")
    assert ReluBeforeMaxPool().run(graph, Context()) is graph


def test_pools_of_the_raw_input_and_networks_without_pools_stay() -> None:
    b = Builder({"x": (1, 4, 4)})
    b("relu1", "relu", b("pool1", "maxpool", "x"))
    for graph in (b.graph("relu1"), mlp(), lenet(), residual()):
        assert ReluBeforeMaxPool().run(graph, Context()) is graph


def normed(factor: Any, *, again: bool = False) -> Graph:
    """conv, relu, what a batch norm left, max pool (two of them), conv, relu."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 8, 8)})
    b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1))))
    at = b("pool1", "maxpool", b("scale1", "scale", "relu1", factor=factor, bias=[1, -1, 0.5]), pads=(1, 1, 1, 1))
    at = b("pool2", "maxpool", at) if again else at
    b("relu2", "relu", b("conv2", "conv", at, weight=rng.normal(size=(2, 3, 1, 1))))
    return b.graph("relu2")


def test_a_scale_of_neurons_goes_behind_its_max_pools() -> None:
    new = moved(normed([0.5, 0, 2]))
    assert ops(new)[1:4] == [("relu1", "relu"), ("pool1.unscaled", "maxpool"), ("pool1", "scale")]
    new = moved(normed(2.0, again=True))
    assert [n.op for n in new.nodes][1:5] == ["relu", "maxpool", "maxpool", "scale"]


def test_a_scale_that_turns_a_channel_around_stays() -> None:
    graph = normed([0.5, -1, 2])
    assert ReluBeforeMaxPool().run(graph, Context()) is graph
