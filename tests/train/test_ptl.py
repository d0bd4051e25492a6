"""Progressive tandem learning: layer by layer the network becomes spiking, and what can still change learns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data
from snnc.errors import GraphError, PipelineError
from snnc.ir import Array, Graph, Stage, roles, verify
from snnc.pipeline import Context, Pipeline, single
from snnc.sim import reference
from snnc.sim import torch as executor
from snnc.train import PTL, Tandem, ptl
from snnc.train.coupled import Coupled, instead
from snnc.train.loop import loop, validated
from snnc.train.ptl import feeding, units
from snnc.train.trainer import Batch
from snnc.train.units import weights_of
from tests.graphs import Builder, data_for, residual
from tests.train.conftest import teacher

FAST: Mapping[str, Any] = {"steps": 4, "epochs": 2, "batch": 20, "samples": 100, "rate": 0.02}


def worn() -> Graph:
    """The teacher with weights off by half their size, so that there is something to learn."""
    graph, rng = teacher(), np.random.default_rng(7)
    noise = {name: 1 + 0.5 * rng.normal(size=array.shape) for name, array in graph.params.items()}
    return graph.edit(params={name: (graph.params[name] * factor).astype(np.float32) for name, factor in noise.items()})


def pooled() -> Graph:
    """A max pool between two layers, and another one behind the last relu's concatenation with the first."""
    rng = np.random.default_rng(4)
    b = Builder({"image": (2, 4, 4)})
    b("conv1", "conv", "image", weight=rng.normal(size=(3, 2, 3, 3)) / 3, bias=rng.normal(size=3), pads=(1, 1, 1, 1))
    b("relu1", "relu", "conv1")
    b("pool1", "maxpool", "relu1")
    b("conv2", "conv", "pool1", weight=rng.normal(size=(3, 3, 1, 1)))
    b("relu2", "relu", "conv2", max=1.0)
    b("both", "concat", "pool1", "relu2")
    b("mean", "avgpool", "both")
    b("flat", "reshape", "mean", shape=(6,))
    return b.graph(b("dense1", "dense", "flat", weight=rng.normal(size=(4, 6))))


def bounds_of(graph: Graph) -> dict[str, Array]:
    """Some a_u for every relu."""
    return {n.name: np.float32(1.5 + i) for i, n in enumerate(n for n in graph.nodes if n.op == "relu")}  # type: ignore[misc]


@dataclass
class Spy:
    """What the loop was asked to do in every stage, and what it gave back."""

    graphs: list[Graph] = field(default_factory=list)
    rules: list[Tandem] = field(default_factory=list)
    learn: list[dict[str, float]] = field(default_factory=list)
    found: list[dict[str, Array]] = field(default_factory=list)

    def __call__(self, rule: Tandem, graph: Graph, *rest: Any) -> dict[str, Array]:
        self.graphs.append(graph)
        self.rules.append(rule)
        self.learn.append(rest[-1])
        self.found.append(loop(rule, graph, *rest))
        return self.found[-1]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    monkeypatch.setattr(ptl, "loop", made)
    return made


def neurons(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes if node.op == "lif"]


def test_one_layer_after_the_other_becomes_spiking(spy: Spy, data: Data) -> None:
    """Every stage has one more layer of neurons; what lies before it does not learn; at last the read-out alone."""
    made = PTL(**FAST).run(worn(), Context(data, teacher()))
    for graph in [*spy.graphs, made]:
        verify(graph)
        assert graph.stage is Stage.SPIKING
        assert graph.steps == 4
    assert [neurons(g) for g in spy.graphs] == [["relu1"], ["relu1", "relu2"], ["relu1", "relu2"]]
    assert [[n.name for n in g.nodes if n.op == "relu"] for g in spy.graphs] == [["relu2"], [], []]
    assert [list(learn) for learn in spy.learn] == [
        ["w1", "b1", "w2", "b2", "w3", "b3"],
        ["w2", "b2", "w3", "b3"],
        ["w3", "b3"],
    ]
    theta = float(spy.graphs[0].params["relu1.theta"])
    assert spy.learn[0]["b1"] == pytest.approx(4 * theta), "a bias that comes with the input, at the first step"
    assert spy.learn[0]["b2"] == pytest.approx(spy.learn[0]["w2"] * theta), "a bias per step"
    assert [learn["b3"] for learn in spy.learn] == [1, 0.25, 0.25], "in the first stage the last layer is analog"
    assert [rule.rate for rule in spy.rules] == pytest.approx([0.02, 0.02, 0.002])
    for earlier, later, frozen in ((0, 1, ["w1", "b1"]), (1, 2, ["w2", "b2"])):
        for name in frozen:
            np.testing.assert_array_equal(spy.graphs[later].params[name], spy.found[earlier][name])
            assert (spy.found[earlier][name] != worn().params[name] / (4 if name == "b2" else 1)).any()


