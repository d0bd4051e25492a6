"""limit-biases: one direct current a core, or a tonic synapse; the best there are, and trainers stay within."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import GraphError, PipelineError
from snnc.ir import Array, Constraint, Graph, Stage, parse, roles, to_text, verify
from snnc.passes import LimitBiases
from snnc.passes.limit_biases import RATIOS, direct_current, integers, tonic_step
from snnc.pipeline import Context, Pipeline
from snnc.sim.reference import run
from tests.conftest import Golden
from tests.graphs import Builder, data_for, mlp

VALUES = st.lists(st.integers(-40, 40).map(lambda i: i / 8), min_size=1, max_size=7).map(np.array)


def network(bias: object, scale: Array | None = None, bias_at: str = "per-step", theta: object = 1.0) -> Graph:
    """Four channels of two neurons."""
    b = Builder({"x": (2, 2, 1)}, 4)
    weight = np.ones((4, 2, 1, 1)) * (1.0 if scale is None else scale)
    b("conv", "conv", b("current", "encode", "x"), weight=weight, bias=bias, bias_at=bias_at)
    b("lif", "lif", "conv", theta=theta)
    b("flat", "reshape", "lif", shape=(8,))
    b("head", "dense", "flat", weight=np.ones((2, 8)), bias=[1, 2], bias_at="per-step")
    graph = b.graph(b("out", "decode", "head"))
    if scale is None:
        return graph
    return graph.edit(constraints={"conv.weight": Constraint(4, scale)}, stage=Stage.CONSTRAINED)


def limited(graph: Graph, **options: object) -> tuple[Graph, list[str]]:
    ctx = Context()
    made = LimitBiases(**{"core": 4, **options})  # type: ignore[arg-type]
    new = made.run(graph, ctx)
    verify(new)
    assert made.run(new, Context()) is new, "limited twice is limited once"
    return new, ctx.notes


@given(VALUES)
def test_no_other_current_and_bits_have_a_smaller_error(values: Array) -> None:
    current = direct_current(values)
    assert current > 0
    mine = np.square(np.minimum(np.abs(values), np.abs(values - current))).sum()
    for bits in itertools.product((0, 1), repeat=len(values)):
        on = np.array(bits)
        best = max((on * values).sum() / max(on.sum(), 1), 0)
        assert mine <= np.square(values - on * best).sum() + 1e-9


@given(VALUES, st.integers(2, 5))
def test_no_other_ratio_has_a_smaller_error(values: Array, bits: int) -> None:
    top = 2 ** (bits - 1) - 1

    def error(step: float) -> float:
        return float(np.square(np.clip(np.rint(values / step), -top, top) * step - values).sum())

    largest = np.abs(values).max() or 1.0
    least = min(error(ratio * largest / top) for ratio in RATIOS)
    assert error(tonic_step(values, integers(bits))) <= least + 1e-12


def test_every_core_has_one_current_and_every_channel_a_bit() -> None:
    """Two channels a core: 4 and 2 round to 3 and 3; 1 and -1 to 1 and 0."""
    new, notes = limited(network([4, 2, 1, -1]))
    np.testing.assert_allclose(new.params["conv.bias"], [3, 3, 1, 0])
    constraint = new.constraints["conv.bias"]
    assert (constraint.bits, list(np.asarray(constraint.levels))) == (1, [0, 1])
    assert new.stage is Stage.CONSTRAINED
    assert notes == ["conv: 3 of 4 biases are switched on, 1 below 0 are lost; off by 37%"]
    np.testing.assert_array_equal(new.params["head.bias"], [1, 2], err_msg="the read-out is on the host")


def test_currents_are_equal_in_weight_steps() -> None:
    """What the chip shares is the current in its own units: b / s, or b / theta while weights are free."""
    scale = np.array([1, 2, 1, 1], np.float32).reshape(4, 1, 1, 1)
    new, _ = limited(network([4, 8, 1, 1], scale))
    np.testing.assert_allclose(new.params["conv.bias"], [4, 8, 1, 1])
    new, _ = limited(network([4, 8, 1, 1], theta=[1, 2, 1, 1]))
    np.testing.assert_allclose(new.params["conv.bias"], [4, 8, 1, 1])
    new, _ = limited(network([4, 8, 1, 1]))
    np.testing.assert_allclose(new.params["conv.bias"], [6, 6, 1, 1], err_msg="12^2 / 2 is more than 8^2")


def test_tonic_synapses_are_integers_of_a_step_per_core() -> None:
    new, notes = limited(network([7, -3, 0.5, 0.25]), method="tonic")
    np.testing.assert_allclose(new.params["conv.bias"], [7, -3, 0.5, 0.25], rtol=0.2)
    constraint = new.constraints["conv.bias"]
    assert constraint.scale is not None
    assert (constraint.bits, constraint.levels) == (4, None)
    assert constraint.scale[0] == constraint.scale[1] != constraint.scale[2] == constraint.scale[3]
    levels = new.params["conv.bias"] / constraint.scale
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-5)
    assert notes[0].startswith("conv: 4 of 4 biases are a tonic synapse, one connection more; off by ")


SUMS = np.array([[-3.5, -2.5, -1, 0, 1, 2.5, 3.5], [-3, -2, -1, 0, 1, 2, 3]], np.float32)
"""Of the currents 1 and 2.5, and of 1 and 2."""


def on_sums(bias: object, levels: Array, **options: object) -> Graph:
    """The network with weights of 1 on a set of levels of two currents, one for all or one for each channel."""
    graph = network(bias, **options)  # type: ignore[arg-type]
    limit = Constraint(2, np.ones((4, 1, 1, 1), np.float32), None, np.asarray(levels, np.float32))
    return graph.edit(constraints={"conv.weight": limit}, stage=Stage.CONSTRAINED)


def test_tonic_synapses_are_masks_over_the_currents_of_the_weights() -> None:
    """7 and -5 are 3.5 and -2.5 times 2. Idempotent, and the same when read from text."""
    new, _ = limited(on_sums([7, -5, 0.35, 0.1], SUMS[0]), method="tonic")
    np.testing.assert_allclose(new.params["conv.bias"], [7, -5, 0.35, 0.1], rtol=1e-6)
    constraint = new.constraints["conv.bias"]
    np.testing.assert_array_equal(constraint.levels, SUMS[0])
    assert constraint.bits == 2, "as many as the weights have"
    np.testing.assert_allclose(np.asarray(constraint.scale), [2, 2, 0.1, 0.1], rtol=1e-6)
    again = parse(to_text(new), new.arrays())
    assert to_text(again) == to_text(new)
    np.testing.assert_array_equal(again.constraints["conv.bias"].levels, SUMS[0])


def test_a_channel_takes_the_sums_of_its_own_row() -> None:
    """Two cores with currents of their own; and two rows of one core that differ, with one step for both."""
    new, _ = limited(on_sums([7, -5, 1.5, 0.5], SUMS[[0, 0, 1, 1]]), method="tonic")
    np.testing.assert_allclose(new.params["conv.bias"], [7, -5, 1.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(new.constraints["conv.bias"].levels, SUMS[[0, 0, 1, 1]])
    new, _ = limited(on_sums([7, 6, 3.5, 3], SUMS[[0, 1, 0, 1]]), method="tonic")
    np.testing.assert_allclose(new.params["conv.bias"], [7, 6, 3.5, 3], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(new.constraints["conv.bias"].scale), [2, 2, 1, 1], rtol=1e-6)


@given(VALUES, st.integers(0, 2**31))
def test_no_other_ratio_of_sums_has_a_smaller_error(values: Array, seed: int) -> None:
    levels = SUMS.astype(np.float64)[np.random.default_rng(seed).integers(0, 2, len(values))]
    largest = (np.abs(values) / levels[:, -1]).max() or 1.0

    def error(step: float) -> float:
        return float(np.square(values[:, None] - levels * step).min(axis=1).sum())

    assert error(tonic_step(values, levels)) <= min(error(ratio * largest) for ratio in RATIOS) + 1e-9


def test_levels_that_lack_a_sign_are_none_of_a_bias() -> None:
    new, _ = limited(on_sums([7, -3, 1, 0], np.array([-1, 0, 1, 2])), method="tonic")
    assert new.constraints["conv.bias"].levels is None


def test_other_currents_of_the_weights_are_other_levels_of_the_bias() -> None:
    new, _ = limited(on_sums([7, -5, 0.35, 0.1], SUMS[0]), method="tonic")
    other = new.edit(constraints={"conv.weight": on_sums([0] * 4, SUMS[1]).constraints["conv.weight"]})
    new, _ = limited(other, method="tonic")
    np.testing.assert_array_equal(new.constraints["conv.bias"].levels, SUMS[1])


def test_neurons_of_a_channel_on_several_cores_have_one_step() -> None:
    """Levels stand for whole channels, so do the steps of their sums: 4 and 3.5 are of one channel of two cores."""
    b = Builder({"x": (1, 2, 1)}, 4)
    weight = np.ones((2, 2, 1, 1, 1, 1))
    bias = np.array([[[3.5], [1.0]], [[0.25], [0.1]]])
    b("own", "local", b("current", "encode", "x"), weight=weight, bias=bias, bias_at="per-step")
    graph = b.graph(b("out", "decode", b("lif", "lif", "own")))
    limit = Constraint(2, np.ones((2, 1, 1, 1, 1, 1), np.float32), None, SUMS)
    graph = graph.edit(constraints={"own.weight": limit}, stage=Stage.CONSTRAINED)
    new, _ = limited(graph, method="tonic", core=1)
    np.testing.assert_allclose(new.params["own.bias"][0, :, 0], [3.5, 1.0], rtol=1e-6)
    scale = np.asarray(new.constraints["own.bias"].scale)
    assert scale.shape == (2, 2, 1)
    assert (scale[:, 0] == scale[:, 1]).all()
    assert scale[0, 0, 0] != scale[1, 0, 0]


def test_cores_of_a_layer_share_a_step_if_asked_to() -> None:
    """Any of its neurons may then share a core."""
    bias = [4, 2, 0.9, -0.1]
    cores, layer = (limited(network(bias), method="tonic", per=per)[0] for per in ("core", "layer"))
    one, two = (np.unique(np.asarray(made.constraints["conv.bias"].scale)) for made in (layer, cores))
    assert (len(one), len(two)) == (1, 2)
    np.testing.assert_allclose(one, tonic_step(np.array(bias), integers(4)))
    switched, _ = limited(network([4, 2, 1, -1]), per="layer")
    np.testing.assert_allclose(switched.params["conv.bias"], [3, 3, 0, 0])


def meeting() -> Graph:
    """Three biased layers, one of them through a wire, whose currents are added up in front of the same neurons."""
    b = Builder({"x": (2, 2, 1)}, 4)
    b("current", "encode", "x")
    for name, bias in (("one", [4, 2, 1, -1]), ("two", [1, 1, 0.5, 0])):
        b(name, "conv", "current", weight=np.ones((4, 2, 1, 1)), bias=bias, bias_at="per-step")
    b("line", "reshape", "current", shape=(4,))
    b("short", "dense", "line", weight=np.ones((8, 4)), bias=np.arange(8) / 8, bias_at="per-step")
    b("square", "reshape", "short", shape=(4, 2, 1))
    b("lif", "lif", b("both", "add", b("sum", "add", "one", "two"), "square"))
    b("flat", "reshape", "lif", shape=(8,))
    return b.graph(b("out", "decode", b("head", "dense", "flat", weight=np.ones((2, 8)))))


@pytest.mark.parametrize("method", ["tonic", "dc-bit"])
def test_layers_that_meet_have_one_bias(method: str) -> None:
    new, notes = limited(meeting(), method=method)
    biased = {node.name: name for node in new.nodes if (name := roles(node, new.params).get("bias")) is not None}
    assert biased == {"one": "one.bias", "short": "short.bias"}, "wires are left alone"
    assert notes[0] == "two: its bias is added to that of one"
    whole, _ = limited(network([5, 3, 1.5, -1]), method=method)
    np.testing.assert_allclose(new.params["one.bias"], whole.params["conv.bias"], rtol=1e-6)


def test_a_bias_for_every_neuron() -> None:
    b = Builder({"x": (1, 2, 1)}, 4)
    bias = np.arange(8).reshape(4, 2, 1)
    weight = np.ones((4, 2, 1, 1, 1, 1))
    b("own", "local", b("current", "encode", "x"), weight=weight, bias=bias, bias_at="per-step")
    b("lif", "lif", "own", theta=[1, 1, 1, 2])
    graph = b.graph(b("out", "decode", "lif"))
    new, _ = limited(graph, core=2)
    np.testing.assert_allclose(new.params["own.bias"][:, :, 0], [[0, 1], [2.5, 2.5], [4.5, 4.5], [6.5, 6.5]])
    new, _ = limited(graph, core=4)
    one = (4 + 5 + 3 + 3.5) / 4
    np.testing.assert_allclose(new.params["own.bias"][2:, :, 0], [[one] * 2, [2 * one] * 2], err_msg="in thresholds")


def test_biases_of_zero_stay_free() -> None:
    graph = network(np.zeros(4))
    new, notes = limited(graph)
    assert notes == []
    assert new.params.keys() == graph.params.keys()
    assert new.constraints.keys() == {"conv.weight"}, "a constrained network, with all of its connections"
    mask = new.constraints["conv.weight"].mask
    assert mask is not None
    assert mask.all()
    made, _ = Pipeline(LimitBiases())(graph)
    assert to_text(made) == to_text(new)


def test_only_below_zero() -> None:
    new, notes = limited(network([-1, -2, -3, -4]))
    assert not new.params["conv.bias"].any()
    assert "0 of 4 biases are switched on, 4 below 0 are lost; off by 100%" in notes[0]


def test_charge_at_the_first_step_is_no_current() -> None:
    with pytest.raises(GraphError, match="its bias comes whole at the first step") as caught:
        LimitBiases().run(network([1, 2, 3, 4], bias_at="first-step"), Context())
    assert (caught.value.at, caught.value.hint) == ("conv (conv)", "run bias-per-step before")


# --- gains in place of biases


def folded(graph: Graph, x: Array) -> tuple[Graph, list[str]]:
    """Gains found on samples x [N, ...], and what was said."""
    ctx = Context(data_for(graph, x=x))
    fold = LimitBiases(method="fold")
    new = fold.run(graph, ctx)
    verify(new)
    assert fold.run(new, Context()) is new, "without biases there is nothing to fold, and no data to ask for"
    return new, ctx.notes


def test_gains_are_the_best_there_are() -> None:
    """Two inputs per channel: V = 4 w (x0 + x1) / T + b, as numpy's least squares has it where V > 0."""
    x = np.random.default_rng(0).random((50, 2, 2, 1)).astype(np.float32)
    biases = np.array([0.3, -0.2, 0.1, -1.0])
    new, notes = folded(network(biases), x)
    drive = x.sum(1).reshape(-1) / 4
    for row, bias in zip(new.params["conv.weight"], biases, strict=True):
        fires = drive + bias > 0
        best = np.linalg.lstsq(drive[fires, None], drive[fires] + bias, rcond=None)[0] if fires.any() else np.ones(1)
        np.testing.assert_allclose(row, np.clip(best, 0.25, 4)[0], rtol=1e-5)
    wanted, missed = np.maximum(drive + biases[:, None], 0), 0.0
    for v, gain in zip(wanted, new.params["conv.weight"][:, 0, 0, 0], strict=True):
        missed += float(np.square(gain * drive - v)[v > 0].sum())
    off = np.sqrt(missed / np.square(wanted).sum())
    assert notes == [f"conv: 3 of 4 biases are gains, 1 have nothing to be a gain of and are lost; off by {off:.0%}"]
    assert "conv.bias" not in new.params
    assert "bias_at" not in new["conv"].attrs
    assert "head.bias" in new.params, "no neuron gets it"


