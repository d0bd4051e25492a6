"""Sums of base currents as synapses: placed exactly, learned in their order, refused where no chip holds them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import snnc
from snnc import data as files
from snnc import load
from snnc.errors import PipelineError, TargetError
from snnc.ir import Array, Constraint, Graph, Stage, roles, verify
from snnc.passes import LimitBiases, QuantizeWeights
from snnc.passes.quantize_weights import settings
from snnc.pipeline import Context, Pipeline
from snnc.sim import reference
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.levels import currents, placeable
from snnc.targets.dynap_sim.mismatch import Mismatch, draw
from snnc.targets.dynap_sim.needs import fewest
from snnc.targets.dynap_sim.place import counted, place, tonic
from snnc.targets.dynap_sim.profile import load_profile
from snnc.targets.dynap_sim.registers import Register, pack
from snnc.targets.dynap_sim.unchain import unrolled
from snnc.train import Trainer
from tests.graphs import Builder, data_for

EXAMPLES = Path(__file__).parents[2] / "examples"


def network(options: str = "base", bits: int = 4, wide: int = 12) -> Graph:
    """A dense layer onto a dense layer; all but the weights are multiples of 1/16 of a weight step of 8."""
    rng = np.random.default_rng(5)
    b = Builder({"x": (wide,)}, 8)
    first = rng.normal(size=(10, wide)), rng.integers(-2, 3, 10) / 4
    b("one", "dense", b("current", "encode", "x"), weight=first[0], bias=first[1], bias_at="per-step")
    b("lif1", "lif", "one", theta=1.5)
    b("two", "dense", "lif1", weight=rng.normal(size=(9, 10)))
    b("lif2", "lif", "two", theta=2.25, u0=0.5)
    graph = b.graph(b("count", "decode", "lif2"))
    if options == "base":
        graph = QuantizeWeights(bits=bits, levels="base-currents", per="tensor").run(graph, Context())
    return exact(graph)


def exact(graph: Graph) -> Graph:
    """With steps of 1, so that all sums are exact in every executor."""
    made, params = {}, {}
    for name, constraint in graph.constraints.items():
        assert constraint.scale is not None
        made[name] = replace(constraint, scale=np.ones_like(constraint.scale))
        params[name] = made[name].project(graph.params[name] / constraint.scale)
    changed = graph.edit(params=params)
    changed = replace(changed, constraints=made, teacher=teacher(graph))
    verify(changed)
    return changed


def teacher(graph: Graph) -> Graph:
    """Any analog network with layers of the same names and sizes."""
    b, rng = Builder({name: kind.shape for name, kind in graph.inputs.items()}), np.random.default_rng(9)
    b("one", "dense", "x", weight=rng.normal(size=graph.params["one.weight"].shape))
    b("two", "dense", b("lif1", "relu", "one"), weight=rng.normal(size=graph.params["two.weight"].shape))
    return b.graph(b("lif2", "relu", "two"))


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_a_chip_holds_exactly_the_sums_of_the_graph(bits: int) -> None:
    graph = network(bits=bits)
    levels = graph.constraints["one.weight"].levels
    assert levels is not None
    assert len(currents(levels)) == bits
    x = np.asarray(np.random.default_rng(1).integers(-4, 9, (40, 12)) * 8, np.float32)
    record: dict[str, Array] = {}
    expected = reference.run(graph, {"x": x}, record)
    chip = DynapSim(profile="ideal").compile(graph).load(0)
    np.testing.assert_array_equal(chip.run(x)["out_count"], expected["out_count"])
    assert 0.1 < record["lif2"].mean() < 0.9
    placed = place(graph)
    there = graph.params["two.weight"] != 0
    ratio = placed.params["two.weight"][there] / graph.params["two.weight"][there]
    assert len(np.unique(ratio)) == 1, "one step for all: nothing was rounded"


def test_se2_takes_four_currents_with_a_step_for_the_network() -> None:
    target = DynapSim(mismatch=0.0)
    graph = network()
    found = {f.layer: f for f in target.findings(graph) if f.limit == "base currents per core"}
    assert {layer: (f.value, f.ok) for layer, f in found.items()} == {"lif1": (4, True), "lif2": (4, True)}
    target.place(graph)


def test_the_recipe_with_base_currents_lays_out_freely() -> None:
    """One step for a layer: what a core shares is the same for all cores of it, and neurons may go to any."""
    graph = load(EXAMPLES / "digits_cnn.onnx")
    data = files.load(EXAMPLES / "digits.npz", train_samples=150, test_samples=20)
    sent = {}
    for levels in ("symmetric", "base-currents"):
        target = DynapSim(levels=levels, mismatch=0.0, strict=True, reset="zero")  # type: ignore[arg-type]
        passes = [step for step in target.pipeline().passes if not isinstance(step, Trainer)]
        snn, _ = Pipeline(*passes)(graph, data=data)
        layout = target.lay_out(snn, data.train.take(50))
        sent[levels] = json.loads(layout.files["traffic.json"])["broadcasts"]
        assert all(finding.ok for finding in target.findings(snn) if "per chip" not in finding.limit)
    assert sent["base-currents"] < 0.75 * sent["symmetric"]


def test_a_recipe_with_base_currents_is_refused_where_there_are_none() -> None:
    with pytest.raises(PipelineError, match="'se1' has no base currents") as caught:
        DynapSim(profile="se1", levels="base-currents").pipeline()
    assert caught.value.hint == "levels=symmetric"


def test_words_that_repeat_one_current_hold_no_sums() -> None:
    with pytest.raises(TargetError, match="repeat one current") as caught:
        DynapSim(profile="se1").place(network())
    assert caught.value.problems[0].at == "one (dense)"
    assert caught.value.problems[0].hint == "quantize-weights{levels=symmetric}"


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ([-64, -32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 64], "nor sums of 4 currents (but of 7)"),
        ([-0.7, 0, 0.7], "nor on a grid of 1/1024 step"),
        ([-1.5, 0, 1.5, 2], "nor the same for both signs"),
    ],
)
def test_levels_that_no_synapse_holds(levels: list[float], why: str) -> None:
    graph = network("none")
    grid = np.array(levels, np.float32)
    constraint = Constraint(4, np.ones((1, 1), np.float32), None, grid)
    both = {f"{name}.weight": constraint for name in ("one", "two")}
    weights = {name: constraint.project(graph.params[name]) for name in both}
    made = graph.edit(params=weights, constraints=both, stage=Stage.CONSTRAINED)
    with pytest.raises(TargetError, match="weights that no synapse holds") as caught:
        place(made)
    assert why in caught.value.problems[0].message
    assert caught.value.problems[0].at == "one (dense)"


def test_currents_finer_than_sums_leave_room_for() -> None:
    """Large sums, a coarse grid: each current is rounded to it, and its sums are sums of what it became."""
    graph = network(bits=3)
    theta = roles(graph["lif2"], graph.params)["theta"]
    exact = place(graph.edit(params={theta: np.asarray(2.0**15, np.float32)}))
    coarse = place(graph.edit(params={theta: np.asarray(2.0**17, np.float32)}))
    before, after = (made.constraints["two.weight"].levels for made in (exact, coarse))
    assert before is not None
    assert after is not None
    assert len(currents(after)) == len(currents(before)) == 3
    np.testing.assert_array_equal(np.rint(after * 16), after * 16)
    np.testing.assert_allclose(after, before, atol=3 / 32)
    assert not np.array_equal(after, before)
    limit, weight = coarse.constraints["two.weight"], coarse.params["two.weight"]
    np.testing.assert_array_equal(limit.project(weight), weight)
    np.testing.assert_allclose(weight, exact.params["two.weight"], atol=3 / 32)


def two_layers(per: str) -> tuple[Graph, Graph]:
    """Two layers of weights of different sizes whose currents meet at the same neurons: quantized, and placed."""
    b, rng = Builder({"x": (12,)}, 4), np.random.default_rng(4)
    b("now", "encode", "x")
    for name, size in (("one", 1.0), ("two", 0.3)):
        b(name, "dense", "now", weight=np.asarray(size * rng.normal(size=(8, 12)), np.float32))
    b("lif1", "lif", b("sum", "add", "one", "two"), theta=2.0, u0=1.0)
    b("count", "decode", "lif1")
    options = {"core": 4} if per == "core" else {}
    made = QuantizeWeights(levels="base-currents", per=per, **options).run(b.graph("count"), Context())  # type: ignore[arg-type]
    return made, place(made)


def test_layers_that_meet_at_the_same_neurons_have_one_set_of_currents() -> None:
    made, placed = two_layers("tensor")
    assert np.array_equal(made.constraints["one.weight"].levels, made.constraints["two.weight"].levels)
    step = made.constraints["one.weight"].scale
    assert step is not None
    ratio = placed.params["two.weight"] / np.where(made.params["two.weight"] == 0, 1, made.params["two.weight"])
    np.testing.assert_allclose(ratio[ratio != 0], ratio.max(), rtol=1e-6, err_msg="nothing was rounded")
    found = {f.limit: f for f in DynapSim().findings(made)}
    assert (found["base currents per core"].value, found["base currents per core"].ok) == (4, True)


def test_currents_of_layers_that_meet_with_sets_of_their_own() -> None:
    """One of them sets what the neurons count in; the other's currents are rounded to the grid, and stay four."""
    made, placed = two_layers("core")
    unit = placed.params["one.weight"] / np.where(made.params["one.weight"] == 0, 1, made.params["one.weight"])
    step = unit.max(axis=1, keepdims=True)
    for name in ("one.weight", "two.weight"):
        limit = placed.constraints[name]
        assert limit.levels is not None
        assert {len(currents(own)) for own in np.atleast_2d(limit.levels)} == {4}
        np.testing.assert_array_equal(limit.project(placed.params[name]), placed.params[name])
        np.testing.assert_allclose(placed.params[name], made.params[name] * step, atol=4 / 2048 + 1e-5)


