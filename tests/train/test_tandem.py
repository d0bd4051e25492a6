"""Tandem learning: the counts of the deployed network go forward, gradients come back through analog layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Stage, roles, verify
from snnc.pipeline import Context, Pipeline
from snnc.sim import reference
from snnc.sim import torch as executor
from snnc.sim.torch import exact, forward, tensors
from snnc.train import Tandem
from snnc.train.coupled import Coupled, agreement, instead
from snnc.train.loop import validated
from snnc.train.trainer import Batch
from snnc.train.units import weights_of
from tests.graphs import Builder, data_for, integers, mlp, spiking

Lower = Callable[..., Graph]
SPIKING = "threshold-layernorm{steps=8},bias-per-step"


def branches(steps: int = 8) -> Graph:
    """Neurons whose spikes go on through a max pool, an average pool, a concatenation and a sum; integer weights."""
    rng = np.random.default_rng(3)
    b = Builder({"image": (2, 4, 4)}, steps)
    b("current", "encode", "image", code="first-step")
    b("conv1", "conv", "current", weight=rng.integers(-2, 4, (3, 2, 3, 3)), pads=(1, 1, 1, 1))
    b("relu1", "lif", "conv1", theta=3, u0=1)
    b("most", "maxpool", "relu1")
    b("mean", "avgpool", "relu1")
    b("both", "concat", "most", "mean")
    b("conv2", "conv", "both", weight=4 * rng.integers(-2, 3, (2, 6, 1, 1)), bias=[1, -1], bias_at="per-step")
    b("skip", "conv", "most", weight=rng.integers(-1, 4, (2, 3, 1, 1)))
    b("sum", "add", "conv2", "skip")
    b("relu2", "lif", "sum", theta=[6, 9], u0=[3, 0])
    b("flat", "reshape", "relu2", shape=(8,))
    b("dense1", "dense", "flat", weight=rng.integers(-3, 4, (4, 8)), bias=rng.integers(-2, 3, 4), bias_at="per-step")
    b("scores", "decode", "dense1")
    return b.graph("scores")


GRAPHS = {
    "direct": spiking(steps=8),
    "first-step": spiking("first-step", 8, bias_at="first-step"),
    "branches": branches(),
    "one step": spiking(steps=1),
    "delayed read-out": Pipeline.parse("threshold-layernorm{steps=8 skip=2},bias-per-step")(
        mlp(), data=data_for(mlp())
    )[0],
    "rate": Pipeline.parse("threshold-layernorm{steps=8 code=rate},bias-per-step")(mlp(), data=data_for(mlp()))[0],
}


def batch_of(graph: Graph, count: int = 6) -> Batch:
    """Random integer inputs, every weight a leaf."""
    params = tensors(graph)
    for name in weights_of(graph):
        params[name].requires_grad_()
    x = torch.tensor(integers(graph, count)[next(iter(graph.inputs))])
    return Batch(params, x, torch.arange(count) % 3, np.random.default_rng(0))


@pytest.mark.parametrize("name", GRAPHS)
def test_training_goes_forward_as_the_deployed_network_spike_for_spike(name: str) -> None:
    """Counts, read-out and loss are those of the executor to the bit, and of the reference where sums are exact."""
    graph = GRAPHS[name]
    batch, coupled = batch_of(graph), Coupled(graph)
    with exact():
        deployed = forward(graph, tensors(graph), {coupled.input: batch.x})
        fired = coupled.fired(batch.params, batch.x)
        loss = Tandem().learner(graph, Context())(batch)
        values = coupled.totals(
            batch.params,
            batch.x,
            lambda n, v: instead(fired[n.name], coupled.slope(n, v, batch.params, "bounded")),
        )
    layers = [node.name for node in graph.nodes if node.op == "lif"]
    record: dict[str, Array] = {}
    reference.run(graph, {coupled.input: batch.x.numpy()}, record)
    for layer in layers:
        assert torch.equal(values[layer], deployed[layer].sum(0))
        if name in ("direct", "first-step", "branches", "one step"):
            np.testing.assert_array_equal(values[layer].detach().numpy(), record[layer].sum(0))
    assert torch.equal(loss, F.cross_entropy(deployed[coupled.scores], batch.labels))
    assert sum(float(fired[layer].sum()) for layer in layers) > 0
    if name in ("first-step", "branches"):
        assert torch.equal(values[coupled.scores], deployed[coupled.scores]), "totals miss something on the way"


def test_gradients_by_hand() -> None:
    """Two layers: dE/dW2 = dE/dy c^T, dE/dW1 = (W2^T dE/dy) open / theta x^T; some neurons are below 0, some at T."""
    rng = np.random.default_rng(2)
    b = Builder({"x": (5,)}, 4)
    b("current", "encode", "x")
    b("d1", "dense", "current", weight=rng.integers(-3, 4, (7, 5)), bias=rng.integers(-2, 3, 7), bias_at="first-step")
    b("n", "lif", "d1", theta=4, u0=2)
    b("d2", "dense", "n", weight=rng.integers(-3, 4, (3, 7)))
    graph = b.graph(b("scores", "decode", "d2"))
    p = {name: array.astype(np.float64) for name, array in graph.params.items()}
    found = {}
    for backward in ("bounded", "released"):
        batch = batch_of(graph, 12)
        x = batch.x.numpy().astype(np.float64)
        Tandem(backward=backward).learner(graph, Context())(batch)  # type: ignore[arg-type]
        charge = x @ p["d1.weight"].T + p["d1.bias"]
        record: dict[str, Array] = {}
        scores = reference.run(graph, {"x": batch.x.numpy()}, record)["out_scores"]
        count = record["n"].sum(0)
        error = np.exp(scores - scores.max(1, keepdims=True))
        error = (error / error.sum(1, keepdims=True) - np.eye(3)[batch.labels.numpy()]) / len(x)
        above, full = charge + 2 > 0, charge + 2 >= 4 * 4
        assert above.any()
        assert full.any()
        assert not above.all()
        passes = above & ~full if backward == "bounded" else above
        drive = (error @ p["d2.weight"]) * passes / 4
        wanted = {"d2.weight": error.T @ count, "d1.weight": drive.T @ x, "d1.bias": drive.sum(0)}
        for name, gradient in wanted.items():
            grad = batch.params[name].grad
            assert grad is not None
            np.testing.assert_allclose(grad.numpy(), gradient, rtol=1e-4, atol=1e-6)
        found[backward] = wanted["d1.weight"]
    assert not np.allclose(found["bounded"], found["released"])


def test_a_bias_per_step_learns_t_times() -> None:
    """It arrives T times, so its gradient is T times that of one that arrives at once."""
    found = {}
    for bias_at in ("per-step", "first-step"):
        graph = spiking(steps=8, bias_at=bias_at)
        params = {name: t.requires_grad_() for name, t in tensors(graph).items()}
        coupled = Coupled(graph)
        x = torch.zeros(1, 2, 6, 6)
        coupled.totals(params, x, lambda n, v: v)["scores"].sum().backward()  # type: ignore[no-untyped-call]
        grad = params["dense1.bias"].grad
        assert grad is not None
        found[bias_at] = float(grad[0])
    assert found == {"per-step": 8.0, "first-step": 1.0}


def test_a_max_pool_teaches_the_largest_count() -> None:
    graph = branches()
    coupled, batch = Coupled(graph), batch_of(graph)
    fired = coupled.fired(batch.params, batch.x)
    leaf = fired["relu1"].clone().requires_grad_()
    values = coupled.totals(batch.params, batch.x, lambda n, v: leaf if n.name == "relu1" else v)
    values["most"].sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    windows = leaf.grad.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    counts = leaf.detach().unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(windows.sum(-1), torch.ones(windows.shape[:-1]))
    assert torch.equal((windows * counts).sum(-1), counts.amax(-1))
    assert (counts.amax(-1) > counts.amin(-1)).any()


def saved(run: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps for the way back."""
    kept: dict[int, int] = {}
    hold: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        hold.append(tensor)
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values())


