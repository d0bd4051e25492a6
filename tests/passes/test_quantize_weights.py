"""quantize-weights: integer levels as constraints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.errors import PipelineError
from snnc.ir import Array, Constraint, Graph, Stage, to_text, verify
from snnc.passes import QuantizeWeights
from snnc.passes.quantize_weights import base_currents
from snnc.pipeline import Context, Pipeline
from snnc.targets import DynapSim
from tests.conftest import Golden
from tests.graphs import Builder, data_for, mlp, spiking


def network(weight: object = None) -> Graph:
    """One hidden layer with float weights."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (6,)}, 4)
    b("current", "encode", "x")
    b("hidden", "dense", "current", weight=rng.normal(size=(5, 6)) if weight is None else weight)
    b("lif", "lif", "hidden")
    b("head", "dense", "lif", weight=rng.normal(size=(3, 5)))
    return b.graph(b("scores", "decode", "head"))


def quantized(graph: Graph, **options: object) -> tuple[Graph, list[str]]:
    ctx = Context()
    new = QuantizeWeights(**options).run(graph, ctx)  # type: ignore[arg-type]
    verify(new)
    assert new.stage is Stage.CONSTRAINED
    return new, ctx.notes


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_weights_are_the_nearest_levels_of_a_full_grid(bits: int, per: str) -> None:
    graph = network()
    new, _ = quantized(graph, bits=bits, per=per)
    weight, made = graph.params["hidden.weight"], new.params["hidden.weight"]
    constraint = new.constraints["hidden.weight"]
    assert constraint.scale is not None
    assert constraint.scale.shape == ((5, 1) if per == "channel" else (1, 1))
    top = 2 ** (bits - 1) - 1
    levels = made / constraint.scale
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    inside = np.abs(weight) <= constraint.scale * top
    assert (np.abs(made - weight)[inside] <= (constraint.scale * 0.50001 + 0 * weight)[inside]).all()
    np.testing.assert_allclose(np.abs(levels)[~inside], top, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_no_other_ratio_has_a_smaller_error(bits: int, per: str) -> None:
    graph = network()
    new, _ = quantized(graph, bits=bits, per=per)
    weight, made = graph.params["hidden.weight"].astype(np.float64), new.params["hidden.weight"]
    top = 2 ** (bits - 1) - 1
    for rows, kept in zip(*((weight, made) if per == "channel" else (weight[None], made[None])), strict=True):
        steps = [r * np.abs(rows).max() / top for r in np.arange(0.2, 1.0001, 0.025)]
        errors = [np.square(np.clip(np.rint(rows / s), -top, top) * s - rows).sum() for s in steps]
        np.testing.assert_allclose(np.square(kept - rows).sum(), min(errors), rtol=1e-4)


def test_levels_by_hand() -> None:
    """Two bits are the levels -1, 0, 1. Ten weights of 0.5 and one of 1: a step of 0.5375 or so beats a step of 1."""
    weight = [[*[0.5] * 10, 1.0, 0.05]]
    b = Builder({"x": (12,)}, 4)
    b("hidden", "dense", b("current", "encode", "x"), weight=weight)
    new, notes = quantized(b.graph(b("count", "decode", b("lif", "lif", "hidden"))), bits=2)
    step = 0.55  # the mean of what becomes level 1 is 6 / 11 = 0.545
    np.testing.assert_allclose(new.params["hidden.weight"], [[*[step] * 11, 0.0]], atol=1e-6)
    assert notes == ["hidden: 8% of weights rounded to 0"]


@pytest.mark.parametrize("bits", [1, 9, 0, -4])
def test_impossible_bits(bits: int) -> None:
    with pytest.raises(PipelineError, match=f"'quantize-weights' knows 2 to 8 bits, not {bits}"):
        QuantizeWeights(bits=bits)


def test_the_read_out_is_left_alone_unless_asked_for() -> None:
    graph = network()
    new, _ = quantized(graph)
    assert set(new.constraints) == {"hidden.weight"}
    assert new.params["head.weight"] is graph.params["head.weight"]
    assert set(quantized(graph, readout=True)[0].constraints) == {"hidden.weight", "head.weight"}


@pytest.mark.parametrize("options", [{}, {"bits": 2, "per": "tensor"}, {"readout": True}], ids=str)
def test_quantized_twice_is_quantized_once(options: dict[str, object]) -> None:
    new, _ = quantized(network(), **options)
    assert quantized(new, **options)[0] is new


def test_other_bits_are_a_new_grid() -> None:
    new, _ = quantized(quantized(network(), bits=8)[0], bits=3)
    assert new.constraints["hidden.weight"].bits == 3


def test_the_read_out_can_follow_later() -> None:
    first, _ = quantized(network())
    new, _ = quantized(first, readout=True)
    assert new.params["hidden.weight"] is first.params["hidden.weight"]
    assert new.constraints["head.weight"].bits == 4


def test_a_channel_without_weights_is_noted() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 6))
    weight[2] = 0
    new, notes = quantized(network(weight))
    assert notes[0] == "hidden (dense): 1 channel(s) without any weight"
    assert (new.params["hidden.weight"][2] == 0).all()