def test_the_last_graph_is_an_ordinary_spiking_graph(spy: Spy, data: Data) -> None:
    made = PTL(**FAST).run(worn(), Context(data, teacher()))
    verify(made)
    assert {n.op for n in made.nodes} == {"encode", "dense", "lif", "decode", "softmax"}
    theta = made.params[roles(made["relu1"], made.params)["theta"]]
    weights = made.params[roles(made["fc2"], made.params)["weight"]]
    np.testing.assert_allclose(weights, spy.found[1]["w2"] * theta, rtol=1e-6)
    np.testing.assert_array_equal(made.params[roles(made["fc1"], made.params)["bias"]], spy.found[0]["b1"])
    np.testing.assert_array_equal(made.params[roles(made["fc3"], made.params)["bias"]], spy.found[2]["b3"])
    x = {"x": data.validation.raw}
    for run in (executor.run, reference.run):
        close = np.isclose(single(run(made, x)), single(run(spy.graphs[-1].edit(params=spy.found[-1]), x)), atol=1e-4)
        assert close.all(axis=1).mean() > 0.95, "but for sums that stand on a threshold"


def test_thresholds_are_of_the_hybrid_as_it_is(spy: Spy, data: Data) -> None:
    """theta of the second layer is the percentile of what it makes of the first one's spikes, once that has learned."""
    rule = PTL(**FAST, percentile=97.0)
    rule.run(worn(), Context(data, teacher()))
    record: dict[str, Array] = {}
    reference.run(spy.graphs[0].edit(params=spy.found[0]), {"x": data.train.raw[:100]}, record)
    made = np.sort(record["relu2"].reshape(-1))
    wanted = made[int(np.ceil(0.97 * made.size)) - 1] / 4
    assert float(spy.graphs[1].params["relu2.theta"]) == pytest.approx(wanted, rel=1e-4)
    reference.run(worn(), {"x": data.train.raw[:100]}, record)
    before = np.sort(record["relu2"].reshape(-1))[int(np.ceil(0.97 * made.size)) - 1] / 4
    assert abs(wanted / before - 1) > 0.01, "or the test could not tell"
    np.testing.assert_array_equal(spy.graphs[1].params["relu1.theta"], spy.graphs[0].params["relu1.theta"])


@pytest.mark.parametrize("code", ["first-step", "direct"])
@pytest.mark.parametrize("make", [teacher, residual, pooled])
def test_every_hybrid_runs_and_trains_as_it_is_deployed(make: Callable[[], Graph], code: Any) -> None:
    """Sums, concatenations and max pools of both kinds of values too: verified, alike in both executors, and exact."""
    graph = make()
    bounds, source = bounds_of(graph), next(iter(graph.inputs))
    x = data_for(graph, 12).train.raw
    for count in range(1, len(bounds) + 1):
        made = PTL(steps=4, code=code).hybrid(graph, dict(list(bounds.items())[:count]), 0)
        verify(made)
        assert neurons(made) == list(bounds)[:count]
        for name, array in graph.params.items():
            scale = 4 if any(n.attrs.get("bias_at") == "per-step" for n in made.users(name)) and array.ndim == 1 else 1
            np.testing.assert_array_equal(made.params[name] * np.float32(scale), array)
        np.testing.assert_allclose(
            single(executor.run(made, {source: x})), single(reference.run(made, {source: x})), atol=1e-4
        )
        trains_as_deployed(made, torch.tensor(x), list(units(graph, bounds, ())))


def trains_as_deployed(made: Graph, x: torch.Tensor, learn: list[str]) -> None:
    """Counts and loss to the bit; totals that give the read-out; a gradient for everything that learns."""
    coupled, params = Coupled(made), executor.tensors(made)
    deployed = executor.forward(made, params, {coupled.input: x})
    fired = coupled.fired(params, x)
    values = coupled.totals(params, x, lambda n, v: instead(fired[n.name], coupled.slope(n, v, params, "bounded")))
    for name in neurons(made):
        assert torch.equal(values[name], deployed[name].sum(0))
    torch.testing.assert_close(values[coupled.scores], deployed[coupled.scores], atol=1e-4, rtol=1e-4)
    labels = torch.arange(len(x)) % 3
    leaves = {name: params[name].requires_grad_() for name in learn}
    loss = Tandem().learner(made, Context())(Batch({**params, **leaves}, x, labels, np.random.default_rng(0)))
    assert torch.equal(loss, F.cross_entropy(deployed[coupled.scores], labels))
    assert all(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves.values())


