"""refine-thresholds: thresholds and start potentials that the running network's own spikes choose."""

from __future__ import annotations

import numpy as np
import pytest

from snnc.errors import PipelineError
from snnc.ir import Array, Graph, roles, to_text, verify
from snnc.passes import RefineThresholds, ThresholdLayerNorm, refine_thresholds
from snnc.pipeline import Context, Pipeline
from snnc.sim import reference
from snnc.sim.judge import layer_errors
from snnc.sim.torch import run
from tests.conftest import Golden
from tests.graphs import Builder, data_for, lenet, mlp, residual, samples

LOWER = "fold-batchnorm,relu-before-max-pool,threshold-layernorm{steps=4},bias-per-step"


def lowered(graph: Graph) -> Graph:
    made, _ = Pipeline.parse(LOWER)(graph, data=data_for(graph))
    return made


def refined(graph: Graph, **options: object) -> Graph:
    assert graph.teacher is not None
    context = Context(data_for(graph.teacher), graph.teacher)
    made = RefineThresholds(**options).run(graph, context)  # type: ignore[arg-type]
    verify(made)
    return made


def error(graph: Graph, seed: int = 7) -> float:
    """Of the outputs against the teacher's, relative, on samples that calibration has not seen."""
    assert graph.teacher is not None
    x = samples(graph.teacher, 60, seed)
    ours, theirs = (next(iter(run(g, x).values())) for g in (graph, graph.teacher))
    return float(np.square(ours - theirs).mean() / np.square(theirs).mean())


@pytest.mark.parametrize("network", [mlp, lenet, residual])
@pytest.mark.parametrize("per", ["channel", "layer"])
def test_the_outputs_come_nearer_to_the_teachers(network: object, per: str) -> None:
    before = lowered(network())  # type: ignore[operator]
    after = refined(before, per=per)
    assert error(after) < error(before)


def test_a_threshold_found_too_high_comes_down() -> None:
    """A percentile of 100 on one outlier: T steps of a quarter each are too coarse, clipping the outlier costs less."""
    teacher = mlp()
    x = samples(teacher, 40)["x"]
    x[0] *= 20
    data = data_for(teacher, x=x)
    spiking = ThresholdLayerNorm(steps=4, percentile=100).run(teacher, Context(data))
    made = RefineThresholds().run(spiking, Context(data, teacher))
    name = roles(made["relu1"], made.params)["theta"]
    assert (made.params[name] < 0.8 * spiking.params[name]).mean() >= 0.5
    assert made.params[name].shape == (8,)


def test_what_a_spike_is_worth_follows_its_threshold() -> None:
    """Where every activation is known, theta * count is what the layers behind read: their weights have the factor."""
    before = lowered(mlp())
    after = refined(before)
    theta = [np.broadcast_to(g.params[roles(g["relu1"], g.params)["theta"]], 8) for g in (before, after)]
    weight = [g.params[roles(g["dense2"], g.params)["weight"]] for g in (before, after)]
    np.testing.assert_allclose(weight[1], weight[0] * (theta[1] / theta[0]), rtol=1e-5)
    assert not any(node.op == "scale" for node in after.nodes)


def test_start_potentials_take_what_is_left_on_average() -> None:
    """More rounds leave a smaller mean error at the neurons, on the calibration samples themselves."""
    before = lowered(lenet())
    assert before.teacher is not None
    x = data_for(before.teacher).train.x()

    def left(graph: Graph) -> float:
        record: dict[str, Array] = {}
        reference.run(graph, {"image": x}, record)
        wanted: dict[str, Array] = {}
        assert before.teacher is not None
        reference.run(before.teacher, {"image": x}, wanted)
        theta = graph.params[roles(graph["relu1"], graph.params)["theta"]].reshape(-1, 1, 1)
        return float(np.abs((wanted["relu1"] - theta * record["relu1"].sum(0)).mean(0)).mean())

    assert left(refined(before, rounds=4)) < left(refined(before, rounds=0))


@pytest.mark.parametrize("per", ["channel", "layer"])
def test_a_core_starts_all_neurons_alike_in_their_thresholds(per: str) -> None:
    before = lowered(lenet())
    after = refined(before, per=per, start="layer")
    assert error(after) < error(before)
    for node in [n for n in after.nodes if n.op == "lif"]:
        theta, u0 = (
            np.broadcast_to(after.params[roles(node, after.params)[role]], node.type.shape[:1])
            for role in ("theta", "u0")
        )
        np.testing.assert_allclose(u0 / theta, (u0 / theta)[0], rtol=1e-5)


@pytest.mark.parametrize("network", [lenet, residual])
def test_neurons_that_lose_what_is_above_their_threshold_are_made_up_for(network: object) -> None:
    """A reset to zero makes counts too small: spikes that are worth less, and more of them, are nearer."""
    graph = network()  # type: ignore[operator]
    spiking, _ = Pipeline.parse(LOWER.replace("steps=4", "steps=8 reset=zero"))(graph, data=data_for(graph))
    made = refined(spiking, per="layer", start="layer")
    assert error(made) < 0.8 * error(spiking)


def test_the_read_out_is_right_on_average() -> None:
    """Class by class, on the calibration samples themselves."""
    after = refined(lowered(mlp()))
    assert after.teacher is not None
    x = {"x": data_for(after.teacher).train.x()}
    ours, theirs = (next(iter(run(g, x).values())) for g in (after, after.teacher))
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=1e-5)


