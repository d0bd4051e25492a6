"""Tier dpi: the closed form of its rate, its set-up from a placed network, its limits, how far it is from tier lif."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from snnc.errors import PipelineError
from snnc.ir import Array, Graph, Node, TensorType
from snnc.sim.torch import exact as exact_kernels
from snnc.sim.torch import tensors, to_tensor
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.device import Device, Model
from snnc.targets.dynap_sim.dpi import Circuit, Neurons, charged
from snnc.targets.dynap_sim.mismatch import Mismatch
from snnc.targets.dynap_sim.place import place
from tests.targets.networks import data, exact, images

FINE = Circuit(tau_syn=1e-3, t_ref=1e-4)
"""Fast synapses: what arrives in a step acts in it."""


def one(theta: float, u0: float = 0.0, alpha: float = 1.0) -> Graph:
    """A neuron with one synapse of weight 1."""
    params = {"w": [[1.0]], "theta": [theta], "u0": [u0], "alpha": [alpha]}
    nodes = [
        Node("in", "encode", ("x",), {"code": "direct"}),
        Node("synapse", "dense", ("in", "w")),
        Node("cell", "lif", ("synapse", "alpha", "theta", "u0"), {"reset": "subtract"}),
        Node("end", "decode", ("cell",)),
    ]
    arrays = {name: np.asarray(value, np.float32) for name, value in params.items()}
    blank = Graph({"x": TensorType("analog", (1,))}, (), {}, {}, steps=1)
    return blank.edit(nodes, params=arrays, outputs={"y": "end"})


def spikes(circuit: Circuit, theta: float, currents: list[float], u0: float = 0.0, alpha: float = 1.0) -> list[float]:
    """Spikes of one neuron at every step, from its currents in weight steps."""
    graph = one(theta, u0, alpha)
    params = tensors(graph)
    neurons = Neurons(graph, circuit, params, params, {}, {})
    return [float(neurons(graph["cell"], torch.tensor([[current]]))[1]) for current in currents]


# --- the closed form


@pytest.mark.parametrize("drive", [1.05, 1.5, 4.0, 20.0])
@pytest.mark.parametrize("tau", [0.02, 0.2])
def test_the_interval_is_the_closed_form(drive: float, tau: float) -> None:
    """A constant input current: Iinf = `drive` thresholds, sub-steps of a hundredth of the interval at most."""
    threshold = 1e-8
    ileak = float(FINE.leak(torch.tensor(tau)))
    want = FINE.interval(drive * threshold, threshold, tau) - FINE.t_ref
    h = want / 400
    imem, t = torch.tensor(FINE.io, dtype=torch.float64), 0
    iin = torch.tensor(drive * threshold / FINE.gain + ileak, dtype=torch.float64)
    while float(imem) < threshold:
        imem = charged(FINE, imem, iin, torch.tensor(FINE.gain * ileak), torch.tensor(tau), h)
        t += 1
        assert t < 1000
    assert t * h == pytest.approx(want, rel=0.02)


def test_below_its_threshold_current_it_never_fires() -> None:
    assert FINE.interval(0.9e-8, 1e-8, 0.02) == math.inf


def test_linear_regime() -> None:
    """Imem >> Igain, no leak: the interval is threshold over slope, as the set-up assumes."""
    tau, threshold = FINE.slowest, 1e-8
    drive = 100 * threshold
    assert FINE.interval(drive, threshold, tau) - FINE.t_ref == pytest.approx(tau * threshold / drive, rel=0.02)


@pytest.mark.parametrize("current", [2.0, 5.0, 9.0, 15.0])
@pytest.mark.parametrize("t_ref", [1e-4, 2e-4])
def test_both_tiers_fire_at_the_same_rate(current: float, t_ref: float) -> None:
    """A spike every t_ref + dt * theta / V, and up to three sub-steps: start from Io, rest above Ith, ripple."""
    circuit = replace(FINE, t_ref=t_ref, io=1e-15)
    n, theta = 100, 20.0
    count = sum(spikes(circuit, theta, [current] * n))
    want = t_ref + circuit.dt * theta / current
    h = circuit.dt / circuit.substeps(circuit.tau(torch.tensor(1.0)))
    assert 0 <= n * circuit.dt / (count + 0.5) - want <= 3 * h + want / count
    assert count < n * current / theta, "never above the discrete rate"


def test_leaky_neurons_forget_as_the_discrete_ones_do() -> None:
    """alpha = 0.9: nothing fires where the charge of a step is below what leaks at the threshold."""
    assert FINE.tau(torch.tensor(0.9)).item() == pytest.approx(FINE.dt / -math.log(0.9), rel=1e-5)
    assert FINE.tau(torch.tensor(1.0)).item() == pytest.approx(FINE.slowest)
    assert sum(spikes(FINE, 20.0, [1.5] * 100, alpha=0.9)) == 0
    assert sum(spikes(FINE, 20.0, [1.5] * 100)) > 5
    assert sum(spikes(FINE, 20.0, [3.0] * 60, alpha=0.9)) > 3


def test_one_pulse_raises_the_membrane_by_its_weight() -> None:
    """A single pulse of 12 weight steps onto a start of 3, for ten steps: 15, less what leaks in 20 ms."""
    graph = one(100.0, 3.0)
    params = tensors(graph)
    neurons = Neurons(graph, FINE, params, params, {}, {})
    peaks = [float(neurons(graph["cell"], torch.tensor([[12.0 * (t == 0)]]))[0]) for t in range(10)]
    assert max(peaks) == pytest.approx(15, rel=0.06)


# --- its limits


def test_nothing_goes_below_the_floor_and_inhibition_takes_no_charge_away() -> None:
    """The discrete neuron would need 2 * 60 weight steps to come back; the circuit stops charging and goes on."""
    graph = one(20.0)
    params = tensors(graph)
    neurons = Neurons(graph, FINE, params, params, {}, {})
    train = [float(neurons(graph["cell"], torch.tensor([[c]]))[1]) for c in [-60.0] * 2 + [0.0] * 8 + [15.0] * 10]
    assert sum(train[:10]) == 0
    assert sum(train[10:]) >= 6
    imem, _, _ = neurons._state["cell"]
    assert float(imem) >= FINE.io * (1 - 1e-6)
    charged_before = spikes(FINE, 20.0, [-60.0] * 2 + [0.0] * 4 + [8.0] * 2, u0=15.0)
    assert charged_before == [0] * 6 + [1, 0]


def test_the_synapse_saturates() -> None:
    low, high = ([60.0] * 30, [3e6] * 30)
    c = replace(FINE, saturation=20 * FINE.pulse)
    assert spikes(c, 50.0, low) == spikes(c, 50.0, high)
    assert sum(spikes(FINE, 50.0, low)) > 1.5 * sum(spikes(c, 50.0, low))


@pytest.mark.parametrize("alpha", [0.02, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("slower", [0.1, 1.0, 3.0])
def test_substeps_are_stable(alpha: float, slower: float) -> None:
    """The largest sub-step leaves currents finite, positive and below what the input can drive them to."""
    tau = FINE.tau(torch.tensor(alpha, dtype=torch.float64))
    h = FINE.dt / FINE.substeps(tau)
    assert h <= float(tau) / 10 * (1 + 1e-6)
    assert h <= FINE.t_ref * (1 + 1e-6)
    igain = FINE.gain * FINE.leak(tau)
    imem = torch.full((3,), 1e-8, dtype=torch.float64)
    iin = torch.tensor([0.0, FINE.io, 1e-6], dtype=torch.float64)
    for _ in range(2000):
        before, imem = imem, charged(FINE, imem, iin, igain, tau * slower, h)
        assert (imem > 0).all()
        assert (imem[:2] <= before[:2]).all(), "without input a current only falls"
    assert float(imem[2]) <= float(igain / FINE.leak(tau * slower) * 1e-6) * 1.001


def test_positive_feedback_speeds_up() -> None:
    quick = replace(FINE, feedback=1.0)
    assert sum(spikes(quick, 40.0, [3.0] * 30)) > sum(spikes(FINE, 40.0, [3.0] * 30))


@pytest.mark.parametrize("field", ["dt", "io", "tau_syn"])
def test_impossible_circuits(field: str) -> None:
    with pytest.raises(PipelineError, match=f"no circuit has {field}=0"):
        replace(FINE, **{field: 0.0})


# --- beside the discrete tier


def counted(net: str, circuit: Circuit | None, x: Array, mismatch: Mismatch) -> tuple[dict[str, Array], Array]:
    """Spike counts by layer, and the scores."""
    device = Device(place(exact(net)), 0, Model(mismatch, circuit=circuit))
    with torch.inference_mode(), exact_kernels():
        stepper = device.stepper({"x": to_tensor(x)}, 0)
        for _ in range(device.graph.steps):
            stepper.step()
        return {layer: c.numpy().ravel() for layer, c in stepper.count.items()}, device.outputs(
            stepper, {"x": to_tensor(x)}
        )[0]["y"].numpy()


@pytest.mark.parametrize("net", ["plain", "residual", "pooled"])
def test_the_tiers_agree_on_small_networks(net: str) -> None:
    x = images(60, seed=5)
    ours, scores = counted(net, FINE, x, Mismatch("none"))
    theirs, wanted = counted(net, None, x, Mismatch("none"))
    alike = {layer: float(np.corrcoef(count, theirs[layer])[0, 1]) for layer, count in ours.items()}
    assert alike["relu1"] > 0.97
    assert min(alike.values()) > 0.6, alike
    assert (scores.argmax(1) == wanted.argmax(1)).mean() > 0.6


def test_mismatch_reaches_the_circuits() -> None:
    x = images(10, seed=5)
    plain, _ = counted("plain", FINE, x, Mismatch("none"))
    for mismatch in (Mismatch("ltl", 0.3), Mismatch("measured"), Mismatch("rockpool")):
        other, _ = counted("plain", FINE, x, mismatch)
        assert any(not np.array_equal(other[layer], count) for layer, count in plain.items())


def test_refractory_mismatch_reaches_the_circuits() -> None:
    graph = one(20.0)
    params = tensors(graph)
    found = []
    for factor in (1.0, 30.0):
        neurons = Neurons(graph, FINE, params, params, {}, {"cell": torch.tensor([factor])})
        found.append(sum(float(neurons(graph["cell"], torch.tensor([[15.0]]))[1]) for _ in range(40)))
    assert found[1] < 0.6 * found[0]


def test_a_chip_of_circuits_runs_and_learns() -> None:
    target = DynapSim(tier="dpi", mismatch=0.3, learning="hardware")
    chip = target.compile(exact("plain")).load(1)
    assert isinstance(chip, DynapChip)
    x = images(20)
    first = chip.run(x)["y"]
    np.testing.assert_array_equal(chip.run(x)["y"], first)
    chip.calibrate(data("plain"))
    assert not np.array_equal(chip.run(x)["y"], first)