def test_a_first_layer_that_gets_all_at_the_first_step_fires_the_floor(data: Data) -> None:
    """Tandem eq. 6 to 10: input and bias at once, so the count is clip(floor((V + u0) / theta), 0, T)."""
    graph = teacher()
    for code in ("first-step", "direct"):
        made = PTL(steps=4, code=code).hybrid(graph, bounds_of(graph), 0)  # type: ignore[arg-type]
        bias_at = {n.name: n.attrs["bias_at"] for n in made.nodes if "bias_at" in n.attrs}
        assert bias_at == {
            "fc1": "first-step" if code == "first-step" else "per-step",
            "fc2": "per-step",
            "fc3": "per-step",
        }
        record: dict[str, Array] = {}
        x = data.validation.raw
        reference.run(made, {"x": x}, record)
        charge, theta = x @ graph.params["w1"].T + graph.params["b1"], float(made.params["relu1.theta"])
        same = record["relu1"].sum(0) == np.clip(np.floor((charge + theta / 2) / theta), 0, 4)
        assert same.mean() > 0.995, "but for sums that stand on a threshold"


def test_later_relus_hold_totals_of_their_own() -> None:
    """A hybrid with very fine thresholds is the analog network."""
    for make in (teacher, residual, pooled):
        graph = make()
        source, x = next(iter(graph.inputs)), data_for(graph, 8).train.raw
        record: dict[str, Array] = {}
        reference.run(graph, {source: x}, record)
        first = next(n.name for n in graph.nodes if n.op == "relu")
        bound = {first: np.asarray(record[first].max() * 1.01, np.float32)}
        made = PTL(steps=4096, code="direct").hybrid(graph, bound, 0)
        np.testing.assert_allclose(
            single(executor.run(made, {source: x})), single(reference.run(graph, {source: x})), atol=0.02
        )


def test_units_are_those_of_the_spiking_twin() -> None:
    """Of weights that read counts, theta of the layer before is a factor; of biases per step, T."""
    graph, steps = teacher(), 4
    bounds = bounds_of(graph)
    ours = units(graph, bounds, ())
    made = PTL(steps=steps).hybrid(graph, bounds, 0)
    twin = weights_of(ptl.absorb_worths(made))
    worth = {"w1": 1.0, "w2": float(bounds["relu1"]) / steps, "w3": float(bounds["relu2"]) / steps}
    found = {name: unit * worth.get(name, 1 / steps) for name, unit in ours.items()}
    assert found == pytest.approx(
        {
            "w1": twin["w1"],
            "w2": twin["fc2.weight"],
            "w3": twin["fc3.weight"],
            **{name: twin[name] for name in ("b1", "b2", "b3")},
        }
    )


def test_what_comes_before_is_frozen_and_other_branches_are_not() -> None:
    graph = residual()
    assert feeding(graph, ["relu1"]) == {"image", "conv1"}
    assert set(units(graph, bounds_of(graph), feeding(graph, ["relu1"]))) == {
        "conv2.weight",
        "conv2.bias",
        "dense1.weight",
    }
    assert feeding(graph, ["relu3"]) >= {"conv1", "conv2", "relu1", "relu2", "sum"}


def notes(ctx: Context) -> dict[str, tuple[float, int, int, float]]:
    """By stage: accuracy when it began, epoch kept, epochs, best accuracy."""
    form = r"([\w-]+): ([\d.]+)% when it began, kept epoch (\d+) of (\d+), best on validation: ([\d.]+)%"
    rows = [found.groups() for note in ctx.notes if (found := re.fullmatch(form, note))]
    return {row[0]: (float(row[1]), int(row[2]), int(row[3]), float(row[4])) for row in rows}


def test_every_stage_recovers_what_its_conversion_lost(data: Data) -> None:
    """At two steps a conversion costs a lot; no stage ends below where it began, and each near the one before."""
    ctx = Context(data, teacher())
    made = PTL(steps=2, epochs=6, batch=20, rate=0.02, code="direct").run(teacher(), ctx)
    found = notes(ctx)
    assert list(found) == ["relu1", "relu2", "read-out"]
    assert all(best >= begun for begun, _, _, best in found.values())
    bests = [best for *_, best in found.values()]
    assert all(after >= before - 5 for before, after in itertools.pairwise(bests))
    assert any(best > begun + 2 for begun, _, _, best in found.values()), "nothing was lost, nothing shown"
    plain, _ = Pipeline.parse("threshold-layernorm{steps=2},bias-per-step")(teacher(), data=data)
    assert validated(made, ctx) > validated(plain, ctx)
    assert validated(made, ctx) == pytest.approx(bests[-1] / 100, abs=0.02)
    assert ctx.notes[-1].startswith("angle between counts")


