"""The layout of a compiled network: groups that can share a core, limits, files, energy by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import snnc
from snnc.artifact import Bundle, pack, unpack
from snnc.data import Data
from snnc.errors import ArtifactError, TargetError
from snnc.ir import Array, Constraint, Graph
from snnc.passes import QuantizeWeights
from snnc.passes.limit_biases import SWITCH
from snnc.pipeline import Context
from snnc.target import Artifact
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.energy import Expense
from snnc.targets.dynap_sim.layout import MAPPING, TRAFFIC, groups, laid_out
from snnc.targets.dynap_sim.mapping import Mapping, traffic
from snnc.targets.dynap_sim.mapping.mapping import map_neurons
from snnc.targets.dynap_sim.mapping.mesh import Mesh
from snnc.targets.dynap_sim.mapping.netlist import expected_spikes, netlist
from snnc.targets.dynap_sim.mismatch import sequential, sites_on
from snnc.targets.dynap_sim.place import counted
from tests.graphs import Builder

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
    mapping = Mapping.from_arrays(unpack(Bundle("artifact", made.files), MAPPING))
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
    found = groups(counted(shared), DynapSim().chip)
    assert found is not None
    mapping = Mapping.from_arrays(unpack(Bundle("artifact", DynapSim().lay_out(shared, data.train).files), MAPPING))
    for name, core in mapping.core.items():
        theta = np.broadcast_to(placed.params[f"{name}.theta"], core.shape)
        for one in np.unique(core):
            assert np.ptp(theta[core == one]) <= 1e-4 * theta.max()


CORES = replace(DynapSim().chip, neurons_per_core=4)
"""Eight neurons are two cores each."""


def eight(**options: object) -> Graph:
    """Eight neurons whose thresholds are the same in weight steps, with base currents."""
    rng = np.random.default_rng(3)
    b = Builder({"x": (12,)}, 4)
    b("fc", "dense", b("current", "encode", "x"), weight=rng.normal(size=(8, 12)), bias=np.ones(8), bias_at="per-step")
    graph = b.graph(b("count", "decode", b("lif", "lif", "fc")))
    made = QuantizeWeights(levels="base-currents", **options).run(graph, Context())  # type: ignore[arg-type]
    same = replace(made.constraints["fc.weight"], scale=np.ones((8, 1), np.float32))
    return made.edit(params={"fc.weight": same.project(graph.params["fc.weight"])}, constraints={"fc.weight": same})


def halves(graph: Graph) -> bool:
    """Whether the first four neurons may not share a core with the others."""
    (found,) = (groups(counted(graph), CORES) or {}).values()
    return len({*found[:4].tolist()}) == len({*found[4:].tolist()}) == 1 and found[0] != found[4]


def test_neurons_of_a_core_have_the_same_base_currents() -> None:
    assert halves(eight(per="core", core=4))
    assert not halves(eight(per="tensor"))


@pytest.mark.parametrize(("bits", "levels"), [(4, None), (1, SWITCH)])
def test_neurons_of_a_core_have_one_tonic_step_and_one_direct_current(bits: int, levels: Array | None) -> None:
    """Also those whose bit is off."""
    for step in ([0.5] * 4 + [0.75] * 4, [0.5] * 8):
        limit = Constraint(bits, np.array(step, np.float32), None, levels)
        on = limit.project(np.array(step) * np.tile([1, 0, 1, 1], 2))
        made = eight(per="tensor").edit(params={"fc.bias": on}, constraints={"fc.bias": limit})
        assert halves(made) == (step[0] != step[4])


def test_rounding_keeps_no_neurons_apart() -> None:
    """A step that differs by less than float32 adds up to is the same, whatever its size."""
    for size in (1e-3, 0.7, 300.0):
        step = np.array(np.float32(size) * (1 + 1e-7 * np.arange(8)), np.float32)
        limit = Constraint(4, step)
        made = eight(per="tensor").edit(params={"fc.bias": limit.project(step)}, constraints={"fc.bias": limit})
        assert not (groups(counted(made), CORES) or {})["lif"].any()


def test_a_layout_that_breaks_what_cores_share_says_so(
    shared: Graph, free: Graph, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neurons that differ everywhere have no groups; of those that could share cores none are mixed up unsaid."""
    x = data.train.take(20)

    def broken(graph: Graph) -> dict[str, float]:
        found = [f for f in laid_out(graph, DynapSim().chip, False, x).findings if not f.ok]
        assert all(f.layer == "" and f.source and f.note.startswith("as laid out: ") for f in found)
        assert all("; try " in f.note for f in found)
        return {f.limit: f.value for f in found}

    assert broken(shared) == {}
    laid_out(shared, DynapSim().chip, True, x)
    assert broken(free).keys() == {"thresholds per core", "direct currents per core"}
    with pytest.raises(TargetError, match="cores of the layout cannot share what they must") as caught:
        laid_out(free, DynapSim().chip, True, x)
    first, second = [problem.message for problem in caught.value.problems]
    assert re.match(r"thresholds per core \d+, the chip has 1: .* off by .*; try quantize-weights", first)
    assert re.match(r"direct currents per core \d+, the chip has 1: free analog biases, .*; try limit-biases", second)
    monkeypatch.setattr("snnc.targets.dynap_sim.layout.groups", lambda *_: None)
    assert broken(shared).keys() == {"thresholds per core", "tonic steps per core"}