def test_a_mask_stays() -> None:
    graph = network()
    mask = np.random.default_rng(1).random((5, 6)) < 0.5
    masked = graph.edit(
        params={"hidden.weight": np.where(mask, graph.params["hidden.weight"], np.float32(0))},
        constraints={"hidden.weight": Constraint(mask=mask)},
        stage=Stage.CONSTRAINED,
    )
    new, _ = quantized(masked)
    constraint = new.constraints["hidden.weight"]
    assert constraint.bits == 4
    np.testing.assert_array_equal(constraint.mask, mask)
    assert (new.params["hidden.weight"][~mask] == 0).all()


def test_scalar_synapses_stay_exact() -> None:
    """A weighted synapse of one factor is the largest level of its own grid."""
    new, _ = quantized(spiking(), bits=2)
    assert float(new.params["skip.factor"]) == 4
    assert new.constraints["skip.factor"].bits == 2


def test_golden_quantize_weights(golden: Golden) -> None:
    golden(to_text(quantized(spiking())[0]))


def test_channels_that_training_put_to_sleep_get_the_step_of_the_others() -> None:
    """Weights of 1e-30 (weight decay) would make a unit in which nothing else fits."""
    graph = spiking()
    weight = np.array(graph.params["conv1.weight"], np.float32)
    weight[1] *= 1e-20
    ctx = Context()
    new = QuantizeWeights().run(graph.edit(params={"conv1.weight": weight}), ctx)
    scale = np.asarray(new.constraints["conv1.weight"].scale).reshape(-1)
    assert scale[1] == max(scale[0], scale[2])
    assert not new.params["conv1.weight"][1].any()
    assert any("conv1 (conv): 1 channel(s) without any weight" in note for note in ctx.notes)


SETS: list[dict[str, object]] = [
    {"levels": "power-of-two"},
    {"levels": "power-of-two", "bits": 3, "per": "tensor"},
    {"levels": "power-of-two", "scales": "power-of-two"},
    {"levels": "base-currents", "per": "tensor"},
    {"levels": "base-currents", "per": "tensor", "bits": 2},
    {"levels": "base-currents", "per": "core"},
    {"levels": "base-currents", "per": "core", "core": 7},
    {"levels": "base-currents", "per": "core", "core": 7, "bits": 8},
    {"scales": "power-of-two"},
    {"scales": "power-of-two", "per": "tensor", "bits": 6},
]


def many(seed: int = 0) -> Graph:
    """A layer with enough weights to fill every level."""
    b = Builder({"x": (40,)}, 4)
    b("hidden", "dense", b("current", "encode", "x"), weight=np.random.default_rng(seed).normal(size=(30, 40)))
    return b.graph(b("count", "decode", b("lif", "lif", "hidden")))


@pytest.mark.parametrize("options", SETS, ids=str)
def test_every_weight_is_on_the_nearest_level(options: dict[str, object]) -> None:
    graph = many()
    new, _ = quantized(graph, **options)
    constraint = new.constraints["hidden.weight"]
    assert constraint.scale is not None
    top = 2 ** (int(str(options.get("bits", 4))) - 1) - 1
    levels = np.arange(-top, top + 1.0) if constraint.levels is None else constraint.levels
    weight = graph.params["hidden.weight"]
    levels = levels[:, None] if levels.ndim > 1 else levels
    away = np.abs(weight[..., None] - constraint.scale[..., None] * levels)
    np.testing.assert_allclose(np.abs(new.params["hidden.weight"] - weight), away.min(axis=-1), atol=1e-5)
    assert quantized(new, **options)[0] is new


