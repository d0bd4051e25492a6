"""The layout of a compiled network: groups that can share a core, limits, files, energy by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import snnc
from snnc.artifact import unpack
from snnc.data import Data
from snnc.errors import TargetError
from snnc.ir import Graph
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.energy import Expense
from snnc.targets.dynap_sim.layout import MAPPING, TRAFFIC, groups, laid_out
from snnc.targets.dynap_sim.mapping import Mapping, traffic
from snnc.targets.dynap_sim.mapping.mapping import map_neurons
from snnc.targets.dynap_sim.mapping.mesh import Mesh
from snnc.targets.dynap_sim.mapping.netlist import expected_spikes, netlist

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = "fold-batchnorm,threshold-layernorm{steps=4},bias-per-step,limit-fan-in{k=63},"
SHARED = RECIPE + "quantize-weights{per=core},share-thresholds,limit-biases{method=tonic}"


@pytest.fixture(scope="module")
def data() -> Data:
    return snnc.data.load(EXAMPLES / "digits.npz", train_samples=200, test_samples=50)


@pytest.fixture(scope="module")
def shared(data: Data) -> Graph:
    """A network whose cores share what they must."""
    return snnc.Pipeline.parse(SHARED)(snnc.load(EXAMPLES / "digits_cnn.onnx"), data=data)[0]


@pytest.fixture(scope="module")
def free(data: Data) -> Graph:
    """A network with a weight step for every channel."""
    return snnc.Pipeline.parse(RECIPE + "quantize-weights")(snnc.load(EXAMPLES / "digits_cnn.onnx"), data=data)[0]


def test_what_lies_in_the_artifact_is_the_mapping(shared: Graph, data: Data) -> None:
    made = DynapSim().lay_out(shared, data.train)
    mapping = Mapping.from_arrays(unpack(snnc.artifact.Bundle("artifact", made.files), MAPPING))
    placed = DynapSim().place(shared)
    assert mapping.check(netlist(placed)) == []
    assert {name: core.shape for name, core in mapping.core.items()} == {
        n.name: n.type.shape for n in placed.nodes if n.op == "lif"
    }
    told = json.loads(made.files[TRAFFIC])
    assert told["chips"] == mapping.chips == 2
    assert [f.limit for f in made.findings] == ["destinations per neuron", "tags"]
    assert all(f.ok and f.source for f in made.findings)
    assert "2 virtual chips" in made.lines[0]
    assert made.files == DynapSim().lay_out(shared, data.train).files


def test_neurons_of_a_core_have_the_same_threshold(shared: Graph, data: Data) -> None:
    placed = DynapSim().place(shared)
    found = groups(placed, DynapSim().chip)
    assert found is not None
    mapping = Mapping.from_arrays(
        unpack(snnc.artifact.Bundle("artifact", DynapSim().lay_out(shared, data.train).files), MAPPING)
    )
    for name, core in mapping.core.items():
        theta = np.broadcast_to(placed.params[f"{name}.theta"], core.shape)
        for one in np.unique(core):
            assert np.ptp(theta[core == one]) <= 1e-4 * theta.max()


def test_where_every_channel_differs_nothing_is_grouped(free: Graph) -> None:
    """22 channels of relu2 and more each have their threshold in weight steps: no core for each of them."""
    assert groups(DynapSim().place(free), DynapSim().chip) is None
    assert groups(DynapSim().place(free), DynapSim(profile="ideal").chip) is None


def test_a_chip_with_few_tags_refuses_where_it_is_strict(shared: Graph, data: Data) -> None:
    chip = replace(DynapSim().chip, tag_bits=6)
    made = laid_out(shared, chip, False, data.train.take(20))
    assert not made.findings[1].ok
    assert any("too many" in line for line in made.lines)
    with pytest.raises(TargetError, match="cannot be laid out on the chips"):
        laid_out(shared, chip, True, data.train.take(20))


def test_energy_by_hand(shared: Graph, data: Data) -> None:
    placed, chip = DynapSim().place(shared), DynapSim().chip
    nets = netlist(placed, expected_spikes(placed, data.train.take(20)))
    found = traffic(nets, map_neurons(nets, Mesh()))
    made = Expense.of(found, chip, shared.steps)
    wanted = found.spikes * 1766e-12 + found.broadcasts * 6.84e-9 + found.hops * 360e-12 + found.matches * 324e-12
    assert math.isclose(made.energy, wanted, rel_tol=1e-12)
    assert made.latency == pytest.approx(4 * 2e-3)
    assert "unverified literature figures" in made.line(4)
    assert "static power excluded" in made.line(4)
    hot = replace(chip, energy=replace(chip.energy, static=1.0, verified=True))
    assert Expense.of(found, hot, 4).energy == pytest.approx(wanted + 8e-3)
    assert "unverified" not in Expense.of(found, hot, 4).line(4)
