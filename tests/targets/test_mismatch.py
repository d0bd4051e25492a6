"""Mismatch presets: the spreads that they promise, what is alike and what is not, and that a draw is frozen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from snnc import spec
from snnc.errors import PipelineError, TargetError
from snnc.ir import Array, Node
from snnc.targets import TARGETS, DynapSim
from snnc.targets.dynap_sim.cores import cores
from snnc.targets.dynap_sim.device import Device, Model
from snnc.targets.dynap_sim.mismatch import CORRELATION, GRID, Mismatch, Preset, draw, of_sites, sequential
from snnc.targets.dynap_sim.place import place
from tests.targets.networks import RECIPE, constrained, exact

CORES = 60
PLACED = place(exact("residual"))
SITES = sequential(PLACED)


def drawn(name: str, seed: int = 0) -> Array:
    """What is drawn for many cores, [cores, 256]."""
    return of_sites(seed, name, np.arange(CORES * GRID**2).reshape(CORES, GRID**2)).astype(np.float64)


def device(seed: int = 0, net: str = "residual", **options: object) -> Device:
    return Device(place(exact(net)), seed, Model(Mismatch(**options)))  # type: ignore[arg-type]


# --- the fitted numbers


def test_measured_time_constants_are_log_normal_with_a_slow_tail() -> None:
    tau = drawn("measured tau").reshape(-1)
    slow = tau > 1.45
    assert slow.mean() == pytest.approx(0.015, abs=4 * math.sqrt(0.015 / tau.size))
    assert 1.5 <= tau[slow].min() < 1.55
    assert 2.65 < tau[slow].max() <= 2.7
    bulk = np.log(tau[~slow])
    assert bulk.mean() == pytest.approx(0, abs=0.003)
    assert bulk.std() == pytest.approx(0.075, rel=0.03)


def test_measured_fast_weights_have_two_modes() -> None:
    logs = np.log(drawn("measured fast").reshape(-1))
    strong = logs > math.log(1.87) / 2
    assert strong.mean() == pytest.approx(0.18, abs=0.015)
    assert np.median(logs[~strong]) == pytest.approx(0, abs=0.01)
    assert math.exp(np.median(logs[strong])) == pytest.approx(1.87, rel=0.02)
    assert logs[~strong].std() == pytest.approx(0.11, rel=0.05)


@pytest.mark.parametrize("name", ["measured slow", "measured inhibitory"])
def test_slow_and_inhibitory_weights_have_correlated_neighbours(name: str) -> None:
    logs = np.log(drawn(name)).reshape(CORES, GRID, GRID)
    assert logs.std() == pytest.approx(0.11, rel=0.03)

    def alike(a: Array, b: Array) -> float:
        return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])

    assert alike(logs[:, 1:], logs[:, :-1]) == pytest.approx(CORRELATION, abs=0.03)
    assert alike(logs[:, :, 1:], logs[:, :, :-1]) == pytest.approx(CORRELATION, abs=0.03)
    assert alike(logs[:, 3:], logs[:, :-3]) == pytest.approx(0, abs=0.03)
    assert alike(logs[1:], logs[:-1]) == pytest.approx(0, abs=0.03), "cores are drawn apart"


@pytest.mark.parametrize("part", ["threshold", "refractory", "dc"])
def test_the_other_measured_parts_are_log_normal(part: str) -> None:
    logs = np.log(drawn(f"measured {part}"))
    assert logs.mean() == pytest.approx(0, abs=0.004)
    assert logs.std() == pytest.approx(0.10, rel=0.03)


def test_rockpool_spreads_neurons_by_a_tenth_and_leaves_weights() -> None:
    assert drawn("rockpool threshold").std() == pytest.approx(0.1, rel=0.03)
    assert drawn("rockpool tau").std() == pytest.approx(math.sqrt(2) * 0.1, rel=0.06), "a capacitance over a current"
    made = device(preset="rockpool")
    for name, value in made.params().items():
        if name.endswith("weight"):
            assert torch.equal(value, made.nominal[name])
    assert not torch.equal(made.params()["relu1.theta"], made.nominal["relu1.theta"])
    assert not torch.equal(made.params()["conv1.bias"], made.nominal["conv1.bias"])


# --- what belongs to what


def test_measured_weights_are_per_neuron_and_type() -> None:
    made = device(preset="measured", excitatory="slow")
    params = made.params()
    for name, at in (("conv2.weight", SITES["relu2"]), ("fc.weight", SITES["relu3"])):
        nominal, real = made.nominal[name].numpy(), params[name].numpy()
        rows = at.shape + (1,) * (nominal.ndim - at.ndim)
        excitatory = of_sites(0, "measured slow", at).reshape(rows)
        inhibitory = of_sites(0, "measured inhibitory", at).reshape(rows)
        assert (nominal < 0).any()
        assert (nominal > 0).any()
        np.testing.assert_allclose(real, nominal * np.where(nominal < 0, inhibitory, excitatory), rtol=1e-6)
    assert not torch.equal(device(preset="measured").params()["fc.weight"], params["fc.weight"])


def test_a_synapse_that_changes_its_sign_changes_its_type() -> None:
    made = device(preset="measured")
    before = made.params()["fc.weight"]
    made.nominal["fc.weight"] = -made.nominal["fc.weight"]
    after = made.params()["fc.weight"]
    kept = before != 0
    assert (after[kept] / before[kept] + 1).abs().max() > 0.05
    plain = device(preset="ltl")
    before = plain.params()["fc.weight"]
    plain.nominal["fc.weight"] = -plain.nominal["fc.weight"]
    assert torch.equal(plain.params()["fc.weight"], -before)


def test_a_measured_factor_belongs_to_a_place() -> None:
    """Another layer at the same places meets the same neurons; elsewhere, others."""
    at = np.arange(300)
    np.testing.assert_array_equal(of_sites(3, "measured tau", at)[260:270], of_sites(3, "measured tau", at[260:270]))
    assert not np.array_equal(of_sites(3, "measured tau", at[:9]), of_sites(4, "measured tau", at[:9]))
    assert not np.array_equal(of_sites(3, "measured tau", at[:9]), of_sites(3, "measured tau", at[:9] + 256))
    moved = {layer: sites + 512 for layer, sites in SITES.items()}
    one, other = (draw(PLACED, 0, Mismatch("measured"), sites).theta["relu1"] for sites in (SITES, moved))
    assert not np.array_equal(one, other)


def test_sites_fill_core_after_core() -> None:
    """Every layer begins a new core; no place is taken twice."""
    assert SITES["relu1"].reshape(-1).tolist() == list(range(144))
    assert SITES["relu2"].reshape(-1).tolist() == list(range(256, 256 + 144))
    assert SITES["relu3"].tolist() == list(range(512, 522))
    assert SITES["relu2"].shape == (4, 6, 6)
    for layer, core in cores(PLACED, GRID**2).items():
        np.testing.assert_array_equal(SITES[layer] // GRID**2, core)


@pytest.mark.parametrize("preset", ["ltl", "buchel"])
def test_shared_draws_one_factor_for_all_positions(preset: Preset) -> None:
    made = draw(PLACED, 0, Mismatch(preset, 0.3, "shared"), SITES)
    assert made.weight["conv2.weight"].shape == (4, 1, 1, 4, 3, 3)
    assert made.theta["relu2"].shape == made.tau["relu2"].shape == (4, 1, 1)
    assert made.weight["fc.weight"].shape == PLACED.params["fc.weight"].shape
    every = np.concatenate([f.reshape(-1) - 1 for f in made.weight.values()])
    assert every.std() == pytest.approx(0.3, rel=0.05)
    real = Device(PLACED, 0, Model(Mismatch(preset, 0.3, "shared"))).params()["conv2.weight"]
    np.testing.assert_array_equal(real, real[:, :1, :1].expand(real.shape))
    physical = device(preset=preset, sigma=0.3).params()["conv2.weight"]
    assert not torch.equal(physical, physical[:, :1, :1].expand(physical.shape))


def test_buchel_leaves_biases() -> None:
    made = device(preset="buchel", sigma=0.3)
    params = made.params()
    for name in made.nominal:
        same = torch.equal(params[name], made.nominal[name])
        assert same == (name.endswith(("bias", "alpha", "u0")) or "out." in name), name
    assert not torch.equal(device(sigma=0.3).params()["conv1.bias"], made.nominal["conv1.bias"])


@pytest.mark.parametrize("preset", ["ltl", "buchel", "measured", "rockpool", "none"])
def test_a_seed_is_a_device_in_every_preset(preset: Preset) -> None:
    one, same, other = (device(seed, preset=preset).params() for seed in (7, 7, 8))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    alike = all(torch.equal(value, other[name]) for name, value in one.items())
    assert alike == (preset == "none")
    off = device(7, preset=preset, sigma=0.0)
    assert all(torch.equal(value, off.nominal[name]) for name, value in off.params().items())


@pytest.mark.parametrize("preset", ["measured", "rockpool", "ltl"])
def test_leaks_are_mismatched_time_constants(preset: Preset) -> None:
    graph = place(constrained("plain", RECIPE.replace("{steps=8}", "{steps=8 alpha=0.9}")))
    made = Device(graph, 0, Model(Mismatch(preset, 0.1)))
    tau = draw(graph, 0, Mismatch(preset, 0.1), sequential(graph)).tau["relu1"]
    alpha = made.params()["relu1.alpha"].numpy()
    np.testing.assert_allclose(np.log(0.9) / np.log(alpha), tau, rtol=1e-4)
    assert tau.std() > 0.03


# --- refusals


def test_factors_per_neuron_are_not_shared() -> None:
    with pytest.raises(PipelineError, match="preset=measured has factors per neuron, which no kernel shares") as caught:
        Mismatch("measured", sharing="shared")
    assert "sharing=physical" in caught.value.hint
    with pytest.raises(PipelineError, match="no kernel shares"):
        DynapSim(preset="rockpool", sharing="shared")


def test_synapses_onto_two_layers_have_no_factor_per_neuron() -> None:
    graph = exact("residual")
    twin = [
        Node("twin", "add", ("relu1.worth", "conv2")),
        Node("relu2b", "lif", ("twin", *graph["relu2"].inputs[1:]), graph["relu2"].attrs),
        Node("end", "decode", ("relu2b",)),
    ]
    placed = place(graph.edit([*graph.nodes, *twin], outputs={**graph.outputs, "b": "end"}))
    Device(placed, 0, Model(Mismatch("ltl")))
    with pytest.raises(TargetError, match="drive two layers, preset=measured knows one"):
        Device(placed, 0, Model(Mismatch("measured")))


@pytest.mark.parametrize("options", ["preset=measured", "preset=rockpool", "preset=none", "profile=ideal"])
def test_a_sigma_that_a_preset_does_not_have_is_refused(options: str) -> None:
    with pytest.raises(PipelineError, match=r"mismatch=0.2 says nothing about preset=\w+, which has") as caught:
        spec.from_spec(f"dynap-sim{{{options} mismatch=0.2}}", TARGETS)
    assert "preset=ltl" in str(caught.value.hint)
    spec.from_spec(f"dynap-sim{{{options} mismatch=0}}", TARGETS)
    spec.from_spec(f"dynap-sim{{{options}}}", TARGETS)


def test_presets_with_a_sigma_take_it() -> None:
    made = DynapSim(preset="buchel", mismatch=0.3)
    assert (made.chip.mismatch.preset, made.chip.mismatch.sigma) == ("buchel", 0.3)
    assert DynapSim(profile="ideal", preset="ltl", mismatch=0.3).chip.mismatch.sigma == 0.3