def test_powers_of_two() -> None:
    new, _ = quantized(many(), levels="power-of-two")
    np.testing.assert_array_equal(
        new.constraints["hidden.weight"].levels, [-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64]
    )


@pytest.mark.parametrize("levels", ["symmetric", "power-of-two"])
def test_steps_that_are_powers_of_two(levels: str) -> None:
    new, _ = quantized(many(), scales="power-of-two", levels=levels)
    scale = new.constraints["hidden.weight"].scale
    assert scale is not None
    assert (np.frexp(scale)[0] == 0.5).all()
    np.testing.assert_array_equal(new.params["hidden.weight"] / scale % 1, 0)


def error(options: dict[str, object]) -> float:
    graph = many()
    return float(
        np.square(quantized(graph, **options)[0].params["hidden.weight"] - graph.params["hidden.weight"]).sum()
    )


def test_four_base_currents_and_a_sign_beat_four_symmetric_bits() -> None:
    """31 levels against 15; and searched currents lose less than the binary ones they start from (5 symmetric bits)."""
    currents = error({"levels": "base-currents", "per": "tensor"})
    assert currents < 0.5 * error({"per": "tensor"})
    assert currents <= error({"bits": 5, "per": "tensor"})


@pytest.mark.parametrize("currents", [[1.0, 2, 4, 8], [1.0, 1.5, 5, 7], [0.3, 3, 3.5, 9]])
def test_base_currents_are_found_again(currents: list[float]) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (500, 4))
    sizes = masks @ np.array(currents)
    found = base_currents(sizes, 4)
    sums = np.array([[i >> j & 1 for j in range(4)] for i in range(16)]) @ found
    rms = np.sqrt(np.square(np.abs(sizes[:, None] - sums).min(axis=1)).mean())
    assert rms < 0.02 * sizes.max()
    assert (found > 0).all()


def test_no_step_of_the_search_is_a_step_back() -> None:
    """The error of what is found is at most that of binary currents at any ratio."""
    sizes = np.abs(np.random.default_rng(3).standard_t(3, 400))

    def loss(currents: Array) -> float:
        sums = np.array([[i >> j & 1 for j in range(4)] for i in range(16)]) @ currents
        return float(np.square(np.abs(sizes[:, None] - sums).min(axis=1)).sum())

    found = loss(base_currents(sizes, 4))
    assert all(found <= loss(r * sizes.max() * np.array([1, 2, 4, 8]) / 15) for r in np.arange(0.2, 1.01, 0.1))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"levels": "base-currents"}, "finds base currents for a core or a layer, in any step, not with per=channel"),
        (
            {"levels": "base-currents", "per": "tensor", "scales": "power-of-two"},
            "not with per=tensor scales=power-of-two",
        ),
        ({"levels": "power-of-two", "bits": 6}, "power-of-two levels of up to 5 bits, not 6"),
    ],
)
def test_impossible_levels(options: dict[str, object], why: str) -> None:
    with pytest.raises(PipelineError, match=why):
        QuantizeWeights(**options)  # type: ignore[arg-type]


def test_other_levels_are_a_new_grid() -> None:
    first, _ = quantized(many(), levels="power-of-two")
    new, _ = quantized(first)
    assert new.constraints["hidden.weight"].levels is None


def test_golden_base_currents(golden: Golden) -> None:
    golden(to_text(quantized(many(), levels="base-currents", per="tensor")[0]))


# --- one step for the channels of a core


def image(channels: int = 7, size: int = 4) -> Graph:
    """A convolution onto [channels, size, size] neurons, channels of unequal size, and a dense layer of 5."""
    rng = np.random.default_rng(6)
    b = Builder({"x": (2, size, size)}, 4)
    weight = rng.normal(size=(channels, 2, 3, 3)) * rng.uniform(0.2, 3, (channels, 1, 1, 1))
    b("conv1", "conv", b("current", "encode", "x"), weight=weight, pads=(1, 1, 1, 1))
    b("flat", "reshape", b("lif1", "lif", "conv1"), shape=(channels * size**2,))
    b("dense1", "dense", "flat", weight=rng.normal(size=(5, channels * size**2)))
    return b.graph(b("count", "decode", b("lif2", "lif", "dense1")))


