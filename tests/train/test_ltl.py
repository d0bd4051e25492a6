"""Local tandem learning: layers learn their twins' activations, within what the hardware allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data, Split
from snnc.errors import PipelineError
from snnc.ir import Graph, Stage, verify
from snnc.pipeline import Context, Pipeline, single
from snnc.sim.judge import accuracy, layer_errors
from snnc.sim.reference import run
from snnc.sim.torch import forward, tensors
from snnc.train import LTL
from snnc.train.local import Lesson
from snnc.train.ltl import stages
from snnc.train.targets import Targets
from snnc.train.trainer import Batch, Learner
from snnc.train.units import weights_of
from tests.graphs import Builder
from tests.saved import most_saved

Lower = Callable[..., Graph]
SPIKING = "threshold-layernorm{steps=8},bias-per-step"
CONSTRAINED = f"{SPIKING},limit-fan-in{{k=6}},quantize-weights{{bits=3}}"


def share(graph: Graph, data: Data) -> float:
    x = data.validation.x()
    return accuracy(single(run(graph, {"x": x})), data.validation.labels)


def error(graph: Graph, data: Data) -> dict[str, float]:
    assert graph.teacher is not None
    return layer_errors(graph, graph.teacher, data.validation.x())


def own_labels(graph: Graph, data: Data) -> Data:
    """Validation samples that `graph` gets all right."""
    x = data.validation.raw
    return replace(data, validation=Split(x, single(run(graph, {"x": x})).argmax(axis=1)))


def damaged(graph: Graph) -> Graph:
    """Every weight and bias in front of neurons off by half its size."""
    rng = np.random.default_rng(7)
    spoilt = {}
    for name in weights_of(graph):
        if graph.users(name)[0].name == "fc3":
            continue
        noise = 1 + 0.5 * rng.normal(size=graph.params[name].shape)
        array = (graph.params[name] * noise).astype(np.float32)
        spoilt[name] = graph.constraints[name].project(array) if name in graph.constraints else array
    return graph.edit(params=spoilt)


@pytest.mark.parametrize("text", [SPIKING, CONSTRAINED])
def test_a_damaged_network_is_repaired(lowered: Lower, data: Data, text: str) -> None:
    broken = damaged(lowered(text))
    mended = LTL(epochs=8, batch=20, rate=0.02).run(broken, Context(data, broken.teacher))
    verify(mended)
    before, after = error(broken, data), error(mended, data)
    assert after["relu1"] < 0.75 * before["relu1"]
    assert after["relu2"] < 0.75 * before["relu2"]
    assert share(mended, data) > share(broken, data) + 0.1


@pytest.mark.parametrize("alpha", [1.0, 0.9])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_if_and_lif_neurons_both_learn(lowered: Lower, data: Data, alpha: float, reset: str) -> None:
    graph = lowered(f"threshold-layernorm{{steps=8 alpha={alpha} reset={reset}}},bias-per-step")
    assert float(graph.params["relu1.alpha"]) == pytest.approx(alpha)
    broken = damaged(graph)
    mended = LTL(epochs=6, batch=20, rate=0.02).run(broken, Context(data, broken.teacher))
    before, after = error(broken, data), error(mended, data)
    assert after["relu1"] + after["relu2"] < 0.8 * (before["relu1"] + before["relu2"])


def test_levels_and_masks_are_honoured(lowered: Lower, data: Data) -> None:
    graph = damaged(lowered(CONSTRAINED))
    trained = LTL(epochs=3, batch=20, rate=0.02).run(graph, Context(data, graph.teacher))
    assert trained.stage is Stage.CONSTRAINED
    changed = 0
    for name, c in graph.constraints.items():
        w = trained.params[name]
        assert c.mask is not None
        assert c.scale is not None
        assert (w[~c.mask] == 0).all()
        assert set(np.unique(np.rint(w / c.scale))) <= set(range(-3, 4))
        np.testing.assert_array_equal(np.float32(np.rint(w / c.scale)) * c.scale, w)
        changed += int((w != graph.params[name]).sum())
    assert changed > 0


def test_thresholds_leaks_and_starts_are_not_trained(lowered: Lower, data: Data) -> None:
    graph = damaged(lowered())
    trained = LTL(epochs=3, batch=20, rate=0.02).run(graph, Context(data, graph.teacher))
    for name in graph.params:
        part = name.rpartition(".")[2]
        same = np.array_equal(graph.params[name], trained.params[name])
        assert same == (part in ("theta", "alpha", "u0")), name


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())

    def trained(seed: int) -> dict[str, bytes]:
        graph = LTL(epochs=2, batch=20, rate=0.02).run(broken, Context(data, broken.teacher, seed))
        return {n: a.tobytes() for n, a in graph.params.items()}

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)


def test_the_start_is_kept_when_training_only_harms(lowered: Lower, data: Data) -> None:
    graph = lowered()
    ctx = Context(own_labels(graph, data), graph.teacher)
    after = LTL(epochs=1, rate=1e4).run(graph, ctx)
    assert all(np.array_equal(after.params[n], graph.params[n]) for n in graph.params)
    assert any(note.startswith("kept epoch 0 of 1") for note in ctx.notes)


def test_no_teacher_no_learning(lowered: Lower, data: Data) -> None:
    with pytest.raises(PipelineError, match="'ltl' needs the teacher") as caught:
        LTL().run(lowered(), Context(data, None))
    assert "pipeline" in caught.value.hint
    orphan = replace(lowered(), teacher=None)
    with pytest.raises(PipelineError, match="'ltl' needs the teacher"):
        Pipeline(LTL())(orphan, data=data)


def test_layers_without_a_teacher_are_noted(lowered: Lower, data: Data) -> None:
    graph = lowered()
    assert graph.teacher is not None
    turn = {"relu2": "other"}
    nodes = [
        replace(n, name=turn.get(n.name, n.name), inputs=tuple(turn.get(i, i) for i in n.inputs)) for n in graph.nodes
    ]
    renamed = graph.edit(nodes)
    ctx = Context(data, graph.teacher)
    LTL(epochs=1).fit(renamed, ctx)
    assert ctx.notes[0] == "no teacher for other: learning what the weights made of ideal input"
    silent = Context(data, graph.teacher)
    LTL(epochs=1).fit(graph, silent)
    assert not any("no teacher" in note for note in silent.notes)


def gradients(graph: Graph, data: Data, rule: LTL | None = None, **parts: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of 16 training samples, of the params that learn."""
    teacher, labels = parts.get("teacher", graph.teacher), parts.get("labels", data.train.labels[:16])
    params = {name: tensor.requires_grad_() for name, tensor in tensors(graph).items()}
    batch = Batch(params, torch.tensor(data.train.raw[:16]), torch.tensor(labels), np.random.default_rng(0))
    loss = (rule or LTL()).learner(graph, Context(data, teacher))(batch)
    assert not loss.requires_grad
    return float(loss), {n: g for n in weights_of(graph) if (g := params[n].grad) is not None}


