"""threshold-layernorm: exact percentiles, thresholds, worths, read-outs, refusals, and the limit of many steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from snnc.data import Data
from snnc.errors import GraphError, PipelineError
from snnc.ir import Array, Graph, Stage, to_text, verify
from snnc.passes import PASSES, BiasPerStep, FoldBatchNorm, PoolNeurons, ThresholdLayerNorm
from snnc.passes.threshold_layernorm import upper_bounds
from snnc.pipeline import Context
from snnc.sim.lowering import HINTS
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, data_for, lenet, mlp, residual, statistics


def lowered(graph: Graph, data: Data | None = None, **options: Any) -> tuple[Graph, list[str]]:
    """The verified spiking graph and the notes."""
    ctx = Context(data or data_for(graph), graph)
    new = ThresholdLayerNorm(**options).run(graph, ctx)
    verify(new)
    assert new.stage is Stage.SPIKING
    return new, ctx.notes


def only(graph: Graph, x: Array) -> Array:
    """The one output."""
    (made,) = run(graph, {next(iter(graph.inputs)): x}).values()
    return made


def even(graph: Graph) -> Graph:
    """With biases spread over the steps, so that all currents of a layer arrive evenly."""
    return BiasPerStep().run(graph, Context())


def values(graph: Graph, x: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}
    run(graph, {next(iter(graph.inputs)): x}, record=found)
    return found


@pytest.mark.parametrize("percentile", [0.1, 37.5, 50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("count", [3, 64, 150])
def test_the_percentile_is_numpys_nearest_rank(percentile: float, count: int) -> None:
    graph = FoldBatchNorm().run(lenet(), Context())
    data = data_for(graph, count)
    found = upper_bounds(graph, data.train, percentile, Context())
    for name, array in values(graph, data.train.x()).items():
        if name.startswith("relu"):
            rank = np.percentile(array.astype(np.float32), percentile, method="inverted_cdf")
            expected = rank if rank > 0 else array.max()
            assert found[name] == pytest.approx(expected, rel=1e-5)


def test_only_the_calibration_samples_count() -> None:
    graph = mlp()
    data = data_for(graph, 100)
    few = upper_bounds(graph, data.train.take(10), 100, Context())["relu1"]
    assert few == pytest.approx(values(graph, data.train.x(slice(0, 10)))["relu1"].max(), rel=1e-5)
    new, _ = lowered(graph, data, samples=10, percentile=100.0, steps=8)
    assert float(new.params["relu1.theta"]) == pytest.approx(few / 8)


@pytest.mark.parametrize("steps", [1, 4, 16])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_one_spike_stands_for_theta(steps: int, start: float) -> None:
    graph = mlp()
    new, _ = lowered(graph, steps=steps, start=start, alpha=0.9, reset="zero", percentile=99.0)
    bound = upper_bounds(graph, data_for(graph).train, 99, Context())["relu1"]
    theta = np.float32(bound / steps)
    assert new.steps == steps
    assert new["relu1"].attrs["reset"] == "zero"
    assert new.params["relu1.theta"] == theta
    assert float(new.params["relu1.u0"]) == pytest.approx(start * theta)
    assert new.params["relu1.alpha"] == np.float32(0.9)
    np.testing.assert_allclose(new.params["dense2.weight"], graph.params["dense2.weight"] * theta, rtol=1e-6)
    np.testing.assert_array_equal(new.params["dense2.bias"], graph.params["dense2.bias"])
    np.testing.assert_array_equal(new.params["dense1.weight"], graph.params["dense1.weight"])


def test_golden_threshold_layernorm(golden: Golden) -> None:
    graph = residual()
    golden(to_text(graph) + "\n" + to_text(lowered(graph)[0]))


def test_branches_of_unequal_scale_keep_their_worths_as_scales() -> None:
    graph = residual()
    new, _ = lowered(graph)
    scales = {n.name for n in new.nodes if n.op == "scale"}
    assert scales == {"relu1.worth", "relu2.worth"}
    assert new["sum"].inputs == ("relu1.worth", "relu2.worth")
    thetas = [float(new.params[f"relu{i}.theta"]) for i in (1, 2)]
    assert thetas[0] != pytest.approx(thetas[1], rel=0.1)
    assert [float(new.params[f"relu{i}.worth.factor"]) for i in (1, 2)] == thetas
    assert new["dense1"].inputs[0] == "flat"


def test_worths_pass_pools_reshapes_and_concats() -> None:
    b = Builder({"x": (2, 4, 4)})
    b("relu1", "relu", "x")
    b("scaled", "scale", "x", factor=3)
    b("relu2", "relu", "scaled")
    b("both", "concat", "relu1", "relu2")
    b("conv1", "conv", "both", weight=np.ones((2, 4, 1, 1)))
    b("relu3", "relu", "conv1")
    b("pool1", "avgpool", "relu3")
    b("flat", "reshape", "pool1", shape=(8,))
    graph = b.graph(b("dense1", "dense", "flat", weight=np.ones((2, 8))))
    new, _ = lowered(graph)
    assert {n.name for n in new.nodes if n.op == "scale"} == {"scaled"}
    assert (new.type("both").kind, new.type("flat").kind) == ("spikes", "current")
    thetas = [new.params[f"relu{i}.theta"] for i in (1, 2, 3)]
    np.testing.assert_allclose(new.params["dense1.weight"], thetas[2])
    np.testing.assert_array_equal(new.params["conv1.weight"][1, :, 0, 0], np.repeat(thetas[:2], 2))


def test_a_worth_is_absorbed_by_every_layer_that_reads_it() -> None:
    b = Builder({"x": (3,)})
    b("relu1", "relu", "x")
    b("left", "dense", "relu1", weight=np.ones((2, 3)))
    b("right", "dense", "relu1", weight=np.full((2, 3), 2))
    graph = b.graph(b("sum", "add", "left", "right"))
    new, _ = lowered(graph)
    theta = new.params["relu1.theta"]
    assert not any(n.op == "scale" for n in new.nodes)
    np.testing.assert_array_equal(new.params["left.weight"], np.full((2, 3), theta))
    np.testing.assert_array_equal(new.params["right.weight"], np.full((2, 3), 2 * theta))


def test_thresholds_stay_below_the_maximum_of_a_relu6() -> None:
    b = Builder({"x": (4,)})
    b("big", "scale", "x", factor=100)
    graph = b.graph(b("relu1", "relu", "big", max=6.0))
    new, _ = lowered(graph, steps=12, percentile=100.0)
    assert float(new.params["relu1.theta"]) == 0.5
    x = np.array([[1, 0.03, 0.0, -1]], np.float32)
    np.testing.assert_allclose(values(new, x)["relu1"].sum(axis=0), [[12, 6, 0, 0]])


def test_dead_and_sparse_layers_are_noted() -> None:
    b = Builder({"x": (2,)})
    b("off", "scale", "x", factor=0, bias=-1)
    b("dead", "relu", "off")
    b("rare", "relu", "x")
    graph = b.graph(b("sum", "add", "dead", "rare"))
    x = np.full((40, 2), -1, np.float32)
    x[7, 1] = 5
    new, notes = lowered(graph, data_for(graph, x=x), percentile=90.0, steps=10)
    assert "dead (relu): the 90.0 percentile is 0, threshold set from 1" in notes
    assert "rare (relu): the 90.0 percentile is 0, threshold set from the maximum" in notes
    assert float(new.params["dead.theta"]) == pytest.approx(0.1)
    assert float(new.params["rare.theta"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 0}, "steps=0"),
        ({"percentile": 0}, "percentile=0"),
        ({"percentile": 100.1}, "percentile=100.1"),
        ({"samples": 0, "start": 1.0, "alpha": 0.0}, "samples=0, start=1.0, alpha=0.0"),
        ({"start": -0.1, "alpha": 1.1}, "start=-0.1, alpha=1.1"),
        ({"percentile": float("nan")}, "percentile=nan"),
    ],
)
def test_impossible_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PipelineError) as caught:
        ThresholdLayerNorm(**options)
    assert str(caught.value) == f"'threshold-layernorm' cannot work with {text}"


def test_data_is_needed() -> None:
    with pytest.raises(PipelineError, match="'threshold-layernorm' needs data"):
        ThresholdLayerNorm().run(mlp(), Context())


def test_everything_without_a_spiking_form_is_refused_at_once() -> None:
    rng = np.random.default_rng(0)
    b = Builder({"x": (2, 4, 4)})
    b("conv1", "conv", "x", weight=np.ones((2, 2, 1, 1)))
    b("bn1", "batchnorm", "conv1", **statistics(rng, 2))
    b("pool1", "maxpool", "bn1")
    b("share", "softmax", "pool1")
    b("relu1", "relu", "share")
    b("bn2", "batchnorm", "relu1", **statistics(rng, 2))
    graph = b.graph("bn2")
    with pytest.raises(GraphError) as caught:
        lowered(graph, data_for(mlp()))
    text = str(caught.value)
    assert text.startswith("the network cannot become spiking as it is\n")
    for op, node, hint in (
        ("batchnorm", "bn1", "run fold-batchnorm before"),
        ("maxpool", "pool1", "run replace-max-pool before"),
        ("softmax", "share", "only the ends of a network may stay analog"),
        ("batchnorm", "bn2", "run fold-batchnorm before"),
    ):
        assert f"  - '{op}' has no spiking form\n      at: {node} ({op})\n      try: {hint}" in text


def test_a_network_without_relu_is_refused() -> None:
    b = Builder({"x": (3,)})
    graph = b.graph(b("dense1", "dense", "x", weight=np.ones((2, 3))))
    with pytest.raises(GraphError, match="the network has no relu that could become neurons"):
        lowered(graph)


def head(*ops: str) -> Graph:
    """An mlp with the named analog ops behind its scores."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (6,)})
    b("dense1", "dense", "x", weight=rng.normal(size=(8, 6)))
    b("relu1", "relu", "dense1")
    at = b("dense2", "dense", "relu1", weight=rng.normal(size=(3, 8)), bias=[1, 2, 3])
    for op in ops:
        parts: dict[str, Any] = {"weight": rng.normal(size=(3, 3)), "bias": [1, 0, -1]} if op == "dense" else {}
        at = b(op, op, at, **parts, **({"factor": 2.0} if op == "scale" else {}))
    return b.graph(at)


