"""quantize-neurons: the same spikes in integers, and accumulators that are proven wide enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc.data import Data, Split
from snnc.errors import GraphError, PipelineError
from snnc.ir import Array, Graph, to_text, verify
from snnc.passes import LimitBiases, QuantizeNeurons, QuantizeWeights
from snnc.pipeline import Context
from snnc.sim import reference
from snnc.sim import torch as executor
from snnc.sim.bounds import accumulators
from snnc.targets import DynapSim
from tests.conftest import Golden
from tests.graphs import Builder


def network(seed: int = 0, exact: bool = True, theta: float = 6.0, steps: int = 8) -> Graph:
    """conv and dense neurons on 4-bit weights; `exact`: all else are integers of the weight steps."""
    rng = np.random.default_rng(seed)
    b = Builder({"x": (2, 4, 4)}, steps)
    off = 0.0 if exact else 0.3
    b("conv", "conv", b("current", "encode", "x", code="first-step"), weight=levels(rng, (3, 2, 3, 3)))
    b("lif1", "lif", "conv", theta=0.5 * (theta + off), u0=0.5)
    b("flat", "reshape", "lif1", shape=(12,))
    bias = {"bias": rng.integers(-3, 4, 5) * 0.5 + off / 4, "bias_at": "per-step"}
    b("dense", "dense", "flat", weight=levels(rng, (5, 12)), **bias)
    b("lif2", "lif", "dense", theta=0.5 * (theta + off))
    graph = b.graph(b("count", "decode", "lif2"))
    return QuantizeWeights(bits=4, per="tensor", scales="power-of-two").run(graph, Context())


def levels(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Multiples of 1/2, the largest of them 7/2, so that 4 bits hold them."""
    made = rng.integers(-7, 8, shape) / 2
    made.reshape(-1)[0] = 3.5
    return np.asarray(made)


def data(graph: Graph, largest: int = 3) -> Data:
    x = np.random.default_rng(1).integers(-largest, largest + 1, (20, 2, 4, 4)).astype(np.float32)
    x[0, 0, 0, 0] = largest
    split = Split(x, np.zeros(20, np.int64))
    return Data(split, split, split)


def counts(graph: Graph, x: Array) -> Array:
    return reference.run(graph, {"x": x})["out_count"]


def test_the_same_spikes_in_integers() -> None:
    graph = network()
    given = data(graph)
    ctx = Context(given)
    new = QuantizeNeurons(shift=0).run(graph, ctx)
    verify(new)
    for name in ("conv.weight", "dense.weight", "dense.bias", "lif1.theta", "lif1.u0", "lif2.theta"):
        array = new.params[name]
        np.testing.assert_array_equal(array, np.rint(array))
    np.testing.assert_array_equal(new.params["lif1.theta"], [6, 6, 6])
    np.testing.assert_array_equal(counts(new, given.train.x()), counts(graph, given.train.x()))
    np.testing.assert_array_equal(executor.run(new, {"x": given.train.x()})["out_count"], counts(new, given.train.x()))
    assert counts(new, given.train.x()).any()
    assert ctx.notes == ["inputs up to 3: no membrane leaves 9 bits"]


@pytest.mark.parametrize("shift", [0, 2, 6])
def test_rounding_is_finer_with_a_shift(shift: int) -> None:
    graph = network(exact=False)
    new = QuantizeNeurons(shift=shift).run(graph, Context(data(graph)))
    theta, step = new.params["lif1.theta"], new.constraints["conv.weight"].scale
    assert (step == 2**shift).all()
    np.testing.assert_allclose(theta / 2**shift, 6.3, atol=0.5 / 2**shift)


def test_twice_is_once() -> None:
    graph = network(exact=False)
    given = data(graph)
    new = QuantizeNeurons().run(graph, Context(given))
    assert QuantizeNeurons().run(new, Context(given)) is new


def limit(weight: int) -> Graph:
    """One neuron of threshold 127 that a spike train charges by `weight` at each of 8 steps."""
    b = Builder({"x": (1,)}, 8)
    b("in", "scale", b("current", "encode", "x"), factor=1.0)
    b("lif0", "lif", "in")
    b("dense", "dense", "lif0", weight=[[float(weight)]])
    b("lif", "lif", "dense", theta=127.0)
    return b.graph(b("count", "decode", "lif"))