@pytest.mark.parametrize(
    "options",
    [{}, {"targets": "floor"}, {"norm": "batch", "percentile": 95}, {"output": "teacher", "temperature": 2}],
    ids=str,
)
def test_the_loss_is_equation_4_and_the_cross_entropy(lowered: Lower, data: Data, options: dict[str, Any]) -> None:
    graph = lowered()
    assert graph.teacher is not None
    found, _ = gradients(graph, data, LTL(**options))
    x = torch.tensor(data.train.raw[:16])
    values = forward(graph, tensors(graph), {"x": x})
    norm, floor = options.get("norm", "collected"), options.get("targets", "exact")
    wanted = Targets(graph, graph.teacher, norm=norm, percentile=95, rounding=floor)(x)
    by_hand = sum(float(((wanted[n] - values[n].sum(0) / 8) ** 2).mean()) for n in ("relu1", "relu2"))
    scores = values["fc3.decoded"]
    if options.get("output") == "teacher":
        softened = (forward(graph.teacher, tensors(graph.teacher), {"x": x})["fc3"] / 2).softmax(1)
        by_hand -= 4 * float((softened * (scores / 2).log_softmax(1)).sum(1).mean())
    else:
        by_hand += float(F.cross_entropy(scores, torch.tensor(data.train.labels[:16])))
    assert found == pytest.approx(by_hand, rel=1e-5)