@pytest.mark.parametrize(
    "ops", [("softmax",), ("logsoftmax",), ("softmax", "scale"), ("softmax", "dense"), ("scale", "softmax", "dense")]
)
def test_the_end_behind_a_softmax_stays_analog(ops: tuple[str, ...]) -> None:
    graph = head(*ops)
    new, _ = lowered(graph, steps=256, percentile=100.0)
    first = next(op for op in ops if op.endswith("softmax"))
    source = new[first].inputs[0]
    assert new[source].op == "decode"
    assert all(new.type(op).kind == "analog" for op in ops[ops.index(first) :])
    x = data_for(graph).train.x()
    np.testing.assert_allclose(only(even(new), x), only(graph, x), atol=0.15)


def test_a_value_of_both_worlds_is_decoded_where_they_meet() -> None:
    b = Builder({"x": (3,)})
    b("relu1", "relu", "x")
    b("share", "softmax", "relu1")
    b("dense1", "dense", "relu1", weight=np.eye(3))
    graph = b.graph(b("sum", "add", "dense1", "share"))
    new, _ = lowered(graph, steps=64, percentile=100.0)
    x = data_for(graph).train.x()
    np.testing.assert_allclose(only(new, x), only(graph, x), atol=0.1)


def test_a_relu_can_be_the_output() -> None:
    b = Builder({"x": (3,)})
    graph = b.graph(b("relu1", "relu", "x"))
    new, _ = lowered(graph, steps=64, percentile=100.0)
    x = data_for(graph).train.x()
    theta = float(new.params["relu1.theta"])
    made, expected = run(new, {"x": x})["out_relu1"], run(graph, {"x": x})["out_relu1"]
    assert np.abs(made - expected).max() <= theta / 2 + 1e-6


