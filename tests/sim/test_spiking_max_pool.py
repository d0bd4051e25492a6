"""The max pool of spikes: an event wherever the largest count grows; exact in total, and the same in all executors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnc.data import Data
from snnc.errors import GraphError, TargetError
from snnc.ir import Graph, Stage
from snnc.passes import BiasPerStep, ReluBeforeMaxPool, ThresholdLayerNorm
from snnc.pipeline import Context, Pipeline
from snnc.sim import cost, reference
from snnc.sim.torch import evaluate, forward, run, tensors, to_tensor
from snnc.targets.dynap_sim.host import host_readout
from snnc.targets.dynap_sim.place import place
from tests.graphs import Builder, data_for, integers, lenet
from tests.sim.executors import EXECUTORS, Trace, by_reference

window = st.fixed_dictionaries(
    {
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(*[st.integers(1, 3)] * 2),
        "pads": st.tuples(*[st.integers(0, 1)] * 4),
        "dilations": st.tuples(*[st.integers(1, 2)] * 2),
    }
)


@pytest.fixture(params=EXECUTORS)
def trace(request: pytest.FixtureRequest) -> Trace:
    return EXECUTORS[request.param]


def pooled(steps: int = 8, seed: int = 0, **attrs: Any) -> Graph:
    """An integer network: conv, neurons, max pool, conv, neurons; both layers and the pool are read out."""
    rng = np.random.default_rng(seed)
    b = Builder({"x": (2, 6, 6)}, steps)
    b("current", "encode", "x", code="first-step")
    b("conv1", "conv", "current", weight=rng.integers(-2, 4, (3, 2, 3, 3)), pads=(1, 1, 1, 1))
    b("lif1", "lif", "conv1", theta=[5, 9, 14], u0=2)
    b("pool1", "maxpool", "lif1", **attrs)
    b("conv2", "conv", "pool1", weight=rng.integers(-2, 4, (4, 3, 1, 1)))
    b("lif2", "lif", "conv2", theta=4, u0=1)
    ends = [b(f"{name}.count", "decode", name) for name in ("lif1", "pool1", "lif2")]
    return b.graph(*ends)


@given(window, st.sampled_from([1, 2, 5, 8]), st.integers(0, 2**16))
def test_every_spike_in_every_executor_and_the_maximum_of_the_counts(
    attrs: dict[str, Any], steps: int, seed: int
) -> None:
    graph = pooled(steps, seed, **attrs)
    x = integers(graph, 3, seed)
    values: dict[str, Any] = {}
    reference.run(graph, x, record=values)
    assert set(np.unique(values["pool1"])) <= {0, 1}
    plain = Builder({"c": (3, 6, 6)})
    analog = plain.graph(plain("y", "maxpool", "c", **attrs))
    largest = reference.run(analog, {"c": values["lif1"].sum(0)})["out_y"]
    np.testing.assert_array_equal(values["pool1"].sum(0), np.maximum(largest, 0), err_msg="a window of pads is silent")
    expected = by_reference(graph, x)
    for name, other in EXECUTORS.items():
        for key, array in other(graph, x).items():
            np.testing.assert_array_equal(array, expected[key], err_msg=f"{name}: {key}")
    in_torch = forward(graph, tensors(graph), {"x": to_tensor(x["x"])})["pool1"]
    np.testing.assert_array_equal(in_torch.numpy(), values["pool1"])


def test_a_train_by_hand(trace: Trace) -> None:
    """Counts 0 1 1 2 and 1 1 2 2: the largest is 1 1 2 2."""
    b = Builder({"x": (1, 1, 2)}, 4)
    b("current", "encode", "x", code="direct")
    b("lif1", "lif", "current", theta=2, u0=[[[0, 1]]])
    graph = b.graph(b("count", "decode", b("pool1", "maxpool", "lif1", kernel=(1, 2))))
    x = {"x": np.array([[[[4, 4]]]], np.float32)}
    values: dict[str, Any] = {}
    reference.run(graph, x, record=values)
    assert values["lif1"][:, 0, 0, 0].T.tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]
    assert values["pool1"].reshape(-1).tolist() == [1, 0, 1, 0]
    assert trace(graph, x)["out_count"].reshape(-1).tolist() == [2]


def test_the_gradient_goes_to_the_position_that_wins() -> None:
    """Of the pooled count: 1 at every step of the window's winner, 0 elsewhere; of one step: where the maximum is."""
    b = Builder({"x": (1, 1, 3)}, 3)
    b("lif1", "lif", b("current", "encode", "x"), theta=1)
    graph = b.graph(b("count", "decode", b("pool1", "maxpool", "lif1", kernel=(1, 3))))
    spikes = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=torch.float32).reshape(3, 1, 1, 1, 3)
    spikes.requires_grad_()
    made = evaluate(graph["pool1"], [spikes], {}, 1, 3)
    assert made.reshape(-1).tolist() == [1, 0, 1]
    (of_total,) = torch.autograd.grad(made.sum(), spikes, retain_graph=True)
    assert of_total.reshape(3, 3).tolist() == [[0, 1, 0]] * 3
    (of_first,) = torch.autograd.grad(made[0].sum(), spikes)
    assert of_first.reshape(3, 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_training_reaches_the_layer_before() -> None:
    graph = pooled()
    params = tensors(graph)
    params["conv1.weight"].requires_grad_()
    x = {"x": to_tensor(integers(graph, 8)["x"])}
    forward(graph, params, x, width=4.0)["lif2"].square().sum().backward()  # type: ignore[no-untyped-call]
    grad = params["conv1.weight"].grad
    assert grad is not None
    assert grad.abs().sum() > 0


def test_what_it_costs() -> None:
    """A max pool passes events on: it is no neuron, needs no synapse, and hands on one spike at a time."""
    graph = pooled()
    x = integers(graph, 4)["x"]
    values: dict[str, Any] = {}
    reference.run(graph, {"x": x}, record=values)
    made = cost.measure(graph, None, x)
    assert made.neurons == 3 * 36 + 4 * 9
    assert made.spikes == (values["lif1"].sum() + values["lif2"].sum()) / 4
    there = np.count_nonzero(graph.params["conv2.weight"], axis=(0, 2, 3))
    assert made.synops == (values["pool1"].sum(axis=(0, 3, 4)) * there).sum() / 4
    assert made.fan_in == {"lif1": made.fan_in["lif1"], "lif2": int((graph.params["conv2.weight"] != 0).sum(1).max())}
    assert cost.multiplicity(graph, "pool1") == 1
    assert set(cost.macs(graph)) == {"conv1", "conv2"}


# --- lowering


def max_pooled(rng: np.random.Generator, *, fire: bool = False, commuted: bool = False) -> Graph:
    """conv, relu, pads, max pool, conv, relu, dense; a fire module of two scales before the pool (SqueezeNet)."""
    b = Builder({"x": (2, 6, 6)})
    b("conv1", "conv", "x", weight=rng.normal(size=(4, 2, 3, 3)), bias=rng.normal(size=4), pads=(1, 1, 1, 1))
    at = "conv1" if commuted else b("relu1", "relu", "conv1")
    if fire:
        b("relu3", "relu", b("conv3", "conv", "x", weight=9 * rng.normal(size=(4, 2, 1, 1))))
        at = b("both", "concat", at, "relu3")
    at = b("padded", "pad", at, pads=(0, 1, 1, 0, 1, 1), interior=(0, 0, 0)) if not commuted else at
    b("pool1", "maxpool", at, kernel=(3, 3), strides=(2, 2))
    at = b("relu9", "relu", "pool1") if commuted else "pool1"
    channels = 8 if fire else 4
    b("relu2", "relu", b("conv2", "conv", at, weight=rng.normal(size=(3, channels, 2, 2)) / 4, bias=[0.1, 0, -0.1]))
    graph = b.graph("relu2")
    size = int(np.prod(graph.type("relu2").shape))
    b("flat", "reshape", "relu2", shape=(size,))
    return b.graph(b("head", "dense", "flat", weight=rng.normal(size=(3, size))))


def lowered(graph: Graph, data: Data | None = None, **options: Any) -> Graph:
    ctx = Context(data or data_for(graph), graph)
    return BiasPerStep().run(ThresholdLayerNorm(**options).run(graph, ctx), ctx)


@pytest.mark.parametrize("fire", [False, True])
def test_a_max_pool_of_neurons_is_kept_and_its_worth_moves_behind(fire: bool) -> None:
    graph = max_pooled(np.random.default_rng(0), fire=fire)
    new = lowered(graph, steps=512, percentile=100.0)
    assert new.stage is Stage.SPIKING
    assert new.type("pool1").kind == "spikes"
    worths = [n for n in new.nodes if n.op == "scale" and new.params[n.inputs[1]].ndim == 0]
    assert [n.name for n in worths if float(new.params[n.inputs[1]]) != 1.0] == [], "all worth went into the weights"
    x = data_for(graph).train.x()
    wanted = run(graph, {"x": x})["out_head"]
    made = run(new, {"x": x})["out_head"]
    assert np.abs(made - wanted).max() < 0.03 * np.abs(wanted).max()
    assert "pool1.theta" not in new.params, "no neurons of its own"


def test_a_max_pool_behind_the_last_neurons_is_read_out_as_it_is() -> None:
    b = Builder({"x": (1, 4, 4)})
    graph = b.graph(b("pool1", "maxpool", b("relu1", "relu", b("conv1", "conv", "x", weight=np.ones((1, 1, 1, 1))))))
    new = lowered(graph, steps=64, percentile=100.0)
    x = data_for(graph).train.x()
    theta = float(new.params["relu1.theta"])
    np.testing.assert_allclose(
        run(new, {"x": x})["out_pool1"], run(graph, {"x": x})["out_pool1"], atol=theta / 2 + 1e-5
    )


def test_max_pools_of_max_pools_and_of_shared_neurons() -> None:
    rng = np.random.default_rng(1)
    b = Builder({"x": (2, 8, 8)})
    b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1))))
    b("twice", "maxpool", b("pool1", "maxpool", "relu1"))
    b("mean", "avgpool", b("also", "avgpool", "relu1"))
    b("flat", "reshape", b("sum", "add", "twice", "mean"), shape=(12,))
    graph = b.graph(b("head", "dense", "flat", weight=rng.normal(size=(3, 12))))
    new = lowered(graph, steps=512, percentile=100.0)
    x = data_for(graph).train.x()
    wanted = run(graph, {"x": x})["out_head"]
    np.testing.assert_allclose(run(new, {"x": x})["out_head"], wanted, atol=0.02 * np.abs(wanted).max())


