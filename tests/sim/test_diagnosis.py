"""A diagnosis names the cause that was planted, and the layer; its shares sum to the error, its gains to the drop."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from snnc.data import Data, Split
from snnc.errors import GraphError
from snnc.ir import Array, Constraint, Graph, Stage
from snnc.pipeline import Pipeline
from snnc.sim.diagnosis import diagnose
from snnc.sim.findings import Diagnosis
from snnc.sim.judge import layer_errors
from snnc.sim.reference import run
from snnc.sim.twins import Cause
from snnc.targets import DynapSim
from tests.graphs import Builder, data_for, lenet, residual
from tests.targets import wired
from tests.targets.wired import WIRED, Net

LAYER = "relu2"
"""Where every fault is planted: the middle one of three."""


def dense() -> Graph:
    """Three layers of 16 neurons and a read-out."""
    b = Net(20)
    at, inner = "x", 20
    for i in (1, 2, 3):
        at, inner = b(f"relu{i}", "relu", b.dense(f"layer{i}", at, 16, inner)), 16
    return b.graph(b.dense("out", at, 4, inner))


def convolutional() -> Graph:
    """Three convolutions, strides and groups among them, and a read-out."""
    b = Net(2, 8, 8)
    b("relu1", "relu", b.conv("layer1", "x", 8, 2))
    b("relu2", "relu", b.conv("layer2", "relu1", 8, 8, strides=(2, 2)))
    b("relu3", "relu", b.conv("layer3", "relu2", 8, 8, group=2))
    flat = b("flat", "reshape", "relu3", shape=(128,))
    return b.graph(b.dense("out", flat, 4, 128))


NETS: dict[str, Callable[[], Graph]] = {"dense": dense, "convolutional": convolutional}


def drawn(graph: Graph, count: int = 160) -> Data:
    """Random samples, labelled by the network."""
    (kind,) = graph.inputs.values()
    x = np.random.default_rng(5).uniform(0, 1, (count, *kind.shape)).astype(np.float32)
    (scores,) = run(graph, {"x": x}).values()
    split = Split(x, scores.argmax(1).astype(np.int64))
    return Data(split, split, split)


def lowered(graph: Graph, steps: int = 48) -> Graph:
    """With neurons, and enough steps."""
    recipe = Pipeline.parse(f"threshold-layernorm{{steps={steps} percentile=100}},bias-per-step")
    return recipe(graph, data=drawn(graph))[0]


def changed(snn: Graph, **params: Array) -> Graph:
    return snn.edit(params={name.replace("__", "."): np.asarray(p, np.float32) for name, p in params.items()})


def threshold_too_low(graph: Graph) -> tuple[Graph, Graph]:
    """A threshold at a quarter; the weights behind are told what a spike is worth now."""
    snn, low = lowered(graph), np.float32(0.25)
    p = snn.params
    return graph, changed(
        snn, relu2__theta=low * p["relu2.theta"], relu2__u0=low * p["relu2.u0"],
        layer3__weight=low * p["layer3.weight"],
    )  # fmt: skip


def too_few_steps(graph: Graph) -> tuple[Graph, Graph]:
    """One channel of the layer is 12 times the others: what is a whole spike for it is more than they ever reach."""
    weight, bias = graph.params["layer2.weight"].copy(), graph.params["layer2.bias"].copy()
    behind = graph.params["layer3.weight"].copy()
    weight[0], bias[0] = 12 * np.abs(weight[0]), 0
    behind[:, 0] /= 12
    graph = changed(graph, layer2__weight=weight, layer2__bias=bias, layer3__weight=behind)
    return graph, lowered(graph, 12)


def channel_killed(graph: Graph) -> tuple[Graph, Graph]:
    """Two strong channels of the layer have lost their weights and never spike."""
    snn, dead = lowered(graph), list(strongest(graph))
    weight, bias = snn.params["layer2.weight"].copy(), snn.params["layer2.bias"].copy()
    weight[dead], bias[dead] = 0, -0.01
    return graph, changed(snn, layer2__weight=weight, layer2__bias=bias)


def strongest(graph: Graph) -> tuple[int, int]:
    """The two channels of the layer that the teacher uses most, in order."""
    seen = graph.edit(outputs={"y": LAYER})
    (y,) = run(seen, {"x": drawn(graph).test.x()}).values()
    a, b = np.argsort(y.reshape(len(y), y.shape[1], -1).sum((0, 2)))[-2:]
    return min(a, b), max(a, b)


def two_bits(graph: Graph) -> tuple[Graph, Graph]:
    """Weights of the layer at -s, 0 and s."""
    snn = lowered(graph)
    weight = snn.params["layer2.weight"]
    grid = Constraint(2, np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) * 0.7)
    return graph, limited(snn, grid)


def over_pruned(graph: Graph) -> tuple[Graph, Graph]:
    """A quarter of the connections is left, the largest; 8 bits each."""
    snn = lowered(graph)
    weight = snn.params["layer2.weight"]
    rows = np.abs(weight).reshape(len(weight), -1)
    mask = rows >= np.sort(rows, axis=1)[:, -max(1, rows.shape[1] // 4)][:, None]
    scale = rows.max(axis=1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
    return graph, limited(snn, Constraint(8, scale, mask.reshape(weight.shape)))


def limited(snn: Graph, limit: Constraint) -> Graph:
    weight = limit.project(snn.params["layer2.weight"])
    return snn.edit(
        params={"layer2.weight": weight}, constraints={"layer2.weight": limit}, stage=Stage.CONSTRAINED
    )  # fmt: skip


PLANTED: dict[Cause, Callable[[Graph], tuple[Graph, Graph]]] = {
    Cause.CLIPPED: threshold_too_low,
    Cause.STEPS: too_few_steps,
    Cause.DEAD: channel_killed,
    Cause.BITS: two_bits,
    Cause.PRUNED: over_pruned,
}


def found(teacher: Graph, snn: Graph) -> Diagnosis:
    samples = drawn(teacher).test
    return diagnose(snn, teacher, samples.x(), samples.labels)


@cache
def planted(net: str, cause: Cause) -> Diagnosis:
    return found(*PLANTED[cause](NETS[net]()))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("cause", PLANTED)
def test_the_planted_cause_and_its_layer_come_first(net: str, cause: Cause) -> None:
    made = planted(net, cause)
    assert (made.worst, made.cause) == (LAYER, cause)
    assert made[LAYER].shares[cause] > 0.5
    assert made.advice
    assert made.advice[0].after < 0.8 * made.advice[0].before


WORDS = {
    Cause.CLIPPED: "percentile=100",
    Cause.STEPS: "steps=24",
    Cause.DEAD: "channel",
    Cause.BITS: "bits=3",
    Cause.PRUNED: "k=8",
}


@pytest.mark.parametrize("cause", PLANTED)
def test_the_first_advice_is_the_setting_of_the_cause(cause: Cause) -> None:
    assert WORDS[cause] in planted("dense", cause).advice[0].text


@pytest.mark.parametrize("net", NETS)
def test_dead_channels_are_named(net: str) -> None:
    assert planted(net, Cause.DEAD)[LAYER].dead == strongest(NETS[net]())
    assert planted(net, Cause.STEPS)[LAYER].dead == ()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("cause", PLANTED)
def test_switching_the_planted_cause_off_brings_the_output_back(net: str, cause: Cause) -> None:
    """Off in that layer alone, a good part of the output's error goes: more than for any other cause."""
    made = planted(net, cause)
    gain = next(g for g in made.single if (g.what, g.layer) == (cause, LAYER))
    assert gain.error > 0.4 * made.output_error
    assert gain.error > max(g.error for g in made.gains if g.what != cause)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("cause", PLANTED)