def test_several_outputs_are_decoded_each() -> None:
    b = Builder({"x": (3,)})
    b("relu1", "relu", "x")
    b("dense1", "dense", "relu1", weight=np.eye(3), bias=[1, 0, 0])
    b("share", "softmax", "dense1")
    graph = b.graph("dense1", "share", "relu1", "x")
    new, _ = lowered(graph, steps=64, percentile=100.0)
    assert set(new.outputs) == set(graph.outputs)
    assert [n.inputs[0] for n in new.nodes if n.op == "decode"] == ["dense1", "relu1.worth"]
    assert new.outputs["out_x"] == "x"
    x = data_for(graph).train.x()
    made, expected = run(new, {"x": x}), run(graph, {"x": x})
    for user in graph.outputs:
        np.testing.assert_allclose(made[user], expected[user], atol=0.1)


def test_biases_arrive_whole_and_the_note_says_so() -> None:
    new, notes = lowered(mlp())
    assert new["dense1"].attrs["bias_at"] == new["dense2"].attrs["bias_at"] == "first-step"
    assert notes == ["biases arrive whole at the first step until bias-per-step spreads them"]
    assert lowered(residual())[0]["conv1"].attrs.get("bias_at") is None


@pytest.mark.parametrize("code", ["direct", "first-step"])
def test_inputs_become_currents_by_code(code: str) -> None:
    new, _ = lowered(mlp(), code=code)
    assert new["x.current"].attrs["code"] == code
    assert new["dense1"].inputs[0] == "x.current"


