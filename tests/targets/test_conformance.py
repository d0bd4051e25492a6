"""What every target promises, held against all that are registered: a new one is tested here without a new line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnc import spec
from snnc.artifact import Bundle
from snnc.data import Data
from snnc.errors import ArtifactError, TargetError
from snnc.ir import Graph, Stage, to_text, verify
from snnc.pipeline import Pipeline
from snnc.sim import torch as executor
from snnc.sim.reference import run
from snnc.target import Artifact, Target
from snnc.targets import TARGETS
from tests.targets.networks import data, images, teacher

RECIPE_NEEDS = 0.5
"""The least share of right answers behind a default recipe; chance is about a third."""


@pytest.fixture(params=sorted(TARGETS.table), scope="module")
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]()


@pytest.fixture(scope="module")
def samples() -> Data:
    return data("pooled")


@pytest.fixture(scope="module")
def graph(target: Target, samples: Data) -> Graph:
    """What the target's own recipe makes of a network with pooling."""
    made, ledger = target.pipeline()(teacher("pooled"), data=samples)
    assert ledger.rows[-1].accuracy is not None
    assert ledger.rows[-1].accuracy >= RECIPE_NEEDS
    return made


@pytest.fixture(scope="module")
def artifact(target: Target, graph: Graph) -> Artifact:
    return target.compile(graph)


def test_name_and_options_are_text(target: Target) -> None:
    assert str(target) == target.name
    assert spec.from_spec(str(target), TARGETS) == target


def test_limits_are_plain_data(target: Target) -> None:
    limits = target.limits
    assert limits.walls
    assert all(isinstance(v, int | float) for v in [*limits.walls.values(), *limits.budgets.values()])
    assert not set(limits.walls) & set(limits.budgets)
    assert not set(limits.unchecked) & {*limits.walls, *limits.budgets}


def test_the_recipe_is_text_and_ends_constrained(target: Target, graph: Graph) -> None:
    assert Pipeline.parse(str(target.pipeline())) == target.pipeline()
    assert graph.stage is Stage.CONSTRAINED


def test_findings_cover_the_limits_at_every_stage(target: Target, graph: Graph) -> None:
    for some in (teacher("pooled"), graph):
        found = target.findings(some)
        assert found
        assert {f.limit for f in found} <= {*target.limits.walls, *target.limits.budgets}
        assert all(f.wall or f.limit in target.limits.budgets or f.note or f.ok for f in found)
        assert json.loads(json.dumps([f.to_json() for f in found]))
    assert {f.limit for f in target.findings(graph)} == {*target.limits.walls, *target.limits.budgets}
    assert all(f.ok for f in target.findings(graph) if f.wall)


def test_placed_graphs_are_valid_and_compute_the_same(target: Target, graph: Graph) -> None:
    placed = target.place(graph)
    verify(placed)
    assert placed.stage is Stage.PLACED
    assert (placed.steps, placed.teacher) == (graph.steps, graph.teacher)
    assert list(placed.outputs) == list(graph.outputs)
    x = images(40, seed=1)
    ours, theirs = run(placed, {"x": x})["y"], run(graph, {"x": x})["y"]
    assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)
    np.testing.assert_allclose(executor.run(placed, {"x": x})["y"], ours, atol=1e-4)
    assert to_text(target.place(graph)) == to_text(placed)


def test_what_cannot_be_compiled(target: Target, graph: Graph) -> None:
    with pytest.raises(TargetError, match=f"'{target.name}' takes a graph of stage constrained, not analog") as caught:
        target.compile(teacher("pooled"))
    assert str(target.pipeline()) in caught.value.hint
    with pytest.raises(TargetError, match="has lost its teacher"):
        target.compile(replace(graph, teacher=None))


def test_compiled_twice_is_the_same_bytes(target: Target, graph: Graph, artifact: Artifact) -> None:
    again = target.compile(graph)
    assert again.bundle.files == artifact.bundle.files
    assert again.digest == artifact.digest


def test_an_opened_artifact_is_the_same_chip(artifact: Artifact, tmp_path: Path) -> None:
    artifact.bundle.write(tmp_path / "build")
    opened = Artifact.open(str(tmp_path / "build"), TARGETS)
    assert opened.digest == artifact.digest
    x = images(20)
    np.testing.assert_array_equal(opened.load(3).run(x)["y"], artifact.load(3).run(x)["y"])


def test_a_seed_is_one_device(artifact: Artifact) -> None:
    x = images(20)
    one, same, other = artifact.load(1), artifact.load(1), artifact.load(2)
    assert (one.seed, other.seed) == (1, 2)
    first = one.run(x)["y"]
    np.testing.assert_array_equal(one.run(x)["y"], first, err_msg="a run leaves no trace")
    np.testing.assert_array_equal(same.run(x)["y"], first)
    assert not np.array_equal(other.run(x)["y"], first)
    with pytest.raises(TargetError, match="seed"):
        artifact.load(-1)


