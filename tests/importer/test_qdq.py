"""Models quantized by QuantizeLinear / DequantizeLinear pairs: the numbers are ONNX's, weights keep their levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from snnc.importer import examine, load
from snnc.ir import parse, to_text

from .conftest import Check, Save

ORT = ("onnxruntime",)
rng = np.random.default_rng(0)
LEVELS = rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8)


def network(levels: Any = LEVELS, zero: int = 0, per_channel: bool = True) -> tuple[list[Any], dict[str, Any]]:
    """Conv and Gemm with int8 weights, uint8 activations, as quantization tools write them."""
    step = np.linspace(0.01, 0.04, 4, dtype=np.float32) if per_channel else np.float32(0.02)
    lines = [
        ("QuantizeLinear", "x sx zx", "xq"),
        ("DequantizeLinear", "xq sx zx", "xd"),
        ("DequantizeLinear", "w sw zw", "wd", {"axis": 0}),
        ("Conv", "xd wd b", "c", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c", "r"),
        ("QuantizeLinear", "r sr zr", "rq"),
        ("DequantizeLinear", "rq sr zr", "rd"),
        ("Flatten", "rd", "f"),
        ("DequantizeLinear", "k sk", "kd"),
        ("Transpose", "kd", "kt", {"perm": [1, 0]}),
        ("MatMul", "f kt", "y"),
    ]
    consts = {
        "sx": np.float32(0.02), "zx": np.uint8(128), "sr": np.float32(0.05), "zr": np.uint8(0),
        "w": levels, "sw": step, "zw": np.full(np.shape(step), zero, np.int8),
        "b": rng.normal(size=4).astype(np.float32),
        "k": rng.integers(-127, 128, (3, 100)).astype(np.int8), "sk": np.float32(0.03),
    }  # fmt: skip
    return lines, consts


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_keep_their_levels_as_a_constraint(check: Check, opset: int, per_channel: bool) -> None:
    lines, consts = network(per_channel=per_channel)
    graph = check(lines, {"x": ("N", 2, 5, 5)}, consts, opset=opset, oracles=ORT)
    conv, dense = (graph.constraints[f"{name}.weight"] for name in ("conv1", "dense1"))
    assert (conv.bits, dense.bits) == (8, 8)
    np.testing.assert_array_equal(np.rint(graph.params["conv1.weight"] / conv.scale), LEVELS)
    np.testing.assert_array_equal(np.rint(graph.params["dense1.weight"] / dense.scale), consts["k"])
    assert to_text(parse(to_text(graph), graph.arrays())) == to_text(graph)


@pytest.mark.parametrize(("levels", "zero"), [(np.full_like(LEVELS, -128), 0), (LEVELS, 3)])
def test_levels_that_are_not_symmetric_become_plain_numbers(save: Save, levels: Any, zero: int) -> None:
    lines, consts = network(levels, zero)
    made = examine(save(lines, {"x": ("N", 2, 5, 5)}, consts))
    assert made.graph is not None
    assert set(made.graph.constraints) == {"dense1.weight"}
    assert [note for note in made.notes if "not symmetric" in note and "n_c" in note]


def test_a_zero_point_that_leaves_the_levels_within_the_bits_is_no_obstacle(check: Check) -> None:
    lines, consts = network((LEVELS // 2).astype(np.int8), zero=3)
    graph = check(lines, {"x": ("N", 2, 5, 5)}, consts, oracles=ORT)
    made = graph.params["conv1.weight"] / graph.constraints["conv1.weight"].scale
    np.testing.assert_array_equal(np.rint(made), LEVELS // 2 - 3)


def test_a_batch_norm_that_folds_into_the_weights_takes_them_off_their_levels(check: Check, save: Save) -> None:
    lines, consts = network()
    lines[4:5] = [("BatchNormalization", "c g g g v", "n"), ("Relu", "n", "r")]
    consts |= {"g": rng.normal(size=4).astype(np.float32), "v": np.ones(4, np.float32)}
    graph = check(lines, {"x": ("N", 2, 5, 5)}, consts, opset=15, oracles=ORT)
    assert set(graph.constraints) == {"dense1.weight"}
    assert load(save(lines, {"x": ("N", 2, 5, 5)}, consts, opset=15)) is not None
