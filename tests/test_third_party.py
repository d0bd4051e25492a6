"""Networks that others made, end to end at small size; benchmarks/accuracy.py has the figures at full size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import snnc
from snnc.importer import judge
from snnc.targets import DynapSim

MODELS, DATA = os.environ.get("SNNC_MODELS"), os.environ.get("SNNC_DATA")
pytestmark = pytest.mark.skipif(
    not (MODELS and DATA), reason="SNNC_MODELS and SNNC_DATA name no folders with third-party models and data"
)
MNIST = {
    "mnist_cnn_bn_torch20_op16": snnc.data.Scaling(1 / 255, (0.1307,), (0.3081,)),
    "mnist_cntk_op12": snnc.data.Scaling(1 / 255),
    "mnist_cnn_torch29_dynamo": snnc.data.Scaling(1 / 255, (0.5,), (0.5,)),
}


@pytest.mark.parametrize("name", MNIST)
def test_an_mnist_network_compiles_end_to_end(name: str, tmp_path: Path) -> None:
    samples = snnc.data.load(f"{DATA}/mnist.npz", scaling=MNIST[name], train_samples=400, test_samples=200)
    path = Path(str(MODELS)) / f"{name}.onnx"
    graph = snnc.load(path)
    x = samples.test.x()
    ours, theirs = snnc.simulate(graph, x, "torch"), judge(path, {next(iter(graph.inputs)): x})
    assert np.abs(ours - next(iter(theirs.values()))).max() < 1e-4
    made = snnc.build(path, DynapSim(steps=8, epochs=1), data=samples, out=tmp_path / "build", chips=0)
    ann, snn = (made.ledger[step].accuracy or 0 for step in ("ann", "snn"))
    assert snn > ann - 0.1
    assert max(made.cost.fan_in.values()) <= 64
