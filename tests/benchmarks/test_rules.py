"""The arithmetic of the relations, their verdicts and their table; no network is trained here but a tiny one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import rules
from benchmarks.relations import autoencoder, ltl, noise, ptl, sltt, tandem, vgg11
from benchmarks.relations.kept import Kept
from benchmarks.relations.networks import TASKS, Task, network, teacher
from benchmarks.relations.relation import Bound, Finding, NotRunError, Numbers, Relation
from benchmarks.relations.study import Curves, Outcome, Study, lowered
from snnc.data import Data, Scaling, Split
from snnc.ir import Graph, verify
from snnc.pipeline import Context, Pipeline
from snnc.train import SLTT
from snnc.train.units import weights_of
from tests.graphs import data_for, mlp


def relation(*bounds: Bound, values: tuple[float, ...] = (1.0, 3.0)) -> Relation:
    """One whose quantity `a` has these values, by seed."""
    return Relation("X1", "a claim", "theirs", bounds, lambda study, seed: {"a": values[seed], "b": 5.0})


def found(*bounds: Bound, values: tuple[float, ...] = (1.0, 3.0)) -> Finding:
    (made,) = rules.find([relation(*bounds, values=values)], Study(Path(), 10, 10), len(values), Kept({}))
    return made


def outcome(test: float, *curves: list[float], notes: tuple[str, ...] = ()) -> Outcome:
    return Outcome("", Graph({}, (), {}, {}), test, curves, notes)


class Canned(Study):
    """A study that knows all outcomes: the test accuracy is what `tests` says of the first of its words in the text."""

    def __init__(self, tests: dict[str, Outcome], ann: float = 90.0) -> None:
        super().__init__(Path(), 10, 10)
        self.tests, self.teachers = tests, ann

    def ann(self, task: str) -> float:
        return self.teachers

    def run(self, task: str, text: str, seed: int, start: Outcome | None = None) -> Outcome:
        return next(made for words, made in self.tests.items() if all(w in f"{task} {text}" for w in words.split()))


def test_means_and_spreads_are_over_seeds() -> None:
    finding = found()
    assert finding.mean("a") == 2.0
    assert finding.spread("a") == pytest.approx(np.sqrt(2))
    assert finding.ours == "a 2.00 +- 1.41; b 5.00"
    assert found(values=(7.0,)).ours == "a 7.00; b 5.00"


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((), "reported"),
        ((Bound("a", 0),), "holds"),
        ((Bound("a", 2, 2),), "holds, within the spread"),
        ((Bound("a", 1),), "holds, within the spread"),
        ((Bound("a", most=3.5),), "holds"),
        ((Bound("a", most=3.4),), "holds, within the spread"),
        ((Bound("a", 3),), "does not hold, within the spread: a >= 3"),
        ((Bound("a", 9),), "does not hold: a >= 9"),
        ((Bound("a", 9), Bound("a", 0), Bound("b", most=4)), "does not hold: a >= 9; b <= 4"),
        ((Bound("a", 3), Bound("b", most=4)), "does not hold: a >= 3; b <= 4"),
    ],
)
def test_verdicts(bounds: tuple[Bound, ...], verdict: str) -> None:
    assert found(*bounds).verdict == verdict


def test_a_bound_says_what_it_is() -> None:
    assert [str(Bound("a", *limits)) for limits in ((-1,), (-1, 1), (0, 0))] == [
        "a >= -1",
        "a >= -1 and a <= 1",
        "a = 0",
    ]
    assert str(Bound("a", most=2)) == "a <= 2"


def test_what_cannot_be_measured_says_why() -> None:
    def refuse(study: Study, seed: int) -> Numbers:
        raise NotRunError("no targets of this kind")

    asked = [Relation("X2", "c", "p", (Bound("a", 0),), refuse), relation()]
    finding, other = rules.find(asked, Study(Path(), 10, 10), 2, Kept({}))
    assert (finding.ours, finding.verdict) == ("-", "not run: no targets of this kind")
    assert rules.row(finding) == "| **X2** c | p | a >= 0 | - | 0 | not run: no targets of this kind |"
    assert other.verdict == "reported"


def test_every_relation_of_the_papers_has_its_row() -> None:
    names = [relation.name for relation in rules.TABLE]
    wanted = [f"{kind}{i}" for kind, most in (("L", 9), ("T", 3), ("P", 6), ("S", 5)) for i in range(1, most + 1)]
    assert names == wanted


def test_the_command_prints_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(rules, "TABLE", (relation(Bound("a", 9)),))
    monkeypatch.setenv("SNNC_DATA", "somewhere")
    rules.main(["--seeds", "2"])
    assert capsys.readouterr().out.splitlines() == [
        *rules.HEADER.splitlines(),
        "| **X1** a claim | theirs | a >= 9 | a 2.00 +- 1.41; b 5.00 | 2 | does not hold: a >= 9 |",
    ]
    monkeypatch.delenv("SNNC_DATA")
    with pytest.raises(SystemExit, match="set SNNC_DATA"):
        rules.main([])


def test_measuring_goes_on_from_what_was_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = list[int]()

    def measure(study: Study, seed: int) -> Numbers:
        asked.append(seed)
        return {"a": float(seed)}

    one, study, path = [Relation("X3", "c", "p", (), measure)], Study(Path(), 10, 10), tmp_path / "kept.json"
    rules.find(one, study, 1, Kept({"samples": 5}, path))
    (finding,) = rules.find(one, study, 3, Kept({"samples": 5}, path))
    assert asked == [0, 1, 2]
    assert (finding.mean("a"), len(finding.numbers)) == (1.0, 3)
    (few,) = rules.known(one, 2, Kept({"samples": 5}, path))
    assert few.numbers == [{"a": 0.0}, {"a": 1.0}]
    (none,) = rules.known([relation()], 2, Kept({"samples": 5}, path))
    assert none.verdict == "not run: not yet"
    with pytest.raises(ValueError, match=r"measured with \{'samples': 5\}, not with \{'samples': 6\}"):
        Kept({"samples": 6}, path)


def test_local_rules_are_compared() -> None:
    """L1 to L5 and L9, by numbers made up."""
    made = {
        "mnist steps=32 ltl-online": outcome(88), "fashion steps=32 ltl-online": outcome(87),
        "ltl-online": outcome(86), "sequential": outcome(80),
        "cifar ltl{": outcome(91, [10, 20, 30, 40, 45, 49, 50]),
        "cifar bptt": outcome(20, [10, 11, 12, 13, 14, 15, 26]),
        "steps=4} ltl{": outcome(70), "steps=8} ltl{": outcome(75), "steps=32} ltl{": outcome(89),
        "bptt": outcome(72),
        "ltl{": outcome(89.5, notes=("kept", "the boxcar gates out 61% of all updates: r 5% to s 9%")),
    }  # fmt: skip
    study = Canned(made)
    assert ltl.teacher(study, 0)["mnist"] == -0.5
    assert ltl.teacher(study, 0)["cifar"] == 1.0
    online = ltl.online(study, 0)
    assert (online["mnist"], online["fashion"]) == (3.5, 3.5)
    assert online["mean gap T 32 - T 16"] == (1 + 2) / 2 - 3.5
    early = ltl.convergence(study, 0)
    assert (early["% of final"], early["LTL - STBP"]) == (98.0, 34.0)
    windows = ltl.windows(study, 0)
    assert [windows[f"T {b} - T {a}"] for a, b in ((4, 8), (8, 16), (16, 32))] == [5.0, 14.5, -0.5]
    assert windows["LTL - STBP at T 4"] == -2.0
    assert ltl.order(study, 0) == {"sequential - parallel": -9.5}
    assert ltl.gated(made["ltl{"].notes) == 61.0


def test_progressive_learning_is_compared() -> None:
    """P1 to P3, P5 and P6."""
    made = {
        "ptl bits=4": outcome(88.5),
        "cifar ptl": outcome(60, [50, 55], [40, 52], [58, 57]),
        "fashion patience=1": outcome(80, [1, 2], [1, 2]),
        "fashion patience=4": outcome(79, [1, 2, 3], [1, 2, 3, 4]),
        "ptl": outcome(89, [80, 81, 82], [80, 83]),
        "tandem start=random": outcome(10), "tandem start=converted": outcome(61),
    }  # fmt: skip
    study = Canned(made)
    assert ptl.against_ann(study, 0)["mnist"] == -1.0
    assert ptl.recovery(study, 0) == {"largest fall of a stage's best": 3.0, "largest dip": 15.0}
    assert ptl.quantized(study, 0) == {"mnist": 0.5, "cifar": -28.5}
    waited = ptl.patience(study, 0)
    assert waited["epochs T_p 1"] == 2
    assert (waited["epochs T_p 2 - 1"], waited["epochs T_p 4 - 2"], waited["accuracy T_p 4 - 1"]) == (1.0, 2.0, -1.0)
    deep = ptl.depth(study, 0)
    assert (deep["PTL - tandem"], deep["PTL - tandem of converted weights"]) == (50.0, -1.0)


def test_errors_of_windows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """P4: falls are in percent of the analog network's error, which is measured first."""
    errors = iter([0.01, *(0.05, 0.03, 0.02, 0.016, 0.013, 0.012)])
    monkeypatch.setattr(autoencoder, "_adopted", lambda study: (mlp(), None))
    monkeypatch.setattr(autoencoder, "_error", lambda graph, data: next(errors))
    monkeypatch.setattr(Pipeline, "__call__", lambda self, graph, data, seed: (graph, None))
    made = autoencoder.error(Study(Path(), 10, 10), 0)
    assert made["N_s 32 above ANN, %"] == pytest.approx(20)
    assert [made[f"N_s {a} - {b}, %"] for a, b in ((1, 2), (16, 32))] == pytest.approx([200, 10])
    assert (made["ANN"], made["N_s 32"]) == (0.01, 0.012)