def test_integers_need_no_set() -> None:
    graph = network()
    grid = Constraint(4, np.ones((1, 1), np.float32), None, np.array([-4, -2, 0, 2, 4], np.float32))
    both = dict.fromkeys(graph.constraints, grid)
    made = graph.edit(params={name: grid.project(graph.params[name]) for name in both}, constraints=both)
    assert all(constraint.levels is None for constraint in placeable(made).constraints.values())


def test_currents_of_which_all_levels_are_sums() -> None:
    sums = np.array([0, 1, 2.5, 3.5, 7, 8, 9.5, 10.5], np.float32)
    assert currents(sums) == [1, 2.5, 7]


@pytest.mark.parametrize("wanted", [[64.2, 127.9, 192.4, 255], [1, 2, 3, 255], [0.2, 0.3, 85, 255]])
def test_settings_make_different_sums(wanted: list[float]) -> None:
    found = settings(np.array(wanted))
    sums = (np.arange(16)[:, None] >> np.arange(4) & 1) @ found
    assert len(np.unique(sums)) == 16
    assert (found >= 1).all()
    assert found[-1] == 255
    assert np.abs(found - np.array(wanted)).max() <= 3


def one_level_up(placed: Graph, name: str, guard: int) -> Register:
    """A register that stands for what the graph has, and was then written by one level everywhere."""
    nominal = torch.tensor(placed.params[name])
    register = Register(placed, name, nominal, guard)
    torch.testing.assert_close(register.nominal(), nominal, rtol=0, atol=0)
    writes = torch.full(register.stored.shape, 2.0**guard)
    register.add(pack(writes, writes))
    return register


