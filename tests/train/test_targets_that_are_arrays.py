"""Every learning rule on targets that are arrays: what it learns by, which epoch it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data, Split
from snnc.errors import CheckpointError, PipelineError
from snnc.ir import Graph, Node
from snnc.pipeline import Context, Pipeline, judged, measured, single
from snnc.score import MSE, SI_SDR, Score
from snnc.sim.torch import run
from snnc.train import LTL, PTL, SLTT, TRAINERS, Checkpoints, Tandem
from snnc.train.loop import Training, loop, validated
from snnc.train.losses import criterion, separated, si_sdr, squared
from snnc.train.per_step import PerStep
from snnc.train.readout import readout
from snnc.train.units import weights_of
from tests.train.conftest import teacher

LOWER = "threshold-layernorm{steps=4},bias-per-step"


def regressor(squashed: bool = False, shape: tuple[int, ...] = (3,)) -> Graph:
    """The tiny teacher without its classes: three numbers, as they are or through a sigmoid."""
    graph = teacher()
    nodes, end = list(graph.nodes[:-1]), "fc3"
    if squashed:
        nodes, end = [*nodes, Node("squashed", "sigmoid", (end,))], "squashed"
    if shape != (3,):
        wide = {"w3": np.random.default_rng(1).normal(size=(np.prod(shape), 12)).astype(np.float32) / 3}
        wide["b3"] = np.zeros(len(wide["w3"]), np.float32)
        nodes = [*nodes, Node("signals", "reshape", (end,), {"shape": shape})]
        return graph.edit(nodes, params=wide, outputs={"y": "signals"})
    return graph.edit(nodes, outputs={"y": end})


def taught(graph: Graph, score: Score = MSE) -> Data:
    """300 samples; targets are what the graph itself makes of them."""
    x = np.random.default_rng(6).random((300, 8), np.float32)
    y = single(run(graph, {"x": x}))

    def split(part: slice) -> Split:
        return Split(x[part], y[part], score=score)

    return Data(split(slice(200)), split(slice(200, 260)), split(slice(260, 300)))


def spiking(graph: Graph, data: Data, text: str = LOWER) -> Graph:
    return Pipeline.parse(text)(graph, data=data)[0]


def rules() -> list[Any]:
    return [cls for name, cls in TRAINERS.table.items() if name != "ptl"]


@pytest.mark.parametrize("squashed", [False, True], ids=["linear", "sigmoid"])
@pytest.mark.parametrize("rule", rules(), ids=lambda cls: cls.name)
def test_every_rule_lowers_the_error(rule: Any, squashed: bool) -> None:
    """Rules that judge every step alone pay for steps that differ, and so bring less."""
    ann = regressor(squashed)
    data = taught(ann)
    graph = spiking(ann, data, f"{LOWER},quantize-weights{{bits=3}}")
    before = measured(graph, data.validation)
    made = rule(epochs=8, batch=16, rate=0.01).run(graph, Context(data, ann))
    after = measured(made, data.validation)
    assert after < (0.92 if issubclass(rule, PerStep) else 0.7) * before, (before, after)


def test_layers_in_turn_are_kept_where_the_error_is_lower() -> None:
    ann = regressor()
    data = taught(ann)
    graph, ctx = spiking(ann, data, f"{LOWER},quantize-weights{{bits=3}}"), Context(data, ann)
    made = LTL(order="sequential", epochs=8, batch=16, rate=0.01).run(graph, ctx)
    assert measured(made, data.validation) < 0.8 * measured(graph, data.validation)
    assert not any("kept the start" in note for note in ctx.notes)


def test_ptl_converts_and_trains() -> None:
    ann = regressor()
    data = taught(ann)
    ctx = Context(data, ann)
    made = PTL(steps=2, epochs=8, patience=0, batch=16, rate=0.01, loss="mse").run(ann, ctx)
    at_once = spiking(ann, data, "threshold-layernorm{steps=2},bias-per-step")
    assert measured(made, data.validation) < 0.6 * measured(at_once, data.validation)
    stages = [note for note in ctx.notes if "best on validation" in note]
    assert [note.partition(":")[0] for note in stages] == ["relu1", "relu2", "read-out"]
    assert stages[-1].endswith(f"best on validation: {MSE.brief(measured(made, data.validation))}")


@pytest.mark.parametrize("rule", [LTL(epochs=6, rate=0.01, batch=16), Tandem(epochs=6, rate=0.01, batch=16)], ids=str)
def test_separation_is_learned_in_any_order(rule: Any) -> None:
    """The targets of every second sample stand in the other order: only a loss that tries both can learn."""
    ann = regressor(shape=(2, 20))
    data = taught(ann, SI_SDR)
    for part in (data.train, data.validation, data.test):
        part.labels[::2] = part.labels[::2, ::-1]  # type: ignore[index]
    graph = spiking(ann, data, f"{LOWER},quantize-weights{{bits=3}}")
    made = rule.run(graph, Context(data, ann))
    assert measured(made, data.validation) > measured(graph, data.validation) + 1
    assert measured(ann, data.validation) > 50


# --- what is compared


def test_the_loss_is_the_plain_squared_error_of_the_output() -> None:
    """No scale of one-hot vectors, and nothing before the sigmoid."""
    ann = regressor(squashed=True)
    data = taught(ann)
    graph, ctx = spiking(ann, data), Context(data, ann)
    assert readout(graph, MSE) == graph.outputs["y"] == "squashed"
    assert readout(graph) != "squashed"
    o, y = torch.rand(5, 3), torch.rand(5, 3)
    for kind in ("auto", "mse"):
        judge = criterion(Tandem(loss=kind), graph, "squashed", ctx)  # type: ignore[arg-type]
        assert float(judge(o, y)) == float(F.mse_loss(o, y))


def test_auto_takes_what_the_targets_are_judged_by() -> None:
    ann = regressor(shape=(2, 20))
    for score, wanted in ((MSE, squared), (SI_SDR, separated)):
        data = taught(ann, score)
        assert criterion(Tandem(), spiking(ann, data), "signals", Context(data, ann)) is wanted
    one, other = torch.rand(4, 30), torch.rand(4, 30)
    assert float(separated(one, other)) == pytest.approx(-float(si_sdr(one, other).mean()))


@pytest.mark.parametrize("name", ["ltl", "ltl-online"])
def test_the_read_out_learns_the_teachers_output(name: str) -> None:
    """With wrong targets in the training part, output=teacher alone comes near to the ANN."""
    ann = regressor()
    data = taught(ann)
    spoilt = Split(data.train.raw, np.asarray(data.train.labels[:]) + 5, score=MSE)
    graph = spiking(ann, data)
    found, own = [], Context(replace(data, train=spoilt), ann)
    for output in ("labels", "teacher"):
        rule: Any = TRAINERS.table[name](epochs=5, batch=16, rate=0.01, output=output)  # type: ignore[call-arg]
        training, learn = Training(rule, graph, own, weights_of(graph)), rule.learner(graph, own)
        for _ in range(5):
            training.epoch(spoilt, learn)
        found.append(measured(graph.edit(params=training.params()), data.validation))
    assert found[1] < 0.2 * found[0], found


# --- which epoch is kept


def test_the_lowest_error_is_the_best_and_patience_counts_from_it() -> None:
    ann = regressor()
    data = taught(ann)
    graph, ctx = spiking(ann, data), Context(data, ann)
    errors = iter([0.5, 0.4, 0.6, 0.3, 0.3, 0.35, 0.7])
    made: list[dict[str, Any]] = []

    def judge(candidate: Graph) -> float:
        made.append(dict(candidate.params))
        return next(errors)

    rule = Tandem(epochs=9, batch=64, patience=2)
    kept = loop(rule, graph, ctx, rule.learner(graph, ctx), judge=judge)
    assert ctx.notes == ["kept epoch 4 of 5, best on validation: 0.3"]
    assert all(np.array_equal(kept[name], made[4][name]) for name in kept), "the latest of equals"


def test_a_training_goes_on_by_its_own_score_only(tmp_path: Path) -> None:
    """From its checkpoint, with the best error so far; not where the data is judged by something else."""
    ann = regressor(shape=(2, 20))
    data, other = taught(ann), taught(ann, SI_SDR)
    graph, rule = spiking(ann, data), Tandem(epochs=2, batch=64, loss="mse")
    whole = rule.run(graph, Context(data, ann))
    for _ in range(2):
        again = Context(data, ann, checkpoints=Checkpoints(tmp_path))
        assert rule.run(graph, again).params["fc3.weight"].tobytes() == whole.params["fc3.weight"].tobytes()
    with pytest.raises(CheckpointError, match="data was"):
        rule.run(graph, Context(other, ann, checkpoints=Checkpoints(tmp_path)))


def test_the_ledgers_row_is_the_loops_judgement() -> None:
    ann = regressor()
    data = taught(ann)
    graph = spiking(ann, data)
    row = judged("snn", graph, data, ann)
    assert (row.accuracy, row.score.name) == (None, "mse")
    assert row.value == validated(graph, Context(data, ann)) == measured(graph, data.validation)


# --- what is refused, before any work


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tandem{loss=cross-entropy}", "loss=cross-entropy compares scores with class numbers, the data has targets"),
        ("tandem{loss=si-sdr}", "loss=si-sdr tries the orders of at most 6 sources, not of 7"),
        ("ltl{balance=true}", "'balance' is for classes, the data has targets"),
        ("bptt{augment=shift}", "'augment' is for classes, the data has targets"),
        ("sltt{mse=0.1}", "'mse' is for classes, the data has targets"),
        ("limit-fan-in{method=auto}", "with method=auto counts points of accuracy, the data is judged by mse"),
    ],
)
def test_options_that_do_not_fit_targets(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = taught(regressor(shape=(7, 5)))
    monkeypatch.setattr("snnc.pipeline.apply_pass", lambda *_: pytest.fail("work was done"))
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(f"{LOWER},{text}")(regressor(shape=(7, 5)), data=data)
    assert message in str(caught.value)
    assert "try: " in str(caught.value)


def test_ptl_refuses_before_any_work_too() -> None:
    ann = regressor()
    with pytest.raises(PipelineError, match="loss=cross-entropy compares scores with class numbers"):
        Pipeline.parse("ptl{loss=cross-entropy}")(ann, data=taught(ann))


def test_signals_are_no_classes(data: Data) -> None:
    with pytest.raises(PipelineError, match="loss=si-sdr compares signals, the data has class numbers"):
        Pipeline.parse(f"{LOWER},ltl{{loss=si-sdr}}")(teacher(), data=data)


def test_all_that_do_not_fit_are_listed() -> None:
    ann = regressor()
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse(f"{LOWER},tandem{{loss=cross-entropy balance=true}},sltt{{mse=0.5}}")(ann, data=taught(ann))
    assert len(caught.value.problems) == 2
    assert len(caught.value.problems[0].problems) == 2


def test_a_rule_alone_refuses_as_well() -> None:
    ann = regressor()
    data = taught(ann)
    with pytest.raises(PipelineError, match="the data has targets of shape"):
        SLTT(loss="cross-entropy").run(spiking(ann, data), Context(data, ann))


def test_softened_answers_are_of_classes() -> None:
    ann = regressor()
    data = taught(ann)
    with pytest.raises(PipelineError, match="'ltl' softens answers that are classes"):
        LTL(output="teacher", temperature=2.0).run(spiking(ann, data), Context(data, ann))
