"""Models that others trained and exported, from the folder that SNNC_MODELS names; never part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from snnc.errors import ModelError
from snnc.importer import judge, load, survey
from snnc.sim.reference import run

FOLDER = os.environ.get("SNNC_MODELS", "")
MODELS = sorted(Path(FOLDER).glob("*.onnx")) if FOLDER else []
IMPORTED = [
    "cifar10_vgg11_half",
    "fashion_cnn_torch13",
    "fashion_mlp_torch212_dynamo_op20",
    "mnist_cnn_bn_torch20_op16",
    "mnist_cnn_bn_whitematter",
    "mnist_cnn_torch29_dynamo",
    "mnist_cntk_op12",
    "mnist_lenet_residual_torch13",
    "mnist_mlp_tf2onnx117",
]
LARGE = 150_000
"""Numbers in the input of one sample: above it the reference is too slow for this test."""

pytestmark = pytest.mark.skipif(not MODELS, reason="SNNC_MODELS names no folder with ONNX models")


def matches(path: Path, samples: int) -> None:
    """The imported graph computes what onnxruntime computes, relative to the largest output."""
    graph, rng = load(path), np.random.default_rng(0)
    x = {name: rng.normal(size=(samples, *kind.shape)).astype(np.float32) for name, kind in graph.inputs.items()}
    judged = judge(path, x)
    for name, array in run(graph, x).items():
        scale = max(float(np.abs(judged[name]).max()), 1e-6)
        np.testing.assert_allclose(array / scale, judged[name] / scale, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", IMPORTED)
def test_is_imported_and_matches(name: str) -> None:
    path = Path(FOLDER) / f"{name}.onnx"
    matches(path, 4)
    assert all(found.problem is None for found in survey(path))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_is_imported_and_matches_or_is_refused(path: Path) -> None:
    try:
        graph = load(path)
    except ModelError:
        return
    if sum(np.prod(kind.shape) for kind in graph.inputs.values()) < LARGE:
        matches(path, 2)