def test_an_autoencoder_learns_its_own_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are their own targets, and the network that is trained on them is imported; noise it knows the mean of."""
    monkeypatch.setattr(autoencoder, "EPOCHS", 2)
    rng = np.random.default_rng(0)
    raw = rng.random((64, 1, 28, 28)).astype(np.float32)
    split = autoencoder._own(Split(raw, np.zeros(64, np.int64)))
    assert np.array_equal(split.raw[:], raw.reshape(64, 784))
    assert np.array_equal(split.labels[:], split.raw[:])
    graph = autoencoder._trained(Data(split, split, split))
    assert sum(node.op == "relu" for node in graph.nodes) == 5
    assert autoencoder._error(graph, Data(split, split, split)) == pytest.approx(raw.var(), rel=0.05)


def test_noise_is_raised_until_it_harms(monkeypatch: pytest.MonkeyPatch) -> None:
    """L6 and L7: the first level that costs 5 points, and what an epoch leaves of it."""

    class Chip:
        def __init__(self, level: float) -> None:
            self.accuracy = 90 - 10 * level

        def calibrate(self, data: object, epochs: int) -> None:
            self.accuracy += 4

    monkeypatch.setattr(noise, "_chip", lambda study, seed, kind, level: Chip(level))
    monkeypatch.setattr(noise, "_judged", lambda study, chip: chip.accuracy)
    monkeypatch.setattr(Study, "data", lambda study, task: None)
    made = noise.mismatch(Study(Path(), 10, 10), 0)
    assert made == pytest.approx({"drop": 5, "left": 1, "level": 0.5, "drop at 0.4": 4})
    hot = noise.thermal_and_silencing(Study(Path(), 10, 10), 0)
    assert hot["thermal: level"] == 0.6
    assert hot["thermal: share back"] == pytest.approx(4 / 6)
    assert hot["silencing: left"] == pytest.approx(1)


def test_bits_are_compared() -> None:
    """L8."""
    made = {f"bits={bits} ": outcome(90 - lost) for bits, lost in ((7, 0.0), (6, 0.5), (5, 1.0), (4, 2.0), (3, 8.0))}
    made |= {noise.RETRAINED: outcome(87), "start=random": outcome(90)}
    numbers = noise.bits(Canned(made), 0)
    assert numbers["lost at 3 less 3 times lost at 4"] == 2.0
    assert numbers["share that QAT brings back"] == 5 / 8
    assert [numbers[f"lost at {bits}"] for bits in (7, 6, 5, 4, 3)] == [0.0, 0.5, 1.0, 2.0, 8.0]


@pytest.fixture(scope="module")
def small() -> Study:
    """A study of a tiny network under the name of the tasks."""
    graph, study = mlp(), Study(Path(), 10, 10)
    data = data_for(graph)
    for task in ("fashion", "deep", "shallow", "mnist"):
        study.adopt(task, data, graph)
    return study


def test_a_pipeline_runs_once(small: Study) -> None:
    first = small.run("mnist", f"{lowered(4)},tandem{{epochs=2}}", 0)
    assert small.run("mnist", f"{lowered(4)},tandem{{epochs=2}}", 0) is first
    assert small.run("mnist", f"{lowered(4)},tandem{{epochs=2}}", 1) is not first
    (curve,) = first.curves
    assert len(curve) == 3
    further = small.run("mnist", "quantize-weights{bits=3}", 0, first)
    assert further.text == f"{first.text},quantize-weights{{bits=3}}"
    assert further.graph.constraints
    assert not first.graph.constraints
    assert Pipeline.parse(further.text).passes
    assert first.test == small.share("mnist", first.graph)


def test_curves_are_of_one_training_each() -> None:
    curves = Curves()
    for shares in ((0.5, 0.75), (0.25,)):
        with curves.training("ltl", 0) as tell:
            for share in shares:
                tell("validation", share, 1)
                tell("loss", 7.0, 1)
    assert curves.trainings == [[50.0, 75.0], [25.0]]


def test_tandem_learning_transfers_without_loss(small: Study) -> None:
    graph = small.run("deep", f"{tandem._coded(4)},tandem{{epochs=1}}", 0).graph
    assert tandem._tandem_lost(small, "deep", graph) == 0
    assert abs(tandem._lost(small, "deep", 4, 0)) <= 100


def test_gradients_are_compared_and_counted(small: Study) -> None:
    """S2 and S3 on a network that runs."""
    graph = sltt._started(small, 0, sltt.leaky(10))
    context = Context(small.data("fashion"))
    assert [sltt._backs(SLTT(k=k, chunk=1), graph, context) for k in (2, 0)] == [2, 10]
    made = sltt._gradients(SLTT(), graph, context)
    assert set(made) == set(weights_of(graph))
    assert set(sltt.seconds(small, 0)) == {"SLTT / BPTT", "SLTT-1 / BPTT"}


def test_batch_norms_are_compared_in_both_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """S5; with, without, and from the start alone."""
    tests = {"fashion batchnorm=true": 80.0, "deep batchnorm=true": 70.0, "fashion": 79.0, "deep": 10.0}
    study = Canned({words: outcome(test) for words, test in tests.items()})
    with monkeypatch.context() as patch:
        patch.setattr(sltt, "_start_alone", lambda study, task, seed: Graph({}, (), {}, {}))
        patch.setattr(study, "share", lambda task, graph: 60.0, raising=False)
        found = sltt.normalized(study, 0)
    assert found["fashion: with - without"] == 1
    assert found["deep: with - without"] == 60
    assert found["deep: with - its start"] == 10
    assert found["deep with"] == 70


def test_the_start_of_batch_norms_is_trained_without_them(small: Study) -> None:
    graph = sltt._start_alone(small, "fashion", 0)
    verify(graph)
    assert graph.steps == sltt.STEPS


def test_a_teacher_is_trained_and_imported() -> None:
    """Two images' classes are told apart by brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 2
    raw = (rng.random((256, 1, 8, 8)) * 0.2 + labels[:, None, None, None] * 0.5).astype(np.float32)
    split = Split(raw, labels.astype(np.int64))
    study = Study(Path(), 10, 10)
    task = Task("", "", Scaling(), (1, 8, 8), ((4, 2),), (8,), 20)
    data = Data(split, split, split)
    graph = teacher(task, data)
    study.adopt("x", data, graph)
    assert study.ann("x") > 95
    again = teacher(task, data)
    assert all(again.params[name].tobytes() == array.tobytes() for name, array in graph.params.items())


def test_vgg11_has_eleven_layers() -> None:
    net = network(TASKS["cifar"])
    assert sum(isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) for layer in net) == 11
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_large_network_needs_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNNC_MODELS", raising=False)
    (finding,) = rules.find(vgg11.RELATIONS[:1], Study(Path(), 10, 10), 1, Kept({}))
    assert finding.verdict == "not run: SNNC_MODELS is not set"