def test_a_relu_behind_its_max_pool_is_first_moved_before() -> None:
    graph = max_pooled(np.random.default_rng(2), commuted=True)
    new = lowered(ReluBeforeMaxPool().run(graph, Context()), data_for(graph), steps=512, percentile=100.0)
    x = data_for(graph).train.x()
    wanted = run(graph, {"x": x})["out_head"]
    assert np.abs(run(new, {"x": x})["out_head"] - wanted).max() < 0.03 * np.abs(wanted).max()


def test_a_window_over_spikes_of_two_worths_is_refused() -> None:
    """Their counts do not compare: side by side along an axis of the image, not along the channels."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (2, 4, 4)})
    for i in (1, 2):
        b(f"relu{i}", "relu", b(f"conv{i}", "conv", "x", weight=i * rng.normal(size=(3, 2, 1, 1))))
    b("pool1", "maxpool", b("beside", "concat", "relu1", "relu2", axis=1))
    b("relu3", "relu", b("conv3", "conv", "pool1", weight=rng.normal(size=(3, 3, 1, 1))))
    graph = b.graph("relu3")
    with pytest.raises(GraphError, match="'maxpool' has no spiking form") as caught:
        lowered(graph)
    assert "try: run replace-max-pool before" in str(caught.value)


# --- a chip that cannot count in windows

CHIP = "separate-layers,pool-neurons,threshold-layernorm{steps=8},bias-per-step,quantize-weights{bits=4}"


def test_a_chip_without_max_pools_names_the_pass_that_replaces_them() -> None:
    graph = max_pooled(np.random.default_rng(0))
    made, _ = Pipeline.parse(CHIP)(graph, data=data_for(graph))
    with pytest.raises(TargetError, match=r"reads 'maxpool', not neurons: synapses do not chain") as caught:
        place(made)
    assert "try: run replace-max-pool before threshold-layernorm" in str(caught.value)


def test_in_a_read_out_the_host_takes_the_maximum_of_the_counts() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("pool1", "maxpool", b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1)))))
    b("flat", "reshape", "pool1", shape=(12,))
    graph = b.graph(b("head", "dense", "flat", weight=rng.normal(size=(3, 12))))
    made, _ = Pipeline.parse(CHIP)(graph, data=data_for(graph))
    placed = host_readout(made)
    assert placed.type("pool1").kind == "analog"
    x = integers(graph, 4)
    np.testing.assert_allclose(run(placed, x)["out_head"], run(made, x)["out_head"], rtol=1e-5, atol=1e-5)
    late = made.edit([n.with_attrs(skip=2) if n.op == "decode" else n for n in made.nodes])
    with pytest.raises(TargetError, match="a max pool in a delayed read-out"):
        host_readout(late)


def test_a_delay_of_the_read_out_goes_to_the_host() -> None:
    graph = lenet()
    text = CHIP.replace("steps=8", "steps=8 skip=2")
    made, _ = Pipeline.parse(f"fold-batchnorm,{text}")(graph, data=data_for(graph))
    placed, x = host_readout(made), integers(graph, 4)
    assert placed["relu2.count"].attrs == {"skip": 2}
    np.testing.assert_allclose(run(placed, x)["out_dense2"], run(made, x)["out_dense2"], rtol=1e-4, atol=1e-4)
