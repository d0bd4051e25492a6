"""What the file does not say: models without a batch, open sizes, several inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from snnc.errors import ModelError
from snnc.importer import Options, examine, judge, load
from snnc.sim.reference import run

from .conftest import Save

rng = np.random.default_rng(0)


def agree(path: Path, options: Options, x: dict[str, Any]) -> Any:
    """Both compute the same; gives the graph."""
    graph = load(path, options)
    made, judged = run(graph, x), judge(path, x, options)
    assert set(made) == set(judged)
    for name, array in made.items():
        assert array.shape == judged[name].shape
        np.testing.assert_allclose(array, judged[name], rtol=1e-5, atol=1e-5, err_msg=name)
    return graph


def test_without_a_batch_the_whole_tensor_is_one_sample(save: Save) -> None:
    """A row of sensors, mixed along the axis that would be the batch."""
    lines = [
        ("MatMul", "w x", "m"),
        ("Relu", "m", "r"),
        ("Transpose", "r", "t", {"perm": [1, 0]}),
        ("Gemm", "t k", "y"),
    ]
    consts = {"w": rng.normal(size=(5, 4)).astype(np.float32), "k": rng.normal(size=(5, 2)).astype(np.float32)}
    path = save(lines, {"x": (4, 3)}, consts)
    with pytest.raises(ModelError, match="batch"):
        load(path)
    graph = agree(path, Options(batched=False), {"x": rng.normal(size=(6, 4, 3)).astype(np.float32)})
    assert graph.inputs["x"].shape == (4, 3)


def test_images_without_a_batch_have_one_in_front(save: Save) -> None:
    lines = [
        ("Conv", "x w", "c", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "c g g g v", "n"),
        ("MaxPool", "n", "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Reshape", "p s", "y"),
    ]
    consts = {"w": rng.normal(size=(3, 2, 3, 3)).astype(np.float32), "s": np.array([-1])}
    consts |= {"g": rng.normal(size=3).astype(np.float32), "v": np.ones(3, np.float32)}
    path = save(lines, {"x": (1, 2, 6, 6)}, consts, opset=15)
    with pytest.raises(ModelError, match="mixes the samples"):
        load(path)
    agree(path, Options(batched=False), {"x": rng.normal(size=(4, 1, 2, 6, 6)).astype(np.float32)})
    path = save(lines, {"x": (2, 2, 6, 6)}, consts, opset=15)
    with pytest.raises(ModelError, match="only one sample can stand in front"):
        load(path, Options(batched=False))


def test_open_sizes_are_given(save: Save) -> None:
    path = save([("Relu", "x", "r"), ("GlobalAveragePool", "r", "y")], {"x": ("N", 3, "H", "W")})
    with pytest.raises(ModelError, match="dynamic sizes behind the batch") as caught:
        load(path)
    assert caught.value.code == "dynamic-shape"
    assert "shapes={'x'" in str(caught.value)
    x = {"x": rng.normal(size=(2, 3, 5, 7)).astype(np.float32)}
    graph = agree(path, Options(shapes={"x": (3, 5, 7)}), x)
    assert graph.inputs["x"].shape == (3, 5, 7)


@pytest.mark.parametrize("shape", [(4, 5, 7), (3, 5), (3, 0, 7)])
def test_sizes_that_contradict_the_model_are_refused(save: Save, shape: tuple[int, ...]) -> None:
    path = save([("Relu", "x", "y")], {"x": ("N", 3, "H", "W")})
    with pytest.raises(ModelError) as caught:
        load(path, Options(shapes={"x": shape}))
    assert "'x'" in str(caught.value)


def test_sizes_of_an_input_that_is_not_there_are_refused(save: Save) -> None:
    with pytest.raises(ModelError, match="z"):
        load(save([("Relu", "x", "y")], {"x": ("N", 3)}), Options(shapes={"z": (3,)}))


def test_several_inputs_and_outputs(save: Save) -> None:
    lines = [("Concat", "a b", "c", {"axis": 1}), ("Gemm", "c w", "y"), ("Mul", "a b", "z")]
    path = save(lines, {"a": ("N", 2), "b": ("N", 2)}, {"w": rng.normal(size=(4, 3)).astype(np.float32)}, outputs="y z")
    x = {name: rng.normal(size=(3, 2)).astype(np.float32) for name in "ab"}
    assert set(agree(path, Options(), x).outputs) == {"y", "z"}


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.INT32, TensorProto.FLOAT16, TensorProto.BOOL])
def test_other_types_of_input_are_computed_in_float32_and_noted(save: Save, dtype: int) -> None:
    path = save([("Cast", "x", "f", {"to": 1}), ("Flatten", "f", "y")], {"x": ("N", 2)}, dtype=dtype)
    made = examine(path)
    assert [note for note in made.notes if helper.tensor_dtype_to_string(dtype).split(".")[1] in note]
    agree(path, Options(), {"x": np.array([[1, 0], [0, 1]], np.float32)})


def test_an_input_that_nothing_reads_is_noted(save: Save) -> None:
    made = examine(save([("Relu", "x", "y")], {"x": ("N", 3), "z": ("N", 3)}))
    assert "no output depends on the input 'z'" in made.notes


def test_one_of_several_outputs_is_kept(save: Save) -> None:
    """What only the others need is not looked at."""
    lines = [("Relu", "x", "y"), ("TopK", "x k", "z i")]
    path = save(lines, {"x": ("N", 3)}, {"k": np.array([1])}, outputs="y z")
    with pytest.raises(ModelError, match="TopK is not supported"):
        load(path)
    assert set(agree(path, Options(outputs=("y",)), {"x": rng.normal(size=(3, 3)).astype(np.float32)}).outputs) == {"y"}
    with pytest.raises(ModelError, match=r"no output 'q'\n  try: one of y, z"):
        load(path, Options(outputs=("q",)))
