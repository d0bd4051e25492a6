"""Many devices: the figures of a population, its figure, and the command `snnc yield`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import snnc as package
from snnc.artifact import Bundle
from snnc.errors import ArtifactError, DataError
from snnc.population import Population, Spread, population, wilson
from snnc.report.population import HIGH, chart
from snnc.score import ACCURACY, MSE
from snnc.target import Artifact, OneByOne
from snnc.targets.dynap_sim.bench import MOST
from tests.conftest import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = EXAMPLES / "digits.npz"
FEW = {"train_samples": 100, "test_samples": 50}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact's folder."""
    place = tmp_path_factory.mktemp("population") / "build"
    package.compile(
        EXAMPLES / "digits_cnn.onnx", "dynap-sim{steps=4 epochs=1}", data=samples(), out=place, chips=0
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def artifact(build: Path) -> Artifact:
    return package.open(build)


def samples() -> package.data.Data:
    return package.data.load(DATA, **FEW)


def test_wilson_is_what_the_books_have() -> None:
    """10 of 10 and 0 of 10 (to three digits), and 81 of 263 of Newcombe (1998), table I."""
    assert wilson(10, 10) == pytest.approx((0.722, 1.0), abs=1e-3)
    assert wilson(0, 10) == pytest.approx((0.0, 0.278), abs=1e-3)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_a_spread_knows_which_way_is_better() -> None:
    high, low = (Spread.of([0.5, 0.75, 1.0], score, 0.75) for score in (ACCURACY, MSE))
    assert (high.mean, high.sd, high.worst, high.best) == (0.75, 0.25, 0.5, 1.0)
    assert (low.worst, low.best) == (1.0, 0.5)
    assert high.share == low.share == pytest.approx(2 / 3)
    assert Spread.of([0.5], ACCURACY).to_json() == {"mean": 0.5, "sd": 0.0, "worst": 0.5, "best": 0.5}


@pytest.mark.parametrize(("at_once", "grows", "goes_on"), [(1, [1, 2, 3], [2, 3]), (2, [2, 3], [3]), (4, [3], [])])
def test_an_interrupted_population_goes_on_to_the_same_figures(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, at_once: int, grows: list[int], goes_on: list[int]
) -> None:
    """However many devices run at once."""
    whole = population(artifact, samples(), 3)
    assert len(set(whole.before)) > 1
    assert whole.before != whole.after
    kept: list[Population] = []
    monkeypatch.setitem(MOST, "cpu", at_once)
    assert population(artifact, samples(), 3, keep=kept.append) == whole
    assert [len(found.before) for found in kept] == grows
    assert population(artifact, samples(), 3, known=kept[0].bundle(), keep=kept.append) == whole
    assert [len(found.before) for found in kept[len(grows) :]] == goes_on, "the first devices were not tried again"


def test_chips_of_other_targets_are_tried_one_by_one(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same figures: `OneByOne` is a bench too."""
    whole = population(artifact, samples(), 2)
    monkeypatch.setattr("snnc.target.Benching", int)  # which its target is not
    assert artifact.at_once() == 1
    assert isinstance(artifact.bench([0, 1]), OneByOne)
    assert artifact.bench([0, 1]).seeds == (0, 1)
    assert population(artifact, samples(), 2) == whole


def test_what_was_measured_otherwise_is_not_gone_on_with(artifact: Artifact) -> None:
    known = population(artifact, samples(), 1, epochs=0).bundle()
    with pytest.raises(ArtifactError, match=r"was measured with epochs 0, not 1.*\n.*--restart"):
        population(artifact, samples(), 1, known=known)
    with pytest.raises(ArtifactError, match=r"yield.json is damaged"):
        population(artifact, samples(), 1, known=Bundle("yield", {"yield.json": b"{}"}))
    with pytest.raises(DataError, match="a population of 0 chips"):
        population(artifact, samples(), 0)


def test_without_calibration_nothing_changes(artifact: Artifact) -> None:
    found = population(artifact, samples(), 1, epochs=0)
    assert found.before == found.after


def test_the_figure_shows_every_device_and_the_floor() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.6, 0.9, 50).tolist()
    after = rng.uniform(0.9, 1.0, 50).tolist()
    found = ElementTree.fromstring(chart(before, after, ACCURACY, 0.95))
    dots = found.findall(f"{SVG}circle")
    assert len(dots) == 100
    height = {dot.get("cy"): dot for dot in dots}
    assert all(0 < float(str(y)) < HIGH for y in height)
    hollow = [float(str(dot.get("cy"))) for dot in dots if dot.get("fill") == "white"]
    assert hollow == sorted(hollow, reverse=True), "the worst stands left"
    assert any(line.get("stroke-dasharray") for line in found.findall(f"{SVG}line"))
    assert "the floor, 95.00 %" in "".join(text.text or "" for text in found.findall(f"{SVG}text"))


@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0], [0.0, 0.0]])
def test_a_figure_of_equal_devices(values: list[float]) -> None:
    for score in (ACCURACY, MSE):
        assert len(ElementTree.fromstring(chart(values, values, score)).findall(f"{SVG}circle")) == 2 * len(values)


def test_the_command(snnc: Run, build: Path, tmp_path: Path) -> None:
    out = tmp_path / "yield"
    given = ("--data", str(DATA), "--train-samples", "100", "--test-samples", "50", "--quiet", "--out", str(out))
    ended = snnc("yield", str(build), "--chips", "2", "--floor", "0", *given)
    assert ended.code == 0, ended.err
    assert "100% reach 0.00% (95 % interval 34% to 100%)" in ended.out.replace("\n", " ")
    first = json.loads((out / "yield.json").read_text())
    assert (out / "yield.svg").read_text().startswith("<svg")
    ended = snnc("yield", str(build), "--chips", "3", "--json", *given)
    found = json.loads(ended.out)
    assert found["chips"][:2] == first["chips"]
    assert len(found["chips"]) == 3
    assert json.loads((out / "yield.json").read_text())["chips"] == found["chips"]
    assert set(found["after"]) == {"mean", "sd", "worst", "best"}


def test_the_command_refuses(snnc: Run, build: Path, tmp_path: Path) -> None:
    given = ("--data", str(DATA), "--quiet")
    assert snnc("yield", str(build), "--chips", "0", *given).code == 2
    assert "nothing to restart" in snnc("yield", str(build), "--restart", *given).err
    for floor, hint in (("0.97", "--floor 97"), ("105", "from 0 to 100"), ("-1", "from 0 to 100"), ("nan", "no floor")):
        ended = snnc("yield", str(build), "--floor", floor, *given)
        assert ended.code == 2
        assert hint in ended.err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    ended = snnc("yield", str(build), "--out", str(tmp_path / "taken"), *given)
    assert ended.code == 2
    assert "is taken by something" in ended.err
    ended = snnc("yield", str(build), "--chips", "1", "--out", str(build), *given)
    assert ended.code == 2
    assert "holds 'artifact', format 1, not 'yield'" in ended.err
    ended = snnc("yield", str(build), "--chips", "1", "--restart", "--out", str(build), *given)
    assert ended.code == 2
    assert (build / "network.txt").is_file()


def test_two_processes_measure_what_one_does(build: Path, artifact: Artifact, tmp_path: Path) -> None:
    """Three devices by two processes: the second round has one."""
    out = tmp_path / "yield"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "snnc", "yield",
        str(build), "--data", str(DATA), "--train-samples", "100", "--test-samples", "50", "--quiet", "--chips", "3",
        "--out", str(out),
    ]  # fmt: skip
    root = str(Path(__file__).parents[1])
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    alone = population(artifact, samples(), 3)
    assert json.loads((out / "yield.json").read_text())["chips"] == alone.chips
