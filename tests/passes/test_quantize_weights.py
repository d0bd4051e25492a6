"""quantize-weights: integer levels as constraints."""

from __future__ import annotations

import numpy as np
import pytest

from snnc.errors import PipelineError
from snnc.ir import Constraint, Graph, Stage, to_text, verify
from snnc.passes import QuantizeWeights
from snnc.pipeline import Context
from tests.conftest import Golden
from tests.graphs import Builder, spiking


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
