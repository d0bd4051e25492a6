"""dynap-sim's limits: what a core shares, where biases are, words and cores counted by hand; profiles in artifacts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snnc.artifact import Bundle
from snnc.errors import ArtifactError, PipelineError, TargetError
from snnc.ir import Constraint, Graph, Stage
from snnc.passes.limit_biases import SWITCH
from snnc.sim.reference import run
from snnc.target import Artifact, Finding
from snnc.targets import TARGETS, DynapSim
from snnc.targets.dynap_sim.cores import core_count, cores
from snnc.targets.dynap_sim.place import place
from snnc.targets.dynap_sim.profile import load_profile
from tests.graphs import Builder, integers
from tests.targets.networks import constrained, data, images, teacher

HONEST = "fold-batchnorm,replace-max-pool,pool-neurons,threshold-layernorm{steps=8},bias-per-step,limit-fan-in{k=20},"
HONEST += "quantize-weights{per=core},share-thresholds,limit-biases{method=tonic}"
SHARED = ("thresholds", "start potentials", "leaks", "direct currents", "base currents")


def network(theta: object = 1.0, u0: object = 0.0, bias: object = 0.0, **neuron: object) -> Graph:
    """Four channels of 64 neurons, two cores of two channels each if a core has 128; weights of 7 and 1 steps of 1."""
    weight = np.array([[7, 1]] * 4).reshape(4, 2, 1, 1)
    bias = np.broadcast_to(np.asarray(bias, np.float32), (4,))
    b = Builder({"x": (2, 8, 8)}, 4)
    b("conv", "conv", b("current", "encode", "x"), weight=weight, bias=bias, bias_at="per-step")
    b("lif", "lif", "conv", theta=theta, u0=u0, **neuron)
    graph = b.graph(b("out", "decode", "lif"))
    grid = Constraint(4, np.ones((4, 1, 1, 1), np.float32))
    return graph.edit(constraints={"conv.weight": grid}, stage=Stage.CONSTRAINED)


def two_cores(tmp_path: Path, **values: object) -> DynapSim:
    """A chip of cores of 128 neurons."""
    text = 'base = "se2"\nneurons_per_core = 128\n' + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
    (tmp_path / "small.toml").write_text(text)
    return DynapSim(profile=str(tmp_path / "small.toml"))


def found(target: DynapSim, graph: Graph, limit: str) -> Finding:
    [finding] = [f for f in target.findings(graph) if f.limit == limit and f.layer in ("lif", "")]
    return finding


def tonic(levels: list[int], scale: float | tuple[float, ...] = 0.25) -> Graph:
    """The network with biases of so many steps."""
    step = np.array(np.broadcast_to(scale, 4), np.float32)
    bias = {"conv.bias": np.array(levels, np.float32) * step}
    return network().edit(params=bias, constraints={"conv.bias": Constraint(4, step)})


def test_every_layer_begins_a_new_core() -> None:
    graph = teacher("plain")
    placed = cores(graph, 256)
    assert {name: np.unique(core).tolist() for name, core in placed.items()} == {
        "relu1": [0],
        "relu2": [1],
        "relu3": [2],
    }
    assert all(core.shape == graph[name].type.shape for name, core in placed.items())
    assert core_count(placed) == 3
    assert core_count(cores(graph, 36)) == 4 + 1 + 1, "four channels of 36 neurons, four of 9, and 10 neurons"
    assert core_count({}) == 0


def test_neurons_and_cores_are_budgets(tmp_path: Path) -> None:
    small = two_cores(tmp_path, cores_per_chip=1, chips=2)
    of = {limit: found(small, network(), limit) for limit in ("neurons per chip", "cores per chip")}
    assert [(f.value, f.allowed, f.ok, f.wall) for f in of.values()] == [(256, 128, False, False), (2, 1, False, False)]
    assert [f.note for f in of.values()] == ["2 of 2 chips"] * 2
    [note] = {found(two_cores(tmp_path, cores_per_chip=1), network(), "cores per chip").note}
    assert note == "2 virtual chips"


def test_what_cores_share_already_is_proven(tmp_path: Path) -> None:
    """Two values, but in each core one."""
    small = two_cores(tmp_path)
    graph = network([2, 2, 3, 3], [1, 1, 1.5, 1.5], [0, 0.5, 0.25, 0.25], alpha=[1, 1, 0.9, 0.9])
    for limit in SHARED:
        finding = found(small, graph, f"{limit} per core")
        assert (finding.ok, finding.note) == (True, ""), limit
        assert finding.source.startswith("[V] ")
    assert found(small, graph, "base currents per core").value == 3, "sums of 1, 2 and 4"
    replace(small, strict=True).place(graph)


@pytest.mark.parametrize(
    ("limit", "graph", "value", "note"),
    [
        ("thresholds", network([1, 3, 2, 2]), 2, "0.50 to 1.50 of a core's mean, which would be off by 35%"),
        ("start potentials", network(2.0, [1, 3, 1, 1]), 2, "0.50 to 1.50 of a core's mean"),
        ("leaks", network(alpha=[0.6, 1.0, 0.9, 0.9]), 2, "0.75 to 1.25 of a core's mean, which would be off by 18%"),
        ("direct currents", network(bias=[1, 2, 3, 3]), 2, "free analog biases, 0 of 256 neurons below 0"),
        ("direct currents", network(bias=[0, -1, 1, 1]), 2, "free analog biases, 64 of 256 neurons below 0"),
        ("tonic steps", tonic([7, -3, 1, 0], (0.25, 0.5, 1, 1)), 2, "steps of tonic synapses, whose type has one gain"),
    ],
)
def test_what_differs_within_a_core_is_told(tmp_path: Path, limit: str, graph: Graph, value: int, note: str) -> None:
    small = two_cores(tmp_path)
    finding = found(small, graph, f"{limit} per core")
    assert (finding.value, finding.allowed, finding.wall, finding.ok) == (value, 1, False, False)
    assert finding.note.startswith(note)
    assert "; try " in finding.note
    small.place(graph)
    strict = replace(small, strict=True)
    assert f"{limit} per core" in strict.limits.walls
    with pytest.raises(TargetError, match=f"{limit} per core 2, the chip has 1") as caught:
        strict.place(graph)
    assert caught.value.problems[0].at == "lif (lif)" if caught.value.problems else caught.value.at == "lif (lif)"


@pytest.mark.parametrize(("step", "currents"), [(1.0, 3), (2.0, 4), (1.5, 6)])
def test_a_second_layer_with_steps_of_its_own_takes_more_currents(step: float, currents: int) -> None:
    """1, 2, 4 and the same again; 1, 2, 4, 8; 1, 1.5, 2, 3, 4, 6."""
    b = Builder({"x": (2, 8, 8)}, 4)
    b("current", "encode", "x")
    b("conv", "conv", "current", weight=np.full((4, 2, 1, 1), 7))
    b("more", "conv", "current", weight=np.full((4, 2, 1, 1), step))
    b("lif", "lif", b("sum", "add", "conv", "more"))
    grids = {f"{n}.weight": Constraint(4, np.full((1,) * 4, s, np.float32)) for n, s in (("conv", 1), ("more", step))}
    graph = b.graph(b("out", "decode", "lif")).edit(constraints=grids, stage=Stage.CONSTRAINED)
    finding = found(DynapSim(), graph, "base currents per core")
    assert (finding.value, finding.allowed, finding.ok) == (currents, 4, currents <= 4)


def test_thresholds_are_compared_in_weight_steps(tmp_path: Path) -> None:
    """Twice the step and twice the threshold are the same neuron."""
    scale = np.array([1, 2, 1, 1], np.float32).reshape(4, 1, 1, 1)
    graph = network([1, 2, 1, 1])
    graph = graph.edit(params={"conv.weight": graph.params["conv.weight"] * scale})
    graph = replace(graph, constraints={"conv.weight": Constraint(4, scale)})
    assert found(two_cores(tmp_path), graph, "thresholds per core").ok


def test_a_chip_without_switches_has_one_current_for_all(tmp_path: Path) -> None:
    graph = network(bias=[0, 1, 1, 1])
    assert found(two_cores(tmp_path), graph, "direct currents per core").ok
    finding = found(two_cores(tmp_path, per_neuron_bits=[]), graph, "direct currents per core")
    assert (finding.value, finding.ok) == (2, False)


def test_an_ideal_chip_shares_nothing() -> None:
    ideal = DynapSim(profile="ideal")
    limits = ideal.limits
    assert not [name for name in (*limits.walls, *limits.budgets) if "per core" in name]
    assert {f.limit for f in ideal.findings(network([1, 2, 3, 4]))} == {*limits.walls, *limits.budgets}
    assert set(limits.sources) == {*limits.walls, *limits.budgets}
    assert ideal.chip.mismatch.sigma == 0.0


def test_tonic_biases_are_connections_not_currents(tmp_path: Path) -> None:
    small, graph = two_cores(tmp_path), tonic([7, -3, 1, 0])
    assert found(small, graph, "direct currents per core").value == 0
    assert found(small, graph, "fan-in").value == 3, "two inputs and the tonic channel"
    assert found(small, network(), "fan-in").value == 2


def test_repeated_weights_are_words(tmp_path: Path) -> None:
    """Weights of 7 and 1, and a tonic synapse of -3 at most in the first core."""
    repeated = two_cores(tmp_path, weight_coding="repeated", weight_bits=1)
    assert found(repeated, network(), "fan-in").value == 8
    assert found(repeated, tonic([1, -3, 2, 0]), "fan-in").value == 11
    with pytest.raises(TargetError, match="fan-in 8, the chip has 7"):
        replace(repeated, fan_in=7).place(network())


@pytest.mark.parametrize(("levels", "bits"), [([7, -3, 1, 0], 4), ([1, 1, 1, 0], 1)])
def test_limited_biases_are_placed_on_their_levels(levels: list[int], bits: int) -> None:
    graph = tonic(levels)
    if bits == 1:
        graph = graph.edit(constraints={"conv.bias": Constraint(1, np.full(4, 0.25, np.float32), None, SWITCH)})
    placed = place(graph)
    constraint = placed.constraints["conv.bias"]
    assert constraint.bits == bits
    np.testing.assert_array_equal(placed.params["conv.bias"][:, 0, 0], np.array(levels) * 0.25)
    x = integers(graph, 5)
    np.testing.assert_array_equal(run(placed, x)["out_out"], run(graph, x)["out_out"])


def test_calibration_keeps_biases_on_their_levels() -> None:
    for method in ("tonic", "dc-bit"):
        graph = constrained("plain", HONEST.replace("method=tonic", f"method={method}"))
        chip = DynapSim(mismatch=0.3, rate=0.3).compile(graph).load(1)
        before = {name: value.clone() for name, value in chip.device.nominal.items()}  # type: ignore[attr-defined]
        chip.calibrate(data("plain"), epochs=2)
        moved = 0
        for name, value in chip.device.nominal.items():  # type: ignore[attr-defined]
            if name.endswith(".bias") and name in chip.graph.constraints:  # type: ignore[attr-defined]
                constraint = chip.graph.constraints[name]  # type: ignore[attr-defined]
                np.testing.assert_array_equal(constraint.project(value.numpy()), value.numpy(), err_msg=name)
                moved += int((value != before[name]).sum())
        assert moved, "they must learn"


def test_the_honest_recipe_passes_every_wall() -> None:
    for net in ("plain", "residual", "pooled"):
        graph = constrained(net, HONEST)
        strict = DynapSim(strict=True)
        assert [f for f in strict.findings(graph) if f.wall and not f.ok] == []
        strict.place(graph)
    assert str(DynapSim(levels="symmetric", reset="subtract").pipeline()).endswith(
        "bias-per-step,limit-fan-in{k=63},quantize-weights{per=core},share-thresholds,limit-biases{method=tonic},ltl"
    )


@pytest.mark.parametrize("net", ["plain", "residual", "pooled"])
def test_networks_of_the_default_recipe_are_what_the_chip_has(net: str) -> None:
    """Its resets, its fan-in, and of all that a core has one of no more; a shortcut is a sum of the same currents."""
    target = DynapSim(epochs=1, fan_in=21, strict=True)
    graph, _ = target.pipeline()(teacher(net), data=data(net))
    assert [f for f in target.findings(graph) if not f.ok and "per chip" not in f.limit] == []
    found = {f.layer: f.value for f in target.findings(graph) if f.limit == "base currents per core"}
    assert set(found.values()) <= {1, 4}, "a pool is one"
    assert str(DynapSim().pipeline()).endswith(
        "threshold-layernorm{reset=zero},bias-per-step,refine-thresholds{per=layer start=layer},limit-fan-in{k=63},"
        "quantize-weights{per=tensor levels=base-currents},share-thresholds,limit-biases{method=tonic per=layer},ltl"
    )


@pytest.mark.parametrize(("profile", "zero"), [("se1", True), ("ideal", False)])
def test_recipes_follow_the_chip(profile: str, zero: bool) -> None:
    text = str(DynapSim(profile=profile).pipeline())
    assert "base-currents" not in text
    assert ("reset=zero" in text) == ("refine-thresholds" in text) == zero


# --- profiles as options


def test_options_come_from_the_profile_unless_given() -> None:
    assert (DynapSim().chip.fan_in, DynapSim(fan_in=9).chip.fan_in) == (64, 9)
    assert DynapSim(mismatch=0.4, preset="buchel", guard_bits=3).chip.mismatch.sigma == 0.4
    assert DynapSim(guard_bits=3).chip.learning.guard_bits == 3
    assert DynapSim().chip == load_profile("se2")
    graph = constrained("plain")
    for learning, usual in (("float", 7), ("hardware", 4)):
        for guard_bits, expected in ((None, usual), (3, 3)):
            target = DynapSim(learning=learning, guard_bits=guard_bits)  # type: ignore[arg-type]
            assert target.compile(graph).load(0).block.rule.guard_bits == expected  # type: ignore[attr-defined]
    wider = [DynapSim(fan_in=k).chip.learning.guard_bits for k in (20, 64, 65, 128, 256, 10**6)]
    assert wider == [4, 4, 5, 5, 6, 7]
    assert DynapSim(profile="ideal").chip.learning.guard_bits == 7
    assert DynapSim(fan_in=10**6, guard_bits=2).chip.learning.guard_bits == 2
    with pytest.raises(PipelineError, match="no profile is named 'se3'"):
        DynapSim(profile="se3")


def test_an_artifact_holds_the_users_profile(tmp_path: Path) -> None:
    target = two_cores(tmp_path, fan_in=32)
    made = target.compile(constrained("plain"))
    assert str(tmp_path) not in made.bundle.files["target.json"].decode()
    assert json.loads(made.bundle.files["target.json"]) == {"target": "dynap-sim{profile=small}"}
    made.bundle.write(tmp_path / "build")
    (tmp_path / "small.toml").unlink()
    opened = Artifact.open(str(tmp_path / "build"), TARGETS)
    assert isinstance(opened.target, DynapSim)
    assert opened.target.chip == target.chip
    assert opened.target.chip.fan_in == 32
    assert opened.target.compile(constrained("plain")).digest == made.digest
    x = images(5)
    np.testing.assert_array_equal(opened.load(3).run(x)["y"], made.load(3).run(x)["y"])


def test_another_profile_is_another_digest(tmp_path: Path) -> None:
    graph = constrained("plain")
    digests = {two_cores(tmp_path, fan_in=k).compile(graph).digest for k in (40, 41)}
    assert len({*digests, DynapSim().compile(graph).digest}) == 3


@pytest.mark.parametrize(("table", "why"), [({"fan_in": 0}, "'fan_in' is 0"), (None, "holds no profile.json")])
def test_a_forged_profile_is_refused(tmp_path: Path, table: dict[str, int] | None, why: str) -> None:
    bundle = DynapSim().compile(constrained("plain")).bundle
    files = {name: text for name, text in bundle.files.items() if name != "profile.json"}
    if table is not None:
        files["profile.json"] = json.dumps({**load_profile("se2").to_json(), **table}).encode()
    Bundle("artifact", files, bundle.facts).write(tmp_path / "build")
    with pytest.raises(ArtifactError, match=f"cannot make its target 'dynap-sim': .*{why}"):
        Artifact.open(str(tmp_path / "build"), TARGETS)


def test_an_artifact_from_before_chip_descriptions_says_what_to_do(tmp_path: Path) -> None:
    bundle = DynapSim().compile(constrained("plain")).bundle
    files = {name: text for name, text in bundle.files.items() if name != "profile.json"}
    Bundle("artifact", files, bundle.facts).write(tmp_path / "build")
    with pytest.raises(ArtifactError) as caught:
        Artifact.open(str(tmp_path / "build"), TARGETS)
    assert caught.value.hint == "it is of a version without chip descriptions: compile the model again"


def test_potentials_beyond_what_is_exact_show_before_there_are_weights() -> None:
    """8 bits, 144 connections, T = 64: told while the graph is analog, refused with weights that large."""
    wide = DynapSim(profile="ideal", bits=8, steps=64)
    found_ = {f.layer: f for f in wide.findings(teacher("residual")) if f.limit == "potential in weight steps"}
    assert found_["relu3"].value == 127 * 144 * 64 > found_["relu3"].allowed == 2**20
    assert (found_["relu3"].ok, found_["relu3"].wall) == (False, False)
    assert found_["relu3"].note == "if all weights of 8 bits were the largest, for 64 steps"
    assert found_["relu1"].ok
    usual = [f for f in DynapSim().findings(teacher("residual")) if f.limit == "potential in weight steps"]
    assert all(f.ok for f in usual)


def test_what_potentials_may_reach_is_a_wall() -> None:
    """Weights of 7 and 1 steps, 4 times, theta and start: 4 * 8 + 3 + 1; at 2^20 it is refused."""
    finding = found(DynapSim(), network(3.0, 1.0), "potential in weight steps")
    assert (finding.value, finding.wall, finding.ok) == (4 * 8 + 3 + 1, True, True)
    with pytest.raises(TargetError, match=r"potential in weight steps 1\.04"):
        DynapSim().place(network(2.0**20))


def test_resets_are_those_of_the_chip_or_told(tmp_path: Path) -> None:
    """SE2 resets to zero; who subtracts is told how many neurons do, and is not refused, strict or not."""
    limit, own = "neurons that the chip resets otherwise", network()
    hint = "try dynap-sim{reset=zero}, in a pipeline threshold-layernorm{reset=zero}"
    for target in (DynapSim(), DynapSim(strict=True)):
        told = found(target, own, limit)
        assert (told.value, told.allowed, told.wall, told.ok) == (256, 0, False, False)
        assert told.note == f"reset=subtract, the chip's is zero; {hint}"
        assert "Rockpool" in told.source
    assert found(DynapSim(), network(reset="zero"), limit).ok
    assert found(DynapSim(profile="ideal"), own, limit).ok
    assert not found(DynapSim(profile="ideal"), network(reset="zero"), limit).ok


def test_the_recipe_has_the_reset_that_is_asked_for() -> None:
    made, _ = DynapSim(reset="zero").pipeline()(teacher("plain"), data=data("plain"))
    assert {node.attrs["reset"] for node in made.nodes if node.op == "lif"} == {"zero"}
    chip = DynapSim(reset="zero", mismatch=0.0).compile(made).load(0)
    [mine], [theirs] = chip.run(images(20)).values(), run(place(made), {"x": images(20)}).values()
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
