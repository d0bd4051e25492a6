"""dynap-sim: laying out, exactness, mismatch and noise, and on-chip learning held to LTL eq. 9 to 11 by hand."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnc import data as datasets
from snnc.artifact import Bundle, canonical, pack, unpack
from snnc.data import Data
from snnc.errors import ArtifactError, PipelineError, TargetError
from snnc.importer import load
from snnc.ir import Array, Constraint, Graph, Node, Stage, roles, verify
from snnc.pipeline import Pipeline
from snnc.sim import torch as executor
from snnc.sim.chunks import Chunk
from snnc.sim.reference import run
from snnc.sim.stepper import Stepper
from snnc.sim.torch import exact as exact_kernels
from snnc.sim.torch import tensors, to_tensor
from snnc.target import Artifact
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.device import ROWS, Device, Model
from snnc.targets.dynap_sim.host import host_readout
from snnc.targets.dynap_sim.learning import LearningBlock, Rule
from snnc.targets.dynap_sim.mismatch import Mismatch
from snnc.targets.dynap_sim.noise import Noise
from snnc.targets.dynap_sim.place import EXACT, FINENESS, place
from snnc.targets.dynap_sim.registers import Register
from snnc.train.units import weights_of
from tests.targets.networks import NETS, RECIPE, STEPS, constrained, counting, data, exact, images, spikes, teacher

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
QUIET = DynapSim(mismatch=0.0)


def stepped(graph: Graph, x: Array, device: Device | None = None) -> list[Stepper]:
    """One stepper, its spikes and potentials recorded: a frozen copy of its state after every step."""
    seen = []
    with torch.inference_mode(), exact_kernels():
        x_in = {"x": to_tensor(x)}
        stepper = Stepper(graph, tensors(graph), x_in) if device is None else device.stepper(x_in, 0)
        for _ in range(graph.steps):
            stepper.step()
            copy = Stepper.__new__(Stepper)
            copy.values, copy.potential, copy.count = dict(stepper.values), dict(stepper.potential), dict(stepper.count)
            copy.t = stepper.t
            seen.append(copy)
    return seen


def chip(graph: Graph, target: DynapSim = QUIET, seed: int = 0) -> DynapChip:
    made = target.compile(graph).load(seed)
    assert isinstance(made, DynapChip)
    return made


# --- laying out


@pytest.mark.parametrize("net", NETS)
def test_every_connection_becomes_a_part_of_its_own(net: str) -> None:
    graph = constrained(net)
    placed = place(graph)
    verify(placed)
    assert placed.stage is Stage.PLACED
    assert not any(n.op in ("conv", "avgpool") and n.type.kind == "current" for n in placed.nodes)
    shared, own = graph.params[graph["conv1"].inputs[1]], placed.params["conv1.weight"]
    assert own.shape == (4, 6, 6, *shared.shape[1:])
    levels = shared / graph.constraints[graph["conv1"].inputs[1]].scale
    np.testing.assert_allclose(own, np.broadcast_to(levels[:, None, None], own.shape), atol=1e-4)
    assert np.abs(own).max() == 7
    for neuron in [n for n in placed.nodes if n.op == "lif"]:
        assert all(placed.params[name].shape == neuron.type.shape for name in roles(neuron, placed.params).values())
    for name, array in placed.params.items():
        if placed.users(name)[0].type.kind != "analog" and not name.endswith("alpha"):
            np.testing.assert_array_equal(array * FINENESS[0], np.rint(array * FINENESS[0]), err_msg=name)


@pytest.mark.parametrize("net", NETS)
def test_placed_and_constrained_graphs_fire_alike(net: str) -> None:
    """Snapping to 1/256 of a weight step moves few spikes."""
    graph = constrained(net)
    x = images(40, seed=2)
    before, after = spikes(graph, x), spikes(place(graph), x)
    for layer, train in before.items():
        assert abs(float(after[layer].mean() - train.mean())) < 0.01, layer
        assert float((after[layer] != train).mean()) < 0.05, layer
    assert sum(float(train.mean()) > 0.05 for train in before.values()) == len(before), "all layers must fire"


@pytest.mark.parametrize("net", NETS)
def test_they_fire_the_same_where_everything_is_a_multiple_of_the_step(net: str) -> None:
    graph = exact(net)
    placed = place(graph)
    x = images(40, seed=3)
    before, after = spikes(graph, x), spikes(placed, x)
    for layer, train in before.items():
        np.testing.assert_array_equal(after[layer], train, err_msg=layer)
        assert 0.02 < train.mean() < 0.98
    np.testing.assert_allclose(run(placed, {"x": x})["y"], run(graph, {"x": x})["y"], atol=1e-5)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("make", [constrained, exact])
def test_all_executors_agree_spike_for_spike(net: str, make: Callable[[str], Graph]) -> None:
    placed = place(make(net))
    x = images(30, seed=4)
    oracle, seen = spikes(placed, x), stepped(placed, x)
    with torch.inference_mode(), exact_kernels():
        folded = executor.forward(placed, tensors(placed), {"x": to_tensor(x)})
    for layer, train in oracle.items():
        np.testing.assert_array_equal(folded[layer].numpy(), train, err_msg=layer)
        np.testing.assert_array_equal(np.stack([s.values[layer].numpy() for s in seen]), train, err_msg=layer)


@pytest.mark.parametrize("net", NETS)
def test_with_its_noise_off_the_chip_is_the_oracle(net: str) -> None:
    graph = counting(constrained(net))
    x = images(150, seed=5)
    ours, theirs = chip(graph).run(x), run(place(graph), {"x": x})
    assert len(ours) == 4 + (net == "pooled")
    for name, array in ours.items():
        if name.startswith("count."):
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    np.testing.assert_allclose(ours["y"], theirs["y"], rtol=1e-4, atol=1e-5)


def test_the_host_reads_out_spike_counts() -> None:
    """sum_t W s[t] = W sum_t s[t]; a bias of every step counts T-fold."""
    graph = exact("plain")
    made = host_readout(graph)
    assert {n.op for n in made.nodes if n.type.kind == "analog"} == {"decode", "dense"}
    assert made["out"].type.kind == "analog"
    x = images(10)
    np.testing.assert_allclose(run(made, {"x": x})["y"], run(graph, {"x": x})["y"], atol=1e-6)
    bias = roles(made["out"], made.params)["bias"]
    np.testing.assert_allclose(made.params[bias], graph.params[bias] * STEPS)
    assert host_readout(made) is made


def edited(graph: Graph, name: str, **arrays: Any) -> Graph:
    """With other params of one node."""
    own = roles(graph[name], graph.params)
    return graph.edit(params={own[role]: np.asarray(array, np.float32) for role, array in arrays.items()})


def test_an_overflow_is_proved_before_it_happens() -> None:
    graph = exact("plain")
    step = graph.constraints[roles(graph["fc"], graph.params)["weight"]].scale
    assert step is not None
    bias = graph.params[roles(graph["fc"], graph.params)["bias"]] * 0
    limit = float(step.max()) * EXACT / STEPS
    fits = edited(graph, "fc", bias=bias + np.float32(0.9 * limit))
    place(fits)
    with pytest.raises(TargetError, match=rf"a potential may reach \d+ weight steps, exact are {EXACT}") as caught:
        place(edited(graph, "fc", bias=bias - np.float32(1.01 * limit)))
    assert caught.value.at == "relu3 (lif), from /relu3/Relu"
    for role in ("u0", "theta"):
        with pytest.raises(TargetError, match="a potential may reach"):
            place(edited(graph, "relu3", **{role: np.float32(float(step.max()) * EXACT)}))


def test_larger_potentials_get_a_coarser_grid() -> None:
    graph = exact("plain")
    step = graph.constraints[roles(graph["fc"], graph.params)["weight"]].scale
    assert step is not None
    bias = roles(graph["fc"], graph.params)["bias"]
    fine = {}
    for share in (0.9 / 64, 0.9):
        large = graph.params[bias] * 0 + np.float32(share * float(step.max()) * EXACT / STEPS)
        placed = place(edited(graph, "fc", bias=large))
        scale = placed.constraints[roles(placed["fc"], placed.params)["bias"]].scale
        assert scale is not None
        fine[share] = round(1 / float(scale))
        for name in roles(placed["relu3"], placed.params).values():
            np.testing.assert_array_equal(placed.params[name] * fine[share], np.rint(placed.params[name] * fine[share]))
    assert fine == {0.9 / 64: 1024, 0.9: 16}


def test_what_the_proof_protects_from() -> None:
    """Beyond the bound float32 loses spikes: the proof is about something real."""
    big, one = np.float32(EXACT), np.float32(1 / min(FINENESS))
    assert big - one != big
    assert big + big + one == big + big


def test_thresholds_and_steps_below_the_resolution() -> None:
    graph = exact("plain")
    with pytest.raises(TargetError, match="a threshold is below the chip's resolution"):
        place(edited(graph, "relu3", theta=np.float32(1e-6), u0=np.float32(0)))


def test_synapses_do_not_chain() -> None:
    recipe = RECIPE.replace("pool-neurons,", "").replace("{k=20}", "{k=200}")
    with pytest.raises(TargetError, match="reads 'avgpool', not neurons") as caught:
        place(constrained("pooled", recipe))
    assert caught.value.at == "conv2 (conv), from /conv2/Conv"
    assert caught.value.hint == "run pool-neurons before threshold-layernorm"


def test_a_current_cannot_be_read_out() -> None:
    graph = exact("plain")
    nodes = [*graph.nodes, Node("peek", "decode", ("fc",))]
    with pytest.raises(TargetError, match="'peek' reads a current, which leaves no chip"):
        place(graph.edit(nodes, outputs={**graph.outputs, "peek": "peek"}))


def test_synapses_shared_by_neurons_of_different_steps_are_refused() -> None:
    """conv2 drives relu2 in its own steps; a second layer that counts in others would change its weights."""
    graph = exact("residual")
    other = [
        Node("twin", "add", ("relu1.worth", "conv2")),
        replace(graph["relu2"], name="relu2b", inputs=("twin", *graph["relu2"].inputs[1:])),
    ]
    made = graph.edit([*graph.nodes, *other, Node("end", "decode", ("relu2b",))], outputs={**graph.outputs, "b": "end"})
    place(made)
    coarse = replace(graph.constraints[roles(graph["conv2"], graph.params)["weight"]])
    assert coarse.scale is not None
    wide = Node(
        "conv3", "conv", ("relu1", "conv3.weight"), {k: v for k, v in graph["conv2"].attrs.items() if k != "bias_at"}
    )
    scale = coarse.scale * 4
    weight = Constraint(4, scale).project(graph.params[roles(graph["conv2"], graph.params)["weight"]] * 4)
    nodes = [wide, replace(other[0], inputs=("conv3", "conv2")), other[1], Node("end", "decode", ("relu2b",))]
    clash = graph.edit(
        [*graph.nodes, *nodes],
        params={"conv3.weight": weight},
        constraints={"conv3.weight": Constraint(4, scale)},
        outputs={**graph.outputs, "b": "end"},
    )
    with pytest.raises(TargetError, match=r"'conv2\.weight' is shared with other neurons"):
        place(clash)


def test_neurons_that_share_their_params_are_told_apart() -> None:
    """Two layers read one threshold, but count in different steps."""
    graph = exact("plain")
    names = graph["relu1"].inputs[1:]
    tied = graph.edit([replace(n, inputs=(n.inputs[0], *names)) if n.op == "lif" else n for n in graph.nodes])
    placed = place(tied)
    x = images(20, seed=6)
    before, after = spikes(tied, x), spikes(placed, x)
    for layer in before:
        assert abs(float(before[layer].mean() - after[layer].mean())) < 0.01


def test_steps_that_differ_within_a_neuron_are_refused() -> None:
    graph = exact("plain")
    name = roles(graph["fc"], graph.params)["weight"]
    weight = graph.params[name]
    uneven = np.full((1, weight.shape[1]), 0.25, np.float32)
    made = graph.edit(params={name: weight * 0}, constraints={name: Constraint(4, uneven)})
    with pytest.raises(TargetError, match="its weight steps differ within a neuron"):
        place(made)


# --- walls


def test_weights_that_are_not_quantized() -> None:
    graph = constrained("plain", RECIPE.replace(",quantize-weights{per=tensor}", ""))
    with pytest.raises(TargetError) as caught:
        QUIET.place(graph)
    assert [p.message for p in caught.value.problems] == ["weights are not quantized"] * 3
    assert [p.at for p in caught.value.problems] == [
        f"{n} ({op}), from /{n}/{o}"
        for n, op, o in (("conv1", "conv", "Conv"), ("conv2", "conv", "Conv"), ("fc", "dense", "Gemm"))
    ]
    assert all("quantize-weights" in p.hint for p in caught.value.problems)


def test_all_walls_are_listed_with_the_users_nodes() -> None:
    graph = constrained("residual", RECIPE.replace("{k=20}", "{k=65}").replace("{per=tensor}", "{bits=6}"))
    with pytest.raises(TargetError) as caught:
        DynapSim(fan_in=64, bits=4).compile(graph)
    text = str(caught.value)
    assert caught.value.message == "the network does not fit 'dynap-sim'"
    assert "  - fan-in 65, the chip has 64\n      at: relu3 (lif), from /relu3/Relu" in text
    for node, op, origin in (("conv1", "conv", "Conv"), ("conv2", "conv", "Conv"), ("fc", "dense", "Gemm")):
        assert f"  - weight bits 6, the chip has 4\n      at: {node} ({op}), from /{node}/{origin}" in text
    assert "limit-fan-in{k=64}" not in text
    assert "try: 'fold-batchnorm,drop-rounding,rectify,replace-activation,replace-max-pool,separate-layers" in text


def test_walls_stand_where_they_stand() -> None:
    graph = constrained("residual", RECIPE.replace("{k=20}", "{k=64}").replace("{per=tensor}", "{bits=4}"))
    DynapSim(fan_in=64, bits=4).place(graph)
    with pytest.raises(TargetError, match="fan-in 64, the chip has 63"):
        DynapSim(fan_in=63, bits=4).place(graph)
    with pytest.raises(TargetError, match="weight bits 4, the chip has 3"):
        DynapSim(fan_in=64, bits=3).place(graph)


def test_neurons_are_a_budget_not_a_wall() -> None:
    [found] = [f for f in QUIET.findings(constrained("residual")) if f.limit == "neurons per chip"]
    assert (found.value, found.wall, found.ok, found.note) == (2 * 4 * 36 + 10, False, True, "")


@pytest.mark.parametrize("options", [{"mismatch": -0.1}, {"silencing": 1.0}, {"guard_bits": 17}, {"rate": math.inf}])
def test_impossible_options(options: dict[str, Any]) -> None:
    [(key, value)] = options.items()
    with pytest.raises(PipelineError, match=f"'dynap-sim' cannot work with {key}={value}"):
        DynapSim(**options)


# --- the device


def device(net: str = "plain", seed: int = 0, **noise: float) -> Device:
    spread = Mismatch("ltl", noise.pop("mismatch", 0.0))
    return Device(place(exact(net)), seed, Model(spread, Noise(**noise)))  # type: ignore[arg-type]


def test_without_mismatch_the_parts_do_what_they_are_set_to() -> None:
    made = device()
    assert all(torch.equal(value, made.nominal[name]) for name, value in made.params().items())


def test_mismatch_has_the_sigma_that_was_asked_for() -> None:
    made = device(mismatch=0.2)
    for name, factor in made.factor.items():
        spread = factor.numpy() - 1
        size = spread.size
        assert abs(spread.mean()) < 4 * 0.2 / math.sqrt(size), name
        assert abs(spread.std() - 0.2) < 4 * 0.2 / math.sqrt(2 * size), name
    every = np.concatenate([f.numpy().ravel() - 1 for f in made.factor.values()])
    assert every.size > 2000
    assert every.std() == pytest.approx(0.2, rel=0.05)
    assert np.unique(every).size > 0.99 * every.size, "every part is drawn for itself"
    params, nominal = made.params(), made.nominal
    weight = nominal["fc.weight"] != 0
    np.testing.assert_allclose(
        (params["fc.weight"] / nominal["fc.weight"])[weight], made.factor["fc.weight"][weight], rtol=1e-5
    )
    assert (params["fc.weight"][~weight] == 0).all(), "a connection that is absent has no mismatch"
    theta = np.concatenate(
        [(params[f"relu{i}.theta"] / nominal[f"relu{i}.theta"]).numpy().ravel() - 1 for i in (1, 2, 3)]
    )
    assert theta.std() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(2 * theta.size))


def test_thresholds_stay_positive_and_leaks_stay_leaks() -> None:
    recipe = RECIPE.replace("{steps=8}", "{steps=8 alpha=0.9}")
    made = Device(place(constrained("plain", recipe)), 0, Model(Mismatch("ltl", 1.0)))
    params = made.params()
    for i in (1, 2, 3):
        nominal = made.nominal[f"relu{i}.theta"]
        assert (params[f"relu{i}.theta"] >= nominal / 10 - 1e-6).all()
        alpha = params[f"relu{i}.alpha"]
        assert ((alpha > 0) & (alpha < 1)).all()
        assert float(alpha.std()) > 0.01
    integrate = Device(place(exact("plain")), 0, Model(Mismatch("ltl", 1.0))).params()["relu1.alpha"]
    assert (integrate == 1).all(), "what does not leak does not begin to"


def counts(made: DynapChip, x: Array) -> dict[str, torch.Tensor]:
    """Every neuron's spike count on the device."""
    stepper = made.device.stepper({"x": to_tensor(x)}, 0)
    for _ in range(made.graph.steps):
        stepper.step()
    return stepper.count


