"""Repairs of a mismatched chip: each held to its formula, to what it may touch, and to an account of what it moved."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from snnc import spec
from snnc.artifact import Bundle, pack, unpack
from snnc.data import Data
from snnc.errors import ArtifactError, PipelineError, TargetError
from snnc.ir import Array, roles
from snnc.pipeline import Context, single
from snnc.sim.reference import run
from snnc.sim.torch import exact, tensors, to_tensor
from snnc.target import Artifact
from snnc.targets import DynapSim
from snnc.targets.dynap_sim import DynapChip
from snnc.targets.dynap_sim.answers import Answers, host_params, host_units
from snnc.targets.dynap_sim.cores import cores
from snnc.targets.dynap_sim.layout import MAPPING, cores_of
from snnc.targets.dynap_sim.mapping import Mapping
from snnc.targets.dynap_sim.repairs import (
    REPAIRS,
    CoreBias,
    InTheLoop,
    NoiseAware,
    OnChip,
    OutputGain,
    ReadOut,
    Repair,
    Traffic,
)
from snnc.targets.dynap_sim.repairs.contract import EVENT_BYTES, SETTING_BYTES, WRITE_BYTES
from snnc.targets.dynap_sim.repairs.host import train
from snnc.targets.dynap_sim.repairs.observe import Observer
from snnc.targets.dynap_sim.repairs.program import program, set_to
from snnc.train import BPTT, Tandem
from snnc.train.coupled import Coupled
from snnc.train.targets import Targets
from tests.targets.networks import RECIPE, STEPS, constrained, data, images

NET = "plain"
ALL = [*REPAIRS.table, "output-gain{per=network}", "core-bias{over=all}", "in-the-loop{error=layers}"]
DEAD = "mismatch=0.3 silencing=0.4"
ON_THE_HOST = ["none", "output-gain", "output-gain{per=network}", "read-out"]


@cache
def artifact(options: str = "mismatch=0.3") -> Artifact:
    target = spec.from_spec(f"dynap-sim{{{options}}}", {"dynap-sim": DynapSim})
    return target.compile(constrained(NET))


def chip(seed: int = 1, options: str = "mismatch=0.3") -> DynapChip:
    made = artifact(options).load(seed)
    assert isinstance(made, DynapChip)
    return made


def broken(repair: str) -> DynapChip:
    """A chip that this repair has something to do on."""
    return chip(options=DEAD) if repair == "rewire" else chip()


def samples() -> Data:
    return data(NET)


def nominal(of: DynapChip) -> dict[str, Array]:
    return {name: value.numpy().copy() for name, value in of.device.nominal.items()}


def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def teacher_scores(x: Array) -> Array:
    graph = constrained(NET).teacher
    assert graph is not None
    return run(graph, {"x": x})["y"]


@pytest.mark.parametrize("text", ALL)
def test_every_repair_is_repeatable_and_looks_at_the_training_part_only(text: str) -> None:
    repair, whole = spec.from_spec(text, REPAIRS), samples()
    assert str(repair) == text
    blind = Data(whole.train, whole.test, whole.validation)
    first, second = (repair.repair(broken(text), given) for given in (whole, blind))
    x = images(9)
    assert same(nominal(first.chip), nominal(second.chip))
    assert first.run(x).tobytes() == second.run(x).tobytes()
    assert first.traffic == second.traffic
    assert first.score(whole.test) == second.score(whole.test)


@pytest.mark.parametrize("text", ALL)
def test_a_repair_changes_what_it_says(text: str) -> None:
    made, untouched = spec.from_spec(text, REPAIRS).repair(broken(text), samples()), broken(text)
    changed = {n for n, a in nominal(made.chip).items() if not np.array_equal(a, nominal(untouched)[n])}
    learning = set(made.chip.block.registers)
    thresholds = {f"relu{i}.theta" for i in (1, 2, 3)}
    if text in ON_THE_HOST:
        assert not changed
        assert made.traffic.writes == made.traffic.settings == made.traffic.sent == 0
    elif text.startswith("core-bias"):
        assert changed == thresholds
    elif text == "rewire":
        assert changed == {"fc.weight"}
    else:
        assert changed
        assert changed <= learning | {*host_params(made.chip.graph)}


@pytest.mark.parametrize("text", [t for t in ALL if t not in ON_THE_HOST])
def test_what_was_changed_on_the_chip_is_in_its_state(text: str) -> None:
    made = spec.from_spec(text, REPAIRS).repair(broken(text), samples()).chip
    again = made.artifact.load(1, made.state())
    assert isinstance(again, DynapChip)
    assert same(nominal(again), nominal(made))
    assert single(again.run(images(9))).tobytes() == single(made.run(images(9))).tobytes()
    with pytest.raises(ArtifactError, match="this is chip 2"):
        made.artifact.load(2, made.state())


def test_a_state_with_a_threshold_that_none_can_have_is_refused() -> None:
    made = chip()
    made.device.nominal["relu2.theta"] = -made.device.nominal["relu2.theta"]
    with pytest.raises(ArtifactError, match=r"the state has no fitting 'relu2\.theta'"):
        artifact().load(1, made.state())


def test_an_unrepaired_chip_answers_as_it_runs() -> None:
    made = REPAIRS["none"]().repair(chip(), samples())
    assert made.run(images(200)).tobytes() == single(chip().run(images(200))).tobytes()
    assert made.traffic == Traffic()


def test_samples_that_do_not_fit_are_refused() -> None:
    made = OutputGain().repair(chip(), samples())
    with pytest.raises(TargetError, match=r"takes samples of shape \[1, 6, 6\], not \[2, 6, 6\]"):
        made.run(np.zeros((3, 2, 6, 6), np.float32))
    with pytest.raises(TargetError, match="no samples"):
        made.run(images(3)[:0])


# --- the host's own part


def test_gain_and_offset_of_a_class_are_its_line_of_regression() -> None:
    part, made = samples().train, OutputGain().repair(chip(), samples())
    before, wanted = single(chip().run(part.x())), teacher_scores(part.x())
    x = images(40, seed=3)
    answers, repaired = single(chip().run(x)), made.run(x)
    for k in range(3):
        (a, b), *_ = np.linalg.lstsq(np.stack([before[:, k], np.ones(len(before))], 1), wanted[:, k], rcond=None)
        np.testing.assert_allclose(repaired[:, k], a * answers[:, k] + b, rtol=1e-4, atol=1e-5)


def test_one_gain_for_all_changes_no_answer() -> None:
    part, made = samples().train, OutputGain("network").repair(chip(), samples())
    before, wanted = single(chip().run(part.x())), teacher_scores(part.x())
    gain = (before * wanted).sum() / np.square(before).sum()
    x = images(40, seed=3)
    np.testing.assert_allclose(made.run(x), gain * single(chip().run(x)), rtol=1e-4)
    assert (made.run(x).argmax(1) == single(chip().run(x)).argmax(1)).all()


def test_a_class_whose_score_never_changes_keeps_its_gain() -> None:
    silent = chip()
    for name, register in silent.block.registers.items():
        register.restore(np.zeros_like(register.stored.numpy()))
        silent.block.program(name)
    made = OutputGain().repair(silent, samples())
    wanted = teacher_scores(samples().train.x()).mean(0)
    np.testing.assert_allclose(made.run(images(5)), np.broadcast_to(wanted, (5, 3)), rtol=1e-5)


def test_the_read_out_is_fitted_by_regression_on_spike_counts() -> None:
    part = samples().train
    made, x = ReadOut().repair(chip(), samples()), part.x()
    wanted, before, after = teacher_scores(x), single(chip().run(x)), made.run(x)
    assert np.square(after - wanted).sum() < 0.8 * np.square(before - wanted).sum()
    np.testing.assert_allclose(after.mean(0), wanted.mean(0), atol=1e-4)
    seen = Observer(chip(), part.score)(to_tensor(x), 0)
    counts = np.c_[seen.read.numpy(), np.ones(len(x))]
    change = after - before
    fit = counts @ np.linalg.lstsq(counts, change, rcond=None)[0]
    np.testing.assert_allclose(change, fit, atol=1e-3, err_msg="the change is no linear map of the counts")


@pytest.mark.parametrize("repair", [OutputGain(), ReadOut()])
def test_the_host_is_sent_the_spikes_of_the_last_layer(repair: Repair) -> None:
    seen = Observer(chip(), samples().train.score)(to_tensor(samples().train.x()), 0)
    made = repair.repair(chip(), samples())
    assert seen.shown == ("relu3",)
    assert made.traffic.events == int(seen.counts["relu3"].sum()) > 0
    assert made.traffic.received == made.traffic.events * EVENT_BYTES


# --- thresholds of cores


def test_all_neurons_of_a_core_get_one_factor() -> None:
    made = CoreBias().repair(chip(), samples()).chip
    placed = cores_of(made.graph, made.artifact.bundle, 256)
    assert {name: sorted({*core.reshape(-1)}) for name, core in placed.items()} == {
        "relu1": [0],
        "relu2": [1],
        "relu3": [2],
    }
    factors = [
        made.device.nominal[f"{name}.theta"].numpy() / chip().device.nominal[f"{name}.theta"].numpy() for name in placed
    ]
    for factor in factors:
        np.testing.assert_allclose(factor, factor.reshape(-1)[0], rtol=1e-6)
    assert len({round(float(f.reshape(-1)[0]), 4) for f in factors}) == 3


def test_the_first_step_is_as_by_hand() -> None:
    part = samples().train
    for over in ("active", "all"):
        made = CoreBias(over, rate=0.3, batch=len(part)).repair(chip(), samples()).chip  # type: ignore[arg-type]
        before = chip()
        x = to_tensor(part.x())
        seen, rates = Observer(before, part.score)(x, -1), Targets(before.artifact.graph, before.teacher)(x)
        for name, rate in rates.items():
            target, count = rate.numpy() * STEPS, seen.counts[name].numpy()
            kept = target >= 0.5 if over == "active" else np.ones_like(target, bool)
            step = ((count[kept].sum() + 1) / (target[kept].sum() + 1)) ** 0.3
            theta = before.device.nominal[f"{name}.theta"].numpy()
            np.testing.assert_allclose(made.device.nominal[f"{name}.theta"].numpy(), theta * step, rtol=1e-5)


def test_a_core_that_is_set_wrong_comes_back() -> None:
    wrong = chip(options="mismatch=0")
    wrong.device.nominal["relu1.theta"] = wrong.device.nominal["relu1.theta"] * 1.8
    right = nominal(chip(options="mismatch=0"))["relu1.theta"]
    made = CoreBias(batch=8).repair(wrong, samples()).chip
    assert abs(float(made.device.nominal["relu1.theta"].flatten()[0]) / right.flat[0] - 1) < 0.15


def test_cores_are_those_of_the_layout() -> None:
    target = DynapSim(mismatch=0.3)
    compiled = target.compile(constrained(NET))
    laid = target.lay_out(constrained(NET), samples().train)
    mapping = Mapping.from_arrays(unpack(Bundle("artifact", laid.files), MAPPING))
    core = {**mapping.core, "relu3": mapping.core["relu3"] * 0 + int(mapping.core["relu2"].flat[0])}
    files = {**compiled.bundle.files, MAPPING: pack(replace(mapping, core=core).arrays())}
    bundle = replace(compiled.bundle, files=files)
    made = DynapChip(target, replace(compiled, bundle=bundle), 1)
    found = cores_of(made.graph, bundle, 256)
    numbers = {int(n) for core in found.values() for n in core.reshape(-1)}
    CoreBias().repair(made, samples())
    by_core: dict[int, set[float]] = {n: set() for n in numbers}
    for name, core in found.items():
        theta = made.device.nominal[f"{name}.theta"].numpy() / made.graph.params[f"{name}.theta"]
        for n, factor in zip(core.reshape(-1), theta.reshape(-1), strict=True):
            by_core[int(n)].add(round(float(factor), 5))
    assert all(len(factors) == 1 for factors in by_core.values())
    assert found.keys() == cores(made.graph, 256).keys()
    assert len(by_core) == 2, "relu3 is on the core of relu2"


def test_cores_that_share_no_threshold_have_none_to_turn() -> None:
    with pytest.raises(TargetError, match="the neurons of a core of 'ideal' share no threshold to turn"):
        CoreBias().repair(chip(options="profile=ideal"), samples())


def test_traffic_of_retuning() -> None:
    made = CoreBias(batch=40).repair(chip(options="mismatch=0.3"), samples())
    assert made.traffic.settings == 2 * 3, "80 samples, 3 cores"
    assert made.traffic.sent == 6 * SETTING_BYTES
    assert made.traffic.events > 0


# --- the chip in the loop


def test_on_a_perfect_chip_the_loop_is_tandem_learning() -> None:
    perfect, whole = chip(options="mismatch=0"), samples()
    made = InTheLoop(readout="fixed", batch=32).repair(perfect, whole).chip
    rule, host = Tandem(epochs=1, batch=32, rate=InTheLoop.rate), chip(options="mismatch=0")
    learner = rule.learner(set_to(host), Context(whole, host.teacher))
    expected = train(rule, set_to(host), host, whole, learner, seed=host.seed)
    assert expected
    assert same({n: v.numpy() for n, v in expected.items()}, {n: nominal(made)[n] for n in expected})


@pytest.mark.parametrize("error", ["labels", "layers"])
def test_the_read_out_learns_in_the_loop(error: str) -> None:
    """One batch holds all samples: one step, from what the chip that was not yet repaired sent."""
    whole, made, by_hand = samples(), chip(), chip()
    size = len(whole.train)
    InTheLoop(error, rate=0.02, batch=size).repair(made, whole)  # type: ignore[arg-type]
    seen = Observer(by_hand, whole.train.score)(to_tensor(whole.train.x()), -1)
    answers = Answers(by_hand.graph, by_hand.device.nominal, whole.train.score, 0.02, 1)
    with exact():
        answers.learn(seen.values, torch.as_tensor(whole.train.labels))
    for name in host_params(made.graph):
        np.testing.assert_allclose(nominal(made)[name], nominal(by_hand)[name], rtol=1e-4, atol=1e-6)
        assert not np.array_equal(nominal(made)[name], nominal(chip())[name])


def test_on_a_mismatched_chip_it_is_not() -> None:
    assert not same(
        nominal(InTheLoop().repair(chip(1), samples()).chip), nominal(InTheLoop().repair(chip(2), samples()).chip)
    )


def test_errors_of_layers_are_as_by_hand() -> None:
    """Of the last layer's weights: 2 / T^2 * (c - T r) / theta where the nominal charge is in the window."""
    whole, made = samples(), chip()
    taken: dict[str, Array] = {}
    x = to_tensor(whole.train.x())
    from snnc.targets.dynap_sim.repairs.in_the_loop import _Loop
    from snnc.train import Batch

    params = {n: v.clone().requires_grad_(n in made.block.registers) for n, v in tensors(set_to(made)).items()}
    with exact():
        _Loop(made, whole).by_layers(Batch(params, x, torch.zeros(len(x)), np.random.default_rng(0)))
    taken = {n: p.grad.numpy() for n, p in params.items() if p.grad is not None}
    seen = Observer(made, whole.train.score)(x, -1)
    rates = Targets(made.artifact.graph, made.teacher)(x)["relu3"].numpy()
    own = roles(made.graph["fc"], made.graph.params)
    weight, bias = nominal(made)[own["weight"]], nominal(made)[own["bias"]]
    before = seen.counts["relu2"].flatten(1).numpy()
    theta, u0 = nominal(made)["relu3.theta"], nominal(made)["relu3.u0"]
    charge = before @ weight.T + STEPS * bias + u0
    passes = (charge > 0) & (charge < STEPS * theta)
    delta = 2 * (seen.counts["relu3"].numpy() / STEPS - rates) / STEPS * passes / theta / len(x)
    np.testing.assert_allclose(taken[own["weight"]], delta.T @ before, rtol=1e-3, atol=1e-6)
    assert taken.keys() == set(made.block.registers)


