"""A network whose outputs are signals, from the model file to the chip: one score everywhere, in text and in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from snnc import api, data
from snnc.errors import PipelineError
from snnc.pipeline import Pipeline
from snnc.search import Goal, search
from tests.conftest import Run

INPUTS, HIDDEN = 12, 24
RECIPE = "threshold-layernorm{steps=8},bias-per-step,limit-fan-in,quantize-weights,ltl{epochs=8 batch=16 rate=0.003}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A random network of one hidden layer and a sigmoid, [12] -> [2, 6]; its own answers as targets; a folder."""
    place = tmp_path_factory.mktemp("regression")
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(size=(INPUTS, HIDDEN)) / 3, "b1": rng.normal(size=HIDDEN) / 5,
        "w2": rng.normal(size=(HIDDEN, INPUTS)) / 3, "b2": rng.normal(size=INPUTS) / 5,
    }  # fmt: skip
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]), helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["o"]), helper.make_node("Sigmoid", ["o"], ["s"]),
        helper.make_node("Reshape", ["s", "shape"], ["y"]),
    ]  # fmt: skip
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants.append(numpy_helper.from_array(np.array([-1, 2, 6]), "shape"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INPUTS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 6])
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place / "net.onnx")
    samples = rng.random((260, INPUTS), np.float32)
    hidden = np.maximum(samples @ weights["w1"] + weights["b1"], 0)
    targets = (1 / (1 + np.exp(-hidden @ weights["w2"] - weights["b2"]))).reshape(-1, 2, 6)
    np.savez(place / "data.npz", x=samples, y=targets)
    np.savez(place / "classes.npz", x=samples, y=np.arange(260) % 6)
    (place / "folder").mkdir()
    np.save(place / "folder/x.npy", samples)
    np.save(place / "folder/y.npy", targets)
    names = "net.onnx", "data.npz", "classes.npz", "folder"
    return {name.partition(".")[0]: str(place / name) for name in names}


def compiled(snnc: Run, files: dict[str, str], *options: str, given: str = "data", pipeline: str = RECIPE) -> Any:
    common = "--chips", "1", "--quiet", "--pipeline", pipeline
    return snnc("compile", files["net"], "--data", files[given], *common, *options)


def test_every_row_has_the_score_and_no_accuracy(snnc: Run, files: dict[str, str]) -> None:
    ended = compiled(snnc, files, "--json")
    assert ended.code == 0, ended.err
    made = json.loads(ended.out)
    rows = {row["step"].partition("{")[0]: row for row in made["ledger"]}
    assert all(row["accuracy"] is None and row["score"]["name"] == "mse" for row in made["ledger"])
    values = {step: row["score"]["value"] for step, row in rows.items()}
    assert values["import"] < 1e-12
    assert values["ann"] < 1e-12
    assert values["onnxruntime"] < 1e-12
    assert values["ltl"] < values["quantize-weights"]
    assert 1e-6 < values["snn"] < 0.01
    assert rows["chips"]["score"]["value"] == made["chips"][0]["before"] > values["snn"] / 2
    assert made["diagnosis"]["accuracy"] is None
    network = made["diagnosis"]["score"]["network"]
    gains = sum(gain["score"] for gain in made["diagnosis"]["gains_in_turn"])
    assert network + gains + made["diagnosis"]["score"]["remainder"] == pytest.approx(0, abs=1e-6)
    assert api.score_of(api.open("build")) == "mse"


