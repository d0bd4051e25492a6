"""The search against a full sweep on small networks; what it may see, where it stops, what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Array, Graph, Stage
from snnc.pipeline import Context, Pass, Pipeline, silent, single
from snnc.search import Choice, Goal, Search, planned, search, smallest
from snnc.search.find import PERCENTILES
from snnc.search.judge import Judge
from snnc.search.sequential import FIRST
from snnc.sim import torch as executor
from snnc.train import Trainer
from tests.graphs import lenet, mlp, samples

PLAIN = Pipeline.parse("fold-batchnorm,threshold-layernorm,bias-per-step")
QUANTIZED = Pipeline.parse("fold-batchnorm,threshold-layernorm,bias-per-step,quantize-weights{bits=8}")
STEPS, POINTS = range(1, 25), 4.5
SWEPT = range(1, 13)


class Untouchable:
    """A test part that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test part was asked for {name}")

    def __len__(self) -> int:
        raise AssertionError("the test part was counted")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return mlp(features=12, hidden=16, classes=5)


@pytest.fixture(scope="module")
def data(graph: Graph) -> Data:
    """Samples that the ANN is right on but for one in ten; a test part that raises."""
    x = samples(graph, 500)["x"]
    labels = single(executor.run(graph, {"x": x})).argmax(1)
    labels[::10] = (labels[::10] + 1) % 5
    return Data(Split(x[:200], labels[:200]), Split(x[200:], labels[200:]), Untouchable())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(graph: Graph, data: Data) -> Search:
    return search(PLAIN, graph, data, Goal(POINTS, STEPS))


def drop(recipe: Pipeline, graph: Graph, data: Data) -> float:
    """By the pipeline itself, on all validation samples, in points."""
    few = data.validation.take(1)
    snn, _ = recipe(graph, data=Data(data.train, few, few))

    def hits(g: Graph) -> Array:
        return np.asarray(single(executor.run(g, {"x": data.validation.x()})).argmax(1) == data.validation.labels)

    return float(100 * (hits(graph).mean() - hits(snn).mean()))


def test_it_finds_the_smallest_steps_of_a_full_sweep(graph: Graph, data: Data, found: Search) -> None:
    swept = {
        (t, p): drop(Pipeline(*Choice(t, p).passes(PLAIN.passes)), graph, data) for t in SWEPT for p in PERCENTILES
    }
    fits = {key for key, points in swept.items() if points <= POINTS}
    assert (found.chosen.steps, found.chosen.percentile) in fits
    assert found.chosen.steps == min(t for t, _ in fits)
    assert 4 < found.chosen.steps < 12, "a case that says nothing"
    assert found.best.drop == pytest.approx(swept[found.chosen.steps, found.chosen.percentile])
    assert found.best.samples == len(data.validation)
    for trial in found.curve:
        if trial.choice.steps in SWEPT:
            assert trial.within is (swept[trial.choice.steps, trial.choice.percentile] <= POINTS)


def test_another_percentile_is_chosen_where_it_needs_fewer_steps(graph: Graph, data: Data, found: Search) -> None:
    with_100 = search(Pipeline.parse(str(PLAIN).replace("norm,b", "norm{percentile=100},b")), graph, data, found.goal)
    assert with_100.chosen.percentile != 100
    own = [t.choice.steps for t in with_100.curve if t.choice.percentile == 100 and t.within]
    assert with_100.chosen.steps < min(own)


def test_the_pipeline_is_the_recipe_with_the_choice(found: Search) -> None:
    lowering = next(p for p in found.pipeline.passes if p.name == "threshold-layernorm")
    assert (lowering.steps, lowering.percentile) == (found.chosen.steps, found.chosen.percentile)  # type: ignore[attr-defined]
    assert found.judged == found.pipeline
    assert [p.name for p in found.pipeline.passes] == [p.name for p in PLAIN.passes]


def test_it_stops_early_and_counts_what_it_simulates(data: Data, found: Search) -> None:
    first = next(t for t in found.curve if t.choice.steps == 1)
    assert first.samples == FIRST
    assert not first.within
    assert found.sample_steps == sum((t.samples + FIRST) * t.latency for t in found.curve)
    assert {t.samples for t in found.curve} > {FIRST, len(data.validation)}, "the nearer, the longer"
    assert all(a.synops < b.synops for a, b in zip(found.curve, found.curve[1:], strict=False) if _follows(a, b))