@pytest.mark.parametrize(
    ("core", "groups"),
    [
        (256, [[0, 1, 2, 3, 4, 5, 6]]),
        (50, [[0, 1, 2], [3, 4, 5], [6]]),
        (32, [[0, 1], [2, 3], [4, 5], [6]]),
        (31, [[0], [1], [2], [3], [4], [5], [6]]),
        (3, [[0], [1], [2], [3], [4], [5], [6]]),
    ],
)
@pytest.mark.parametrize("levels", ["symmetric", "power-of-two", "base-currents"])
def test_channels_of_a_core_share_the_levels_that_are_best_for_them_together(
    core: int, groups: list[list[int]], levels: str
) -> None:
    """16 positions a channel: each group is quantized as if it were a tensor of its own."""
    graph = image()
    new, _ = quantized(graph, per="core", core=core, levels=levels)
    scale = new.constraints["conv1.weight"].scale
    assert scale is not None
    assert scale.shape == (7, 1, 1, 1)
    for group in groups:
        b = Builder({"x": (2, 4, 4)}, 4)
        weight = graph.params["conv1.weight"][group]
        b("conv1", "conv", b("current", "encode", "x"), weight=weight, pads=(1, 1, 1, 1))
        alone, _ = quantized(b.graph(b("count", "decode", b("lif1", "lif", "conv1"))), per="tensor", levels=levels)
        np.testing.assert_array_equal(scale[group], np.repeat(alone.constraints["conv1.weight"].scale, len(group), 0))
        np.testing.assert_array_equal(new.params["conv1.weight"][group], alone.params["conv1.weight"])
        if levels == "base-currents":
            found = np.asarray(new.constraints["conv1.weight"].levels)[group]
            np.testing.assert_array_equal(found, [alone.constraints["conv1.weight"].levels] * len(group))


def test_a_dense_neuron_has_one_position() -> None:
    new, _ = quantized(image(), per="core", core=2)
    scale = new.constraints["dense1.weight"].scale
    assert scale is not None
    assert [len(set(scale[rows].flat)) for rows in ([0, 1], [2, 3], [4], range(5))] == [1, 1, 1, 3]


def test_a_core_loses_less_than_a_tensor_and_more_than_a_channel() -> None:
    graph = image()

    def lost(**options: object) -> float:
        return float(
            np.square(quantized(graph, **options)[0].params["conv1.weight"] - graph.params["conv1.weight"]).sum()
        )

    assert lost(per="channel") < lost(per="core", core=32) < lost(per="tensor")


@pytest.mark.parametrize("scales", ["free", "power-of-two"])
def test_a_grid_of_cores_is_kept_and_one_of_channels_is_none(scales: str) -> None:
    cores, _ = quantized(image(), per="core", core=32, scales=scales)
    assert quantized(cores, per="core", core=32, scales=scales)[0] is cores
    assert quantized(cores, scales=scales)[0] is cores, "every channel has one step there too"
    channels, _ = quantized(image())
    again, _ = quantized(channels, per="core", core=32)
    scale = again.constraints["conv1.weight"].scale
    assert scale is not None
    assert len(set(scale.flat)) == 4


@pytest.mark.parametrize(
    "options", [{"core": 128}, {"core": 128, "per": "tensor"}, {"core": 0, "per": "core"}], ids=str
)
def test_impossible_cores(options: dict[str, object]) -> None:
    with pytest.raises(PipelineError, match=f"cannot work with core={options['core']}, per="):
        QuantizeWeights(**options)  # type: ignore[arg-type]


def test_a_core_has_256_neurons_on_the_chip_too() -> None:
    assert 4 * QuantizeWeights(per="core").core == DynapSim().limits.budgets["neurons per chip"] == 1024


