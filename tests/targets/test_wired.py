"""dynap-sim takes networks of any wiring: laid out, they compute what they did, spike for spike in every executor."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import TargetError
from snnc.ir import Constraint, Graph, Stage, verify
from snnc.pipeline import Context, Pipeline
from snnc.sim.reference import run
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.host import host_readout
from snnc.targets.dynap_sim.place import place
from snnc.targets.dynap_sim.unchain import unchained
from tests.graphs import Builder
from tests.sim.executors import by_reference, by_stepper, by_torch
from tests.targets.wired import WIRED, samples

TARGET = DynapSim(epochs=1, mismatch=0.0)


@cache
def constrained(net: str, reset: str = "zero") -> Graph:
    """As the target's own recipe leaves it."""
    return replace(TARGET, reset=reset).pipeline()(WIRED[net](), data=samples(net))[0]


@pytest.mark.parametrize(("reset", "least"), [("zero", 0.85), ("subtract", 0.97)])
@pytest.mark.parametrize("net", WIRED)
def test_the_default_recipe_takes_it_and_keeps_what_it_computes(net: str, reset: str, least: float) -> None:
    """As far as neurons can whose reset loses what is above the threshold, and those that keep it."""
    graph, snn = WIRED[net](), constrained(net, reset)
    assert all(f.ok for f in TARGET.findings(snn) if f.wall)
    x = samples(net).test.x()
    expected, made = (next(iter(run(g, {"x": x}).values())) for g in (graph, snn))
    assert np.corrcoef(expected.ravel(), made.ravel())[0, 1] > least


@pytest.mark.parametrize("net", WIRED)
def test_placed_it_computes_the_same(net: str) -> None:
    snn = constrained(net)
    placed = place(snn)
    verify(placed)
    assert placed.stage is Stage.PLACED
    x = samples(net).test.x()
    before, after = (next(iter(run(g, {"x": x}).values())) for g in (snn, placed))
    assert np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)
    spoken = {n.op for n in placed.nodes if n.type.kind == "current" and placed.feeds(n.name, "lif")}
    assert not spoken & {"conv", "avgpool", "mix"}


@pytest.mark.parametrize("net", WIRED)
def test_all_executors_agree_spike_for_spike_on_the_placed_network(net: str) -> None:
    placed, x = place(constrained(net)), {"x": samples(net).test.x()[:8]}
    expected = by_reference(placed, x)
    for other in (by_torch(placed, x), by_stepper(placed, x)):
        for name in [n.name for n in placed.nodes if n.op == "lif"]:
            np.testing.assert_array_equal(other[name], expected[name], err_msg=name)


@pytest.mark.parametrize("net", WIRED)
def test_unchaining_is_an_identity(net: str) -> None:
    """Before anything is snapped to the chip's grid: the same drive, up to float32."""
    snn = constrained(net)
    alone = unchained(snn)
    verify(alone)
    assert unchained(alone) is alone
    x = {"x": samples(net).test.x()}
    before, after = (next(iter(run(g, x).values())) for g in (snn, alone))
    assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)
    verify(host_readout(alone))


@pytest.mark.parametrize("net", ["one_dimensional", "joined", "leaky", "split"])
def test_a_chip_learns_through_wires(net: str) -> None:
    snn, data = constrained(net), samples(net)
    chip = DynapSim(mismatch=0.3, rate=0.1).compile(snn).load(2)
    before = chip.run(data.test.x())
    chip.calibrate(data)
    after = chip.run(data.test.x())
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert all(np.isfinite(array).all() for array in after.values())


def chip_form(build: Builder, *outputs: str) -> Graph:
    """A spiking graph with every weight of more than one number quantized to its own integers."""
    graph = build.graph(*outputs)
    grids = {
        name: Constraint(5, np.ones((len(array), *[1] * (array.ndim - 1)), np.float32))
        for name, array in graph.params.items()
        if name.endswith(".weight")
    }
    return graph.edit(constraints=grids, stage=Stage.CONSTRAINED)


