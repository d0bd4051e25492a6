"""Words that listen to dead neurons are given to living ones: which, what they are set to, and what stays with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnc import data as datasets
from snnc import load, spec
from snnc.artifact import Bundle, canonical, pack, unpack
from snnc.data import Data
from snnc.errors import ArtifactError, PipelineError, TargetError
from snnc.ir import Array
from snnc.pipeline import Pipeline, single
from snnc.sim.pursuit import pursue
from snnc.sim.torch import to_tensor
from snnc.target import Artifact
from snnc.targets import DynapSim
from snnc.targets.dynap_sim import DynapChip, bench
from snnc.targets.dynap_sim.mapping.netlist import netlist
from snnc.targets.dynap_sim.mismatch import GRID
from snnc.targets.dynap_sim.repairs import InTheLoop, NoiseAware, OnChip, Rewire
from snnc.targets.dynap_sim.repairs.contract import WRITE_BYTES
from snnc.targets.dynap_sim.repairs.observe import Observer
from snnc.targets.dynap_sim.rewiring import Moved
from snnc.targets.dynap_sim.settings import Settings
from snnc.train.targets import Targets
from tests.targets.networks import RECIPE, constrained, data, images
from tests.targets.wired import WIRED
from tests.targets.wired import samples as wired_samples

EXAMPLES = Path(__file__).parents[2] / "examples"
NET, NARROW = "plain", RECIPE.replace("k=20", "k=8")
WEIGHTS = {"conv2.weight": "relu1", "fc.weight": "relu2"}
"""Those with words to give away, and what they listen to."""


@cache
def artifact(options: str = "mismatch=0.3 silencing=0.4") -> Artifact:
    target = spec.from_spec(f"dynap-sim{{{options}}}", {"dynap-sim": DynapSim})
    return target.compile(constrained(NET, NARROW))


def chip(options: str = "mismatch=0.3 silencing=0.4", seed: int = 1) -> DynapChip:
    made = artifact(options).load(seed)
    assert isinstance(made, DynapChip)
    return made


def narrow() -> DynapChip:
    """One whose dense layer alone has fewer words than neurons to listen to."""
    made = DynapSim(silencing=0.4, mismatch=0).compile(constrained(NET)).load(1)
    assert isinstance(made, DynapChip)
    return made


def samples() -> Data:
    return data(NET, 400)


def connected(of: DynapChip) -> dict[str, Array]:
    return {name: of.block.registers[name].connected() for name in WEIGHTS}


def rewired(of: DynapChip) -> DynapChip:
    return Rewire(samples=1000).repair(of, samples()).chip


def windows(name: str, sent: Array) -> Array:
    """What every connection of a weight would read of what its sources have, 0 at pads, in its shape."""
    if name == "fc.weight":
        return np.broadcast_to(sent.reshape(-1), (10, 36))
    padded = np.pad(sent, ((0, 0), (1, 1), (1, 1)))
    own = [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for j in range(3)] for i in range(3)]
    return np.stack([np.stack([np.stack([w[o // 2 * 2 :][:2] for w in row]) for row in own]) for o in range(4)])


def heard(of: DynapChip) -> dict[str, Array]:
    """By weight: spikes of what every connection would listen to, in its shape."""
    counts = Observer(of, samples().train.score)(to_tensor(samples().train.x()), 0).counts
    return {name: windows(name, np.asarray(counts[layer].sum(0))) for name, layer in WEIGHTS.items()}


def arriving(of: DynapChip) -> dict[str, Array]:
    """By weight: whether anybody listens to the source of a connection; all of them are on one core."""
    found = {}
    for name, layer in WEIGHTS.items():
        shape = of.graph[layer].type.shape
        number = windows(name, 1 + np.arange(math.prod(shape)).reshape(shape))
        found[name] = np.isin(number, number[connected(of)[name]]) & (number > 0)
    return found


def test_every_neuron_keeps_its_number_of_words_and_none_listens_to_the_silent() -> None:
    before, made = connected(chip()), rewired(chip())
    after, spikes, arrives = connected(made), heard(made), arriving(chip())
    for name in WEIGHTS:
        axes = (1,) if name == "fc.weight" else (3, 4, 5)
        silent = spikes[name] == 0
        np.testing.assert_array_equal(before[name].sum(axes), after[name].sum(axes))
        come, gone = after[name] & ~before[name], before[name] & ~after[name]
        assert come.sum() > 10
        assert not silent[come].any()
        assert silent[gone].all()
        assert arrives[name][come].all()
        left = (after[name] & silent).sum(axes)
        others = (~after[name] & ~silent & arrives[name]).sum(axes)
        assert ((left == 0) | (others == 0)).all(), "a word listens to the silent, and there is something to hear"
        assert not made.device.nominal[name].numpy()[gone].any()


def test_a_second_time_there_is_nothing_to_do() -> None:
    made = rewired(chip())
    state = made.state().digest
    again = Rewire(samples=1000).repair(made, samples())
    assert again.traffic.writes == again.traffic.sent == 0
    assert made.state().digest == state


@pytest.mark.parametrize("net", ["residual", "pooled"])
@pytest.mark.parametrize(
    "options", ["preset=measured defects=0.2", "mismatch=0.2 tier=dpi", "mismatch=0.2 learning=hardware"]
)
def test_shortcuts_pools_circuits_and_measured_devices_are_rewired(net: str, options: str) -> None:
    """Words are kept, nothing is left to do, and the state holds it all."""
    target = spec.from_spec(f"dynap-sim{{{options} silencing=0.4}}", {"dynap-sim": DynapSim})
    programmed, given = target.compile(constrained(net, NARROW)), data(net, 400)
    made, start = programmed.load(1), programmed.load(1)
    assert isinstance(made, DynapChip)
    assert isinstance(start, DynapChip)
    assert Rewire(samples=1000).repair(made, given).traffic.writes > 10
    moved = made.settings.moved()
    assert moved.keys() >= {"conv2.weight"}
    for name, mask in moved.items():
        before = start.block.registers[name].connected()
        axes = (1,) if mask.ndim == 2 else (3, 4, 5)
        np.testing.assert_array_equal(mask.sum(axes), before.sum(axes))
        for own, drawn in (
            (made.device.factor, start.device.factor),
            (made.device.inhibitory, start.device.inhibitory),
        ):
            assert (name in own) == (name in drawn)
            if name in own:
                a, b = (np.broadcast_to(f[name].numpy(), mask.shape) for f in (own, drawn))
                np.testing.assert_array_equal(a[mask & ~before], b[before & ~mask])
                np.testing.assert_array_equal(a[mask & before], b[mask & before])
    assert Rewire(samples=1000).repair(made, given).traffic.writes == 0
    again = programmed.load(1, made.state())
    assert single(again.run(images(20))).tobytes() == single(made.run(images(20))).tobytes()


@pytest.mark.parametrize("net", ["split", "joined"])
def test_any_wiring_between_layers_is_looked_through(net: str) -> None:
    """What is read through slices, joins and shuffles; layers whose neurons several nodes drive, each some of them."""
    given, recipe = wired_samples(net, 300), DynapSim(epochs=1, mismatch=0, fan_in=8, silencing=0.4)
    passes = [step for step in recipe.pipeline().passes if step.name not in ("ltl", "refine-thresholds")]
    programmed = recipe.compile(Pipeline(*passes)(WIRED[net](), data=given)[0])
    made, start = programmed.load(2), programmed.load(2)
    assert isinstance(made, DynapChip)
    assert isinstance(start, DynapChip)
    assert Rewire(samples=1000).repair(made, given).traffic.writes > 10
    nets, spikes = netlist(made.graph), Observer(made, given.train.score)(to_tensor(given.train.x()), 0).counts
    fired = np.concatenate([np.asarray(spikes[layer].sum(0)).reshape(-1) > 0 for layer in nets.layers])
    now = netlist(made.graph.edit(constraints={
        name: replace(made.graph.constraints[name], mask=mask) for name, mask in made.settings.moved().items()
    }))  # fmt: skip
    before, after = ({*zip(n.source.tolist(), n.target.tolist(), strict=True)} for n in (nets, now))
    assert len(after - before) > 5
    assert all(fired[source] for source, _ in after - before)
    assert not any(fired[source] for source, _ in before - after)
    assert {source for source, _ in after} <= {source for source, _ in before}
    assert Rewire(samples=1000).repair(made, given).traffic.writes == 0


def test_new_words_are_those_of_a_pursuit_and_set_to_the_nearest_levels_of_a_ridge_regression() -> None:
    """The dense layer of a chip without mismatch, where nothing before it is rewired."""
    before, made = narrow(), narrow()
    Rewire(samples=1000, ridge=0.2).repair(made, samples())
    x = samples().train.x()
    counts = Observer(before, samples().train.score)(to_tensor(x), 0).counts
    rates = Targets(before.artifact.graph, before.teacher)(to_tensor(x))["relu3"]
    theta = before.block.theta(before.device.graph["relu3"])
    lacks = ((rates * before.graph.steps - counts["relu3"]) * theta).double().numpy()
    inputs = counts["relu2"].flatten(1).double().numpy()
    inputs, lacks = inputs - inputs.mean(0), lacks - lacks.mean(0)
    mask, after = (of.block.registers["fc.weight"].connected() for of in (before, made))
    assert set(made.settings.moved()) == {"fc.weight"}
    level = made.device.nominal["fc.weight"].numpy()
    off = []
    for row in range(10):
        come = np.flatnonzero(after[row] & ~mask[row])
        others = np.flatnonzero(~mask[row] & (inputs.std(0) > 0))
        gain = np.abs(lacks[:, row] @ inputs[:, others]) / inputs[:, others].std(0)
        assert others[gain.argmax()] in come
        chosen = inputs[:, come]
        among = chosen.T @ chosen / len(x)
        penalty = 0.2 * np.diag(among).mean() * np.eye(len(come))
        wanted = np.linalg.solve(among + penalty, chosen.T @ lacks[:, row] / len(x))
        off.append(level[row, come] - wanted.clip(-7, 7))
    assert max(len(one) for one in off) > 3
    assert np.abs(np.concatenate(off)).max() <= 0.5 + 1e-4


def test_a_calibration_may_begin_with_it(digits: Data, programmed: Artifact) -> None:
    """The digits with 0.4 of the neurons dead; two devices on a bench are each as if alone."""
    both = programmed.bench([3, 4])
    assert programmed.at_once() == 1
    ledgers = both.calibrate(digits)
    for ledger in ledgers:
        assert [row.step for row in ledger.rows] == ["before", "rewire", "epoch 1"]
        before, moved, after = (row.accuracy or 0 for row in ledger.rows)
        assert moved > before + 0.1
        assert after > moved
        assert "words that listened to silent neurons listen to others" in ledger.rows[1].notes[0]
    alone = programmed.load(4)
    assert [row.value for row in alone.calibrate(digits).rows] == [row.value for row in ledgers[1].rows]
    assert [row.step for row in alone.calibrate(digits).rows] == ["before", "epoch 1"]


def test_it_is_taken_back_where_it_makes_a_device_worse(
    digits: Data, programmed: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(settings: Settings, x: Sequence[torch.Tensor], targets: Targets, **options: Any) -> Moved:
        moved = honest(settings, x, targets, **options)
        for name, register in settings.block.registers.items():
            register.restore(np.zeros_like(register.stored.numpy()))
            settings.block.program(name)
        return moved

    honest = bench.rewired
    monkeypatch.setattr(bench, "rewired", spoiled)
    made = programmed.load(3)
    assert isinstance(made, DynapChip)
    stored = made.settings.stored()
    ledger = made.calibrate(digits, epochs=0)
    assert "taken back" in ledger.rows[1].notes[-1]
    assert ledger.rows[1].value == ledger.rows[0].value
    assert not made.settings.moved()
    assert all(np.array_equal(now, stored[name]) for name, now in made.settings.stored().items())


@pytest.fixture(scope="module")
def digits() -> Data:
    return datasets.load(EXAMPLES / "digits.npz", train_samples=500, test_samples=20)


@pytest.fixture(scope="module")
def programmed(digits: Data) -> Artifact:
    target = DynapSim(steps=8, silencing=0.4, rewire=400)
    recipe = Pipeline(*(step for step in target.pipeline().passes if step.name != "ltl"))
    return target.compile(recipe(load(EXAMPLES / "digits_cnn.onnx"), data=digits)[0])


def test_the_spikes_and_the_words_are_counted() -> None:
    found = Rewire(samples=1000).repair(chip(), samples())
    moved = sum(int((after & ~connected(chip())[name]).sum()) for name, after in connected(found.chip).items())
    assert found.traffic.writes == moved > 0
    assert found.traffic.sent == moved * WRITE_BYTES
    one = Observer(chip(), samples().train.score)(to_tensor(samples().train.x()), 0).events
    assert one < found.traffic.events < 3 * one, "watched once for each of two layers, about as lively"


def test_what_mismatch_made_of_a_word_stays_with_it() -> None:
    """Also if it moves again: where it is follows from where the artifact had it."""
    made, start = chip(), chip()
    name = "fc.weight"
    before = start.block.registers[name].connected()
    mask = before.copy()
    gone, come = np.flatnonzero(before[3])[:2], np.flatnonzero(~before[3])[:2]
    mask[3, gone], mask[3, come] = False, True
    assert made.settings.rewire(name, np.roll(before, 5, axis=1))
    assert made.settings.rewire(name, mask)
    own, drawn = made.device.factor[name].numpy(), start.device.factor[name].numpy()
    np.testing.assert_array_equal(own[3, come], drawn[3, gone])
    np.testing.assert_array_equal(own[before & mask], drawn[before & mask])
    assert not made.block.registers[name].stored.numpy()[3, [*gone, *come]].any()
    assert made.settings.rewire(name, before)
    np.testing.assert_array_equal(made.device.factor[name].numpy(), drawn)


def test_a_defective_word_conducts_nothing_wherever_it_listens() -> None:
    made = chip("mismatch=0.3 defects=0.3")
    name = "fc.weight"
    before, broken = made.block.registers[name].connected(), made.device.factor[name].numpy() == 0
    row = int(np.argmax((broken & before).sum(1)))
    gone, come = np.flatnonzero(broken[row] & before[row])[0], np.flatnonzero(~before[row])[0]
    mask = before.copy()
    mask[row, gone], mask[row, come] = False, True
    assert made.settings.rewire(name, mask)
    assert made.device.factor[name][row, come] == 0


def test_only_what_arrives_at_a_core_can_be_listened_to() -> None:
    """Layers on cores of their own; conv2's neurons lie on two, each of which hears half of the groups."""
    of = chip()
    sites = {layer: site.copy() for layer, site in of.device.sites.items()}
    sites["relu2"][:2] = 7 * GRID**2 + np.arange(18).reshape(2, 3, 3)
    sites["relu2"][2:] = 8 * GRID**2 + np.arange(18).reshape(2, 3, 3)
    sites["relu3"] = 9 * GRID**2 + np.arange(10)
    sites["relu3"][5:] += GRID**2
    of.device.sites = sites
    before = connected(of)
    lower = before["fc.weight"][5:].any(0)
    assert not lower.all(), "all of them arrive there anyway"
    after = connected(rewired(of))
    assert not after["fc.weight"][5:][:, ~lower].any()
    assert (after["fc.weight"] & ~before["fc.weight"]).any()