def test_memory_for_the_way_back_does_not_depend_on_the_steps() -> None:
    """Neither kept tensors nor their bytes; through time, they would grow with T."""
    tandem, through_time = [], []
    for steps in (2, 8, 32):
        graph = spiking(steps=steps)
        batch = batch_of(graph)
        learner = Tandem().learner(graph, Context())
        tandem.append(saved(lambda learner=learner, batch=batch: learner(batch)))
        coupled = Coupled(graph)
        through_time.append(
            saved(lambda b=batch, g=graph, c=coupled: forward(g, b.params, {c.input: b.x})[c.scores].sum())
        )
    assert tandem[0] == tandem[1] == tandem[2] > 0
    assert through_time[2] > 2 * through_time[1] > 2 * through_time[0]


@pytest.mark.parametrize(
    ("options", "why"), [("alpha=0.9", "leak"), ("reset=zero", "are reset to zero"), ("alpha=0.5 reset=zero", "leak")]
)
def test_neurons_that_lose_charge_are_refused_at_once(lowered: Lower, data: Data, options: str, why: str) -> None:
    graph = lowered(f"threshold-layernorm{{steps=4 {options}}},bias-per-step")
    with pytest.raises(PipelineError) as error:
        Tandem().run(graph, Context(data, graph.teacher))
    for layer in ("relu1", "relu2"):
        assert f"{layer} (lif)" in str(error.value)
    assert f"neurons that {why} lose charge" in str(error.value)
    assert "'ltl'" in str(error.value)


