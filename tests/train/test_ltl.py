"""Local tandem learning: layers learn their twins' activations, within what the hardware allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
from snnc.train.ltl import Targets, has_weights, readout
from snnc.train.trainer import weights_of
from tests.graphs import Builder

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
    assert ctx.notes[0] == "no teacher for other: not trained by a local loss"
    silent = Context(data, graph.teacher)
    LTL(epochs=1).fit(graph, silent)
    assert not any("no teacher" in note for note in silent.notes)


def test_targets_are_the_teachers_rates(lowered: Lower, data: Data) -> None:
    """y / (T theta), cut to [0, 1], with the theta that threshold-layernorm chose."""
    graph = lowered()
    assert graph.teacher is not None
    targets = Targets(graph, graph.teacher)
    assert targets.layers == ("relu1", "relu2")
    assert targets.without == ()
    x = np.random.default_rng(8).random((20, 8), np.float32) * 2
    record: dict[str, np.ndarray] = {}
    run(graph.teacher, {"x": x}, record)
    found = targets(torch.tensor(x))
    for layer in targets.layers:
        wanted = np.clip(record[layer] / (8 * graph.params[f"{layer}.theta"]), 0, 1)
        np.testing.assert_allclose(found[layer].numpy(), wanted, atol=1e-5)
        assert wanted.max() == 1, "the cut must be exercised"


def test_off_neurons_learn_what_a_value_is_below_0(data: Data) -> None:
    """A leaky relu becomes two layers; the second one's target is the negative part of the teacher's value."""
    b = Builder({"x": (8,)})
    b("d", "dense", "x", weight=np.random.default_rng(3).normal(size=(6, 8)) / 3)
    b("leaky", "leakyrelu", "d", slope=0.3)
    graph, _ = Pipeline.parse(f"rectify,{SPIKING}")(b.graph(b("e", "dense", "leaky", weight=np.eye(3, 6))), data=data)
    assert graph.teacher is not None
    targets = Targets(graph, graph.teacher)
    assert targets.layers == ("leaky", "leaky.off")
    assert targets.without == ()
    x = np.random.default_rng(8).random((20, 8), np.float32)
    record: dict[str, np.ndarray] = {}
    run(graph.teacher, {"x": x}, record)
    found = targets(torch.tensor(x))
    for layer, sign in (("leaky", 1), ("leaky.off", -1)):
        wanted = np.clip(sign * record["leaky"] / (8 * graph.params[f"{layer}.theta"]), 0, 1)
        np.testing.assert_allclose(found[layer].numpy(), wanted, atol=1e-5)
        assert 0 < wanted.mean() < 1


def test_the_loss_is_equation_4_and_the_cross_entropy(
    lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = lowered()
    assert graph.teacher is not None
    caught: list[float] = []

    def loop(
        rule: str, graph: Graph, ctx: Context, schedule: object, loss: Callable[..., torch.Tensor]
    ) -> dict[str, object]:
        x, labels = torch.tensor(data.train.raw[:16]), torch.tensor(data.train.labels[:16])
        caught.append(float(loss(tensors(graph), x, labels)))
        return {}

    monkeypatch.setattr("snnc.train.ltl.loop", loop)
    LTL().fit(graph, Context(data, graph.teacher))
    x = torch.tensor(data.train.raw[:16])
    values, wanted = forward(graph, tensors(graph), {"x": x}), Targets(graph, graph.teacher)(x)
    by_hand = sum(float(((wanted[n] - values[n].sum(0) / 8) ** 2).mean()) for n in ("relu1", "relu2"))
    by_hand += float(F.cross_entropy(values["fc3.decoded"], torch.tensor(data.train.labels[:16])))
    assert caught == pytest.approx([by_hand], rel=1e-5)


def test_layers_learn_alone(lowered: Lower, data: Data) -> None:
    """The gradient of the second layer's loss stops at its own input spikes."""
    graph = lowered()
    params = {n: t.requires_grad_() for n, t in tensors(graph).items()}
    values = forward(graph, params, {"x": torch.tensor(data.train.raw[:16])}, detach=True)
    values["relu2"].mean().backward()  # type: ignore[no-untyped-call]
    assert params["fc2.weight"].grad is not None
    assert float(params["fc2.weight"].grad.abs().sum()) > 0
    assert params["w1"].grad is None


def test_the_readout_is_found_before_any_softmax(lowered: Lower) -> None:
    graph = lowered()
    assert graph.outputs == {"y": "probabilities"}
    assert readout(graph) == "fc3.decoded"
    twice = graph.edit(
        [*graph.nodes, replace(graph["probabilities"], name="again", op="logsoftmax", inputs=("probabilities",))],
        outputs={"y": "again"},
    )
    assert readout(twice) == "fc3.decoded"
    assert readout(graph.edit(outputs={"y": "fc3.decoded"})) == "fc3.decoded"


def test_which_neurons_have_weights_of_their_own(lowered: Lower) -> None:
    graph = lowered()
    assert has_weights(graph, "fc1")
    assert not has_weights(graph, "x.current")
    assert not has_weights(graph, "relu1")
    assert not has_weights(graph, "x")


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch": -1}, {"rate": 0.0}, {"width": float("nan")}])
def test_impossible_options(options: dict[str, float]) -> None:
    [(key, value)] = options.items()
    with pytest.raises(PipelineError, match=f"'ltl' cannot work with {key}={value}"):
        LTL(**options)  # type: ignore[arg-type]