def test_what_is_printed_names_the_score(snnc: Run, files: dict[str, str]) -> None:
    ended = compiled(snnc, files, "--score", "si-sdr")
    assert ended.code == 0, ended.err
    assert re.search(r"^step +si-sdr +change", ended.out)
    assert re.search(r"^snn +-?\d+\.\d\d dB +[+-]\d+\.\d\d", ended.out, re.M)
    assert re.search(r"worst -?\d+\.\d\d dB, best -?\d+\.\d\d dB of 1 chips", ended.out)
    assert re.search(r"^ +0 +-?\d+\.\d\d dB +-?\d+\.\d\d dB$", ended.out, re.M)
    page = Path("build/report.html").read_text()
    assert "si-sdr" in page
    assert "accuracy" not in page
    again = snnc("run", "build", "--data", files["data"], "--quiet")
    assert re.match(r"si-sdr -?\d+\.\d\d dB of 26\d? samples on the ideal network", again.out), again.out


def test_an_artifact_knows_its_score(snnc: Run, files: dict[str, str]) -> None:
    """run, explain and calibrate judge as the compile did, without being told."""
    assert compiled(snnc, files, "--chips", "0").code == 0
    ran = json.loads(snnc("run", "build", "--data", files["data"], "--json", "--quiet").out)
    assert (ran["accuracy"], ran["score"]["name"]) == (None, "mse")
    outputs = api.run(api.open("build"), data.load_test(files["data"], data.Scaling(), None, "mse"))
    assert ran["score"]["value"] == outputs[0]
    told = json.loads(snnc("explain", "build", "--data", files["data"], "--json", "--quiet").out)
    assert told["score"]["name"] == "mse"
    assert told["judged_by"] == "labels"
    shown = snnc("explain", "build", "--data", files["data"], "--quiet").out
    assert re.match(r"\d+ samples, 8 time steps. mse of the labels: model \S+, network \S+\.", shown)
    assert "points of accuracy" not in shown
    learned = json.loads(snnc("calibrate", "build", "--data", files["data"], "--json", "--quiet").out)
    assert all(row["score"]["name"] == "mse" for row in learned["ledger"])
    assert learned["after"] == pytest.approx(learned["ledger"][-1]["score"]["value"], rel=1e-4)


def test_a_folder_gives_the_same_network(snnc: Run, files: dict[str, str]) -> None:
    one, other = (json.loads(compiled(snnc, files, "--json", given=g).out) for g in ("data", "folder"))
    strip = [[{**row, "seconds": 0, "notes": 0} for row in made["ledger"]] for made in (one, other)]
    assert strip[0] == strip[1]


def test_classes_have_no_score_in_json(snnc: Run, files: dict[str, str]) -> None:
    """The contract of classification is what it was."""
    rows = json.loads(
        snnc(
            "compile", str(Path(__file__).parents[1] / "examples/digits_cnn.onnx"), "--data",
            str(Path(__file__).parents[1] / "examples/digits.npz"), "--chips", "0", "--quiet", "--json",
            "--train-samples", "100", "--test-samples", "20",
            "--pipeline", "fold-batchnorm,threshold-layernorm,bias-per-step,limit-fan-in,quantize-weights",
        ).out
    )["ledger"]  # fmt: skip
    assert all("score" not in row and isinstance(row["accuracy"], float) for row in rows)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("classes", ("--score", "mse"), "mse judges targets that are floats, y is int64: classes"),
        ("data", ("--score", "loudness"), "'loudness' is not one of 'mse', 'si-sdr'"),
        ("data", ("--max-drop", "1"), "a search counts right answers (max_drop=1), the data is judged by mse"),
        ("data", ("--pipeline", RECIPE.replace("epochs", "loss=cross-entropy epochs")), "loss=cross-entropy compares"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    snnc: Run, files: dict[str, str], given: str, options: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("snnc.compiler.judged", lambda *_: pytest.fail("work was done"))
    ended = compiled(snnc, files, *options, given=given)
    assert ended.code == 2
    assert message in ended.err
    assert not Path("build").exists()


def test_a_script_searches_no_drop_either(files: dict[str, str]) -> None:
    graph = api.load(files["net"])
    with pytest.raises(PipelineError, match="a search counts right answers"):
        search(Pipeline.parse(RECIPE), graph, data.load(files["data"]), Goal(1.0))
