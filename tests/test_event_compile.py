"""Recordings of events from the file to the chip: compiled, run, calibrated and explained by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from snnc import data as data_files
from snnc.ir import Graph
from tests.events import STEPS, data, trained

TARGET = f"dynap-sim{{steps={STEPS} epochs=3 code=events}}"


def exported(graph: Graph, path: Path) -> str:
    """The network of `trained` as an ONNX file."""
    nodes = [
        helper.make_node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c"], name="/conv"),
        helper.make_node("Relu", ["c"], ["r"], name="/relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="/flatten"),
        helper.make_node("Gemm", ["f", "dense1.weight", "dense1.bias"], ["d"], name="/fc1", transB=1),
        helper.make_node("Relu", ["d"], ["s"], name="/relu2"),
        helper.make_node("Gemm", ["s", "dense2.weight", "dense2.bias"], ["y"], name="/fc2", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
        for name, shape in (("image", (2, 6, 6)), ("y", (4,)))
    ]
    arrays = [numpy_helper.from_array(np.array(array), name) for name, array in graph.params.items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], arrays)
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Model and data."""
    place, samples = tmp_path_factory.mktemp("events"), data()
    np.savez(
        place / "data.npz", x_train=samples.train.raw, y_train=samples.train.labels,
        x_test=samples.test.raw, y_test=samples.test.labels,
    )  # fmt: skip
    return exported(trained(samples.train), place / "model.onnx"), str(place / "data.npz")


def test_from_the_file_to_the_chip(snnc, files: tuple[str, str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, path = files
    build = str(tmp_path / "build")
    ended = snnc("compile", model, "--target", TARGET, "--data", path, "--out", build, "--chips", "1", "--json")
    assert ended.code == 0, ended.err
    made = json.loads(ended.out)
    rows = {row["step"].partition("{")[0]: row for row in made["ledger"]}
    assert rows["onnxruntime"]["accuracy"] == rows["ann"]["accuracy"] > 0.9
    assert "largest difference" in rows["onnxruntime"]["notes"][0]
    assert float(rows["onnxruntime"]["notes"][0].rpartition(" ")[2]) < 1e-4
    assert rows["snn"]["accuracy"] > rows["ann"]["accuracy"] - 0.05
    assert rows["chips, calibrated"]["accuracy"] > rows["ann"]["accuracy"] - 0.15
    assert made["cost"]["input_macs"] == 0
    found = json.loads(snnc("run", build, "--data", path, "--json").out)
    assert found["accuracy"] == rows["snn"]["accuracy"]
    state = str(tmp_path / "chip")
    ended = snnc("calibrate", build, "--data", path, "--chip", "2", "--out", state, "--json")
    assert ended.code == 0, ended.err
    after = json.loads(ended.out)["after"]
    assert json.loads(snnc("run", build, "--data", path, "--state", state, "--json").out)["accuracy"] == after
    assert json.loads(snnc("explain", build, "--data", path, "--json").out)["samples"] == 80
    _refused(snnc, model, path, build, tmp_path)


def _refused(snnc, model: str, path: str, build: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Streams of another length, by the compiler and by what it made."""
    other = TARGET.replace(f"steps={STEPS}", "steps=12")
    ended = snnc("compile", model, "--target", other, "--data", path, "--out", str(tmp_path / "none"), "--quiet")
    assert ended.code == 2
    assert "has steps=12, the samples are streams of 8 steps" in ended.err
    assert not (tmp_path / "none").exists()
    samples = data_files.load(path).test
    np.savez(tmp_path / "short.npz", x=samples.raw[:, :5], y=samples.labels)
    ended = snnc("run", build, "--data", str(tmp_path / "short.npz"))
    assert ended.code == 2
    assert "samples have shape [5, 2, 6, 6], input 'image' takes [8, 2, 6, 6]" in ended.err
    ended = snnc("compile", model, "--data", path, "--out", str(tmp_path / "none"), "--mean", "0.5", "--quiet")
    assert ended.code == 2
    assert "streams of events, which are scaled by one factor only" in ended.err