@st.composite
def chained(draw: st.DrawFn) -> Graph:
    """Neurons, then wires, scales and sums of integers in any order, a layer, and again such, onto neurons.

    Scales are powers of two, so that no unit rounds.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    b = Builder({"x": (2, 4, 4)}, 4)
    b("current", "encode", "x", code="first-step")
    for i in (0, 1):
        b(f"in{i}", "conv", "current", weight=rng.integers(-3, 4, (2, 2, 1, 1)))
        b(f"lif{i}", "lif", f"in{i}", theta=4, u0=1)
    sources = [
        b("worth0", "scale", "lif0", factor=draw(st.sampled_from([1, 2, -2]))),
        b("worth1", "scale", "lif1", factor=draw(st.sampled_from([1, 4, -1]))),
    ]
    join = draw(st.sampled_from(["add", "concat", "one"]))
    at = sources[0] if join == "one" else b("join", join, *sources, **({"axis": 0} if join == "concat" else {}))
    channels = 4 if join == "concat" else 2
    for i, wire in enumerate(draw(st.lists(st.sampled_from(["transpose", "slice", "pad", "scale"]), max_size=2))):
        if wire == "transpose":
            at = b(f"wire{i}", wire, at, perm=(0, 2, 1))
        elif wire == "slice":
            at = b(f"wire{i}", wire, at, starts=(0, 3, 0), sizes=(channels, 4, 4), steps=(1, -1, 1))
        elif wire == "pad" and f"wire{i - 1}" not in [n.name for n in b.nodes if n.op == "pad"]:
            padded = b(f"wide{i}", "pad", at, pads=(0, 1, 0, 0, 0, 1), interior=(0, 0, 0))
            at = b(f"wire{i}", "slice", padded, starts=(0, 0, 0), sizes=(channels, 4, 4), steps=(1, 1, 1))
        else:
            at = b(f"wire{i}", "scale", at, factor=draw(st.sampled_from([2, -1])))
    bias = {"bias": rng.integers(-2, 3, 3), "bias_at": "per-step"} if draw(st.booleans()) else {}
    at = b("layer", "conv", at, weight=rng.integers(-3, 4, (3, channels, 3, 3)), pads=(1, 1, 1, 1), **bias)
    if draw(st.booleans()):
        at = b("line", "reshape", at, shape=(3, 16))
        at = b("norm", "scale", at, factor=[1, -2, 4], bias=[1, 0, -1], bias_at="per-step")
    elif draw(st.booleans()):
        at = b("norm", "scale", at, factor=[2, 1, -1])
    b("lif2", "lif", at, theta=16, u0=8)
    return chip_form(b, b("count", "decode", "lif2"))


@given(chained(), st.integers(0, 2**16))
def test_chains_of_integers_come_out_spike_for_spike(graph: Graph, seed: int) -> None:
    x = {"x": np.random.default_rng(seed).integers(-4, 9, (4, 2, 4, 4)).astype(np.float32)}
    expected = by_reference(graph, x)["lif2"]
    placed = place(graph)
    np.testing.assert_array_equal(by_reference(placed, x)["lif2"], expected)
    np.testing.assert_array_equal(by_stepper(placed, x)["lif2"], expected)


def refused(build: Builder, *outputs: str) -> str:
    with pytest.raises(TargetError) as caught:
        place(chip_form(build, *outputs))
    return str(caught.value)


def started() -> Builder:
    b = Builder({"x": (2, 4, 4)}, 4)
    b("current", "encode", "x", code="first-step")
    b("lif1", "lif", b("conv1", "conv", "current", weight=np.ones((2, 2, 1, 1))))
    return b


def test_what_has_no_form_is_refused_by_name() -> None:
    b = started()
    b("conv2", "conv", "lif1", weight=np.ones((2, 2, 1, 1)))
    b("conv3", "conv", "conv2", weight=np.ones((2, 2, 1, 1)))
    text = refused(b, b("count", "decode", b("lif2", "lif", "conv3")))
    assert text.startswith("reads 'conv', not neurons: synapses do not chain\n  at: conv3 (conv)")
    b = started()
    b("mix2", "mix", "lif1", weight=np.ones((4, 4)), axis=1)
    b("conv3", "conv", "mix2", weight=np.ones((2, 2, 1, 1)))
    assert "reads 'mix', not neurons" in refused(b, b("count", "decode", b("lif2", "lif", "conv3")))
    b = started()
    b("conv2", "conv", "lif1", weight=np.ones((2, 2, 1, 1)))
    b("crop", "slice", "conv2", starts=(0, 0, 0), sizes=(2, 2, 2), steps=(1, 1, 1))
    text = refused(b, b("count", "decode", b("lif2", "lif", "crop")))
    assert text.startswith("'slice' stands between synapses and neurons\n  at: crop (slice)")


def test_a_worth_per_channel_that_no_grid_holds_is_refused() -> None:
    b = started()
    b("worth", "scale", "lif1", factor=[1.0, 2.5])
    b("conv2", "conv", "worth", weight=np.ones((2, 2, 1, 1)))
    text = refused(b, b("count", "decode", b("lif2", "lif", "conv2")))
    assert "reads 'scale', not neurons" in text
    assert "at: conv2 (conv)" in text


def test_linear_layers_get_neurons_from_the_recipe() -> None:
    """Two layers without an activation between them (a transposed convolution, a bottleneck) are separated."""
    b = Builder({"x": (2, 4, 4)})
    rng = np.random.default_rng(0)
    b("relu1", "relu", b("conv1", "conv", "x", weight=rng.normal(size=(3, 2, 1, 1))))
    b("conv2", "conv", "relu1", weight=rng.normal(size=(2, 3, 1, 1)))
    b("relu3", "relu", b("conv3", "conv", "conv2", weight=rng.normal(size=(3, 2, 1, 1))))
    graph = b.graph(b("out", "dense", b("flat", "reshape", "relu3", shape=(48,)), weight=rng.normal(size=(3, 48))))
    separated = Pipeline.parse("separate-layers").passes[0].run(graph, Context())
    assert {"conv2", "conv2.off"} <= {n.name for n in separated.nodes if n.op == "relu"}