def test_a_seed_is_a_device_and_it_is_frozen() -> None:
    graph, x = exact("plain"), images(20)
    target = DynapSim(mismatch=0.3)
    one, same, other = (chip(graph, target, seed) for seed in (7, 7, 8))
    before = {n: p.clone() for n, p in one.device.params().items()}
    first = one.run(x)["y"]
    np.testing.assert_array_equal(one.run(x)["y"], first)
    for layer, count in counts(one, x[5:9]).items():
        assert torch.equal(count, counts(one, x)[layer][5:9]), "a sample does not know its batch"
    # the host reads out by float32 sums, whose order may follow the batch size: only spikes are promised to the bit
    np.testing.assert_allclose(one.run(x[5:9])["y"], first[5:9], rtol=1e-5)
    assert all(torch.equal(p, before[n]) for n, p in one.device.params().items())
    assert all(torch.equal(p, same.device.params()[n]) for n, p in before.items())
    assert all(not torch.equal(one.device.factor[n], f) for n, f in other.device.factor.items())
    assert not np.array_equal(other.run(x)["y"], first)


def test_thermal_noise_is_the_same_for_the_same_call() -> None:
    graph, x = exact("plain"), images(20)
    hot, cold = chip(graph, DynapSim(mismatch=0.0, thermal=0.3)), chip(graph)
    first = hot.run(x)["y"]
    np.testing.assert_array_equal(hot.run(x)["y"], first)
    np.testing.assert_array_equal(chip(graph, DynapSim(mismatch=0.0, thermal=0.3)).run(x)["y"], first)
    assert not np.array_equal(cold.run(x)["y"], first)
    same = np.repeat(x[:1], 256, axis=0)
    halves = hot.run(same)["y"].reshape(2, 128, 3)
    assert not np.array_equal(halves[0], halves[1]), "noise is drawn anew for every chunk"
    assert np.unique(halves, axis=1).shape[1] > 10, "and for every sample"
    assert np.ptp(cold.run(same)["y"], axis=0).max() < 1e-5