def damaged(graph: Graph) -> Graph:
    """Every weight and bias off by half its size."""
    rng = np.random.default_rng(7)
    spoilt = {}
    for name in weights_of(graph):
        array = graph.params[name] * (1 + 0.5 * rng.normal(size=graph.params[name].shape)).astype(np.float32)
        spoilt[name] = graph.constraints[name].project(array) if name in graph.constraints else array
    return graph.edit(params=spoilt)


@pytest.mark.parametrize("backward", ["bounded", "released"])
@pytest.mark.parametrize("text", [SPIKING, f"{SPIKING},limit-fan-in{{k=6}},quantize-weights{{bits=4}}"])
def test_a_damaged_network_is_repaired_within_its_limits(lowered: Lower, data: Data, text: str, backward: str) -> None:
    broken = damaged(lowered(text))
    ctx = Context(data, broken.teacher)
    rule = Tandem(epochs=8, batch=20, rate=0.02, backward=backward)  # type: ignore[arg-type]
    mended = rule.run(broken, ctx)
    verify(mended)
    assert mended.stage is broken.stage
    assert validated(mended, ctx) > validated(broken, ctx) + 0.1
    again = rule.run(broken, Context(data, broken.teacher))
    assert all(mended.params[name].tobytes() == again.params[name].tobytes() for name in mended.params)


