"""Streams of events: every executor alike, totals where values are analog, and a conversion that keeps the accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import snnc
from snnc.data import Data, Scaling, Split
from snnc.errors import DataError, GraphError, PipelineError
from snnc.ir import Array, Graph, to_text, verify
from snnc.passes import QuantizeNeurons, ThresholdLayerNorm
from snnc.pipeline import Context, Pipeline
from snnc.sim import bounds, cost, reference
from snnc.sim.diagnosis import diagnose
from snnc.sim.encoding import totals
from snnc.sim.judge import accuracy
from snnc.sim.torch import forward, run, tensors, to_tensor
from snnc.targets import DynapSim
from tests.events import STEPS, data, recordings, trained
from tests.graphs import Builder, spiking, spiking_graphs
from tests.sim.executors import EXECUTORS, by_reference


def events(graph: Graph, count: int, seed: int = 0, steps: int = 0) -> dict[str, Array]:
    """Random counts of events [count, T, ...] by input name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.poisson(0.7, (count, steps or graph.steps, *kind.shape)).astype(np.float32)
        for name, kind in graph.inputs.items()
    }


def by_events(graph: Graph) -> Graph:
    """The same with its input as a stream."""
    nodes = [n.with_attrs(code="events") if n.op == "encode" else n for n in graph.nodes]
    made = graph.edit(nodes)
    verify(made)
    return made


@settings(max_examples=30)
@given(spiking_graphs(), st.integers(0, 2**16))
def test_every_spike_of_random_integer_networks(graph: Graph, seed: int) -> None:
    graph = by_events(graph)
    x = events(graph, 3, seed)
    expected = by_reference(graph, x)
    for name, other in EXECUTORS.items():
        for key, array in other(graph, x).items():
            np.testing.assert_array_equal(array, expected[key], err_msg=f"{name}: {key}")


def test_the_current_is_the_stream_itself() -> None:
    graph = by_events(spiking("direct", STEPS))
    x = events(graph, 3)
    record: dict[str, Array] = {}
    reference.run(graph, x, record)
    np.testing.assert_array_equal(record["current"], x["image"].transpose(1, 0, 2, 3, 4))
    np.testing.assert_array_equal(record["image"], x["image"].sum(1))
    assert 0.02 < record["relu1"].mean() < 0.9


def test_events_that_come_otherwise_make_other_spikes() -> None:
    """Their order matters, and a constant stream is direct coding."""
    graph = by_events(spiking("direct", STEPS))
    x = events(graph, 3)
    back = {"image": x["image"][:, ::-1].copy()}
    assert (by_reference(graph, x)["relu1"] != by_reference(graph, back)["relu1"]).any()
    even = np.repeat(8.0 * x["image"][:, :1], STEPS, axis=1)
    direct = by_reference(spiking("direct", STEPS), {"image": even.sum(1)})
    for name, array in by_reference(graph, {"image": even}).items():
        np.testing.assert_array_equal(array, direct[name], err_msg=name)


@pytest.mark.parametrize("code", ["direct", "first-step", "rate"])
def test_other_codes_see_the_total(code: str) -> None:
    graph = spiking("direct", STEPS)
    chance = {"seed": 1, "max": 9.0} if code == "rate" else {}
    graph = graph.edit([n.with_attrs(code=code, **chance) if n.op == "encode" else n for n in graph.nodes])
    x = events(graph, 4)
    for name, trace in EXECUTORS.items():
        made = trace(graph, x)
        wanted = by_reference(graph, x if code == "rate" else {"image": x["image"].sum(1)})
        for key, array in made.items():
            np.testing.assert_array_equal(array, wanted[key], err_msg=f"{name}: {key}")


