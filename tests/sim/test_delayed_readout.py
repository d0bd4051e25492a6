"""The delayed read-out: the steps behind the first few, scaled up; no charge is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import GraphError, PipelineError
from snnc.ir import Graph, parse, to_text, verify
from snnc.passes import BiasPerStep, ThresholdLayerNorm
from snnc.pipeline import Context
from snnc.sim import reference
from snnc.sim.torch import run
from tests.graphs import Builder, data_for, integers, mlp
from tests.sim.executors import EXECUTORS, Trace, by_reference


@pytest.fixture(params=EXECUTORS)
def trace(request: pytest.FixtureRequest) -> Trace:
    return EXECUTORS[request.param]


def delayed(skip: int, steps: int = 8) -> Graph:
    """Spikes, a current with a bias, and a current that never changes, all read out late."""
    rng = np.random.default_rng(4)
    b = Builder({"x": (6,)}, steps)
    b("current", "encode", "x")
    b("lif1", "lif", b("dense1", "dense", "current", weight=rng.integers(-2, 4, (5, 6))), theta=3, u0=1)
    weight, bias = rng.integers(-2, 4, (3, 5)), [3, -1, 2]
    b("dense2", "dense", "lif1", weight=weight, bias=bias, bias_at="per-step")
    return b.graph(*(b(f"y{i}", "decode", at, skip=skip) for i, at in enumerate(("lif1", "dense2", "current"))))


@given(st.sampled_from([(8, 0), (8, 4), (8, 6), (8, 7), (2, 1), (1, 0)]), st.integers(0, 2**16))
def test_all_executors_read_out_the_same(shape: tuple[int, int], seed: int) -> None:
    steps, skip = shape
    graph = delayed(skip, steps)
    x = integers(graph, 4, seed)
    expected = by_reference(graph, x)
    for name, other in EXECUTORS.items():
        for key, array in other(graph, x).items():
            np.testing.assert_array_equal(array, expected[key], err_msg=f"{name}: {key}")


@pytest.mark.parametrize("skip", [0, 2, 5])
def test_the_sum_of_the_later_steps_is_scaled_up(trace: Trace, skip: int) -> None:
    graph = delayed(skip)
    x = integers(graph, 5)
    values: dict[str, np.ndarray] = {}
    reference.run(graph, x, record=values)
    made = trace(graph, x)
    for end, name in (("out_y0", "lif1"), ("out_y1", "dense2")):
        np.testing.assert_allclose(made[end], values[name][skip:].sum(0) * 8 / (8 - skip), rtol=1e-6)
    np.testing.assert_allclose(made["out_y2"], x["x"], rtol=1e-6, err_msg="what never changes is read out whole")


@pytest.mark.parametrize(("skip", "steps"), [(4, 4), (5, 4), (-1, 4)])
def test_a_read_out_that_skips_everything_is_refused(skip: int, steps: int) -> None:
    with pytest.raises(GraphError, match=f"a read-out cannot skip {skip} of {steps} steps"):
        delayed(skip, steps)


@pytest.mark.parametrize(("code", "bias_at"), [("direct", "first-step"), ("first-step", "per-step")])
def test_charge_of_the_first_step_alone_cannot_be_skipped(code: str, bias_at: str) -> None:
    b = Builder({"x": (2,)}, 4)
    b("early", "encode", "x", code=code)
    b("dense1", "dense", "early", weight=np.eye(2), bias=[1, 2], bias_at=bias_at)
    culprit = "dense1" if bias_at == "first-step" else "early"
    with pytest.raises(GraphError, match=rf"skips the first 1 step\(s\), at which all charge of {culprit} arrives"):
        b.graph(b("y", "decode", b("flat", "reshape", "dense1", shape=(1, 2)), skip=1))


def test_threshold_layernorm_loses_no_bias_of_the_read_out() -> None:
    graph = mlp()
    data = data_for(graph, 60)
    new = ThresholdLayerNorm(steps=512, skip=128, percentile=100.0).run(graph, Context(data, graph))
    verify(new)
    assert new["dense2.decoded"].attrs == {"skip": 128}
    assert new["dense2"].attrs == {"bias_at": "per-step"}
    assert new["dense1"].attrs == {"bias_at": "first-step"}
    assert to_text(parse(to_text(new), new.arrays())) == to_text(new)
    x = data.train.x()
    wanted = run(graph, {"x": x})["out_dense2"]
    made = run(BiasPerStep().run(new, Context()), {"x": x})["out_dense2"]
    np.testing.assert_allclose(made, wanted, atol=0.02 * np.abs(wanted).max())


def test_a_bias_that_neurons_and_read_out_share_is_copied() -> None:
    b = Builder({"x": (3,)})
    b("relu1", "relu", b("dense1", "dense", "x", weight=np.eye(3), bias=[1, 2, 3]))
    b("head", "dense", "relu1", weight=np.eye(3), bias=[1, 2, 3])
    graph = b.graph("head")
    head = replace(graph["head"], inputs=(*graph["head"].inputs[:2], "dense1.bias"))
    shared = graph.edit([head if n.name == "head" else n for n in graph.nodes])
    new = ThresholdLayerNorm(steps=4, skip=1).run(shared, Context(data_for(shared), shared))
    verify(new)
    assert new.params[new["dense1"].inputs[2]].tolist() == [1, 2, 3]
    assert new.params[new["head"].inputs[2]].tolist() == [0.25, 0.5, 0.75]


def test_skipping_is_an_option_of_the_command_line() -> None:
    assert str(ThresholdLayerNorm(steps=8, skip=2)) == "threshold-layernorm{steps=8 skip=2}"
    with pytest.raises(PipelineError, match=r"cannot work with skip=8\n  try: skip fewer than the 8 step\(s\)"):
        ThresholdLayerNorm(steps=8, skip=8)
    assert ThresholdLayerNorm().skip == 0