def test_patience_ends_a_stage_and_its_best_is_loaded_again(data: Data) -> None:
    """Far too high a rate makes every epoch worse than the start: each stage waits, and gives the start back."""
    ctx = Context(data, teacher())
    made = PTL(steps=8, epochs=9, patience=2, rate=100.0).run(teacher(), ctx)
    assert [row[1:3] for row in notes(ctx).values()] == [(0, 2)] * 3
    np.testing.assert_array_equal(made.params["w1"], teacher().params["w1"])
    assert validated(made, ctx) == pytest.approx(notes(ctx)["read-out"][0] / 100, abs=1e-3)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data: Data) -> None:
    made = [PTL(**FAST).run(worn(), Context(data, teacher(), seed)) for seed in (0, 0, 1)]
    bytes_of = [{name: array.tobytes() for name, array in graph.params.items()} for graph in made]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]


def test_levels_come_with_the_spikes(spy: Spy, data: Data) -> None:
    """A layer's weights go onto levels in the stage in which it becomes spiking, and stay there; not the read-out's."""
    made = PTL(**FAST, bits=3).run(worn(), Context(data, teacher()))
    assert [sorted(g.constraints) for g in spy.graphs] == [["w1"], ["w1", "w2"], ["w1", "w2"]]
    for graph in [*spy.graphs, made]:
        verify(graph)
    limits = {roles(made[name], made.params)["weight"] for name in ("fc1", "fc2")}
    assert set(made.constraints) == limits
    for name in limits:
        assert made.constraints[name].bits == 3
        levels = made.params[name] / made.constraints[name].scale
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
        assert np.abs(np.rint(levels)).max() == 3
        assert len(np.unique(np.rint(levels))) > 3


def test_it_stands_in_a_pipeline(data: Data) -> None:
    text = "fold-batchnorm,ptl{steps=4 epochs=1},quantize-weights{bits=3}"
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text
    graph, ledger = pipeline(teacher(), data=data)
    assert graph.stage is Stage.CONSTRAINED
    assert graph.teacher is not None
    assert ledger.rows[1].notes[0].startswith("relu1: ")
    with pytest.raises(PipelineError, match="'ptl' takes a graph of stage analog"):
        Pipeline.parse("threshold-layernorm,ptl")


def test_shared_weights_are_refused(data: Data) -> None:
    b = Builder({"x": (8,)})
    b("d1", "dense", "x", weight=np.eye(8))
    b("relu1", "relu", "d1")
    b("d2", "dense", "relu1", weight=np.eye(8))
    graph = b.graph(b("relu2", "relu", "d2"))
    tied = graph.edit([replace(n, inputs=("relu1", "d1.weight")) if n.name == "d2" else n for n in graph.nodes])
    with pytest.raises(PipelineError, match=r"(?s)several layers share d1\.weight.*tandem trains all layers together"):
        PTL(**FAST).run(tied, Context(data))


def test_what_has_no_spiking_form_is_refused(data: Data) -> None:
    b = Builder({"x": (8,)})
    b("d1", "dense", "x", weight=np.eye(8))
    b("squash", "sigmoid", "d1")
    b("d2", "dense", "squash", weight=np.eye(8))
    graph = b.graph(b("relu", "relu", "d2"))
    with pytest.raises(GraphError, match="'sigmoid' has no spiking form"):
        PTL(**FAST).run(graph, Context(data))
    b = Builder({"x": (8,)})
    b("d1", "dense", "x", weight=np.eye(8))
    b("relu", "relu", "d1")
    with pytest.raises(PipelineError, match="'ptl' needs one score for each of two or more classes"):
        PTL(**FAST).run(b.graph(b("d2", "dense", "relu", weight=np.ones((1, 8)))), Context(data))
    with pytest.raises(PipelineError, match="'ptl' needs data"):
        PTL().run(teacher(), Context())


def test_impossible_options() -> None:
    with pytest.raises(PipelineError, match="'ptl' cannot work with steps=0, epochs=0, patience=-1, rate=nan, bits=1"):
        PTL(steps=0, epochs=0, patience=-1, rate=float("nan"), bits=1)
