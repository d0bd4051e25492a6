"""Online local tandem learning: equations 9 to 11 by hand, and memory that does not grow with time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Array, Graph, verify
from snnc.pipeline import Context, Pipeline
from snnc.sim.neurons import boxcar
from snnc.sim.reference import run
from snnc.sim.torch import forward, tensors
from snnc.train import LTL, LTLOnline, Rule
from snnc.train.targets import Targets
from snnc.train.trainer import Batch
from snnc.train.units import weights_of
from tests.graphs import Builder
from tests.saved import most_saved
from tests.train.test_ltl import SPIKING, damaged, error, share

Lower = Callable[..., Graph]


def gradients(rule: LTL | LTLOnline, graph: Graph, data: Data, **parts: Any) -> dict[str, Array]:
    """Of 16 training samples, by param that learns."""
    teacher, labels = parts.get("teacher", graph.teacher), parts.get("labels", data.train.labels[:16])
    params = {name: tensor.requires_grad_() for name, tensor in tensors(graph).items()}
    batch = Batch(params, torch.tensor(data.train.raw[:16]), torch.tensor(labels), np.random.default_rng(0))
    assert not rule.learner(graph, Context(data, teacher))(batch).requires_grad
    return {n: g.numpy() for n in weights_of(graph) if (g := params[n].grad) is not None}


@pytest.mark.parametrize("reset", ["subtract", "subtract-decayed", "zero"])
@pytest.mark.parametrize("alpha", [1.0, 0.9])
def test_one_step_learns_as_offline(lowered: Lower, data: Data, alpha: float, reset: str) -> None:
    graph = lowered(f"threshold-layernorm{{steps=1 alpha={alpha} reset={reset}}},bias-per-step")
    offline, online = (gradients(rule, graph, data) for rule in (LTL(), LTLOnline()))
    assert set(offline) == set(online) == set(weights_of(graph))
    for name, wanted in offline.items():
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(online[name], wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("warm_up", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("alpha", [1.0, 0.9])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_gradients_are_equations_10_and_11_by_hand(
    lowered: Lower, data: Data, reset: str, alpha: float, warm_up: float
) -> None:
    """Hidden weights, the input's, and the read-out's: dCE/do * S * T/t, summed over the steps behind the warm-up."""
    graph = lowered(f"threshold-layernorm{{steps=8 alpha={alpha} reset={reset}}},bias-per-step")
    assert graph.teacher is not None
    x, labels = data.train.raw[:16], data.train.labels[:16]
    found = gradients(LTLOnline(warm_up=warm_up, width=1.4), graph, data)
    rates = {n: r.numpy() for n, r in Targets(graph, graph.teacher)(torch.tensor(x)).items()}
    values = {n: v.numpy() for n, v in forward(graph, tensors(graph), {"x": torch.tensor(x)}).items()}
    wanted = {name: np.zeros_like(graph.params[name]) for name in found}
    for layer, weight, bias in (("relu1", "w1", "b1"), ("relu2", "fc2.weight", "b2")):
        theta, drive = float(graph.params[f"{layer}.theta"]), values["fc1" if layer == "relu1" else "fc2"]
        u, s = np.full(rates[layer].shape, float(graph.params[f"{layer}.u0"]), np.float32), np.zeros_like(rates[layer])
        for t in range(1, 9):
            u = alpha * (u * (1 - s) if reset == "zero" else u) + drive[min(t, len(drive)) - 1]
            u = u - (0 if reset == "zero" else theta * s)
            s = (u >= theta).astype(np.float32)
            np.testing.assert_array_equal(s, values[layer][t - 1])
            if t > int(8 * warm_up):
                zeta = -2 / t * (rates[layer] - values[layer][:t].sum(0) / t)
                gate = boxcar(torch.tensor(u), torch.tensor(theta), 1.4).numpy()
                error = zeta * gate / rates[layer].size
                wanted[weight] += error.T @ (x / 8 if layer == "relu1" else values["relu1"][t - 1])
                wanted[bias] += error.sum(0)
    for t in range(1 + int(8 * warm_up), 9):
        scores = values["fc3"][:t].sum(0) * 8 / t
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        error = (shares - np.eye(3)[labels]) / 16 * 8 / t
        wanted["fc3.weight"] += error.T @ values["relu2"][t - 1]
        wanted["b3"] += error.sum(0)
    for name, grad in found.items():
        assert np.abs(wanted[name]).max() > 1e-5
        np.testing.assert_allclose(grad, wanted[name], rtol=1e-3, atol=1e-5 * np.abs(wanted[name]).max(), err_msg=name)


def test_a_layers_gradient_is_its_own_losss_alone(lowered: Lower, data: Data) -> None:
    graph = lowered()
    assert graph.teacher is not None
    other = graph.teacher.edit(params={"w2": graph.teacher.params["w2"] * 2})
    labels = (data.train.labels[:16] + 1) % 3
    before = gradients(LTLOnline(), graph, data)
    for parts, changed in (({"teacher": other}, {"fc2.weight", "b2"}), ({"labels": labels}, {"fc3.weight", "b3"})):
        after = gradients(LTLOnline(), graph, data, **parts)
        assert {name for name, grad in after.items() if grad.tobytes() != before[name].tobytes()} == changed


def test_what_is_kept_does_not_grow_with_time(lowered: Lower, data: Data) -> None:
    def kept(steps: int, chunk: int) -> int:
        graph = lowered(f"threshold-layernorm{{steps={steps}}},bias-per-step")
        return most_saved(lambda: gradients(LTLOnline(warm_up=0, chunk=chunk), graph, data))

    assert kept(2, 1) == kept(8, 1) == kept(32, 1) > 0
    assert kept(4, 4) == kept(8, 4) == kept(32, 4) <= 4 * kept(2, 1)


def test_a_damaged_network_is_repaired(lowered: Lower, data: Data) -> None:
    broken = damaged(lowered(f"{SPIKING},limit-fan-in{{k=6}},quantize-weights{{bits=4}}"))
    ctx = Context(data, broken.teacher)
    mended = LTLOnline(epochs=8, batch=20, rate=0.02, warm_up=0.5).run(broken, ctx)
    verify(mended)
    before, after = error(broken, data), error(mended, data)
    assert after["relu1"] + after["relu2"] < 0.8 * (before["relu1"] + before["relu2"])
    assert share(mended, data) > share(broken, data) + 0.1
    assert ctx.notes[-1].startswith("the boxcar gates out")


def test_streams_of_events_are_learned_from(data: Data) -> None:
    """Learning moves the rates of neurons that read events step by step towards the teacher's."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (6,)})
    b("d1", "dense", "x", weight=rng.normal(size=(9, 6)) / 2)
    b("r1", "relu", "d1")
    ann = b.graph(b("d2", "dense", "r1", weight=rng.normal(size=(3, 9))))
    x = rng.integers(0, 2, (90, 8, 6)).astype(np.float32)
    labels = run(ann, {"x": x.sum(1)})["out_d2"].argmax(1).astype(np.int64)
    events = type(data)(*(type(data.train)(x[i::3], labels[i::3]) for i in range(3)))
    graph, _ = Pipeline.parse("threshold-layernorm{steps=8 code=events}")(ann, data=events)
    broken = graph.edit(params={"d1.weight": graph.params["d1.weight"] * 0.5})
    mended = LTLOnline(epochs=20, batch=10, rate=0.03, warm_up=0.5).run(broken, Context(events, ann))
    assert graph.teacher is not None
    wanted = Targets(graph, ann)(torch.tensor(events.validation.raw))["r1"].numpy()

    def off(made: Graph) -> float:
        values = forward(made, tensors(made), {"x": torch.tensor(events.validation.raw)})
        return float(np.abs(values["r1"].mean(0).numpy() - wanted).mean())

    assert off(mended) < 0.5 * off(broken)


@pytest.mark.parametrize("options", [{"warm_up": 1.0}, {"warm_up": -0.1}, {"width": 0.0}])
def test_impossible_options(options: dict[str, float]) -> None:
    [(key, value)] = options.items()
    with pytest.raises(PipelineError, match=f"'ltl-online' cannot work with {key}={value}"):
        LTLOnline(**options)  # type: ignore[arg-type]


def test_options_are_text(lowered: Lower, data: Data) -> None:
    text = "ltl-online{epochs=1 width=1.5 norm=batch targets=floor output=teacher start=random warm_up=0.5}"
    (rule,) = Pipeline.parse(text).passes
    assert isinstance(rule, Rule)
    assert str(rule) == text
    broken = lowered()
    twice = [rule.run(broken, Context(data, broken.teacher, 3)) for _ in range(2)]
    assert [a.tobytes() for a in twice[0].params.values()] == [a.tobytes() for a in twice[1].params.values()]