def test_first_layer_counts_are_the_closed_form() -> None:
    """First-step coding and bias: V arrives whole, count = clip(floor(V / theta + 1/2), 0, T)."""
    graph = mlp()
    new, _ = lowered(graph, steps=16, code="first-step", percentile=90.0)
    x = data_for(graph).train.x()
    theta = float(new.params["relu1.theta"])
    charge = values(graph, x)["dense1"]
    counts = values(new, x)["relu1"].sum(axis=0)
    np.testing.assert_array_equal(counts, np.clip(np.floor(charge / theta + 0.5), 0, 16))


@pytest.mark.parametrize(
    ("model", "code"), [(mlp, "direct"), (lenet, "direct"), (residual, "direct"), (mlp, "first-step")]
)
def test_many_steps_approach_the_analog_network(model: Callable[[], Graph], code: str) -> None:
    """The error falls as 1/T where currents are even: a spike cannot be taken back when inhibition comes later."""
    graph = PoolNeurons().run(FoldBatchNorm().run(model(), Context()), Context())
    x = data_for(graph).train.x()
    expected = only(graph, x)
    errors = []
    for steps in (8, 64, 512):
        new, _ = lowered(graph, steps=steps, percentile=100.0, code=code)
        made = only(even(new) if code == "direct" else new, x)
        errors.append(float(np.sqrt(np.mean((made - expected) ** 2)) / expected.std()))
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert errors[2] < 0.01


def test_hints_name_the_passes_that_say_so_themselves() -> None:
    declared = {op: name for name, cls in PASSES.items() for op in getattr(cls, "rewrites", {})}
    assert {**declared, "batchnorm": "fold-batchnorm"} == HINTS


