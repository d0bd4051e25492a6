"""The rows of a ledger name the cause that their pass planted; the last line names the worst layer and what to try."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from snnc.data import Data, Split
from snnc.ir import Graph
from snnc.pipeline import Pipeline, explained
from snnc.report import Ledger, worst
from snnc.sim.diagnosis import diagnose, layers, obstacle
from snnc.sim.findings import Diagnosis, Unexplained
from snnc.sim.judge import LAYER_SAMPLES
from snnc.sim.twins import Cause
from tests.graphs import data_for, lenet, mlp
from tests.sim.test_diagnosis import NETS, drawn
from tests.targets.wired import Net

CLEAN = "threshold-layernorm{steps=64 percentile=100},bias-per-step"


@cache
def compiled(net: str, recipe: str) -> tuple[Graph, Ledger]:
    graph = NETS[net]()
    return Pipeline.parse(recipe)(graph, data=drawn(graph))


PLANTED = {
    f"{CLEAN},quantize-weights{{bits=2}}": {Cause.BITS},
    f"{CLEAN},limit-fan-in{{k=3}}": {Cause.PRUNED},
    "threshold-layernorm{steps=2 percentile=100},bias-per-step": {Cause.STEPS, Cause.TIMING},
    "threshold-layernorm{steps=64 percentile=85},bias-per-step": {Cause.CLIPPED},
}
"""Recipes whose last pass is at fault, or whose thresholds are, and what for."""


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("recipe", PLANTED)
def test_a_row_names_the_cause_that_its_pass_planted(net: str, recipe: str) -> None:
    row = compiled(net, recipe)[1].rows[-1]
    assert row.worst is not None
    assert row.worst[2] in PLANTED[recipe]
    assert worst(row).endswith(f" % {row.worst[2]}")
    own = {cause: share for cause, share in row.causes[row.worst[0]].items() if cause != Cause.INHERITED}
    assert sum(own.get(cause, 0) for cause in PLANTED[recipe]) > 0.75 * sum(own.values())


@pytest.mark.parametrize("net", NETS)
def test_the_rows_before_do_not_know_it(net: str) -> None:
    """Weight bits begin with quantize-weights, pruned fan-in with limit-fan-in."""
    for recipe in list(PLANTED)[:2]:
        [cause] = PLANTED[recipe]
        *before, last = compiled(net, recipe)[1].rows
        for row in before:
            assert all(abs(shares.get(cause, 0)) < 1e-3 for shares in row.causes.values())
        assert max(shares.get(cause, 0) for shares in last.causes.values()) > 0.1


@pytest.mark.parametrize("recipe", PLANTED)
def test_causes_sum_to_the_error_of_every_layer(recipe: str) -> None:
    for row in compiled("convolutional", recipe)[1].rows:
        assert set(row.causes) == {"relu1", "relu2", "relu3"} & set(row.error)
        for shares in row.causes.values():
            assert sum(shares.values()) == pytest.approx(1, abs=1e-4)


def test_pooling_is_named_at_the_pool() -> None:
    """Neurons that stand for a max pool are held against it: the model has no relu of that name."""
    b = Net(2, 8, 8)
    b("pool", "maxpool", b("relu1", "relu", b.conv("layer1", "x", 8, 2)))
    flat = b("flat", "reshape", b("relu2", "relu", b.conv("layer2", "pool", 8, 8)), shape=(128,))
    graph = b.graph(b.dense("out", flat, 4, 128))
    _, ledger = Pipeline.parse(f"replace-max-pool,{CLEAN}")(graph, data=drawn(graph))
    assert next(iter(ledger.rows[-1].causes["pool"])) == Cause.POOLING
    assert ledger.rows[-1].error["pool"] > 0.1


def test_analog_graphs_have_errors_and_no_causes() -> None:
    graph = lenet()
    _, ledger = Pipeline.parse("fold-batchnorm,threshold-layernorm{steps=4}")(graph, data=data_for(graph))
    analog, spiking = ledger.rows
    assert (analog.causes, set(analog.error)) == ({}, {"relu1", "relu2"})
    assert set(spiking.causes) == {"relu1", "relu2"}


def test_neurons_in_weight_steps_have_no_causes_and_the_reason_is_said() -> None:
    graph = NETS["dense"]()
    data = drawn(graph)
    snn, ledger = Pipeline.parse(f"{CLEAN},quantize-weights,quantize-neurons")(graph, data=data)
    assert ledger["quantize-weights"].causes
    assert ledger["quantize-neurons"].causes == {}
    found = explained(snn, data)
    assert isinstance(found, Unexplained)
    assert found.summary.startswith("not measured, its thresholds are integers of weight steps")
    assert found.summary.endswith("; explain what was compiled without quantize-neurons")
    assert found.to_json()["refused"] == found.why


def test_a_pass_with_nothing_to_do_leaves_the_row_as_it_was() -> None:
    graph = NETS["dense"]()
    _, ledger = Pipeline.parse(f"{CLEAN},bias-per-step")(graph, data=drawn(graph))
    did, idle = ledger.rows[1:]
    assert not idle.changed
    assert idle == replace(did, changed=False, notes=idle.notes, seconds=idle.seconds)


def test_the_diagnosis_is_that_of_the_first_validation_samples() -> None:
    snn, _ = compiled("dense", f"{CLEAN},limit-fan-in{{k=3}}")
    data = drawn(NETS["dense"]())
    few = data.validation.take(LAYER_SAMPLES)
    assert snn.teacher is not None
    other = Split(data.test.raw * 0, np.zeros_like(data.test.labels))
    found = explained(snn, Data(other, data.validation, other))
    assert isinstance(found, Diagnosis)
    assert found.to_json() == diagnose(snn, snn.teacher, few.x(), few.labels).to_json()
    assert found.samples == LAYER_SAMPLES
    assert found.rows == layers(snn, snn.teacher, few.x())


@pytest.mark.parametrize(("effort", "samples"), [(48 * 64 * 20, 20), (48 * 64 * 20 - 1, 19), (1, 16), (2**40, 64)])
def test_large_networks_are_diagnosed_on_fewer_samples(
    monkeypatch: pytest.MonkeyPatch, effort: int, samples: int
) -> None:
    """48 neurons and 64 steps."""
    snn, _ = compiled("dense", f"{CLEAN},limit-fan-in{{k=3}}")
    monkeypatch.setattr("snnc.pipeline.EFFORT", effort)
    assert explained(snn, drawn(NETS["dense"]())).to_json()["samples"] == samples


def test_one_line_names_the_layer_the_users_node_the_cause_and_the_setting() -> None:
    snn, _ = compiled("dense", f"{CLEAN},limit-fan-in{{k=3}}")
    nodes = [replace(node, origin=("/a/Relu", "/b")) if node.name == "relu1" else node for node in snn.nodes]
    found = explained(snn.edit(nodes), drawn(NETS["dense"]()))
    assert found.summary == (
        "relu1 (model nodes '/a/Relu', '/b'): pruned fan-in; try limit-fan-in{k=6} if the chip has room, "
        "else ltl{epochs=...} with more epochs"
    )
    assert found.to_json()["summary"] == found.summary


def test_a_setting_against_another_cause_says_which() -> None:
    snn, _ = compiled("dense", f"{CLEAN},limit-fan-in{{k=3}}")
    found = explained(snn, drawn(NETS["dense"]()))
    assert isinstance(found, Diagnosis)
    assert replace(found, cause=Cause.CLIPPED).summary.startswith("relu1: clipped; against pruned fan-in try limit-fan")
    assert replace(found, advice=()).summary == "relu1: pruned fan-in"


def test_where_nothing_is_wrong_it_says_so() -> None:
    graph = mlp()
    data = data_for(graph)
    snn, ledger = Pipeline.parse("threshold-layernorm{steps=512 percentile=100},bias-per-step")(graph, data=data)
    assert ledger.rows[-1].causes == {}, "an error of less than half a percent has no causes"
    assert explained(snn, data).summary == "no layer has an error of its own that is worth a word"


def test_obstacles_are_asked_for_not_stumbled_over() -> None:
    snn, _ = compiled("dense", CLEAN)
    x = drawn(NETS["dense"]()).test.x()
    assert snn.teacher is not None
    assert obstacle(snn, snn.teacher, x) is None
    assert "no samples" in str(obstacle(snn, snn.teacher, x[:0]))
    assert "no time steps" in str(obstacle(snn.teacher, snn.teacher, x))
    lost = explained(replace(snn, teacher=None), drawn(NETS["dense"]()))
    assert lost.summary == "not measured, the network has lost the model it was made from"