@pytest.mark.parametrize("executor", ["reference", "torch"])
def test_simulate_takes_streams_and_refuses_other_lengths(executor: str) -> None:
    graph = by_events(spiking("direct", STEPS))
    x = events(graph, 2)["image"]
    made = snnc.simulate(graph, x, executor)  # type: ignore[arg-type]
    np.testing.assert_array_equal(made, by_reference(graph, {"image": x})["out_scores"])
    with pytest.raises(DataError, match=r"input 'image' has shape \[2, 7, 2, 6, 6\], not \[N, 8, 2, 6, 6\]"):
        snnc.simulate(graph, x[:, :7], executor)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"input 'image' has shape \[2, 2, 6, 6\], not \[N, 8, 2, 6, 6\]"):
        snnc.simulate(graph, x[:, 0], executor)  # type: ignore[arg-type]


def test_executors_themselves_refuse_other_lengths() -> None:
    graph = by_events(spiking("direct", STEPS))
    for trace in EXECUTORS.values():
        with pytest.raises(DataError, match=r"takes events \[N, 8, 2, 6, 6\], not \[N, 5, 2, 6, 6\]"):
            trace(graph, events(graph, 2, steps=5))
        with pytest.raises(DataError, match=r"takes events \[N, 8, 2, 6, 6\], not \[N, 2, 6, 6\]"):
            trace(graph, {"image": events(graph, 2)["image"][:, 0]})


def test_gradients_reach_every_event() -> None:
    b = Builder({"x": (3,)}, 4)
    b("dense1", "dense", b("current", "encode", "x", code="events"), weight=[[1, 2, 3]])
    graph = b.graph(b("y", "decode", "dense1"))
    x = to_tensor(events(graph, 2)["x"]).requires_grad_()
    (grad,) = torch.autograd.grad(forward(graph, tensors(graph), {"x": x})["y"].sum(), x)
    np.testing.assert_array_equal(grad, np.tile(np.array([1, 2, 3]), (2, 4, 1)))


def test_synaptic_operations_are_counted_where_events_come() -> None:
    """Every value that is not 0 goes to every neuron that reads it; no multiplication is done by the input layer."""
    b = Builder({"x": (3,)}, 4)
    b("lif", "lif", b("dense", "dense", b("current", "encode", "x", code="events"), weight=np.ones((5, 3))), theta=1e9)
    graph = b.graph(b("y", "decode", "lif"))
    x = np.zeros((2, 4, 3), np.float32)
    x[0, 0, 0], x[0, 3, 2], x[1, 1, 1] = 1, 4, 1
    found = cost.measure(graph, None, x)
    assert (found.synops, found.input_macs) == (3 * 5 / 2, 0)


def test_bounds_hold_what_events_of_one_step_can_charge() -> None:
    """Five events on both synapses at every step: 15 a step, and one threshold less after each."""
    b = Builder({"x": (2,)}, 4)
    b("lif", "lif", b("dense", "dense", b("current", "encode", "x", code="events"), weight=[[2, 1]]), theta=1)
    graph = b.graph(b("y", "decode", "lif"))
    assert 4 * 15 - 3 <= bounds.accumulators(graph, 5.0)["lif"].highest <= 4 * 15


# --- a network that was trained on totals


@pytest.fixture(scope="module")
def ann() -> Graph:
    return trained(data().train)


def share(graph: Graph, split: Split) -> float:
    return accuracy(np.asarray(snnc.simulate(graph, split.x(), "torch")), split.labels)


def test_the_network_of_events_keeps_the_accuracy(ann: Graph) -> None:
    """The teacher is judged on totals by the pipeline itself; the layers have its activations as their targets."""
    samples = data()
    recipe = Pipeline.parse(f"threshold-layernorm{{steps={STEPS} code=events}},bias-per-step")
    snn, ledger = recipe(ann, data=samples)
    best = share(ann, samples.test)
    assert best > 0.9
    assert best == accuracy(np.asarray(snnc.simulate(ann, samples.test.x().sum(1), "torch")), samples.test.labels)
    assert share(snn, samples.test) > best - 0.05
    assert snn["image.current"].attrs["code"] == "events"
    assert ledger.rows[-1].accuracy == share(snn, samples.validation)
    assert ledger.rows[-1].error["relu1"] < 0.3