@pytest.mark.parametrize(("weight", "bits"), [(15, 8), (16, 9), (-16, 8), (-17, 9)])
def test_the_width_at_its_limit(weight: int, bits: int) -> None:
    """8 steps of 15 are 120 < 2**7; of 16 they are 128; two's complement reaches -128."""
    reach = accumulators(limit(weight), 1.0)["lif"]
    assert reach.bits == bits
    assert (reach.lowest, reach.highest) == (min(8 * weight, 0), max(8 * weight, 127))


def layers(top: int, theta: float) -> Graph:
    """A crafted net: 8 steps in which `top` inputs of weight 7 charge a neuron."""
    b = Builder({"x": (top,)}, 8)
    b("first", "dense", b("current", "encode", "x", code="first-step"), weight=np.eye(top) * 7)
    b("lif1", "lif", "first", theta=7.0)
    b("second", "dense", "lif1", weight=np.full((1, top), 7.0))
    b("lif2", "lif", "second", theta=theta)
    return QuantizeWeights(per="tensor").run(b.graph(b("count", "decode", "lif2")), Context())


def test_a_net_at_the_limit_is_refused_and_one_below_passes() -> None:
    """18 * 7 * 8 = 1008 stays below 2**10, 19 * 7 * 8 = 1064 does not (a threshold of 1023 is never reached before)."""
    passes = QuantizeNeurons(bits=11, accumulator=11, shift=0, largest=1.0)
    below = passes.run(layers(18, 1023), Context())
    assert accumulators(below, 1.0)["lif2"].highest == 1023
    with pytest.raises(GraphError) as caught:
        passes.run(layers(19, 1023), Context())
    assert "a membrane may reach 0 to 1064: 12 bits, not 11" in str(caught.value)
    assert "lif2 (lif)" in str(caught.value)


@given(st.integers(0, 1000), st.sampled_from(["subtract", "subtract-decayed", "zero"]), st.sampled_from([1.0, 0.5]))
def test_no_spikes_leave_the_bounds(seed: int, reset: str, alpha: float) -> None:
    """Random nets: all potentials on the way lie within the bounds."""
    rng = np.random.default_rng(seed)
    b = Builder({"x": (4,)}, 6)
    weight = rng.integers(-3 if seed % 2 else 0, 4, (3, 4)).astype(float)
    b("dense", "dense", b("current", "encode", "x"), weight=weight, bias=[1, -1, 2], bias_at="first-step")
    theta, u0 = float(rng.integers(1, 6)), float(rng.integers(-2, 3))
    b("lif", "lif", "dense", alpha=alpha, theta=theta, u0=u0, reset=reset)
    graph = b.graph(b("count", "decode", "lif"))
    reach = accumulators(graph, 6.0)["lif"]
    x = rng.integers(-6, 7, (40, 4)).astype(np.float32)
    x[0] = 6
    current = x @ weight.T / 6
    u, spike = np.full((40, 3), u0), np.zeros((40, 3))
    peak, deep = u.max(), u.min()
    for step in range(6):
        now = current + (np.array([1, -1, 2]) if step == 0 else 0)
        held = alpha * u * (1 - spike if reset == "zero" else 1) + now
        u = held - (0 if reset == "zero" else theta * spike * (alpha if reset == "subtract-decayed" else 1))
        spike = (u >= theta).astype(float)
        peak, deep = max(peak, held.max(), u.max()), min(deep, u.min())
    assert reach.lowest <= deep
    assert peak <= reach.highest


def test_thresholds_must_fit_their_width() -> None:
    with pytest.raises(GraphError, match=r"8 bits hold up to 127: lif2.theta 1023"):
        QuantizeNeurons(bits=8, shift=0, largest=1.0).run(layers(2, 1023), Context())