def test_a_register_counts_levels_in_their_order() -> None:
    placed = place(network())
    name = "two.weight"
    levels = placed.constraints[name].levels
    assert levels is not None
    for guard in (0, 7):
        register = one_level_up(placed, name, guard)
        step = float(np.asarray(placed.constraints[name].scale).max())
        at = np.searchsorted(levels, placed.params[name] / np.float32(step))
        wanted = levels[np.minimum(at + 1, len(levels) - 1)] * step
        np.testing.assert_array_equal(register.nominal().numpy(), wanted)


def test_a_chip_learns_with_base_currents() -> None:
    graph = network()
    rng = np.random.default_rng(0)
    data = data_for(graph, x=np.asarray(rng.integers(-4, 9, (40, 12)), np.float32))
    for learning in ("float", "hardware"):
        chip = DynapSim(mismatch=0.2, learning=learning, rate=0.3, width=4.0, warm_up=0.0).compile(graph).load(3)  # type: ignore[arg-type]
        before = chip.device.nominal["two.weight"].clone()  # type: ignore[attr-defined]
        levels = place(graph).constraints["two.weight"].levels
        chip.learn(data.train)  # type: ignore[attr-defined]
        after = chip.device.nominal["two.weight"]  # type: ignore[attr-defined]
        assert (after != before).any()
        assert set(after.flatten().tolist()) <= set((levels * 1.0).tolist())  # type: ignore[operator]