def test_learning_and_refining_run_on_streams(ann: Graph) -> None:
    samples = data()
    recipe = Pipeline.parse(
        f"threshold-layernorm{{steps={STEPS} code=events}},bias-per-step,refine-thresholds,"
        "limit-fan-in{k=40 samples=100},quantize-weights,ltl{epochs=2}"
    )
    snn, ledger = recipe(ann, data=samples)
    assert share(snn, samples.test) > share(ann, samples.test) - 0.05
    assert [row.step.partition("{")[0] for row in ledger.rows][-1] == "ltl"


def test_the_diagnosis_compares_with_the_teacher_on_totals(ann: Graph) -> None:
    samples = data()
    snn, _ = Pipeline.parse(f"threshold-layernorm{{steps={STEPS} code=events}},bias-per-step")(ann, data=samples)
    found = diagnose(snn, ann, samples.test.x(), samples.test.labels)
    assert found.teacher == share(ann, samples.test)
    assert found.network == share(snn, samples.test)
    assert found.remaining_error < 0.05


def test_chips_run_and_learn_on_streams(ann: Graph) -> None:
    samples = data()
    target = DynapSim(steps=STEPS, epochs=1, code="events", mismatch=0.3)
    snn, _ = target.pipeline()(ann, data=samples)
    perfect = replace(target, mismatch=0.0).compile(snn).load(0)
    assert accuracy(perfect.run(samples.test.x())["out_dense2"], samples.test.labels) == share(snn, samples.test)
    chip = target.compile(snn).load(3)
    before = accuracy(chip.run(samples.test.x())["out_dense2"], samples.test.labels)
    chip.calibrate(samples)
    after = accuracy(chip.run(samples.test.x())["out_dense2"], samples.test.labels)
    assert after >= before - 0.03
    assert after > share(snn, samples.test) - 0.1
    with pytest.raises(snnc.errors.TargetError, match=r"samples of shape \[8, 2, 6, 6\], not \[7, 2, 6, 6\]"):
        chip.run(samples.test.x()[:, 1:])


def test_integers_are_proved_for_the_events_of_one_step(ann: Graph) -> None:
    samples = data()
    recipe = f"threshold-layernorm{{steps={STEPS} code=%s}},bias-per-step,quantize-weights"
    for code in ("events", "direct"):
        if code == "direct":
            parts = (samples.train, samples.validation, samples.test)
            samples = Data(*(Split(part.raw.sum(1), part.labels) for part in parts))
        snn, _ = Pipeline.parse(recipe % code)(ann, data=samples)
        ctx = Context(samples, ann)
        QuantizeNeurons().run(snn, ctx)
        x = samples.train.x()
        most = x.max()
        assert ctx.notes[-1].startswith(f"inputs up to {most:g}: ")


def test_streams_of_another_length_are_refused(ann: Graph) -> None:
    with pytest.raises(PipelineError) as caught:
        ThresholdLayerNorm(steps=5, code="events").run(ann, Context(data(), ann))
    assert "has steps=5, the samples are streams of 8 steps\n  try: steps=8" in str(caught.value)


def test_images_are_no_streams(ann: Graph) -> None:
    still = Split(recordings(20).raw.sum(1), recordings(20).labels)
    with pytest.raises(PipelineError, match=r"code=events needs samples \[T, 2, 6, 6\], not \[2, 6, 6\]"):
        ThresholdLayerNorm(steps=5, code="events").run(ann, Context(Data(still, still, still), ann))


def test_direct_coding_of_a_stream_is_refused(ann: Graph) -> None:
    """Colour images for a grey network look like a stream: nobody wants the sum of red, green and blue unasked."""
    with pytest.raises(PipelineError, match=r"streams of 8 steps for the input '\w+' \[2, 6, 6\]") as caught:
        ThresholdLayerNorm(steps=16).run(ann, Context(data(), ann))
    assert "code=events steps=8 for recordings" in str(caught.value)