def test_learning_goes_on_with_the_new_words_and_the_state_holds_them() -> None:
    made = rewired(chip())
    after = connected(made)
    before = {name: made.block.registers[name].stored.numpy() for name in after}
    OnChip().repair(made, samples())
    for name, mask in after.items():
        stored, new = made.block.registers[name].stored.numpy(), mask & ~connected(chip())[name]
        assert not stored[~mask].any()
        assert (stored[new] != before[name][new]).mean() > 0.5
    again = made.artifact.load(1, made.state())
    assert isinstance(again, DynapChip)
    assert all(np.array_equal(connected(again)[name], mask) for name, mask in after.items())
    x = images(30, seed=5)
    assert single(again.run(x)).tobytes() == single(made.run(x)).tobytes()
    for of in (made, again):
        of.learn(samples().train)
    assert single(again.run(x)).tobytes() == single(made.run(x)).tobytes()
    digest = made.state().digest
    made.calibrate(samples(), epochs=2)
    assert all(np.array_equal(connected(made)[name], mask) for name, mask in after.items())
    assert digest != made.state().digest


@pytest.mark.parametrize("wrong", ["one more", "another neuron's", "integers", "shape"])
def test_a_state_with_words_that_there_are_not_is_refused(wrong: str) -> None:
    made = rewired(chip())
    state = made.state()
    stored = unpack(state, "state.safetensors")
    name = "fc.weight@words"
    mask = stored[name].copy()
    if wrong == "one more":
        mask[0, np.flatnonzero(~mask[0])[0]] = True
    elif wrong == "another neuron's":
        mask[0, np.flatnonzero(~mask[0])[0]] = True
        mask[1, np.flatnonzero(mask[1])[0]] = False
    else:
        mask = mask.astype(np.int32) if wrong == "integers" else mask[:-1]
    about = state.json("chip.json")
    forged = Bundle("chip", {"state.safetensors": pack({**stored, name: mask}), "chip.json": canonical(about)}, about)
    with pytest.raises(ArtifactError, match=r"the state has no fitting 'fc\.weight@words'"):
        made.artifact.load(1, forged)