def test_writes_of_the_loop_are_counted() -> None:
    """One batch holds all samples: the chip is run once, and written once behind it."""
    whole, made = samples(), chip()
    seen = Observer(chip(), whole.train.score)(to_tensor(whole.train.x()), -1)
    found = InTheLoop(readout="fixed", rate=0.3, batch=len(whole.train)).repair(made, whole)
    before, after = nominal(chip()), nominal(made)
    changed = {n: int((before[n] != after[n]).sum()) for n in made.block.registers}
    writes = sum(count for n, count in changed.items() if not made.block.registers[n].bias)
    settings = sum(count for n, count in changed.items() if made.block.registers[n].bias)
    assert writes > 0
    assert settings > 0
    sent = writes * WRITE_BYTES + settings * SETTING_BYTES
    assert found.traffic == Traffic(seen.events, sent, writes, settings)


@pytest.mark.parametrize("text", ["in-the-loop{rate=0.05}", "noise-aware{rate=0.05}", "on-chip"])
def test_base_currents_are_obeyed(text: str) -> None:
    recipe = RECIPE.replace("{per=tensor}", "{per=tensor levels=base-currents}") + ",limit-biases{method=tonic}"
    made = DynapSim(mismatch=0.3, rate=0.3).compile(constrained(NET, recipe)).load(1)
    assert isinstance(made, DynapChip)
    before = nominal(made)
    spec.from_spec(text, REPAIRS).repair(made, samples())
    changed = 0
    for name, register in made.block.registers.items():
        value, constraint = nominal(made)[name], made.graph.constraints[name]
        np.testing.assert_allclose(constraint.project(value), value, rtol=1e-6)
        changed += 0 if register.bias else int((value != before[name]).sum())
    sums = [name for name in made.block.registers if made.graph.constraints[name].levels is not None]
    assert any(name.endswith(".bias") for name in sums)
    assert any(name.endswith(".weight") for name in sums)
    assert changed > 0


