"""The whole mapping: as arrays and back, equal twice, plainly virtual."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from snnc.artifact import Bundle, pack, unpack
from snnc.errors import TargetError
from snnc.targets.dynap_sim.mapping import Mapping, Mesh, Netlist, map_neurons, netlist
from tests.targets.mapping.nets import SMALL, drawn, placed


@pytest.fixture(scope="module")
def nets() -> Netlist:
    return netlist(placed("residual"))


@pytest.fixture(scope="module")
def mapping(nets: Netlist) -> Mapping:
    return map_neurons(nets, SMALL)


def test_arrays_and_back(nets: Netlist, mapping: Mapping) -> None:
    bundle = Bundle("artifact", {"mapping.safetensors": pack(mapping.arrays())})
    again = Mapping.from_arrays(unpack(bundle, "mapping.safetensors"))
    assert again.mesh == mapping.mesh
    assert list(again.arrays()) == list(mapping.arrays())
    assert list(again.core) == list(nets.layers)
    for name, array in mapping.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)
    assert again.check(nets) == []
    assert {name: array.shape for name, array in again.core.items()} == nets.layers


def test_layers_keep_their_order_whatever_their_names() -> None:
    rng = np.random.default_rng(0)
    nets = drawn(rng, (5, 6, 7), 4, 3)
    names = {"relu9": (1, 5), "relu10": (1, 6), "a/b": (1, 7)}
    nets = replace(nets, layers=names, at=dict.fromkeys((*names, "current"), ""))
    made = map_neurons(nets, SMALL).arrays()
    again = Mapping.from_arrays({name: made[name] for name in sorted(made, reverse=True)})
    assert list(again.core) == list(names)
    assert again.check(nets) == []


def test_the_same_twice_gives_the_same_bytes(nets: Netlist, mapping: Mapping) -> None:
    assert pack(map_neurons(nets, SMALL).arrays()) == pack(mapping.arrays())


def test_slots_number_the_cores_of_a_chip(mapping: Mapping) -> None:
    for chip in range(mapping.chips):
        slots = mapping.slot[mapping.chip == chip]
        assert slots.tolist() == list(range(len(slots)))
        assert len(slots) <= SMALL.cores_per_chip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"chip": None}, "lacks chip"),
        ({"word/tag": None}, "lacks word/tag"),
        ({"chip": np.zeros(10, np.float32)}, "no integers: chip"),
        ({"mesh": np.arange(3)}, "of another version"),
        ({"chip": np.zeros(2, np.int32)}, "do not exist|of other chips"),
        ({"xy": np.zeros((9, 2), np.int32)}, "without a place of their own"),
        ({"xy": np.zeros((9, 3), np.int32)}, "without a place of their own"),
        ({"word/start": np.zeros(4, np.int64)}, "of different number"),
        ({"word/core": "negative"}, "do not exist"),
        ({"word/chip": "other"}, "of other chips"),
        ({"word/tag": "negative"}, "negative tags"),
        ({"word/start": "reversed"}, "without cores"),
    ],
)
def test_damaged_arrays_are_refused(mapping: Mapping, change: dict[str, object], why: str) -> None:
    arrays = mapping.arrays()
    for name, value in change.items():
        if value is None:
            del arrays[name]
        elif isinstance(value, str):
            arrays[name] = {
                "negative": -1 - arrays[name],
                "other": (arrays[name] + 1) % mapping.chips,
                "reversed": arrays[name][::-1],
            }[value]
        else:
            arrays[name] = value  # type: ignore[assignment]
    with pytest.raises(TargetError, match=why):
        Mapping.from_arrays(arrays)


def test_virtual_chips_are_plainly_said(nets: Netlist, mapping: Mapping) -> None:
    assert mapping.note == ""
    assert mapping.chips > 2
    assert replace(mapping, mesh=replace(SMALL, chips=1)).note == f"{mapping.chips} virtual chips, 1 exists"
    assert replace(mapping, mesh=replace(SMALL, chips=2)).note == f"{mapping.chips} virtual chips, 2 exist"


def test_in_order_means_in_order(nets: Netlist) -> None:
    mapping = map_neurons(nets, SMALL, "sequential")
    np.testing.assert_array_equal(mapping.cores, np.arange(nets.neurons) // 32)
    np.testing.assert_array_equal(mapping.chip, np.arange(len(mapping.chip)) // 4)
    assert mapping.check(nets) == []


def test_unknown_methods_are_refused(nets: Netlist) -> None:
    with pytest.raises(TargetError, match="there is no method 'annealing'"):
        map_neurons(nets, Mesh(), "annealing")