def test_thermal_noise_multiplies_the_current() -> None:
    made = device(thermal=0.1)
    current = torch.full((4000,), 3.0)
    with torch.inference_mode():
        heated = made.stepper({"x": to_tensor(images(1))}, 0).disturb["current"](made.graph["relu1"], current[None])[0]
    assert float(heated.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(heated.std()) == pytest.approx(0.3, rel=0.06)


def test_silenced_neurons_never_fire() -> None:
    made = device("residual", silencing=0.3)
    alive = torch.cat([mask.flatten() for mask in made.silent.values()])
    assert float(alive.mean()) == pytest.approx(0.7, abs=0.08)
    seen = stepped(made.graph, images(30), made)
    for layer, mask in made.silent.items():
        assert set(mask.flatten().tolist()) == {0.0, 1.0}
        count = seen[-1].count[layer].sum(0)
        assert (count[mask == 0] == 0).all()
        assert (count[mask == 1] > 0).float().mean() > 0.2
    assert device("residual").silent == {}
    again = device("residual", silencing=0.3).silent
    assert all(torch.equal(mask, again[layer]) for layer, mask in made.silent.items())


# --- on-chip learning


WIDTH, RATE, WARM = 1.5, 0.01, 3
MANY_GUARD_BITS = Rule(RATE, WIDTH, WARM, 16)


def learned(
    net: str, targets: Mapping[str, Array], x: Array, rule: Rule = MANY_GUARD_BITS
) -> tuple[LearningBlock, dict[str, Array], dict[str, Array]]:
    """A block after one batch, the gradient that it found and the changes that it asked for, by param."""
    made = device(net, mismatch=0.2)
    block = LearningBlock(made, rule)
    block.begin(1, 10)
    found: dict[str, Array] = {}
    asked: dict[str, Array] = {}
    for name, register in block.registers.items():

        def write(change: torch.Tensor, noise: torch.Generator, name: str = name, register: Register = register) -> int:
            asked[name] = change.numpy().copy()
            return Register.write(register, change, noise)

        register.write = write  # type: ignore[method-assign]

    def gradients(*given: Any) -> dict[str, torch.Tensor]:
        made = LearningBlock.gradients(block, *given)
        found.update({name: gradient.numpy().copy() for name, gradient in made.items()})
        return made

    block.gradients = gradients  # type: ignore[method-assign]
    with torch.inference_mode(), exact_kernels():
        block.learn(made.stepper({"x": to_tensor(x)}, 0), {layer: to_tensor(rate) for layer, rate in targets.items()})
    return block, found, asked


def targets_for(net: str, count: int) -> dict[str, Array]:
    rng = np.random.default_rng(13)
    graph = place(exact(net))
    layers = [n for n in graph.nodes if n.op == "lif" and not n.name.endswith(".neurons")]
    return {n.name: rng.random((count, *n.type.shape)).astype(np.float32) for n in layers}


def errors_by_hand(net: str, layer: str, x: Array, rate: Array, warm_up: int = WARM) -> list[tuple[Stepper, Array]]:
    """For every step behind the warm-up: the state, and zeta * dS/dU from eq. 11 and eq. 8, in units of theta^2."""
    made = device(net, mismatch=0.2)
    theta = made.nominal[f"{layer}.theta"].numpy().astype(np.float64)
    p = WIDTH * theta
    found = []
    for state in stepped(made.graph, x, made):
        t, potential = state.t, state.potential[layer].numpy()
        zeta = -(2 / t) * (rate - state.count[layer].numpy() / t)
        boxcar = (np.abs(potential - theta) < p / 2) / p
        if t > warm_up:
            found.append((state, theta**2 * zeta * boxcar / len(x)))
    return found


@pytest.mark.parametrize(("net", "rows"), [("plain", 128), ("plain", 10), ("residual", 5), ("pooled", 128)])
def test_dense_weights_follow_equations_9_to_11(net: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snnc.targets.dynap_sim.device.ROWS", rows)
    x = images(5, seed=14)
    targets = targets_for(net, 5)
    _, found, _ = learned(net, targets, x)
    weight, bias = np.zeros_like(found["fc.weight"]), np.zeros_like(found["fc.bias"])
    for state, error in errors_by_hand(net, "relu3", x, targets["relu3"]):
        before = state.values["relu2"].numpy().reshape(5, -1)
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                weight[i, j] += (error[:, i] * before[:, j]).sum()
            bias[i] += error[:, i].sum()
    assert np.abs(weight).max() > 0
    np.testing.assert_allclose(found["fc.weight"], weight, atol=1e-4 * np.abs(weight).max())
    np.testing.assert_allclose(found["fc.bias"], bias, atol=1e-4 * np.abs(bias).max())


@pytest.mark.parametrize(
    ("net", "layer", "conv", "source", "stride", "group"),
    [
        ("plain", "relu1", "conv1", "x.current", 1, 1),
        ("plain", "relu2", "conv2", "relu1", 2, 2),
        ("residual", "relu2", "conv2", "relu1", 1, 1),
        ("pooled", "relu2", "conv2", "pool.neurons", 1, 1),
    ],
)
def test_local_weights_follow_equations_9_to_11(
    net: str, layer: str, conv: str, source: str, stride: int, group: int
) -> None:
    """Every position of a kernel learns by itself."""
    x = images(4, seed=15)
    targets = targets_for(net, 4)
    _, found, _ = learned(net, targets, x)
    weight, bias = np.zeros_like(found[f"{conv}.weight"]), np.zeros_like(found[f"{conv}.bias"])
    out, high, wide, inner, *_ = weight.shape
    for state, error in errors_by_hand(net, layer, x, targets[layer]):
        padded = np.pad(state.values[source].numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
        for o in range(out):
            first = o // (out // group) * inner
            for r in range(high):
                for c in range(wide):
                    window = padded[:, first : first + inner, r * stride : r * stride + 3, c * stride : c * stride + 3]
                    weight[o, r, c] += np.tensordot(error[:, o, r, c], window, 1)
        bias += error.sum(axis=0)
    assert np.abs(weight).max() > 0
    np.testing.assert_allclose(found[f"{conv}.weight"], weight, atol=1e-4 * np.abs(weight).max())
    np.testing.assert_allclose(found[f"{conv}.bias"], bias, atol=1e-4 * np.abs(bias).max())


def test_the_first_step_is_a_rate_of_its_unit_and_the_last_is_none() -> None:
    """Adam's first step is the sign of the gradient; the rate falls to 0 over the batches of an epoch."""
    x, targets = images(5, seed=14), targets_for("plain", 5)
    block, found, asked = learned("plain", targets, x)
    units = weights_of(block.device.graph)
    for name, gradient in found.items():
        clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max()
        wanted = -RATE * units[name] * np.sign(gradient)
        np.testing.assert_allclose(asked[name][clear], wanted[clear], rtol=1e-4)
    sizes = []
    for i in range(10):
        with torch.inference_mode(), exact_kernels():
            given = {layer: to_tensor(rate) for layer, rate in targets.items()}
            block.learn(block.device.stepper({"x": to_tensor(x)}, i), given)
        sizes.append(max(float(np.abs(change).max() / units[name]) for name, change in asked.items()))
    assert sizes[8] < 0.1 * sizes[0]
    assert sizes[9] == 0


def test_with_many_guard_bits_the_register_holds_the_update() -> None:
    x = images(5, seed=14)
    block, _, asked = learned("plain", targets_for("plain", 5), x)
    start = device("plain", mismatch=0.2).nominal
    for name, register in block.registers.items():
        quantum = (register.unit / register.guard).numpy()
        change = asked[name] if register.mask is None else asked[name] * register.mask.numpy()
        room = register.top / register.guard * register.unit.numpy()
        wanted = np.clip(start[name].numpy() + change, -room, room)
        stored = register.stored.numpy() * quantum
        assert (np.abs(stored - wanted) <= 1.01 * quantum + 1e-6 * np.abs(wanted)).all(), name
        assert torch.equal(block.device.nominal[name], register.nominal())


def test_no_update_during_the_warm_up() -> None:
    x, targets = images(5, seed=14), targets_for("plain", 5)
    _, late, _ = learned("plain", targets, x, Rule(RATE, WIDTH, STEPS - 1, 16))
    [(state, error)] = errors_by_hand("plain", "relu3", x, targets["relu3"], STEPS - 1)
    by_hand = error.T @ state.values["relu2"].numpy().reshape(5, -1)
    np.testing.assert_allclose(late["fc.weight"], by_hand, atol=1e-4 * np.abs(by_hand).max())
    block, none, _ = learned("plain", targets, x, Rule(RATE, WIDTH, STEPS, 16))
    assert none == {}
    assert block.writes == 0


def test_absent_connections_stay_absent_and_levels_stay_on_the_chip() -> None:
    """However fast it learns: rate 1e12 asks for changes beyond any integer."""
    for rate in (10.0, 1e12):
        block, _, asked = learned("plain", targets_for("plain", 5), images(5), Rule(rate, WIDTH, 0, 7))
        for name in ("conv1.weight", "conv2.weight", "fc.weight"):
            register, mask = block.registers[name], block.device.one.constraints[name].mask
            assert mask is not None
            assert register.top == 7 * 2**7
            stored = register.stored.numpy()
            assert (stored[~mask] == 0).all()
            assert np.abs(stored).max() == register.top
            sure = mask & (np.abs(asked[name]) > 20 * np.broadcast_to(register.unit.numpy(), mask.shape))
            assert sure.any()
            np.testing.assert_array_equal(stored[sure], register.top * np.sign(asked[name][sure]), err_msg=name)
            levels = (block.device.nominal[name] / register.unit).numpy()
            np.testing.assert_array_equal(levels, np.rint(levels))
            assert np.abs(levels).max() == 7
    mask = device("plain").one.constraints["fc.weight"].mask
    assert mask is not None
    assert not mask.all()


def test_closed_gates_write_nothing() -> None:
    """Potentials far from the threshold: no update, whatever the error."""
    graph = exact("plain")
    for name in ("conv1", "conv2", "fc"):
        own = roles(graph[name], graph.params)
        graph = edited(
            graph, name, bias=np.full(graph.params[own["bias"]].shape, -5 * float(graph.params["relu1.theta"].max()))
        )
    for name in ("relu1", "relu2", "relu3"):
        graph = edited(graph, name, u0=np.zeros_like(graph.params[f"{name}.u0"]))
    made = Device(place(graph), 0, Model(Mismatch("none")))
    block = LearningBlock(made, Rule(1e3, 0.1, 0, 7))
    block.begin(1, 1)
    before = {n: r.stored.clone() for n, r in block.registers.items()}
    with torch.inference_mode():
        targets = {k: to_tensor(v) for k, v in targets_for("plain", 4).items()}
        block.learn(made.stepper({"x": torch.zeros(4, 1, 6, 6)}, 0), targets)
    assert block.writes == 0
    assert all(torch.equal(r.stored, before[n]) for n, r in block.registers.items())


def test_rounding_is_stochastic_and_fair() -> None:
    graph = place(exact("plain"))
    register = Register(graph, "fc.weight", tensors(graph)["fc.weight"], 4)
    before = register.stored.clone()
    noise = torch.Generator().manual_seed(0)
    mask = register.mask
    assert mask is not None
    start = before * 0
    total = torch.zeros(before.shape)
    for _ in range(400):
        register.restore(start.numpy())
        register.write(torch.full(before.shape, 0.3) * register.unit / register.guard, [noise])
        total += register.stored
    mean = (total / 400)[mask]
    assert float(mean.mean()) == pytest.approx(0.3, abs=0.01)
    assert set(register.stored.flatten().tolist()) == {0, 1}
    register.restore(before.numpy())
    assert torch.equal(register.nominal()[mask] / register.unit.expand(mask.shape)[mask], (before[mask] / 16).round())


def held_at_the_last_step(steps: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of all tensors alive when the last step of a batch begins, of one that is too large for several at once."""
    graph = replace(exact("plain"), steps=steps)
    made = Device(place(graph), 0, Model(Mismatch("ltl", 0.2)))
    block = LearningBlock(made, Rule(0.1, 1.0, 2, 7))
    block.begin(1, 1)
    found: list[int] = []
    real = Chunk.__init__
    others = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.requires_grad]  # of other tests' modules

    def step(self: Chunk, state: Stepper, *given: Any, **options: Any) -> None:
        assert not torch.is_grad_enabled()
        if state.t == steps - 1:
            gc.collect()
            alive = [o for o in gc.get_objects() if type(o) is torch.Tensor]
            assert sum(o.requires_grad for o in alive) == len(others)
            found.append(sum({o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in alive}.values()))
        real(self, state, *given, **options)

    monkeypatch.setattr(Chunk, "__init__", step)
    with torch.inference_mode(), exact_kernels():
        x = to_tensor(images(ROWS))
        targets = {k: to_tensor(v) for k, v in targets_for("plain", ROWS).items()}
        block.learn(made.stepper({"x": x}, 0), targets)
    monkeypatch.undo()
    [held] = found
    return held


def test_memory_does_not_grow_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    exact("plain")
    gc.collect()
    short, long = held_at_the_last_step(8, monkeypatch), held_at_the_last_step(64, monkeypatch)
    assert short == long
    assert short > 10_000


def test_no_gradient_is_traced_during_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    real = Chunk.__init__

    def step(self: Chunk, *given: Any, **options: Any) -> None:
        real(self, *given, **options)
        seen.append(torch.is_grad_enabled() or any(v.requires_grad for v in self.values.values()))

    monkeypatch.setattr(Chunk, "__init__", step)
    chip(exact("plain"), DynapSim()).calibrate(data("plain"))
    assert seen
    assert not any(seen)


def test_learning_moves_rates_towards_their_targets() -> None:
    """Ten batches of the same samples: the layers' rates come closer to what was asked for."""
    x, net = images(16, seed=16), "plain"
    made = device(net, mismatch=0.3)
    ideal = stepped(place(exact(net)), x)[-1]
    targets = {layer: count / STEPS for layer, count in ideal.count.items()}
    block = LearningBlock(made, Rule(0.02, 1.0, 4, 7))
    block.begin(1, 30)

    def distance() -> float:
        count = stepped(made.graph, x, made)[-1].count
        return sum(float((count[layer] / STEPS - rate).square().mean()) for layer, rate in targets.items())

    before = distance()
    with torch.inference_mode(), exact_kernels():
        for i in range(30):
            block.learn(made.stepper({"x": to_tensor(x)}, i), targets)
    assert distance() < 0.7 * before
    assert block.writes > 0


# --- the digits


@pytest.fixture(scope="module")
def digits() -> Data:
    return datasets.load(EXAMPLES / "digits.npz", train_samples=500, test_samples=20)


@pytest.fixture(scope="module")
def artifact(digits: Data) -> Artifact:
    target = DynapSim(steps=8, mismatch=0.35)
    recipe = Pipeline(*(step for step in target.pipeline().passes if step.name != "ltl"))
    return target.compile(recipe(load(EXAMPLES / "digits_cnn.onnx"), data=digits)[0])


def test_calibration_repairs_a_mismatched_chip(artifact: Artifact, digits: Data) -> None:
    ledger = artifact.load(seed=2).calibrate(digits)
    before, after = ledger.rows
    assert before.accuracy is not None
    assert after.accuracy is not None
    assert after.accuracy > before.accuracy + 0.05
    assert "writes per synapse (99 %: up to" in after.notes[0]


# --- the state of a chip


def test_a_state_is_restored_through_a_file(tmp_path: Path) -> None:
    one = chip(exact("plain"), DynapSim(), 4)
    one.calibrate(data("plain"), epochs=2)
    one.state().write(tmp_path / "chip")
    again = one.artifact.load(4, Bundle.read(tmp_path / "chip", "chip"))
    assert isinstance(again, DynapChip)
    x = images(30)
    np.testing.assert_array_equal(again.run(x)["y"], one.run(x)["y"])
    assert again.state().facts == {"seed": 4, "epochs": 2, "artifact": one.artifact.digest}
    for name, value in one.device.params().items():
        assert torch.equal(again.device.params()[name], value)


def test_a_stored_calibration_goes_on_as_if_it_had_not_stopped() -> None:
    one, other = chip(exact("plain"), DynapSim(), 4), chip(exact("plain"), DynapSim(), 4)
    one.calibrate(data("plain"), epochs=2)
    other.calibrate(data("plain"), epochs=1)
    again = other.artifact.load(4, other.state())
    again.calibrate(data("plain"), epochs=1)
    assert again.state().files == one.state().files


def spoil(**arrays: Callable[[Array], Array]) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda stored: {**stored, **{n: change(stored[n]) for n, change in arrays.items()}}


@pytest.mark.parametrize(
    "change",
    [
        spoil(**{"fc.weight": lambda a: a * 0 + 2**20}),
        spoil(**{"fc.weight": lambda a: a * 0 + 5}),
        spoil(**{"fc.weight": lambda a: a.astype(np.float32) * np.float32("nan")}),
        spoil(**{"fc.weight": lambda a: a.astype(np.int64)}),
        spoil(**{"fc.weight": lambda a: a[:1]}),
        spoil(**{"fc.weight": lambda a: np.full_like(a, -(2**31))}),
        lambda stored: {n: a for n, a in stored.items() if n != "fc.weight"},
    ],
    ids=["beyond the top", "absent connections", "nan", "dtype", "shape", "lowest integer", "missing"],
)
def test_a_state_that_no_chip_can_have_is_refused(change: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
    one = chip(exact("plain"), DynapSim(), 4)
    state = one.state()
    assert not one.block.registers["fc.weight"].mask.all()  # type: ignore[union-attr]
    files = {**state.files, "state.safetensors": pack(change(unpack(state, "state.safetensors")))}
    with pytest.raises(ArtifactError, match=r"the state has no fitting 'fc\.weight'"):
        one.artifact.load(4, Bundle("chip", files, state.facts))


def test_a_state_says_whose_it_is() -> None:
    one, x = chip(exact("plain"), DynapSim(), 4), images(4)
    with pytest.raises(ArtifactError, match=r"the state is of chip 4 .* this is chip 5"):
        one.artifact.load(5, one.state())
    other = chip(exact("residual"), DynapSim(), 4)
    with pytest.raises(ArtifactError, match="the state is of chip 4 with artifact"):
        other.artifact.load(4, one.state())
    spoilt: list[Any] = [[], {}, {"seed": 4}, {"seed": 4, "epochs": "x", "artifact": one.artifact.digest}]
    for about in spoilt:
        files = {**one.state().files, "chip.json": canonical(about)}
        with pytest.raises(ArtifactError):
            one.artifact.load(4, Bundle("chip", files, {}))
    assert one.run(x)["y"].shape == (4, 3)


def test_the_teacher_is_in_the_artifact() -> None:
    made = QUIET.compile(exact("plain"))
    assert {"teacher.txt", "teacher.safetensors"} <= set(made.bundle.files)
    assert made.graph.teacher is not None
    assert [n.name for n in made.graph.teacher.nodes] == [n.name for n in teacher("plain").nodes]


def test_rate_coding_is_refused() -> None:
    """The learning block takes the input's events for the steps of a constant current."""
    recipe = RECIPE.replace("threshold-layernorm{", "threshold-layernorm{code=rate ")
    assert "code=rate steps" in recipe
    with pytest.raises(TargetError, match="'rate' coding is not modelled"):
        place(constrained("plain", recipe))