def test_a_host_in_the_loop_goes_on_with_the_new_words() -> None:
    made = rewired(chip())
    after = connected(made)
    InTheLoop(error="layers").repair(made, samples())
    for name, mask in after.items():
        assert not made.device.nominal[name].numpy()[~mask].any()
        assert made.device.nominal[name].numpy()[mask & ~connected(chip())[name]].any()


def test_what_was_trained_before_deployment_does_not_fit_a_rewired_chip() -> None:
    with pytest.raises(TargetError, match="words of this chip were moved") as told:
        NoiseAware().repair(rewired(chip()), samples())
    assert "noise-aware first" in str(told.value.hint)


def test_kernels_that_share_their_mismatch_are_not_rewired() -> None:
    with pytest.raises(TargetError, match="share a kernel"):
        rewired(chip("mismatch=0.3 silencing=0.4 sharing=shared"))
    of = chip("mismatch=0.3 sharing=shared")
    with pytest.raises(TargetError, match="share a kernel"):
        of.settings.rewire("conv2.weight", np.roll(of.block.registers["conv2.weight"].connected(), 1, axis=5))


def test_too_many_connections_are_refused_before_anything_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snnc.targets.dynap_sim.rewiring.MOST", 100)
    made = chip()
    with pytest.raises(TargetError, match=r"possible connections are too many to rewire, more than 100"):
        Rewire().repair(made, samples())
    assert not made.settings.moved()