@pytest.mark.parametrize("error", ["labels", "layers"])
def test_levels_and_absent_connections_are_obeyed(error: str) -> None:
    made = InTheLoop(error, rate=0.05).repair(chip(), samples()).chip  # type: ignore[arg-type]
    for name, register in made.block.registers.items():
        value = nominal(made)[name]
        constraint = made.graph.constraints[name]
        np.testing.assert_array_equal(constraint.project(value), value)
        assert register.mask is None or not value[~register.mask.numpy()].any()


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_layers_learn_their_targets_in_the_loop(reset: str) -> None:
    """Whatever a spike does to the potential: the counts are those that were observed."""

    def away(of: DynapChip) -> float:
        x = to_tensor(samples().train.x())
        seen, rates = Observer(of, samples().train.score)(x, 0), Targets(of.artifact.graph, of.teacher)(x)
        return sum(float((seen.counts[n] / STEPS - rate).square().sum()) for n, rate in rates.items())

    def drawn() -> DynapChip:
        recipe = RECIPE.replace(f"steps={STEPS}", f"steps={STEPS} reset={reset}")
        made = DynapSim(mismatch=0.3).compile(constrained(NET, recipe)).load(1)
        assert isinstance(made, DynapChip)
        assert {node.attrs["reset"] for node in made.graph.nodes if node.op == "lif"} == {reset}
        return made

    assert away(InTheLoop("layers", batch=8, epochs=5).repair(drawn(), samples()).chip) < 0.5 * away(drawn())