def test_shares_sum_to_the_error_and_gains_to_the_drop(net: str, cause: Cause) -> None:
    made = planted(net, cause)
    for row in made.rows:
        assert sum(row.shares.values()) == pytest.approx(1, abs=1e-5)
    gains = sum(gain.value for gain in made.in_turn)
    assert made.network + gains + made.remainder == pytest.approx(made.teacher)
    assert sum(gain.error for gain in made.in_turn) + made.remaining_error == pytest.approx(made.output_error)
    assert made.remaining_error < 1e-3  # with all causes off, it is the teacher
    assert made.remainder == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("net", NETS)
def test_a_clean_network_has_next_to_no_error(net: str) -> None:
    graph = NETS[net]()
    made = found(graph, lowered(graph, 256))
    assert all(row.own < 0.02 for row in made.rows)
    assert made.network > 0.97


def test_errors_are_those_of_the_ledger() -> None:
    graph = dense()
    snn = lowered(graph, 8)
    x = drawn(graph).test.x()[:64]
    expected = layer_errors(snn, graph, x)
    made = diagnose(snn, graph, x)
    assert {row.name: row.error for row in made.rows} == pytest.approx(expected, rel=1e-5)


def test_the_first_layer_of_direct_code_has_neither_timing_nor_inherited_errors() -> None:
    first = planted("dense", Cause.BITS)["relu1"]
    assert first.shares[Cause.TIMING] == first.shares[Cause.INHERITED] == 0