def test_a_gain_is_a_threshold() -> None:
    x = np.random.default_rng(1).random((20, 2, 2, 1)).astype(np.float32) * 4
    graph = network([0.5, 0.25, 0.125, 0.0625])
    new, _ = folded(graph, x)
    gain = new.params["conv.weight"][:, 0, 0, 0]
    assert (gain > 1).all()
    other = network(np.zeros(4), theta=1 / gain)
    [mine], [theirs] = run(new, {"x": x}).values(), run(other, {"x": x}).values()
    np.testing.assert_allclose(mine, theirs)


def test_every_kind_of_layer_has_a_gain() -> None:
    """A scale, and positions with weights of their own: one gain for each of their biases."""
    x = np.random.default_rng(2).random((30, 2, 2, 1)).astype(np.float32) + 0.5
    b = Builder({"x": (2, 2, 1)}, 4)
    weight, bias = np.ones((2, 2, 1, 2, 1, 1)), [[[0.1], [0.2]], [[0.3], [0]]]
    b("own", "local", b("current", "encode", "x"), weight=weight, bias=bias, bias_at="per-step")
    b("lif", "lif", "own")
    b("scale", "scale", "lif", factor=0.5, bias=[0.1, 0.2], bias_at="per-step")
    b("lif2", "lif", "scale")
    new, notes = folded(b.graph(b("out", "decode", "lif2")), x)
    weight = new.params["own.weight"]
    assert weight[0, 0, 0, 0, 0, 0] > 1
    assert weight[0, 1, 0, 0, 0, 0] > weight[0, 0, 0, 0, 0, 0]
    assert weight[1, 1, 0, 0, 0, 0] == 1
    factor = new.params["scale.factor"]
    assert factor.shape == (2,)
    assert factor[1] > factor[0] > 0.5
    assert [note.split(":")[0] for note in notes] == ["own", "scale"]


