"""All executors of one graph agree, spike for spike where sums are exact."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnc.errors import GraphError
from snnc.ir import Array, Graph
from snnc.sim import reference
from snnc.sim.stepper import Stepper
from snnc.sim.torch import CHUNK, at_once, forward, run, tensors, to_tensor
from tests.graphs import Builder, integers, lenet, mlp, samples, spiking, spiking_graphs
from tests.sim.executors import EXECUTORS, Trace, by_reference, by_stepper, by_torch


@pytest.fixture(params=EXECUTORS)
def trace(request: pytest.FixtureRequest) -> Trace:
    return EXECUTORS[request.param]


def identical(one: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


@settings(max_examples=60)
@given(spiking_graphs(), st.integers(0, 2**16))
def test_every_spike_of_random_integer_networks(graph: Graph, seed: int) -> None:
    x = integers(graph, 3, seed)
    expected = by_reference(graph, x)
    identical(expected, by_torch(graph, x))
    identical(expected, by_stepper(graph, x))


@pytest.mark.parametrize("code", ["direct", "first-step"])
@pytest.mark.parametrize("reset", ["subtract", "subtract-decayed", "zero"])
@pytest.mark.parametrize("bias_at", ["first-step", "per-step"])
def test_every_spike_of_a_residual_network(code: str, reset: str, bias_at: str) -> None:
    graph = spiking(code, 8, reset, bias_at)
    x = integers(graph, 4)
    expected = by_reference(graph, x)
    assert all(0.02 < expected[name].mean() < 0.9 for name in ("relu1", "relu2"))
    identical(expected, by_torch(graph, x))
    identical(expected, by_stepper(graph, x))


def test_samples_at_once_are_bounded_by_the_largest_value() -> None:
    """16 MiB on a CPU: float32 of 8 channels of 64 x 64 at 4 steps are 512 KiB a sample."""
    b = Builder({"image": (1, 64, 64)}, 4)
    b("current", "encode", "image")
    b("conv", "conv", "current", weight=np.ones((8, 1, 1, 1)))
    b("n", "lif", "conv", theta=1)
    graph = b.graph(b("read", "decode", "n"))
    assert at_once(graph) == 32
    assert at_once(graph, "cuda:0") == at_once(mlp()) == CHUNK == 256


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_and_batch_sizes_change_nothing(chunk: int) -> None:
    graph = spiking(steps=8)
    x = integers(graph, 7)
    whole = run(graph, x)["out_scores"]
    np.testing.assert_array_equal(run(graph, x, chunk=chunk)["out_scores"], whole)
    alone = run(graph, {"image": x["image"][2:3]})["out_scores"]
    np.testing.assert_array_equal(alone, whole[2:3])


def hybrid() -> Graph:
    """Analog, spiking, analog, spiking again: encoded twice, integers all the way."""
    rng = np.random.default_rng(2)
    b = Builder({"x": (5,)}, 4)
    b("front", "dense", "x", weight=rng.integers(-2, 3, (6, 5)), bias=rng.integers(-2, 3, 6))
    b("rectified", "relu", "front")
    b("current", "encode", "rectified", code="direct")
    b("lif1", "lif", "current", theta=3, u0=1)
    b("middle", "dense", "lif1", weight=rng.integers(-2, 4, (6, 6)), bias=rng.integers(0, 3, 6), bias_at="per-step")
    b("decoded", "decode", "middle")
    b("analog", "relu", "decoded", max=12.0)
    b("again", "encode", "analog", code="first-step")
    b("lif2", "lif", "again", theta=4, u0=2)
    b("count", "decode", "lif2")
    b("skip", "add", "count", "analog")
    return b.graph(b("head", "dense", "skip", weight=rng.integers(-2, 3, (3, 6)), bias=[1, 0, -1]), "count")


def test_hybrid_graphs_encode_again_after_a_decode() -> None:
    graph = hybrid()
    x = integers(graph, 6)
    expected = by_reference(graph, x)
    assert expected["out_count"].max() > 1
    identical(expected, by_torch(graph, x))


def test_the_stepper_refuses_to_encode_again() -> None:
    graph = hybrid()
    x = {"x": to_tensor(integers(graph, 1)["x"])}
    with pytest.raises(GraphError, match=r"spikes behind a read-out cannot run step by step.*\n  at: again \(encode\)"):
        Stepper(graph, tensors(graph), x)


def test_analog_parts_before_and_behind(trace: Trace) -> None:
    b = Builder({"x": (4,)}, 4)
    b("front", "relu", "x")
    b("current", "encode", "front")
    b("lif", "lif", "current", theta=1, u0=0.5)
    b("potential", "dense", "lif", weight=np.eye(3, 4), bias=[0, 1, 2], bias_at="first-step")
    b("decoded", "decode", "potential")
    graph = b.graph(b("share", "softmax", "decoded"), "front")
    x = {"x": np.array([[2, -3, 9, 1]], np.float32)}
    made = trace(graph, x)
    raised = np.exp([2, 1, 4 + 2])
    np.testing.assert_allclose(made["out_share"][0], raised / raised.sum(), rtol=1e-6)
    assert made["out_front"][0].tolist() == [2, 0, 9, 1]


@pytest.mark.parametrize("code", ["direct", "first-step"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_decode_undoes_an_encode(trace: Trace, code: str, steps: int) -> None:
    b = Builder({"x": (3,)}, steps)
    b("current", "encode", "x", code=code)
    x = {"x": np.array([[4, -8, 12]], np.float32)}
    np.testing.assert_array_equal(trace(b.graph(b("y", "decode", "current")), x)["out_y"], x["x"])


@pytest.mark.parametrize(("bias_at", "charge"), [("first-step", 3), ("per-step", 12)])
@pytest.mark.parametrize("code", ["direct", "first-step"])
def test_charge_that_a_bias_carries(trace: Trace, bias_at: str, charge: float, code: str) -> None:
    b = Builder({"x": (1,)}, 4)
    b("current", "encode", "x", code=code)
    b("dense", "dense", "current", weight=[[2]], bias=[3], bias_at=bias_at)
    graph = b.graph(b("y", "decode", "dense"))
    assert trace(graph, {"x": np.array([[8]], np.float32)})["out_y"].tolist() == [[16 + charge]]


def test_forward_keeps_what_it_is_asked_for() -> None:
    graph = lenet()
    x = {"image": torch.tensor(samples(graph, 2)["image"])}
    kept = forward(graph, tensors(graph), x, keep=lambda node: node.op == "relu")
    assert set(kept) == {"image", "relu1", "relu2", "dense2"}
    assert set(forward(graph, tensors(graph), x)) == {"image", *(n.name for n in graph.nodes)}


def test_what_is_read_twice_lives_until_the_second_reader() -> None:
    graph = spiking()
    x = {"image": to_tensor(integers(graph, 2)["image"])}
    values = forward(graph, tensors(graph), x, keep=lambda node: False)
    assert set(values) == {"image", "scores"}
    np.testing.assert_array_equal(values["scores"], forward(graph, tensors(graph), x)["scores"])


def test_constant_currents_are_held_once() -> None:
    graph = spiking(steps=8)
    values = forward(graph, tensors(graph), {"image": to_tensor(integers(graph, 2)["image"])})
    assert len(values["current"]) == len(values["conv1"]) == 1
    assert len(values["relu1"]) == len(values["conv2"]) == 8


def test_stepper_disturbs_currents_and_spikes() -> None:
    graph = spiking(steps=4)
    x = {"image": to_tensor(integers(graph, 2)["image"])}
    mute = {"spikes": lambda node, spikes: spikes * 0 if node.name == "relu1" else spikes}
    state = Stepper(graph, tensors(graph), x, mute)
    plain = Stepper(graph, tensors(graph), x, {"current": lambda node, current: current})
    flood = Stepper(graph, tensors(graph), x, {"current": lambda node, current: current + 1000})
    for _ in range(4):
        state.step()
        plain.step()
        flood.step()
    assert not state.count["relu1"].any()
    assert state.potential["relu1"].equal(plain.potential["relu1"]), "a spike that is lost has reset its neuron"
    assert plain.count["relu1"].any()
    np.testing.assert_array_equal(plain.count["relu2"], by_torch(graph, integers(graph, 2))["relu2"].sum(axis=0))
    assert (flood.count["relu1"] == 4).all()
    assert state.t == 4


def test_reference_on_a_float_network_is_close_to_torch() -> None:
    graph = lenet()
    x = samples(graph, 5)
    np.testing.assert_allclose(run(graph, x)["out_dense2"], reference.run(graph, x)["out_dense2"], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine")
@pytest.mark.parametrize("code", ["direct", "first-step"])
def test_cuda_fires_as_the_reference_does(code: str) -> None:
    graph = spiking(code, 8)
    x = integers(graph, 64)
    np.testing.assert_array_equal(run(graph, x, device="cuda")["out_scores"], reference.run(graph, x)["out_scores"])
    on_card = {name: to_tensor(array, "cuda") for name, array in x.items()}
    values = forward(graph, tensors(graph, "cuda"), on_card)
    expected = by_reference(graph, x)
    for name in ("relu1", "relu2"):
        np.testing.assert_array_equal(values[name].cpu().numpy(), expected[name])
