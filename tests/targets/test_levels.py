"""Sums of base currents as synapses: placed exactly, learned in their order, refused where no chip holds them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snnc import data as files
from snnc import load
from snnc.errors import PipelineError, TargetError
from snnc.ir import Array, Constraint, Graph, Stage, roles, verify
from snnc.passes import QuantizeWeights
from snnc.passes.quantize_weights import settings
from snnc.pipeline import Context, Pipeline
from snnc.sim import reference
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.levels import currents, placeable
from snnc.targets.dynap_sim.place import place
from snnc.targets.dynap_sim.registers import Register
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
    """Large sums, a coarse grid: refused rather than rounded."""
    graph = network(bits=2)
    theta = roles(graph["lif2"], graph.params)["theta"]
    place(graph.edit(params={theta: np.asarray(2.0**15, np.float32)}))
    with pytest.raises(TargetError, match="its base currents are finer than 1/") as caught:
        place(graph.edit(params={theta: np.asarray(2.0**18, np.float32)}))
    assert caught.value.at == "two (dense)"


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


def test_a_register_counts_levels_in_their_order() -> None:
    placed = place(network())
    name = "two.weight"
    levels = placed.constraints[name].levels
    assert levels is not None
    nominal = torch.tensor(placed.params[name])
    for guard in (0, 7):
        register = Register(placed, name, nominal, guard)
        torch.testing.assert_close(register.nominal(), nominal, rtol=0, atol=0)
        one = torch.ones_like(register.stored)
        register.add(one * 2**guard, one * 2**guard)
        step = float(np.asarray(placed.constraints[name].scale).max())
        at = np.searchsorted(levels, (nominal / step).numpy())
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
