"""Pipelines: refused when they cannot run; text and object inverse; a row for every pass; test samples out of sight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from snnc.data import Data, Split
from snnc.errors import DataError, GraphError, PipelineError
from snnc.ir import Array, Graph, Node, Stage, TensorType, to_text, verify
from snnc.passes import (
    BiasPerStep,
    FoldBatchNorm,
    LimitFanIn,
    PoolNeurons,
    QuantizeWeights,
    ReplaceMaxPool,
    ThresholdLayerNorm,
)
from snnc.pipeline import Context, Pass, Pipeline, judged
from snnc.sim.reference import run
from snnc.train import LTL, Trainer

ANALOG, SPIKING, CONSTRAINED, PLACED = Stage


def network() -> Graph:
    """Four inputs, batch norm, six relus, three classes."""
    rng = np.random.default_rng(3)
    params = {
        "w1": rng.normal(size=(6, 4)),
        "gamma": rng.random(6) + 0.5,
        "beta": rng.normal(size=6) / 4,
        "mean": rng.normal(size=6) / 4,
        "var": rng.random(6) + 0.5,
        "w2": rng.normal(size=(3, 6)),
        "b2": rng.normal(size=3) / 4,
    }
    nodes = [
        Node("fc1", "dense", ("x", "w1"), origin=("/fc1/Gemm",)),
        Node("bn1", "batchnorm", ("fc1", "gamma", "beta", "mean", "var"), {"epsilon": 1e-5}, ("/bn1/BN",)),
        Node("relu1", "relu", ("bn1",)),
        Node("fc2", "dense", ("relu1", "w2", "b2")),
    ]
    arrays = {name: np.asarray(value, np.float32) for name, value in params.items()}
    return Graph({"x": TensorType("analog", (4,))}, (), {}, {}).edit(nodes, params=arrays, outputs={"y": "fc2"})


def data(test_label: int | None = None) -> Data:
    """Samples labelled by the network itself."""
    x = np.random.default_rng(4).random((60, 4), np.float32)
    y = run(network(), {"x": x})["y"].argmax(axis=1).astype(np.int64)
    parts = [Split(x[a:b], y[a:b]) for a, b in ((0, 30), (30, 45), (45, 60))]
    if test_label is not None:
        parts[2] = Split(parts[2].raw * 0 + 7, parts[2].labels * 0 + test_label)
    return Data(parts[0], parts[1], parts[2])


RECIPE = (
    "fold-batchnorm,threshold-layernorm{steps=8},bias-per-step,limit-fan-in{k=3},quantize-weights,ltl{epochs=2 batch=8}"
)


@dataclass(frozen=True)
class Step(Pass):
    """A pass that does what its class attributes say."""

    name = "step"
    takes = frozenset(Stage)
    seen: ClassVar[list[Context]] = []

    def run(self, graph: Graph, ctx: Context) -> Graph:
        self.seen.append(ctx)
        return graph


# --- what can follow what


def test_the_default_order_is_accepted() -> None:
    steps = (FoldBatchNorm(), ReplaceMaxPool(), PoolNeurons(), ThresholdLayerNorm(), BiasPerStep(), LimitFanIn(), LTL())
    assert Pipeline(*steps).passes == steps
    assert str(Pipeline()) == ""
    assert Pipeline(LTL(), QuantizeWeights()).passes, "a pipeline may begin in the middle"


def test_stages_that_do_not_meet() -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline(ThresholdLayerNorm(steps=8), FoldBatchNorm())
    assert str(caught.value) == (
        "'fold-batchnorm' takes a graph of stage analog, but after 'threshold-layernorm' it is spiking\n"
        "  try: reorder the passes, or add the one that lowers (threshold-layernorm makes spiking graphs)"
    )


def test_all_clashes_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse("fold-batchnorm,limit-fan-in,threshold-layernorm,quantize-weights,bias-per-step")
    assert [problem.message for problem in caught.value.problems] == [
        "'limit-fan-in' takes a graph of stage spiking or constrained, but after 'fold-batchnorm' it is analog",
        "'threshold-layernorm' takes a graph of stage analog, but after 'limit-fan-in' it is constrained",
        "'bias-per-step' takes a graph of stage spiking, but after 'quantize-weights' it is constrained",
    ]
    assert caught.value.message.startswith("the pipeline 'fold-batchnorm,limit-fan-in,")


def test_what_an_earlier_pass_accepts_limits_what_may_follow() -> None:
    """LTL takes spiking or constrained and gives what it got: no analog graph can come out of it."""
    with pytest.raises(PipelineError, match="after 'ltl' it is spiking or constrained"):
        Pipeline(LTL(), ThresholdLayerNorm())


def test_text_and_pipeline_are_inverse() -> None:
    made = Pipeline.parse(RECIPE)
    assert str(made) == RECIPE
    assert Pipeline.parse(str(made)) == made
    assert hash(Pipeline.parse(RECIPE)) == hash(made)
    assert made != Pipeline.parse(RECIPE.replace("k=3", "k=4"))
    assert str(Pipeline.parse("  ltl { epochs=2 } ")) == "ltl{epochs=2}"


def test_a_typo_costs_no_data() -> None:
    with pytest.raises(PipelineError, match="'limit-fan-in' has no option 'fanin'"):
        Pipeline.parse("fold-batchnorm,limit-fan-in{fanin=3}")


def test_a_graph_of_the_wrong_stage_is_refused() -> None:
    with pytest.raises(
        PipelineError, match="'bias-per-step' takes a graph of stage spiking, but here it is analog"
    ) as e:
        Pipeline(BiasPerStep())(network())
    assert e.value.__notes__ == ["in bias-per-step, after no other pass"]


# --- errors say where they happened


@dataclass(frozen=True)
class Failing(Step):
    name = "failing"
    deep: bool = False

    def run(self, graph: Graph, ctx: Context) -> Graph:
        raise ZeroDivisionError("one by zero") if self.deep else GraphError("no good")


@pytest.mark.parametrize("deep", [False, True])
def test_an_error_says_which_pass_and_what_ran_before(deep: bool) -> None:
    with pytest.raises((GraphError, ZeroDivisionError)) as caught:
        Pipeline(FoldBatchNorm(), Step(), Failing(deep))(network())
    text = "failing{deep=true}" if deep else "failing"
    assert caught.value.__notes__ == [f"in {text}, after fold-batchnorm, step"]


@dataclass(frozen=True)
class Liar(Step):
    """Promises spiking graphs."""

    name = "liar"
    gives = SPIKING
    new: bool = True

    def run(self, graph: Graph, ctx: Context) -> Graph:
        return graph.edit() if self.new else graph


@pytest.mark.parametrize("new", [True, False])
def test_a_pass_that_lies_about_its_stage(new: bool) -> None:
    with pytest.raises(PipelineError, match="'liar' promised stage spiking and gave analog"):
        Pipeline(Liar(new))(network())


@dataclass(frozen=True)
class Smuggler(Step):
    """Says that the stage stays, and changes it."""

    name = "smuggler"

    def run(self, graph: Graph, ctx: Context) -> Graph:
        return replace(graph, stage=SPIKING, steps=3)


@dataclass(frozen=True)
class Breaker(Step):
    """Makes a graph that breaks an invariant."""

    name = "breaker"

    def run(self, graph: Graph, ctx: Context) -> Graph:
        return replace(graph, params={**graph.params, "w1": graph.params["w1"] * np.float32("nan")})


def test_a_pass_that_changes_the_stage_on_the_quiet() -> None:
    with pytest.raises(PipelineError, match="'smuggler' promised stage analog and gave spiking"):
        Pipeline(Smuggler())(network())


def test_every_graph_is_verified() -> None:
    with pytest.raises(GraphError, match="'w1' holds NaN") as caught:
        Pipeline(Breaker())(network())
    assert caught.value.__notes__ == ["in breaker, after no other pass"]


# --- the ledger


def test_one_row_a_pass() -> None:
    graph, ledger = Pipeline.parse(RECIPE)(network(), data=data(), seed=0)
    assert [row.step for row in ledger.rows] == RECIPE.split(",")
    assert [row.stage for row in ledger.rows] == [ANALOG, SPIKING, SPIKING, *[CONSTRAINED] * 3]
    assert [row.split for row in ledger.rows] == ["validation"] * 6
    assert ledger.rows[0].accuracy == 1.0, "folding is exact and the labels are the network's own"
    assert ledger.rows[0].error["relu1"] == pytest.approx(0, abs=1e-5)
    assert all(0 < row.error["relu1"] < 1 for row in ledger.rows[1:])
    assert "limit-fan-in" in ledger.rows[3].step
    assert any("fan-in 4 -> 3" in note for note in ledger["limit-fan-in"].notes)
    assert ledger.rows[-1].nodes == len(graph.nodes)
    assert all(row.changed for row in ledger.rows[:-1])


def test_accuracy_is_that_of_the_validation_part() -> None:
    half = data()
    labels = half.validation.labels.copy()
    labels[:3] = (labels[:3] + 1) % 3
    spoilt = replace(half, validation=Split(half.validation.raw, labels))
    _, ledger = Pipeline(Step())(network(), data=spoilt)
    assert ledger["step"].accuracy == pytest.approx(12 / 15)
    assert not ledger["step"].changed


def test_without_data_nothing_is_judged() -> None:
    _, ledger = Pipeline(FoldBatchNorm())(network())
    assert (ledger["fold-batchnorm"].accuracy, ledger["fold-batchnorm"].error) == (None, {})
    with pytest.raises(PipelineError, match="'threshold-layernorm' needs data"):
        Pipeline(FoldBatchNorm(), ThresholdLayerNorm())(network())


def test_notes_belong_to_the_step_that_made_them() -> None:
    @dataclass(frozen=True)
    class Noting(Step):
        name = "noting"

        def run(self, graph: Graph, ctx: Context) -> Graph:
            ctx.note("first")
            ctx.note("second")
            return graph

    _, ledger = Pipeline(Noting(), Step())(network())
    assert [row.notes for row in ledger.rows] == [("first", "second"), ()]


def test_progress_counts_the_passes() -> None:
    told: list[tuple[str, int, int]] = []
    Pipeline(FoldBatchNorm(), Step())(network(), progress=lambda *now: told.append(now))
    assert told == [("fold-batchnorm", 0, 2), ("step", 1, 2)]


def test_judged_needs_no_teacher() -> None:
    row = judged("x", network(), data(), None)
    assert (row.accuracy, row.error) == (1.0, {})


def test_data_that_does_not_fit_is_refused_before_any_pass() -> None:
    Step.seen.clear()
    wide = Split(np.zeros((3, 5), np.float32), np.zeros(3, np.int64))
    with pytest.raises(DataError, match="does not fit the model"):
        Pipeline(Step())(network(), data=Data(wide, wide, wide))
    assert Step.seen == []


# --- teacher, seeds, and what must not be seen


def test_the_teacher_is_the_imported_graph_and_stays_it() -> None:
    start = network()
    once, _ = Pipeline(FoldBatchNorm(), ThresholdLayerNorm(steps=4))(start, data=data())
    assert once.teacher is start
    again, _ = Pipeline(LimitFanIn(3), LTL(epochs=1))(once, data=data())
    assert again.teacher is start
    verify(again)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    def made() -> tuple[str, Mapping[str, Array], list[dict[str, Any]]]:
        graph, ledger = Pipeline.parse(RECIPE)(network(), data=data(), seed=seed)
        return to_text(graph), graph.arrays(), ledger.to_json(timed=False)

    one, two = made(), made()
    assert one[0] == two[0]
    assert one[2] == two[2]
    assert {k: v.tobytes() for k, v in one[1].items()} == {k: v.tobytes() for k, v in two[1].items()}


def test_the_test_part_decides_nothing() -> None:
    """Whatever stands in the test part, the same network comes out."""
    made = [Pipeline.parse(RECIPE)(network(), data=d)[0].arrays() for d in (data(), data(test_label=1))]
    assert {k: v.tobytes() for k, v in made[0].items()} == {k: v.tobytes() for k, v in made[1].items()}


def test_no_pass_can_see_the_test_part() -> None:
    Step.seen.clear()
    given = data()
    Pipeline(Step())(network(), data=given)
    [ctx] = Step.seen
    assert ctx.data is not None
    assert len(ctx.data.test) == 0
    assert (ctx.data.train, ctx.data.validation) == (given.train, given.validation)
    assert len(given.test) == 15, "the caller's own data stays whole"


def test_training_reads_the_training_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients come from training samples alone; validation is only run forward, to choose."""
    spiking, _ = Pipeline.parse(RECIPE.rpartition(",")[0])(network(), data=data())
    given = data()
    seen: list[Array] = []
    real = Split.x

    def spy(self: Split, index: Any = slice(None)) -> Array:
        x = real(self, index)
        if not isinstance(index, slice):
            seen.append(x)
        return x

    monkeypatch.setattr(Split, "x", spy)
    Pipeline(LTL(epochs=2, batch=8))(spiking, data=given)
    rows = {tuple(sample) for batch in seen for sample in batch.tolist()}
    assert rows == {tuple(sample) for sample in given.train.raw.tolist()}


def test_a_pass_without_data_says_so() -> None:
    with pytest.raises(PipelineError) as caught:
        Context().training("ltl")
    assert str(caught.value) == "'ltl' needs data\n  try: pipeline(graph, data=snnc.data.load('train.npz'))"


def test_streams_of_random_numbers_differ_by_name_and_seed() -> None:
    def draw(seed: int, name: str) -> float:
        return float(Context(seed=seed).rng(name).random())

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(0, "b"), draw(1, "a")}) == 3


def test_a_trainer_stands_in_a_pipeline_like_any_pass() -> None:
    @dataclass(frozen=True)
    class Nothing(Trainer):
        name = "nothing"

        def fit(self, graph: Graph, ctx: Context) -> Mapping[str, Array]:
            return {}

    spiking, _ = Pipeline(FoldBatchNorm(), ThresholdLayerNorm(steps=4))(network(), data=data())
    same, ledger = Pipeline(Nothing())(spiking, data=data())
    assert same is spiking
    assert not ledger["nothing"].changed
