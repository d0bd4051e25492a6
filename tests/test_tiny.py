"""The whole product in seconds, from import to calibrated chip. If only one file may run, this one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import snnc
from snnc.targets import DynapSim

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = DynapSim(steps=8, epochs=1, mismatch=0.3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> snnc.Build:
    samples = snnc.data.load(EXAMPLES / "digits.npz", train_samples=500, test_samples=200)
    out = tmp_path_factory.mktemp("tiny") / "build"
    return snnc.build(EXAMPLES / "digits_cnn.onnx", SMALL, data=samples, out=out, chips=1)


def test_the_spiking_network_keeps_the_accuracy(built: snnc.Build) -> None:
    ann, snn = built.ledger["ann"].accuracy, built.ledger["snn"].accuracy
    assert ann is not None
    assert snn is not None
    assert ann > 0.95
    assert snn > ann - 0.04


def test_the_imported_network_is_the_original(built: snnc.Build) -> None:
    assert built.ledger["onnxruntime"].accuracy == built.ledger["ann"].accuracy


def test_calibration_repairs_the_chip(built: snnc.Build) -> None:
    (chip,) = built.chips
    assert chip["before"] < chip["after"]


def test_the_hardware_limits_hold(built: snnc.Build) -> None:
    assert max(built.cost.fan_in.values()) <= 64
    graph = built.artifact.graph
    weight, limit = graph.params["dense1.weight"], graph.constraints["dense1.weight"]
    np.testing.assert_array_equal(limit.project(weight), weight)
    assert len(np.unique(np.abs(weight))) <= 2**4, "the sums of four currents"
    assert {node.attrs["reset"] for node in graph.nodes if node.op == "lif"} == {"zero"}
    assert all(found.ok for found in SMALL.findings(graph) if "per chip" not in found.limit)


def test_the_artifact_opens_again_and_runs_the_same(built: snnc.Build, tmp_path: Path) -> None:
    built.artifact.bundle.write(tmp_path / "copy")
    again = snnc.open(tmp_path / "copy")
    x = snnc.data.load(EXAMPLES / "digits.npz").test.x(slice(0, 8))
    assert again.digest == built.artifact.digest
    np.testing.assert_array_equal(again.load(3).run(x)["scores"], built.artifact.load(3).run(x)["scores"])