def test_gains_need_weights_that_are_free() -> None:
    graph = network([1, 2, 3, 4], np.ones((4, 1, 1, 1), np.float32))
    with pytest.raises(GraphError, match="a gain would leave the levels") as caught:
        LimitBiases(method="fold").run(graph, Context(data_for(graph)))
    assert "conv (conv)" in str(caught.value)
    assert "before quantize-weights" in str(caught.value)


def test_gains_need_data() -> None:
    with pytest.raises(PipelineError, match="limit-biases"):
        LimitBiases(method="fold").run(network([1, 2, 3, 4]), Context())


def test_folded_networks_learn_without_biases() -> None:
    recipe = "threshold-layernorm{steps=4},bias-per-step,limit-biases{method=fold},quantize-weights,ltl{epochs=2}"
    graph = mlp()
    made, _ = Pipeline.parse(recipe)(graph, data=data_for(graph))
    verify(made)
    assert "dense1.bias" not in made.params
    assert "dense2.bias" in made.params


@pytest.mark.parametrize("options", [{"core": 0}, {"bits": 1}, {"bits": 9}, {"samples": 0}])
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="'limit-biases' cannot work with"):
        LimitBiases(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("dc-bit", ""),
        ("tonic", ""),
        ("tonic", "quantize-weights{per=tensor levels=base-currents},"),
        ("tonic", "quantize-weights{per=core levels=base-currents core=2},"),
    ],
)
def test_trainers_learn_within(method: str, weights: str) -> None:
    recipe = f"threshold-layernorm{{steps=4}},bias-per-step,{weights}limit-biases{{method={method}}}"
    graph = mlp()
    start, _ = Pipeline.parse(recipe)(graph, data=data_for(graph))
    made, _ = Pipeline.parse(recipe + ",ltl{epochs=3 rate=0.05 start=random}")(graph, data=data_for(graph))
    verify(made)
    before, after = start.params["dense1.bias"], made.params["dense1.bias"]
    assert not np.array_equal(before, after), "they must learn"
    constraint = start.constraints["dense1.bias"]
    np.testing.assert_array_equal(np.asarray(made.constraints["dense1.bias"].scale), np.asarray(constraint.scale))
    np.testing.assert_array_equal(constraint.project(after), after)
    if weights:
        np.testing.assert_array_equal(constraint.levels, start.constraints["dense1.weight"].levels)


def test_golden_limit_biases(golden: Golden) -> None:
    graph = network([4, 2, 1, -1])
    new, notes = limited(graph)
    golden("\n".join([to_text(graph), to_text(new), *notes, str(new.params["conv.bias"].tolist())]) + "\n")