@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([16, 32, 48, 256]))
def test_currents_of_a_core_lose_no_more_than_binary_ones(seed: int, bits: int, core: int) -> None:
    """Of one step and a sign for a core, on the same settings: the search begins with these."""
    graph = image()
    weight = np.random.default_rng(seed).standard_t(3, graph.params["conv1.weight"].shape).astype(np.float32)
    graph = graph.edit(params={"conv1.weight": weight})
    currents, _ = quantized(graph, levels="base-currents", per="core", core=core, bits=bits)
    binary, _ = quantized(graph, per="core", core=core, bits=bits + 1)
    lost = [float(np.square(made.params["conv1.weight"] - weight).sum()) for made in (currents, binary)]
    assert lost[0] <= lost[1] * 1.02


def test_currents_of_a_core_are_in_units_of_its_thresholds() -> None:
    """Thresholds that differ by a power of two: nothing else changes, and the core has one threshold in steps."""
    graph = image()
    turn = 2.0 ** np.array([0, 1, -1, 0, 2, 0, 0], np.float32)
    scaled = graph.params["conv1.weight"] * turn.reshape(-1, 1, 1, 1)
    other = graph.edit(params={"conv1.weight": scaled, "lif1.theta": turn})
    plain, made = (quantized(g, levels="base-currents", per="core", core=32)[0] for g in (graph, other))
    first, second = (g.constraints["conv1.weight"] for g in (plain, made))
    np.testing.assert_array_equal(first.levels, second.levels)
    np.testing.assert_array_equal(first.scale * turn.reshape(-1, 1, 1, 1), second.scale)


def test_a_core_without_weights_has_the_step_of_the_others() -> None:
    graph = image()
    weight = np.array(graph.params["conv1.weight"])
    weight[2:4] = 0
    new, notes = quantized(graph.edit(params={"conv1.weight": weight}), levels="base-currents", per="core", core=32)
    scale = np.asarray(new.constraints["conv1.weight"].scale).reshape(-1)
    assert scale[2] == scale[3] == scale.max()
    assert notes[0] == "conv1 (conv): 2 channel(s) without any weight"
    assert not new.params["conv1.weight"][2:4].any()


def test_currents_of_cores_of_a_layer_and_of_other_cores_are_new_ones() -> None:
    cores, _ = quantized(image(), levels="base-currents", per="core", core=32)
    assert quantized(cores, levels="base-currents", per="core", core=32)[0] is cores
    layer, _ = quantized(cores, levels="base-currents", per="tensor")
    wider, _ = quantized(cores, levels="base-currents", per="core", core=64)
    assert np.asarray(layer.constraints["conv1.weight"].levels).ndim == 1
    assert len(np.unique(np.asarray(wider.constraints["conv1.weight"].levels), axis=0)) == 2


def test_currents_that_differ_within_a_core_are_new_ones_whatever_their_steps() -> None:
    graph, _ = quantized(image(), levels="base-currents", per="core", core=32)
    for rows, kept in ((slice(None), False), (slice(0, 1), True)):
        before = graph.constraints["conv1.weight"]
        sets = np.broadcast_to(np.asarray(before.levels)[rows], np.asarray(before.levels).shape)
        same = Constraint(4, np.ones_like(np.asarray(before.scale)), None, sets)
        params = {"conv1.weight": same.project(graph.params["conv1.weight"])}
        made = graph.edit(params=params, constraints={"conv1.weight": same})
        again, _ = quantized(made, levels="base-currents", per="core", core=256)
        assert (again.params["conv1.weight"] is made.params["conv1.weight"]) is kept


def test_the_chip_takes_a_grid_of_cores() -> None:
    """Levels of the placed network times the step of the group are the weights again."""
    pipeline = "threshold-layernorm,bias-per-step,limit-fan-in,quantize-weights{per=core core=16}"
    graph = mlp(hidden=40)
    made, _ = Pipeline.parse(pipeline)(graph, data=data_for(graph))
    constraint = made.constraints["dense1.weight"]
    assert constraint.scale is not None
    assert len(set(constraint.scale.flat)) == 3
    placed = DynapSim().place(made)
    np.testing.assert_allclose(
        placed.params["dense1.weight"] * constraint.scale, made.params["dense1.weight"], atol=1e-6
    )
