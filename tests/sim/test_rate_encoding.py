"""Events by chance: the generator against published numbers, the mean, and the same events wherever they are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import GraphError
from snnc.ir import Graph, parse, to_text, verify
from snnc.passes import ThresholdLayerNorm
from snnc.pipeline import Context
from snnc.sim import cost, reference
from snnc.sim.encoding import keys, uniform
from snnc.sim.torch import forward, run, tensors, to_tensor
from tests.graphs import Builder, data_for, integers, mlp
from tests.sim.executors import EXECUTORS, by_reference


def encoded(steps: int = 8, seed: int = 5, highest: float = 8.0) -> Graph:
    """Events of 8/T onto integer weights: every sum is exact for T of 1, 2, 4, 8."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (6,)}, steps)
    b("current", "encode", "x", code="rate", seed=seed, max=highest)
    b("total", "decode", "current")
    b("lif1", "lif", b("dense1", "dense", "current", weight=rng.integers(-2, 4, (5, 6))), theta=3, u0=1)
    return b.graph("total", b("scores", "decode", b("dense2", "dense", "lif1", weight=rng.integers(-2, 4, (3, 5)))))


def test_the_generator_is_splitmix64() -> None:
    """The first numbers from the state 1234567, as published for implementations to check themselves against."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    start = np.array([1234567], np.uint64)
    first, second = uniform(start, (2,), 0), uniform(start, (2,), 1)
    made = np.concatenate([first, second], axis=1)[0]
    np.testing.assert_array_equal(made, [np.float32((w >> 40) / 2**24) for w in wanted[:4]])


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**31), st.integers(0, 2**16))
def test_every_event_in_every_executor(steps: int, seed: int, sample: int) -> None:
    graph = encoded(steps, seed)
    x = integers(graph, 4, sample)
    expected = by_reference(graph, x)
    for name, other in EXECUTORS.items():
        for key, array in other(graph, x).items():
            np.testing.assert_array_equal(array, expected[key], err_msg=f"{name}: {key}")


def test_the_mean_is_the_value_and_the_largest_value_is_certain() -> None:
    b = Builder({"x": (4000,)}, 16)
    b("current", "encode", "x", code="rate", seed=1, max=2.0)
    graph = b.graph(b("y", "decode", "current"))
    x = np.repeat(np.array([0.0, 0.5, -1.5, 2.0, 3.0], np.float32), 800)[None]
    values: dict[str, Any] = {}
    total = reference.run(graph, {"x": x}, record=values)["out_y"].reshape(5, 800)
    assert set(np.unique(values["current"])) == {-0.125, 0, 0.125}, "events of max/T, of either sign"
    share = np.array([0.25, 0.75])
    spread = 2 * np.sqrt(share * (1 - share) / 16) / np.sqrt(800)
    assert (np.abs(total[1:3].mean(axis=1) - [0.5, -1.5]) < 4 * spread).all()
    assert (total[0] == 0).all()
    assert (total[3:] == 2).all(), "beyond the largest value an event at every step"


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_neither_order_nor_chunks_change_an_event(chunk: int) -> None:
    graph = encoded()
    x = integers(graph, 7)["x"]
    whole = run(graph, {"x": x})["out_total"]
    np.testing.assert_array_equal(run(graph, {"x": x}, chunk=chunk)["out_total"], whole)
    np.testing.assert_array_equal(run(graph, {"x": x[::-1].copy()}, chunk=chunk)["out_total"], whole[::-1])


def test_seed_and_sample_change_the_events_and_a_sample_keeps_its_own() -> None:
    x = np.full((2, 6), 4, np.float32)
    x[1, 0] = 5
    x = np.concatenate([x, x[:1]])
    same, other = (run(encoded(seed=seed), {"x": x})["out_total"] for seed in (5, 6))
    assert (same[0] == same[2]).all()
    assert (same[0, 1:] != same[1, 1:]).any()
    assert (same != other).any()


def test_keys_know_all_inputs_by_name() -> None:
    one, two = np.eye(3, dtype=np.float32), np.ones((3, 2), np.float32)
    made = keys({"a": one, "b": two}, 0)
    np.testing.assert_array_equal(made, keys({"b": two.astype(np.float64), "a": one}, 0))
    assert len({*made, *keys({"a": one, "b": 2 * two}, 0), *keys({"a": one, "b": two}, 1)}) == 9


def test_gradients_pass_straight_through() -> None:
    graph = encoded(steps=4)
    x = to_tensor(integers(graph, 2)["x"]).requires_grad_()
    total = forward(graph, tensors(graph), {"x": x})["total"]
    np.testing.assert_array_equal(total.detach(), run(graph, {"x": x.detach().numpy()})["out_total"])
    (grad,) = torch.autograd.grad(total.sum(), x)
    np.testing.assert_array_equal(grad, np.ones((2, 6)))


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"code": "rate"}, "seed and max belong to the code 'rate', and to no other"),
        ({"code": "rate", "seed": 1}, "seed and max belong to the code 'rate'"),
        ({"code": "direct", "seed": 1, "max": 1.0}, "seed and max belong to the code 'rate'"),
        ({"code": "rate", "seed": 1, "max": 0.0}, "needs a max above 0 and a seed from 0 to"),
        ({"code": "rate", "seed": 1, "max": 1e-60}, "needs a max above 0 and a seed from 0 to"),
        ({"code": "rate", "seed": 2**63, "max": 1.0}, "needs a max above 0 and a seed from 0 to"),
        ({"code": "rate", "seed": -1, "max": 1.0}, "needs a max above 0 and a seed from 0 to"),
    ],
)
def test_attributes_that_do_not_fit(attrs: dict[str, Any], text: str) -> None:
    b = Builder({"x": (2,)}, 4)
    b("current", "encode", "x", **attrs)
    with pytest.raises(GraphError, match=text):
        b.graph(b("y", "decode", "current"))


def test_two_encodings_draw_apart() -> None:
    b = Builder({"x": (3,)})
    for i, value in enumerate(("x", b("size", "abs", "x"))):
        b(f"dense{i}", "dense", value, weight=np.eye(3))
    graph = b.graph(b("relu1", "relu", b("sum", "add", "dense0", "dense1")))
    new = ThresholdLayerNorm(code="rate", steps=4).run(graph, Context(data_for(graph), graph, seed=7))
    assert sorted(n.attrs["seed"] for n in new.nodes if n.op == "encode") == [7, 8]


def test_events_of_the_input_cost_synaptic_operations() -> None:
    graph = encoded()
    x = integers(graph, 5)["x"]
    values: dict[str, Any] = {}
    reference.run(graph, {"x": x}, record=values)
    made = cost.measure(graph, None, x)
    onto = [np.count_nonzero(graph.params[f"dense{i}.weight"], axis=0) for i in (1, 2)]
    events = (values["current"] != 0).sum(axis=(0, 1)) @ onto[0] + values["lif1"].sum(axis=(0, 1)) @ onto[1]
    assert (made.synops, made.input_macs, made.neurons) == (events / 5, 0, 5)


def test_threshold_layernorm_takes_range_and_seed_from_the_run() -> None:
    graph = mlp()
    data = data_for(graph, 200)
    new = ThresholdLayerNorm(code="rate", steps=256, percentile=100.0).run(graph, Context(data, graph, seed=7))
    verify(new)
    (node,) = [n for n in new.nodes if n.op == "encode"]
    x = data.train.x()
    assert node.attrs == {"code": "rate", "seed": 7, "max": float(np.abs(x).max())}
    assert to_text(parse(to_text(new), new.arrays())) == to_text(new)
    wanted = run(graph, {"x": x})["out_dense2"]
    error = np.abs(run(new, {"x": x})["out_dense2"] - wanted).mean() / np.abs(wanted).mean()
    assert error < 0.25