def test_a_host_in_the_loop_refuses_neurons_that_leak() -> None:
    recipe = RECIPE.replace(f"steps={STEPS}", f"steps={STEPS} alpha=0.9")
    made = DynapSim(mismatch=0.3).compile(constrained(NET, recipe)).load(1)
    assert isinstance(made, DynapChip)
    with pytest.raises(PipelineError, match="counts on neurons that keep all charge") as caught:
        InTheLoop("layers").repair(made, samples())
    assert "leak" in caught.value.problems[0].message


def test_values_that_are_no_levels_are_refused() -> None:
    made = chip()
    name = next(n for n, r in made.block.registers.items() if not r.bias)
    with pytest.raises(TargetError, match="cannot be set to these values"):
        program(made, {name: made.device.nominal[name] + 1000 * made.block.registers[name].unit})


def test_what_does_not_change_is_not_written() -> None:
    made = chip()
    assert program(made, made.device.nominal) == Traffic()


@pytest.mark.parametrize("text", ["in-the-loop{rate=0.0}", "noise-aware{batch=0}", "core-bias{rate=2.0}"])
def test_options_that_cannot_work_are_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="cannot work with"):
        spec.from_spec(text, REPAIRS)


# --- before deployment


def test_without_mismatch_noise_aware_training_is_bptt() -> None:
    whole, made = samples(), chip(options="mismatch=0")
    rule = BPTT(epochs=1, batch=16, rate=NoiseAware.rate)
    learner = rule.learner(made.graph, Context(whole, made.teacher))
    expected = train(rule, made.graph, made, whole, learner, more=host_units(made.graph))
    found = NoiseAware().levels(made, whole)
    assert same({n: v.numpy() for n, v in found.items()}, {n: v.numpy() for n, v in expected.items()})


