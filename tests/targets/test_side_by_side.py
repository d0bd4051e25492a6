"""Devices side by side do what they do alone, bit for bit: running, learning, noise and all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from snnc.data import Data
from snnc.errors import ArtifactError, TargetError
from snnc.ir import Constraint, Graph, Node, Stage
from snnc.report import Ledger
from snnc.sim.torch import exact as exact_kernels
from snnc.sim.torch import forward, tensors, to_tensor
from snnc.target import Artifact
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.bench import CELLS, MOST, DynapBench, at_once
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.defects import DefectMap
from snnc.targets.dynap_sim.device import Device, Model, advance
from snnc.targets.dynap_sim.mismatch import Mismatch
from snnc.targets.dynap_sim.place import place
from snnc.targets.dynap_sim.side_by_side import Parts, side_by_side, tiled
from tests.targets.networks import data, exact, images
from tests.targets.wired import WIRED, samples

SEEDS = (3, 0, 8)
LISTED = DefectMap(((0, 0, 1, 0), (0, 0, 2, 3), (8, 0, 7, 1)))
"""One of the three devices has none."""


def few(whole: Data, count: int = 40) -> Data:
    return replace(whole, train=whole.train.take(count))


def same(bench: DynapBench, k: int, chip: DynapChip, given: Data) -> None:
    """Device k and the chip are in the same state, and answer alike."""
    alone = chip.settings.stored()
    among = bench.settings.stored(k)
    assert among.keys() == alone.keys()
    for name, array in alone.items():
        np.testing.assert_array_equal(among[name], array, err_msg=name)
    for (name, one), (_, other) in zip(chip.run(given.test).items(), bench.run(given.test)[k].items(), strict=True):
        np.testing.assert_array_equal(other, one, err_msg=name)
    assert bench.fired[k] == chip.fired


def learn_alike(artifact: Artifact, given: Data) -> None:
    """An epoch on a bench leaves every device as one alone does."""
    bench = artifact.bench(SEEDS)
    assert isinstance(bench, DynapBench)
    bench.learn(given.train)
    for k, seed in enumerate(SEEDS):
        chip = artifact.load(seed)
        assert isinstance(chip, DynapChip)
        chip.learn(given.train)
        same(bench, k, chip, given)


def values(ledger: Ledger) -> list[tuple[float | None, tuple[str, ...]]]:
    """All but the time it took."""
    return [(row.value, row.notes) for row in ledger.rows]


DEVICES: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"learning": "float", "mismatch": 0.4}),
    ("residual", {"learning": "float", "mismatch": 0.4}),
    ("pooled", {"learning": "float", "mismatch": 0.4}),
    ("plain", {"learning": "hardware", "mismatch": 0.4}),
    ("residual", {"learning": "hardware", "mismatch": 0.4}),
    ("pooled", {"learning": "hardware", "mismatch": 0.4}),
    ("plain", {"learning": "hardware", "thermal": 0.1, "silencing": 0.2, "silence": "step", "defects": 0.05}),
    ("residual", {"learning": "float", "preset": "measured", "silencing": 0.2, "defect_map": LISTED}),
    ("plain", {"learning": "hardware", "preset": "none", "defect_map": LISTED}),
    ("pooled", {"preset": "rockpool", "thermal": 0.1, "thermal_on": "membrane", "readout": "fixed"}),
    ("residual", {"mismatch": 0.3, "sharing": "shared"}),
]


def named(value: object) -> str:
    """A test's name."""
    if not isinstance(value, dict):
        return str(value)
    return ",".join(f"{key}={option}" for key, option in value.items() if key != "defect_map")


@pytest.mark.parametrize(("net", "options"), DEVICES, ids=named)
def test_a_device_among_others_is_the_device_alone(net: str, options: dict[str, Any]) -> None:
    given = few(data(net))
    artifact = DynapSim(**options).compile(exact(net))
    bench = artifact.bench(SEEDS)
    assert isinstance(bench, DynapBench)
    ledgers = bench.calibrate(given, epochs=2)
    states = []
    for k, seed in enumerate(SEEDS):
        chip = artifact.load(seed)
        assert isinstance(chip, DynapChip)
        assert values(chip.calibrate(given, epochs=2)) == values(ledgers[k])
        same(bench, k, chip, given)
        states.append(bench.settings.stored(k)["fc.weight"])
    assert not np.array_equal(states[0], states[1])


@pytest.mark.parametrize("net", WIRED)
def test_wiring_keeps_devices_apart(net: str) -> None:
    """Transposes, slices, pads, joins: along any axis."""
    given = few(samples(net), 30)
    recipe = DynapSim(epochs=1, mismatch=0.0)
    artifact = replace(recipe, mismatch=0.3, learning="hardware").compile(
        recipe.pipeline()(WIRED[net](), data=given)[0]
    )
    learn_alike(artifact, given)