def test_outputs_have_the_users_names_and_one_row_a_sample(artifact: Artifact) -> None:
    x = images(7)
    before = x.copy()
    made = artifact.load(0).run(x)
    assert {name: array.shape for name, array in made.items()} == {"y": (7, 3)}
    np.testing.assert_array_equal(x, before)
    assert all(np.isfinite(array).all() for array in made.values())


@pytest.mark.parametrize("shape", [(4, 36), (4, 1, 6, 5), (1, 6, 6), (), (0, 1, 6, 6)])
def test_samples_that_do_not_fit(artifact: Artifact, shape: tuple[int, ...]) -> None:
    with pytest.raises(TargetError):
        artifact.load(0).run(np.zeros(shape, np.float32))


def test_calibration_reports_before_and_after(artifact: Artifact, samples: Data) -> None:
    told: list[tuple[str, int, int]] = []
    chip = artifact.load(5)
    ledger = chip.calibrate(samples, epochs=2, progress=lambda *now: told.append(now))
    assert [row.step for row in ledger.rows] == ["before", "epoch 1", "epoch 2"]
    assert all(row.accuracy is not None and row.split == "validation" for row in ledger.rows)
    assert told
    labels, scores = samples.validation.labels, chip.run(samples.validation.x())["y"]
    assert ledger.rows[-1].accuracy == pytest.approx(float((scores.argmax(axis=1) == labels).mean()))
    assert artifact.load(5).calibrate(samples, epochs=0).to_json(timed=False) == ledger.to_json(timed=False)[:1]


def test_calibration_is_repeatable_and_its_state_is_all_it_changed(
    artifact: Artifact, samples: Data, tmp_path: Path
) -> None:
    x = images(20)
    chip, twin = artifact.load(5), artifact.load(5)
    untouched = chip.run(x)["y"]
    chip.calibrate(samples)
    twin.calibrate(samples)
    after = chip.run(x)["y"]
    assert not np.array_equal(after, untouched)
    np.testing.assert_array_equal(twin.run(x)["y"], after)
    assert twin.state().digest == chip.state().digest
    chip.state().write(tmp_path / "chip")
    restored = artifact.load(5, Bundle.read(tmp_path / "chip", "chip"))
    np.testing.assert_array_equal(restored.run(x)["y"], after)
    assert restored.state().digest == chip.state().digest


def test_a_bench_does_what_its_chips_do(artifact: Artifact, samples: Data) -> None:
    x, bench = images(20), artifact.bench([5, 2])
    assert bench.seeds == (5, 2)
    ledgers = bench.calibrate(samples)
    for seed, ledger, made in zip(bench.seeds, ledgers, bench.run(x), strict=True):
        chip = artifact.load(seed)
        assert chip.calibrate(samples).to_json(timed=False) == ledger.to_json(timed=False)
        np.testing.assert_array_equal(made["y"], chip.run(x)["y"])
    assert artifact.at_once() >= 1


def test_the_test_part_is_not_looked_at(artifact: Artifact, samples: Data) -> None:
    other = replace(samples, test=replace(samples.test, raw=samples.test.raw * 0, labels=samples.test.labels * 0))
    chips = [artifact.load(5), artifact.load(5)]
    for chip, part in zip(chips, (samples, other), strict=True):
        chip.calibrate(part)
    assert chips[0].state().digest == chips[1].state().digest


def forged(state: Bundle, **about: Any) -> Bundle:
    files = {
        n: json.dumps({**json.loads(d), **about}).encode() if n.endswith(".json") else d for n, d in state.files.items()
    }
    return Bundle("chip", files, state.facts)


STRANGERS: dict[str, Callable[[Bundle], Bundle]] = {
    "another seed": lambda s: forged(s, seed=6),
    "another network": lambda s: forged(s, artifact="0" * 64),
    "no files": lambda s: Bundle("chip", {}, {}),
    "no epochs": lambda s: forged(s, epochs=None),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_the_state_of_another_chip_is_refused(artifact: Artifact, samples: Data, what: str) -> None:
    chip = artifact.load(5)
    state = chip.state()
    assert artifact.load(5, state).seed == 5
    with pytest.raises(ArtifactError):
        artifact.load(6, state)
    with pytest.raises(ArtifactError):
        artifact.load(5, STRANGERS[what](state))


@pytest.mark.parametrize("net", ["plain", "residual"])
def test_the_default_recipe_takes_other_networks_too(target: Target, net: str) -> None:
    samples = data(net)
    made, ledger = target.pipeline()(teacher(net), data=samples)
    assert ledger.rows[-1].accuracy is not None
    assert ledger.rows[-1].accuracy >= RECIPE_NEEDS
    before = target.compile(made).load(1).calibrate(samples, epochs=0).rows[0]
    assert before.accuracy is not None
