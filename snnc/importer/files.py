"""From a path to a complete, checked `ModelProto`: every byte is read here, and only from where it may be."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from snnc.errors import ModelError

OPSETS = range(9, 24)

LARGEST = 2**31 - 1
"""Bytes of a model with its weights: what protobuf can hold."""

WIDTHS: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.BOOL: 1,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT16: 2,
    TensorProto.UINT16: 2,
    TensorProto.INT32: 4,
    TensorProto.UINT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT64: 8,
}
"""Bytes per element of what may stand in an external data file."""

MAGIC = {
    b"version https://git-lfs": ("is a git-LFS pointer, not the model itself", "git lfs pull"),
    b"PK\x03\x04": ("is a zip archive, a PyTorch or Keras file perhaps", "torch.onnx.export or tf2onnx"),
    b"\x89HDF": ("is an HDF5 file, a Keras model perhaps", "tf2onnx"),
    b"\x80\x02": ("is a Python pickle, a PyTorch file perhaps", "torch.onnx.export"),
}


def read(path: str | Path) -> ModelProto:
    """The model at `path` with its external data inside, passed by the ONNX checker.

    Raises:
        ModelError: the file, its external data or its ONNX version is not what it should be.
    """
    path = Path(path)
    model = _parse(path.name, _content(path))
    _refuse_foreign(model)
    outside = [t for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    if (size := model.ByteSize() + sum(map(_size, outside))) > LARGEST:
        raise ModelError(f"'{path.name}' and its external data are {size} bytes, more than {LARGEST}")
    for tensor in outside:
        _embed(tensor, path.parent)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(f"'{path.name}' breaks the ONNX standard: {str(error).strip()}") from None
    return model


def model_digest(path: str | Path) -> str:
    """SHA-256 over the model file, then location and SHA-256 of each external data file, sorted by location.

    Without external data it is what `sha256sum` prints.

    Raises:
        ModelError: the file, or an external data file, cannot be read.
    """
    path = Path(path)
    content = _content(path)
    digest = hashlib.sha256(content)
    tensors = _tensors(_parse(path.name, content).graph)
    outside = {_entries(t).get("location", "") for t in tensors if t.data_location == TensorProto.EXTERNAL}
    for location in sorted(outside):
        with _open_beside(path.parent, location) as file:
            digest.update(b"\0" + location.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    """The bytes of a regular file."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"'{path}' is not a file", hint="name the .onnx file itself")
        if status.st_size > LARGEST:
            raise ModelError(f"'{path}' has {status.st_size} bytes, more than {LARGEST}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"'{path}' cannot be read: {reason}") from None


def _parse(name: str, content: bytes) -> ModelProto:
    """The protobuf message; what is obviously something else is named."""
    if not content:
        raise ModelError(f"'{name}' is empty")
    for magic, (what, hint) in MAGIC.items():
        if content.startswith(magic):
            raise ModelError(f"'{name}' {what}", hint=hint)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        raise ModelError(f"'{name}' is no ONNX model, or only a part of one") from None
    if not model.ir_version or not model.graph.output:
        raise ModelError(f"'{name}' is no ONNX model: it has no IR version, or no graph with outputs")
    return model


def _refuse_foreign(model: ModelProto) -> None:
    """Refuse, before the checker runs (nested functions can hang it), what is never supported."""
    if model.functions:
        names = ", ".join(f.name for f in model.functions[:5])
        hint = "inline them: onnx.inliner.inline_local_functions, or optimize=True at export"
        raise ModelError(f"the model defines functions of its own: {names}", hint=hint)
    if model.graph.sparse_initializer:
        raise ModelError("the model holds sparse weights", hint="store them dense")
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(versions) != 1 or not versions <= set(OPSETS):
        found = ", ".join(map(str, sorted(versions))) or "none"
        hint = "onnx.version_converter.convert_version, or another opset at export"
        raise ModelError(f"the model uses opset {found}; {OPSETS[0]} to {OPSETS[-1]} are supported", hint=hint)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph: initializers and attributes, in subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for graph in (attribute.g, *attribute.graphs):
        yield from _tensors(graph)


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _size(tensor: TensorProto) -> int:
    """Bytes of the values of a tensor stored outside the model."""
    if tensor.data_type not in WIDTHS:
        raise ModelError(f"external data of type {dtype_name(tensor.data_type)} is not supported", at=tensor.name)
    if min(tensor.dims, default=0) < 0:
        raise ModelError(f"the tensor has a negative size: {list(tensor.dims)}", at=tensor.name)
    return math.prod(map(int, tensor.dims)) * WIDTHS[tensor.data_type]


def dtype_name(code: int) -> str:
    """ONNX's name of an element type, which in a damaged file can be any number."""
    return str(TensorProto.DataType.Name(code)) if code in TensorProto.DataType.values() else f"number {code}"


def _embed(tensor: TensorProto, folder: Path) -> None:
    """Move the external data of `tensor` into it."""
    entries, wanted = _entries(tensor), _size(tensor)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(wanted)))
    except ValueError:
        raise ModelError("offset or length of external data is no integer", at=tensor.name) from None
    if length != wanted or offset < 0:
        message = f"external data declares {length} bytes at offset {offset}, but {list(tensor.dims)} takes {wanted}"
        raise ModelError(message, at=tensor.name)
    with _open_beside(folder, entries.get("location", "")) as file:
        size = os.fstat(file.fileno()).st_size
        if offset + length > size:
            message = f"external data is cut short: bytes {offset} to {offset + length} of a file of {size}"
            raise ModelError(message, at=tensor.name)
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _open_beside(folder: Path, location: str) -> BufferedReader:
    """Open an external data file, which must be a plain file inside `folder`, reached without any link.

    Links are refused, also hard ones, because through them a model could read any file of the user's.
    """
    parts = PurePosixPath(location).parts
    if not parts or location.startswith("/") or ".." in parts or any(c in location for c in "\\:\0"):
        raise ModelError(f"external data location '{location}' is no relative path inside the model's folder")
    hint = "keep the data file as a plain file beside the model"
    path = folder.joinpath(*parts)
    if any(folder.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts))):
        raise ModelError(f"external data file '{location}' is a symbolic link", hint=hint)
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb")
    except OSError as error:
        raise ModelError(f"external data file '{location}' cannot be read: {error.strerror}", hint=hint) from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        file.close()
        raise ModelError(f"external data file '{location}' is not a plain file, or has a second name", hint=hint)
    return file
