"""Batch norm per time step: right gradients, an exact fold, and nothing of it in what is given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.memory import peak
from snnc.data import Data
from snnc.errors import PipelineError
from snnc.ir import Array, Graph, verify
from snnc.pipeline import Context, Pass, Pipeline
from snnc.sim.neurons import membrane, spike
from snnc.sim.torch import forward, tensors
from snnc.train import BPTT, OTTT, SLTT, TET, Batch
from snnc.train.batchnorm import EPSILON, BatchNorm, normalized, norms_of
from snnc.train.beside import MOMENTUM, Beside
from snnc.train.end_to_end import EndToEnd
from snnc.train.loop import validated
from snnc.train.trainer import Learner
from tests.graphs import Builder, data_for, samples
from tests.train.conftest import teacher
from tests.train.rules import leaky
from tests.train.test_checkpoint import Killed, last, train
from tests.train.test_ltl import share

Lower = Callable[..., Graph]
LAYERS = (("relu1", "fc1", "w1", "b1"), ("relu2", "fc2", "fc2.weight", "b2"))
"""Of the network of conftest: neurons, the layer before them, its params."""
FOUR = "threshold-layernorm{steps=4},bias-per-step"
MODEL, DIGITS = (str(Path(__file__).parents[2] / "examples" / name) for name in ("digits_cnn.onnx", "digits.npz"))


def begun(graph: Graph, x: Array, rule: EndToEnd | None = None) -> tuple[BatchNorm, Beside]:
    """The batch norms of a graph, and what stands beside its params at the start."""
    norms = (rule or SLTT(batchnorm=True)).norms(graph)
    return norms, norms.begin(graph, torch.tensor(x))


def shaken(beside: Beside) -> dict[str, torch.Tensor]:
    """Gains and shifts that have learned something."""
    rng = np.random.default_rng(2)
    return {
        name: value * torch.tensor(rng.uniform(0.5, 2, value.shape), dtype=torch.float32)
        for name, value in beside.params.items()
    }


def batch_of(graph: Graph, x: Array, labels: Array) -> Batch:
    """Params that require gradients, shaken gains and shifts among them."""
    norms, beside = begun(graph, x)
    params = {**tensors(graph), **shaken(beside)}
    params = {name: value.requires_grad_(name in norms.units(graph)) for name, value in params.items()}
    return Batch(params, torch.tensor(x), torch.tensor(labels), np.random.default_rng(0), dict(beside.running))


def written_out(graph: Graph, given: Batch, cut: bool, per_step: bool) -> tuple[float, dict[str, Any]]:
    """Loss and statistics of the network of conftest by autograd alone; batch norm as arithmetic.

    Args:
        cut: what neurons carry over has no gradient, and every step's loss goes back at once.
        per_step: the loss is a mean over the steps.
    """
    p, size = given.params, len(given.x)
    states: dict[str, Any] = {name: (p[f"{name}.u0"].expand(size), None) for name, *_ in LAYERS}
    found: dict[str, Any] = {layer: [] for _, layer, *_ in LAYERS}
    total, scores = 0.0, []
    for _ in range(graph.steps):
        sent = given.x / graph.steps
        for name, layer, weight, bias in LAYERS:
            theta = p[f"{name}.theta"]
            v = sent @ p[weight].T + p[bias]
            mean, var = v.mean(0), (v - v.mean(0)).square().mean(0)
            found[layer].append((mean.detach(), var.detach() * size / (size - 1)))
            current = p[f"{layer}:gain"] * (v - mean) / (var + EPSILON * theta**2).sqrt() + p[f"{layer}:shift"]
            u, s = states[name]
            u, s = (p[f"{name}.u0"].expand_as(v), torch.zeros_like(v)) if s is None else (u, s)
            u, s = (u.detach(), s.detach()) if cut else (u, s)
            u = membrane(u, s, current, p[f"{name}.alpha"], theta, str(graph[name].attrs["reset"]))
            sent = spike(u, theta, 1.5, "triangle")
            states[name] = (u, sent)
        scores.append(sent @ p["fc3.weight"].T + p["b3"])
        if cut:
            loss = F.cross_entropy(scores[-1] * graph.steps, given.labels) / graph.steps
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
    if not cut:
        each = [F.cross_entropy(o * graph.steps, given.labels) for o in scores]
        loss = torch.stack(each).mean() if per_step else F.cross_entropy(torch.stack(scores).sum(0), given.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        total = float(loss.detach())
    return total, found


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("rule", [SLTT, BPTT, TET])
def test_gradients_and_running_means_are_those_of_the_formulas(
    lowered: Lower, data: Data, rule: type[EndToEnd], alpha: float
) -> None:
    """Of weights, gains and shifts, through the statistics; SLTT's is the sum of each step's own."""
    graph, x, labels = leaky(lowered(FOUR), alpha), data.train.raw[:16], data.train.labels[:16]
    graph = graph.edit(params={f"{n}.theta": np.full((), t, np.float32) for n, t in (("relu1", 0.3), ("relu2", 0.2))})
    made, wanted = batch_of(graph, x, labels), batch_of(graph, x, labels)
    before = dict(made.running)
    learn: Learner = rule(width=1.5, batchnorm=True).learner(graph, Context(data))
    loss = float(learn(made))
    total, statistics = written_out(graph, wanted, rule is SLTT, rule is TET)
    assert loss == pytest.approx(total, rel=1e-4)
    names = SLTT(batchnorm=True).norms(graph).units(graph)
    beside = {f"{layer}:{what}" for _, layer, *_ in LAYERS for what in ("gain", "shift")}
    assert set(names) == {"w1", "fc2.weight", "fc3.weight", "b3"} | beside
    for name in names:
        grad, theirs = made.params[name].grad, wanted.params[name].grad
        assert grad is not None
        assert theirs is not None
        size = float(theirs.abs().max())
        assert size > 1e-4
        torch.testing.assert_close(grad, theirs, rtol=1e-3, atol=1e-3 * size, msg=lambda m, n=name: f"{n}: {m}")
    for layer, steps in statistics.items():
        for i, what in enumerate(("mean", "variance")):
            now = torch.stack([step[i] for step in steps]).mean(0)
            after = (1 - MOMENTUM) * before[f"{layer}:{what}"] + MOMENTUM * now
            torch.testing.assert_close(made.running[f"{layer}:{what}"], after, rtol=1e-4, atol=1e-6)


def test_one_norm_is_that_of_a_channel_over_samples_and_positions() -> None:
    """Value, statistics and gradient, in double precision."""
    rng = np.random.default_rng(0)
    value = torch.tensor(rng.normal(size=(5, 3, 4, 2)), requires_grad=True)
    gain, shift = (torch.tensor(rng.normal(size=3), requires_grad=True) for _ in range(2))
    made, (mean, variance) = normalized(value, gain, shift, 0.1)
    of = value.detach().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    wanted = (of - of.mean(1)[:, None]) / np.sqrt(of.var(1) + 0.1)[:, None] * gain.detach().numpy()[:, None]
    wanted += shift.detach().numpy()[:, None]
    np.testing.assert_allclose(made.detach().numpy().transpose(1, 0, 2, 3).reshape(3, -1), wanted)
    np.testing.assert_allclose(mean, of.mean(1))
    np.testing.assert_allclose(variance, of.var(1, ddof=1))
    assert torch.autograd.gradcheck(lambda *given: normalized(*given, 0.1)[0], (value, gain, shift))


# --- the fold


def everything() -> Graph:
    """Convolution, unshared kernels and dense layers; a residual sum, a concatenation and a pool before neurons."""
    rng, b = np.random.default_rng(4), Builder({"x": (2, 4, 4)}, 3)

    def layer(name: str, op: str, source: str, shape: tuple[int, ...], bias: tuple[int, ...], **more: Any) -> str:
        return b(
            name, op, source, weight=rng.normal(size=shape), bias=rng.normal(size=bias), bias_at="per-step", **more
        )

    layer("conv1", "conv", b("current", "encode", "x"), (3, 2, 3, 3), (3,), pads=(1, 1, 1, 1))
    b("lif1", "lif", "conv1", u0=0.5)
    layer("conv2", "conv", "lif1", (3, 3, 1, 1), (3,))
    layer("skip", "conv", "lif1", (3, 3, 1, 1), (3,))
    b("sum", "add", "conv2", "skip")
    b("lif2", "lif", "sum", u0=0.5)
    layer("own", "local", "lif2", (2, 4, 4, 3, 1, 1), (2, 4, 4))
    b("both", "concat", "own", b("scaled", "scale", "lif2", factor=[0.5, -0.5, 1.0]))
    b("pool", "avgpool", "both")
    b("lif3", "lif", "pool", theta=0.3)
    layer("fc", "dense", b("flat", "reshape", "lif3", shape=(20,)), (6, 20), (6,))
    b("lif4", "lif", "fc", theta=0.7)
    layer("head", "dense", "lif4", (3, 6), (3,))
    return b.graph(b("scores", "decode", "head"))


NORMED = ("conv1", "conv2", "skip", "own", "fc")


def test_layers_that_drive_neurons_have_one_each_and_the_read_out_none() -> None:
    graph = everything()
    assert tuple(norm.layer for norm in norms_of(graph, "sltt")) == NORMED
    assert [norm.theta for norm in norms_of(graph, "sltt")] == pytest.approx([1, 1, 1, 0.3, 0.7])


def test_at_the_start_the_fold_is_the_network_to_the_bit() -> None:
    graph = everything()
    x = samples(graph, 20)["x"]
    norms, beside = begun(graph, x)
    learned = {**tensors(graph), **beside.params}
    made = beside.fold({name: learned[name] for name in norms.units(graph)}, beside.running)
    own = {f"{layer}.{role}" for layer in (*NORMED, "head") for role in ("weight", "bias")}
    assert set(made) == {*own, "scaled.factor"}
    for name, value in made.items():
        assert value.numpy().tobytes() == graph.params[name].tobytes(), name


def test_the_folded_network_is_the_normalized_one() -> None:
    """With running statistics in place of the batch's, as every value of both networks says."""
    graph = everything()
    x = samples(graph, 20)["x"]
    norms, beside = begun(graph, x)
    rng = np.random.default_rng(3)
    running = {
        n: m * torch.tensor(rng.uniform(0.5, 2, m.shape), dtype=torch.float32) for n, m in beside.running.items()
    }
    learned = {**tensors(graph), **shaken(beside)}

    def fixed(layer: str, theta: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(value: torch.Tensor) -> torch.Tensor:
            statistics = running[f"{layer}:mean"], running[f"{layer}:variance"]
            gain, shift = learned[f"{layer}:gain"], learned[f"{layer}:shift"]
            return F.batch_norm(value, *statistics, gain, shift, eps=EPSILON * theta**2)

        return change

    by_node = {norm.layer: fixed(norm.layer, norm.theta) for norm in norms.norms}
    wanted = forward(graph, learned, {"x": torch.tensor(x)}, normalize=by_node)
    folded = {n: v.numpy() for n, v in beside.fold({n: learned[n] for n in norms.units(graph)}, running).items()}
    after = graph.edit(params=folded)
    made = forward(after, tensors(after), {"x": torch.tensor(x)})
    for layer in NORMED:
        torch.testing.assert_close(made[layer], wanted[layer], rtol=1e-4, atol=1e-4)
        assert float((made[layer] - forward(graph, tensors(graph), {"x": torch.tensor(x)})[layer]).abs().max()) > 0.1


def test_only_weights_and_biases_change_and_the_score_is_the_folded_networks(lowered: Lower, data: Data) -> None:
    graph = lowered(FOUR)
    ctx = Context(data, graph.teacher)
    trained = SLTT(epochs=6, batch=20, rate=0.03, start="random", batchnorm=True).run(graph, ctx)
    verify(trained)
    assert trained.nodes == graph.nodes
    assert trained.params.keys() == graph.params.keys()
    changed = {name for name in graph.params if not np.array_equal(trained.params[name], graph.params[name])}
    assert changed == {"w1", "b1", "fc2.weight", "b2", "fc3.weight", "b3"}
    assert ctx.notes[-1].endswith(f"best on validation: {ctx.score.brief(validated(trained, ctx))}")
    assert share(trained, data) > 0.7


def test_absent_connections_stay_absent(lowered: Lower, data: Data) -> None:
    graph = lowered(f"{FOUR},limit-fan-in{{k=5}}")
    trained = SLTT(epochs=1, batch=20, rate=0.03, start="random", batchnorm=True).fit(
        graph, Context(data, graph.teacher)
    )
    mask = graph.constraints["fc2.weight"].mask
    assert mask is not None
    assert not trained["fc2.weight"][~mask].any()
    assert (trained["fc2.weight"][mask] != graph.params["fc2.weight"][mask]).all()


def test_random_weights_begin_with_mean_0_and_deviation_theta(lowered: Lower, data: Data) -> None:
    """Currents of the folded network at its start; of the first layer exactly, of the second nearly."""
    graph, x = lowered(FOUR), data.train.raw[:100]
    norms = SLTT(batchnorm=True).norms(graph)
    random = graph.edit(params={"w1": graph.params["w1"] * 9 + 1, "fc2.weight": graph.params["fc2.weight"] / 7})
    started = norms.spread(random, torch.tensor(x))
    values = forward(started, tensors(started), {"x": torch.tensor(x)})
    for layer, neurons, near in (("fc1", "relu1", 1e-3), ("fc2", "relu2", 0.5)):
        theta, current = float(graph.params[f"{neurons}.theta"]), values[layer]
        torch.testing.assert_close(current.mean((0, 1)), torch.zeros(current.shape[-1]), atol=near * theta, rtol=0)
        torch.testing.assert_close(current.std(1).mean(0) / theta, torch.ones(current.shape[-1]), atol=near, rtol=0)


# --- batches that have nothing to normalize over


def test_a_channel_without_variance_hands_on_its_shift_and_a_finite_gradient() -> None:
    value, shift = torch.ones(4, 2), torch.tensor([0.25, -3.0])
    value[:, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    value.requires_grad_()
    made, (_, variance) = normalized(value, torch.ones(2), shift)
    torch.testing.assert_close(made[:, 0], torch.full((4,), 0.25))
    assert variance[0] == 0
    made.square().sum().backward()  # type: ignore[no-untyped-call]
    assert value.grad is not None
    assert bool(value.grad.isfinite().all())


def test_a_silent_layer_learns_on(lowered: Lower, data: Data) -> None:
    """The first layer never fires, so the second has no variance at any step."""
    graph = lowered(FOUR)
    dead = graph.edit(params={"b1": np.full(16, -1e3, np.float32)})
    made = SLTT(epochs=1, batch=20, batchnorm=True).fit(dead, Context(data, graph.teacher))
    assert all(np.isfinite(array).all() for array in made.values())


def test_a_single_sample_is_normalized_by_the_running_means_and_does_not_move_them(lowered: Lower, data: Data) -> None:
    graph = lowered(FOUR)
    x, labels = data.train.raw[:30], data.train.labels[:30]
    many, rule = batch_of(graph, x, labels), BPTT(batchnorm=True)
    single = replace(many, x=many.x[:1], labels=many.labels[:1])
    before = dict(single.running)
    loss = rule.learner(graph, Context(data))(single)
    assert all(torch.equal(single.running[name], before[name]) for name in before)
    learned = {name: value.detach() for name, value in many.params.items()}
    fold = rule.norms(graph).fold_into(graph, torch.device("cpu"))
    folded = fold({n: learned[n] for n in rule.norms(graph).units(graph)}, before)
    deployed = {**tensors(graph), **folded}
    answer = forward(graph, deployed, {"x": single.x})["fc3.decoded"]
    assert float(loss) == pytest.approx(float(F.cross_entropy(answer, single.labels)), rel=1e-3)
    whole = replace(data, train=data.train.take(41))
    assert SLTT(epochs=1, batch=20, batchnorm=True).fit(graph, Context(whole, graph.teacher))
    with pytest.raises(PipelineError, match="cannot normalize over a single training sample"):
        SLTT(batchnorm=True).fit(graph, Context(replace(data, train=data.train.take(1)), graph.teacher))


# --- memory, checkpoints


@pytest.mark.parametrize("k", [0, 2])
def test_memory_does_not_grow_with_time(data: Data, k: int) -> None:
    few = Data(data.train.take(20), data.validation, data.test)

    def kept(rule: Pass, steps: int) -> int:
        graph, _ = Pipeline.parse(f"threshold-layernorm{{steps={steps}}},bias-per-step")(teacher(), data=data)
        return peak(rule, graph, few)

    rule = SLTT(epochs=1, batch=20, k=k, batchnorm=True)
    found = {kept(rule, steps) for steps in (4, 8, 64)}
    assert len(found) == 1
    assert found.pop() < 2 * kept(replace(rule, batchnorm=False), 8)


def test_steps_that_are_not_learned_from_are_in_the_running_means(lowered: Lower, data: Data) -> None:
    """As in SLTT's code; and nothing of them is learned."""
    graph, x, labels = lowered(FOUR), data.train.raw[:20], data.train.labels[:20]
    made = [batch_of(graph, x, labels) for _ in range(2)]
    for given, k in zip(made, (0, 1), strict=True):
        SLTT(k=k, batchnorm=True).learner(graph, Context(data))(given)
    whole, part = made
    assert all(torch.equal(whole.running[name], part.running[name]) for name in whole.running)
    gradients = whole.params["fc2.weight"].grad, part.params["fc2.weight"].grad
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert not torch.allclose(*gradients)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rule", [SLTT(2, 40, 0.02, k=2, batchnorm=True), TET(2, 40, 0.02, batchnorm=True, start="random")]
)
def test_killed_after_an_update_it_ends_as_if_it_had_not_been(
    lowered: Lower, data: Data, tmp_path: Path, rule: EndToEnd
) -> None:
    graph = lowered(f"{FOUR},limit-fan-in{{k=6}}")
    wanted = train(rule, graph, data, tmp_path / "whole")
    end = last(tmp_path / "whole")
    assert {"real.fc2:gain", "real.fc2:shift", "running.fc2:mean", "running.fc2:variance"} < end.keys()
    for kill in (1, 4, 5, 7, 10):  # within an epoch, and at the end of each
        folder = tmp_path / str(kill)
        with pytest.raises(Killed):
            train(rule, graph, data, folder, kill=kill)
        assert train(rule, graph, data, folder) == wanted, f"killed after update {kill}"
        assert last(folder) == end, f"killed after update {kill}"


# --- what is refused


@pytest.mark.parametrize(
    ("pipeline", "text", "hint"),
    [
        (f"{FOUR},quantize-weights", "stand on levels", "train before quantize-weights"),
        (f"{FOUR},quantize-weights,quantize-neurons", "stand on levels", "train before quantize-weights"),
        ("threshold-layernorm{steps=4}", "comes at the first step alone", "bias-per-step before this rule"),
        ("threshold-layernorm{steps=4 code=first-step},bias-per-step", "gets its input at the first step", "direct"),
        (f"{FOUR},limit-fan-in{{k=5 method=split}}", "has no bias", "a bias in the model"),
    ],
)
def test_layers_that_it_cannot_be_folded_into_are_named(
    lowered: Lower, data: Data, pipeline: str, text: str, hint: str
) -> None:
    graph = lowered(pipeline)
    with pytest.raises(PipelineError) as caught:
        SLTT(batchnorm=True).fit(graph, Context(data, graph.teacher))
    assert text in str(caught.value)
    assert hint in str(caught.value)
    assert "fc1" in str(caught.value)


def test_shared_weights_and_networks_without_layers_are_refused() -> None:
    b = Builder({"x": (4,)}, 2)
    one = {"weight": np.eye(4), "bias": np.ones(4), "bias_at": "per-step"}
    b("lif1", "lif", b("fc1", "dense", b("current", "encode", "x"), **one))
    b("lif2", "lif", b("fc2", "dense", "lif1", **one))
    made = b.graph(b("scores", "decode", "lif2"))
    nodes = [replace(n, inputs=("lif1", "fc1.weight", "fc2.bias")) if n.name == "fc2" else n for n in made.nodes]
    with pytest.raises(PipelineError, match="shares its weights or its bias with another") as caught:
        norms_of(made.edit(nodes), "sltt")
    assert len(caught.value.problems) == 2
    b = Builder({"x": (4,)}, 2)
    b("lif1", "lif", b("current", "encode", "x"))
    graph = b.graph(b("scores", "decode", b("fc", "dense", "lif1", **one)))
    with pytest.raises(PipelineError, match="finds no layer that drives neurons"):
        SLTT(batchnorm=True).fit(graph, Context(data_for(graph)))


def test_options_that_do_not_go_together_are_refused_at_once() -> None:
    for rule in (SLTT, BPTT, TET):
        with pytest.raises(PipelineError, match=f"'{rule.name}' cannot have both batchnorm and standardize"):
            rule(batchnorm=True, standardize=True)
        with pytest.raises(PipelineError, match=f"'{rule.name}' cannot normalize over a batch of one"):
            rule(batchnorm=True, batch=1)
    with pytest.raises(PipelineError, match="'ottt' cannot have batchnorm") as caught:
        OTTT(batchnorm=True)
    assert "standardize=true" in caught.value.hint


def test_several_processes_are_refused(lowered: Lower, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snnc.train.end_to_end.processes", lambda: 2)
    with pytest.raises(PipelineError, match="of which each process has a share"):
        SLTT(batchnorm=True).fit(lowered(FOUR), Context(data))


def test_a_compile_that_it_does_not_fit_ends_with_code_2(snnc, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    lowering = f"fold-batchnorm,{FOUR},limit-fan-in,quantize-weights"
    small = ("--train-samples", "60", "--test-samples", "20", "--quiet", "--out", str(tmp_path / "b"))
    for text, why in ((f"{lowering},sltt{{batchnorm=true}}", "on levels"), ("ottt{batchnorm=true}", "'ottt' cannot")):
        ended = snnc("compile", MODEL, "--data", DIGITS, "--pipeline", text, *small)
        assert ended.code == 2
        assert why in ended.err
