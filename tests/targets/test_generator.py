"""The grid of the bias generator: every current within half a fine step, ratios exact where they can be."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnc.ir import Constraint, Graph, Stage
from snnc.passes import LimitBiases, QuantizeWeights
from snnc.pipeline import Context
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.dpi import Circuit
from snnc.targets.dynap_sim.generator import FREE, ROUNDING, Wanted, asked, promised, roundings, settings, size
from snnc.targets.dynap_sim.profile import BiasGenerator, Profile, load_profile
from tests.graphs import Builder

SE2 = load_profile("se2").bias_generator
GRID = settings(SE2)


def half_a_step(current: float, generator: BiasGenerator = SE2) -> float:
    """Of the finest range that holds a current."""
    scale = next(scale for scale in generator.full_scale if current <= scale * (1 + 1e-9))
    return scale / (generator.fine - 1) / 2


def test_all_settings() -> None:
    assert promised(SE2) == pytest.approx(2.3e-6 / 0.28e-6 / 255 / 2)
    assert all(scale in GRID for scale in SE2.full_scale)
    small = settings(replace(SE2, coarse=2, fine=4, full_scale=(3.0, 30.0)))
    np.testing.assert_allclose(small, [1, 2, 3, 10, 20, 30])


@given(st.lists(st.floats(-10.5, -6), min_size=1, max_size=4), st.lists(st.floats(-10.5, -6), max_size=3))
def test_no_current_is_off_by_more_than_half_a_fine_step(bases: list[float], rest: list[float]) -> None:
    """Currents of 32 pA to 1 uA: a third of that, and three times as much, are within the ranges too."""
    wanted = Wanted(tuple(10**x for x in bases), tuple(("threshold", 10**x) for x in rest), (("leak", 5e-12),))
    currents = np.array([current for _, current in asked(wanted, GRID)])
    off = roundings(currents, GRID)
    assert (off * currents <= [half_a_step(current) * (1 + 1e-6) for current in currents]).all()
    np.testing.assert_allclose(off, np.abs(GRID[None] / currents[:, None] - 1).min(axis=1), rtol=1e-9, atol=1e-15)
    g = currents[: len(bases)] / wanted.bases
    np.testing.assert_allclose(g, g[0])
    np.testing.assert_allclose(currents[len(bases) : -1] / [current for _, current in wanted.rest], g[0])
    assert 1 / FREE <= g[0] <= FREE
    assert currents[-1] == 5e-12


@given(st.sets(st.integers(1, 254), max_size=3), st.floats(-9, -6.5), st.floats(-11, -6.5))
def test_ratios_of_settings_stay_exact(parts: set[int], largest: float, threshold: float) -> None:
    """Base currents of k / 255 of the largest, wherever it is; what is left is the threshold's half a fine step."""
    bases = tuple(10**largest * k / 255 for k in (*parts, 255))
    off = roundings(np.array([x for _, x in asked(Wanted(bases, (("threshold", 10**threshold),)), GRID)]), GRID)
    assert off[:-1].max() < 1e-9
    current = asked(Wanted(bases, (("threshold", 10**threshold),)), GRID)[-1][1]
    assert off[-1] <= half_a_step(current) / current * (1 + 1e-6)


@given(st.floats(-9, -6.5), st.floats(-10.5, -7))
def test_of_all_sizes_with_exact_ratios_the_threshold_has_the_best(step: float, threshold: float) -> None:
    """Weights of 1, 2 and 4 steps: four settings of the same range, m times (1, 2, 4), tried one by one."""
    one, theta = 10**step, 10**threshold
    made = roundings(np.array([size(Wanted((one, 2 * one, 4 * one), (("threshold", theta),)), GRID) * theta]), GRID)[0]
    sizes = np.array([m * scale / 255 / one for scale in SE2.full_scale for m in range(1, 64)])
    sizes = sizes[(sizes >= 1 / FREE) & (sizes <= FREE)]
    assert made <= roundings(sizes * theta, GRID).min() + 1e-9


def test_every_range_holds_base_currents_near_the_operating_point() -> None:
    """What `FREE` must be for: the largest of full scale somewhere between a third and three times its size."""
    assert all(b / a <= FREE**2 for a, b in pairwise(SE2.full_scale))


def network(theta: float = 20.0, step: float = 1.0, **neuron: object) -> Graph:
    """Eight neurons with weights of 7 and 1 steps."""
    b = Builder({"x": (2,)}, 4)
    b(
        "fc",
        "dense",
        b("current", "encode", "x"),
        weight=np.array([[7, 1]] * 8) * step,
        bias=np.zeros(8),
        bias_at="per-step",
    )
    graph = b.graph(b("out", "decode", b("lif", "lif", "fc", theta=theta * step, **neuron)))
    grid = Constraint(4, np.full((8, 1), step, np.float32))
    return graph.edit(constraints={"fc.weight": grid}, stage=Stage.CONSTRAINED)