def test_a_running_norm_goes_from_batch_to_batch(lowered: Lower, data: Data) -> None:
    """The second batch's loss has the norm that the first one has moved; the judge of a layer keeps its yardstick."""
    graph, rule = lowered(), LTL(norm="running", percentile=80)
    assert graph.teacher is not None
    lesson = Lesson(rule, graph, Context(data, graph.teacher))
    running, learn = dict(lesson.beside.running), rule.taught(lesson)
    judged = rule.fit_of(lesson, graph, ("relu1", "relu2"), Context(data, graph.teacher))
    targets = Targets(graph, graph.teacher, norm="running", percentile=80)
    targets.begin(torch.tensor(data.train.raw))
    by_hand = dict(targets.begun)
    for at in (0, 16):
        x, labels = torch.tensor(data.train.raw[at : at + 16]), torch.tensor(data.train.labels[at : at + 16])
        loss = float(learn(Batch(tensors_that_learn(graph), x, labels, np.random.default_rng(0), running)))
        values = forward(graph, tensors(graph), {"x": x})
        wanted = targets.rates(x, targets.activations(x), by_hand)
        total = sum(float(((wanted[n] - values[n].sum(0) / 8) ** 2).mean()) for n in ("relu1", "relu2"))
        assert loss == pytest.approx(total + float(F.cross_entropy(values["fc3.decoded"], labels)), rel=1e-5)
    assert all(float(running[name]) != float(lesson.beside.running[name]) for name in running)
    assert rule.fit_of(lesson, graph, ("relu1", "relu2"), Context(data, graph.teacher)) == judged


def tensors_that_learn(graph: Graph) -> dict[str, torch.Tensor]:
    return {name: tensor.requires_grad_() for name, tensor in tensors(graph).items()}


def test_a_layers_gradient_is_its_own_losss_alone(lowered: Lower, data: Data) -> None:
    """Other targets for the second layer, other labels: what the first layer gets stays the same, to the bit."""
    graph = lowered()
    assert graph.teacher is not None
    other = graph.teacher.edit(params={"w2": graph.teacher.params["w2"] * 2})
    labels = (data.train.labels[:16] + 1) % 3
    _, before = gradients(graph, data)
    for parts, changed in (({"teacher": other}, {"fc2.weight", "b2"}), ({"labels": labels}, {"fc3.weight", "b3"})):
        _, after = gradients(graph, data, **parts)
        assert {name for name, grad in after.items() if not torch.equal(grad, before[name])} == changed
    assert all(float(grad.abs().sum()) > 0 for grad in before.values())