def pre_and_post() -> Graph:
    """Analog before the first layer, wiring between, and a sigmoid with more behind it at the end."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (4, 4, 2)})
    b("turned", "transpose", "x", perm=(2, 0, 1))
    b("norm", "scale", "turned", factor=0.5, bias=-0.1)
    b("squashed", "tanh", "norm")
    b("relu1", "relu", b("conv1", "conv", "squashed", weight=rng.normal(size=(3, 2, 3, 3)), bias=[0.1, 0, 0.2]))
    b("mirrored", "slice", "relu1", starts=(0, 0, 1), sizes=(3, 2, 2), steps=(1, 1, -1))
    b("flat", "reshape", "mirrored", shape=(12,))
    b("relu2", "relu", b("dense1", "dense", "flat", weight=rng.normal(size=(6, 12)) / 3))
    b("scores", "dense", "relu2", weight=rng.normal(size=(3, 6)))
    b("share", "sigmoid", "scores")
    b("dense2", "dense", "share", weight=np.eye(3), bias=[1, 2, 3])
    return b.graph(b("both", "add", "dense2", "scores"), "norm")


def test_both_ends_stay_on_the_host() -> None:
    graph = pre_and_post()
    new, notes = lowered(graph, steps=256, percentile=100.0)
    analog = {n.name for n in new.nodes if n.type.kind == "analog" and n.op != "decode"}
    assert analog == {"turned", "norm", "squashed", "share", "dense2", "both"}
    assert [n.inputs[0] for n in new.nodes if n.op == "encode"] == ["squashed"]
    assert new.outputs["out_norm"] == "norm"
    assert "on the host, behind a function that is not linear: dense2" in notes
    x = data_for(graph).train.x()
    expected = run(graph, {"x": x})
    for name, array in run(even(new), {"x": x}).items():
        np.testing.assert_allclose(array, expected[name], atol=0.2)


def test_a_constant_is_encoded_where_neurons_read_it() -> None:
    b = Builder({"x": (3,)})
    b("offset", "constant", value=[1.0, -1.0, 0.5])
    b("relu1", "relu", b("sum", "add", b("dense1", "dense", "x", weight=np.eye(3)), "offset"))
    graph = b.graph(b("dense2", "dense", "relu1", weight=np.eye(3)))
    new, _ = lowered(graph, steps=128, percentile=100.0)
    assert {n.inputs[0] for n in new.nodes if n.op == "encode"} == {"x", "offset"}
    x = data_for(graph).train.x()
    np.testing.assert_allclose(only(new, x), only(graph, x), atol=0.05)


@pytest.mark.parametrize(
    ("op", "attrs", "shape"),
    [
        ("transpose", {"perm": (1, 2, 0)}, (4, 4, 2)),
        ("slice", {"starts": (1, 0, 0), "sizes": (1, 2, 4), "steps": (1, 2, 1)}, (1, 2, 4)),
        ("pad", {"pads": (0, 1, 0, 0, 0, 1), "interior": (0, 1, 0)}, (2, 8, 5)),
        ("gather", {"axis": 0, "index": (1, 1, 0)}, (3, 4, 4)),
        ("expand", {"shape": (2, 4, 4)}, (2, 4, 4)),
    ],
)
def test_worths_pass_all_wiring(op: str, attrs: dict[str, Any], shape: tuple[int, ...]) -> None:
    b = Builder({"x": (2, 4, 4)})
    b("relu1", "relu", "x")
    b("wire", op, "relu1", **attrs)
    b("relu2", "relu", b("conv1", "conv", "wire", weight=np.ones((2, shape[0], 1, 1))))
    b("flat", "reshape", "relu2", shape=(2 * shape[1] * shape[2],))
    graph = b.graph(b("dense1", "dense", "flat", weight=np.ones((2, 2 * shape[1] * shape[2]))))
    new, _ = lowered(graph)
    assert not any(n.op == "scale" for n in new.nodes)
    np.testing.assert_allclose(new.params["conv1.weight"], new.params["relu1.theta"])


def test_a_worth_stays_where_weights_would_need_two() -> None:
    """Two layers side by side in one channel of an image, before a convolution."""
    b = Builder({"x": (1, 2, 2)})
    b("relu1", "relu", "x")
    b("scaled", "scale", "x", factor=3)
    b("relu2", "relu", "scaled")
    b("both", "concat", "relu1", "relu2", axis=1)
    b("relu3", "relu", b("conv1", "conv", "both", weight=np.ones((1, 1, 2, 2))))
    graph = b.graph(b("dense1", "dense", b("flat", "reshape", "relu3", shape=(3,)), weight=np.ones((2, 3))))
    new, _ = lowered(graph)
    assert {n.name for n in new.nodes if n.op == "scale"} == {"scaled", "relu1.worth", "relu2.worth"}
    np.testing.assert_array_equal(new.params["conv1.weight"], 1)


def test_weights_that_two_layers_share_are_told_apart() -> None:
    b = Builder({"x": (3,)})
    b("relu1", "relu", "x")
    b("left", "dense", "relu1", weight=np.ones((3, 3)))
    b("relu2", "relu", "left")
    graph = b.graph(b("right", "dense", "relu2", weight=np.ones((3, 3))))
    tied = graph.edit([replace(n, inputs=("relu2", "left.weight")) if n.name == "right" else n for n in graph.nodes])
    new, _ = lowered(tied, steps=256, percentile=100.0)
    assert len({n.inputs[1] for n in new.nodes if n.op == "dense"}) == 2
    x = data_for(graph).train.x()
    np.testing.assert_allclose(only(new, x), only(graph, x), atol=0.2)


# --- one threshold for each channel


def depthwise(seed: int = 0) -> Graph:
    """conv, relu, depthwise conv, relu, pool, dense; channels of very unequal size."""
    rng = np.random.default_rng(seed)
    b = Builder({"image": (2, 6, 6)})
    size = np.array([1, 0.05, 4]).reshape(3, 1, 1, 1)
    b("relu1", "relu", b("conv1", "conv", "image", weight=size * rng.normal(size=(3, 2, 3, 3)), bias=[0.1, 0.01, 0]))
    weight = rng.normal(size=(3, 1, 3, 3)) / 3
    b("relu2", "relu", b("conv2", "conv", "relu1", weight=weight, group=3, pads=(1, 1, 1, 1), bias=[0.2, 0.1, 0.1]))
    b("flat", "reshape", b("pool1", "avgpool", "relu2"), shape=(12,))
    return b.graph(b("dense1", "dense", "flat", weight=rng.normal(size=(4, 12)), bias=[0.1, 0, 0.2, 0]))


def joined(seed: int = 0) -> Graph:
    """Two layers that a concatenation brings together, one of them again at the end."""
    rng = np.random.default_rng(seed)
    b = Builder({"image": (2, 4, 4)})
    b("relu1", "relu", b("conv1", "conv", "image", weight=rng.normal(size=(3, 2, 1, 1)), bias=[0.1, -0.2, 0.3]))
    b("relu2", "relu", b("conv2", "conv", "relu1", weight=rng.normal(size=(2, 3, 3, 3)), pads=(1, 1, 1, 1)))
    b("both", "concat", "relu1", "relu2")
    b("relu3", "relu", b("conv3", "conv", "both", weight=rng.normal(size=(4, 5, 1, 1))))
    b("all", "concat", "relu3", "relu1")
    b("flat", "reshape", "all", shape=(112,))
    return b.graph(b("dense1", "dense", "flat", weight=rng.normal(size=(4, 112)) / 10))


@pytest.mark.parametrize("percentile", [0.1, 37.5, 90, 99.9, 100])
@pytest.mark.parametrize("count", [3, 64, 150])
def test_the_percentile_of_every_channel_is_its_own_nearest_rank(percentile: float, count: int) -> None:
    graph = depthwise()
    data = data_for(graph, count)
    made = upper_bounds(graph, data.train, percentile, Context(), {"relu1"})
    assert (made["relu1"].shape, made["relu2"].shape) == ((3,), ())
    arrays = values(graph, data.train.x())
    for channel in range(3):
        array = arrays["relu1"][:, channel].astype(np.float32)
        rank = np.percentile(array, percentile, method="inverted_cdf")
        assert made["relu1"][channel] == pytest.approx(rank if rank > 0 else array.max(), rel=1e-5)


def test_thresholds_and_starts_of_every_channel() -> None:
    graph = mlp()
    new, _ = lowered(graph, steps=8, per="channel", percentile=95.0, start=0.25)
    wanted = upper_bounds(graph, data_for(graph).train, 95.0, Context(), {"relu1"})["relu1"] / np.float32(8)
    np.testing.assert_array_equal(new.params["relu1.theta"], wanted)
    np.testing.assert_allclose(new.params["relu1.u0"], 0.25 * wanted, rtol=1e-6)
    assert len(set(wanted)) == 8
    np.testing.assert_allclose(new.params["dense2.weight"], graph.params["dense2.weight"] * wanted, rtol=1e-6)
    assert not any(node.op == "scale" for node in new.nodes)


@pytest.mark.parametrize("model", [mlp, lenet, residual, depthwise, joined])
def test_channels_of_their_own_approach_the_analog_network_too(model: Callable[[], Graph]) -> None:
    graph = PoolNeurons().run(FoldBatchNorm().run(model(), Context()), Context())
    x = data_for(graph).train.x()
    expected = only(graph, x)
    errors = []
    for steps in (8, 64, 512):
        made = only(even(lowered(graph, steps=steps, percentile=100.0, per="channel")[0]), x)
        errors.append(float(np.sqrt(np.mean((made - expected) ** 2)) / expected.std()))
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert errors[2] < 0.01


def test_small_channels_use_all_steps() -> None:
    """A channel of a twentieth of the others' size rounds to nothing under their threshold."""
    graph = depthwise()
    x = data_for(graph).train.x()
    errors = []
    for per in ("layer", "channel"):
        new, _ = lowered(graph, steps=8, per=per)
        count, wanted = values(even(new), x)["relu1"].sum(0)[:, 1], values(graph, x)["relu1"][:, 1]
        theta = np.broadcast_to(new.params["relu1.theta"], 3)[1]
        errors.append(float(np.linalg.norm(count * theta - wanted) / np.linalg.norm(wanted)))
    assert errors[1] < 0.2
    assert errors[0] > 5 * errors[1]