def test_an_axis_of_length_1_is_no_matter(ann: Graph) -> None:
    still, single = recordings(200), recordings(200).raw.sum(1)
    made = [
        ThresholdLayerNorm(steps=16).run(ann, Context(Data(split, split, split), ann))
        for split in (Split(single, still.labels), Split(single[:, None], still.labels))
    ]
    assert to_text(made[0]) == to_text(made[1])


def test_what_is_linear_before_the_first_layer_runs_step_by_step(ann: Graph) -> None:
    """Exactly so: a channel-last layout, a scale with an offset, and a constant that is added."""
    b = Builder({"image": (6, 6, 2)})
    b("turned", "transpose", "image", perm=(2, 0, 1))
    b("norm", "scale", "turned", factor=[0.5, 2.0], bias=[0.25, -0.5])
    b("offset", "constant", value=np.full((2, 6, 6), 0.125))
    b("sum", "add", "norm", "offset")
    b("relu1", "relu", b("conv1", "conv", "sum", weight=ann.params["conv1.weight"], bias=ann.params["conv1.bias"]))
    b("flat", "reshape", "relu1", shape=(64,))
    graph = b.graph(b("dense1", "dense", "flat", weight=np.ones((4, 64))))
    split = recordings(60)
    split = Split(split.raw.transpose(0, 1, 3, 4, 2), split.labels)
    samples = Data(split, split, split)
    snn, _ = Pipeline.parse(f"threshold-layernorm{{steps={STEPS} code=events}},bias-per-step")(graph, data=samples)
    assert {n.inputs[0]: n.attrs["code"] for n in snn.nodes if n.op == "encode"} == {
        "image": "events",
        "offset": "direct",
    }
    record, wanted = dict[str, Array](), dict[str, Array]()
    reference.run(snn, {"image": split.x()}, record)
    reference.run(graph, {"image": split.x()}, wanted)
    np.testing.assert_allclose(record["conv1"].sum(0), wanted["conv1"], atol=1e-5)


def test_what_is_not_linear_before_the_first_layer_is_refused(ann: Graph) -> None:
    b = Builder({"image": (2, 6, 6)})
    b("relu1", "relu", b("conv1", "conv", b("squashed", "tanh", "image"), weight=ann.params["conv1.weight"]))
    graph = b.graph(b("dense1", "dense", b("flat", "reshape", "relu1", shape=(64,)), weight=np.ones((4, 64))))
    with pytest.raises(GraphError) as caught:
        ThresholdLayerNorm(steps=STEPS, code="events").run(graph, Context(data(), graph))
    assert "'tanh' has no spiking form" in str(caught.value)
    assert "try: the host computes it of totals: code=direct" in str(caught.value)


def test_data_are_checked_against_the_network(ann: Graph) -> None:
    samples = data()
    samples.check(ann)
    snn, _ = Pipeline.parse(f"threshold-layernorm{{steps={STEPS} code=events}}")(ann, data=samples)
    samples.check(snn)
    short = replace(samples, test=Split(samples.test.raw[:, :5], samples.test.labels))
    short.check(ann)
    with pytest.raises(DataError, match=r"test samples have shape \[5, 2, 6, 6\], input 'image' takes \[8, 2, 6, 6\]"):
        short.check(snn)
    for scaling in (Scaling(1.0, (0.5,)), Scaling(1.0, (0.0,), (1.0, 2.0))):
        scaled = replace(samples, train=replace(samples.train, scaling=scaling))
        with pytest.raises(DataError, match="train samples are streams of events, which are scaled by one factor only"):
            scaled.check(ann)
    replace(samples, train=replace(samples.train, scaling=Scaling(0.5, (0.0,), (2.0,)))).check(ann)


def test_totals_are_taken_once() -> None:
    graph = spiking("direct", STEPS)
    x = events(graph, 2)
    once = totals(graph, x)
    np.testing.assert_array_equal(once["image"], x["image"].sum(1))
    assert totals(graph, once)["image"] is once["image"]
    np.testing.assert_array_equal(run(graph, x)["out_scores"], run(graph, once)["out_scores"])
