"""Both executors against spike trains that Brian2 made (`record_brian2.py` says how)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snnc.ir import Array, Graph
from snnc.sim import reference
from snnc.sim.torch import forward, tensors
from tests.graphs import Builder

NETS = json.loads((Path(__file__).parents[1] / "golden" / "brian2.json").read_text())["nets"]


def graph_of(net: dict[str, Any]) -> Graph:
    b = Builder({"x": (len(net["x"]),)}, net["steps"])
    at = b("current", "encode", "x")
    for i, layer in enumerate(net["layers"]):
        b(f"dense{i}", "dense", at, weight=layer["weight"], bias=layer["bias"], bias_at="per-step")
        at = b(f"lif{i}", "lif", f"dense{i}", alpha=net["alpha"], theta=layer["theta"], u0=layer["u0"])
    return b.graph(b("count", "decode", at))


def trains(values: dict[str, Array], net: dict[str, Any]) -> list[list[str]]:
    layers = [np.asarray(values[f"lif{i}"])[:, 0].T.astype(int) for i in range(len(net["layers"]))]
    return [["".join(map(str, neuron)) for neuron in layer] for layer in layers]


@pytest.mark.parametrize("net", NETS, ids=[f"{i}-{n['alpha']}-{len(n['layers'])}" for i, n in enumerate(NETS)])
@pytest.mark.parametrize("executor", ["reference", "torch"])
def test_fires_when_brian2_fires(net: dict[str, Any], executor: str) -> None:
    graph, x = graph_of(net), np.array([net["x"]], np.float32)
    values: dict[str, Array] = {}
    if executor == "reference":
        reference.run(graph, {"x": x}, record=values)
    else:
        values = {name: v.numpy() for name, v in forward(graph, tensors(graph), {"x": torch.tensor(x)}).items()}
    assert trains(values, net) == net["spikes"]


def test_the_recording_is_worth_comparing_with() -> None:
    assert len(NETS) == 20
    assert {net["alpha"] for net in NETS} == {1.0, 0.9}
    assert {len(net["layers"]) for net in NETS} == {2, 3}
    assert sum("01" in train for net in NETS for layer in net["spikes"] for train in layer) > 150