def test_a_layer_behind_the_fault_inherits_it() -> None:
    made = planted("dense", Cause.BITS)
    assert made["relu3"].shares[Cause.INHERITED] > 0.8
    assert made["relu3"].own < 0.3 * made["relu3"].error


def test_biases_at_the_first_step_are_timing() -> None:
    graph = dense()
    early = Pipeline.parse("threshold-layernorm{steps=16 percentile=100}")(graph, data=drawn(graph))[0]
    assert found(graph, early).cause is Cause.TIMING


def test_an_input_coded_by_chance_is_timing() -> None:
    """Rate coding (a share of what is encoded falls on other steps, or away); switched off, nothing of it is left."""
    graph = dense()
    coded = Pipeline.parse("threshold-layernorm{steps=16 percentile=100 code=rate},bias-per-step")
    made = found(graph, coded(graph, data=drawn(graph))[0])
    assert made.cause is Cause.TIMING
    assert made["relu1"].shares[Cause.TIMING] > 0.8
    assert abs(made.remaining_error) < 1e-3


def test_a_leak_is_named() -> None:
    graph = dense()
    leaky = Pipeline.parse("threshold-layernorm{steps=16 percentile=100 alpha=0.8},bias-per-step")
    assert found(graph, leaky(graph, data=drawn(graph))[0]).cause is Cause.LEAK


def test_a_moved_bias_and_moved_weights_are_named() -> None:
    graph = dense()
    snn = lowered(graph)
    moved = changed(snn, layer2__bias=snn.params["layer2.bias"] + np.float32(0.01))
    assert (found(graph, moved).worst, found(graph, moved).cause) == (LAYER, Cause.BIAS)
    moved = changed(snn, layer2__weight=snn.params["layer2.weight"] * np.float32(0.6))
    assert (found(graph, moved).worst, found(graph, moved).cause) == (LAYER, Cause.WEIGHTS)


def test_a_bias_that_is_gone_is_named() -> None:
    """Folded into gains, which are no bias: what is left is the bias', not another function."""
    graph = dense()
    folded = Pipeline.parse("threshold-layernorm{steps=64 percentile=100},bias-per-step,limit-biases{method=fold}")
    made = found(graph, folded(graph, data=drawn(graph))[0])
    assert made.cause is Cause.BIAS
    assert all(layer.shares.get(Cause.FUNCTION, 0) == 0 for layer in (made["relu1"], made["relu2"]))


def test_what_no_rounding_explains_is_not_blamed_on_bits() -> None:
    """Weights on a grid of 6 bits, then moved by three levels: the bits are not what is wrong."""
    graph = dense()
    snn = lowered(graph)
    weight = snn.params["layer2.weight"]
    grid = Constraint(6, np.abs(weight).max(axis=1, keepdims=True) / 25)
    moved = changed(snn, layer2__weight=weight + 3 * np.asarray(grid.scale))
    made = found(graph, limited(moved, grid))
    assert (made.worst, made.cause) == (LAYER, Cause.WEIGHTS)
    assert made[LAYER].shares[Cause.BITS] < 0.3


def test_a_max_pool_that_became_an_average_is_named() -> None:
    b = Net(2, 8, 8)
    b("pool", "maxpool", b("relu1", "relu", b.conv("layer1", "x", 8, 2)))
    flat = b("flat", "reshape", b("relu2", "relu", b.conv("layer2", "pool", 8, 8)), shape=(128,))
    graph = b.graph(b.dense("out", flat, 4, 128))
    recipe = Pipeline.parse("replace-max-pool,threshold-layernorm{steps=32 percentile=100},bias-per-step")
    made = found(graph, recipe(graph, data=drawn(graph))[0])
    assert (made.worst, made.cause) == ("pool", Cause.POOLING)


