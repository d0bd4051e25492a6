"""Files that are no models, external data good and hostile, digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from snnc.errors import DataError, ModelError
from snnc.importer import judge, load, model_digest, survey

Save = Callable[..., Path]

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def model(save: Save) -> Path:
    return save([("Gemm", "x w", "y")], {"x": ("N", 2)}, {"w": WEIGHT})


def outside(path: Path, data: bytes | None = None, **entries: str) -> Path:
    """Move the weight of the model at `path` into a file beside it, with these external data entries."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    (path.parent / "w.data").write_bytes(b"pad!" + tensor.raw_data if data is None else data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"location": "w.data", "offset": "4", "length": "24"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"just some text\n", "is no ONNX model"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
            "LFS pointer.*\n  try: git lfs pull",
        ),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x08\x08", "is no ONNX model: it has no IR version, or no graph"),
    ],
)
def test_what_is_no_model(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    for reader in (load, survey, model_digest):
        with pytest.raises(ModelError, match=text):
            reader(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        load(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="is not a file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is not a file"):
        load(tmp_path / "pipe")
    with pytest.raises(ModelError, match="cannot be read"):
        load("a\0b")


def test_every_truncation_is_a_model_error(model: Path) -> None:
    content = model.read_bytes()
    for size in range(len(content)):
        model.write_bytes(content[:size])
        with pytest.raises(ModelError):
            load(model)


def test_flipped_bytes_give_a_graph_or_a_model_error(model: Path) -> None:
    content = model.read_bytes()
    for i in range(len(content)):
        model.write_bytes(content[:i] + bytes([content[i] ^ 0x5A]) + content[i + 1 :])
        with contextlib.suppress(ModelError):
            load(model)


def test_external_data(model: Path) -> None:
    plain = load(model)
    graph = load(outside(model))
    np.testing.assert_array_equal(graph.params["dense1.weight"], WEIGHT.T)
    x = {"x": np.ones((3, 2), np.float32)}
    np.testing.assert_array_equal(judge(model, x)["y"], np.ones((3, 2)) @ WEIGHT)
    assert tuple(plain.params) == tuple(graph.params)


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"location": "../secret"}, "no relative path inside"),
        ({"location": "/etc/passwd"}, "no relative path inside"),
        ({"location": "a/../../secret"}, "no relative path inside"),
        ({"location": "w.data\0.png"}, "no relative path inside"),
        ({"location": "C:\\secret"}, "no relative path inside"),
        ({"location": ""}, "no relative path inside"),
        ({"location": "."}, "no relative path inside"),
        ({"location": "missing"}, "cannot be read: No such file"),
        ({"location": "linked"}, "is a symbolic link"),
        ({"location": "folder/passwd"}, "is a symbolic link"),
        ({"location": "hard"}, "has a second name"),
        ({"location": "sub"}, "not a plain file|cannot be read"),
        ({"location": "pipe"}, "not a plain file"),
        ({"offset": "-4"}, "offset of external data, '-4', is no size"),
        ({"offset": "8"}, "cut short: bytes 8 to 32 of a file of 28"),
        ({"offset": "18446744073709551600"}, "is no size"),
        ({"offset": "9223372036854775807"}, "cut short"),
        ({"length": "1000000000000000"}, "declares 1000000000000000 bytes"),
        ({"length": "20"}, r"declares 20 bytes, but FLOAT\[2, 3\] takes 24"),
        ({"length": "many"}, "length of external data, 'many', is no size"),
        ({"checksum": "12"}, "has the SHA-1 [0-9a-f]{40}, not 12"),
        ({"location": "model.onnx"}, "is the model file itself"),
        ({"evil": "1"}, "has the key 'evil', which ONNX does not know"),
    ],
)
def test_hostile_external_data(model: Path, entries: dict[str, str], text: str) -> None:
    folder = model.parent
    (folder / "secret").write_bytes(bytes(64))
    (folder / "linked").symlink_to(folder / "secret")
    (folder / "folder").symlink_to("/etc")
    (folder / "hard").hardlink_to(folder / "secret")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    path = outside(model, **entries)
    for reader in (load, survey):
        with pytest.raises(ModelError, match=text):
            reader(path)


def test_a_digest_covers_the_external_data(model: Path) -> None:
    assert model_digest(model) == hashlib.sha256(model.read_bytes()).hexdigest()
    first = model_digest(outside(model))
    assert model_digest(model) == first
    (model.parent / "w.data").write_bytes(bytes(28))
    assert model_digest(model) != first


def test_judge_refuses_data_that_does_not_fit(model: Path) -> None:
    with pytest.raises(DataError, match=r"inputs \['z'\] given, the model reads \['x'\]"):
        judge(model, {"z": np.zeros((1, 2))})
    with pytest.raises(DataError, match=r"input 'x' is \[1, 3\], the model reads"):
        judge(model, {"x": np.zeros((1, 3))})
    with pytest.raises(DataError, match="one or more"):
        judge(model, {"x": np.zeros((0, 2))})


def test_judge_from_several_threads(model: Path) -> None:
    x = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(lambda _: judge(model, {"x": x})["y"], range(8)):
            np.testing.assert_allclose(made, x @ WEIGHT, atol=1e-5)