def test_weights_take_in_what_channels_are_worth_and_sums_do_not() -> None:
    """Depthwise and behind concatenations every factor finds a weight; a sum of two branches keeps two scales."""
    assert not any(n.op == "scale" for n in lowered(depthwise(), per="channel")[0].nodes)
    assert not any(n.op == "scale" for n in lowered(joined(), per="channel")[0].nodes)
    new, _ = lowered(residual(), per="channel")
    assert {n.name for n in new.nodes if n.op == "scale"} == {"relu1.worth", "relu2.worth"}
    assert new["conv2"].inputs[0] == "relu1"
    theta = new.params["relu1.theta"]
    np.testing.assert_array_equal(new.params["relu1.worth.factor"], theta)
    wanted = residual().params["conv2.weight"] * theta.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(new.params["conv2.weight"], wanted, rtol=1e-6)


def test_dead_and_sparse_channels_are_noted() -> None:
    b = Builder({"x": (4,)})
    graph = b.graph(b("relu1", "relu", "x"))
    x = np.full((40, 4), -1, np.float32)
    x[:, 0], x[:, 1], x[7, 2] = 8, 2, 5
    new, notes = lowered(graph, data_for(graph, x=x), percentile=90.0, steps=10, per="channel")
    np.testing.assert_allclose(new.params["relu1.theta"], [0.8, 0.2, 0.5, 0.8])
    at = "relu1 (relu): the 90.0 percentile of 1 channel(s) is 0, threshold set from"
    assert notes == [f"{at} the maximum", f"{at} the largest of the others"]
    _, notes = lowered(graph, data_for(graph, x=-np.abs(x)), percentile=90.0, per="channel")
    assert notes == ["relu1 (relu): the 90.0 percentile of 4 channel(s) is 0, threshold set from 1"]