def test_thresholds_of_single_neurons_are_left_alone() -> None:
    graph = lowered(residual())
    name = roles(graph["relu2"], graph.params)["theta"]
    spread = np.full(graph["relu2"].type.shape, graph.params[name], np.float32)
    after = refined(graph.edit(params={name: spread}))
    np.testing.assert_array_equal(after.params[name], spread)


def pooled() -> Graph:
    """A max pool of spikes between two layers."""
    rng = np.random.default_rng(2)
    b = Builder({"image": (2, 6, 6)})
    b("conv1", "conv", "image", weight=rng.normal(size=(4, 2, 3, 3)) / 4, bias=rng.normal(size=4) / 4)
    b("pool1", "maxpool", b("relu1", "relu", "conv1"))
    b("flat", "reshape", "pool1", shape=(16,))
    return b.graph(b("dense1", "dense", "flat", weight=rng.normal(size=(3, 16)) / 4))


def test_behind_a_max_pool_of_spikes_the_worth_comes_after_it() -> None:
    before = lowered(pooled())
    assert before["pool1"].type.kind == "spikes"
    after = refined(before)
    assert after["pool1"].type.kind == "spikes"
    assert error(after) < error(before)


def test_executors_agree_on_what_comes_out() -> None:
    graph = refined(lowered(residual()))
    x = samples(graph, 5)
    np.testing.assert_allclose(run(graph, x)["out_dense1"], reference.run(graph, x)["out_dense1"], atol=1e-4)


def test_the_same_twice_is_the_same_bytes() -> None:
    first, second = (refined(lowered(lenet())) for _ in range(2))
    assert to_text(first) == to_text(second)
    assert all(np.array_equal(first.params[name], array) for name, array in second.params.items())


def test_layer_errors_shrink_in_a_pipeline() -> None:
    graph = lenet()
    rows = [Pipeline.parse(text)(graph, data=data_for(graph))[0] for text in (LOWER, f"{LOWER},refine-thresholds")]
    x = data_for(graph).validation.x()
    errors = [layer_errors(made, graph, x) for made in rows]
    assert errors[1]["relu2"] < errors[0]["relu2"]


def test_neurons_without_a_twin_are_left_alone() -> None:
    graph = lowered(mlp())
    other = lenet()
    context = Context(data_for(mlp()), other)
    assert RefineThresholds().run(graph, context) is graph
    assert context.notes == ["no neurons have a twin in the teacher: nothing refined"]


def test_without_teacher_or_data_it_says_so() -> None:
    graph = lowered(mlp())
    with pytest.raises(PipelineError, match="needs the network that the graph was made from"):
        RefineThresholds().run(graph, Context(data_for(mlp())))
    with pytest.raises(PipelineError, match="needs data"):
        RefineThresholds().run(graph, Context(None, mlp()))


@pytest.mark.parametrize("options", [{"samples": 3}, {"rounds": -1}])
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="cannot work with"):
        RefineThresholds(**options)


def test_golden_refine_thresholds(golden: Golden) -> None:
    graph = lowered(mlp())
    new = refined(graph)
    theta = new.params[roles(new["relu1"], new.params)["theta"]]
    golden(to_text(graph) + "\n" + to_text(new) + f"\n{theta.round(4).tolist()}\n")


def test_biases_take_the_mean_error_of_their_channel() -> None:
    """The second layer hears spikes late: its bias makes up for it, and the outputs come nearer."""
    graph = lowered(lenet())
    made, without = refined(graph), refined(graph, rounds=0)
    name = roles(graph["dense1"], graph.params)["bias"]
    assert np.abs(made.params[name] - graph.params[name]).max() > 1e-4
    np.testing.assert_array_equal(without.params[name], graph.params[name])


def test_a_bias_that_reaches_more_than_the_neurons_stays() -> None:
    """The convolution before a sum that is read twice must not shift what the other reader gets."""
    rng = np.random.default_rng(4)
    b = Builder({"image": (2, 6, 6)})
    b("conv1", "conv", "image", weight=rng.normal(size=(4, 2, 3, 3)) / 4, bias=rng.normal(size=4) / 4)
    b("relu1", "relu", "conv1")
    b("conv2", "conv", "relu1", weight=rng.normal(size=(4, 4, 1, 1)) / 2, bias=rng.normal(size=4) / 4)
    b("relu2", "relu", "conv2")
    b("sum", "add", "conv2", "relu1")
    b("relu3", "relu", "sum")
    b("both", "concat", "relu2", "relu3", axis=0)
    b("flat", "reshape", "both", shape=(128,))
    graph = lowered(b.graph(b("dense1", "dense", "flat", weight=rng.normal(size=(3, 128)) / 8)))
    made = refined(graph)
    shared = roles(graph["conv2"], graph.params)["bias"]
    np.testing.assert_array_equal(made.params[shared], graph.params[shared])


def test_large_layers_are_looked_at_on_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Currents of 4 steps of 192 neurons: as many samples as fit, but not fewer than are needed to choose by."""
    graph = lowered(lenet())
    for held, count in ((2**27, 1000), (4 * 192 * 40 + 1, 40), (0, refine_thresholds.LEAST)):
        monkeypatch.setattr(refine_thresholds, "HELD", held)
        assert RefineThresholds()._count(graph) == count