def test_refused_weights() -> None:
    b = Builder({"x": (4,)}, 4)
    b("dense", "dense", b("current", "encode", "x"), weight=np.eye(4))
    b("lif1", "lif", "dense")
    b("half", "scale", "lif1", factor=0.5)
    b("last", "dense", "half", weight=np.eye(4))
    b("lif2", "lif", "last")
    graph = b.graph(b("count", "decode", "lif2"))
    with pytest.raises(GraphError) as caught:
        QuantizeNeurons(largest=1.0).run(graph, Context())
    assert str(caught.value).count("weights are not quantized") == 2
    quantized = QuantizeWeights(per="tensor").run(graph, Context())
    with pytest.raises(GraphError, match=r"reads 'half' \(scale\), no spikes"):
        QuantizeNeurons(largest=1.0).run(quantized, Context())
    odd = QuantizeWeights(per="tensor", levels="base-currents").run(network(exact=True), Context())
    with pytest.raises(GraphError, match="levels that are no integers"):
        QuantizeNeurons(largest=1.0).run(odd, Context())


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 20, "accumulator": 16}, {"accumulator": 25}, {"shift": -1}])
def test_impossible_options(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="'quantize-neurons' cannot work with"):
        QuantizeNeurons(**options)


def test_golden_quantize_neurons(golden: Golden) -> None:
    golden(to_text(QuantizeNeurons(shift=2, largest=3.0).run(network(), Context())))


# --- biases that stand on levels


@pytest.mark.parametrize("method", ["dc-bit", "tonic"])
def test_limited_biases_stay_on_their_levels(method: Literal["dc-bit", "tonic"]) -> None:
    """A core's current becomes an integer, and every bias the same multiple of it as before."""
    graph = LimitBiases(method, core=2).run(network(exact=False), Context())
    given = data(graph)
    new = QuantizeNeurons(shift=6).run(graph, Context(given))
    verify(new)
    before, after = graph.constraints["dense.bias"], new.constraints["dense.bias"]
    assert before.scale is not None
    assert after.scale is not None
    assert (after.bits, after.levels is None) == (before.bits, method == "tonic")
    np.testing.assert_array_equal(after.scale, np.rint(after.scale))
    levels = graph.params["dense.bias"] / before.scale
    assert np.abs(levels).max() >= 1
    np.testing.assert_array_equal(new.params["dense.bias"], np.rint(levels) * after.scale)
    unit = float(np.asarray(graph.constraints["dense.weight"].scale).max()) / 2**6
    np.testing.assert_allclose(after.scale * unit, before.scale, atol=unit / 2)
    assert QuantizeNeurons(shift=6).run(new, Context(given)) is new
    x = given.train.x()
    np.testing.assert_allclose(counts(new, x), counts(graph, x), atol=1)
    np.testing.assert_array_equal(executor.run(new, {"x": x})["out_count"], counts(new, x))


def test_a_chip_takes_limited_biases_in_integers() -> None:
    graph = LimitBiases("tonic", core=2).run(network(exact=False), Context())
    given = data(graph)
    new = QuantizeNeurons(shift=6).run(graph, Context(given))
    x = given.train.x()
    b = Builder({"x": (2, 4, 4)})
    chip = DynapSim(mismatch=0.0).compile(replace(new, teacher=b.graph(b("y", "relu", "x")))).load(0)
    np.testing.assert_array_equal(chip.run(x)["out_count"], counts(new, x))


def test_biases_on_levels_that_are_no_integers_are_refused() -> None:
    graph = LimitBiases("tonic", core=2).run(network(exact=False), Context())
    limit = replace(graph.constraints["dense.bias"], levels=np.array([-2.5, -1, 0, 1, 2.5], np.float32))
    odd = graph.edit(
        params={"dense.bias": limit.project(graph.params["dense.bias"])}, constraints={"dense.bias": limit}
    )
    with pytest.raises(GraphError, match="levels that are no integers") as caught:
        QuantizeNeurons().run(odd, Context(data(graph)))
    assert caught.value.at == "dense (dense)"


def test_a_current_below_a_unit_is_one() -> None:
    """Never 0: a step is a positive number."""
    graph = LimitBiases("dc-bit", core=2).run(network(exact=False), Context())
    constraint = graph.constraints["dense.bias"]
    tiny = replace(constraint, scale=np.full_like(np.asarray(constraint.scale), 1e-4))
    small = graph.edit(params={"dense.bias": tiny.project(np.ones(5, np.float32))}, constraints={"dense.bias": tiny})
    new = QuantizeNeurons(shift=0).run(small, Context(data(graph)))
    np.testing.assert_array_equal(np.asarray(new.constraints["dense.bias"].scale), 1)
    np.testing.assert_array_equal(new.params["dense.bias"], 1)