def pool_of(*between: tuple[str, dict[str, Any]]) -> Graph:
    """Neurons, wiring, a max pool of spikes, and a layer behind it."""
    rng = np.random.default_rng(4)
    b = Builder({"image": (2, 4, 4)})
    at = b("relu1", "relu", b("conv1", "conv", "image", weight=rng.normal(size=(4, 2, 1, 1)), bias=rng.normal(size=4)))
    for i, (op, attrs) in enumerate(between):
        at = b(f"wire{i}", op, at, **attrs)
    at = b("pool1", "maxpool", at)
    shape = b.graph(at).type("pool1").shape
    features = int(np.prod(shape))
    b("flat", "reshape", at, shape=(features,))
    return b.graph(b("dense1", "dense", "flat", weight=rng.normal(size=(3, features))))


def test_a_max_pool_within_channels_keeps_their_worths() -> None:
    graph = pool_of()
    new, notes = lowered(graph, steps=256, percentile=100.0, per="channel")
    assert new.params["relu1.theta"].shape == (4,)
    assert not any(text.startswith("one threshold") for text in notes)
    x = data_for(graph).train.x()
    np.testing.assert_allclose(only(even(new), x), only(graph, x), atol=0.1)


def test_a_max_pool_across_channels_needs_one_threshold() -> None:
    graph = pool_of(("transpose", {"perm": (1, 0, 2)}))
    new, notes = lowered(graph, steps=256, percentile=100.0, per="channel")
    assert new.params["relu1.theta"].shape == ()
    assert "one threshold for all channels, which a max pool compares: relu1" in notes
    x = data_for(graph).train.x()
    np.testing.assert_allclose(only(even(new), x), only(graph, x), atol=0.1)