def test_counts_are_read_where_the_graph_decodes_neurons(data: Data) -> None:
    """Spike-count decoding: the read-out is neurons, and gradients pass them too."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (8,)})
    b("d1", "dense", "x", weight=rng.normal(size=(6, 8)))
    b("relu1", "relu", "d1")
    b("d2", "dense", "relu1", weight=rng.random((3, 6)))
    graph, _ = Pipeline.parse(SPIKING)(b.graph(b("relu2", "relu", "d2")), data=data)
    batch, coupled = batch_of(graph), Coupled(graph)
    batch = replace(batch, x=torch.tensor(data.train.raw[:6]))
    Tandem().learner(graph, Context())(batch)
    counts = coupled.fired(batch.params, batch.x)
    theta = graph.params[roles(graph["relu2"], graph.params)["theta"]]
    assert torch.allclose(counts[coupled.scores], counts["relu2"] * float(theta))
    assert 0 < float(counts["relu2"].mean()) < 8
    for name in weights_of(graph):
        grad = batch.params[name].grad
        assert grad is not None
        assert float(grad.abs().sum()) > 0


def test_agreement_by_hand(lowered: Lower, data: Data) -> None:
    """Angle of a and c, and correlation of what both drive, every layer reading the true counts."""
    graph = lowered("threshold-layernorm{steps=4},bias-per-step")
    found = agreement(graph, Context(data, graph.teacher))
    x = data.validation.raw
    record: dict[str, Array] = {}
    reference.run(graph, {"x": x}, record)
    p, handed = graph.params, x.astype(np.float64)
    weights = {"relu1": ("w1", "b1"), "relu2": ("fc2.weight", "b2"), "fc3.decoded": ("fc3.weight", "b3")}
    pseudo = handed
    for layer, (weight, bias) in weights.items():
        charge, other = (value @ p[weight].T + 4 * p[bias] for value in (handed, pseudo))
        if layer != "relu1":
            wanted = np.mean([np.corrcoef(a, c)[0, 1] for a, c in zip(other, charge, strict=True)])
            assert found.pearson[layer] == pytest.approx(wanted, abs=1e-4)
            assert (wanted < 0.999) == (layer == "fc3.decoded"), "relu1 fires what the floor says"
        if layer == "fc3.decoded":
            continue
        own = {role: p[name] for role, name in roles(graph[layer], p).items()}
        a = np.clip(np.floor((charge + own["u0"]) / own["theta"]), 0, 4)
        c = record[layer].sum(0).astype(np.float64)
        cosine = (a * c).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(c, axis=1)
        wanted = np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).mean()
        assert found.angle[layer] == pytest.approx(wanted, abs=1e-3)
        handed, pseudo = c, a
    assert set(found.pearson) == {"relu2", "fc3.decoded"}
    assert found.angle["relu1"] == pytest.approx(0, abs=1e-3), "a constant current fires what the floor says"
    assert 0 < found.angle["relu2"] < 24


def test_silent_layers_agree_only_with_silent_ones() -> None:
    b = Builder({"x": (2,)}, 2)
    b("current", "encode", "x")
    b("d", "dense", "current", weight=-np.ones((2, 2)))
    b("n", "lif", "d")
    b("e", "dense", "n", weight=np.eye(2))
    graph = b.graph(b("scores", "decode", "e"))
    found = agreement(graph, Context(data_for(graph, x=np.ones((4, 2), np.float32))))
    assert found.angle == {"n": 0.0}
    assert found.pearson == {"scores": 1.0}


def test_the_agreement_is_noted(lowered: Lower, data: Data) -> None:
    graph = lowered()
    ctx = Context(data, graph.teacher)
    Tandem(epochs=1).run(graph, ctx)
    assert ctx.notes[0].startswith("kept epoch")
    assert ctx.notes[1].startswith("angle between counts of ANN and SNN in degrees (tandem: < 24): relu1 0.0, relu2 ")
    assert "(> 0.9): relu2 " in ctx.notes[1]


def test_constraints_are_seen_in_training(lowered: Lower, data: Data) -> None:
    """A forbidden connection keeps out of the forward pass and stays 0."""
    graph = lowered()
    mask = np.ones(graph.params["fc2.weight"].shape, bool)
    mask[:, :8] = False
    params = {"fc2.weight": np.where(mask, graph.params["fc2.weight"], np.float32(0))}
    graph = graph.edit(params=params, constraints={"fc2.weight": Constraint(mask=mask)}, stage=Stage.CONSTRAINED)
    after = Tandem(epochs=1, batch=20, rate=0.02).run(damaged(graph), Context(data, graph.teacher))
    assert (after.params["fc2.weight"][:, :8] == 0).all()
    assert (after.params["fc2.weight"][:, 8:] != 0).any()


def test_it_can_start_from_random_weights(lowered: Lower, data: Data) -> None:
    graph = lowered()
    found = [Tandem(epochs=1, rate=1e-9, start="random").run(graph, Context(data, graph.teacher, s)) for s in (0, 0, 1)]
    weights = [made.params["fc2.weight"] for made in (graph, *found)]
    assert np.array_equal(weights[1], weights[2])
    assert not np.allclose(weights[0], weights[1])
    assert not np.allclose(weights[1], weights[3])


def test_a_network_without_classes_is_refused(data: Data) -> None:
    b = Builder({"x": (8,)}, 4)
    b("current", "encode", "x")
    b("n", "lif", "current")
    b("d", "dense", "n", weight=np.ones((1, 8)))
    with pytest.raises(PipelineError, match="'tandem' needs one score for each of two or more classes"):
        Tandem().run(b.graph(b("scores", "decode", "d")), Context(data))


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch": -1}, {"rate": 0.0}, {"patience": -1}])
def test_impossible_options(options: dict[str, float]) -> None:
    [(key, value)] = options.items()
    with pytest.raises(PipelineError, match=f"'tandem' cannot work with {key}={value}"):
        Tandem(**options)  # type: ignore[arg-type]


def test_counts_do_not_depend_on_how_many_samples_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = branches()
    coupled, params = Coupled(graph), tensors(graph)
    x = torch.tensor(np.random.default_rng(1).integers(0, 5, (7, 2, 4, 4))).float()
    with exact():
        whole = coupled.fired(params, x)
        monkeypatch.setattr(executor, "LARGEST", 2 * 8 * 4 * 4 * 6 * 4)
        assert executor.at_once(coupled.spiking) < 7
        parts = coupled.fired(params, x)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    assert len(whole) > 2
    assert float(whole["relu1"].sum()) > 0