def _follows(a: Any, b: Any) -> bool:
    return bool(a.choice.percentile == b.choice.percentile and a.choice.steps < b.choice.steps)


def test_the_same_search_twice_gives_the_same(graph: Graph, data: Data, found: Search) -> None:
    again = search(PLAIN, graph, data, found.goal)
    assert again.to_json(timed=False) == found.to_json(timed=False)
    assert "seconds" not in str(again.to_json(timed=False))
    assert "seconds" in found.to_json()["curve"][0]


def test_bits_go_as_low_as_the_budget_allows(graph: Graph, data: Data) -> None:
    made = search(QUANTIZED, graph, data, Goal(POINTS, STEPS))
    assert made.chosen.bits is not None
    assert made.chosen.bits < 8
    fewer = replace(made.chosen, bits=made.chosen.bits - 1)
    assert drop(made.pipeline, graph, data) <= POINTS
    assert drop(Pipeline(*fewer.passes(QUANTIZED.passes)), graph, data) > POINTS
    everything = search(QUANTIZED, graph, data, Goal(100.0, STEPS))
    assert (everything.chosen.steps, everything.chosen.bits) == (1, 2), "the pass knows no fewer bits than 2"
    assert everything.best.samples == len(data.validation), (
        "settled by the first look, but what is chosen is seen whole"
    )
    assert min(t.samples for t in everything.curve) == FIRST


@dataclass(frozen=True)
class Counted(Pass):
    """An analog pass that counts its runs."""

    name = "counted"
    takes = frozenset({Stage.ANALOG})
    runs: ClassVar[list[int]] = []

    def run(self, graph: Graph, ctx: Context) -> Graph:
        self.runs.append(1)
        return graph


@dataclass(frozen=True)
class Never(Trainer):
    """A trainer that must not run."""

    name = "never"

    def fit(self, graph: Graph, ctx: Context) -> dict[str, Array]:
        raise AssertionError("a search trained")


@dataclass(frozen=True)
class Broken(Pass):
    """A pass that refuses from T = 2 on."""

    name = "broken"
    takes = frozenset({Stage.SPIKING})

    def run(self, graph: Graph, ctx: Context) -> Graph:
        if graph.steps > 1:
            raise PipelineError("it broke")
        return graph


def test_what_does_not_depend_on_the_steps_runs_once_and_trainers_never(graph: Graph, data: Data) -> None:
    Counted.runs.clear()
    recipe = Pipeline(Counted(), *QUANTIZED.passes, Never())
    made = search(recipe, graph, data, Goal(POINTS, STEPS))
    assert len(Counted.runs) == 1
    assert len(made.curve) > 3
    assert made.pipeline.passes[-1] == Never()
    assert made.judged.passes == made.pipeline.passes[:-1]


def test_an_error_says_what_was_tried(graph: Graph, data: Data) -> None:
    with pytest.raises(PipelineError, match="it broke") as caught:
        search(Pipeline(*PLAIN.passes, Broken()), graph, data, Goal(1.0, STEPS))
    assert caught.value.__notes__ == ["in broken, while a search tried T = 2, percentile 99.9"]


def test_no_steps_are_enough(graph: Graph, data: Data) -> None:
    with pytest.raises(PipelineError) as caught:
        search(Pipeline(*QUANTIZED.passes, Never()), graph, data, Goal(0.0, range(1, 3)))
    text = str(caught.value)
    assert "no T from 1 to 2 keeps the drop within 0 points; the nearest was T = 2, percentile 99.9, 8 bits" in text
    for way in ("--steps 1..4", "--max-drop ", "'refine-thresholds' behind", "--steps 2 without --max-drop: 'never'"):
        assert way in text
    with pytest.raises(PipelineError) as caught:
        search(Pipeline.parse(f"{PLAIN},refine-thresholds"), graph, data, Goal(0.0, range(1, 2)))
    assert "refine-thresholds" not in str(caught.value)
    assert "without --max-drop" not in str(caught.value)