def test_devices_side_by_side_are_not_rewired() -> None:
    both = bench.DynapBench(DynapSim(silencing=0.4), artifact(), [0, 1])
    with pytest.raises(ValueError, match="one by one"):
        bench.rewired(both.settings, [], Targets(artifact().graph, both.teacher))


def test_options_that_make_no_sense_are_refused() -> None:
    for text in ("rewire=1", "rewire=-1", "rewire=500 sharing=shared"):
        with pytest.raises(PipelineError, match="rewire="):
            artifact(text)
    for wrong in ({"samples": 1}, {"ridge": 0.0}, {"ridge": float("nan")}):
        with pytest.raises(PipelineError, match="'rewire' cannot work with"):
            Rewire(**wrong)


def test_drives_may_keep_different_numbers_of_inputs() -> None:
    """The same as each by itself; of a drive with fewer, the weights behind are 0."""
    rng = np.random.default_rng(3)
    x = torch.tensor(rng.normal(size=(200, 9)) @ rng.normal(size=(9, 9)), dtype=torch.float32)
    drives = torch.tensor(rng.normal(size=(4, 9)), dtype=torch.float32) @ (x.T @ x)
    allowed = torch.tensor(rng.random((4, 9)) < 0.8)
    most = torch.tensor([3, 0, 5, 1])
    chosen, values = pursue(x.T @ x, drives, most, allowed, ridge=0.01)
    assert chosen.shape == values.shape == (4, 5)
    for row, count in enumerate(most.tolist()):
        assert not values[row, count:].any()
        if count:
            one = by_itself(x.T @ x, drives, allowed, row, count)
            assert torch.equal(chosen[row, :count], one[0])
            torch.testing.assert_close(values[row, :count], one[1])


def by_itself(
    covariance: torch.Tensor, drives: torch.Tensor, allowed: torch.Tensor, row: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What one drive keeps, from ridge regressions of all that it could take next."""
    kept: list[int] = []
    weight = torch.zeros(0)
    for _ in range(count):
        left = drives[row] - covariance[:, kept] @ weight
        gain = (left / covariance.diagonal().sqrt()).abs()
        gain[[i for i in range(len(gain)) if i in kept or not allowed[row, i]]] = -1
        kept.append(int(gain.argmax()))
        among = covariance[kept][:, kept].double()
        penalty = 0.01 * among.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
        weight = torch.linalg.solve(among + penalty, drives[row, kept].double()).float()
    return torch.tensor(kept), weight