def test_noise_aware_training_knows_no_chip() -> None:
    whole = samples()
    first, second = (NoiseAware().levels(chip(seed), whole) for seed in (1, 2))
    assert same({n: v.numpy() for n, v in first.items()}, {n: v.numpy() for n, v in second.items()})
    clean = NoiseAware().levels(chip(options="mismatch=0"), whole)
    assert not same({n: v.numpy() for n, v in first.items()}, {n: v.numpy() for n, v in clean.items()})
    made = NoiseAware().repair(chip(5), whole)
    assert {*host_params(made.chip.graph)} < first.keys()
    assert all(torch.equal(made.chip.device.nominal[n], value) for n, value in first.items())
    assert made.traffic == Traffic()


# --- on the chip


@pytest.mark.parametrize(("learning", "size"), [("float", 4), ("hardware", 1)])
def test_on_chip_learning_is_one_epoch_of_calibrate(learning: str, size: int) -> None:
    options = f"mismatch=0.3 rate=0.3 guard_bits=2 learning={learning} batch=4"
    made, other = OnChip().repair(chip(options=options), samples()), chip(options=options)
    other.calibrate(samples())
    assert made.chip.state().files == other.state().files
    neurons = 4 * 36 + 4 * 9 + 10
    assert made.traffic.sent == neurons * size * len(samples().train)
    assert made.traffic.events == other.fired["relu3"] > 0, "the read-out learns from the last layer"
    moved = [r.moved for r in other.block.registers.values() if not r.bias]
    assert made.traffic.writes == sum(int(m.sum()) for m in moved) > 0


