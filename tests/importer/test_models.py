"""Models that others trained and exported, from the folder that SNNC_MODELS names; never part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from snnc.errors import ModelError
from snnc.importer import Options, examine, judge, load
from snnc.ir import WIRING
from snnc.sim.torch import run

FOLDER = os.environ.get("SNNC_MODELS", "")
MODELS = sorted(Path(FOLDER).glob("*.onnx")) if FOLDER else []
SHAPES = {"paddle_ppocr_cls_op14": {"x": (3, 48, 192)}}
"""Sizes that a model leaves open."""
REFUSED = {
    "odd_carvana_unet_argmax": "OneHot is not supported",
    "odd_finn_tfc_multithreshold": r"finn\.custom_op\.general\.MultiThreshold is not one of ONNX",
    "odd_jet_mlp_bn_torch03_op6": "opset 6; 7 to",
    "odd_mnist_torch03_op6": "opset 6; 7 to",
    "odd_qonnx_quant_channels_last": r"qonnx\.custom_op\.channels_last\.Conv is not one of ONNX",
}
"""What is refused, and for what reason."""
CHANNEL_LAST = (
    "cifar10_cnn_bn_gap_tf2onnx117",
    "cifar10_cnn_medium_tf2onnx18",
    "cifar10_cnn_tf2onnx116",
    "cifar10_resnet8_mlperf_keras",
    "cifar10_resnet8_mlperf_tflite",
    "dogs_cats_cnn_tf2onnx117",
    "gtsrb_cnn_tf2onnx19",
    "vww_mobilenet025_mlperf_tflite",
)

pytestmark = pytest.mark.skipif(not MODELS, reason="SNNC_MODELS names no folder with ONNX models")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_is_imported_and_matches_or_is_refused_for_a_reason(path: Path) -> None:
    """The imported graph computes what onnxruntime computes, relative to the largest output."""
    options = Options(shapes=SHAPES.get(path.stem, {}))
    if path.stem in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[path.stem]):
            load(path, options)
        return
    graph, rng = load(path, options), np.random.default_rng(0)
    x = {name: rng.uniform(size=(2, *kind.shape)).astype(np.float32) for name, kind in graph.inputs.items()}
    made, judged = run(graph, x), judge(path, x, options)
    assert set(made) == set(judged)
    for name, array in made.items():
        scale = max(float(np.abs(judged[name]).max()), 1e-3)
        np.testing.assert_allclose(array / scale, judged[name] / scale, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", CHANNEL_LAST)
def test_channel_last_models_have_one_transpose_behind_the_input(name: str) -> None:
    made = examine(Path(FOLDER) / f"{name}.onnx")
    assert made.graph is not None
    moving = [node for node in made.graph.nodes if node.op in WIRING and node.op != "reshape"]
    assert [node.op for node in moving] == ["transpose"]
    assert made.graph.values(moving[0]) == tuple(made.graph.inputs)
    assert sum(node.op == "reshape" for node in made.graph.nodes) <= 1