# --- currents of its own for every core


CORES = replace(load_profile("se2"), neurons_per_core=4)
"""Ten and nine neurons are three cores each."""


def of_cores() -> Graph:
    """The network with base currents for every four neurons."""
    made = QuantizeWeights(levels="base-currents", per="core", core=4).run(network("none"), Context())
    return exact(made)


def test_every_core_has_its_four_currents() -> None:
    graph = of_cores()
    counted = placeable(graph).constraints.values()
    sets = [np.unique(constraint.levels, axis=0) for constraint in counted if constraint.levels is not None]
    assert [len(own) for own in sets] == [3, 3]
    different = [len({current for row in own for current in currents(row)}) for own in sets]
    assert min(different) >= 10
    for chip, most in ((CORES, [4, 4]), (load_profile("se2"), different)):
        found = [f for f in DynapSim(profile=chip).findings(graph) if f.limit == "base currents per core"]
        assert [(f.value, f.allowed) for f in found] == [(value, 4) for value in most]


def test_a_chip_holds_exactly_the_sums_of_every_core() -> None:
    graph = of_cores()
    x = np.asarray(np.random.default_rng(1).integers(-4, 9, (40, 12)) * 8, np.float32)
    record: dict[str, Array] = {}
    expected = reference.run(graph, {"x": x}, record)
    assert 0.1 < record["lif2"].mean() < 0.9
    for profile in ("ideal", CORES):
        chip = DynapSim(profile=profile, mismatch=0.0).compile(graph).load(0)
        np.testing.assert_array_equal(chip.run(x)["out_count"], expected["out_count"])
    placed = place(graph)
    for row in range(9):
        there = graph.params["two.weight"][row] != 0
        ratio = placed.params["two.weight"][row][there] / graph.params["two.weight"][row][there]
        assert len(np.unique(ratio)) == 1, "one step for the row: nothing was rounded"


