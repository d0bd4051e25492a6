"""`snnc explain` as a user meets it: what it prints, its JSON, and one clear message for what it cannot explain."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from snnc import api
from snnc.data import load, load_test
from tests.conftest import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL, DATA = str(EXAMPLES / "digits_cnn.onnx"), str(EXAMPLES / "digits.npz")
PIPELINE = (
    "fold-batchnorm,threshold-layernorm{steps=4},bias-per-step,limit-fan-in{k=24 samples=100},quantize-weights{bits=3}"
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact that has lost much, made without training."""
    place = tmp_path_factory.mktemp("explain") / "build"
    few = load(DATA, train_samples=150, test_samples=20)
    api.build(MODEL, data=few, out=place, pipeline=PIPELINE, chips=0)
    return str(place)


PRUNED = "fold-batchnorm,threshold-layernorm,bias-per-step,limit-fan-in{k=6 samples=100},quantize-weights"


def compile_into(place: Path, *options: str) -> tuple[str, ...]:
    """A compile that prunes far too much."""
    few = "--train-samples", "150", "--test-samples", "20", "--chips", "0", "--quiet"
    return "compile", MODEL, "--data", DATA, "--out", str(place), "--pipeline", PRUNED, *few, *options


def test_a_compile_ends_with_where_it_went(snnc: Run, tmp_path: Path) -> None:
    ended = snnc(*compile_into(tmp_path / "b"))
    assert re.search(
        r"^where it went: (relu\d) \(model node 'node_relu(_\d)?'\): pruned fan-in; try limit-fan-in\{k=12\}",
        ended.out, re.M,
    )  # fmt: skip
    assert re.search(r"^limit-fan-in\{k=6 samples=100\} .* relu\d \d+\.\d % pruned fan-in$", ended.out, re.M)
    assert max(len(line) for line in ended.out.splitlines()) <= 120


def test_its_json_its_report_and_its_page_say_the_same(snnc: Run, tmp_path: Path) -> None:
    ended = json.loads(snnc(*compile_into(tmp_path / "b"), "--json").out)
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert ended["diagnosis"] == report["diagnosis"]
    assert ended["diagnosis"]["cause"] == "pruned fan-in"
    assert [{**row, "seconds": None} for row in ended["ledger"]] == [
        {**row, "seconds": None} for row in report["ledger"]
    ]
    last = [row for row in report["ledger"] if row["causes"]][-1]
    assert sum(last["causes"][last["worst"]["layer"]].values()) == pytest.approx(1, abs=1e-3)
    shown = html.unescape((tmp_path / "b" / "report.html").read_text())
    assert report["diagnosis"]["summary"] in shown
    assert "report.html" in json.loads((tmp_path / "b" / "manifest.json").read_text())["files"]


def test_it_prints_a_row_a_layer_what_comes_back_and_the_worst_layer(snnc: Run, build: str) -> None:
    ended = snnc("explain", build, "--data", DATA, "--samples", "48", "--quiet")
    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith("48 samples, 4 time steps. Right of the labels: model ")
    for layer, origin in (("relu1", "node_relu"), ("relu4", "node_relu_3")):
        assert re.search(rf"^{layer} +{origin} +\d+\.\d%", ended.out, re.M)
    for words in (
        "pruned fan-in in all layers", "remainder", "\nWorst layer: relu", ", in your model node_relu", "  try ",
    ):  # fmt: skip
        assert words in ended.out
    assert PIPELINE in ended.out.replace("\n", "")


def test_json_is_one_object_whose_parts_sum(snnc: Run, build: str) -> None:
    ended = snnc("explain", build, "--data", DATA, "--samples", "48", "--json", "--quiet")
    found = json.loads(ended.out)
    assert [row["from"] for row in found["layers"]] == [
        ["node_relu"],
        ["node_relu_1"],
        ["node_relu_2"],
        ["node_relu_3"],
    ]
    for row in found["layers"]:
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
    drop = found["accuracy"]["teacher"] - found["accuracy"]["network"]
    in_turn = sum(gain["accuracy"] for gain in found["gains_in_turn"])
    assert in_turn + found["accuracy"]["remainder"] == pytest.approx(drop, abs=1e-4)
    back = sum(gain["output_error"] for gain in found["gains_in_turn"])
    assert back + found["output_error"]["remainder"] == pytest.approx(found["output_error"]["network"], abs=1e-4)
    assert found["output_error"]["remainder"] < 0.01
    assert found["worst"] in [row["layer"] for row in found["layers"]]
    assert found["samples"] == 48
    assert found["advice"][0]["after"] < found["advice"][0]["error"]


def test_twice_the_same(snnc: Run, build: str) -> None:
    first, second = (snnc("explain", build, "--data", DATA, "--samples", "32", "--json", "--quiet") for _ in range(2))
    assert first.out == second.out


def test_the_api_gives_what_the_command_prints(snnc: Run, build: str) -> None:
    split = load_test(DATA, api.scaling_of(api.open(build)), 32)
    printed = json.loads(snnc("explain", build, "--data", DATA, "--samples", "32", "--json", "--quiet").out)
    assert api.explain(build, split).to_json() == printed


def test_without_data_it_says_that_it_needs_some(snnc: Run, build: str) -> None:
    ended = snnc("explain", build)
    assert ended.code == 2
    assert "Missing option '--data'" in ended.err
    assert "an artifact holds no samples of its own" in " ".join(snnc("explain", "--help").out.split())


def test_what_is_no_artifact_and_data_that_does_not_fit_are_refused(snnc: Run, build: str, tmp_path: Path) -> None:
    ended = snnc("explain", str(tmp_path), "--data", DATA)
    assert ended.code == 2
    assert "is no artifact" in ended.err
    np.savez(tmp_path / "odd.npz", x=np.zeros((4, 3, 3), np.float32), y=np.zeros(4, np.int64))
    ended = snnc("explain", build, "--data", str(tmp_path / "odd.npz"))
    assert ended.code == 2
    assert "samples have shape [3, 3], input 'image' takes [1, 8, 8]" in ended.err
