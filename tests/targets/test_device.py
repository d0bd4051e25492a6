"""Noise, defects and observables of a device: equal calls see equal noise, and nothing else leaves the chip."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnc.artifact import Bundle
from snnc.errors import ArtifactError, PipelineError, TargetError
from snnc.ir import Array, Graph, Node, TensorType
from snnc.sim.torch import exact as exact_kernels
from snnc.sim.torch import to_tensor
from snnc.spec import split_specs
from snnc.targets import DynapSim
from snnc.targets.dynap_sim.bench import one_thread
from snnc.targets.dynap_sim.chip import DynapChip
from snnc.targets.dynap_sim.defects import LARGEST, DefectMap
from snnc.targets.dynap_sim.device import Device, Model, advance
from snnc.targets.dynap_sim.dpi import Circuit
from snnc.targets.dynap_sim.mismatch import GRID, Mismatch, sequential
from snnc.targets.dynap_sim.noise import Noise, conducting, generators, jittered
from snnc.targets.dynap_sim.place import place
from tests.targets.networks import STEPS, data, exact, images

PLACED = place(exact("residual"))
SITES = sequential(PLACED)


def device(seed: int = 0, net: str = "residual", **noise: Any) -> Device:
    return Device(place(exact(net)), seed, Model(Mismatch("none"), Noise(**noise)))


def chip(net: str = "residual", seed: int = 0, **options: Any) -> DynapChip:
    made = DynapSim(**{"mismatch": 0.0, **options}).compile(exact(net)).load(seed)
    assert isinstance(made, DynapChip)
    return made


# --- what it is set to


def written(made: Device, name: str) -> None:
    made.nominal[name].mul_(2)


def written_through_a_share(made: Device, name: str) -> None:
    made.nominal[name].chunk(1)[0][:1].mul_(2)


def written_by_name(made: Device, name: str) -> None:
    torch.add(made.nominal[name], 1, out=made.nominal[name])


def replaced(made: Device, name: str) -> None:
    made.nominal[name] = made.nominal[name] * 2


def replaced_by_what_does_not_tell(made: Device, name: str) -> None:
    with torch.inference_mode():
        made.nominal[name] = made.nominal[name] * 2


def defective(made: Device, name: str) -> None:
    made.factor[name].chunk(1)[0].zero_()


WAYS = (written, written_through_a_share, written_by_name, replaced, replaced_by_what_does_not_tell, defective)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_runs_on_what_is_set_now(way: Callable[[Device, str], None], learning: bool) -> None:
    """What parts do is not computed again for every batch: any change must be seen."""
    made = Device(PLACED, 0, Model(Mismatch("ltl", 0.2)))
    x, weight = {name: to_tensor(images(2)) for name in PLACED.inputs}, "conv2.weight"
    with torch.inference_mode(learning):
        before = made.stepper(x, 0).params[weight].clone()
        for _ in range(2):
            way(made, weight)
            now = {name: value.clone() for name, value in made.stepper(x, 1).params.items()}
            assert all(torch.equal(value, made.params()[name].reshape(value.shape)) for name, value in now.items())
            assert not torch.equal(now[weight], before)
            assert all(torch.equal(now[name], value) for name, value in made.stepper(x, 2).params.items())


def test_a_part_that_was_lent_and_given_back_is_realised_again() -> None:
    made = Device(PLACED, 0, Model(Mismatch("ltl", 0.2)))
    x, weight = {name: to_tensor(images(2)) for name in PLACED.inputs}, "conv2.weight"
    own, before = made.nominal[weight], made.stepper(x, 0).params[weight].clone()
    replaced_by_what_does_not_tell(made, weight)
    assert not torch.equal(made.stepper(x, 1).params[weight], before)
    made.nominal[weight] = own
    assert torch.equal(made.stepper(x, 2).params[weight], before)


# --- thermal noise and lost spikes


def test_thermal_noise_of_the_membrane_is_added_in_units_of_the_threshold() -> None:
    """sigma * theta in every step of 1 ms: more by the root of 2 in one of 2 ms."""
    made = device(thermal=0.05, thermal_on="membrane", dt=2e-3)
    theta = made.nominal["relu1.theta"]
    current = torch.full((2000, *theta.shape), 3.0)
    noisy = made.stepper({"x": to_tensor(images(1))}, 0).disturb["current"](made.graph["relu1"], current[None])[0]
    spread = (noisy - 3) / theta
    assert float(spread.mean()) == pytest.approx(0, abs=0.001)
    assert float(spread.std()) == pytest.approx(0.05 * math.sqrt(2), rel=0.01)
    quiet = noisy - current
    assert float((quiet[:, 0] / theta[0]).std()) == pytest.approx(float((quiet[:, 1] / theta[1]).std()), rel=0.05)


def test_spikes_are_lost_one_by_one_and_still_reset() -> None:
    """The counts of the first layer halve; its potentials are those of neurons that lose none."""
    x = images(40, seed=2)
    found = {}
    for share in (0.0, 0.5):
        stepper = device(silencing=share, silence="step").stepper({"x": to_tensor(x)}, 0)
        potentials = []
        for _ in range(STEPS):
            stepper.step()
            potentials.append(stepper.potential["relu1"])
        found[share] = stepper.count["relu1"], potentials
    whole, half = found[0.0][0].sum(), found[0.5][0].sum()
    assert float(half / whole) == pytest.approx(0.5, abs=0.03)
    assert all(torch.equal(a, b) for a, b in zip(found[0.0][1], found[0.5][1], strict=True))


@pytest.mark.parametrize(
    "noise",
    [{"thermal": 0.2}, {"thermal": 0.1, "thermal_on": "membrane"}, {"silencing": 0.3, "silence": "step"}],
)
def test_equal_calls_see_equal_noise(noise: dict[str, Any]) -> None:
    x = images(20)
    one, other = chip(**noise), chip(seed=1, **noise)
    first = one.run(x)["y"]
    np.testing.assert_array_equal(one.run(x)["y"], first)
    np.testing.assert_array_equal(chip(**noise).run(x)["y"], first)
    assert not np.array_equal(other.run(x)["y"], first)
    assert not np.array_equal(chip().run(x)["y"], first)


@pytest.mark.parametrize("tier", ["lif", "dpi"])
@pytest.mark.parametrize("net", ["residual", "pooled"])
def test_several_steps_at_once_are_steps_one_by_one(net: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mismatch, noise and circuits included, whatever the number of steps at once, to the last bit; a warm-up may end
    within them.
    """
    x = {"x": to_tensor(images(6))}
    noise = Noise(thermal=0.1, silencing=0.2, silence="step")
    made = Device(place(exact(net)), 0, Model(Mismatch(), noise, Circuit() if tier == "dpi" else None))
    with torch.inference_mode(), exact_kernels():
        steps = made.stepper(x, 3)
        potential: dict[str, list[torch.Tensor]] = {layer: [] for layer in steps.count}
        for _ in range(STEPS):
            steps.step()
            for layer, at in potential.items():
                at.append(steps.potential[layer])
        steps.outputs()
        for rows, first in ((1, 0), (24, 3), (6 * STEPS, 0)):
            monkeypatch.setattr("snnc.targets.dynap_sim.device.ROWS", rows)
            chunks = made.stepper(x, 3)
            parts = [*advance(chunks, first, True, True), *advance(chunks, STEPS - first, True, True)]
            assert max(part.count for part in parts) == max(1, rows // 6)
            chunks.outputs()
            assert all(torch.equal(steps.count[layer], chunks.count[layer]) for layer in steps.count)
            assert all(
                torch.equal(value, chunks.values[name]) for name, value in steps.values.items() if name in chunks.values
            )
            assert all(torch.equal(steps.values[name], chunks.values[name]) for name in made.graph.outputs.values())
            for layer, at in potential.items():
                assert torch.equal(torch.stack(at), torch.cat([part.potential[layer] for part in parts]))
    assert any((count > 0).any() for count in steps.count.values())


def test_frozen_and_lost_are_different_silence() -> None:
    frozen, lost = device(silencing=0.3), device(silencing=0.3, silence="step")
    assert frozen.silent
    assert not lost.silent


# --- defects


def test_a_share_of_the_words_is_defective_for_good() -> None:
    made, again = (device(5, defects=0.1) for _ in range(2))
    params = made.params()
    for name in ("conv1.weight", "conv2.weight", "fc.weight"):
        present = made.nominal[name] != 0
        gone = (params[name] == 0) & present
        assert float(gone.sum() / present.sum()) == pytest.approx(0.1, abs=0.04), name
        assert torch.equal(params[name], again.params()[name])
        assert torch.equal(params[name][~gone], made.nominal[name][~gone])
    assert not torch.equal(params["conv2.weight"], device(6, defects=0.1).params()["conv2.weight"])


def test_learning_does_not_mend_a_defective_word() -> None:
    made = chip(defects=0.2, mismatch=0.2, rate=3.0)
    gone = made.device.factor["fc.weight"] == 0
    before = made.device.nominal["fc.weight"].clone()
    made.calibrate(data("residual"))
    assert gone.any()
    assert not torch.equal(made.device.nominal["fc.weight"], before)
    assert (made.device.params()["fc.weight"][gone] == 0).all()


def test_a_list_of_defects_names_chip_core_neuron_and_word(tmp_path: Path) -> None:
    """Words count the present connections of a neuron, over all synapses onto it, in the order of the graph."""
    layer, number = "relu3", 4
    site = int(SITES[layer][number])
    mask = PLACED.constraints["fc.weight"].mask
    assert mask is not None
    word = 3
    path = tmp_path / "defects.csv"
    path.write_text(f"# chip,core,neuron,word\n7,{site // 256},{site % 256},{word}\n8,0,0,0\n")
    works = conducting(PLACED, 7, Noise(defect_map=DefectMap.read(str(path))), SITES)
    wanted = np.ones(mask.shape, bool)
    wanted[number, np.flatnonzero(mask[number])[word]] = False
    np.testing.assert_array_equal(works["fc.weight"], wanted)
    assert works["conv1.weight"].all()
    assert conducting(PLACED, 6, Noise(defect_map=DefectMap.read(str(path))), SITES) == {}
    site = int(SITES["relu2"][1, 2, 3])
    per_neuron = int(np.asarray(PLACED.constraints["conv2.weight"].mask)[1, 2, 3].sum())
    path.write_text(f"7,{site // 256},{site % 256},{per_neuron}\n")
    works = conducting(PLACED, 7, Noise(defect_map=DefectMap.read(str(path))), SITES)
    assert works["conv2.weight"].all(), "the word behind those of the convolution is the skip connection's"
    [other] = [n for n in works if not works[n].all()]
    assert not works[other].reshape(SITES["relu2"].shape)[1, 2, 3]


@pytest.mark.parametrize("text", ["1,2,3\n", "0,0,256,0\n", "a,b\n", "0,0,-1,0\n", "0,0,\u0663,0\n"])
def test_lists_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "defects.csv"
    path.write_text("0,0,0,0 # fine\n" + text)
    with pytest.raises(PipelineError, match=r"no chip,core,neuron,word.*\n.*line 2 is"):
        DefectMap.read(str(path))
    with pytest.raises(PipelineError, match="cannot be read: No such file"):
        DynapSim(defect_map=str(tmp_path / "missing.csv"))
    path.write_text("#" * (LARGEST + 1))
    with pytest.raises(PipelineError, match="larger than"):
        DefectMap.read(str(path))


def test_a_list_of_defects_travels_with_the_artifact(tmp_path: Path) -> None:
    """Its words, not its place; an artifact that names a file outside of it is refused."""
    path = tmp_path / "defects.csv"
    path.write_text("7,0,3,1\n7,0,3,2 # both\n")
    target = DynapSim(defect_map=str(path))
    text, files = target.attached()
    assert str(tmp_path) not in text
    [(_, options)] = split_specs(text)
    path.unlink()
    made = DynapSim.from_attached(options, Bundle("artifact", files))
    assert made.listed == DefectMap(((7, 0, 3, 1), (7, 0, 3, 2)))
    assert made.attached() == (text, files)
    with pytest.raises(ArtifactError, match="outside of it"):
        DynapSim.from_attached({**options, "defect_map": "/etc/passwd"}, Bundle("artifact", files))


# --- jitter


def test_jitter_moves_events_and_keeps_them() -> None:
    x = (torch.rand(3, 20, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    moved = jittered(x, 2, generators([0], "jitter 0", "cpu"))
    assert torch.equal(moved.sum(1), x.sum(1))
    assert not torch.equal(moved, x)
    lone = torch.zeros(4000, 20, 1)
    lone[:, 10] = 1
    where = jittered(lone, 2, generators([0], "jitter 0", "cpu")).squeeze(-1).argmax(1) - 10
    assert sorted(set(where.tolist())) == [-2, -1, 0, 1, 2]
    assert np.bincount(where + 2).min() > 650
    assert torch.equal(jittered(x, 2, generators([0], "jitter 0", "cpu")), moved)


def test_jitter_of_a_chip() -> None:
    """A network that reads events: all of one pixel's go to one neuron, whose potential tells when they came."""
    params = {"w": [[1.0]], "theta": [2.5], "u0": [0.0], "alpha": [1.0]}
    nodes = [
        Node("in", "encode", ("x",), {"code": "events"}),
        Node("synapse", "dense", ("in", "w")),
        Node("cell", "lif", ("synapse", "alpha", "theta", "u0"), {"reset": "subtract"}),
        Node("end", "decode", ("cell",)),
    ]
    blank = Graph({"x": TensorType("analog", (1,))}, (), {}, {}, steps=6)
    arrays = {n: np.asarray(v, np.float32) for n, v in params.items()}
    graph = blank.edit(nodes, params=arrays, outputs={"y": "end"})
    x = {"x": torch.tensor([[[0.0], [0.0], [1.0], [0.0], [0.0], [0.0]]]).expand(64, 6, 1)}

    def arrivals(steps: int) -> Array:
        stepper = Device(graph, 0, Model(Mismatch("none"), Noise(jitter=steps))).stepper(x, 0)
        seen = []
        for _ in range(6):
            stepper.step()
            seen.append(stepper.potential["cell"][:, 0])
        return torch.stack(seen).argmax(0).numpy()

    assert set(arrivals(0).tolist()) == {2}
    assert set(arrivals(1).tolist()) == {1, 2, 3}


def test_jitter_needs_events() -> None:
    with pytest.raises(TargetError, match="no input is a stream of events") as caught:
        chip(jitter=1)
    assert caught.value.hint == "code=events, or jitter=0"


# --- what leaves the chip


def test_one_potential_per_core_can_be_watched() -> None:
    made, x = chip(), images(7, seed=3)
    seen = made.run(x, monitor=[("relu1", 5), ("relu3", 2)])
    assert set(seen) == {"y", "relu1[5]", "relu3[2]"}
    assert seen["relu1[5]"].shape == (7, STEPS)
    stepper = made.device.stepper({"x": to_tensor(x)}, 0)
    for t in range(STEPS):
        stepper.step()
        np.testing.assert_array_equal(seen["relu1[5]"][:, t], stepper.potential["relu1"].reshape(7, -1)[:, 5])
    np.testing.assert_array_equal(made.run(x)["y"], seen["y"])
    assert set(made.run(x)) == {"y"}


def test_a_core_shows_one_neuron() -> None:
    made = chip()
    assert SITES["relu1"].max() < GRID**2 <= SITES["relu2"].min()
    with pytest.raises(TargetError, match="are both on core 0, which shows one potential"):
        made.run(images(1), monitor=[("relu1", 0), ("relu2", 1), ("relu1", 2)])
    for wrong in (("relu9", 0), ("relu3", 10), ("relu3", -1)):
        with pytest.raises(TargetError, match=rf"there is no neuron {wrong[1]} of a layer '{wrong[0]}'"):
            made.run(images(1), monitor=[wrong])


def test_a_chip_runs_on_one_thread_and_gives_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        chip().run(images(2), progress=lambda *_: seen.append(torch.get_num_threads()))
        assert seen == [1]
    finally:
        torch.set_num_threads(before)


# --- refusals


@pytest.mark.parametrize(
    "field", [{"defects": 1.0}, {"jitter": -1}, {"thermal": -0.1}, {"silencing": 1.0}, {"dt": 0.0}]
)
def test_impossible_noise(field: dict[str, Any]) -> None:
    [(key, value)] = field.items()
    with pytest.raises(PipelineError, match=f"no device has {key}={value}"):
        Noise(**field)