def test_without_a_read_out_that_learns_nothing_leaves_the_chip() -> None:
    made = OnChip().repair(chip(options="mismatch=0.3 readout=fixed"), samples())
    assert made.traffic.events == 0
    assert {*host_params(made.chip.graph)} == {"out.weight", "out.b"}
    assert all(np.array_equal(nominal(made.chip)[n], nominal(chip())[n]) for n in host_params(made.chip.graph))


# --- the table


def test_the_table_has_every_repair_by_its_name() -> None:
    def final(cls: type[Repair]) -> set[type[Repair]]:
        below = cls.__subclasses__()
        return {cls} if not below else set().union(*(final(one) for one in below))

    assert final(Repair) == set(REPAIRS.table.values())
    assert all(made.name == name for name, made in REPAIRS.table.items())


def test_traffic_adds_up() -> None:
    assert Traffic(1, 2, 3, 4) + Traffic(10, 20, 30, 40) == Traffic(11, 22, 33, 44)


def test_repairs_join() -> None:
    """A gain behind learning is fitted to the chip as it has become."""
    made = OnChip().repair(chip(), samples()).chip
    joined = OutputGain().repair(made, samples())
    alone = OutputGain().repair(chip(), samples())
    x = samples().train.x()
    wanted = teacher_scores(x)
    assert np.square(joined.run(x) - wanted).sum() < np.square(alone.run(x) - wanted).sum()


def test_the_read_out_counts_what_it_reads() -> None:
    seen = Observer(chip(), samples().train.score)(to_tensor(images(7)), 0)
    assert torch.equal(seen.read, seen.counts["relu3"])
    coupled = Coupled(chip().graph)
    assert seen.scores.shape == (7, 3)
    assert coupled.scores == "out"
    assert seen.events == sum(int(c.sum()) for c in seen.counts.values())