def test_where_every_channel_differs_nothing_is_grouped(free: Graph) -> None:
    """22 channels of relu2 and more each have their threshold in weight steps: no core for each of them."""
    assert groups(counted(free), DynapSim().chip) is None
    assert groups(counted(free), DynapSim(profile="ideal").chip) is None


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


def with_mapping(artifact: Artifact, mapping: Mapping) -> Artifact:
    files = {**artifact.bundle.files, MAPPING: pack(mapping.arrays())}
    return replace(artifact, bundle=replace(artifact.bundle, files=files))


def test_a_chip_has_its_neurons_where_the_layout_puts_them(shared: Graph, data: Data) -> None:
    """A neuron takes the mismatch of its place along; without a layout cores are filled in order."""
    target = DynapSim(preset="measured")
    plain = target.compile(shared)
    made = Mapping.from_arrays(unpack(Bundle("artifact", target.lay_out(shared, data.train).files), MAPPING))
    turned = replace(made, core={name: (core + 3) % 8 for name, core in made.core.items()})
    turned = replace(turned, words=replace(made.words, source=made.words.source[:0], chip=made.words.chip[:0],
                     tag=made.words.tag[:0], start=made.words.start[:1], core=made.words.core[:0]))  # fmt: skip
    sites = [a.load(7).device.sites for a in (plain, with_mapping(plain, made), with_mapping(plain, turned))]
    for name, core in made.core.items():
        np.testing.assert_array_equal(sites[0][name] // 256, sequential(target.place(shared))[name] // 256)
        np.testing.assert_array_equal(sites[1][name] // 256, core)
        np.testing.assert_array_equal(sites[2][name] // 256, (core + 3) % 8)
    every = np.concatenate([array.reshape(-1) for array in sites[2].values()])
    assert len(np.unique(every)) == len(every)
    x = data.test.x()
    ours, theirs = (next(iter(with_mapping(plain, m).load(7).run(x).values())) for m in (made, turned))
    assert not np.array_equal(ours, theirs)


def test_a_layout_of_another_network_is_refused(shared: Graph, data: Data) -> None:
    made = Mapping.from_arrays(unpack(Bundle("artifact", DynapSim().lay_out(shared, data.train).files), MAPPING))
    other = replace(made, core={f"{name}.x": core for name, core in made.core.items()})
    with pytest.raises(ArtifactError, match="is of another network"):
        with_mapping(DynapSim().compile(shared), other).load(0)
    arrays = {name: array for name, array in made.arrays().items() if name != "chip"}
    broken = DynapSim().compile(shared)
    files = {**broken.bundle.files, MAPPING: pack(arrays)}
    with pytest.raises(ArtifactError, match="lacks chip"):
        replace(broken, bundle=replace(broken.bundle, files=files)).load(0)


def test_cores_of_more_neurons_than_an_array_have_several() -> None:
    found = sites_on({"a": np.zeros(300, np.int64), "b": np.ones((2, 5), np.int64)})
    assert found["a"].tolist() == list(range(300))
    assert found["b"].reshape(-1).tolist() == list(range(512, 522))
