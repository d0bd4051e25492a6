"""The learning block in hardware terms, held to an account by hand of counters, comparators and single writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from snnc.ir import Array
from snnc.sim.torch import exact as exact_kernels
from snnc.sim.torch import to_tensor
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.counters import CountingBlock
from snnc.targets.dynap_sim.device import Device, Model
from snnc.targets.dynap_sim.learning import Block, Rule, Seen
from snnc.targets.dynap_sim.mismatch import Mismatch
from snnc.targets.dynap_sim.place import place
from snnc.targets.dynap_sim.profile import load_profile
from snnc.targets.dynap_sim.registers import Register, Wear, pack, room_for, unpack
from tests.targets.networks import STEPS, data, exact, images

WIDTH, WARM = 1.5, 3
SURE = replace(load_profile("se2").learning, certain=2**-8)
"""Every error outside the dead zone is written."""
RULE = Rule(0.1, WIDTH, WARM, 7, counters=SURE)


def device(net: str = "plain", mismatch: float = 0.2) -> Device:
    return Device(place(exact(net)), 0, Model(Mismatch("ltl", mismatch)))


def counting(made: Device, rule: Rule = RULE, batches: int = 10**9) -> CountingBlock:
    block = CountingBlock(made, rule)
    block.begin(1, batches)
    return block


def rates(net: str, count: int) -> dict[str, Array]:
    rng = np.random.default_rng(13)
    layers = [n for n in place(exact(net)).nodes if n.op == "lif" and not n.name.endswith(".neurons")]
    return {n.name: rng.random((count, *n.type.shape)).astype(np.float32) for n in layers}


def taught(block: Block, x: Array, targets: Mapping[str, Array], stream: int = 0) -> list[dict[str, Any]]:
    """One batch; the state of the device at every step, one by one."""
    seen: list[dict[str, Any]] = []
    with torch.inference_mode(), exact_kernels():
        stepper = block.device.stepper({"x": to_tensor(x)}, stream)
        for _ in range(block.device.graph.steps):
            stepper.step()
            seen.append(
                {
                    "values": {n: v.numpy().copy() for n, v in stepper.values.items()},
                    "count": {n: v.numpy().copy() for n, v in stepper.count.items()},
                    "potential": {n: v.numpy().copy() for n, v in stepper.potential.items()},
                }
            )
        stepper = block.device.stepper({"x": to_tensor(x)}, stream)
        block.learn(stepper, {layer: to_tensor(rate) for layer, rate in targets.items()})
    return seen


def flags_by_hand(seen: list[dict[str, Any]], theta: Array, layer: str, rate: Array) -> list[Array]:
    """UP - DOWN of every neuron at every step, one by one, in whole numbers."""
    register = np.clip(np.rint(rate.astype(np.float64) * 256), 0, 255).astype(int)
    found = []
    for t, state in enumerate(seen, start=1):
        flags = np.zeros(rate.shape, int)
        for i in np.ndindex(rate.shape):
            error = min(t * int(register[i]), 63 * 256) - 256 * min(int(state["count"][layer][i]), 63)
            opened = abs(float(state["potential"][layer][i]) - theta[i[1:]]) < WIDTH * theta[i[1:]] / 2
            if t > WARM and opened and abs(error) > 128:
                flags[i] = 1 if error > 0 else -1
        found.append(flags)
    return found


@pytest.mark.parametrize(("net", "rows"), [("plain", 128), ("plain", 10), ("residual", 5), ("pooled", 128)])
def test_dense_synapses_are_written_as_by_hand(net: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snnc.targets.dynap_sim.device.ROWS", rows)
    x, targets = images(5, seed=14), rates(net, 5)
    made = device(net)
    block = counting(made, RULE)
    before = {name: r.stored.numpy().astype(int) for name, r in block.registers.items()}
    theta = made.nominal["relu3.theta"].numpy()
    seen = taught(block, x, targets)
    weight, writes = np.zeros_like(before["fc.weight"]), np.zeros_like(before["fc.weight"])
    bias = np.zeros_like(before["fc.bias"])
    for state, flags in zip(seen, flags_by_hand(seen, theta, "relu3", targets["relu3"]), strict=True):
        spikes = state["values"]["relu2"].reshape(5, -1).astype(int)
        for n in range(5):
            weight += np.outer(flags[n], spikes[n])
            writes += np.outer(abs(flags[n]), spikes[n])
            bias += flags[n]
    register = block.registers["fc.weight"]
    assert register.mask is not None
    mask = register.mask.numpy()
    assert np.abs(weight[mask]).max() > 3
    wanted = np.clip(before["fc.weight"] + weight * mask, -register.top, register.top)
    np.testing.assert_array_equal(register.stored.numpy(), wanted)
    np.testing.assert_array_equal(register.counted.numpy(), writes * mask)
    lsb = block.registers["fc.bias"].lsb
    assert lsb == 1024 / 2**7
    np.testing.assert_array_equal(block.registers["fc.bias"].stored.numpy(), before["fc.bias"] + lsb * bias)
    assert torch.equal(made.nominal["fc.weight"], register.nominal())
    assert "int" in str(register.stored.dtype)


def test_local_synapses_are_written_as_by_hand() -> None:
    """conv2 of the plain network: stride 2, two groups; every position by itself."""
    x, targets = images(4, seed=15), rates("plain", 4)
    made = device()
    block = counting(made, RULE)
    register = block.registers["conv2.weight"]
    before = register.stored.numpy().astype(int)
    seen = taught(block, x, targets)
    change = np.zeros_like(before)
    out, high, wide, inner, *_ = before.shape
    theta = made.nominal["relu2.theta"].numpy()
    for state, flags in zip(seen, flags_by_hand(seen, theta, "relu2", targets["relu2"]), strict=True):
        padded = np.pad(state["values"]["relu1"], ((0, 0), (0, 0), (1, 1), (1, 1))).astype(int)
        for o, r, c in np.ndindex(out, high, wide):
            first = o // (out // 2) * inner
            window = padded[:, first : first + inner, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3]
            change[o, r, c] += np.tensordot(flags[:, o, r, c], window, 1)
    assert np.abs(change).max() > 3
    assert register.mask is not None
    wanted = np.clip(before + change * register.mask.numpy(), -register.top, register.top)
    np.testing.assert_array_equal(register.stored.numpy(), wanted)


def test_synapses_of_the_input_count_writes_of_either_sign() -> None:
    """conv1 of the plain network; every pixel is as large as the largest, so that it is an event at every step."""
    rng = np.random.default_rng(16)
    x, targets = np.where(rng.random((4, 1, 6, 6)) < 0.5, -2, 2).astype(np.float32), rates("plain", 4)
    made = device()
    block = counting(made, RULE)
    register = block.registers["conv1.weight"]
    before = register.stored.numpy().astype(int)
    theta = made.nominal["relu1.theta"].numpy()
    seen = taught(block, x, targets)
    change, writes = np.zeros_like(before), np.zeros_like(before)
    padded = np.pad(np.sign(x), ((0, 0), (0, 0), (1, 1), (1, 1))).astype(int)
    for flags in flags_by_hand(seen, theta, "relu1", targets["relu1"]):
        for o, r, c in np.ndindex(before.shape[:3]):
            window = padded[:, :, r : r + 3, c : c + 3]
            change[o, r, c] += np.tensordot(flags[:, o, r, c], window, 1)
            writes[o, r, c] += np.tensordot(abs(flags[:, o, r, c]), abs(window), 1)
    assert register.mask is not None
    mask = register.mask.numpy()
    assert change.min() < 0 < change.max()
    assert (writes > abs(change)).any()
    np.testing.assert_array_equal(register.stored.numpy(), np.clip(before + change * mask, -register.top, register.top))
    np.testing.assert_array_equal(register.counted.numpy(), writes * mask)


def test_direct_inputs_are_events_as_probable_as_they_are_large() -> None:
    block = counting(device(), RULE)
    x = torch.tensor([[0.0, 0.25, -0.5, 1.0]]).expand(4000, 4) * 3
    events = block._events(x, True)
    assert set(events.flatten().tolist()) == {-1.0, 0.0, 1.0}
    np.testing.assert_allclose(events.mean(0), [0, 0.25, -0.5, 1.0], atol=0.03)
    assert (block._events(torch.zeros(2, 4), True) == 0).all()
    assert block._events(torch.tensor([[0.0, 2.0]]), False).tolist() == [[0.0, 1.0]]


def test_a_write_is_as_probable_as_asked() -> None:
    x, targets = images(64, seed=14), rates("plain", 64)
    found = {}
    for p in (1.0, 0.25):
        block = counting(device(), Rule(0.1, WIDTH, WARM, 7, p, SURE))
        taught(block, x, targets)
        found[p] = int(block.registers["fc.weight"].counted.sum())
    assert found[1.0] > 1500
    assert found[0.25] / found[1.0] == pytest.approx(0.25, abs=0.04)


def test_writes_become_rarer_over_an_epoch() -> None:
    x, targets = images(64, seed=14), rates("plain", 64)
    block = counting(device(), Rule(0.1, WIDTH, WARM, 7, 0.8), batches=4)
    chances = []
    for i in range(5):
        chances.append(block.chance)
        taught(block, x, targets, i)
    assert chances == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    before = block.writes
    taught(block, x, targets)
    assert block.writes == before
    block.begin(2, 4)
    assert block.chance == 0.8


def test_inside_the_dead_zone_nothing_is_written() -> None:
    """Targets that the counts meet: after every step each neuron is within a count of t * rate."""
    x = images(6, seed=16)
    made = device(mismatch=0.0)
    block = counting(made, Rule(0.1, WIDTH, STEPS - 1, 7))
    with torch.inference_mode(), exact_kernels():
        stepper = made.stepper({"x": to_tensor(x)}, 0)
        for _ in range(STEPS):
            stepper.step()
    met = {layer: (count / STEPS).numpy() for layer, count in stepper.count.items()}
    taught(block, x, met)
    assert block.writes == 0
    off = {layer: np.clip(rate + 1.5 / STEPS, 0, 1).astype(np.float32) for layer, rate in met.items()}
    taught(block, x, off)
    assert block.writes > 0


def test_no_write_during_the_warm_up() -> None:
    block = counting(device(), Rule(0.1, WIDTH, STEPS, 7))
    taught(block, images(5), rates("plain", 5))
    assert block.writes == 0


def test_counters_saturate() -> None:
    """Beyond 63 counts neither the counter nor the accumulator goes on: there is no error left."""
    made = device()
    block = counting(made, RULE)
    neuron = made.graph["relu3"]
    counts, potential = {"relu3": torch.full((1, 1, 10), 70.0)}, {"relu3": made.nominal["relu3.theta"][None, None]}
    late = Seen(torch.tensor([1]), {}, potential, counts)
    assert (block._flags(late, neuron, torch.full((1, 10), 63.0 * 256))[0] == 0).all()
    assert (block._flags(late, neuron, torch.full((1, 10), 62.0 * 256 - 1))[0] == -1).all()


def test_writes_are_as_frequent_as_the_error_is_large() -> None:
    """Up to `certain` counts: of errors of 3 counts three quarters are written, of 0.75 counts a fifth, of 6 all."""
    made = device()
    block = counting(made, Rule(0.1, WIDTH, WARM, 7))
    potential = {"relu3": made.nominal["relu3.theta"][None, None]}
    for counts, often in ((3.0, 0.75), (0.75, 0.1875), (6.0, 1.0)):
        seen = Seen(torch.tensor([1]), {}, potential, {"relu3": torch.zeros(1, 1, 10)})
        flags, found = block._flags(seen, made.graph["relu3"], torch.full((1, 10), counts * 256))
        assert (flags == 1).all()
        np.testing.assert_allclose(found, often)
    x, targets = images(64, seed=14), rates("plain", 64)
    writes = {}
    for counters in (SURE, replace(SURE, certain=1000)):
        block = counting(device(), Rule(0.1, WIDTH, WARM, 7, 1.0, counters))
        taught(block, x, targets)
        writes[counters.certain] = int(block.registers["fc.weight"].counted.sum())
    assert 0 < writes[1000] < writes[SURE.certain] / 50


def test_registers_saturate_and_absent_connections_stay_absent() -> None:
    made = device()
    register = Register(made.one, "fc.weight", made.nominal["fc.weight"], 7)
    assert register.mask is not None
    much = torch.full(register.stored.shape, 10_000, dtype=torch.float64)
    register.add(pack(much, much))
    assert (register.stored[register.mask] == 7 * 2**7).all()
    assert (register.stored[~register.mask] == 0).all()
    assert (register.counted[~register.mask] == 0).all()
    assert (register.nominal() / register.unit).max() == 7
    register.add(pack(-much, much))
    assert (register.stored[register.mask] == -7 * 2**7).all()


@pytest.mark.parametrize("writes", [2047, 2048, 10**6])
def test_packed_sums_are_exact(writes: int) -> None:
    rng = np.random.default_rng(writes)
    net = torch.tensor(rng.integers(-1, 2, (writes, 7)), dtype=room_for(writes))
    net[:, 0], net[:, 1] = 1, -1
    packed = pack(net, net.abs()).sum(0)
    found, gross = unpack(packed)
    assert torch.equal(found, net.sum(0))
    assert torch.equal(gross, net.abs().sum(0))
    assert found[:2].tolist() == [writes, -writes]
    assert room_for(writes) is (torch.float32 if writes < 2048 else torch.float64)


def test_a_large_batch_is_written_like_a_small_one() -> None:
    """300 samples of 8 steps could be more writes than a packed float32 holds."""
    x, targets = images(3, seed=14), rates("plain", 3)
    changes = []
    for repeats in (1, 100):
        made = device()
        block = counting(made, RULE)
        register = block.registers["fc.weight"]
        before = register.stored.clone()
        taught(block, np.concatenate([x] * repeats), {k: np.concatenate([v] * repeats) for k, v in targets.items()})
        changes.append((register.stored - before, register.counted))
    assert torch.equal(100 * changes[0][1], changes[1][1])
    inside = (100 * changes[0][0] + before).abs() < register.top
    assert inside.any()
    assert torch.equal((100 * changes[0][0])[inside], changes[1][0][inside])


def test_a_step_without_bounds_saturates_what_is_there() -> None:
    made = device()
    register = Register(made.one, "fc.weight", made.nominal["fc.weight"], 7)
    assert register.mask is not None
    for size in (torch.inf, -torch.inf):
        register.write(torch.full(register.stored.shape, size), [torch.Generator()])
        assert (register.stored[register.mask] == (1 if size > 0 else -1) * 7 * 2**7).all()
        assert (register.stored[~register.mask] == 0).all()
        assert register.nominal().isfinite().all()


def test_wear_counts_the_synapses_that_there_are() -> None:
    made = device()
    registers = {name: Register(made.one, name, made.nominal[name], 7) for name in ("fc.weight", "fc.bias")}
    weight, bias = registers["fc.weight"], registers["fc.bias"]
    assert weight.mask is not None
    present = int(weight.mask.sum())
    bias.add(pack(torch.ones(bias.stored.shape, dtype=torch.float64), torch.tensor(5000.0)))
    gross = torch.zeros(weight.stored.shape)
    first = tuple(torch.nonzero(weight.mask)[0].tolist())
    gross[first] = 1000
    net = torch.zeros_like(gross)
    net[first] = 128 * (1 if weight.stored[first] < 0 else -1)
    weight.add(pack(net, gross))
    wear = Wear.of(registers.values())
    assert (wear.most, wear.p99, wear.moved_most) == (1000, 0, 1)
    assert wear.mean == pytest.approx(1000 / present)
    assert "most 1000" in str(wear)
    assert "lasts 1,000 such epochs" in str(wear)
    weight.forget()
    assert str(Wear.of(registers.values())).endswith("0.00 changes of level (most 0)")


def test_it_repairs_a_mismatched_network() -> None:
    """Thirty batches of the same samples: the layers' rates come closer to those of the device without mismatch."""
    x, net = images(16, seed=16), "plain"
    made = device(net, 0.3)

    def counted(some: Device) -> dict[str, Array]:
        with torch.inference_mode(), exact_kernels():
            stepper = some.stepper({"x": to_tensor(x)}, 0)
            for _ in range(STEPS):
                stepper.step()
        return {layer: (count / STEPS).numpy() for layer, count in stepper.count.items()}

    targets = counted(device(net, 0.0))

    def distance() -> float:
        return sum(float(((rate - targets[layer]) ** 2).mean()) for layer, rate in counted(made).items())

    before = distance()
    block = counting(made, Rule(0.1, 1.0, 2, 5))
    for i in range(30):
        taught(block, x, targets, i)
    assert distance() < 0.8 * before


def chip(**options: Any) -> DynapChip:
    made = DynapSim(learning="hardware", mismatch=0.3, **options).compile(exact("plain")).load(3)
    assert isinstance(made, DynapChip)
    return made


def test_a_calibration_is_repeatable_and_goes_on() -> None:
    one, other = chip(), chip()
    ledger = one.calibrate(data("plain"), epochs=2)
    assert "writes per synapse" in ledger.rows[-1].notes[0]
    other.calibrate(data("plain"), epochs=1)
    again = other.artifact.load(3, other.state())
    again.calibrate(data("plain"), epochs=1)
    assert again.state().files == one.state().files
    assert one.state().files != chip().state().files


def test_the_form_is_an_option() -> None:
    assert isinstance(chip().block, CountingBlock)
    float_form = DynapSim(mismatch=0.3).compile(exact("plain")).load(3)
    assert isinstance(float_form, DynapChip)
    assert not isinstance(float_form.block, CountingBlock)