def test_twice_the_same() -> None:
    first = json.dumps(found(*two_bits(dense())).to_json())
    assert first == json.dumps(found(*two_bits(dense())).to_json())


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = planted("convolutional", Cause.PRUNED)
    monkeypatch.setattr("snnc.sim.probe.CHUNK", 7)
    made = found(*over_pruned(convolutional()))
    assert (made.worst, made.cause) == (expected.worst, expected.cause)
    for row in made.rows:
        assert row.error == pytest.approx(expected[row.name].error, rel=1e-4)


def test_without_labels_the_teacher_is_right() -> None:
    graph, snn = two_bits(dense())
    made = diagnose(snn, graph, drawn(graph).test.x())
    assert made.teacher == 1
    assert not made.labelled


@pytest.mark.parametrize("net", WIRED)
def test_networks_of_any_wiring_are_explained(net: str) -> None:
    graph, data = WIRED[net](), wired.samples(net, 60)
    snn = DynapSim(epochs=1).pipeline()(graph, data=data)[0]
    made = diagnose(snn, graph, data.train.x(), data.train.labels)
    assert {row.name for row in made.rows} == {n.name for n in snn.nodes if n.op == "lif"}
    for row in made.rows:
        assert np.isfinite([row.error, row.own, *row.shares.values(), *row.after.values()]).all()
        assert sum(row.shares.values()) == pytest.approx(1, abs=1e-4)
    assert abs(made.remaining_error) < 0.01
    assert abs(made.remainder) < 0.02


@pytest.mark.parametrize("make", [lenet, residual])
def test_batch_norms_pools_and_residual_adds_are_compared(make: Callable[[], Graph]) -> None:
    """With enough steps and no limits nothing is left: the teacher's weights were found in our units."""
    graph = make()
    recipe = "fold-batchnorm,pool-neurons,threshold-layernorm{steps=128 percentile=100},bias-per-step"
    data = data_for(graph)
    made = diagnose(Pipeline.parse(recipe)(graph, data=data)[0], graph, data.test.x())
    for row in made.rows:
        assert max(abs(row.shares[c]) for c in (Cause.BIAS, Cause.BITS, Cause.PRUNED, Cause.WEIGHTS)) < 1e-3


def test_layers_that_carry_nothing_have_no_error() -> None:
    b = Builder({"x": (4,)})
    b("relu1", "relu", b("layer1", "dense", "x", weight=-np.ones((3, 4))))
    graph = b.graph(b("out", "dense", "relu1", weight=np.ones((2, 3))))
    made = found(graph, lowered(graph))
    assert made.worst is None
    assert made.cause is None
    assert made.rows[0].error == 0


def test_what_cannot_be_explained_is_refused() -> None:
    graph = dense()
    with pytest.raises(GraphError, match="no time steps"):
        diagnose(graph, graph, drawn(graph).test.x())
    with pytest.raises(GraphError, match="no samples"):
        diagnose(lowered(graph), graph, drawn(graph).test.x()[:0])
    snn = lowered(graph)
    ones = np.ones((16, 1), np.float32)
    whole = changed(snn, relu2__theta=np.asarray(40.0))
    other_units = whole.edit(constraints={"layer2.weight": Constraint(8, ones)}, stage=Stage.CONSTRAINED)
    with pytest.raises(GraphError, match="no longer in the model's units"):
        diagnose(other_units, graph, drawn(graph).test.x())
    two = graph.edit(outputs={"a": "out", "b": "relu1"})
    with pytest.raises(GraphError, match="one output, there are a, b"):
        diagnose(lowered(graph), two, drawn(graph).test.x())


def test_nothing_is_left_of_torch_modes() -> None:
    planted("dense", Cause.BITS)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("per", ["per=tensor", "per=core core=64"])
def test_levels_that_are_no_integers_are_compared_too(per: str) -> None:
    """A level that is moved to its neighbour is no rounding; weights that were rounded are."""
    graph = lenet()
    recipe = "fold-batchnorm,replace-max-pool,pool-neurons,threshold-layernorm{steps=16},bias-per-step,"
    recipe += f"quantize-weights{{{per} levels=base-currents bits=2}}"
    made, ledger = Pipeline.parse(recipe)(graph, data=data_for(graph))
    row = ledger.rows[-1]
    assert row.step.startswith("quantize-weights")
    few = data_for(graph).test.x()
    found = diagnose(made, graph, few, np.zeros(len(few), np.int64))
    assert max(layer.shares[Cause.BITS] for layer in found.rows) > 0.1