@pytest.mark.parametrize("block", [1, 40, 700])
@pytest.mark.parametrize("learning", ["float", "hardware"])
def test_registers_computed_in_blocks_are_the_devices_own(
    learning: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a few rows, or of a device and a half."""
    monkeypatch.setattr("snnc.targets.dynap_sim.registers.BLOCK", block)
    given = few(data("plain"), 20)
    artifact = DynapSim(mismatch=0.4, learning=learning).compile(exact("plain"))  # type: ignore[arg-type]
    bench = artifact.bench(SEEDS)
    assert isinstance(bench, DynapBench)
    rows = {name: len(register.stored) // 3 for name, register in bench.block.registers.items()}
    for name, register in bench.block.registers.items():
        blocks = register._blocks()
        assert [i for some in blocks for i in range(some.start, some.stop)] == list(range(3 * rows[name]))
        assert all(s.start // rows[name] == (s.stop - 1) // rows[name] or not s.start % rows[name] for s in blocks)
    learn_alike(artifact, given)


def test_circuits_stand_side_by_side_too() -> None:
    artifact = DynapSim(tier="dpi", preset="measured", learning="hardware").compile(exact("plain"))
    learn_alike(artifact, few(data("plain"), 16))


@cache
def eventful() -> tuple[Artifact, Data]:
    given = few(samples("split"), 30)
    recipe = DynapSim(epochs=1, code="events", steps=4, jitter=1, learning="hardware")
    spread = np.random.default_rng(0)

    def streams(part: Any) -> Any:
        x = part.x()
        trains = spread.multinomial(1, [0.25] * 4, x.shape).astype(np.float32) * x[..., None]
        return replace(part, raw=np.moveaxis(trains, -1, 1))

    events = replace(given, train=streams(given.train), validation=streams(given.validation), test=streams(given.test))
    return recipe.compile(recipe.pipeline()(WIRED["split"](), data=events)[0]), events


def test_streams_of_events_jitter_device_by_device() -> None:
    artifact, given = eventful()
    learn_alike(artifact, given)


def test_a_single_sample_adds_up_as_many_do() -> None:
    """A product with one column takes another way through the libraries."""
    artifact = DynapSim(mismatch=0.4).compile(exact("plain"))
    x = images(1)
    among = artifact.bench(SEEDS).run(x)
    for k, seed in enumerate(SEEDS):
        np.testing.assert_array_equal(among[k]["y"], artifact.load(seed).run(x)["y"])


def test_monitored_potentials_are_the_devices_own() -> None:
    artifact = DynapSim(mismatch=0.4).compile(exact("plain"))
    bench = artifact.bench(SEEDS)
    assert isinstance(bench, DynapBench)
    where = [("relu1", 5)]
    for seed, made in zip(SEEDS, bench.run(images(4), monitor=where), strict=True):
        chip = artifact.load(seed)
        assert isinstance(chip, DynapChip)
        np.testing.assert_array_equal(made["relu1[5]"], chip.run(images(4), monitor=where)["relu1[5]"])


def test_a_device_is_programmed_alone() -> None:
    given = few(data("plain"))
    artifact = DynapSim(mismatch=0.4).compile(exact("plain"))
    bench = artifact.bench(SEEDS)
    assert isinstance(bench, DynapBench)
    start = [bench.settings.stored(k) for k in range(3)]
    bench.learn(given.train)
    learned = [bench.settings.stored(k) for k in range(3)]
    theta = np.asarray(bench.graph.params["relu1.theta"] * np.float32(1.5))
    bench.settings.program({**start[1], "relu1.theta": theta}, 1)
    for k in (0, 2):
        assert all(np.array_equal(bench.settings.stored(k)[name], array) for name, array in learned[k].items())
    assert all(np.array_equal(bench.settings.stored(1)[name], array) for name, array in start[1].items())
    np.testing.assert_array_equal(bench.settings.stored(1)["relu1.theta"], theta)
    with pytest.raises(ArtifactError, match=r"the state has no fitting 'fc\.weight'"):
        bench.settings.program({**start[1], "fc.weight": start[1]["fc.weight"][:-1]}, 1)


def test_a_bench_names_its_chips() -> None:
    artifact = DynapSim().compile(exact("plain"))
    told = {seeds: str(artifact.bench(seeds)) for seeds in [(4,), (2, 3, 4), (3, 0, 8)]}
    assert list(told.values()) == ["chip 4", "chips 2 to 4", "chips 3, 0, 8"]
    with pytest.raises(TargetError, match=r"there is no chip on the bench\n.*at least one seed"):
        artifact.bench([])
    with pytest.raises(TargetError, match="a chip's seed is a number from 0, not -2"):
        artifact.bench([0, -2])


def test_what_a_device_is_set_to_reaches_no_other() -> None:
    """Twice the weights of one device change its spikes, not its neighbours'."""
    made = Device(place(exact("residual")), SEEDS, Model(Mismatch(sigma=0.2)))
    x = {"x": to_tensor(np.concatenate([images(5)] * 3, 1))}

    def counts() -> list[torch.Tensor]:
        with torch.inference_mode(), exact_kernels():
            stepper = made.stepper(x, 0)
            list(advance(stepper, made.graph.steps, counting=True))
            return list(stepper.count["relu3"].chunk(3, 1))

    before = counts()
    made.nominal["fc.weight"].chunk(3)[1].mul_(2)
    after = counts()
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])