def test_layers_learn_alone(lowered: Lower, data: Data) -> None:
    """The gradient of the second layer's loss stops at its own input spikes."""
    graph = lowered()
    params = {n: t.requires_grad_() for n, t in tensors(graph).items()}
    values = forward(graph, params, {"x": torch.tensor(data.train.raw[:16])}, detach=True)
    values["relu2"].mean().backward()  # type: ignore[no-untyped-call]
    assert params["fc2.weight"].grad is not None
    assert float(params["fc2.weight"].grad.abs().sum()) > 0
    assert params["w1"].grad is None


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"batch": -1}, {"rate": 0.0}, {"width": float("nan")}, {"percentile": 0.0}, {"temperature": 0.0}],
)
def test_impossible_options(options: dict[str, float]) -> None:
    [(key, value)] = options.items()
    with pytest.raises(PipelineError, match=f"'ltl' cannot work with {key}={value}"):
        LTL(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_from_random_weights_the_teacher_is_learned(lowered: Lower, data: Data, order: Any) -> None:
    graph = lowered()
    rule = LTL(epochs=20, batch=20, rate=0.1, width=2.0, start="random", output="teacher", order=order)
    start = rule.begin(graph, Context(data, graph.teacher))
    learned = rule.run(graph, Context(data, graph.teacher))
    before, after = error(start, data), error(learned, data)
    assert share(learned, data) > max(share(start, data) + 0.2, 0.7)
    assert after["relu1"] < 0.4 * before["relu1"]
    assert after["relu2"] < 0.4 * before["relu2"]


def test_layers_in_turn_learn_to_the_rates_that_they_learn_in_parallel(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered())
    ctx = Context(data, broken.teacher)
    mended = LTL(epochs=8, batch=20, rate=0.02, order="sequential").run(broken, ctx)
    before, after = error(broken, data), error(mended, data)
    assert after["relu1"] < 0.75 * before["relu1"]
    assert after["relu2"] < 0.75 * before["relu2"]
    assert share(mended, data) > share(broken, data) + 0.1
    assert [note.partition(": kept epoch")[0] for note in ctx.notes[:-1]] == ["relu1", "relu2", "fc3.decoded"]


def test_in_turn_only_the_layer_moves_and_the_read_out_last(
    lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage has its own params and its own gradients, and starts from what the one before has learned."""
    graph = lowered()
    wanted = [
        (("relu1",), ("w1", "b1")),
        (("relu2",), ("fc2.weight", "b2")),
        ((), ("fc3.weight", "b3")),
    ]
    assert stages(graph, ("relu1", "relu2")) == wanted
    labels, seen = torch.tensor(data.train.labels[:16]), []

    def watched(
        rule: LTL, start: Graph, ctx: Context, learn: Learner, units: dict[str, float], *rest: object
    ) -> dict[str, np.ndarray]:
        params = {name: tensor.requires_grad_() for name, tensor in tensors(start).items()}
        learn(Batch(params, torch.tensor(data.train.raw[:16]), labels, np.random.default_rng(0)))
        moved = [name for name in weights_of(graph) if not np.array_equal(start.params[name], graph.params[name])]
        seen.append((tuple(units), tuple(n for n in weights_of(graph) if params[n].grad is not None), tuple(moved)))
        assert (rest[0] is None) == (units.keys() == {"fc3.weight", "b3"})
        return {name: start.params[name] + 1 for name in units}

    monkeypatch.setattr("snnc.train.ltl.loop", watched)
    LTL(order="sequential").fit(graph, Context(data, graph.teacher))
    first, second, last = (names for _, names in wanted)
    assert seen == [(first, first, ()), (second, second, first), (last, last, (*first, *second))]


def test_layers_that_share_weights_learn_together(data: Data) -> None:
    b = Builder({"x": (8,)})
    b("d", "dense", "x", weight=np.random.default_rng(3).normal(size=(6, 8)) / 3)
    b("leaky", "leakyrelu", "d", slope=0.3)
    graph, _ = Pipeline.parse(f"rectify,{SPIKING}")(b.graph(b("e", "dense", "leaky", weight=np.eye(3, 6))), data=data)
    found = stages(graph, ("leaky", "leaky.off"))
    assert found[0][0] == ("leaky", "leaky.off")
    assert "d.weight" in found[0][1]
    assert len(found) == 2


def test_in_turn_the_start_is_kept_when_the_end_is_worse(lowered: Lower, data: Data) -> None:
    graph = lowered()
    ctx = Context(own_labels(graph, data), graph.teacher)
    odd = replace(graph, teacher=graph.teacher and graph.teacher.edit(params={"w1": -graph.params["w1"]}))
    after = LTL(epochs=2, rate=0.1, order="sequential").run(odd, replace(ctx, teacher=odd.teacher))
    assert all(np.array_equal(after.params[n], graph.params[n]) for n in graph.params)
    assert any(note.startswith("kept the start, 100.00% on validation") for note in ctx.notes)


def test_what_is_kept_grows_with_time_and_in_turn_not_with_the_layers(lowered: Lower, data: Data) -> None:
    """Parallel: linear in T, all layers together; sequential: linear in T, the largest layer."""
    x, labels = torch.tensor(data.train.raw[:16]), torch.tensor(data.train.labels[:16])

    def kept(steps: int, layers: tuple[str, ...] | None) -> int:
        graph, rule = lowered(f"threshold-layernorm{{steps={steps}}},bias-per-step"), LTL()
        learns = {name for found, names in stages(graph, ("relu1", "relu2")) if found == layers for name in names}
        learn = rule.taught(Lesson(rule, graph, Context(data, graph.teacher)), layers)
        params = tensors(graph)
        leaves = {n: params[n].requires_grad_() for n in (weights_of(graph) if layers is None else learns)}
        batch = Batch({**params, **leaves}, x, labels, np.random.default_rng(0))
        return most_saved(lambda: learn(batch))

    parts: list[tuple[str, ...]] = [("relu1",), ("relu2",), ()]
    for layers in (None, *parts[:2]):
        four, eight, sixteen = (kept(steps, layers) for steps in (4, 8, 16))
        assert sixteen - eight == pytest.approx(2 * (eight - four), rel=0.05)
        assert eight > four
    most = max(kept(16, layers) for layers in parts)
    assert most < 0.6 * kept(16, None)