@given(st.integers(1, 9), st.integers(1, 100), st.integers(1, 120))
def test_smallest_of_what_is_monotone(first: int, count: int, least: int) -> None:
    steps, asked = range(first, first + count), list[int]()

    def fits(t: int) -> bool:
        asked.append(t)
        return t >= least

    expected = None if least > steps[-1] else max(least, first)
    assert smallest(fits, steps) == expected
    assert set(asked) <= set(steps)
    assert len(set(asked)) <= 2 * count.bit_length() + 2


@given(st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=40))
def test_smallest_of_what_is_not(first: int, answers: list[bool]) -> None:
    steps = range(first, first + len(answers))
    found = smallest(lambda t: answers[t - first], steps)
    if answers[-1]:
        assert found is not None
    if found is not None:
        assert answers[found - first]
        assert not any(answers[t - first] for t in (found - 1, found - 2) if t in steps)


def test_smallest_looks_two_below_what_it_finds() -> None:
    assert smallest(lambda t: t in (9, 11) or t >= 12, range(1, 33)) == 9
    assert smallest(lambda t: t in (8, 11) or t >= 12, range(9, 33)) == 11, "never outside the range"


def test_a_plan_is_checked_before_anything_runs() -> None:
    assert planned(PLAIN, None, None) == (PLAIN, None)
    assert planned(PLAIN, 1.0, None) == (PLAIN, Goal(1.0))
    assert planned(PLAIN, 1.0, range(4, 33)) == (PLAIN, Goal(1.0, range(4, 33)))
    fixed, goal = planned(PLAIN, None, range(5, 6))
    assert (str(fixed), goal) == ("fold-batchnorm,threshold-layernorm{steps=5},bias-per-step", None)
    late = Pipeline.parse("threshold-layernorm{skip=3}")
    assert planned(late, 1.0, None)[1] == Goal(1.0, range(4, 65)), "the read-out has to see a step"


@pytest.mark.parametrize(
    ("recipe", "points", "steps", "text"),
    [
        ("threshold-layernorm", None, range(4, 33), "which of the steps 4 to 32 to take, nothing says"),
        ("threshold-layernorm", -1.0, None, "a drop of at most -1.0 is no goal"),
        ("threshold-layernorm", float("nan"), None, "a drop of at most nan is no goal"),
        ("threshold-layernorm", 1.0, range(0, 4), "range(0, 4) is no range of time steps"),
        ("threshold-layernorm", 1.0, range(4, 4), "range(4, 4) is no range of time steps"),
        ("threshold-layernorm", 1.0, range(4, 9, 2), "range(4, 9, 2) is no range of time steps"),
        ("threshold-layernorm{skip=3}", 1.0, range(2, 9), "'threshold-layernorm' cannot work with skip=3"),
        ("threshold-layernorm{skip=3}", None, range(2, 3), "'threshold-layernorm' cannot work with skip=3"),
        ("fold-batchnorm", 1.0, None, "no pass of 'fold-batchnorm' has a T to set"),
    ],
)
def test_plans_that_cannot_be(recipe: str, points: float | None, steps: range | None, text: str) -> None:
    with pytest.raises(PipelineError) as caught:
        planned(Pipeline.parse(recipe), points, steps)
    assert text in str(caught.value)


def test_samples_sorted_by_class_do_not_mislead(graph: Graph, data: Data, found: Search) -> None:
    order = np.argsort(data.validation.labels, kind="stable")
    by_class = replace(data, validation=Split(data.validation.raw[order], data.validation.labels[order]))
    made = search(PLAIN, graph, by_class, found.goal)
    assert made.chosen == found.chosen
    assert made.best.drop == pytest.approx(found.best.drop)
    judge = Judge.of(PLAIN, graph, by_class, found.goal, 0, "cpu", silent)
    assert set(judge.labels[:FIRST]) == set(by_class.validation.labels), "the first look is of all classes"
    assert len(set(by_class.validation.labels[:FIRST])) < 3


def test_it_costs_less_than_a_third_of_a_sweep() -> None:
    graph = lenet(3)
    x = samples(graph, 500)["image"]
    labels = single(executor.run(graph, {"image": x})).argmax(1)
    parts = Split(x[:200], labels[:200]), Split(x[200:], labels[200:])
    made = search(PLAIN, graph, Data(*parts, parts[1]), Goal(1.0, range(1, 33)))
    assert made.best.within
    assert made.sample_steps < sum(300 * t for t in range(1, 33)) / 3