def test_a_network_is_cut_at_its_encoders_and_decoders() -> None:
    """`padded` has analog pre-processing, and a sigmoid behind."""
    placed = place(DynapSim(epochs=1).pipeline()(WIRED["padded"](), data=samples("padded"))[0])
    cut = Parts.of(placed)
    kinds = {part: {node.type.kind for node in graph.nodes} for part, graph in vars(cut).items()}
    assert kinds == {"before": {"analog"}, "chip": {"current", "spikes", "analog"}, "after": {"analog"}}
    assert {node.op for node in cut.chip.nodes if node.type.kind == "analog"} == {"decode"}
    assert sum(len(graph.nodes) for graph in vars(cut).values()) == len(placed.nodes)
    given = tensors(placed)
    x = {"x": to_tensor(samples("padded").test.x()[:3])}
    with torch.inference_mode(), exact_kernels():
        whole = forward(placed, given, x)
        values = forward(cut.before, given, x)
        values |= forward(cut.chip, given, {name: values[name] for name in cut.chip.inputs})
        made = forward(cut.after, given, {name: values[name] for name in cut.after.inputs})
    for name in placed.outputs.values():
        torch.testing.assert_close(made[name], whole[name])


def test_a_second_run_of_the_chip_is_refused() -> None:
    one = {"alpha": np.ones((), np.float32), "theta": np.ones((), np.float32), "u0": np.zeros((), np.float32)}
    nodes = [
        Node("first", "encode", ("x",), {"code": "direct"}),
        Node("lif1", "lif", ("first", *one), {"reset": "subtract"}),
        Node("read", "decode", ("lif1",)),
        Node("again", "encode", ("read",), {"code": "direct"}),
        Node("y", "decode", ("again",)),
    ]
    graph = Graph(exact("plain").inputs, (), {}, {}, Stage.SPIKING, 4).edit(nodes, params=one, outputs={"y": "y"})
    with pytest.raises(TargetError, match=r"encoded again: the chip runs once a sample\n\s*at: read"):
        Parts.of(graph)


def test_an_op_that_no_chip_has_is_refused() -> None:
    nodes = [
        Node("e", "encode", ("x",), {"code": "direct"}),
        Node("m", "mix", ("e", "w"), {"axis": 1}),
        Node("y", "decode", ("m",)),
    ]
    empty = Graph(exact("plain").inputs, (), {}, {}, Stage.CONSTRAINED, 4)
    graph = empty.edit(nodes, params={"w": np.ones((6, 6), np.float32)}, outputs={"y": "y"})
    with pytest.raises(TargetError, match="'mix' is not simulated on a chip"):
        side_by_side(graph, 2)


def test_constraints_of_rows_are_repeated_and_common_ones_are_not() -> None:
    param = np.zeros((2, 3), np.float32)
    rows = np.array([[1.0], [2.0]], np.float32)
    levels = np.array([[-1, 0, 1], [-2, 0, 2]], np.float32)
    own = tiled(Constraint(2, rows, np.array([[True, False, True]] * 2), levels), param, 2)
    np.testing.assert_array_equal(own.scale, [[1], [2], [1], [2]])
    np.testing.assert_array_equal(own.mask, [[True, False, True]] * 4)
    np.testing.assert_array_equal(own.levels, [*levels, *levels])
    common = tiled(Constraint(2, np.array(0.5, np.float32), None, np.array([-1, 1], np.float32)), param, 2)
    assert common.scale == np.float32(0.5)
    one_step = tiled(Constraint(2, np.full((1, 1), 0.5, np.float32)), param, 2)
    assert one_step.scale is not None
    assert one_step.scale.shape == (1, 1)
    np.testing.assert_array_equal(common.levels, [-1, 1])


def test_small_networks_stand_side_by_side_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = place(exact("plain"))
    cells = sum(param.size for param in placed.params.values())
    assert at_once(placed) == MOST["cpu"]
    monkeypatch.setitem(CELLS, "cpu", 2 * cells)
    assert at_once(placed) == 2
    monkeypatch.setitem(CELLS, "cpu", cells - 1)
    assert at_once(placed) == 1
    assert at_once(replace(placed, inputs={"x": replace(placed.inputs["x"], shape=())})) == 1