def told(graph: Graph, profile: Profile | str = "se2") -> tuple[float, float, str, bool]:
    target = DynapSim(profile=profile)
    [found] = [f for f in target.findings(graph) if f.limit == ROUNDING]
    assert (found.layer, found.wall, found.source) == ("lif", False, "[V] Rockpool, parameters/biasgen.py")
    assert ROUNDING in target.limits.budgets
    return found.value, found.allowed, found.note, found.ok


def test_the_currents_of_a_layer_by_hand() -> None:
    """Weights of 10, 20 and 40 nA; a threshold of 20 steps, each 4 pulses' charge over the slowest time constant."""
    pulse = 1e-8 * 100 * (1 - math.exp(-1e-5 / 2e-3)) * 2e-3
    slowest = 3e-12 * 0.025 / (0.705 * 5e-13)
    theta = 20 * 4 * pulse / slowest
    wanted = Wanted((1e-8, 2e-8, 4e-8), (("threshold", theta),))
    currents = asked(wanted, GRID)
    off = 100 * roundings(np.array([x for _, x in currents]), GRID)
    assert told(network())[0] == pytest.approx(float(off.max()), rel=0.05)
    assert told(network(step=0.125)) == told(network()), "in weight steps nothing has changed"
    assert told(network())[2] == f"of a threshold of {currents[-1][1]:.2g} A"


def test_a_leak_is_a_setting_of_its_own() -> None:
    """5.3 pA, of the first range: settings 0.27 pA apart."""
    alpha = math.exp(-2e-3 / 20e-3)
    leak = 3e-12 * 0.025 / (0.705 * 20e-3)
    value, most, note, ok = told(network(alpha=alpha))
    apart = 70e-12 / 255
    assert value == pytest.approx(100 * abs(round(leak / apart) * apart / leak - 1), rel=0.05)
    assert (note, ok) == ("of a leak of 5.3e-12 A", value <= most)
    assert most == 1.6


def test_a_direct_current_is_rounded_with_the_threshold() -> None:
    """One for all that switch it on; free biases, which no core has currents for, say nothing."""
    bias = np.array([0, 0, 0.3, 0.3, 0.3, 0, 0.3, 0], np.float32)
    one = network().edit(params={"fc.bias": bias})
    with_bits = LimitBiases("dc-bit").run(one, Context())
    assert told(with_bits) == told(one) != told(network())
    assert "direct current of" in told(one)[2] or "threshold of" in told(one)[2]
    free = network().edit(params={"fc.bias": bias + np.arange(8, dtype=np.float32)})
    assert told(free) == told(network())


def test_a_direct_current_charges_as_pulses_do() -> None:
    circuit = Circuit.of(load_profile("se2").times)
    tau = torch.tensor(0.05)
    charged = circuit.gain / 0.05 * circuit.direct * circuit.dt
    assert charged == pytest.approx(float(circuit.rise(tau)))
    assert circuit == Circuit(dt=2e-3, t_pulse=10e-6)


@pytest.mark.parametrize(
    ("scales", "why"),
    [
        ((1e-13, 1e-12), "base current of 4e-08 A, beyond the largest full scale, 1e-12 A"),
        ((1e-6, 2e-6), "below the smallest setting, 3.9e-09 A"),
    ],
)
def test_what_no_setting_is_near_to_is_told(scales: tuple[float, ...], why: str) -> None:
    se2 = load_profile("se2")
    chip = replace(se2, bias_generator=replace(se2.bias_generator, coarse=2, full_scale=scales))
    _, _, note, ok = told(network(theta=4.0), chip)
    assert why in note
    assert not ok


def test_a_chip_with_free_weights_has_no_such_limit() -> None:
    target = DynapSim(profile="ideal")
    assert ROUNDING not in target.limits.budgets
    assert not [f for f in target.findings(network()) if f.limit == ROUNDING]


def test_base_currents_of_every_core_are_exact() -> None:
    """As quantize-weights puts them on the settings: what is rounded is the threshold."""
    rng = np.random.default_rng(0)
    b = Builder({"x": (30,)}, 4)
    b("fc", "dense", b("current", "encode", "x"), weight=rng.normal(size=(40, 30)))
    graph = b.graph(b("out", "decode", b("lif", "lif", "fc", theta=3.0)))
    chip = replace(load_profile("se2"), neurons_per_core=8)
    made = QuantizeWeights(levels="base-currents", per="core", core=8).run(graph, Context())
    assert "of a threshold of" in told(made, chip)[2]
    assert told(made, chip)[3]


def test_it_is_no_longer_unchecked() -> None:
    assert not [word for word in DynapSim().limits.unchecked if "generator" in word]
