"""inspect: the numbers of a network that can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import snnc
from snnc import api
from snnc.inspection import Inspection
from snnc.ir import to_text
from tests.graphs import lenet, spiking

MODEL = Path(__file__).parents[1] / "examples" / "digits_cnn.onnx"


def test_an_analog_network() -> None:
    graph = lenet()
    found = Inspection.of(graph)
    assert (found.stage, found.steps, found.neurons) == ("analog", 0, 0)
    assert (found.inputs, found.outputs) == ({"image": (1, 8, 8)}, {"out_dense2": (4,)})
    assert found.params == 27 + 3 + 12 + 6 * 48 + 6 + 24 + 4
    assert found.macs == 3 * (36 * 9 + 24 * 6 + 4 * 4) + 6 * 48 + 24
    rows = {row.name: row for row in found.nodes}
    assert rows["conv1"].arrays == {"weight": (3, 1, 3, 3), "bias": (3,)}
    assert (rows["conv1"].params, rows["conv1"].macs) == (30, 3 * (36 * 9 + 24 * 6 + 4 * 4))
    assert (rows["relu1"].params, rows["relu1"].macs, rows["relu1"].shape) == (0, 0, (3, 8, 8))
    assert rows["flat"].inputs == ("pool1",)
    assert found.text == to_text(graph)


def test_a_spiking_network() -> None:
    found = Inspection.of(spiking(steps=8))
    assert (found.stage, found.steps, found.neurons) == ("spiking", 8, 3 * 36 + 27)
    assert {row.kind for row in found.nodes} == {"analog", "current", "spikes"}


def test_json_is_plain_data() -> None:
    found = json.loads(json.dumps(Inspection.of(lenet()).to_json()))
    assert set(found) == {"stage", "steps", "inputs", "outputs", "params", "macs", "neurons", "nodes"}
    assert found["nodes"][0] == {
        "name": "conv1", "op": "conv", "inputs": ["image"], "kind": "analog", "shape": [3, 8, 8],
        "attrs": {"dilations": [1, 1], "group": 1, "pads": [1, 1, 1, 1], "strides": [1, 1]},
        "arrays": {"weight": [3, 1, 3, 3], "bias": [3]}, "params": 30, "macs": 1452, "from": [],
    }  # fmt: skip


def test_an_onnx_file() -> None:
    graph = snnc.load(MODEL)
    found = api.inspect(MODEL)
    assert found == Inspection.of(graph)
    assert all(row.origin for row in found.nodes)