@pytest.mark.parametrize("block", [1, 2**17])
def test_a_register_counts_the_levels_of_its_row(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether rows are computed all at once or one by one."""
    monkeypatch.setattr("snnc.targets.dynap_sim.registers.BLOCK", block)
    placed = place(of_cores())
    name = "two.weight"
    levels, step = placed.constraints[name].levels, placed.constraints[name].scale
    assert levels is not None
    assert step is not None
    for guard in (0, 7):
        register = one_level_up(placed, name, guard)
        for row, made in enumerate(register.nominal().numpy()):
            at = np.searchsorted(levels[row], placed.params[name][row] / step[row])
            np.testing.assert_array_equal(made, levels[row][np.minimum(at + 1, 30)] * step[row])
        before, apart = register.stored.clone(), torch.tensor(levels[:, -1:] / 15 * step)
        register.write(apart * (1 - 2 * (before > 0).float()), [torch.Generator().manual_seed(0)])
        assert int(((register.stored - before).abs() - 2**guard).abs().max()) <= 1, "one level in the mean"
        register.write(torch.full(register.stored.shape, 1e9), [torch.Generator().manual_seed(0)])
        np.testing.assert_array_equal(register.nominal().numpy(), levels[:, -1:] * step * np.ones((1, 10)))


@pytest.mark.parametrize("learning", ["float", "hardware"])
def test_a_chip_learns_with_the_currents_of_its_cores(learning: str, tmp_path: Path) -> None:
    """Also behind an artifact that was written and opened again; what was learned can be loaded too."""
    graph = of_cores()
    data = data_for(graph, x=np.asarray(np.random.default_rng(0).integers(-4, 9, (40, 12)), np.float32))
    target = DynapSim(profile=CORES, learning=learning, rate=0.3, width=4.0, warm_up=0.0)  # type: ignore[arg-type]
    target.compile(graph).bundle.write(tmp_path / "made")
    artifact = snnc.open(tmp_path / "made")
    again = artifact.graph.constraints["two.weight"].levels
    np.testing.assert_array_equal(again, graph.constraints["two.weight"].levels)
    chip = artifact.load(3)
    before = chip.device.nominal["two.weight"].clone()  # type: ignore[attr-defined]
    chip.learn(data.train)  # type: ignore[attr-defined]
    after = chip.device.nominal["two.weight"]  # type: ignore[attr-defined]
    assert (after != before).any()
    constraint = place(graph).constraints["two.weight"]
    np.testing.assert_array_equal(constraint.project(after.numpy()), after.numpy())
    chip.calibrate(data)
    twin = artifact.load(3, chip.state())
    np.testing.assert_array_equal(twin.run(data.test.x())["out_count"], chip.run(data.test.x())["out_count"])


def test_a_kernel_of_its_own_at_every_position_keeps_the_currents_of_its_channel() -> None:
    """Placing unrolls it, and takes the gain of a channel and the bias of a neuron that stood behind it."""
    rng = np.random.default_rng(2)
    b = Builder({"x": (2, 4, 4)}, 6)
    b("conv1", "conv", b("current", "encode", "x"), weight=rng.normal(size=(6, 2, 3, 3)), pads=(1, 1, 1, 1))
    bias = rng.integers(-4, 5, (6, 4, 4)) / 2
    factor = np.array([1, -2, 0.5, 1, -1, 4])
    b("scale1", "scale", "conv1", factor=factor, bias=bias, bias_at="per-step")
    graph = b.graph(b("count", "decode", b("lif1", "lif", "scale1", theta=3.5)))
    made = QuantizeWeights(levels="base-currents", per="core", core=32).run(graph, Context())
    made = replace(made, constraints={name: c for name, c in made.constraints.items() if name == "conv1.weight"})
    made = made.edit(params={"scale1.factor": np.asarray(factor, np.float32)})
    ones = replace(made.constraints["conv1.weight"], scale=np.ones((6, 1, 1, 1), np.float32))
    weight = ones.project(graph.params["conv1.weight"] * 2)
    made = made.edit(params={"conv1.weight": weight}, constraints={"conv1.weight": ones})
    placed = place(made)
    (name,) = [name for name in placed.params if name.endswith(".weight")]
    assert placed.params[name].ndim == 6
    levels = placed.constraints[name].levels
    assert levels is not None
    assert len(np.unique(levels, axis=0)) == 3
    x = {"x": np.asarray(rng.integers(-4, 9, (20, 2, 4, 4)), np.float32)}
    np.testing.assert_array_equal(reference.run(placed, x)["out_count"], reference.run(made, x)["out_count"])


# --- tonic synapses: masks over the same currents


def with_tonic(graph: Graph, core: int = 4, step: float | None = None) -> Graph:
    """Biases of both layers as tonic synapses; with a step of `step`, which sums then are exact with."""
    two, bias = graph["two"], np.random.default_rng(8).normal(size=9)
    biased = replace(two, inputs=(*two.inputs, "two.bias"), attrs={**two.attrs, "bias_at": "per-step"})
    nodes = [biased if node is two else node for node in graph.nodes]
    free = graph.edit(nodes, params={"two.bias": np.asarray(bias, np.float32)})
    made = LimitBiases("tonic", core=core).run(free, Context())
    if step is None:
        return made
    limits = {n: made.constraints[n] for n in ("one.bias", "two.bias")}
    limits = {n: replace(limit, scale=np.full_like(np.asarray(limit.scale), step)) for n, limit in limits.items()}
    return made.edit(params={n: limit.project(free.params[n]) for n, limit in limits.items()}, constraints=limits)


@pytest.mark.parametrize("currents_of", ["layer", "core"])
def test_tonic_synapses_are_on_the_chip_what_they_are_in_the_graph(currents_of: str) -> None:
    """With a step of a power of two all sums are exact on both sides; with any step, on the placed side."""
    base = network() if currents_of == "layer" else of_cores()
    target = DynapSim(profile=CORES, mismatch=0.0)
    x = np.asarray(np.random.default_rng(1).integers(-4, 9, (40, 12)) * 8, np.float32)
    for step in (0.25, None):
        graph = with_tonic(base, step=step)
        verify(graph)
        placed = target.place(graph)
        for name in ("one.bias", "two.bias"):
            assert tonic(graph, name)
            assert tonic(placed, name)
            assert len(np.unique(np.abs(graph.params[name]))) > 2
            bias, limit = placed.params[name], placed.constraints[name]
            np.testing.assert_array_equal(bias * 1024, np.rint(bias * 1024), err_msg="on the chip's grid")
            units = placed_units(graph, name)
            np.testing.assert_allclose(bias, graph.params[name] / units, atol=0.5 / 1024)
            sums, given = np.atleast_2d(np.asarray(limit.levels)), graph.constraints[name]
            wanted = np.atleast_2d(np.asarray(given.levels)) * (np.asarray(given.scale) / units)[:, None]
            np.testing.assert_allclose(sums, wanted, atol=0.5 / 1024, err_msg="level by level")
        record: dict[str, Array] = {}
        expected = reference.run(placed, {"x": x}, record)["out_count"]
        assert 0.1 < record["lif2"].mean() < 0.9
        np.testing.assert_array_equal(target.compile(graph).load(0).run(x)["out_count"], expected)
        if step is not None:
            np.testing.assert_array_equal(reference.run(graph, {"x": x})["out_count"], expected)


def placed_units(graph: Graph, bias: str) -> Array:
    """The weight steps, as the chip counts them, of the neurons of a bias."""
    found = {f"{node.name}.bias": layer.units(node) for layer in counted(graph) for node in layer.synapses}
    return np.asarray(found[bias])


def test_tonic_synapses_need_no_current_of_their_own() -> None:
    """The same masks, for nothing; integers on arbitrary currents are told; so are two steps in a core."""

    def found(graph: Graph, limit: str) -> list[float]:
        return [f.value for f in DynapSim(profile=CORES).findings(graph) if f.limit == f"{limit} per core"]

    for base in (network(), of_cores()):
        graph = with_tonic(base)
        assert (found(graph, "base currents"), found(graph, "tonic steps")) == ([4, 4], [1, 1])
        whole = {n: Constraint(4, np.full(len(graph.params[n]), 0.25, np.float32)) for n in ("one.bias", "two.bias")}
        integers = graph.edit(params={n: c.project(graph.params[n]) for n, c in whole.items()}, constraints=whole)
        assert min(found(integers, "base currents")) > 4
        assert found(with_tonic(base, core=2), "tonic steps") == [2, 2]
    assert found(with_tonic(exact(QuantizeWeights().run(network("none"), Context()))), "base currents") == [3, 3]


def test_currents_that_a_gain_makes_of_others() -> None:
    sizes = np.array([1, 2.5, 7])
    for tonic_ones, more in (([1, 2.5, 7], 0), ([2, 5], 0), ([2, 14], 0), ([1, 2], 1), ([1, 2, 4], 2), ([], 0)):
        assert fewest(sizes, np.array(tonic_ones, float)) == 3 + more, tonic_ones


@pytest.mark.parametrize("learning", ["float", "hardware"])
def test_tonic_synapses_are_learned_as_sums(learning: str, tmp_path: Path) -> None:
    """Also behind an artifact that was written and opened again."""
    graph = with_tonic(of_cores())
    data = data_for(graph, x=np.asarray(np.random.default_rng(0).integers(-4, 9, (40, 12)), np.float32))
    target = DynapSim(profile=CORES, learning=learning, rate=0.3, width=4.0, warm_up=0.0)  # type: ignore[arg-type]
    target.compile(graph).bundle.write(tmp_path / "made")
    artifact = snnc.open(tmp_path / "made")
    again = artifact.graph.constraints["two.bias"].levels
    np.testing.assert_array_equal(again, graph.constraints["two.bias"].levels)
    chip = artifact.load(3)
    before = {name: chip.device.nominal[name].clone() for name in ("one.bias", "two.bias")}  # type: ignore[attr-defined]
    chip.learn(data.train)  # type: ignore[attr-defined]
    moved = 0
    for name, was in before.items():
        after, constraint = chip.device.nominal[name], place(graph).constraints[name]  # type: ignore[attr-defined]
        moved += int((after != was).sum())
        np.testing.assert_array_equal(constraint.project(after.numpy()), after.numpy())
    assert moved
    twin = artifact.load(3, chip.state())
    np.testing.assert_array_equal(twin.run(data.test.x())["out_count"], chip.run(data.test.x())["out_count"])


def test_tonic_synapses_have_the_mismatch_of_synapses() -> None:
    placed = place(with_tonic(of_cores()))
    factors = draw(placed, 1, Mismatch("buchel", 0.2), {}).weight
    assert {"one.bias", "two.bias"} <= set(factors)


def test_every_position_of_a_channel_has_the_sums_of_its_tonic_synapse() -> None:
    rng = np.random.default_rng(2)
    b = Builder({"x": (2, 4, 4)}, 6)
    bias = rng.normal(size=6)
    window = {"pads": (1, 1, 1, 1)}
    b(
        "conv",
        "conv",
        b("current", "encode", "x"),
        weight=rng.normal(size=(6, 2, 3, 3)),
        bias=bias,
        bias_at="per-step",
        **window,
    )  # type: ignore[arg-type]
    graph = b.graph(b("count", "decode", b("lif", "lif", "conv", theta=3.5)))
    graph = QuantizeWeights(levels="base-currents", per="core", core=32).run(graph, Context())
    graph = LimitBiases("tonic", core=32).run(graph, Context())
    placed = place(graph)
    made, limit = placed.params["conv.bias"], placed.constraints["conv.bias"]
    assert made.shape == (6, 4, 4)
    assert (made == made[:, :1, :1]).all()
    np.testing.assert_array_equal(limit.project(made), made)
    register = Register(placed, "conv.bias", torch.tensor(made), 7)
    np.testing.assert_array_equal(register.nominal().numpy(), made)
    register.write(torch.full(made.shape, 1e9), [torch.Generator().manual_seed(0)])
    assert limit.levels is not None
    np.testing.assert_array_equal(register.nominal().numpy(), limit.levels[:, -1:, None] * np.ones((1, 4, 4)))
    nodes = [replace(node, op="local") if node.name == "conv" else node for node in graph.nodes]
    weight, steps = graph.constraints["conv.weight"], graph.constraints["conv.bias"]
    apart = np.asarray(steps.scale)[:, None, None] * np.linspace(1, 2, 16, dtype=np.float32).reshape(1, 4, 4)
    wide = replace(steps, scale=np.asarray(apart, np.float32))
    kernel = unrolled(graph.params["conv.weight"], (6, 4, 4))
    odd = graph.edit(
        nodes,
        params={"conv.weight": kernel, "conv.bias": wide.project(np.array(np.broadcast_to(made, (6, 4, 4))))},
        constraints={
            "conv.bias": wide,
            "conv.weight": replace(weight, scale=np.asarray(weight.scale)[..., None, None]),
        },
    )
    with pytest.raises(TargetError, match="tonic synapses of one channel have steps that differ") as caught:
        place(odd)
    assert caught.value.at == "conv (local)"
    assert caught.value.hint == "limit-biases{method=tonic}"


def test_sums_below_the_grid_of_the_chip_keep_their_largest() -> None:
    graph = with_tonic(network(), step=1e-6)
    placed = place(graph)
    levels = placed.constraints["one.bias"].levels
    assert levels is not None
    np.testing.assert_array_equal(np.abs(levels[:, [0, -1]]), 1 / 1024)
    assert not levels[:, 1:-1].any()
    verify(placed)


def test_recipes_of_cores_fit_a_strict_chip() -> None:
    """Each core of the digits example, filled in order, has four currents, one threshold and tonic biases."""
    graph = load(EXAMPLES / "digits_cnn.onnx")
    data = files.load(EXAMPLES / "digits.npz", train_samples=150, test_samples=20)
    target = DynapSim(levels="base-currents", mismatch=0.0, strict=True, reset="zero")
    passes = [step for step in target.pipeline().passes if not isinstance(step, Trainer)]
    passes = [replace(step, per="core") if isinstance(step, QuantizeWeights) else step for step in passes]
    snn, _ = Pipeline(*passes)(graph, data=data)
    found = target.findings(snn)
    assert [(f.value, f.allowed) for f in found if f.limit == "base currents per core"] == [(4, 4)] * 4
    assert all(f.ok for f in found if "per chip" not in f.limit)
    assert spikes_of_chip(target, snn, data.test.x()) == spikes(target.place(snn), data.test.x())


def spikes(placed: Graph, x: Array) -> dict[str, list[int]]:
    """How often every neuron fired, by layer, in the reference executor."""
    record: dict[str, Array] = {}
    reference.run(placed, {"image": x}, record)
    layers = [node.name for node in placed.nodes if node.op == "lif"]
    return {name: record[name].sum(axis=0).astype(int).reshape(-1).tolist() for name in layers}


def spikes_of_chip(target: DynapSim, graph: Graph, x: Array) -> dict[str, list[int]]:
    """The same on the device number 0."""
    chip = target.compile(graph).load(0)
    stepper = chip.device.stepper({"image": torch.tensor(x)}, 0)  # type: ignore[attr-defined]
    for _ in range(graph.steps):
        stepper.step()
    return {name: count.int().flatten().tolist() for name, count in stepper.count.items()}
